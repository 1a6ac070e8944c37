"A new store is one class: ratings that stay in files, and a fused fit that gives the same numbers as in memory"
import numpy as np, torch
from fastcollab.all import CollabDataLoaders, DotProductBias, collab_learner, set_seed
from fastcollab.data.loaders import RatingsDataset, RatingsDL
from fastcollab.data.store import RatingStore
from fastcollab.train.loops import why_not_fused

class MemmapStore(RatingStore):
    "Ratings in two memory-mapped files: the system reads a page when somebody asks for it"
    def __init__(self, folder):
        self.files = [np.memmap(folder/o.__name__, o, 'c') for o in (np.int32,np.float32)]
    def __len__(self): return len(self.files[1])
    @property
    def device(self): return torch.device('cpu')
    def to(self, device): return self
    def arrays(self): return tuple(np.asarray(o).reshape(len(self), -1) for o in self.files)
    def ids(self, rows=None): return self._take(torch.from_numpy(self.arrays()[0]), rows)
    def ratings(self, rows=None): return self._take(torch.from_numpy(self.arrays()[1]), rows)
    def timestamps(self, rows=None): return None
    def empty(self): return RatingStore(*(torch.from_numpy(o[:0].copy()) for o in self.arrays()))

def mapped(dl, folder):
    "The loader `dl` with its ratings in the files of `folder`"
    folder.mkdir()
    for o in dl.dataset.store.arrays(): o.tofile(folder/o.dtype.name)
    return RatingsDL(RatingsDataset(dl.dataset.enc, MemmapStore(folder)), bs=64, shuffle=dl.shuffle, seed=42)

def fitted(dls):
    set_seed(0)
    learn = collab_learner(dls, arch=DotProductBias, n_factors=8, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    assert why_not_fused(learn)==''
    return learn

def test_memmap_store(dls, tmp_path):
    files = CollabDataLoaders(*(mapped(dl, tmp_path/str(k)) for k,dl in enumerate(dls.loaders)))
    a,b = fitted(dls),fitted(files)
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))
    assert all(torch.equal(p, q) for p,q in zip(a.get_preds(), b.get_preds()))
    assert a.recorder.values==b.recorder.values
    assert a.recommend(1, k=3).equals(b.recommend(1, k=3))

def test_memmap_store_answers(dls, tmp_path):
    "Counts, levels and batches are those of the store in memory, and an export leaves the ratings behind"
    files = CollabDataLoaders(*(mapped(dl, tmp_path/str(k)) for k,dl in enumerate(dls.loaders)))
    a,b = dls.train_ds.store,files.train_ds.store
    assert len(a)==len(b) and a.mean()==b.mean() and torch.equal(a.counts(0, dls.n_users), b.counts(0, dls.n_users))
    assert all(torch.equal(p, q) for p,q in zip(a.levels(), b.levels()))
    assert all(torch.equal(p, q) for p,q in zip(dls.one_batch(), files.one_batch()))
    assert files.train_ds.items.equals(dls.train_ds.items) and len(files.new_empty().train_ds)==0
