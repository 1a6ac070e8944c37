"Half stars and inequality: against numpy and by hand"
import math

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import collab_learner, gini, half_star, half_star_accuracy
from hypothesis import given, settings, strategies as st

def quiet(learn, *args, how='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

# Half stars

finite = st.floats(-1e6, 1e6)

@settings(max_examples=200, deadline=None)
@given(finite)
def test_half_star(x):
    "A multiple of .5, within .25, idempotent, and on a tie the whole star"
    r = half_star(x)
    assert isinstance(r, float) and r*2==round(r*2) and abs(r-x)<=.25 and half_star(r)==r
    if abs(r-x)==.25: assert r==round(r)
    assert half_star(torch.tensor(x, dtype=torch.float64)).item()==r and half_star(np.array([x]))[0]==r

@pytest.mark.parametrize('x,want', [(4.75,5.), (5.25,5.), (.25,0.), (.75,1.), (-.25,0.), (-.75,-1.), (3.2,3.),
    (3.3,3.5), (3.5,3.5), (4.74,4.5), (4.76,5.),
    (0,0.), (7,7.)])
def test_half_star_by_hand(x, want):
    "Every type of input gives the answer in its own type and shape"
    assert half_star(x)==want and type(half_star(x)) is float
    for o in (np.float64(x), np.float32(x)): assert half_star(o)==want and isinstance(half_star(o), float)
    for dtype in (torch.float32, torch.float64):
        t = half_star(torch.tensor([[x],[x]], dtype=dtype))
        assert torch.equal(t, torch.full((2,1), want, dtype=dtype)) and t.dtype==dtype
    assert half_star(torch.tensor(float(x))).shape==()
    a = half_star(np.full((2,3), x))
    assert isinstance(a, np.ndarray) and (a==want).all() and a.shape==(2,3)
    s = half_star(pd.Series([x,x], index=['p','q'], name='stars'))
    pd.testing.assert_series_equal(s, pd.Series([want,want], index=['p','q'], name='stars'))

def test_half_star_of_whole_numbers_and_what_is_no_number():
    assert half_star(torch.tensor([1,4])).tolist()==[1.,
        4.] and half_star(torch.tensor([1,4])).is_floating_point() and half_star(np.array([3]))[0]==3.
    for o in ([math.inf,-math.inf,math.nan], ):
        for got in (half_star(torch.tensor(o)), half_star(np.array(o)), half_star(pd.Series(o)),
            [half_star(v) for v in o]):
            assert got[0]==math.inf and got[1]==-math.inf and math.isnan(got[2])
    x = torch.tensor([4.75])
    half_star(x)
    s = pd.Series([4.75])
    half_star(s)
    assert x.item()==s[0]==4.75                                     # the input stays

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10), st.floats(-.6, .6)), min_size=1, max_size=40), st.integers(1, 41))
def test_half_star_accuracy_over_batches(rows, bs):
    "The share of rows whose rounded prediction is the rating, whatever the batches"
    y = torch.tensor([k/2 for k,_ in rows])[:,None]
    pred = y+torch.tensor([e for _,e in rows])[:,None]
    class L: loss_func = None
    half_star_accuracy.reset()
    for o in range(0, len(y), bs):
        L.pred,L.yb = pred[o:o+bs],(y[o:o+bs],)
        half_star_accuracy.accumulate(L)
    want = np.mean([half_star(p)==t for p,t in zip(pred[:,0].tolist(), y[:,0].tolist())])
    assert half_star_accuracy.value==pytest.approx(want) and half_star_accuracy(pred, y).item()==pytest.approx(want)

def test_half_star_accuracy_in_a_fit(dls):
    "A column of that name, equal to the share over all validation rows"
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5), metrics=half_star_accuracy), 2, 2e-2)
    pred,targ = learn.get_preds()
    want = np.mean([np.abs(p-t)<.25 for p,t in zip(pred.reshape(-1).double().tolist(), targ.reshape(-1).tolist())])
    assert list(learn.recorder.metric_names)==['epoch','train_loss','valid_loss','half_star_accuracy','time']
    assert learn.recorder.values[-1][2]==pytest.approx(want, abs=2e-3) and 0<want<1
    assert half_star_accuracy(torch.tensor([4.8,3.3,1.]), torch.tensor([5.,3.,1.])).item()==pytest.approx(2/3)

# Inequality

@pytest.mark.parametrize('counts,want', [([1,1,1,1],0), ([0,0,0,4],.75), ([4,0,0,0],.75), ([1,2,3,4],.25), ([0,1],.5),
    ([7],0), ([1,3],.25), ([.5,1.5],.25)])
def test_gini_known_values(counts, want):
    got = gini(torch.tensor(counts))
    assert got.item()==pytest.approx(want, abs=1e-12) and got.dtype==torch.float64 and got.shape==()
    assert gini(torch.tensor(counts)*3).item()==pytest.approx(want, abs=1e-12)             # the unit is irrelevant

@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any))
def test_gini_is_the_mean_difference(counts):
    "Half the mean absolute difference of all pairs over the mean; the order is irrelevant; in [0,1)"
    c = np.array(counts, float)
    want = np.abs(c[:,None]-c[None]).mean()/(2*c.mean())
    got = gini(torch.tensor(counts)).item()
    assert got==pytest.approx(want,
        abs=1e-9) and 0<=got+1e-12 and got<1 and gini(torch.tensor(counts[::-1])).item()==pytest.approx(got)

def test_gini_of_nothing_is_nan(): assert math.isnan(gini(torch.zeros(3))) and math.isnan(gini(torch.zeros(0)))
