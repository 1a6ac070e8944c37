"""How much weight decay ranking losses want, and which learning rate LightGCN wants

    python benchmarks/losses.py [PART...]

nDCG@10 on a hidden fifth of the training data: of ml-100k (split per item, as in benchmarks/ranking.py), of
ml-latest-small and of Last.fm (a random fifth of each is left out first, and never looked at). FASTCOLLAB_DATA has to
hold all three. All by Adam, 20 epochs, 64 factors, one cycle. `decays` tries decays at lr 1e-2, `lightgcn` rates with
a small decay, and `ml_100k` looks at the test part of ml-100k once."""
import os

import pandas as pd

from common import report, row, say
from fastcollab.all import *

def clicks(name):
    "The training part of a data set, users and items"
    if name=='Last.fm':
        df = pd.read_csv(f'{os.environ["FASTCOLLAB_DATA"]}/lastfm_user_artists.dat', sep='\t').iloc[:,:2]
    else: df = movielens(name)[['userId','movieId','rating']]
    split = ItemStratifiedSplitter(.25, 'movieId', 42) if name=='ml-100k' else RandomSplitter(.2, seed=1)
    return df.iloc[split(df)[0],:2].reset_index(drop=True)

def ndcg_of(df, loss, n_neg, wd, lr=1e-2, bs=512, **kwargs):
    "nDCG@10 on the hidden part"
    dls = CollabDataLoaders.from_interactions(df, valid_pct=.2, n_neg=n_neg, seed=7, bs=bs)
    set_seed(0)
    learn = collab_learner(dls, n_factors=64, loss_func=loss, wd=wd, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(20, lr)
    learn.metrics = [NDCG(10)]
    return learn.validate()[1]

def decays():
    "Each loss with several decays"
    wds = .01,.1,.3,.5
    for name in ('ml-100k','ml-latest-small','Last.fm'):
        df = clicks(name)
        say(f'\n{name}: nDCG@10 on a hidden fifth, with a weight decay of {", ".join(map(str, wds))}')
        for loss,n_neg in ((BPRLoss,1),(WARPLoss,10),(SampledSoftmaxLoss,10)):
            values = [ndcg_of(df, loss(), n_neg, wd) for wd in wds]
            row(f'{loss.__name__}, n_neg={n_neg}', ' '.join(f'{o:.4f}' for o in values))

def lightgcn():
    "LightGCN with several rates beside a dot product, by BPR"
    rates = 1e-2,2e-2,5e-2,1e-1
    for name in ('ml-100k','ml-latest-small','Last.fm'):
        df = clicks(name)
        say(f'\n{name}: nDCG@10 on a hidden fifth, with lr {", ".join(map(str, rates))}; decay .01 for LightGCN')
        row('DotProductBias, bs=512', ' '.join(f'{ndcg_of(df, BPRLoss(), 1, .3, o):.4f}' for o in rates))
        values = [ndcg_of(df, BPRLoss(), 1, .01, o, 2048, arch=LightGCN) for o in rates]
        row('LightGCN, bs=2,048', ' '.join(f'{o:.4f}' for o in values))

def ml_100k():
    "The defaults on the test part of ml-100k, once"
    df = movielens('ml-100k')[['userId','movieId','rating']]
    splits = ItemStratifiedSplitter(.25, 'movieId', 42)(df)
    say(f'\nml-100k, the test part: {len(splits[0]):,} and {len(splits[1]):,} rows, per item; decay as by default')
    for loss,n_neg in ((BPRLoss,1),(WARPLoss,10),(SampledSoftmaxLoss,10)):
        dls = CollabDataLoaders.from_interactions(df[['userId','movieId']], splits=splits, n_neg=n_neg, seed=0, bs=512)
        set_seed(0)
        learn = collab_learner(dls, n_factors=64, loss_func=loss())
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(20, 1e-2)
        learn.metrics = [NDCG(10)]
        row(f'{loss.__name__}, n_neg={n_neg}', f'nDCG@10 {learn.validate()[1]:.4f}')

if __name__=='__main__': report(__file__, [decays,lightgcn,ml_100k],
    'seeded; settings chosen on the hidden part, the test part looked at once')
