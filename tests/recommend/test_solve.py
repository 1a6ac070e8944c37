"Rows that are solved from ratings: against numpy in float64"
import numpy as np, pytest, torch
from fastcollab.recommend import solve
from fastcollab.recommend.base import Link
from fastcollab.recommend.solve import solve_rows
from hypothesis import example, given, settings, strategies as st

few = settings(max_examples=50, deadline=None)
def gen(seed): return torch.Generator().manual_seed(seed)
def rand(*shape, seed=0): return torch.randn(shape, generator=gen(seed))
seeds = st.integers(0, 2**31)

def fold(V, o, y, ends, x0, decay, y_range=None): return solve_rows(V, o, y, ends, x0, decay, Link(y_range))

def problem(seed, n=6, d=4, most=20, start=True, y_range=None):
    "Rows with 0 to `most` ratings: vectors, offsets, ratings, ends, start"
    rng = np.random.default_rng(seed)
    count = rng.integers(0, most+1, n)
    ends = torch.tensor([0,*np.cumsum(count)])
    N = int(ends[-1])
    V,o,x0 = rand(N, d, seed=seed),rand(N, seed=seed+1)*.3,rand(n, d, seed=seed+2)*(.3 if start else 0)
    y = torch.rand(N, generator=gen(seed+3))*4.5+.5 if y_range else rand(N, seed=seed+3)
    return V,o,y,ends,x0

def loss_of(x, V, o, y, x0, decay, y_range):
    "The stated loss of one row, in float64"
    f = V.double()@x+o.double()
    if y_range is not None: f = y_range[0]+(y_range[1]-y_range[0])*torch.sigmoid(f)
    return ((f-y.double())**2).sum()+decay*((x-x0.double())**2).sum()

def parts(V, o, y, ends, x0):
    for r,(a,b) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist())): yield r,V[a:b],o[a:b],y[a:b],x0[r]

@few
@given(seeds, st.integers(1, 8), st.sampled_from([.01,.5,8.]))
def test_fold_is_ridge(seed, d, decay):
    "Without `y_range`, the solution of the normal equations by numpy; `x0` itself without ratings"
    V,o,y,ends,x0 = problem(seed, d=d)
    got = fold(V, o, y, ends, x0, decay)
    for r,v,off,t,s in parts(V, o, y, ends, x0):
        if not len(t): assert torch.equal(got[r], s)
        else:
            v,t,s = v.double().numpy(),(t-off).double().numpy(),s.double().numpy()
            assert np.allclose(got[r], s+np.linalg.solve(v.T@v+decay*np.eye(d), v.T@(t-v@s)), atol=2e-3 if decay<.1
                else 1e-4)

@few
@given(seeds, st.sampled_from([.05,.5,8.]), st.sampled_from([(0.,5.5),(.5,5.)]))
# 30 steps with old curvature were not enough
@example(924657728, .05, (.5,5.))
# a row that old curvature cannot help is not done
@example(2914205, .05, (.5,5.))
def test_fold_finds_the_minimum(seed, decay, y_range):
    "With `y_range`: the gradient of the stated loss falls to a small share of its start, and the loss doesn't rise"
    V,o,y,ends,x0 = problem(seed, y_range=y_range)
    got = fold(V, o, y, ends, x0, decay, y_range)
    for r,v,off,t,s in parts(V, o, y, ends, x0):
        x,start = got[r].double().requires_grad_(),s.double().requires_grad_()
        now,then = loss_of(x, v, off, t, s, decay, y_range),loss_of(start, v, off, t, s, decay, y_range)
        assert now<=then+1e-9
        if not len(t): continue
        g,g0 = (torch.autograd.grad(a, b)[0].norm() for a,b in ((now,x),(then,start)))
        assert g<=.02*g0+.02, (r, g, g0)

@few
@given(seeds, st.sampled_from([None,(0.,5.5)]))
def test_order_of_ratings_is_irrelevant(seed, y_range):
    "The ratings of a row in any order give the same row"
    V,o,y,ends,x0 = problem(seed, y_range=y_range)
    perm = torch.cat([a+torch.randperm(b-a, generator=gen(seed)) for a,b in zip(ends[:-1].tolist(), ends[1:].tolist())])
    assert torch.allclose(fold(V, o, y, ends, x0, .5, y_range), fold(V[perm], o[perm], y[perm], ends, x0, .5, y_range),
        atol=2e-3 if y_range else 1e-4)

@few
@given(seeds, st.sampled_from([None,(0.,5.5)]), st.sampled_from([2**24,0]))
def test_rows_do_not_know_each_other(seed, y_range, numbers):
    "Alone, with others of other lengths, or one at a time: the same row"
    V,o,y,ends,x0 = problem(seed, y_range=y_range)
    whole = fold(V, o, y, ends, x0, .5, y_range)
    alone = torch.cat([fold(v, off, t, torch.tensor([0,len(t)]), s[None], .5, y_range) for _,v,off,t,s in parts(V, o, y,
        ends, x0)])
    assert torch.allclose(whole, alone, atol=2e-3 if y_range else 1e-4)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(solve, '_NUMBERS', numbers)
        assert torch.allclose(whole, fold(V, o, y, ends, x0, .5, y_range), atol=2e-3 if y_range else 1e-4)

@pytest.mark.parametrize('y_range', [None,(0.,5.5)])
def test_no_ratings(y_range):
    "Exactly the start, for all rows or for some; no rows are no rows; nothing that came is written to"
    V,o,y,ends,x0 = problem(5, n=3)
    got = fold(V[:0], o[:0], y[:0], torch.zeros(4).long(), x0, 3., y_range)
    assert torch.equal(got, x0) and got is not x0
    got[:] = 7
    assert (x0!=7).all() and fold(V[:0], o[:0], y[:0], torch.zeros(1).long(), x0[:0], 3., y_range).shape==(0,4)
    before = [t.clone() for t in (V,o,y,ends,x0)]
    fold(V, o, y, ends, x0, 3., y_range)
    assert all(torch.equal(a, b) for a,b in zip(before, (V,o,y,ends,x0)))

def test_far_off_ratings_stay_finite():
    "Ratings at and beyond the range, huge vectors, a start where the sigmoid is flat: finite, no worse than the start"
    for scale,at in ((1.,0.),(100.,0.),(1.,40.),(1e4,-3.)):
        V,y,x0 = rand(12, 3)*scale,torch.tensor([0.,5.5]*6),torch.full((1,3), at)
        got = fold(V, torch.zeros(12), y, torch.tensor([0,12]), x0, .5, (0.,5.5))
        a,b = (loss_of(o[0].double(), V, torch.zeros(12), y, x0[0], .5, (0.,5.5)) for o in (got,x0))
        assert got.isfinite().all() and a<=b*(1+1e-6)

@pytest.mark.parametrize('y_range', [None,(-1.,3.)])
def test_link(y_range):
    "The ratings and their derivatives, by torch's autograd"
    s = rand(40).double().requires_grad_()
    y,slope = Link(y_range).slope(s)
    assert torch.allclose(slope, torch.autograd.grad(y.sum(), s)[0]) and (y_range is None or ((y>-1)&(y<3)).all())
