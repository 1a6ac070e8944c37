"What `collab_learner` does on its own: a range, a mean, the share of unknown ids, and less decay for biases"
from functools import partial

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Adam, SGD, L1LossFlat, MSELossFlat, nn, set_seed
from fastcollab.all import (CollabNN, DotProduct, DotProductBias, HybridMF, LazyAdam, OrdinalLoss,
    SVDPlusPlus, collab_learner, new_id_share, rating_range)
from fastcollab.losses import rating_loss
from fastcollab.train.learner import is_dense
from fastcollab.train.optimizer import scale_decays
from small import SMALL, Plain, load, quiet

def dense(): return load(pd.DataFrame(dict(user=np.arange(4000)%50, item=np.arange(4000)//50,
    rating=1.+np.random.default_rng(0).integers(5, size=4000))))

@pytest.mark.parametrize('arch', [None,DotProduct,DotProductBias,CollabNN,SVDPlusPlus,'auto'])
def test_the_data_offer_what_you_leave_out(arch):
    "Mean, range and share, for every model; False and 0 leave them out"
    dls = load()
    learn,store = collab_learner(dls, arch=arch, n_factors=3),dls.train_ds.store
    assert learn.model.mean.item()==np.float32(store.mean()) and learn.model.y_range==rating_range(store.ratings())
    assert learn.id_dropout.p==new_id_share(store.ids())
    if arch=='auto': return
    plain = collab_learner(dls, arch=arch, n_factors=3, y_range=False, center=False, unk_p=0)
    assert plain.model.mean is None and plain.model.y_range is None and not hasattr(plain, 'id_dropout')

def test_a_range_of_yours_on_dense_data():
    "No mean, unless you ask for it; without a range of yours there is one"
    assert is_dense(dense()) and not is_dense(load())
    assert collab_learner(dense(), y_range=(0,5.5)).model.mean is None
    for kwargs in (dict(y_range=(0,5.5), center=True), dict(), dict(y_range=False), dict(arch='auto', y_range=(0,6))):
        assert collab_learner(dense(), **kwargs).model.mean is not None

def test_models_of_your_own_stay_as_they_are():
    "An instance, a foreign module, a forward of your own, a range in `config`"
    class Own(DotProductBias):
        def forward(self, x): return super().forward(x)
    dls = load()
    model = DotProductBias.from_dls(dls, n_factors=3)
    before = {k:v.clone() for k,v in model.state_dict().items()}
    collab_learner(dls, arch=model)
    assert model.mean is None and model.y_range is None
    assert all(torch.equal(v, model.state_dict()[k]) for k,v in before.items())
    assert isinstance(collab_learner(dls, arch=Plain()).model, Plain)
    own = collab_learner(dls, arch=Own, n_factors=3).model
    assert own.mean is None and own.y_range is None
    assert collab_learner(dls, config=dict(y_range=(0,9))).model.y_range==(0,9)

def test_losses_that_read_scores():
    "No mean and no range where a loss, or what it does, isn't about ratings"
    dls = load()
    model = collab_learner(dls, n_factors=3, loss_func=OrdinalLoss.from_dls(dls)).model
    assert model.mean is None and model.y_range is None
    for loss,takes in ((MSELossFlat(),True), (L1LossFlat(),True), (nn.BCEWithLogitsLoss(),False), (max,False)):
        assert rating_loss(loss).takes_ratings==takes
    assert collab_learner(dls, loss_func=nn.BCEWithLogitsLoss()).model.mean is None

def test_items_start_at_the_average_item():
    "A model that knows nothing predicts the mean of the items' means, not of the ratings"
    df = SMALL.assign(rating=np.where(SMALL.movieId==SMALL.movieId.mode()[0], 5., 2.))
    dls = load(df)
    set_seed(0)   # item biases start with a little noise
    for y_range in (False,(0,5.5)):
        model = collab_learner(dls, n_factors=3, y_range=y_range, center=True).model.eval()
        for o in (model.u_weight,model.i_weight,model.u_bias): o.weight.data.zero_()
        train = dls.train_ds.items
        with torch.no_grad(): got = model(torch.tensor([[1,1]])).item()
        assert got==pytest.approx(train.groupby('movieId').rating.mean().mean(), abs=.1)
        assert abs(got-train.rating.mean())>.1

def test_no_mean_without_ratings_to_have_one():
    "All ratings alike, or a mean that isn't within the range"
    learn = collab_learner(load(SMALL.assign(rating=3.)))
    assert learn.model.mean.item()==3 and learn.model.y_range==(2.5,3.5)
    with pytest.warns(UserWarning, match='outside y_range'): learn = collab_learner(load(), y_range=(4.5,5))
    assert learn.model.mean is None

# The decay of biases

def dense_adam(start, grads, lr, wd, scale):
    "Steps of Adam in float64, with the decay of the last column scaled"
    p,m,v,decay = start.double(),0,0,wd*torch.tensor([1.]*(start.shape[1]-1)+[scale]).double()
    for s,g in enumerate(grads, 1):
        m,v = .9*m+.1*g.double(),.99*v+.01*g.double()**2
        p = p*(1-lr*decay)-lr/(1-.9**s)*m/((v/(1-.99**s)).sqrt()+1e-9)
    return p

@pytest.mark.parametrize('width', [1,4])
@pytest.mark.parametrize('opt_func', [LazyAdam,Adam])
def test_against_adam_with_two_decays(opt_func, width):
    "The last column of a table, or all of a table of biases; the factor outlives `clear_state` and files"
    start,grads = torch.randn(5, width),torch.randn(20, 5, width)
    p = nn.Parameter(start.clone())
    opt = opt_func([p], lr=.05, wd=.8, eps=1e-9)
    scale_decays(opt, [p], .1)
    for k,g in enumerate(grads):
        p.grad = g.clone()
        opt.step()
        if k==9: opt.load_state_dict(opt.state_dict())
    assert torch.allclose(p.detach().double(), dense_adam(start, grads, .05, .8, .1), atol=1e-5)
    opt.clear_state()
    assert opt.state[p]['wd_scale']==.1

@pytest.mark.parametrize('bias_wd', [0,.02,1.,3.])
@pytest.mark.parametrize('arch', [DotProductBias,HybridMF])
def test_all_loops_decay_biases_alike(arch, bias_wd):
    "Compiled, lazy, and fastai's Adam; `fit_one_cycle(..., wd=)`, a list of rates and freezing mean what they meant"
    res = []
    for opt_func,fused in ((LazyAdam,True),(LazyAdam,False),(Adam,False)):
        set_seed(0)
        learn = collab_learner(load(genre_name='genres'), n_factors=4, arch=arch, fused=fused, bias_wd=bias_wd,
            opt_func=partial(opt_func, eps=1e-8))
        for p in learn.model.parameters():
            if p.requires_grad and p.numel(): p.data += .1   # else the first gradients would be rounding
        quiet(learn, 3, 2e-2, wd=1., how='fit_one_cycle')
        assert len(learn.opt.param_lists)==1 and learn.opt.hypers[0]['wd']==1
        res.append({k:v.clone() for k,v in learn.model.named_parameters() if v.numel()})
    for other in res[1:]:
        for k,v in res[0].items(): assert torch.allclose(v, other[k], atol=5e-4), k

def test_plain_sgd_decays_biases_less():
    "Every optimizer of fastai, decoupled or not"
    for decouple in (True,False):
        p = nn.Parameter(torch.ones(2, 3))
        opt = SGD([p], lr=.1, wd=1., decouple_wd=decouple)
        scale_decays(opt, [p], .5)
        p.grad = torch.zeros(2, 3)
        opt.step()
        assert torch.allclose(p.data, torch.tensor([.9,.9,.95]).expand(2, 3))

def test_the_summary_says_so():
    assert '0.02 of it for biases' in collab_learner(load()).summary()
    assert 'for biases' not in collab_learner(load(), arch=DotProduct, n_factors=3).summary()
