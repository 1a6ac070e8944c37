"Times of ratings: units, what is missing or new, and that nothing of the validation part is learned"
import warnings

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import CollabDataLoaders, SVDPlusPlus, collab_learner, set_seed, synthetic_ratings, unix_seconds
from fastcollab.data.timestamps import TimestampEncoder
from hypothesis import given, settings, strategies as st

DAY = 86400

@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(10**8, 4*10**9), min_size=1, max_size=30))
def test_units_agree(secs):
    "Seconds, finer units and dates are the same seconds"
    for unit,per in dict(s=1, ms=10**3, us=10**6, ns=10**9).items():
        res,got = unix_seconds(pd.Series([s*per for s in secs], name='t'))
        assert res.tolist()==secs and got==unit
    for col in (pd.Series(pd.to_datetime(secs, unit='s')), pd.Series(pd.to_datetime(secs, unit='s', utc=True))):
        res,got = unix_seconds(col)
        assert res.tolist()==secs and got=='date'

WRONG = [('years', pd.Series([1995,2016]), ValueError, ['1995','2016','not seconds','pd.to_datetime']),
    ('day numbers', pd.Series([10124.,10125]), ValueError, ['10124','not seconds']),
    ('minutes', pd.Series([14_578_745,14_578_746]), ValueError, ['not seconds']),
    ('text', pd.Series(['20.9.1997']), TypeError, ['20.9.1997','pd.to_datetime']), ('flags', pd.Series([True,False]),
        TypeError, ['bool']),
    ('negative', pd.Series([-9e8,-8e8]), ValueError, ['not seconds'])]
@pytest.mark.parametrize('name,col,kind,words', WRONG, ids=[o[0] for o in WRONG])
def test_no_times(name, col, kind, words):
    with pytest.raises(kind) as e: unix_seconds(col.rename('timestamps'))
    assert all(o in str(e.value) for o in [*words,'timestamps'])

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_categories_by_hand(seed):
    "Pairs, days and how busy they were, by dictionaries"
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    users,days = rng.integers(1, 6, n),rng.integers(10_000, 10_004, n)
    times = TimestampEncoder('t').setup(pd.Series(days*DAY*1.), users)
    new_users,new_days = rng.integers(0, 7, 40),rng.integers(9_999, 10_006, 40)
    got = times.encode(pd.Series(new_days*DAY*1.), new_users)
    pairs = sorted(set(zip(users.tolist(), days.tolist())))
    all_days = sorted(set(days.tolist()))
    for (p,d,b,s),u,day in zip(got.tolist(), new_users.tolist(), new_days.tolist()):
        assert d==(all_days.index(day)+1 if day in all_days else 0)
        known = (u,day) in pairs
        assert p==(pairs.index((u,day))+1 if known else 0)
        assert b==(int(np.log2(((users==u)&(days==day)).sum()))+1 if known else 0)
        assert s==max(0, (day-all_days[0])*DAY+1)
    assert (got[:,:3].max(0)<np.array(times.sizes)).all()

FRAME = synthetic_ratings(60, 40, 900, seed=5)
FRAME = FRAME.assign(timestamp=10**9+FRAME.timestamp%5*DAY)

def loaders(df=FRAME, **kwargs): return CollabDataLoaders.from_df(df, seed=1, bs=64, time_name='timestamp', **kwargs)
def fitted(dls, **kwargs):
    set_seed(0)
    learn = collab_learner(dls, arch=SVDPlusPlus, n_factors=5, y_range=(0,5.5), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 2e-2, wd=[.3,.4])
    return learn

def test_validation_teaches_nothing():
    "Days and pairs that are only in the validation part are unknown, and its ratings make no day busy"
    splits = np.arange(600),np.arange(600, 900)
    a = loaders(splits=splits)
    b = loaders(FRAME.assign(timestamp=np.where(np.arange(900)<600, FRAME.timestamp, FRAME.timestamp+365*DAY)),
        splits=splits)
    assert a.train_ds.enc.timestamps.sizes==b.train_ds.enc.timestamps.sizes and torch.equal(
        a.train_ds.store.timestamps(), b.train_ds.store.timestamps())
    assert (b.valid_ds.store.timestamps()[:,:3]==0).all() and (a.valid_ds.store.timestamps()>0).any()

def test_batches_end_with_times():
    dls = loaders(genre_name='genres')
    x = dls.one_batch()[0]
    assert x.shape[1]==2+dls.train_ds.enc.tables[1].shape[1]+4
    assert (x[:,-4:]>0).all() and list(dls.valid_ds.items.columns)==['userId','movieId','rating','genres']
    assert loaders().one_batch()[0].shape[1]==6

def test_other_models_do_not_mind():
    "Loaders may have times that a model has no use for"
    from fastcollab.all import CollabNN, DotProductBias, HybridMF
    for arch,cols in ((DotProductBias,{}),(CollabNN,{}),(HybridMF,dict(genre_name='genres'))):
        for fused in ('auto',False):
            learn = collab_learner(loaders(**cols), arch=arch, n_factors=5, y_range=(0,5.5), fused=fused)
            with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
            assert np.isfinite(learn.predict(FRAME)).all() and len(learn.recommend(1, k=3))==3

@pytest.mark.slow
def test_asked_with_and_without_times():
    "A time counts where it is told; tables without one are answered as lists are"
    learn = fitted(loaders())
    with torch.no_grad(): learn.model.d_weight.normal_(std=.5)
    rows = FRAME.iloc[:50]
    known,none = learn.predict(rows),learn.predict(rows.drop(columns='timestamp'))
    assert not np.allclose(known, none, atol=1e-2)
    with pytest.warns(UserWarning, match='has tables of days'): rec = learn.recommender()
    assert np.allclose(none, rec.predict(rows[['userId','movieId']]), atol=1e-4)
    far = learn.predict(rows.assign(timestamp=2*10**9))
    assert np.allclose(far, none, atol=1e-5)

def test_missing_times():
    df = FRAME.assign(timestamp=FRAME.timestamp.where(FRAME.index%7>0))
    with pytest.warns(UserWarning, match="'timestamp' is empty in .* e.g. row .* without a time"): dls = loaders(df)
    assert ((dls.train_ds.store.timestamps()==0).all(1).float().mean()-1/7).abs()<.05
    fitted(dls)

ERRORS = [('no such column', lambda: CollabDataLoaders.from_df(FRAME, time_name='date'), KeyError, ['date']),
    ('all missing', lambda: loaders(FRAME.assign(timestamp=np.nan)), ValueError,
        ['is empty in all','leave out time_name']),
    ('small numbers', lambda: loaders(FRAME.assign(timestamp=FRAME.index)), ValueError, ['not seconds']),
    ('another unit', lambda: fitted(loaders()).predict(FRAME.assign(timestamp=FRAME.timestamp*1000)), ValueError,
        ['in ms here','in s in training','convert']),
    ('dates for numbers', lambda: fitted(loaders()).predict(FRAME.assign(timestamp=pd.to_datetime(FRAME.timestamp,
        unit='s'))), ValueError, ['dates here','in s in training'])]
@pytest.mark.parametrize('name,f,kind,words', ERRORS, ids=[o[0] for o in ERRORS])
def test_errors(name, f, kind, words):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(kind) as e: f()
    assert all(o in str(e.value) for o in words)

def test_features_of_newcomers_and_gaps():
    "NaN and unseen values in features, an item without genres, a user with one rating, new ids in the validation part"
    df = FRAME.drop(columns='title').assign(group=(FRAME.userId%3).astype(float).where(FRAME.userId!=4))
    df['genres'] = df.genres.astype(str).where(df.movieId!=df.movieId[0], '')
    new = pd.DataFrame([df.iloc[0]]*3).assign(userId=[901,902,903], movieId=[df.movieId[5],df.movieId[6],9999],
        genres=['Drama','Drama','Opera'], group=[7.,1.,9.])
    df = pd.concat([df, new], ignore_index=True)
    n = len(df)
    with pytest.warns(UserWarning):
        dls = loaders(df, splits=(np.arange(n-1),np.array([n-1])), item_cols=['genres'], user_cols=['group'])
    learn = fitted(dls)
    assert np.isfinite(learn.get_preds()[0]).all()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert np.isfinite(learn.predict(df)).all() and len(learn.recommend(902, k=5))==5
