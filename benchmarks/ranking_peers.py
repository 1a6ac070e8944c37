"""Other libraries on the splits of `benchmarks/ranking.py`

    python benchmarks/ranking_peers.py IN.npz OUT.npz

IN.npz holds `n_users n_items`, twice pairs `u i` (row numbers from 0) with weights `w`: `all_` for the training part
and `rest_` for what remains when a part of it is hidden, the hidden pairs `hidden_u hidden_i`, the `users` that need
lists, the `name` of a method, and its `budget`, CPU seconds that it may search for. It takes settings from a grid, in
an order drawn by seed, until its time is over or all are tried, fits the rest with each, and keeps those with the
highest nDCG@10 on the hidden pairs; then it is fitted to the training part. OUT.npz gets `lists` (users,20), `said`,
what was chosen, and `secs`, CPU seconds of search and fit; or `error` if the library isn't there. Nobody gets the
test part. One thread. `ease` has the weights of RecTools' EASEModel, which takes minutes for a wide catalog: they
differ by less than 1e-7 on random pairs."""
import itertools, random, sys, time, warnings

import numpy as np, scipy.sparse as sp

K,FACTORS = 20,(32,64,128)

def matrix(d, part):
    "Pairs of a part as a matrix of weights, (n_users,n_items)"
    ids = d[part+'u'],d[part+'i']
    return sp.csr_matrix((d[part+'w'].astype(np.float32), ids), shape=(int(d['n_users']),int(d['n_items'])))

def weighted(m, how):
    "Weights with mean 1: all the same, as they are, or their logarithms"
    res = m.copy()
    res.data = dict(one=np.ones_like, linear=np.array, log=np.log1p)[how](m.data)
    res.data /= res.data.mean()
    return res

class Products:
    "Scores that are products of vectors, with biases if there are any"
    def __init__(self, users, items, bias=0.): self.users,self.items,self.bias = users,items,bias
    def __call__(self, u): return self.users[u]@self.items.T+self.bias

# Each takes a matrix and settings, and returns a function from users to scores
def popular(m): return lambda u: np.tile(m.getnnz(axis=0).astype(float), (len(u),1))

def implicit_als(m, factors, reg, alpha, weights):
    from implicit.cpu.als import AlternatingLeastSquares
    model = AlternatingLeastSquares(factors=factors, regularization=reg, alpha=alpha, iterations=15, num_threads=1,
        random_state=0)
    model.fit(weighted(m, weights), show_progress=False)
    return Products(model.user_factors, model.item_factors)

def implicit_bpr(m, factors, lr, reg, iterations):
    from implicit.cpu.bpr import BayesianPersonalizedRanking
    model = BayesianPersonalizedRanking(factors=factors, learning_rate=lr, regularization=reg, iterations=iterations,
        num_threads=1, random_state=0)
    model.fit(weighted(m, 'one'), show_progress=False)
    return Products(model.user_factors, model.item_factors)

def implicit_knn(m, kind, k, weights):
    from implicit import nearest_neighbours as near
    model = getattr(near, kind)(K=k, num_threads=1)
    m = weighted(m, weights)
    model.fit(m, show_progress=False)
    sums = model.similarity.tocsr()
    return lambda u: (m[u]@sums).toarray()

def lightfm(m, factors, lr, loss, epochs, alpha):
    from lightfm import LightFM
    model = LightFM(no_components=factors, learning_rate=lr, loss=loss, item_alpha=alpha, user_alpha=alpha,
        random_state=0)
    model.fit(weighted(m, 'one'), epochs=epochs, num_threads=1)
    return Products(model.user_embeddings, model.item_embeddings, model.item_biases)

def puresvd(m, factors, weights):
    "RecTools' PureSVDModel"
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import PureSVDModel
    c = weighted(m, weights).tocoo()
    data = pd.DataFrame(dict(user_id=c.row, item_id=c.col, weight=c.data, datetime='2020-01-01'))
    data = Dataset.construct(data)
    model = PureSVDModel(factors=factors, random_state=0).fit(data)
    users,items = (np.zeros((n,factors), np.float32) for n in m.shape)      # its rows are in the order of the table
    users[data.user_id_map.external_ids],items[data.item_id_map.external_ids] = model.user_factors,model.item_factors
    return Products(users, items)

def ease(m, reg):
    "The formula, arXiv 1905.03375; where users are fewer than items, the inverse is one of their products"
    m = weighted(m, 'one')
    if m.shape[1]<=m.shape[0]:
        P = np.linalg.inv((m.T@m).toarray().astype(np.float64)+reg*np.eye(m.shape[1]))
        B = (P/-np.diag(P)).astype(np.float32)
        np.fill_diagonal(B, 0)
        return lambda u: m[u]@B
    M = np.linalg.inv((m@m.T).toarray().astype(np.float64)+reg*np.eye(m.shape[0])).astype(np.float32)
    right = np.ascontiguousarray((m.T@M).T)                                 # (n_users,n_items): M times m
    diag = 1-np.asarray(m.multiply(right).sum(0))[0]                        # reg times that of the inverse
    return lambda u: (m[u]@m.T).toarray()@right/diag                        # for items that the user has not met

GRIDS = {'Popular':(popular,{}),
    'implicit ALS':(implicit_als,dict(factors=FACTORS, reg=(.01,1.,10.,30.,100.), alpha=(1.,3.,10.,30.),
        weights=('one','linear','log'))),
    'implicit BPR':(implicit_bpr,dict(factors=FACTORS, lr=(.01,.03,.1), reg=(.001,.01,.03,.1),
        iterations=(50,100,200))),
    'implicit ItemKNN':(implicit_knn,dict(kind=('CosineRecommender','TFIDFRecommender','BM25Recommender'),
        k=(20,50,100,200,500), weights=('one','linear','log'))),
    'LightFM':(lightfm,dict(factors=(32,64,128), lr=(.02,.05,.1), loss=('warp','bpr'), epochs=(15,30),
        alpha=(0.,1e-5,1e-4))),
    'RecTools PureSVD':(puresvd,dict(factors=(8,16,32,64,128,256), weights=('one','linear','log'))),
    'EASE':(ease,dict(reg=(10.,20.,30.,50.,70.,100.,140.,200.,300.,400.,600.,800.,1000.,1500.,2000.)))}

def best_lists(scores, m, users, k=K):
    "The best items that users have not met, (n,k)"
    res = []
    for o in range(0, len(users), 256):
        u = users[o:o+256]
        s = np.array(scores(u), dtype=np.float32)
        s[m[u].nonzero()] = -np.inf
        top = np.argpartition(-s, k, axis=1)[:,:k]
        res.append(np.take_along_axis(top, np.argsort(-np.take_along_axis(s, top, 1), axis=1, kind='stable'), 1))
    return np.concatenate(res)

def ndcg(lists, held, users):
    "Mean nDCG of lists (n,k) for users with hidden pairs"
    gain,held = 1/np.log2(np.arange(lists.shape[1])+2),held[users]
    found = np.asarray(held[np.arange(len(users))[:,None],lists].todense())>0
    best = gain.cumsum()[np.minimum(held.getnnz(axis=1), len(gain))-1]
    return float((found@gain/best).mean())

def run(d, name, budget):
    "Search, fit and lists of one method"
    fit,grid = GRIDS[name]
    whole,rest = matrix(d, 'all_'),matrix(d, 'rest_')
    hidden = sp.csr_matrix((np.ones(len(d['hidden_u'])), (d['hidden_u'],d['hidden_i'])), shape=whole.shape)
    users = np.flatnonzero(hidden.getnnz(axis=1))
    combos = [dict(zip(grid, o)) for o in itertools.product(*grid.values())]
    random.Random(0).shuffle(combos)
    start,values = time.process_time(),[]
    for o in combos:
        if values and time.process_time()-start>budget: break
        values.append(ndcg(best_lists(fit(rest, **o), rest, users, 10), hidden, users))
    best = combos[int(np.argmax(values))]
    lists = best_lists(fit(whole, **best), whole, d['users'])
    said = ' '.join(f'{k}={v}' for k,v in best.items())
    return lists,f'{said} ({max(values):.4f} hidden, best of {len(values)})',time.process_time()-start

def main(source, target):
    "The command line"
    warnings.simplefilter('ignore')
    d = dict(np.load(source))
    try: lists,said,secs = run(d, str(d['name']), float(d['budget']))
    except ImportError as e: np.savez(target, error=str(e))
    else: np.savez(target, lists=lists, said=said, secs=secs)

if __name__=='__main__': main(*sys.argv[1:])
