"The store of ratings and the order of epochs, against plain lists and the formula"
import pickle, random

import numpy as np, pytest, torch
from fastcollab.all import TfmdDL, set_seed
from fastcollab.data.loaders import FullBatchDL, RatingsDL, why_batches
from fastcollab.data.store import Order, RatingStore, sqrt_user_weights
from hypothesis import given, settings, strategies as st

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.sampled_from([1.,2.5,4.])), min_size=1, max_size=40)

@settings(max_examples=40, deadline=None)
@given(pairs, st.lists(st.integers(0, 39), max_size=10), st.booleans())
def test_answers(rows, at, times):
    "Rows by number, counts, mean and levels are those of a list"
    ids,y = torch.tensor([o[:2] for o in rows], dtype=torch.int32),torch.tensor([[o[2]] for o in rows])
    store = RatingStore(ids, y, torch.arange(4*len(rows), dtype=torch.int32).reshape(-1, 4) if times else None)
    some = [o%len(rows) for o in at]
    idx = torch.tensor(some, dtype=torch.int64)
    assert len(store)==len(rows) and store.ids(idx).tolist()==[list(rows[o][:2]) for o in some]
    assert store.ratings(idx).tolist()==[[rows[o][2]] for o in some]
    assert (store.timestamps(idx).tolist()==[[4*o,4*o+1,4*o+2,4*o+3]
        for o in some]) if times else store.timestamps(idx) is None
    for side,n in ((0,7),(1,10)):
        assert store.counts(side, n).tolist()==[sum(o[side]==k for o in rows) for k in range(n)]
    assert store.mean()==pytest.approx(np.mean([o[2] for o in rows]))
    assert [o.tolist() for o in store.levels()]==[sorted({o[2] for o in rows}),
        [sum(p[2]==o for p in rows) for o in sorted({o[2] for o in rows})]]

def test_views_and_copies():
    "What kernels read is the memory of the store; an empty one keeps none of it"
    store = RatingStore(torch.ones(1000, 2, dtype=torch.int32), torch.ones(1000, 1),
        torch.ones(1000, 4, dtype=torch.int32))
    assert store.arrays()[0].ctypes.data==store.ids().data_ptr() and store.arrays()[
        1].ctypes.data==store.ratings().data_ptr()
    none = store.empty()
    assert len(none)==0 and none.timestamps().shape==(0,4) and len(pickle.dumps(none))<4000
    none.append(torch.tensor([[1,2]]), torch.tensor([[3.]]))
    # the time is unknown
    assert none.ids().dtype==torch.int32 and none.timestamps().tolist()==[[0]*4] and len(store)==1000

@pytest.mark.parametrize('seed', [0,42])
def test_order_is_the_formula(seed):
    "An epoch is torch's permutation from the next 62 bits of Python's generator"
    bits,order = random.Random(seed),Order(seed)
    for n in (1,7,1000):
        want = bits.getrandbits(62)
        rows = order.rows(n)
        assert order.epoch_seed==want and rows.dtype==torch.int32
        assert torch.equal(rows, torch.randperm(n, generator=torch.Generator().manual_seed(want), dtype=torch.int32))

def test_order_without_a_seed_follows_torch():
    def epochs():
        set_seed(3)
        order = Order()
        return [order.rows(50).tolist() for _ in range(3)]
    assert epochs()==epochs() and len({tuple(o) for o in epochs()})==3

@pytest.mark.parametrize('seed', [None,5])
def test_peek_and_skip(seed):
    set_seed(1)
    a,state = Order(seed),torch.get_rng_state()
    with a.peek(): seen = a.rows(20)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(a.rows(20), seen)
    if seed is None: return
    b = Order(seed)
    b.skip(2)
    c = Order(seed)
    assert torch.equal(b.rows(9), [c.rows(9) for _ in range(3)][2])

def test_weights():
    "Every row comes as often as its weight asks for, rounded up or down, in an order that is shuffled too"
    ids = torch.tensor([[1,1]]*1+[[2,1]]*4+[[3,1]]*95, dtype=torch.int32)
    store = RatingStore(ids)
    w = sqrt_user_weights(store)
    want = (w/w.sum()*100).numpy()
    for _ in range(5):
        rows = Order(None, lambda: w).rows(100)
        n = np.bincount(rows.numpy(), minlength=100)
        assert n.sum()==100 and (np.abs(n-want)<1).all() and (rows.diff()<0).any()

def test_why_batches(dls):
    "Whole epochs by row numbers: for the loader itself, and for no other that makes its own batches"
    class Twice(RatingsDL):
        def __iter__(self):
            for b in super().__iter__(): yield from (b,b)
    class Named(RatingsDL): pass
    train = dls.train_ds
    assert why_batches(dls.train)==why_batches(Named(train))==''
    for o in (FullBatchDL(train),Twice(train),TfmdDL([1])):
        assert f'a {type(o).__name__} makes its own batches'==why_batches(o)
    assert 'transforms each batch' in why_batches(RatingsDL(train, after_batch=[lambda b: b]))

def test_a_split_of_ratings_without_values():
    store = RatingStore(torch.ones(3, 2, dtype=torch.int32))
    assert store.ratings() is None and store.ratings(torch.tensor([1])) is None and store.arrays()[1] is None
