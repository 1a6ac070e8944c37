"What numba keeps on disk: whatever happens to the files, functions work, and there is one warning"
import os, time, warnings
from pathlib import Path

import numba, numpy as np, pytest
from fastcollab.kernels import compile,jit
from fastcollab.kernels.compile import njit
from fastcollab.kernels.jit import CALLED,compiling

def double(x): return 2*x

@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A folder that numba keeps functions in, with one of them, for a whole number"
    monkeypatch.setattr(numba.config, 'CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(compile, '_warned', [])
    assert njit(**CALLED)(double)(2)==4 and len(kept(tmp_path))==2
    return tmp_path

def kept(folder): return sorted(o for o in Path(folder).rglob('*.nb?'))
def hits(f): return sum(f.stats.cache_hits.values())

def asked(*values):
    "What a new dispatcher says of `values`, how many of them it found on disk, and what it warned of"
    f = njit(**CALLED)(double)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        res = [f(o) for o in values]
    return res,hits(f),[str(o.message) for o in caught if 'compiled loops on disk' in str(o.message)]

def test_whole_files_are_used(folder): assert asked(3)==([6],1,[])

DAMAGE = dict(cut=lambda o: o[:len(o)//2], empty=lambda o: b'', nearly=lambda o: o[:-1], zeros=lambda o: bytes(len(o)),
    other=lambda o: b'not a pickle', pickle=lambda o: b'\x80\x04K\x01.')

@pytest.mark.parametrize('suffix', ['.nbi','.nbc','.nb'])
@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_made_again(damage, suffix, folder):
    "The answer is right, one warning says what to do, and the next process finds whole files"
    for o in kept(folder):
        if suffix in o.name: o.write_bytes(damage(o.read_bytes()))
    res,found,said = asked(3, 4, 2.5)
    assert res==[6,8,5.] and found==0
    other_version = suffix!='.nbc' and damage is DAMAGE['pickle']       # numba takes this for one
    assert len(said)==(not other_version) and all('damaged' in o and 'NUMBA_CACHE_DIR' in o for o in said)
    assert asked(3, 2.5)==([6,5.],2,[])

def test_a_file_of_another_signature(folder):
    "Two processes that began at the same time gave one file to both of their signatures"
    other = njit(**CALLED)(double)
    assert other(2.5)==5
    first,second = (o for o in kept(folder) if o.suffix=='.nbc')
    second.write_bytes(first.read_bytes())
    res,_,said = asked(3, 2.5)
    assert res==[6,5.] and len(said)==1
    assert asked(3, 2.5)[0]==[6,5.]

def test_a_full_disk(folder):
    "Nothing can be written: functions are compiled in the process, with one warning"
    resource = pytest.importorskip('resource')
    soft,hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16,hard))
        res,found,said = asked(2.5, np.float32(1))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft,hard))
    assert res==[5.,2.] and not found and len(said)==1
    assert asked(2.5)[0]==[5.]

def test_files_that_go_away(folder):
    "Somebody clears the cache of a process that runs"
    for o in kept(folder): os.unlink(o)
    assert asked(2)==([4],0,[])

def test_only_a_compilation_is_announced(monkeypatch, capsys):
    "Not long work on loops that are there already"
    monkeypatch.setattr(jit, '_PATIENCE', .05)
    half = njit(lambda x: x/2)
    def work():
        with compiling():
            half(3)
            time.sleep(.2)
        return capsys.readouterr().err
    assert 'compiling its loops' in work() and work()==''
