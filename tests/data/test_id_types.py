"Ids of every type go from a table through a learner and a saved recommender, and come back as they were"
import warnings
from datetime import date, datetime
from uuid import UUID

import numpy as np, pandas as pd, pyarrow as pa, pytest
from fastcollab.all import Recommender, collab_learner
from tests.small import SMALL, load

PAIRS = SMALL[['userId','movieId']]
def objects(f): return lambda col: pd.Series([f(int(o)) for o in col], dtype=object)
def as_type(dtype): return lambda col: col.astype(dtype)
def text_as(dtype): return lambda col: col.astype(str).astype(dtype)
def arrow(kind, f=int): return lambda col: pa.array([f(int(o)) for o in col], kind)
def in_pandas(f): return lambda col: pd.Series(pd.arrays.ArrowExtensionArray(f(col)))
def uuid(o): return UUID(int=o)
def uuid_bytes(o): return UUID(int=o).bytes
def day(o): return date(2000+o, 1, 1)
def moment(o): return datetime(2000+o, 1, 1)

PANDAS = dict(int64=as_type('int64'), int8=as_type('int8'), uint64=as_type('uint64'), float64=as_type('float64'),
    str=as_type(str), object_text=objects(str), string=text_as('string'), Int64=as_type('Int64'), uuid=objects(uuid),
    categories=as_type('category'), text_categories=text_as('category'), bytes=objects(lambda o: str(o).encode()),
    date=objects(day), datetime=lambda col: pd.to_datetime(col, unit='D'), arrow_int=as_type(pd.ArrowDtype(pa.int32())),
    arrow_text=text_as(pd.ArrowDtype(pa.string())), large_text=text_as(pd.ArrowDtype(pa.large_string())),
    dictionary=in_pandas(lambda col: arrow(pa.string(), str)(col).dictionary_encode()),
    arrow_uuid=in_pandas(arrow(pa.uuid(), uuid_bytes)), binary=in_pandas(arrow(pa.binary(16), uuid_bytes)))
PYARROW = dict(int32=arrow(pa.int32()), uint8=arrow(pa.uint8()), string=arrow(pa.string(), str),
    large_string=arrow(pa.large_string(), str), view=arrow(pa.string_view(), str), uuid=arrow(pa.uuid(), uuid_bytes),
    dictionary=lambda col: arrow(pa.string(), str)(col).dictionary_encode(), binary=arrow(pa.binary(16), uuid_bytes),
    numbers=lambda col: arrow(pa.int64())(col).dictionary_encode(), date=arrow(pa.date32(), day),
    datetime=arrow(pa.timestamp('us'), moment))
POLARS = dict(Int32=int, UInt32=int, String=str, Categorical=str, Binary=lambda o: str(o).encode(), Datetime=moment,
    Object=uuid)

def table(columns, make):
    "The small ratings with ids of one type"
    more = dict(rating=SMALL.rating.to_numpy(), title=SMALL.title.astype(str).to_list())
    return make(dict(zip(PAIRS, columns), **more))
def text(table): return table.to_pandas() if hasattr(table, 'to_pandas') else table

def check_round_trip(df, columns, tmp_path):
    "What a caller sees of the ids, before and after saving"
    learn = collab_learner(load(df), n_factors=4, y_range=(0,5.5))
    users,items = columns
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)                                     # every id is known
        preds = learn.predict(users, items)
        assert np.array_equal(learn.predict(df), preds)
    rec = learn.recommender()
    rec.save(tmp_path/'rec')
    again = Recommender.load(tmp_path/'rec')
    want = learn.recommend(users[:3], 3)
    asked = pd.Series(list(text(users[:3])))                 # types as the library of the table shows them
    got = pd.Series(list(text(want)['user'].drop_duplicates()))
    assert got.tolist()==asked.drop_duplicates().tolist() and type(got[0]) is type(asked[0])
    for o in (rec, again):
        res = o.recommend(users[:3], 3)
        assert type(res) is type(want)
        res,first = text(res),text(want)
        assert list(res['user'])==list(first['user']) and list(res['item'])==list(first['item'])
        assert np.allclose(o.predict(users, items), preds, atol=1e-5)
        same = o.fold_in(df[:3])
        assert list(same.ids[0])==list(rec.ids[0])                                       # known users stay known
    return want

@pytest.mark.parametrize('kind', PANDAS)
def test_pandas(kind, tmp_path):
    columns = [PANDAS[kind](PAIRS[o]) for o in PAIRS]
    assert isinstance(check_round_trip(table(columns, pd.DataFrame), columns, tmp_path), pd.DataFrame)

@pytest.mark.parametrize('kind', PYARROW)
def test_pyarrow(kind, tmp_path):
    columns = [PYARROW[kind](PAIRS[o]) for o in PAIRS]
    assert isinstance(check_round_trip(table(columns, pa.table), columns, tmp_path), pa.Table)

@pytest.mark.parametrize('kind', POLARS)
def test_polars(kind, tmp_path):
    pl = pytest.importorskip('polars')
    columns = [pl.Series([POLARS[kind](int(o)) for o in PAIRS[name]], dtype=getattr(pl, kind)) for name in PAIRS]
    res = check_round_trip(table(columns, pl.DataFrame), columns, tmp_path)
    assert isinstance(res, pl.DataFrame)
    if kind!='Categorical': assert res['user'].dtype==columns[0].dtype                   # categories come back as text

@pytest.mark.parametrize('dtype', ['float64','Float64'])
def test_large_ids_as_floats_are_nobody_else(dtype):
    "Above 2**53, the float of one id is that of another: an error in predict and fold_in, no answer for somebody else"
    users = [2**53,2**53+1,2**53+2]*4
    df = pd.DataFrame(dict(user=users, item=list('aaabbbcccddd'), rating=[1.,2,3]*4))
    learn = collab_learner(load(df, valid_pct=0.), n_factors=2)
    rec,asked = learn.recommender(),pd.Series([2**53+1]).astype(dtype)
    new = pd.DataFrame(dict(user=asked, item=['a'], rating=[3.]))
    for call in (lambda: learn.predict(asked, 'a'), lambda: rec.predict(asked, 'a'), lambda: rec.fold_in(new),
        lambda: rec.recommend(asked, 1), lambda: learn.predict(new)):
        with pytest.raises(ValueError, match='floats skip whole numbers'): call()
    assert rec.predict(2**53+1, 'a')==rec.predict(pd.Series([2**53+1]), 'a')[0]

def test_half_precision():
    "pandas can't search float16: such ids are those of float32"
    df = table([PAIRS[o].astype('float16') for o in PAIRS], pd.DataFrame)
    learn = collab_learner(load(df), n_factors=2)
    assert np.array_equal(learn.predict(df[:5]), learn.predict(PAIRS.userId[:5].tolist(), PAIRS.movieId[:5].tolist()))

def test_numbers_beyond_64_bits(tmp_path):
    "They can be trained on, and no file of a recommender holds them"
    df = table([objects(lambda o: 2**64+o)(PAIRS.userId),PAIRS.movieId], pd.DataFrame)
    rec = collab_learner(load(df), n_factors=2).recommender()
    with pytest.raises(TypeError, match='user_ids cannot be saved'): rec.save(tmp_path/'rec')
    assert not (tmp_path/'rec').exists()
