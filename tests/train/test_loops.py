"The compiled loop and the short torch loop against fastai's batches: the same numbers, events and errors"
import copy, re, sys, warnings
from functools import partial

import fastcollab, numpy as np, pandas as pd, pytest, torch
from fastai.torch_core import trainable_params
from fastai.callback.schedule import ParamScheduler, SchedLin, combined_cos
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.progress import CSVLogger
from fastai.losses import MSELossFlat
from fastai.tabular.all import Adam, Callback, CancelEpochException, CancelFitException, CancelTrainException
from fastai.tabular.all import L1LossFlat, Transform, nn, noop, set_seed
from fastcollab.kernels import jit
from fastcollab.train import loops as fused_module
from fastcollab.all import (BiasInterpretation, ColdItemSplitter, CollabDataLoaders, CollabNN, DotProduct,
    DotProductBias, Embedding, HybridMF, GravityRegularizer, LazyAdam, ParamEmbedding, RatingMSE, ValidRMSE,
    collab_learner, mae, movielens, rmse, sched_step, synthetic_ratings)
from fastcollab.train.loops import FusedLoop, TorchLoop, loop_for, why_not_loop
from hypothesis import given, settings, strategies as st

SMALL = synthetic_ratings(60, 40, 800)
# some users have no job
SMALL = SMALL.assign(age=SMALL.userId%7, jobs=[f'{u%3}|{u%5}' if u%4 else None for u in SMALL.userId])
SQUARE = SMALL.assign(title=[f'{k%60:02}' for k in range(len(SMALL))])   # as many items as users
def features(): return dict(item_cols=['genres'], user_cols=['age','jobs'])

def load(df=SMALL, seed=1, bs=64, feat=False, **kwargs):
    return CollabDataLoaders.from_df(df, item_name='title', seed=seed, bs=bs, **(features() if feat else {}), **kwargs)

def build(fused='auto', arch=DotProductBias, n_factors=5, dl=None, **kwargs):
    "The same loaders and the same weights each time"
    dl,feat = dl or {},(arch.func if isinstance(arch, partial) else arch) is HybridMF
    dls = load(feat=feat, **dl)
    set_seed(0)
    return collab_learner(dls, arch=arch, n_factors=n_factors, fused=fused, **kwargs)

def quiet(learn, *args, method='fit_one_cycle', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, method)(*args, **kwargs)
    return learn

class EachBatch(Callback):
    "Does nothing, but wants to see every batch"
    def after_batch(self): pass

def moved(got, want, start):
    "The largest difference of a parameter, relative to the distance that it moved"
    return max(float((a-b).detach().norm()/(b-c).detach().norm())
        for a,b,c in zip(*(o.model.parameters() for o in (got,want,start))) if b.requires_grad)

def weights(learn): return [p.detach().clone() for p in learn.model.parameters()]
def equal(a, b): return all(torch.equal(x, y) for x,y in zip(weights(a), weights(b)))
# steps
def taken(learn): return {learn.opt.state[p].get('step', 0) for p in learn.model.parameters() if p.requires_grad}
def finite(learn):
    "Weights are numbers, and moments are at least no nan"
    state = [v for s in learn.opt.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return all(o.isfinite().all() for o in learn.model.parameters()) and not any(o.isnan().any() for o in state)

def same_history(a, b, tol=1e-4):
    "Rates, schedules, losses and tables of two fits"
    ra,rb = a.recorder,b.recorder
    assert ra.lrs==pytest.approx(rb.lrs,
        rel=1e-6) and ra.iters==rb.iters and list(ra.metric_names)==list(rb.metric_names)
    assert np.allclose(ra.losses, rb.losses, rtol=tol) and np.allclose(ra.values, rb.values, rtol=tol)
    assert set(getattr(ra, 'hps', {}))==set(getattr(rb, 'hps', {}))
    for k in getattr(ra, 'hps', {}): assert np.allclose(ra.hps[k], rb.hps[k], rtol=1e-6)
    assert {k: pytest.approx(v, rel=1e-6) for k,v in a.opt.hypers[0].items()}==dict(b.opt.hypers[0])
    assert (a.train_iter,a.pct_train,a.epoch)==(b.train_iter,pytest.approx(b.pct_train),b.epoch)

ARCHS = dict(plain=DotProduct, plain_param=partial(DotProduct, emb=ParamEmbedding), bias=DotProductBias,
    bias_param=partial(DotProductBias, emb=ParamEmbedding),
    genres=HybridMF, **{f'genres_{o}':partial(HybridMF, agg=o) for o in ('sum','mean')})

def arch_of(name, **kwargs):
    "Class and arguments of `collab_learner`"
    a = ARCHS[name]
    return dict(arch=a.func, config=a.keywords) if isinstance(a, partial) else dict(arch=a)

N = int(800*.8)
CASES = [('plain',dict()), ('plain_param',dict(y_range=(0,5.5))), ('bias',dict(y_range=(0,5.5))),
    ('bias_param',dict(center=True)),
    ('genres',dict(y_range=(0,5.5))), ('genres_sum',dict(center=True, y_range=(0,5.5))), ('genres_mean',dict(unk_p=.3)),
    ('genres',dict(unk_p=0, dl=dict(bs=7))), ('bias',dict(unk_p=.3, dl=dict(bs=7))),
    ('bias',dict(unk_p=0, dl=dict(bs=1), y_range=(0,5.5))),
    ('genres',dict(dl=dict(bs=1))), ('bias',dict(dl=dict(bs=N))), ('genres',dict(dl=dict(bs=N), unk_p=0)),
    ('bias',dict(dl=dict(bs=5000), n_factors=50)),
    ('bias',dict(n_factors=1)), ('genres_sum',dict(n_factors=3)), ('plain',dict(n_factors=50, y_range=(.5,5.))),
    ('bias',dict(dl=dict(user_weight='sqrt'), n_factors=16, center=True)), ('bias',dict(wd=0.)),
    ('bias',dict(wd=1., moms=(.9,.8,.9))),
    ('bias',dict(loss_func=MSELossFlat())), ('bias',dict(opt_func=partial(LazyAdam, eps=1e-8, sqr_mom=.999)))]
SHARP = partial(LazyAdam, eps=1e-8)   # eps is left aside while a row waits, in tables of features by one loop only

@pytest.mark.parametrize('name,kwargs', CASES, ids=lambda o: o if isinstance(o, str)
    else ','.join(f'{k}={v}' for k,v in o.items())[:50])
def test_fused_equals_unfused(name, kwargs):
    "Compiled, in the torch loop and batch by batch: weights, rates, losses, table"
    cfg = {**arch_of(name), 'opt_func':SHARP, **kwargs}
    a,b,start = (build(f, **cfg) for f in (True,False,False))
    n = 1 if len(b.dls.train)>300 else 3
    c = build(False, **cfg, cbs=EachBatch()) if n>1 else b
    for o in {id(o):o for o in (a,b,c)}.values(): quiet(o, n, 2e-2)
    assert a.fused_reason=='' and moved(a, b, start)<1e-4 and moved(c, b, start)<1e-4
    same_history(a, b)
    same_history(c, b)

@pytest.mark.parametrize('name', ['plain', 'bias', 'bias_param', 'genres'])
def test_fused_equals_unfused_with_the_usual_eps(name):
    a,b,start = (build(f, **arch_of(name), y_range=(0,5.5)) for f in (True,False,False))
    for o in (a,b): quiet(o, 5, 2e-2)
    # with genres 3e-4, else 1e-6: the torch loop moves all rows of tables of features, where the compiled one lets them
    # wait
    assert moved(a, b, start)<1e-3
    same_history(a, b)

def test_all_loops_are_what_they_say():
    assert isinstance(loop_for(build()),
        FusedLoop) and type(loop_for(build(False))) is TorchLoop and loop_for(build(cbs=EachBatch())) is None

@pytest.mark.parametrize('name', ['bias','genres'])
def test_eager_adam_gives_the_same_errors(name):
    "fastai's `Adam` over whole tables: the RMSE of the fused fit to the third digit"
    a,b = (quiet(build(f, **arch_of(name), **kw), 5, 2e-2) for f,kw in ((True,{}),(False,dict(opt_func=Adam))))
    assert a.validate()[0]**.5==pytest.approx(b.validate()[0]**.5, abs=2e-3)

def test_rows_without_features():
    "Users without any category, on either loop"
    partly = dict(df=SMALL.assign(jobs=None, age=SMALL.age.where(SMALL.userId>30)))
    a,b,start = (build(f, arch=HybridMF, bias_wd=1., dl=partly)
        for f in (True,False,False))
    for o in (a,b): quiet(o, 2, 2e-2)
    assert moved(a, b, start)<1e-3

@pytest.mark.parametrize('bs', [7, 64, N])
@pytest.mark.parametrize('name', ['bias','genres','plain'])
def test_threads_do_not_change_a_bit(name, bs, monkeypatch):
    fits = []
    for n in (1,2,4):
        monkeypatch.setattr(fused_module, 'loop_threads', lambda bs, n_ratings, n=n: n)
        fits.append(quiet(build(True, **arch_of(name), unk_p=.3, dl=dict(bs=bs)), 2, 2e-2))
        assert equal(fits[0], fits[-1]) and np.allclose(fits[0].recorder.values, fits[-1].recorder.values, rtol=1e-6)

@pytest.mark.parametrize('piece', [1, 130, 500])
@pytest.mark.parametrize('fused', [True, False])
def test_pieces_do_not_change_a_bit(piece, fused, monkeypatch):
    "What the learner sees as a batch is a matter of display"
    want = quiet(build(fused), 2, 2e-2)
    monkeypatch.setattr(TorchLoop, 'piece', piece)
    got = quiet(build(fused), 2, 2e-2)
    assert equal(got, want) and got.recorder.lrs==want.recorder.lrs and np.allclose(got.recorder.losses,
        want.recorder.losses, rtol=1e-6)
    assert [o[1] for o in got.recorder.values]==pytest.approx([o[1] for o in want.recorder.values])

def test_drop_last():
    fits = []
    for f in (True,False):
        learn = build(f)
        learn.dls = CollabDataLoaders(learn.dls.train.new(drop_last=True), learn.dls.valid)
        fits.append(quiet(learn, 2, 2e-2))
        assert len(learn.recorder.losses)==2*(N//64)
    assert moved(*fits, build())<1e-3

# Reads

def unknown():
    "Known and unknown users and items, with features"
    df = SMALL[:30].astype(dict(title=str))
    df.loc[df.index[:10],'userId'] = 900+np.arange(10)
    df.loc[df.index[5:20],'title'] = [f'New {k}' for k in range(15)]
    return df

@pytest.mark.filterwarnings('ignore:.*not seen in training')
@pytest.mark.parametrize('name,kwargs', [('plain',{}), ('bias',dict(y_range=(0,5.5))), ('bias_param',dict(center=True)),
    ('genres',dict(y_range=(0,5.5), center=True)), ('genres_mean',{})], ids=str)
def test_reads_equal_unfused(name, kwargs, monkeypatch):
    learn = quiet(build(**arch_of(name), n_factors=6, **kwargs, metrics=[rmse,mae], cbs=ValidRMSE()), 2, 3e-2)
    calls,real = [],fused_module.predict_batches
    monkeypatch.setattr('fastcollab.train.learner.predict_batches', lambda o: (calls.append(1), real(o))[1])
    res = []
    new = learn.dls.test_dl(unknown())
    for f in ('auto',False):
        learn.fused,n = f,len(calls)
        with learn.no_bar():
            res.append([*learn.get_preds(with_loss=True), learn.get_preds(dl=new)[0], learn.get_preds(ds_idx=0)[0],
                learn.get_preds(with_input=True)[0].float(),
                torch.tensor(learn.validate())])
        assert (len(calls)>n)==(f=='auto')
    for a,b in zip(*res): assert a.shape==b.shape and torch.allclose(a, b, atol=1e-5, equal_nan=True)
    assert torch.allclose(res[0][3], torch.tensor(learn.predict(unknown())), atol=1e-5)

class NoUsers(Callback):
    "Predicts for unknown users, in validation"
    run_train = False
    def before_batch(self): self.learn.xb = (torch.zeros_like(self.x),)

class Higher(Callback):
    def after_pred(self): self.learn.pred = self.pred+1

@pytest.mark.parametrize('cb', [NoUsers, Higher])
def test_callbacks_change_what_is_validated(cb):
    "As they do in fastai"
    learn,res = quiet(build(), 2, 3e-2),[]
    for f in ('auto',False):
        learn.fused = f
        with learn.no_bar(): res.append([learn.validate()[0], learn.validate(cbs=cb())[0]])
    assert np.allclose(*res, rtol=1e-5) and abs(res[1][0]-res[1][1])>.1

def test_reads_do_not_write():
    learn = quiet(build(), 2, 2e-2)
    learn.model.train()
    before,state,values = weights(learn),torch.get_rng_state(),copy.deepcopy(learn.recorder.values)
    learn.fused_reason
    with learn.no_bar(): learn.get_preds(), learn.validate(), learn.predict(SMALL[:3])
    assert all(torch.equal(a, b) for a,b in zip(before, weights(learn))) and torch.equal(state, torch.get_rng_state())
    assert learn.model.training and learn.recorder.values==values

# Which learners are eligible

class Doubled(Embedding):
    def forward(self, x): return 2*super().forward(x)

class Own(DotProductBias):
    def forward(self, x): return super().forward(x)+1

class Watch(Callback):
    def before_batch(self): pass

def on_the_instance():
    cb = Callback()
    cb.after_batch = noop
    return cb

def groups(m):
    return [list(m.u_weight.parameters()), [p for n,p in m.named_parameters() if not n.startswith('u_weight')]]
def frozen(learn): learn.model.u_bias.weight.requires_grad_(False)
def double(learn): learn.model.double()
def hook(learn): learn.model.i_bias.register_forward_hook(lambda *args: None)
def undecayed(learn): learn.opt.state[learn.model.u_bias.weight]['do_wd'] = False
def transform(learn): learn.dls.train.after_batch.add(Transform(lambda b: b))
def schedule(learn): learn.add_cb(ParamScheduler(dict(sqr_mom=SchedLin(.9, .99), lr=SchedLin(1e-2, 1e-3))))
def recorded(learn): learn.recorder.after_step = noop
def one_table(learn): learn.model.i_bias = learn.model.u_bias
def one_weight(learn): learn.model.i_bias.weight = learn.model.u_bias.weight

INELIGIBLE = [('Adam',dict(opt_func=Adam),'not LazyAdam'), ('gravity',dict(cbs=GravityRegularizer()),
    'GravityRegularizer needs'),
    ('after_batch',dict(cbs=EachBatch()),'EachBatch needs'), ('two callbacks',dict(cbs=[Watch(),EachBatch()]),
        'Watch, EachBatch needs?'),
    ('CollabNN',dict(arch=CollabNN, n_factors=50),'CollabNN has no plan'), ('own',dict(arch=Own),'Own has no plan'),
    ('scale',dict(arch=HybridMF, config=dict(how='scale')),'how=.scale.'), ('L1',dict(loss_func=L1LossFlat()),
        'no fused_pair'),
    ('callable',dict(loss_func=lambda p,t: ((p-t)**2).mean()),'no fused_pair'), ('sum',dict(loss_func=RatingMSE('sum')),
        "reduced by 'sum'"),
    ('MSE sum',dict(loss_func=MSELossFlat(reduction='sum')),"reduced by 'sum'"),
    ('frozen',dict(change=frozen),'u_bias.weight is frozen'),
    ('float64',dict(change=double),'parameters are .*float64'),
    ('groups',dict(splitter=groups),'2 parameter groups'), ('hooks',dict(change=hook),'has a hook'),
    ('do_wd',dict(change=undecayed),'not all decayed'), ('transform',dict(change=transform),'transforms each batch'),
    ('max_norm',dict(config=dict(emb=partial(nn.Embedding, max_norm=1.))),'not a plain table'),
    ('padding',dict(config=dict(emb=partial(nn.Embedding, padding_idx=0))),'not a plain table'),
    ('by freq',dict(config=dict(emb=partial(nn.Embedding, scale_grad_by_freq=True))),'not a plain table'),
    ('subclass',dict(config=dict(emb=Doubled)),'Doubled is not a plain table'),
    ('event',dict(cbs=Callback(before_batch=noop)),'Callback needs single'),
    ('event of an instance',dict(cbs=on_the_instance()),'Callback needs single'),
    ('event of the recorder',dict(change=recorded),'Recorder needs single'), ('schedule',dict(change=schedule),
        'sqr_mom is scheduled'),
    ('one table',dict(dl=dict(df=SQUARE), change=one_table),'share'),
    ('one weight',dict(dl=dict(df=SQUARE), change=one_weight),'share'),
    ('train_metrics',dict(metrics=rmse, change=lambda learn: setattr(learn.recorder, 'train_metrics', True)),
        'train_metrics=True')]

@pytest.mark.parametrize('name,kwargs,words', INELIGIBLE, ids=[o[0] for o in INELIGIBLE])
def test_ineligible(name, kwargs, words):
    "`fused=True` raises an error with the reason before training; 'auto' trains in PyTorch and says why"
    kwargs,change = {k:v for k,v in kwargs.items() if k!='change'},kwargs.get('change', noop)
    for f in (True,'auto'):
        learn = build(f, **kwargs)
        learn.create_opt()
        change(learn)
        before = weights(learn)
        if f is True:
            with pytest.raises(ValueError, match=f'fused=True, but .*{words}'): quiet(learn, 1, 1e-2)
            assert all(torch.equal(a, b) for a,b in zip(before, weights(learn)))
        else:
            if name not in ('float64','device'): quiet(learn, 1, 1e-2)
            assert re.search(words, learn.fused_reason) and f'because {learn.fused_reason}' in learn.summary()

def test_eligible():
    for kw in (dict(), dict(opt_func=partial(LazyAdam, eps=1e-6)), dict(loss_func=MSELossFlat()), dict(arch=HybridMF),
        dict(center=True),
        dict(cbs=[ValidRMSE(), BiasInterpretation(), EarlyStoppingCallback()])):
        learn = build(True, **kw)
        assert learn.fused_reason=='' and 'fused, in a compiled loop' in learn.summary()
        quiet(learn, 1)
        assert learn.fused_reason==''
    assert build(False).fused_reason=='fused=False' and why_not_loop(build(False))==''

@pytest.mark.parametrize('late', [False, True])
def test_events_of_an_instance(late):
    "As `Callback(before_batch=f)` or set later: called for each batch of training and of validation"
    def count(self=None): calls.append(1)
    calls,cb = [],Callback() if late else Callback(before_batch=count)
    if late: cb.before_batch = count
    learn = quiet(build(cbs=cb), 2, 1e-2)
    assert len(calls)==2*(len(learn.dls.train)+len(learn.dls.valid))

def by_hand(dls, **kwargs):
    "A model with features that has no tables of who has which"
    return HybridMF(dls.n_users, dls.n_items, [f.spec for f in dls.features], 5, **kwargs)

def test_a_feature_model_by_hand():
    "Training and predictions take the features from the loaders"
    res = []
    for f in ('auto',False):
        dls = load(feat=True)
        set_seed(0)
        learn = quiet(collab_learner(dls, arch=by_hand(dls, y_range=(0,5.5)), fused=f), 3, 2e-2)
        with learn.no_bar(): res.append([learn.get_preds()[0], learn.model.f_weight[1].tables[0].weight.detach()])
        assert f is False or 'tables of features' in learn.fused_reason
    for a,b in zip(*res): assert torch.allclose(a, b)
    learn = build(arch=HybridMF)
    learn.model.i_table[3] = 0
    assert 'tables of features' in learn.fused_reason
    with pytest.raises(ValueError, match='tables of features'):
        quiet(collab_learner(dls, arch=by_hand(dls), fused=True), 1)

@pytest.mark.parametrize('names', [('sqr_mom',), ('eps',), ('lr','sqr_mom','eps','wd')])
def test_schedules_of_other_hypers(names):
    "The torch loop, and batch by batch: those of `Adam`"
    scheds = dict(lr=SchedLin(2e-2, 1e-3), sqr_mom=SchedLin(.9, .999), eps=SchedLin(1e-8, 1e-9), wd=SchedLin(.1, .3))
    fits = []
    for kw in (dict(), dict(cbs=EachBatch()), dict(opt_func=partial(Adam, eps=1e-8))):
        learn = build('auto', **{'opt_func':SHARP, **kw})
        fits.append(quiet(learn, 3, 2e-2, method='fit', cbs=ParamScheduler({k:scheds[k] for k in names})))
    for o in fits[:2]:
        assert moved(o, fits[2], build(False))<1e-4
        same_history(o, fits[2])

@pytest.mark.parametrize('fused', ['nonsense', None, 2])
def test_fused_is_one_of_four(fused):
    with pytest.raises(ValueError, match="choose 'auto', True, False or 'device'"): build(fused)

# What else fastai does

def test_recorder_and_a_second_fit():
    "A fit goes on with the state of the optimizer, and its history is that of fastai"
    a,b,start = (build(f, metrics=rmse) for f in (True,False,False))
    per = len(a.dls.train)
    for n,k in ((2,2),(3,5)):
        for o in (a,b): quiet(o, n, 2e-2)
        same_history(a, b)
        assert len(a.recorder.losses)==len(a.recorder.lrs)==n*per and a.recorder.iters==[per*(j+1) for j in range(n)]
        assert all(a.opt.state[p]['step']==k*per for p in a.model.parameters() if p.requires_grad)
        want = [combined_cos(.25, 2e-2/25, 2e-2, 2e-7)(torch.tensor(j/(n*per)).item()) for j in range(n*per)]
        assert np.allclose(a.recorder.lrs, want, rtol=1e-4,
            atol=1e-9) and a.opt.hypers[-1]['lr']==pytest.approx(a.recorder.lrs[-1])
    assert moved(a, b, start)<1e-3

@pytest.mark.parametrize('method,args,kwargs', [('fit',(2,1e-2),dict(wd=.3)), ('fit_flat_cos',(3,1e-2),{}),
    ('fit_sgdr',(2,1,1e-2),{}),
    ('fit',(3,1e-2),dict(cbs='step')), ('fit_one_cycle',(2,slice(1e-3,1e-2)),{})], ids=['fit','flat_cos','sgdr','step',
        'slice'])
def test_other_schedules(method, args, kwargs):
    a,b,start = (build(f) for f in (True,False,False))
    for o in (a,b):
        quiet(o, *args, method=method, **{**kwargs, **(dict(cbs=sched_step(2e-2, step=1)) if 'cbs' in kwargs else {})})
    same_history(a, b)
    assert moved(a, b, start)<1e-3

def test_trackers():
    "Early stopping, a plateau that lowers the rate, and the best epoch kept, as without the compiled loop"
    for cbs in (lambda: EarlyStoppingCallback(patience=2), lambda: ReduceLROnPlateau(patience=1, factor=3.)):
        a,b = (quiet(build(f, n_factors=20, unk_p=0), 12, 8e-2, method='fit', cbs=cbs()) for f in (True,False))
        same_history(a, b, 1e-3)
        assert len(a.recorder.values)<12 or a.recorder.lrs[-1]<8e-2/2

@pytest.mark.parametrize('fused', [True, False])
def test_files(fused, tmp_path):
    "A log, the best epoch, and models with and without the optimizer"
    learn = quiet(build(fused, path=tmp_path), 4, 2e-2, cbs=[CSVLogger(), SaveModelCallback(fname='best')])
    log = pd.read_csv(tmp_path/'history.csv')
    assert np.allclose(log.valid_loss, [o[1] for o in learn.recorder.values], atol=1e-5) and len(log)==4
    assert learn.validate()[0]==pytest.approx(min(o[1] for o in learn.recorder.values), rel=1e-5)
    learn.save('whole', with_opt=True)
    other = build(fused, path=tmp_path).load('whole', with_opt=True)
    assert equal(learn, other)
    trained = ([p for p in o.model.parameters() if p.requires_grad] for o in (learn,other))
    for p,q in zip(*trained):
        a,b = learn.opt.state[p],other.opt.state[q]
        assert a['step']==b['step']>0 and torch.equal(a['grad_avg'], b['grad_avg']) and torch.equal(a['sqr_avg'],
            b['sqr_avg'])

def test_plots_and_finder():
    learn = quiet(build(True), 2, 2e-2)
    learn.recorder.plot_sched()
    learn.recorder.plot_loss()
    for f in ('auto',False,True):
        learn = build(f)
        before = weights(learn)
        with learn.no_bar(): lr = learn.lr_find(show_plot=False).valley
        assert 1e-5<lr<1 and all(torch.equal(a, b) for a,b in zip(before, weights(learn)))

# Stopping in the middle, and going on

class Stop(Callback):
    "Raises `error` at `event` of epoch 1"
    def __init__(self, event, error):
        self.error = error
        setattr(self, event, self.now)
    def now(self):
        if self.epoch==1: raise self.error('stop') if self.error is RuntimeError else self.error()

PLACES = ['before_train','after_train','before_validate','after_epoch']

@pytest.mark.parametrize('event,error', [(e,o) for o in (CancelFitException,RuntimeError,KeyboardInterrupt)
    for e in PLACES]
    + [(e,CancelEpochException) for e in PLACES[:3]] + [('before_train',CancelTrainException)])
def test_stopped_between_pieces(event, error):
    "The model is that of fastai's batches stopped at the same place"
    fits = []
    for f in (True,False):
        learn = build(f)
        try: quiet(learn, 3, 2e-2, cbs=Stop(event, error))
        except (RuntimeError,KeyboardInterrupt) as e: assert isinstance(e, error)
        fits.append(learn)
        assert finite(learn) and learn.opt is not None
    assert moved(*fits, build())<1e-3
    a,b = map(taken, fits)
    assert a==b and len(a)==1

@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('name', ['bias','genres'])
def test_interrupted_in_the_kernel(name, threads, monkeypatch):
    "Ctrl-C arrives when the compiled loop gives control back: the steps that it took count"
    from fastcollab.kernels import mf as kernel
    monkeypatch.setattr(fused_module, 'loop_threads', lambda bs, n: threads)
    want = quiet(build(True, **arch_of(name)), 3, 2e-2, cbs=Stop('after_train', CancelFitException))
    learn,calls,real = build(True, **arch_of(name)),[],kernel.train
    def train(*args):
        res = real(*args)
        if args[-2]==0:
            calls.append(res)
            if len(calls)==2: raise KeyboardInterrupt
        return res
    monkeypatch.setattr(kernel, 'train', train)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 3, 2e-2)
    assert finite(learn) and taken(learn)=={2*len(learn.dls.train)}
    assert moved(learn, want, build(True, **arch_of(name)))<1e-6

def test_interrupted_batch_by_batch():
    "All rows are at the present after an error in a batch: those of `Adam` stopped at the same step"
    class At(Callback):
        def after_step(self):
            if self.train_iter==14: raise RuntimeError('stop')
    fits = []
    for f in (LazyAdam,Adam):
        learn = build(False, opt_func=partial(f, eps=1e-10), cbs=At())
        with pytest.raises(RuntimeError): quiet(learn, 3, 2e-2)
        assert not learn.model.u_weight._forward_pre_hooks and not learn.model.u_weight.sparse
        fits.append(learn)
    assert moved(*fits, build(False))<1e-3

@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('name,method,kwargs', [('bias','fit_one_cycle',dict(unk_p=.1)),
    ('bias','fit_flat_cos',dict(unk_p=0)), ('genres','fit_one_cycle',dict(unk_p=.1, dl=dict(user_weight='sqrt')))],
    ids=['drop','flat_cos','genres'])
def test_resumed_fit(name, method, kwargs, fused, tmp_path):
    "From a file of epoch 2, with new loaders: the weights of the fit that was never interrupted"
    kwargs = dict(**arch_of(name), path=tmp_path, **kwargs)
    saves = SaveModelCallback(every_epoch=True, with_opt=True, fname='m')
    want = quiet(build(fused, **kwargs), 4, 2e-2, method=method, cbs=saves)
    got = build(fused, **kwargs)
    for p in got.model.parameters(): p.data.zero_()
    got.load('m_1', with_opt=True)
    quiet(got, 4, 2e-2, method=method, start_epoch=2)
    lrs = want.recorder.lrs
    assert moved(got, want, build(fused, **kwargs))<1e-5 and got.recorder.lrs==pytest.approx(lrs[len(lrs)//2:])

@pytest.mark.parametrize('first,second', [(True,False), (False,True), (Adam,True), (True,Adam)],
    ids=lambda o: getattr(o, '__name__', str(o)))
def test_fits_hand_over(first, second):
    "A fit in one loop goes on in another, or with fastai's `Adam`"
    def arg(o, **kw):
        return dict(fused=False, opt_func=partial(Adam, eps=1e-8)) if o is Adam else dict(fused=o,
            opt_func=partial(LazyAdam, eps=1e-8))
    fits = []
    for a,b in ((first,second), (Adam,Adam)):
        learn = quiet(build(**arg(a)), 2, 2e-2)
        other = collab_learner(learn.dls, arch=learn.model, **arg(b))
        other.create_opt()
        other.opt.load_state_dict(learn.opt.state_dict())
        fits.append(quiet(other, 2, 2e-2))
    assert moved(*fits, build())<2e-3

# What cannot be trained

DIVERGE = [True, False, 'each']
def diverging(f, **kwargs):
    return build(f is True, cbs=EachBatch() if f=='each' else None, **{'y_range':False, **kwargs})

@pytest.mark.parametrize('fused', DIVERGE)
@pytest.mark.parametrize('lr', [1e5, 1e6, 1e7, 1e8, 1e10, 1e12, 1e20, 1e35])
def test_diverging_rates(fused, lr):
    "An error that names epoch and step, or a fit that goes on; never weights or moments that aren't numbers"
    learn = diverging(fused, unk_p=0)
    try: quiet(learn, 2, lr, wd=0.)
    except FloatingPointError as e:
        assert 'epoch 0, step ' in str(e) and 'of 10' in str(e) and 'lower the learning rate' in str(e)
    else: assert lr<1e12
    assert finite(learn)

@pytest.mark.parametrize('fused', DIVERGE)
def test_the_error_says_where(fused):
    "The same place in every loop, with the rate of that step; the steps before count"
    learn = diverging(fused, unk_p=0)
    with pytest.raises(FloatingPointError,
        match=r'the loss is inf in epoch 0, step 2 of 10 \(lr (?!0\.001)[0-9.e+]+\)'), warnings.catch_warnings():
        warnings.simplefilter('error')
        quiet(learn, 1, 1e15, wd=0.)
    assert finite(learn) and taken(learn)=={1}

@pytest.mark.parametrize('fused', DIVERGE)
@pytest.mark.parametrize('arch', [DotProductBias,CollabNN])
def test_the_last_step_of_an_epoch(fused, arch):
    "No loss is asked for after it, so weights are looked at, but not by `lr_find`, which puts them back"
    if arch is CollabNN and fused is True: fused = 'auto'
    learn,n = diverging(fused, unk_p=0, arch=arch, dl=dict(bs=N), n_factors=50),[]
    with pytest.raises(FloatingPointError,
        match=r'weights are not finite after epoch 0, step 1 of 1 \(lr 4e\+58\); lower the learning rate.*lost'):
        quiet(learn, 2, 1e60, wd=0., cbs=Callback(before_validate=lambda self: n.append(1)))
    assert not n and taken(learn)=={1}
    learn = diverging(fused, unk_p=0, arch=arch, dl=dict(bs=N), n_factors=50, wd=0.)
    with learn.no_bar(): learn.lr_find(end_lr=1e60, num_it=3, show_plot=False, suggest_funcs=())
    assert finite(learn)

@pytest.mark.parametrize('fused', DIVERGE)
def test_weights_are_looked_at_once_an_epoch(fused, monkeypatch):
    calls,real = [],fused_module.check_weights
    monkeypatch.setattr('fastcollab.train.learner.check_weights', lambda learn: (calls.append(learn.iter), real(learn)))
    learn = diverging(fused)
    quiet(learn, 3)
    with learn.no_bar(): learn.lr_find(show_plot=False), learn.validate(), learn.get_preds()
    assert calls==[len(learn.dls.train)-1]*3

@pytest.mark.parametrize('fused', [False, 'each'])
@pytest.mark.parametrize('lr', [1e38, 1e39, 1e45])
def test_rates_beyond_float32_in_dense_layers(fused, lr):
    learn = diverging(fused, unk_p=0, arch=CollabNN, n_factors=50)
    with pytest.raises(FloatingPointError, match='the loss is (nan|inf) in epoch 0, step 2 of 10'):
        quiet(learn, 1, lr, wd=0.)

@pytest.mark.parametrize('fused', DIVERGE)
def test_a_rate_that_takes_all_of_a_row(fused):
    learn = diverging(fused)
    with pytest.raises(ValueError, match=r'lr\*wd is .* at step'): quiet(learn, 1, 1e6)
    assert finite(learn)

@pytest.mark.parametrize('fused', DIVERGE)
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_ratings_that_are_no_numbers(fused, bad):
    learn = diverging(fused)
    class Spoil(Callback):
        "A rating turns bad after an epoch"
        def after_epoch(self): self.dls.train_ds.store.ratings()[17] = bad
    dl = load().train
    _,order = dl.get_idxs(),dl.get_idxs().tolist()
    step = order.index(17)//64+1
    words = f'(1 of 640 ratings are not finite numbers, .*|the loss is (nan|inf) )in epoch 1, step {step} of 10'
    with pytest.raises((ValueError,FloatingPointError), match=words): quiet(learn, 2, 1e-2, cbs=Spoil())
    assert finite(learn)

@pytest.fixture
def broken(monkeypatch):
    "A kernel that cannot be imported, for as long as the test runs; returns how to break it"
    def how(error):
        class Finder:
            def find_spec(self, name, path=None, target=None):
                if name=='fastcollab.kernels.mf': raise error
        monkeypatch.delattr(fastcollab.kernels, 'mf', raising=False)
        if error is None: monkeypatch.setitem(sys.modules, 'fastcollab.kernels.mf', None)
        else:
            monkeypatch.delitem(sys.modules, 'fastcollab.kernels.mf', raising=False)
            monkeypatch.setattr(sys, 'meta_path', [Finder(), *sys.meta_path])
        jit.unusable.cache_clear()
    assert not jit.unusable()
    yield how
    monkeypatch.undo()
    jit.unusable.cache_clear()
    assert not jit.unusable()

@pytest.mark.parametrize('error', [None, ImportError('no numba'), RuntimeError('cannot cache function'),
    PermissionError('read-only')], ids=str)
def test_without_the_compiled_loops(error, broken):
    "One warning, and the same numbers in torch"
    want = quiet(build(True), 2, 2e-2)
    broken(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn = quiet(build(), 2, 2e-2)
        quiet(build(use_nn=True, arch=None), 1, 1e-2)
        assert 'compiled loops cannot be used' in learn.fused_reason
    mine = [str(o.message) for o in caught if 'NUMBA_CACHE_DIR' in str(o.message)]
    assert len(mine)==1 and 'install numba' in mine[0] and moved(learn, want, build())<1e-3
    with pytest.raises(ValueError, match='compiled loops cannot be used'): quiet(build(True), 1)

def test_a_full_disk():
    "A folder that takes only small files: the torch loop, one warning, and no error when numba fills its cache"
    resource = pytest.importorskip('resource')
    soft,hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    jit.unusable.cache_clear()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**14,hard))
        with pytest.warns(UserWarning, match='File too large; .*NUMBA_CACHE_DIR'): assert jit.unusable()
        assert 'compiled loops cannot be used' in build().fused_reason
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft,hard))
        jit.unusable.cache_clear()
    assert not jit.unusable()

# A second implementation

def reference(start, dls, lrs, moms, wd, bias_wd, p, y_range, n_epoch, eps):
    "Minibatches and dense `Adam` in numpy and float64"
    P = [o.detach().double().numpy().copy() for o in (start.u_weight.weight,start.i_weight.weight,start.u_bias.weight,
        start.i_bias.weight)]
    M,V,s,dl = [o*0 for o in P],[o*0 for o in P],0,dls.train
    x,y = dls.train_ds.store.ids().numpy(),dls.train_ds.store.ratings().double().numpy()[:,0]
    for _ in range(n_epoch):
        order = dl.get_idxs().numpy()
        drop = (torch.rand(len(order), 2,
            generator=torch.Generator().manual_seed(dl.epoch_seed))<p).numpy() if p else np.zeros((len(order),2), bool)
        for o in range(0, len(order), dl.bs):
            b = order[o:o+dl.bs]
            u,i = np.where(drop[o:o+dl.bs], 0, x[b]).T
            score,slope = (P[0][u]*P[1][i]).sum(1)+P[2][u,0]+P[3][i,0]+float(start.link.shift),1.
            if y_range:
                sg,span = 1/(1+np.exp(-score)),y_range[1]-y_range[0]
                score,slope = y_range[0]+span*sg,span*sg*(1-sg)
            e = (2/len(b)*(score-y[b])*slope)[:,None]
            G = [o*0 for o in P]
            for g,rows,d in zip(G, (u,i,u,i), (e*P[1][i],e*P[0][u],e,e)): np.add.at(g, rows, d)
            lr,mom,s = lrs[s],moms[s],s+1
            for k,(g,decay) in enumerate(zip(G, (wd,wd,wd*bias_wd,wd*bias_wd))):
                M[k],V[k] = mom*M[k]+(1-mom)*g,.99*V[k]+.01*g*g
                P[k] = P[k]*(1-lr*decay) - lr/(1-mom**s)*M[k]/(np.sqrt(V[k]/(1-.99**s))+eps)
    return P

@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 150), st.integers(1, 60), st.integers(1, 20),
    st.sampled_from([False,(0,5.5),(-1,6)]), st.sampled_from([0,.02,.3,1]),
    st.sampled_from([0,.1,2.]), st.sampled_from([0,.1,.5]), st.integers(0, 9), st.booleans())
def test_against_a_second_implementation(n_users, n_items, n, bs, k, y_range, bias_wd, wd, p, seed, cycle):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(user=rng.integers(n_users, size=n+1), item=rng.integers(n_items, size=n+1),
        rating=rng.integers(1, 11, n+1)/2))
    df.loc[:1,['user','item']] = [[0,0],[1,1]]                       # of both at least two
    df.loc[n,['user','item']] = 0
    dls = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                            # repeated pairs
        for _ in range(2): dls.append(CollabDataLoaders.from_df(df, splits=(range(n),[n]), seed=seed, bs=bs))
    set_seed(seed)
    learn = collab_learner(dls[0], n_factors=k, y_range=y_range, unk_p=p, opt_func=partial(LazyAdam, eps=1e-9),
        fused=True, wd=wd, bias_wd=bias_wd)
    # from tiny vectors the first gradients would be rounding
    for o in trainable_params(learn.model): o.data = torch.randn(o.shape)*.3
    start = copy.deepcopy(learn.model)
    quiet(learn, 2, 2e-2, method='fit_one_cycle' if cycle else 'fit')
    lrs = learn.recorder.lrs
    moms = learn.recorder.hps['mom'] if cycle else [.9]*len(lrs)
    want = reference(start, dls[1], lrs, moms, wd, bias_wd, p, y_range, 2, 1e-9)
    m = learn.model
    got = [o.detach().numpy() for o in (m.u_weight.weight,m.i_weight.weight,m.u_bias.weight,m.i_bias.weight)]
    first = [o.detach().numpy() for o in (start.u_weight.weight,start.i_weight.weight,start.u_bias.weight,
        start.i_bias.weight)]
    off = np.sqrt(sum(((a-b)**2).sum() for a,b in zip(got, want))/sum(((b-c)**2).sum() for b,c in zip(want, first)))
    assert off < 1e-3

# On real data, on a GPU

@pytest.mark.slow
@pytest.mark.data
def test_quality_is_that_of_adam(data_dir, monkeypatch):
    "ml-latest-small with fastai's eps: means over 2 seeds"
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    df,res = movielens('ml-latest-small'),{}
    for name,kw in dict(fused=dict(fused=True), torch=dict(fused=False), adam=dict(fused=False, opt_func=Adam)).items():
        for seed in range(2):
            dls = CollabDataLoaders.from_df(df, seed=seed, bs=2048)
            set_seed(seed)
            learn = collab_learner(dls, y_range=(0,5.5), unk_p=0, **kw)
            res.setdefault(name, []).append(quiet(learn, 3, 4e-2, wd=.1).validate()[0]**.5)
    mean = {k:np.mean(v) for k,v in res.items()}
    assert abs(mean['fused']-mean['adam'])<.002 and abs(mean['torch']-mean['adam'])<.002 and mean['adam']<.9, res

@pytest.mark.cuda
@pytest.mark.parametrize('name', ['bias','genres'])
def test_cuda_fit(name):
    "The torch loop on a GPU: the weights of a fit on the CPU, without dropout (its draws differ by device)"
    a,b,start = (build(False, **arch_of(name), unk_p=0, dl=dict(device=d)) for d in ('cuda','cpu','cpu'))
    for o in (a,b): quiet(o, 3, 2e-2)
    a.model.cpu()
    assert moved(a, b, start)<1e-2
    assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-3)

@pytest.mark.cuda
def test_cuda_divergence():
    learn = build(dl=dict(device='cuda'), unk_p=0)
    with pytest.raises(FloatingPointError, match='epoch 0, step'): quiet(learn, 2, 1e20, wd=0.)

# Rows that are not there: last, because reading them can end the process

@pytest.mark.parametrize('fused', DIVERGE)
@pytest.mark.parametrize('col,row', [(0,-1), (0,10**6), (1,-5), (1,41)])
def test_rows_out_of_range(fused, col, row):
    learn = diverging(fused)
    learn.dls.train_ds.store.ids()[3,col] = row
    with pytest.raises(IndexError): quiet(learn, 1, 1e-2)
    assert finite(learn)

@pytest.mark.parametrize('side', ['u_table','i_table'])
@pytest.mark.parametrize('row', [-1, 10**6, 'next'])
def test_feature_rows_out_of_range(side, row):
    "As the model and the loaders have them; `next` to the last row is one of the next feature, or none"
    learn = build(True, arch=HybridMF)
    k = 'ui'.index(side[0])
    for t in (getattr(learn.model, side),learn.dls.train_ds.tables[k]):
        t[3,0] = learn.model.sides[k][0].n if row=='next' else row
    with pytest.raises(IndexError,
        match=f"{'age' if k==0 else 'genres'!r} run from .* but the model has .*make the model for these "
        f"loaders"): quiet(learn, 1)
    assert finite(learn)

@pytest.mark.parametrize('col,row', [(0,-1), (1,10**6)])
def test_rows_out_of_range_in_validation(col, row):
    learn = build(True)
    learn.dls.valid_ds.store.ids()[3,col] = row
    with pytest.raises(IndexError): learn.validate()

def test_a_model_without_the_features_of_its_loaders():
    "Unseen items with genres are row 0 for a model that knows no genres, in the compiled loop too"
    dls = CollabDataLoaders.from_df(synthetic_ratings(60, 40, 1500), genre_name='genres',
        splitter=ColdItemSplitter(.2, seed=0), seed=0, bs=64)
    learn = collab_learner(dls, arch=DotProductBias, n_factors=4, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    fused,learn.fused = learn.get_preds()[0],False
    torch.testing.assert_close(fused, learn.get_preds()[0], atol=1e-5, rtol=0)
