"One contract for every model: what it maps, what it answers, and that asking changes nothing"
import copy, math, pickle
from functools import partial

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Module, set_seed, sigmoid_range, tensor
from fastcollab.all import (BiasBaseline, CollabDataLoaders, CollabNN, DotProduct, DotProductBias, Embedding, HybridNN, HybridMF, LinearCollab,
    ParamEmbedding, baseline_rmse, collab_learner, create_params, emb_size, rmse)

class Own(Module):
    "A user's model without any base class, `(bs,)` out"
    def __init__(self, n_users, n_items, n_factors=8, y_range=None):
        self.u,self.i,self.b,self.y_range = create_params(n_users, n_factors),create_params(n_items, n_factors),create_params(n_items),y_range
    def forward(self, x):
        res = (self.u[x[:,0]]*self.i[x[:,1]]).sum(1) + self.b[x[:,1]]
        return res if self.y_range is None else sigmoid_range(res, *self.y_range)
    @classmethod
    def from_dls(cls, dls, **kwargs): return cls(dls.n_users, dls.n_items, **kwargs)

MAKERS = dict(DotProduct=DotProduct, DotProductBias=DotProductBias, CollabNN=CollabNN,
    DotProduct_param=partial(DotProduct, emb=ParamEmbedding), DotProductBias_param=partial(DotProductBias, emb=ParamEmbedding), LinearCollab=LinearCollab,
    HybridMF_add=HybridMF, HybridMF_mul=partial(HybridMF, how='scale', emb=ParamEmbedding),
    HybridNN=HybridNN, Own=Own)
OURS = [k for k in MAKERS if k!='Own']
FEATURED = [k for k in MAKERS if k.startswith('Hybrid')]

def parts(name):
    "Class and further arguments"
    maker = MAKERS[name]
    return (maker.func,maker.keywords) if isinstance(maker, partial) else (maker,{})

def loaders(df, featured, seed=42):
    "Loaders of the movies by title; with `featured`, their genres, and decades of users"
    cols = dict(genre_name='genres', user_cols='decade') if featured else {}
    return CollabDataLoaders.from_df(df.assign(decade=df.userId//10*10), item_name='title', seed=seed, bs=64, **cols)

def columns(dls, x):
    "`x` (n,2) of known ids with the columns of their features behind"
    tables = dls.train_ds.tables
    return torch.cat([x, *(tables[k][x[:,k]] for k in (1,0) if tables[k] is not None)], 1)

def make(name, dls, **kwargs):
    "A model of `name` for `dls`"
    cls,extra = parts(name)
    set_seed(0)
    return cls.from_dls(dls, **{**extra, **kwargs})

@pytest.fixture
def dls(request, ratings):
    "Loaders with features of items and users for the models that need them, and without for the others"
    params = request.node.callspec.params if hasattr(request.node, 'callspec') else {}
    return loaders(ratings, featured=params.get('name', params.get('ours')) in FEATURED)

@pytest.fixture
def x(dls): return dls.one_batch()[0]

@pytest.fixture(params=MAKERS)
def name(request): return request.param

@pytest.fixture(params=OURS)
def ours(request): return request.param

def checkerboard(featured):
    "Users like items of their own parity (5) and dislike the others (1); a tenth is held out; features say nothing of it"
    pairs = pd.DataFrame([(f'u{u}',f'i{i}',5. if u%2==i%2 else 1.) for u in range(40) for i in range(30)], columns=['user','item','rating'])
    pairs = pairs.assign(kind=[f'{int(o[1:])//10}' for o in pairs['item']], team=[f'all|{int(o[1:])//10}' for o in pairs.user])
    return CollabDataLoaders.from_df(pairs, valid_pct=.1, seed=1, **(dict(item_cols='kind', user_cols='team', bs=64) if featured else dict(bs=32)))

@pytest.mark.parametrize('name', [k for k in MAKERS if k!='LinearCollab'])   # an additive model cannot
@pytest.mark.parametrize('y_range', [(0.,6.), None])
def test_learns_a_checkerboard(name, y_range):
    "The right answer is known, and is found on pairs that were held out"
    if name.endswith('NN') and y_range is None: y_range = (-1.,7.)   # an exclusive or from tiny embeddings: an unbounded net stays at the mean
    dls = checkerboard(name in FEATURED)
    learn = collab_learner(dls, arch=make(name, dls, n_factors=16, y_range=y_range), unk_p=0)
    set_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(25, 1e-2)
    held = dls.valid_ds.items
    assert rmse(*learn.get_preds()).item() < .5
    assert ((learn.predict(held)>3) == (held.rating>3)).all()

def test_batch_equals_single(name, dls, x):
    model = make(name, dls).eval()
    whole = model(x).reshape(-1)
    assert torch.allclose(whole, torch.cat([model(x[k:k+1]).reshape(-1) for k in range(len(x))]), atol=1e-6)

def test_order_of_rows_is_irrelevant(name, dls, x):
    model,perm = make(name, dls).eval(),torch.randperm(len(x))
    assert torch.allclose(model(x)[perm], model(x[perm]), atol=1e-6)

def test_shapes(ours, dls, x):
    model = make(ours, dls, y_range=(0,5.5))
    for n in (0,1,2,64): assert model(x[:n]).shape == (n,)
    assert ((model(x)>0) & (model(x)<5.5)).all()

@pytest.mark.parametrize('ours', [k for k in OURS if k not in FEATURED])
def test_genre_columns_are_ignored(ours, dls, x):
    model = make(ours, dls).eval()
    assert torch.equal(model(x), model(torch.cat([x, torch.ones(len(x), 3, dtype=torch.int64)], 1)))

def test_unknown_row(name, dls):
    "Row 0 is a row like any other: it predicts, and it gets a gradient"
    model = make(name, dls)
    model(columns(dls, tensor([[0,0]]))).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum()>0 for p in model.parameters())

def test_reads_do_not_write(ours, dls, x):
    model = make(ours, dls).train()
    before,state = copy.deepcopy(model.state_dict()),torch.get_rng_state()
    items = dls.classes['title'][1:4]
    scores = model.predictions(tensor([1,2]))
    vec = model.weight(items)
    vec += 1
    model.vectors(0).zero_()
    if model.biases(1) is not None:
        model.biases(1).zero_()
        model.bias(items).zero_()
    assert scores.shape == (2, dls.n_items) and not scores.requires_grad
    assert model.training and all(m.training for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k,v in model.state_dict().items())

def test_mixed_modes_are_kept(dls):
    model = make('CollabNN', dls).train()
    model.emb_drop.eval()
    model.predictions(tensor([1]))
    assert model.training and not model.emb_drop.training and model.layers.training

def test_scores_are_predictions(ours, dls):
    model = make(ours, dls, y_range=(0,5.5)).eval()
    u,i = tensor([3,0,7]),tensor([0,5,2,9])
    want = model(columns(dls, torch.cartesian_prod(u, i))).view(3, 4)
    assert torch.allclose(model.predictions(u, i), want, atol=1e-6)
    assert torch.allclose(model.predictions(u)[:,i], want, atol=1e-6)
    assert model.predictions(u, tensor([], dtype=torch.int64)).shape == (3,0)

@pytest.mark.parametrize('ours', ['CollabNN','LinearCollab','HybridNN'])
def test_scores_in_pieces(ours, dls):
    model = make(ours, dls).eval()
    assert torch.allclose(model.predictions(tensor([3,4,5]), bs=7), model.predictions(tensor([3,4,5])), atol=1e-6)

def test_save_load_round_trip(name, dls, x, tmp_path):
    learn = collab_learner(dls, arch=make(name, dls), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.save('m')
    other = collab_learner(dls, arch=make(name, dls), path=tmp_path).load('m')
    assert torch.equal(learn.model.eval()(x), other.model.eval()(x))
    again = pickle.loads(pickle.dumps(learn.model))
    assert torch.equal(learn.model(x), again.eval()(x))

def test_same_seed_same_model(ours, dls, x):
    runs = []
    for _ in range(2):
        again = loaders(dls.train_ds.items, ours in FEATURED, seed=3)
        set_seed(5)
        cls,extra = parts(ours)
        learn = collab_learner(again, arch=cls, config=extra)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
        runs.append(learn.model.state_dict())
    assert all(torch.equal(a, b) for a,b in zip(*(o.values() for o in runs)))

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
    assert math.isclose(baseline_rmse(dls, damping)['user + item bias'], np.sqrt(np.mean((np.array(want)-dls.valid_ds.y.numpy()[:,0])**2)), rel_tol=1e-5)

@pytest.mark.cuda
def test_cuda_equals_cpu(ours, dls, x):
    model = make(ours, dls).eval()
    want,scores = model(x),model.predictions(tensor([1,2]))
    model.cuda()
    assert torch.allclose(model(x.cuda()).cpu(), want, atol=1e-5) and torch.allclose(model.predictions(tensor([1,2])).cpu(), scores, atol=1e-5)
    assert model.weight(dls.classes['title'][1:3]).device.type == 'cpu' and next(model.parameters()).is_cuda
