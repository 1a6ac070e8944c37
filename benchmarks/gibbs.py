"""What `fit_gibbs` knows beside predictions, and what it takes

    FASTCOLLAB_DATA=DIR python benchmarks/gibbs.py [PART...]   # about 12 minutes on one core

DIR holds what any_data.py needs. Everything is measured on a tenth of the training part of each split, which isn't
trained on; no test part is used.

`samples` prints the RMSE of the mean over all samples, that of the mean vectors which recommenders take, and what share
of the held-out ratings lies within the intervals of `learn.predict(..., interval=)`.
`sweeps` prints how the RMSE depends on the number of sweeps, alone and blended with SVD++ by Adam.
`seconds` prints what fits take beside what `fit_auto` plans with."""
import torch
from any_data import *
from fastcollab.train.choice import adam_seconds, ensemble_weights, gibbs_seconds
from fastcollab.train.learner import auto_learner, fit_adam

def held_out():
    "Each set of data with a tenth of its training part as the validation part"
    parts = [monti('flixster'),monti('yahoo_music'),filmtrust_part(),u1_part(features=False, time=False),u1_part(),
        latest_part()]
    for name,part in zip(NAMES, parts): yield name,part,tenth(part.splits[0])

NAMES = ('Flixster','YahooMusic','FilmTrust','ml-100k u1, ids','ml-100k u1, all','ml-latest-small, all')

def fitted(part, splits, seed, sweeps=150):
    "A learner, and the CPU seconds of its fit"
    dls = CollabDataLoaders.from_df(part.df, splits=splits, seed=42, val_bs=2**15, **part.cols)
    learn = collab_learner(dls, arch=SVDPlusPlus, metrics=rmse)
    return any_peers.seconds(lambda: quietly(learn, lambda: learn.fit_gibbs(sweeps, every=sweeps, seed=seed)))

def measure(learn, shares=(.5,.8,.9,.95)):
    "RMSE of all samples and of the mean vectors, and the coverage of intervals"
    ds = learn.dls.valid_ds
    x,y = ds.rows(torch.arange(len(ds)))
    errors = [rmse(m.eval()(x), y).item() for m in (learn.model,learn.model.inner)]
    ends = [learn.model.intervals(x, o) for o in shares]
    return [*errors,*(((o[:,0]<=y[:,0])&(y[:,0]<=o[:,1])).float().mean().item() for o in ends)]

def samples():
    "All samples, mean vectors, intervals"
    say(f'\n{"held-out tenth":<22}{"RMSE":>8}{"of mean vectors":>18}{"ratings within .5":>20}'
        f'{".8":>8}{".9":>8}{".95":>8}{"seconds":>10}')
    for name,part,splits in held_out():
        fits = [fitted(part, splits, seed) for seed in SEEDS]
        a,b,*inside = np.mean([measure(learn) for learn,_ in fits], 0)
        covered = ''.join(f'{o:8.3f}' for o in inside[1:])
        say(f'{name:<22}{a:8.4f}{b:18.4f}{inside[0]:20.3f}{covered}{np.mean([o for _,o in fits]):10.2f}')

def by_sweeps(part, splits, seed, numbers):
    "Predictions of one chain after each number of sweeps, and of SVD++ by Adam; ratings"
    dls = CollabDataLoaders.from_df(part.df, splits=splits, seed=42, val_bs=2**15, **part.cols)
    set_seed(seed)
    learn,preds = collab_learner(dls, arch=SVDPlusPlus),[]
    for before,now in zip((0,*numbers), numbers):
        quietly(learn, lambda: learn.fit_gibbs(now-before, every=now, seed=seed, resume=before>0))
        with learn.no_bar(): preds.append(learn.get_preds()[0])
    with contextlib.redirect_stdout(io.StringIO()): other = collab_learner(dls, arch='auto')
    quietly(other, lambda: fit_adam(other, other.auto_config))
    with other.no_bar(): adam,y = other.get_preds()
    return np.stack([*preds,adam]),y.numpy()

def sweeps():
    "Short and long chains, alone and blended with SVD++ by Adam with the best weights"
    numbers = 60,100,150,250,400
    say(f'\n{"RMSE by sweeps":<30}'+''.join(f'{o:8}' for o in numbers)+f'{"Adam":>10}')
    for name,part,splits in held_out():
        errors = []
        for seed in SEEDS:
            preds,y = by_sweeps(part, splits, seed, numbers)
            blends = [ensemble_weights([o,preds[-1]], y)@[o,preds[-1]] for o in preds]
            errors.append(np.sqrt(((np.stack([preds,blends])-y)**2).mean(-1)))
        alone,blended = np.mean(errors, 0)
        say(f'{name:<30}'+''.join(f'{o:8.4f}' for o in alone[:-1])+f'{alone[-1]:10.4f}')
        say(f'{"  blended":<30}'+''.join(f'{o:8.4f}' for o in blended[:-1]))

def seconds():
    "CPU seconds of the fits that `fit_auto` plans for, and what it plans with"
    say(f'\n{"CPU seconds":<22}{"100 sweeps":>12}{"planned":>10}{"Adam":>12}{"planned":>10}')
    for name,part,_ in held_out():
        dls = new_loaders(part, part.splits[0])
        with contextlib.redirect_stdout(io.StringIO()): learn = collab_learner(dls, arch='auto')
        n,n_ids,config = len(dls.train_ds),dls.n_users+dls.n_items,learn.auto_config
        fits = [lambda o: o.fit_gibbs(100, every=100),lambda o: fit_adam(o, config)]
        secs = [any_peers.seconds(lambda: quietly(o, lambda: fit(o)))[1] for fit in fits for o in [auto_learner(learn)]]
        planned = gibbs_seconds(n, n_ids, default_factors(n, n_ids), 100),adam_seconds(n, n_ids, config.epochs)
        say(f'{name:<22}{secs[0]:12.2f}{planned[0]:10.2f}{secs[1]:12.2f}{planned[1]:10.2f}')

if __name__=='__main__':
    warm()
    report(__file__, [samples,sweeps,seconds], 'one thread; means over seeds 0, 1, 2')
