"Users and items without ratings in a draw: what is said of them, and that nobody else changes"
import numpy as np, pandas as pd, pytest
from fastcollab.all import CollabDataLoaders, SVDPlusPlus, collab_learner, synthetic_ratings
from fastcollab.train.newcomers import CategoryRegression, Newcomers, newcomer_row, rare_share
from fastcollab.train.sampler import GibbsSampler, SideSpec
from small import quiet

def world(seed=0, users=120, items=90, genres=4, n=5000, popular=False):
    "Ratings in which an item is mostly its genre; the last ten items and users have none"
    rng = np.random.default_rng(seed)
    genre = rng.integers(0, genres, items)
    p,q = rng.standard_normal((users,2)),rng.standard_normal((genres,2))[genre]+.2*rng.standard_normal((items,2))
    b = np.linspace(-1, 1, genres)[genre]+.2*rng.standard_normal(items)
    weight = np.exp(b) if popular else np.ones(items)
    weight[0],weight[-10:] = 0,0
    pairs = np.unique(np.stack([rng.integers(1, users-10, n),rng.choice(items, n, p=weight/weight.sum())], 1), axis=0)
    score = lambda u,i: (p[u]*q[i]).sum(1)/2+b[i]
    y = score(*pairs.T)+.5*rng.standard_normal(len(pairs))
    spec = SideSpec(items, True, genre[:,None].astype(np.int32), np.ones((items,1), np.float32), (genres,))
    return pairs,y,SideSpec(users, True),spec,score,genre

def swept(ids, y, users, items, sweeps=40, seed=0):
    s,total = GibbsSampler(ids, y, users, items, 4, seed=seed),0
    for _ in range(sweeps):
        s.sweep()
        if s.done>s.burn: total = total+table(s.sample(), s)
    return s,total/(s.done-s.burn)

def table(o, s): return s.mean+s.scale*(o.users[:,:-1]@o.items[:,:-1].T+o.users[:,-1:]+o.items[:,-1])

@pytest.mark.parametrize('popular', [False,True])
def test_new_items_are_their_genre(popular):
    "Items without ratings, known by genre only, are predicted far better than by the mean"
    ids,y,users,items,score,_ = world(popular=popular)
    _,got = swept(ids, y, users, items)
    u,i = np.repeat(np.arange(1, 100), 10),np.tile(np.arange(80, 90), 99)
    want = score(u, i)
    assert np.mean((got[u,i]-want)**2)<.35*np.mean((y.mean()-want)**2)

def test_features_beat_none():
    ids,y,users,items,score,_ = world(1)
    u,i = np.repeat(np.arange(1, 100), 10),np.tile(np.arange(80, 90), 99)
    errors = [np.mean((swept(ids, y, users, o)[1][u,i]-score(u, i))**2) for o in (items,SideSpec(items.n, True))]
    assert errors[0]<.6*errors[1]

def test_others_stay():
    "Rows with ratings are what the tables say: own part, sets and categories; so are those without"
    ids,y,users,items,*_ = world()
    s,_ = swept(ids, y, users, items, 25)
    o = s.sample()
    for k,(rows,spec) in enumerate(zip((o.users,o.items), (users,items))):
        count = np.bincount(ids[:,k], minlength=spec.n)
        sets = np.zeros_like(rows)
        np.add.at(sets, ids[:,k], o.implicit[k][ids[:,1-k]])
        sets /= np.sqrt(np.maximum(count, 1))[:,None]
        more = o.features[k][spec.rows[:,0]] if len(spec.sizes) else 0
        assert np.allclose(rows, o.own[k]+sets+more, atol=1e-4)
        assert (o.own[k][count==0]==o.own[k][0]).all()
    again = s.sample()
    assert all((a==b).all() for a,b in zip((o.users,o.items,*o.features), (again.users,again.items,*again.features)))

def test_rare_or_new():
    "Among ids with a rating or two, newcomers have few ratings; among ids with many, they are like the others"
    assert rare_share(np.r_[0,np.ones(50),np.full(50, 3)])>.99
    assert rare_share(np.full(50, 30))==0 and rare_share(np.zeros(3))==0

def test_a_users_own_mean():
    "Strict users rate good items and kind users bad ones, so all have one mean: the newcomer that explains it"
    bias = np.array([-1.,1.])
    other,counts = np.c_[np.zeros(2),bias],np.array([10,10])
    assert newcomer_row(other, counts, counts*0.)[-1]==pytest.approx(0, abs=1e-6)
    assert newcomer_row(other, counts, counts*2.)[-1]==pytest.approx(2, abs=1e-6)

@pytest.mark.parametrize('most', [2000,0])
def test_too_many_categories(most, monkeypatch):
    "Without the regression, what categories add in a draw has to do"
    monkeypatch.setattr(CategoryRegression, 'most', most)
    ids,y,users,items,score,_ = world()
    _,got = swept(ids, y, users, items)
    u,i = np.repeat(np.arange(1, 100), 10),np.tile(np.arange(80, 90), 99)
    assert np.mean((got[u,i]-score(u, i))**2)<.8*np.mean((y.mean()-score(u, i))**2)

def test_odd_features():
    "Categories that nobody has, ids with none or with two alike, and a single category for everybody"
    ids,y,users,items,*_ = world()
    rows = np.full((items.n,2), -1, np.int32)
    rows[5:40,0],rows[5:20,1] = 0,0
    for spec in (SideSpec(items.n, True, rows, np.full(rows.shape, .7, np.float32), (3,)),
        SideSpec(items.n, False, np.zeros((items.n,1), np.int32), np.ones((items.n,1), np.float32), (1,))):
        s,got = swept(ids, y, users, spec, 23)
        assert np.isfinite(got).all() and isinstance(s.newcomers, Newcomers)

def test_new_ids_of_a_recommender():
    "Known by features only, in a recommender and in the learner: nearly the same predictions"
    df = synthetic_ratings(80, 60, 3000)
    dls = CollabDataLoaders.from_df(df, genre_name='genres', valid_pct=0, seed=1)
    learn = quiet(collab_learner(dls, arch=SVDPlusPlus), 40, how='fit_gibbs')
    genres = df.drop_duplicates('movieId').genres.iloc[:20].to_numpy()
    films = pd.DataFrame(dict(movieId=range(901, 921), genres=genres))
    pairs = films.merge(pd.DataFrame(dict(userId=range(1, 41))), how='cross')
    rec = learn.recommender().fold_in_items(items=films)
    with pytest.warns(UserWarning, match='901'), learn.no_bar(): want = learn.predict(pairs)
    got = rec.predict(pairs)
    assert np.abs(got-want).mean()<.05 and np.corrcoef(got, want)[0,1]>.97

def test_fold_in_of_a_posterior():
    "New users with some ratings are predicted better than by the average user, in the mean vectors of a posterior"
    df = synthetic_ratings(160, 60, 6000)
    new = df[df.userId>100].assign(at=lambda o: o.groupby('userId').cumcount())
    dls = CollabDataLoaders.from_df(df[df.userId<=100], valid_pct=0, seed=1)
    rec = quiet(collab_learner(dls, arch=SVDPlusPlus), 40, how='fit_gibbs').recommender()
    rest = new[(new['at']>=10)&new.movieId.isin(rec.ids[1])]
    def error(n):
        shown = new.loc[(new['at']<n)&new.movieId.isin(rec.ids[1]), ['userId','movieId','rating']]
        got = rec.fold_in(shown, pd.DataFrame(dict(userId=rest.userId.unique())))
        return np.sqrt(np.mean((got.predict(rest)-rest.rating)**2))
    none,three,ten = map(error, (0,3,10))
    assert ten<three<none
