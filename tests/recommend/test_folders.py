"Folders that were edited, or made to do harm: each loads as what it was, or works, or is one error that names the part"
import json, math, os, random, struct, warnings

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest, safetensors.torch, torch
from attacks.folders import leaves, put as changed
from fastcollab.recommend import artifact
from fastcollab.recommend.artifact import ArtifactError, StoredTable
from fastcollab.recommend.base import ClickTerms, Factors, FeatureTerms, FoldTerms, Link
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer, EnsembleScorer, HistoryScorer, NetScorer, met_items
from fastcollab.recommend.weights import WeightRule

N,M,K = 12,9,3
g = torch.Generator().manual_seed(0)
def rand(*shape): return torch.randn(*shape, generator=g)
U,V = rand(N+1, K),rand(M+1, K)
PAIRS = torch.unique(torch.randint(0, N*M, (60,), generator=g))
HISTORY = UserHistory.from_ratings(PAIRS//M+1, PAIRS%M+1, 1.+PAIRS%5, N+1)

def feature(side, n):
    codec = dict(sep='|', classes=['#na#','a','b'], edges=None, width=2)
    rows = torch.randint(0, 3, (n+1,2), generator=g)
    return FeatureTerms('genres', side, 'add', 'sqrtn', rows, Factors(rand(3, K), rand(3)), codec)

def dot(link=Link((.5,5.5), 3.)): return DotScorer(Factors(U, rand(N+1)), Factors(V, rand(M+1)), link)
def met():
    W = rand(M+1, M+1).numpy()
    rows = met_items(HISTORY.ends.numpy(), HISTORY.items.numpy(), M+1)
    return HistoryScorer(rows, W, WeightRule('ease', dict(reg=9.)))
NET = ['ReLU', (rand(2, K),rand(2)), 'Tanh', (rand(1, 2),rand(1))]
KINDS = dict(
    dot=lambda: (dot(), (FoldTerms(Factors(rand(M+1, K), rand(M+1)), (feature(0, N),)),
        FoldTerms(None, (feature(1, M),)))),
    levels=lambda: (dot(Link(levels=(1.,2.,3.), cuts=(-1.,1.))), (FoldTerms(),FoldTerms())),
    clicks=lambda: (dot(Link()), (FoldTerms(clicks=ClickTerms(1., .1)),FoldTerms(clicks=ClickTerms(1., .1)))),
    net=lambda: (NetScorer(U, V, NET, Link((.5,5.5)), (U,V)), (None,None)),
    history=lambda: (met(), (None,None)),
    ensemble=lambda: (EnsembleScorer([met(),dot(Link())], [1,.5], M+1),
        (FoldTerms(parts=(FoldTerms(),FoldTerms())),
            FoldTerms(parts=(FoldTerms(),FoldTerms(features=(feature(1, M),)))))))

def made(kind):
    scorer,terms = KINDS[kind]()
    items = pd.DataFrame(dict(item=range(M), title=[f'title {o}' for o in range(M)], genres=['a|b','b','']*3))
    ids = pd.Index([f'u{o}' for o in range(N)]),pd.RangeIndex(M)
    rec = Recommender(scorer, ids, ('user','item','rating'), items, HISTORY, terms, (1.,5.), dict(genres='|'))
    rec.decays = [None,None] if terms[0] is None else [[.5,.5],[.5,.5]]
    return rec

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A saved recommender of each kind: what stands in its files"
    res,root = {},tmp_path_factory.mktemp('folders')
    for kind in KINDS:
        made(kind).save(root/kind)
        data = next((root/kind).glob('data-*'))
        files = {o.name:o.read_bytes() for o in data.iterdir()}
        res[kind] = json.loads((root/kind/'recommender.json').read_text()),files,data.name
    return res

def put(path, body, files, sign=True):
    "Write a folder; its checksums fit"
    plain = isinstance(body.get('data'), str) and '/' not in body['data']
    data = path/(body['data'] if plain else 'data-000000000000')
    data.mkdir(parents=True)
    body = {k:v for k,v in body.items() if k!='sum'}
    for k,v in files.items(): (data/k).write_bytes(v)
    if sign and isinstance(body.get('files'), dict):
        body['files'] = {k:artifact._checksum(files[k]) if k in files else v for k,v in body['files'].items()}
    (path/'recommender.json').write_text(json.dumps({**body, 'sum':artifact._json_checksum(body)}))
    return path

def doors(rec):
    "What a recommender says at every door"
    user,name = rec.ids[0][0],rec.names
    res = [rec.recommend(k=2), rec.recommend(user, 2, filters='item<8') if 'item' in rec.items else 0,
        rec.predict(rec.ids[0][:3], rec.ids[1][:3])]
    if rec.scorer.vectors(1) is not None: res.append(rec.similar_items(rec.ids[1][0], 2))
    if None in rec.terms or rec.scorer.factors(0) is None: return res
    new = pd.DataFrame({name[0]:['new']*3, name[1]:rec.ids[1][:3], name[2]:[max(1, rec.rated[0])]*3})
    res += [rec.explain(user, rec.ids[1][0]), rec.fold_in(new, pd.DataFrame({name[0]:['new'], 'genres':['a']}))]
    more = pd.DataFrame({name[0]:rec.ids[0][:3], name[1]:[99]*3, name[2]:[max(1, rec.rated[0])]*3})
    return [*res, rec.fold_in_items(more, pd.DataFrame({name[1]:[99], 'title':['new'], 'genres':['b']})).recommend(k=1)]

def verdict(path):
    "'error' for the one error, 'works' for a folder that works; anything else comes out"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: rec = Recommender.load(path)
        except ArtifactError as e:
            assert str(path) in str(e) and len(str(e))<1200
            return 'error'
        try: doors(rec)
        except ValueError as e:
            if not any(o in str(e) for o in ("aren't numbers",'ratings are outside','too small','not defined')): raise
    return 'works'

@pytest.mark.parametrize('kind', KINDS)
def test_untouched(kind, folders, tmp_path):
    body,files,_ = folders[kind]
    assert verdict(put(tmp_path/'m', body, files))=='works'

# JSON

BAD = [None, True, -1, 0, 1.5, 3, 10**30, math.nan, math.inf, '', 'x', '../../x', [], [1], [1,2], ['a','b','c'], [5,1],
    [math.nan,1], {}, dict(a=1), [[]], [None,None], [[1,math.nan]]*2, [-1,-1]]

@pytest.mark.parametrize('kind', KINDS)
def test_every_place_of_the_manifest(kind, folders, tmp_path):
    "Each place gets values of other types, beyond the range, or goes away: 100 or more a kind, and most are errors"
    body,files,_ = folders[kind]
    body = {k:v for k,v in body.items() if k!='sum'}
    rng,seen = random.Random(kind),[]
    cases = [(o,v) for o in leaves(body) if o for v in (...,*BAD)]
    for k,(at,value) in enumerate(rng.sample(cases, 120)):
        path = put(tmp_path/f'{k}', changed(body, at, value), files, sign=at[0]!='files')
        try: seen.append(verdict(path))
        except Exception as e: raise AssertionError(f'{at} = {value!r}: {type(e).__name__} {e}') from e
    assert seen.count('error')>=60

NAMES = ['/etc/passwd','../../../etc/passwd','..','.','','a/b.parquet','a\\b.parquet','tensors.safetensors/..',
    'con:.parquet','x'*300+'.parquet','a\0.parquet','items.parquet\n','ítems.parquet']

@pytest.mark.parametrize('name', NAMES)
def test_names_of_files(name, folders, tmp_path, monkeypatch):
    "A name that is not plain is an error before any file is opened"
    body,files,_ = folders['dot']
    opened,keep = [],artifact._mapped
    monkeypatch.setattr(artifact, '_mapped', lambda path, file: opened.append(file) or keep(path, file))
    path = put(tmp_path/'m', {**body, 'files':{**body['files'], name:'0'*64}}, files)
    assert verdict(path)=='error' and [o.name for o in opened]==['recommender.json']

TEXTS = ['[', '{"a":'*5000, '[1]', 'null', '{"format":"fastcollab recommender","version":3}',
    '{"format":"fastcollab recommender","version":3,"version":3}', '1'*5000, '\ud800'.encode('utf8', 'surrogatepass')]

@pytest.mark.parametrize('text', TEXTS, ids=range(len(TEXTS)))
def test_manifests_that_are_none(text, folders, tmp_path):
    path = put(tmp_path/'m', *folders['dot'][:2])
    (path/'recommender.json').write_bytes(text if isinstance(text, bytes) else text.encode())
    assert verdict(path)=='error'

# Files that are no files

needs_links = pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no pipes here')

@needs_links
@pytest.mark.parametrize('what', ['pipe','device','outside','folder','loop','unreadable data'])
@pytest.mark.parametrize('name', ['recommender.json','tensors.safetensors','history.parquet'])
def test_pipes_devices_and_links(name, what, folders, tmp_path):
    "Nothing waits, nothing is read without end, and nothing outside of the folder is read"
    body,files,data = folders['dot']
    path = put(tmp_path/'m', body, files)
    file = path/name if name=='recommender.json' else path/data/name
    (tmp_path/'other').write_bytes(file.read_bytes())
    file.unlink()
    if what=='pipe': os.mkfifo(file)
    elif what=='device': file.symlink_to('/dev/zero')
    elif what=='outside': file.symlink_to(tmp_path/'other')
    elif what=='folder': file.mkdir()
    elif what=='loop': file.symlink_to(file)
    else: file.write_bytes(b'')
    assert verdict(path)=='error'

@needs_links
def test_links_within_the_folder(folders, tmp_path):
    "A folder by a link, and files that are links to others of the folder, are fine; data somewhere else is not"
    body,files,data = folders['dot']
    path = put(tmp_path/'m', body, files)
    (path/data/'items.parquet').rename(path/'blob')
    (path/data/'items.parquet').symlink_to('../blob')
    (tmp_path/'now').symlink_to(path)
    assert verdict(tmp_path/'now')=='works'
    (path/data).rename(tmp_path/'elsewhere')
    (path/data).symlink_to(tmp_path/'elsewhere')
    assert verdict(path)=='error'

# Tensors

def nan_in(t):
    t = t.clone()
    if t.numel(): t.view(-1)[0] = math.nan
    return t
TENSORS = dict(gone=lambda t: None, longer=lambda t: torch.cat([t, t[:1]]) if t.ndim else t[None],
    shorter=lambda t: t[1:] if t.ndim else None, deeper=lambda t: t[None],
    turned=lambda t: t.T.contiguous() if t.ndim==2
    and len(t)!=len(t.T) else None, double=lambda t: t.double() if t.dtype!=torch.float64 else t.float(),
    whole=lambda t: t.long() if t.is_floating_point() else t.float(), truth=lambda t: t.bool(),
    nan=lambda t: nan_in(t.float() if not t.is_floating_point() else t),
    huge=lambda t: t+(10**9 if not t.is_floating_point() else 1e30), negative=lambda t: -t.abs()-1 if t.dtype in
    (torch.int64,torch.int32) else None, half=lambda t: t.half(), empty=lambda t: t[:0] if t.ndim else None)

@pytest.mark.parametrize('kind', KINDS)
def test_every_tensor(kind, folders, tmp_path):
    "Each tensor is missing, of another shape or type, or has numbers that can't be: the one error, or it isn't needed"
    body,files,_ = folders[kind]
    whole = safetensors.torch.load(files['tensors.safetensors'])
    seen = []
    for k,(name,what) in enumerate((n,w) for n in whole for w in TENSORS):
        t = TENSORS[what](whole[name])
        if t is None and what!='gone': continue
        tensors = {n:(t if n==name else o) for n,o in whole.items() if n!=name or t is not None}
        data = safetensors.torch.save({n:o.contiguous() for n,o in tensors.items()})
        path = put(tmp_path/f'{k}', body, {**files, 'tensors.safetensors':data})
        try: seen.append(verdict(path))
        except Exception as e: raise AssertionError(f'{name} {what}: {type(e).__name__} {e}') from e
        if seen[-1]=='works': assert what in ('gone','double') or 'ends' in name or 'items' in name,(name,what)
    assert seen.count('error')>=.8*len(seen)
    data = safetensors.torch.save({**whole, 'more':torch.zeros(3)})
    assert verdict(put(tmp_path/'more', body, {**files, 'tensors.safetensors':data}))=='error'

def header(data): return json.loads(data[8:8+struct.unpack('<Q', data[:8])[0]])
def with_header(data, head):
    rest,text = data[8+struct.unpack('<Q', data[:8])[0]:],json.dumps(head).encode()
    return struct.pack('<Q', len(text))+text+rest

@pytest.mark.parametrize('change', [dict(dtype='F128'), dict(dtype=None), dict(shape=[-1,3]), dict(shape=[2**70]),
    dict(shape=3), dict(shape=[1]*30), dict(data_offsets=[0,1]), dict(data_offsets=[0]), dict(data_offsets=[5,1]),
    dict(data_offsets='x'),
    dict(data_offsets=[0,2**62]), dict(shape=[True,3])], ids=str)
def test_headers_of_tensors(change, folders, tmp_path):
    body,files,_ = folders['dot']
    data = files['tensors.safetensors']
    head = header(data)
    for name in list(head)[1:3]: head[name].update(change)
    bad = [with_header(data, head),data[:4],struct.pack('<Q', 2**63)+data[8:],struct.pack('<Q', 0)+data[8:],
        data+b'1234',
        with_header(data, [])]
    for k,o in enumerate(bad): assert verdict(put(tmp_path/f'{k}', body, {**files, 'tensors.safetensors':o}))=='error'

# Tables

def parquet(df):
    sink = pa.BufferOutputStream()
    table = df if isinstance(df, pa.Table) else pa.Table.from_pandas(df, preserve_index=False)
    pq.write_table(table, sink, store_schema=not isinstance(df, pa.Table))   # without, dictionaries are read as text
    return sink.getvalue().to_pybytes()

def frame(files, name): return pd.read_parquet(pa.BufferReader(files[f'{name}.parquet']))
TABLES = dict(
    twice=('user_ids', lambda o: o.assign(id=['u0']*N)), none=('item_ids', lambda o: o.assign(id=[None,*range(1, M)])),
    lists=('user_ids', lambda o: o.assign(id=[[1]]*N)), two=('user_ids', lambda o: o.assign(other=1)),
    name=('item_ids', lambda o: o.rename(columns=dict(id='item'))), fewer=('user_ids', lambda o: o[1:]),
    more=('item_ids', lambda o: pd.concat([o, pd.DataFrame(dict(id=[77]))])), rows=('items', lambda o: o[1:]),
    title=('items', lambda o: o.drop(columns='title')), listed=('items', lambda o: o.assign(title=[['x']]*M)),
    user=('history', lambda o: o.assign(user=N+1)), item=('history', lambda o: o.assign(item=-1)),
    part=('history', lambda o: o.assign(user=o.user+.5)), nan=('history', lambda o: o.assign(rating=math.nan)),
    inf=('history', lambda o: o.assign(rating=math.inf)), text=('history', lambda o: o.assign(item='x')),
    gap=('history', lambda o: o.assign(item=o['item'].astype('Int32').mask(o['item']==1))),
    big=('history', lambda o: o.assign(item=np.uint64(2**63))), column=('history', lambda o: o.drop(columns='user')),
    time=('history', lambda o: o.assign(rating=pd.Timestamp('2020'))))

@pytest.mark.parametrize('name,change', TABLES.values(), ids=TABLES)
def test_tables(name, change, folders, tmp_path):
    body,files,_ = folders['dot']
    data = parquet(change(frame(files, name)))
    assert verdict(put(tmp_path/'m', body, {**files, f'{name}.parquet':data}))=='error'

def test_tables_that_are_larger_than_they_look(folders, tmp_path):
    "Millions of equal rows in some kilobytes, and a long text that many rows share: an error before they are read"
    body,files,_ = folders['dot']
    n,ones = 6_000_000,np.ones(6_000_000, np.int8)
    data = parquet(pa.table({o:pa.array(ones) for o in ('user','item','rating')}))
    assert 64*len(data)<n
    with pytest.raises(ArtifactError, match='6,000,000 rows'): StoredTable('history.parquet', data)
    assert verdict(put(tmp_path/'m', body, {**files, 'history.parquet':data}))=='error'
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60_000, np.int8)), pa.array(['x'*100_000]))
    table = pa.table(dict(title=rows.cast(pa.dictionary(pa.int32(), pa.string()))))
    table = StoredTable('items.parquet', parquet(table))
    before = pa.total_allocated_bytes()
    with pytest.raises(ArtifactError, match='its text may take 6,000,000,000 bytes'): table.frame()
    assert pa.total_allocated_bytes()-before<2**24

def test_tables_are_the_ones_that_belong_here(folders, tmp_path):
    body,files,_ = folders['dot']
    for k,change in enumerate((dict(more=files['items.parquet']),dict(history=None))):
        new = {**files, **{f'{n}.parquet':v for n,v in change.items()}}
        new = {n:v for n,v in new.items() if v is not None}
        assert verdict(put(tmp_path/f'{k}', {**body, 'files':dict.fromkeys(new, '')}, new))=='error'

# Bytes

@pytest.mark.parametrize('name', ['tensors','history','items','item_ids','user_ids'])
def test_any_bytes(name, folders, tmp_path):
    "Bytes that are changed anywhere, with checksums that fit"
    body,files,_ = folders['dot']
    file = next(o for o in files if o.startswith(name))
    rng = random.Random(name)
    for k in range(40):
        data = bytearray(files[file])
        for _ in range(rng.choice([1,1,4])): data[rng.randrange(len(data))] = rng.randrange(256)
        if k%8==7: data = data[:rng.randrange(len(data))]
        try: verdict(put(tmp_path/f'{k}', body, {**files, file:bytes(data)}))
        except Exception as e: raise AssertionError(f'{k}: {type(e).__name__} {e}') from e

def test_checksums_find_what_was_changed(folders, tmp_path):
    body,files,data = folders['dot']
    path = put(tmp_path/'m', body, files)
    for o in (path/data).iterdir():
        whole = o.read_bytes()
        o.write_bytes(whole[:-1])
        with pytest.raises(ArtifactError, match=f'{o.name} is damaged.*checksum'): Recommender.load(path)
        o.write_bytes(whole)
    assert verdict(path)=='works'
