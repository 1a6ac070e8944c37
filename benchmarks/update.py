"""`learn.update` over days of 1 % with new ids, against a retraining each day: python benchmarks/update.py [SET ...]

Ratings come in the order of their times, or in that of a seeded shuffle of users where there are none. A tenth of all
rows, drawn at random, is the test part. Training starts with the first 70 % of the others. Every day brings 1 % more;
the error and the lists of both learners are measured on the test rows of users and items that the training part knows.
`update` decides by itself: small sets are trained again. For them, reading each new rating once is measured, too. How
strongly that holds what is known was chosen on FilmTrust, ml-100k and 600,000 synthetic ratings. Times are of the
processor; the first day also compiles and sorts all pairs, so the means leave it out.
"""
import os, sys, time, warnings
from pathlib import Path

import numpy as np, pandas as pd
from common import LINES, machine, say
from fastcollab.all import *

DATA,DAYS = Path(os.environ['FASTCOLLAB_DATA']),30

def read(name):
    "Columns user, item, rating, and the time or a stand-in for it"
    if name.startswith('ml-'): df = movielens(name).iloc[:,:4].set_axis(['user','item','rating','time'], axis=1)
    elif name=='synthetic':
        df = synthetic_ratings(20_000, 5_000, 2_000_000, seed=0).iloc[:,:3].set_axis(['user','item','rating'], axis=1)
        rng = np.random.default_rng(0)
        start = rng.random(df.user.max()+1)[df.user]           # users come one after the other, and stay
        df['time'] = start+(1-start)*rng.random(len(df))
        return df.sort_values('time', ignore_index=True)
    elif name=='filmtrust': df = pd.read_csv(DATA/'filmtrust.txt', sep=' ', names=['user','item','rating'])
    else:
        df = pd.read_csv(DATA/'lastfm_user_artists.dat', sep='\t').set_axis(['user','item','rating'], axis=1)
        df['rating'] = 1.
    if 'time' in df: return df.drop_duplicates(['user','item']).sort_values('time', kind='stable', ignore_index=True)
    order = pd.Series(np.random.default_rng(0).permutation(df.user.nunique()), index=df.user.unique())
    df = df.drop_duplicates(['user','item'])
    return df.assign(time=df.user.map(order)).sort_values('time', kind='stable', ignore_index=True)

def trained(df, clicks):
    "What is run each day without `update`"
    if clicks: dls = CollabDataLoaders.from_interactions(df[['user','item']], valid_pct=0, seed=0, bs=256)
    else: dls = CollabDataLoaders.from_df(df[['user','item','rating']], valid_pct=0, seed=0)
    set_seed(0)
    learn = collab_learner(dls, n_factors=50)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 5e-3, wd=0. if clicks else .1)
    return learn

def measured(learn, test, clicks):
    "RMSE, and nDCG@10, on the test rows that are known"
    known = test[test.user.isin(learn.dls.classes['user'])&test.item.isin(learn.dls.classes['item'])]
    lists = evaluate(learn, known if clicks else known[known.rating>=known.rating.median()], k=10, n_boot=0)
    rmse_ = np.nan if clicks else np.sqrt(np.mean((learn.predict(known)-known.rating)**2))
    return rmse_,lists['ndcg@10'][0]

def clock(f, *args):
    start = time.process_time()
    res = f(*args)
    return res,time.process_time()-start

def run(name, retrain=None):
    "Compare, and print"
    df,clicks,rng = read(name),name=='lastfm',np.random.default_rng(1)
    held = rng.random(len(df))<.1
    test,df = df[held],df[~held].reset_index(drop=True)
    ends = (len(df)*(.7+.01*np.arange(DAYS+1))).astype(int)
    learn = trained(df[:ends[0]], clicks)
    rows,seconds,new = [],[],0
    for day,(a,b) in enumerate(zip(ends, ends[1:]), 1):
        more = df[a:b][['user','item']+['rating']*(not clicks)]
        new += (~more.user.isin(learn.dls.classes['user'])).sum()
        _,short = clock(learn.update, more, retrain)
        if day!=1 and day%5:
            seconds.append(short)
            continue
        fresh,whole = clock(trained, df[:b], clicks)
        rows.append((day, *measured(learn, test, clicks), *measured(fresh, test, clicks), short, whole))
    cols = ['day','rmse','ndcg','rmse daily','ndcg daily','s','s daily']
    table = pd.DataFrame(rows, columns=cols)
    how = 'as it decides' if retrain is None else 'each new rating read once'
    say(f'\n{name}, {how}: {len(df):,} ratings, {new:,} of the later ones by users that were new that day')
    say(table.round(4).to_string(index=False))
    last = table.iloc[1:].mean()
    seconds = np.mean([*seconds,*table.s[1:]])
    say(f'mean: RMSE {last.rmse-last["rmse daily"]:+.4f}, nDCG@10 {last.ndcg-last["ndcg daily"]:+.4f}, '
        f'{seconds/last["s daily"]:.1%} of the time')

if __name__=='__main__':
    warnings.simplefilter('ignore')
    say(f'benchmarks/update.py: {machine()}; seconds of CPU time')
    for name in sys.argv[1:] or ('filmtrust','ml-100k','ml-latest-small','synthetic'):
        for retrain in (None,False)[:1+(name!='synthetic')]: run(name, retrain)
    if not sys.argv[1:]: (Path(__file__).parent/'results/update.txt').write_text('\n'.join(LINES)+'\n')
