"""Other libraries on the same ratings, for benchmarks/speed.py

    python benchmarks/peers.py NAME FILE.npz THREADS TARGET   # prints a line of JSON

FILE.npz holds `u_train i_train r_train u_test i_test r_test` (row numbers from 0), `n_users n_items` and the scale `lo
hi`. A time is the library's own fit on data in its own format, the median of 3. `peers.py tune NAME FILE.npz` prints
the grid; SETTINGS are its frontier: the fastest settings for each RMSE, on a random tenth of the training part, never
on the test.

PyPI's libmf is built without vector instructions, which makes it two to six times slower. Build it yourself:
CXXFLAGS="-O3 -march=native -DUSEAVX" pip install --no-binary libmf --no-cache-dir libmf. The settings here were chosen
with that build.

implicit is missing because its ALS and BPR only know whether a pair was seen, and with what weight. A value below zero
means "surely not liked" to it, and every pair without a rating a 0 of weight 1, so its scores aren't ratings, and
centering the ratings doesn't change that."""
import contextlib, io, itertools, json, os, re, resource, statistics, sys, threading, time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np

# fits a point, points in a row without a better RMSE before a curve ends, seconds before a process gives up
REPEATS,PATIENCE,LIMIT = 3,3,120

class Surprise:
    "SVD: global mean, biases and factors by SGD, in Cython; it has one thread"
    package,modules = 'scikit-surprise',('surprise','pandas')
    grid = dict(epochs=(1,2,3,5,8,12,20,30,50), k=(10,20,50), lr=(.005,.01,.02,.04), reg=(.02,.05,.1,.2))
    def __init__(self, d, threads):
        from surprise import Dataset, Reader
        import pandas as pd
        # its order of passing: 6x faster
        df = pd.DataFrame(dict(u=d['u_train'], i=d['i_train'], r=d['r_train'])).sort_values('u', kind='stable')
        self.data = Dataset.load_from_df(df, Reader(rating_scale=(float(d['lo']),float(d['hi'])))).build_full_trainset()
    def model(self, epochs, k, lr, reg):
        from surprise import SVD
        return SVD(n_factors=k, n_epochs=epochs, lr_all=lr, reg_all=reg, random_state=0)
    def predict(self, m, u, i): return [o.est for o in m.test([(a,b,0.) for a,b in zip(u.tolist(), i.tolist())])]

class CMFRec:
    """CMF by ALS: global mean, biases and factors, in C, set up for speed as documented, conjugate gradients if fast

    It gets only users and items of the training part. A row or column without ratings would get a bias of 1 from the
    second iteration on (3.5.1, and sometimes NaN factors), which costs .03 of RMSE on ml-latest-small. All other ids
    get the mean plus the known bias."""
    package,modules = 'cmfrec',('cmfrec','scipy')
    grid = dict(epochs=(1,2,3,4,6,8,12), k=(5,10,20,50), reg=(6.,10.,15.,20.), bias_reg=(2.,4.,8.))
    def __init__(self, d, threads):
        from scipy.sparse import coo_matrix
        self.threads,self.seen = threads,[np.unique(d[o]) for o in ('u_train','i_train')]
        self.data = coo_matrix((d['r_train'], tuple(self.rows(d['u_train'], d['i_train']))),
            shape=[len(o) for o in self.seen])
    def rows(self, *ids):
        "Row numbers among the rows seen in training, one past the last for the others"
        return [np.where(np.isin(o, s), np.searchsorted(s, o), len(s)) for s,o in zip(self.seen, ids)]
    def model(self, epochs, k, reg, bias_reg):
        from cmfrec import CMF
        return CMF(k=k, lambda_=[bias_reg,bias_reg,reg,reg,reg,reg], niter=epochs, method='als', use_cg=k>10,
            finalize_chol=False, use_float=True,
            precompute_for_predictions=False, nthreads=self.threads, random_state=0, verbose=False)
    def predict(self, m, u, i): return m.predict(*self.rows(u, i))

class LIBMF:
    "Factors without biases by parallel SGD with AdaGrad, in C++; with its own seed, so only one thread is repeatable"
    package,modules = 'libmf',('libmf.mf',)
    grid = dict(epochs=(1,2,3,5,8,12,20,30,50,80,120), k=(10,20,50), lr=(.05,.1,.2,.3), reg=(.02,.05,.08,.12))
    def __init__(self, d, threads):
        # (n,3)
        self.threads,self.data = threads,np.stack([d['u_train'],d['i_train'],d['r_train']], 1).astype(np.float32)
    def model(self, epochs, k, lr, reg):
        from libmf.mf import MF
        return MF(nr_iters=epochs, k=k, eta=lr, lambda_p2=reg, lambda_q2=reg, nr_bins=2*self.threads+4,
            nr_threads=self.threads, quiet=True)
    def predict(self, m, u, i):
        # its C side reads columns: rows in C order would be mixed up in silence
        return m.predict(np.asfortranarray(np.stack([u,i], 1)))

NAMES = dict(surprise=Surprise, cmfrec=CMFRec, libmf=LIBMF)

# the frontiers that tune printed, some points left out: values in the order of the grid's names, from fast to good
SMALL,U1 = {},{}
SMALL['surprise'] = [(1,10,.04,.1),(2,10,.04,.02),(3,10,.04,.02),(5,10,.04,.05),(8,10,.04,.05),(12,10,.02,.05),
    (12,50,.04,.1),(20,50,.02,.1),(50,50,.01,.1)]
SMALL['cmfrec'] = [(1,5,6.,4.),(3,5,10.,4.),(2,50,6.,4.),(3,20,10.,4.),(3,50,10.,4.),(4,50,10.,4.),(6,50,15.,4.),
    (8,50,15.,4.)]
SMALL['libmf'] = [(1,10,.1,.02),(2,10,.1,.02),(3,10,.1,.02),(5,10,.1,.02),(8,10,.1,.02),(20,10,.05,.02),(30,20,.1,.08),
    (50,10,.1,.08),(50,50,.2,.08)]
U1['surprise'] = [(1,10,.02,.02),(3,10,.02,.02),(5,10,.02,.02),(8,20,.02,.05),(8,50,.02,.05),(20,10,.02,.1),
    (20,20,.02,.1),(20,50,.02,.1),(50,50,.01,.1)]
U1['cmfrec'] = [(1,5,6.,2.),(2,5,6.,2.),(2,10,6.,2.),(2,50,6.,4.),(3,10,10.,4.),(4,10,10.,4.),(3,50,10.,4.),
    (4,20,10.,4.),(12,5,10.,4.)]
U1['libmf'] = [(2,10,.1,.02),(5,10,.05,.02),(8,10,.3,.08),(12,20,.1,.05),(20,10,.1,.05),(20,20,.3,.08),(50,10,.1,.08),
    (80,10,.2,.05),(120,10,.2,.05)]
SETTINGS = {'ml-latest-small':SMALL, 'ml-100k-u1':U1}

def rmse(pred, d, part):
    "RMSE of `pred`, clipped to the scale, on a part of the data"
    return float(np.sqrt(np.mean((np.clip(np.asarray(pred, dtype=np.float64), d['lo'], d['hi'])-d[f'r_{part}'])**2)))

def fit(peer, d, kwargs):
    "Seconds of one fit, and the RMSE on the test part"
    m = peer.model(**kwargs)
    start = time.perf_counter()
    m.fit(peer.data)
    secs = time.perf_counter()-start
    return secs,rmse(peer.predict(m, d['u_test'], d['i_test']), d, 'test')

def point(peer, d, kwargs):
    "Median seconds of a fit, and the median RMSE (several threads may not repeat themselves)"
    secs,res = zip(*(fit(peer, d, kwargs) for _ in range(REPEATS)))
    return statistics.median(secs),statistics.median(res)

def start(name, d, threads):
    "A contender with its data, its threads set, one fit behind it"
    from threadpoolctl import threadpool_limits
    for o in NAMES[name].modules: import_module(o)
    threadpool_limits(dict(blas=1, openmp=threads))   # BLAS is called from inside the libraries' own threads
    peer = NAMES[name](d, threads)
    fit(peer, d, {k:v[0] for k,v in peer.grid.items()})
    return peer

def curve(peer, d, rows, target):
    "Points of `rows` until the target is reached or RMSE no longer improves: epochs, seconds, RMSE"
    res,best,stale = [],float('inf'),0
    for row in rows:
        secs,err = point(peer, d, dict(zip(peer.grid, row)))
        res.append([row[0], round(secs, 5), round(err, 5)])
        best,stale = min(best, err),0 if err<best else stale+1
        if err<=target or stale==PATIENCE: break
    return res

def peak_mb():
    "Peak of this process; ru_maxrss only as a last resort: a new process inherits it from its parent"
    status = Path('/proc/self/status')
    if status.exists(): return int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1])*1024/1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)/1e6

def bench(name, file, threads, target):
    "What is printed for one contender on one file"
    if (stem := Path(file).stem) not in SETTINGS:
        raise KeyError(f'no settings for {stem}, only for {list(SETTINGS)}: run tune {name} {file} first')
    d,rows = dict(np.load(file)),SETTINGS[stem][name]
    peer = start(name, d, threads)
    res = curve(peer, d, rows, target)
    return dict(name=name, version=version(peer.package), settings=[dict(zip(peer.grid, o)) for o in rows[:len(res)]],
        threads=threads, curve=res,
        secs_to_target=next((s for _,s,e in res if e<=target), None), best_rmse=min(e for *_,e in res),
        peak_mb=round(peak_mb(), 1))

def held_out(d):
    "The training part cut in two: a random tenth is the test"
    rows = np.random.default_rng(0).permutation(len(d['u_train']))
    n = len(rows)//10
    return {**d, **{f'{o}_{part}':d[f'{o}_train'][r] for o in 'uir' for part,r in (('train',np.sort(rows[n:])),
        ('test',rows[:n]))}}

def tune(name, file):
    "Print the grid, then its frontier: the best settings of each (epochs, k) that no faster ones beat in RMSE"
    d = held_out(dict(np.load(file)))
    peer,res = start(name, d, 1),{}
    for row in itertools.product(*peer.grid.values()):
        secs,err = fit(peer, d, dict(zip(peer.grid, row)))
        res.setdefault(row[:2], []).append((secs,err,row))
        print(f'{secs:.4f} s  {err:.4f}  {dict(zip(peer.grid, row))}', flush=True)
    cells,best = sorted((statistics.median(o[0] for o in v), *min(o[1:] for o in v)) for v in res.values()),float('inf')
    print(f'frontier of {name} on {Path(file).stem}, {len(d["u_train"]):,} rows of training, {len(d["u_test"]):,} '
        f'held out')
    for secs,err,row in cells:
        if err>=best-5e-4: continue
        best = err
        print(f'{secs:.4f} s  {err:.4f}  {row}')

def give_up(name, out):
    "End the process with an error: libmf's threads now and then wait for each other for ever (a race in its scheduler)"
    print(json.dumps(dict(name=name, error=f'no result after {LIMIT} s')), file=out, flush=True)
    os._exit(0)

def main(args):
    "The command line"
    if args[0]=='tune': return tune(*args[1:])
    out = sys.stdout
    timer = threading.Timer(LIMIT, give_up, (args[0],out))
    timer.daemon = True
    timer.start()
    try:
        # libmf prints on import
        with contextlib.redirect_stdout(io.StringIO()): res = bench(args[0], args[1], int(args[2]), float(args[3]))
    except ImportError as e: res = dict(name=args[0], error=f"{e}: pip install 'fastcollab[bench]'")
    timer.cancel()
    print(json.dumps(res), file=out)

if __name__=='__main__': main(sys.argv[1:])
