"LightGCN against dense numpy, its gradient, new users and items, explanations, and what is saved"
import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import BPRLoss, CollabDataLoaders, LightGCN, Recommender
from fastcollab.all import collab_learner, load_learner, synthetic_ratings
from fastcollab.data.matrix import interaction_matrix

CLICKS = synthetic_ratings(150, 60, 3000, seed=5)[['userId','movieId']]

def loaders(df=CLICKS, **kwargs): return CollabDataLoaders.from_interactions(df, **{**dict(seed=1, bs=256), **kwargs})
def dense(model, ds):
    "Vectors after each step, with a dense matrix in float64, (K+1,n,k)"
    m = interaction_matrix(ds, weights=False).toarray().astype(float)
    a = np.block([[np.zeros((len(m),)*2), m],[m.T, np.zeros((m.shape[1],)*2)]])
    with np.errstate(divide='ignore'): s = np.where(a.sum(1)>0, a.sum(1)**-.5, 0)
    a,res = s[:,None]*a*s,[model.start.detach().double().numpy()]
    for _ in range(model.n_layers): res.append(a@res[-1])
    return np.stack(res)

@pytest.mark.parametrize('n_layers', [1,2,4])
def test_steps_are_those_of_a_dense_matrix(n_layers):
    dls = loaders(duplicates='keep', df=pd.concat([CLICKS,CLICKS.head(50)]))
    model = LightGCN.from_dls(dls, n_factors=6, n_layers=n_layers)
    want = dense(model, dls.train_ds)
    assert np.allclose(torch.stack(model.layers()).detach(), want, atol=1e-6)
    u,i = np.split(want.mean(0), [dls.n_users])
    x = dls.one_batch()[0]
    for mode in (True,False):
        assert np.allclose(model.train(mode)(x).detach(), (u[x[:,0]]*i[x[:,1]]).sum(1), atol=1e-5)

def test_the_gradient_flows_back_along_the_edges():
    dls = loaders()
    model = LightGCN.from_dls(dls, n_factors=3, n_layers=2).double()
    x = dls.one_batch()[0][:5]
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(model, {'start':w}, (x,)), model.start)

def test_kept_vectors_follow_the_parameters():
    "Whatever changes them: a step of any optimizer, a file, or a write in place"
    dls = loaders()
    learn = collab_learner(dls, arch=LightGCN, n_factors=8)
    x,seen = dls.one_batch()[0],[]
    def said():
        with torch.no_grad(): seen.append(learn.model.eval()(x))
        assert all(not torch.equal(seen[-1], o) for o in seen[:-1])
    said()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    said()
    with torch.no_grad(): learn.model.start.mul_(2)
    said()
    with torch.no_grad(): assert learn.model.nodes() is learn.model.nodes()

@pytest.fixture(scope='module')
def learn():
    torch.manual_seed(0)
    res = collab_learner(loaders(), arch=LightGCN, n_factors=16, loss_func=BPRLoss())
    with res.no_bar(), res.no_logging(): res.fit_one_cycle(10, 2e-2, wd=.1)
    return res

def test_it_ranks_what_was_held_out(learn):
    scores = learn.get_preds()[0]
    assert (scores[:,0]>scores[:,1]).float().mean()>.65

def test_new_users_are_the_mean_along_their_edges(learn, tmp_path):
    "Their vector by hand; close to that of the known user with the same clicks; also from a file"
    ds,user = learn.dls.train_ds,CLICKS.userId.iloc[0]
    own = ds.items.query('userId==@user')
    layers,m = dense(learn.model, ds),interaction_matrix(ds, weights=False).toarray()
    met = [learn.dls.classes['movieId'].o2i[o] for o in own.movieId]
    along = sum((layers[:-1,ds.n_users+j]/(m[:,j].sum()*len(met))**.5).sum(0) for j in met)
    want = (learn.model.start[0].detach().numpy()+along)/(learn.model.n_layers+1)
    learn.recommender().save(tmp_path/'rec')
    for rec in (learn.recommender(),Recommender.load(tmp_path/'rec')):
        new = rec.fold_in(own[['movieId']].assign(userId=9999))
        assert np.allclose(new.scorer.factors(0).vec[-1], want, atol=1e-5)
        lists = [set(new.recommend(o, 10).item) for o in (user,9999)]
        assert len(lists[0]&lists[1])>=7

def test_new_items_are_the_mean_along_theirs(learn):
    "By hand; without clicks, a new item is the unknown one"
    ds,item = learn.dls.train_ds,CLICKS.movieId.value_counts().index[3]
    own = ds.items.query('movieId==@item')
    layers,m = dense(learn.model, ds),interaction_matrix(ds, weights=False).toarray()
    met = [learn.dls.classes['userId'].o2i[o] for o in own.userId]
    along = sum((layers[:-1,u]/(m[u].sum()*len(met))**.5).sum(0) for u in met)
    want = (learn.model.start[ds.n_users].detach().numpy()+along)/(learn.model.n_layers+1)
    rec = learn.recommender().fold_in_items(own[['userId']].assign(movieId=9999))
    assert np.allclose(rec.scorer.factors(1).vec[-1], want, atol=1e-5)
    vec = rec.fold_in_items(items=pd.DataFrame(dict(movieId=[8888]))).scorer.factors(1).vec
    assert torch.allclose(vec[-1], vec[0])

def test_explanations_are_exact(learn):
    "What the clicks of a new user add is all there is"
    user = CLICKS.userId.iloc[0]
    own = learn.dls.train_ds.items.query('userId==@user')[['movieId']]
    rec = learn.recommender().fold_in(own.assign(userId=9999))
    item = rec.recommend(9999, 1)['item'][0]
    why = rec.explain(9999, item, k=None).set_index('part').stars
    assert why.sum()==pytest.approx(rec.predict(9999, item), abs=1e-5) and why['remainder']==pytest.approx(0, abs=1e-5)
    assert len(why['rated'])==len(own)

def test_files(learn, tmp_path):
    learn.export(tmp_path/'l.pkl')
    user = CLICKS.userId.iloc[0]
    assert load_learner(tmp_path/'l.pkl').recommend(user, 5).equals(learn.recommend(user, 5))

def test_bad_settings():
    with pytest.raises(ValueError, match='n_layers'): LightGCN.from_dls(loaders(), n_layers=0)
    with pytest.raises(TypeError, match='fit_als needs a DotProductBias'):
        collab_learner(loaders(), arch=LightGCN).fit_als(1)
