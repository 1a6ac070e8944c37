"One contract for every model and wrapper: what it maps, what it answers, and that asking changes nothing"
import copy, pickle

import fastcollab.all, pytest, torch
from fastai.tabular.all import set_seed, tensor
from fastcollab.all import CollabModel, FusePlan, collab_learner, collab_model
from fastcollab.models.base import ForeignModel, all_scores, pair_scores
from fastcollab.recommend.base import Factors, FoldTerms, Link
from fastcollab.recommend.scorers import load_scorer
from zoo import ZOO, build, finds_held_out, loaders, names, randomize, trained, with_samples

every = pytest.mark.parametrize('name', ZOO)
OURS = [k for k,o in ZOO.items() if not o.foreign]
ours = pytest.mark.parametrize('name', OURS)
CLOSED = names(closed=True)
SOLVED = [k for k in CLOSED if k!='RankEnsemble'] # not made of solved models
TRAINED = [k for k in ZOO if k!='BiasBaseline' and k not in CLOSED]
WRAPPERS = ['PosteriorAverage','LeadEnsemble','WeightedEnsemble','WeightedEnsemble_foreign']

def made(name, **kwargs):
    "A model with large random weights in evaluation mode, its contract, and a batch"
    set_seed(0)
    dls = loaders(name)
    model = build(name, dls, **{'y_range':(0,5.5), **kwargs})
    model = model if name=='BiasBaseline' else with_samples(randomize(model))
    return model.eval(),collab_model(model, dls.train_ds),dls.one_batch()[0]

def ids(n_users=3, n_items=4): return tensor([3,0,7])[:n_users],tensor([0,5,2,9])[:n_items]
def flat(o): return o.detach().reshape(-1)

def test_all_models_are_here():
    "Every model of the library, and every wrapper, passes the suite"
    library = {o for o in vars(fastcollab.all).values() if isinstance(o, type) and issubclass(o, CollabModel)
        and o is not CollabModel}
    here = {type(build(k, loaders(k))) for k in OURS}
    assert len(library)>8 and library<=here

# What it maps

# an exclusive or from tiny embeddings: an unbounded net stays at the mean
NETS = ['CollabNN','CollabNN_leaky','HybridNN','HybridNN_deep','WeightedEnsemble']

@pytest.mark.slow
@pytest.mark.parametrize('name', [k for k in names(additive=False) if k not in (*NETS,'CollabNN_bn','CollabNN_bn_first',
    'CollabNN_tanh','Twice','TwiceNN')])
def test_learns_a_checkerboard_without_a_range(name):
    "The right answer is known, and is found on pairs that were held out; test_recommending asks it of bounded models"
    finds_held_out(trained(name, None, bs=32)[0])

@every
def test_shapes_and_range(name):
    "One number per row, also for no row and for one; within `y_range`"
    model,contract,x = made(name)
    for n in (0,1,2,64):
        assert contract(x[:n]).shape==(n,) and model(x[:n]).numel()==n
        if name in OURS: assert model(x[:n]).shape==(n,)
    if name in ('BiasBaseline','Twice','TwiceNN',*CLOSED): return
    clips = name=='PosteriorAverage'   # a clip reaches the ends
    assert ((model(x)>0-clips) & (model(x)<5.5+clips)).all()

@every
def test_batch_equals_single(name):
    model,_,x = made(name)
    assert torch.allclose(flat(model(x)), torch.cat([flat(model(x[k:k+1])) for k in range(len(x))]), atol=1e-5)

@every
def test_order_of_rows_is_irrelevant(name):
    (model,_,x),perm = made(name),torch.randperm(64)
    assert torch.allclose(flat(model(x))[perm], flat(model(x[perm])), atol=1e-5)

@pytest.mark.parametrize('name', [k for k in OURS if not ZOO[k].features and k!='PosteriorAverage'
    and not k.startswith('SVD')])
def test_columns_of_features_are_ignored(name):
    "A model without features reads only the ids"
    model,_,x = made(name)
    assert torch.equal(model(x), model(torch.cat([x, torch.ones(len(x), 3, dtype=torch.int64)], 1)))

@pytest.mark.parametrize('name', TRAINED)
def test_unknown_row(name):
    "Row 0 is a row like any other: it predicts, and it gets a gradient"
    model,contract,_ = made(name)
    # batch norm wants two rows
    contract.train()(contract.with_features(tensor([[0,0]]).repeat(2, 1))).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum()>0
        for p in model.parameters()) or 'bn' in name or name=='HybridNN_deep'

# What it answers

@every
def test_factors(name):
    "A score is a dot product of two vectors plus both biases, and `link` turns it into a rating"
    model,contract,_ = made(name)
    users,items = contract.factors(0),contract.factors(1)
    averages = 'PosteriorAverage','LeadEnsemble'   # their lists come from mean vectors
    products = ZOO[name].kind=='dot' and name not in averages
    assert (users is None)==(items is None) and (users is not None and contract.has_products)==products
    if users is None or not contract.has_products: return
    u,i = ids()
    x = contract.with_features(torch.cartesian_prod(u, i))
    want = model(x).detach()
    some = [contract.factors(k, rows) for k,rows in enumerate((u,i))]
    assert isinstance(users, Factors) and len(users.vec)==contract.n_users and len(items.vec)==contract.n_items
    assert torch.allclose(contract.link(all_scores(*some)).flatten(), want, atol=1e-5)
    assert torch.allclose(contract.link(pair_scores(users.take(x[:,0]), items.take(x[:,1]))), want, atol=1e-5)
    if name in TRAINED:
        all_scores(*some).sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum()>0 for p in model.parameters())

@pytest.mark.parametrize('name', names(kind='dot', features=True))
def test_factors_of_unknown_ids(name):
    "The categories that come with unknown ids count in place of those that known ids have"
    model,contract,_ = made(name)
    cats = contract.tables[1][[4,5]].long()
    rows = tensor([0,0])
    x = torch.cat([tensor([[0,0],[0,0]]), cats, contract.tables[0][rows].long()], 1)
    score = pair_scores(contract.factors(0, rows), contract.factors(1, rows, cats))
    assert torch.allclose(contract.link(score), model(x),
        atol=1e-5) and (cats[0]==cats[1]).all()==torch.allclose(score[0], score[1])

@every
def test_vectors_and_biases(name):
    "Copies; None where a model has none, and a message that says so"
    model,contract,_ = made(name)
    for side,n in enumerate((contract.n_users,contract.n_items)):
        v,b = contract.vectors(side),contract.biases(side)
        if name=='Popular' and side==0: continue
        assert (v is not None)==ZOO[name].vectors and (b is not None)==(name not in ('DotProduct','LightGCN')
            and (ZOO[name].kind=='dot' or name=='Twice'))
        for o in (v,b):
            if o is None: continue
            assert len(o)==n and not o.requires_grad
            o.zero_()
        if v is not None: assert contract.vectors(side).abs().sum()>0
        if b is not None: assert contract.biases(side).abs().sum()>0
    if name in OURS:
        raw = model.classes[model.item][1:4]
        for call,have in ((model.weight,v),(model.bias,b)):
            if have is not None: assert call(raw).shape[0]==3 and call(raw[:1]).shape[0]==1
            else:
                with pytest.raises(TypeError, match=f'{type(model).__name__} has no'): call(raw)

@every
def test_feature_factors(name):
    "Vectors and biases of categories by the name of the column; any other name is a KeyError"
    model,contract,_ = made(name)
    with pytest.raises(KeyError, match='nonsense'): contract.feature_factors('nonsense')
    if ZOO[name].kind!='dot' or not ZOO[name].features: return
    got = contract.feature_factors('genres')
    assert got.vec.shape==(len(contract.classes['genres']),9) and got.bias.shape==(len(got.vec),)
    got.vec.zero_()
    assert contract.feature_factors('genres').vec.abs().sum()>0

@every
def test_scorer(name):
    "The scorer gives what the model gives, for rectangles and for pairs; saved and read again, and as a module"
    model,contract,_ = made(name)
    scorer,(u,i) = contract.scorer(),ids()
    assert scorer.kind==ZOO[name].kind and isinstance(scorer.link, Link)
    want = flat(model(contract.with_features(torch.cartesian_prod(u, i)))).view(3, 4)
    info,tensors = scorer.state()
    twin = made(name)[0] if scorer.kind=='model' else None
    for o in (scorer, load_scorer(info, tensors, twin)):
        assert torch.allclose(o.link(o.block(u, i)), want, atol=1e-4) and o.block(u).shape==(3,contract.n_items-1)
        assert torch.allclose(o.link(o.pairs(u[:,None], i)).float(), want, atol=1e-4)
        for side in (0,1):
            assert (o.factors(side) is None)==(o.kind!='dot') and (o.vectors(side) is None)==(not ZOO[name].vectors)
            if o.vectors(side) is not None: assert torch.allclose(o.vectors(side), contract.vectors(side), atol=1e-5)
    if scorer.kind=='ensemble' or scorer.kind=='model' and ZOO[name].features:
        with pytest.raises(TypeError, match='features|ensemble'): scorer.module()
    else: assert torch.allclose(scorer.module().eval()(torch.cartesian_prod(u, i)).view(3, 4).float(), want, atol=1e-4)

@every
def test_fuse_plan(name):
    "The trained tables, or one sentence why not; a plan of all parameters that are trained"
    model,contract,_ = made(name)
    plan = contract.fuse_plan(loaders(name).train_ds)
    assert isinstance(plan, FusePlan if ZOO[name].fused else str)
    if isinstance(plan, str): return
    found = [o for side in (plan.users,plan.items) for o in (side.vec, side.bias, *sum(side.tables, ()))
        if o is not None]
    assert {id(o) for o in found}=={id(p) for p in model.parameters() if p.requires_grad}
    for side,(p,n) in enumerate(((plan.users,contract.n_users),(plan.items,contract.n_items))):
        f,stack = contract.factors(side),[sum(o, start=torch.zeros(0)) if not o else torch.cat(o)
            for o in zip(*p.tables)]
        assert p.rows.shape==p.weights.shape and len(p.rows)==n and p.rows.dtype==torch.int32
        # weights of padding are 0
        add = (stack[0][p.rows.clamp(min=0).long()]*p.weights[...,None]).sum(1) if p.tables else 0
        assert torch.allclose(p.vec+add, f.vec, atol=1e-5)

@every
def test_a_changed_forward_is_not_fused(name):
    "A hook or a `forward` on the instance is neither fused nor collapsed"
    model,contract,_ = made(name)
    if not ZOO[name].fused: return
    old = model.forward
    model.forward = lambda x: old(x)*2
    assert isinstance(contract.fuse_plan(loaders(name).train_ds), str) and contract.scorer().kind=='model'
    del model.forward
    handle = model.register_forward_hook(lambda m, args, out: out+1)
    assert isinstance(contract.fuse_plan(loaders(name).train_ds), str) and contract.scorer().kind=='model'
    handle.remove()
    assert isinstance(contract.fuse_plan(loaders(name).train_ds), FusePlan) and contract.scorer().kind=='dot'

@every
def test_fold_terms(name):
    "Who has factors can fold in ids; features and sets say what adds to them"
    _,contract,_ = made(name)
    for side in (0,1):
        terms = contract.fold_terms(side)
        assert (terms is None)==(ZOO[name].kind not in ('dot','ensemble') or name=='Popular' and side==1)
        if terms is None: continue
        assert isinstance(terms, FoldTerms) and (terms.implicit is not None)==name.startswith(('SVD','LightGCN'))
        assert [o.name for o in terms.features]==[o.name for o in contract.features if o.side==side]
        for o in terms.features:
            assert len(o.rows)==(contract.n_users,contract.n_items)[side] and not o.factors.vec.requires_grad

@every
def test_predictions(name):
    "All items for some users, or some of them, are what the batches give; in one piece or in many"
    model,contract,_ = made(name)
    u,i = ids()
    want = flat(model(contract.with_features(torch.cartesian_prod(u, i)))).view(3, 4)
    got = contract.predictions(u)
    assert got.shape==(3,contract.n_items) and not got.requires_grad and torch.allclose(got[:,i], want, atol=1e-5)
    assert torch.allclose(contract.predictions(u, i), want, atol=1e-5)
    assert torch.allclose(contract.predictions(u, bs=7), got, atol=1e-5)
    assert contract.predictions(u, tensor([], dtype=torch.int64)).shape==(3,0)

@every
def test_wrappers_and_defaults(name):
    "`collab_model` keeps our models and wraps others without copying parameters; wrappers name what they train"
    model,contract,_ = made(name)
    assert (contract is model)==(name in OURS) and isinstance(contract, CollabModel)
    assert [id(p) for p in contract.parameters()]==[id(p) for p in model.parameters()]
    assert (contract.inner is contract)==(name!='PosteriorAverage')
    assert (contract.session_effects is not None)==name.startswith(('SVD','Posterior'))
    assert contract.name==type(model).__name__ and (contract.splitter is CollabModel.splitter)!=name.startswith("SVD")
    contract.clear_session_effects()

# Asking changes nothing

@every
def test_reads_do_not_write(name):
    model,contract,x = made(name)
    model.train()
    before,state = copy.deepcopy(model.state_dict()),torch.get_rng_state()
    contract.predictions(tensor([1,2])).zero_()
    for side in (0,1):
        contract.factors(side), contract.fold_terms(side)
        for o in (contract.vectors(side),contract.biases(side)):
            if o is not None: o.zero_()
    if contract.fold_terms(0) and contract.fold_terms(0).implicit: contract.fold_terms(0).implicit.vec.zero_()
    scorer = contract.scorer()
    if scorer.kind!='model': scorer.state()[1].popitem()[1].zero_()
    contract.fuse_plan(loaders(name).train_ds)
    assert model.training and all(m.training for m in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k,v in model.state_dict().items())

def test_mixed_modes_are_kept():
    "Parts of a model keep the modes that they had"
    model = made('CollabNN')[0].train()
    model.emb_drop.eval()
    model.predictions(tensor([1]))
    assert model.training and not model.emb_drop.training and model.layers.training

# Saved, loaded, trained again

@pytest.mark.parametrize('name', TRAINED+SOLVED)
def test_save_load_round_trip(name, tmp_path):
    dls = loaders(name)
    x = dls.one_batch()[0]
    learn = collab_learner(dls, arch=build(name, dls), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with_samples(learn.model)
    learn.save('m')
    other = collab_learner(dls, arch=build(name, dls), path=tmp_path).load('m')
    assert torch.equal(learn.model.eval()(x), other.model.eval()(x))
    again = pickle.loads(pickle.dumps(learn.model)) if not name.startswith('Weighted') else copy.deepcopy(learn.model)
    assert torch.equal(learn.model(x), again.eval()(x))

@pytest.mark.parametrize('name', [k for k in TRAINED+SOLVED if k in OURS])
def test_same_seed_same_model(name):
    runs = []
    for _ in range(2):
        dls = loaders(name, seed=3)
        set_seed(5)
        learn = collab_learner(dls, arch=build(name, dls))
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
        runs.append(learn.model.state_dict())
    assert all(torch.equal(a, b) for a,b in zip(*(o.values() for o in runs)))

# Models of your own

def test_a_subclass_loses_what_no_longer_holds():
    "With a new `forward` or new factors, plan and scorer are the defaults, unless they are defined anew too"
    DotProductBias = fastcollab.all.DotProductBias
    class Same(DotProductBias): pass
    class Other(DotProductBias):
        def forward(self, x): return 2*super().forward(x)
    class Vectors(DotProductBias):
        def factors(self, side, rows=None, categories=None): return super().factors(side, rows)
    class Both(Other):
        def fuse_plan(self, ds): return 'mine'
    dls = loaders('DotProductBias')
    def ask(cls):
        m = cls.from_dls(dls, n_factors=3)
        return type(m.fuse_plan(dls.train_ds)) is str,m.scorer().kind,m.fold_terms(0) is None
    assert ask(Same)==(False,'dot',False) and ask(Other)==(True,'model',True) and ask(Vectors)==(True,'dot',False)
    assert Both.from_dls(dls).fuse_plan(dls.train_ds)=='mine' and Other.from_dls(dls).fuse_plan(
        dls.train_ds)=='Other has no plan for the compiled loop'

def test_foreign_models_with_a_part_called_model():
    "A part that happens to be called `model` is no wrapper"
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Embedding(50, 1)
        def forward(self, x): return self.model(x[:,1])
    m = Mine()
    assert type(collab_model(m)) is ForeignModel and collab_model(m).inner.model is m and collab_model(
        m).session_effects is None

@pytest.mark.cuda
@every
def test_cuda_equals_cpu(name):
    model,contract,x = made(name)
    want,table = flat(model(x)),contract.predictions(tensor([1,2]))
    contract.cuda()
    assert torch.allclose(flat(model(x.cuda())).cpu(), want, atol=1e-4) and next(model.parameters()).is_cuda
    if name in OURS:
        assert torch.allclose(contract.predictions(tensor([1,2])).cpu(), table, atol=1e-4)
        if ZOO[name].vectors: assert model.weight(model.classes[model.item][1:3]).device.type=='cpu'
