"Tables divided among processes: the numbers of row-wise Adagrad in one process, and what is missing is one error"
import json, os, re, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest, torch
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.train.learner import collab_learner
from fastcollab.train.sharding import load_torchrec,torchrec_version

SCRIPT = Path(__file__).with_name('together.py')
needs_torchrec = pytest.mark.skipif(not find_spec('torchrec'), reason='TorchRec is not installed')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Where processes leave what they measured"
    out = tmp_path_factory.mktemp('shard')
    args = [sys.executable, SCRIPT, 'shard', 'three:3', out]
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=500,
        env={**os.environ, 'OMP_NUM_THREADS':'1'})
    assert done.returncode==0, done.stderr[-3000:]
    return out/'shard'

@pytest.fixture(scope='module')
def results(folder): return [json.loads((folder/f'{o}.json').read_text()) for o in range(2)]

@needs_torchrec
@pytest.mark.slow
@pytest.mark.parametrize('kind', ('ratings','clicks','features'))
def test_two_processes_give_the_numbers_of_row_wise_adagrad(results, kind):
    "Losses, metrics, weights and learning rates, from other first weights; in one batch a process has no rows"
    for res in results: assert {k:v for k,v in res[kind].items() if v>1e-5} == {}
    assert results[0]['ratings rest']==1

@needs_torchrec
@pytest.mark.slow
@pytest.mark.parametrize('kind', ('ratings','clicks'))
def test_each_has_half_of_the_tables_while_it_trains(results, kind):
    "And nothing of the whole ones"
    held = [o[f'{kind} held'] for o in results]
    for side in range(2):
        assert sum(o[side] for o in held)==1
        assert all(abs(o[side]-.5)<.02 for o in held)
    assert [o[2] for o in held]==[0,0]

@needs_torchrec
@pytest.mark.slow
@pytest.mark.parametrize('plan', ('tables','auto'))
def test_the_plan_does_not_change_the_numbers(results, plan):
    "Whole tables in one process each, or what the planner says"
    assert all(o[plan]['preds']<1e-5 for o in results)
    held = [sum(shares) for shares in zip(*(o[plan]['held'] for o in results))]
    assert held==[1]*len(held)
    if plan=='tables': assert {share for o in results for share in o[plan]['held']}=={0,1}

@needs_torchrec
@pytest.mark.slow
def test_a_stopped_fit_goes_on(results):
    "Its tables are lost; a plain learner reads the checkpoint, another plan goes on with it, and whole tables don't"
    for o in results:
        assert o['stopped'] and o['plain'] and o['resumed']<1e-6 and o['recommends']==3
        assert 'its tables are shard, not replicate' in o['other']

@needs_torchrec
@pytest.mark.slow
def test_three_processes_go_on_where_two_were_stopped(folder):
    "Each with a third of the rows, and to the same predictions"
    res = [json.loads((folder/f'three{o}.json').read_text()) for o in range(3)]
    assert all(o['preds']<1e-5 for o in res)
    assert [sum(shares) for shares in zip(*(o['held'] for o in res))]==[1]*len(res[0]['held'])
    assert all(share<.4 for o in res for share in o['held'])

@needs_torchrec
@pytest.mark.slow
def test_what_cannot_be_sharded_is_an_error(results):
    "In all processes"
    for o in results:
        assert o['net']=="tables='shard' can't train this learner: CollabNN has no plan for the compiled loop"

def learner(): return collab_learner(CollabDataLoaders.from_df(synthetic_ratings(50, 30, 500), seed=0), 4)

def test_one_process_is_an_error():
    learn = learner()
    for kwargs,text in (({}, 'start them with: torchrun --nproc'), (dict(world_size=2), 'torchrun started none')):
        with pytest.raises(ValueError, match=text):
            with learn.distributed(tables='shard', **kwargs): pass
    with pytest.raises(ValueError, match="tables is 'shared'"):
        with learn.distributed(tables='shared'): pass
    with pytest.raises(ValueError, match="plan is 'columns'"):
        with learn.distributed(plan='columns'): pass
    with pytest.raises(ValueError, match="plan='tables' says how to shard; add tables='shard'"):
        with learn.distributed(plan='tables'): pass

def fake(monkeypatch, **versions):
    "Put empty modules in place of TorchRec and FBGEMM"
    for name in ('torchrec','fbgemm_gpu'):
        module = ModuleType(name)
        if name in versions: module.__version__ = versions[name]
        monkeypatch.setitem(sys.modules, name, module)

RIGHT = torchrec_version(torch.__version__)

@pytest.mark.parametrize('versions, found', [
    (dict(torchrec='1.2.0', fbgemm_gpu=f'{RIGHT}.0'), 'torchrec 1.2.0'),
    (dict(torchrec=f'{RIGHT}.0', fbgemm_gpu='1.2.0'), 'fbgemm_gpu 1.2.0'),
    (dict(torchrec='1.2.0'), "has no attribute '__version__'"),   # broken in another way
    (dict(torchrec=f'{RIGHT}.1', fbgemm_gpu=f'{RIGHT}.0'), 'No module named')])
def test_a_wrong_pair_is_one_error(monkeypatch, versions, found):
    "That says what to install"
    fake(monkeypatch, **versions)
    with pytest.raises(ImportError, match=re.escape(found)) as e: load_torchrec()
    assert f'pip install --no-deps torchrec=={RIGHT}.0 fbgemm-gpu-cpu=={RIGHT}.0, and then: pip install' in str(e.value)
    assert f'for torch {torch.__version__}' in str(e.value)

def test_a_missing_torchrec_is_the_same_error(monkeypatch):
    "Before a process meets the others"
    for name in ('torchrec','fbgemm_gpu'): monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv('WORLD_SIZE', '2')
    learn = learner()
    with pytest.raises(ImportError, match='pip install --no-deps torchrec=='):
        with learn.distributed(tables='shard'): pass
    assert learn.ranks is None and learn.lr==learner().lr

@pytest.mark.parametrize('torch_version, expected', [('2.13.0+cpu','1.8'), ('2.5.1','1.0')])
def test_the_pair_follows_torch(torch_version, expected): assert torchrec_version(torch_version)==expected
