"The compiled loop of SVD++: the numbers of the torch loop, for any number of threads"
from functools import partial

import numpy as np, pytest, torch
from fastcollab.all import Adam, CollabDataLoaders, LazyAdam, OrdinalLoss, SVDPlusPlus, collab_learner
from fastcollab.all import set_seed, synthetic_ratings
from fastcollab.kernels import svdpp_steps
from fastcollab.train import set_loop
from fastcollab.train.loops import CollabCallback, TorchLoop
from fastcollab.train.set_loop import SetLoop, any_loop

SMALL,SPARSE = synthetic_ratings(60, 40, 900, seed=5),synthetic_ratings(500, 400, 1500, seed=1)
FEATURES = dict(item_cols=['genres'], user_cols=['group','job'])

def loaders(features=True, time=False, bs=64, df=SMALL):
    df = df.assign(group=df.userId%3, job=np.where(df.userId%4, 'a|b', 'c'), timestamp=10**9+df.timestamp%5*86400)
    return CollabDataLoaders.from_df(df, seed=1, bs=bs, time_name='timestamp' if time else None,
        **(FEATURES if features else {}))

def fitted(dls, fused='auto', epochs=2, lr=5e-3, k=5, eps=1e-12, **kwargs):
    set_seed(0)
    learn = collab_learner(dls, arch=SVDPlusPlus, n_factors=k, y_range=(0,5.5), unk_p=.1, fused=fused,
        opt_func=partial(LazyAdam, eps=eps), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, wd=[.3,.4])
    return learn

def numbers(learn):
    "Parameters and moments"
    params = [p for p in learn.model.parameters() if p.requires_grad and p.numel()]
    return [p.detach() for p in params]+[learn.opt.state[p][k] for p in params for k in ('grad_avg','sqr_avg')]

@pytest.mark.parametrize('time', (False,True))
@pytest.mark.parametrize('features', (False,True))
@pytest.mark.parametrize('bs,k,df', [(64,5,SMALL), (300,70,SMALL), (4,20,SPARSE)])
def test_it_equals_the_torch_loop(features, time, bs, k, df):
    "Many sets and few, one block of columns and several, unknown ids, features, times"
    a,b = (fitted(loaders(features, time, bs, df), o, k=k) for o in ('auto',False))
    assert a.fused_reason=='' and 'fused, in a compiled loop' in a.summary()
    for p,q in zip(numbers(a), numbers(b)): assert torch.allclose(p, q, atol=1e-3)
    assert np.allclose(a.recorder.losses, b.recorder.losses, atol=1e-4)
    assert np.allclose(a.recorder.values, b.recorder.values, atol=1e-4)
    assert {a.opt.state[p]['step'] for p in a.model.ids}=={2*len(a.dls.train)}

def test_small_tables_are_adam():
    "At the default eps too, where batches meet half of all rows"
    a,b = (fitted(loaders(), eps=1e-5, **o) for o in ({},dict(fused=False)))
    for p,q in zip(numbers(a), numbers(b)): assert torch.allclose(p, q, atol=1e-4)

@pytest.mark.parametrize('bs,df', [(64,SMALL),(8,SPARSE)])
def test_threads_and_blocks_change_nothing(bs, df, monkeypatch):
    "One thread or three: the same bits; blocks of sets: the same numbers"
    a = fitted(loaders(True, True, bs, df))
    monkeypatch.setattr(set_loop, 'set_threads', lambda n: 3)
    b = fitted(loaders(True, True, bs, df))
    for p,q in zip(numbers(a), numbers(b)): assert torch.equal(p, q)
    assert a.recorder.losses==b.recorder.losses
    new_sets = svdpp_steps.new_sets
    monkeypatch.setattr(svdpp_steps, 'new_sets', lambda *args: new_sets(*args, cache=256))
    c = fitted(loaders(True, True, bs, df))
    for p,q in zip(numbers(a), numbers(c)): assert torch.allclose(p, q, atol=1e-4)

def test_which_loop():
    "Other losses, frozen tables and fused=False take the torch loop"
    def loop(dls=None, **kwargs):
        learn = collab_learner(dls or loaders(), arch=SVDPlusPlus, n_factors=4, **kwargs)
        learn.create_opt()
        return learn,any_loop(learn)
    assert type(loop()[1]) is SetLoop
    assert type(loop(fused=False)[1]) is TorchLoop
    learn,_ = loop()
    learn.model.d_weight.requires_grad_(False)
    assert 'd_weight is frozen' in learn.fused_reason
    dls = loaders()
    learn,other = loop(dls, loss_func=OrdinalLoss.from_dls(dls))
    assert type(other) is TorchLoop and 'fused_pair' in learn.fused_reason
    with pytest.raises(ValueError, match='fused=True, but'): loop(dls, loss_func=OrdinalLoss.from_dls(dls), fused=True)
    assert any_loop(collab_learner(loaders(False), opt_func=Adam)) is None

def test_a_loss_that_is_not_finite_stops_the_fit():
    "Before the weights change"
    dls = loaders(bs=100)
    dls.train_ds.store.ratings()[250] = float('inf')
    with pytest.raises(FloatingPointError, match='the loss is inf in epoch 0'): fitted(dls)

def test_features_that_change_between_epochs():
    "A callback that gives items other genres is seen by the next epoch"
    class Roll(CollabCallback):
        def after_epoch(self): self.learn.model.i_table = self.learn.model.i_table.roll(1, 0)
    a,b = (fitted(loaders(), o, cbs=Roll()) for o in ('auto',False))
    for p,q in zip(numbers(a), numbers(b)): assert torch.allclose(p, q, atol=1e-3)
