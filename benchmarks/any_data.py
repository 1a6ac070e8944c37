"""The errors of models without tuning, on any data, beside other libraries

    FASTCOLLAB_DATA=DIR python benchmarks/any_data.py [PART...]   # about 45 minutes on 2 cores
    FASTCOLLAB_DATA=DIR python benchmarks/any_data.py tune   # print settings of myFM, 15 minutes

DIR holds ml-100k.zip, ml-latest-small.zip, flixster_monti.npz, yahoo_music_monti.npz (the splits of Monti,
Bronstein and Bresson 2017), filmtrust.txt and lastfm_user_artists.dat. PEERS_PYTHON names a Python that has the
extra `bench`, if this one doesn't. ANY_DATA_CACHE names a JSON file, outside the repository, that keeps the results
of other libraries, so that another run need not repeat them; seconds then come from different runs.

Each split gets, with training seeds 0, 1, 2:
* averages: the global mean, and user and item biases (`BiasBaseline`)
* Surprise SVD and cmfrec CMF as they come, CMF with features of both sides too where there are any
* myFM with 300 sweeps, all kept: ids, ids and sets, and all, which adds features and the day. `tune` chose its rank,
  the likelihood and the scale of ratings for each set of data, on a tenth of the training part
* auto: `collab_learner(dls, arch='auto')` and `learn.fit_auto()`
* Gibbs: `collab_learner(dls, arch=SVDPlusPlus)` and `learn.fit_gibbs()`, with session effects where there are times

Models see the training part only; they predict the test part once, when they are fitted, and predictions are clipped to
the range of the training ratings. Seconds are CPU seconds of the fit, on data in the library's own format, on one
thread; behind them stands how many times as fast that is as a row of myFM, and as its seconds divided by factors (ours
has 16 or 32). What follows `<=` is the target. Other libraries run beside ours, on the second core."""
import contextlib, io, json, os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import any_peers
from accuracy import columns, five, mean_sd, quietly, tenth, with_year
from common import *
from fastcollab.train.sampler import default_factors

class Part(NamedTuple):
    "Ratings with users, items and ratings first, a list of splits, and columns to use"
    data:str
    split:str
    df:pd.DataFrame
    splits:list
    cols:dict = {}

# of myFM, chosen by `tune`
SETTINGS = {'flixster':dict(sets=True, rank=5, probit=True), 'yahoo_music':dict(rank=10, scaled=True),
    'filmtrust':dict(sets=True, rank=20, probit=True), 'ml-100k':dict(sets=True, rank=20),
    'ml-latest-small':dict(sets=True, rank=5)}

# data
def data(name): return Path(os.environ['FASTCOLLAB_DATA'])/name

def monti(name):
    "A split of Monti and others"
    d = np.load(data(f'{name}_monti.npz'))
    ids = np.concatenate([d['train'],d['test']])
    df = pd.DataFrame(dict(user=ids[:,0], item=ids[:,1], rating=np.append(d['train_rating'], d['test_rating'])))
    return Part(name, 'monti', df.astype(dict(rating=float)), [np.split(np.arange(len(df)), [len(d['train'])])])

def shuffled(df, share=.8, seed=0):
    "Row numbers of a random split"
    return np.split(np.random.default_rng(seed).permutation(len(df)), [int(share*len(df))])

def filmtrust_part():
    df = pd.read_csv(data('filmtrust.txt'), sep=r'\s+', names=['user','item','rating'])
    df = df.drop_duplicates(['user','item']).reset_index(drop=True)
    return Part('filmtrust', 'random', df, [shuffled(df)])

def u1_part(**kwargs):
    df,splits = movielens_fold('ml-100k', 1)
    df = with_year(df)
    return Part('ml-100k', 'u1', df, [splits], columns(df, **kwargs))

def random5_part(**kwargs):
    df = with_year(movielens('ml-100k'))
    return Part('ml-100k', 'random5', df, five(len(df)), columns(df, **kwargs))

def movielens_part(name, split, splitter):
    df = with_year(movielens(name))
    return Part(name, split, df, [splitter(df)], columns(df))

def latest_part(): return movielens_part('ml-latest-small', 'random', RandomSplitter(.2, seed=42))

def lastfm_part():
    df = pd.read_csv(data('lastfm_user_artists.dat'), sep='\t')
    df.columns = ['user','item','rating']
    return Part('lastfm', 'random', df.astype(dict(rating=float)), [shuffled(df)])

# other libraries
def feature_columns(df, key, names):
    "Columns of ones of each user or item, as `indptr`, `indices` and `groups`; ages in steps of five years"
    first = df.drop_duplicates(key[0]).sort_values(key[0])
    rows,cols,groups,n = [],[],[],0
    for g,name in enumerate(names):
        values = first[name].astype(str).str.split('|') if name=='genres' else \
            first[name]//5 if name=='age' else first[name]
        values = values.reset_index(drop=True).explode()
        codes,levels = pd.factorize(values)
        rows.append(values.index.to_numpy())
        cols.append(codes+n)
        groups += [g]*len(levels)
        n += len(levels)
    rows,cols = np.concatenate(rows),np.concatenate(cols)
    order = np.lexsort((cols,rows))
    return dict(indptr=np.searchsorted(rows[order], np.arange(len(first)+1)), indices=cols[order], groups=groups)

def arrays(part, split):
    "What other libraries get"
    df,(train,test) = part.df,split
    ids = [pd.factorize(df.iloc[:,k], sort=True) for k in (0,1)]
    res = {f'{k}_{p}':codes[rows] for k,(codes,_) in zip('ui', ids) for p,rows in (('train',train),('test',test))}
    y = df.iloc[train,2].to_numpy()
    res.update(r_train=y, n_users=len(ids[0][1]), n_items=len(ids[1][1]), lo=y.min(), hi=y.max())
    for side,name in enumerate(('user_cols','item_cols')):
        if names := part.cols.get(name):
            res.update({f'{k}{side}':v for k,v in feature_columns(df, df.columns[[side]], names).items()})
    if time := part.cols.get('time_name'):
        day = df[time].to_numpy()//86400
        res.update(day_train=day[train], day_test=day[test])
    return res

def ask(d, jobs):
    "Predictions and seconds of each job of `any_peers`, or what is wrong"
    with tempfile.TemporaryDirectory() as temp:
        source,target = Path(temp, 'in.npz'),Path(temp, 'out.npz')
        np.savez(source, jobs=json.dumps(jobs), **d)
        one = {'PYTHONPATH':'', **dict.fromkeys(('OMP_NUM_THREADS','OPENBLAS_NUM_THREADS'), '1')}
        command = [os.environ.get('PEERS_PYTHON', sys.executable), any_peers.__file__, source, target]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **one})
        with np.load(target) as o: out = dict(o)
    return [str(out[f'error{k}']) if f'error{k}' in out else (out[f'pred{k}'],float(out[f'secs{k}']))
        for k in range(len(jobs))]

def peer_jobs(part):
    "Rows of other libraries: name, library and settings"
    best,sided = SETTINGS[part.data],part.cols.get('user_cols') or part.cols.get('item_cols')
    res = {'Surprise SVD':('surprise',{}), 'cmfrec CMF':('cmfrec',{})}
    if sided: res['cmfrec CMF, features'] = 'cmfrec',dict(side_info=True)
    res.update({'myFM, ids':('myfm',{}), 'myFM, ids and sets':('myfm',dict(sets=True))})
    if not sided: res['myFM, best settings'] = 'myfm',best
    else: res['myFM, all, best settings'] = 'myfm',dict(side_info=True, **best)
    return res

def clipped_rmse(pred, part, split):
    "RMSE of predictions of the test part, clipped to the range of the training ratings"
    y,(train,test) = part.df.iloc[:,2].to_numpy(),split
    return float(np.sqrt(np.mean((np.clip(pred, y[train].min(), y[train].max())-y[test])**2)))

class Cache:
    "Results of other libraries, which tables share; in a file too, if ANY_DATA_CACHE names one"
    def __init__(self):
        file = os.environ.get('ANY_DATA_CACHE')
        self.file = file and Path(file)
        self.known = json.loads(self.file.read_text()) if file and self.file.exists() else {}
    def keep(self, more):
        self.known.update(more)
        if self.file: self.file.write_text(json.dumps(self.known, indent=0))

CACHE = Cache()

def peer_fold(part, fold, d):
    "RMSE and seconds of each row of other libraries and each seed on one split, {row: (seeds,2)}, or what is wrong"
    res,todo = {},{}
    for row,(name,settings) in peer_jobs(part).items():
        for seed in SEEDS:
            key = json.dumps([part.data, part.split, fold, name, settings, seed])
            if key not in CACHE.known: todo[key] = name,seed,settings
            res.setdefault(row, []).append(key)
    if todo:
        out = zip(todo, ask(d, list(todo.values())))
        CACHE.keep({k:o if isinstance(o, str) else (clipped_rmse(o[0], part, part.splits[fold]),o[1]) for k,o in out})
    return {row:[CACHE.known[o] for o in keys] for row,keys in res.items()}

def peer_results(part, inputs):
    "RMSE and seconds of each row of other libraries, {row: (seeds,folds,2)}, or what is wrong"
    folds = [peer_fold(part, f, d) for f,d in enumerate(inputs)]
    def gather(row):
        if bad := [o for fold in folds for o in fold[row] if isinstance(o, str)]: return bad[0]
        return np.array([o[row] for o in folds]).swapaxes(0, 1)
    return {row:gather(row) for row in folds[0]}

# ours
def new_loaders(part, split):
    "Loaders of the training part alone"
    return CollabDataLoaders.from_df(part.df.iloc[split[0]], valid_pct=0, seed=42, **part.cols)

def averages(part, split):
    "RMSE of the global mean and of user and item biases"
    dls,test = new_loaders(part, split),part.df.iloc[split[1]]
    model = BiasBaseline.from_dls(dls)
    with (learn := collab_learner(dls, arch=model)).no_bar(): pred = learn.predict(test)
    return clipped_rmse(np.full(len(test), model.mean.item()), part, split),clipped_rmse(pred, part, split)

def auto(dls, seed):
    learn = collab_learner(dls, arch='auto')
    return quietly(learn, lambda: learn.fit_auto(seed=seed))

def gibbs(dls, seed):
    cbs = None if dls.train_ds.store.timestamps() is None else FitSessionEffects()
    learn = collab_learner(dls, arch=SVDPlusPlus, cbs=cbs)
    return quietly(learn, lambda: learn.fit_gibbs(seed=seed))

OURS = dict(auto=auto, Gibbs=gibbs)

def our_fit(fit, part, split, seed):
    "RMSE and seconds"
    dls = new_loaders(part, split)
    set_seed(seed)
    # the choice of `fit_auto` is printed
    with contextlib.redirect_stdout(io.StringIO()): learn,secs = any_peers.seconds(lambda: fit(dls, seed))
    with learn.no_bar(): pred = learn.predict(part.df.iloc[split[1]])
    return clipped_rmse(pred, part, split),secs

def our_results(part, fit):
    "RMSE and seconds by seed and fold, (seeds,folds,2)"
    return np.array([[our_fit(fit, part, o, seed) for o in part.splits] for seed in SEEDS])

def warm():
    "Compile and load everything that is timed"
    df = synthetic_ratings(60, 40, 1000)
    for cols in ({}, dict(item_cols='genres', time_name='timestamp')):
        for fit in OURS.values(): our_fit(fit, Part('', '', df, [], cols), np.split(np.arange(1000), [900]), 0)

# tables
def line(what, res, goal='', more=''):
    if isinstance(res, str): return say(f'{what:<26} {res}')
    say(f'{what:<26} {mean_sd(res[...,0].mean(1)):<20} {goal:<11} {res[...,1].mean():8.2f} s   {more}'.rstrip())

def speeds(part, what, secs, theirs):
    "How many times as fast `what` is as each row of myFM, and that for each factor"
    if not theirs: return
    k = default_factors(len(part.splits[0][0]), sum(part.df.iloc[:,o].nunique() for o in (0,1)))
    for row,(name,settings) in peer_jobs(part).items():
        if name!='myfm' or isinstance(theirs[row], str): continue
        ratio = theirs[row][...,1].mean()/secs
        each = f', {ratio*k/settings.get("rank", 10):.1f} a factor' if what=='Gibbs' else ''
        yield f'{ratio:.1f}{each} ({row.removeprefix("myFM, ")})'

def table(title, part, goal='', peers=True):
    "All methods on one set of data; other libraries have the second core"
    start = time.perf_counter()
    n = [f'{len(o):,}' for o in part.splits[0]]
    say(f'\n{title}: {n[0]} ratings to train on, {n[1]} to predict')
    inputs = [arrays(part, o) for o in part.splits] if peers else []
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(peer_results, part, inputs) if peers else None
        base = np.mean([averages(part, o) for o in part.splits], 0)
        ours = {what:our_results(part, fit) for what,fit in OURS.items()}
    theirs = theirs.result() if peers else {}
    for what,err in zip(('global mean','user and item biases'), base): say(f'{what:<26} {err:.4f}')
    for what,o in theirs.items(): line(what, o)
    for what,o in ours.items():
        speed = '; '.join(speeds(part, what, o[...,1].mean(), theirs))
        line(what, o, goal if what=='auto' else '', speed and f'times as fast as myFM: {speed}')
    say(f'({time.perf_counter()-start:.0f} s)')

def flixster(): table('Flixster, split of Monti and others', monti('flixster'), '<= 0.867')
def yahoo_music(): table('YahooMusic, split of Monti and others', monti('yahoo_music'), '<= 18.65')
def filmtrust(): table('FilmTrust, random 80/20', filmtrust_part(), '<= 0.772')
def u1_ids(): table('ml-100k u1, ids', u1_part(features=False, time=False), '<= 0.8825')
def u1_all(): table('ml-100k u1, features and times', u1_part(), '<= 0.866')
def random5_ids(): table('ml-100k, five random folds, ids', random5_part(features=False, time=False), '<= 0.874')
def random5_all(): table('ml-100k, five random folds, features and times', random5_part(), '<= 0.855')
def latest(): table('ml-latest-small, random 80/20, features and times', latest_part(), '<= 0.785')
def forward_100k():
    part = movielens_part('ml-100k', 'last', TemporalSplitter(.1))
    table('ml-100k, the last tenth in time, features and times', part, '<= 1.021')
def forward_latest():
    part = movielens_part('ml-latest-small', 'last', TemporalSplitter(.1))
    table('ml-latest-small, the last tenth in time, features and times', part, '<= 1.0165')
def plays():
    table('Last.fm, plays of artists, random 80/20; auto never above the averages', lastfm_part(), peers=False)

PARTS = [flixster, yahoo_music, filmtrust, u1_ids, u1_all, random5_ids, random5_all, latest, forward_100k,
    forward_latest, plays]

# settings of myFM
def grid(levels):
    "Rank and likelihood: normal, normal of scaled ratings, and ordered probit for up to 20 levels"
    for rank in (5,10,20):
        yield dict(rank=rank)
        yield dict(rank=rank, probit=True) if levels<=20 else dict(rank=rank, scaled=True)

def tune(part):
    "Print the errors of myFM by its settings, on a tenth of the training part of the first split"
    split = tenth(part.splits[0])
    d = arrays(part, split)
    for what,(name,given) in peer_jobs(part).items():
        if name!='myfm' or what=='myFM, best settings': continue
        jobs = [(name,0,{**given, **o}) for o in grid(part.df.iloc[:,2].nunique())]
        res = [(clipped_rmse(p, part, split),s,o[2]) for o,(p,s) in zip(jobs, ask(d, jobs))]
        for err,secs,o in sorted(res, key=itemgetter(0)):
            print(f'{part.data}: {what:<26} {err:.4f} {secs:6.2f} s  {o}', flush=True)

if __name__=='__main__':
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    if sys.argv[1:]==['tune']:
        for o in (monti('flixster'),monti('yahoo_music'),filmtrust_part(),u1_part(),latest_part()): tune(o)
    else:
        warm()
        report(__file__, PARTS, 'one thread; means and standard deviations over training seeds 0, 1, 2')
