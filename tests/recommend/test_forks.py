"A recommender in forked and spawned processes: a server that loads it and then forks its workers doesn't hang"
import os, signal, subprocess, sys, textwrap

import pytest

MADE = """
    import multiprocessing, os, sys, tempfile, time, warnings
    warnings.simplefilter('ignore')
    import numpy as np, pandas as pd, torch
    from fastcollab.recommend.base import Factors, FoldTerms, Link
    from fastcollab.recommend.history import UserHistory
    from fastcollab.recommend.recommender import Recommender
    from fastcollab.recommend.scorers import DotScorer, NetScorer

    def made(net=False, n=240, m=200, k=16):   # products large enough for threads
        g = torch.Generator().manual_seed(0)
        U,M = .1*torch.randn(n+1, k, generator=g),.1*torch.randn(m+1, k, generator=g)
        u,i = (torch.randint(1, o+1, (3000,), generator=g) for o in (n,m))
        pairs = torch.unique(1000*u+i)
        history = UserHistory.from_ratings(pairs//1000, pairs%1000, 1.+pairs%5, n+1)
        items = pd.DataFrame(dict(item=range(m), title=[f'title {o}' for o in range(m)]))
        layers = ['ReLU', (torch.randn(1, k, generator=g),torch.zeros(1))]
        scorer = NetScorer(U, M, layers, Link((0.,5.5)), (U,M)) if net else DotScorer(
            Factors(U[:,1:], U[:,0]), Factors(M[:,1:], M[:,0]), Link((0.,5.5)))
        terms = (None,None) if net else (FoldTerms(),FoldTerms())
        return Recommender(scorer, (pd.RangeIndex(n),pd.RangeIndex(m)), ('user','item','rating'), items, history, terms,
            (1.,5.))

    def answers(rec):
        "What every door says, as text"
        users = np.arange(len(rec.ids[0]))
        res = [rec.recommend(k=3), rec.recommend(7), rec.predict(users, users%100), rec.similar_items(3),
            rec.similar_users(3)]
        with tempfile.TemporaryDirectory() as d:
            rec.save(d)
            res.append(Recommender.load(d).recommend(1))
        if rec.terms[0] is not None:
            stars = [1.,5.]*10
            new = pd.DataFrame(dict(user=[-1]*20, item=range(20), rating=stars))
            res += [rec.fold_in(new).recommend(-1), rec.explain(3, 5), rec.queries(users)]
            new = pd.DataFrame(dict(user=range(20), item=[-1]*20, rating=stars))
            res.append(rec.fold_in_items(new).recommend(3))
        return [o.to_csv() if isinstance(o, pd.DataFrame) else repr(np.asarray(o).tolist()) for o in res]

    def work(net): return answers(made(net))
    def busy():
        torch.set_num_threads(2)
        torch.randn(900, 900)@torch.randn(900, 900)         # OpenMP has threads now, which no fork has
"""
FORK = """
    busy()
    for net in (False,True):
        rec = made(net)                                 # gunicorn --preload: first the application, then the workers
        want,workers = answers(rec),[]
        for _ in range(2):
            pid = os.fork()
            if not pid: os._exit(0 if answers(rec)==want and torch.get_num_threads()==1 else 3)
            workers.append(pid)
        print(*(os.waitstatus_to_exitcode(os.waitpid(o, 0)[1]) for o in workers))
    assert torch.get_num_threads()==2
"""
POOLS = """
    if __name__=='__main__':
        busy()
        want = work(False)
        for kind,n in dict(fork=2, spawn=1).items():
            with multiprocessing.get_context(kind).Pool(n) as pool: print(int(pool.map(work, [False]*n)==[want]*n))
"""

def printed(path, text):
    "What a script prints; it and its children are killed when they take too long"
    path.write_text(textwrap.dedent(text))
    env = {**os.environ, 'OMP_NUM_THREADS':'2'}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    p = subprocess.Popen([sys.executable, str(path)], **pipes, text=True, env=env, start_new_session=True)
    try: out,err = p.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        pytest.fail(f'it hangs; so far: {p.communicate()}')
    assert p.returncode==0, err[-2000:]
    return out.split()

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork here')

@needs_fork
def test_workers_that_a_server_forks(tmp_path):
    "Torch has two threads in the parent: all doors answer in the children, the same, in one thread"
    assert printed(tmp_path/'server.py', MADE+FORK)==['0']*4

@needs_fork
@pytest.mark.slow
def test_pools(tmp_path):
    "multiprocessing by fork and by spawn"
    pytest.importorskip('joblib')
    assert printed(tmp_path/'pools.py', MADE+POOLS)==['1']*2
