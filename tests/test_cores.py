"One rule for threads: small steps run in one, large ones in as many as pay off and nobody else needs"
import os, subprocess, sys, textwrap, threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pytest, torch
from fastcollab import cores
from fastcollab.all import Adam, Callback, CollabNN, collab_learner
from fastcollab.cores import free_cores, limited, n_threads, others_running, wanted_threads
from fastcollab.train.loops import loop_threads, step_threads
from small import load, quiet
from threadpoolctl import threadpool_info

@pytest.fixture
def eight(monkeypatch):
    "A machine of eight cores with nobody on it, and torch may use all"
    before = torch.get_num_threads()
    for name,value in dict(cores=8, _running=1).items(): monkeypatch.setattr(cores, name, lambda value=value: value)
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    torch.set_num_threads(8)
    yield monkeypatch
    torch.set_num_threads(before)

def test_no_more_threads_than_pay_off_than_cores_and_than_free_ones(eight):
    assert [n_threads(o) for o in (0,.5,1,3.7,8,100)]==[1,1,1,3,8,8]
    torch.set_num_threads(4)
    assert n_threads(100)==4                                    # as OMP_NUM_THREADS or you say
    torch.set_num_threads(8)
    for running,free in ((1,8),(3,6),(8,1),(50,1)):
        eight.setattr(cores, '_running', lambda running=running: running)
        assert n_threads(100)==free_cores()==free
    looks = iter([9,9,1,9,9])
    eight.setattr(cores, '_running', lambda: next(looks))
    assert n_threads(100)==8                                    # who runs for a moment doesn't count
    eight.setattr(cores, 'cores', lambda: 2)
    eight.setattr(cores, '_running', lambda: 7)
    assert n_threads(100)==2                                    # a container with two cores of a machine with eight

def test_the_compiled_loop_takes_a_power_of_two(eight):
    assert [loop_threads(*o) for o in ((64,10**7),(8192,10**5),(8192,10**7),(1600,10**7))]==[1,1,8,2]

def test_quotas_and_systems(eight, tmp_path):
    "cgroups say what a container may use; systems without /proc/loadavg assume nobody else"
    eight.undo()
    class Files:
        text = None
        def __init__(self, path): pass
        def read_text(self, encoding):
            if self.text is None: raise FileNotFoundError
            return self.text
    eight.setattr(cores, 'Path', Files)
    assert cores._quota()==float('inf') and cores._running()==1 and others_running()==0
    for text,want in (('max 100000',float('inf')),('150000 100000',1.5),('',float('inf'))):
        Files.text = text
        assert cores._quota()==want
    Files.text = '150000 100000'
    assert cores.cores()==min(2, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())
    eight.delattr(os, 'sched_getaffinity', raising=False)       # as on macOS and Windows
    assert cores.cores()==min(2, os.cpu_count())
    for text,want in (('0.5 0.4 0.3 5/300 77',5),('0.00 0.00 0.00',1),('',1)):
        Files.text = text
        assert cores._running()==want

class Watch(Callback):
    "The threads of torch, and the most of any BLAS, in a batch and in validation"
    def __init__(self): self.seen = []
    def before_batch(self):
        blas = [o['num_threads'] for o in threadpool_info() if o['user_api']=='blas']
        self.seen.append((torch.get_num_threads(),max(blas)))

@pytest.mark.parametrize('kwargs', [dict(), dict(opt_func=Adam), dict(arch=CollabNN), dict(fused=False)], ids=range(4))
def test_small_steps_run_in_one_thread(eight, kwargs):
    "Whatever torch may use, in training and in validation; afterwards all is as before, after an error too"
    watch = Watch()
    learn = collab_learner(load(), n_factors=4, y_range=(0,5.5), cbs=watch, **kwargs)
    quiet(learn, 1)
    with learn.no_bar(): learn.validate()
    assert watch.seen and set(watch.seen)=={(1,1)} and torch.get_num_threads()==8
    def fail(): raise ZeroDivisionError('now')
    watch.before_batch = fail
    with pytest.raises(ZeroDivisionError): quiet(learn, 1)
    assert torch.get_num_threads()==8

def test_large_steps_run_in_several(eight):
    "Steps of many millions of numbers: large batches, and dense optimizers over large tables"
    learn = collab_learner(load(), n_factors=4, y_range=(0,5.5))
    learn.create_opt()
    assert step_threads(learn)==1
    learn.dls.train.bs = 2**22
    assert step_threads(learn)==8
    learn.dls.train.bs = 64
    learn.model.register_parameter('big', torch.nn.Parameter(torch.zeros(2**22)))
    assert step_threads(learn)==1
    learn.opt_func,learn.opt = Adam,None
    learn.create_opt()
    assert step_threads(learn)==2

def test_threads_of_a_server(eight):
    "Fits and answers in many threads at once: each restores what was before the first, for all of them"
    learn = collab_learner(load(), n_factors=4, y_range=(0,5.5))
    rec,start = learn.recommender(),threading.Barrier(6)
    want = rec.recommend(k=3)
    def ask(k):
        start.wait()
        mine = collab_learner(load(), n_factors=4, y_range=(0,5.5)) if k%3==0 else None
        for _ in range(5):
            if mine: mine.predict([1,2], [3,4])
            else: assert rec.recommend(k=3).equals(want)
        return torch.get_num_threads()
    with ThreadPoolExecutor(6) as pool: assert set(pool.map(ask, range(6)))=={8}
    assert torch.get_num_threads()==8 and wanted_threads()==8 and cores._state().inside==0

def test_limits_nest(eight):
    with limited(4):
        assert torch.get_num_threads()==4 and wanted_threads()==8
        with limited(): assert torch.get_num_threads()==1
        with limited(6): assert torch.get_num_threads()==4
        assert torch.get_num_threads()==4 and n_threads(100)==8
    assert torch.get_num_threads()==8

FORKED = """
    import os, warnings, torch
    warnings.simplefilter('ignore')
    from fastcollab.all import *
    from fastcollab.cores import limited, n_threads, wanted_threads
    torch.set_num_threads(2)
    torch.randn(2000, 2000)@torch.randn(2000, 2000)     # OpenMP has threads now, which no fork has
    def fit(epochs=1):
        learn = collab_learner(CollabDataLoaders.from_df(synthetic_ratings(50, 60, 1000), seed=1), opt_func=Adam)
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
        return len(learn.recommend(k=3))
    with limited(): fit(0)                              # some versions of torch can't differentiate after a fork
    pid = os.fork()
    if not pid: os._exit(0 if wanted_threads()==1 and n_threads(9)==1 and fit()==150 else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), fit())
"""
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork here')
def test_after_fork():
    "A forked process works in one thread and doesn't wait for those of OpenMP"
    res = subprocess.run([sys.executable, '-c', textwrap.dedent(FORKED)], capture_output=True, text=True, timeout=240)
    assert res.stdout.split()==['0','150'], res.stderr[-2000:]

def test_joblib(tmp_path):
    "Workers of joblib and threads of joblib give the same as no joblib"
    joblib = pytest.importorskip('joblib')
    assert joblib.Parallel(2, backend='threading')(joblib.delayed(fitted)(o) for o in (1,2))==[fitted(1),fitted(2)]

def fitted(seed):
    torch.manual_seed(1)                                        # the generator is one for all threads
    rec = collab_learner(load(seed=seed), n_factors=4, y_range=(0,5.5)).recommender()
    return int(np.asarray(rec.recommend(k=3)['rank']).sum())

LOKY = """
    import warnings
    warnings.simplefilter('ignore')
    import joblib
    def asked(k):
        import torch
        from fastcollab.cores import limited, n_threads, wanted_threads
        with limited(): inside = torch.get_num_threads(),wanted_threads()
        return inside[0],inside[1]==torch.get_num_threads(),n_threads(.5),n_threads(100)<=wanted_threads()
    print(*set(joblib.Parallel(2)(joblib.delayed(asked)(o) for o in range(4))))
"""
@pytest.mark.slow   # three processes import torch
def test_processes_of_joblib():
    "A worker of loky, a new process that says how many threads it may have, keeps the rule for itself"
    pytest.importorskip('joblib')
    res = subprocess.run([sys.executable, '-c', textwrap.dedent(LOKY)], capture_output=True, text=True, timeout=240)
    assert res.stdout.strip()=='(1, True, 1, True)', res.stderr[-2000:]

def test_threads_limit_blas_one_after_the_other():
    "threadpoolctl lets only the first thread set OpenBLAS; who is limited first and who ends last makes no difference"
    def blas(): return {o['num_threads'] for o in threadpool_info() if o['user_api']=='blas'}
    before,inside,out = blas(),threading.Event(),threading.Event()
    def other():
        with limited():
            inside.set()
            assert out.wait(20)
            return blas()
    with limited(): assert blas()=={1}
    with ThreadPoolExecutor(1) as pool:
        with limited():
            last = pool.submit(other)
            assert inside.wait(20)
        out.set()
        assert last.result()=={1} and blas()==before

def test_a_kernel_works_in_another_thread(eight):
    "Where cells run in a thread that isn't the first, as in a notebook, fits are limited, and all is as before"
    def cell():
        watch = Watch()
        learn = collab_learner(load(), n_factors=4, y_range=(0,5.5), cbs=watch, fused=False)
        quiet(learn, 1)
        return set(watch.seen),torch.get_num_threads(),cores._state().inside
    with ThreadPoolExecutor(1) as pool: assert pool.submit(cell).result()==({(1,1)},8,0)
    assert torch.get_num_threads()==8 and wanted_threads()==8
