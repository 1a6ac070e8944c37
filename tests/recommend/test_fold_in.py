"Fold-in on any scale of ratings, and of users with a handful of them"
import numpy as np, pandas as pd, pytest, torch
from fastcollab.recommend.base import Factors, FoldTerms, Link
from fastcollab.recommend.fold_in import FoldState, find_decay
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer
from fastcollab.recommend.solve import Decay, solve_factors, solve_rows
from hypothesis import given, settings, strategies as st

few = settings(max_examples=8, deadline=None)
SCALES = 20.,1000.,1e-3,1e6

def table(seed=0, n_users=80, n_items=60, n=2400, k=3):
    "Ratings of users with tastes, and the factors that they are made of"
    rng = np.random.default_rng(seed)
    U,V = rng.normal(size=(n_users+1,k))*.5,rng.normal(size=(n_items+1,k))*.6
    U[0] = 0
    a,b = rng.normal(size=n_users+1)*.4,rng.normal(size=n_items+1)*.5
    a[0] = b[0] = 0
    pairs = rng.permutation(n_users*n_items)[:n]
    u,i = pairs//n_items+1,pairs%n_items+1
    y = 3+(U[u]*V[i]).sum(1)+a[u]+b[i]+rng.normal(size=n)*.5
    return (U,V,a,b),(u,i,y)

def rec_of(scale=1., seed=0, own=True, **kwargs):
    "A recommender on a scale; both vectors grow by its root, or only those of items"
    (U,V,a,b),(u,i,y) = table(seed, **kwargs)
    def factors(x, bias, by): return Factors(torch.tensor(x*by).float(), torch.tensor(bias*scale).float())
    both = (scale**.5,)*2 if own else (1.,scale)
    users,items = factors(U, a, both[0]),factors(V, b, both[1])
    history = UserHistory.from_ratings(torch.tensor(u), torch.tensor(i), torch.tensor(y*scale), len(U))
    films = pd.DataFrame(dict(title=[f'film {k}' for k in range(1, len(V))]))
    ids = pd.RangeIndex(1, len(U)),pd.RangeIndex(1, len(V))
    scorer = DotScorer(users, items, Link(None, 3*scale))
    return Recommender(scorer, ids, ('user','item','rating'), films, history, rated=(-np.inf,np.inf))

NEW = pd.DataFrame(dict(user=[901,902,902,902,*[903]*20], item=[4,1,2,3,*range(1, 21)],
    rating=[4.5,1.,2.5,5.,*np.random.default_rng(0).normal(3, 1, 20)]))
def folded(rec, scale, side=0):
    new = NEW.assign(rating=NEW.rating*scale)
    if side: new = new.rename(columns=dict(user='item', item='user'))
    got = (rec.fold_in,rec.fold_in_items)[side](new)
    return np.concatenate([got.predict(*((o,list(range(1, 61))) if side==0 else (list(range(1, 61)),o)))
        for o in (901,902,903)])/scale

@pytest.mark.parametrize('own', [True,False])
@pytest.mark.parametrize('side', [0,1])
@pytest.mark.parametrize('scale', SCALES)
def test_scale(scale, side, own):
    "Stars, percent, dollars: the unit of the ratings makes no difference, whichever side it's in"
    a,b = (folded(rec_of(o, own=own), o, side) for o in (1.,scale))
    assert np.isfinite(b).all() and np.abs(a-b).max()<.01*np.abs(a).max()

@few
@given(st.floats(-6, 9), st.integers(0, 9))
def test_scale_any(power, seed):
    scale = 10**power
    a,b = (folded(rec_of(o, seed), o) for o in (1.,scale))
    assert np.abs(a-b).max()<.01*np.abs(a).max()

@pytest.mark.parametrize('offset', [0.,-3.,1000.])
def test_mean_makes_no_difference(offset):
    "Ratings around 0 or around 1000 are folded in alike, given the mean"
    rec,moved = rec_of(),rec_of()
    h = moved.history
    moved.history = h._replace(ratings=h.ratings+offset)
    moved.scorer = DotScorer(*(moved.scorer.factors(k) for k in (0,1)), Link(None, 3.+offset))
    new = NEW.assign(rating=NEW.rating+offset)
    a,b = (o.fold_in(n).predict([902]*60, list(range(1, 61)))-m for o,n,m in ((rec,NEW,0.),(moved,new,offset)))
    assert np.abs(a-b).max()<.01

@pytest.mark.parametrize('scale', [1.,1e3,1e-4])
@pytest.mark.parametrize('k', [1,3,10])
def test_a_few_ratings_help(scale, k):
    "The mean error of new users with 1, 3 and 10 ratings is below that of the average user"
    errors = []
    for seed in range(3):
        (U,V,a,b),(u,i,y) = table(seed, n_users=160, n=4800)
        rec,new = rec_of(scale, seed, n_users=160, n=4800),u>80
        rows = torch.tensor(u)<=80
        h = UserHistory.from_ratings(torch.tensor(u)[rows], torch.tensor(i)[rows], torch.tensor(y*scale)[rows], 161)
        rec.history = h
        df = pd.DataFrame(dict(user=u[new]+1000, item=i[new], rating=y[new]*scale))
        at = df.groupby('user').cumcount()
        got,rest = rec.fold_in(df[at<k]),df[at>=10]
        rest = rest[rest.user.isin(df.user[at<k])]
        average = 3*scale+b[rest['item']]*scale
        errors.append([np.sqrt(np.mean((p-rest.rating)**2)) for p in (got.predict(rest), average)])
    fold,average = np.mean(errors, 0)
    assert fold<average

def test_no_ratings_vary():
    "Equal ratings, vectors without any spread, or no vectors at all: finite, and never an error of linear algebra"
    for edit in (lambda f: f, lambda f: Factors(f.vec*0, f.bias*0), lambda f: Factors(f.vec[:,:0], f.bias),
        lambda f: Factors(f.vec*1e-20, f.bias)):
        rec = rec_of()
        rec.history = rec.history._replace(ratings=rec.history.ratings*0+3)
        rec.scorer = DotScorer(*(edit(rec.scorer.factors(k)) for k in (0,1)), rec.link)
        assert np.isfinite(folded(rec, 1.)).all()

@pytest.mark.parametrize('decay', [1e-30,1e-8,1.])
@pytest.mark.parametrize('scale', [1e-6,1.,1e4,1e8])
def test_solve_without_errors(decay, scale):
    "More numbers than ratings, equal vectors, and any decay: a finite answer that fits its ratings"
    V = torch.ones(6, 12)*scale
    V[3:] *= torch.linspace(1, 2, 12)
    y = torch.tensor([1.,1,1,2,2,2])*scale
    x = solve_rows(V, torch.zeros(6), y, torch.tensor([0,6]), torch.zeros(1, 12), decay)
    assert x.isfinite().all()
    if decay<=1e-6*scale**2: assert ((V@x[0]-y)/scale).abs().max()<.02

def test_decay_of_biases():
    "A pair of decays: the first one is that of vectors, the second one that of biases"
    items,start = Factors(torch.randn(9, 2), torch.zeros(9)),Factors(torch.zeros(1, 2), torch.zeros(1))
    rated,y,ends = torch.arange(9),torch.full((9,), 2.),torch.tensor([0,9])
    def solved(decay): return solve_factors(items, rated, y, ends, start, decay, Link())
    stiff = solved(Decay(1e9, 1.))
    assert stiff.vec.abs().max()<1e-5 and float(stiff.bias)==pytest.approx(2*9/10, abs=1e-3)
    assert solved(Decay(1., 1e9)).bias.abs()<1e-5
    assert all(torch.allclose(a, b) for a,b in zip(solved(2.), solved(Decay(2., 2.))))

def test_decay_of_a_recommender(tmp_path):
    "Found once, kept by a save, and a plain number counts for both"
    rec = rec_of()
    found = rec.decay()
    assert isinstance(found, Decay) and 0<found.vec and 0<found.bias and rec.decay()==found
    rec.save(tmp_path/'rec')
    again = Recommender.load(tmp_path/'rec')
    assert again.decay()==found and again.decay(1)==rec.decay(1)
    rec.decays = [2.,.5]
    assert rec.decay()==Decay(2., 2.) and rec.decay(1)==Decay(.5, .5)

def test_too_few_ratings_to_tell():
    "Without enough ratings, the decay is in the unit of the data too"
    (users,items),link = (rec_of().scorer.factors(k) for k in (0,1)),Link(None, 3.)
    def decay(scale):
        y = torch.tensor([5.,1,4])*scale
        history = UserHistory.from_ratings(torch.tensor([1,1,2]), torch.tensor([1,3,3]), y, 81)
        def by(f): return Factors(f.vec*scale**.5, f.bias*scale)
        state = FoldState((by(users),by(items)), (FoldTerms(),FoldTerms()), Link(None, 3*scale), history)
        return find_decay(state, 0)
    a,b = decay(1.),decay(100.)
    assert b.vec==pytest.approx(100*a.vec, rel=1e-3) and b.bias==pytest.approx(a.bias, rel=1e-3)
