"What a user hangs on a model, a parameter, a loss or an optimizer: no fast way of training or predicting passes it by"
from contextlib import contextmanager
from functools import partial

import pytest, torch
from fastai.learner import CancelEpochException
from fastai.tabular.all import Adam, Callback, nn, set_seed
from torch.nn.modules import module as every
from torch.nn.utils import parametrize, parametrizations, weight_norm
from fastcollab.all import DotProductBias, HybridMF, LazyAdam, SVDPlusPlus, collab_learner
from fastcollab.train.learner import CollabLearner
from fastcollab.train.loops import FusedLoop, loop_for
from tests.small import load, quiet

# rows that wait leave eps aside
SHARP,WHOLE = partial(LazyAdam, eps=1e-8),partial(Adam, eps=1e-8)
ARCHS = dict(dot=DotProductBias, hybrid=HybridMF, svdpp=SVDPlusPlus)

def build(arch=DotProductBias, **kwargs):
    "The same weights each time"
    dls = load(genre_name='genres') if arch in (HybridMF,SVDPlusPlus) else load()
    set_seed(0)
    return collab_learner(dls, **{**dict(n_factors=4, arch=arch, y_range=(0,5.5), unk_p=0, opt_func=SHARP), **kwargs})

def fit(learn): return quiet(learn, 2, 2e-2, how='fit_one_cycle')
def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def table(learn):
    "A table of the users"
    m = learn.model
    return m.ids[0] if isinstance(m, SVDPlusPlus) else m.u_weight.weight
def masked(g): return g*(torch.arange(g.shape[1])>1)       # the first factors stay as they are

# Hooks. Each makes a visible change, returns what undoes it, and has to be obeyed

def scale_out(m, args, out): return out*-.5
def shift_in(m, args): return (args[0]+1,) if args[0].is_floating_point() else (args[0].clamp(max=3),)
def scale_grads(m, grads, *_): return tuple(None if g is None else g*-.5 for g in grads)
def scale_grad(p): p.grad = p.grad.to_dense()*(torch.arange(p.shape[1])>1)

HOOKS = dict(
    tensor=lambda learn: table(learn).register_hook(masked),
    accumulated=lambda learn: table(learn).register_post_accumulate_grad_hook(scale_grad),
    forward=lambda learn: learn.model.register_forward_hook(scale_out),
    forward_pre=lambda learn: learn.model.register_forward_pre_hook(shift_in),
    backward=lambda learn: learn.loss_func.register_full_backward_hook(scale_grads),
    backward_pre=lambda learn: learn.model.register_full_backward_pre_hook(scale_grads),
    loss=lambda learn: learn.loss_func.register_forward_hook(scale_out),
    loss_backward=lambda learn: learn.loss_func.register_full_backward_pre_hook(scale_grads))
TABLES = dict(
    table_forward=lambda m: m.register_forward_hook(scale_out),
    table_forward_pre=lambda m: m.register_forward_pre_hook(shift_in),
    table_backward_pre=lambda m: m.register_full_backward_pre_hook(scale_grads))
only_tables = lambda f: lambda m, *args: f(m, *args) if isinstance(m, nn.Embedding) else None
EVERYWHERE = dict(
    all_forward=lambda: every.register_module_forward_hook(only_tables(scale_out)),
    all_forward_pre=lambda: every.register_module_forward_pre_hook(only_tables(shift_in)),
    all_backward_pre=lambda: every.register_module_full_backward_pre_hook(only_tables(scale_grads)))

@contextmanager
def hung(hook):
    try: yield hook
    finally: hook.remove()

def same_as_plain(arch, hang, **kwargs):
    "The default fit, the loops without the kernel and fastai's `Adam` agree, and differ from a fit without the hook"
    got = {}
    for name,kw in dict(default={}, unfused=dict(fused=False), adam=dict(opt_func=WHOLE)).items():
        learn = build(arch, **kwargs, **kw)
        with hung(hang(learn)):
            got[name] = weights(fit(learn))
            if name=='default':
                reason = learn.fused_reason
                preds,want = learn.get_preds()[0],learn.predict(learn.dls.valid_ds.items)
                assert torch.allclose(preds, torch.tensor(want), atol=1e-5)
                rec = learn.recommender().predict(learn.dls.valid_ds.items)
                assert torch.allclose(preds, torch.tensor(rec), atol=1e-4)
                u,i = learn.dls.valid_ds.rows(torch.arange(5))[0][:,:2].T
                assert torch.allclose(learn.model.predictions(u, i).diag(), preds[:5], atol=1e-5)
    for o in ('default','unfused'): assert torch.allclose(got[o], got['adam'], atol=2e-4), o
    assert not torch.allclose(got['adam'], weights(fit(build(arch, opt_func=WHOLE, **kwargs))), atol=1e-3)
    return reason

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('name', HOOKS)
def test_hooks_are_obeyed(arch, name):
    "On the model, on a table and on the loss"
    assert 'hook' in same_as_plain(ARCHS[arch], HOOKS[name]) or arch=='svdpp'

@pytest.mark.parametrize('arch', ['dot','hybrid'])
@pytest.mark.parametrize('name', TABLES)
def test_hooks_of_tables_are_obeyed(arch, name):
    assert 'u_weight' in same_as_plain(ARCHS[arch], lambda learn: TABLES[name](learn.model.u_weight))

@pytest.mark.parametrize('name', EVERYWHERE)
def test_hooks_on_all_modules_are_obeyed(name):
    assert 'all modules' in same_as_plain(DotProductBias, lambda _: EVERYWHERE[name]())

def test_hooks_of_sets_are_obeyed():
    "The sets of SVD++ are modules that its kernel doesn't call"
    for name in ('table_forward','table_backward_pre'):
        same_as_plain(SVDPlusPlus, lambda learn: TABLES[name](learn.model.sets[0]))

def test_hooks_of_tables_in_a_net_are_obeyed():
    "Where rows wait for the batch that reads them, too"
    for hang in (HOOKS['tensor'], HOOKS['accumulated'], lambda learn: TABLES['table_forward'](learn.model.u_weight)):
        same_as_plain(None, hang, use_nn=True, layers=[8], config=dict(use_bn=False))

def test_a_hook_may_read_its_table():
    "A forward hook that looks at the weights sees the present ones"
    seen = []
    for kw in ({}, dict(opt_func=WHOLE)):
        learn,total = build(**kw),[]
        def look(m, *_): total.append(m.weight.detach().sum())
        with hung(learn.model.i_weight.register_forward_hook(look)): fit(learn)
        seen.append(torch.stack(total))
    n = min(map(len, seen))
    assert torch.allclose(seen[0][:n], seen[1][:n], atol=1e-4)

def test_without_hooks_the_loop_is_back():
    "A hook that was removed leaves no trace"
    learn = build()
    for hang in (*HOOKS.values(), lambda o: EVERYWHERE['all_forward']()):
        hook = hang(learn)
        assert 'hook' in learn.fused_reason
        hook.remove()
        assert learn.fused_reason==''

def test_fused_true_says_why_not():
    learn = build(fused=True)
    table(learn).register_hook(masked)
    with pytest.raises(ValueError, match='fused=True, but u_weight.weight has a hook'): fit(learn)

# What else changes a step

class HookLater(Callback):
    "Hangs something on the model in the second epoch"
    def __init__(self, hang): self.hang = hang
    def before_train(self):
        if self.epoch==1: self.hang(self.learn)

@pytest.mark.parametrize('hang', [HOOKS['tensor'], lambda learn: table(learn).requires_grad_(False)],
    ids=['hook','frozen'])
def test_what_comes_during_a_fit_counts(hang):
    "From the epoch on in which it comes"
    a,b = (weights(fit(build(cbs=HookLater(hang), **kw))) for kw in ({},dict(fused=False)))
    assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(a, weights(fit(build())), atol=1e-3)

def test_what_comes_during_a_fit_counts_in_a_net():
    "Where rows wait for their batch"
    net = dict(arch=None, use_nn=True, layers=[8], config=dict(use_bn=False))
    a,b = (weights(fit(build(**net, cbs=HookLater(HOOKS['tensor']), **kw))) for kw in ({},dict(opt_func=WHOLE)))
    assert torch.allclose(a, b, atol=2e-4)
    assert not torch.allclose(a, weights(fit(build(**net))), atol=1e-3)

def test_frozen_tables_stay():
    "`requires_grad_(False)` on one table"
    learn = build()
    start = learn.model.u_weight.weight.requires_grad_(False).clone()
    assert 'u_weight.weight is frozen' in learn.fused_reason
    fit(learn)
    assert torch.equal(learn.model.u_weight.weight, start)

class Double(nn.Module):
    def forward(self, w): return 2*w

@pytest.mark.parametrize('change', [lambda m: parametrize.register_parametrization(m, 'weight', Double()),
    parametrizations.weight_norm, weight_norm], ids=['parametrization','weight_norm','old weight_norm'])
def test_parametrized_tables(change):
    "The table is computed anew in each step"
    got = []
    for kw in ({}, dict(opt_func=WHOLE)):
        learn = build(**kw)
        change(learn.model.u_weight)
        got.append(weights(fit(learn)))
        assert kw or learn.fused_reason
    assert torch.allclose(*got, atol=2e-4)

def test_parametrized_sets():
    "The tables of the sets of SVD++, which its kernel reads"
    got = []
    for kw in ({}, dict(opt_func=WHOLE)):
        learn = build(SVDPlusPlus, **kw)
        parametrize.register_parametrization(learn.model.sets[0], 'weight', Double())
        got.append(weights(fit(learn)))
    assert torch.allclose(*got, atol=2e-4)

def test_own_forward_of_a_table():
    "Put on the instance"
    learn = build()
    plain = learn.model.u_weight.forward
    learn.model.u_weight.forward = lambda x: plain(x)*.5
    assert 'u_weight has a forward of its own' in learn.fused_reason
    x = torch.tensor([[1,2]])
    assert torch.isclose(learn.get_preds(dl=learn.dls.test_dl([dict(userId=1, movieId=2)]))[0],
        torch.tensor(learn.predict(1, 2)))

class HalfStep(LazyAdam):
    def step(self, closure=None):
        for p,*_ in self.all_params(with_grad=True): p.grad = p.grad*.5
        super().step()

def test_own_optimizer_step():
    "Of a subclass, or put on the instance"
    learn = build(opt_func=HalfStep)
    for _ in (0,1):   # without and with an optimizer
        assert 'HalfStep' in learn.fused_reason
        learn.create_opt()
    learn = build()
    learn.create_opt()
    step = learn.opt.step
    learn.opt.step = lambda: step()
    assert 'step of its own' in learn.fused_reason and not isinstance(loop_for(learn), FusedLoop)

class MyLearner(CollabLearner):
    def _backward(self): (self.loss_grad*.5).backward()

def test_own_steps_of_a_learner():
    "Of a subclass, or put on the instance: batches come one by one"
    learn = MyLearner(load(), DotProductBias.from_dls(load()), opt_func=LazyAdam)
    assert '_backward' in learn.fused_reason and loop_for(learn) is None
    learn = build()
    learn._step = lambda: learn.opt.step()
    assert '_step' in learn.fused_reason

class CancelEpoch(Callback):
    def before_epoch(self): raise CancelEpochException()

def test_an_epoch_that_is_cancelled_at_once_has_a_line():
    "Callbacks that come before the recorder may cancel an epoch"
    learn = quiet(build(cbs=CancelEpoch()), 2)
    assert [len(o) for o in learn.recorder.values]==[0,0]

class Stop(Callback):
    def before_fit(self): raise StopIteration('enough')

def test_a_stop_iteration_is_no_end_of_the_callbacks():
    "It reaches the user, as other errors do"
    with pytest.raises(StopIteration, match='enough'): quiet(build(cbs=Stop()), 1)
