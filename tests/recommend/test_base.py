"Links from scores to ratings: against SciPy, numerical derivatives, and a simulation"
import json

import numpy as np, pytest, torch
from fastcollab.recommend.base import Factors, FoldTerms, Link
from fastcollab.recommend.explain import explanation_table, score_parts
from fastcollab.recommend.fold_in import FoldState
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.scorers import DotScorer, NetScorer, load_scorer, top_items
from fastcollab.recommend.solve import solve_factors
from hypothesis import given, settings, strategies as st
from scipy import stats

few = settings(max_examples=30, deadline=None)
LEVELS,CUTS = (1.,2.,3.5,5.),(-1.2,.1,.9)
LINKS = dict(identity=Link(None, 3.), sigmoid=Link((.5,5.5), 3.), clip=Link((1.,5.), 3., clip=True),
    probit=Link((1.,5.), levels=LEVELS, cuts=CUTS), unsure=Link(levels=(0.,100.), cuts=(0.,)))
def bounds(link): return (link.levels[0],link.levels[-1]) if link.levels else link.y_range or (0.,6.)
each = pytest.mark.parametrize('link', LINKS.values(), ids=LINKS)

@few
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5), st.integers(2, 8), st.integers(0, 999))
def test_probit_is_the_expected_level(scores, n, seed):
    "The mean of the levels by the shares that SciPy gives them"
    rng = np.random.default_rng(seed)
    levels,cuts = np.sort(rng.normal(3, 2, n)),np.sort(rng.normal(0, 2, n-1))
    below = stats.norm.cdf(np.array([-np.inf,*cuts,np.inf])-np.array(scores)[:,None])
    want = np.diff(below)@levels
    link = Link(levels=torch.tensor(levels), cuts=torch.tensor(cuts))
    assert np.allclose(link(torch.tensor(scores, dtype=torch.float64)), want, atol=1e-12)
    assert np.allclose(link.detach()(torch.tensor(scores)), want, atol=1e-4)

@each
def test_links_rise(link):
    "A list in the order of scores is one in the order of ratings, within the levels or the range"
    ratings = link(torch.linspace(-12, 12, 4001, dtype=torch.float64))
    assert (ratings.diff()>=-1e-12).all()
    if link.bends or link.clip: assert bounds(link)[0]-1e-9<=ratings[0] and ratings[-1]<=bounds(link)[1]+1e-9

@each
def test_slope_is_the_derivative(link):
    "By automatic differentiation; a clamp counts as the identity"
    x = torch.linspace(-4, 4, 101, dtype=torch.float64, requires_grad=True)
    ratings,slope = link.slope(x)
    free = link._replace(y_range=None) if link.clip else link
    assert torch.allclose(ratings, free(x))
    assert torch.allclose(torch.autograd.grad(free(x).sum(), x)[0], slope.expand_as(x), atol=1e-12)

def test_constants():
    "Compiled loops take the identity and the sigmoid, and refuse the others with the reason"
    assert LINKS['identity'].constants()==(0,0,3) and LINKS['sigmoid'].constants()==(.5,5,0)
    for name,why in dict(clip='clips', probit='probit').items():
        with pytest.raises(ValueError, match=why): LINKS[name].constants()
        assert why in LINKS[name].why_not_compiled

def factors(seed=0, n_users=12, n_items=30, k=3):
    g = torch.Generator().manual_seed(seed)
    return [Factors(torch.randn(n, k, generator=g)*.6, torch.randn(n, generator=g)*.3) for n in (n_users,n_items)]

@each
def test_scorers_keep_the_link(link):
    "Through JSON too, and a recommender that was saved before there were other links loads"
    net = NetScorer(torch.randn(5, 2), torch.randn(6, 2), [(torch.ones(1, 2),torch.zeros(1))], link)
    for scorer in (DotScorer(*factors(), link),net):
        info,tensors = scorer.state()
        again = load_scorer(json.loads(json.dumps(info)), tensors)
        assert again.link==scorer.link==link.detach() and again.state()[0]==info
        x = torch.cartesian_prod(torch.arange(5), torch.arange(6))
        assert torch.allclose(again.module()(x).double(), link(scorer.pairs(x[:,0], x[:,1])), atol=1e-5)
    old = {k:v for k,v in info.items() if k not in ('clip','levels','cuts')}
    assert load_scorer(old, tensors).link==Link(link.detach().y_range, link.detach().mean)

@each
def test_lists_are_in_the_order_of_ratings(link):
    scorer = DotScorer(*factors(), link)
    (u,i,s), = top_items(scorer, torch.arange(1, 12), 30, 5)
    want = link(scorer.pairs(u[:,None], torch.arange(1, 30)[None])).topk(5).values
    assert torch.allclose(link(s), want, atol=1e-6)

@each
@few
@given(seed=st.integers(0, 999), decay=st.sampled_from([.1,2.]))
def test_solved_rows_are_at_the_minimum(link, seed, decay):
    "The gradient of the stated loss is small compared to that at the start"
    (_,items),g = factors(seed),torch.Generator().manual_seed(seed)
    rated,ends = torch.randint(30, (40,), generator=g),torch.tensor([0,5,40])
    low,high = bounds(link)
    y,start = low+(high-low)*torch.rand(40, generator=g),Factors(torch.zeros(2, 3), torch.zeros(2))
    found = solve_factors(items, rated, y, ends, start, decay, link)
    def gradient(rows):
        x = torch.cat([rows.vec, rows.bias[:,None]], 1).double().requires_grad_()
        row = torch.repeat_interleave(torch.arange(2), ends.diff())
        scores = (x[row,:3]*items.vec[rated]).sum(1)+x[row,3]+items.bias[rated]
        loss = ((link.slope(scores)[0]-y)**2).sum()+decay*(x**2).sum()
        return torch.autograd.grad(loss, x)[0].norm(dim=1)
    assert (gradient(found)<=2e-3*gradient(start)+1e-3*(high-low)).all()

@each
def test_explanations_sum_to_the_prediction(link):
    users,items = factors()
    u,i = torch.arange(1, 12).repeat_interleave(4),torch.arange(1, 45)%29+1
    low,high = bounds(link)
    y = low+(high-low)*torch.rand(44, generator=torch.Generator().manual_seed(0))
    state = FoldState((users,items), (FoldTerms(),FoldTerms()), link, UserHistory.from_ratings(u, i, y, 12))
    parts = score_parts(state, 2., 3, 7)
    table = explanation_table(parts, link, list(parts.rated), ['']*len(parts.rated))
    want = link(torch.tensor(parts.score, dtype=torch.float64))
    assert table.stars.sum()==pytest.approx(float(want), abs=1e-6)
