"`fit_gibbs`: predictions, the model of mean vectors, intervals, interruptions, callbacks, and what can't be fitted"
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, OrdinalLoss,
    PosteriorAverage, SVDPlusPlus, baseline_rmse, collab_learner, load_learner, rmse, synthetic_ratings)
from fastcollab.train.solvers import mean_factors

FRAME = synthetic_ratings(150, 100, 5000, seed=5).assign(timestamp=lambda d: 10**9+d.timestamp%5*86400)

def loaders(df=FRAME, **kwargs): return CollabDataLoaders.from_df(df, **{**dict(seed=1, bs=64, val_bs=512), **kwargs})
def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_gibbs(*args, **kwargs)
    return learn
def fitted(arch=DotProductBias, sweeps=40, dls=None, config=None, **kwargs):
    dls = dls or loaders()
    return quiet(collab_learner(dls, arch=arch, n_factors=8, metrics=rmse, config=config), sweeps, **kwargs)
def pairs(learn): return learn.dls.valid_ds.rows(torch.arange(len(learn.dls.valid_ds)))

@pytest.mark.parametrize('arch,kwargs', [(DotProductBias,{}), (HybridMF,dict(genre_name='genres')),
    (SVDPlusPlus,dict(genre_name='genres', time_name='timestamp'))])
def test_better_than_averages(arch, kwargs):
    learn = fitted(arch, dls=loaders(**kwargs))
    error = learn.validate()[1]
    assert error<baseline_rmse(learn.dls).iloc[1]
    x,y = pairs(learn)
    assert rmse(learn.model.inner.eval()(x), y).item()<error+.03
    assert learn.recorder.values[-1][2]==pytest.approx(error, abs=1e-5)

def test_the_mean_over_samples_by_hand():
    "Each sample is an ordered probit of its own dot products"
    learn = fitted()
    m,(x,_) = learn.model.eval(),pairs(learn)
    users,items,_,_,precision,user,item = (o.double() for o in m.samples())
    u,i = x[:,0],x[:,1]
    want = 0
    for s in range(len(users)):
        score = (users[s,u,:-1]*items[s,i,:-1]).sum(1)+users[s,u,-1]+items[s,i,-1]
        h = (precision[s]*user[s,u]*item[s,i]).sqrt()
        above = torch.special.ndtr((score[:,None]-m.link_cuts)*h[:,None])
        want = want+(m.link_levels[0]+above@m.link_levels.diff().double())/len(users)
    assert torch.allclose(m(x), want.float(), atol=1e-4)

def test_torch_and_the_kernel_agree(monkeypatch):
    learn = fitted(SVDPlusPlus, dls=loaders(genre_name='genres'))
    x,_ = pairs(learn)
    x[:5,0] = 0   # newcomers, whose items bring their genres
    x[3:8,1] = 0
    fast = learn.model.eval()(x)
    monkeypatch.setattr('fastcollab.models.ensemble.load_kernels', lambda name: None)
    assert torch.allclose(fast, learn.model(x), atol=1e-4)

def test_ratings_of_many_levels():
    "More than 20 levels are normal, in any unit, and predictions stay within the range"
    preds = []
    for scale in (1.,1000.):
        df = FRAME.assign(rating=scale*(FRAME.rating+np.random.default_rng(0).normal(0, .1, len(FRAME)).round(3)))
        learn = fitted(dls=loaders(df))
        assert not len(learn.model.link_cuts)
        preds.append(learn.get_preds()[0].numpy()/scale)
        assert df.rating.min()/scale<=preds[-1].min() and preds[-1].max()<=df.rating.max()/scale
    assert np.allclose(*preds, atol=.02)

def test_same_seed_same_model():
    one,same,other = (fitted(seed=o).get_preds()[0] for o in (0,0,1))
    assert torch.equal(one, same) and not torch.equal(one, other)

def test_few_samples_are_spread_over_the_chain():
    learn = fitted(sweeps=60, samples=8)
    assert 4<=int(learn.model.count)<=8 and len(learn.model.users)==int(learn.model.count)
    assert abs(learn.validate()[1]-fitted(sweeps=60).validate()[1])<.02

def test_resume_adds_sweeps():
    learn = fitted(sweeps=40)
    n = int(learn.model.count)
    quiet(learn, 20, resume=True)
    assert int(learn.model.count)==n+20 and learn._chain.sampler.done==60
    with pytest.raises(ValueError, match='no chain'): collab_learner(learn.dls).fit_gibbs(5, resume=True)
    learn.dls = loaders(seed=2)
    with pytest.raises(ValueError, match='have changed'): learn.fit_gibbs(5, resume=True)

class Interrupt(Callback):
    "Stop a fit at the end of an epoch"
    def __init__(self, kind): self.kind = kind
    def after_epoch(self):
        if self.epoch==2: raise self.kind

@pytest.mark.parametrize('kind', [KeyboardInterrupt,CancelFitException])
def test_an_interrupted_fit_leaves_a_model(kind):
    learn = collab_learner(loaders(), n_factors=8, metrics=rmse)
    try: quiet(learn, 60, cbs=Interrupt(kind))
    except KeyboardInterrupt: pass
    assert int(learn.model.count)>=1 and learn._chain.sampler.done==30
    before = learn.validate()[1]
    assert before<baseline_rmse(learn.dls).iloc[1]+.05
    quiet(learn, 30, resume=True)
    assert learn._chain.sampler.done==60 and learn.validate()[1]<before+.01

def test_an_interruption_in_the_middle_of_a_sweep(monkeypatch):
    learn = fitted(sweeps=20)
    sampler = learn._chain.sampler
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(sampler, '_noise', stop)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 10, resume=True)
    monkeypatch.undo()
    quiet(learn, 20, resume=True)
    assert learn.validate()[1]<baseline_rmse(learn.dls).iloc[1]

def test_trackers(tmp_path):
    "The best epoch comes back; a fit stops when nothing gets better"
    dls = loaders()
    dls.path = tmp_path
    learn = collab_learner(dls, n_factors=8, metrics=rmse)
    quiet(learn, 60, cbs=[SaveModelCallback('rmse'),EarlyStoppingCallback('rmse', patience=2)])
    assert learn.validate()[1]==pytest.approx(min(o[2] for o in learn.recorder.values), abs=1e-5)

def test_save_load_and_export(tmp_path):
    learn = fitted(SVDPlusPlus, dls=loaders(genre_name='genres'))
    learn.path = tmp_path
    x,_ = pairs(learn)
    want = learn.model.eval()(x)
    learn.save('m')
    with torch.no_grad(): learn.model.model.ids[0].zero_()
    learn.model.clear_samples()
    learn.load('m')
    assert torch.equal(learn.model.eval()(x), want)
    learn.export(tmp_path/'export.pkl')
    again = load_learner(tmp_path/'export.pkl')
    assert np.allclose(again.predict(FRAME[:20]), learn.predict(FRAME[:20]), atol=1e-6)
    assert again.recommend(1, k=3).item.tolist()==learn.recommend(1, k=3).item.tolist()
    new = pd.DataFrame(dict(userId=[10**6]*3, movieId=FRAME.movieId[:3], rating=[5.,1,3]))
    assert len(again.fold_in(new).recommend([10**6], k=4))==4
    assert len(again.explain(FRAME.userId[0], FRAME.movieId[0]))

def test_lists_come_from_mean_vectors():
    "A recommender is close to the mean over samples"
    learn = fitted(SVDPlusPlus, sweeps=100)
    rec = learn.recommender()
    exact,lists = learn.predict(FRAME[:500]),rec.predict(FRAME.userId[:500].tolist(), FRAME.movieId[:500].tolist())
    assert np.sqrt(np.mean((exact-lists)**2))<.1

def test_intervals_cover_what_they_say():
    learn = fitted(sweeps=100)
    held = learn.dls.valid_ds.items
    for share in (.5,.8,.9):
        res = learn.predict(held, interval=share)
        assert list(res.columns)==['prediction','low','high'] and (res.low<=res.high).all()
        inside = ((res.low<=held.rating.to_numpy())&(held.rating.to_numpy()<=res.high)).mean()
        assert abs(inside-share)<.05   # 1,000 ratings: two standard errors are .03
    dist = learn.predict_dist(held[:50])
    assert np.allclose(dist.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(dist@dist.columns.to_numpy(), learn.predict(held[:50]), atol=1e-4)

def test_another_fit_forgets_the_samples():
    learn = fitted()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    assert not learn.model.count and learn.validate()[1]<baseline_rmse(learn.dls).iloc[1]+.1

def test_the_summary_tells_of_noise_and_groups():
    text = fitted(SVDPlusPlus, dls=loaders(genre_name='genres')).summary()
    assert all(o in text for o in ('Noise of a rating','sets of users','feature 1 of items','samples'))

class Batches(Callback):
    def before_batch(self): pass

def test_no_ratings_but_one_level():
    learn = fitted(dls=loaders(FRAME.assign(rating=3.)))
    assert np.allclose(learn.predict(FRAME[:10]), 3)

ERRORS = [('net', lambda: collab_learner(loaders(), arch=CollabNN).fit_gibbs(), TypeError, ['CollabNN','SVDPlusPlus']),
    ('no biases', lambda: collab_learner(loaders(), arch=DotProduct).fit_gibbs(), TypeError, ['DotProduct']),
    ('scale', lambda: collab_learner(loaders(genre_name='genres'), config=dict(how='scale')).fit_gibbs(), TypeError,
        ['scale']),
    ('loss', lambda: collab_learner(loaders(), loss_func=OrdinalLoss.from_dls(loaders())).fit_gibbs(), TypeError,
        ['RatingMSE']),
    ('batches', lambda: collab_learner(loaders()).fit_gibbs(cbs=Batches()), TypeError, ['Batches']),
    ('sweeps', lambda: collab_learner(loaders()).fit_gibbs(0), ValueError, ['sweeps is 0']),
    ('factors', lambda: collab_learner(loaders(), n_factors=4).fit_gibbs(n_factors=9), ValueError, ['9','4']),
    ('interval', lambda: collab_learner(loaders()).predict(1, FRAME.movieId[0], interval=.9), TypeError, ['fit_gibbs']),
    ('share', lambda: collab_learner(loaders()).predict(1, FRAME.movieId[0], interval=90), ValueError, ['90'])]
@pytest.mark.parametrize('name,f,kind,words', ERRORS, ids=[o[0] for o in ERRORS])
def test_errors(name, f, kind, words):
    with pytest.raises(kind) as e: f()
    assert all(o in str(e.value) for o in words), e.value

def test_mean_factors_are_the_best_of_their_rank():
    "As good as the singular vectors of the mean product"
    g = torch.Generator().manual_seed(0)
    users,items = (torch.randn(5, n, 4, generator=g) for n in (20,15))
    u,i = mean_factors(users, items, 6, rounds=30)
    want = torch.stack([a[:,:-1]@b[:,:-1].T for a,b in zip(users, items)]).mean(0)
    left = torch.linalg.svdvals(want)[6:].norm()
    assert (want-u[:,:-1]@i[:,:-1].T).norm()<left*1.02
    assert isinstance(fitted(sweeps=4).model, PosteriorAverage)

@pytest.mark.parametrize('arch', [HybridMF,SVDPlusPlus])
def test_tables_add_up_to_vectors(arch):
    "Own parts, sets and every category of an item with several: what the sampler predicts with is what it draws"
    learn = fitted(arch, dls=loaders(genre_name='genres', item_cols=['decade'], df=FRAME.assign(
        decade=FRAME.movieId%7)))
    sampler = learn._chain.sampler
    before = sampler.errors.copy()
    sampler.refresh()
    assert np.abs(before-sampler.errors).max()<1e-4
    m,x = learn.model.eval(),pairs(learn)[0]
    assert (m(x)-m.inner(x)).pow(2).mean()**.5<.1

def test_a_state_of_another_model_changes_nothing():
    learn = fitted(sweeps=20)
    x,_ = pairs(learn)
    before = learn.model.eval()(x)
    with pytest.raises(RuntimeError): learn.model.load_state_dict(DotProductBias.from_dls(learn.dls).state_dict())
    assert torch.equal(learn.model.eval()(x), before)
