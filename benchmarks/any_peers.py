"""Other libraries on the splits of benchmarks/any_data.py

    python benchmarks/any_peers.py IN.npz OUT.npz

IN.npz holds `u_train i_train r_train u_test i_test` (row numbers from 0, of all users and items), `n_users
n_items`, the scale `lo hi`, where there are times `day_train day_test`, where there are features of users (0) or
items (1) the columns of each row, `indptr0 indices0` and the group of each column `groups0`, and `jobs`: JSON, a
list of `[name, seed, settings]`. OUT.npz gets the predictions of each job for the test pairs, `pred0` and so on,
the seconds of the fits on data in the library's own format, `secs0`, or `error0` if the library isn't there. Nobody
gets the ratings of the test part. One thread."""
import contextlib, io, json, sys, time

import numpy as np

def seconds(f):
    "What `f` returns, and the CPU seconds it took: other processes may run beside it"
    start = time.process_time()
    return f(),time.process_time()-start

def features(d, side):
    "Columns of the users (0) or items (1) as a matrix of ones and zeros, and the group of each column"
    from scipy.sparse import csr_matrix
    if f'indptr{side}' not in d: return None,[]
    ptr,idx,groups = (d[f'{o}{side}'] for o in ('indptr','indices','groups'))
    return csr_matrix((np.ones(len(idx)), idx, ptr), shape=(len(ptr)-1,len(groups))),groups.tolist()

def surprise(d, seed):
    "SVD as it comes: 100 factors, 20 epochs"
    from surprise import SVD, Dataset, Reader
    import pandas as pd
    df = pd.DataFrame(dict(u=d['u_train'], i=d['i_train'], r=d['r_train']))
    data = Dataset.load_from_df(df, Reader(rating_scale=(float(d['lo']),float(d['hi'])))).build_full_trainset()
    m,secs = seconds(lambda: SVD(random_state=seed).fit(data))
    return [o.est for o in m.test([(a,b,0.) for a,b in zip(d['u_test'].tolist(), d['i_test'].tolist())])],secs

class CMFRec:
    """CMF as it comes: 40 factors, lambda 10, 10 iterations of ALS; with features of both sides if they are asked for

    It gets users and items with ratings only, see benchmarks/peers.py. New users get a vector from their features with
    `predict_cold_multiple`, new items with `predict_new`, pairs with both new, and all without features, an average."""
    def __init__(self, d, side_info):
        from scipy.sparse import coo_matrix
        self.seen = [np.unique(d[o]) for o in ('u_train','i_train')]
        # (n_users,F0) and (n_items,F1)
        self.side = [None if o is None else o.toarray() for o in (features(d, s)[0] for s in (0,1))] if side_info \
            else [None,None]
        self.data = coo_matrix((d['r_train'], tuple(self.rows(d['u_train'], d['i_train']))),
            shape=[len(o) for o in self.seen])
    def rows(self, *ids):
        "Row numbers among the rows seen in training, one past the last for the others"
        return [np.where(np.isin(o, s), np.searchsorted(s, o), len(s)) for s,o in zip(self.seen, ids)]
    def fit(self, seed):
        from cmfrec import CMF
        m = CMF(random_state=seed, nthreads=1, verbose=False)
        own = {k:o[s] for k,o,s in zip('UI', self.side, self.seen) if o is not None}
        return m.fit(self.data, **own)
    def predict(self, m, users, items):
        u,i = self.rows(users, items)
        res,new = m.predict(u, i),(u==len(self.seen[0]), i==len(self.seen[1]))
        if self.side[0] is not None and (o := np.flatnonzero(new[0]&~new[1])).size:
            res[o] = m.predict_cold_multiple(i[o], U=self.side[0][users[o]])
        if self.side[1] is not None:
            for o in np.flatnonzero(new[1]&~new[0]): res[o] = m.predict_new(u[[o]], I=self.side[1][items[[o]]])[0]
        return res

def cmfrec(d, seed, side_info=False):
    peer = CMFRec(d, side_info)
    m,secs = seconds(lambda: peer.fit(seed))
    return peer.predict(m, d['u_test'], d['i_test']),secs

class MyFM:
    """A Bayesian factorization machine, set up as in its documentation: one group of precisions for each kind of column

    `sets`: the items of a user and the users of an item, divided by the root of their number, in relation blocks;
    `side_info`: features of both sides and the day of the rating too"""
    def __init__(self, d, sets, side_info):
        from scipy import sparse as sp
        n,ids = (int(d['n_users']),int(d['n_items'])),(d['u_train'],d['i_train'])
        rated = sp.csr_matrix((np.ones(len(ids[0])), ids), shape=n)
        self.blocks,self.groups,self.g = [],[],0
        for s,m in enumerate((rated,rated.T.tocsr())):
            count = np.asarray(m.sum(1)).ravel()
            cols = [sp.diags((count>0)*1.).tocsr()]
            self.group(n[s])
            if sets:
                cols.append(sp.diags(1/np.sqrt(np.maximum(count, 1)))@m)
                self.group(n[1-s])
            if side_info and (f := features(d, s))[0] is not None:
                cols.append(f[0])
                self.groups += [self.g+o for o in f[1]]
                self.g += max(f[1])+1
            self.blocks.append(sp.hstack(cols).tocsr())
        self.sets,self.days = sets or side_info,None
        if side_info and 'day_train' in d:
            self.days = np.unique(d['day_train'])
            # X comes before the blocks
            self.groups = [0]*len(self.days)+[o+1 for o in self.groups]
    def group(self, n):
        self.groups += [self.g]*n
        self.g += 1
    def table(self, d, part):
        "What it takes to fit or predict: a matrix and relation blocks"
        from myfm import RelationBlock
        from scipy import sparse as sp
        u,i = d[f'u_{part}'],d[f'i_{part}']
        if not self.sets: return sp.hstack([self.blocks[0][u],self.blocks[1][i]]).tocsr(),[]
        X = None
        if self.days is not None:
            day = d[f'day_{part}']
            row = np.flatnonzero(np.isin(day, self.days))
            X = sp.csr_matrix((np.ones(len(row)), (row,np.searchsorted(self.days, day[row]))),
                shape=(len(day),len(self.days)))
        rows = [np.unique(o, return_inverse=True) for o in (u,i)]
        return X,[RelationBlock(inv, b[k]) for (k,inv),b in zip(rows, self.blocks)]

def myfm(d, seed, sets=False, side_info=False, rank=10, probit=False, scaled=False, sweeps=300):
    "A chain, all of its samples kept; `probit`: levels as classes; `scaled`: ratings with mean 0 and deviation 1"
    from myfm import MyFMOrderedProbit, MyFMRegressor
    peer,y = MyFM(d, sets, side_info),d['r_train'].astype(float)
    X,blocks = peer.table(d, 'train')
    m = (MyFMOrderedProbit if probit else MyFMRegressor)(rank=rank, random_seed=seed)
    levels,mean,sd = np.unique(y),*((y.mean(),y.std()) if scaled else (0.,1.))
    y = np.searchsorted(levels, y) if probit else (y-mean)/sd
    secs = seconds(lambda: m.fit(X, y, X_rel=blocks, grouping=peer.groups, n_iter=sweeps, n_kept_samples=sweeps))[1]
    X,blocks = peer.table(d, 'test')
    if probit: return m.predict_proba(X, X_rel=blocks)@levels,secs
    return m.predict(X, X_rel=blocks)*sd+mean,secs

NAMES = dict(surprise=surprise, cmfrec=cmfrec, myfm=myfm)

def main(source, target):
    "The command line"
    d,res = dict(np.load(source)),{}
    for k,(name,seed,settings) in enumerate(json.loads(str(d['jobs']))):
        try:
            # myFM has its progress bar
            with contextlib.redirect_stderr(io.StringIO()): pred,secs = NAMES[name](d, seed, **settings)
        except ImportError as e: res[f'error{k}'] = f"{e}: pip install 'fastcollab[bench]'"
        else: res.update({f'pred{k}':np.asarray(pred, dtype=np.float64), f'secs{k}':secs})
    np.savez(target, **res)

if __name__=='__main__': main(*sys.argv[1:])
