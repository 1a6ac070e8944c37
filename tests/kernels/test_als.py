"Half-steps of alternating least squares against numpy: any width, any number of threads, any registers"
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, pytest
from fastcollab.kernels.als import conjugate, exact, gram
from fastcollab.kernels.tiles import padded

def problem(n, m, k, seed=0, most=200):
    "Rows that have met between none and `most` others, tables, and what numpy makes of them"
    rng = np.random.default_rng(seed)
    count = rng.integers(0, most, n)
    count[:2] = 0,1
    ends = np.r_[0,count.cumsum()]
    weights = (rng.random(ends[-1])*5).astype(np.float32)
    weights[::7] = 0
    X,Y = ((.3*rng.standard_normal((o,k))).astype(np.float32) for o in (n,m))
    others,targets = rng.integers(0, m, ends[-1]).astype(np.int32),rng.standard_normal(ends[-1]).astype(np.float32)
    return (ends,others,weights,targets,Y,X),np.linspace(.5, 30, n, dtype=np.float32)

def by_numpy(ends, others, weights, targets, Y, X, ridge):
    def one(u):
        part = slice(ends[u], ends[u+1])
        y = Y[others[part]].astype(float)
        A = Y.T.astype(float)@Y+ridge[u]*np.eye(Y.shape[1])+(weights[part,None]*y).T@y
        return np.linalg.solve(A, targets[part]@y)
    return np.stack([one(u) for u in range(len(X))])

def whole(G): return np.triu(G)+np.triu(G, 1).T
def gram_of(Y):
    G = np.zeros((Y.shape[1],)*2, np.float32)
    gram(Y, G)
    return G

@pytest.mark.parametrize('k', [padded(1)*o for o in (1,3,4)])
def test_half_steps_are_those_of_numpy(k):
    args,ridge = problem(50, 300, k)
    want,G,X = by_numpy(*args, ridge),gram_of(args[4]),args[5].copy()
    assert np.allclose(np.triu(G), np.triu(args[4].T@args[4]), atol=1e-3)
    exact(*args, G, ridge, np.zeros(32, np.int64))
    assert np.allclose(args[5], want, atol=1e-3*abs(want).max()) and not args[5][0].any()
    conjugate(*args[:5], X, whole(G), ridge, 60, 200, np.zeros(32, np.int64))
    assert np.allclose(X, want, atol=3e-3*abs(want).max()) and not X[0].any()

def test_threads_don_t_change_the_result():
    args,ridge = problem(500, 300, padded(20))
    G,res = gram_of(args[4]),[]
    for threads in (1,3):
        for step in (lambda x, sync: exact(*args[:5], x, G, ridge, sync),
            lambda x, sync: conjugate(*args[:5], x, whole(G), ridge, 3, 200, sync)):
            X,sync = args[5].copy(),np.zeros(32, np.int64)
            with ThreadPoolExecutor(threads) as pool: list(pool.map(lambda _: step(X, sync), range(threads)))
            res.append(X)
    assert np.array_equal(res[0], res[2]) and np.array_equal(res[1], res[3])

@pytest.mark.slow
def test_processors_without_wide_registers(tmp_path):
    "Narrow tiles give the same numbers"
    code = ('import numpy as np, sys\n'
        'from test_als import *\nfrom fastcollab.kernels import tiles\nassert tiles.LANES==8\n'
        'args,ridge = problem(50, 300, 80)\nexact(*args, gram_of(args[4]), ridge, np.zeros(32, np.int64))\n'
        'np.save(sys.argv[1], args[5])')
    env = {**os.environ, 'NUMBA_CPU_NAME':'generic', 'NUMBA_CPU_FEATURES':'', 'NUMBA_CACHE_DIR':str(tmp_path),
        'PYTHONPATH':str(Path(__file__).parents[2])}
    file = tmp_path/'x.npy'
    subprocess.run([sys.executable, '-c', code, file], check=True, cwd=Path(__file__).parent, env=env)
    args,ridge = problem(50, 300, 80)
    want = by_numpy(*args, ridge)
    assert np.allclose(np.load(file), want, atol=1e-3*abs(want).max())
