"The chain: the distribution it draws from, the curvature it assumes, and the samples it keeps"
import numpy as np, pytest, torch
from fastcollab.all import (PosteriorAverage, CollabDataLoaders, DotProductBias, SGHMC, LazyAdam, OrdinalLoss,
    PosteriorSampling, SVDPlusPlus, baseline_rmse, collab_learner, load_learner, rmse, set_seed, synthetic_ratings)
from fastcollab.data.loaders import FullBatchDL
from fastcollab.train.sghmc import Curvature, sghmc_step

FRAME = synthetic_ratings(150, 100, 3000, seed=5).assign(timestamp=lambda d: 10**9+d.timestamp%5*86400)

def loaders(time=False, features=False, **kwargs):
    return CollabDataLoaders.from_df(FRAME, seed=1, bs=64, time_name='timestamp' if time else None, genre_name='genres'
        if features else None, **kwargs)

def chain(dls=None, epochs=4, seed=0, steps=50, lr=.5, fit=True, **kwargs):
    set_seed(seed)
    usual = dict(arch=SVDPlusPlus, n_factors=5, y_range=(0,5.5), opt_func=SGHMC, cbs=PosteriorSampling(n=20),
        metrics=rmse)
    learn = collab_learner((dls or loaders()).full_batch(steps), **{**usual, **kwargs})
    if fit:
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, wd=2.)
    return learn

@pytest.mark.slow
@pytest.mark.parametrize('n,scale', ((40,1.),(1000,4.)))
def test_it_draws_from_the_posterior(n, scale):
    "A Gaussian mean with a Gaussian prior: mean and variance of the draws are those of the textbook"
    g = torch.Generator().manual_seed(0)
    y = scale+torch.randn(n, generator=g)
    theta,kept = torch.nn.Parameter(torch.zeros(4)),[]
    opt = SGHMC([theta], lr=.05, mom=.8, wd=3.)
    torch.manual_seed(0)
    for s in range(20_000):
        theta.grad = torch.stack([(t-y).mean() for t in theta.detach()])     # of half the mean squared error
        opt.state[theta].update(curvature=torch.full((4,), float(n)), bound=1.)
        opt.set_hypers(pull=float(n))
        opt.step()
        if s>500: kept.append(theta.detach().clone())
    prior = 3*n**.5
    mean,var = n*y.mean().item()/(n+prior),1/(n+prior)
    kept = torch.stack(kept)
    assert abs(kept.mean().item()-mean)<4*(var/300)**.5 and abs(kept.var().item()/var-1)<.1

@pytest.mark.slow
@pytest.mark.parametrize('time,features', ((False,False),(True,True)))
def test_the_curvature_is_that_of_the_model(time, features):
    "Row counts times mean squares of columns match the derivatives of all scores; the bound is above every eigenvalue"
    dls = loaders(time, features)
    m = SVDPlusPlus.from_dls(dls, n_factors=3)
    torch.manual_seed(0)
    for p in m.parameters(): p.data.normal_(0, .3)
    c,x = Curvature(m, dls.train_ds),m.split_times(dls.train_ds.rows(torch.arange(len(dls.train_ds)))[0])[0]
    def scores(): return m.torch_score(x).detach()
    J,before = [],scores()
    for o,rows,b in zip(c.tables, c.rows, c.bounds):
        p,part = o.table,[]
        for r in range(len(p)):                                             # biases: scores are linear in them
            p.data[r,-1] += 1
            part.append(scores()-before)
            p.data[r,-1] -= 1
        if not part: continue
        part = torch.stack(part, 1)                                         # (n,rows)
        got = (part**2).sum(0).clamp(min=1)
        assert torch.allclose(got, rows[:,0], rtol=.05, atol=.6), (got, rows[:,0])
        J.append(part/(rows[:,0]*b)**.5)
    assert torch.linalg.svdvals(torch.cat(J, 1))[0]**2<1.1
    items = m.vectors(1)[x[:,1]]
    assert torch.allclose(c.columns[0][:-1], (items**2).mean(0).clamp(min=.02), atol=1e-4) and c.columns[0][-1]==1
    for (table,curvature),rows,o in zip(c.of(2.), c.rows, c.tables):
        assert curvature.shape==table.shape and torch.allclose(curvature, 2*rows*c.columns[o.side])

@pytest.mark.slow
def test_it_learns_and_the_seed_decides():
    a,b,c = (chain(epochs=8, seed=s).recorder.values[-1][2] for s in (0,0,1))
    assert a==b!=c and a<baseline_rmse(loaders()).iloc[0]

@pytest.mark.slow
def test_unknown_ids_do_not_shake_it():
    "Row 0 meets a tenth of all ratings if ids are dropped"
    learn = chain(epochs=6, unk_p=.1)
    assert learn.recorder.values[-1][0]<1.2

@pytest.mark.slow
def test_the_mean_is_better_than_a_state():
    learn = chain(epochs=8)
    mean = learn.validate()[1]
    m,kept = learn.model,learn.model.samples
    ones = []
    for row in kept[::5]:
        m.samples = row[None]
        ones.append(learn.validate()[1])
    m.samples = kept
    assert mean<min(ones) and learn.validate()[1]==mean

@pytest.mark.slow
def test_asking_saving_and_loading(tmp_path):
    "predict, get_preds, export, save and a second fit"
    learn = chain(loaders(True, True, path=tmp_path))
    rows = FRAME.iloc[:40]
    want = learn.predict(rows)
    assert len(learn.model.samples)==20 and np.allclose(learn.get_preds(dl=learn.dls.test_dl(rows))[0].reshape(-1),
        want, atol=1e-5)
    learn.save('chain')
    learn.export('chain.pkl')
    other = chain(loaders(True, True, path=tmp_path), seed=3, fit=False)
    assert np.allclose(other.load('chain').predict(rows), want,
        atol=1e-5) and np.allclose(load_learner(tmp_path/'chain.pkl').predict(rows), want, atol=1e-5)
    assert np.allclose(learn.recommender().predict(rows.drop(columns='timestamp')),
        learn.predict(rows.drop(columns='timestamp')), atol=1e-4)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .5, wd=2.)
    assert len(learn.model.samples)==20 and not np.allclose(learn.predict(rows), want, atol=1e-3)

def test_validate_keeps_what_was_kept():
    learn = chain()
    learn.validate()
    assert len(learn.model.samples)==20

def test_whole_batches():
    dls = loaders(features=True)
    whole = dls.full_batch(3)
    batches = list(whole.train)
    assert len(whole.train)==3==len(batches) and all(len(y)==len(dls.train_ds)
        for _,y in batches) and isinstance(whole.train, FullBatchDL)
    assert torch.equal(batches[0][0],
        dls.train_ds.rows(torch.arange(len(dls.train_ds)))[0]) and len(whole.train.new().dataset)==len(dls.train_ds)
    assert len(list(dls.train))==-(-len(dls.train_ds)//64)

ERRORS = [('another optimizer', lambda: chain(opt_func=LazyAdam), TypeError, ['opt_func=SGHMC','LazyAdam']),
    ('another model', lambda: chain(arch=DotProductBias), TypeError, ['DotProductBias','SVDPlusPlus']),
    ('another loss', lambda: chain(y_range=None, loss_func=OrdinalLoss.from_dls(loaders())), TypeError,
        ['RatingMSE','OrdinalLoss']),
    ('n', lambda: PosteriorSampling(n=0), ValueError, ['n is 0']), ('burn', lambda: PosteriorSampling(burn=1.),
        ValueError, ['burn is 1']),
    ('steps', lambda: loaders().full_batch(0), ValueError, ['steps is 0'])]
@pytest.mark.parametrize('name,f,kind,words', ERRORS, ids=[o[0] for o in ERRORS])
def test_errors(name, f, kind, words):
    with pytest.raises(kind) as e: f()
    assert all(o in str(e.value) for o in words)

def test_a_parameter_without_curvature_stands_still(): assert sghmc_step(torch.ones(2), .1, .9, 1., 1.)=={}

def test_no_state_before_the_first():
    m = SVDPlusPlus.from_dls(loaders(), n_factors=3)
    x = loaders().one_batch()[0]
    assert torch.equal(PosteriorAverage(m).eval()(x), m.eval()(x))
