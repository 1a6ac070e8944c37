"Columns of times: text, objects, categories, time zones; what can't be read is refused, not sorted like words"
import warnings

import numpy as np, pandas as pd, pyarrow as pa, pytest
from fastcollab.all import CollabDataLoaders, LeaveLastSplitter, SVDPlusPlus, TemporalSplitter, collab_learner
from fastcollab.all import unix_seconds
from fastcollab.data.times import time_order, time_values
from hypothesis import given, settings, strategies as st
from small import SMALL, load, quiet

T = SMALL.timestamp
DATES = pd.to_datetime(T, unit='s')
UTC = DATES.dt.tz_localize('UTC')
def objects(values): return pd.Series(list(values), dtype=object)
SAME = dict( # columns that say the same as SMALL.timestamp, to the second
    text=T.astype(str), object_text=objects(map(str, T)), padded=T.map(' {} '.format), float_text=T.map('{}.0'.format),
    mixed=objects(str(t) if k%2 else t for k,t in enumerate(T)), category=T.astype(str).astype('category'),
    number_category=T.astype('category'), nullable=T.astype('Int64'), arrow=T.astype(pd.ArrowDtype(pa.int64())),
    arrow_text=T.astype(str).astype(pd.ArrowDtype(pa.string())), milliseconds=(T*1000).astype(str),
    iso=DATES.astype(str), iso_T=DATES.dt.strftime('%Y-%m-%dT%H:%M:%SZ'),
    iso_category=DATES.astype(str).astype('category'), zone=UTC.dt.tz_convert('America/New_York'),
    zone_text=UTC.dt.tz_convert('Asia/Kolkata').astype(str), pydatetimes=objects(DATES.dt.to_pydatetime()),
    timestamps=objects(DATES),
    offsets=objects(d.tz_convert(('Asia/Tokyo','America/New_York')[k%2]).isoformat() for k,d in enumerate(UTC)),
    arrow_dates=DATES.astype(pd.ArrowDtype(pa.timestamp('ms'))))

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kind', SAME)
def test_same_times_same_splits(kind):
    "Times in any form split like the numbers, and are the same seconds"
    df = SMALL.assign(timestamp=SAME[kind])
    for f in (TemporalSplitter(.3), LeaveLastSplitter(2)):
        assert [list(o) for o in f(df)]==[list(o) for o in f(SMALL)]
    assert unix_seconds(df.timestamp)[0].tolist()==T.tolist()

SAME_DAYS = dict(dates=objects(DATES.dt.date), period=DATES.dt.to_period('D'), arrow_days=DATES.dt.floor('D').astype(
    pd.ArrowDtype(pa.date32())), day_text=DATES.dt.strftime('%Y-%m-%d'))
@pytest.mark.parametrize('kind', SAME_DAYS)
def test_days(kind):
    df,days = SMALL.assign(timestamp=SAME_DAYS[kind]),SMALL.assign(timestamp=T//86400)
    assert [list(o) for o in TemporalSplitter(.3)(df)]==[list(o) for o in TemporalSplitter(.3)(days)]
    assert unix_seconds(df.timestamp)[0].tolist()==(T//86400*86400).tolist()

def test_numbers_without_a_unit_order_too():
    "A splitter needs an order, not a date: ranks, years, time since the start"
    want = [list(o) for o in TemporalSplitter(.3)(SMALL)]
    for col in (T.rank(method='dense'), T-T.min(), (T.rank(method='dense')+98).astype(int).astype(str),
        pd.to_timedelta(T-T.min(), unit='s')):
        assert [list(o) for o in TemporalSplitter(.3)(SMALL.assign(timestamp=col))]==want

REFUSED = dict(american=(DATES.dt.strftime('%m/%d/%Y'), ['300 of 300', DATES[0].strftime('%m/%d/%Y'), 'format=']),
    one_odd=(T.astype(str).where(T.index!=7, 'yesterday'), ['1 of 300', "'yesterday'", 'row 7']),
    flags=(T>T.median(), ['bool']), complex=(T+1j, ['complex']), words=(objects(['new','old']*150), ["'new'"]),
    lists=(objects([[1]]*300), ['[1]']), numbers_and_dates=(DATES.astype(str).where(T.index>2, '874724710'),
        ['3 of 300', "'874724710'", 'row 0']),
    word_category=(objects(['old','new']*150).astype(pd.CategoricalDtype(['old','new'], ordered=True)), ["'old'"]))
@pytest.mark.parametrize('kind', REFUSED)
def test_refused(kind):
    "What isn't clearly a time is an error, for splitters as for time_name"
    col,words = REFUSED[kind]
    df = SMALL.assign(timestamp=col)
    for f in (lambda: TemporalSplitter()(df), lambda: LeaveLastSplitter()(df), lambda: unix_seconds(df.timestamp),
        lambda: CollabDataLoaders.from_df(df, time_name='timestamp')):
        with pytest.raises(TypeError) as e: f()
        assert all(o in str(e.value) for o in ["'timestamp'", 'pd.to_datetime', *words]), str(e.value)

@pytest.mark.parametrize('col', [T.mask(T.index<9), T.astype('Int64').mask(T.index<9), DATES.mask(T.index<9),
    T.astype(str).mask(T.index<9, ''), T.astype(str).mask(T.index<9)], ids=['float','nullable','dates','empty','text'])
def test_missing_times_stay_in_training(col):
    "A missing time isn't the latest one"
    with pytest.warns(UserWarning, match="'timestamp' is empty in 9 of 300 rows, e.g. row 0"):
        train,valid = TemporalSplitter(.3)(SMALL.assign(timestamp=col))
    assert set(range(9))<=set(train) and T[train[9:]].max()<=T[valid].min()

def test_no_time_is_no_order():
    with pytest.raises(ValueError, match='empty in all'): TemporalSplitter()(SMALL.assign(timestamp=np.nan))
    with pytest.raises(KeyError, match='no time column None'): TemporalSplitter(time_name=None)(SMALL)

@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-10**12, 10**12)), min_size=1, max_size=40))
def test_text_orders_like_numbers(values):
    "Numbers as text, of any length and sign, have the order of the numbers; missing ones come first"
    if all(o is None for o in values): return
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        a,b = (time_order(pd.DataFrame(dict(t=pd.Series(values, dtype=object).map(f, na_action='ignore'))), 't')
            for f in (str, lambda o: o))
    known = [-np.inf if o is None else o for o in values]
    assert np.array_equal(np.argsort(a, kind='stable'), np.argsort(known, kind='stable'))
    assert np.array_equal(a, b)

def test_large_numbers_keep_their_digits():
    "Nanoseconds that differ in the last digit are still in order"
    ns = pd.Series([10**18+3,10**18+1,10**18+2])
    for col in (ns, ns.astype(str), ns.astype('Int64'), ns.astype(str).astype('category')):
        assert time_values(col).tolist()==ns.tolist()

def test_time_name_takes_text():
    "The encoder reads what the splitters read, and new rows may come in the other form"
    dls = [load(SMALL.assign(timestamp=o), time_name='timestamp') for o in (T, T.astype(str))]
    a,b = (o.train_ds.store.timestamps().tolist() for o in dls)
    assert a==b
    learn = quiet(collab_learner(dls[0], arch=SVDPlusPlus, n_factors=3), 1)
    assert np.array_equal(learn.predict(SMALL), learn.predict(SMALL.assign(timestamp=T.astype(str))))

def test_text_that_is_none():
    with pytest.raises(ValueError, match='surrogates'): time_values(pd.Series([1,'\ud800',3], name='t', dtype=object))
