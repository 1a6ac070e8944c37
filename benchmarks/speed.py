"""The figures of speed

    FASTCOLLAB_DATA=DIR python benchmarks/speed.py [PART...]

DIR holds ml-latest-small.zip and ml-100k.zip. On 2 cores: small 15 minutes, kernel 5, million 1, neural 20, peers 5,
table about 3 hours, with up to 6 GB. `speed.py tune` prints the settings of peers as a grid, about 3 minutes.
PEERS_PYTHON names a Python that has the extra `bench`, if this one doesn't.

Each contender has its own process, `speed.py run JSON`. It imports, compiles and fits tiny data first; then come fits
of fresh learners with seeds 0, 1, 2, and the median counts. A fit is all of `fit_one_cycle`: training, validation, and
the printed table (to /dev/null). Memory is the peak of the fits, loaders included, over the size before there were
data. Settings that a row doesn't state are those of the foundation: random 80/20 with seed 42, fit_one_cycle(5, 5e-3,
wd=0.1), k=50, y_range=(0,5.5), unk_p=0. `~` marks what was timed in part and without validation: 300 steps of fastai
after 50, in thirds; epochs of 8,192 steps of the eager loop, with the tables of all ratings. "fastai, mended" is
fastai.collab with `dl_type=TabDataLoader`, which draws each rating once an epoch; the shipped loader draws with
replacement.

The column after a figure is the target. kernel: memory over 12 bytes a rating, parameters and both moments. table:
memory comes last."""
import contextlib, gc, itertools, json, os, statistics, subprocess, sys, tempfile, time, warnings
from functools import cache
from pathlib import Path

import fastai.collab
from fastai.tabular.core import TabDataLoader

import peers as others
from common import SEEDS, quiet_fit, report, row, say
from fastcollab.all import *
from fastcollab.data.store import RatingStore
from fastcollab.train.loops import FusedLoop

SIZES = {'1 M':(6040,3706,1_000_209), '10 M':(70_000,10_000,10_000_000), '25 M':(160_000,60_000,25_000_000)}
NAMES = dict(fused='fastcollab, fused', default='fastcollab, unknown rows trained', eager='fastcollab, eager',
    shipped='fastai, as shipped', mended='fastai, mended')
# EAGER: steps of an epoch in part
SELF,OURS,BATCHES,WARM,THIRD,EAGER = (sys.executable,__file__),('fused','default','eager'),(64,1024,8192),50,100,8192

# in the process of a contender
def loaders(who, data, bs):
    "`DataLoaders` of a contender; `data` is the name of a set or a file"
    splits = None
    if data=='ml-100k': df,splits = movielens_fold(data, 1)
    elif data=='ml-latest-small': df = movielens(data)
    else: df = synthetic_ratings(60, 40, 1000) if data=='tiny' else pd.DataFrame(dict(np.load(data)))
    if who in OURS: return CollabDataLoaders.from_df(df, splits=splits, seed=42, bs=bs)
    kwargs = dict(bs=bs, dl_type=TabDataLoader if who=='mended' else None)
    if splits is None: return fastai.collab.CollabDataLoaders.from_df(df, seed=42, **kwargs)
    # the rest is what `from_df` does, which takes no splits
    names,splits = list(df.columns[:3]),[o.tolist() for o in splits]
    return fastai.collab.TabularCollab(df, [Categorify], names[:2], y_names=names[2:], y_block=TransformBlock(),
        splits=splits).dataloaders(**kwargs)

class Stopwatch(CollabCallback):
    "Seconds of the training part of each epoch, and of its compiled loop alone"
    order,in_loop = 100,True
    def __init__(self): self.secs,self.loop = [],[]
    def before_fit(self):
        self.own = FusedLoop.run
        def run(loop, chunk):
            start = time.perf_counter()
            res = self.own(loop, chunk)
            self.loop[-1] += time.perf_counter()-start
            return res
        FusedLoop.run = run
    def after_fit(self): FusedLoop.run = self.own
    def before_train(self):
        self.loop.append(0.)
        self.start = time.perf_counter()
    def after_train(self): self.secs.append(time.perf_counter()-self.start)

class FewSteps(Callback):
    "The end of a fit after some steps, of which the later ones are timed in thirds"
    def __init__(self): self.at = []
    secs = property(lambda self: np.diff(self.at).tolist())
    def before_batch(self):
        if self.train_iter>=WARM and (self.train_iter-WARM)%THIRD==0: self.at.append(time.perf_counter())
        if len(self.at)==4: raise CancelFitException()

def fit(who, dls, epochs=5, seed=0, wd=.1, nn=False, cb=None):
    "Seconds of a fit of a fresh learner, and the RMSE on the validation part after it"
    set_seed(seed)
    kwargs = dict(n_factors=50, y_range=(0,5.5), **(dict(use_nn=True, layers=[100]) if nn else {}))
    if who=='default': learn = collab_learner(dls, **kwargs)
    elif who in OURS: learn = collab_learner(dls, unk_p=0, fused=who=='fused', **kwargs)
    else: learn = fastai.collab.collab_learner(dls, **kwargs)
    with learn.no_bar(), open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
        start = time.perf_counter()
        learn.fit_one_cycle(epochs, 5e-3, wd=wd, cbs=cb)
        secs = time.perf_counter()-start
    return secs,learn.recorder.values[-1][1]**.5 if learn.recorder.values else None

def size():
    "MB of this process, where its peak begins anew"
    gc.collect()
    # elsewhere this is the peak until now
    with contextlib.suppress(OSError): Path('/proc/self/clear_refs').write_text('5')
    return others.peak_mb()

def run(who, data, bs=64, threads=1, seeds=SEEDS, part=False, **kwargs):
    "What one contender does on one set of data"
    torch.set_num_threads(threads)
    for n in (8,512): fit(who, loaders(who, 'tiny', n), **{**kwargs, 'epochs':1})
    base,dls = size(),loaders(who, data, bs)
    load,_,n,steps,few = others.peak_mb(),size(),len(dls.train_ds),len(dls.train),part and who not in OURS
    if part: kwargs['epochs'] = 1
    if part and not few:
        ds,some = dls.train_ds,torch.randperm(n)[:EAGER*bs]
        dls.loaders[0] = dls.train.new(type(ds)(ds.enc, RatingStore(ds.store.ids(some), ds.store.ratings(some))))
    watch = FewSteps() if few else Stopwatch()
    secs,errors = zip(*(fit(who, dls, seed=s, cb=watch, **kwargs) for s in (seeds[:1] if few else seeds)))
    if part: secs = [o*steps/(THIRD if few else len(dls.train)) for o in watch.secs]
    epoch = statistics.median(secs)/kwargs.get('epochs', 5)
    return dict(secs=secs, epoch=epoch, ratings_per_s=n/epoch, train=[] if part else [n/o for o in watch.secs],
        loop=[] if part or who!='fused' else [n/o for o in watch.loop], peak_mb=others.peak_mb()-base,
        load_mb=load-base, rmse=None if part else float(np.mean(errors)))

class Ours:
    "This library as one of the peers; its seconds build the model and run `fit_one_cycle` without validation"
    package,modules = 'fastcollab',()
    grid = dict(epochs=(1,2,3,4,6,8), k_bs=tuple(itertools.product((6,14,30), (512,1024,2048,4096))),
        lr=(.02,.03,.05,.08), wd=(.1,.2,.4))
    def __init__(self, d, threads):
        torch.set_num_threads(threads)
        df = pd.DataFrame(dict(user=d['u_train'], item=d['i_train'], rating=d['r_train']))
        self.dls,self.data = CollabDataLoaders.from_df(df, splits=(range(len(df)),[]), seed=42),None
    def model(self, k_bs, **kwargs):
        self.k,self.kwargs,self.now = k_bs[0],kwargs,CollabDataLoaders(self.dls.train.new(bs=k_bs[1]), self.dls.valid)
        return self
    def fit(self, _):
        set_seed(0)
        self.learn = collab_learner(self.now, n_factors=self.k, center=True, unk_p=0, fused=True)
        with self.learn.no_bar(), self.learn.no_logging():
            self.learn.fit_one_cycle(self.kwargs['epochs'], self.kwargs['lr'], wd=self.kwargs['wd'])
    def predict(self, m, u, i): return self.learn.predict(pd.DataFrame(dict(user=u, item=i)))

# the frontiers that tune printed, some points left out: values in the order of the grid's names, from fast to good
others.NAMES['fastcollab'] = Ours
others.SMALL['fastcollab'] = [(1,(6,2048),.08,.4),(2,(6,2048),.05,.4),(2,(6,1024),.03,.2),(3,(6,2048),.03,.2),
    (3,(14,1024),.02,.4),(4,(14,512),.02,.4)]
others.U1['fastcollab'] = [(1,(14,4096),.08,.1),(2,(6,1024),.05,.2),(3,(14,4096),.05,.4),(4,(6,4096),.05,.4),
    (4,(6,1024),.02,.1),(6,(6,1024),.02,.2)]

def tune():
    "Print the grid of `Ours` and its frontier, for both sets"
    for file in peer_files(): others.tune('fastcollab', file)

# in the process that prints
def peer_files():
    "The two sets in the form that peers.py takes: a random tenth of ml-latest-small is its test part"
    small,(u1,fold) = movielens('ml-latest-small'),movielens_fold('ml-100k', 1)
    tenth,*rest = np.array_split(np.random.default_rng(42).permutation(len(small)), 10)
    for name,df,(train,test) in (('ml-latest-small',small,(np.sort(np.concatenate(rest)),tenth)),
        ('ml-100k-u1',u1,fold)):
        (u,users),(i,items),r,file = pd.factorize(df.iloc[:,0]),pd.factorize(df.iloc[:,1]),df.iloc[:,2].to_numpy(
            np.float32),Path(TEMP)/f'{name}.npz'
        parts = {f'{o}_{part}':v[rows] for o,v in zip('uir', (u,i,r)) for part,rows in (('train',train),('test',test))}
        np.savez(file, **parts, n_users=len(users), n_items=len(items), lo=r.min(), hi=r.max())
        yield file

@cache
def synthetic(size):
    "A file with synthetic ratings"
    df,file = synthetic_ratings(*SIZES[size]),f'{TEMP}/{size}.npz'
    np.savez(file, userId=df.userId.astype(np.int32), movieId=df.movieId.astype(np.int32),
        rating=df.rating.astype(np.float32))
    return file

def ask(*args, timeout=None):
    "The JSON that a process prints last"
    res = subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=timeout)
    if res.returncode: raise RuntimeError(f'{args} ended with {res.returncode}: {res.stderr[-2000:]}')
    return json.loads(res.stdout.splitlines()[-1])

def bench(who, data, **kwargs):
    return ask(*SELF, 'run', json.dumps(dict(who=who, data=synthetic(data) if data in SIZES else data, **kwargs)))

def compare(seeds, **kwargs):
    "Fits of several contenders on ml-latest-small: seconds and RMSE of each"
    res = {}
    for who,n in seeds.items():
        o = bench(who, 'ml-latest-small', seeds=list(range(n)), **kwargs)
        res[who] = statistics.median(o['secs']),o['rmse']
        row(f'{NAMES[who]}, {n} seeds', f'RMSE {o["rmse"]:.4f}',
            f'{res[who][0]:.3f} s, {o["ratings_per_s"]/1e6:.3f} M ratings/s')
    return res

def small():
    "Figure 1: the fit of the fastai course"
    say('\nml-latest-small, random 80/20, bs=64, fit_one_cycle(5, 5e-3, wd=0.1), k=50, one thread; ratings/s of the '
        'whole fit')
    res = compare(dict(fused=5, default=5, eager=3, shipped=3, mended=5))
    for who,asked in dict(shipped='>= 150x', mended='', eager='').items():
        row(f'fused against {NAMES[who]}', f'{res[who][0]/res["fused"][0]:.0f}x', asked)
    row('RMSE: fused - mended', f'{res["fused"][1]-res["mended"][1]:+.4f}', 'within 0.002')

def neural():
    "CollabNN against EmbeddingNN"
    say('\nCollabNN, EmbeddingNN: ml-latest-small, random 80/20, bs=64, fit_one_cycle(5, 5e-3, wd=0.3), layers=[100], '
        'one thread')
    res = compare(dict(eager=3, shipped=3, mended=3), nn=True, wd=.3)
    for who in ('shipped','mended'):
        row(f'CollabNN against {NAMES[who]}',
            f'{res[who][0]/res["eager"][0]:.1f}x, RMSE {res["eager"][1]-res[who][1]:+.4f}', '>= 5x, equal RMSE')

def kernel():
    "Figure 2: training epochs alone"
    say('\nThe compiled loop, k=50, after one epoch: median of 9 epochs, and the best; then whole training epochs, '
        'with order, packing and records')
    for bs,asked in zip(BATCHES, ('4.5','6','12')):
        res = [bench('fused', '1 M', bs=bs, threads=t, seeds=[0], epochs=10) for t in (1,2)]
        for what,key in (('loop','loop'),('epoch','train')):
            one,two = (o[key][1:] for o in res)
            for t,o in ((1,one),(2,two)):
                row(f'1 M, bs={bs}, {what}, threads={t}', f'{np.median(o)/1e6:.2f} M/s ({max(o)/1e6:.2f})',
                    f'>= {asked} M/s' if t==1 and key=='loop' else '')
            row(f'1 M, bs={bs}, {what}, two threads against one',
                f'{np.median(two)/np.median(one):.2f}x ({max(two)/max(one):.2f}x)', '>= 1.6x' if bs>=1024
                and key=='loop' else '')
    need = 12*(SIZES['25 M'][2]+51*sum(SIZES['25 M'][:2]))/1e6
    for bs in BATCHES[1:]:
        res = bench('fused', '25 M', bs=bs, threads=2, seeds=[0], epochs=6)
        row(f'25 M, bs={bs}, threads=2', f'{np.median(res["train"][1:])/1e6:.2f} M/s ({max(res["train"][1:])/1e6:.2f})',
            '>= 4 M/s')
        memory = f'{res["peak_mb"]:.0f} / {need:.0f} MB = {res["peak_mb"]/need:.2f}'
        row(f'    peak / ratings, parameters, moments; {res["load_mb"]:.0f} MB while loading', memory, '< 1.6')

def same():
    "Figure 4: the RMSE of LazyAdam and of Adam at the default eps"
    say('\nThe same fits with LazyAdam (compiled loop) and with fastai\'s Adam: RMSE, mean over 3 seeds, bs=512, '
        'k=50, unk_p=0')
    for data,epochs,wd,y_range in (('ml-latest-small',5,.1,(0,5.5)),('ml-100k',8,.4,(.5,5.5))):
        df,splits = movielens_fold(data, 1) if data=='ml-100k' else (movielens(data),None)
        means = []
        for kwargs in ({},dict(opt_func=Adam)):
            errors = []
            for seed in SEEDS:
                set_seed(seed)
                learn = collab_learner(CollabDataLoaders.from_df(df, splits=splits, seed=42, bs=512), y_range=y_range,
                    unk_p=0, **kwargs)
                errors.append(quiet_fit(learn, epochs, 5e-3, wd)[1]**.5)
            means.append(np.mean(errors))
        row(f'{data}{" u1" if splits else ""}, fit_one_cycle({epochs}, 5e-3, wd={wd})',
            f'{means[0]:.4f}, {means[1]:.4f}', 'within 0.002')

def step_time(n, bs, lazy, k=50, steps=200):
    "Seconds of a step on one table: forward, backward, optimizer; the best of three"
    model,x,times = nn.Embedding(n, k),torch.randint(0, n, (steps,bs)),[]
    opt = LazyAdam([model.weight], lr=1e-3)
    if lazy: opt.attach(model)
    for _ in range(3):
        start = time.perf_counter()
        for o in x:
            model(o).sum().backward()
            opt.step()
            opt.zero_grad()
        times.append((time.perf_counter()-start)/steps)
    return min(times)

def pays():
    "From which size on rows that wait pay in a torch loop"
    say('\nA step of LazyAdam on one table, k=50: all rows at each step, and rows that wait')
    for bs,n in itertools.product(BATCHES[:2], (100,1000,10_000,100_000)):
        dense,lazy = (step_time(n, bs, o)*1e6 for o in (False,True))
        row(f'{n:,} rows, bs={bs}', f'{dense:.0f}, {lazy:.0f} us', f'{dense/lazy:.1f}x')

def million():
    "Figure 3: a fit of a million ratings"
    say('\n1 M, random 80/20, bs=1024, fit_one_cycle(5, 5e-3, wd=0.1), k=50, validation included')
    for t in (1,2):
        row(f'fused, threads={t}', f'{statistics.median(bench("fused", "1 M", bs=1024, threads=t)["secs"]):.2f} s',
            '< 1.5 s' if t==2 else '')

def table():
    "All contenders on all data"
    say('\nOne thread; 5 epochs, of 10 M and 25 M one; seconds of an epoch and ratings/s with validation, without it '
        'after ~')
    for data in ('ml-latest-small','ml-100k',*SIZES):
        for bs,who in itertools.product(BATCHES, NAMES):
            # by the steps of an epoch
            part = SIZES.get(data, [100_000])[-1]*.8/bs>dict(fused=np.inf, eager=20_000).get(who, 1000)
            o = bench(who, data, bs=bs, epochs=1 if data in ('10 M','25 M') else 5, part=part)
            mark,error = '~' if part else ' ',f'RMSE {o["rmse"]:.4f}' if o['rmse'] else ''
            what = f'{data:<15} bs={bs:<5} {NAMES[who]:<20}{mark}{o["epoch"]:9.3f} s'
            speed = f'{mark}{o["ratings_per_s"]/1e6:.4f} M/s'
            row(what, speed, f'{error:<11} {o["peak_mb"]:5.0f} MB')

def peers():
    "Figure 5: seconds to an RMSE"
    say('\nSeconds of the fit that first reaches the RMSE, settings of each from fast to good, chosen on a tenth of '
        'the training part; median of 3')
    theirs = os.environ.get('PEERS_PYTHON', sys.executable),others.__file__
    for file,target in zip(peer_files(), (.86,.93)):
        for threads,name in itertools.product(dict.fromkeys((1,os.cpu_count())), others.NAMES):
            command = (*SELF,'peer') if name=='fastcollab' else (*theirs,name)
            try: o = ask(*command, file, threads, target, timeout=180)
            except subprocess.TimeoutExpired: o = dict(error='no result after 180 s')
            what = f'{file.stem}, RMSE <= {target}, threads={threads}: {name} {o.get("version", "")}'
            if 'error' in o: row(what, o['error'])
            elif o['secs_to_target'] is None: row(what, 'not reached', f'best RMSE {o["best_rmse"]:.4f}')
            else: row(what, f'{o["secs_to_target"]*1e3:.1f} ms', f'RMSE {o["curve"][-1][2]:.4f}')

if __name__=='__main__':
    warnings.simplefilter('ignore')
    if sys.argv[1:2]==['run']: print(json.dumps(run(**json.loads(sys.argv[2]))))
    elif sys.argv[1:2]==['peer']:
        print(json.dumps(others.bench('fastcollab', sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
    else:
        with tempfile.TemporaryDirectory() as TEMP:
            if sys.argv[1:]==['tune']: tune()
            else:
                report(__file__, [small, same, pays, kernel, million, neural, peers, table],
                    'see the docstring of the command for what is timed')
