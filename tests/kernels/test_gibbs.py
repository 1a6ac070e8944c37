"The loops of the Gibbs sampler against scipy"
import numpy as np
from scipy import stats
from scipy.special import ndtr, ndtri
from fastcollab.kernels import gibbs

def test_normal_distribution():
    x = np.r_[-37,-20,-8,np.linspace(-6, 6, 121),8]
    assert np.allclose([gibbs.normal_share(o) for o in x], ndtr(x), rtol=1e-5, atol=1e-12)
    p = np.r_[1e-300,1e-20,1e-5,np.linspace(.001, .999, 101),1-1e-9]
    assert np.allclose([gibbs.normal_quantile(o) for o in p], ndtri(p), rtol=1e-6, atol=1e-6)

def test_expected_ratings_are_those_of_the_shares():
    scores,precision = np.linspace(-3, 3, 7),np.linspace(.5, 2, 7)
    levels,cuts = np.array([1.,2,4,5]),np.array([-np.inf,-1,0,.5,np.inf])
    probs = gibbs.rating_probs(scores, precision, levels, cuts)
    expected = np.diff(stats.norm.cdf((cuts-scores[:,None])*np.sqrt(precision)[:,None]), axis=1)
    assert np.allclose(probs, expected, atol=1e-6)
    assert np.allclose(gibbs.expected_ratings(scores, precision, levels, cuts), expected@levels, atol=1e-5)
