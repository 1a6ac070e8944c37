"Lists, and the numbers that describe them against a second implementation"
import warnings

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Module, set_seed, tensor
from fastai.torch_core import trainable_params
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, PopularityBias,
    collab_learner, create_params, synthetic_ratings)
from fastcollab.interpret.popularity_bias import top_rows
from popularity import learner_state, quiet, rng_state, second_opinion

def caught(f):
    "What `f` returns, and the texts of the warnings about one-sided recommendations"
    with warnings.catch_warnings(record=True) as res:
        warnings.simplefilter('always')
        out = f()
    return out,[str(o.message) for o in res if 'one-sided' in str(o.message)]

@pytest.fixture(scope='module')
def frame():
    "Ratings with two features of the items, the first a set with one rare category, and one of the users"
    df = synthetic_ratings(100, 60, 2500)
    df['genres'] = df.genres.astype(str).where(df.movieId!=df.movieId.value_counts().index[-1], 'Rare')
    return df.assign(decade=1950+10*(df.movieId%5), age=np.where(df.userId%2, 'old', 'young'))

@pytest.fixture
def dls(frame): return CollabDataLoaders.from_df(frame, item_cols=['genres','decade'], user_cols='age', seed=42, bs=256)

@pytest.fixture(scope='module')
def learn(frame):
    dls = CollabDataLoaders.from_df(frame, item_cols=['genres','decade'], user_cols='age', seed=42, bs=256)
    set_seed(1)
    return quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 3, 2e-2)

# Lists

def make(dls, arch):
    "A learner with large random weights: fitting would take longer and say no more"
    set_seed(3)
    # no ties, as there are of units that are off
    config = dict(act_cls=torch.nn.Tanh()) if arch is CollabNN else None
    learn = collab_learner(dls, n_factors=3, arch=arch, config=config)
    for p in trainable_params(learn.model): torch.nn.init.normal_(p, std=.5)
    return learn

def brute(learn, u, k):
    "For each user row, the rows of the `k` best items, item by item"
    seen,res = {tuple(o) for o in learn.dls.train_ds.store.ids().tolist()},[]
    with torch.no_grad():
        for o in u:
            items = [i for i in range(1, learn.dls.n_items) if (o,i) not in seen]
            x = learn.model.with_features(tensor([[o,i] for i in items]).view(-1, 2))
            best = sorted(zip(learn.model.eval()(x).tolist(), items), reverse=True)[:k]
            res.append([i for _,i in best]+[0]*(k-len(best)))
    return tensor(res)

@pytest.mark.parametrize('arch', [DotProduct,DotProductBias,CollabNN,HybridMF])
def test_top_rows_against_a_loop(dls, arch):
    "The best items that a user has not rated, for all users and the unknown one, in any order of users"
    learn = make(dls, arch)
    users = [7,0,dls.n_users-1,*range(1, dls.n_users)]
    want = brute(learn, users, 5)
    got = top_rows(learn.recommender(), tensor(users), 5)
    assert got.dtype==torch.int64 and torch.equal(got, want) and (got>0).all()

def test_lists_end_with_zeros_where_nothing_is_left(frame):
    "A user who has rated nearly everything gets what is left, and 0 behind it"
    extra = pd.DataFrame(dict(userId=1, movieId=[o for o in frame.movieId.unique()
        if o not in set(frame.movieId[frame.userId==1])], rating=3.))
    full = pd.concat([frame[['userId','movieId','rating']], extra], ignore_index=True)
    one,two = np.flatnonzero(full.userId==1),np.flatnonzero(full.userId==2)
    out = [one[5],one[9],*two[:3]]
    dls = CollabDataLoaders.from_df(full, splits=([o for o in range(len(full)) if o not in out], out), bs=128)
    learn = make(dls, DotProductBias)
    got = top_rows(learn.recommender(), tensor([1,2]), 4)
    assert torch.equal(got, brute(learn, [1,2], 4)) and (got[0]>0).sum()==2 and (got[0,2:]==0).all()
    assert set(got[0,:2].tolist())=={list(dls.classes['movieId']).index(full.movieId[o]) for o in out[:2]}
    longest = top_rows(learn.recommender(), tensor([1,2]), 1000)                       # more than there are items
    assert torch.equal(longest,
        brute(learn, [1,2], dls.n_items-1)) and (longest[1]>0).sum()==dls.n_items-1-len(dls.train_ds.items.query(
            'userId==2'))

def test_top_rows_of_nobody_and_of_one(learn):
    assert top_rows(learn.recommender(), tensor([], dtype=torch.int64), 3).shape==(0,
        3) and top_rows(learn.recommender(), tensor([5]), 3).shape==(1,3)
    assert torch.equal(top_rows(learn.recommender(), tensor([5])), brute(learn, [5], 10))

def test_top_rows_reads_only(dls):
    learn = make(dls, CollabNN)
    learn.model.train()
    state,before = rng_state(),learner_state(learn)
    u = tensor([3,1])
    top_rows(learn.recommender(), u, 3)
    assert rng_state()==state and learner_state(learn)==before and u.tolist()==[3,1]

class Own(Module):
    "A user's own model"
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return self.w[x[:,1]]

def test_errors_of_top_rows(learn):
    for k in (0,-3):
        with pytest.raises(ValueError, match=f'k is {k}; give a whole number of items, at least 1'):
            top_rows(learn.recommender(), tensor([1]), k)

# The report

def with_report(dls, arch=HybridMF, fit=(1,2e-2), **kwargs):
    "A learner fitted with `PopularityBias(**kwargs)`, and what it warned of"
    set_seed(1)
    learn = collab_learner(dls, n_factors=4, y_range=(0,5.5), arch=arch, cbs=PopularityBias(**kwargs))
    return caught(lambda: quiet(learn, *fit))

def report_again(learn, **kwargs):
    "Another report on the same weights, from a fit with a learning rate of 0: the callback and its warnings"
    cb = PopularityBias(**kwargs)
    with learn.no_bar(), learn.no_logging(): _,res = caught(lambda: learn.fit(1, 0., wd=0., cbs=cb))
    return cb,res

@pytest.fixture(scope='module')
def still(frame):
    "A learner for `report_again`: its training part is one batch"
    dls = CollabDataLoaders.from_df(frame, item_cols=['genres','decade'], user_cols='age', seed=42, bs=2500)
    set_seed(1)
    return quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 15, 2e-2)

@pytest.mark.parametrize('arch,k', [(DotProduct,10),(HybridMF,3)])
def test_numbers_against_pandas(dls, arch, k):
    learn,_ = with_report(dls, arch, k=k)
    got,(want,rated,listed) = learn.popularity_bias.report(),second_opinion(learn, k)
    assert got.name=='value' and list(got.index)==list(want)
    for nm,v in want.items(): assert got[nm]==pytest.approx(v, rel=1e-6), nm
    assert listed.sum()==100*k and len(np.unique(list(want.values())))==7

@pytest.mark.parametrize('by', [None,'genres','decade'])
def test_shares_of_categories_against_pandas(dls, frame, by):
    "A share is that of the ratings, or of the places in the lists, whose item has the category; items may have several"
    learn,_ = with_report(dls, by=by, k=4)
    got,(_,rated,listed) = learn.popularity_bias.genres(),second_opinion(learn, 4)
    name = by or 'genres'
    # (items, categories)
    sets = frame.drop_duplicates('movieId').set_index('movieId')[name].loc[rated.index].astype(str).str.get_dummies('|')
    want = pd.DataFrame({what:sets.mul(n, axis=0).sum()/n.sum() for what,n in (('rated',rated),('recommended',listed))})
    assert got.index.name==name and list(got.columns)==['rated','recommended',
        'ratio'] and set(got.index)==set(want.index)
    assert np.allclose(got[['rated','recommended']], want.loc[got.index]) and np.allclose(got.ratio,
        got.recommended/got.rated)
    assert got.ratio.is_monotonic_decreasing and got.ratio.nunique()>3
    assert (got.rated.sum()>1.5) if name=='genres' else got.rated.sum()==pytest.approx(1)

def test_busiest_users_of_few():
    "There is at least one user among the top; 14 users with 1, 2, ... 14 ratings, by hand"
    df = pd.DataFrame([(u,i,3.) for u in range(1, 15) for i in range(1, u+1)], columns=['userId','movieId','rating'])
    learn,_ = with_report(CollabDataLoaders.from_df(df, splits=(range(105), []), bs=16), DotProductBias, k=2)
    got = learn.popularity_bias.report()
    assert [got[f'top {p} % of users'] for p in (1,5,10)]==[pytest.approx(14/105)]*3
    assert got['gini of ratings']==pytest.approx(13/42)                   # of 1 to n: (n-1)/3n

def test_sample_of_users(still):
    "`n_users` users are sampled, by `seed`; the numbers of the ratings are those of all users"
    def report(**kwargs): return report_again(still, k=2, **kwargs)[0].report()
    every,few = report(),report(n_users=3)
    assert every.equals(report(n_users=100)) and every.equals(report(seed=5, n_users=100))
    assert few.equals(report(n_users=3, seed=0)) and not few.equals(report(n_users=3, seed=1))
    assert few[:4].equals(every[:4]) and few['coverage'] <= 6/60 < every['coverage']
    assert report(n_users=1)['coverage']==pytest.approx(2/60)

def test_report_leaves_the_fit_alone(dls):
    "The same weights and the same random states with the callback as without it"
    def run(cbs):
        loaders = CollabDataLoaders.from_df(dls.train_ds.items, item_cols=['genres','decade'], user_cols='age', seed=3,
            bs=128)
        set_seed(2)
        learn = collab_learner(loaders, n_factors=4, arch=DotProductBias, cbs=cbs)
        caught(lambda: quiet(learn, 1, 1e-2))
        return rng_state(),{k:v.tolist() for k,v in learn.model.state_dict().items()},[m.training
            for m in learn.model.modules()],loaders.train_ds.store.ids().tolist()
    assert run(PopularityBias())==run(None)

LIMITS = PopularityBias.limits
off = {k:0. if k=='coverage' else 1e9 for k in LIMITS}       # nothing is beyond these

@pytest.mark.parametrize('name', [o for o in LIMITS if o!='genre ratio'])
def test_limits(still, name):
    "A warning for a number above its limit (below it for coverage), and none at the limit or on its other side"
    def warned(limit): return report_again(still, limits={**off, name:limit})[1]
    cb,none = report_again(still, limits=off)
    value,sign = cb.report()[name],-1 if name=='coverage' else 1
    assert not none and not warned(value) and not warned(value+sign*.01)
    res = warned(value-sign*.01)
    assert len(res)==1 and res[0].endswith(f'one-sided: {name} is {value:.2f} (limit {value-sign*.01:g})')

def test_limit_of_the_ratio(still):
    "Categories that are recommended far more often than rated are named, but for those of less than 2 % of the ratings"
    for limit in (1.,-1.):
        cb,res = report_again(still, k=3, limits={**off, 'genre ratio':limit})
        assert len(res)==1 and cb.genres().rated['Rare']<.02 and cb.genres().ratio.iloc[0]>1.1
        for nm,o in cb.genres().iterrows():
            text = f'{nm} is recommended {o.ratio:.1f} times as often as it is rated (limit {limit:g})'
            assert (text in res[0])==(o.rated>.02 and o.ratio>limit)

def test_all_that_is_beyond_is_in_one_warning(dls):
    learn,res = with_report(dls, limits={**{k:-1. for k in off}, 'coverage':2.})
    assert len(res)==1 and all(f'{k} is ' in res[0] for k in off
        if k!='genre ratio') and res[0].count(' times as often ')>5
    assert PopularityBias(limits={'coverage':.5}).limits=={**LIMITS, 'coverage':.5}
    # those of the class stay
    assert PopularityBias.limits==LIMITS and LIMITS['coverage']==.1 and PopularityBias().limits==LIMITS

def test_errors_of_the_report(dls, frame):
    with pytest.raises(KeyError, match="'gini' is not a limit; choose from .*'top 1 % of users'.*'genre ratio'"):
        PopularityBias(limits={'coverage':.2, 'gini':1})
    for call in ('report','genres'):
        with pytest.raises(ValueError, match='fit the learner first'): getattr(PopularityBias(), call)()
    for by in ('age','nothing'):
        with pytest.raises(ValueError, match=f"by is '{by}', but the features of the items are .'genres', 'decade'."):
            with_report(dls, by=by)

def test_report_without_features(frame):
    "The numbers are there, the shares of categories are not"
    dls = CollabDataLoaders.from_df(frame, user_cols='age', seed=42, bs=256)
    learn,res = with_report(dls, DotProductBias, limits=off)
    assert not res and len(learn.popularity_bias.report())==7
    with pytest.raises(ValueError, match='no features of items; name them in from_df'): learn.popularity_bias.genres()
    with pytest.raises(ValueError, match="by is 'genres', but the features of the items are .."):
        with_report(dls, DotProductBias, by='genres')

def test_one_report_per_fit(dls):
    "Each fit adds one report, handed out as a copy; `lr_find` and predicting add none"
    learn,_ = with_report(dls)
    cb = learn.popularity_bias
    first,genres = cb.report().copy(),cb.genres().copy()
    learn.get_preds()
    learn.predict(1, 2)
    learn.get_preds(ds_idx=0)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=3, show_plot=False)
    assert len(cb.history)==1 and cb.report().equals(first)
    copies = cb.report(),cb.genres()
    for o in copies: o.iloc[:] = 0
    assert cb.report().equals(first) and cb.genres().equals(genres)
    caught(lambda: quiet(learn, 1, 5e-2))
    assert len(cb.history)==2 and not cb.report().equals(first)

def test_validating_is_no_fit(dls):
    learn,_ = with_report(dls)
    assert not caught(learn.validate)[1] and len(learn.popularity_bias.history)==1

def test_what_cannot_be_reported_is_said_before_the_fit(dls):
    "A wrong `by` and an empty list are errors at once, not after the last epoch"
    with pytest.raises(ValueError, match='k is 0'): PopularityBias(0)
    learn = collab_learner(dls, n_factors=2, cbs=PopularityBias(by='mood'))
    with pytest.raises(ValueError, match="by is 'mood'"): quiet(learn, 1)
    assert not getattr(learn.recorder, 'losses', [])

def test_a_model_of_ones_own_has_a_report(dls):
    "The items that it likes best are the same for everybody, but for what each has rated"
    learn = collab_learner(dls, arch=Own(dls.n_items), cbs=PopularityBias(k=3))
    assert torch.equal(top_rows(learn.recommender(), tensor([0]), 3)[0], learn.model.w[1:,0].topk(3).indices+1)
    quiet(learn, 1)
    assert 0<learn.popularity_bias.report().coverage<=1
