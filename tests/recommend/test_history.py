"The history of a recommender: parts of it, and new ratings in it, as if all had been sorted anew"
import pandas as pd, pytest, torch
from fastcollab.recommend.base import Factors, Link
from fastcollab.recommend.history import GrowingHistory, UserHistory
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer
from hypothesis import given, settings, strategies as st

N,M = 9,7
pairs = st.lists(st.tuples(st.integers(0, N-1), st.integers(0, M-1)), max_size=40)

def history(pairs, n=N):
    u,i = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    return UserHistory.from_ratings(u, i, torch.arange(len(pairs)).float(), n)

@given(pairs, st.sets(st.integers(0, M-1)), st.integers(0, 1), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_some_rows(pairs, rows, side, bs):
    "The ratings of some rows are those rows of all ratings, sorted by their side"
    h,rows = history(pairs),torch.tensor(sorted(rows), dtype=torch.int64)
    everything = h.sorted_by(side)
    keep = torch.isin(everything[0], rows)
    assert all(torch.equal(a, b[keep]) for a,b in zip(h.of_rows(side, rows), everything))
    assert torch.equal(h.places(side, rows, bs), h.places(side, rows))
    assert torch.equal(h.counts(side, 9), torch.bincount(everything[0], minlength=9))

@given(pairs, st.sets(st.tuples(st.integers(0, N+2), st.integers(0, M+3)), max_size=20))
@settings(max_examples=80, deadline=None)
def test_new_ratings(pairs, new):
    "New ratings stand behind the old ones of their users, and take the place of those of the same pair"
    h,new = history(pairs),list(new)
    u,i = torch.tensor(new, dtype=torch.int64).view(-1, 2).T
    y = 100.+torch.arange(len(new))
    old = [(*p,float(k)) for k,p in enumerate(pairs) if p not in new]
    rows = torch.tensor(old+[(*p,v) for p,v in zip(new, y.tolist())], dtype=torch.float64).view(-1, 3)
    want = UserHistory.from_ratings(rows[:,0].long(), rows[:,1].long(), rows[:,2], N+3)
    before = [o.clone() for o in h]
    got = h.updated(u, i, y, N+3)
    assert all(torch.equal(a, b) for a,b in zip(got, want)) and all(torch.equal(a, b) for a,b in zip(h, before))
    assert [o.dtype for o in got]==[torch.int64,torch.int32,torch.float32]

waits = st.lists(st.sets(st.tuples(st.integers(0, N+2), st.integers(0, M+3)), max_size=9), max_size=3)

@given(pairs, waits, st.sets(st.integers(0, M+3)), st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_waiting_ratings(pairs, batches, rows, side):
    "Ratings that wait beside a history count as if each batch had been sorted in at once"
    want,rows = history(pairs),torch.tensor(sorted(rows), dtype=torch.int64)
    got = GrowingHistory.from_base(want)
    for k,batch in enumerate(batches):
        u,i = torch.tensor(list(batch), dtype=torch.int64).view(-1, 2).T
        y = 100.*(k+1)+torch.arange(len(batch))
        want,got = want.updated(u, i, y, N+3),got.with_ratings(u, i, y)
    want = want.updated(rows[:0], rows[:0], rows[:0].float(), N+3)
    assert all(torch.equal(a, b) for a,b in zip(got.settled(N+3), want))
    assert all(torch.equal(a, b) for a,b in zip(got.of_rows(side, rows), want.of_rows(side, rows)))

def recommender():
    "A small recommender with random vectors"
    g = torch.Generator().manual_seed(0)
    def table(n): return Factors(torch.randn(n, 3, generator=g), torch.randn(n, generator=g))
    items = pd.DataFrame(dict(item=range(M), title=list('abcdefg')))
    scorer = DotScorer(table(N+1), table(M+1), Link((.5,5.5)))
    rated = UserHistory.from_ratings(torch.arange(1, N+1), torch.arange(N)%M+1, torch.arange(N)%5+1., N+1)
    ids,names = (pd.RangeIndex(N),pd.RangeIndex(M)),('user','item','rating')
    return Recommender(scorer, ids, names, items, rated, rated=(1.,5.))

@pytest.mark.parametrize('side', [0,1])
def test_folding_in_shares_the_other_side(side):
    "The table of users is that of the recommender before, unless users are new"
    rec,fold = recommender(),('fold_in','fold_in_items')[side]
    new = pd.DataFrame(dict(user=[0,1,2], item=[0,1,2], rating=[1.,5,3])).assign(**{('user','item')[side]:99})
    more = getattr(rec, fold)(new)
    users = [o.scorer.users.vec.data_ptr() for o in (rec,more)]
    assert (users[0]==users[1])==(side==1) and len(more.history.items)==N+3

def test_folding_in_leaves_the_history_alone():
    "Folding in one item after the other copies no ratings; readers find all of them, as if they had come at once"
    rec = recommender()
    rec.decays = [.1,.1]
    base = rec.history
    news = [pd.DataFrame(dict(user=[k,k+1], item=90+k//2, rating=[1.+k,5-k])) for k in range(4)]
    more = rec
    for o in news:
        more = more.fold_in_items(o)
        assert more._growing.base is base
    last = pd.concat(news).drop_duplicates(['user','item'], keep='last')
    together = rec.fold_in_items(last)
    assert set(zip(more.history.users().tolist(), more.history.items.tolist(), more.history.ratings.tolist())) == set(
        zip(together.history.users().tolist(), together.history.items.tolist(), together.history.ratings.tolist()))
    vectors = [o.scorer.factors(1).vec for o in (more,together)]
    assert torch.allclose(*vectors, atol=1e-6) and rec.history.items is base.items and len(base.items)==N
    assert more.recommend(0, M, exclude_seen=True).item.isin([90]).sum()==0
