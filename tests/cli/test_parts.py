"A folder of lists: shared by processes, finished by a second run, never mixed"
import subprocess, sys

import pandas as pd, pytest
from pandas.testing import assert_frame_equal
import fastcollab.cli.recommend as module
from fastcollab.cli.main import main
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.recommend.recommender import Recommender
from fastcollab.train.learner import collab_learner

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A recommender of 200 users, fitted once"
    learn = collab_learner(CollabDataLoaders.from_df(synthetic_ratings(200, 100, 5000), seed=0, bs=512), 5)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .01)
    path = tmp_path_factory.mktemp('parts')/'model'
    learn.recommender().save(path)
    return path

def recommend(model, out, *options):
    "Run the command in this process"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(sys, 'argv', ['fastcollab','recommend',str(model),'--all','--out',str(out),'--block','60',*options])
        main()

@pytest.mark.slow
def test_two_processes_write_what_one_would(model, tmp_path, capsys):
    "The union equals a single call to the last digit, and a run after that finds everything done"
    args = '-m','torch.distributed.run','--nproc_per_node','2','-m','fastcollab.cli','recommend',str(model),'--all'
    done = subprocess.run([sys.executable, *args, '--out', 'top', '--block', '60', '-k', '4'], cwd=tmp_path,
        capture_output=True, text=True, timeout=100)
    assert done.returncode==0, done.stderr
    assert {f'process {o} of 2' in done.stdout for o in (1,2)} == {True}
    assert_frame_equal(pd.read_parquet(tmp_path/'top'), Recommender.load(model).recommend(k=4))
    recommend(model, tmp_path/'top', '-k', '4')
    assert '0 parts written, 4 were there' in capsys.readouterr().out

def test_a_second_run_makes_what_is_missing(model, tmp_path, capsys):
    recommend(model, tmp_path/'top')
    before = {o:o.stat().st_mtime_ns for o in (tmp_path/'top').glob('part-*')}
    (tmp_path/'top/part-00002.parquet').unlink()
    capsys.readouterr()
    recommend(model, tmp_path/'top')
    assert '1 parts written, 3 were there' in capsys.readouterr().out
    assert {o.name for o,t in before.items() if o.stat().st_mtime_ns!=t} == {'part-00002.parquet'}
    assert_frame_equal(pd.read_parquet(tmp_path/'top'), Recommender.load(model).recommend())

def test_other_options_and_other_files_are_errors(model, tmp_path):
    "One line that names what differs, and nothing is written"
    recommend(model, tmp_path/'top')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(SystemExit, match='top holds lists with seen False, not True'):
        recommend(model, tmp_path/'top', '--seen')
    with pytest.raises(SystemExit, match='holds other files, e.g. top; name a new folder'): recommend(model, tmp_path)
    assert sorted(tmp_path.rglob('*')) == before

def test_lists_of_another_recommender_stay_apart(model, tmp_path):
    rec = Recommender.load(model)
    rec.fold_in(pd.DataFrame(dict(userId=[999]*2, movieId=rec.ids[1][:2], rating=[4.,5.]))).save(tmp_path/'other')
    recommend(model, tmp_path/'top')
    with pytest.raises(SystemExit, match='lists of another recommender'): recommend(tmp_path/'other', tmp_path/'top')

def test_an_unreadable_part_is_an_error(model, tmp_path):
    recommend(model, tmp_path/'top')
    (tmp_path/'top/part-00001.parquet').write_bytes(b'PAR1 half a file')
    with pytest.raises(SystemExit, match='part-00001.parquet cannot be read: .*; remove it and run again'):
        recommend(model, tmp_path/'top')

def test_a_full_disk_leaves_no_half_part(model, tmp_path, monkeypatch):
    class Full(module.ParquetWriter):
        def write_table(self, *args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(module, 'ParquetWriter', Full)
    with pytest.raises(SystemExit, match='No space left on device'): recommend(model, tmp_path/'top')
    assert [o.name for o in (tmp_path/'top').iterdir()] == ['_lists.json']
    monkeypatch.undo()
    recommend(model, tmp_path/'top')
    assert len([*(tmp_path/'top').glob('part-*')]) == 4

def test_processes_share_folders_only(model, monkeypatch, tmp_path):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(SystemExit, match='2 processes share the lists of --all --out FOLDER'):
        recommend(model, tmp_path/'top.csv')

@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    "A function that trains with some options, and returns what was printed"
    monkeypatch.chdir(tmp_path)
    synthetic_ratings(200, 100, 5000, seed=0).to_csv('r.csv', index=False)
    def f(*options):
        monkeypatch.setattr(sys, 'argv', 'fastcollab train r.csv --epochs 2 --factors 4 --bs 512'.split()+[*options])
        main()
        return capsys.readouterr().out
    return f

def test_train_resumes_from_a_checkpoint(train, monkeypatch):
    "A finished run has nothing left to do: the table is the same, and nothing is trained"
    monkeypatch.setenv('WORLD_SIZE', '1')   # as `torchrun --nproc_per_node 1`
    plain,first = train(),train('--distributed', '--out', 'model')
    assert first.splitlines()[:5]==plain.splitlines()[:5]
    again = train('--distributed', '--out', 'model', '--resume')
    assert again.splitlines()[:5]==plain.splitlines()[:5]
    with pytest.raises(SystemExit, match='--resume continues a run of --distributed --out DIR'): train('--resume')

def test_processes_that_would_train_the_same_are_an_error(train, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(SystemExit, match='torchrun started 2 processes that would train the same'): train()

def test_distributed_without_torchrun_is_an_error(train, tmp_path):
    "It shows the line to type, and nothing is written"
    with pytest.raises(SystemExit, match='torchrun --nproc_per_node 2 -m fastcollab.cli train r.csv --distributed'):
        train('--distributed', '--out', 'model')
    assert [o.name for o in tmp_path.iterdir()]==['r.csv']
