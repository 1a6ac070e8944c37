"Lists, the numbers that describe them against a second implementation, and the loop that feeds on them"
import copy, random, warnings

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Callback, Module, set_seed, tensor
from fastcollab.interpret import popularity_bias as feedback
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, IdDropout, RatingMSE,
    PopularityBias, ValidRMSE, collab_learner, create_params, plot_feedback, simulate_feedback, synthetic_ratings)
from fastcollab.interpret.popularity_bias import top_rows

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn

def caught(f):
    "What `f` returns, and the texts of the warnings about one-sided recommendations"
    with warnings.catch_warnings(record=True) as res:
        warnings.simplefilter('always')
        out = f()
    return out,[str(o.message) for o in res if 'one-sided' in str(o.message)]

def rng_state(): return torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate()

def learner_state(learn):
    "Weights, modes, data, order and callbacks of a learner, to compare"
    model,train = learn.model,learn.dls.train_ds
    return dict(weights={k:v.tolist() for k,v in model.state_dict().items()}, grads=[p.grad is None for p in model.parameters()],
        modes=[m.training for m in model.modules()], training=learn.training, x=train.store.ids().tolist(), y=train.store.ratings().tolist(), n=learn.dls.train.n,
        valid=learn.dls.valid_ds.store.ids().tolist(), order=learn.dls.train.order.state(), weight=learn.dls.train.user_weight,
        cbs=[id(o) for o in learn.cbs], opt=id(learn.opt), history=str(getattr(learn.recorder, 'values', None)), ids=(id(learn.dls),id(model),id(train)))

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
    config = dict(act_cls=torch.nn.Tanh()) if arch is CollabNN else None      # no ties, as there are of units that are off
    learn = collab_learner(dls, n_factors=3, arch=arch, config=config)
    for p in learn.model.parameters(): torch.nn.init.normal_(p, std=.5)
    return learn

def brute(learn, u, k):
    "For each user row, the rows of the `k` best items, item by item"
    seen,res = {tuple(o) for o in learn.dls.train_ds.store.ids().tolist()},[]
    with torch.no_grad():
        for o in u:
            items = [i for i in range(1, learn.dls.n_items) if (o,i) not in seen]
            x = learn.model._with_features(tensor([[o,i] for i in items]).view(-1, 2))
            best = sorted(zip(learn.model.eval()(x)[:,0].tolist(), items), reverse=True)[:k]
            res.append([i for _,i in best]+[0]*(k-len(best)))
    return tensor(res)

@pytest.mark.parametrize('arch', [DotProduct,DotProductBias,CollabNN,HybridMF])
def test_top_rows_against_a_loop(dls, arch):
    "The best items that a user has not rated, for all users and the unknown one, in any order of users"
    learn = make(dls, arch)
    users = [7,0,dls.n_users-1,*range(1, dls.n_users)]
    want = brute(learn, users, 5)
    got = top_rows(learn, tensor(users), 5)
    assert got.dtype==torch.int64 and torch.equal(got, want) and (got>0).all()

def test_lists_end_with_zeros_where_nothing_is_left(frame):
    "A user who has rated nearly everything gets what is left, and 0 behind it"
    extra = pd.DataFrame(dict(userId=1, movieId=[o for o in frame.movieId.unique() if o not in set(frame.movieId[frame.userId==1])], rating=3.))
    full = pd.concat([frame[['userId','movieId','rating']], extra], ignore_index=True)
    one,two = np.flatnonzero(full.userId==1),np.flatnonzero(full.userId==2)
    out = [one[5],one[9],*two[:3]]
    dls = CollabDataLoaders.from_df(full, splits=([o for o in range(len(full)) if o not in out], out), bs=128)
    learn = make(dls, DotProductBias)
    got = top_rows(learn, tensor([1,2]), 4)
    assert torch.equal(got, brute(learn, [1,2], 4)) and (got[0]>0).sum()==2 and (got[0,2:]==0).all()
    assert set(got[0,:2].tolist())=={list(dls.classes['movieId']).index(full.movieId[o]) for o in out[:2]}
    longest = top_rows(learn, tensor([1,2]), 1000)                       # more than there are items
    assert torch.equal(longest, brute(learn, [1,2], dls.n_items-1)) and (longest[1]>0).sum()==dls.n_items-1-len(dls.train_ds.items.query('userId==2'))

def test_top_rows_of_nobody_and_of_one(learn):
    assert top_rows(learn, tensor([], dtype=torch.int64), 3).shape==(0,3) and top_rows(learn, tensor([5]), 3).shape==(1,3)
    assert torch.equal(top_rows(learn, tensor([5])), brute(learn, [5], 10))

def test_top_rows_reads_only(dls):
    learn = make(dls, CollabNN)
    learn.model.train()
    state,before = rng_state(),learner_state(learn)
    u = tensor([3,1])
    top_rows(learn, u, 3)
    assert rng_state()==state and learner_state(learn)==before and u.tolist()==[3,1]

class Own(Module):
    "A user's own model"
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return self.w[x[:,1]]

def test_errors_of_top_rows(learn):
    for k in (0,-3):
        with pytest.raises(ValueError, match=f'k is {k}; a list has at least one item'): top_rows(learn, tensor([1]), k)

# The report

def second_opinion(learn, k):
    "All numbers of the report from raw ids, with pandas and numpy: lists from `learn.predict`"
    train = learn.dls.train_ds.items
    users,items = np.unique(train.userId),np.unique(train.movieId)
    pred = pd.DataFrame(learn.predict(np.repeat(users, len(items)), np.tile(items, len(users))).reshape(len(users), -1), users, items)
    pred = pred.mask(pd.crosstab(train.userId, train.movieId)>0)
    listed = pd.concat([o.nlargest(k) for _,o in pred.iterrows()]).index.value_counts().reindex(items, fill_value=0)
    rated,busy = train.movieId.value_counts().reindex(items),train.userId.value_counts().to_numpy()
    def gini(c): return np.abs(np.subtract.outer(c.to_numpy(), c.to_numpy())).mean()/(2*c.mean())   # half the mean difference over the mean
    lift = np.average(rated, weights=listed)/np.average(rated, weights=rated)
    shares = {f'top {p} % of users':busy[:n].sum()/len(train) for p,n in ((1,1),(5,5),(10,10))}       # 100 users
    return {**shares, 'gini of ratings':gini(rated), 'gini of lists':gini(listed), 'coverage':(listed>0).mean(), 'popularity lift':lift}, rated, listed

def with_report(dls, arch=HybridMF, fit=(1,2e-2), **kwargs):
    "A learner fitted with `PopularityBias(**kwargs)`, and what it warned of"
    set_seed(1)
    learn = collab_learner(dls, n_factors=4, y_range=(0,5.5), arch=arch, cbs=PopularityBias(**kwargs))
    return caught(lambda: quiet(learn, *fit))

def report_again(learn, **kwargs):
    "Another report on the same weights: a fit in one batch at a learning rate of 0. The callback, and what it warned of"
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
    sets = frame.drop_duplicates('movieId').set_index('movieId')[name].loc[rated.index].astype(str).str.get_dummies('|')     # (items, categories)
    want = pd.DataFrame({what:sets.mul(n, axis=0).sum()/n.sum() for what,n in (('rated',rated),('recommended',listed))})
    assert got.index.name==name and list(got.columns)==['rated','recommended','ratio'] and set(got.index)==set(want.index)
    assert np.allclose(got[['rated','recommended']], want.loc[got.index]) and np.allclose(got.ratio, got.recommended/got.rated)
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
        loaders = CollabDataLoaders.from_df(dls.train_ds.items, item_cols=['genres','decade'], user_cols='age', seed=3, bs=128)
        set_seed(2)
        learn = collab_learner(loaders, n_factors=4, arch=DotProductBias, cbs=cbs)
        caught(lambda: quiet(learn, 1, 1e-2))
        return rng_state(),{k:v.tolist() for k,v in learn.model.state_dict().items()},[m.training for m in learn.model.modules()],loaders.train_ds.store.ids().tolist()
    assert run(PopularityBias())==run(None)

LIMITS = PopularityBias.limits
off = {k:0. if k=='coverage' else 1e9 for k in LIMITS}       # nothing is beyond these

@pytest.mark.parametrize('name', [o for o in LIMITS if o!='genre ratio'])
def test_limits(still, name):
    "A warning where a number is above its limit, below it for coverage, and none where it is on the other side or equal to it"
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
    assert len(res)==1 and all(f'{k} is ' in res[0] for k in off if k!='genre ratio') and res[0].count(' times as often ')>5
    assert PopularityBias(limits={'coverage':.5}).limits=={**LIMITS, 'coverage':.5}
    assert PopularityBias.limits==LIMITS and LIMITS['coverage']==.1 and PopularityBias().limits==LIMITS       # those of the class stay

def test_errors_of_the_report(dls, frame):
    with pytest.raises(KeyError, match="no limit is called 'gini'; choose from .*'top 1 % of users'.*'genre ratio'"): PopularityBias(limits={'coverage':.2, 'gini':1})
    for call in ('report','genres'):
        with pytest.raises(ValueError, match='fit the learner first'): getattr(PopularityBias(), call)()
    for by in ('age','nothing'):
        with pytest.raises(ValueError, match=f"by is '{by}', but the features of the items are .'genres', 'decade'."): with_report(dls, by=by)

def test_report_without_features(frame):
    "The numbers are there, the shares of categories are not"
    dls = CollabDataLoaders.from_df(frame, user_cols='age', seed=42, bs=256)
    learn,res = with_report(dls, DotProductBias, limits=off)
    assert not res and len(learn.popularity_bias.report())==7
    with pytest.raises(ValueError, match='no features of items; name them in from_df'): learn.popularity_bias.genres()
    with pytest.raises(ValueError, match="by is 'genres', but the features of the items are .."): with_report(dls, DotProductBias, by='genres')

def test_one_report_per_fit(dls):
    "After each fit there is one more, and what is handed out is a copy; searching a learning rate and predicting are no fits"
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

# The loop

class Spy:
    "What `simulate_feedback` asks of `top_rows`: the learner, the ratings, the users and the lists of each call"
    def __init__(self, monkeypatch):
        self.calls,self.top_rows = [],feedback.top_rows
        monkeypatch.setattr(feedback, 'top_rows', self)
    def __call__(self, learn, u, k=10, **kwargs):
        res = self.top_rows(learn, u, k, **kwargs)
        self.calls.append((learn, learn.dls.train_ds.items, u.tolist(), res.tolist()))
        return res
    def rounds(self):
        "For each round: the ratings before it, its visitors with their lists, and the ratings that it added"
        models,visits = self.calls[::2],self.calls[1::2]
        return [(a[1],v[2],v[3],b[1][len(a[1]):]) for a,v,b in zip(models, visits, models[1:])]

@pytest.fixture
def spy(monkeypatch): return Spy(monkeypatch)

@pytest.fixture(scope='module')
def truth(frame): return frame.attrs['truth']

def loop(learn, truth, rounds=2, k=5, **kwargs): return simulate_feedback(learn, rounds, k, truth=truth, **{'n_epoch':1, **kwargs})

def test_the_learner_is_not_changed(frame, truth):
    dls = CollabDataLoaders.from_df(frame, genre_name='genres', seed=42, bs=128)
    learn = quiet(collab_learner(dls, n_factors=3, y_range=(0,5.5), cbs=ValidRMSE()), 1, 1e-2)
    learn.model.train()
    before = learner_state(learn)
    set_seed(4)
    state = rng_state()
    loop(learn, truth, visits=.5)
    assert rng_state()==state and learner_state(learn)==before

def test_loop_is_reproducible(learn, truth):
    "The seed decides all of it, and whatever else is random does not"
    set_seed(1)
    first = loop(learn, truth)
    set_seed(2)
    pd.testing.assert_frame_equal(loop(learn, truth), first)
    assert not loop(learn, truth, seed=1).equals(first)

def test_all_that_is_random_has_the_seed(learn, truth, spy):
    "Who comes, what they rate and the training are drawn anew in each round, and differently with another seed"
    states = []
    class Look(RatingMSE):
        def __call__(self, *args):
            states.append(torch.initial_seed())
            return super().__call__(*args)
    small = collab_learner(learn.dls, n_factors=2, loss_func=Look())
    seen = []
    for seed in (0,7):
        states.clear(), spy.calls.clear()
        loop(small, truth, seed=seed, visits=.1, like=.5)
        rounds = spy.rounds()
        seen.append((set(states), *[tuple(u) for _,u,*_ in rounds]))
        assert len(set(states))==3 and seen[-1][1]!=seen[-1][2]
    assert not seen[0][0] & seen[1][0] and seen[0][1]!=seen[1][1]

def test_rows_of_the_loop(learn, truth, spy):
    "What is counted: ratings grow by what was liked, a list per visitor is shown, and the last row has been shown nothing"
    res = loop(learn, truth, rounds=3, k=4, visits=.25)
    assert list(res.index)==[0,1,2,3] and res.index.name=='round'
    assert list(res.columns)==['ratings','shown','liked',*second_opinion(learn, 1)[0]]
    assert res.ratings[0]==2000 and (res.ratings.diff()[1:].to_numpy()==res.liked[:3].to_numpy()).all()
    assert list(res.shown)==[25*4]*3+[0] and res.liked[3]==0 and (res.liked[:3]>0).all() and (res.liked<=res.shown).all()
    assert [len(c[1]) for c in spy.calls[::2]]==list(res.ratings)
    for before,u,lists,new in spy.rounds(): assert len(set(u))==len(u)==25 and len(new)>0
    assert len({tuple(u) for _,u,*_ in spy.rounds()})==3                      # others come in each round
    for (_,items,u,lists),(_,row) in zip(spy.calls[::2], res.iterrows()):
        assert u==list(range(1, 101)) and row['coverage']==len({i for o in lists for i in o})/60       # the numbers are those of all users
        assert row['top 10 % of users']==pytest.approx(items.userId.value_counts()[:10].sum()/len(items))

def test_last_numbers_are_those_of_the_last_model(learn, truth, spy):
    "All numbers of the last round against pandas"
    res = loop(learn, truth, rounds=1, k=3)
    want = second_opinion(spy.calls[-1][0], 3)[0]
    assert res.iloc[-1][list(want)].astype(float).to_numpy()==pytest.approx(list(want.values()), rel=1e-6)

@pytest.mark.parametrize('like', [2.5,4.])
def test_only_what_is_liked_is_rated(learn, truth, spy, like):
    "Without noise, exactly the shown items with a true score of at least `like` are added, with that score in half stars"
    exact = copy.copy(truth)
    exact.__dict__.update(truth.__dict__, noise=0)
    loop(learn, exact, like=like, visits=.4)
    classes = {o:list(learn.dls.classes[o]) for o in ('userId','movieId')}
    for before,u,lists,new in spy.rounds():
        shown = pd.DataFrame([(classes['userId'][o],classes['movieId'][i]) for o,row in zip(u, lists) for i in row if i], columns=['userId','movieId'])
        score = truth.scores(shown).clip(.5, 5)
        want = shown.assign(rating=np.round(score*2)/2)[score>=like]
        pd.testing.assert_frame_equal(new[['userId','movieId','rating']].reset_index(drop=True), want.reset_index(drop=True), check_dtype=False)
        assert 0<len(want)<len(shown) and not len(shown.merge(before))            # nothing is shown twice to who has rated it

def test_noise_and_the_scale(learn, truth, spy):
    "Everything is rated where the lowest star is enough: half stars from .5 to 5, which differ from the truth by its noise"
    res = loop(learn, truth, like=.5, visits=1., k=4)
    assert list(res.liked[:2])==list(res.shown[:2])==[400,400]
    new = pd.concat([o for *_,o in spy.rounds()])
    stars = new.rating.to_numpy()
    assert set(stars*2)<=set(range(1, 11)) and stars.max()==5
    inner = (truth.scores(new)>2.5) & (truth.scores(new)<3.5)
    error = (stars-truth.scores(new))[inner]
    assert inner.sum()>100 and abs(error.mean())<.15 and error.std()==pytest.approx((truth.noise**2+.25/12)**.5, rel=.15)
    wild = copy.copy(truth)
    wild.__dict__.update(truth.__dict__, noise=30.)
    spy.calls.clear()
    loop(learn, wild, like=.5, visits=1., rounds=1)
    assert set(spy.rounds()[0][3].rating)>={.5,5.} and spy.rounds()[0][3].rating.between(.5, 5).all()

def test_nobody_likes_anything(learn, truth):
    res = loop(learn, truth, like=5.5)
    assert list(res.liked)==[0,0,0] and list(res.ratings)==[2000]*3 and (res.shown[:2]>0).all()

def test_busy_users_come_more_often(learn, truth, spy):
    "Visits are drawn by the number of ratings"
    loop(learn, truth, rounds=5, visits=.2, like=5.5, k=1)
    counts = learn.dls.train_ds.items.userId.value_counts().sort_index().to_numpy()
    come = np.concatenate([u for _,u,*_ in spy.rounds()])
    expected = (counts*counts).sum()/counts.sum()
    assert len(come)==100 and counts[come-1].mean() > (counts.mean()+expected)/2
    spy.calls.clear()
    loop(learn, truth, rounds=1, visits=1.)
    assert sorted(spy.rounds()[0][1])==list(range(1, 101))
    spy.calls.clear()
    loop(learn, truth, rounds=1, visits=1e-9)
    assert len(spy.rounds()[0][1])==1                                         # somebody always comes

def test_weights_and_callbacks_of_the_loop(frame, truth, spy):
    "`user_weight` reaches the loader, of the callbacks only `IdDropout` does, and it trains all ratings, the new ones too"
    seen = []
    class Look(Callback):
        def before_batch(self): seen.append(len(self.x))
    dls = CollabDataLoaders.from_df(frame, seed=42, bs=100)
    learn = quiet(collab_learner(dls, n_factors=3, unk_p=.3, cbs=[PopularityBias(limits=off), Look()]), 1, 1e-2)
    seen.clear(), spy.calls.clear()
    runs = {o:loop(learn, truth, user_weight=o) for o in (None,'sqrt')}
    first,last = spy.calls[0][0],spy.calls[-1][0]
    n = torch.cat([b[0] for b in first.dls.train]).shape[0]
    assert (first.dls.train.user_weight,last.dls.train.user_weight)==(None,'sqrt') and not runs[None].equals(runs['sqrt'])
    assert not seen and len(learn.popularity_bias.history)==1
    drop = last._grab_cbs(IdDropout)
    assert [o.p for o in drop]==[.3] and drop[0] is not learn._grab_cbs(IdDropout)[0] and not last._grab_cbs(PopularityBias)
    assert last.model is not learn.model and last.dls.train_ds is not learn.dls.train_ds and last.dls.train.bs==100
    assert n==len(first.dls.train_ds)==runs[None].ratings.iloc[-1]>2000

def test_training_of_the_loop(learn, truth, spy):
    "`n_epoch`, `lr` and `wd` are those of each round; training goes on from the model that it was given"
    start = {k:v.clone() for k,v in learn.model.state_dict().items()}
    def far(**kwargs):
        spy.calls.clear()
        loop(learn, truth, rounds=1, **kwargs)
        now = spy.calls[-1][0].model.state_dict()
        return sum((now[k]-v).float().norm().item() for k,v in start.items()),len(spy.calls[-1][0].recorder.values),now['u_weight.weight'].norm().item()
    tiny,more,decay = far(lr=1e-6, wd=0.),far(n_epoch=3),far(n_epoch=3, wd=5.)
    assert tiny[0]<1e-2<.5<more[0] and (tiny[1],more[1])==(1,3) and decay[2]<.9*more[2]

def test_shown_counts_items_only(learn, truth, spy):
    res = loop(learn, truth, rounds=1, k=59, visits=1.)
    assert res.shown[0]==sum(i>0 for row in spy.rounds()[0][2] for i in row)

ERRORS = {
    'no round': (dict(rounds=0), ValueError, 'rounds is 0; at least one is needed'), 'less than none': (dict(rounds=-1), ValueError, 'rounds is -1'),
    'no visits': (dict(visits=0), ValueError, 'visits is 0; it is a share of the users'), 'too many': (dict(visits=1.1), ValueError, 'visits is 1.1'),
    'negative': (dict(visits=-.1), ValueError, 'visits is -0.1'), 'no list': (dict(k=0), ValueError, 'k is 0; a list has at least one item'),
    'weight': (dict(user_weight='log'), ValueError, "user_weight is 'log'; choose None or 'sqrt'")}

@pytest.mark.parametrize('name', ERRORS)
def test_errors_of_the_loop(learn, truth, name):
    kwargs,kind,match = ERRORS[name]
    with pytest.raises(kind, match=match): loop(learn, truth, **kwargs)

def test_the_truth_knows_its_own_columns_only(frame, truth):
    with pytest.raises(ValueError, match="the truth knows userId and movieId, but the loaders have .'userId', 'title'.; leave user_name and item_name out"):
        loop(collab_learner(CollabDataLoaders.from_df(frame, item_name='title', seed=1)), truth)
    with pytest.raises(TypeError, match='truth'): simulate_feedback(collab_learner(CollabDataLoaders.from_df(frame, seed=1)), 1)

# The plot

@pytest.fixture
def runs():
    "Made-up results of two runs"
    cols = ['gini of ratings','gini of lists','coverage','popularity lift','liked']
    return {nm:pd.DataFrame(np.random.default_rng(k).random((3,5)), columns=cols).rename_axis('round') for k,nm in enumerate(['as it comes','tempered'])}

def test_plot_has_a_line_per_run(runs):
    axs = plot_feedback(runs)
    assert axs.shape==(4,) and [o.get_title() for o in axs]==['gini of ratings','gini of lists','coverage','popularity lift']
    for ax in axs:
        assert len(ax.lines)==2 and ax.get_xlabel()=='round'
        for line,df in zip(ax.lines, runs.values()): assert list(line.get_xdata())==[0,1,2] and list(line.get_ydata())==list(df[ax.get_title()])
        assert len({o.get_linestyle() for o in ax.lines})==2
    assert [o.get_text() for o in axs[0].get_legend().get_texts()]==list(runs)

def test_plot_of_other_columns(runs):
    axs = plot_feedback({None:runs['tempered']}, cols=('liked',), figsize=(4,2))
    assert axs.shape==(1,) and len(axs[0].lines)==1 and axs[0].get_legend().get_texts()[0].get_text()=='None'
    assert list(axs[0].figure.get_size_inches())==[4,2]

def test_plot_of_many_runs(runs): assert len(plot_feedback({k:runs['tempered'] for k in range(6)})[0].lines)==6

def test_what_cannot_be_reported_is_said_before_the_fit(dls):
    "A wrong `by` and an empty list are errors at once, not after the last epoch"
    with pytest.raises(ValueError, match='k is 0'): PopularityBias(0)
    learn = collab_learner(dls, n_factors=2, cbs=PopularityBias(by='mood'))
    with pytest.raises(ValueError, match="by is 'mood'"): quiet(learn, 1)
    assert not getattr(learn.recorder, 'losses', [])

def test_a_model_of_ones_own_has_a_report(dls):
    "The items that it likes best are the same for everybody, but for what each has rated"
    learn = collab_learner(dls, arch=Own(dls.n_items), cbs=PopularityBias(k=3))
    assert torch.equal(top_rows(learn, tensor([0]), 3)[0], learn.model.w[1:,0].topk(3).indices+1)
    quiet(learn, 1)
    assert 0<learn.popularity_bias.report().coverage<=1
