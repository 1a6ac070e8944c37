"Splits that keep the shares of ratings"
import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import set_seed
from fastcollab.all import CollabDataLoaders, StratifiedSplitter, synthetic_ratings
from hypothesis import given, settings, strategies as st

SMALL = synthetic_ratings(30, 20, 300)

@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([.5,1.,2.5,4.,5.]), min_size=1, max_size=60), st.floats(0, .99), st.integers(0, 3))
def test_stratified_shares(ratings, pct, seed):
    "Of n rows with a rating, round(pct*n) are held out; each row is in one part; a seed gives one split"
    df = pd.DataFrame(dict(user=range(len(ratings)), item=0, rating=ratings))
    train,valid = StratifiedSplitter(pct, seed=seed)(df)
    assert sorted([*train,*valid]) == list(range(len(df)))
    held = df.rating.iloc[valid].value_counts()
    for r,n in df.rating.value_counts().items(): assert held.get(r, 0) == np.round(pct*n)
    again = StratifiedSplitter(pct, seed=seed)(df)
    assert list(train)==list(again[0]) and list(valid)==list(again[1])

def test_stratified_by_a_column(ratings):
    "The third column or any other by name; rows by seed, at random within a group; torch's state without a seed"
    def held(seed=1, by=None, df=ratings): return StratifiedSplitter(.2, by=by, seed=seed)(df)[1]
    for col in ('rating','genres','userId'):
        n,got = ratings[col].value_counts(),ratings[col].iloc[held(by=col)].value_counts()
        assert all(got.get(k, 0)==np.round(.2*v) for k,v in n.items())
    assert list(held()) == list(held(by='rating')) != list(held(2)) and set(held())!=set(held(by='genres'))
    moved = ratings[['rating','userId','movieId']].rename(columns=dict(movieId='stars'))
    n,got = (moved.stars if k else moved.stars.iloc[held(df=moved)] for k in (1,0))
    assert all((got==k).sum()==np.round(.2*v) for k,v in n.value_counts().items())
    for r in (1.,3.):
        rank = np.searchsorted(np.flatnonzero(ratings.rating==r),
            [o for o in held() if ratings.rating[o]==r])/(ratings.rating==r).sum()
        assert .3 < rank.mean() < .7 and rank.max() > .8
    state,npstate = torch.get_rng_state(),np.random.get_state()[1].copy()
    held()
    assert torch.equal(state, torch.get_rng_state()) and (npstate==np.random.get_state()[1]).all()
    free = [(set_seed(s), list(held(None)))[1] for s in (5,5,6)]
    assert free[0]==free[1]!=free[2]
    dls = CollabDataLoaders.from_df(ratings, splitter=StratifiedSplitter(seed=1))
    assert abs(len(dls.valid_ds)-500) <= 5

def test_stratified_keeps_missing_values_in_a_group_of_their_own():
    df = SMALL.assign(kind=[None,'a','b']*100)
    assert df.kind.iloc[StratifiedSplitter(.1, by='kind', seed=1)(df)[1]].value_counts(dropna=False).tolist() == [10]*3

@pytest.mark.parametrize('call,error,words', [
    (lambda: StratifiedSplitter(1.), ValueError, 'valid_pct is 1.0; give a share'), (lambda: StratifiedSplitter(-.1),
        ValueError, 'valid_pct is -0.1'),
    (lambda: StratifiedSplitter(by='stars')(SMALL), KeyError, "'stars'; the columns are .*'rating'")], ids=range(3))
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words): call()
