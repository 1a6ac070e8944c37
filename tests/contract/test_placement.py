"Every public door with ratings and model on a pretended device: what a GPU would refuse fails here, without a GPU"
import sys

import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import TrainEvalCallback
from fastai.callback.tracker import SaveModelCallback
from fastai.tabular.all import Callback, Recorder, nn, set_seed
from fastcollab.all import (CollabInterpretation, FitSessionEffects, OrdinalLoss, Recommender, ValidRMSE, baseline_rmse,
    collab_learner, load_learner)
from zoo import BASE, ZOO, build, loaders, names

from fastcollab.train.device import why_not_device
pretend = pytest.importorskip('pretend', reason='PyTorch before 2.10 knows no devices in Python', exc_type=ImportError)
from pretend import DEVICE, count_waits, elsewhere, pretending

pytestmark = pytest.mark.placement
NEW = pd.DataFrame(dict(userId=[1000]*4, movieId=[1,2,3,4], rating=[5.,1,4,2]))
# the pretended device has no products of vectors without numbers
MODELS = [o for o in ZOO if o!='Popular']
TRAINED = [o for o in MODELS if o not in ('BiasBaseline','PosteriorAverage','RankEnsemble')]

@pytest.fixture(autouse=True)
def device():
    with pretending(): yield DEVICE

def made(name='DotProductBias', device=DEVICE, dl=None, **kwargs):
    "The same learner on any device"
    dls = loaders(name, device=device, **(dl or {}))
    set_seed(0)
    return collab_learner(dls, arch=build(name, dls), center=ZOO[name].center, **kwargs)

def quiet(learn, *args, how='fit_one_cycle', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def fitted(name='DotProductBias', device=DEVICE, epochs=2, **kwargs):
    "The same fit on any device"
    learn = made(name, device, **kwargs)
    if name in ('BiasBaseline','RankEnsemble'): learn.model.to(device)
    elif name=='PosteriorAverage': quiet(learn, 30, how='fit_gibbs')
    else: quiet(learn, epochs, 1e-2)
    return learn

def weights(learn): return [p.detach().cpu() for p in learn.model.parameters()]
def places(learn): return {p.device.type for p in learn.model.parameters()}
def close(a, b, tol=1e-4): return all(torch.allclose(x, y, atol=tol) for x,y in zip(weights(a), weights(b)))

# The device

def test_two_devices():
    "Operands on two devices, numpy, and gradients: as on a GPU"
    x = torch.ones(3, 2, device=DEVICE)
    with pytest.raises(RuntimeError, match='same device'): x+torch.ones(3, 2)
    with pytest.raises(TypeError, match='numpy'): x.numpy()
    with pytest.raises(TypeError, match='numpy'): np.asarray(x)
    with pytest.raises(RuntimeError, match='same device'): nn.Embedding(4, 2).to(DEVICE)(torch.tensor([1]))
    assert (x+torch.tensor(1.)).cpu().tolist()==[[2.,2]]*3 and x[torch.tensor([0])].device==DEVICE

def test_parameters():
    "A module that moves keeps its parameters; what was moved trains, and is saved to where it was"
    m = nn.Linear(2, 1)
    p = m.weight
    m.to(DEVICE)(torch.ones(1, 2, device=DEVICE)).sum().backward()
    assert m.weight is p and p.device==p.grad.device==DEVICE and m.cpu().weight.device.type=='cpu'

def test_waits():
    x = torch.arange(4., device=DEVICE)
    with count_waits() as none: x.mul_(2)[1:].sum()
    with count_waits() as some: x.sum().item(), x.cpu()
    assert not none and sum(some.values())==2

# The compiled loop, wherever ratings and model are

@pytest.mark.parametrize('name', names(fused=True))
def test_fused(name):
    "The same numbers as on the CPU, dropout included, and everything stays where it was"
    a,b = (fitted(name, o, fused=True, unk_p=.1) for o in ('cpu',DEVICE))
    assert not b.fused_reason and places(b)=={'pretend'} and b.recorder.values==a.recorder.values and close(a, b, 0)
    state = [b.opt.state[p] for p in b.model.parameters() if p.requires_grad]
    assert {o[k].device.type for o in state for k in ('grad_avg','sqr_avg')}=={'pretend'}
    assert all(torch.equal(*o) for o in zip(a.get_preds(), b.get_preds()))

@pytest.mark.parametrize('name', ['SVDPlusPlus','SVDPlusPlus_features','SVDPlusPlus_times'])
def test_sets(name):
    "So do the loop of sets, and its predictions"
    a,b = (quiet(fitted(name, o, fused=True, unk_p=.1), 1, 1e-2, how='fit') for o in ('cpu',DEVICE))
    assert not b.fused_reason and places(b)=={'pretend'} and close(a, b, 1e-6)
    assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-5)
    assert all(torch.allclose(*o, atol=1e-5) for o in zip(a.get_preds(), b.get_preds()))

def test_fused_goes_on():
    "Moments are staged too: a second fit goes on where the first one ended, on either device"
    a,b = (quiet(fitted(device=o), 1, 1e-2, how='fit') for o in ('cpu',DEVICE))
    assert close(a, b, 0)

def test_interrupted():
    "What was trained before an error is on the device"
    learn = quiet(made(fused=True), 1, 1e-2)
    learn.dls.train_ds.store.in_host().ratings()[-1] = np.nan
    with pytest.raises(ValueError, match='not finite'): quiet(learn, 1, 1e-2)
    assert places(learn)=={'pretend'} and all(o.isfinite().all() for o in weights(learn))

def test_ratings_in_host_once():
    "Loaders on a device keep the ratings in host memory once, and forget them with the ratings that come"
    store = loaders('DotProduct', device=DEVICE).train_ds.store
    assert store.device==DEVICE and store.in_host() is store.in_host() and store.in_host().device.type=='cpu'
    assert np.shares_memory(store.arrays()[0], store.in_host().ids().numpy())
    n = len(store)
    store.append(torch.tensor([[1,1]]), torch.tensor([[3.]]))
    assert len(store.arrays()[0])==n+1 and store.to('cpu').in_host() is store

@pytest.mark.parametrize('fused', [False,True])
def test_fused_says_where(fused):
    "`fused=` decides; `fused_reason` and `summary()` say what was decided"
    learn = fitted(fused=fused)
    assert bool(learn.fused_reason)!=fused
    assert ('fused' if fused else 'because fused=False') in str(learn.summary())

# All models, all doors

@pytest.mark.parametrize('name', TRAINED)
def test_fit(name):
    "Fits in torch learn what they learn on the CPU"
    if 'bn' in name or 'ps' in ZOO[name].args or name=='Params': tol = 1     # dropout draws by device
    else: tol = 2e-3
    a,b = (fitted(name, o, fused=False, unk_p=0) for o in ('cpu',DEVICE))
    assert places(b)=={'pretend'} and close(a, b, tol)
    assert np.allclose(a.recorder.values[-1], b.recorder.values[-1], rtol=.2 if tol==1 else 2e-2)

@pytest.fixture(scope='module')
def on_device():
    "Fitted learners by name"
    res = {}
    def get(name):
        if name not in res: res[name] = fitted(name)
        return res[name]
    return get

@pytest.mark.parametrize('name', MODELS)
def test_predictions(name, on_device):
    learn = on_device(name)
    preds,targs = learn.get_preds()
    assert preds.device.type=='cpu' and preds.shape==targs.shape==(len(learn.dls.valid_ds),)
    valid = BASE.loc[learn.dls.valid_ds.items.index]
    same = learn.predict(valid)
    assert np.allclose(same, preds, atol=1e-4) and isinstance(learn.predict(1, 2), float)
    assert np.isfinite(learn.validate()[0]) and len(str(learn.summary()))>100 and places(learn)=={'pretend'}

@pytest.mark.parametrize('name', MODELS)
def test_recommendations(name, on_device, tmp_path):
    "Lists, similar items, newcomers and explanations, also of a recommender from a file"
    learn = on_device(name)
    rec,recs = learn.recommender(),learn.recommend([1,2], 3)
    assert len(recs)==6
    same = np.allclose(recs.prediction, learn.predict(recs.iloc[:,0], recs.iloc[:,2]), atol=1e-3)
    assert same or name=='PosteriorAverage'   # its lists are those of mean vectors
    if ZOO[name].vectors: assert len(learn.similar_items(2, 3))==3
    if ZOO[name].kind=='dot':
        if not ZOO[name].features: assert len(learn.fold_in(NEW).recommend([1000], 3))==3
        assert len(learn.explain(1, 2))
    rec.save(tmp_path/'rec')
    again = dict(model=build(name, loaders(name))) if rec.scorer.kind=='model' else {}
    assert Recommender.load(tmp_path/'rec', **again).recommend([1,2], 3).equals(rec.recommend([1,2], 3))
    assert places(learn)=={'pretend'}

@pytest.mark.parametrize('name', TRAINED)
def test_files(name, on_device, tmp_path):
    "Saved on the device, loaded on it, on the CPU of the same machine, and on a machine without the device"
    learn = on_device(name)
    learn.path,some = tmp_path,BASE[:8]
    want = learn.predict(some)
    learn.save('weights')
    assert np.allclose(learn.load('weights').predict(some), want) and places(learn)=={'pretend'}
    learn.export('learner.pkl')
    for cpu in (True,False):
        loaded = load_learner(tmp_path/'learner.pkl', cpu=cpu)
        assert places(loaded)==({'cpu'} if cpu else {'pretend'}) and np.allclose(loaded.predict(some), want, atol=1e-4)
    with elsewhere(): assert np.allclose(load_learner(tmp_path/'learner.pkl').predict(some), want, atol=1e-4)

@pytest.mark.parametrize('name', TRAINED)
def test_from_the_cpu(name, tmp_path):
    "What was exported on a CPU predicts on a device, and the other way round"
    learn = fitted(name, 'cpu')
    learn.path,some = tmp_path,BASE[:8]
    learn.export('learner.pkl')
    loaded = load_learner(tmp_path/'learner.pkl', cpu=False)
    assert np.allclose(loaded.predict(some), learn.predict(some), atol=1e-4) and places(loaded)=={'pretend'}
    assert len(loaded.recommend([1,2], 3))==6 and len(loaded.dls.test_dl(some).dataset.items)==8

@pytest.mark.parametrize('fused', ['auto',False,'device'])
@pytest.mark.parametrize('name', ['DotProductBias','CollabNN','SVDPlusPlus_times','HybridMF_add'])
def test_moves(name, fused):
    "Loaders and learner move after a fit, and fits go on at the new place, with their moments"
    learn = fitted(name, 'cpu', fused=fused)
    preds = learn.get_preds()[0]
    learn.dls.cuda()
    learn.to(DEVICE)
    assert torch.allclose(learn.get_preds()[0], preds, atol=1e-4)
    quiet(learn, 1, 1e-3)
    assert places(learn)=={'pretend'} and learn.dls.device==DEVICE
    learn.dls.cpu()
    assert places(quiet(learn, 1, 1e-3))=={'cpu'}

@pytest.mark.parametrize('name', ['DotProductBias','CollabNN','HybridMF_add'])
def test_model_moves_before_the_fit(name):
    "The loaders decide where a fit runs"
    learn = made(name, 'cpu')
    learn.model.to(DEVICE)
    assert places(quiet(learn, 1, 1e-2))=={'cpu'}

@pytest.mark.parametrize('fused', ['auto',False,'device'])
@pytest.mark.parametrize('name', ['DotProductBias','CollabNN','SVDPlusPlus_times','HybridMF_add'])
def test_moments_from_files(name, fused, tmp_path):
    "A fit goes on at the other place as it goes on at the first one: files of weights hold the moments, too"
    a = fitted(name, 'cpu', fused=fused)
    a.path = tmp_path
    a.save('weights')
    b = made(name, DEVICE, fused=fused)
    b.path = tmp_path
    b.load('weights')
    a.dls = loaders(name, device='cpu')   # from the first epoch on
    for o in (a,b): quiet(o, 1, 1e-3, how='fit')
    assert places(b)=={'pretend'} and close(a, b) and np.allclose(a.recorder.values, b.recorder.values, rtol=1e-3)
    b.save('weights')
    assert np.allclose(a.load('weights').predict(BASE[:8]), b.predict(BASE[:8]), atol=1e-4) and places(a)=={'cpu'}

@pytest.mark.parametrize('name', TRAINED)
def test_loaded_learners_train(name, tmp_path):
    "An exported learner opens on the other kind of machine, gets loaders there, and a fit goes on"
    for device,other in (('cpu',DEVICE),(DEVICE,'cpu')):
        learn = fitted(name, device)
        learn.path = tmp_path
        learn.export('learner.pkl')
        loaded = load_learner(tmp_path/'learner.pkl', cpu=other=='cpu')
        loaded.dls = loaders(name, device=other)
        assert np.allclose(loaded.get_preds()[0], learn.get_preds()[0], atol=1e-4)
        assert places(quiet(loaded, 1, 1e-3))=={torch.device(other).type} and len(loaded.recommend([1,2], 3))==6

# Mixed precision and several devices

@pytest.mark.parametrize('mode', ['fp16','bf16'])
@pytest.mark.parametrize('name', TRAINED)
def test_mixed_precision(name, mode, monkeypatch):
    "Tables train as they do without; nets train in half precision, and predict in single precision"
    # there is no half precision on the pretended device, and for `MixedPrecision` only CUDA has it
    for o in ('autocast','GradScaler'):
        f = getattr(torch.amp, o)
        monkeypatch.setattr(f'fastai.callback.fp16.{o}', lambda device, f=f, **kwargs: f('cpu', **kwargs))
    a,b = (made(name, 'cpu', unk_p=0) for _ in range(2))
    getattr(b, f'to_{mode}')()
    for o in (a,b): quiet(o, 3, 1e-2)
    assert {p.dtype for p in b.model.parameters() if p.dtype.is_floating_point}=={torch.float32}
    assert b.get_preds()[0].dtype==torch.float32 and np.isfinite(b.predict(BASE[:5])).all()
    if not a.fused_reason: assert not b.fused_reason and close(a, b, 0)
    elif 'bn' not in name and 'ps' not in ZOO[name].args and name!='Params':
        assert abs(a.recorder.values[-1][1]/b.recorder.values[-1][1]-1)<.1

def test_mixed_precision_on_a_device():
    "It doesn't keep a model of tables from the compiled loop, or a device from a net"
    assert not made(fused=True).to_fp16().fused_reason
    assert 'MixedPrecision' in why_not_device(made('CollabNN', fused='device').to_fp16())

class Parallel(Callback):
    "`ParallelTrainer`, which `learn.to_parallel()` adds; its module asks for the package accelerate"
    run_after,run_before = TrainEvalCallback,Recorder
    def before_fit(self): self.learn.model = nn.DataParallel(self.learn.model)
    def after_fit(self): self.learn.model = self.learn.model.module

@pytest.mark.parametrize('place', ['cpu',DEVICE], ids=str)
@pytest.mark.parametrize('name', ['DotProductBias','HybridMF_add','SVDPlusPlus_times','CollabNN','Flat','LeadEnsemble'])
def test_data_parallel(name, place, monkeypatch):
    "The same numbers in a wrapper, in the compiled loop where the model has one"
    if place=='cpu': monkeypatch.setattr(sys.modules[nn.DataParallel.__module__], '_get_available_device_type',
        lambda: None)
    a,b = (made(name, place, unk_p=0, cbs=o) for o in (None,Parallel()))
    for o in (a,b): quiet(o, 2, 1e-2)
    assert type(b.model) is type(a.model) and a.fused_reason==b.fused_reason and close(a, b, 2e-3)   # rows do not wait
    assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-3) and places(b)==places(a)
    wrapped = quiet(made(name, place, unk_p=0), 1, 1e-2)
    want = wrapped.predict(BASE[:5])
    wrapped.model = nn.DataParallel(wrapped.model)
    assert np.allclose(wrapped.predict(BASE[:5]), want) and len(wrapped.recommend([1,2], 3))==6
    assert np.isfinite(wrapped.validate()[0]) and np.isfinite(quiet(wrapped, 1, 1e-2).recorder.values[-1]).all()

def test_data_parallel_is_not_recorded():
    with pytest.raises(ValueError, match='DataParallel shares'): quiet(made('CollabNN', fused='device',
        cbs=Parallel()), 1)

def test_gibbs():
    "The sampler draws on the CPU; its samples are kept where the model is"
    a,b = (fitted('PosteriorAverage', o) for o in ('cpu',DEVICE))
    assert places(b)=={'pretend'} and np.allclose(a.predict(BASE[:9]), b.predict(BASE[:9]), atol=1e-3)
    assert np.allclose(a.predict(BASE[:9], interval=.9), b.predict(BASE[:9], interval=.9), atol=1e-3)
    assert np.allclose(a.predict_dist(BASE[:9]), b.predict_dist(BASE[:9]), atol=1e-3)
    quiet(b, 10, resume=True, how='fit_gibbs')
    assert places(b)=={'pretend'}

def test_auto():
    learn = collab_learner(loaders('DotProduct', device=DEVICE), arch='auto')
    quiet(learn, budget=2., how='fit_auto')
    assert places(learn)=={'pretend'} and np.isfinite(learn.predict(BASE[:5])).all() and len(learn.recommend([1], 3))==3

def test_lr_find():
    learn = made()
    before = weights(learn)
    with learn.no_bar(): learn.lr_find(num_it=10, show_plot=False)
    assert all(torch.equal(*o) for o in zip(before, weights(learn))) and places(learn)=={'pretend'}

@pytest.mark.parametrize('cbs', [[ValidRMSE()], [SaveModelCallback(with_opt=True)], [FitSessionEffects()]], ids=str)
def test_callbacks(cbs, tmp_path):
    learn = made('SVDPlusPlus_times' if isinstance(cbs[0], FitSessionEffects) else 'DotProductBias', cbs=cbs)
    learn.path = tmp_path
    assert places(quiet(learn, 2, 1e-2))=={'pretend'} and np.isfinite(learn.recorder.values[-1][:4]).all()

def test_ordinal_loss():
    learn = collab_learner(dls := loaders('DotProduct', device=DEVICE), loss_func=OrdinalLoss.from_dls(dls))
    quiet(learn, 1, 1e-2)
    assert np.allclose(learn.predict_dist(BASE[:5]).sum(1), 1) and len(learn.recommend([1], 3))==3

def test_interpretation(on_device, tmp_path):
    "Tables and pictures of a model on a device"
    learn = on_device('HybridMF_add')
    it = CollabInterpretation(learn)
    assert all(map(len, (it.bias(), it.rows, it.worst_users(), it.top_losses()))) and it.report(tmp_path/'report.html')
    for plot in (it.plot_factors, it.plot_bias, it.plot_calibration, it.plot_residuals, it.plot_error_by_popularity):
        plot()
    assert len(learn.model.weight([1,2])) and baseline_rmse(learn.dls).notna().all() and places(learn)=={'pretend'}

def test_loaders():
    "Batches, their decoding and new rows"
    dls = loaders('SVDPlusPlus_times', device=DEVICE)
    assert {o.device.type for o in dls.one_batch()}=={'pretend'} and len(dls.show_batch(show=False))
    assert len(dls.train_ds.items)==len(dls.train_ds) and dls.test_dl(BASE[:3]).one_batch()[0].device==DEVICE
