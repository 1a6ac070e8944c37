"Rows in files: the same rows as in the Parquet files, whatever their order; whole encodings or none; clear errors"
import pickle, warnings

import pandas as pd, pyarrow as pa, pytest, torch
from fastcollab.all import (CollabDataLoaders, DotProductBias, LeaveLastSplitter, TemporalSplitter, collab_learner,
    set_seed, synthetic_ratings)
from fastcollab.data import encoding as enc_module
from fastcollab.data.blocks import BlockOrder, MappedStore, need_room
from fastcollab.data.columns import IdCounter, IdNumbers, ParquetTable, parquet_files
from fastcollab.data.encoding import MANIFEST, Buckets, EncodingPlan, encode_parquet, extend_encoding, read_encoding
from fastcollab.data.loaders import RatingsDataset, RatingsDL
from hypothesis import given, settings, strategies as st

PLAN = EncodingPlan(('userId','movieId','rating'), item_cols=('genres',), title_name='title', time_name='timestamp')

@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    "Several pieces and buckets for a few thousand rows"
    monkeypatch.setattr(ParquetTable, 'rows_at_once', 700)
    monkeypatch.setattr(Buckets, 'rows', 900)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

def write(folder, df, cuts=(0,1500,2100)):
    folder.mkdir(parents=True, exist_ok=True)
    for k,(a,b) in enumerate(zip(cuts, (*cuts[1:],len(df)))): df[a:b].to_parquet(folder/f'{k}.parquet')
    return folder

@pytest.fixture(scope='module')
def df(): return synthetic_ratings(150, 90, 4000, seed=3).astype(dict(title=str, genres=str))

def plain(dls, cols):
    "All rows of both parts in raw ids, sorted"
    parts = [o.items for o in (dls.train_ds,dls.valid_ds)]
    return pd.concat(parts)[cols].sort_values(cols).reset_index(drop=True)

def columns(encoding): return {o.name:o.read_bytes() for o in encoding.data.iterdir() if o.suffix!='.npz'}

@pytest.mark.parametrize('ids', [int, str, 'sparse'])
def test_all_rows_are_there(df, tmp_path, ids):
    "Ids of any kind come back; the vocabulary is sorted; a pair is on one side"
    change = dict(sparse=lambda o: o*10**12-5).get(ids, lambda o: o.astype(ids))
    df = df.assign(userId=change(df.userId), movieId=change(df.movieId))
    dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), valid_pct=0, seed=1)
    cols = ['userId','movieId','rating']
    want = df[cols].sort_values(cols).reset_index(drop=True)
    assert (plain(dls, cols).to_numpy()==want.to_numpy()).all()
    assert list(dls.classes['userId'][1:])==sorted(set(df.userId)) and type(dls.train_ds.store) is MappedStore
    both = CollabDataLoaders.from_parquet(tmp_path/'d', valid_pct=.3, seed=1)
    parts = [set(zip(o.items.userId, o.items.movieId)) for o in (both.train_ds,both.valid_ds)]
    assert not parts[0]&parts[1] and abs(len(both.valid_ds)/4000-.3)<.05

def test_order_of_files_and_rows_is_irrelevant(df, tmp_path):
    mixed = df.sample(frac=1, random_state=0)
    a = encode_parquet(write(tmp_path/'a', df), tmp_path/'ea', PLAN)
    b = encode_parquet(write(tmp_path/'b', mixed, (0,10,3000)), tmp_path/'eb', PLAN)
    x,y = columns(a),columns(b)
    assert x.keys()==y.keys() and all(x[k]==y[k] for k in x if not k.endswith('parquet'))
    assert all(a.ids(k).equals(b.ids(k)) for k in (0,1))

def test_like_from_df(df, tmp_path):
    "Features, titles, times, and the batch of a row are those of loaders in memory"
    names = dict(user_name='userId', item_name='movieId', rating_name='rating')
    kwargs = dict(genre_name='genres', time_name='timestamp', valid_pct=0, **names)
    files = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), **kwargs)
    memory = CollabDataLoaders.from_df(df, **kwargs)
    def rows(ds):
        x,y = ds.rows(torch.arange(len(ds)))
        return sorted(map(tuple, torch.cat([x.double(), y.double()], 1).tolist()))
    assert rows(files.train_ds)==rows(memory.train_ds)
    assert list(files.train_ds.enc.titles)==list(memory.train_ds.enc.titles)
    assert {k:list(v) for k,v in files.classes.items()}=={k:list(v) for k,v in memory.classes.items()}
    assert files.test_dl(df[:20]).one_batch()[0].tolist()==memory.test_dl(df[:20]).one_batch()[0].tolist()

def test_unknown_ids_keep_their_features(df, tmp_path):
    dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), genre_name='genres', min_count=45, seed=1)
    new = dls.valid_ds.store.ids()[:,1]==0
    x,_ = dls.valid_ds.rows(new.nonzero()[:,0])
    assert 0<new.sum()<len(new) and (x[:,2]>0).all()

def test_rare_ids(df, tmp_path):
    with pytest.warns(UserWarning, match='fewer than 30 training rows.*count as unknown'):
        dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), min_count=30, seed=1)
    n = torch.bincount(dls.train_ds.store.ids()[:,1])
    assert n[0]>0 and n[1:].min()>=30 and len(n)==dls.n_items

def test_split_by_time(df, tmp_path):
    dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), splitter=TemporalSplitter(.25))
    train,valid = TemporalSplitter(.25)(df)
    want = df.timestamp.iloc[valid].min()
    assert dls.train_ds.enc.timestamps is not None
    assert len(dls.valid_ds)==int((df.timestamp>=want).sum())
    at = CollabDataLoaders.from_parquet(tmp_path/'d', splitter=TemporalSplitter(at=int(want)))
    assert len(at.valid_ds)==len(dls.valid_ds)
    with pytest.raises(ValueError, match='mapped=False'):
        CollabDataLoaders.from_parquet(tmp_path/'d', splitter=LeaveLastSplitter())

def test_reused_and_rebuilt(df, tmp_path):
    "Another time and the same bytes are no change; other bytes, another plan and another file are"
    folder = write(tmp_path/'d', df)
    def name(plan=PLAN): return encode_parquet(folder, tmp_path/'e', plan).info['data']
    first = name()
    (folder/'0.parquet').touch()
    assert name()==first
    df[::-1].head(1000).to_parquet(folder/'1.parquet')
    second = name()
    assert second!=first and len([*(tmp_path/'e').glob('data-*')])==1
    third = name(PLAN._replace(valid_pct=.1))
    df.head(50).to_parquet(folder/'9.parquet')
    assert len({second, third, name(PLAN._replace(valid_pct=.1))})==3

def test_extend(df, tmp_path):
    "Known ids keep their rows, new ones come behind in their order; all rows are there, and features and times"
    old = encode_parquet(write(tmp_path/'a', df[df.userId<100]), tmp_path/'e', PLAN._replace(min_count=3))
    known = int((old.ids(0)['row'].to_numpy()>0).sum())
    a = CollabDataLoaders.from_parquet(tmp_path/'e')
    new = extend_encoding(tmp_path/'e', write(tmp_path/'b', df[df.userId>=100], (0,100)))
    b = CollabDataLoaders.from_parquet(tmp_path/'e')
    assert list(b.classes['userId'])[:a.n_users]==list(a.classes['userId']) and b.n_users>a.n_users==known+1
    assert list(b.classes['userId'])[a.n_users:]==sorted(list(b.classes['userId'])[a.n_users:])
    assert new.info['n']['train']+new.info['n']['valid']==4000
    for ds in (b.train_ds,b.valid_ds): assert len(ds.rows(torch.arange(len(ds)))[0])==len(ds)
    assert list(b.valid_ds.items.genres[:len(a.valid_ds)])==list(a.valid_ds.items.genres)
    ends,items,_ = b.train_ds.store.by_user()
    assert ends[-1]==len(items)==len(b.train_ds)
    with pytest.raises(ValueError, match='in the encoding already'): extend_encoding(tmp_path/'e', tmp_path/'b')

def test_by_user(df, tmp_path):
    dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), seed=1)
    ends,items,values = dls.train_ds.store.by_user()
    ids,y = dls.train_ds.store.ids(),dls.train_ds.store.ratings()[:,0]
    for u in (1,50,dls.n_users-1):
        own = sorted(zip(ids[ids[:,0]==u,1].tolist(), y[ids[:,0]==u].tolist()))
        assert sorted(zip(items[ends[u]:ends[u+1]].tolist(), values[ends[u]:ends[u+1]].tolist()))==own

def test_clicks(df, tmp_path):
    "Weights of pairs that repeat are summed, whatever file they are in"
    clicks = pd.concat([df, df[:300]])[['userId','movieId','rating']].rename(columns=dict(rating='plays'))
    kwargs = dict(weight_name='plays', valid_pct=0)
    files = CollabDataLoaders.from_parquet(write(tmp_path/'d', clicks), interactions=True, **kwargs)
    memory = CollabDataLoaders.from_interactions(clicks, **kwargs)
    def rows(ds): return sorted((*x,*y) for x,y in zip(ds.store.ids().tolist(), ds.store.ratings().tolist()))
    assert rows(files.train_ds)==rows(memory.train_ds)
    x,neg,w = files.train.one_batch()
    assert neg.shape==(64,1) and w.shape==(64,1)

@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 200), st.integers(1, 2000), st.integers(0, 9), st.integers(1, 400))
def test_blocks_are_a_permutation(n, block, window, seed, cut):
    order = BlockOrder(seed)
    order.block,order.window = block,window
    rows = order.rows(n)
    pieces = [rows[o:o+cut] for o in range(0, n, cut)]
    assert sorted(torch.cat(pieces).tolist() if pieces else [])==list(range(n)) and len(rows)==n

@pytest.mark.parametrize('drop_last', [False,True])
def test_the_loop_reads_files_as_it_reads_memory(df, tmp_path, drop_last):
    "With the same order, the numbers of a fused fit are the same; and so are predictions and lists"
    dls = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), seed=5, bs=64, drop_last=drop_last)
    parts = [RatingsDataset(o.enc, o.store.take(torch.arange(len(o)))) for o in (dls.train_ds,dls.valid_ds)]
    train = RatingsDL(parts[0], bs=64, shuffle=True, seed=5, drop_last=drop_last)
    memory = CollabDataLoaders(train, RatingsDL(parts[1], bs=64))
    memory.train.order = BlockOrder(5)
    learns = []
    for o in (dls,memory):
        set_seed(0)
        learn = collab_learner(o, 6, arch=DotProductBias, y_range=(0,5.5))
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
        assert learn.fused_reason==''
        learns.append(learn)
    a,b = learns
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))
    assert all(torch.equal(p, q) for p,q in zip(a.get_preds(), b.get_preds()))
    assert a.recommend(df.userId[0], 5).equals(b.recommend(df.userId[0], 5))

def test_a_copy_maps_the_same_files(df, tmp_path):
    store = CollabDataLoaders.from_parquet(write(tmp_path/'d', df), seed=5).train_ds.store
    text = pickle.dumps(store)
    assert len(text)<1000 and torch.equal(pickle.loads(text).ids(), store.ids())

def test_room():
    store = type('Large', (), dict(in_files=True, __len__=lambda self: 10**10))()
    with pytest.raises(MemoryError, match='fit_als needs all ratings in memory: about .* GB for 10,000,000,000'):
        need_room(store, 'fit_als', 10**4)

# ---- What goes wrong
def swap(folder, k, df): df.to_parquet(folder/f'{k}.parquet')
def cut(folder, k):
    file = folder/f'{k}.parquet'
    file.write_bytes(file.read_bytes()[:-200])
def flip(folder, k):
    file = folder/f'{k}.parquet'
    data = bytearray(file.read_bytes())
    data[40:4000] = bytes(3960)
    file.write_bytes(data)

DAMAGE = dict(
    cut=(lambda f, df: cut(f, 1), ValueError, ['1.parquet','damaged']),
    flip=(lambda f, df: flip(f, 2), ValueError, ['2.parquet']),
    lacks=(lambda f, df: swap(f, 1, df.drop(columns='rating')), KeyError,
        ["no rating column 'rating'",'1 of 3 files','1.parquet']),
    types=(lambda f, df: swap(f, 1, df.assign(userId=df.userId.astype(str))), TypeError,
        ["'userId'",'whole numbers','text','1.parquet']),
    missing=(lambda f, df: swap(f, 2, df.assign(movieId=df.movieId.where(df.index>5).astype('Int64'))), ValueError,
        ["'movieId' is missing in 6 rows",'row 0','2.parquet']),
    infinite=(lambda f, df: swap(f, 2, df.assign(rating=df.rating.where(df.index>5))), ValueError,
        ['not a finite number in 6','row 0','2.parquet']),
    floats=(lambda f, df: [swap(f, k, df.assign(userId=df.userId/2)) for k in range(3)], TypeError,
        ["user column 'userId' holds numbers"]))

@pytest.mark.parametrize('name', DAMAGE)
def test_one_error_and_nothing_left(df, tmp_path, name):
    damage,kind,words = DAMAGE[name]
    folder = write(tmp_path/'d', df)
    old = encode_parquet(folder, tmp_path/'old', PLAN)
    damage(folder, df)
    for out in ('new','old'):
        with pytest.raises(kind) as e: encode_parquet(folder, tmp_path/out, PLAN)
        assert all(o in str(e.value) for o in words), str(e.value)
    assert not (tmp_path/'new').exists() and columns(read_encoding(tmp_path/'old'))==columns(old)
    assert {o.name for o in (tmp_path/'old').iterdir()}=={MANIFEST, old.info['data'], '.lock'}

@pytest.mark.parametrize('at', ['add','json'])
def test_a_full_disk(df, tmp_path, monkeypatch, at):
    folder = write(tmp_path/'d', df)
    old = encode_parquet(folder, tmp_path/'e', PLAN)
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(*((enc_module.PartFiles,'add') if at=='add' else (enc_module.json,'dumps')), full)
    for out in ('e','n'):
        with pytest.raises(OSError, match='could not be written: No space left on device'):
            encode_parquet(folder, tmp_path/out, PLAN._replace(seed=3))
    monkeypatch.undo()
    assert not (tmp_path/'n').exists() and columns(read_encoding(tmp_path/'e'))==columns(old)

def test_no_room(df, tmp_path, monkeypatch):
    monkeypatch.setattr(enc_module.shutil, 'disk_usage', lambda o: type('U', (), dict(free=1000)))
    folder = write(tmp_path/'d', df)
    with pytest.raises(OSError, match='GB free, and encoding 4,000 rows takes'):
        encode_parquet(folder, tmp_path/'e', PLAN)
    assert not (tmp_path/'e').exists()

def test_a_damaged_encoding(df, tmp_path):
    encoding = encode_parquet(write(tmp_path/'d', df), tmp_path/'e', PLAN)
    (encoding.data/'train-ids').write_bytes(b'1')
    with pytest.raises(ValueError, match='train-ids is damaged'): CollabDataLoaders.from_parquet(tmp_path/'e')

def test_arguments_that_do_nothing(df, tmp_path):
    folder = write(tmp_path/'d', df)
    encode_parquet(folder, tmp_path/'e', PLAN)
    with pytest.raises(ValueError, match='encoded already'): CollabDataLoaders.from_parquet(tmp_path/'e', valid_pct=.1)
    with pytest.raises(ValueError, match='user_weight needs all rows'):
        CollabDataLoaders.from_parquet(folder, user_weight='sqrt')
    with pytest.raises(TypeError, match='nonsense'): CollabDataLoaders.from_parquet(folder, nonsense=1)
    (tmp_path/'none').mkdir()
    with pytest.raises(FileNotFoundError, match='no .parquet'): parquet_files(tmp_path/'none')
    with pytest.raises(FileExistsError, match='other files'): encode_parquet(folder, folder, PLAN)

@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(-10**6, 10**6), max_size=30), min_size=1, max_size=6), st.booleans())
def test_ids_are_counted_and_numbered(parts, text):
    counter,kind = IdCounter(),pa.string() if text else pa.int64()
    for o in parts: counter.add(pa.array([str(v) for v in o] if text else o, kind))
    ids,counts = counter.result()
    flat = [str(v) if text else v for o in parts for v in o]
    want = pd.Series(flat, dtype=object).value_counts().sort_index()
    got = ids.to_pylist() if text else ids.tolist()
    assert got==list(want.index) and counts.tolist()==list(want)
    assert IdNumbers(ids)(pa.array(flat, kind)).tolist()==[got.index(o) for o in flat]
