"Loaders: what is drawn, in which order, and what splits, genres and ids turn into"
import random, warnings

import numpy as np, pandas as pd, pytest, torch
from fastai.collab import CollabDataLoaders as FastaiCollabDataLoaders
from fastai.data.transforms import RandomSplitter as FastaiRandomSplitter
from fastai.tabular.all import ItemTransform, Learner, MSELossFlat, set_seed
from fastcollab.all import (CollabDataLoaders, ColdItemSplitter, ColdUserSplitter, FoldSplitter, GenreCategorify,
    GenreEmbedding, LeaveLastSplitter, RandomSplitter, TemporalSplitter, UserStratifiedSplitter, movielens,
    synthetic_ratings)
from hypothesis import given, settings, strategies as st

def rows(dl):
    "All (user, item, rating) triples of a loader, sorted"
    return sorted((*x[:2].tolist(), y.item()) for b in dl for x,y in zip(*b))

@settings(max_examples=40, deadline=None)
@given(n=st.integers(4, 300), bs=st.integers(1, 350), seed=st.integers(0, 5), pct=st.floats(0, .9))
def test_every_rating_once(n, bs, seed, pct):
    "Whatever the sizes: an epoch draws each training rating once, in full batches and a rest"
    df = synthetic_ratings(12, 30, n, seed=seed)
    if df.userId.nunique()<2 or df.movieId.nunique()<2: return
    dls = CollabDataLoaders.from_df(df, valid_pct=pct, seed=seed, bs=bs)
    want = dls.train_ds
    for _ in range(2):
        assert rows(dls.train) == sorted((*x.tolist(), y.item()) for x,y in zip(want.store.ids(), want.store.ratings()))
    sizes = [len(b[1]) for b in dls.train]
    assert sizes[:-1] == [bs]*(len(sizes)-1) and len(sizes) == len(dls.train)
    assert len(dls.train_ds)+len(dls.valid_ds) == n

def test_batches_are_the_contract(ratings):
    dls = CollabDataLoaders.from_df(ratings, genre_name='genres', seed=1)
    (x,y),width = dls.one_batch(),dls.features[0].width
    assert x.dtype==torch.int64 and y.dtype==torch.float32 and x.shape==(64,2+width) and y.shape==(64,1)
    assert (x[:,:2]>0).all() and x[:,2:].max()<len(dls.classes['genres'])

def test_seed_sets_split_and_order(ratings):
    a,b,c = (CollabDataLoaders.from_df(ratings, seed=s) for s in (1,1,2))
    for _ in range(2):
        ba,bb,bc = (torch.cat([x for x,_ in o.train]) for o in (a,b,c))
        assert torch.equal(ba, bb) and not torch.equal(ba, bc)
    assert not torch.equal(torch.cat([x for x,_ in a.train]), ba)       # another order in every epoch

def test_without_a_seed_the_global_state_decides(ratings):
    splits = RandomSplitter(.2, seed=0)(ratings)
    orders = []
    for _ in range(2):
        dls = CollabDataLoaders.from_df(ratings, splits=splits)
        set_seed(7)
        orders.append(torch.cat([x for x,_ in dls.train]))
    assert torch.equal(*orders)

def test_looking_changes_nothing(ratings):
    dls,other = (CollabDataLoaders.from_df(ratings, seed=3) for _ in range(2))
    before = torch.get_rng_state(),random.getstate(),np.random.get_state()[1].copy()
    first = dls.one_batch()
    for _ in range(3): assert torch.equal(dls.one_batch()[0], first[0])
    dls.show_batch(show=False)
    dls.valid.new(bs=7)
    for _ in dls.valid: pass
    dls.test_dl(ratings[:5])
    after = torch.get_rng_state(),random.getstate(),np.random.get_state()[1]
    assert torch.equal(before[0], after[0]) and before[1]==after[1] and (before[2]==after[2]).all()
    assert torch.equal(next(iter(dls.train))[0], first[0]) and torch.equal(next(iter(other.train))[0], first[0])

def test_batches_are_copies(ratings):
    "A callback that writes into a batch must not change the ratings"
    dls = CollabDataLoaders.from_df(ratings, seed=3)
    want = dls.train_ds.store.ids().clone()
    for b in dls.train:
        for o in b: o.zero_()
    assert torch.equal(dls.train_ds.store.ids(), want) and dls.train_ds.store.ratings().min()>0

def test_frame_is_not_written_to(ratings):
    df = ratings.copy()
    CollabDataLoaders.from_df(df, item_name='title', genre_name='genres', seed=1)
    pd.testing.assert_frame_equal(df, ratings)

def test_same_split_and_vocabulary_as_fastai(ratings):
    "The rows that fastai's seed picks, so results can be compared row by row"
    ours,theirs = CollabDataLoaders.from_df(ratings, seed=42),FastaiCollabDataLoaders.from_df(ratings, seed=42)
    assert isinstance(ours, FastaiCollabDataLoaders)
    for part in (0,1):
        a,b = ours[part].dataset,theirs[part].items
        assert (a.store.ids().numpy() == b[['userId','movieId']].to_numpy()).all() and np.allclose(
            a.store.ratings().numpy()[:,0], b.rating)
    assert list(ours.classes) == list(theirs.classes) and all(list(ours.classes[k]) == list(theirs.classes[k])
        for k in ours.classes)
    assert [list(o) for o in RandomSplitter(.3, 5)(ratings)] == [list(o) for o in FastaiRandomSplitter(.3, 5)(ratings)]

@pytest.mark.parametrize('kind', ['int','str','category','float','int32'])
def test_kinds_of_ids(ratings, kind):
    "Ids of any kind come back as they were, from the vocabulary of the training part only"
    df = ratings.assign(userId=ratings.userId.astype(str)+'x' if kind in ('str','category') else ratings.userId)
    if kind in ('category','float','int32'):
        df['userId'] = df.userId.astype(dict(category='category', float=float, int32='int32')[kind])
    train,valid = ColdUserSplitter(.1, seed=1)(df)
    dls = CollabDataLoaders.from_df(df, splits=(train,valid))
    assert dls.classes['userId'][0]=='#na#' and list(dls.classes['userId'][1:]) == sorted(set(df.userId.iloc[train]))
    assert list(dls.train_ds.items.userId) == list(df.userId.iloc[train])
    assert (dls.valid_ds.store.ids()[:,0]==0).all() and set(dls.valid_ds.items.userId)=={'#na#'}
    assert dls.n_users == len(dls.classes['userId'])

def test_decode_and_items(ratings):
    dls = CollabDataLoaders.from_df(ratings, item_name='title', genre_name='genres', seed=1)
    df = ratings.iloc[RandomSplitter(.2, 1)(ratings)[1]]
    got = dls.valid_ds.items
    assert list(got.columns) == ['userId','title','rating','genres']
    for c in ('userId','title','rating'): assert list(got[c]) == list(df[c])
    assert [sorted(o.split('|')) for o in got.genres] == [sorted(o.split('|')) for o in df.genres]
    b = dls.valid.one_batch()
    assert dls.decode(b).equals(dls.decode_batch(b, max_n=64))
    assert len(dls.show_batch(max_n=3, show=False)) == 3

SPLITTERS = dict(random=lambda s: RandomSplitter(.25, s), user=lambda s: UserStratifiedSplitter(.25, seed=s),
    time=lambda s: TemporalSplitter(.25),
    last=lambda s: LeaveLastSplitter(2), cold_user=lambda s: ColdUserSplitter(.25, seed=s),
    cold_item=lambda s: ColdItemSplitter(.25, seed=s),
    fold=lambda s: FoldSplitter(2))

@pytest.mark.parametrize('name', SPLITTERS)
def test_splitters(ratings, name):
    "Both parts together are all rows once; a seed gives one split; the global state stays"
    df = ratings.assign(fold=np.arange(len(ratings))%4)
    state,npstate = torch.get_rng_state(),np.random.get_state()[1].copy()
    (train,valid),again = SPLITTERS[name](5)(df),SPLITTERS[name](5)(df)
    assert torch.equal(state, torch.get_rng_state()) and (npstate==np.random.get_state()[1]).all()
    assert sorted([*train,*valid]) == list(range(len(df))) and len(train) and len(valid)
    assert list(train)==list(again[0]) and list(valid)==list(again[1])
    if name in ('random','user','cold_user','cold_item'): assert set(SPLITTERS[name](6)(df)[1]) != set(valid)
    assert len(CollabDataLoaders.from_df(df, splitter=SPLITTERS[name](5)).valid_ds) == len(valid)

def test_what_the_splits_mean(ratings):
    df = ratings.assign(fold=np.arange(len(ratings))%4)
    train,valid = UserStratifiedSplitter(.25, seed=1)(df)
    n,held = df.userId.value_counts(),df.userId.iloc[valid].value_counts()
    assert all(abs(held.get(u, 0)-.25*k) <= .5 or held.get(u, 0)==k-1
        for u,k in n.items()) and df.userId.iloc[train].nunique()==df.userId.nunique()
    train,valid = TemporalSplitter(.25)(df)
    assert df.timestamp.iloc[train].max() <= df.timestamp.iloc[valid].min() and len(valid)==len(df)//4
    train,valid = LeaveLastSplitter(2)(df)
    held = df.iloc[valid].groupby('userId').timestamp
    assert (held.size()==2).all() and (held.min() >= df.iloc[train].groupby('userId').timestamp.max()[
        held.min().index]).all()
    for split,col in ((ColdUserSplitter(.1, seed=1),'userId'), (ColdItemSplitter(.1, seed=1),'movieId')):
        train,valid = split(df)
        assert not set(df[col].iloc[train]) & set(df[col].iloc[valid]) and df[col].iloc[valid].nunique()==round(.1*df[
            col].nunique())
    assert set(df.fold.iloc[FoldSplitter(2)(df)[1]])=={2}

def test_a_user_with_one_rating_is_trained_on():
    df = pd.DataFrame(dict(user=[1,2,2,2], item=[1,1,2,3], rating=[1.,2.,3.,4.], timestamp=[1,2,3,4]))
    for split in (LeaveLastSplitter(1), UserStratifiedSplitter(.9, seed=0)): assert 0 in split(df)[0]

def test_fastai_splitters_work(ratings):
    dls = CollabDataLoaders.from_df(ratings, splitter=FastaiRandomSplitter(.1, seed=0))
    assert len(dls.valid_ds) == 500

def test_no_validation_part(ratings):
    dls = CollabDataLoaders.from_df(ratings, valid_pct=0)
    assert len(dls.train_ds)==5000 and len(dls.valid)==0

@pytest.mark.parametrize('sep', ['|', ', ', ';', '::'])
def test_genres_with_any_separator(ratings, sep):
    of = {m: sep.join(g.split('|')) for m,g in zip(ratings.movieId, ratings.genres)}
    odd = dict(zip(of, [None, '', sep, f'Drama{sep}', f'Drama {sep}{sep}Drama']))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        dls = CollabDataLoaders.from_df(ratings.assign(genres=ratings.movieId.map({**of, **odd})), genre_name='genres',
            sep=sep, seed=1)
    assert [str(o.message) for o in caught] == [f"column 'genres' is empty for 3 of 100 items, e.g. "
        f"{min(list(odd)[:3])}; they get no genres"]
    assert list(dls.classes['genres']) == ['#na#', *sorted({g for o in of if o not in odd for g in of[o].split(sep)})]
    x = dls.train_ds.enc.tables[1][[dls.classes['movieId'].o2i[o] for o in odd]]
    assert (x[:3]==0).all() and torch.equal(x[3], x[4]) and x[3].tolist()==[dls.classes['genres'].o2i['Drama'],
        *[0]*(x.shape[1]-1)]

def test_padding_contributes_nothing(ratings):
    "The same genres in wider tables give the same vectors, whatever the aggregation"
    for agg in ('sqrtn','sum','mean'):
        emb = GenreEmbedding(5, 3, agg)
        with torch.no_grad(): emb.weight[0] = 100.
        g = torch.tensor([[1,2],[3,0],[0,0]])
        wide = torch.cat([g, torch.zeros(3, 4, dtype=torch.int64)], 1)
        assert torch.allclose(emb(g), emb(wide)) and torch.allclose(emb(g)[1], emb.weight[3]) and (emb(g)[2]==0).all()
    assert torch.allclose(emb(g)[0], emb.weight[1:3].mean(0))

@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from('abcdefg'), max_size=5), min_size=1, max_size=20))
def test_genres_round_trip(sets):
    "Encoding and decoding gives back the distinct genres in their order"
    col = pd.Series(['|'.join(o) for o in sets], dtype=object)
    g = GenreCategorify().setup(col)
    table,left = g.encode(col)
    assert not any(left) and g.decode(torch.from_numpy(table)) == ['|'.join(dict.fromkeys(o)) for o in sets]

def test_genres_of_an_item_known_by_id(ratings):
    "Without a genre column a test row gets the genres that its item had in training; an unknown item none"
    dls = CollabDataLoaders.from_df(ratings, genre_name='genres', seed=1)
    df = ratings[:50].drop(columns='genres')
    known,_ = dls.test_dl(df).one_batch()
    want,_ = dls.test_dl(ratings[:50]).one_batch()
    assert torch.equal(known, want)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x, = dls.test_dl(dict(userId=1, movieId=10**6)).one_batch()
    assert (x[0,1:]==0).all()

def test_features_of_unknown_items_are_kept(ratings):
    dls = CollabDataLoaders.from_df(ratings, genre_name='genres', splitter=ColdItemSplitter(.2, seed=1))
    x = torch.cat([b[0] for b in dls.valid])
    assert (x[:,1]==0).all() and (x[:,2:]>0).any(1).float().mean() > .9

def test_test_dl(ratings):
    dls = CollabDataLoaders.from_df(ratings, item_name='title', seed=1)
    for rows_ in (ratings[:3], [ratings.iloc[0], ratings.iloc[1], ratings.iloc[2]], ratings[:3].to_dict('records')):
        x,y = dls.test_dl(rows_).one_batch()
        assert list(dls.test_dl(rows_).dataset.items.title) == list(ratings.title[:3]) and y.shape==(3,1)
    for row in (ratings.iloc[0], dict(ratings.iloc[0])): assert len(dls.test_dl(row).dataset) == 1
    assert len(dls.test_dl(ratings[['title','userId']]).one_batch()) == 1
    assert len(dls.test_dl(ratings[:0])) == 0
    assert len(dls.test_dl(ratings, bs=1000)) == 5

def test_new_empty_holds_no_ratings(dls):
    empty = dls.new_empty()
    assert len(empty.train_ds)==0 and empty.classes is dls.classes
    assert all(o.store.ids().untyped_storage().nbytes()==0 for o in (empty.train_ds,empty.valid_ds))

def test_files(ratings, tmp_path):
    "CSV with its own separator, compressed CSV, Parquet: the same loaders as from the frame"
    plain = ratings.astype(dict(title=str, genres=str))
    want = CollabDataLoaders.from_df(plain, item_name='title', genre_name='genres', seed=1)
    plain.to_csv(tmp_path/'r.tsv', sep='\t', index=False)
    plain.to_csv(tmp_path/'r.csv.gz', index=False)
    plain.to_csv(tmp_path/'r.latin', index=False, encoding='latin-1')
    plain.to_parquet(tmp_path/'r.parquet')
    own = dict(item_name='title', genre_name='genres', seed=1)
    csv,parquet = CollabDataLoaders.from_csv,CollabDataLoaders.from_parquet
    read = [csv(tmp_path/'r.tsv', delimiter='\t', **own), csv(tmp_path/'r.csv.gz', **own),
        csv(tmp_path/'r.latin', encoding='latin-1', nrows=5000, **own),
        parquet(tmp_path/'r.parquet', **own)]
    for dls in read:
        got,expected = dls.train_ds.store,want.train_ds.store
        assert torch.equal(got.ids(), expected.ids()) and torch.equal(got.ratings(), expected.ratings())
        assert torch.equal(dls.train_ds.tables[1], want.train_ds.tables[1])
        assert torch.equal(dls.one_batch()[0], want.one_batch()[0])
    assert list(CollabDataLoaders.from_csv(tmp_path/'r.tsv', sep='\t',
        seed=1).train_ds.items.movieId) == list(ratings.movieId.iloc[RandomSplitter(.2, 1)(ratings)[0]])

def test_batch_transforms(dls):
    "fastai's `after_batch` transforms still run"
    class Double(ItemTransform):
        def encodes(self, b): return b[0],b[1]*2
    dls.add_tfms([Double()], 'after_batch', ['train'])
    assert dls.train.one_batch()[1].max() > 5.5 and dls.valid.one_batch()[1].max() <= 5

def test_plain_learner_needs_no_loss(dls):
    "`Learner(dls, model)` finds the loss of the data"
    assert Learner(dls, torch.nn.Linear(2, 1)).loss_func(torch.zeros(3),
        torch.ones(3,1)) == MSELossFlat()(torch.zeros(3), torch.ones(3))

@pytest.mark.data
def test_real_data(data_dir, monkeypatch):
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    df = movielens('ml-latest-small')
    with pytest.warns(UserWarning, match='repeat an earlier pair'):
        dls = CollabDataLoaders.from_df(df, item_name='title', genre_name='genres', seed=42)
    assert (len(dls.train_ds),len(dls.valid_ds),dls.n_users) == (80669,20167,611)
    assert rows(dls.valid)[0][2] in np.arange(.5, 5.5, .5)

@pytest.mark.cuda
def test_cuda_loader_equals_cpu(ratings):
    a,b = (CollabDataLoaders.from_df(ratings, genre_name='genres', seed=1, device=o) for o in ('cuda','cpu'))
    for (xa,ya),(xb,yb) in zip(a.train, b.train):
        assert xa.is_cuda and torch.equal(xa.cpu(), xb) and torch.equal(ya.cpu(), yb)
