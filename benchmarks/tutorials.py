"""The figures of the tutorials

    FASTCOLLAB_DATA=DIR python benchmarks/tutorials.py [PART...]   # about 15 minutes on one core

DIR holds ml-latest-small.zip, ml-100k.zip and netflix/.
Settings that a row doesn't state were chosen on parts of the training parts: how and agg of HybridMF on a random tenth
and on a tenth of the items, l2 and gravity on a part made the way u1's test part was, those of MetadataEmbedding on
five folds of the users outside the first fold. Those of B and C were chosen on their validation parts, as the sources
did."""
import os, re, sys
from pathlib import Path

from common import SEEDS, report, row, say, timed
from fastcollab.all import *

def fit(dls, epochs, lr, wd, seed, fit_cbs=None, **kwargs):
    "A fitted learner; with `fit_cbs` at the rate `lr` without the one-cycle schedule"
    set_seed(seed)
    learn = collab_learner(dls, **kwargs)
    with learn.no_bar(), learn.no_logging():
        if fit_cbs is None: learn.fit_one_cycle(epochs, lr, wd=wd)
        else: learn.fit(epochs, lr, wd=wd, cbs=fit_cbs(lr))
    return learn

def error(learn):
    "RMSE over all validation rows"
    with learn.no_bar(): return rmse(*learn.get_preds()).item()

def errors(dls, *args, **kwargs):
    "RMSE over all validation rows for each seed, and the seconds of a fit"
    res,secs = timed(lambda: [error(fit(dls, *args, seed=s, **kwargs)) for s in SEEDS])
    return np.array(res), secs/len(SEEDS)

def line(letter, model, theirs, dls, *args, mse=True, **kwargs):
    "A row of the table: ours beside the notebook's own number; the errors of the seeds"
    e,secs = errors(dls, *args, **kwargs)
    ours = f'MSE {np.mean(e**2):.4f}' if mse else f'RMSE {np.mean(e):.4f}'
    row(f'{letter}  {model}', ours, theirs, secs)
    return e

class ByHand(Module):
    "The model that the fastai course builds from parameters"
    def __init__(self, n_users, n_items, n_factors, y_range):
        self.y_range = y_range
        self.u,self.m = create_params(n_users, n_factors),create_params(n_items, n_factors)
        self.bu,self.bm = create_params(n_users),create_params(n_items)
    def forward(self, x):
        u,i = x[:,0],x[:,1]
        return sigmoid_range((self.u[u]*self.m[i]).sum(1) + self.bu[u] + self.bm[i], *self.y_range)

def source_a():
    "From scratch: four models"
    say('\nA  Collaborative filtering from scratch: ml-latest-small, random 80/20, seed 42; bs=512, fit_one_cycle(6, '
        '5e-3, wd=0.3), y_range=(0,5.5), k=50')
    df,theirs = movielens('ml-latest-small'),'MSE 1.7 to 2.5, the four'
    plain,genres = (CollabDataLoaders.from_df(df, seed=42, bs=512, val_bs=8192, genre_name=o) for o in (None,'genres'))
    args = (6, 5e-3, .3)
    line('A', 'DotProductBias', theirs, plain, *args, y_range=(0,5.5))
    for how in ('scale','add'):
        line('A', f'HybridMF, how={how!r}', theirs, genres, *args, y_range=(0,5.5), config=dict(how=how))
    line('A', 'CollabNN, one hidden layer of 100', theirs, plain, *args, y_range=(0,5.5), use_nn=True, layers=[100])
    line('A', 'HybridNN, one hidden layer of 100', theirs, genres, *args, y_range=(0,5.5), use_nn=True, layers=[100])

def source_b():
    "Deep dive: five steps"
    say('\nB  Deep dive: ml-latest-small, random 80/20, seed 42, titles as items; fit_one_cycle(5, 1e-2), k=50; the '
        'source: bs=64, 5e-3')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = {bs: CollabDataLoaders.from_df(movielens('ml-latest-small'), item_name='title', seed=42, bs=bs,
            val_bs=8192) for bs in (512,1024)}
    ranged = dict(y_range=(0,5.5))
    models = [('DotProduct','1.294',1024,0.,dict(arch=DotProduct)),
        ('DotProduct, y_range','0.850',1024,0.,dict(arch=DotProduct, **ranged)),
        ('DotProductBias, y_range','0.794',1024,0.,ranged),
        ('DotProductBias, y_range, weight decay','0.742',512,.3,ranged)]
    for name,theirs,bs,wd,kwargs in models:
        line('B', f'{name}, bs={bs}, wd={wd}', f'MSE {theirs}', dls[bs], 5, 1e-2, wd, **kwargs)
    e,secs = timed(lambda: [error(fit(dls[512], 5, 1e-2, .3, s, arch=_by_hand(dls[512], s)))**2 for s in SEEDS])
    row('B  by hand, bs=512, wd=0.3', f'MSE {np.mean(e):.4f}', 'MSE 0.743', secs/len(SEEDS))

def _by_hand(dls, seed):
    set_seed(seed)
    return ByHand(dls.n_users, dls.n_items, 50, (0,5.5))

def source_c():
    "Exploration: PMF with SGD, a net"
    say('\nC  Exploration, PMF and a neural net: ml-latest-small, random 80/20, seed 42; bs=512')
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), seed=42, bs=512, val_bs=8192)
    pmf = dict(opt_func=SGD, center=True, y_range=(0,5.5))
    line('C', 'DotProductBias, SGD with L2, fit_one_cycle(6, 20, wd=1e-4), k=20', 'MSE 1.40', dls, 6, 20., 1e-4,
        n_factors=20, **pmf)
    line('C', 'CollabNN, emb_szs=(72,103), fit_one_cycle(6, 5e-3, wd=0.3)', 'MSE 1.10', dls, 6, 5e-3, .3, use_nn=True,
        emb_szs=(72,103), y_range=(0,5.5))

def source_d():
    "Netflix Prize: the slice in its original format"
    df = netflix_prize(Path(os.environ['FASTCOLLAB_DATA'])/'netflix')
    dls = CollabDataLoaders.from_df(df, splitter=StratifiedSplitter(.1, seed=42), seed=42, bs=64, val_bs=8192)
    base = baseline_rmse(dls)
    say(f'\nD  Netflix Prize, a slice of {len(df):,} ratings of {dls.n_users-1:,} users for {dls.n_items-1:,} movies, '
        f'90/10 stratified by rating, seed 42')
    row('D  baselines: global mean, user + item bias', f'RMSE {base.iloc[0]:.4f}, {base.iloc[1]:.4f}')
    steps = dict(fit_cbs=lambda lr: sched_step(lr, 3, .7), y_range=(.5,5.5), center=True, mse=False, n_factors=32)
    none = 'none: it never trained'
    for arch,wd in ((DotProduct,.3), (LinearCollab,2.), (DotProductBias,.3)):
        line('D', f'{arch.__name__}, fit(9, 5e-3, wd={wd}), sched_step(3, 0.7), k=32, bs=64', none, dls, 9, 5e-3, wd,
            arch=arch, **steps)
    df = synthetic_ratings(24_009, 888, 251_000)   # a twentieth of the users and of the movies, the same share filled
    dls = CollabDataLoaders.from_df(df, splitter=StratifiedSplitter(.1, seed=42), seed=42, bs=1024, val_bs=8192)
    base = baseline_rmse(dls)
    say(f'\nD  the shape of the Netflix Prize: {len(df):,} synthetic ratings of {dls.n_users-1:,} users for '
        f'{dls.n_items-1:,} items')
    row('D  baselines: global mean, user + item bias; the truth', f'RMSE {base.iloc[0]:.4f}, {base.iloc[1]:.4f}',
        f'{df.attrs["rmse"]:.4f}')
    for arch,wd in ((DotProduct,.3), (LinearCollab,.3), (DotProductBias,.3)):
        line('D', f'{arch.__name__}, fit(9, 5e-3, wd={wd}), sched_step(3, 0.7), k=32, bs=1024', none, dls, 9, 5e-3, wd,
            arch=arch, **steps)

def source_e():
    "Gravity on u1"
    df,splits = movielens_fold('ml-100k', 1)
    say('\nE  Matrix factorization with gravity: ml-100k u1, DotProductBias, k=20, center=True, unk_p=0')
    for bs,epochs,lr,wd,l2,g in ((len(splits[0]),60,.1,0,.25,.01), (512,8,5e-3,.1,.03,.01)):
        dls = CollabDataLoaders.from_df(df, splits=splits, seed=42, bs=bs, val_bs=20_000)
        e,secs = errors(dls, epochs, lr, wd, n_factors=20, center=True, y_range=False, unk_p=0,
            cbs=GravityRegularizer(l2, g))
        row(f'E  l2={l2}, gravity={g}, bs={bs:,}, fit_one_cycle({epochs}, {lr:g}, wd={wd})', f'RMSE {np.mean(e):.4f}',
            '< 0.94', secs/len(SEEDS))

def gravity_step():
    "Time and memory of the regularizer on large tables, in a process of its own"
    import subprocess
    say('\nGravity step (value, gradients and L2) on 100,000 x 20,000 rows, k=64')
    for threads in (1,2):
        out = subprocess.run([sys.executable, __file__, 'gravity', str(threads)], capture_output=True, text=True,
            check=True).stdout.strip()
        row(f'GravityRegularizer, {threads} thread{"s"[:threads-1]}', out, '< 50 ms, < 100 MB')

def gravity_process(threads):
    "Median of 15 steps, and the peak of the process over what it had with the tables"
    torch.set_num_threads(threads)
    model,cb = DotProduct(100_000, 20_000, 64),GravityRegularizer(.1, .1)
    def memory(what): return int(re.search(what+r':\s+(\d+)', Path('/proc/self/status').read_text())[1])*1024
    def step():
        cb.learn = SimpleNamespace(model=model, loss_grad=torch.zeros(1).sum())
        cb.after_loss()
        cb.learn.loss_grad.backward()
        cb.before_step()
        for p in model.parameters(): p.grad = None
    torch.ones(64, 64) @ torch.ones(64, 64)    # loads the library of matrix products
    Path('/proc/self/clear_refs').write_text('5')
    before = memory('VmRSS')
    secs = [timed(step)[1] for _ in range(15)]
    print(f'{np.median(secs)*1e3:.0f} ms, {(memory("VmHWM")-before)/1e6:.0f} MB')

def genres():
    "What additive genres give, and on items that nobody has rated"
    df = movielens('ml-latest-small')
    say('\nAdditive genres: ml-latest-small, bs=512, fit_one_cycle(6, 5e-3, wd=0.3), y_range=(0,5.5), k=100, '
        'IdDropout(0.1)')
    for name,split,asked in (('random 80/20',RandomSplitter(.2, 42),2.5),
        ('item-cold 10 %',ColdItemSplitter(.1, seed=42),4)):
        e = []
        for genre in (None,'genres'):
            dls = CollabDataLoaders.from_df(df, splitter=split, seed=42, bs=512, val_bs=8192, genre_name=genre)
            e.append(errors(dls, 6, 5e-3, .3, n_factors=100, y_range=(0,5.5))[0].mean())
        row(f'{name}: with genres / without', f'{e[1]:.4f} / {e[0]:.4f}',
            f'{(1-e[1]/e[0])*100:.1f} % below; asked {asked} %')
    train,valid = split(df)
    means = df.iloc[train].groupby('userId').rating.mean()
    preds = df.userId.iloc[valid].map(means).fillna(df.rating.iloc[train].mean())
    row('item-cold 10 %: the mean of the user', f'{np.sqrt(np.mean((preds-df.rating.iloc[valid])**2)):.4f}')

def metadata():
    "Users without ratings, five folds"
    df = movielens('ml-100k')
    users = df.drop_duplicates('userId')[['userId','age','gender','occupation']]
    folds = np.array_split(np.random.default_rng(0).permutation(df.userId.unique()), 5)
    say('\nUser-cold: ml-100k, five folds of the users; k=50, bs=512, fit_one_cycle(8, 5e-3, wd=0.4), '
        'y_range=(0.5,5.5); MetadataEmbedding().fit()')
    res = []
    for fold in folds:
        held = df.userId.isin(fold).to_numpy()
        dls = CollabDataLoaders.from_df(df, splits=(np.flatnonzero(~held),np.flatnonzero(held)), seed=42, bs=512,
            val_bs=8192)
        cold,mean = df[held],df[~held].groupby('movieId').rating.mean()
        def cold_error(preds): return np.sqrt(np.mean((preds-cold.rating)**2))
        for seed in SEEDS:
            learn = fit(dls, 8, 5e-3, .4, seed, n_factors=50, y_range=(.5,5.5))
            meta = MetadataEmbedding(learn, users, seed=seed).fit()
            res.append([cold_error(learn.predict(cold)), cold_error(meta.predict(cold)),
                cold_error(cold.movieId.map(mean).fillna(df[~held].rating.mean()))])
    res = np.array(res).reshape(len(folds), len(SEEDS), 3).mean(1)         # (5,3)
    for k,name in enumerate(('trained unknown row', 'metadata (age, gender, occupation)', 'item mean')):
        row(name, f'RMSE {res[:,k].mean():.4f}', 'folds '+' '.join(f'{o:.4f}' for o in res[:,k]))

if __name__=='__main__':
    if sys.argv[1:2]==['gravity']: gravity_process(int(sys.argv[2]))
    else: report(__file__, [gravity_step, genres, metadata, source_e, source_a, source_b, source_c, source_d])
