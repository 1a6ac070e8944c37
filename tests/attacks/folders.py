"Folders of a recommender that somebody has changed"
import copy, functools, json, os, tempfile
from pathlib import Path

import numpy as np, pandas as pd, torch
from fastcollab.recommend import artifact
from fastcollab.recommend.artifact import read_artifact, write_artifact
from fastcollab.recommend.recommender import Recommender
from .values import recommender
from .verdict import Case, want

@functools.cache
def parts(kind):
    "What the folder of a recommender holds"
    with tempfile.TemporaryDirectory() as folder:
        recommender(kind).save(folder)
        return read_artifact(folder)

def leaves(o, path=()):
    "Paths of all values of what JSON holds"
    yield path
    items = o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()
    for k,v in items: yield from leaves(v, (*path,k))
def put(o, path, value):
    "`o` with another value at a path; without it, if the value is `...`"
    if not path: return value
    o = copy.deepcopy(o)
    at = functools.reduce(lambda a, k: a[k], path[:-1], o)
    if value is ...: del at[path[-1]]
    else: at[path[-1]] = value
    return o

VALUES = {'nothing':..., 'null':None, 'true':True, '-1':-1, '0':0, '1e300':1e300, '2**70':2**70, 'NaN':float('nan'),
    'Infinity':float('inf'), 'text':'x', 'no text':'', 'a path':'../../x',
    'no list':[], 'a list':[1], 'two numbers':[5,1], 'NaN twice':[float('nan')]*2, 'no dict':{}, 'a dict':{'a':1},
    'nested':[[[]]]}
TENSORS = {'NaN':lambda t: torch.full_like(t, np.nan) if t.is_floating_point() else t-10**6,
    'inf':lambda t: t*torch.inf if t.is_floating_point() else t*0-1,
    'one row less':lambda t: t[1:] if t.ndim else t[None], 'flat':lambda t: t.reshape(-1),
    'another dimension':lambda t: t[None], 'float64':lambda t: t.double(), 'int64':lambda t: t.nan_to_num().long(),
    'float16':lambda t: t.half(),
    'bool':lambda t: t!=0, 'empty':lambda t: t.new_zeros(0),
    'no columns':lambda t: t[...,:0] if t.ndim else t.new_zeros(0),
    'one column more':lambda t: torch.cat([t, t[...,:1]], -1) if t.ndim else t[None], 'gone':lambda t: None}
def _frame(f): return lambda df: f(df.copy())
def _first(df, value): return df.assign(**{df.columns[0]:[value, *df.iloc[1:,0]]}) if len(df) else df
TABLES = {'no rows':_frame(lambda df: df[:0]), 'one row less':_frame(lambda df: df[1:]),
    'all rows twice':_frame(lambda df: pd.concat([df, df], ignore_index=True)),
    'the first row twice':_frame(lambda df: pd.concat([df[:1], df[:1], df[2:]], ignore_index=True)),
    'no columns':_frame(lambda df: df[[]]),
    'other names':_frame(lambda df: df.set_axis([f'x{k}' for k in range(df.shape[1])], axis=1)),
    'text':_frame(lambda df: df.astype(str)), 'one column more':_frame(lambda df: df.assign(more=1)),
    'None in it':_frame(lambda df: _first(df.astype(object), None)), '-1 in it':_frame(lambda df: _first(df, -1)),
    'a huge number':_frame(lambda df: _first(df.select_dtypes('number'), 2**40)),
    'NaN':_frame(lambda df: df.assign(**{o:np.nan for o in df.columns[:3]})),
    'lists':_frame(lambda df: df.assign(**{df.columns[0]:[[1]]*len(df)})),
    'bool':_frame(lambda df: df.assign(**{df.columns[0]:True})), 'gone':lambda df: None}

def asked(path, kind):
    "Load, and ask everything; it has to answer as before, or to be refused"
    rec,whole = Recommender.load(path),recommender(kind)
    for o in whole.ids[0][:2]:
        lists = rec.recommend([o], 3)
        want(np.isfinite(lists.iloc[:,-1]).all() and lists.title.notna().all(), f'the list is\n{lists}')
    preds = rec.predict(list(whole.ids[0][:5]), list(whole.ids[1][:5]))
    want(np.isfinite(preds).all(), f'predictions are {preds}')
    rec.similar_items(whole.ids[1][0], 3), rec.explain(whole.ids[0][0], whole.ids[1][0], 3)
    rows = pd.DataFrame({whole.names[0]:[99], whole.names[1]:[whole.ids[1][0]], whole.names[2]:[3.]})
    want(np.isfinite(rec.fold_in(rows).predict(99, whole.ids[1][1])), 'the new user has no number')
    rec.recommend([whole.ids[0][0]], 2, filters="title != 'x'"), repr(rec), rec.save('again')

def rewritten(kind, info=None, tensors=None, tables=None):
    "A folder with right checksums around wrong parts"
    info,*rest = (o if n is None else n for o,n in zip(parts(kind), (info,tensors,tables)))
    new = [info, *({k:v for k,v in o.items() if v is not None} for o in rest)]
    try: write_artifact('m', *new)
    except (TypeError,ValueError,OverflowError,AttributeError): return   # nobody could write it so
    asked('m', kind)

def manifest(kind, change):
    "A folder whose manifest was edited, with its checksum put right"
    recommender(kind).save('m')
    file = Path('m/recommender.json')
    body = json.loads(file.read_text())
    body.pop('sum')
    body = change(body)
    file.write_text(json.dumps({**body, 'sum':artifact._json_checksum(body)} if isinstance(body, dict) else body))
    asked('m', kind)

def renamed(body, name):
    files = dict(body['files'])
    files[name] = files.pop('history.parquet')
    return {**body, 'files':files}
def _file(name):
    def door(change, kind='ratings'):
        recommender(kind).save('m')
        change(next(Path('m').rglob(name)))
        asked('m', kind)
    return door
def _links(to): return lambda o: (o.unlink(), o.symlink_to(to))
FILES = {'cut':lambda o: o.write_bytes(o.read_bytes()[:-9]), 'empty':lambda o: o.write_bytes(b''),
    'flipped':lambda o: o.write_bytes(o.read_bytes()[:50]+bytes([o.read_bytes()[50]^255])+o.read_bytes()[51:]),
    'gone':lambda o: o.unlink(),
    'longer':lambda o: o.write_bytes(o.read_bytes()+b'x'), 'text':lambda o: o.write_text('hello'),
    'a folder':lambda o: (o.unlink(), o.mkdir()), 'a fifo':lambda o: (o.unlink(), os.mkfifo(o)),
    'zeros without end':_links('/dev/zero'),
    'a link in a circle':lambda o: _links(o.name)(o), 'a link to nothing':_links('nothing'),
    'not to be read':lambda o: o.chmod(0)}
def _folder(change):
    recommender().save('m')
    change(Path('m'))
    asked('m', 'ratings')
FOLDERS = {'no such folder':lambda o: o.rename('x'), 'a file':lambda o: (o.rename('x'), o.write_text('x')),
    'empty':lambda o: (o.rename('x'), o.mkdir()), 'without data':lambda o: next(o.glob('data-*')).rename('x'),
    'data renamed':lambda o: next(o.glob('data-*')).rename(o/'data-000000000000'),
    'copied':lambda o: o.rename('n/m') if Path('n').mkdir() else None,
    'with other files':lambda o: (o/'x.txt').write_text('x')}

def cases():
    for kind in ('ratings','features','clicks'):
        info,tensors,tables = parts(kind)
        for path in leaves(info):
            for label,value in VALUES.items():
                if path or value is not ...: yield Case('folders', f'{kind} info{list(path)} = {label}',
                    lambda k=kind, p=path, v=value: rewritten(k, info=put(parts(k)[0], p, v)))
        for name in tensors:
            for label,f in TENSORS.items():
                yield Case('folders', f'{kind} tensor {name}: {label}', lambda k=kind, n=name,
                    f=f: rewritten(k, tensors={**parts(k)[1], n:f(parts(k)[1][n])}))
        for name in tables:
            for label,f in TABLES.items():
                yield Case('folders', f'{kind} table {name}: {label}', lambda k=kind, n=name,
                    f=f: rewritten(k, tables={**parts(k)[2], n:f(parts(k)[2][n])}))
    for key in ('format','version','data','files','info'):
        for label,value in VALUES.items(): yield Case('folders', f'manifest {key} = {label}', lambda k=key,
            v=value: manifest('ratings', lambda o: put(o, (k,), v)))
    for name in ('/etc/hostname','../x','a/b','','.','..','x\0y','history','CON','x'*300, 'a\nb', '/dev/zero'):
        yield Case('folders', f'file {name[:9]!r}', lambda n=name: manifest('ratings', lambda o: renamed(o, n)), True)
    for text in ('[]','null','3','"x"','{','{"a":NaN}','['*100000,''):
        yield Case('folders', f'manifest {text[:9]!r}',
            lambda t=text: _file('recommender.json')(lambda o: o.write_text(t)), True)
    for name in ('recommender.json','tensors.safetensors','history.parquet','user_ids.parquet','items.parquet'):
        for label,change in FILES.items(): yield Case('folders', f'{name} {label}', lambda n=name,
            c=change: _file(n)(c))
    for label,change in FOLDERS.items(): yield Case('folders', label, lambda c=change: _folder(c))
