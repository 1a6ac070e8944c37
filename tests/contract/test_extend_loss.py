"A new loss takes one class with its formula twice: for PyTorch, and as one function for the compiled loop"
from functools import partial

import numpy as np, pytest
from fastai.tabular.all import set_seed
from fastcollab.all import CollabDataLoaders, HybridMF, LazyAdam, RatingMSE, collab_learner, synthetic_ratings
from fastcollab.losses import RatingLoss, flat_pair
from torch.nn import functional as F

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

def fitted(loss, fused, **kwargs):
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
    a,b,mse = (fitted(loss, f, arch=arch) for loss,f in ((HuberLoss(delta),True), (HuberLoss(delta),False),
        (RatingMSE(),True)))
    assert a.fused_reason=='' and 'fused=False' in b.fused_reason
    assert np.allclose(a.recorder.losses, b.recorder.losses, rtol=1e-4) and np.allclose(a.recorder.values,
        b.recorder.values, rtol=1e-4)
    for p,q,other in zip(*(o.model.parameters() for o in (a,b,mse))):
        assert (p-q).norm()<1e-4*q.norm() and (other-q).norm()>1e-2*q.norm()

def test_compiled_once_for_each_formula_and_its_constants():
    from fastcollab.kernels.mf import squared_error, train, train_with
    assert train_with(HuberLoss(.5).fused_pair()) is train_with(HuberLoss(.5).fused_pair())
    assert train_with(HuberLoss(.5).fused_pair()) is not train_with(HuberLoss(2.).fused_pair()) and train_with(
        squared_error) is train

def test_a_new_formula_is_not_fused_by_mistake():
    class Doubled(HuberLoss):
        def forward(self, pred, targ): return 2*super().forward(pred, targ)
    assert 'no fused_pair' in fitted(Doubled(), 'auto').fused_reason
    with pytest.raises(ValueError, match='no fused_pair'): fitted(Doubled(), True)
