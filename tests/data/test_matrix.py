"The sparse matrix of interactions, against a dictionary"
from types import SimpleNamespace

import numpy as np, torch
from fastcollab.data.matrix import interaction_matrix
from fastcollab.data.store import RatingStore

def dataset(ids, values=None):
    store = RatingStore(torch.tensor(ids, dtype=torch.int32), None if values is None else torch.tensor(values)[:,None])
    return SimpleNamespace(store=store, n_users=5, n_items=4)

def test_pairs_that_repeat_are_summed_and_columns_rise():
    ds = dataset([[1,3],[1,1],[1,3],[4,2]], [.5,2.,1.,0.])
    m = interaction_matrix(ds)
    assert m.shape==(5,4) and m.dtype==np.float32 and m.indices.tolist()==[1,3,2] and m.data.tolist()==[2.,1.5,0.]
    assert interaction_matrix(ds, weights=False).data.tolist()==[1.,1.,1.]

def test_pairs_without_values_count_one():
    assert interaction_matrix(dataset([[1,2],[2,2]])).toarray().sum()==2

def test_the_store_is_not_written_to(dls):
    before = dls.train_ds.store.ratings().clone()
    interaction_matrix(dls.train_ds).data[:] = 9
    interaction_matrix(dls.train_ds, weights=False)
    assert torch.equal(before, dls.train_ds.store.ratings())
