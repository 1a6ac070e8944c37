"What a system may lack: functions by other names, memory of its own, files in UTF-8"
import ast, ctypes, subprocess, sys, textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest
from fastcollab.kernels import jit, threads

ROOT = Path(__file__).parents[2]

def address(f): return ctypes.cast(f, ctypes.c_void_p).value

def test_windows_has_another_function(monkeypatch):
    "`SwitchToThread` of kernel32; where a system has neither, Python's sleep"
    ours,asked = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1),[]
    def library(name):
        asked.append(name)
        return SimpleNamespace(**{'SwitchToThread' if name else 'sched_yield':ours})
    monkeypatch.setattr(threads.ctypes, 'CDLL', library)
    monkeypatch.setattr(threads, 'os', SimpleNamespace(name='nt'))
    assert threads.yield_address()==address(ours) and asked==['kernel32']
    monkeypatch.setattr(threads, 'os', SimpleNamespace(name='posix'))
    assert threads.yield_address()==address(ours) and asked==['kernel32',None]
    monkeypatch.setattr(threads.ctypes, 'CDLL', lambda name: SimpleNamespace())
    assert threads.yield_address()==address(threads._sleep)
    def missing(name): raise OSError
    monkeypatch.setattr(threads.ctypes, 'CDLL', missing)
    assert threads.yield_address()==address(threads._sleep)

MEET = """
    import ctypes
    from concurrent.futures import ThreadPoolExecutor
    import numpy as np
    from numba import njit
    def missing(name): raise OSError
    whole,ctypes.CDLL = ctypes.CDLL,missing
    from fastcollab.kernels import threads
    ctypes.CDLL = whole
    assert threads.yield_address()!=ctypes.cast(threads._sleep, ctypes.c_void_p).value
    @njit(nogil=True)
    def meet(sync, n_threads, n):
        done = 0
        while done<n and threads_wait(sync, n_threads): done += 1
        return done
    threads_wait = threads.wait
    sync = np.zeros(32, np.int64)
    with ThreadPoolExecutor(3) as pool: print(*pool.map(lambda _: meet(sync, 3, 50), range(3)))
"""
def test_threads_meet_without_the_function_of_the_system():
    res = subprocess.run([sys.executable, '-c', textwrap.dedent(MEET)], capture_output=True, text=True, timeout=300)
    assert res.stdout.split()==['50']*3, res.stderr[-2000:]

@pytest.mark.parametrize('error', [OSError, ValueError])
def test_memory_without_pages_of_its_own(monkeypatch, error):
    def missing(*args): raise error
    monkeypatch.setattr(jit.mmap, 'mmap', missing)
    a = jit.pages(3, 5)
    a[:] = 1
    assert a.dtype==np.float32 and a.shape==(3,5) and jit.pages(0, 3).shape==(0,3)

def text_files(path):
    "Lines that read or write text without saying in which encoding"
    for node in ast.walk(ast.parse(path.read_text(encoding='utf8'))):
        if not isinstance(node, ast.Call) or any(o.arg=='encoding' for o in node.keywords): continue
        name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
        modes = [o.value for o in [*node.args, *(k.value for k in node.keywords if k.arg=='mode')]
            if isinstance(o, ast.Constant) and isinstance(o.value, str) and set(o.value)<=set('rwxabt+')]
        binary = any('b' in o for o in modes)
        if name in ('read_text','write_text') or name=='open' and isinstance(node.func, ast.Name) and not binary:
            yield node.lineno

def test_every_text_file_has_an_encoding():
    "Without it, Windows takes that of the country"
    files = [*(ROOT/'fastcollab').rglob('*.py'), *(ROOT/'tools').glob('*.py')]
    assert len(files)>50 and {o.name:list(text_files(o)) for o in files if list(text_files(o))}=={}

def test_no_path_or_system_is_taken_for_granted():
    "What only some systems have stands in the two modules that ask for it"
    words = ('/proc/','sched_yield','sched_getaffinity','sys.platform','os.name','os.fork','/tmp','getpwuid','locale.')
    found = {(o.name,w) for o in (ROOT/'fastcollab').rglob('*.py') for w in words
        if w in o.read_text(encoding='utf8') and o.name!='_modidx.py'}
    assert {o for o,_ in found}<={'cores.py','threads.py'}
