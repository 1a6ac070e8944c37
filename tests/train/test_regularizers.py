"The mean in the model, gravity, schedules, splits by rating, half stars, inequality, stopping early: each against a second way to get the number"
import copy, math

import numpy as np, pandas as pd, pytest, torch
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.tabular.all import SGD, Learner, Module, load_learner, nn, set_seed
from fastcollab.all import (BiasBaseline, CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridNN, HybridMF,
    GravityRegularizer, LinearCollab, ParamEmbedding, StratifiedSplitter, collab_learner, gini, gravity, half_star,
    half_star_accuracy, sched_step, synthetic_ratings)
from fastcollab.train.callbacks import PredColumn
from hypothesis import given, settings, strategies as st

SMALL = synthetic_ratings(30, 20, 300)

class Plain(Module):
    "A user's own model"
    def __init__(self): self.a = nn.Embedding(50, 1)
    def forward(self, x): return self.a(x[:,0])

def load(df=SMALL, **kwargs): return CollabDataLoaders.from_df(df, **{'seed':1, **kwargs})
def quiet(learn, *args, how='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def randomly(model, std=.3):
    "Weights far from zero"
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if p.requires_grad: p.data = torch.randn(p.shape, generator=g)*std
    return model

# The mean as a part of the model

CENTERED = dict(DotProduct=DotProduct, DotProductBias=DotProductBias, CollabNN=CollabNN, LinearCollab=LinearCollab, HybridMF=HybridMF,
    HybridNN=HybridNN)

def zeroed(model):
    "All trained parameters are 0, and so are all scores"
    for p in model.parameters():
        if p.requires_grad: p.data.zero_()
    return model.eval()

@pytest.mark.parametrize('y_range', [None, (0,5.5), (.5,5)])
@pytest.mark.parametrize('arch', CENTERED)
def test_a_score_of_zero_predicts_the_mean(arch, y_range):
    "The mean of the training ratings, for every model, within a range or without; far scores stay in the range"
    dls = load(genre_name='genres')
    model = zeroed(collab_learner(dls, arch=CENTERED[arch], y_range=y_range, center=True).model)
    want = dls.train_ds.items.rating.mean()
    x = dls.one_batch()[0]
    assert torch.allclose(model(x), torch.tensor(want).float(), atol=2e-6) and model(x).shape==(64,)
    assert torch.allclose(model.predictions(torch.arange(3)), torch.tensor(want).float(), atol=2e-6)
    assert model.mean.item()==pytest.approx(want, rel=1e-7) and not model.mean.requires_grad and model.mean.shape==(1,)
    if y_range is not None:
        far = model.link(torch.tensor([-60.,60.]))
        assert torch.allclose(far, torch.tensor(y_range, dtype=torch.float32), atol=1e-4)

def test_centred_scores_by_hand():
    "Deviations from the mean, or sigmoid_range of them moved by the logit of the mean"
    dls = load()
    x = dls.one_batch()[0]
    for y_range in (None, (0,5.5)):
        model = randomly(DotProductBias.from_dls(dls, n_factors=4, y_range=y_range))
        plain = DotProductBias.from_dls(dls, n_factors=4)
        plain.load_state_dict(model.state_dict())
        score,mean = plain(x).detach().double().numpy(),3.25
        model.center(mean)
        share = mean/5.5
        want = score+mean if y_range is None else 5.5/(1+np.exp(-(score+np.log(share/(1-share)))))
        assert np.allclose(model(x).detach(), want, atol=1e-5)

def test_the_mean_is_that_of_float64():
    "Numbers whose float32 sum is not their sum"
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=np.arange(4000)%50, item=np.arange(4000)//50, rating=3e6+rng.integers(0, 9, 4000)))
    dls = load(df)
    want = np.mean(dls.train_ds.items.rating.to_numpy(np.float64))
    assert collab_learner(dls, center=True).model.mean.item() == np.float32(want)

@pytest.mark.parametrize('y_range', [None, (0,5.5)])
def test_the_mean_is_of_training_and_not_trained(y_range):
    "Validation ratings have no part in it, and a fit does not move it"
    df = SMALL.assign(rating=SMALL.rating.where(SMALL.index<200, 5.))
    dls = load(df, splits=(range(200), range(200, 300)))
    learn = collab_learner(dls, n_factors=3, y_range=y_range, center=True)
    want = np.float32(df.rating[:200].mean())
    assert learn.model.mean.item() == want
    before = learn.model.u_weight.weight.clone()
    quiet(learn, 3, 5e-2, wd=1.)
    assert learn.model.mean.item() == want and not torch.equal(before, learn.model.u_weight.weight)

def test_center_in_the_summary():
    "One number, not trained; without `center` there is none"
    dls = load()
    with_,without = (collab_learner(dls, n_factors=3, center=c) for c in (True,False))
    line = [o.split() for o in with_.summary().splitlines() if o.startswith('mean')]
    assert line == [['mean','(Parameter)','1','1','False']] and 'mean (' not in without.summary()
    n = sum(p.numel() for p in without.model.parameters())
    assert f'Total params: {n+1:,}' in with_.summary() and f'Total trainable params: {n:,}' in with_.summary() and 'non-trainable params: 1' in with_.summary()
    assert without.model.mean is None and 'mean' not in without.model.state_dict()

def test_center_is_saved(tmp_path):
    "`save`, `load`, `export` and copies carry the mean; a model that was not centred does not take it"
    dls = load(path=tmp_path)
    learn = quiet(collab_learner(dls, n_factors=3, y_range=(0,5.5), center=True), 1, 1e-2)
    want = learn.predict(SMALL[:20])
    learn.save('m')
    learn.export('m.pkl')
    other = collab_learner(load(seed=2, path=tmp_path), n_factors=3, y_range=(0,5.5), center=True)
    assert other.model.mean != learn.model.mean
    other.load('m')
    assert other.model.mean == learn.model.mean
    assert np.array_equal(collab_learner(dls, n_factors=3, y_range=(0,5.5), center=True).load('m').predict(SMALL[:20]), want)
    assert np.array_equal(load_learner(tmp_path/'m.pkl').predict(SMALL[:20]), want)
    assert copy.deepcopy(learn.model).mean == learn.model.mean
    with pytest.raises(RuntimeError, match='mean'): collab_learner(dls, n_factors=3, y_range=(0,5.5)).load('m')

@pytest.mark.filterwarnings('ignore:.*outside y_range')
@pytest.mark.parametrize('y_range', [(4,5), (0,3.), (0,3.25)])
def test_a_mean_outside_of_the_range(y_range):
    df = SMALL.assign(rating=np.where(SMALL.index%2, 3.5, 3.))
    with pytest.raises(ValueError, match=r'the mean 3\.25 is not within y_range=\('):
        collab_learner(load(df, splits=(range(200), range(200, 300))), y_range=y_range, center=True)

def test_center_needs_a_model_of_ours():
    with pytest.raises(TypeError, match='center=True needs a CollabModel, not Plain'): collab_learner(load(), arch=Plain(), center=True)
    assert isinstance(collab_learner(load(), arch=Plain()).model, Plain)

def test_center_helps_an_unbounded_model():
    "After an epoch at a small rate, a centred model is near the mean, and the other near 0"
    errs = [quiet(collab_learner(load(), n_factors=3, center=c), 1, 1e-3).recorder.values[-1][1]**.5 for c in (True,False)]
    assert errs[0] < 1.2 and errs[1] > 2.5

# One linear layer

@pytest.mark.parametrize('y_range', [None, (0,5.5)])
def test_linear_collab_is_additive(y_range):
    "A part of the user plus a part of the item: no user likes another item best"
    set_seed(0)
    model = quiet(collab_learner(load(), arch=LinearCollab, n_factors=8, y_range=y_range), 3, 2e-2).model
    s = model.predictions(torch.arange(31)).double()
    if y_range is not None: s = torch.logit(s/5.5)
    assert s.std()>.01 and torch.allclose(s, s[:,:1]+s[:1]-s[0,0], atol=1e-4)
    w,b = model.layers[0][0].weight[0],model.layers[0][0].bias
    x = torch.cartesian_prod(torch.arange(31), torch.arange(21))
    want = (model.u_weight(x[:,0])*w[:8]).sum(1) + (model.i_weight(x[:,1])*w[8:]).sum(1) + b
    assert torch.allclose(s.reshape(-1), want.double(), atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == 8*(31+21)+17
    assert LinearCollab(31, 21).u_weight.weight.shape == (31,32) and LinearCollab(31, 21).i_weight.weight.shape == (21,32)

def test_linear_collab_learns():
    "As far as an additive model goes: about as good as user and item means"
    dls = load(synthetic_ratings(100, 60, 3000), bs=128)
    set_seed(0)
    learn = quiet(collab_learner(dls, arch=LinearCollab, y_range=(0,5.5)), 5, 2e-2, how='fit_one_cycle')
    base = BiasBaseline.from_dls(dls)
    err = [((torch.cat([m(b[0]) for b in dls.valid])-dls.valid_ds.store.ratings()[:,0])**2).mean().item()**.5 for m in (learn.model.eval(),base)]
    assert err[0] < 1.05*err[1]

# Splits that keep the shares

@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([.5,1.,2.5,4.,5.]), min_size=1, max_size=60), st.floats(0, .99), st.integers(0, 3))
def test_stratified_shares(ratings, pct, seed):
    "Of n rows with a rating, round(pct*n) are held out; each row is in one part; a seed gives one split"
    df = pd.DataFrame(dict(user=range(len(ratings)), item=0, rating=ratings))
    train,valid = StratifiedSplitter(pct, seed=seed)(df)
    assert sorted([*train,*valid]) == list(range(len(df)))
    held = df.rating.iloc[valid].value_counts()
    for r,n in df.rating.value_counts().items(): assert held.get(r, 0) == np.round(pct*n)
    again = StratifiedSplitter(pct, seed=seed)(df)
    assert list(train)==list(again[0]) and list(valid)==list(again[1])

def test_stratified_by_a_column(ratings):
    "The third column by default, any other by name; other rows with another seed; rows at random within a group; torch's state without a seed"
    def held(seed=1, by=None, df=ratings): return StratifiedSplitter(.2, by=by, seed=seed)(df)[1]
    for col in ('rating','genres','userId'):
        n,got = ratings[col].value_counts(),ratings[col].iloc[held(by=col)].value_counts()
        assert all(got.get(k, 0)==np.round(.2*v) for k,v in n.items())
    assert list(held()) == list(held(by='rating')) != list(held(2)) and set(held())!=set(held(by='genres'))
    moved = ratings[['rating','userId','movieId']].rename(columns=dict(movieId='stars'))
    n,got = (moved.stars if k else moved.stars.iloc[held(df=moved)] for k in (1,0))
    assert all((got==k).sum()==np.round(.2*v) for k,v in n.value_counts().items())
    for r in (1.,3.):
        rank = np.searchsorted(np.flatnonzero(ratings.rating==r), [o for o in held() if ratings.rating[o]==r])/(ratings.rating==r).sum()
        assert .3 < rank.mean() < .7 and rank.max() > .8
    state,npstate = torch.get_rng_state(),np.random.get_state()[1].copy()
    held()
    assert torch.equal(state, torch.get_rng_state()) and (npstate==np.random.get_state()[1]).all()
    free = [(set_seed(s), list(held(None)))[1] for s in (5,5,6)]
    assert free[0]==free[1]!=free[2]
    dls = CollabDataLoaders.from_df(ratings, splitter=StratifiedSplitter(seed=1))
    assert abs(len(dls.valid_ds)-500) <= 5

def test_stratified_keeps_missing_values_in_a_group_of_their_own():
    df = SMALL.assign(kind=[None,'a','b']*100)
    assert df.kind.iloc[StratifiedSplitter(.1, by='kind', seed=1)(df)[1]].value_counts(dropna=False).tolist() == [10]*3

@pytest.mark.parametrize('call,error,words', [
    (lambda: StratifiedSplitter(1.), ValueError, 'valid_pct is 1.0; it is a share'), (lambda: StratifiedSplitter(-.1), ValueError, 'valid_pct is -0.1'),
    (lambda: StratifiedSplitter(by='stars')(SMALL), KeyError, "'stars'; the columns are .*'rating'"),
    (lambda: sched_step(1e-2, step=0), ValueError, 'step is 0'), (lambda: sched_step(0.), ValueError, 'lr 0 '),
    (lambda: sched_step(-1e-3), ValueError, r'lr -0\.001'), (lambda: sched_step(1e-2, gamma=0), ValueError, 'gamma 0;'),
    (lambda: sched_step(1e-2, gamma=-.5), ValueError, 'gamma -0.5;'),
    (lambda: GravityRegularizer(l2=-1), ValueError, 'l2 is -1 and gravity is 0.1; neither can be negative'),
    (lambda: GravityRegularizer(gravity=-.1), ValueError, 'l2 is 0.1 and gravity is -0.1')], ids=range(10))
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words): call()

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
    "It is gone after the fit, its rates can be plotted, and it starts again in the next fit; one in the learner works too"
    dls = load(bs=100)
    learn = collab_learner(dls, n_factors=2)
    n = len(learn.cbs)
    quiet(learn, 2, cbs=sched_step(1e-2, step=1, gamma=.5))
    assert len(learn.cbs)==n and np.allclose(learn.recorder.hps['lr'], learn.recorder.lrs) and list(learn.recorder.hps)==['lr']
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
    U,M = torch.cat([U, torch.randn(600, 1, generator=g), torch.ones(600, 1)], 1),torch.cat([M, torch.ones(400, 1), torch.randn(400, 1, generator=g)-1], 1)
    assert gravity(U, M).item()==pytest.approx(full_matrix(U.double(), M.double()).item(), rel=1e-5)

def test_gravity_gradcheck():
    "Analytic against numeric gradients; of one side alone too, and none where none is asked for"
    g = torch.Generator().manual_seed(0)
    U,M = (torch.randn(o, 3, generator=g, dtype=torch.float64, requires_grad=True) for o in (5,4))
    assert torch.autograd.gradcheck(gravity, (U,M)) and torch.autograd.gradcheck(gravity, (U.detach(),M)) and torch.autograd.gradcheck(gravity, (U,M.detach()))
    assert not gravity(U.detach(), M.detach()).requires_grad
    with pytest.raises(RuntimeError):                                # once only, as said
        torch.autograd.grad(torch.autograd.grad(gravity(U, M), U, create_graph=True)[0].sum(), U)

GRAVE = dict(DotProduct=(DotProduct,{}), DotProductBias=(DotProductBias,{}), param=(DotProductBias,dict(emb=ParamEmbedding)),
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

@pytest.mark.parametrize('kwargs', [{}, dict(y_range=(0,5.5)), dict(center=True), dict(y_range=(0,5.5), center=True)], ids=['plain','range','center','both'])
@pytest.mark.parametrize('arch', GRAVE)
def test_one_step_with_gravity(arch, kwargs):
    "The weights after a step of SGD over all ratings at once are those of MSE + l2*sum(|p|^2/len(p)) + gravity*mean(scores^2)"
    cls,extra = GRAVE[arch]
    dls = load(genre_name='genres', user_cols='age', df=SMALL.assign(age=SMALL.userId), bs=240)
    start = randomly(collab_learner(dls, arch=cls, n_factors=4, config=extra, **kwargs).model)
    x,y = dls.train_ds.rows(torch.arange(240))
    for l2,grav in ((.3,.2), (.3,0), (0,.2)):
        learn,ref = collab_learner(dls, arch=copy.deepcopy(start), opt_func=SGD, unk_p=0, cbs=GravityRegularizer(l2, grav)),copy.deepcopy(start)
        mse = ((ref(x)-y[:,0])**2).mean()
        (mse+penalty(ref, dls, l2, grav)).backward()
        quiet(learn, 1, .05, wd=0.)
        assert len(learn.recorder.losses)==1 and learn.recorder.losses[0].item()==pytest.approx(mse.item(), rel=1e-5)  # what is shown is the MSE
        for a,b,c in zip(learn.model.parameters(), ref.parameters(), start.parameters()):
            if not b.requires_grad: assert torch.equal(a, c)
            else: assert torch.allclose(a, b-.05*b.grad, atol=2e-6) and not torch.allclose(a, c, atol=1e-4)

def test_gravity_in_training_only():
    "Validation says the MSE, with the callback as without, and 0 and 0 is a plain fit"
    dls = load(bs=240)
    model = randomly(DotProductBias.from_dls(dls, n_factors=4))
    a,b = (collab_learner(dls, arch=model, unk_p=0, cbs=cbs) for cbs in (GravityRegularizer(5, 5),None))
    assert a.validate()[0]==b.validate()[0]==pytest.approx(((a.get_preds()[0].reshape(-1)-dls.valid_ds.store.ratings()[:,0])**2).mean().item(), rel=1e-5)
    fits = []
    for cbs in (GravityRegularizer(0, 0),None,GravityRegularizer(.1, .1)):
        learn = quiet(collab_learner(load(bs=50), arch=copy.deepcopy(model), unk_p=0, cbs=cbs), 2, 1e-2)
        fits.append((learn.model.u_weight.weight.detach(), learn.recorder.values))
    torch.testing.assert_close(fits[0][0], fits[1][0], atol=1e-4, rtol=1e-3)   # with the callback all rows move at each step, without it they wait
    torch.testing.assert_close(torch.tensor(fits[0][1]), torch.tensor(fits[1][1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(fits[1][0], fits[2][0], atol=1e-2)
    learn = quiet(collab_learner(dls, arch=copy.deepcopy(model), unk_p=0, cbs=GravityRegularizer(1, 1)), 2, 1e-2)
    assert learn.recorder.values[-1][1]==pytest.approx(((learn.get_preds()[0].reshape(-1)-dls.valid_ds.store.ratings()[:,0])**2).mean().item(), rel=1e-5)

def test_gravity_defaults():
    cb = GravityRegularizer()
    assert (cb.l2,cb.gravity)==(.1,.1)

@pytest.mark.parametrize('arch', [CollabNN, LinearCollab, HybridNN, Plain()], ids=['CollabNN','LinearCollab','HybridNN','Plain'])
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
        learn = quiet(collab_learner(dls, arch=DotProduct, n_factors=5, center=True, unk_p=0, cbs=GravityRegularizer(.01, grav)), 60, 5e-2, wd=0.)
        assert len(learn.recorder.losses)==60
        spread.append((learn.model.predictions(torch.arange(1, 31))[:,1:]-learn.model.mean).pow(2).mean().item())
    assert spread[0] > 1.5*spread[1] > 3*spread[2] > 0, spread

def test_gravity_with_a_plain_learner(dls):
    "The callback needs nothing of `collab_learner`"
    learn = quiet(Learner(dls, DotProduct.from_dls(dls, n_factors=3).center(3.3), cbs=[PredColumn(), GravityRegularizer()]), 1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()

# Half stars

finite = st.floats(-1e6, 1e6)

@settings(max_examples=200, deadline=None)
@given(finite)
def test_half_star(x):
    "A multiple of .5, within .25, idempotent, and on a tie the whole star"
    r = half_star(x)
    assert isinstance(r, float) and r*2==round(r*2) and abs(r-x)<=.25 and half_star(r)==r
    if abs(r-x)==.25: assert r==round(r)
    assert half_star(torch.tensor(x, dtype=torch.float64)).item()==r and half_star(np.array([x]))[0]==r

@pytest.mark.parametrize('x,want', [(4.75,5.), (5.25,5.), (.25,0.), (.75,1.), (-.25,0.), (-.75,-1.), (3.2,3.), (3.3,3.5), (3.5,3.5), (4.74,4.5), (4.76,5.),
    (0,0.), (7,7.)])
def test_half_star_by_hand(x, want):
    "Every type of input gives the answer in its own type and shape"
    assert half_star(x)==want and type(half_star(x)) is float
    for o in (np.float64(x), np.float32(x)): assert half_star(o)==want and isinstance(half_star(o), float)
    for dtype in (torch.float32, torch.float64):
        t = half_star(torch.tensor([[x],[x]], dtype=dtype))
        assert torch.equal(t, torch.full((2,1), want, dtype=dtype)) and t.dtype==dtype
    assert half_star(torch.tensor(float(x))).shape==()
    a = half_star(np.full((2,3), x))
    assert isinstance(a, np.ndarray) and (a==want).all() and a.shape==(2,3)
    s = half_star(pd.Series([x,x], index=['p','q'], name='stars'))
    pd.testing.assert_series_equal(s, pd.Series([want,want], index=['p','q'], name='stars'))

def test_half_star_of_whole_numbers_and_what_is_no_number():
    assert half_star(torch.tensor([1,4])).tolist()==[1.,4.] and half_star(torch.tensor([1,4])).is_floating_point() and half_star(np.array([3]))[0]==3.
    for o in ([math.inf,-math.inf,math.nan], ):
        for got in (half_star(torch.tensor(o)), half_star(np.array(o)), half_star(pd.Series(o)), [half_star(v) for v in o]):
            assert got[0]==math.inf and got[1]==-math.inf and math.isnan(got[2])
    x = torch.tensor([4.75])
    half_star(x)
    s = pd.Series([4.75])
    half_star(s)
    assert x.item()==s[0]==4.75                                     # the input stays

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10), st.floats(-.6, .6)), min_size=1, max_size=40), st.integers(1, 41))
def test_half_star_accuracy_over_batches(rows, bs):
    "The share of rows whose rounded prediction is the rating, whatever the batches"
    y = torch.tensor([k/2 for k,_ in rows])[:,None]
    pred = y+torch.tensor([e for _,e in rows])[:,None]
    class L: loss_func = None
    half_star_accuracy.reset()
    for o in range(0, len(y), bs):
        L.pred,L.yb = pred[o:o+bs],(y[o:o+bs],)
        half_star_accuracy.accumulate(L)
    want = np.mean([half_star(p)==t for p,t in zip(pred[:,0].tolist(), y[:,0].tolist())])
    assert half_star_accuracy.value==pytest.approx(want) and half_star_accuracy(pred, y).item()==pytest.approx(want)

def test_half_star_accuracy_in_a_fit(dls):
    "A column of that name, equal to the share over all validation rows"
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5), metrics=half_star_accuracy), 2, 2e-2)
    pred,targ = learn.get_preds()
    want = np.mean([np.abs(p-t)<.25 for p,t in zip(pred.reshape(-1).double().tolist(), targ.reshape(-1).tolist())])
    assert list(learn.recorder.metric_names)==['epoch','train_loss','valid_loss','half_star_accuracy','time']
    assert learn.recorder.values[-1][2]==pytest.approx(want, abs=2e-3) and 0<want<1
    assert half_star_accuracy(torch.tensor([4.8,3.3,1.]), torch.tensor([5.,3.,1.])).item()==pytest.approx(2/3)

# Inequality

@pytest.mark.parametrize('counts,want', [([1,1,1,1],0), ([0,0,0,4],.75), ([4,0,0,0],.75), ([1,2,3,4],.25), ([0,1],.5), ([7],0), ([1,3],.25), ([.5,1.5],.25)])
def test_gini_known_values(counts, want):
    got = gini(torch.tensor(counts))
    assert got.item()==pytest.approx(want, abs=1e-12) and got.dtype==torch.float64 and got.shape==()
    assert gini(torch.tensor(counts)*3).item()==pytest.approx(want, abs=1e-12)             # the unit is irrelevant

@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_difference(counts):
    "Half the mean absolute difference of all pairs over the mean; the order is irrelevant; in [0,1)"
    c = np.array(counts, float)
    want = np.abs(c[:,None]-c[None]).mean()/(2*c.mean())
    got = gini(torch.tensor(counts)).item()
    assert got==pytest.approx(want, abs=1e-9) and 0<=got+1e-12 and got<1 and gini(torch.tensor(counts[::-1])).item()==pytest.approx(got)

def test_gini_of_nothing_is_nan(): assert math.isnan(gini(torch.zeros(3))) and math.isnan(gini(torch.zeros(0)))

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
    learn = quiet(collab_learner(load(ratings, bs=500), n_factors=2, y_range=(0,5.5)), 4, 1e-3, cbs=EarlyStoppingCallback(monitor='valid_loss', patience=1))
    losses = [o[1] for o in learn.recorder.values]
    assert len(losses)==4 and losses==sorted(losses, reverse=True)
