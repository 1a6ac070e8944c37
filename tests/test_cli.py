"The command as people type it: what it prints, and what it leaves behind"
import sys
from importlib.metadata import version

import matplotlib.image, numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from fastcollab.all import DotProductBias, RandomSplitter, collab_learner
from fastcollab.cli import ARCHS, _top_items, main

def run(monkeypatch, capsys, *args):
    "What `fastcollab ARGS` prints"
    monkeypatch.setattr(sys, 'argv', ['fastcollab', *map(str, args)])
    main()
    return capsys.readouterr().out

@pytest.fixture
def csv(ratings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ratings.to_csv('r.csv', index=False)
    ratings.astype(dict(title=str, genres=str)).to_parquet('r.parquet')
    return 'r.csv'

@pytest.mark.filterwarnings('ignore:load_learner')
@pytest.mark.parametrize('arch', ARCHS)
def test_train_leaves_a_learner(csv, ratings, monkeypatch, capsys, tmp_path, arch):
    "Files, the table of the fit, and a learner that predicts what the fit measured"
    genres = ('--genres','genres') if arch.startswith('Genre') else ()
    said = run(monkeypatch, capsys, 'train', csv, '--item', 'title', '--epochs', 2, '--lr', .02, '--factors', 6, '--arch', arch, '--out', 'a/b', *genres)
    assert sorted(o.name for o in (tmp_path/'a/b').iterdir()) == ['history.csv','items.png','learner.pkl','loss.png']
    table = pd.read_csv(tmp_path/'a/b/history.csv')
    assert list(table) == ['epoch','train_loss','valid_loss','valid_rmse','global mean','user + item bias'] and len(table)==2
    assert f'{table.valid_rmse.iloc[-1]:.4f}' in said and arch in said and 'a/b' in said
    for o in ('loss.png','items.png'): assert matplotlib.image.imread(tmp_path/'a/b'/o).std() > .01      # something is drawn
    learn = load_learner(tmp_path/'a/b/learner.pkl')
    held = ratings.iloc[RandomSplitter(.2, 42)(ratings)[1]]
    assert np.isclose(np.sqrt(np.mean((learn.predict(held)-held.rating)**2)), table.valid_rmse.iloc[-1], atol=1e-4)

def test_same_seed_same_table(csv, monkeypatch, capsys):
    a,b,c,p = (run(monkeypatch, capsys, 'train', f, '--epochs', 1, '--factors', 4, '--seed', s) for f,s in ((csv,1),(csv,1),(csv,2),('r.parquet',1)))
    assert a==b==p and a!=c

def test_nothing_is_written_without_out(csv, monkeypatch, capsys, tmp_path):
    run(monkeypatch, capsys, 'train', csv, '--epochs', 1, '--factors', 4)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['r.csv','r.parquet']

def test_vectors_of_length_one(csv, monkeypatch, capsys):
    assert 'items.png' in run(monkeypatch, capsys, 'train', csv, '--epochs', 1, '--factors', 1, '--out', 'out')

def test_help(monkeypatch, capsys):
    for args in ([], ['--help']): assert all(o in run(monkeypatch, capsys, *args) for o in ('demo','train'))
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, 'train', '--help')
    said = ' '.join(capsys.readouterr().out.split())
    assert e.value.code==0
    for o in ('epochs (int) Passes over the training part (default: 5)','(default: 0.005)','(default: 0.1)','(default: 50)','DotProductBias','(default: 64)','(default: 42)'):
        assert o in said, o

def test_demo(monkeypatch, capsys, tmp_path):
    "The fit beside its baselines and the truth, a list for one user, the most and least liked, four files"
    said = run(monkeypatch, capsys, 'demo', '--out', tmp_path/'demo')
    for o in ('valid_rmse','global mean','user + item bias','truth behind the ratings','Top 10 for user','Most and least liked'): assert o in said
    table = pd.read_csv(tmp_path/'demo/history.csv')
    assert table.valid_rmse.iloc[-1] < table['user + item bias'].iloc[-1] < table['global mean'].iloc[-1]
    top = said[said.index('Top 10'):said.index('Most and least')].strip().splitlines()[2:]
    scores = [float(o.split(')')[1].split()[0]) for o in top]
    assert len(top)==10 and scores==sorted(scores, reverse=True) and scores[0]<=5.5
    assert sorted(o.name for o in (tmp_path/'demo').iterdir()) == ['history.csv','items.png','learner.pkl','loss.png']

def test_top_items_leaves_out_what_was_seen(dls):
    learn = collab_learner(dls, arch=DotProductBias.from_dls(dls, n_factors=3))
    for user in (1, 7):
        seen = set(dls.train_ds.items.query('userId==@user').title)
        top = _top_items(learn, user, 1000)
        assert set(top.title) == set(dls.classes['title'][1:])-seen
        assert np.allclose(top.predicted, learn.predict(user, list(top.title)), atol=1e-5)

def test_version(): assert version('fastcollab') == __import__('fastcollab').__version__

@pytest.mark.data
def test_train_on_a_movielens_set(data_dir, monkeypatch, capsys):
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    said = run(monkeypatch, capsys, 'train', 'ml-100k', '--epochs', 1, '--bs', 2048, '--lr', .01, '--factors', 8)
    assert '80,000 ratings of 943 users' in said
