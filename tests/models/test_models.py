"Numbers of single models: sizes, initial values, the baseline against loops, and two embeddings that learn the same"
import math

import numpy as np, pytest, torch
from fastai.tabular.all import set_seed
from fastcollab.all import BiasBaseline, CollabDataLoaders, CollabNN, DotProductBias, Embedding, ParamEmbedding
from fastcollab.all import baseline_rmse, collab_learner, emb_size
from fastcollab.recommend.base import Link
from fastcollab.recommend.scorers import DotScorer
from tests.small import load, quiet

def test_both_embeddings_learn_the_same(dls):
    "`ParamEmbedding` and `Embedding` from the same weights give the same weights"
    res = []
    for emb in (Embedding, ParamEmbedding):
        again = CollabDataLoaders.from_df(dls.train_ds.items, seed=3, bs=64)
        model = DotProductBias.from_dls(again, n_factors=4, emb=emb)
        g = torch.Generator().manual_seed(1)
        for p in model.parameters(): p.data = torch.randn(p.shape, generator=g)*.1
        set_seed(2)
        learn = collab_learner(again, arch=model)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
        res.append(list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a,b in zip(*res))

def test_emb_size_is_fastais_rule():
    from fastai.tabular.model import emb_sz_rule
    assert [emb_size(n) for n in range(1, 30_000, 7)] == [emb_sz_rule(n) for n in range(1, 30_000, 7)]
    assert emb_size(10**9) == 600

def test_collabnn_sizes(dls):
    model = CollabNN.from_dls(dls)
    assert model.u_weight.weight.shape == (201, emb_size(201)) and model.i_weight.weight.shape == (101, emb_size(101))
    model = CollabNN(610, 9724, emb_szs=(72,103), layers=[20,10], ps=[.1,.2])
    assert model.vectors(0).shape == (610,72) and model.layers[0][0].in_features == 175

def test_initial_values_are_fastais(dls):
    "Truncated normal, std 0.01 before the cut: no value beyond 0.02"
    model = DotProductBias(2000, 3000, 50)
    for p in model.parameters(): assert p.abs().max() <= .02
    assert abs(model.u_weight.weight.std().item() - Embedding(2000, 50).weight.std().item()) < 2e-4

@pytest.mark.parametrize('damping', [0., 5.])
def test_baseline_against_a_loop(ratings, damping):
    "The closed form equals its formula written as loops"
    dls = CollabDataLoaders.from_df(ratings, seed=42)
    base,train = BiasBaseline.from_dls(dls, damping=damping),dls.train_ds.items
    mean = train.rating.mean()
    bi = {i: (g.rating-mean).sum()/(damping+len(g)) for i,g in train.groupby('movieId')}
    bu = {u: (g.rating-mean-g.movieId.map(bi)).sum()/(damping+len(g)) for u,g in train.groupby('userId')}
    want = [mean+bu.get(u, 0)+bi.get(i, 0) for u,i in zip(dls.valid_ds.items.userId, dls.valid_ds.items.movieId)]
    got = torch.cat([base(b[0]) for b in dls.valid]).reshape(-1).numpy()
    assert np.allclose(got, want, atol=1e-5)
    assert math.isclose(baseline_rmse(dls, damping)['user + item bias'],
        np.sqrt(np.mean((np.array(want)-dls.valid_ds.store.ratings().numpy()[:,0])**2)), rel_tol=1e-5)

class Clipped(DotProductBias):
    "Ratings that are clipped, or those of an ordered probit"
    levels = None
    @property
    def link(self): return Link(self.y_range, 3., self.levels is None, self.levels, self.levels and (0.,1.))

@pytest.mark.parametrize('levels,why', [(None,'clips'),((1.,2.,5.),'probit')])
def test_other_links_run_in_torch(levels, why):
    "No compiled loop computes them: training, predictions, lists and ONNX come from PyTorch"
    dls = load()
    learn = collab_learner(dls, arch=Clipped.from_dls(dls, n_factors=3, y_range=(1.,5.)))
    learn.model.levels = levels
    assert why in learn.model.fuse_plan(dls.train_ds) and why in learn.fused_reason
    quiet(learn, 1, 5e-2)
    preds,_ = learn.get_preds()
    u,i = (dls.valid_ds.store.ids()[:,k] for k in (0,1))
    rec = learn.recommender()
    assert torch.allclose(preds, learn.model.predictions(u).gather(1, i[:,None].long())[:,0], atol=1e-5)
    assert type(rec.scorer) is DotScorer
    assert torch.allclose(rec.scorer.module()(torch.stack([u,i], 1).long()), preds, atol=1e-5)
    lists = rec.recommend(k=5)
    assert lists.groupby('user')['prediction'].is_monotonic_decreasing.all()
