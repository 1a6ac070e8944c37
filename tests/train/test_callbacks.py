"Schedules in steps, gravity and early stopping: against a second way to get the number"
import copy

import numpy as np, pytest, torch
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.tabular.all import SGD, Learner, set_seed
from fastcollab.all import (CollabNN, DotProduct, DotProductBias, HybridNN, HybridMF,
    GravityRegularizer, LinearCollab, ParamEmbedding, collab_learner, gravity, sched_step)
from fastcollab.train.callbacks import PredColumn
from hypothesis import given, settings, strategies as st
from small import SMALL, Plain, load, quiet, randomly

# A schedule in steps

@pytest.mark.parametrize('step,gamma', [(3,.7), (1,.5), (2,1.2), (10,.1)])
def test_sched_step_is_steplr(step, gamma):
    "The rates of `torch.optim.lr_scheduler.StepLR`, epoch by epoch"
    dls = load(bs=100)
    learn = quiet(collab_learner(dls, n_factors=2), 7, 1., cbs=sched_step(1e-2, step=step, gamma=gamma))
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-2)
    theirs,want = torch.optim.lr_scheduler.StepLR(opt, step, gamma),[]
    for _ in range(7):
        want += [theirs.get_last_lr()[0]]*len(dls.train)
        opt.step()
        theirs.step()
    assert np.allclose(learn.recorder.lrs, want, rtol=1e-12) and len(want)==21

def test_sched_step_defaults_and_weights():
    "3 epochs and 0.7; and it is the rate that the optimizer takes: SGD by hand"
    dls = load(bs=1000)
    learn = collab_learner(dls, arch=randomly(DotProduct.from_dls(dls, n_factors=2)), opt_func=SGD, unk_p=0)
    ref = copy.deepcopy(learn.model)
    quiet(learn, 4, 1., wd=0., cbs=sched_step(.1))
    x,y = dls.train_ds.rows(torch.arange(240))
    for lr in (.1,.1,.1,.07):
        ref.zero_grad()
        ((ref(x)-y[:,0])**2).mean().backward()
        for p in ref.parameters(): p.data -= lr*p.grad
    assert torch.allclose(learn.recorder.lrs and torch.tensor(learn.recorder.lrs), torch.tensor([.1,.1,.1,.07]))
    for a,b in zip(learn.model.parameters(), ref.parameters()): assert torch.allclose(a, b, atol=1e-5)

def test_sched_step_with_the_recorder():
    "It is gone after the fit, can be plotted, and starts again in the next fit; one in the learner works too"
    dls = load(bs=100)
    learn = collab_learner(dls, n_factors=2)
    n = len(learn.cbs)
    quiet(learn, 2, cbs=sched_step(1e-2, step=1, gamma=.5))
    assert len(learn.cbs)==n and np.allclose(learn.recorder.hps['lr'],
        learn.recorder.lrs) and list(learn.recorder.hps)==['lr']
    learn.recorder.plot_sched()
    quiet(learn, 2, cbs=sched_step(4e-2, step=1, gamma=.5))
    assert np.allclose(learn.recorder.lrs[::len(dls.train)], [4e-2,2e-2])
    own = collab_learner(dls, n_factors=2, cbs=sched_step(1e-2, step=1, gamma=.1))
    for _ in range(2):
        quiet(own, 2)
        assert np.allclose(own.recorder.lrs[::len(dls.train)], [1e-2,1e-3])

# Gravity

def full_matrix(U, M): return ((U@M.T)**2).mean()

@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.floats(.01, 30), st.integers(0, 9))
def test_gravity_is_that_of_the_full_matrix(n, m, k, scale, seed):
    "Value and gradients, in float32 within 1e-5 of the full matrix in float64"
    g = torch.Generator().manual_seed(seed)
    U,M = (scale*torch.randn(o, k, generator=g)+.1 for o in (n,m))
    res = []
    for f,dtype in ((gravity,torch.float32), (full_matrix,torch.float64)):
        a,b = (o.detach().clone().to(dtype).requires_grad_() for o in (U,M))
        v = f(a, b)
        (3*v).backward()
        res.append([v.detach().double(), a.grad.double(), b.grad.double()])
    assert res[0][0].shape==()
    for a,b in zip(*res): assert (a-b).norm() <= 1e-5*b.norm()

def test_gravity_on_larger_tables():
    "Cancellation, sizes and biases of a real model: still 1e-5"
    g = torch.Generator().manual_seed(0)
    U,M = torch.randn(600, 64, generator=g)*.1,torch.randn(400, 64, generator=g)*.1
    U,M = torch.cat([U, torch.randn(600, 1, generator=g), torch.ones(600, 1)], 1),torch.cat([M, torch.ones(400, 1),
        torch.randn(400, 1, generator=g)-1], 1)
    assert gravity(U, M).item()==pytest.approx(full_matrix(U.double(), M.double()).item(), rel=1e-5)

def test_gravity_gradcheck():
    "Analytic against numeric gradients; of one side alone too, and none where none is asked for"
    g = torch.Generator().manual_seed(0)
    U,M = (torch.randn(o, 3, generator=g, dtype=torch.float64, requires_grad=True) for o in (5,4))
    assert torch.autograd.gradcheck(gravity, (U,M)) and torch.autograd.gradcheck(gravity,
        (U.detach(),M)) and torch.autograd.gradcheck(gravity, (U,M.detach()))
    assert not gravity(U.detach(), M.detach()).requires_grad
    with pytest.raises(RuntimeError):                                # once only, as said
        torch.autograd.grad(torch.autograd.grad(gravity(U, M), U, create_graph=True)[0].sum(), U)

GRAVE = dict(DotProduct=(DotProduct,{}), DotProductBias=(DotProductBias,{}),
    param=(DotProductBias,dict(emb=ParamEmbedding)),
    add=(HybridMF,dict(how='add')), mul=(HybridMF,dict(how='scale', agg='mean')))

def penalty(model, dls, l2, grav):
    "The two terms from the definition: rows of each trained table, and the scores of all pairs one by one"
    u,i = torch.arange(dls.n_users),torch.arange(dls.n_items)
    x = model.with_features(torch.cartesian_prod(u, i))
    bounds,model.y_range = model.y_range,None
    scores = model(x) - (0 if model.mean is None else model.mean)
    model.y_range = bounds
    rows = sum(p.pow(2).sum()/len(p) for n,p in model.named_parameters() if n!='mean')
    return l2*rows + grav*scores.pow(2).mean()

@pytest.mark.parametrize('kwargs', [{}, dict(y_range=(0,5.5)), dict(center=True), dict(y_range=(0,5.5), center=True)],
    ids=['plain','range','center','both'])
@pytest.mark.parametrize('arch', GRAVE)
def test_one_step_with_gravity(arch, kwargs):
    "One SGD step on all ratings gives the weights of MSE + l2*sum(|p|^2/len(p)) + gravity*mean(scores^2)"
    cls,extra = GRAVE[arch]
    dls = load(genre_name='genres', user_cols='age', df=SMALL.assign(age=SMALL.userId), bs=240)
    start = randomly(collab_learner(dls, arch=cls, n_factors=4, config=extra, **kwargs).model)
    x,y = dls.train_ds.rows(torch.arange(240))
    for l2,grav in ((.3,.2), (.3,0), (0,.2)):
        learn,ref = collab_learner(dls, arch=copy.deepcopy(start), opt_func=SGD, unk_p=0,
            cbs=GravityRegularizer(l2, grav)),copy.deepcopy(start)
        mse = ((ref(x)-y[:,0])**2).mean()
        (mse+penalty(ref, dls, l2, grav)).backward()
        quiet(learn, 1, .05, wd=0.)
        # what is shown is the MSE
        assert len(learn.recorder.losses)==1 and learn.recorder.losses[0].item()==pytest.approx(mse.item(), rel=1e-5)
        for a,b,c in zip(learn.model.parameters(), ref.parameters(), start.parameters()):
            if not b.requires_grad: assert torch.equal(a, c)
            else: assert torch.allclose(a, b-.05*b.grad, atol=2e-6) and not torch.allclose(a, c, atol=1e-4)

def test_gravity_in_training_only():
    "Validation says the MSE, with the callback as without, and 0 and 0 is a plain fit"
    dls = load(bs=240)
    model = randomly(DotProductBias.from_dls(dls, n_factors=4))
    a,b = (collab_learner(dls, arch=model, unk_p=0, cbs=cbs) for cbs in (GravityRegularizer(5, 5),None))
    assert a.validate()[0]==b.validate()[0]==pytest.approx(((a.get_preds()[0].reshape(-1)-dls.valid_ds.store.ratings()[
        :,0])**2).mean().item(), rel=1e-5)
    fits = []
    for cbs in (GravityRegularizer(0, 0),None,GravityRegularizer(.1, .1)):
        learn = quiet(collab_learner(load(bs=50), arch=copy.deepcopy(model), unk_p=0, cbs=cbs), 2, 1e-2)
        fits.append((learn.model.u_weight.weight.detach(), learn.recorder.values))
    # with the callback all rows move at each step, without it they wait
    torch.testing.assert_close(fits[0][0], fits[1][0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.tensor(fits[0][1]), torch.tensor(fits[1][1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(fits[1][0], fits[2][0], atol=1e-2)
    learn = quiet(collab_learner(dls, arch=copy.deepcopy(model), unk_p=0, cbs=GravityRegularizer(1, 1)), 2, 1e-2)
    assert learn.recorder.values[-1][1]==pytest.approx(((learn.get_preds()[0].reshape(-1)-dls.valid_ds.store.ratings()[
        :,0])**2).mean().item(), rel=1e-5)

def test_gravity_defaults():
    cb = GravityRegularizer()
    assert (cb.l2,cb.gravity)==(.1,.1)

@pytest.mark.parametrize('arch', [CollabNN, LinearCollab, HybridNN, Plain()], ids=['CollabNN','LinearCollab','HybridNN',
    'Plain'])
def test_gravity_needs_factors(arch):
    "A model whose scores are no matrix product says so before the first batch"
    learn = collab_learner(load(genre_name='genres'), arch=arch, cbs=GravityRegularizer())
    before = copy.deepcopy(learn.model.state_dict())
    name = type(learn.model).__name__
    with pytest.raises(ValueError, match=f'{name} has no factors for gravity'): quiet(learn, 1)
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

def test_full_batches_with_gravity():
    "bs=len(train) is one step an epoch, and the more gravity the smaller the mean square of all scores"
    spread = []
    for grav in (0.,.3,3.):
        dls = load(bs=240)
        assert len(dls.train)==1 and len(dls.one_batch()[1])==240
        set_seed(0)
        learn = quiet(collab_learner(dls, arch=DotProduct, n_factors=5, center=True, unk_p=0,
            cbs=GravityRegularizer(.01, grav)), 60, 5e-2, wd=0.)
        assert len(learn.recorder.losses)==60
        spread.append((learn.model.predictions(torch.arange(1, 31))[:,1:]-learn.model.mean).pow(2).mean().item())
    assert spread[0] > 1.5*spread[1] > 3*spread[2] > 0, spread

def test_gravity_with_a_plain_learner(dls):
    "The callback needs nothing of `collab_learner`"
    learn = quiet(Learner(dls, DotProduct.from_dls(dls, n_factors=3).center(3.3),
        cbs=[PredColumn(), GravityRegularizer()]), 1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()

# Stopping early

def test_early_stopping_on_validation_loss(ratings):
    "A fit stops `patience` epochs after its best one, and not before"
    set_seed(0)
    learn = collab_learner(load(ratings, bs=500), n_factors=50, y_range=(0,5.5), unk_p=0)
    quiet(learn, 40, 5e-2, wd=0., cbs=EarlyStoppingCallback(monitor='valid_loss', patience=3))
    losses = [o[1] for o in learn.recorder.values]
    assert 4<=len(losses)<40 and int(np.argmin(losses))==len(losses)-4
    assert not any(isinstance(o, EarlyStoppingCallback) for o in learn.cbs)

def test_early_stopping_lets_a_good_fit_go_on(ratings):
    set_seed(0)
    learn = quiet(collab_learner(load(ratings, bs=500), n_factors=2, y_range=(0,5.5)), 4, 1e-3,
        cbs=EarlyStoppingCallback(monitor='valid_loss', patience=1))
    losses = [o[1] for o in learn.recorder.values]
    assert len(losses)==4 and losses==sorted(losses, reverse=True)

@pytest.mark.parametrize('call,error,words', [
    (lambda: sched_step(1e-2, step=0), ValueError, 'step is 0'), (lambda: sched_step(0.), ValueError, 'lr 0 '),
    (lambda: sched_step(-1e-3), ValueError, r'lr -0\.001'), (lambda: sched_step(1e-2, gamma=0), ValueError, 'gamma 0;'),
    (lambda: sched_step(1e-2, gamma=-.5), ValueError, 'gamma -0.5;'),
    (lambda: GravityRegularizer(l2=-1), ValueError, 'l2 is -1; give a number, at least 0'),
    (lambda: GravityRegularizer(gravity=-.1), ValueError, 'gravity is -0.1; give a number')], ids=range(7))
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words): call()
