"Writers leave the older file and the learner as they were, whatever goes wrong"
import numpy as np, pytest, torch
from fastcollab.all import CollabDataLoaders, collab_learner, load_learner, synthetic_ratings
from fastcollab.writing import replacing

FRAME = synthetic_ratings(60, 40, 900, seed=1)
def fitted(path):
    learn = collab_learner(CollabDataLoaders.from_df(FRAME, seed=1), n_factors=4, path=path)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 5e-3)
    return learn

def failing(error):
    "A `torch.save` that fails when half of the bytes are written"
    def save(obj, f, *args, **kwargs):
        if hasattr(f, 'write'): f.write(b'half')
        else: f.write_bytes(b'half')
        raise error
    return save

WRITERS = dict(save=(lambda o: o.save('m'), 'models/m.pth'), export=(lambda o: o.export(), 'export.pkl'))

FULL = OSError(28, 'No space left on device')

@pytest.mark.parametrize('error', [FULL,KeyboardInterrupt()], ids=['full','interrupt'])
@pytest.mark.parametrize('name', WRITERS)
def test_a_failing_writer_changes_nothing(name, error, tmp_path, monkeypatch):
    learn,(write,file) = fitted(tmp_path),WRITERS[name]
    write(learn)
    before,dls,opt = (tmp_path/file).read_bytes(),learn.dls,learn.opt
    with monkeypatch.context() as m:
        m.setattr(torch, 'save', failing(error))
        with pytest.raises(type(error)): write(learn)
    assert (tmp_path/file).read_bytes()==before
    assert [o.name for o in (tmp_path/file).parent.iterdir() if o.is_file()]==[(tmp_path/file).name]
    assert learn.dls is dls and learn.opt is opt and len(learn.dls.train_ds)==720
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 5e-3)

def test_export_leaves_the_learner(tmp_path):
    learn = fitted(tmp_path)
    dls,opt = learn.dls,learn.opt
    learn.export('a.pkl')
    assert learn.dls is dls and learn.opt is opt
    assert np.allclose(load_learner(tmp_path/'a.pkl').predict(FRAME[:20]), learn.predict(FRAME[:20]))

def test_save_takes_an_open_file(tmp_path):
    learn = fitted(tmp_path)
    with open(tmp_path/'m.pth', 'wb') as f: learn.save(f)
    before = learn.predict(FRAME[:20])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-1)
    learn.model_dir = '.'
    assert not np.allclose(learn.predict(FRAME[:20]), before)
    assert np.allclose(learn.load('m').predict(FRAME[:20]), before)

def test_a_killed_writer_leaves_the_older_file(tmp_path):
    file = tmp_path/'a.txt'
    file.write_text('old')
    with pytest.raises(ZeroDivisionError), replacing(file) as part:
        part.write_text('new')
        assert file.read_text()=='old'
        1/0
    assert file.read_text()=='old' and not part.exists()

@pytest.mark.parametrize('name', ['text','other','cut','empty'])
def test_a_file_of_other_weights_changes_nothing(name, tmp_path):
    "One error, and the model keeps all of its weights"
    learn = fitted(tmp_path)
    other = collab_learner(learn.dls, n_factors=7, path=tmp_path)
    file = other.save('m')
    if name!='other': file.write_bytes(dict(text=b'x', empty=b'', cut=file.read_bytes()[:999])[name])
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    with pytest.raises(ValueError, match='m holds no weights of this DotProductBias'): learn.load('m')
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
