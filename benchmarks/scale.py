"What a large recommender costs: loaders with features, folding in one item, saving and loading"
# chkstyle: skip (a benchmark)
import argparse, datetime, gc, shutil, tempfile, threading, time
from pathlib import Path

import numpy as np, pandas as pd, torch
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.recommend.base import Factors, FoldTerms, Link
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer

def memory():
    "Memory of this process, in MB: all that is resident, and what no file backs"
    status = dict(o.split(':', 1) for o in Path('/proc/self/status').read_text(encoding='utf8').splitlines())
    return [int(status[o].split()[0])/1024 for o in ('VmRSS','RssAnon')]

class Watch:
    "Processor seconds, and the most memory that no file backs, above what was there before"
    def __enter__(self):
        gc.collect()
        self.start,self.before,self.most,self.done = time.process_time(),memory()[1],0,False
        def look():
            while not self.done:
                self.most = max(self.most, memory()[1])
                time.sleep(.005)
        self.thread = threading.Thread(target=look)
        self.thread.start()
        return self
    def __exit__(self, *args):
        self.seconds,self.done = time.process_time()-self.start,True
        self.thread.join()
        gc.collect()
        self.stays = memory()[1]-self.before
        self.most -= self.before
    def __str__(self):
        return f'{self.seconds:7.2f} s of processor, {self.most:7.0f} MB at most, {self.stays:7.0f} MB stay'

def ratings(n, n_users, n_items, rng):
    "Random ratings of items with genres, ids of whole numbers"
    genres = np.array(['Action|Drama','Comedy','Drama','Horror|Thriller','Comedy|Romance','Documentary'], object)
    keys = np.sort(rng.integers(0, n_users*n_items, n))
    keys = rng.permutation(keys[np.r_[True,np.diff(keys)>0]])                # each pair once
    user,item = np.divmod(keys, n_items)
    n = len(keys)
    return pd.DataFrame(dict(user=user, item=item, rating=rng.integers(1, 6, n).astype(np.float32),
        genres=genres[item%len(genres)]))

def large(n, n_users, n_items, k, rng):
    "A recommender with random vectors and ratings"
    g = torch.Generator().manual_seed(0)
    def table(rows): return Factors(.1*torch.randn(rows+1, k, generator=g), .1*torch.randn(rows+1, generator=g))
    u,i = (torch.from_numpy(rng.integers(1, o+1, n)) for o in (n_users,n_items))
    history = UserHistory.from_ratings(u, i, torch.from_numpy(rng.integers(1, 6, n).astype(np.float32)), n_users+1)
    items = pd.DataFrame(dict(item=range(n_items), title=[f'title {o}' for o in range(n_items)]))
    scorer = DotScorer(table(n_users), table(n_items), Link((.5,5.5)))
    ids,names = (pd.RangeIndex(n_users),pd.RangeIndex(n_items)),('user','item','rating')
    return Recommender(scorer, ids, names, items, history, (FoldTerms(),FoldTerms()), (1.,5.))

def main(n=10_000_000, n_users=1_000_000, n_items=100_000, k=64, what='all'):
    rng = np.random.default_rng(0)
    print(f'{n:,} ratings of {n_items:,} items by {n_users:,} users, {k} factors; seed 0; '
        f'Intel Xeon VM, 2 cores, {datetime.date.today()}')
    if what in ('all','data'):
        df = ratings(n, n_users, n_items, rng)
        for kwargs in ({}, dict(genre_name='genres')):
            with Watch() as w: dls = CollabDataLoaders.from_df(df, seed=1, user_name='user', item_name='item',
                rating_name='rating', **kwargs)
            print(f'{"from_df with genres" if kwargs else "from_df":<24}{w}', flush=True)
            del dls
        del df
    if what not in ('all','recommender'): return
    rec = large(n, n_users, n_items, k, rng)
    new = pd.DataFrame(dict(user=rng.choice(n_users, 20, replace=False), item=n_items, rating=rng.integers(1, 6, 20)))
    with Watch() as w: rec.decay(0), rec.decay(1)
    print(f'{"decays, once":<24}{w}', flush=True)
    with Watch() as w: more = rec.fold_in_items(new)
    print(f'{"fold_in_items of one":<24}{w}', flush=True)
    with Watch() as w: more.recommend(int(new.user[0]), 10)
    print(f'{"a list of one user":<24}{w}', flush=True)
    del more
    folder = tempfile.mkdtemp()
    with Watch() as w: rec.save(folder)
    size = sum(o.stat().st_size for o in Path(folder).rglob('*') if o.is_file())/2**20
    print(f'{"save, "+format(size, ".0f")+" MB":<24}{w}', flush=True)
    del rec
    with Watch() as w: rec = Recommender.load(folder)
    print(f'{"load":<24}{w}', flush=True)
    shutil.rmtree(folder)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--what', default='all', choices=['all','data','recommender'])
    main(**vars(p.parse_args()))
