"One fit in several processes: the numbers of a single one, and what happens when one of them is lost"
import json, os, subprocess, sys
from pathlib import Path

import pytest, torch
from hypothesis import given,settings,strategies as st
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.ranks import Place
from fastcollab.train.distributed import Ranks,Share,own_batches,user_ranges
from fastcollab.train.learner import collab_learner

SCRIPT = Path(__file__).with_name('together.py')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Where both processes leave what they found; one start for all of it"
    out = tmp_path_factory.mktemp('together')
    args = [sys.executable, SCRIPT, 'equal', 'die', 'lost', 'grow:1', 'grow:2', 'grow:3', out]
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, timeout=500,
        env={**os.environ, 'OMP_NUM_THREADS':'1', 'PYTHONUNBUFFERED':'1'})
    assert done.returncode==0, done.stderr[-3000:]
    assert done.stdout.count('[2, ')==6   # the last row of each table, printed once
    return out

@pytest.fixture(scope='module')
def results(folder):
    "What both processes measured"
    return [json.loads((folder/f'equal/{o}.json').read_text()) for o in range(2)]

@pytest.mark.slow
@pytest.mark.parametrize('kind', ('ratings','genres','torch','net','clicks'))
def test_two_processes_give_the_numbers_of_one(results, kind):
    "Losses, metrics, weights, moments and predictions, in the compiled loop and in torch, from other first weights"
    for res in results: assert {k:v for k,v in res[kind].items() if v>1e-5} == {}

@pytest.mark.slow
def test_each_has_half_of_the_rows(results):
    assert sum(o['share'] for o in results)==1
    assert all(abs(o['share']-.5)<.02 for o in results)

@pytest.mark.slow
def test_predictions_keep_their_order(results): assert [o['order'] for o in results] == [0,0]

@pytest.mark.slow
def test_what_cannot_be_shared_is_an_error(results):
    "On all processes, so that none waits for the others"
    for o in results:
        assert 'before learn.distributed()' in o['lr_find'] and 'solvers work in one process' in o['als']
        assert 'processes differ in rows, e.g. ' in o['other'] and 'give the loaders a seed' in o['other']

@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_stops_all(results):
    "At the same step, before any weight of another user or item takes part in it"
    a,b = (o['spoilt'] for o in results)
    assert a==b and a.startswith('the loss is nan in epoch 1, step ') and a.endswith('No weight was changed by it')
    assert all(o['kept'] for o in results)

@pytest.mark.slow
def test_a_hung_process_ends_the_fit(results):
    assert 'process 1 of 2 lost the others, or waited for them for 2 s' in results[0]['hung']
    assert 'resume=True' in results[0]['hung']

@pytest.mark.slow
def test_a_killed_process_starts_again(folder):
    "torchrun restarts both, and the fit ends as if nothing had happened"
    dls = CollabDataLoaders.from_df(synthetic_ratings(300, 80, 6000, seed=0), bs=512, val_bs=1024, seed=0)
    torch.manual_seed(1)
    values = json.loads((folder/'die/values.json').read_text())
    learn = collab_learner(dls, n_factors=8, unk_p=.1, path=folder/'die').load('fit')
    torch.testing.assert_close(torch.tensor(learn.validate()[0]), torch.tensor(values[-1][1]), atol=1e-5, rtol=0)
    assert len(values)==3

@pytest.mark.slow
def test_the_others_stop_when_one_is_killed(folder):
    "Within 30 seconds, by themselves, with a message"
    text,seconds = json.loads((folder/'lost/lost.json').read_text())
    assert seconds<30
    assert 'process 1 of 2 lost the others' in text and 'resume=True' in text

@pytest.mark.slow
def test_another_number_of_processes_goes_on(folder):
    "An epoch in one, the next in two, the last in three processes: the numbers of one fit in one process"
    for o in range(3): assert max(json.loads((folder/f'grow/{o}.json').read_text()).values())<1e-5

@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=4, max_size=60), st.integers(1, 4))
def test_ranges_cover_all_users(counts, size):
    "In order, without gaps; no part is off by more than the users at its ends"
    ends = user_ranges(torch.tensor([0,*counts]), size)
    assert ends[0]==1 and ends[-1]==len(counts)+1 and ends==sorted(ends) and len(ends)==size+1
    sums = [sum(counts[a-1:b-1]) for a,b in zip(ends, ends[1:])]
    assert max(abs(o-sum(counts)/size) for o in sums) <= max(counts)

def test_every_row_belongs_to_one_process():
    "In the order of an epoch, too"
    ds = CollabDataLoaders.from_df(synthetic_ratings(200, 60, 4000, seed=1), seed=0).train_ds
    shares,order = [Share(ds, Ranks(Place(o, 3))) for o in range(3)],torch.randperm(len(ds))
    assert sum(map(len, shares))==len(ds)
    parts = [own_batches(o, order, 100) for o in shares]
    assert sum(o.here.int() for o in parts).tolist() == [1]*len(ds)
    for share,o in zip(shares, parts): assert share.rows()[o.rows].tolist() == order[o.here].tolist()

def test_an_unexpected_world_size_is_an_error(monkeypatch):
    learn = collab_learner(CollabDataLoaders.from_df(synthetic_ratings(50, 30, 500), seed=0), 4)
    with pytest.raises(ValueError, match='world_size is 2, but torchrun started none; start them with'):
        with learn.distributed(world_size=2): pass
    monkeypatch.setenv('WORLD_SIZE', '3')
    with pytest.raises(ValueError, match='world_size is 2, but torchrun started 3'):
        with learn.distributed(world_size=2): pass
    with pytest.raises(ValueError, match='resume=True needs the name of a checkpoint'):
        with learn.distributed(resume=True): pass
    assert learn.ranks is None

def test_a_checkpoint_of_another_fit_is_an_error(tmp_path):
    ratings = synthetic_ratings(50, 30, 500, seed=0)
    def learner(n): return collab_learner(CollabDataLoaders.from_df(ratings[:n], seed=0, path=tmp_path), 4)
    def fit(learn, **kwargs):
        with learn.no_bar(), learn.no_logging(), learn.distributed(checkpoint='fit', **kwargs): learn.fit(1, .01)
    fit(learner(500))
    with pytest.raises(ValueError, match='fit.pth is from another fit: '): fit(learner(400), resume=True)
    learn = learner(500)
    with pytest.raises(ValueError, match='a checkpoint is for one fit'):
        with learn.no_bar(), learn.no_logging(), learn.distributed(checkpoint='fit'):
            for _ in range(2): learn.fit(1, .01)
