"""What a GPU is worth, on one card, in less than 8 minutes

    python benchmarks/gpu.py [--out DIR] [--device cuda] [--small] [PART...]

Runs the tests marked `cuda`, then measures; prints a table, and writes it to DIR/gpu.txt (benchmarks/results). Each
part has seconds of its own, and says what it had to leave out. `--device cpu --small` tries all of it in half a minute,
on any machine.

A rate is that of minibatches alone, from epochs of two lengths on the same tables; tables that wait for the next epoch
are in the last lines of `rates`. Data: random ratings of ids whose popularity falls with their rank."""
import argparse, subprocess, sys, time, warnings
from functools import partial
from pathlib import Path

import fastai.collab
from fastai.tabular.core import TabDataLoader

from common import LINES, machine, quiet_fit, say
from fastcollab.all import *
from fastcollab.train import device as device_module
from fastcollab.train.device import step_seconds

WAYS = {'compiled':True, 'device, recorded':'device', 'device':'device', 'torch':False}
SIZES = {'1 M':(6000,4000,1_000_000), '25 M':(160_000,60_000,25_000_000)}
SMALL = {'20,000':(300,200,20_000)}

class Budget:
    "The seconds of a part"
    def __init__(self, seconds): self.end = time.perf_counter()+seconds
    @property
    def left(self): return self.end-time.perf_counter()

def ratings(n_users, n_items, n):
    "Random ratings"
    rng = np.random.default_rng(0)
    def ids(m): return (m*rng.random(n, np.float32)**2).astype(np.int32)
    return pd.DataFrame(dict(userId=ids(n_users), movieId=ids(n_items), rating=rng.integers(1, 11, n)/np.float32(2)))

def loaders(df, args, bs, device=None):
    "All ratings for training, and some of them for validation"
    splits = np.arange(1000, len(df)),np.arange(1000)
    return CollabDataLoaders.from_df(df, splits=splits, seed=0, bs=bs, device=device or args.device)

def rate(learn, fused, seconds):
    "Ratings per second in minibatches"
    return learn.dls.train.bs/step_seconds(learn, fused, seconds)

def one_way(learn, way, seconds):
    "The rate of one way to train, as text"
    if way=='device, recorded' and learn.dls.train_ds.device.type!='cuda': return 'no graph'
    recorded = device_module.recorded
    try:
        if way=='device': device_module.recorded = lambda f, device: False
        return f'{rate(learn, WAYS[way], seconds)/1e6:.3f}'
    finally: device_module.recorded = recorded

# parts

def tests(args, budget):
    "The tests marked cuda"
    if args.small: return say('left out')
    command = [sys.executable,'-m','pytest','-q','-m','cuda','--tb=short','-p','no:warnings']
    try:
        root = Path(__file__).parent.parent
        res = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=budget.left)
        say('\n'.join(res.stdout.strip().splitlines()[-30 if res.returncode else -1:]))
    except subprocess.TimeoutExpired: say('tests: out of time')

def rates(args, budget):
    "Ratings per second by batch size and way"
    for size,shape in (SMALL if args.small else SIZES).items():
        dls = loaders(ratings(*shape), args, 64)   # encoding 25 M ratings takes a while, so it is done once
        say(f'{size} ratings, DotProductBias, k=50: M ratings/s\n{"bs":>8} '+''.join(f'{o:>18}' for o in WAYS))
        for bs in (64,2048) if args.small else (64,512,4096,8192,32768,262144):
            if budget.left<0: return say('out of time')
            dls = CollabDataLoaders(dls.train.new(bs=bs), dls.valid, device=args.device)
            learn = collab_learner(dls, n_factors=50, y_range=(0,5.5), unk_p=0)
            cells = (one_way(learn, o, args.seconds) if budget.left>0 else '-' for o in WAYS)
            say(f'{bs:>8} '+''.join(f'{o:>18}' for o in cells))
        if budget.left>0: epoch(learn, size)

def epoch(learn, size):
    "A whole epoch, with everything around it"
    for fused in (True,'device'):
        learn.fused = fused
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            quiet_fit(learn, 1, 1e-3, .1)
            seconds.append(time.perf_counter()-start)
        per_second = len(learn.dls.train_ds)/min(seconds)
        say(f'{size}, bs={learn.dls.train.bs}, fit of an epoch, fused={fused}: {min(seconds):.3f} s, '
            f'{per_second/1e6:.1f} M ratings/s')

def models(args, budget):
    "Seconds of an epoch of SVD++ and of a net: on the CPU, and on the device with steps one by one and recorded"
    (size,shape), = list((SMALL if args.small else SIZES).items())[:1]
    df = ratings(*shape)
    for arch,bs in ((SVDPlusPlus,6400),(CollabNN,64),(CollabNN,8192)):
        for device,fused in dict.fromkeys((('cpu','auto'),(args.device,False),(args.device,'device'))):
            if budget.left<0: return say('out of time')
            learn = collab_learner(loaders(df, args, bs, device), arch=arch, n_factors=50, y_range=(0,5.5), unk_p=0)
            seconds = len(df)/rate(learn, fused, args.seconds)
            say(f'{size}, {arch.__name__}, bs={bs}, {device}, fused={fused}: {seconds:.2f} s an epoch')

def top(args, budget):
    "The best 10 of all items for all users: the recommender, which is on the CPU, and plain torch on the device"
    n,m,k = (1000,500,50) if args.small else (100_000,50_000,50)
    U,M = torch.randn(n, k),torch.randn(m, k)
    for device in dict.fromkeys(('cpu',args.device)):
        u,i,done,start = U.to(device),M.to(device),0,time.perf_counter()
        for b in u.split(1000):
            best = (b@i.T).topk(10).indices.cpu()
            done += len(best)
            if time.perf_counter()-start>min(15, budget.left): break
        say(f'top 10 of {m:,} items for {n:,} users, torch on {device}: {(time.perf_counter()-start)*n/done:.2f} s')

def fastai_collab(args, budget):
    "fastai.collab on the same device"
    (_,shape), = list((SMALL if args.small else SIZES).items())[:1]
    df = ratings(*shape)
    for bs in (64,8192):
        kwargs = dict(valid_pct=.01, dl_type=TabDataLoader, device=args.device)
        dls = fastai.collab.CollabDataLoaders.from_df(df, bs=bs, **kwargs)
        learn = fastai.collab.collab_learner(dls, n_factors=50, y_range=(0,5.5))
        learn.model.to(args.device)
        learn.opt_func,n = partial(Adam),0
        learn.create_opt()
        for x,y in dls.train:
            if n==10: start = time.perf_counter()
            loss = learn.loss_func(learn.model(x), y)
            loss.backward()
            learn.opt.step()
            learn.opt.zero_grad()
            n += 1
            if n>10 and time.perf_counter()-start>min(5, budget.left): break
        if n>10:
            loss.item()   # waits for the device
            per_second = (n-10)*bs/(time.perf_counter()-start)
            say(f'fastai.collab, its steps without callbacks, bs={bs}: {per_second/1e6:.3f} M ratings/s')

def same_fit(args, budget):
    "A fit with ratings and model on the device against the CPU: seconds and error"
    try: df = ratings(*SMALL['20,000']) if args.small else movielens('ml-latest-small')
    except (ConnectionError, FileNotFoundError) as e: return say(f'no ml-latest-small: {e}')
    for device in dict.fromkeys(('cpu',args.device)):
        for fused in ('auto',False):
            seconds = []
            for _ in range(2):   # the first one compiles
                dls = CollabDataLoaders.from_df(df, seed=42, bs=64, device=device)   # so both have the same order
                set_seed(0)
                learn,start = collab_learner(dls, y_range=(0,5.5), fused=fused),time.perf_counter()
                loss = quiet_fit(learn, 2, 5e-3, .1)[1]
                seconds.append((time.perf_counter()-start)/2)
            what = f'{len(df):,} ratings, bs=64, {device}, fused={fused}'
            say(f'{what}: {min(seconds):.3f} s an epoch, RMSE {loss**.5:.4f}')

PARTS = {tests:100, same_fit:30, rates:200, models:60, top:25, fastai_collab:15}   # seconds

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', help='parts to run; all if none')
    parser.add_argument('--out', default=Path(__file__).parent/'results', type=Path, help='folder for gpu.txt')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--small', action='store_true', help='tiny data, to try it')
    args = parser.parse_args()
    args.seconds = .02 if args.small else .3   # of training, to measure a rate
    warnings.simplefilter('ignore')
    card = torch.cuda.get_device_name() if args.device=='cuda' else args.device
    say(f'benchmarks/gpu.py: {card}; {machine()}')
    for part,seconds in PARTS.items():
        if args.parts and part.__name__ not in args.parts: continue
        say(f'\n{part.__name__}: {part.__doc__}')
        start = time.perf_counter()
        try: part(args, Budget(seconds/20 if args.small else seconds))
        except Exception as e: say(f'{part.__name__}: {type(e).__name__}: {e}')   # the other parts count, too
        say(f'({time.perf_counter()-start:.0f} s)')
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out/'gpu.txt').write_text('\n'.join(LINES)+'\n')   # after each part: a lent machine may end

if __name__=='__main__': main()
