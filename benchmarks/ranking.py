"""The figures of ranking

    python benchmarks/ranking.py [PART...]

`latest` and `lastfm` compare one call of ours, `arch='auto'`, with `implicit`, LightFM, RecTools, EASE and popularity
on ml-latest-small (the last fifth of each user by time) and Last.fm (a random fifth of each user), `more_clicks` on
FilmTrust, Flixster and YahooMusic; FASTCOLLAB_DATA has to hold them. Everybody chooses settings inside the training
part, on the same hidden pairs, and makes lists for the test part once. PEERS_PYTHON names a Python with the others.
`metrics` prints what `evaluate` takes for 100,000 users and 50,000 items, lists and intervals included, and what full
rankings add to an epoch of ml-latest-small, which FASTCOLLAB_DATA has to hold.
`speed` needs no data: interactions of the shape of MovieLens 1M, drawn by seed from power laws; `als` is the same for
alternating least squares, and `large` both for the shape of 10M, with `--all` of 25M, too. PEERS_PYTHON names a Python
with `implicit`, `rusket` and `irspack`; without it their rows are left out. Seconds are of the CPU, over all threads,
so that other work on the machine matters little; an epoch is the fastest of seven, in `large` of two (of the others,
the mean of two). A pair is an interaction and a negative that the user has not met."""
import os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np, torch

import ranking_peers
from common import report, row, say
from fastcollab.all import *
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.scorers import DotScorer
from fastcollab.train.als import ALSSolver, als_config
from fastcollab.train.rankers import RankerChoice, fit_rankers, looks_ahead, rows_to_hide
from fastcollab.train.sgd import SGDSolver

SHAPES = {'1 M':(6040,3706,1_000_000), '10 M':(70_000,10_000,10_000_000), '25 M':(160_000,60_000,25_000_000)}
K,EPOCHS = 64,7

def power_law(n_users, n_items, n, seed=0):
    "Distinct pairs of user and item, (n,2) int32 from 0; the k-th of them is met in proportion to k**-.6 or k**-.8"
    rng,found = np.random.default_rng(seed),np.zeros(0, np.int64)
    def draw(size, power, m):
        ends = np.cumsum(np.arange(1, size+1)**-power)
        return np.searchsorted(ends/ends[-1], rng.random(m))
    while len(found)<n:
        m = int(1.3*(n-len(found)))+1000
        found = np.unique(np.r_[found,draw(n_users, .6, m)*n_items+draw(n_items, .8, m)])
    found = rng.permutation(found)[:n]
    return np.c_[found//n_items,found%n_items].astype(np.int32)

PEER = """
import sys, time, numpy as np, scipy.sparse as sp
who,file,k,threads = sys.argv[1],sys.argv[2],int(sys.argv[3]),int(sys.argv[4])
pairs = np.load(file)
mat = sp.csr_matrix((np.ones(len(pairs), np.float32), pairs.T))
def fit(n):
    if who=='implicit':
        from implicit.bpr import BayesianPersonalizedRanking
        model = BayesianPersonalizedRanking(factors=k-1, iterations=n, num_threads=threads, random_state=0)
        model.fit(mat, show_progress=False)   # its bias is one of the factors
    else:
        import rusket
        rusket.BPR(factors=k, iterations=n, seed=0).fit(mat)
fit(1)
secs,more = [],int(sys.argv[6])
for n in (1,1+more)*(2 if more>2 else 1):
    start = time.process_time(); fit(n); secs.append(time.process_time()-start)
print()   # behind a progress bar
print(min(b-a for a,b in zip(secs[::2], secs[1::2]))/more)
"""

def peer_seconds(who, pairs, threads=1, code=PEER, cg=0, n=EPOCHS):
    "CPU seconds of an epoch of a peer, None if it isn't there"
    if not (python := os.environ.get('PEERS_PYTHON')): return None
    env = {**os.environ, **{o:str(threads) for o in ('OMP_NUM_THREADS','RAYON_NUM_THREADS','OPENBLAS_NUM_THREADS')}}
    with tempfile.TemporaryDirectory() as d:
        np.save(file := Path(d)/'pairs.npy', pairs)
        args = [python, '-c', code, who, file, *map(str, (K,threads,cg,n))]
        res = subprocess.run(args, capture_output=True, text=True, env=env)
    return float(res.stdout.split()[-1]) if res.returncode==0 else None

def click_loaders(pairs, **kwargs):
    "Loaders of all pairs"
    df = pd.DataFrame(pairs, columns=['user','item'])
    return CollabDataLoaders.from_interactions(df, valid_pct=0, seed=0, **kwargs)

def timed_epochs(f, n=EPOCHS):
    "The fewest CPU seconds, and the fewest seconds by the clock, of `n` calls"
    cpu,wall = [],[]
    for _ in range(n):
        start = time.process_time(),time.perf_counter()
        f()
        cpu.append(time.process_time()-start[0])
        wall.append(time.perf_counter()-start[1])
    return min(cpu),min(wall)

def sgd_row(name, dls, loss, lr, threads, asked='', epochs=EPOCHS):
    "Pairs a second of plain steps"
    torch.manual_seed(0)
    model = DotProductBias.from_dls(dls, n_factors=K)
    solver = SGDSolver(model, dls.train_ds, loss.setup(dls), seed=0, threads=threads)
    solver.epoch(lr)   # compiles
    cpu,wall = timed_epochs(lambda: solver.epoch(lr), epochs)
    n = len(dls.train_ds)*solver.formula.n_neg
    row(f'{name}, {loss}, plain steps, {threads} thread{"s"[:threads>1]}',
        f'{n/cpu*threads/1e6:.1f} M/s ({n/wall/1e6:.1f} by the clock)', asked)

def adam_row(name, dls, loss):
    "Pairs a second of Adam, bs=4096, on one thread, validation and negatives included"
    learn = collab_learner(dls, n_factors=K, loss_func=loss)
    def fit():
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    fit()
    cpu,_ = timed_epochs(fit, 3)
    row(f'{name}, {loss}, Adam, bs={dls.bs:,}, 1 thread', f'{len(dls.train_ds)*dls.train_ds.n_neg/cpu/1e6:.1f} M/s')

def bpr_peers(name, pairs, epochs=EPOCHS):
    "Pairs a second of BPR elsewhere"
    for who in ('implicit','rusket'):
        secs = peer_seconds(who, pairs, n=epochs)
        if secs is not None: row(f'{name}, {who}, BPR, 1 thread', f'{len(pairs)/secs/1e6:.1f} M/s')

def speed():
    "Pairs a second of BPR, WARP and sampled softmax, and of peers"
    say(f'\nPairs a second, k={K}; verified negatives; CPU seconds' )
    name,shape = '1 M',SHAPES['1 M']
    pairs = power_law(*shape)
    dls = click_loaders(pairs, bs=4096)
    for threads in (1,2): sgd_row(name, dls, BPRLoss(), .05, threads, f'asked: {12 if threads==1 else 20} M/s')
    sgd_row(name, dls, WARPLoss(), .002, 1)
    adam_row(name, dls, BPRLoss())
    more = click_loaders(pairs, bs=4096, n_neg=10, sampler='popularity')
    sgd_row(f'{name}, n_neg=10, by popularity', more, SampledSoftmaxLoss(), .05, 1)
    adam_row(name, more, SampledSoftmaxLoss())
    bpr_peers(name, pairs)

def random_recommender(n_users, n_items, n_seen):
    "Random vectors, and a random history"
    gen = torch.Generator().manual_seed(0)
    sides = [Factors(torch.randn(n+1, K, generator=gen)) for n in (n_users,n_items)]
    u = torch.arange(1, n_users+1).repeat_interleave(n_seen)
    i = torch.randint(1, n_items+1, (len(u),), generator=gen)
    items = pd.DataFrame(dict(item=range(n_items), title=range(n_items)))
    history = UserHistory.from_ratings(u, i, torch.ones(len(u)), n_users+1)
    ids = pd.RangeIndex(n_users),pd.RangeIndex(n_items)
    return Recommender(DotScorer(*sides), ids, ('user','item','rating'), items, history)

def random_test(rec, n_held):
    "Rows that are not in the history of their user"
    rng = np.random.default_rng(1)
    pairs = pd.DataFrame(dict(user=np.repeat(np.arange(rec.n_users-1), n_held),
        item=rng.integers(0, rec.n_items-1, (rec.n_users-1)*n_held))).drop_duplicates()
    seen = rec.history.users().numpy()*rec.n_items+rec.history.items.numpy()
    return pairs[~np.isin((pairs.user+1)*rec.n_items+pairs.item+1, seen)]

def both_times(f):
    "Seconds of the CPU, over all threads, and by the clock"
    start = time.process_time(),time.perf_counter()
    f()
    return time.process_time()-start[0],time.perf_counter()-start[1]

def metrics():
    "All metrics with intervals for 100,000 users, and what full rankings add to an epoch"
    say('\nMetrics')
    torch.set_num_threads(2)
    rec = random_recommender(100_000, 50_000, 20)
    test = random_test(rec, 10)
    evaluate(rec, test[test.user<200])
    for auc in (False,True):
        cpu,wall = both_times(lambda: evaluate(rec, test, auc=auc))
        row(f'100,000 x 50,000, k=5,10,20, intervals, 2 threads{", and AUC"*auc}',
            f'{cpu:.1f} s CPU, {wall:.1f} s by the clock', 'asked: 9 s, two cores')
    torch.set_num_threads(1)
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), seed=42, val_bs=4096)
    names = [NDCG(10), Recall(20), Precision(10), MAP(10), MRR(10), HitRate(10), Coverage(10), Novelty(10)]
    base = None
    kinds = {'no metrics':None, 'NDCG(10)':[NDCG(10)], '8 metrics':names, '8 metrics and AUC':[*names,AUC()]}
    for what,ms in kinds.items():
        learn = collab_learner(dls, metrics=ms)
        with learn.no_bar(): cpu,_ = timed_epochs(learn.validate)
        base = base or cpu
        more = f'{cpu:.3f} s, {cpu-base:.3f} s more'
        row(f'ml-latest-small, one validation, {what}, 1 thread', more, 'asked: < .1 s')

ALS_PEER = PEER[:PEER.index('def fit')]+"""
steps = int(sys.argv[5])
def fit(n):
    if who=='implicit':
        from implicit.als import AlternatingLeastSquares
        how = dict(factors=k, iterations=n, num_threads=threads, random_state=0, use_cg=steps>0)
        AlternatingLeastSquares(**how).fit(mat, show_progress=False)
    elif who=='irspack':
        from irspack import IALSRecommender
        how = dict(solver_type='CG' if steps else 'CHOLESKY', max_cg_steps=max(1, steps))
        IALSRecommender(mat, n_components=k, train_epochs=n, n_threads=threads, **how).learn()
    else:
        import rusket
        how = dict(cg_iters=steps) if steps else dict(use_cholesky=True)
        rusket.ALS(factors=k, iterations=n, seed=0, **how).fit(mat)
"""+PEER[PEER.index('fit(1)\n'):]

def als_row(name, dls, cg, threads, asked='', epochs=EPOCHS):
    "Seconds of an epoch of alternating least squares"
    torch.manual_seed(0)
    ds = dls.train_ds
    solver = ALSSolver(DotProductBias.from_dls(dls, n_factors=K), ds, als_config(ds, cg=cg), threads)
    solver.epoch()   # compiles
    cpu,wall = timed_epochs(solver.epoch, epochs)
    how = f'{cg} steps of conjugate gradients' if cg else 'exact'
    row(f'{name}, {how}, {threads} thread{"s"[:threads>1]}', f'{cpu:.3f} s ({wall:.3f} by the clock)', asked)

def als_peers(name, pairs, cg, epochs=EPOCHS):
    "Seconds of an epoch elsewhere"
    how = f'{cg} steps of conjugate gradients' if cg else 'exact'
    for who in ('implicit','rusket','irspack'):
        secs = peer_seconds(who, pairs, code=ALS_PEER, cg=cg or 0, n=epochs)
        if secs is not None: row(f'{name}, {who}, {how}, 1 thread', f'{secs:.3f} s')

def als():
    "Seconds of an epoch of alternating least squares for clicks, and of peers"
    say(f'\nAn epoch of alternating least squares for clicks, k={K}; CPU seconds')
    pairs = power_law(*SHAPES['1 M'])
    dls = click_loaders(pairs, bs=4096)
    for threads in (1,2):
        for cg,limit in ((None,.15),(3,.08)):
            als_row('1 M', dls, cg, threads, f'asked: {limit} s' if threads==1 else '')
    for cg in (None,3): als_peers('1 M', pairs, cg)

def large():
    "The same for more interactions: epochs of BPR and of conjugate gradients, ours and of peers"
    for name,shape in SHAPES.items():
        if name=='1 M' or (name=='25 M' and '--all' not in sys.argv): continue
        pairs = power_law(*shape)
        say(f'\n{len(pairs):,} pairs of {shape[0]:,} users and {shape[1]:,} items, k={K}; CPU seconds')
        dls = click_loaders(pairs, bs=4096)
        for threads in (1,2): sgd_row(name, dls, BPRLoss(), .05, threads, epochs=2)
        bpr_peers(name, pairs, 2)
        for threads in (1,2): als_row(name, dls, 3, threads, epochs=2)
        als_peers(name, pairs, 3, 2)

def ml_100k():
    "nDCG@10 on ml-100k, split per item as Recommenders does"
    df = movielens('ml-100k')[['userId','movieId','rating']]
    splits = ItemStratifiedSplitter(.25, 'movieId', 42)(df)
    say(f'\nml-100k, {len(splits[0]):,} and {len(splits[1]):,} rows, per item, seed 42; k=10, seen items left out')
    dls = CollabDataLoaders.from_interactions(df, weight_name='rating', splits=splits, seed=0, bs=4096)
    def measured(name, fit, asked='', **kwargs):
        set_seed(0)
        learn = collab_learner(dls, metrics=[NDCG(10), Recall(10)], **kwargs)
        with learn.no_bar(), learn.no_logging(): fit(learn)
        _,n,r = learn.validate()
        row(name, f'nDCG@10 {n:.4f}, recall {r:.4f}', asked)
        return learn
    for arch in (Popular,ItemKNN,SLIM,EASE): measured(arch.__name__, lambda o: o.fit(1), arch=arch)
    measured('fit_als, defaults', lambda o: o.fit_als(12), arch=DotProductBias, n_factors=64)
    learn = measured("arch='auto'", lambda o: o.fit_auto(), 'asked: 0.500', arch='auto')
    say(learn.auto_choice)
    choice = learn.auto_choice
    singles = {str(o):choice.ndcg[str(o)] for o in choice.rankers}
    lead = max(choice.rankers, key=lambda o: singles[str(o)])
    best = RankerChoice([lead], [1.], {})
    def alone(o): o.model = fit_rankers(best, dls)
    measured(f'{lead}, alone', alone, 'asked: 0.490', arch=DotProductBias)

class Clicks(NamedTuple):
    "Interactions, how to split them, and arguments of `from_interactions`"
    name:str
    df:pd.DataFrame
    splitter:Callable
    kwargs:dict = {}

def data(name): return Path(os.environ['FASTCOLLAB_DATA'])/name
def read_pairs(name):
    "Pairs of one of the sets without times"
    if name=='filmtrust.txt':
        return pd.read_csv(data(name), sep=r'\s+', names=['user','item','rating']).drop_duplicates(['user','item'])
    d = np.load(data(name))
    ids = np.concatenate([d['train'],d['test']])
    return pd.DataFrame(dict(user=ids[:,0], item=ids[:,1], rating=np.append(d['train_rating'], d['test_rating'])))

def latest_clicks():
    df = movielens('ml-latest-small')[['userId','movieId','rating','timestamp']]
    how = dict(time_name='timestamp')
    return Clicks('ml-latest-small, last 20 % of each user', to_implicit(df), LastShareSplitter(.2), how)
def lastfm_clicks():
    df = pd.read_csv(data('lastfm_user_artists.dat'), sep='\t')
    df.columns = ['user','item','plays']
    how = dict(weight_name='plays', rule='log')
    return Clicks('Last.fm, random 20 % of each user', df, UserStratifiedSplitter(.2, seed=0), how)
def other_clicks(name, file):
    df = to_implicit(read_pairs(file)).reset_index(drop=True)
    return Clicks(f'{name}, random 20 % of each user', df, UserStratifiedSplitter(.2, seed=0))

SEARCH = 30 # CPU seconds that each of the others may search for

def peer_lists(dls, name):
    "Lists, what was chosen and CPU seconds, or what is wrong, of a method of `ranking_peers`"
    ds = dls.train_ds
    ids,w = ds.store.arrays()
    u,i,w = ids[:,0]-1,ids[:,1]-1,w[:,0]
    hidden = rows_to_hide(ds, .2, None if looks_ahead(dls) else 0)
    d = dict(n_users=dls.n_users-1, n_items=dls.n_items-1, hidden_u=u[hidden], hidden_i=i[hidden],
        users=np.arange(dls.n_users-1), name=name, budget=SEARCH)
    for part,rows in (('all_',slice(None)),('rest_',~hidden)): d.update({part+k:v[rows] for k,v in zip('uiw', (u,i,w))})
    with tempfile.TemporaryDirectory() as temp:
        source,target = Path(temp, 'in.npz'),Path(temp, 'out.npz')
        np.savez(source, **d)
        one = {'PYTHONPATH':'', **dict.fromkeys(('OMP_NUM_THREADS','OPENBLAS_NUM_THREADS'), '1')}
        command = [os.environ.get('PEERS_PYTHON', sys.executable), ranking_peers.__file__, source, target]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **one})
        with np.load(target) as o: out = dict(o)
    return str(out['error']) if 'error' in out else (out['lists'],str(out['said']),float(out['secs']))

def list_frame(lists, dls):
    "Lists as a table of raw ids"
    ids = [np.array(list(dls.classes[o])[1:]) for o in (dls.user_name,dls.item_name)]   # without '#na#'
    return pd.DataFrame(dict(user=np.repeat(ids[0], lists.shape[1]), item=ids[1][lists.ravel()]))

def compare_clicks(clicks):
    "A table of all methods on one set; two of the others run beside ours"
    df,splits = clicks.df,clicks.splitter(clicks.df)
    train,test = (df.iloc[np.asarray(o)] for o in splits)
    dls = CollabDataLoaders.from_interactions(train, valid_pct=0, seed=0, bs=4096, **clicks.kwargs)
    ours,learn = "fastcollab, arch='auto'",collab_learner(dls, arch='auto')
    with ThreadPoolExecutor(2) as pool:
        asked = {name:pool.submit(peer_lists, dls, name) for name in ranking_peers.GRIDS}
        with learn.no_logging(): secs,_ = both_times(learn.fit_auto)
    say(f'\n{clicks.name}: {len(train):,} and {len(test):,} rows, {dls.n_users-1:,} users, {dls.n_items-1:,} items')
    say(learn.auto_choice)
    models,said = {ours:learn},{ours:f'{secs:.0f} s, {len(learn.auto_choice.ndcg)-1} rankers tried'}
    for name,res in ((k,o.result()) for k,o in asked.items()):
        if isinstance(res, str): say(f'{name}: {res}')
        else: models[name],said[name] = list_frame(res[0], dls),f'{res[2]:.0f} s; {res[1]}'
    found = compare(models, test, k=(10,20), train=train, names=[*df.columns[:2],None])
    for metric in ('ndcg@10','recall@20'):
        say(f'{metric}, and the difference to ours with a 95 % interval over users, the same users for all')
        for name,(value,gap,low,high,_) in found.differences(metric, ours).iterrows():
            row(name, f'{value:.4f}', f'{gap:+.4f} ({low:+.4f} to {high:+.4f})')
    say(f'CPU seconds of search and fit; the others may search for {SEARCH} s each')
    for name,text in said.items(): say(f'{name}: {text}')

def latest():
    "nDCG@10 and Recall@20 on ml-latest-small"
    compare_clicks(latest_clicks())

def lastfm():
    "nDCG@10 and Recall@20 on Last.fm"
    compare_clicks(lastfm_clicks())

def more_clicks():
    "The same on small sets of ratings that are read as clicks"
    files = dict(FilmTrust='filmtrust.txt', Flixster='flixster_monti.npz', YahooMusic='yahoo_music_monti.npz')
    for name,file in files.items(): compare_clicks(other_clicks(name, file))

if __name__=='__main__':
    note = 'one thread unless a row says otherwise'
    report(__file__, [speed,als,large,ml_100k,latest,lastfm,more_clicks,metrics], note)
