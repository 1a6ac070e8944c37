"Random bits against another implementation, and normal numbers against their distribution"
import numpy as np, pytest
from numba import njit
from scipy import stats
from fastcollab.kernels import normals as kernel

def state(seed=0): return kernel.new_state(np.random.SeedSequence(seed))
def drawn(n, seed=0):
    res = np.empty(n, np.float32)
    kernel.normals(state(seed), res)
    return res

@njit
def bits_of(s):
    res = np.empty(kernel.CHUNK, np.uint32)
    kernel.random_bits(s, res)
    return res

def xoshiro(s, n):
    "xoshiro128++ in Python, as its authors wrote it"
    mask = 2**32-1
    turn = lambda x,k: (x<<k|x>>32-k)&mask
    for _ in range(n):
        yield (turn((s[0]+s[3])&mask, 7)+s[0])&mask
        t = s[1]<<9&mask
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = turn(s[3], 11)

def test_bits_are_those_of_xoshiro():
    s = state(3)
    lane = [int(o) for o in s[:,5]]
    got = [int(o) for _ in range(3) for o in bits_of(s)[5::kernel.LANES]]
    assert got==list(xoshiro(lane, len(got)))

def test_the_distribution_is_normal():
    x = drawn(4_000_000).astype(float)
    assert stats.kstest(x[:1_000_000], 'norm').pvalue>1e-3
    moments = [(x**k).mean() for k in range(1, 7)]
    spread = np.sqrt([1,2,15,96,945,10170])/len(x)**.5   # standard deviations of the powers
    assert (np.abs(np.array(moments)-[0,1,0,3,0,15])<4*spread).all()
    for far in (3,4,4.8):   # shares of the tails
        expected = len(x)*stats.norm.sf(far)
        for side in (x,-x): assert abs((side>far).sum()-expected)<4*expected**.5+1

def test_the_density_has_no_gaps():
    x = drawn(2_000_000, 1)
    edges = stats.norm.ppf(np.linspace(0, 1, 2001))
    assert stats.chisquare(np.histogram(x, edges)[0]).pvalue>1e-3

@pytest.mark.parametrize('lag', [1,2,kernel.LANES,kernel.CHUNK//2,kernel.CHUNK])
def test_numbers_do_not_depend_on_others(lag):
    x = drawn(1_000_000, 2).astype(float)
    for f in (lambda o: o, lambda o: o*o-1, np.abs):
        assert abs(np.corrcoef(f(x[lag:]), f(x[:-lag]))[0,1])<4/len(x)**.5

def test_the_seed_decides():
    assert (drawn(3000)==drawn(3000)).all() and (drawn(3000)!=drawn(3000, 1)).mean()>.99
    assert np.isfinite(drawn(1)).all() and len(drawn(0))==0
    s,parts = state(),[np.empty(n, np.float32) for n in (kernel.CHUNK,5,kernel.CHUNK)]
    for o in parts: kernel.normals(s, o)
    whole = drawn(3*kernel.CHUNK)
    assert (parts[0]==whole[:kernel.CHUNK]).all() and (parts[1]==whole[kernel.CHUNK:kernel.CHUNK+5]).all()
    assert (parts[2]==whole[-kernel.CHUNK:]).all()   # what is over is thrown away
