"Ranking metrics against the formulas of other libraries: random input with ties, short lists, users without positives"
import math

import numpy as np, pandas as pd, pytest
from hypothesis import given, strategies as st
from scipy.sparse import csr_matrix
from sklearn.metrics import roc_auc_score

from fastcollab.ranking import *

K = (1,3,5,10)

def sample(seed, n=60, m=40, k=10, empty=True):
    "Scores with ties, (n,m) for items 1..m; lists by falling score, ties in the order of the items; held-out items"
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 8, (n,m)).astype(float)
    held = rng.random((n,m+1))<rng.random((n,1))*.4
    held[:,0] = False
    if empty: held[::7] = False
    gone = (rng.random((n,m))<.3) & ~held[:,1:]
    scores[gone] = -np.inf
    if empty: scores[1::9,3:] = -np.inf   # short lists
    order = np.argsort(-scores, axis=1, kind='stable')[:,:k]
    lists = np.where(np.take_along_axis(scores, order, 1)>-np.inf, order+1, 0)
    return scores,lists,csr_matrix(held)

def pairs(lists, held):
    "A list of item rows and a set of held-out ones for each user"
    held = held.toarray()
    return [([i for i in l if i],set(np.flatnonzero(h))) for l,h in zip(lists, held)]

def same(ours, theirs): np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, equal_nan=True)

# ---- RecBole 1.2, recbole/evaluator/metrics.py: `pos_index` (n,k), `pos_len` (n,), for users with positives
def recbole(pos_index, pos_len):
    n,k = pos_index.shape
    ranks = np.arange(1, k+1)
    short = np.minimum(pos_len, k)
    idcg,dcg = np.cumsum(np.tile(1/np.log2(ranks+1), (n,1)), 1),np.cumsum(np.where(pos_index, 1/np.log2(ranks+1), 0), 1)
    for row,idx in enumerate(short): idcg[row,idx:] = idcg[row,idx-1]
    summed,ap = np.cumsum(pos_index.cumsum(1)/ranks*pos_index, 1),np.zeros((n,k))
    for row,lens in enumerate(short):
        r = np.arange(1, k+1)
        r[lens:] = r[lens-1]
        ap[row] = summed[row]/r
    first = pos_index.argmax(1)
    mrr = np.where(pos_index[np.arange(n),first], 1/(first+1), 0)
    res = dict(ndcg=dcg/idcg, map=ap, recall=pos_index.cumsum(1)/pos_len[:,None], precision=pos_index.cumsum(1)/ranks,
        hit_rate=pos_index.cumsum(1)>0)
    return {**{name:v[:,-1] for name,v in res.items()}, 'mrr':mrr}

@pytest.mark.parametrize('k', K)
@pytest.mark.parametrize('style', (None,'recbole'))
@pytest.mark.parametrize('seed', range(3))
def test_recbole(seed, k, style):
    _,lists,held = sample(seed)
    hits = find_hits(lists, held).at(k)
    users = hits.n_held>0
    pos = np.array([[i in h for i in l]+[False]*(10-len(l)) for l,h in pairs(lists, held)])[:,:k]
    want = recbole(pos[users], hits.n_held[users])
    for name,f in RANKING_METRICS.items():
        got = f(hits, style)
        same(got[users], want[name])
        assert np.isnan(got[~users]).all() and (~users).any()

@pytest.mark.parametrize('k', K)
def test_recbole_itself(k, monkeypatch):
    metrics = pytest.importorskip('recbole.evaluator.metrics')
    for o in (float,int,bool): monkeypatch.setattr(np, o.__name__, o, raising=False)   # names that numpy has dropped
    _,lists,held = sample(4)
    hits = find_hits(lists, held).at(k)
    users = hits.n_held>0
    found,n,config = hits.found[users],hits.n_held[users],dict(topk=[k], metric_decimal_place=16)
    names = dict(ndcg='NDCG', map='MAP', recall='Recall', precision='Precision', mrr='MRR', hit_rate='Hit')
    for name,cls in names.items():
        args = (found,n) if name in ('ndcg','map','recall') else (found,)
        want = getattr(metrics, cls)(config).metric_info(*args)[:,-1]
        same(RANKING_METRICS[name](hits, 'recbole')[users], want)

# ---- ranx 0.3, ranx/metrics: a mean over all users, of 0 without positives
def ranx_numbers(items, held, k):
    if not held: return dict.fromkeys(RANKING_METRICS, 0.)
    found = [i in held for i in items[:k]]
    gain = sum(1/math.log2(r+2) for r,o in enumerate(found) if o)
    best = sum(1/math.log2(r+2) for r in range(min(k, len(held))))
    ap = sum(sum(found[:r+1])/(r+1) for r,o in enumerate(found) if o)/len(held)
    return dict(ndcg=gain/best, map=ap, recall=sum(found)/len(held), precision=sum(found)/k,
        mrr=1/(found.index(True)+1) if any(found) else 0., hit_rate=float(any(found)))

@pytest.mark.parametrize('k', K)
def test_ranx_formulas(k):
    _,lists,held = sample(3)
    want = pd.DataFrame([ranx_numbers(*o, k) for o in pairs(lists, held)])
    for name,f in RANKING_METRICS.items(): same(f(find_hits(lists, held).at(k), 'ranx'), want[name])

@pytest.mark.parametrize('k', K)
@pytest.mark.parametrize('seed', range(2))
def test_ranx_itself(seed, k):
    ranx = pytest.importorskip('ranx')
    scores,lists,held = sample(seed)
    names = dict(ndcg=f'ndcg@{k}', map=f'map@{k}', recall=f'recall@{k}', precision=f'precision@{k}', mrr=f'mrr@{k}',
        hit_rate=f'hit_rate@{k}')
    kept = [u for u,(_,h) in enumerate(pairs(lists, held)) if h]     # ranx takes no user without positives
    qrels = ranx.Qrels({f'u{u:03}':{f'i{i:03}':1 for i in pairs(lists, held)[u][1]} for u in kept})
    run = ranx.Run({f'u{u:03}':{f'i{i+1:03}':s for i,s in enumerate(scores[u]) if s>-np.inf} for u in kept})
    want = ranx.evaluate(qrels, run, list(names.values()), return_mean=False, threads=1)
    order = [[int(i[1:]) for i in run.run[f'u{u:03}']][:10] for u in kept]   # its sort leaves ties in no order
    hits = find_hits(np.array([o+[0]*(10-len(o)) for o in order]), held[kept]).at(k)
    for name,f in RANKING_METRICS.items(): same(f(hits, 'ranx'), want[names[name]])

# ---- Recommenders 1.2, recommenders/evaluation/python_evaluation.py, on frames of pairs
def recommenders(true, pred, k):
    common = set(true.user)&set(pred.user)
    pred = pred[pred.user.isin(common)]
    top = pred.sort_values(['user','prediction'], ascending=[True,False]).groupby('user', sort=False).head(k)
    top = top.assign(rank=top.groupby('user').cumcount()+1)
    hit = top.merge(true, on=['user','item'])[['user','item','rank']]
    actual = true[true.user.isin(common)].groupby('user').size()
    count = hit.groupby('user').size()
    hit = hit.sort_values(['user','rank'])
    rr = ((hit.groupby('user').cumcount()+1)/hit['rank']).groupby(hit.user).sum()
    dcg = true.merge(hit, how='left').assign(dcg=lambda o: 1/np.log(1+o['rank'])).groupby('user').dcg.sum()
    idcg = true.groupby('user').size().map(lambda n: sum(1/math.log(1+r) for r in range(1, min(n, k)+1)))
    n = len(common)
    return dict(ndcg=(dcg/idcg).mean(), map=(rr/actual.clip(upper=k)[rr.index]).sum()/n,
        recall=(count/actual[count.index]).sum()/n, precision=(count/k).sum()/n)

def frames(lists, held):
    true = pd.DataFrame([(u,i) for u,(_,h) in enumerate(pairs(lists, held)) for i in h], columns=['user','item'])
    rows = [(u,i,-float(r)) for u,(l,_) in enumerate(pairs(lists, held)) for r,i in enumerate(l)]
    return true.assign(rating=1.),pd.DataFrame(rows, columns=['user','item','prediction'])

def without_some_lists(seed):
    _,lists,held = sample(seed)
    lists[2::8] = 0
    return lists,held

@pytest.mark.parametrize('k', K)
def test_recommenders_formulas(k):
    lists,held = without_some_lists(5)
    true,pred = frames(lists, held)
    want = recommenders(true[['user','item']], pred, k)
    for name,w in want.items(): same(user_mean(RANKING_METRICS[name](find_hits(lists, held).at(k), 'recommenders')), w)

@pytest.mark.parametrize('k', K)
def test_recommenders_itself(k):
    ev = pytest.importorskip('recommenders.evaluation.python_evaluation')
    lists,held = without_some_lists(6)
    true,pred = frames(lists, held)
    cols = dict(col_user='user', col_item='item', col_prediction='prediction', k=k)
    hits = find_hits(lists, held).at(k)
    for name,f in dict(recall=ev.recall_at_k, precision=ev.precision_at_k, map=ev.map_at_k).items():
        same(user_mean(RANKING_METRICS[name](hits, 'recommenders')), f(true, pred, **cols))
    same(user_mean(ndcg(hits, 'recommenders')), ev.ndcg_at_k(true, pred, col_rating='rating', **cols))
    # `map` of Recommenders divides by all held-out items, as ranx does; only users with a list count
    listed = hits.length>0
    some = Hits(hits.found[listed], hits.n_held[listed], hits.length[listed])
    some = Hits(*(o[some.n_held>0] for o in some))
    same(average_precision(some, 'ranx').mean(), ev.map(true, pred, **cols))

# ---- LensKit 2025, lenskit/metrics/ranking, one list at a time
def lenskit(items, held, k):
    items = items[:k]
    good = np.array([i in held for i in items], bool)
    ranks,n,nan = np.arange(1, len(items)+1),min(len(held), k),float('nan')
    weight = lambda r: math.log(2)/np.log(np.maximum(r, 2))
    ideal = weight(np.arange(1, n+1)).sum()
    res = dict.fromkeys(RANKING_METRICS, nan)
    if len(items): res['precision'] = good.sum()/len(items)
    if not held: return res
    first = np.flatnonzero(good)
    if len(items): res['map'] = (good.cumsum()[good]/ranks[good]).sum()/min(len(held), len(items))
    return {**res, 'ndcg':weight(ranks[good]).sum()/ideal, 'recall':good.sum()/n, 'hit_rate':float(good.any()),
        'mrr':1/(first[0]+1) if len(first) else 0.}

@pytest.mark.parametrize('k', K)
def test_lenskit(k):
    lists,held = without_some_lists(7)
    want = pd.DataFrame([lenskit(*o, k) for o in pairs(lists, held)])
    for name,f in RANKING_METRICS.items(): same(f(find_hits(lists, held).at(k), 'lenskit'), want[name])

@pytest.mark.parametrize('k', K)
def test_lenskit_itself(k):
    ranking,lk = pytest.importorskip('lenskit.metrics.ranking'),pytest.importorskip('lenskit.data')
    lists,held = without_some_lists(8)
    names = dict(ndcg=ranking.NDCG, recall=ranking.Recall, precision=ranking.Precision, mrr=ranking.RecipRank,
        hit_rate=ranking.Hit, map=ranking.AveragePrecision)
    some = [o for o in pairs(lists, held) if o[1]]                          # its recall divides by 0 for the others
    hits = find_hits(lists, held).at(k)
    for name,cls in names.items():
        want = [cls(n=k).measure_list(lk.ItemList(item_ids=l, ordered=True), lk.ItemList(item_ids=sorted(h)))
            for l,h in some]
        same(RANKING_METRICS[name](hits, 'lenskit')[hits.n_held>0], want)

# ---- The whole order
@pytest.mark.parametrize('seed', range(3))
def test_auc(seed):
    scores,_,held = sample(seed, m=(40,40,600)[seed])   # with many held-out items, rows are sorted
    got,dense = auc_scores(scores, held),held.toarray()[:,1:]
    for u,(s,h) in enumerate(zip(scores, dense)):
        part = s>-np.inf
        if h[part].any() and not h[part].all(): same(got[u], roc_auc_score(h[part], s[part]))
        else: assert np.isnan(got[u])

# ---- Beyond hits
def test_beyond_hits():
    rng = np.random.default_rng(0)
    _,lists,held = sample(0)
    m = held.shape[1]
    rows = rng.integers(0, 5, (m,3))
    rows[0] = 0
    genres = [set(r)-{0} for r in rows]
    vectors = genre_vectors(rows)
    def cosine(a, b): return len(a&b)/math.sqrt(len(a)*len(b)) if a and b else 0.
    for got,l in zip(diversity(lists, vectors), lists):
        l = [i for i in l if i]
        want = [1-cosine(genres[a], genres[b]) for x,a in enumerate(l) for b in l[x+1:]]
        np.testing.assert_allclose(got, np.mean(want) if want else np.nan, atol=1e-6)
    c = exposure(lists, m)
    np.testing.assert_allclose(exposure_gini(lists, m), np.abs(c[:,None]-c).mean()/(2*c.mean()))
    assert coverage(lists, m)==len(set(lists.ravel())-{0})/(m-1)

def test_novelty_and_lift():
    _,lists,held = sample(1)
    counts = np.random.default_rng(1).integers(0, 30, held.shape[1])
    for l,h,nov,lift in zip(lists, held.toarray(), novelty(lists, counts, 100), popularity_lift(lists, counts, held)):
        l = l[l>0]
        np.testing.assert_allclose(nov, np.mean(-np.log2(np.maximum(counts[l], 1)/100)))
        own = counts[np.flatnonzero(h)]
        np.testing.assert_allclose(lift, counts[l].mean()/own.mean()-1 if own.sum() else np.nan)

# ---- Any input
@given(st.integers(0, 10**6))
def test_bounds(seed):
    _,lists,held = sample(seed, n=20, m=15)
    for style in (None,'recbole','ranx','recommenders','lenskit'):
        for f in RANKING_METRICS.values():
            v = f(find_hits(lists, held), style)
            v = v[~np.isnan(v)]
            assert ((v>=0) & (v<=1+1e-12)).all()

def test_a_perfect_list_scores_one():
    held = csr_matrix(np.array([[0,1,1,1,0], [0,0,0,0,1]]))
    hits = find_hits([[1,2],[4,1]], held)
    for f in (ndcg,average_precision,hit_rate,reciprocal_rank): np.testing.assert_allclose(f(hits), 1)
    np.testing.assert_allclose(average_precision(hits, 'ranx'), [2/3,1])
    np.testing.assert_allclose(recall(hits), [2/3,1])
    np.testing.assert_allclose(recall(hits, 'lenskit'), 1)

def test_unsorted_and_repeated_entries_are_one_item():
    held = csr_matrix((np.ones(3), np.array([2,1,2]), np.array([0,3])), shape=(1,4))
    assert find_hits([[1,3]], held).n_held.tolist()==[2] and held.nnz==3

def test_no_lists_and_no_held_out_items():
    hits = find_hits(np.zeros((2,3), int), csr_matrix((2,5)))
    assert np.isnan(ndcg(hits)).all() and math.isnan(user_mean(ndcg(hits)))
    assert ndcg(find_hits(np.zeros((0,3), int), csr_matrix((0,5)))).shape==(0,)

def test_errors():
    held = csr_matrix((2,5))
    with pytest.raises(ValueError, match='lists have the shape'): find_hits([[1,2]], held)
    with pytest.raises(ValueError, match='k is 5; give a whole number of items in each list'):
        find_hits([[1,2],[3,4]], held).at(5)
    with pytest.raises(ValueError, match="style is 'trec'"): recall(find_hits([[1,2],[3,4]], held), 'trec')
    with pytest.raises(ValueError, match='row 9 of the items'): find_hits([[1,2],[3,9]], held)
