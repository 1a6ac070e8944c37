"""Tables that don't fit into memory: encoding them, training from files, and how well blocks are shuffled

    python benchmarks/parquet.py                     # 100 million rows: half an hour, 15 GB of disk
    ROWS=5e6 python benchmarks/parquet.py encoding   # fewer, and one part

The data are synthetic: 1 million users and 100,000 items, or more in the part `tenth`. A few items have most of the
ratings."""
import json, shutil, subprocess, tempfile

from common import *
from fastcollab.data.blocks import BlockOrder
from fastcollab.data.columns import ParquetTable
from fastcollab.data.encoding import encode_parquet
from fastcollab.data.loaders import RatingsDataset, RatingsDL, parquet_plan
from fastcollab.data.store import Order
import pyarrow as pa, pyarrow.parquet as pq, pyarrow.dataset

ROWS,PART = int(float(os.environ.get('ROWS', 1e8))),5_000_000
FOLDER = Path(os.environ.get('FOLDER') or tempfile.gettempdir())/'fastcollab-parquet'

def make_rows(folder, n, n_users, n_items):
    "Files of 5 million rows"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k,start in enumerate(range(0, n, PART)):
        m = min(PART, n-start)
        users = (rng.random(m)**2*n_users).astype(np.int64)*7+3
        items = (rng.random(m)**3*n_items).astype(np.int64)+1
        table = pa.table(dict(user=users, item=items, rating=rng.integers(1, 11, m)/2))
        file = folder/f'{k:03d}.parquet'
        if not file.exists(): pq.write_table(table, file, row_group_size=2**20)
    return folder

def data(n=ROWS, n_users=10**6, n_items=10**5): return make_rows(FOLDER/f'{n}', n, n_users, n_items)
def encoded(n=ROWS): return FOLDER/f'_{n}'

# ---- What runs in a process of its own, so that its memory can be told
def encode(n, *sizes):
    path = data(n, *sizes)
    encode_parquet(path, encoded(n), parquet_plan(ParquetTable(path), valid_pct=.05))
    return {}

class Seconds(CollabCallback):
    "Wall and processor time of the training part of each epoch"
    def __init__(self): self.wall,self.cpu = [],[]
    def before_train(self): self.start = time.perf_counter(),time.process_time()
    def after_train(self):
        ends = time.perf_counter(),time.process_time()
        for o,now,then in zip((self.wall,self.cpu), ends, self.start): o.append(now-then)

def fit(dls, k, epochs):
    learn,secs = collab_learner(dls, k, arch=DotProductBias, y_range=(0,5.5)),Seconds()
    assert not learn.fused_reason, learn.fused_reason
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3, wd=.1, cbs=secs)
    return dict(wall=secs.wall, cpu=secs.cpu, rows=len(dls.train_ds), loss=float(learn.recorder.values[-1][0]))

def from_files(n, k, epochs): return fit(CollabDataLoaders.from_parquet(encoded(n), bs=2**16, seed=0), k, epochs)
def from_memory(n, k, epochs):
    "The same rows, read into memory"
    dls = CollabDataLoaders.from_parquet(encoded(n), bs=2**16, seed=0)
    parts = [RatingsDataset(o.enc, o.store.take(torch.arange(len(o)))) for o in (dls.train_ds,dls.valid_ds)]
    train,valid = (RatingsDL(o, bs=2**16, shuffle=o is parts[0], seed=0) for o in parts)
    return fit(CollabDataLoaders(train, valid), k, epochs)

def apart(f, *args, **env):
    "What `f` returns in a process of its own; its seconds, seconds of processors and peak of resident memory, GB"
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import parquet, json; '
    code += f'print(json.dumps([parquet.{f.__name__}(*{args!r}), parquet.resident("VmHWM")/1e9]))'
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
    out = child.stdout.read()
    _,status,used = os.wait4(child.pid, 0)
    assert status==0, out
    res,peak = json.loads(out.splitlines()[-1])
    return res,time.perf_counter()-start,used.ru_utime+used.ru_stime,peak

# ---- The parts
def encoding():
    data()
    shutil.rmtree(encoded(), ignore_errors=True)
    _,secs,cpu,peak = apart(encode, ROWS)
    say(f'\nEncoding {ROWS:,} rows of {len(list(data().iterdir()))} files')
    row('seconds by the clock, and of the processor', f'{secs:.0f}, {cpu:.0f}')
    row('peak of resident memory, libraries included', f'{peak:.2f} GB', 'asked: less than 1 GB')
    check_sample()

def check_sample(n_users=200):
    "All rows of some users, decoded, against those in the files"
    dls,source = CollabDataLoaders.from_parquet(encoded()),pyarrow.dataset.dataset(data())
    users = dls.train_ds.enc.index['user'][::max(1, (dls.n_users-1)//n_users)]
    parts = []
    for ds in (dls.train_ds,dls.valid_ds):
        rows = dls.train_ds.enc.encode_ids('user', users)
        ids = ds.store.ids().numpy()
        at = np.flatnonzero(np.isin(ids[:,0], rows))
        parts.append(ds.decode(*(torch.from_numpy(np.asarray(o[at])) for o in (ids,ds.store.ratings().numpy()))))
    got = pd.concat(parts).astype({'item':int, 'user':int})
    want = source.to_table(filter=pyarrow.dataset.field('user').isin(list(users))).to_pandas()
    ordered = [o.sort_values(['user','item','rating']).reset_index(drop=True).astype(float) for o in (got,want)]
    same = f'{len(want):,}, {ordered[0].equals(ordered[1])}'
    row(f'rows of {len(users)} users, decoded: equal to those in the files', same, 'asked: True')

def epoch():
    if not encoded().exists(): apart(encode, ROWS)
    res,secs,cpu,peak = apart(from_files, ROWS, 32, 1)
    say(f'\nBiased matrix factorization, k=32, bs=65,536, one epoch of {res["rows"]:,} rows from files')
    row('rows a second in training', f'{res["rows"]/res["wall"][0]:,.0f}')
    row('rows a second of processor time', f'{res["rows"]/res["cpu"][0]:,.0f}')
    row('seconds in all, with loading and validation', f'{secs:.0f}')
    row('peak of resident memory, mapped files included', f'{peak:.2f} GB', 'asked: less than 4 GB')

def tenth(n=73_000_000, sizes=(2_200_000,150_000)):
    "A tenth of 730 million ratings of 22 million users for 1.5 million items, k=20"
    folder = data(n, *sizes)
    _,secs,cpu,peak = apart(encode, n, *sizes)
    say(f'\nA tenth of 730 M x 22 M x 1.5 M: {n:,} ratings of {sizes[0]:,} users for {sizes[1]:,} items')
    row('encoding: seconds by the clock, and of the processor', f'{secs:.0f}, {cpu:.0f}')
    row('peak of resident memory, libraries included', f'{peak:.2f} GB', 'asked: less than 1 GB')
    res,secs,cpu,peak = apart(from_files, n, 20, 1)
    row('one epoch, k=20, bs=65,536: rows a second of processor time', f'{res["rows"]/res["cpu"][0]:,.0f}')
    row('seconds by the clock, and of the processor', f'{res["wall"][0]:.0f}, {res["cpu"][0]:.0f}')
    row('peak of resident memory, mapped files included', f'{peak:.2f} GB', 'asked: less than 4 GB')
    one = apart(from_files, n, 20, 1, OMP_NUM_THREADS='1')[0]
    row('with one thread: rows a second', f'{one["rows"]/one["wall"][0]:,.0f}')
    for o in (folder,encoded(n)): shutil.rmtree(o)

def against_memory(n=min(ROWS, 20_000_000)):
    "From files and from memory in turn: other programs disturb both alike"
    if not encoded(n).exists(): apart(encode, n)
    rates = {o:[] for o in ('wall','cpu')}
    for _ in range(2):
        files,memory = (apart(f, n, 64, 1)[0] for f in (from_files,from_memory))
        for o in rates: rates[o].append(sum(memory[o])/sum(files[o]))
    say(f'\nThe same {files["rows"]:,} rows from files and from memory, k=64, bs=65,536, one epoch each, twice in turn')
    for o,what in (('cpu',' of processor time'),('wall','')):
        ratios = ', '.join(f'{v:.2f}' for v in rates[o])
        row(f'rows a second{what}, from files / from memory', ratios, 'asked: at least 0.8')
    row('training loss from files, from memory', f'{files["loss"]:.4f}, {memory["loss"]:.4f}')

def shuffle(epochs=5, seeds=range(8)):
    "Blocks of rows against a full shuffle, on rows in an order that looks random, as the files have them"
    ratings,folder = movielens('ml-latest-small'),Path(tempfile.mkdtemp())
    ratings[['userId','movieId','rating']].to_parquet(folder/'r.parquet')
    dls = CollabDataLoaders.from_parquet(folder/'r.parquet', mapped=True, valid_pct=.1, seed=0)
    say(f'\nRMSE on ml-latest-small, {len(dls.train_ds):,} rows to train on, {epochs} epochs, bs=64, k=50; '
        f'mean of {len(seeds)} seeds')
    full = None
    for block,window in ((None,None),(2**14,2**20),(256,4096),(64,1024)):
        def order(seed):
            res = Order(seed) if block is None else BlockOrder(seed)
            if block: res.block,res.window = block,window
            return res
        errors = []
        for seed in seeds:
            set_seed(seed)
            dls.train.order = order(seed)
            learn = collab_learner(dls, 50, arch=DotProductBias, y_range=(0,5.5))
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3, wd=.1)
            with learn.no_bar(): p,y = learn.get_preds()
            errors.append(rmse(p, y).item())
        mean,spread = np.mean(errors),np.std(errors)/len(errors)**.5
        full = mean if full is None else full
        what = 'all rows shuffled' if block is None else f'blocks of {block:,} rows, {window//block} at a time'
        row(what, f'{mean:.4f} +- {spread:.4f}', '' if block is None else f'{mean-full:+.4f}; asked: within 0.001')
    shutil.rmtree(folder)

if __name__=='__main__':
    parts = encoding,epoch,against_memory,tenth,shuffle
    try: report(__file__, parts, 'two threads where a loop has work for them')
    finally:
        if not os.environ.get('KEEP'): shutil.rmtree(FOLDER, ignore_errors=True)
