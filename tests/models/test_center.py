"The mean as a part of the model, and a linear one: against the formula"
import copy

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import load_learner, set_seed
from fastcollab.all import (BiasBaseline, CollabNN, DotProduct, DotProductBias, HybridNN, HybridMF,
    LinearCollab, collab_learner, synthetic_ratings)
from small import SMALL, Plain, load, quiet, randomly

# The mean as a part of the model

CENTERED = dict(DotProduct=DotProduct, DotProductBias=DotProductBias, CollabNN=CollabNN, LinearCollab=LinearCollab,
    HybridMF=HybridMF,
    HybridNN=HybridNN)

def zeroed(model):
    "All trained parameters are 0, and so are all scores"
    for p in model.parameters():
        if p.requires_grad: p.data.zero_()
    return model.eval()

@pytest.mark.parametrize('y_range', [False, (0,5.5), (.5,5)])
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
    if y_range:
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

@pytest.mark.parametrize('y_range', [False, (0,5.5)])
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
    text = with_.summary()
    assert f'Total params: {n+1:,}' in text and f'Total trainable params: {n:,}' in text
    assert 'non-trainable params: 1' in text
    assert without.model.mean is None and 'mean' not in without.model.state_dict()

def test_center_is_saved(tmp_path):
    "`save`, `load`, `export` and copies carry the mean; a file decides whether there is one"
    dls = load(path=tmp_path)
    learn = quiet(collab_learner(dls, n_factors=3, y_range=(0,5.5), center=True), 1, 1e-2)
    want = learn.predict(SMALL[:20])
    learn.save('m')
    learn.export('m.pkl')
    other = collab_learner(load(seed=2, path=tmp_path), n_factors=3, y_range=(0,5.5), center=True)
    assert other.model.mean != learn.model.mean
    other.load('m')
    assert other.model.mean == learn.model.mean
    assert np.array_equal(collab_learner(dls, n_factors=3, y_range=(0,5.5), center=True).load('m').predict(SMALL[:20]),
        want)
    assert np.array_equal(load_learner(tmp_path/'m.pkl').predict(SMALL[:20]), want)
    assert copy.deepcopy(learn.model).mean == learn.model.mean
    plain = collab_learner(dls, n_factors=3, y_range=(0,5.5), center=False)
    plain.save('plain')
    assert np.array_equal(other.load('plain').predict(SMALL[:20]), plain.predict(SMALL[:20]))
    assert np.array_equal(plain.load('m').predict(SMALL[:20]), want)

@pytest.mark.filterwarnings('ignore:.*outside y_range')
@pytest.mark.parametrize('y_range', [(4,5), (0,3.), (0,3.25)])
def test_a_mean_outside_of_the_range(y_range):
    df = SMALL.assign(rating=np.where(SMALL.index%2, 3.5, 3.))
    with pytest.raises(ValueError, match=r'the mean 3\.25 is not within y_range=\('):
        collab_learner(load(df, splits=(range(200), range(200, 300))), y_range=y_range, center=True)

def test_center_needs_a_model_of_ours():
    with pytest.raises(TypeError, match='center=True needs a CollabModel, not Plain'):
        collab_learner(load(), arch=Plain(), center=True)
    assert isinstance(collab_learner(load(), arch=Plain()).model, Plain)

def test_center_helps_an_unbounded_model():
    "After an epoch at a small rate, a centred model is near the mean, and the other near 0"
    errs = [quiet(collab_learner(load(), n_factors=3, y_range=False, center=c), 1, 1e-3).recorder.values[-1][1]**.5
        for c in (True,False)]
    assert errs[0] < 1.2 and errs[1] > 2.5

# One linear layer

@pytest.mark.parametrize('y_range', [False, (0,5.5)])
def test_linear_collab_is_additive(y_range):
    "A part of the user plus a part of the item: no user likes another item best"
    set_seed(0)
    model = quiet(collab_learner(load(), arch=LinearCollab, n_factors=8, y_range=y_range), 3, 2e-2).model
    s = model.predictions(torch.arange(31)).double()
    s = torch.logit(s/5.5)-model.link.shift if y_range else s-model.mean
    assert s.std()>.01 and torch.allclose(s, s[:,:1]+s[:1]-s[0,0], atol=1e-4)
    w,b = model.layers[0][0].weight[0],model.layers[0][0].bias
    x = torch.cartesian_prod(torch.arange(31), torch.arange(21))
    want = (model.u_weight(x[:,0])*w[:8]).sum(1) + (model.i_weight(x[:,1])*w[8:]).sum(1) + b
    assert torch.allclose(s.reshape(-1), want.double(), atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == 8*(31+21)+17+1   # and the mean
    assert LinearCollab(31, 21).u_weight.weight.shape == (31,32) and LinearCollab(31, 21).i_weight.weight.shape == (21,
        32)

def test_linear_collab_learns():
    "As far as an additive model goes: about as good as user and item means"
    dls = load(synthetic_ratings(100, 60, 3000), bs=128)
    set_seed(0)
    learn = quiet(collab_learner(dls, arch=LinearCollab, y_range=(0,5.5)), 5, 2e-2, how='fit_one_cycle')
    base = BiasBaseline.from_dls(dls)
    err = [((torch.cat([m(b[0]) for b in dls.valid])-dls.valid_ds.store.ratings()[:,0])**2).mean().item()**.5
        for m in (learn.model.eval(),base)]
    assert err[0] < 1.05*err[1]
