"Ratings that may mean that there is no rating: asked about where the data look so, and nowhere else"
import warnings

import numpy as np, pandas as pd, pytest
from fastcollab.all import CollabDataLoaders, movielens, synthetic_ratings
from fastcollab.data.ratings import missing_code
from hypothesis import given, settings, strategies as st

def drawn(levels, weights, n=2000, seed=0):
    "`n` ratings from the levels, in proportion to the weights"
    return np.random.default_rng(seed).choice(np.asarray(levels, np.float32), n, p=np.asarray(weights)/np.sum(weights))
def coded(y, code, share): return np.where(np.random.default_rng(1).random(len(y))<share, code, y)

BOOKS = drawn(range(1, 11), [17,27,60,90,510,370,760,1040,680,790])   # as in Book-Crossing
STARS = drawn(range(1, 6), [2,5,20,40,33])
JOKES = np.random.default_rng(0).uniform(-10, 10, 2000).round(2).astype(np.float32)
FOUND = dict(book_crossing=(coded(BOOKS, 0, .62), 0), a_tenth_of_books=(coded(BOOKS, 0, .1), 0),
    goodreads=(coded(STARS, 0, .54), 0), anime=(coded(BOOKS, -1, .19), -1), few_anime=(coded(BOOKS, -1, .003), -1),
    minus_with_zero=(coded(drawn(range(11), [1]*11), -1, .1), -1), stars_minus=(coded(STARS, -1, .1), -1),
    half_stars_minus=(coded(drawn(np.arange(1, 11)/2, range(1, 11)), -1, .1), -1), jester=(coded(JOKES, 99, .3), 99),
    jester_low=(coded(JOKES, -99, .3), -99), stars_nine=(coded(STARS, 9, .05), 9), stars_99=(coded(STARS, 99, .05), 99),
    stars_minus_99=(coded(STARS, -99, .05), -99), percent=(coded(drawn(range(1, 101), [1]*100), 999, .1), 999),
    yahoo_never=(coded(drawn(range(101), [1]*101), 255, .1), 255))

@pytest.mark.parametrize('kind', FOUND)
def test_found(kind): assert missing_code(FOUND[kind][0])==FOUND[kind][1]

@settings(max_examples=150, deadline=None)
@given(st.sampled_from([0,.5,1]), st.sampled_from([.5,1]), st.sampled_from([3,4,5,7,10]), st.floats(-1.5, 1.5),
    st.floats(-2, .5), st.integers(20, 5000), st.integers(0, 10**6))
def test_not_on_scales(low, step, top, slope, curve, n, seed):
    "Scales from 0, a half or 1, whatever the shape: rising, falling, a hill, both ends liked"
    x = np.arange(low, top+step/2, step)
    t = np.linspace(-1, 1, len(x))
    assert missing_code(drawn(x, np.exp(slope*t+curve*t*t), n, seed)) is None

@settings(max_examples=100, deadline=None)
@given(st.sampled_from(['poisson','geometric','zipf','lognormal','zeros','capped']), st.floats(.3, 3),
    st.integers(20, 5000), st.integers(0, 10**6))
def test_not_on_counts(kind, a, n, seed):
    rng = np.random.default_rng(seed)
    y = dict(poisson=lambda: rng.poisson(a, n), geometric=lambda: rng.geometric(1/(1+a), n)-1,
        zipf=lambda: rng.zipf(1.2+a, n).clip(max=10**9), lognormal=lambda: np.exp(rng.normal(0, a, n)).round(),
        zeros=lambda: rng.poisson(a, n)*(rng.random(n)<.2), capped=lambda: rng.zipf(1.2+a, n).clip(max=50))[kind]()
    assert missing_code(y.astype(np.float32)) is None

@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2,3,5,7,10]), st.integers(20, 3000), st.integers(0, 10**6))
def test_not_on_other_ratings(levels, n, seed):
    "Standardized ratings, deviations, scales around 0, likes, weights of events"
    rng = np.random.default_rng(seed)
    stars = rng.integers(1, levels+1, n)
    for y in ((stars-stars.mean())/(stars.std()+1e-6), stars-3, stars-np.median(stars), rng.normal(size=n),
        rng.integers(-levels, levels+1, n), rng.integers(0, 2, n), rng.choice([-1,1], n), rng.choice([-1,0,1], n),
        rng.choice([1,3,10], n), rng.choice([1,5,20,100], n), 2**rng.integers(0, 6, n), np.ones(n),
        rng.choice([1,5], n), rng.random(n)):
        assert missing_code(y.astype(np.float32)) is None

BASE = synthetic_ratings(30, 20, 300)
def load(y): return CollabDataLoaders.from_df(BASE.assign(rating=y), seed=1)

def test_the_question():
    "One warning with value, number, the other ratings and what to do; the ratings are loaded as they are"
    y = BASE.rating.where(BASE.index%10>0, -1)
    with pytest.warns(UserWarning) as w: dls = load(y)
    text, = (str(o.message) for o in w)
    assert all(o in text for o in ["'rating'", '-1 in 30 of 300 rows', '1 to 5 in', "ratings[ratings['rating']!=-1]",
        'ignore this warning']), text
    assert (dls.train_ds.store.ratings()==-1).any()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ratings = BASE.assign(rating=y)
        CollabDataLoaders.from_df(ratings[ratings['rating']!=-1])

@pytest.mark.data
def test_no_question_about_real_ratings(data_dir):
    "Half stars, stars, 1 to 100, tenths, and numbers of plays"
    def npz(name): return np.load(data_dir/name)
    sets = dict(small=movielens('ml-latest-small').rating, ml100k=movielens('ml-100k').rating,
        filmtrust=pd.read_csv(data_dir/'filmtrust.txt', sep=r'\s+', header=None)[2],
        lastfm=pd.read_csv(data_dir/'lastfm_user_artists.dat', sep='\t').iloc[:,2])
    for name in ('flixster_monti','yahoo_music_monti'):
        for k,v in npz(f'{name}.npz').items():
            if v.dtype.kind=='f': sets[f'{name} {k}'] = v
    assert {k:c for k,v in sets.items() if (c := missing_code(np.asarray(v, np.float32).ravel())) is not None}=={}
