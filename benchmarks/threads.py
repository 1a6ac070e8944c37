"""Fits on a busy machine: CPU seconds beside those of the same fit on a quiet one

    python benchmarks/threads.py      # under two minutes on two cores that nobody else uses

Each kind of fit runs four times alone and four times beside a busy process for each core, with as many threads as the
machine offers, whatever OMP_NUM_THREADS says. The last row is fastai.collab, for comparison. The ratio takes the best
of the quiet fits; threads that wait for each other show in it as CPU seconds, since waiting is spinning."""
import multiprocessing, os
for name in ('OMP_NUM_THREADS','MKL_NUM_THREADS','OPENBLAS_NUM_THREADS'): os.environ.pop(name, None)
from common import *
from fastai.collab import CollabDataLoaders as FastaiDataLoaders, collab_learner as fastai_learner

def ratings(n_users, n_items, n):
    "Ratings whose numbers are all that matters"
    rng = np.random.default_rng(0)
    return pd.DataFrame(dict(user=rng.integers(0, n_users, n), item=(n_items*rng.random(n)**2).astype(int),
        rating=rng.integers(1, 6, n).astype(np.float32)))

class Stop(Callback):
    "End a fit after so many batches"
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.train_iter>=self.n: raise CancelFitException()

def fits():
    "A function for each kind of fit"
    df,many = ratings(600, 9000, 100_000),ratings(6000, 4000, 1_000_000)
    small,big = (CollabDataLoaders.from_df(o, seed=0, bs=bs) for o,bs in ((df,64),(many,8192)))
    def fit(dls, n=None, epochs=1, how='fit', **kwargs):
        learn = collab_learner(dls, y_range=(0,5.5), cbs=None if n is None else Stop(n), **kwargs)
        with learn.no_bar(), learn.no_logging(): getattr(learn, how)(epochs)
    def fastai():
        dls = FastaiDataLoaders.from_df(df, seed=0, bs=64)
        learn = fastai_learner(dls, n_factors=50, y_range=(0,5.5), cbs=Stop(50))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return {'DotProductBias, 64 ratings, compiled': lambda: fit(small, epochs=10, n_factors=50),
        'DotProductBias, 64 ratings, dense Adam': lambda: fit(small, n=200, n_factors=50, opt_func=Adam),
        'CollabNN, 64 ratings': lambda: fit(small, n=200, arch=CollabNN),
        'DotProductBias, 8192 of 1 M ratings, compiled': lambda: fit(big, epochs=3, n_factors=50),
        'Gibbs sampling, 1 M ratings': lambda: fit(big, epochs=3, how='fit_gibbs', n_factors=20)},fastai

def seconds(f):
    "CPU seconds of all threads of this process"
    start = time.process_time()
    f()
    return time.process_time()-start

def spin():
    while True: pass

def beside_others(f):
    "What `f` returns beside a busy process for each core"
    others = [multiprocessing.Process(target=spin, daemon=True) for _ in range(os.cpu_count())]
    for o in others: o.start()
    try: return f()
    finally:
        for o in others:
            o.terminate()
            o.join()

def threads(times=4):
    torch.set_num_threads(os.cpu_count())
    kinds,fastai = fits()
    for f in kinds.values(): f()   # compiles
    quiet = {k:[seconds(f) for _ in range(times)] for k,f in kinds.items()}
    quiet['fastai.collab, 64 ratings'] = [seconds(fastai)]
    busy = beside_others(lambda: {k:[seconds(f) for _ in range(times)] for k,f in kinds.items()})
    busy['fastai.collab, 64 ratings'] = beside_others(lambda: [seconds(fastai)])
    for k in quiet:
        row(k, f'{min(quiet[k]):.2f} s, busy {max(busy[k]):.2f} s', f'x {max(busy[k])/min(quiet[k]):.2f} at most')
    within = sum(o<=2*min(quiet[k]) for k in kinds for o in busy[k])
    row('fits on a busy machine within 2 times the quiet CPU seconds', f'{within} of {times*len(kinds)}', '20 of 20')

if __name__=='__main__':
    note = f'{os.cpu_count()} threads of torch; CPU seconds of the best quiet and the worst busy fit'
    report(__file__, [threads], note)
