"Odd ids at the calls that take ids: the answer for that id, or an error, and never the answer for another one"
import functools
from datetime import date
from uuid import UUID

import numpy as np, pandas as pd, torch
from fastcollab.all import CollabDataLoaders, collab_learner
from .values import BASE, ODD, quiet
from .verdict import Case, want

def day(o): return pd.Timestamp(2020, 1, 1)+pd.Timedelta(int(o), 'D')
KINDS = dict(small=int, large=lambda o: 2**53+int(o), larger=lambda o: 2**62+int(o), unsigned=lambda o: 2**63+int(o),
    text='u{}'.format, digits=str, float=lambda o: o+.5, halves=lambda o: 2.**53+2*o, time=day,
    date=lambda o: date(2020, 1, 1+int(o)%31), uuid=lambda o: UUID(int=int(o)), tuple=lambda o: (int(o),1),
    bytes=lambda o: str(o).encode())

@functools.cache
def world(kind):
    "A fitted learner and its recommender, with users of one kind of ids"
    ids = BASE.userId.map(KINDS[kind])
    if kind=='unsigned': ids = ids.astype(np.uint64)
    learn = collab_learner(CollabDataLoaders.from_df(BASE.assign(userId=ids), seed=1, valid_pct=0.), n_factors=4)
    quiet(learn, 'fit_one_cycle', 1, 1e-1)
    return learn,learn.recommender()

def own(o, kind): return KINDS[kind](o)
ASKED = { # ids to ask for, from a known one: `o` is one of BASE
    'itself':lambda o, k: own(o, k), 'as float':lambda o, k: float(own(o, k)), 'as numpy float':lambda o,
    k: np.float64(own(o, k)), 'as float32':lambda o, k: np.float32(own(o, k)),
    'as int':lambda o, k: int(own(o, k)), 'as uint64':lambda o, k: np.uint64(own(o, k)), 'as int8':lambda o,
    k: np.int8(int(own(o, k))%100), 'as text':lambda o, k: str(own(o, k)), 'as bytes':lambda o,
    k: str(own(o, k)).encode(),
    'in a list':lambda o, k: [own(o, k)], 'in an array':lambda o, k: np.array([own(o, k)]),
    'in an array of floats':lambda o, k: np.array([own(o, k)], float), 'in a Series':lambda o,
    k: pd.Series([own(o, k)]),
    'in an object Series':lambda o, k: pd.Series([own(o, k)], dtype=object), 'in Float64':lambda o,
    k: pd.Series([own(o, k)], dtype='Float64'), 'in Int64':lambda o, k: pd.Series([own(o, k)], dtype='Int64'),
    'in a category':lambda o, k: pd.Series([own(o, k)], dtype='category'),
    'in a set':lambda o, k: {own(o, k)}, 'in a tuple':lambda o, k: (own(o, k),), 'in a list of lists':lambda o,
    k: [[own(o, k)]], 'with a float beside it':lambda o, k: [own(o, k), .5], 'with NaN beside it':lambda o,
    k: pd.Series([own(o, k), np.nan]),
    'twice':lambda o, k: [own(o, k)]*2, 'one more':lambda o, k: own(o, k)+1, 'near it':lambda o, k: own(o, k)+.25,
    'in a frame':lambda o, k: pd.DataFrame(dict(a=[own(o, k)]))}

def same(a, b):
    "Are they the same id, without rounding?"
    a,b = (o.item() if isinstance(o, np.generic) else o for o in (a,b))
    try: return bool(a==b)
    except (TypeError,ValueError): return False

def asked_ids(asked):
    "The ids that a call asks for"
    several = isinstance(asked, (list,tuple,set,dict,range,np.ndarray,torch.Tensor,pd.Series)) and np.ndim(asked)!=0
    return list(asked) if several or isinstance(asked, (set,dict)) else [asked]
def of_kind(asked, kind):
    "The ids that a call asks for; a tuple may be an id"
    one = kind=='tuple' and isinstance(asked, tuple) and not isinstance(asked[0], tuple)
    return asked_ids([asked] if one else asked)
def known_one(one, kind):
    "The user of BASE with this id, None if there is none"
    return next((u for u in BASE.userId.unique() if same(own(u, kind), one)), None)

ITEM = int(BASE.movieId[0])
def check(kind, asked, answer):
    "The predictions are those of the users that were asked for; nobody known is taken for somebody else"
    learn,_ = world(kind)
    known = {u:learn.predict(own(u, kind), ITEM) for u in BASE.userId.unique()[:12]}
    asked,answer = of_kind(asked, kind),np.atleast_1d(answer)
    want(len(asked)==len(answer), f'{len(asked)} ids, {len(answer)} answers')
    for one,got in zip(asked, answer):
        u,taken = known_one(one, kind),any(abs(got-p)<1e-7 for p in known.values())
        if u in known: want(abs(got-known[u])<1e-5, f'{one!r} is known, and has the answer of another')
        elif u is None: want(not taken, f'{one!r} is unknown, and has the answer of somebody known')

def learner_predict(kind, asked): check(kind, asked, world(kind)[0].predict(asked, ITEM))
def recommender_predict(kind, asked): check(kind, asked, world(kind)[1].predict(asked, ITEM))
def recommend(kind, asked):
    if asked is None: return   # everybody
    for one in world(kind)[1].recommend(asked, 2).user.unique():
        want(any(same(one, o) for o in of_kind(asked, kind)), f'a list of {one!r}')
def explain(kind, asked):
    rec = world(kind)[1]
    got,user = rec.explain(asked, ITEM, 2),known_one(asked, kind)
    want(user is not None and len(got)>0, 'an explanation of nobody')
def id_rows(asked):
    "A table with ids in a column, None where pandas makes none"
    column = asked if isinstance(asked, (list,np.ndarray,pd.Series)) else [asked]
    try: return pd.DataFrame(dict(userId=column, movieId=ITEM, rating=4.))
    except ValueError: return None
def fold(kind, asked):
    "Ratings of a known user change that user, and those of others make new ones"
    rec = world(kind)[1]
    if (rows := id_rows(asked)) is None: return
    new,named = rec.fold_in(rows),asked_ids(rows.userId)
    n_new = len({o for o in named if known_one(o, kind) is None})
    want(new.n_users-rec.n_users==n_new, f'{new.n_users-rec.n_users} new users, and not {n_new}')
    others = [own(u, kind) for u in BASE.userId.unique() if not any(same(own(u, kind), o) for o in named)]
    want(np.allclose(rec.predict(others, ITEM), new.predict(others, ITEM)), 'users who were not named have changed')
def frame(kind, asked):
    "A table with the id in a column"
    if (rows := id_rows(asked)) is not None: check(kind, list(rows.userId), world(kind)[0].predict(rows))
def bias(kind, asked):
    got,n = world(kind)[0].model.bias(asked, is_item=False),len(of_kind(asked, kind))
    want(got.shape==(n,), f'{got.shape} for {n} ids')
DOORS = learner_predict,recommender_predict,recommend,explain,fold,frame,bias

def odd(door, kind, value):
    "Whatever comes: an answer of the right size, or an error"
    try: asked = ODD[value]()
    except TypeError: return
    door(kind, asked)

def asking(door, kind, make):
    try: asked = make(int(BASE.userId[0]), kind)
    except (TypeError,ValueError,OverflowError): return   # there is no such id
    door(kind, asked)

def cases():
    for kind in KINDS:
        for door in DOORS:
            for label,make in ASKED.items(): yield Case('ids', f'{door.__name__}({kind} {label})', lambda d=door,
                k=kind, m=make: asking(d, k, m))
    for door in (learner_predict,recommender_predict,recommend,bias):
        for kind in ('small','large','text'):
            for label in ODD: yield Case('ids', f'{door.__name__}({kind}: {label})', lambda d=door, k=kind,
                v=label: odd(d, k, v))
