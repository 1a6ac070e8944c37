"`fit_als`: ratings and clicks, against numpy, in lists, folded in, explained, saved, and what can't be fitted"
import numpy as np, pytest, torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import SaveModelCallback
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, OrdinalLoss, Recommender,
    baseline_rmse, collab_learner, load_learner, rmse, synthetic_ratings)
from fastcollab.data.matrix import interaction_matrix
from fastcollab.train.als import ALSSolver, als_config

FRAME = synthetic_ratings(150, 100, 5000, seed=5)
CLICKS = FRAME[FRAME.rating>=4][['userId','movieId']]

def loaders(**kwargs): return CollabDataLoaders.from_df(FRAME, **{**dict(seed=1, bs=64, val_bs=512), **kwargs})
def clicks(df=CLICKS, **kwargs): return CollabDataLoaders.from_interactions(df, **{**dict(seed=1, bs=64), **kwargs})
def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_als(*args, **kwargs)
    return learn
def fitted(dls=None, epochs=8, arch=DotProductBias, **kwargs):
    dls = dls or loaders()
    more = {} if dls.train_ds.implicit else dict(metrics=rmse)
    torch.manual_seed(0)
    return quiet(collab_learner(dls, arch=arch, n_factors=8, **more), epochs, **kwargs)
def tables(learn): return [o.vec.detach().double().numpy() for o in map(learn.model.factors, (0,1))]

def test_ratings_are_predicted_better_than_by_averages():
    learn = fitted(reg=.3)
    assert learn.recorder.values[-1][2]==pytest.approx(learn.validate()[1], abs=1e-5)
    assert learn.validate()[1]<baseline_rmse(learn.dls).iloc[1]
    y = FRAME.rating
    assert y.min()<=learn.get_preds()[0].min() and learn.get_preds()[0].max()<=y.max()

@pytest.mark.parametrize('alpha', [2., None])
def test_clicks_are_the_solution_of_the_papers_equations(alpha):
    "Users after the last half-step, by numpy; the unknown user is the mean"
    learn = fitted(clicks(), reg=10., alpha=alpha)
    m,(u,i) = interaction_matrix(learn.dls.train_ds).toarray(),tables(learn)
    c,i[0] = 1+(alpha or 5)*m,0
    mass = (c-1).sum(1)
    for r in (1,7,len(m)-1):
        A = (i*c[r][:,None]).T@i+10*(mass[r]/mass[1:].mean())**.5*np.eye(8)
        assert np.allclose(u[r], np.linalg.solve(A, (c[r]*(m[r]>0))@i), atol=1e-4)
    assert np.allclose(u[0], u[1:].mean(0), atol=1e-4)
    assert not any(o.bias.any() for o in map(learn.model.factors, (0,1)))

@pytest.mark.parametrize('growth', [0., .5])
def test_the_decay_of_an_item_grows_with_its_confidence(growth):
    "Items of the last half-step, by numpy"
    ds = clicks().train_ds
    torch.manual_seed(0)
    solver = ALSSolver(DotProductBias(ds.n_users, ds.n_items, 8), ds, als_config(ds, reg=10., alpha=2., growth=growth))
    solver.epoch()
    m,(u,i) = interaction_matrix(ds).toarray().T,(o[:,:8].astype(float) for o in solver.tables)
    mass = 2*m.sum(1)
    for r in (1,7,len(m)-1):
        A = (u*(1+2*m[r])[:,None]).T@u+10*(mass[r]/mass[1:].mean())**growth*np.eye(8)
        assert np.allclose(i[r], np.linalg.solve(A, ((1+2*m[r])*(m[r]>0))@u), atol=1e-4)

def test_weights_add_confidence_and_their_unit_does_not_matter():
    df = CLICKS.assign(plays=np.arange(len(CLICKS))%7+1)
    one,thousand,none = (tables(fitted(clicks(o, weight_name=w)))[0] for o,w in ((df,'plays'),
        (df.assign(plays=1000*df.plays),'plays'),(df[['userId','movieId']],None)))
    assert np.allclose(one, thousand, atol=1e-3) and not np.allclose(one, none, atol=1e-2)

def test_conjugate_gradients_come_close():
    exact,cg = (fitted(clicks(), cg=o, epochs=15) for o in (None,3))
    a,b = (tables(o)[0]@tables(o)[1].T for o in (exact,cg))
    assert np.corrcoef(a.ravel(), b.ravel())[0,1]>.99

def test_a_second_fit_goes_on():
    "Five epochs and five more are ten, and two threads give what one gives"
    a,b = fitted(epochs=10),quiet(fitted(epochs=5), 5)
    assert np.allclose(tables(a)[1], tables(b)[1], atol=1e-3)
    ds,res = clicks().train_ds,[]
    for threads in (1,3):
        torch.manual_seed(0)
        model = DotProductBias(ds.n_users, ds.n_items, 8)
        solver = ALSSolver(model, ds, als_config(ds), threads)
        solver.epoch()
        res.append(solver.tables)
    assert all(np.array_equal(x, y) for x,y in zip(*res))

def test_a_seed_starts_anew_whatever_the_global_one_is():
    "The same vectors from the same seed, others from another; without one, a fit goes on; the global state stays"
    res = []
    for glob,seed in ((0,3),(1,3),(0,4)):
        torch.manual_seed(glob)
        learn = collab_learner(clicks(), arch=DotProductBias, n_factors=8)
        state = torch.get_rng_state()
        quiet(learn, 2, seed=seed)
        assert torch.equal(state, torch.get_rng_state())
        res.append(tables(learn)[1])
    assert np.array_equal(res[0], res[1]) and not np.allclose(res[0], res[2])
    assert np.array_equal(tables(quiet(learn, 2, seed=3))[1], res[0])

def test_loss_falls():
    for dls in (loaders(), clicks()):
        learn = fitted(dls, epochs=6)
        losses = [o[0] for o in learn.recorder.values]
        assert losses==sorted(losses, reverse=True)

def test_lists_fold_in_explanations_and_files(tmp_path):
    "Clicks of a known user, folded in as those of a new one, give the same vector; parts of a score sum to it"
    learn = fitted(clicks(), epochs=10)
    rec,user = learn.recommender(),CLICKS.userId.iloc[0]
    rec.save(tmp_path/'rec')
    train = learn.dls.train_ds.items
    new = train[train.userId==user][['userId','movieId']].assign(userId=9999)
    for o in (rec, Recommender.load(tmp_path/'rec')):
        folded = o.fold_in(new)
        a,b = folded.recommend(user, 5),folded.recommend(9999, 5)
        assert a.item.tolist()==b.item.tolist() and np.allclose(a.score, b.score, atol=1e-4)
        item = a.item[0]
        parts = o.explain(user, item)
        assert parts.stars.sum()==pytest.approx(o.predict(user, item), abs=1e-4)
        assert abs(parts.stars[parts.part=='remainder'].item())<1e-3 and set(parts.item.dropna())<=set(new.movieId)
    some = train[train.movieId==train.movieId.iloc[0]][['userId','movieId']].assign(movieId=8888)
    assert 8888 in rec.fold_in_items(some).recommend(k=60).item.values
    assert not set(rec.recommend(user, 20).item)&set(new.movieId)

def test_saved_states_and_exports_know_the_clicks(tmp_path):
    learn = fitted(clicks())
    learn.path = tmp_path
    learn.save('m')
    other = collab_learner(learn.dls, arch=DotProductBias, n_factors=8, path=tmp_path).load('m')
    assert other.model.fold_terms(0).clicks==learn.model.fold_terms(0).clicks is not None
    learn.export('l.pkl')
    assert load_learner(tmp_path/'l.pkl').recommend(1, 3).item.tolist()==learn.recommend(1, 3).item.tolist()
    quiet(fitted(), 1)   # ratings after clicks would forget them
    assert fitted().model.fold_terms(0).clicks is None

class Stop(Callback):
    def after_epoch(self):
        if self.epoch==1: raise CancelFitException()

def test_callbacks(tmp_path):
    "A fit can be stopped after an epoch, and the best epoch kept"
    learn = fitted(epochs=9, cbs=Stop())
    assert len(learn.recorder.values)<=2 and learn.validate()[1]<1.5
    learn = collab_learner(loaders(), arch=DotProductBias, n_factors=8, metrics=rmse, path=tmp_path)
    quiet(learn, 3, cbs=SaveModelCallback(monitor='rmse'))
    assert (tmp_path/'models'/'model.pth').exists()

class EachBatch(Callback):
    def after_loss(self): pass

def test_what_cannot_be_fitted():
    dls = loaders(genre_name='genres')
    for arch in (CollabNN,DotProduct,HybridMF):
        with pytest.raises(TypeError, match='fit_als needs a DotProductBias'): collab_learner(dls, arch=arch).fit_als(1)
    with pytest.raises(TypeError, match='squared errors'):
        collab_learner(dls, arch=DotProductBias, loss_func=OrdinalLoss.from_dls(dls)).fit_als(1)
    with pytest.raises(TypeError, match='EachBatch acts on each'): fitted(epochs=1, cbs=EachBatch())
    for bad in (dict(epochs=0),dict(reg=0),dict(reg=-1.),dict(cg=0)):
        with pytest.raises(ValueError): fitted(**bad)
    with pytest.raises(ValueError, match='alpha weighs clicks'): fitted(alpha=3.)
    with pytest.raises(ValueError, match='growth is for clicks'): fitted(growth=.5)
    with pytest.raises(ValueError, match='no range'): collab_learner(clicks(), arch=DotProductBias, y_range=(0,1))

def test_after_gibbs_sampling_and_adam():
    "Samples are forgotten, and the model inside predicts"
    learn = collab_learner(loaders(), n_factors=8, metrics=rmse)
    with learn.no_bar(), learn.no_logging():
        learn.fit_gibbs(30)
        learn.fit_als(8, reg=.3)
    assert learn.validate()[1]==pytest.approx(fitted(reg=.3).validate()[1], abs=.02)
    assert len(learn.recommend(1, 3))==3
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)
    assert learn.validate()[1]<1.2
