"""What a new model, a new loss and a new store take: one class in under 30 lines each, and one place to touch

A model overrides methods of `CollabModel`; a loss is a `RatingLoss` with its formula twice; a store is a `RatingStore`.
Nothing else in the library changes: you pass each where the library's own would go."""
import inspect
from functools import partial

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import set_seed, trainable_params
from fastcollab.all import CollabDataLoaders, CollabModel, DotProductBias, Embedding, HybridMF, LazyAdam, RatingMSE
from fastcollab.all import collab_learner, synthetic_ratings
from fastcollab.data.loaders import RatingsDataset, RatingsDL
from fastcollab.data.store import RatingStore
from fastcollab.kernels.mf import squared_error, train, train_with
from fastcollab.losses import RatingLoss, flat_pair
from fastcollab.models.base import dot_plan, pair_scores
from fastcollab.recommend.base import Factors
from fastcollab.train.loops import why_not_fused
from torch.nn import functional as F

def n_lines(o): return len([s for s in inspect.getsource(o).splitlines() if s.strip()])

# ---- A new model
class Toy(CollabModel):
    "Dot product plus biases, with tables of its own"
    def __init__(self, n_users, n_items, n_factors=8, y_range=None):
        self.n_users,self.n_items,self.y_range = n_users,n_items,y_range
        self.users,self.items = Embedding(n_users, n_factors),Embedding(n_items, n_factors)
        self.generous,self.liked = Embedding(n_users, 1),Embedding(n_items, 1)
    def forward(self, x): return self.link(pair_scores(self.factors(0, x[:,0]), self.factors(1, x[:,1])))
    def factors(self, side, rows=None, categories=None):
        vec,bias = (t.weight if rows is None else t(rows) for t in self.sides(side))
        return Factors(vec, bias.squeeze(-1))
    def sides(self, side): return ((self.users,self.generous),(self.items,self.liked))[side]
    def fuse_plan(self, ds): return dot_plan(self, self.sides(0), self.sides(1))

def test_a_new_model():
    "It is fused, recommended, folded in and explained, and learns what the model of the library learns"
    assert n_lines(Toy)<30
    df = synthetic_ratings(60, 40, 900, seed=1)
    dls = CollabDataLoaders.from_df(df, seed=1, bs=64)
    set_seed(0)
    learn = collab_learner(dls, arch=Toy, n_factors=8, y_range=(0,5.5), center=True)
    assert learn.fused_reason==''
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
    rec,user = learn.recommender(),df.userId[0]
    rows = dls.train_ds.items[:50]
    assert rec.scorer.kind=='dot' and np.allclose(rec.predict(rows), learn.predict(rows), atol=1e-4)
    assert len(rec.recommend(user, 5))==5 and len(rec.similar_items(df.movieId[0], 3))==3
    new = pd.DataFrame(dict(userId=[901]*3, movieId=df.movieId.unique()[:3], rating=[5.,1.,4.]))
    assert len(rec.fold_in(new).recommend(901, 4))==4
    parts = rec.explain(user, int(df.movieId[0]))
    assert abs(parts.stars.sum()-rec.predict(user, int(df.movieId[0])))<1e-4

# ---- A new loss
class HuberLoss(RatingLoss):
    "Quadratic for errors below `delta`, linear beyond"
    def __init__(self, delta=.5): self.delta = delta
    def forward(self, pred, targ): return F.huber_loss(*flat_pair(pred, targ), delta=self.delta)
    def fused_pair(self):
        delta = np.float32(self.delta)
        def huber(pred, y):
            e = pred-y
            if abs(e)<delta: return e*e/2,e
            return delta*(abs(e)-delta/2),delta*np.sign(e)
        return huber

def huber_fit(loss, fused, **kwargs):
    dls = CollabDataLoaders.from_df(synthetic_ratings(60, 40, 800), item_name='title', genre_name='genres', seed=1,
        bs=64)
    set_seed(0)
    opt_func = partial(LazyAdam, eps=1e-8)   # eps is left aside while a row waits
    learn = collab_learner(dls, n_factors=5, y_range=(0,5.5), loss_func=loss, fused=fused, opt_func=opt_func, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 2e-2)
    return learn

@pytest.mark.parametrize('delta', [.5, 2.])
@pytest.mark.parametrize('arch', [None, HybridMF])
def test_a_fused_huber_loss(arch, delta):
    "The compiled loop with a new loss: the weights, losses and tables of the torch loop"
    assert n_lines(HuberLoss)<30
    runs = (HuberLoss(delta),True),(HuberLoss(delta),False),(RatingMSE(),True)
    a,b,mse = (huber_fit(loss, fused, arch=arch) for loss,fused in runs)
    assert a.fused_reason=='' and 'fused=False' in b.fused_reason
    assert np.allclose(a.recorder.losses, b.recorder.losses, rtol=1e-4)
    assert np.allclose(a.recorder.values, b.recorder.values, rtol=1e-4)
    for p,q,other in zip(*(trainable_params(o.model) for o in (a,b,mse))):
        assert (p-q).norm()<1e-4*q.norm() and (other-q).norm()>1e-2*q.norm()

def test_compiled_once_for_each_formula_and_its_constants():
    assert train_with(HuberLoss(.5).fused_pair()) is train_with(HuberLoss(.5).fused_pair())
    assert train_with(HuberLoss(.5).fused_pair()) is not train_with(HuberLoss(2.).fused_pair())
    assert train_with(squared_error) is train

def test_a_new_formula_is_not_fused_by_mistake():
    class Doubled(HuberLoss):
        def forward(self, pred, targ): return 2*super().forward(pred, targ)
    assert 'no fused_pair' in huber_fit(Doubled(), 'auto').fused_reason
    with pytest.raises(ValueError, match='no fused_pair'): huber_fit(Doubled(), True)

# ---- A new store
class MemmapStore(RatingStore):
    "Ratings in two memory-mapped files: the system reads a page when somebody asks for it"
    def __init__(self, folder):
        self.files = [np.memmap(folder/o.__name__, o, 'c') for o in (np.int32,np.float32)]
    def __len__(self): return len(self.files[1])
    @property
    def device(self): return torch.device('cpu')
    def to(self, device): return self
    def arrays(self): return tuple(np.asarray(o).reshape(len(self), -1) for o in self.files)
    def ids(self, rows=None): return self._take(torch.from_numpy(self.arrays()[0]), rows)
    def ratings(self, rows=None): return self._take(torch.from_numpy(self.arrays()[1]), rows)
    def timestamps(self, rows=None): return None
    def empty(self): return RatingStore(*(torch.from_numpy(o[:0].copy()) for o in self.arrays()))

def mapped(dl, folder):
    "The loader `dl` with its ratings in the files of `folder`"
    folder.mkdir()
    for o in dl.dataset.store.arrays(): o.tofile(folder/o.dtype.name)
    return RatingsDL(RatingsDataset(dl.dataset.enc, MemmapStore(folder)), bs=64, shuffle=dl.shuffle, seed=42)

def store_fit(dls):
    set_seed(0)
    learn = collab_learner(dls, arch=DotProductBias, n_factors=8, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    assert why_not_fused(learn)==''
    return learn

def test_memmap_store(dls, tmp_path):
    "A fused fit on ratings in files gives the numbers of one on ratings in memory"
    assert n_lines(MemmapStore)<30
    files = CollabDataLoaders(*(mapped(dl, tmp_path/str(k)) for k,dl in enumerate(dls.loaders)))
    a,b = store_fit(dls),store_fit(files)
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))
    assert all(torch.equal(p, q) for p,q in zip(a.get_preds(), b.get_preds()))
    assert a.recorder.values==b.recorder.values
    assert a.recommend(1, k=3).equals(b.recommend(1, k=3))

def test_memmap_store_answers(dls, tmp_path):
    "Counts, levels and batches are those of the store in memory, and an export leaves the ratings behind"
    files = CollabDataLoaders(*(mapped(dl, tmp_path/str(k)) for k,dl in enumerate(dls.loaders)))
    a,b = dls.train_ds.store,files.train_ds.store
    assert len(a)==len(b) and a.mean()==b.mean() and torch.equal(a.counts(0, dls.n_users), b.counts(0, dls.n_users))
    assert all(torch.equal(p, q) for p,q in zip(a.levels(), b.levels()))
    assert all(torch.equal(p, q) for p,q in zip(dls.one_batch(), files.one_batch()))
    assert files.train_ds.items.equals(dls.train_ds.items.reset_index(drop=True)) and len(files.new_empty().train_ds)==0
