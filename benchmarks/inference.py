"""The figures of inference

    FASTCOLLAB_DATA=DIR python benchmarks/inference.py [PART...]   # about 10 minutes on 2 cores, up to 4 GB

DIR holds ml-latest-small.zip and ml-100k.zip. About 10 minutes on 2 cores, with up to 4 GB. PEERS_PYTHON names a Python
that has implicit (extra `bench`), if this one doesn't.
* lists: each contender has its own process and scores all users three times; the best time counts. Memory is the peak
  over what the process holds with the factors and the histories. The bare contender is the matrix product and
  `torch.topk`, in the chunk size that suits it best
* new_users: a fifth of the users of ml-100k is held out. Four fifths of their ratings are folded in, or trained on, and
  the rest is predicted
* many: ratings of new users, made from the factors with noise
* folder: a process that keeps saving is killed, and what it left is loaded"""
import gc, json, multiprocessing, os, random, signal, statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

import numpy as np

SHAPE = dict(n_users=100_000, n_items=50_000, k=64, n_seen=50)

# in the process of a contender, which may not have fastcollab
def peak_mb(reset=False):
    "Peak of the memory of this process since it was reset, in MB"
    gc.collect()
    if reset: Path('/proc/self/clear_refs').write_text('5')
    return int(next(o for o in Path('/proc/self/status').read_text().splitlines()
        if o.startswith('VmHWM')).split()[1])/1024

def load(file):
    "Factors, and the ends and items of what was seen"
    d = np.load(file)
    return d['U'],d['M'],d['ends'],d['items']

def bare(file, threads):
    import torch
    torch.set_num_threads(threads)
    U,M = map(torch.from_numpy, load(file)[:2])
    def run(chunk):
        for part in U.split(chunk): (part@M.T).topk(10)
    def sample(chunk):
        start = time.perf_counter()
        for part in U[:8192].split(chunk): (part@M.T).topk(10)
        return time.perf_counter()-start
    chunk = min((32,64,128,256,512,1024), key=sample)
    return lambda: run(chunk),dict(chunk=chunk)

def fastcollab(file, threads):
    import pandas as pd, torch
    from fastcollab.recommend.base import Factors
    from fastcollab.recommend.history import UserHistory
    from fastcollab.recommend.recommender import Recommender
    from fastcollab.recommend.scorers import DotScorer
    torch.set_num_threads(threads)
    U,M,ends,items = map(torch.from_numpy, load(file))
    ids = tuple(pd.RangeIndex(1, len(o)+1) for o in (U,M))
    U,M = (torch.cat([o.new_zeros(1, o.shape[1]), o]) for o in (U,M))   # row 0 is the unknown one
    history = UserHistory(torch.cat([ends[:1],ends]), items+1, torch.ones(len(items)))
    scorer = DotScorer(Factors(U), Factors(M))
    rec = Recommender(scorer, ids, ('user','item','rating'), pd.DataFrame(dict(title=ids[1])), history)
    return lambda: rec.recommend(k=10),{}

def implicit(file, threads):
    os.environ['OPENBLAS_NUM_THREADS'] = str(threads)
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix
    U,M,ends,items = load(file)
    model = AlternatingLeastSquares(factors=U.shape[1], num_threads=threads)
    model.user_factors,model.item_factors = U,M
    seen = csr_matrix((np.ones(len(items), np.float32), items, ends), shape=(len(U),len(M)))
    users = np.arange(len(U))
    return lambda: model.recommend(users, seen, N=10, filter_already_liked_items=True),{}

def run(who, file, threads):
    "Seconds and memory of all lists"
    f,info = globals()[who](file, threads)
    base,secs = peak_mb(reset=True),[]
    for _ in range(3):
        start = time.perf_counter()
        f()
        secs.append(time.perf_counter()-start)
    return dict(info, secs=min(secs), mb=peak_mb()-base)

# in the process that prints
def factors(folder):
    "Random factors, and fifty items that each user has rated"
    rng,file = np.random.default_rng(0),Path(folder)/'factors.npz'
    U,M = (rng.normal(0, .3, (SHAPE[o],SHAPE['k'])).astype(np.float32) for o in ('n_users','n_items'))
    items = np.sort(rng.integers(0, SHAPE['n_items'], (SHAPE['n_users'],SHAPE['n_seen']), dtype=np.int32), 1).ravel()
    np.savez(file, U=U, M=M, items=items, ends=np.arange(0, len(items)+1, SHAPE['n_seen']))
    return file

def ask(who, *args):
    python = os.environ.get('PEERS_PYTHON', sys.executable) if who=='implicit' else sys.executable
    res = subprocess.run([python, __file__, 'run', json.dumps([who, *map(str, args[:1]), *args[1:]])],
        capture_output=True, text=True)
    if res.returncode: raise RuntimeError(f'{who} ended with {res.returncode}: {res.stderr[-2000:]}')
    return json.loads(res.stdout.splitlines()[-1])

def lists():
    "Top 10 for everybody"
    say('\nTop 10 for 100,000 users of 50,000 items, k=64, 50 seen items each')
    with tempfile.TemporaryDirectory() as d:
        file = factors(d)
        for threads in dict.fromkeys((1,os.cpu_count())):
            res = {who:ask(who, file, threads) for who in ('bare','fastcollab','implicit')}
            for who,o in res.items():
                row(f'{who}, threads={threads}'+(f', chunks of {o["chunk"]}' if 'chunk' in o else ''),
                    f'{o["secs"]:.2f} s, {SHAPE["n_users"]/o["secs"]:,.0f} users/s')
                row('    peak memory over the factors', f'{o["mb"]:.0f} MB', '< 1 GB' if who=='fastcollab' else '')
            row(f'fastcollab against the bare product and topk, threads={threads}',
                f'{res["bare"]["secs"]/res["fastcollab"]["secs"]:.2f}x', '>= 0.7x')
            row(f'fastcollab against implicit, threads={threads}',
                f'{res["implicit"]["secs"]/res["fastcollab"]["secs"]:.2f}x', '> 1x')

def new_users():
    "Fold-in against training"
    say('\nml-100k, a fifth of the users held out; bs=512, fit_one_cycle(8, 5e-3, wd=0.1), k=50; RMSE on a fifth of '
        'their ratings, means over 3 seeds')
    df = movielens('ml-100k')
    for arch,y_range in ((DotProductBias,(.5,5.5)),(DotProductBias,None),(DotProduct,(.5,5.5))):
        res = np.array([_new_users(df, seed, arch, y_range) for seed in SEEDS])
        means,name = res.mean(0),f'{arch.__name__}, y_range={y_range}'
        row(f'{name}: folded in, trained in', f'{means[0]:.4f}, {means[1]:.4f}', 'within 0.01' if y_range
            and arch is DotProductBias else '')
        row('    differences by seed; averages of the items', ' '.join(f'{o:+.4f}' for o in res[:,0]-res[:,1]),
            f'{means[2]:.4f}')

def many():
    "Thousands of new users at once, on one thread"
    say('\n10,000 new users with 50 ratings each, k=64, 50,000 items; medians of 3 runs, in seconds of the processor, '
        'which other work does not change much')
    for y_range in ((.5,5.5),None):
        rec,new = _liking(y_range)
        for decay,why in ((rec.decay(),'found'),(4.,'that of ml-100k')):
            rec.decays,secs = [decay,decay],[]
            for _ in range(3):
                start = time.process_time()
                rec.fold_in(new)
                secs.append(time.process_time()-start)
            row(f'y_range={y_range}, decay {decay:g}, {why}', f'{statistics.median(secs):.2f} s', '< 2 s')

def _liking(y_range, n=10_000, m=SHAPE['n_items'], old=999):
    "A recommender of `old` users, and ratings of `n` new ones: what their vectors predict, with noise of 0.9 stars"
    from fastcollab.recommend.base import Factors, Link, pair_scores
    from fastcollab.recommend.history import UserHistory
    from fastcollab.recommend.scorers import DotScorer
    rng = np.random.default_rng(0)
    def random(n): return torch.from_numpy(rng.normal(0, .3, (n+1,SHAPE['k']+1)).astype(np.float32))
    users,items = (Factors(o[:,:-1], o[:,-1]) for o in (random(old+n),random(m)))
    for o in (*users,*items): o[0] = 0.
    u,i = torch.arange(1, old+n+1).repeat_interleave(50),torch.from_numpy(rng.integers(1, m+1, (old+n)*50))
    link = Link(y_range, None if y_range else 3.)
    y = link(pair_scores(users.take(u), items.take(i)))+torch.from_numpy(rng.normal(0, .9, len(u)).astype(np.float32))
    if y_range: y = y.clamp(1, 5)
    ids,known = (pd.RangeIndex(1, old+1),pd.RangeIndex(1, m+1)),u<=old
    scorer = DotScorer(users.take(slice(0, old+1)), items, link)
    rec = Recommender(scorer, ids, ('user','item','rating'), pd.DataFrame(dict(title=ids[1])),
        UserHistory.from_ratings(u[known], i[known], y[known], old+1))
    return rec,pd.DataFrame(dict(user=u[~known], item=i[~known], rating=y[~known])).drop_duplicates(['user','item'])

def _new_users(df, seed, arch, y_range):
    "RMSE of new users, folded in and trained in, and of averages; wd is the best of .05 to .4 for `DotProductBias`"
    rng,names = np.random.default_rng(seed),list(df.columns[:3])
    users = df[names[0]].unique()
    out = df[names[0]].isin(rng.permutation(users)[:len(users)//5]).to_numpy()
    test = out & (rng.random(len(df))<.2)
    test &= df[names[1]].isin(df[names[1]][~out]).to_numpy()                # of items that training knows
    def learn(train):
        dls = CollabDataLoaders.from_df(df, splits=(np.flatnonzero(train),np.flatnonzero(test)), seed=seed, bs=512)
        set_seed(seed)
        learn = collab_learner(dls, y_range=y_range, arch=arch, center=y_range is None)
        quiet_fit(learn, 8, 5e-3, .1)
        return learn
    whole,part = learn(~test),learn(~out)
    given = df[out&~test&df[names[1]].isin(df[names[1]][~out]).to_numpy()]
    folded,y = part.recommender().fold_in(given),df[names[2]][test].to_numpy()
    base = df[~out].groupby(names[1])[names[2]].mean()
    preds = folded.predict(df[test]),whole.recommender().predict(df[test]),df[test][names[1]].map(base).to_numpy()
    return [float(np.sqrt(((o-y)**2).mean())) for o in preds]

def _forever(path, recs):
    "Save two recommenders in turn, until killed"
    while True:
        for o in recs: o.save(path)

def folder():
    "What is there after `kill -9`, and what serving imports"
    say('\nA folder, 999 or 9,999 users x 5,000 items, k=64')
    rec,new = _liking((.5,5.5), 9000, 5000)
    recs,rng,good,seen = (rec,rec.fold_in(new)),random.Random(0),0,set()
    lists = [o.recommend(rec.ids[0], 5) for o in recs]
    with tempfile.TemporaryDirectory() as d:
        secs = max(timed(lambda: o.save(d))[1] for o in recs)
        for _ in range(20):
            child = multiprocessing.get_context('fork').Process(target=_forever, args=(d,recs))
            child.start()
            time.sleep(rng.uniform(0, 4*secs))
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            got = Recommender.load(d)
            which = [got.n_users==o.n_users and got.recommend(rec.ids[0], 5).equals(l) for o,l in zip(recs, lists)]
            good += sum(which)==1
            seen.add(which.index(True))
    row(f'kill -9 at 20 random moments during save: one of {len(seen)}, whole', f'{good} of 20', '20 of 20')
    code = "import sys, fastcollab.recommend.recommender; print('fastai' if 'fastai' in sys.modules else 'no fastai')"
    row('import fastcollab.recommend.recommender', subprocess.run([sys.executable, '-c', code], capture_output=True,
        text=True, check=True).stdout.strip(), 'no fastai')

def single():
    "One user, a folder, other formats"
    say('\nml-latest-small, bs=512, fit_one_cycle(5, 5e-3, wd=0.1), k=50, y_range=(0,5.5)')
    df = movielens('ml-latest-small')
    dls = CollabDataLoaders.from_df(df, seed=42, bs=512)
    set_seed(0)
    learn = collab_learner(dls, y_range=(0,5.5))
    quiet_fit(learn, 5, 5e-3, .1)
    rec = learn.recommender()
    rec.recommend(1)
    row('recommend for one user, median of 610',
        f'{statistics.median(timed(lambda: rec.recommend(u))[1] for u in rec.ids[0])*1e3:.2f} ms', '< 2 ms')
    row('explain, median of 100',
        f'{statistics.median(timed(lambda: rec.explain(u, 318))[1] for u in rec.ids[0][:100])*1e3:.2f} ms')
    with tempfile.TemporaryDirectory() as d:
        row('save, the first time', f'{timed(lambda: rec.save(d))[1]:.2f} s')
        code = ('import time\nfrom fastcollab.recommend.recommender import Recommender\ns = time.perf_counter()\n'
            f'Recommender.load({d!r})\nprint(time.perf_counter()-s)')
        secs = [float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)
            for _ in range(3)]
        row('load in a fresh process, after the import', f'{statistics.median(secs):.3f} s', '< 0.2 s')
        same = Recommender.load(d).recommend().equals(rec.recommend())
        row('lists of everybody after save and load', 'identical' if same else 'DIFFERENT', 'identical')
        rec.to_onnx(f'{d}/model.onnx')
        x = np.random.default_rng(0).integers(1, 600, (10_000,2))
        import onnxruntime
        y = onnxruntime.InferenceSession(f'{d}/model.onnx').run(None, dict(x=x))[0]
        users,items = (rec.ids[k].to_numpy()[x[:,k]-1] for k in (0,1))
        row('ONNX against predict, largest difference', f'{np.abs(y-rec.predict(users, items)).max():.1e}', '< 1e-5')
    index,exact = rec.to_ann(),rec.recommend(exclude_seen=False)
    found = index.search(rec.queries(rec.ids[0]), 10).keys.astype(int)
    best = rec.ids[1].get_indexer(exact.item).reshape(-1, 10)+1
    row('usearch, recall@10', f'{np.mean([len(set(a)&set(b))/10 for a,b in zip(found.tolist(), best.tolist())]):.4f}',
        '>= 0.95')

if __name__=='__main__':
    warnings.simplefilter('ignore')
    if sys.argv[1:2]==['run']: print(json.dumps(run(*json.loads(sys.argv[2]))))
    else:
        from common import *
        from fastcollab.all import *
        report(__file__, [lists, new_users, many, folder, single], 'see the docstring of the command for what is timed')
