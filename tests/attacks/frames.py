"Tables with odd columns, odd ids, odd names and odd shapes"
from datetime import date, time
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from uuid import UUID

import numpy as np, pandas as pd, pyarrow as pa
from fastcollab.all import CollabDataLoaders, collab_learner, describe_ratings, evaluate, to_implicit
from fastcollab.recommend.recommender import Recommender
from .values import BASE, fitted, loaders, quiet, recommender, works
from .verdict import Case, want

class Color(Enum): RED = 1
N = len(BASE)

def one(value):
    "`value` in one row"
    def change(col): return pd.Series([value if k==3 else o for k,o in enumerate(col)], col.index, object)
    return change
def every(f):
    "`f` of each value"
    def change(col): return pd.Series([f(o) for o in col.to_numpy()], col.index, object)
    return change
def typed(dtype):
    "The column in another type"
    def change(col): return col.astype(dtype)
    return change
def arrow(kind, f=lambda o: o):
    "The column in a type of Arrow"
    def change(col): return pd.Series(pd.array([f(o) for o in col.tolist()], dtype=pd.ArrowDtype(kind)), col.index)
    return change
def day(o): return date(2020, 1, 1+number(o)%28)
def number(o): return int(hash(str(o))%97) if isinstance(o, str) else int(o)

COLUMNS = { # what is done to a column
    'None in a row':one(None), 'NaN in a row':one(np.nan), 'NA in a row':one(pd.NA), 'NaT in a row':one(pd.NaT),
    'inf in a row':one(np.inf), 'text in a row':one('x'), 'empty text in a row':one(''), 'NUL in a row':one('a\0b'),
    'surrogate in a row':one('\ud800'), 'bytes in a row':one(b'x'), 'a list in a row':one([1]),
    'a tuple in a row':one((1,2)),
    'a dict in a row':one({'a':1}), 'a set in a row':one({1}), 'a slice in a row':one(slice(3)),
    'an object in a row':one(object()),
    'a type in a row':one(int), 'a function in a row':one(len), 'an array in a row':one(np.arange(2)),
    'a frame in a row':one(pd.DataFrame()),
    'a date in a row':one(date(2020, 1, 2)), 'a time in a row':one(pd.Timestamp('2020-01-02')),
    'a huge number in a row':one(10**30),
    'True in a row':one(True), 'a UUID in a row':one(UUID(int=3)), 'Decimal in a row':one(Decimal(1)),
    '-1 in a row':one(-1),
    'text':every(str), 'bytes':every(lambda o: str(o).encode()), 'Decimal':every(lambda o: Decimal(number(o))),
    'Fraction':every(lambda o: Fraction(number(o), 7)), 'complex':every(lambda o: complex(number(o), 1)),
    'tuples':every(lambda o: (number(o),1)),
    'nested tuples':every(lambda o: ((number(o),),1)), 'lists':every(lambda o: [o]),
    'nested lists':every(lambda o: [[o]]), 'sets':every(lambda o: {o}),
    'frozensets':every(lambda o: frozenset([o])), 'dicts':every(lambda o: {'a':o}),
    'slices':every(lambda o: slice(number(o))), 'arrays':every(lambda o: np.array([number(o)])),
    'objects':every(lambda o: object()), 'UUIDs':every(lambda o: UUID(int=number(o))),
    'enums':every(lambda o: Color.RED),
    'dates':every(day), 'dates and times':every(lambda o: day(o) if number(o)%2 else pd.Timestamp(day(o))),
    'aware and naive times':every(lambda o: pd.Timestamp(2020, 1, 1+number(o)%28, tz='UTC' if number(o)%2 else None)),
    'hours':every(lambda o: time(number(o)%24)), 'surrogates':every(lambda o: f'\ud800{o}'),
    'numpy numbers':every(lambda o: np.int16(number(o))),
    'above 2**53':every(lambda o: 2**53+number(o)), 'above 2**63':every(lambda o: 2**63+number(o)),
    'above 2**64':every(lambda o: 2**64+number(o)),
    'numbers and their text':every(lambda o: str(number(o)) if number(o)%2 else number(o)),
    'mixed numbers':every(lambda o: float(number(o)) if number(o)%2 else number(o)),
    'True and 1':every(lambda o: True if number(o)%2 else number(o)), 'long text':every(lambda o: str(o)*3000),
    'all empty':every(lambda o: ''),
    'all None':every(lambda o: None), 'formulas':every(lambda o: f'=1+{number(o)}'),
    'spaces':every(lambda o: f' {o} '), 'markup':every(lambda o: f'<script>{o}</script>'),
    'a category':typed('category'), 'an object':typed(object),
    'a period':every(lambda o: pd.Period(f'2020-{1+number(o)%12:02}')),
    'an interval':every(lambda o: pd.Interval(number(o), number(o)+1)),
    'a timedelta':every(lambda o: pd.Timedelta(number(o)%10**4, 'D')),
    'strings of Arrow':arrow(pa.string(), str), 'lists of Arrow':arrow(pa.list_(pa.int64()), lambda o: [number(o)]),
    'structs of Arrow':arrow(pa.struct([('a', pa.int64())]), lambda o: {'a':number(o)}),
    'decimals of Arrow':arrow(pa.decimal128(20, 2), lambda o: Decimal(number(o))),
    'dates of Arrow':arrow(pa.date32(), day),
    'times of Arrow':arrow(pa.time64('us'), lambda o: time(number(o)%24)),
    'binary of Arrow':arrow(pa.binary(), lambda o: str(o).encode()),
    'durations of Arrow':arrow(pa.duration('s'), lambda o: pd.Timedelta(number(o), 's')),
    'large strings of Arrow':arrow(pa.large_string(), str),
    'Int64 with NA':lambda col: every(number)(col).astype('Int64').where(np.arange(N)!=3),
    'UInt8':lambda col: every(lambda o: number(o)%200)(col).astype('UInt8'),
    'float16':lambda col: every(number)(col).astype(np.float16),
    'float32':lambda col: every(number)(col).astype(np.float32),
    'sparse':lambda col: every(number)(col).astype(int).astype(pd.SparseDtype(int)),
    'bool':lambda col: every(lambda o: number(o)%2==0)(col).astype(bool),
    'boolean':lambda col: every(lambda o: number(o)%2==0)(col).astype('boolean'),
    'aware times':lambda col: pd.Series(pd.to_datetime([number(o) for o in col], unit='s', utc=True), col.index),
    'int8':lambda col: every(lambda o: number(o)%100)(col).astype(np.int8),
    'unused categories':lambda col: every(str)(col).astype('category').cat.add_categories(['zz']),
    'ordered categories':lambda col: every(number)(col).astype(pd.CategoricalDtype(range(98), ordered=True)),
    '-0.0 and 0.0':every(lambda o: -0. if number(o)%2 else 0.)}

SHAPES = { # what is done to the table
    'no rows':lambda df: df[:0], 'one row':lambda df: df[:1], 'two rows':lambda df: df[:2],
    'no columns':lambda df: df[[]], 'one column':lambda df: df[['userId']],
    'the first column twice':lambda df: pd.concat([df, df[['userId']]], axis=1),
    'all columns twice':lambda df: pd.concat([df, df], axis=1),
    'the titles twice':lambda df: pd.concat([df, df[['title']]], axis=1),
    'the genres twice':lambda df: pd.concat([df, df[['genres']]], axis=1),
    'the times twice':lambda df: pd.concat([df, df[['timestamp']]], axis=1),
    'numbers as names':lambda df: df.set_axis(range(df.shape[1]), axis=1),
    'None as a name':lambda df: df.rename(columns={'title':None}),
    'NaN as a name':lambda df: df.rename(columns={'title':np.nan}),
    'tuples as names':lambda df: df.set_axis([(o,1) for o in df], axis=1),
    'levels of names':lambda df: df.set_axis(pd.MultiIndex.from_tuples([(o,1) for o in df]), axis=1),
    'a name with NUL':lambda df: df.rename(columns={'title':'a\0'}),
    'levels of labels':lambda df: df.set_index(['title','genres'], append=True),
    'labels that repeat':lambda df: df.set_axis([1]*len(df)),
    'labels that are NaN':lambda df: df.set_axis([np.nan]*len(df)),
    'labels of ids':lambda df: df.set_index('userId'), 'backwards':lambda df: df[::-1],
    'all rows twice':lambda df: pd.concat([df, df]),
    'objects':lambda df: df.astype(object), 'one user':lambda df: df.assign(userId=1),
    'a list':lambda df: df.to_numpy().tolist(), 'a dict':lambda df: df.to_dict('list'),
    'an array':lambda df: df.to_numpy(), 'a Series':lambda df: df.rating, 'an Arrow table':lambda df: pa.table(df),
    'an Arrow column':lambda df: pa.chunked_array([df.userId.tolist()]), 'records':lambda df: df.to_records(),
    'a file name':lambda df: 'ratings.csv', 'a group':lambda df: df.groupby('userId'),
    'a transposed table':lambda df: df.T, 'a pivot':lambda df: df.pivot_table('rating', 'userId', 'movieId'),
    'a generator':lambda df: (o for o in [df]),
    'attrs':lambda df: df.assign(rating=df.rating).set_flags(allows_duplicate_labels=True)}

# ---- The doors
def load(df):
    "From the table to predictions, lists, and a folder and back"
    learn = collab_learner(CollabDataLoaders.from_df(df, seed=1), n_factors=4)
    works(learn)
    served(learn)
def served(learn):
    rec = learn.recommender()
    user = rec.ids[0][0]
    lists = rec.recommend([user], 2)
    n = min(2, rec.n_items-1-len(rec.history.rated_by(1)[0].unique()))   # there may be fewer items that are new
    want(len(lists)==n and (lists.user==user).all(), f'the list of {user!r} is of {lists.user.tolist()}')
    rec.save('m')
    again = Recommender.load('m').recommend([user], 2)
    want(again.item.tolist()==lists.item.tolist(), 'another list after loading')
def features(df): works(collab_learner(CollabDataLoaders.from_df(df, seed=1, genre_name='genres',
    time_name='timestamp'), n_factors=4))
def clicks(df):
    learn = collab_learner(CollabDataLoaders.from_interactions(to_implicit(df), seed=1), n_factors=4)
    works(learn)
    served(learn)
def described(df): want(describe_ratings(df)['size','ratings']>=0, 'no size')
def updated(df, kind='ratings', retrain=False):
    "Learn the table as that of a new day"
    learn = quiet(collab_learner(loaders(kind), n_factors=4), 'fit', 1)
    learn.update(df, retrain)
    want(np.isfinite(learn.predict(BASE.head(3))).all(), 'no predictions after an update')
def updated_features(df): updated(df, 'features', None)
def folded(df):
    rec = recommender().fold_in(df)
    want(len(rec.recommend(BASE.userId[0], 2))==2 and len(rec.history.ends)==rec.n_users+1, 'a wrong history')
def folded_items(df):
    rec = recommender('features').fold_in_items(df, df)
    want(len(rec.recommend(BASE.userId[0], 2))==2, 'no lists after folding in items')
def evaluated(df): want(len(evaluate(recommender(), df, k=3, n_boot=5))==1, 'not one row')
def listed(df): want(len(evaluate(df, BASE, k=1, n_boot=5))==1, 'not one row')
def tested(df): want(len(evaluate(recommender().recommend(k=3), df, k=3, n_boot=5))==1, 'not one row')
def predicted(df): want(len(fitted().predict(df))==len(df), 'not a prediction for each row')
DOORS = dict(load=(load,('userId','movieId','rating','title')), features=(features,('genres','timestamp','userId')),
    clicks=(clicks,('userId','movieId')), described=(described,('userId','rating')),
    updated=(updated,('userId','movieId','rating')), updated_features=(updated_features,('genres','timestamp')),
    folded=(folded,('userId','rating')), folded_items=(folded_items,('movieId','genres','title')),
    evaluated=(evaluated,('userId','movieId')), listed=(listed,('userId','movieId')),
    tested=(tested,('userId','movieId')), predicted=(predicted,('userId','movieId')))

def cases():
    "Each table at each door"
    for name,(door,columns) in DOORS.items():
        for column in columns:
            for label,change in COLUMNS.items():
                yield Case('frames', f'{name}({column}: {label})', lambda d=door, c=column,
                    f=change: d(BASE.assign(**{c:f(BASE[c])})))
        for label,change in SHAPES.items(): yield Case('frames', f'{name}({label})', lambda d=door,
            f=change: d(f(BASE)))
