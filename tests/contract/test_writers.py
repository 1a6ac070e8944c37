"Every writer, with a disk that is full and killed at any moment: the older file stays whole, or the new one is"
import errno, hashlib, multiprocessing, os, resource, signal
from pathlib import Path

import matplotlib.pyplot as plt, pandas as pd, pytest, torch
from fastai.callback.tracker import SaveModelCallback
from fastcollab.all import CollabDataLoaders, collab_learner, synthetic_ratings
from fastcollab.cli.fit import write_results
from fastcollab.cli.recommend import write_lists
from fastcollab.interpret.item_map import write_page
from fastcollab.recommend.artifact import write_onnx
from fastcollab.writing import write_csv

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork here')
FRAME = synthetic_ratings(60, 40, 900, seed=1)

def quiet(learn, n, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n, 5e-3, **kwargs)

@pytest.fixture(scope='module')
def learn():
    res = collab_learner(CollabDataLoaders.from_df(FRAME, seed=1), n_factors=40)
    quiet(res, 1)
    return res

class Program:
    "What an export to ONNX gives, without the export, which takes seconds"
    def save(self, path): Path(path).write_bytes(b'onnx'*20_000)

def onnx(learn):
    torch.onnx.export,old = lambda *args, **kwargs: Program(),torch.onnx.export
    try: write_onnx('m.onnx', torch.nn.Linear(2, 2))
    finally: torch.onnx.export = old
def page(learn): write_page('map.html', 'page'*20_000)
def tracked(learn): quiet(learn, 1, cbs=SaveModelCallback())
def results(learn): write_results(learn, pd.DataFrame(dict(a=range(3))), 'out')
def many(learn): return [pd.DataFrame(dict(a=range(20_000)))]*2
WRITERS = dict(save=lambda o: o.save('m'), export=lambda o: o.export('e.pkl'), callback=tracked,
    recommender=lambda o: o.recommender().save('rec'), onnx=onnx, page=page, results=results,
    csv=lambda o: write_csv(many(o)[0], 'a.csv'), lists=lambda o: write_lists(many(o), Path('b.csv')),
    parquet=lambda o: write_lists(many(o), Path('b.parquet')))

def files():
    "The files here by name, what hidden ones of killed writers hold left out"
    all_ = [o for o in Path('.').rglob('*') if o.is_file() and not any(p.startswith('.') for p in o.parts)]
    return {str(o):hashlib.sha256(o.read_bytes()).hexdigest() for o in all_}

def in_child(f):
    "Run `f` in a child; its exit code, negative for a signal"
    def run():
        plt.close('all')
        os._exit(f() or 0)
    child = multiprocessing.get_context('fork').Process(target=run)
    child.start()
    child.join(60)
    assert child.exitcode is not None, 'the child hangs'
    return child.exitcode

def full(write, learn, most):
    "0 if the writer says that no file can be larger than `most` bytes"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most,most))
    before = learn.dls,learn.opt
    try: write(learn)
    except OSError as e:
        said = e.errno==errno.EFBIG or 'full' in str(e)
        return 0 if said and before==(learn.dls,learn.opt) and len(learn.dls.train_ds) else 2
    return 3

@pytest.mark.parametrize('name', WRITERS)
def test_a_full_disk(name, learn, tmp_path, monkeypatch):
    "An `OSError`, the older files as they were, and nothing beside them"
    monkeypatch.chdir(tmp_path)
    WRITERS[name](learn)
    before = files()
    everything = {str(o) for o in Path('.').rglob('*')}
    largest = max(Path(o).stat().st_size for o in before)
    assert in_child(lambda: full(WRITERS[name], learn, largest//2))==0
    assert files().keys()==before.keys()
    if name!='results': assert files()==before and {str(o) for o in Path('.').rglob('*')}==everything

def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
MOMENTS = dict(written=(os, 'fsync'), named=(os, 'replace'))

@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize('name', WRITERS)
def test_killed_before_a_step(name, moment, learn, tmp_path, monkeypatch):
    "Killed before the new file is on the disk, or before it has its name: the older files are as they were"
    monkeypatch.chdir(tmp_path)
    WRITERS[name](learn)
    before = files()
    def f():
        setattr(*MOMENTS[moment], die)
        WRITERS[name](learn)
    assert in_child(f)==-signal.SIGKILL
    assert files()==before or name=='recommender' and before.items()<=files().items()
