"""What `fit_gibbs` knows beside predictions, and what it takes

    FASTCOLLAB_DATA=DIR python benchmarks/gibbs.py [PART...]   # about 5 minutes on one core

DIR holds what any_data.py needs. Everything is measured on a tenth of the training part of each split, which isn't
trained on; no test part is used.

`samples` prints the RMSE of the mean over all samples, that of the mean vectors which recommenders take, and what share
of the held-out ratings lies within the intervals of `learn.predict(..., interval=)`.
`sweeps` prints how the RMSE depends on the number of sweeps."""
import torch
from any_data import *

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

def sweeps():
    "Short and long chains"
    numbers = 50,75,150,400
    say(f'\n{"RMSE by sweeps":<22}'+''.join(f'{o:8}' for o in numbers))
    for name,part,splits in held_out():
        errors = [np.mean([fitted(part, splits, seed, o)[0].validate()[1] for seed in SEEDS]) for o in numbers]
        say(f'{name:<22}'+''.join(f'{o:8.4f}' for o in errors))

if __name__=='__main__':
    warm()
    report(__file__, [samples,sweeps], 'one thread; means over seeds 0, 1, 2')
