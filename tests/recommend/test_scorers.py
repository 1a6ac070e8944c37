"Scores and the best of them: against numpy in float64, for any shape, ties and seen sets"
import copy, math

import numpy as np, pytest, torch
from fastai.layers import LinBnDrop
from fastcollab import ranking
from fastcollab.ranking import auc_scores
from fastcollab.recommend import scorers
from fastcollab.recommend.base import Factors
from fastcollab.recommend.scorers import ACTS, DotScorer, ModelScorer, NetScorer, net_scorer, ranked_lists
from fastcollab.recommend.scorers import top_items, topk
from hypothesis import given, settings, strategies as st
from scipy.sparse import csr_matrix
from torch import nn

few = settings(max_examples=50, deadline=None)
def gen(seed): return torch.Generator().manual_seed(seed)
def rand(*shape, seed=0): return torch.randn(shape, generator=gen(seed))
seeds = st.integers(0, 2**31)

# The largest of a row

def numbers(n, m, seed, kind):
    "A matrix (n,m) of one kind of difficulty"
    s = rand(n, m, seed=seed)
    if kind=='ties': s = s.round()
    elif kind=='same': s = torch.full_like(s, 1.5)
    elif kind=='inf': s[torch.rand(n, m, generator=gen(seed+1))<.7] = -torch.inf
    elif kind=='none': s = torch.full_like(s, -torch.inf)
    elif kind=='rising': s = torch.arange(m).float().expand(n, m).contiguous()
    elif kind=='falling': s = -torch.arange(m).float().expand(n, m).contiguous()
    elif kind=='huge': s = s*1e38
    return s

@few
@given(st.integers(1, 6), st.integers(1, 700), seeds, st.sampled_from(['plain','ties','same','inf','none','rising',
    'falling','huge']), st.data())
def test_topk(n, m, seed, kind, data):
    "The same values as `torch.topk`, and columns that hold them, none of them twice"
    s,k = numbers(n, m, seed, kind),data.draw(st.integers(1, m)|st.integers(1, min(m, 12)))
    before = s.clone()
    values,cols = topk(s, k)
    assert values.shape==cols.shape==(n,k) and torch.equal(values, s.topk(k).values)
    assert torch.equal(s.gather(1, cols), values) and (cols.sort(1).values.diff(dim=1)>0).all()
    assert torch.equal(s, before)

@pytest.mark.parametrize('n,m,k', [(0,5,2), (0,5000,3), (3,5000,1), (2,20_011,10), (1,99_991,37), (2,4096,4096),
    (3,1,1), (4,17,17)])
@pytest.mark.parametrize('kind', ['plain','ties','inf'])
def test_topk_of_long_rows(n, m, k, kind):
    "Rows long enough to be cut into groups, of lengths that leave a rest"
    s = numbers(n, m, 3, kind)
    values,cols = topk(s, k)
    assert torch.equal(values, s.topk(k).values) and torch.equal(s.gather(1, cols), values)

def test_topk_finds_the_rest():
    "The columns behind the last whole group count like the others, also in a transposed matrix and in a part of one"
    s = torch.zeros(2, 1009)
    s[0,-1],s[1,-2] = 1,1
    assert topk(s, 1)[1].tolist()==[[1008],[1007]]
    t = rand(1009, 5).T
    assert torch.equal(topk(t, 3)[0], t.contiguous().topk(3).values)
    part = rand(8, 2000)[:,::2]
    assert torch.equal(topk(part, 3)[0], part.contiguous().topk(3).values)

# Lists, against all scores in float64 sorted

def reference(full, k, cand, seen):
    "The best of each row by score, then by item: items and scores; those of -inf behind"
    items,scores = [],[]
    for u,row in enumerate(full):
        order = sorted((float('inf') if i in seen[u] else -row[i], i) for i in cand)[:k]
        items.append([i for _,i in order])
        scores.append([-s for s,_ in order])
    return items,scores

def csr(seen):
    "Ends and items of a list of sets, in mixed order"
    return torch.tensor([0, *np.cumsum([len(o) for o in seen])]),torch.tensor([i for o in seen
        for i in sorted(o, reverse=True)], dtype=torch.int32)

def check(scores, full, k, cand=None, seen=None, size=64, users=None):
    "`top_items` gives the items and scores of the reference"
    n = full.shape[1]
    users = torch.arange(len(full)) if users is None else users
    parts = list(top_items(scores, users, n, k, None if cand is None else torch.tensor(cand), None if seen is None
        else csr(seen), size))
    u,items,values = (torch.cat(o) for o in zip(*parts))
    assert torch.equal(u, users) and items.shape==values.shape==(len(users),k) and values.dtype==torch.float64
    want,best = reference(full[users.numpy()], k, range(1, n) if cand is None else cand,
        [seen[o] if seen else () for o in users.tolist()])
    for row,(got,w,v,b) in enumerate(zip(items.tolist(), want, values.tolist(), best)):
        real = sum(map(math.isfinite, b))
        assert got[:real]==w[:real], (row, got, w)
        assert v[real:]==[-math.inf]*(k-real) and np.allclose(v[:real], b[:real], rtol=1e-12, atol=1e-12)
    return parts

@st.composite
def worlds(draw):
    "Two small matrices, with integers, near ties or whatever, users' seen items, candidates and users at a time"
    n,m,d,seed = draw(st.integers(1, 6)),draw(st.integers(2, 60)),draw(st.integers(1, 4)),draw(seeds)
    U,M = rand(n, d, seed=seed),rand(m, d, seed=seed+1)
    kind = draw(st.sampled_from(['real','whole','same','near','copies','zero','uneven']))
    if kind=='whole': U,M = U.round(),M.round()
    elif kind=='same': U,M = torch.ones(n, d),torch.full((m,d), draw(st.sampled_from([0.,1.,-3.,.1])))
    elif kind=='near': M = 1+M*1e-7
    elif kind=='copies': M = M[torch.randint(min(3, m), (m,), generator=gen(seed))]
    elif kind=='zero': U = torch.zeros(n, d)
    elif kind=='uneven': M = M*10.**torch.randint(-6, 7, (m,1), generator=gen(seed))
    cand = draw(st.none()|st.sets(st.integers(1, m-1), min_size=1).map(sorted))
    rated = st.sets(st.integers(0, m-1)) | st.just(set(range(m)))
    return U,M,cand,draw(st.none()|st.lists(rated, min_size=n, max_size=n)),draw(st.integers(1, 7)),draw(st.integers(1,
        m-1 if cand is None else len(cand)))

@settings(max_examples=150, deadline=None)
@given(worlds())
def test_top_items_is_exact(world):
    "The order of the float64 products, ties by the number of the row, whatever was seen and may be chosen"
    U,M,cand,seen,size,k = world
    check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), k, cand, seen, size)

def pairwise(U, M):
    "The float64 scores as `pairs` gives them, which are those of numpy but for the last bit"
    full = DotScorer(Factors(U), Factors(M)).pairs(torch.arange(len(U))[:,None], torch.arange(len(M))[None]).numpy()
    assert np.allclose(full, U.double().numpy()@M.double().numpy().T, rtol=1e-12, atol=1e-12)
    return full

@pytest.mark.parametrize('size', [1,7,199,200,10**6])
@pytest.mark.parametrize('m', [30,3000])
def test_all_chunk_sizes(size, m):
    "From one user at a time to all at once: the same lists"
    U,M = rand(200, 5).round(),rand(m, 5, seed=1).round()
    seen = [set(np.random.default_rng(u).integers(1, m, u%9).tolist()) for u in range(200)]
    parts = check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), 7, None, seen, size)
    assert [len(o[0]) for o in parts]==[min(size, 200-o) for o in range(0, 200, size)]

@pytest.mark.parametrize('n,k', [(2,1),(400,5),(3000,10)])
def test_constant_scores(n, k):
    "Where nothing is better than anything else, the first items that were not seen"
    dot = DotScorer(Factors(torch.ones(3, 2)), Factors(torch.full((n,2), .1)))
    seen = torch.tensor([0,0,1,1]),torch.tensor([1])
    if n>2:
        assert next(top_items(dot, torch.arange(3), n, k, None, seen))[1].tolist()==[[*range(1, k+1)], [*range(2, k+2)],
            [*range(1, k+1)]]
    for parts in (dot, NetScorer(torch.zeros(3, 2), torch.zeros(n, 2), [(torch.ones(1, 2),torch.ones(1))])):
        assert next(top_items(parts, torch.arange(3), n, k))[1].tolist()==[[*range(1, k+1)]]*3

def test_all_seen():
    "A user who has seen everything, or all but one, beside one who has seen nothing"
    U,M = rand(3, 4),rand(50, 4, seed=1)
    check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), 10, None, [set(range(1, 50)), set(range(1, 49)), set()])
    check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), 3, [4,7,9], [{4,7,9}, {4,9}, {1,2,3}])

def test_repeated_users_and_seen_rows():
    "Users asked twice get the same list twice; an item that was rated twice is left out once"
    U,M = rand(4, 3),rand(40, 3, seed=1)
    seen = torch.tensor([0,0,3,3,3]),torch.tensor([5,5,7])
    a = next(top_items(DotScorer(Factors(U), Factors(M)), torch.tensor([1,3,1]), 40, 38, None, seen))
    assert torch.equal(a[1][0], a[1][2]) and a[2][0].isinf().sum()==1 and not {5,7} & set(a[1][0][:37].tolist())

def test_scores_closer_than_float32():
    "Items whose scores differ by less than float32 holds come in float64 order, also beyond the spare candidates"
    M = torch.ones(200, 2)
    M[:,1] = torch.tensor(np.random.default_rng(0).permutation(200)*2.**-20)   # float32 takes 1000 + these for the same
    U = torch.tensor([[1000.,2**-10]])
    check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), 5)
    check(DotScorer(Factors(U), Factors(M)), pairwise(U, M), 150)

@few
@given(seeds, st.sampled_from([1e-3,1.,1e3,1e6]), st.sampled_from([1.,1e-5,1e-7]), st.integers(1, 20))
def test_nets_are_exact_at_any_scale(seed, scale, spread, k):
    "The lists of a net are in the order of its float64 scores, small or huge, far apart or close together"
    ops = [(rand(4, 6, seed=seed),rand(4, seed=seed+1)),'ReLU',(rand(1, 4, seed=seed+2)*scale,torch.zeros(1))]
    net = NetScorer(rand(3, 6, seed=seed+3), 1+rand(300, 6, seed=seed+4)*spread, ['Tanh',*ops])
    full = net.pairs(torch.arange(3)[:,None], torch.arange(300)[None]).numpy()
    check(net, full, k)

def test_scores_of_any_model_are_exact():
    "What a model says of all pairs, sorted"
    U,M = rand(5, 4),rand(90, 4, seed=1)
    class Dot(nn.Module):
        def forward(self, x): return (U[x[:,0]].double()*M[x[:,1]].double()).sum(1, keepdim=True).float()
    model = ModelScorer(Dot(), 90, bs=37)
    full = model.pairs(torch.arange(5)[:,None], torch.arange(90)[None]).numpy()
    for cand in (None, [3,5,80]): check(model, full, 3, cand, [set(range(1, 5*u)) for u in range(5)])

@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_scores_that_are_no_numbers(bad):
    "An error that names the row, and no list"
    U = rand(4, 2)
    U[2,0] = bad
    with pytest.raises(ValueError, match="aren't numbers, e.g. for row 2"):
        list(top_items(DotScorer(Factors(U), Factors(rand(50, 2).abs())), torch.arange(4), 50, 3))

@few
@given(worlds(), seeds)
def test_slack_covers_float32(world, seed):
    "No float32 score is further from the float64 one than `slack` says"
    U,M,cand,*_ = world
    i = None if cand is None else torch.tensor(cand)
    for s in (DotScorer(Factors(U), Factors(M)), DotScorer(Factors(U*1e4), Factors(M*1e3))):
        u = torch.arange(len(U))
        far = (s.block(u, i).double()-s.pairs(u[:,None], (torch.arange(1, len(M)) if i is None
            else i)[None])).abs().max(1).values
        assert (far<=s.slack(u, i, s.block(u, i).amax(1))).all()

def test_reads_do_not_write():
    "Tables, candidates, seen sets, random state and modes are as before, and a given piece of memory is used"
    U,M,net = rand(3, 4),rand(30, 4, seed=1),nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3), nn.Dropout(.5),
        nn.Linear(3, 1)).eval()
    cand,seen = torch.arange(2, 29),(torch.tensor([0,1,2,2]),torch.tensor([3,4]))
    given_ = [U, M, cand, *seen, *net.state_dict().values()]
    before,state = [o.clone() for o in given_],torch.get_rng_state()
    for s in (DotScorer(Factors(U), Factors(M)), net_scorer(U, M, net)):
        own = [o.clone() for o in (vars(s).values()) if torch.is_tensor(o)]
        list(top_items(s, torch.arange(3), 30, 4, cand, seen, 2))
        out = torch.empty(3, 29)
        assert s.block(torch.arange(3), out=out) is out or torch.equal(s.block(torch.arange(3)), out)
        assert all(torch.equal(a, b) for a,b in zip(own, [o for o in vars(s).values() if torch.is_tensor(o)]))
    assert all(torch.equal(a, b) for a,b in zip(before, given_)) and torch.equal(state, torch.get_rng_state())

# Neural nets

def trained(layers, seed=0):
    "A net whose batch norms have seen something, in evaluation mode"
    net = nn.Sequential(*layers)
    for k,(name,o) in enumerate([*net.named_parameters(), *net.named_buffers()]):
        if o.dtype.is_floating_point: o.data = rand(*o.shape, seed=seed+k)*.7+(1.5 if 'var' in name else 0)
        if 'var' in name: o.data = o.data.abs()+.1
    return net.eval()

NETS = dict(linear=lambda: [nn.Linear(8, 1)], no_bias=lambda: [nn.Linear(8, 5, bias=False), nn.ReLU(),
    nn.Linear(5, 1, bias=False)],
    deep=lambda: [nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 4), nn.SiLU(),
        nn.Linear(4, 1)],
    gelu=lambda: [nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 1)], norm_first=lambda: [nn.BatchNorm1d(8), nn.Linear(8, 5),
        nn.ReLU(), nn.Linear(5, 1)],
    two_norms_first=lambda: [nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 1)],
    norms=lambda: [nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 1),
        nn.BatchNorm1d(1)],
    dropout=lambda: [nn.Dropout(.9), nn.Linear(8, 5), nn.Identity(), nn.ReLU(inplace=True), nn.Dropout(.5),
        nn.Linear(5, 1)],
    last=lambda: [nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid()],
    fastai=lambda: [*LinBnDrop(8, 5, p=.3, act=nn.ReLU(), lin_first=True), *LinBnDrop(5, 4, p=.1, act=nn.ReLU()),
        *LinBnDrop(4, 1, bn=False)])

@pytest.mark.parametrize('which', NETS)
@pytest.mark.parametrize('cols', [None, ((7,1,2),(0,3,4,5,6))], ids=['users first','mixed'])
def test_net_scores_are_those_of_torch(which, cols):
    "The first layer done for users and items apart, and the rest for pairs, is the net"
    net,U,M = trained(NETS[which]()),rand(4, 3),rand(30, 5, seed=1)
    x = torch.empty(4, 30, 8)
    u,i = ((0,1,2),(3,4,5,6,7)) if cols is None else cols
    x[:,:,list(u)],x[:,:,list(i)] = U[:,None].expand(4, 30, 3),M[None].expand(4, 30, 5)
    with torch.no_grad(): want = copy.deepcopy(net).double()(x.double().view(-1, 8)).view(4, 30)
    got = net_scorer(U, M, net, cols)
    assert isinstance(got, NetScorer) and all(isinstance(o, str) or all(torch.is_tensor(t) and not t.requires_grad
        for t in o) for o in got.layers)
    rows = torch.arange(4)
    assert torch.allclose(got.block(rows).double(), want[:,1:], atol=1e-4)
    assert torch.allclose(got.block(rows[[3,0]], torch.tensor([5,0,5])).double(), want[[3,0]][:,[5,0,5]], atol=1e-4)
    assert torch.allclose(got.pairs(rows[:,None], torch.arange(30)[None]), want, atol=1e-5)
    assert torch.allclose(got.pairs(torch.tensor(2), torch.tensor([7,9])), want[2,[7,9]], atol=1e-5)
    check(got, got.pairs(rows[:,None], torch.arange(30)[None]).numpy(), 4)

class Own(nn.Module):
    def forward(self, x): return x
class Relu(nn.ReLU): pass

REFUSED = dict(leaky=[nn.Linear(8, 4), nn.LeakyReLU(), nn.Linear(4, 1)],
    gelu_tanh=[nn.Linear(8, 4), nn.GELU(approximate='tanh'), nn.Linear(4, 1)],
    act_first=[nn.ReLU(), nn.Linear(8, 1)], layer_norm=[nn.LayerNorm(8), nn.Linear(8, 1)], own=[nn.Linear(8, 1), Own()],
    no_statistics=[nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1)], subclass=[nn.Linear(8, 4), Relu(),
        nn.Linear(4, 1)],
    no_linear=[nn.BatchNorm1d(8)], nothing=[], dropout=[nn.Dropout(.5)], bilinear=[nn.Bilinear(4, 4, 1)])

@pytest.mark.parametrize('layers', REFUSED.values(), ids=REFUSED)
def test_layers_that_cannot_be_kept(layers):
    "None, and not something else"
    assert net_scorer(rand(4, 3), rand(30, 5), layers) is None

def test_all_activations_are_torchs():
    "Each name is the module of that name"
    for name,f in ACTS.items(): assert torch.equal(f(x:=rand(50)*3), getattr(nn, name)()(x))

@few
@given(seeds, st.integers(1, 40), st.integers(1, 60))
def test_parts_agree(seed, n, m):
    "A block, pieces of it, and single pairs are the same numbers, whatever the sizes"
    U,M,net = rand(n, 3, seed=seed),rand(m+1, 3, seed=seed+1),trained([nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)],
        seed%99)
    class Whole(nn.Module):
        def forward(self, x): return net(torch.cat([U[x[:,0]], M[x[:,1]]], 1))
    u = torch.randint(n, (5,), generator=gen(seed))
    for s in (DotScorer(Factors(U), Factors(M)), net_scorer(U, M, net), ModelScorer(Whole(), m+1, bs=7)):
        full = s.block(u)
        assert full.shape==(5,m) and full.dtype==torch.float32
        assert torch.allclose(full, torch.cat([s.block(o[None]) for o in u]), atol=1e-5)
        assert torch.allclose(full[:,-1:], s.block(u, torch.tensor([m])), atol=1e-5)
        assert torch.allclose(full.double(), s.pairs(u[:,None], torch.arange(1, m+1)[None]), atol=1e-4) and s.pairs(u,
            u*0).shape==(5,)
        slack = s.slack(u, None, full.amax(1))
        assert (slack>=0).all() and slack.shape==(5,)

# AUC with the lists

@few
@given(seeds, st.sampled_from([1,5,40,300]), st.sampled_from([2,64,1025,2500]),
    st.sampled_from(['plain','ties','many']))
def test_auc_in_blocks(seed, n, m, kind):
    "Counted block by block, it is what all scores in one block give: ties, -inf, few users and many held-out items"
    U,M = rand(n+1, 4, seed=seed),rand(m+1, 4, seed=seed+1)
    if kind=='ties': U,M = U.round(),M.round()
    scorer,rng = DotScorer(Factors(U), Factors(M)),np.random.default_rng(seed)
    def some(size): return csr_matrix((np.ones(size), (rng.integers(0, n, size),rng.integers(1, m+1, size))), (n,m+1))
    held,seen = some(n*(300 if kind=='many' else 3)),some(2*n)
    past = torch.from_numpy(np.append(0, seen.indptr).astype(np.int64)),torch.from_numpy(seen.indices)
    lists,auc = ranked_lists(scorer, torch.arange(1, n+1), m+1, 2, past, held)
    s = scorer.block(torch.arange(1, n+1)).numpy()
    s[np.repeat(np.arange(n), np.diff(seen.indptr)),seen.indices-1] = -np.inf
    assert np.allclose(auc, auc_scores(s, held), atol=1e-12 if kind=='ties' else 1e-3/m, equal_nan=True)
    assert np.array_equal(lists, ranked_lists(scorer, torch.arange(1, n+1), m+1, 2, past)[0])

@pytest.mark.parametrize('kind', ['random','ties','close','few'])
def test_lists_are_in_the_order_of_float64(kind):
    "Whether the scores of a list are far apart, the same, or closer than float32 can tell; ties by item"
    n,m = 70,12 if kind=='few' else 1500
    U,M = rand(n+1, 8),rand(m+1, 8, seed=1)
    if kind=='ties': U,M = U.round(),M.round()
    if kind=='close': M[:] = M[:1]+1e-6*M
    rng = np.random.default_rng(0)
    seen = csr_matrix((np.ones(6*n), (rng.integers(0, n, 6*n),rng.integers(1, m+1, 6*n))), (n,m+1))
    past = torch.from_numpy(np.append(0, seen.indptr).astype(np.int64)),torch.from_numpy(seen.indices)
    s = U[1:].double()@M[1:].double().T
    s[np.repeat(np.arange(n), np.diff(seen.indptr)),seen.indices-1] = -torch.inf
    best = s.argsort(dim=1, descending=True, stable=True)[:,:10]
    want = torch.where(s.gather(1, best).isinf(), 0, best+1).numpy()
    u = torch.arange(1, n+1)
    assert np.array_equal(ranked_lists(DotScorer(Factors(U), Factors(M)), u, m+1, 10, past)[0], want)

def test_auc_when_products_round_otherwise(monkeypatch):
    "Users whose scores aren't those of the block are done again"
    U,M = rand(51, 8),rand(3001, 8, seed=1)
    held = csr_matrix((np.ones(150), (np.arange(150)%50,np.arange(150)*20+1)), (50,3001))
    args = DotScorer(Factors(U), Factors(M)),torch.arange(1, 51),3001,5,None,held
    want,own = ranked_lists(*args)[1],scorers._held_scores
    monkeypatch.setattr(scorers, '_held_scores', lambda *o: own(*o)+np.float32(1e-7))
    assert np.allclose(ranked_lists(*args)[1], want, atol=1e-12)
    monkeypatch.setattr(ranking, 'load_kernels', lambda name: None)
    assert np.allclose(ranked_lists(*args)[1], want, atol=1e-12)
