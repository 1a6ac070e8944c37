"""One fit in two processes against one: equal numbers, rows a second, memory, and fits that go on after kill -9

    python benchmarks/distributed.py                 # everything
    python benchmarks/distributed.py equal resume    # these parts
    python benchmarks/distributed.py capacity halves # the formulas of the capacity page, and a large set on paper
    python benchmarks/distributed.py rates shard shard_speed    # sharded tables; needs TorchRec
    ROWS=5000000 python benchmarks/distributed.py speed

Two processes on a machine with two cores; the process group is gloo."""
import ast, ctypes, gc, json, os, signal, subprocess, tempfile
from contextlib import contextmanager,nullcontext

from scipy.optimize import nnls
from common import *
from fastcollab.train.distributed import Share,local_store

RANK,ROWS = int(os.environ.get('RANK', 0)),int(os.environ.get('ROWS', 20_000_000))
SMALL = dict(bs=4096, val_bs=2**15, seed=0)

# What a process does; the name of the part and a folder come by the environment

def new_learner(**kwargs):
    "A biased factor model of ml-latest-small"
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), item_name='movieId', **SMALL, **kwargs)
    set_seed(0)
    return collab_learner(dls, n_factors=32, metrics=rmse)

def fit(learn, cbs=None, **kwargs):
    with learn.no_bar(), learn.no_logging(), learn.distributed(**kwargs): learn.fit_one_cycle(8, .02, wd=.1, cbs=cbs)
    return learn

def far(a, b): return (torch.as_tensor(a, dtype=torch.float64)-torch.as_tensor(b,
    dtype=torch.float64)).abs().max().item()

def equal_worker(out):
    learn = new_learner()
    with learn.distributed() as ranks: share = len(Share(learn.dls.train_ds, ranks))/len(learn.dls.train_ds)
    fit(learn)
    return dict(values=[list(o) for o in learn.recorder.values], preds=learn.get_preds()[0].tolist(), share=share)

class Die(CollabCallback):
    "Process 1 is killed in an epoch that the number of the run names, once"
    epoch_number = 0
    def start_epoch(self, seed, device):
        self.epoch_number += 1
        first = os.environ['TORCHELASTIC_RESTART_COUNT']=='0'
        if RANK and first and self.epoch_number==2+int(os.environ['RUN'])%6: os.kill(os.getpid(), signal.SIGKILL)

def resume_worker(out):
    return dict(values=[list(o) for o in fit(new_learner(path=out), Die(), checkpoint='fit',
        resume=True).recorder.values])

def large_table(n, n_users=1_000_000, n_items=100_000):
    "Random ratings; items by a power law"
    rng,p = np.random.default_rng(0),np.arange(1, n_items+1)**-.8
    return pd.DataFrame(dict(user=rng.integers(0, n_users, n, dtype=np.int32),
        item=rng.choice(n_items, n, p=p/p.sum()).astype(np.int32), rating=rng.normal(3.5, 1, n).astype(np.float32)))

class Clock(CollabCallback):
    "Seconds of the steps of an epoch, of all threads and on the wall"
    in_loop = True
    def before_train(self): self.start = time.process_time(),time.perf_counter()
    def after_train(self): self.took = time.process_time()-self.start[0],time.perf_counter()-self.start[1]

def from_file(**kwargs):
    "Loaders of the Parquet file that the part wrote"
    return CollabDataLoaders.from_parquet(os.environ['DATA'], mapped=True, seed=0, bs=65_536, **kwargs)

def speed_worker(out, **kwargs):
    dls = from_file(valid_pct=.001, device='cpu')
    set_seed(0)
    learn,clock = collab_learner(dls, n_factors=64, y_range=False, unk_p=0),Clock()
    with learn.no_bar(), learn.no_logging(), learn.distributed(**kwargs) if 'RANK' in os.environ else nullcontext():
        for _ in range(2): learn.fit(1, 1e-3, cbs=clock)   # the first one compiles
    return dict(zip(('cpu','wall'), clock.took))

def shard_worker(out):
    learn = new_learner()
    with learn.no_bar(), learn.no_logging(), learn.distributed(tables='shard'): learn.fit_one_cycle(8, wd=.1)
    return dict(values=[list(o) for o in learn.recorder.values], preds=learn.get_preds()[0].tolist())
def adam_worker(out):
    learn = new_learner()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(8, .01, wd=.1)   # as `rates` finds it
    return dict(values=[list(o) for o in learn.recorder.values])
def shard_speed_worker(out): return speed_worker(out, tables='shard')

# users, items, ratings, length of vectors, ratings of a batch, with few ratings for each user, then with many; the
# rates are fitted to all but the last two, which check them
SIZES = ((1_000_000,100_000,2_000_000,62,2**16), (1_000_000,100_000,2_000_000,30,2**14),
    (1_500_000,50_000,2_000_000,46,2**16), (600_000,200_000,2_000_000,62,2**15),
    (2_200_000,150_000,20_000_000,20,2**16), (1_000_000,50_000,10_000_000,30,2**16),
    (150_000,20_000,10_000_000,20,2**16), (800_000,100_000,2_000_000,54,2**15), (300_000,30_000,10_000_000,46,2**16))

def kept(kind):
    "`resident`, without what has been freed and may be used again"
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident(kind)

def even_table(n, n_users, n_items):
    "Random ratings; each user has some, and items are equally popular"
    rng = np.random.default_rng(0)
    users = np.concatenate([np.arange(n_users, dtype=np.int32), rng.integers(0, n_users, n-n_users, dtype=np.int32)])
    return pd.DataFrame(dict(user=users, item=rng.integers(0, n_items, n, dtype=np.int32),
        rating=rng.integers(1, 6, n).astype(np.float32)))

def even_learner(n, n_users, n_items, k, bs):
    dls = CollabDataLoaders.from_df(even_table(n, n_users, n_items), splits=(np.arange(1000, n),np.arange(1000)),
        seed=0, bs=bs, device='cpu')
    return collab_learner(dls, n_factors=k)

def quiet(learn, *clocks):
    "Fits of an epoch, one for each clock"
    with learn.no_bar(), learn.no_logging(), learn.distributed() if 'RANK' in os.environ else nullcontext():
        for o in clocks: learn.fit(1, 1e-3, cbs=o)

def needs(U, I, N, k, bs):
    "The most memory that fits of an epoch take, loaders included, and the median of their processor seconds"
    before,clocks = kept('VmRSS'),[Clock() for _ in range(3)]
    learn = even_learner(N, U, I, k, bs)
    Path('/proc/self/clear_refs').write_text('5')   # VmHWM begins anew
    quiet(learn, *clocks)
    return dict(bytes=resident('VmHWM')-before, cpu=np.median([o.took[0] for o in clocks]))

def capacity_worker(out):
    for users in (20_000,200_000): quiet(even_learner(500_000, users, 20_000, 30, 2**15), Clock())   # compiles
    return [needs(*o) for o in SIZES]

def rows_worker(out):
    "Memory that the training rows of this process take, which come from a Parquet file"
    learn = collab_learner(dls := from_file(), n_factors=4)
    with learn.distributed() as ranks:
        before = kept('RssAnon')
        share = Share(dls.train_ds, ranks)
        store = local_store(dls.train_ds, share)
        return dict(bytes=kept('RssAnon')-before, share=len(store)/len(dls.train_ds), rows=len(dls.train_ds))

RATES,ADAM_RATES = (.02,.03,.05,.07,.1,.15),(.0025,.005,.01,.02,.05)

def rates_worker(out):
    "RMSE on a hidden part of the training ratings, by learning rate: sharded tables, or LazyAdam in one process"
    if (name := os.environ['DATA'])!='filmtrust': df = movielens(name)
    else: df = pd.read_csv(Path(os.environ['FASTCOLLAB_DATA'])/'filmtrust.txt', sep=' ', names=['user','item','rating'])
    df,res = df.iloc[RandomSplitter(seed=0)(df)[0]],[]   # the rest is what `shard` looks at
    dls = CollabDataLoaders.from_df(df, item_name='movieId' if 'movieId' in df else None, **SMALL)
    for lr in RATES if 'RANK' in os.environ else ADAM_RATES:
        set_seed(0)
        learn = collab_learner(dls, n_factors=32, metrics=rmse)
        context = learn.distributed(tables='shard') if 'RANK' in os.environ else nullcontext()
        with learn.no_bar(), learn.no_logging(), context:
            learn.fit_one_cycle(8, lr, wd=.1)
        res.append(learn.recorder.values[-1][-1])
    return res

# The measurements

def run(part, n, *options, **env):
    "What `n` processes return"
    with tempfile.TemporaryDirectory() as out:
        env = {**os.environ, 'OMP_NUM_THREADS':'1', 'PART':part, 'OUT':out, **env}
        start = [sys.executable] if n==1 else [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node',
            str(n)]
        subprocess.run([*start, *options, __file__], env=env, check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if options else None)
        return [json.loads(o.read_text()) for o in sorted(Path(out).glob('*.json'))]

def equal():
    "ml-latest-small, 8 epochs, bs=4096"
    (one,),two = run('equal', 1),run('equal', 2)
    row('largest difference of losses and metrics, 8 epochs',
        f'{max(far(one["values"], o["values"]) for o in two):.1e}', '1e-5')
    row('largest difference of predictions', f'{max(far(one["preds"], o["preds"]) for o in two):.1e}',
        'in the same order')
    row('RMSE of one and of two processes', f'{one["values"][-1][-1]:.5f} {two[0]["values"][-1][-1]:.5f}',
        'within .003')
    row('share of the rows of each process', ' '.join(f'{o["share"]:.4f}' for o in two), '.5, within .02')

def resume(runs=10):
    "Process 1 of 2 is killed in one of the epochs 2 to 7; torchrun starts both again"
    (one,) = run('equal', 1)
    ends = [run('resume', 2, '--max-restarts', '1', RUN=str(k))[0]['values'] for k in range(runs)]
    good = sum(abs(o[-1][-1]-one['values'][-1][-1])<.002 for o in ends)
    row('fits that go on after kill -9, RMSE within .002', f'{good} of {runs}', '10 of 10')
    row('largest difference of RMSE', f'{max(abs(o[-1][-1]-one["values"][-1][-1]) for o in ends):.1e}')

@contextmanager
def file_of(df):
    "A Parquet file, encoded"
    with tempfile.TemporaryDirectory() as d:
        df.to_parquet(file := Path(d)/'ratings.parquet')
        CollabDataLoaders.from_parquet(file, mapped=True, seed=0, bs=65_536)
        yield str(file)

def speed(times=3, kind='speed', rows=ROWS):
    "1 million users, 100,000 items, k=64, bs=65,536, from Parquet; the second epoch; medians of fits in turn"
    with file_of(large_table(rows)) as file:
        ones,twos = zip(*((run(kind, 1, DATA=file)[0],run(kind, 2, DATA=file)) for _ in range(times)))
    one = np.median([o['wall'] for o in ones])
    walls,cpus = ([max(o[k] for o in two) for two in twos] for k in ('wall','cpu'))
    row(f'{rows:,} rows, one process: rows/s', f'{rows/one:,.0f}')
    row('two processes: rows/s', f'{rows/np.median(walls):,.0f}', f'{one/np.median(walls):.2f} times')
    row('each time', ' '.join(f'{a["wall"]/b:.2f}' for a,b in zip(ones, walls)))
    row('two processes: rows per second of processor time of each', f'{rows/np.median(cpus):,.0f}',
        f'{np.median([o["cpu"] for o in ones])/np.median(cpus):.2f} times')
    row('load of the machine; above 2, trust the processor time', f'{os.getloadavg()[1]:.0f}')

def page():
    "The formulas of the capacity page"
    cells = json.loads((Path(__file__).parents[1]/'nbs/start/07_capacity.ipynb').read_text())['cells']
    res = dict(np=np, pd=pd)
    for source in (''.join(o['source']) for o in cells if o['cell_type']=='code'):
        if all(isinstance(o, ast.FunctionDef) for o in ast.parse(source).body): exec(source, res)
    return res

def capacity():
    "Most memory and processor seconds of a process, measured, and by the formulas of the capacity page"
    f,cases,work,secs = page(),[],[],[]
    for P in (1,2):
        for (U,I,N,k,bs),*each in zip(SIZES, *run('capacity', P, **HEAP)):
            cases.append(f'{U:,} users, {I:,} items, {N//U} each, k={k}, bs={bs:,}, {P} processes')
            work.append(list(f['work'](U, I, N, k, bs, P).values()))
            secs.append(max(o['cpu'] for o in each))
            own,asked = max(o['bytes'] for o in each)/1e9,f['memory'](U, I, N, k, P, files=False, bs=bs)['most']
            row(f'{cases[-1]}: GB', f'{own:.3f}', f'{asked:.3f}, {asked/own:.2f} times; asked: within .2')
    work,secs = np.array(work),np.array(secs)
    fitted = np.arange(len(cases))%len(SIZES)<len(SIZES)-2
    rates,_ = nnls(work[fitted]/secs[fitted,None], np.ones(fitted.sum()))
    row('RATES, nanoseconds', ', '.join(f'{k}={v*1e9:.2f}' for k,v in zip(f['work'](2, 2, 1, 1, 1), rates)))
    for case,own,asked,known in zip(cases, secs, work@rates, fitted):
        row(f'{case}: s', f'{own:.2f}', f'{asked:.2f}, {asked/own:.2f} times' + ('' if known else '; asked: within .2'))
    paper(f, rates)

# fresh memory for large arrays, and what is free goes back to the system
HEAP = dict(MALLOC_MMAP_THRESHOLD_=str(2**22), MALLOC_TRIM_THRESHOLD_=str(2**25))

def halves(n=20_000_000):
    "Resident memory of the rows of each of two processes"
    with file_of(even_table(n, 1_000_000, 100_000)) as file: both = run('rows', 2, DATA=file, **HEAP)
    N = both[0]['rows']
    shares = ' '.join(f'{o["share"]:.4f}' for o in both)
    row(f'{N:,} rows from Parquet: share of each process', shares, '.5, within .02')
    asked = (6+17/16)*N/1e6
    row('MB of all rows, and resident in each process', f'{12*N/1e6:.0f}, '
        + ' '.join(f'{o["bytes"]/1e6:.0f}' for o in both), f'by the formula {asked:.0f}: '
        + ' '.join(f'{o["bytes"]/1e6/asked:.2f}' for o in both) + ' times')

def paper(f, rates):
    "730 million ratings of 22 million users for 1.5 million items, k=20, by the formulas; and a tenth of it"
    def secs(U, I, N, P): return sum(np.array([*f['work'](U, I, N, 20, 2**16, P).values()])*rates)
    for P in (1,2,16):
        row(f'730 M x 22 M x 1.5 M, k=20, {P} processes: core seconds of each', f'{secs(22e6, 1.5e6, 730e6, P):.0f}',
            'GB: '+', '.join(f'{k} {v:.1f}' for k,v in f['memory'](22e6, 1.5e6, 730e6, 20, P).items()))
    row('a tenth, 1 process: rows per second of processor time', f'{73e6/secs(2.2e6, 1.5e5, 73e6, 1):,.0f}',
        '`parquet.py tenth` measures it')

def rates():
    "RMSE on hidden parts of the training ratings, 8 epochs, bs=4096, by learning rate"
    row('learning rate of LazyAdam', ' '.join(f'{o:<6g}' for o in ADAM_RATES))
    row('ml-latest-small', ' '.join(f'{o:.4f}' for o in run('rates', 1, DATA='ml-latest-small')[0]))
    row('learning rate of row-wise Adagrad', ' '.join(f'{o:<6g}' for o in RATES))
    for data in ('ml-latest-small','ml-100k','filmtrust'):
        row(data, ' '.join(f'{o:.4f}' for o in run('rates', 2, DATA=data)[0]))

def shard():
    "Sharded tables in two processes against LazyAdam in one, ml-latest-small, each with its learning rate"
    (one,),two = run('adam', 1),run('shard', 2)
    a,b = one['values'][-1][-1],two[0]['values'][-1][-1]
    row('RMSE of LazyAdam and of sharded row-wise Adagrad', f'{a:.5f} {b:.5f}', f'within .005: {b-a:+.4f}')
    row('largest difference of predictions of the processes', f'{far(two[0]["preds"], two[1]["preds"]):.1e}')

def shard_speed():
    "As `speed`, with sharded tables in two processes, against the compiled loop in one; a tenth of the rows"
    speed(1, 'shard_speed', rows=ROWS//10)

if __name__=='__main__':
    if 'PART' in os.environ:
        out = Path(os.environ['OUT'])
        res = globals()[f'{os.environ["PART"]}_worker'](out)
        (out/f'{RANK}.json').write_text(json.dumps(res))
    else:
        parts = equal,resume,speed,capacity,halves,rates,shard,shard_speed
        report(__file__, parts, 'one thread a process, seed 0')
