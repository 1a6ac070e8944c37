"Clicks: columns, weights, repeats, splits, negatives, and what is said about tables of the wrong kind"
import warnings

import numpy as np, pandas as pd, pytest, torch

from fastcollab.all import CollabDataLoaders, synthetic_ratings
from fastcollab.data.interactions import to_implicit
from fastcollab.data.sampling import NegativeSampler, batch_negatives, tensor_negatives

@pytest.fixture(scope='module')
def clicks(): return to_implicit(synthetic_ratings(200, 100, 5000), threshold=4)

def loaders(df, **kwargs): return CollabDataLoaders.from_interactions(df, **{'seed':1, **kwargs})
def said(f):
    "What `f` warns of"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        f()
    return [str(o.message) for o in caught]

# ---- Tables
def test_two_columns_are_enough(clicks):
    dls = loaders(clicks[['userId','movieId']])
    assert dls.implicit and (dls.user_name,dls.item_name,dls.rating_name)==('userId','movieId','weight')
    assert dls.train_ds.store.arrays()[1].tolist()==[[1.]]*len(dls.train_ds)
    assert not CollabDataLoaders.from_df(synthetic_ratings(50, 30, 400)).implicit

def test_weights_become_confidences_by_a_rule(clicks):
    df = clicks.assign(plays=np.arange(1, len(clicks)+1))
    for rule,f in (('linear',lambda o: 2*o),('log',lambda o: 2*np.log1p(o))):
        ds = loaders(df, weight_name='plays', rule=rule, alpha=2).train_ds
        np.testing.assert_allclose(ds.store.arrays()[1][:,0], f(df.plays.to_numpy())[ds.numbers], rtol=1e-6)
    with pytest.raises(ValueError, match="rule is 'sqrt'"): loaders(df, rule='sqrt')
    with pytest.raises(ValueError, match='alpha is 0'): loaders(df, alpha=0)

@pytest.mark.parametrize('bad,what', [(-1., 'negative in 1 of'), (np.nan, 'not a finite number in 1 of'),
    (0., 'no interaction, in 1 of'), (np.inf, 'not a finite number')])
def test_bad_weights_are_errors(clicks, bad, what):
    df = clicks.assign(plays=3.)
    df.loc[df.index[5],'plays'] = bad
    with pytest.raises(ValueError, match=what): loaders(df, weight_name='plays')

def test_ratings_as_weights_and_clicks_as_ratings_are_warned_of(clicks):
    ratings = synthetic_ratings(200, 100, 5000)
    assert 'looks like ratings from 0.5 to 5' in said(lambda: loaders(ratings, weight_name='rating'))[0]
    assert "column 'rating' is left out" in said(lambda: loaders(ratings))[0]
    assert said(lambda: loaders(clicks))==[]
    ones = clicks.assign(rating=1)
    texts = said(lambda: CollabDataLoaders.from_df(ones, rating_name='rating'))
    assert any('are 1, so there is nothing to predict' in o and 'from_interactions' in o for o in texts)

def test_repeats_are_summed_or_kept(clicks):
    twice = pd.concat([clicks,clicks.head(30)], ignore_index=True)
    assert 'their weights are summed' in said(lambda: loaders(twice))[0]
    dls = loaders(twice)
    stores = [o.store.arrays() for o in (dls.train_ds,dls.valid_ds)]
    assert sum(len(w) for _,w in stores)==len(clicks) and sum(w.sum() for _,w in stores)==len(twice)
    texts = said(lambda: loaders(twice, duplicates='keep'))
    assert any('all of them are kept' in o for o in texts)
    dls = loaders(twice, duplicates='keep')
    assert len(dls.train_ds)+len(dls.valid_ds)==len(twice)
    with pytest.raises(ValueError, match="duplicates is 'drop'"): loaders(twice, duplicates='drop')

def test_of_rows_that_repeat_the_last_by_time_stays():
    times = 1_600_000_000+np.array([30,10,20,5])
    df = pd.DataFrame(dict(user=[1,1,2,3], item=[5,5,6,5], time=times))
    dls = loaders(df, time_name='time', valid_pct=0)
    assert sorted(dls.train_ds.numbers)==[0,2,3]

def test_a_pair_in_both_parts_is_a_leak(clicks):
    twice = pd.concat([clicks,clicks.head(30)], ignore_index=True)
    n = len(clicks)
    texts = said(lambda: loaders(twice, splits=(np.arange(n),np.arange(n, n+30))))
    assert any('30 of 30 validation pairs are in the training part' in o for o in texts)
    assert not any('leak' in o for o in said(lambda: loaders(twice)))

def test_the_index_of_the_frame_stays(clicks):
    df = clicks.set_axis(np.arange(len(clicks))*10)
    ds = loaders(df).valid_ds
    seen = ds.items.userId!='#na#'
    assert (df.loc[ds.index].userId[seen]==ds.items.userId[seen]).all() and seen.mean()>.9

# ---- Negatives
def known(dls, parts):
    return set(map(tuple, torch.cat([o.store.ids() for o in parts]).tolist()))

@pytest.mark.parametrize('sampler', ['uniform','popularity','inbatch'])
def test_no_negative_is_known(clicks, sampler):
    dls = loaders(clicks, sampler=sampler, n_neg=3, bs=50)
    for dl,parts in ((dls.train,[dls.train_ds]), (dls.valid,[dls.train_ds,dls.valid_ds])):
        pairs = known(dls, parts)
        for x,neg,w in dl:
            assert neg.shape==(len(x),3) and w.shape==(len(x),1) and (neg>0).all()
            assert not any((u,j) in pairs for u,row in zip(x[:,0].tolist(), neg.tolist()) for j in row if u)

def test_in_a_batch_the_negatives_are_its_items(clicks):
    for x,neg,_ in loaders(clicks, sampler='inbatch', bs=200).train:
        if len(x)==200: assert set(neg.flatten().tolist())<=set(x[:,1].tolist())

def test_seeds(clicks):
    a,b = loaders(clicks),loaders(clicks)
    epochs = [[torch.cat([o[1] for o in dls.train]) for _ in range(2)] for dls in (a,b)]
    assert torch.equal(epochs[0][0], epochs[1][0]) and not torch.equal(*epochs[0])
    first = a.one_batch()
    assert all(torch.equal(*o) for o in zip(first, next(iter(a.train))))
    kept = loaders(clicks, shuffle=False)
    assert not torch.equal(*(torch.cat([o[1] for o in kept.train]) for _ in range(2)))

@pytest.mark.parametrize('sampler', ['uniform','popularity','inbatch'])
def test_any_number_of_threads(sampler):
    rng,before = np.random.default_rng(0),torch.get_num_threads()
    ids = torch.from_numpy(np.unique(rng.integers(1, (900,300), (70_000,2)), axis=0)).int()
    s = NegativeSampler(ids, 900, 300, sampler, n_neg=2)
    res = []
    try:
        for n in (1,2,3):
            torch.set_num_threads(n)
            res.append(s.draw(ids[:,0], torch.arange(len(ids)), 3, ids[:,1], 128))
    finally: torch.set_num_threads(before)
    assert torch.equal(res[0], res[1]) and torch.equal(res[0], res[2])
    if sampler!='inbatch': assert torch.equal(res[0], tensor_negatives(s, ids[:,0], torch.arange(len(ids)), 3))

def test_users_who_have_met_almost_everything_or_all():
    rows = [(1,i) for i in range(1, 2001)]+[(2,i) for i in range(2, 2001)]+[(3,1)]
    df = pd.DataFrame(rows, columns=['user','item'])
    texts = said(lambda: loaders(df, valid_pct=0))
    assert texts==["1 of 3 users have met all 2,000 items, e.g. 1; they have no negatives, so nothing is "
        'learned from their interactions']
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x,neg,_ = map(torch.cat, zip(*loaders(df, valid_pct=0, bs=512).train))
    assert (neg[x[:,0]==1]==0).all() and (neg[x[:,0]==2]==1).all() and (neg[x[:,0]==3]>1).all()
    with pytest.raises(ValueError, match='every user has met all 2 items'):
        loaders(pd.DataFrame(dict(u=[1,1,2,2], i=[1,2,1,2])), valid_pct=0)

def test_chances_are_those_of_log_q():
    ids = torch.tensor([[u,i] for i in range(1, 31) for u in range(1, 1+i)], dtype=torch.int32)
    for kind in ('uniform','popularity'):
        s = NegativeSampler(ids, 60, 31, kind, n_neg=100)
        neg = s.draw(torch.full((2000,), 50, dtype=torch.int32), torch.arange(2000), 9)
        share = torch.bincount(neg.flatten(), minlength=31)[1:]/neg.numel()
        np.testing.assert_allclose(share, s.log_q().exp()[1:], atol=.0012)

def test_a_batch_of_one_has_negatives(clicks):
    dls = loaders(clicks, sampler='inbatch', bs=1)
    x,neg,_ = dls.one_batch()
    assert neg.shape==(1,1) and neg.item()>0 and neg.item()!=x[0,1].item()
    assert torch.equal(batch_negatives(dls.train_ds.sampler, x[:,0].int(), x[:,1].int(), torch.tensor([3]), 1, 1),
        dls.train_ds.sampler.draw(x[:,0].int(), torch.tensor([3]), 1))

def test_new_rows_have_no_negatives(clicks):
    dls = loaders(clicks)
    batch = next(iter(dls.test_dl(clicks.head(5).assign(weight=9.))))
    assert len(batch)==1 and batch[0].shape==(5,2)

# ---- Dislikes
def disliking(clicks, **kwargs):
    "Loaders with what users rated low as dislikes, and one pair that is a click too"
    low = synthetic_ratings(200, 100, 5000).query('rating<=2')[['userId','movieId']]
    return loaders(clicks, dislikes=pd.concat([low,clicks[['userId','movieId']].head(9)]), n_neg=4, **kwargs),low

@pytest.mark.parametrize('sampler', ['uniform','popularity','inbatch'])
def test_half_of_the_negatives_are_dislikes_and_none_is_known(clicks, sampler):
    (dls,low),share = disliking(clicks, sampler=sampler),[]
    o2i = [dls.classes[o].o2i for o in ('userId','movieId')]
    hated = {(o2i[0].get(u, 0),o2i[1].get(i, 0)) for u,i in low.to_numpy()}
    users,pairs = {u for u,i in hated if u and i},known(dls, [dls.train_ds])
    for x,neg,_ in dls.train:
        for u,row in zip(x[:,0].tolist(), neg.tolist()):
            assert (u,row[0]) not in pairs and (u,row[-1]) not in pairs and min(row)>0
            if u in users: share += [(u,j) in hated for j in row]
    assert .47<np.mean(share)<.75   # others are drawn by chance, too
    a,b = (torch.cat([o[1] for o in disliking(clicks, sampler=sampler)[0].train]) for _ in range(2))
    assert torch.equal(a, b)

def test_dislikes_that_nobody_knows(clicks):
    new = pd.DataFrame(dict(userId=[9991,clicks.userId.iloc[0]], movieId=[clicks.movieId.iloc[0],9992]))
    with pytest.raises(ValueError, match='none of the 2 dislikes'): loaders(clicks, dislikes=new)
    some = pd.concat([new,synthetic_ratings(200, 100, 5000).query('rating<=2')[['userId','movieId']]])
    assert any('dislikes have a user or an item that training does not know' in o
        for o in said(lambda: loaders(clicks, dislikes=some)))
    with pytest.raises(KeyError, match='the dislikes'): loaders(clicks, dislikes=clicks[['userId']])
