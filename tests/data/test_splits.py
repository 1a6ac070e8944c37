"Splits that keep the shares of ratings"
import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import set_seed
from fastcollab.all import (CollabDataLoaders, ItemStratifiedSplitter, LastShareSplitter, RandomSplitter,
    StratifiedSplitter, TemporalSplitter, movielens, split_leaks, synthetic_ratings)
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

# ---- By item, as Recommenders does
def python_stratified_split(data, ratio, seed):
    "recommenders/datasets/python_splitters.py of Recommenders 1.2, with filter_by='item' and min_rating=1"
    data = data.copy()
    data['random'] = np.random.RandomState(seed).rand(len(data))   # there: np.random.seed(seed), np.random.rand
    data = data.sort_values(['item','random'])
    groups = data.groupby('item')
    data['count'],data['rank'] = groups['item'].transform('count'),groups.cumcount()+1
    in_train = data['rank']<=round(ratio*data['count'])
    return data.index[in_train],data.index[~in_train]

@pytest.mark.parametrize('pct', (.25,.2,.5))
@pytest.mark.parametrize('seed', (42,7))
def test_items_are_split_as_recommenders_splits_them(seed, pct):
    df = synthetic_ratings(60, 40, 1500).iloc[:,:3].set_axis(['user','item','rating'], axis=1)
    train,valid = ItemStratifiedSplitter(pct, seed=seed)(df)
    want = python_stratified_split(df, 1-pct, seed)
    assert df['item'].value_counts().min()>1
    assert set(train)==set(want[0]) and set(valid)==set(want[1])

@pytest.mark.data
def test_movielens_by_item(data_dir):
    df = movielens('ml-100k')
    train,valid = ItemStratifiedSplitter(.25, seed=42)(df)
    assert (len(train),len(valid)) == (75066,24934)
    pairs = df.iloc[:,:2].set_axis(['user','item'], axis=1).assign(rating=1.)
    assert set(valid) == set(python_stratified_split(pairs, .75, 42)[1])

def test_recommenders_itself_splits_the_same_way():
    pairs = synthetic_ratings(60, 40, 1500).iloc[:,:3].set_axis(['user','item','rating'], axis=1)
    train,valid = ItemStratifiedSplitter(.25, seed=42)(pairs)
    splitters = pytest.importorskip('recommenders.datasets.python_splitters')
    theirs = splitters.python_stratified_split(pairs, ratio=.75, min_rating=1, filter_by='item', seed=42,
        col_user='user', col_item='item')
    assert set(theirs[0].index)==set(train) and set(theirs[1].index)==set(valid)

def test_items_of_one_rating_stay_in_training():
    df = pd.DataFrame(dict(user=range(5), item=[0,1,1,2,2], rating=1.))
    for pct in (.5,.9): assert set(df.item[ItemStratifiedSplitter(pct, seed=0)(df)[0]])=={0,1,2}

def test_a_split_by_item_draws_from_torch_without_a_seed_and_leaves_numpy_alone(ratings):
    state = np.random.get_state()[1].copy()
    free = [(set_seed(s), list(ItemStratifiedSplitter()(ratings)[1]))[1] for s in (5,5,6)]
    assert free[0]==free[1]!=free[2]
    state = np.random.get_state()[1].copy()
    ItemStratifiedSplitter(seed=1)(ratings)
    assert (state==np.random.get_state()[1]).all()

# ---- By time
@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), min_size=1, max_size=60), st.floats(0, .99))
def test_the_last_share_of_each_user(rows, pct):
    df = pd.DataFrame(rows, columns=['user','timestamp']).assign(item=range(len(rows)), rating=1.)
    train,valid = LastShareSplitter(pct)(df)
    assert sorted([*train,*valid]) == list(range(len(df)))
    held = df.user.iloc[valid].value_counts()
    for u,n in df.user.value_counts().items():
        assert held.get(u, 0) == min(np.round(pct*n), n-1)
        mine = df.iloc[valid][df.user.iloc[valid]==u].timestamp
        if len(mine): assert df.iloc[train][df.user.iloc[train]==u].timestamp.max() <= mine.min()
    assert split_leaks(df, (train,valid), 'user', 'item', 'timestamp') == dict(pair=0, older=0)

@pytest.mark.parametrize('kind', ('seconds','dates','text'))
def test_from_a_moment_on(ratings, kind):
    secs = ratings.timestamp
    at = int(secs.quantile(.6))
    dates = pd.to_datetime(secs, unit='s')
    df = ratings.assign(timestamp=dict(seconds=secs, dates=dates, text=dates.astype(str))[kind])
    given = at if kind=='seconds' else pd.to_datetime(at, unit='s') if kind=='dates' else str(pd.to_datetime(at,
        unit='s'))
    train,valid = TemporalSplitter(at=given)(df)
    assert set(valid)==set(np.flatnonzero(secs>=at)) and len(train)+len(valid)==len(df)

# ---- Leaks
def test_leaks_are_counted_and_said(ratings):
    split = RandomSplitter(.2, seed=0)(ratings)
    with pytest.warns(UserWarning, match=r'of 1,000 validation rows are older than training ratings of the same user'):
        found = split_leaks(ratings, split, time_name='timestamp')
    last = ratings.iloc[split[0]].groupby('userId').timestamp.max()
    valid = ratings.iloc[split[1]]
    assert found==dict(pair=0, older=int((valid.timestamp<valid.userId.map(last)).sum()))

def test_loaders_say_that_a_pair_is_in_both_parts(ratings):
    twice = pd.concat([ratings, ratings[:300]], ignore_index=True)
    splits = np.arange(5000),np.arange(5000, 5300)
    with pytest.warns(UserWarning, match='300 of 300 validation rows repeat a pair of the training part: a leak'):
        CollabDataLoaders.from_df(twice, splits=splits)
    with pytest.warns(UserWarning, match='300 of 300 validation rows repeat'): split_leaks(twice, splits)
