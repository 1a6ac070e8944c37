"""Speed and accuracy of this checkout against another one

    FASTCOLLAB_DATA=DIR python benchmarks/before_after.py OTHER [PART...]   # about 10 minutes on 2 cores

DIR holds ml-latest-small.zip and ml-100k.zip; OTHER is a checkout of fastcollab, such as an earlier commit. About 10
minutes on 2 cores. Each part runs in its own process, on one thread, first from OTHER and then from here, ROUNDS times
in turn, after one round that compiles. Seconds are medians; the ratio is the median of the ratios of the pairs. Errors
are RMSE on the validation part with the same seed. A change of structure passes if ratios stay below 1.03 and errors
within 0.0005. Results go to benchmarks/results/before_after.txt."""
import json, os, statistics, subprocess, sys, time, warnings
from pathlib import Path

ROUNDS,HERE = 5,Path(__file__).resolve().parent.parent

# in the process of one checkout
def fit(learn, *args, **kwargs):
    "Seconds of a fit, and the RMSE after it"
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        learn.fit_one_cycle(*args, **kwargs)
        seconds = time.perf_counter()-start
        return seconds,learn.validate()[1]

def small(bs=64, **kwargs):
    "Biased matrix factorization on ml-latest-small, 5 epochs at bs=64"
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), seed=42, bs=bs, **kwargs)
    set_seed(0)
    return fit(collab_learner(dls, n_factors=50, y_range=(0,5.5), metrics=rmse), 5, 5e-3, wd=.1)

def genres():
    "The same with genres"
    return small(genre_name='genres')

def net():
    "A neural net on ml-latest-small, 3 epochs at bs=512"
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), seed=42, bs=512)
    set_seed(0)
    return fit(collab_learner(dls, use_nn=True, layers=[100], y_range=(0,5.5), metrics=rmse), 3, 5e-3, wd=.1)

def auto():
    "The most accurate model on ml-100k u1, ids, sets and session effects"
    df,splits = movielens_fold('ml-100k', 1)
    dls = CollabDataLoaders.from_df(df, splits=splits, seed=42, time_name='timestamp')
    set_seed(0)
    learn = collab_learner(dls, arch='best', metrics=rmse)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_best()
    seconds = time.perf_counter()-start
    with learn.no_bar(): return seconds,learn.validate()[1]

def warm():
    "Load the compiled loops before anything is timed"
    df = synthetic_ratings(60, 40, 1000)
    for kwargs in (dict(), dict(genre_name='genres')):
        fit(collab_learner(CollabDataLoaders.from_df(df, seed=42, **kwargs), metrics=rmse), 1, 5e-3)
    fit(collab_learner(CollabDataLoaders.from_df(df, seed=42, time_name='timestamp'), arch='best', metrics=rmse), 1,
        5e-3)

def million(): return synthetic_ratings(6040, 3706, 1_000_209)

def rows(bs):
    "1 M synthetic ratings, 2 epochs"
    dls = CollabDataLoaders.from_df(million(), seed=42, bs=bs)
    set_seed(0)
    return fit(collab_learner(dls, n_factors=50, y_range=(0,5.5), unk_p=0, metrics=rmse), 2, 5e-3, wd=.1)

def rows64():
    "1 M synthetic ratings, 2 epochs at bs=64"
    return rows(64)
def rows1024():
    "1 M synthetic ratings, 2 epochs at bs=1024"
    return rows(1024)
def rows8192():
    "1 M synthetic ratings, 2 epochs at bs=8192"
    return rows(8192)

def encode():
    "Encode and split 1 M ratings"
    df = million()
    start = time.perf_counter()
    CollabDataLoaders.from_df(df, seed=42, genre_name='genres')
    return time.perf_counter()-start,None

def trained(n_users=10_000, n_items=5000, n=500_000):
    "A recommender, and ratings of users whom it doesn't know"
    df = synthetic_ratings(n_users, n_items, n)
    new = df.userId>n_users-2000
    learn = collab_learner(CollabDataLoaders.from_df(df[~new], seed=42, bs=4096), n_factors=64, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 5e-3, wd=.1)
    rec = learn.recommender()
    return rec,df[new & df.movieId.isin(rec.ids[1])]

def lists():
    "Top 10 of 8,000 users among 5,000 items"
    rec,_ = trained()
    start = time.perf_counter()
    rec.recommend(k=10)
    return time.perf_counter()-start,None

def fold():
    "Fold in 2,000 users"
    rec,new = trained()
    rec.fold_in(new[new.userId==new.userId.iloc[0]])   # finds the decay, once
    start = time.perf_counter()
    rec.fold_in(new)
    return time.perf_counter()-start,None

PARTS = [small,genres,net,auto,rows64,rows1024,rows8192,encode,lists,fold]

# in the process that compares
def run(checkout, part):
    "Seconds and error of a part, run from a checkout"
    env = dict(os.environ, PYTHONPATH=str(checkout), OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')
    out = subprocess.run([sys.executable, '-W', 'ignore', __file__, 'run', part], env=env, capture_output=True,
        text=True)
    if out.returncode: raise RuntimeError(f'{part} failed from {checkout}: {out.stderr[-2000:]}')
    return json.loads(out.stdout.splitlines()[-1])

def compare(other, names):
    "Print a row for each part"
    from common import LINES, machine, say
    say(f'benchmarks/before_after.py: {machine()}\none thread; medians of {ROUNDS} runs in turn; seconds before, '
        f'after, and their ratio; RMSE before and after')
    for part in PARTS:
        if names and part.__name__ not in names: continue
        pairs = [(run(other, part.__name__),run(HERE, part.__name__)) for _ in range(ROUNDS+1)][1:]
        before,after = (statistics.median(o[k][0] for o in pairs) for k in (0,1))
        ratio = statistics.median(b[0]/a[0] for a,b in pairs)
        errors = [pairs[0][k][1] for k in (0,1)]
        shown = '' if errors[0] is None else f'{errors[0]:.5f} {errors[1]:.5f}  {errors[1]-errors[0]:+.5f}'
        say(f'{part.__doc__:<72} {before:8.3f} {after:8.3f} {ratio:6.2f}   {shown}')
    (HERE/'benchmarks/results/before_after.txt').write_text('\n'.join(LINES)+'\n')

if __name__=='__main__':
    warnings.simplefilter('ignore')
    if sys.argv[1]=='run':
        from fastcollab.all import *
        torch.set_num_threads(1)
        warm()
        seconds,error = globals()[sys.argv[2]]()
        print(json.dumps([seconds, None if error is None else float(error)]))
    else: compare(Path(sys.argv[1]).resolve(), sys.argv[2:])
