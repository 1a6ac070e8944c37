"Callbacks, metrics, losses and calls that go wrong, and orders of calls"
import math
from pathlib import Path

import numpy as np, pandas as pd, torch
from fastai.callback.core import _events
from fastai.callback.all import (CSVLogger, CutMix, EarlyStoppingCallback, GradientAccumulation, GradientClip, MixUp,
    MixedPrecision, ReduceLROnPlateau, SaveModelCallback, ShowGraphCallback, TerminateOnNaNCallback)
from fastai.learner import (CancelBatchException, CancelEpochException, CancelFitException, CancelStepException,
    CancelTrainException, CancelValidException, load_learner)
from fastcollab.all import (Adam, Callback, CollabDataLoaders, CollabInterpretation, CollabNN, DotProductBias, EASE,
    LazyAdam, Module, NDCG, SGD, SVDPlusPlus, collab_learner, mae, nn, rmse)
from .values import BASE, loaders, new, quiet, works
from .verdict import Case, Mine, want

ARCHS = dict(dot=dict(), net=dict(use_nn=True), clicks=dict(kind='clicks'),
    closed=dict(kind='clicks', arch=EASE, n_factors=None), sets=dict(arch=SVDPlusPlus))
ERRORS = dict(mine=lambda: Mine('mine'), interrupt=lambda: KeyboardInterrupt('stop'),
    stop=lambda: StopIteration('stop'), full=lambda: OSError(28, 'No space left on device'),
    memory=lambda: MemoryError('memory'), exit=lambda: SystemExit(2))
CANCELS = (CancelBatchException,CancelEpochException,CancelFitException,CancelStepException,CancelTrainException,
    CancelValidException)
EVENTS = [o for o in _events if o!='after_create']

class At(Callback):
    "Raises an error at an event"
    def __init__(self, event, error):
        def act(): raise error
        setattr(self, event, act)

def interrupted(arch, event, error):
    "An error of a callback reaches the user as it is, and the learner works afterwards"
    learn = new(**arch)
    before = len(learn.dls.train_ds),learn.dls.train_ds.items.shape,{type(o) for o in learn.cbs}
    try: quiet(learn, 'fit', 1, 1e-3, cbs=At(event, error))
    except BaseException as e: want(str(error) in str(e) and isinstance(e, type(error)), f'{error!r} became {e!r}')
    want(before==(len(learn.dls.train_ds),learn.dls.train_ds.items.shape,{type(o) for o in learn.cbs}),
        'the learner is another one')
    works(learn)

def cancelled(arch, event, cancel):
    "A callback may cancel what it is in; elsewhere it's an error, and the learner works afterwards"
    learn = new(**arch)
    try: quiet(learn, 'fit', 2, 1e-3, cbs=At(event, cancel()))
    except cancel: pass
    works(learn)

LOSSES = {'a number':lambda p, y: 1., 'None':lambda p, y: None, 'a list':lambda p, y: [p.mean()],
    'a tuple':lambda p, y: (p.mean(),y.mean()), 'text':lambda p, y: 'x', 'an array':lambda p,
    y: p.detach().numpy().mean(),
    'a vector':lambda p, y: (p.reshape(-1)-y.reshape(-1))**2, 'a constant':lambda p, y: torch.tensor(1.),
    'detached':lambda p, y: (p-y).detach().pow(2).mean(), 'NaN':lambda p, y: (p-y).mean()*np.nan, 'whole':lambda p,
    y: torch.tensor(3),
    'complex':lambda p, y: p.mean()*1j, 'no arguments':lambda: 0., 'one argument':lambda p: p.mean(),
    'right':lambda p, y: (p.reshape(-1)-y.reshape(-1)).pow(2).mean(), 'a dict':lambda p, y: {'loss':p.mean()}}
METRICS = {'text':'rmse', 'a number':3, 'a list of text':['rmse'], 'None in a list':[None],
    'a class':torch.nn.MSELoss, 'gives text':lambda p, y: 'x', 'gives None':lambda p, y: None,
    'gives a tensor':lambda p, y: (p-y).abs(),
    'raises':lambda p, y: 1/0, 'one argument':lambda p: 0., 'right':rmse, 'several':[rmse,mae], 'of lists':NDCG(),
    'gives a list':lambda p, y: [1,2], 'gives NaN':lambda p, y: math.nan}
CALLBACKS = dict(ShowGraph=ShowGraphCallback, MixUp=MixUp, CutMix=CutMix, CSVLogger=CSVLogger,
    EarlyStopping=EarlyStoppingCallback, SaveModel=SaveModelCallback, GradientAccumulation=GradientAccumulation,
    GradientClip=GradientClip,
    MixedPrecision=MixedPrecision, ReduceLR=ReduceLROnPlateau, TerminateOnNaN=TerminateOnNaNCallback)
OPTS = {'Adam':Adam, 'SGD':SGD, 'LazyAdam':LazyAdam, "torch's class":torch.optim.Adam, 'gives None':lambda *args,
    **kwargs: None, 'gives a number':lambda *args, **kwargs: 3, 'raises':lambda *args, **kwargs: 1/0,
    'no arguments':lambda: None, 'text':'Adam'}

def with_loss(arch, loss): works(new(**arch, loss_func=loss))
def with_metric(arch, metric): works(new(**arch, metrics=metric))
def with_callback(arch, cb, twice):
    learn = new(**arch)
    quiet(learn, 'fit_one_cycle', 2, 1e-3, cbs=cb())
    works(learn)
    if twice: works(learn)
def with_opt(arch, opt): works(new(**arch, opt_func=opt))

class Own(Module):
    "A model of a user"
    def __init__(self, f, n=31): self.a,self.f = nn.Embedding(n, 1),f
    def forward(self, x): return self.f(self.a(x[:,0]))
FORWARDS = {'right':lambda o: o, 'flat':lambda o: o[:,0], 'two columns':lambda o: o.repeat(1, 2),
    'one number':lambda o: o.mean(), 'None':lambda o: None, 'a tuple':lambda o: (o,o), 'a list':lambda o: [o],
    'a number':lambda o: 3., 'text':lambda o: 'x',
    'half of the rows':lambda o: o[::2], 'whole numbers':lambda o: o.long(), 'NaN':lambda o: o*np.nan,
    'double':lambda o: o.double(), 'half':lambda o: o.half(), 'complex':lambda o: o*1j, 'raises':lambda o: 1/0,
    'no rows':lambda o: o[:0]}
def own_model(f): works(new(arch=Own(f), n_factors=None, y_range=False))
def misfit(n): works(new(arch=Own(lambda o: o, n), n_factors=None, y_range=False))
def other_loaders(make):
    "Loaders and a model that were not made for each other"
    small = CollabDataLoaders.from_df(BASE[BASE.userId<9], seed=1)
    works(collab_learner(loaders(), arch=make(small)))

def loop(*steps):
    def call():
        learn = new()
        for o in steps: o(learn)
        works(learn)
    return call
fit = lambda o: quiet(o, 'fit', 1, 1e-3)
STEPS = dict(fit=fit, predict=lambda o: o.predict(BASE), recommend=lambda o: o.recommend([1], 2),
    save=lambda o: o.save('m'), load=lambda o: o.load('m'), export=lambda o: o.export('x.pkl'),
    import_=lambda o: load_learner('x.pkl'), freeze=lambda o: o.freeze(), unfreeze=lambda o: o.unfreeze(),
    lr_find=lambda o: quiet(o, 'lr_find', show_plot=False, num_it=3), als=lambda o: quiet(o, 'fit_als', 1),
    gibbs=lambda o: quiet(o, 'fit_gibbs', 2), resume=lambda o: quiet(o, 'fit_gibbs', 2, resume=True),
    auto=lambda o: quiet(o, 'fit_auto', .1), sgd=lambda o: quiet(o, 'fit_sgd', 1), validate=lambda o: o.validate(),
    summary=lambda o: o.summary(), show=lambda o: o.show_results(), preds=lambda o: o.get_preds(),
    fold=lambda o: o.fold_in(pd.DataFrame(dict(userId=[77], movieId=[1], rating=[3.]))),
    interpret=lambda o: CollabInterpretation(o).plot_factors(), no_rows=lambda o: o.dls.test_dl(BASE[:0]),
    no_preds=lambda o: o.predict(BASE[:0]),
    empty_get=lambda o: o.get_preds(dl=o.dls.test_dl(BASE[:0])),
    validate_none=lambda o: o.validate(dl=o.dls.test_dl(BASE[:0])), explain=lambda o: o.explain(1, 2),
    one_batch=lambda o: o.dls.one_batch(), move=lambda o: o.dls.to('cpu'), cuda=lambda o: o.dls.to('cuda'),
    delete=lambda o: setattr(o, 'opt', None),
    save_nowhere=lambda o: (Path('f').write_text('x'), o.save('f/m')), load_nothing=lambda o: o.load('nothing'),
    load_text=lambda o: (Path('models').mkdir(exist_ok=True), Path('models/t.pth').write_text('x'), o.load('t')),
    export_nowhere=lambda o: o.export('nowhere/x.pkl'), import_nothing=lambda o: load_learner('nothing.pkl'),
    load_other=lambda o: (new(n_factors=7).save('o'), o.load('o')), fit_none=lambda o: quiet(o, 'fit', 0),
    loss_not_reduced=lambda o: o.get_preds(with_loss=True),
    no_such_part=lambda o: o.get_preds(ds_idx=5),
    save_file=lambda o: (Path('f').write_text('x'), o.recommender().save('f')))

def cases():
    for name,arch in ARCHS.items():
        for event in EVENTS:
            for label,error in ERRORS.items(): yield Case('events', f'{name}: {label} at {event}', lambda a=arch,
                e=event, r=error: interrupted(a, e, r()))
            for cancel in CANCELS: yield Case('events', f'{name}: {cancel.__name__} at {event}', lambda a=arch,
                e=event, c=cancel: cancelled(a, e, c))
        for label,loss in LOSSES.items(): yield Case('events', f'{name}: a loss gives {label}', lambda a=arch,
            o=loss: with_loss(a, o))
        for label,metric in METRICS.items(): yield Case('events', f'{name}: a metric: {label}', lambda a=arch,
            o=metric: with_metric(a, o))
        for label,opt in OPTS.items(): yield Case('events', f'{name}: an optimizer: {label}', lambda a=arch,
            o=opt: with_opt(a, o))
        for label,cb in CALLBACKS.items(): yield Case('events', f'{name}: {label}', lambda a=arch,
            o=cb: with_callback(a, o, False))
    for label,f in FORWARDS.items(): yield Case('events', f'a model gives {label}', lambda f=f: own_model(f))
    for n in (1,5,30): yield Case('events', f'a model with {n} rows for 31 users', lambda n=n: misfit(n), True)
    for make in (DotProductBias,CollabNN,SVDPlusPlus): yield Case('events', f'a {make.__name__} of other loaders',
        lambda m=make: other_loaders(m.from_dls), True)
    for first,a in STEPS.items():
        for second,b in STEPS.items(): yield Case('events', f'{first}, {second}', loop(a, b))
