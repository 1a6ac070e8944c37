"Lists, filters, fold-in against the stated loss, explanations that add up, and error messages"
import inspect, math, subprocess, sys, warnings

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import Recommender
from fastcollab.recommend.base import Factors, Link
from fastcollab.recommend.fold_in import start_factors
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.scorers import DotScorer
from fastcollab.recommend.solve import Decay
from hypothesis import given, settings, strategies as st
from zoo import ITEMS, ZOO, by_user, learner, names, pairs, rec_of, state, train_of, unchanged

few = settings(max_examples=50, deadline=None)

every = pytest.mark.parametrize('name', ZOO)
FEATURED,DOTS,OWN = names(features=True),names(kind='dot', closed=False),names(kind='model')
dots = pytest.mark.parametrize('name', DOTS)

# Memory

MEMORY = """import torch, pandas as pd
from pathlib import Path
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.base import Factors
from fastcollab.recommend.scorers import DotScorer
from fastcollab.recommend.history import UserHistory
def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])/1024
torch.set_num_threads(1)
n,m,k,mb = %s
g = torch.Generator().manual_seed(0)
U,M = (Factors(torch.randn(o+1, 64, generator=g)) for o in (n,m))
u = torch.arange(1, n+1).repeat_interleave(20)
seen = UserHistory.from_ratings(u, torch.randint(1, m+1, (len(u),), generator=g), torch.ones(len(u)), n+1)
ids = pd.RangeIndex(1, n+1),pd.RangeIndex(1, m+1)
rec = Recommender(DotScorer(U, M), ids, ('u','i','r'), pd.DataFrame(dict(title=range(m))), seen)
rec.recommend([1,2], k)
Path('/proc/self/clear_refs').write_text('5')
base = peak()
for o in rec.batches(k=k, mb=mb): pass
print(peak()-base)"""

@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the peak of the memory is asked of Linux')
@pytest.mark.parametrize('n,m,k,mb', [(40_000,200,10,64), (20_000,1000,100,64), (5000,5000,100,32), (1000,20_000,1,16)])
def test_memory_is_bounded(n, m, k, mb):
    "Scores and lists take the memory that `mb` allows, with many items, many users or long lists"
    res = subprocess.run([sys.executable, '-c', MEMORY%str((n,m,k,mb))], capture_output=True, text=True)
    assert res.returncode==0 and float(res.stdout)<1.25*mb+8, res.stdout+res.stderr

# Candidates

def hand(y_range=None, biased=False):
    "Four films and three users, whose vectors say how much they like action and how much romance"
    films = pd.DataFrame(dict(title=['Heat','Speed','Titanic','Amelie'], year=[1995,1994,1997,2001]))
    U,M = torch.tensor([[0.,0],[1,0],[0,1],[.5,.5]]),torch.tensor([[0.,0],[2,0],[1.5,.2],[.3,2],[0,1.5]])
    users,items = (Factors(o, torch.zeros(len(o)) if biased else None) for o in (U,M))
    history = UserHistory.from_ratings(torch.tensor([1,1,2]), torch.tensor([1,3,3]), torch.tensor([5.,1.,5.]), 4)
    ids = pd.Index(['ann','bob','cleo']),pd.Index([10,20,30,40])
    scorer = DotScorer(users, items, Link(y_range, None if y_range else 3.))
    rec = Recommender(scorer, ids, ('user','item','rating'), films, history, rated=(1.,5.))
    rec.decays = [.1,.1]
    return rec

@few
@given(st.data())
def test_candidates(data):
    "`items`, `exclude`, `filters` and rated items combine in any way; the rest keeps its order"
    rec,ids = rec_of('HybridMF_add'),list(range(1, 31))
    items,exclude = (data.draw(st.none()|st.lists(st.sampled_from(ids), max_size=12)) for _ in range(2))
    conds = {None:lambda r: True, "'Drama' in genres":lambda r: 'Drama' in r.genres.split('|'),
        "'e' in title":lambda r: 'e' in r.title, 'movieId < 12':lambda r: r.Index<12}
    cond = data.draw(st.sampled_from([*conds]))
    holds = conds[cond]
    left,user = data.draw(st.booleans()),data.draw(st.integers(1, 40))
    rest = [r.Index for r in ITEMS.itertuples() if holds(r) and (items is None or r.Index in items)
        and r.Index not in (exclude or ())]
    if not rest:
        with pytest.raises(ValueError, match='no item is left to choose from'):
            rec.recommend(user, 1, left, items, exclude, cond)
        return
    k,seen = data.draw(st.integers(1, len(rest))),train_of(learner('HybridMF_add'))[user] if left else set()
    got = rec.recommend(user, k, exclude_seen=left, items=items, exclude=exclude, filters=cond)
    everything = rec.recommend(user, 30, exclude_seen=False)
    assert list(got.item)==[i for i in everything.item if i in rest
        and i not in seen][:k] and list(got['rank'])==[*range(1, len(got)+1)]

def test_ways_to_name_ids():
    "Lists, arrays, series, sets, tensors or a single id name the same users and items"
    rec = rec_of('DotProductBias')
    want = rec.recommend([2,5], 3)
    for o in ((2,5), np.array([2,5]), pd.Series([2,5], index=[7,7]), pd.Index([2,5]), torch.tensor([2,5]),
        np.array([2,5], dtype=object)):
        pd.testing.assert_frame_equal(rec.recommend(o, 3), want)
        pd.testing.assert_frame_equal(rec.recommend([2,5], 2, items=o, exclude_seen=False),
            rec.recommend([2,5], 2, items=[5,2,5], exclude_seen=False))
    for o in (range(2, 6, 3), (u for u in (2,5)), map(int, '25'), {2:0,5:0}.keys(), pd.array([2,5]),
        pd.array([2,5], dtype='Int8')):
        pd.testing.assert_frame_equal(rec.recommend(o, 3), want)
    assert list(rec.predict((u for u in (2,5)), range(3, 5)))==list(rec.predict([2,5],
        [3,4])) and rec.recommend(torch.tensor(2), 3).equals(rec.recommend(2, 3))
    assert set(rec.recommend({2,5}, 3).item)==set(want.item) and list(rec.recommend(np.int64(2),
        3).item)==list(want.item[:3])
    assert not {2,5} & set(rec.recommend(1, 20, exclude=[2,5]).item) and 4 not in list(rec.recommend(1, 20,
        exclude=4).item)
    assert len(rec.recommend([], 3))==0 and list(rec.recommend([], 3))==['user','rank','item','title',
        'prediction'] and rec.predict([], []).shape==(0,)

def test_ties():
    "Items with the same score come in the order of their ids, for every user and batch"
    rec = hand()
    rec.scorer = DotScorer(Factors(torch.zeros(4, 2)), Factors(torch.zeros(5, 2)), rec.link)
    assert by_user(rec.recommend(k=3))==dict(ann=[20,40], bob=[10,20,40], cleo=[10,20,30])
    assert by_user(rec.recommend(k=2, mb=1e-9))==dict(ann=[20,40], bob=[10,20], cleo=[10,20])

def test_lists_run_out():
    "A user who has rated all candidates gets an empty list, others get theirs; columns keep their types"
    rec = hand()
    got = rec.recommend(k=2, items=[10,30])
    assert by_user(got)=={'bob':[10],'cleo':[30,10]} and list(got['rank'])==[1,1,2]
    none = rec.recommend('ann', 2, items=[10,30])
    assert len(none)==0 and none['rank'].dtype==got[
        'rank'].dtype and none.item.dtype==got.item.dtype and none.prediction.dtype==got.prediction.dtype
    assert rec.recommend('ann', 2, items=[10,30], exclude_seen=False).prediction.tolist()==[5.,3.299999952316284]

def test_own_table_of_items():
    "Filters use your own columns; titles fall back to those of training, then to the ids"
    learn = learner('DotProductBias')
    table = pd.DataFrame(dict(movieId=[3,1,999], title=['Drei',None,'nobody'], stock=[True,False,True],
        price=[1.5,2.,3.]))
    rec = learn.recommender(items=table)
    assert rec.items.title[2]=='Drei' and rec.items.title[0]==ITEMS.title[1] and len(rec.items)==30
    assert list(rec.recommend(1, 1, False, filters='price < 1.8').item)==list(rec.recommend(1, 1, False,
        filters='stock').item)==[3] and rec.items.stock.dtype==bool
    with pytest.raises(ValueError, match='no item is left'): rec.recommend(1, 1, filters='price > 2.5')
    assert list(rec.ids[1])==list(rec.items.movieId)

def test_sets_are_sets_for_every_model():
    "A filter on genres looks for a category with every model"
    for name in ('HybridMF_add','HybridNN','Features'):
        rec = rec_of(name)
        assert len(rec.recommend(3, 1, False, filters="'Drama' in genres"))==1
        with pytest.raises(ValueError, match='no item is left'): rec.recommend(3, 1, False, filters="'Dram' in genres")

def test_shortcuts_of_the_learner():
    "The methods of `learn` answer as its recommender does"
    learn,rec = learner('HybridMF_add'),rec_of('HybridMF_add')
    new = pd.DataFrame(dict(userId=901, movieId=[1,2], rating=[5.,1.]))
    for a,b in ((learn.recommend(7, 3, exclude=[1]),rec.recommend(7, 3, exclude=[1])),
        (learn.similar_items(3, 4, 'dot'),rec.similar_items(3, 4, 'dot')),
        (learn.fold_in(new).recommend(901),rec.fold_in(new).recommend(901)),
        (learn.explain(3, 4, 2),rec.explain(3, 4, 2))): pd.testing.assert_frame_equal(a, b)

# Fold-in

def loss(rec, side, rated, x, x0):
    "The stated loss of one row `x` with the ratings `rated` (row of the other side, rating), in float64"
    other,k = rec.scorer.factors(1-side),rec.scorer.factors(side).vec.shape[1]
    rows,y = (torch.tensor(o) for o in zip(*rated))
    s = other.vec[rows].double()@x[:k]
    if other.bias is not None: s = s+other.bias[rows].double()
    if len(x)>k: s = s+x[-1]
    r,decay = rec.link.slope(s)[0],rec.decay(side)
    weights = torch.tensor([decay.vec]*k+[decay.bias]*(len(x)-k)).double()
    return ((r-y)**2).sum()+(weights*(x-x0)**2).sum()

def joined(factors):
    "Vectors, and biases behind them, in float64"
    return (factors.vec if factors.bias is None else torch.cat([factors.vec, factors.bias[:,None]], 1)).double()

def from_sets(rec, side, rated):
    "What it adds to have been rated with these, in models with implicit sets"
    implicit = rec.terms[side].implicit
    return 0. if implicit is None else joined(implicit)[[o for o,_ in rated]].sum(0)/len(rated)**.5

def row(rec, side, id_):
    "Vector and bias of an id, None for the average user or item"
    return joined(rec.scorer.factors(side))[0 if id_ is None else rec.ids[side].get_loc(id_)+1]

NEW = {901:{1:5.,2:1.5,3:4.,30:.5}, 902:{7:3.}, 903:{i:float(1+i%5) for i in range(1, 31)}, 5:{1:.5,2:5.,17:3.5}}
def table(side, new=NEW):
    "Ratings of new ids on one side: `new` maps an id to ratings by ids of the other side"
    own,other = ('userId','movieId')[::(-1)**side]
    return pd.DataFrame([(a,b,y) for a,o in new.items() for b,y in o.items()], columns=[own,other,'rating'])

@pytest.mark.parametrize('name', [o for o in DOTS if o!='LightGCN'])   # nothing is solved in a graph
@pytest.mark.parametrize('side', [0,1])
@pytest.mark.parametrize('y_range', [(0.,5.5), None])
def test_fold_in_finds_the_minimum(name, side, y_range):
    "Each changed row minimizes the stated loss on all its ratings, old and new: no step in any direction lowers it"
    rec = rec_of(name, y_range)
    got = (rec.fold_in,rec.fold_in_items)[side](table(side))
    old = learner(name, y_range).dls.train_ds.items
    own,other = ('userId','movieId')[::(-1)**side]
    for id_,new in NEW.items():
        rated = {**dict(zip(old[other][old[own]==id_], old.rating[old[own]==id_])), **new}
        rated = [(rec.ids[1-side].get_loc(o)+1,float(y)) for o,y in rated.items()]
        x0 = row(rec, side, None)
        if rec.features and id_ in rec.ids[side]:
            x0 = joined(start_factors(rec._fold_state(''), side, torch.tensor([rec.ids[side].get_loc(id_)+1])))[0]
        x0 = x0+from_sets(rec, side, rated)
        x = row(got, side, id_)
        best,g = loss(rec, side, rated, x, x0).item(),torch.Generator().manual_seed(0)
        assert best<=loss(rec, side, rated, x0, x0).item()+1e-6
        for size in (.02,.1,.5):
            for d in torch.randn(10, len(x), generator=g).double():
                assert loss(rec, side, rated, x+size*d/d.norm(), x0).item()>best

@dots
@pytest.mark.parametrize('side', [0,1])
def test_other_rows_stay(name, side):
    "New ids are appended in their order, other rows stay the same to the bit, and so does the original"
    rec = rec_of(name)
    before = state(rec)
    got = (rec.fold_in,rec.fold_in_items)[side](table(side))
    assert unchanged(before, state(rec)) and got.ids[side].dtype==rec.ids[side].dtype
    assert list(got.ids[side])==[*rec.ids[side],901,902,903] and got.ids[1-side].equals(rec.ids[1-side])
    (a,b),(c,d) = ([joined(r.scorer.factors(k)) for k in (side,1-side)] for r in (rec,got))
    keep = torch.arange(len(a))!=rec.ids[side].get_loc(5)+1
    assert torch.equal(a[keep], c[:len(a)][keep]) and torch.equal(b, d) and not torch.equal(a[~keep], c[:len(a)][~keep])
    u,i = pairs(rec)
    same = (u,i)[side]!=5
    assert np.array_equal(got.predict(u[same], i[same]), rec.predict(u[same], i[same]))
    with pytest.raises(KeyError, match='not seen'): (rec.recommend if side==0 else rec.similar_items)(901)

@dots
def test_lists_of_new_users(name):
    "Lists leave out folded-in ratings; new ratings replace old ones of the same pair; folding in twice changes nothing"
    rec,old = rec_of(name),train_of(learner(name))
    got = rec.fold_in(table(0))
    for u,new in NEW.items():
        rest = set(rec.ids[1])-set(new)-old.get(u, set())
        assert set(got.recommend(u, 30).item)==rest
    assert len(got.history.items)==len(rec.history.items)+len(table(0))-len(set(NEW[5]) & old[5])
    twice = got.fold_in(table(0))
    assert len(twice.history.items)==len(got.history.items) and torch.equal(twice.scorer.factors(0).vec,
        got.scorer.factors(0).vec)
    assert torch.allclose(rec.fold_in(table(0)[::-1]).scorer.factors(0).vec[rec.ids[0].get_loc(5)+1],
        got.scorer.factors(0).vec[rec.ids[0].get_loc(5)+1], atol=2e-3)

def test_new_ratings_replace_old_ones():
    "A user who changes a rating equals one who gave the new rating at once"
    rec = rec_of('DotProductBias')
    a = rec.fold_in(pd.DataFrame(dict(userId=901, movieId=[1,2,3], rating=[5.,5.,1.])))
    a = a.fold_in(pd.DataFrame(dict(userId=901, movieId=[1,4], rating=[1.,3.])))
    b = rec.fold_in(pd.DataFrame(dict(userId=901, movieId=[1,2,3,4], rating=[1.,5.,1.,3.])))
    assert np.allclose(a.predict(901, list(range(1, 31))), b.predict(901, list(range(1, 31))),
        atol=2e-3) and len(a.history.items)==len(b.history.items)

@dots
def test_many_at_once_equal_each_alone(name):
    "New users in one call are what each would be alone"
    rec = rec_of(name)
    many = rec.fold_in(table(0))
    for u in NEW:
        assert np.allclose(many.predict(u, list(rec.ids[1])), rec.fold_in(table(0, {u:NEW[u]})).predict(u,
            list(rec.ids[1])), atol=2e-3)

@pytest.mark.slow
def test_thousands_at_once():
    "Three thousand new users with forty thousand ratings in one call fit their own ratings"
    rec,rng = rec_of('DotProductBias'),np.random.default_rng(0)
    n = 40_000
    df = pd.DataFrame(dict(userId=rng.integers(1000, 4000, n), movieId=rng.integers(1, 31, n),
        rating=rng.integers(1, 11, n)/2)).drop_duplicates(['userId','movieId'])
    got = rec.fold_in(df)
    assert got.n_users==rec.n_users+df.userId.nunique() and got.scorer.factors(0).vec.isfinite().all() and len(
        got.recommend(k=1))==got.n_users-1
    fit = got.predict(df)
    assert np.sqrt(np.mean((fit-df.rating)**2))<np.sqrt(np.mean((df.rating-df.rating.mean())**2)) and np.corrcoef(fit,
        df.rating)[0,1]>.3

@dots
@pytest.mark.parametrize('stars', [.5,3.,5.])
def test_one_rating(name, stars):
    "A user with one rating leans to it, and stays closer to the average than one who gives it thirty times"
    rec = rec_of(name)
    one = rec.fold_in(pd.DataFrame(dict(userId=[901], movieId=[4], rating=[stars])))
    many = rec.fold_in(pd.DataFrame(dict(userId=901, movieId=range(1, 31), rating=stars)))
    avg = rec.fold_in(users=pd.DataFrame(dict(userId=[901])))
    x,y,x0 = (row(o, 0, 901) for o in (one,many,avg))
    assert x.isfinite().all() and torch.equal(x0, row(rec, 0, None))
    at = [(rec.ids[1].get_loc(i)+1,stars) for i in range(1, 31)]
    start,start_many = x0+from_sets(rec, 0, at[3:4]),x0+from_sets(rec, 0, at)
    off = loss(rec, 0, at[3:4], start, start).item()**.5
    assert abs(one.predict(901, 4)-stars)<=off+1e-6
    rest = [i for i in range(1, 31) if i!=4]
    # or else the loss would be above that of the start
    assert (x-start).norm()<=min(rec.decay(0))**-.5*off+1e-4
    assert np.isfinite(one.predict(901, rest)).all() and y.isfinite().all() and (x-start).norm()<(y-start_many).norm()

@pytest.mark.parametrize('name', ['HybridMF_add','HybridMF_scale','SVDPlusPlus_features'])
def test_features_alone(name):
    "Items with genres and users with a decade but no ratings get what `learn.predict` gives unknown ids with these"
    learn,rec = learner(name),rec_of(name)
    items = pd.DataFrame(dict(movieId=[901,902,903], genres=['Drama|Comedy','Sci-Fi',''], title=['A',None,'C']))
    got = rec.fold_in_items(items=items)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for u in (1,17):
            assert np.allclose(got.predict(u, [901,902,903]), learn.predict(items.assign(userId=u, decade=u//10*10)),
                atol=1e-5)
    assert list(got.items.title[-3:])==['A','902','C'] or list(got.items.title[-3:])==['A',902,'C']
    assert set(got.recommend(1, 33).item)>={901,902,903} and 902 in set(got.recommend(1, 1, items=[901,902,903],
        filters="'Sci-Fi' in genres").item)
    users = pd.DataFrame(dict(userId=[901,902], decade=[10,30]))
    more = rec.fold_in(users=users)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in (2,9):
            assert np.allclose(more.predict([901,902], i),
                learn.predict(users.assign(movieId=i, genres=ITEMS.genres[i])), atol=1e-5)
    both = more.fold_in_items(items=items)
    assert np.allclose(both.predict([1,1], [901,902]), got.predict([1,1], [901,902]), atol=1e-6) and both.n_users==43

def test_unknown_genres_warn():
    "Unknown genres are ignored with a warning, as in the loaders"
    rec = rec_of('HybridMF_add')
    with pytest.warns(UserWarning, match="(?s)'genres'.*901.*'Nonsense'.*are ignored"):
        got = rec.fold_in_items(items=pd.DataFrame(dict(movieId=[901], genres=['Nonsense|Drama'])))
    assert np.allclose(got.predict(1, 901), rec.fold_in_items(items=pd.DataFrame(dict(movieId=[901],
        genres=['Drama']))).predict(1, 901))

def test_features_and_ratings():
    "Ratings move a new item away from the vector of its features, not from the average one"
    rec = rec_of('HybridMF_add')
    items,new = pd.DataFrame(dict(movieId=[901], genres=['Drama'])),pd.DataFrame(dict(userId=[1], movieId=[901],
        rating=[5.]))
    only,both,bare = rec.fold_in_items(items=items),rec.fold_in_items(new, items),rec.fold_in_items(new)
    x,start,other = (row(o, 1, 901) for o in (both,only,bare))
    assert (x-start).norm()<(x-other).norm() and both.features[0].rows[-1].any() and not bare.features[0].rows[-1].any()
    assert torch.allclose(row(only.fold_in_items(new), 1, 901), x, atol=2e-3)                    # in one call or in two
    assert 901 not in set(both.recommend(1, 29).item)

def test_known_features_stay():
    "A known user keeps a feature that the table doesn't have"
    rec = rec_of('HybridMF_add')
    got = rec.fold_in(users=pd.DataFrame(dict(userId=[1,901])))
    assert torch.equal(got.features[1].rows[1], rec.features[1].rows[1]) and not got.features[1].rows[-1].any()

@pytest.mark.parametrize('name', ['DotProductBias','HybridMF_add'])
def test_table_of_new_items(name):
    "New items join the table with ids, titles and columns of the old types, and filters find them"
    rec = rec_of(name)
    got = rec.fold_in_items(items=pd.DataFrame(dict(movieId=[901,902], title=['A','B'])))
    assert list(got.items.movieId)==[*range(1, 31),901,
        902] and got.items.dtypes.equals(rec.items.dtypes) and list(got.items.title[-2:])==['A','B']
    assert set(got.recommend(1, 2, filters='movieId > 900').item)=={901,
        902} and set(got.recommend(1, 1, filters="title == 'B'").item)=={902}

def test_boolean_columns_stay_boolean():
    "An item without a value in a Boolean column doesn't fulfill it, new or known"
    rec = hand()
    rec.items = rec.items.assign(item=[10,20,30,40], stock=[True,False,False,True])
    for more in (dict(item=[50]), dict(item=[50], stock=[None]), dict(item=[50,60], stock=[np.nan,True]),
        dict(item=[50,10], stock=[False,None])):
        got = rec.fold_in_items(items=pd.DataFrame(more))
        assert got.items.stock.dtype==bool and not got.items.stock[got.items['item']==50].any()
        left = {10,40} - ({10} if 10 in more['item'] else set()) | ({60} if 60 in more['item'] else set())
        assert set(got.recommend('cleo', len(left), False, filters='stock').item)==left
    assert not rec.fold_in_items(pd.DataFrame(dict(user=['ann'], item=[50], rating=[4.]))).items.stock.iloc[-1]

def test_decays_are_kept(tmp_path):
    "Decays survive fold-in without ratings, and saving"
    rec,one = hand(),pd.DataFrame(dict(user=['x'], item=[10], rating=[3.]))
    for o in (rec.fold_in(users=one[['user']]), rec.fold_in_items(items=pd.DataFrame(dict(item=[50]))),
        rec.fold_in(one)):
        assert o.decays==[.1,.1]
        o.save(tmp_path)
        assert Recommender.load(tmp_path).decays==[Decay(.1, .1)]*2

def test_fold_in_survives_a_save(tmp_path):
    "A recommender with folded-in users and items is saved and loaded like any other, and folds in more"
    rec = rec_of('HybridMF_add').fold_in(table(0)).fold_in_items(items=pd.DataFrame(dict(movieId=[901],
        genres=['Drama'], title=['New'])))
    rec.save(tmp_path)
    other,new = Recommender.load(tmp_path),pd.DataFrame(dict(userId=[905,905], movieId=[901,3], rating=[5.,1.]))
    asks = lambda r: r.recommend(k=31), lambda r: r.explain(903, 901), lambda r: r.fold_in(new).recommend(905,
        4), lambda r: r.recommend(1, 1, filters="title == 'New'")
    for ask in asks: pd.testing.assert_frame_equal(ask(rec), ask(other))

def test_new_ids_of_the_same_kind():
    "Whole numbers in a column of floats match integer ids, which keep their type"
    rec = rec_of('DotProductBias')
    try: got = rec.fold_in(pd.DataFrame(dict(userId=[901.,1.], movieId=[1,2], rating=[4.,4.])))
    except TypeError: return                                                            # to say so is fine too
    assert got.ids[0].dtype==rec.ids[0].dtype and got.n_users==rec.n_users+1

# Explanations

def total(why): return why.stars.sum()

@dots
@pytest.mark.parametrize('y_range', [(0.,5.5), None])
def test_stars_sum_to_the_prediction(name, y_range):
    "For all dot products, any number of named items, known and new users, with and without ratings"
    rec = rec_of(name, y_range).fold_in(table(0, {901:NEW[901]}), pd.DataFrame(dict(userId=[902])))
    for u,i,k in ((1,2,5), (7,30,1), (33,4,100), (901,9,2), (901,1,3), (902,5,5)):
        why = rec.explain(u, i, k)
        assert math.isclose(total(why), rec.predict(u, i), abs_tol=1e-4) and list(why)==['part','item','title','rating',
            'stars'] and np.isfinite(why.stars).all()
        rated = why[why.part=='rated']
        n = len(rec.history.rated_by(rec.ids[0].get_loc(u)+1)[0])
        assert len(rated)<=min(k, n) and (n>k or len(rated)==n) and (np.diff(rated.stars.abs())<=1e-6).all()
        assert n>k or list(rated.title)==[ITEMS.title[o] for o in rated.item]
        assert all(title.startswith(ITEMS.title[o]) for title,o in zip(rated.title, rated.item))
        assert list(why.part[:3])==['mean','user','item'] and why.part.iloc[-1]=='remainder'
        assert ('features of the user' in set(why.part))==(name in FEATURED)
        each = rec.explain(u, i, None)
        history = ('rated','other ratings')
        assert (each.part=='rated').sum()==n and math.isclose(total(each), total(why), abs_tol=1e-5)
        assert math.isclose(total(each[each.part=='rated']), total(why[why.part.isin(history)]), abs_tol=1e-5)

def test_parts_by_hand():
    "The mean is that of the ratings; the parts of user and item are what they add to that of a rating, on average"
    for name in ('DotProductBias','HybridMF_add','DotProductBias_centered','DotProduct'):
        rec = rec_of(name, None).fold_in(table(0))
        users,items = (rec.scorer.factors(o) for o in (0,1))
        rated = [items.vec@users.vec[0],torch.zeros(rec.n_users)] if users.bias is None else [
            items.bias+items.vec@users.vec[0],users.bias]
        mean = rated[0][rec.history.items.long()].mean(),rated[1][rec.history.users()].mean()
        for u in (901,902,903):
            why = rec.explain(u, 9).set_index('part').stars
            assert math.isclose(why['mean'], rec.history.ratings.mean(), abs_tol=1e-4)
            assert math.isclose(why['user'], rated[1][rec.ids[0].get_loc(u)+1]-mean[1], abs_tol=1e-3)
            if name!='HybridMF_add':   # where row 0 has no features of its own
                assert math.isclose(why['item'], rated[0][rec.ids[1].get_loc(9)+1]-mean[0], abs_tol=1e-3)

def test_groups_carry_most_of_what_a_history_says():
    "With genres and without: the five groups say more than what is left, for users with many ratings"
    for name in ('DotProductBias','HybridMF_add'):
        rec,named,rest = rec_of(name),0,0
        for u in rec.ids[0][:12]:
            for i in rec.ids[1][:6]:
                why = rec.explain(u, i)
                named += why.stars[why.part=='rated'].abs().sum()
                rest += why.stars[why.part=='other ratings'].abs().sum()
        assert named>2*rest, name

@pytest.mark.parametrize('y_range', [None,(0.,5.5)])
@pytest.mark.parametrize('biased', [False,True])
def test_signs_by_hand(y_range, biased):
    "Loving an action film raises another one, hating it lowers it, and a romance matters little"
    rec = hand(y_range, biased).fold_in(pd.DataFrame(dict(user=['fan','fan','foe','foe'], item=[10,40]*2,
        rating=[5.,4.5,1.,4.5])))
    by = {u:rec.explain(u, 20).dropna(subset='item').set_index('title').stars for u in ('fan','foe')}
    assert by['fan']['Heat']>.1 and by['foe']['Heat']<-.1 and all(abs(o['Amelie'])<abs(o['Heat'])/2
        for o in by.values())

def test_sentence():
    "It has the prediction, the title, and what was liked, disliked, or speaks against it"
    rec = hand().fold_in(pd.DataFrame(dict(user=['fan','fan'], item=[10,30], rating=[5.,1.])),
        pd.DataFrame(dict(user=['nobody'])))
    why = rec.explain('fan', 20)
    text = why.attrs['sentence']
    assert text.startswith(f'{rec.predict("fan", 20):.2f} stars predicted for Speed, because you liked Heat '
        f'(+') and 'Heat (+' in text and '\n' not in text
    assert all(f'{r.title} ({r.stars:+.2f})' in text for r in why[why.part=='rated'].itertuples())
    assert 'nothing' in rec.explain('nobody', 20).attrs['sentence'] and 'Speed' in rec.explain('nobody',
        20).attrs['sentence']

def test_explanations_where_the_sigmoid_is_flat():
    "A score so high that the rating can't move still has finite parts that sum to it"
    rec = hand((0.,5.5))
    for size in (10.,40.,1e3):
        rec.scorer = DotScorer(Factors(torch.tensor([[0.,0],[size,1],[0,1],[.5,.5]])), rec.scorer.factors(1), rec.link)
        why = rec.explain('ann', 20)
        assert np.isfinite(why.stars).all() and math.isclose(total(why), rec.predict('ann', 20), abs_tol=1e-4)

# Elsewhere

@pytest.mark.slow
@pytest.mark.parametrize('name', ['DotProductBias','HybridMF_scale','CollabNN_bn','Flat'])
def test_onnx(name, tmp_path):
    "onnxruntime agrees with torch within 1e-5, for one pair and for all"
    ort,rec = pytest.importorskip('onnxruntime'),rec_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        rec.to_onnx(tmp_path/'m.onnx')
    run,(u,i) = ort.InferenceSession(str(tmp_path/'m.onnx')),pairs(rec)
    x = np.stack([rec.ids[0].get_indexer(u)+1, rec.ids[1].get_indexer(i)+1], 1).astype(np.int64)
    for n in (1,2,len(x)):
        got, = run.run(['rating'], dict(x=x[:n]))
        assert got.shape==(n,) and got.dtype==np.float32 and np.abs(got-rec.predict(u[:n], i[:n])).max()<1e-5

@pytest.mark.parametrize('kind', ['plain','biased','uneven'])
def test_ann_recall(kind):
    "The index finds at least 95 % of the ten best, with biases and vectors of all lengths"
    pytest.importorskip('usearch')
    g,n = torch.Generator().manual_seed(0),4000
    U,M = torch.randn(201, 18, generator=g),torch.randn(n+1, 18, generator=g)
    if kind=='plain': users,items = Factors(U),Factors(M)
    else:
        users,items = Factors(U[:,:-2], U[:,-2]),Factors(M[:,:-2]*(torch.rand(n+1, 1, generator=g)*3 if kind=='uneven'
            else 1), M[:,-1]*3)
    ids,films,seen = (pd.Index(range(200)),pd.Index(range(n))),pd.DataFrame(dict(title=map(str,
        range(n)))),UserHistory.from_ratings(*torch.zeros(3, 0).long(), 201)
    rec = Recommender(DotScorer(users, items), ids, ('u','i','r'), films, seen)
    want,index = by_user(rec.recommend(k=10)),rec.to_ann()
    found = index.search(rec.queries(list(range(200))), 10).keys
    assert np.mean([len({*want[u]} & {int(o)-1 for o in found[u]})/10 for u in range(200)])>=.95
    assert (rec.to_ann().search(rec.queries(list(range(200))), 10).keys==found).all()   # the same graph each time
    assert len(index)==n and rec.queries(3).shape==(1,19)

SERVING = """import sys, tempfile, torch, pandas as pd
from fastcollab.recommend.base import Factors, FeatureTerms, FoldTerms
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer
from fastcollab.recommend.history import UserHistory
encoding = dict(sep='|', classes=['#na#','x','y'], edges=None, width=1)
genres = FeatureTerms('g', 1, 'add', 'mean', torch.tensor([[0],[1],[1],[2]]), Factors(torch.ones(3, 2)), encoding)
scorer = DotScorer(Factors(torch.ones(3, 2)), Factors(torch.ones(4, 2)))
history = UserHistory.from_ratings(torch.tensor([1]), torch.tensor([1]), torch.tensor([3.]), 3)
rec = Recommender(scorer, (pd.Index([1,2]),pd.Index([1,2,3])), ('u','i','r'), pd.DataFrame(dict(title=['a','b','c'])),
    history, (FoldTerms(),FoldTerms(features=(genres,))), rated=(1,5))
with tempfile.TemporaryDirectory() as d:
    rec.save(d)
    rec = Recommender.load(d).fold_in(pd.DataFrame(dict(u=[9], i=[1], r=[5.])))
rec.recommend(k=1, filters="title != 'b'"), rec.explain(9, 2), rec.similar_items(1, 1)
%s
print(*sorted({o.split('.')[0] for o in sys.modules} & {'fastai','numba','matplotlib','sklearn','IPython'}))"""

@pytest.mark.slow
@pytest.mark.parametrize('more',
    ['', "rec.fold_in(users=pd.DataFrame(dict(u=[10]))), rec.fold_in_items(items=pd.DataFrame(dict(i=[10], g=['y'])))"],
    ids=['lists','fold-in of features'])
def test_imports_no_fastai(more):
    "Serving imports neither fastai nor anything that trains or plots"
    res = subprocess.run([sys.executable, '-c', SERVING%more], capture_output=True, text=True)
    assert res.returncode==0 and res.stdout.strip()=='', res.stdout+res.stderr

# Wrong calls

def rec(): return rec_of('DotProductBias')
def ratings(**cols): return pd.DataFrame({**dict(userId=[901,901,902], movieId=[1,2,3], rating=[4.,2.,3.]), **cols})
def features(): return rec_of('HybridMF_add')
def nan():
    res = hand()
    res.scorer = DotScorer(Factors(torch.tensor([[0.,0],[1,0],[math.nan,0],[1,1]])), res.scorer.factors(1), res.link)
    return res

CASES = [ # What is done, how, the error, and words in its message
    ('unknown user', lambda: rec().recommend(999), KeyError, ['1 of 1 users', '999', 'not seen', 'fold_in']),
    ('unknown users', lambda: rec().recommend([1,999,998]), KeyError, ['2 of 3 users', '999', 'fold_in']),
    ('user of another type', lambda: rec().recommend('7'), TypeError, ["'7'", 'numbers', 'e.g. 1', 'astype']),
    ('users of another type', lambda: rec().recommend(['a','b']), TypeError, ['users', "'a'", 'numbers']),
    ('user NaN', lambda: rec().recommend(float('nan')), KeyError, ['1 of 1 users', 'nan']),
    ('user None in a list', lambda: rec().recommend([1,None]), KeyError, ['1 of 2 users', 'not seen']),
    ('unknown item', lambda: rec().recommend(1, items=[1,999]), KeyError, ['1 of 2 items', '999', 'fold_in_items']),
    ('unknown item left out', lambda: rec().recommend(1, exclude=[999]), KeyError, ['1 of 1 items', '999']),
    ('items no list', lambda: rec().recommend(1, items=3), TypeError, ['items is 3', 'list']),
    ('items of text', lambda: rec().recommend(1, items='abc'), TypeError, ["items is 'abc'", 'list']),
    ('k 0', lambda: rec().recommend(1, 0), ValueError, ['k is 0', 'at least 1']),
    ('k negative', lambda: rec().recommend(1, -3), ValueError, ['k is -3', 'at least 1']),
    ('k fraction', lambda: rec().recommend(1, 2.5), ValueError, ['k is 2.5']),
    ('k True', lambda: rec().recommend(1, True), ValueError, ['k is True']),
    ('k None', lambda: rec().recommend(1, None), ValueError, ['k is None']),
    ('k too large', lambda: rec().recommend(1, 31), ValueError, ['k is 31', '30 items', 'lower k']),
    ('k larger than the candidates', lambda: rec().recommend(1, 3, items=[1,2]), ValueError,
        ['k is 3', '2 items', 'lower k']),
    ('no items', lambda: rec().recommend(1, 1, items=[]), ValueError, ['no item is left', 'items=']),
    ('all excluded', lambda: rec().recommend(1, 1, exclude=list(range(1, 31))), ValueError,
        ['no item is left', 'exclude=']),
    ('filters leave nothing', lambda: rec().recommend(1, 1, filters="title == 'nothing'"), ValueError,
        ['no item is left', "title == 'nothing'"]),
    ('filter empty', lambda: rec().recommend(1, 1, filters=''), ValueError, ["''", 'year >= 1990']),
    ('filter without an end', lambda: rec().recommend(1, 1, filters='title =='), ValueError,
        ["'title =='", 'not a filter']),
    ('filter of code', lambda: rec().recommend(1, 1, filters="__import__('os').getcwd() == 'x'"), ValueError,
        ['__import__', 'columns, constants, comparisons']),
    ('filter on no column', lambda: rec().recommend(1, 1, filters='yaer > 3'), KeyError, ["'yaer'", "'title'"]),
    ('filter a function', lambda: rec().recommend(1, 1, filters=len), ValueError, ['filter', 'year >= 1990']),
    ('mb 0', lambda: rec().recommend(1, mb=0), ValueError, ['mb is 0', 'MB']),
    ('mb negative', lambda: rec().recommend(1, mb=-1), ValueError, ['mb is -1', 'MB']),
    ('mb NaN', lambda: rec().recommend(1, mb=float('nan')), ValueError, ['mb is nan', 'MB']),
    ('mb inf', lambda: rec().recommend(1, mb=float('inf')), ValueError, ['mb is inf', 'MB']),
    ('mb of text', lambda: rec().recommend(1, mb='x'), ValueError, ["mb is 'x'", 'MB']),
    ('mb None', lambda: rec().recommend(1, mb=None), ValueError, ['mb is None', 'MB']),
    ('users in a table', lambda: rec().recommend(ratings()), TypeError, ['users', 'DataFrame', "'userId'",
        'one of its columns']),
    ('items in a table', lambda: rec().recommend(1, items=ratings()), TypeError, ['items', 'DataFrame', "'movieId'",
        'one of its columns']),
    ('neighbors of several', lambda: rec().similar_items([1,2]), TypeError, ['list', 'items', 'a single id']),
    ('neighbors of a table', lambda: rec().similar_users(ratings()), TypeError, ['DataFrame', 'users', 'a single id']),
    ('explain several', lambda: rec().explain([1,2], 2), TypeError, ['list', 'users', 'a single id']),
    ('explain several items', lambda: rec().explain(1, range(2, 4)), TypeError, ['range', 'items', 'a single id']),
    ('recommend with NaN scores', lambda: nan().recommend('bob', 1), ValueError,
        ["aren't numbers", 'row 2 of the users']),
    ('predict with NaN scores', lambda: nan().predict(['ann','bob'], 20), ValueError,
        ["aren't numbers", 'row 2 of the users']),
    ('predict an unknown user', lambda: rec().predict(999, 1, unknown='raise'), KeyError, ['a user', '999', 'average']),
    ('predict an unknown item', lambda: rec().predict([1,2], [1,999], unknown='raise'), KeyError,
        ['50.0%', 'an item', '999']),
    ('predict half a pair', lambda: rec().predict(1), TypeError, ['(users, items)', 'DataFrame', 'int']),
    ('predict unequal lists', lambda: rec().predict([1,2], [1,2,3]), ValueError, ['2 users', '3 items']),
    ('predict a table without items', lambda: rec().predict(ratings().drop(columns='movieId')), KeyError,
        ["'movieId'", "'userId'"]),
    ('predict a table and items', lambda: rec().predict(ratings(userId=[1,2,3]), [1,2,3]), TypeError,
        ['users are a DataFrame', "['userId', 'movieId', 'rating']"]),
    ('neighbors of an unknown item', lambda: rec().similar_items(999), KeyError, ['items', '999']),
    ('neighbors by another metric', lambda: rec().similar_items(1, metric='l2'), ValueError,
        ["'l2'", "'cosine'", "'dot'"]),
    ('too many neighbors', lambda: rec().similar_users(1, 40), ValueError, ['k is 40', 'other users', '39']),
    ('no neighbors', lambda: rec().similar_items(1, 0), ValueError, ['k is 0', '29']),
    ('no vectors', lambda: rec_of('Flat').similar_items(1), TypeError, ['no vectors', 'vectors(side)']),
    ('fold in nothing', lambda: rec().fold_in(), ValueError, ['nothing to fold in', 'ratings', 'table']),
    ('fold in a list', lambda: rec().fold_in([(901,1,3.)]), TypeError, ['DataFrame', "'userId'", 'list']),
    ('fold in a table of users that is a list', lambda: rec().fold_in(users=[901]), TypeError,
        ['DataFrame', "'userId'", 'list']),
    ('fold in without a column', lambda: rec().fold_in(ratings().drop(columns='rating')), KeyError,
        ["'rating'", "'userId'"]),
    ('fold in users without ids', lambda: rec().fold_in(users=pd.DataFrame(dict(id=[1]))), KeyError,
        ["'userId'", "'id'"]),
    ('ratings too high', lambda: rec().fold_in(ratings(rating=[4.,9.,10.])), ValueError,
        ['2 of 3', '9', '0 to 5.5', 'convert']),
    ('ratings too low', lambda: rec().fold_in(ratings(rating=[4.,-1.,3.])), ValueError, ['1 of 3', '-1', '0 to 5.5']),
    ('ratings beyond training', lambda: rec_of('DotProduct', None).fold_in(ratings(rating=[4.,9.,3.])), ValueError,
        ['1 of 3', '9', '0.5 to 5', 'training']),
    ('items rated too high', lambda: rec().fold_in_items(ratings(userId=[1,2,3], movieId=[901]*3, rating=[4.,9.,10.])),
        ValueError, ['2 of 3', '9', '0 to 5.5']),
    ('rating NaN', lambda: rec().fold_in(ratings(rating=[4.,np.nan,3.])), ValueError,
        ['1 of 3', 'nan', 'finite', 'drop']),
    ('rating inf', lambda: rec().fold_in(ratings(rating=[4.,np.inf,3.])), ValueError, ['1 of 3', 'inf', 'finite']),
    ('rating NA', lambda: rec().fold_in(ratings(rating=pd.array([4.,None,3.], dtype='Float64'))), ValueError,
        ['1 of 3', 'finite']),
    ('rating of text', lambda: rec().fold_in(ratings(rating=['4','2','3'])), TypeError, ["'rating'", 'astype(float)']),
    ('rating complex', lambda: rec().fold_in(ratings(rating=[4.+1j,2.,3.])), TypeError, ["'rating'", 'complex']),
    ('id missing', lambda: rec().fold_in(ratings(userId=[901,None,902])), ValueError,
        ['1 of 3', "'userId'", 'row 1', 'drop']),
    ('rated twice', lambda: rec().fold_in(ratings(movieId=[1,1,3])), ValueError,
        ['1 of 3', '901', 'above', 'keep one']),
    ('rating of an unknown item', lambda: rec().fold_in(ratings(movieId=[1,999,998])), KeyError,
        ['2 of 3 items', '999', 'fold_in_items']),
    ('rating by an unknown user', lambda: rec().fold_in_items(ratings(userId=[901,902,903], movieId=[901]*3)), KeyError,
        ['3 of 3 users', '901', 'fold_in']),
    ('new ids of text', lambda: rec().fold_in(ratings(userId=['x','x','y'])), TypeError,
        ['users', "'x'", 'text', 'numbers', 'astype']),
    ('new ids of text in a table', lambda: rec().fold_in_items(items=pd.DataFrame(dict(movieId=['x']))), TypeError,
        ['items', "'x'", 'text', 'numbers', 'astype']),
    ('new ids of numbers', lambda: hand().fold_in(pd.DataFrame(dict(user=[3], item=[10], rating=[3.]))), TypeError,
        ['users', '3', "'ann'", 'astype']),
    ('new ids that are Boolean', lambda: rec().fold_in(ratings(userId=[True,True,False])), TypeError,
        ['users', 'True', 'numbers', 'astype']),
    ('a new user twice', lambda: features().fold_in(users=pd.DataFrame(dict(userId=[901,901], decade=[1,2]))),
        ValueError, ["'userId'", '1 of 2', '901', 'one row per id']),
    ('a new item without an id', lambda: features().fold_in_items(items=pd.DataFrame(dict(movieId=[901,None]))),
        ValueError, ["'movieId'", '1 of 2', 'one row per id']),
    ('fold into a net', lambda: rec_of('CollabNN').fold_in(ratings()), TypeError,
        ['dot products', 'NetScorer', 'DotProductBias']),
    ('explain an unknown user', lambda: rec().explain(999, 1), KeyError, ['users', '999']),
    ('explain an unknown item', lambda: rec().explain(1, 999), KeyError, ['items', '999']),
    ('explain with nothing', lambda: rec().explain(1, 2, 0), ValueError, ['k is 0', 'at least 1']),
    ('explain a net', lambda: rec_of('CollabNN').explain(1, 2), TypeError, ['dot products', 'NetScorer']),
    ('a table of items without ids', lambda: learner('DotProductBias').recommender(items=pd.DataFrame(dict(id=[1]))),
        KeyError, ["'movieId'", "'id'"]),
    ('a table of items with one twice',
        lambda: learner('DotProductBias').recommender(items=pd.DataFrame(dict(movieId=[1,1]))), ValueError,
        ['1 of 2', "'movieId'", 'one row per id']),
    ('a table of items of another type',
        lambda: learner('DotProductBias').recommender(items=pd.DataFrame(dict(movieId=['1','2']))),
        (TypeError,ValueError,KeyError), ["'movieId'"]),
    ('ONNX of a model with features', lambda: rec_of('Features').to_onnx('x.onnx'), TypeError,
        ['features', 'torch.onnx'])]

def message(e): return str(e.args[0]) if isinstance(e, KeyError) else str(e)

@pytest.mark.parametrize('call,error,words', [pytest.param(*o[1:], id=o[0]) for o in CASES])
def test_bad_input(call, error, words, monkeypatch, tmp_path, capsys):
    "One error says what came, how many, an example and the remedy; nothing is printed or written"
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(error) as e: call()
    text = message(e.value)
    assert [o for o in words if o not in text]==[] and 'np.' not in text, text
    assert capsys.readouterr().out=='' and list(tmp_path.iterdir())==[]

def test_table_is_large_enough():
    "No name occurs twice"
    assert len({o[0] for o in CASES})==len(CASES)>=60

def test_public_calls_are_documented():
    "Every public method has a docstring"
    for name,o in inspect.getmembers(Recommender, inspect.isfunction):
        if not name.startswith('_'): assert o.__doc__, name

def test_arguments_of_lists_are_checked():
    "Before anything is computed, and a memory of any size will do"
    rec = rec_of(DOTS[0])
    user = rec.ids[0][0]
    for call in (rec.recommend, rec.batches):
        with pytest.raises(ValueError, match='exclude_seen is .no.'): call(user, 3, exclude_seen='no')
    assert rec.recommend(user, 3, mb=1e300).equals(rec.recommend(user, 3))

def test_what_is_no_table_of_ratings():
    "Nor are several values an id"
    rec = rec_of(DOTS[0])
    for o in (3,'x',[1]):
        with pytest.raises(TypeError, match='give a DataFrame'): rec.fold_in(o)
    rows = pd.DataFrame({rec.names[0]:[[1]], rec.names[1]:[rec.ids[1][0]], rec.names[2]:[3.]})
    with pytest.raises(TypeError, match='hold several values'): rec.fold_in(rows)
