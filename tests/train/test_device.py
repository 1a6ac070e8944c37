"The loop for large minibatches on a device: the compiled loop's numbers, without a wait, and only where it is faster"
import subprocess, sys
from functools import partial
from pathlib import Path

import numpy as np, pytest, torch
from fastai.tabular.all import Callback, OptimWrapper, set_seed
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, HybridNN,
    ParamEmbedding, SVDPlusPlus, collab_learner, synthetic_ratings)
from fastcollab.kernels import steps
from fastcollab.train import device as device_module
from fastcollab.train.device import DeviceLoop, fit_loop

pretend = pytest.importorskip('pretend', reason='PyTorch before 2.10 knows no devices in Python', exc_type=ImportError)
RATINGS = synthetic_ratings(60, 40, 800)

def build(fused='device', arch=DotProductBias, bs=64, device='cpu', df=RATINGS, **kwargs):
    "The same loaders and the same weights each time"
    dls = CollabDataLoaders.from_df(df, seed=1, bs=bs, device=device, **kwargs.pop('dl', {}))
    set_seed(0)
    return collab_learner(dls, arch=arch, n_factors=5, fused=fused, **{'unk_p':0, **kwargs})

def quiet(learn, *args, how='fit_one_cycle', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def same(a, b, tol=1e-4):
    "Weights, moments and tables of two fits"
    for p,q in zip(a.model.parameters(), b.model.parameters()):
        assert torch.allclose(p.cpu(), q.cpu(), atol=tol)
        if not p.requires_grad: continue
        x,y = a.opt.state[p],b.opt.state[q]
        assert x['step']==y['step']
        assert all(torch.allclose(x[k].cpu(), y[k].cpu(), atol=tol) for k in ('grad_avg','sqr_avg'))
    assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-3)
    assert np.allclose(a.recorder.losses, b.recorder.losses, rtol=1e-3)

@pytest.mark.parametrize('bs', [1,64,500,10**4])
@pytest.mark.parametrize('arch', [DotProduct, DotProductBias, partial(DotProductBias, emb=ParamEmbedding)],
    ids=['no bias','bias','parameters'])
def test_equals_the_compiled_loop(arch, bs):
    "Ids that repeat, minibatches that are not full, and one that holds everything"
    df = RATINGS[:60] if bs==1 else RATINGS
    if isinstance(arch, partial): kwargs = dict(arch=arch.func, config=arch.keywords)
    else: kwargs = dict(arch=arch)
    a,b = (quiet(build(o, bs=bs, df=df, **kwargs), 3, 2e-2, wd=.1) for o in (True,'device'))
    same(a, b)
    for o in (a,b): quiet(o, 1, 1e-2, how='fit')   # the moments go on
    same(a, b)

def moved(a, b, start):
    "The largest difference of a parameter, relative to the distance that it moved"
    params = zip(*(o.model.parameters() for o in (a,b,start)))
    return max(float(((p-q).norm()/(q-r).norm()).detach()) for p,q,r in params if q.requires_grad and p.numel())

FEATURES = synthetic_ratings(60, 40, 800)
# some users have no job
FEATURES = FEATURES.assign(age=FEATURES.userId%7, jobs=[f'{u%3}|{u%5}' if u%4 else None for u in FEATURES.userId])
@pytest.mark.parametrize('agg', ['sqrtn','sum'])
def test_features_equal_the_compiled_loop(agg):
    "Lists of categories, and ids without any; in the compiled loop, rows of features wait"
    dl,config = dict(item_cols=['genres'], user_cols=['age','jobs']),dict(agg=agg)
    a,b,start = (build(o, HybridMF, df=FEATURES, config=config, dl=dl) for o in (True,'device',True))
    for k in range(2):
        for o in (a,b): quiet(o, 2-k, 1e-2, wd=.1)
        assert moved(a, b, start)<2e-2
        assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-3)
    assert type(fit_loop(b)) is DeviceLoop

GENRES = dict(dl=dict(genre_name='genres'))
ANY = dict(net=dict(arch=CollabNN), norm=dict(arch=CollabNN, config=dict(use_bn=True)), sets=dict(arch=SVDPlusPlus),
    hybrid=dict(arch=HybridMF, **GENRES), features=dict(arch=HybridNN, **GENRES), all=dict(arch=SVDPlusPlus, **GENRES))
@pytest.mark.parametrize('name', ANY)
def test_any_model(name):
    "Moments, groups and decays of biases are those of LazyAdam"
    a,b,start = (build(o, **ANY[name]) for o in (False,'device',False))
    for k in range(2):
        for o in (a,b): quiet(o, 2-k, 1e-2, wd=.1)
        assert moved(a, b, start)<2e-2
        assert np.allclose(a.recorder.values, b.recorder.values, rtol=2e-3)
    steps = [[o.opt.state[p]['step'] for p in o.model.parameters() if p.requires_grad and p.numel()] for o in (a,b)]
    assert steps[0]==steps[1]

def test_frozen_table():
    learns = [build(o, CollabNN) for o in (False,'device',False)]
    for o in learns: o.model.u_weight.weight.requires_grad_(False)
    for o in learns[:2]: quiet(o, 2, 1e-2)
    assert moved(*learns)<2e-2

def test_drop_last_and_no_range():
    same(*(quiet(build(o, dl=dict(drop_last=True), y_range=False), 2, 1e-2) for o in (True,'device')))

def test_tables_that_end(monkeypatch):
    "Numbers of the steps ahead that leave float64 are begun anew"
    monkeypatch.setattr(steps, '_usable', lambda decay, ratio: min(4, len(decay)))
    a,b = (quiet(build(o), 2, 2e-2) for o in (False,'device'))
    same(a, b)

def test_unknown_ids():
    "A share of ids becomes row 0, as many as elsewhere"
    a,b = (quiet(build(o, unk_p=.3), 5, 2e-2) for o in (True,'device'))
    before = build().model
    assert all((o.model.u_weight.weight[0]-before.u_weight.weight[0]).abs().max()>.01 for o in (a,b))
    assert abs(a.recorder.values[-1][1]-b.recorder.values[-1][1])<.1

def test_unknown_ids_keep_features():
    "Row 0 stands for an id, and the features are still those of the id"
    dl = dict(item_cols=['genres'], user_cols=['age','jobs'])
    a,b = (quiet(build(o, HybridMF, df=FEATURES, unk_p=.9, dl=dl), 8, 5e-2) for o in (True,'device'))
    rows = [[t.weight.detach() for t in o.model.f_bias[1].tables] for o in (a,b)]
    assert all((p-q).abs().mean()<.25*p.abs().mean() for p,q in zip(*rows))
    assert abs(a.recorder.values[-1][1]-b.recorder.values[-1][1])<.1

def test_diverging():
    learn = build()
    with pytest.raises(FloatingPointError, match='epoch 0, step'): quiet(learn, 2, 1e20, wd=0.)

def test_interrupted():
    "Steps that were made are in the model, and the loop is ready for another fit"
    learn = build()
    learn.dls.train_ds.store.ratings()[0] = np.nan
    with pytest.raises(FloatingPointError): quiet(learn, 1, 1e-2)
    assert learn.opt.state[learn.model.u_weight.weight]['step']==len(learn.dls.train)

# No wait

@pytest.mark.placement
@pytest.mark.parametrize('arch,fused', [(DotProductBias,'device'), (DotProductBias,False), (CollabNN,False),
    (SVDPlusPlus,False), (CollabNN,'device'), (SVDPlusPlus,'device'),
    (HybridMF,'device'), (HybridNN,'device')], ids=lambda o: getattr(o, '__name__', str(o)))
def test_no_waits(arch, fused):
    "The host waits as often for 10 minibatches as for 40"
    with pretend.pretending():
        dl = dict(val_bs=64)
        if arch in (HybridMF,HybridNN,SVDPlusPlus): dl.update(genre_name='genres', time_name='timestamp')
        learns,waits = [build(fused, arch, bs, pretend.DEVICE, dl=dl) for bs in (16,64)],[]
        for o in learns:
            quiet(o, 1, 1e-2)
            with pretend.count_waits() as n: quiet(o, 1, 1e-2)
            waits.append(sum(n.values()))
    assert waits[0]==waits[1], n

@pytest.mark.placement
def test_on_a_device():
    with pretend.pretending():
        a,b = (quiet(build(device=o), 2, 1e-2) for o in ('cpu',pretend.DEVICE))
        same(a, b)
        assert b.model.u_weight.weight.device==b.opt.state[b.model.u_weight.weight]['grad_avg'].device==pretend.DEVICE

# Which loop

@pytest.mark.placement
def test_rule(monkeypatch):
    "Small minibatches are compiled; large ones go where they were measured to be faster"
    times = {'device':2e-3, True:1e-3}
    monkeypatch.setattr(device_module, 'step_seconds', lambda learn, fused: times[fused])
    with pretend.pretending():
        large = build('auto', bs=2**12, device=pretend.DEVICE)
        assert not build('auto', bs=2**12-1, device=pretend.DEVICE).fused_reason and not large.fused_reason
        assert 'copied' in str(large.summary())
        times['device'] = 5e-4
        assert not large.fused_reason   # it is measured once
        large = build('auto', bs=2**12, device=pretend.DEVICE)
        assert large.fused_reason=='a minibatch takes 0.5 ms on pretend:0, and 1 ms in the compiled loop'
        assert 'in a loop on pretend:0' in str(large.summary())
        large.create_opt()
        assert type(fit_loop(large)) is DeviceLoop and not build(True, bs=2**12, device=pretend.DEVICE).fused_reason
    assert not build('auto', bs=2**12).fused_reason

class Own(CollabNN):
    def forward(self, x): return 2*super().forward(x)

@pytest.mark.placement
def test_rule_of_nets(monkeypatch):
    "Steps of a net of ours are recorded where that is faster; a model of a user may do something else in each step"
    times = {'device':1e-3, False:2e-3, True:2e-3}
    monkeypatch.setattr(device_module, 'can_record', lambda device: True)
    monkeypatch.setattr(device_module, 'recorded', lambda f, device: False)
    monkeypatch.setattr(device_module, 'step_seconds', lambda learn, fused: times[fused])
    with pretend.pretending():
        net,own,sets = (build('auto', o, bs, pretend.DEVICE) for o,bs in ((CollabNN,64),(Own,64),(SVDPlusPlus,2**12)))
        assert net.fused_reason=='a minibatch takes 1 ms on pretend:0, and 2 ms without a recording'
        assert own.fused_reason=='Own has no plan for the compiled loop'
        assert sets.fused_reason=='a minibatch takes 1 ms on pretend:0, and 2 ms in the compiled loop'
        for o in (net,sets): assert np.isfinite(quiet(o, 1, 1e-2).recorder.values[-1]).all()

@pytest.mark.placement
def test_a_trial_that_fails(monkeypatch):
    "A device that is full is not the way"
    def fail(learn, fused):
        if fused=='device': raise RuntimeError('out of memory')
        return 1e-3
    monkeypatch.setattr(device_module, 'step_seconds', fail)
    with pretend.pretending(), pytest.warns(UserWarning, match='out of memory'):
        assert not build('auto', bs=2**12, device=pretend.DEVICE).fused_reason

@pytest.mark.placement
def test_measured(monkeypatch):
    "The measurement changes neither weights nor random numbers"
    monkeypatch.setattr(device_module, 'LARGE', 64)
    with pretend.pretending():
        learn = build('auto', device=pretend.DEVICE)
        before,rng = [p.detach().cpu().clone() for p in learn.model.parameters()],torch.get_rng_state()
        learn.fused_reason
        (seconds,) = learn.step_times.values()
        assert len(seconds)==2 and torch.equal(rng, torch.get_rng_state())
        assert all(torch.equal(a, b.cpu()) for a,b in zip(before, learn.model.parameters()))

class EachBatch(Callback):
    def after_batch(self): pass

@pytest.mark.parametrize('kwargs,words', [(dict(cbs=EachBatch()),'EachBatch'),
    (dict(opt_func=partial(OptimWrapper, opt=torch.optim.SGD)),'LazyAdam')], ids=['callback','optimizer'])
def test_why_not(kwargs, words):
    with pytest.raises(ValueError, match=f"fused='device', but .*{words}"): fit_loop(build(**kwargs))

# On a GPU

@pytest.mark.cuda
@pytest.mark.parametrize('name', ['bias','net','sets','hybrid'])
def test_cuda_recorded(name, monkeypatch):
    "Steps played back from a CUDA graph learn what the same operations learn on the CPU, one by one"
    graphs,record = [],device_module.recorded
    monkeypatch.setattr(device_module, 'recorded', lambda *args: graphs.append(record(*args)) or graphs[-1])
    kwargs = ANY.get(name, {})
    a,b,start = (build(o, device=d, **kwargs) for o,d in ((False,'cpu'),('device','cuda'),(False,'cpu')))
    for o in (a,b): quiet(o, 3, 1e-2, wd=.1)
    assert all(graphs) and len(graphs)==3 and b.model.to('cpu') and moved(a, b, start)<2e-2

@pytest.mark.cuda
@pytest.mark.parametrize('name', ['bias','sets','hybrid'])
def test_cuda_staged(name):
    "The compiled loop with tables on a GPU: the CPU's numbers"
    a,b = (build(True, device=d, unk_p=.1, **ANY.get(name, {})) for d in ('cpu','cuda'))
    for o in (a,b): quiet(o, 2, 1e-2)
    assert next(b.model.parameters()).is_cuda
    assert all(torch.allclose(p, q.cpu(), atol=1e-6) for p,q in zip(a.model.parameters(), b.model.parameters()))

@pytest.mark.cuda
def test_cuda_measured():
    "The way that was measured to be faster is taken"
    learn = build('auto', bs=2**13, device='cuda', df=synthetic_ratings(2000, 500, 100_000))
    reason = learn.fused_reason
    (there,here), = learn.step_times.values()
    assert bool(reason)==(there<here) and np.isfinite(quiet(learn, 2, 1e-2).recorder.values[-1]).all()

@pytest.mark.slow
def test_benchmark(tmp_path):
    "What is to be run on a card runs here, without one"
    file = Path(__file__).parents[2]/'benchmarks/gpu.py'
    command = [sys.executable,str(file),'--device','cpu','--small','--out',str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    text = (tmp_path/'gpu.txt').read_text()
    assert 'Error' not in text and 'M ratings/s' in text and 'top 10' in text and 's an epoch' in text, text
