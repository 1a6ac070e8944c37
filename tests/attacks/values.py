"Values that nobody should give, but somebody does, and small worlds to give them to"
import functools
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np, pandas as pd, torch
from fastcollab.all import CollabDataLoaders, SVDPlusPlus, collab_learner, synthetic_ratings, to_implicit
from .verdict import want

BASE = synthetic_ratings(30, 20, 240, seed=1)
BASE = BASE.assign(timestamp=10**9+BASE.timestamp%500*86400)
CLICKS = to_implicit(BASE)

ODD = {   # made anew for each case
    'None':lambda: None, 'True':lambda: True, 'False':lambda: False, '0':lambda: 0, '1':lambda: 1, '2':lambda: 2,
    '-1':lambda: -1, '0.5':lambda: .5, '1.5':lambda: 1.5, '3.0':lambda: 3., '-0.5':lambda: -.5, '-0.0':lambda: -0.,
    'nan':lambda: np.nan, 'inf':lambda: np.inf, '-inf':lambda: -np.inf, '1e-30':lambda: 1e-30, '1e30':lambda: 1e30,
    '2**31':lambda: 2**31, '-2**31':lambda: -2**31, '2**63':lambda: 2**63, '2**64':lambda: 2**64,
    '10**30':lambda: 10**30,
    '10**400':lambda: 10**400, 'text 3':lambda: '3', 'no text':lambda: '', 'text x':lambda: 'x', 'NUL':lambda: 'a\0b',
    'surrogate':lambda: '\ud800', 'bytes':lambda: b'3', 'empty list':lambda: [], '[3]':lambda: [3],
    "['x']":lambda: ['x'],
    '[None]':lambda: [None], 'nested':lambda: [[1,2],[3]], '(1,2)':lambda: (1,2), '(2,1)':lambda: (2,1),
    '(nan,1)':lambda: (np.nan,1), '(1,2,3)':lambda: (1,2,3), 'empty dict':lambda: {}, "{'a':1}":lambda: {'a':1},
    'set':lambda: {1,2}, 'numpy int':lambda: np.int64(3), 'numpy float':lambda: np.float32(.5),
    'numpy bool':lambda: np.bool_(True), 'array ()':lambda: np.array(3), 'array (1,)':lambda: np.array([3]),
    'array (2,2)':lambda: np.ones((2,2)), 'tensor ()':lambda: torch.tensor(3),
    'tensor (2,)':lambda: torch.tensor([1.,2.]),
    'Decimal':lambda: Decimal('3'), 'Fraction':lambda: Fraction(1, 2), 'complex':lambda: 1+2j, 'object':object,
    'function':lambda: len, 'class':lambda: int, 'slice':lambda: slice(3), 'range':lambda: range(3),
    'NA':lambda: pd.NA,
    'NaT':lambda: pd.NaT, 'time':lambda: pd.Timestamp('2020-01-02'), 'date':lambda: date(2020, 1, 2),
    'datetime':lambda: datetime(2020, 1, 2), 'UUID':lambda: UUID(int=7), 'path':lambda: Path('x'),
    'Series':lambda: pd.Series([1,2]), 'frame':lambda: pd.DataFrame(dict(a=[1])),
    'generator':lambda: (o for o in [1]),
    'Ellipsis':lambda: ..., 'lambda':lambda: lambda *args, **kwargs: None, 'Exception':lambda: ValueError('x')}

# ---- Small worlds; no case writes into them
@functools.cache
def loaders(kind='ratings'):
    "Loaders of ratings, or of clicks"
    if kind=='clicks': return CollabDataLoaders.from_interactions(CLICKS, seed=1)
    features = dict(genre_name='genres', time_name='timestamp') if kind=='features' else {}
    return CollabDataLoaders.from_df(BASE, seed=1, **features)

def quiet(learn, how='fit', *args, **kwargs):
    "A fit without a bar"
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def new(kind='ratings', **kwargs): return collab_learner(loaders(kind), **{'n_factors':4, **kwargs})

@functools.cache
def fitted(kind='ratings'):
    "A learner that was fitted"
    torch.manual_seed(0)
    if kind=='sampled': return quiet(new(arch=SVDPlusPlus), 'fit_gibbs', 6)
    return quiet(new(kind), 'fit_one_cycle', 1, 5e-3)

@functools.cache
def recommender(kind='ratings'): return fitted(kind).recommender()

def works(learn, fit=True):
    "A learner fits and predicts as one does"
    if fit: quiet(learn, 'fit', 1, 1e-3)
    rows = learn.dls.train_ds.items.iloc[:20]
    preds = learn.predict(rows)
    want(preds.shape==(20,) and np.isfinite(preds).all(), f'predictions are {preds[:3]}')
    single = learn.predict(rows.iloc[0])
    want(abs(single-preds[0])<1e-4, f'one row alone is {single}, and {preds[0]} among others')
