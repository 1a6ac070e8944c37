"""What processes do in `test_distributed.py` and `test_sharding.py`, two by default:

    python together.py SCENARIO[:PROCESSES] ... FOLDER"""
import json, os, signal, socket, sys, time
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from shutil import copyfile

from torch.distributed.launcher.api import LaunchConfig,elastic_launch
from fastcollab.all import *
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.ranks import own_place
from fastcollab.train.distributed import Share

RANK = own_place().rank
RATINGS = synthetic_ratings(300, 80, 6000, seed=0)

def new_learner(kind='ratings', seed=1, **kwargs):
    "A small learner whose weights depend on `seed`"
    given = dict(bs=512, val_bs=1024, seed=0, **kwargs)
    if kind=='clicks':
        dls = CollabDataLoaders.from_interactions(to_implicit(RATINGS), n_neg=3, sampler='popularity', **given)
    else: dls = CollabDataLoaders.from_df(RATINGS, genre_name='genres' if kind=='genres' else None, **given)
    set_seed(seed)
    if kind=='net': return collab_learner(dls, use_nn=True, layers=[16], n_factors=8, metrics=rmse)
    if kind=='clicks': return collab_learner(dls, n_factors=8, loss_func=SampledSoftmaxLoss(), fused=False)
    return collab_learner(dls, n_factors=8, unk_p=.1, metrics=rmse, fused=kind!='torch' and 'auto')

def fit(learn, cbs=None, **kwargs):
    with learn.no_bar(), learn.distributed(**kwargs) if kwargs else learn.no_logging():
        learn.fit_one_cycle(3, .02, cbs=cbs)
    return learn

def far(a, b):
    "The largest difference"
    return (torch.as_tensor(a, dtype=torch.float64)-torch.as_tensor(b, dtype=torch.float64)).abs().max().item()

def compare(kind):
    "How far a fit in all processes is from one in this process"
    single,shared = fit(new_learner(kind)),fit(new_learner(kind, seed=1+RANK), world_size=2)
    params = [[o.detach() for o in learn.model.parameters()] for learn in (single,shared)]
    moments = [[v for p in learn.model.parameters() for k,v in learn.opt.state[p].items()
        if k in ('grad_avg','sqr_avg')]
        for learn in (single,shared)]
    res = dict(values=far(single.recorder.values, shared.recorder.values), params=max(map(far, *params)),
        losses=far(single.recorder.losses, shared.recorder.losses), moments=max(map(far, *moments)))
    if kind!='clicks': res['preds'] = far(single.get_preds()[0], shared.get_preds()[0])
    return res

def message(f):
    "The error that `f` ends with"
    try: f()
    except (ValueError,ConnectionError,FloatingPointError) as e: return str(e)

class Wait(CollabCallback):
    "One process hangs"
    def start_epoch(self, seed, device): time.sleep(5*RANK)

class Spoil(CollabCallback):
    "A user of one process has no finite vector in the second epoch"
    def before_epoch(self):
        if RANK and self.epoch==1: self.learn.model.u_weight.weight.data[-1] = torch.nan
    def start_epoch(self, seed, device): self.loop = self.learn._loop
    def kept(self):
        "Are all weights that this process trained finite, but for the last user and item?"
        return all(own[:-1].isfinite().all().item() for _,own,_ in self.loop.pairs)

def equal(out):
    res = {k:compare(k) for k in ('ratings','genres','torch','net','clicks')}
    learn = new_learner()
    with learn.no_bar(), learn.distributed() as ranks:
        res['share'] = len(Share(learn.dls.train_ds, ranks))/len(learn.dls.train_ds)
        res['lr_find'],res['als'] = message(learn.lr_find),message(lambda: learn.fit_als(1))
        learn.fit(1, .01)
        within = learn.get_preds()[0]
    res['order'] = far(within, learn.get_preds()[0])
    res['other'] = message(lambda: fit(new_learner(valid_pct=.2+.1*RANK), timeout=60))
    spoil = Spoil()
    res['spoilt'] = message(lambda: fit(new_learner(), spoil, timeout=60))
    res['kept'] = spoil.kept()
    res['hung'] = message(lambda: fit(new_learner(), Wait(), timeout=2))
    (out/f'{RANK}.json').write_text(json.dumps(res))

class Die(CollabCallback):
    "A process is killed in its second epoch, once"
    epochs = 0
    def start_epoch(self, seed, device):
        self.epochs += 1
        first = not int(os.environ['TORCHELASTIC_RESTART_COUNT'])
        if RANK and self.epochs==2 and first: os.kill(os.getpid(), signal.SIGKILL)

def die(out):
    learn = fit(new_learner(path=out), Die(), checkpoint='fit', resume=True)
    if RANK==0: (out/'values.json').write_text(json.dumps([list(o) for o in learn.recorder.values]))

class Lost(CollabCallback):
    "A process is killed in its second epoch, and it says when"
    epochs = 0
    def __init__(self, out): self.out = out
    def start_epoch(self, seed, device):
        self.epochs += 1
        if RANK==0 or self.epochs<2: return
        (self.out/'killed').write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)

def lost(out):
    text = message(lambda: fit(new_learner(), Lost(out), world_size=2))
    (out/'lost.json').write_text(json.dumps([text, time.time()-float((out/'killed').read_text())]))

class Stop(Callback):
    "All processes stop in an epoch, before its checkpoint"
    def __init__(self, at=1): self.at = at
    def after_epoch(self):
        if self.epoch==self.at: raise KeyboardInterrupt

def grow(out):
    "An epoch in one process, the next one in two, the last one in three"
    n = own_place().size
    learn = new_learner(seed=n, path=out)
    try:
        with learn.no_logging(): fit(learn, Stop(n), checkpoint='grow', resume=True)
    except KeyboardInterrupt: return
    single = fit(new_learner())
    res = dict(values=far(single.recorder.values, learn.recorder.values), losses=far(single.recorder.losses,
        learn.recorder.losses), preds=far(single.get_preds()[0], learn.get_preds()[0]))
    (out/f'{RANK}.json').write_text(json.dumps(res))

class RowWiseAdagrad(Optimizer):
    "What TorchRec does, on dense gradients in one process: one sum for each row of a table"
    def __init__(self, params, lr, wd=.01, mom=.9):
        super().__init__(params, [noop], lr=lr, wd=wd, mom=mom)
        self.sums = [torch.zeros(len(p)) for p in self.param_lists[0]]
    def step(self, closure=None):
        lr,wd = (self.hypers[0][k] for k in ('lr','wd'))
        for p,sums in zip(self.param_lists[0], self.sums):
            met = p.grad.any(1)
            sums += p.grad.pow(2).mean(1)
            kept = 1-lr*wd*self.state[p].get('wd_scale', 1.)
            p.data[met] = kept*p.data[met]-(lr/(sums.sqrt()+1e-8))[met,None]*p.grad[met]

class Held(CollabCallback):
    "How many rows a process has while it trains"
    def start_epoch(self, seed, device):
        self.share = [len(o)/n for o,n in zip(self.learn.model.shards.values.values(), self.learn._loop.sizes)]
        self.whole = sum(o.numel() for o in self.learn._loop.whole.parameters() if o.requires_grad)

def sharded(kind, seed=1, out=None, opt_func=None, **kwargs):
    "A learner with few enough ratings in its last batch that a process has none of them"
    given = dict(bs=512, val_bs=1024, seed=0, path=out or '.')
    df = RATINGS.iloc[:5761]   # 9 batches of 512 and one row
    if kind=='ratings': dls = CollabDataLoaders.from_df(df, **given)
    elif kind=='features':
        dls = CollabDataLoaders.from_df(df.assign(group=df.userId%5), item_cols='genres', user_cols='group', **given)
    else: dls = CollabDataLoaders.from_interactions(to_implicit(RATINGS), n_neg=3, **given)
    set_seed(seed)
    own = dict(metrics=NDCG(k=5), loss_func=BPRLoss()) if kind=='clicks' else dict(metrics=rmse)
    return collab_learner(dls, n_factors=8, unk_p=0, opt_func=opt_func or LazyAdam, **own)

def shard(out):
    res,given = {},dict(tables='shard', world_size=2)
    def fit(learn, cbs=None, **kwargs):
        with learn.no_bar(), learn.no_logging(), learn.distributed(**kwargs) if kwargs else nullcontext():
            learn.fit_one_cycle(3, lr_max=None if kwargs else .05, wd=.1, cbs=cbs)
        return learn
    for kind in ('ratings','clicks','features'):
        learn = fit(sharded(kind, seed=1+RANK), held := Held(), **given)
        # after it, because fastai's Recorder gathers from the group that is open
        single = fit(sharded(kind, opt_func=RowWiseAdagrad))
        # in lists, the bias of a user has no gradient but rounding errors, and Adagrad makes steps of them
        params = [[o.detach() for name,o in l.model.named_parameters()
            if o.requires_grad and (kind,name)!=('clicks','u_bias.weight')] for l in (single,learn)]
        res[kind] = dict(values=far(single.recorder.values, learn.recorder.values), params=max(map(far, *params)),
            losses=far(single.recorder.losses, learn.recorder.losses), lrs=far(single.recorder.lrs, learn.recorder.lrs))
        res[f'{kind} held'] = [*held.share, held.whole]
        res[f'{kind} rest'] = len(learn.dls.train_ds)%512
    learn = sharded('ratings', out=out)
    whole = fit(sharded('ratings'), **given)
    try: fit(learn, Stop(), checkpoint='half', **given)
    except KeyboardInterrupt: res['stopped'] = bool(learn.model.u_weight.weight.isnan().all())
    if RANK==0:
        torch.save(whole.get_preds()[0], out/'whole.pt')
        copyfile(out/'models/half.pth', out/'models/three.pth')
    plain = sharded('ratings', out=out).load('half')
    res['plain'] = bool(plain.get_preds()[0].isfinite().all())
    resumed = fit(sharded('ratings', seed=5, out=out), checkpoint='half', resume=True, plan='tables', **given)
    res['resumed'] = far(whole.get_preds()[0], resumed.get_preds()[0])
    res['other'] = message(lambda: fit(sharded('ratings', out=out), checkpoint='half', resume=True, world_size=2))
    for plan in ('tables','auto'):
        learn = fit(sharded('ratings', seed=1+RANK), held := Held(), plan=plan, **given)
        res[plan] = dict(preds=far(whole.get_preds()[0], learn.get_preds()[0]), held=held.share)
    res['net'] = message(lambda: fit(new_learner('net'), **given))
    res['recommends'] = len(resumed.recommend(RATINGS.userId[0], k=3))
    (out/f'{RANK}.json').write_text(json.dumps(res))

def three(out):
    "Three processes go on where the two of `shard` had been stopped"
    out = out.parent/'shard'
    learn,given = sharded('ratings', seed=5, out=out),dict(tables='shard', checkpoint='three', resume=True)
    with learn.no_bar(), learn.no_logging(), learn.distributed(world_size=3, **given):
        learn.fit_one_cycle(3, wd=.1, cbs=(held := Held()))
    res = dict(preds=far(torch.load(out/'whole.pt'), learn.get_preds()[0]), held=held.share)
    (out/f'three{RANK}.json').write_text(json.dumps(res))

def act(scenario, out, **env):
    "One of some processes"
    global RANK
    os.environ.update(env)
    RANK = own_place().rank
    os.chdir(out)
    globals()[scenario](out)

def start_alone(name, out):
    "Two processes that nobody looks after: torchrun would end the other one, too"
    with socket.create_server(('localhost', 0)) as free: port = free.getsockname()[1]
    env = dict(WORLD_SIZE='2', MASTER_ADDR='localhost', MASTER_PORT=str(port))
    both = [get_context(START).Process(target=act, args=(name,out), kwargs=dict(env, RANK=str(o))) for o in range(2)]
    for o in both: o.start()
    for o in both: o.join()

START = 'fork' if sys.platform=='linux' else 'spawn'

if __name__=='__main__':
    for name,_,n in (o.partition(':') for o in sys.argv[1:-1]):
        out = Path(sys.argv[-1])/name
        out.mkdir(exist_ok=True)
        if name=='lost':
            start_alone(name, out)
            continue
        # what torchrun does, but with processes that have imported everything: imports would take most of the time
        config = LaunchConfig(1, 1, int(n or 2), run_id=name, rdzv_backend='c10d', rdzv_endpoint='localhost:0',
            max_restarts=int(name=='die'), start_method=START)
        elastic_launch(config, act)(name, out)
