"Features of users and items: what a column turns into, what is said about odd values, and what models make of it"
import math, re, warnings

import numpy as np, pandas as pd, pyarrow as pa, pytest, torch
from fastai.tabular.all import Callback, load_learner, set_seed, tensor
from fastcollab.all import (CollabDataLoaders, ColdItemSplitter, ColdUserSplitter, CollabNN, DotProductBias,
    FeatureSpec, GenreCategorify,
    HybridNN, HybridMF, GenreEmbedding, IdDropout, ParamEmbedding, collab_learner, emb_size, rmse, synthetic_ratings)
from fastcollab.data.features import _other_values
from fastcollab.models.base import all_scores
from hypothesis import given, settings, strategies as st

# A table with three features of users and two of items, all of them made up

ITEM_COLS,USER_COLS = ['genres','decade'],['age','job','hobbies']
BASE = synthetic_ratings(60, 40, 1200)
AGES = dict(zip(range(1, 61), 18 + np.random.default_rng(0).permutation(60)))   # 60 ages, 18 to 77
FULL = BASE.assign(decade=1950+BASE.movieId%5*10, age=BASE.userId.map(AGES), job=[('cook','nurse','pilot')[u%3]
    for u in BASE.userId],
    hobbies=[('chess','golf|chess','swim|golf|chess','swim')[u%4] for u in BASE.userId])
# of each id
RAW = {c: FULL.groupby('movieId' if c in ITEM_COLS else 'userId')[c].first().to_dict() for c in (*ITEM_COLS,*USER_COLS)}

def load(df=FULL, **kwargs):
    return CollabDataLoaders.from_df(df, **{'item_cols':ITEM_COLS, 'user_cols':USER_COLS, 'seed':1, **kwargs})
def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn

def said(call):
    "What a call answers, and its warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        res = call()
    return res,[str(o.message) for o in caught if issubclass(o.category, UserWarning)
        and 'not writable' not in str(o.message)]

def all_x(dl): return torch.cat([b[0] for b in dl])
def blocks(dls, x):
    "The columns of each feature, by name"
    return dict(zip([f.name for f in dls.features], x[:,2:].split([f.width for f in dls.features], 1)))

def decile(age, ages):
    "The label of `age` among the deciles of `ages`"
    edges = np.quantile(sorted(ages), np.arange(1, 10)/10)
    above = [e for e in edges if age<=e]
    return f'up to {above[0]:g}' if above else f'over {edges[-1]:g}'

# From columns to rows of tables

word = st.text(min_size=1, max_size=4).map(str.strip).filter(lambda s: s and not set(s) & set('|,;:'))

@pytest.mark.filterwarnings('ignore:column')
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(word, max_size=4), min_size=2, max_size=6), st.sampled_from(['|', ', ', ';', '::']))
def test_sets_round_trip(sets, sep):
    "What comes out of the loaders is what went in, without repeats; the vocabulary is sorted"
    n = len(sets)
    df = pd.DataFrame(dict(user=[u for u in (1,2,3) for _ in range(n)], item=[*range(n)]*3, rating=3.,
        tags=[sep.join(o) for o in sets]*3))
    dls = CollabDataLoaders.from_df(df, item_cols='tags', sep=sep, splits=(range(3*n), []))
    want = [list(dict.fromkeys(o)) for o in sets]
    assert list(dls.train_ds.items.tags) == [sep.join(o) for o in want]*3
    assert list(dls.classes['tags']) == ['#na#', *sorted({g for o in want for g in o})]
    assert dls.features[0].width == max(1, *map(len, want))

def test_columns_in_the_documented_order():
    "Each batch has user, item, the features of the item as they were named, then those of the user; each padded with 0"
    dls = load(genre_name='genres', item_cols='decade')
    assert [(f.name,f.side) for f in dls.features] == [('genres',1),('decade',1),('age',0),('job',0),('hobbies',0)]
    code = {c: dls.classes[c].o2i for c in ('userId','movieId',*ITEM_COLS,*USER_COLS)}
    ages = [AGES[u] for u in dls.classes['userId'][1:]]
    def row(u, i):
        want = [code['userId'][u], code['movieId'][i]]
        for c,k in (('genres',i),('decade',i),('age',u),('job',u),('hobbies',u)):
            v = RAW[c][k]
            names = [decile(v, ages)] if c=='age' else str(v).split('|')
            width = dict(genres=max(o.count('|')+1 for o in RAW['genres'].values()), hobbies=3).get(c, 1)
            want += [code[c][o] for o in names] + [0]*(width-len(names))
        return want
    for part in (dls.train_ds,dls.valid_ds):
        items = part.items
        assert list(items) == ['userId','movieId','rating','genres','decade','age','job','hobbies']
        assert part.rows(torch.arange(len(part)))[0].tolist() == [row(u, i) for u,i in zip(items.userId, items.movieId)]
    for dl in dls.loaders:
        x = dl.one_batch()[0]
        assert x.dtype==torch.int64 and x.tolist() == [row(dls.classes['userId'][r[0]], dls.classes['movieId'][r[1]])
            for r in x.tolist()]

def test_names_as_one_text():
    a,b = load(item_cols='decade', user_cols='job'),load(item_cols=['decade'], user_cols=['job'])
    assert torch.equal(a.one_batch()[0], b.one_batch()[0]) and [f.name for f in a.features] == ['decade','job']

@pytest.mark.parametrize('dtype', ['int64','float64','float32','Int64'])
def test_numbers_become_deciles(dtype):
    "A tenth of the users in each, however many ratings they have; whole numbers of any type give the same"
    dls = load(FULL.astype(dict(age=dtype)), valid_pct=0)
    of = dls.train_ds.items.groupby('userId').age.agg(set)
    assert of.map(len).eq(1).all()
    by_age = [next(iter(of[u])) for u in sorted(AGES, key=AGES.get)]
    assert len(dls.classes['age'])==11 and all(len(set(by_age[k:k+6]))==1
        for k in range(0, 60, 6)) and len(set(by_age))==10
    assert by_age == [decile(a, AGES.values()) for a in sorted(AGES.values())]

@pytest.mark.parametrize('n,dtype,deciles', [(20,'int64',False), (21,'int64',True), (20,'float64',False),
    (21,'float64',True), (60,'str',False), (60,'category',False)])
def test_few_numbers_are_categories(n, dtype, deciles):
    "Up to twenty values are categories, and so are texts and categories of any number; 1990.0 and 1990 are the same"
    g = GenreCategorify().setup(pd.Series(range(1900, 1900+n)).astype(dtype))
    assert list(g.classes) == (list(g.classes) if deciles
        else ['#na#', *map(str, range(1900, 1900+n))]) and (g.edges is not None)==deciles
    if not deciles and dtype!='category':
        rows = [g.encode(pd.Series([1901]).astype(o))[0].tolist() for o in ('int64','float64','str')]
        assert rows == [[[2]]]*3

def test_the_bins_are_those_of_the_training_ids():
    "Users who come later fall into the bins that are there; their ages move no edge"
    later = [3,7,11]
    df = FULL.assign(age=FULL.age.mask(FULL.userId.isin(later), 1000+FULL.userId))
    dls = load(df, splits=(np.flatnonzero(~df.userId.isin(later)), np.flatnonzero(df.userId.isin(later))))
    ages = [a for u,a in AGES.items() if u not in later]
    assert set(dls.valid_ds.items.age) == {decile(1000, ages)} and set(dls.classes['age'][1:]) == {decile(a, ages)
        for a in ages}
    got,_ = said(lambda: dls.test_dl(pd.DataFrame(dict(userId=[901,902,903,904], movieId=1, age=[18.5,40,-5,77],
        job='cook', hobbies='chess'))))
    assert list(got.dataset.items.age) == [decile(a, ages) for a in (18.5,40,-5,77)]

MISSING = dict(NaN=np.nan, none=None, empty='', blank='  ', separators=' | ', NA=pd.NA, list=[], tuple=())

@pytest.mark.parametrize('value', MISSING.values(), ids=MISSING)
def test_missing_values(value):
    "In training, in validation and later: no category, one warning with number and example, and nothing else changes"
    def without(df, users):
        cells = [value if u in users else o for u,o in zip(df.userId, df.hobbies)]
        return df.assign(hobbies=pd.Series(cells, index=df.index, dtype=object))
    train,valid = (np.flatnonzero(FULL.userId.isin(range(51, 61))==o) for o in (False,True))
    dls,warned = said(lambda: load(without(FULL, [5,9,58]), splits=(train,valid)))
    assert warned == ["column 'hobbies' is empty for 3 of 60 users, e.g. 5; they get no hobbies"]
    want = load(splits=(train,valid))
    for a,b in zip((dls.train_ds,dls.valid_ds), (want.train_ds,want.valid_ds)):
        got,full = (o.rows(torch.arange(len(o)))[0] for o in (a,b))
        raw = FULL.userId.to_numpy()[train if a is dls.train_ds else valid]
        none = torch.from_numpy(np.isin(raw, [5,9,58]))
        assert none.any() and (blocks(dls, got[none])['hobbies']==0).all() and torch.equal(got[~none], full[~none])
    new = FULL[:6].assign(userId=[901,902,903,1,2,3])
    test,warned = said(lambda: dls.test_dl(without(new, [902,2])))
    assert [o for o in warned
        if 'hobbies' in o] == ["column 'hobbies' is empty for 1 of 3 users, e.g. 902; they get no hobbies"]
    assert list(test.dataset.items.hobbies) == [FULL.hobbies[0], '', FULL.hobbies[2],
        *(RAW['hobbies'][u] for u in (1,2,3))]

def test_missing_numbers():
    "A user without an age has no decile, and counts for none"
    df = FULL.assign(age=FULL.age.astype(float).mask(FULL.userId==7))
    dls,warned = said(lambda: load(df, valid_pct=0))
    assert warned == ["column 'age' is empty for 1 of 60 users, e.g. 7; they get no age"]
    items,ages = dls.train_ds.items,[a for u,a in AGES.items() if u!=7]
    assert all(got==('' if u==7 else decile(AGES[u], ages)) for u,got in zip(items.userId, items.age))
    test,_ = said(lambda: dls.test_dl(dict(userId=999, movieId=1, age=np.nan, job='cook', hobbies='chess')))
    assert test.dataset.items.age[0]==''

def test_a_column_without_any_value():
    dls,warned = said(lambda: load(FULL.assign(job=None)))
    assert warned == ["column 'job' is empty for 60 of 60 users, e.g. 1; they get no job"]
    assert list(dls.classes['job']) == ['#na#'] and (blocks(dls, dls.one_batch()[0])['job']==0).all()
    quiet(collab_learner(dls, n_factors=3), 1)

def test_unknown_categories_in_validation():
    "Only ids of the training part make the vocabulary and the width; more than that is left out, and said once"
    sets = {1:'a', 2:'b|a', 3:'b|c|a', 4:'c', 5:'a|b|d'}          # 3, 4 and 5 come later
    df = pd.DataFrame([(u,i,3.,sets[i]) for i in (5,4,3,2,1) for u in range(4)], columns=['user','item','rating',
        'tags'])
    dls,warned = said(lambda: CollabDataLoaders.from_df(df, item_cols='tags', splits=(range(12, 20), range(12))))
    assert list(dls.classes['tags']) == ['#na#','a','b'] and dls.features[0].width == 2
    assert warned == ["column 'tags' has values that training did not see, or too many of them, for 3 of 5 items, "
        "e.g. 5 with 'd'; these values are ignored"]
    x = all_x(dls.valid)
    assert x[::4,1:].tolist() == [[0,1,2],[0,0,0],[0,2,1]]

def test_unknown_categories_later():
    dls = load()
    items = pd.DataFrame(dict(userId=1, movieId=[901,902,903],
        genres=['Drama|Polka','Drama','Drama|Action|Comedy|Horror|Crime|War'], decade=[1960,1850,1970]))
    test,warned = said(lambda: dls.test_dl(items))
    mine = [o for o in warned if 'column' in o]
    assert len(mine)==2 and re.search(r"'genres' has values .* for 2 of 3 items, e.g. 901 with 'Polka'",
        mine[0]) and "'decade' has values" in mine[1]
    assert "1 of 3 items, e.g. 902 with '1850'" in mine[1]
    got,width = test.dataset.items,dls.features[0].width
    known = [g for g in 'Drama|Action|Comedy|Horror|Crime|War'.split('|') if g in dls.classes['genres'].o2i]
    assert list(got.genres) == ['Drama','Drama',
        '|'.join(known[:width])] and len(known)>width and list(got.decade) == ['1960','','1970']
    assert 'Polka' not in dls.classes['genres'].o2i and len(dls.classes['genres'])==dls.features[0].n

CHANGES = pd.DataFrame(dict(user=[1,2,4,3,2,1,3], item=list('aaabbcc'), rating=[1.,2,3,4,5,4,3], kind=list('XYZPPPY'),
    tone=list('ddeffff')))

@pytest.mark.parametrize('train,valid', [([1,2,3,4],[0,5,6]), ([4,2,1,3],[0,6,5])])
def test_a_feature_that_changes(train, valid):
    "The first training row of the table counts, else the first row; one warning per column"
    dls,warned = said(lambda: CollabDataLoaders.from_df(CHANGES, item_cols=['kind','tone'], splits=(train,valid)))
    assert warned == ["column 'kind' changes between rows of 2 of 3 items, e.g. 'a'; the first training row of each "
        "counts",
        "column 'tone' changes between rows of 1 of 3 items, e.g. 'a'; the first training row of each counts"]
    assert list(dls.classes['kind']) == ['#na#','P','Y'] and list(dls.classes['tone']) == ['#na#','d','f']
    assert set(dls.train_ds.items[['item','kind']].itertuples(index=False, name=None)) == {('a','Y'),('b','P')}
    assert list(dls.valid_ds.items.kind) == ['Y','P','P'] and list(dls.valid_ds.items.tone) == ['d','f','f']

def test_what_does_not_change_is_not_said():
    "NaN beside NaN, equal lists, and categories with codes of their own are no change; NaN beside a value is one"
    for kind in ([np.nan]*3+['P']*2+['W']*2, [['x','y']]*3+[['z']]*2+[None]*2,
        pd.Categorical(list('XXXPPWW'), list('WPXQ'))):
        assert not any('changes' in o for o in said(lambda: CollabDataLoaders.from_df(CHANGES.assign(kind=kind),
            item_cols='kind', splits=(range(7), [])))[1])
    _,warned = said(lambda: CollabDataLoaders.from_df(CHANGES.assign(kind=['X',None,'X']+['P']*4), item_cols='kind',
        splits=(range(7), [])))
    assert warned == ["column 'kind' changes between rows of 1 of 3 items, e.g. 'a'; the first training row of each "
        "counts"]

WRONG = [ # How the features are named, the error, and words of its message
    (dict(item_cols='userId', user_cols=None), ValueError,
        "column 'userId' holds users, items or ratings; it can't be a feature too"),
    (dict(user_cols=['job','movieId']), ValueError, "column 'movieId' holds users, items or ratings"),
    (dict(genre_name='rating'), ValueError, "column 'rating' holds users, items or ratings"),
    (dict(genre_name='genres'), ValueError, r"\['genres', 'genres', 'decade', .*names a column twice"),
    (dict(user_cols=['job','job']), ValueError, 'names a column twice; name it in item_cols or in user_cols'),
    (dict(item_cols='job', user_cols='job'), ValueError, 'names a column twice'),
    (dict(user_cols='jobs'), KeyError, "no feature column 'jobs'; the columns are .*'job'"),
    (dict(item_cols=['genres','Decade']), KeyError, "no feature column 'Decade'; the columns are .*'decade'"),
    (dict(item_cols=None, user_cols=None, sep=';'), ValueError,
        "sep=';' separates categories; give genre_name, item_cols or user_cols"),
    (dict(sep=''), ValueError, 'sep is empty'),
    (dict(user_weight='sqr'), ValueError, "user_weight is 'sqr'; choose None or 'sqrt'")]

@pytest.mark.parametrize('kwargs,error,words', WRONG, ids=[str(o[0]) for o in WRONG])
def test_wrong_names(kwargs, error, words):
    with pytest.raises(error, match=words): load(**kwargs)

@pytest.mark.filterwarnings('ignore:column')
@pytest.mark.parametrize('split,side', [(ColdItemSplitter,1), (ColdUserSplitter,0)])
def test_unknown_ids_keep_their_features(split, side):
    "A split by items or by users: row 0 of the tables, and all the features that the raw table gives them"
    splits = split(.25, seed=2)(FULL)
    dls = load(splits=splits)
    raw,got,x = FULL.iloc[splits[1]],dls.valid_ds.items,all_x(dls.valid)
    assert (x[:,side]==0).all() and (x[:,1-side]>0).all() and set(got[('userId','movieId')[side]])=={'#na#'}
    ages = [AGES[u] for u in dls.classes['userId'][1:]]
    vocab,width = dls.classes['genres'].o2i,dls.features[0].width
    assert list(got.genres) == ['|'.join([g for g in o.split('|') if g in vocab][:width]) for o in raw.genres]
    assert list(got.decade) == [*map(str,
        raw.decade)] and list(got.job) == list(raw.job) and list(got.hobbies) == list(raw.hobbies)
    assert list(got.age) == [decile(a, ages) for a in raw.age] and list(got.rating) == list(raw.rating)
    assert x.shape[1] == 2+sum(f.width for f in dls.features) and [len(t) for t in dls.train_ds.tables] == [dls.n_users,
        dls.n_items]
    assert not set(raw[('userId','movieId')[side]]) & set(dls.classes[('userId','movieId')[side]])

@pytest.mark.filterwarnings('ignore')
def test_known_ids_of_a_test_table_keep_the_features_of_training():
    "What a later table says of a known id is not looked at; an unknown one brings its own, or has none"
    dls = load()
    new = pd.DataFrame(dict(userId=[1,901,2,902], movieId=[901,2,3,902], genres='Horror', decade=1980, age=30,
        job='pilot', hobbies='swim'))
    got = dls.test_dl(new).dataset.items
    train = dls.train_ds.items.drop_duplicates('userId').set_index('userId'),dls.train_ds.items.drop_duplicates(
        'movieId').set_index('movieId')
    own = dict(genres='Horror', decade='1980', age=decile(30, [AGES[u] for u in dls.classes['userId'][1:]]),
        job='pilot', hobbies='swim')
    for c in ITEM_COLS: assert list(got[c]) == [own[c], train[1].loc[2, c], train[1].loc[3, c], own[c]]
    for c in USER_COLS: assert list(got[c]) == [train[0].loc[1, c], own[c], train[0].loc[2, c], own[c]]
    assert list(got.userId) == [1,'#na#',2,'#na#'] and list(got.movieId) == ['#na#',2,3,'#na#']
    for gone in (['genres'], ['age','hobbies'], [*ITEM_COLS,*USER_COLS]):
        part,warned = said(lambda: dls.test_dl(new.drop(columns=gone)).dataset.items)
        assert not any('empty' in o for o in warned)                            # what was not asked for is not missed
        for c in (*ITEM_COLS,*USER_COLS):
            assert list(part[c]) == (list(got[c]) if c not in gone
                else [v if o!='#na#' else '' for v,o in zip(got[c], got.movieId if c in ITEM_COLS else got.userId)])
    assert dls.test_dl(new.iloc[::-1]).dataset.items.equals(got.iloc[::-1])
    assert torch.equal(all_x(dls.test_dl(new, bs=1)), all_x(dls.test_dl(new)))
    assert torch.equal(all_x(dls.test_dl(new.to_dict('records'))), all_x(dls.test_dl(new)))
    assert dls.test_dl(new.iloc[0]).dataset.items.genres[0] == 'Horror' and dls.train_ds.enc.tables[0].shape[
        0]==dls.n_users

def test_a_test_table_leaves_the_loaders_as_they_were():
    dls = load()
    before = [o.clone() for o in (*dls.train_ds.enc.tables, *dls.valid_ds.tables, all_x(dls.valid))]
    new = pd.DataFrame(dict(userId=[1,901], movieId=[901,2], genres='Horror|Polka', decade=1980, age=30, job='spy',
        hobbies='swim'))
    copy = new.copy()
    said(lambda: list(dls.test_dl(new)))
    assert all(torch.equal(a, b) for a,b in zip(before, (*dls.train_ds.enc.tables, *dls.valid_ds.tables,
        all_x(dls.valid)))) and new.equals(copy)

def test_categorical_columns():
    "Categories that do not occur are no ids and no features, and change nothing"
    unused = FULL.assign(**{c: pd.Categorical(FULL[c], [*sorted(FULL[c].unique()), new]) for c,new in
        dict(userId=901, movieId=902, genres='Polka', decade=1850, job='spy', hobbies='knit').items()})
    splits = ColdItemSplitter(.25, seed=2)(FULL)
    (a,wa),(b,wb) = (said(lambda: load(o, splits=splits)) for o in (unused,FULL))
    assert wa==wb and all(list(a.classes[k])==list(b.classes[k])
        for k in b.classes) and list(a.classes)==list(b.classes)
    for k in (0,1):
        assert torch.equal(all_x(a[k]) if k else a.train_ds.rows(torch.arange(50))[0], all_x(b[k]) if k
            else b.train_ds.rows(torch.arange(50))[0])
    assert (a.n_users,a.n_items)==(b.n_users,b.n_items)

@pytest.mark.parametrize('kind', [list, tuple, np.array, lambda o: dict.fromkeys(o).keys() and set(o)],
    ids=['list','tuple','array','set'])
def test_cells_that_hold_sets(kind):
    "Lists, tuples, arrays and sets in the cells are what their texts are, also for ids that come later"
    df = FULL.assign(genres=pd.Series([kind(o.split('|')) for o in FULL.genres], index=FULL.index, dtype=object))
    splits = ColdItemSplitter(.25, seed=2)(FULL)
    (a,wa),(b,wb) = (said(lambda: load(o, splits=splits)) for o in (df,FULL))
    assert wa==wb and list(a.classes['genres'])==list(b.classes['genres'])
    for k in (0,1):
        ga,gb = ([sorted(o.split('|')) for o in d[k].dataset.items.genres] for d in (a,b))
        assert ga==gb
    got,_ = said(lambda: a.test_dl(dict(userId=1, movieId=999, genres=kind(['Drama','Comedy']),
        decade=1960)).dataset.items)
    assert sorted(got.genres[0].split('|')) == ['Comedy','Drama']

def test_frame_is_not_written_to():
    for df in (FULL.copy(), FULL.assign(genres=FULL.genres.str.split('|'))):
        before = df.copy()
        load(df)
        pd.testing.assert_frame_equal(df, before)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('use_nn', [False,True])
def test_export(use_nn, tmp_path):
    "A loaded learner has the features of known ids, takes those of unknown ones, and holds no ratings or unseen ids"
    dls = load(splits=ColdItemSplitter(.25, seed=2)(FULL), path=tmp_path)
    set_seed(0)
    learn = quiet(collab_learner(dls, n_factors=20, use_nn=use_nn, y_range=(0,5.5)), 2, 3e-2)
    learn.export('m.pkl', history=False)
    loaded = load_learner(tmp_path/'m.pkl')
    new = FULL[:30].assign(userId=FULL.userId[:30].mask(np.arange(30)<5, 901),
        movieId=FULL.movieId[:30].mask(np.arange(30)%7==3, 902))
    for df in (new, new.drop(columns=[*ITEM_COLS,*USER_COLS])):
        assert np.array_equal(loaded.predict(df), learn.predict(df))
    assert not np.allclose(learn.predict(new), learn.predict(new.drop(columns=[*ITEM_COLS,*USER_COLS])))
    assert len(loaded.dls.train_ds)==len(loaded.dls.valid_ds)==0 and [f.name for f in loaded.dls.features]==[f.name
        for f in dls.features]
    assert [len(t) for t in loaded.dls.valid_ds.tables] == [dls.n_users,
        dls.n_items] and len(dls.valid_ds.tables[1])>dls.n_items
    raw = (tmp_path/'m.pkl').read_bytes()
    torch.save(dls.train_ds, tmp_path/'with.pkl')
    for o in (dls.train_ds.store.ratings(),dls.train_ds.store.ids()):
        assert o[:20].numpy().tobytes() in (tmp_path/'with.pkl').read_bytes() and o[:20].numpy().tobytes() not in raw

@pytest.mark.filterwarnings('ignore')
def test_show_and_decode():
    dls = load(valid_pct=0)
    b = dls.one_batch()
    df = dls.show_batch(max_n=7, show=False)
    assert list(df) == ['userId','movieId','rating',*ITEM_COLS,
        *USER_COLS] and len(df)==7 and df.equals(dls.decode(b)[:7])
    for c in ('genres','hobbies','job'):
        assert list(dls.decode(b)[c]) == [RAW[c][k] for k in dls.decode(b)['movieId' if c in ITEM_COLS else 'userId']]
    assert list(dls.decode((b[0],))) == ['userId','movieId',*ITEM_COLS,*USER_COLS]
    x,y = dls.train_ds[5]
    assert x.shape==b[0][0].shape and torch.equal(x, dls.train_ds.rows(tensor([5]))[0][0])

def test_id_dropout_keeps_the_features():
    "Ids become row 0, each side for itself; their features stay, in the batch of the loader too"
    seen = dict(before=[], after=[])
    class Look(Callback):
        def __init__(self, key, order): self.key,self.order = key,order
        def before_batch(self):
            if self.training: seen[self.key].append((self.x, self.x.clone()))
    set_seed(0)
    learn = collab_learner(load(), n_factors=4, unk_p=0, cbs=[Look('before', 4), IdDropout(.4), Look('after', 6)])
    quiet(learn, 1)
    a,b = (torch.cat([o for _,o in seen[k]]) for k in seen)
    gone = b[:,:2]==0
    assert torch.equal(a[:,2:], b[:,2:]) and torch.equal(a[:,:2][~gone], b[:,:2][~gone]) and (a[:,:2]>0).all()
    assert torch.allclose(gone.float().mean(0), torch.tensor([.4,.4]), atol=.06) and all(torch.equal(*o)
        for o in seen['before'])

# Tempered users

def weights(df):
    "The expected number of draws of each row in an epoch, and of each user"
    n = df.groupby('userId').userId.transform('size').to_numpy()
    row = len(df)*n**-.5/(n**-.5).sum()
    return row,pd.Series(row).groupby(df.userId.to_numpy()).sum()

@pytest.mark.parametrize('by_user', [True,False])
def test_user_weight(by_user):
    "Of the draws of an epoch, a user with k ratings gets sqrt(k)/sum sqrt(k), spread evenly over these ratings"
    df = BASE.sort_values('userId', kind='stable', ignore_index=True) if by_user else BASE
    dls = CollabDataLoaders.from_df(df, splits=(range(len(df)), []), user_weight='sqrt', seed=3, bs=50)
    row,user = weights(df)
    share = df.groupby('userId').size()**.5
    assert np.allclose(user, len(df)*share/share.sum())
    key = dls.train_ds.store.ids()[:,0]*1000 + dls.train_ds.store.ids()[:,1]
    assert len(key.unique()) == len(df)
    total = np.zeros(len(df))
    for _ in range(40):
        x = all_x(dls.train)
        assert len(x) == len(df)
        rows = (x[:,:1]*1000 + x[:,1:2] == key[None]).float().argmax(1).numpy()
        count = np.bincount(rows, minlength=len(df))
        assert (np.floor(row-1e-6)<=count).all() and (count<=np.ceil(row+1e-6)).all()
        if by_user: assert (np.abs(np.bincount(df.userId.to_numpy()[rows])[1:]-user.to_numpy())<1+1e-6).all()
        total += count
    assert np.abs(total/40-row).max() < .35 and np.corrcoef(total/40, row)[0,1] > .8
    assert np.abs(np.bincount(df.userId, total/40)[1:]-user.to_numpy()).max() < .1*user.max()

def test_user_weight_order():
    "The seed sets the draws of each epoch; looking at a batch doesn't move on; without a seed torch's state decides"
    def loader(seed):
        return CollabDataLoaders.from_df(BASE, user_weight='sqrt', splits=(range(1000), range(1000, 1200)), seed=seed,
            bs=100)
    a,b,c = loader(1),loader(1),loader(2)
    first = a.one_batch()[0]
    epochs = [[all_x(o.train) for o in (a,b,c)] for _ in range(2)]
    assert torch.equal(epochs[0][0][:100], first)
    for xa,xb,xc in epochs: assert torch.equal(xa, xb) and not torch.equal(xa, xc)
    assert not torch.equal(*(o[0] for o in epochs))
    place = torch.cat([(epochs[0][0][k]==a.train_ds.store.ids().long()).all(1).nonzero()[0] for k in range(1000)])
    assert abs(np.corrcoef(place, np.arange(1000))[0,1]) < .15
    free = loader(None)
    draws = [(set_seed(s), all_x(free.train))[1] for s in (5,5,6)]
    assert torch.equal(*draws[:2]) and not torch.equal(*draws[1:])

def test_user_weight_is_for_training_only():
    "Validation and test tables are read row by row; a loader made from that of training draws as it does"
    a,b = (CollabDataLoaders.from_df(BASE, user_weight=w, seed=1) for w in ('sqrt',None))
    assert torch.equal(all_x(a.valid), all_x(b.valid)) and len(all_x(a.valid))==240
    assert torch.equal(all_x(a.test_dl(BASE)), all_x(b.test_dl(BASE)))
    row,_ = weights(a.train_ds.items)
    assert row.max()>1.3 and len(torch.unique(all_x(a.train), dim=0)) < 960 == len(torch.unique(all_x(b.train), dim=0))
    assert len(torch.unique(all_x(a.train.new(bs=7)), dim=0)) < 960
    quiet(collab_learner(a, n_factors=2), 1)

# Models

SPECS = [FeatureSpec('genres', 1, 5, 3), FeatureSpec('decade', 1, 3, 1), FeatureSpec('job', 0, 4, 1),
    FeatureSpec('hobbies', 0, 4, 2)]
AGGS,HOWS = ('sum','mean','sqrtn'),('add','scale')

def tiny(cls=HybridMF, specs=SPECS, **kwargs):
    "A model of 4 users and 5 items with large random weights, and x of all pairs"
    g = torch.Generator().manual_seed(1)
    set_seed(0)
    model = cls(4, 5, specs, **{**dict(n_factors=3), **kwargs})
    for p in model.parameters(): p.data = torch.randn(p.shape, generator=g)*.5
    for side,(name,n) in enumerate((('u_table',4),('i_table',5))):
        cols = [torch.zeros(n, 0, dtype=torch.int64)]
        for f in (o for o in specs if o.side==side):
            c = torch.randint(0, f.n, (n,f.width), generator=g).sort(1, descending=True).values    # padding behind
            c[1] = 0                                                                             # an id without any
            cols.append(c)
        setattr(model, name, torch.cat(cols, 1).int())
    x = torch.cartesian_prod(torch.arange(4), torch.arange(5))
    return model.eval(),torch.cat([x, model.i_table[x[:,1]], model.u_table[x[:,0]]], 1)

def agg_by_hand(table, cats, agg):
    "Sum, mean or sum over root of the rows `cats` of `table`, but for 0"
    res,n = np.zeros(table.shape[1]),0
    for c in cats:
        if c==0: continue
        n += 1
        for k in range(table.shape[1]): res[k] += table[c,k]
    return res/(1 if n==0 or agg=='sum' else n if agg=='mean' else math.sqrt(n))

def sides(model, row, specs):
    "The features of one row of x, as (spec, its number among those of its side, categories)"
    at,res,n = 2,[],[0,0]
    for f in sorted(specs, key=lambda f: -f.side):
        res.append((f, n[f.side], row[at:at+f.width]))
        at,n[f.side] = at+f.width,n[f.side]+1
    assert at==len(row)
    return res

def np_of(t): return t.weight.detach().double().numpy()

def by_hand(model, row, how, agg, specs=SPECS):
    "The vectors and biases of the user and the item of one row of x, in loops"
    vecs,biases = [],[]
    for side,(v,b) in enumerate(((model.u_weight,model.u_bias),(model.i_weight,model.i_bias))):
        vec,bias = np_of(v)[row[side]],np_of(b)[row[side],0]
        total = np.zeros(len(vec))
        for f,k,cats in sides(model, row, specs):
            if f.side!=side: continue
            total += agg_by_hand(np_of(model.f_weight[side].tables[k]), cats, agg)
            bias += agg_by_hand(np_of(model.f_bias[side].tables[k]), cats, agg)[0]
        vecs.append(vec+total if how=='add' else vec+vec*total)
        biases.append(bias)
    return vecs,biases

ONE_SIDE = dict(both=SPECS, items=SPECS[:2], users=SPECS[2:], one=SPECS[:1])

@pytest.mark.parametrize('specs', ONE_SIDE.values(), ids=ONE_SIDE)
@pytest.mark.parametrize('agg', AGGS)
@pytest.mark.parametrize('how', HOWS)
def test_formula(how, agg, specs):
    "q + sum G or q + q*sum G on both sides, plus all the biases; the same from vectors, biases and factors"
    model,x = tiny(specs=specs, how=how, agg=agg)
    hand = [by_hand(model, r, how, agg, specs) for r in x.tolist()]
    want = np.array([v[0]@v[1]+sum(b) for v,b in hand])
    assert np.allclose(model(x).detach().numpy(), want, atol=1e-5)
    for k,(vecs,bias) in enumerate((model.vectors(k),model.biases(k)) for k in (0,1)):
        for r,(v,b) in zip(x.tolist(), hand):
            assert np.allclose(vecs[r[k]], v[k], atol=1e-5) and math.isclose(bias[r[k]], b[k], abs_tol=1e-5)
    table = all_scores(model.factors(0), model.factors(1))
    assert np.allclose(table.detach().numpy().reshape(-1), want, atol=1e-5)
    part = all_scores(model.factors(0, tensor([3,1])), model.factors(1, tensor([2,4,0])))
    assert torch.allclose(part, table[[3,1]][:,[2,4,0]], atol=1e-5)
    model.y_range = (1,5)
    assert np.allclose(model(x).detach().numpy(), 1+4/(1+np.exp(-want)), atol=1e-5)

@pytest.mark.parametrize('agg', AGGS)
def test_formula_of_the_net(agg):
    "User, item, features of the item and of the user, put end to end, through one hidden layer"
    model,x = tiny(HybridNN, agg=agg, emb_szs=(2,3), n_factors=6)
    hid,out = model.layers[0][0],model.layers[1][0]
    for row,got in zip(x.tolist(), model(x)):
        parts = [np_of(model.u_weight)[row[0]], np_of(model.i_weight)[row[1]]]
        parts += [agg_by_hand(np_of(model.f_weight[f.side].tables[k]), cats, agg) for f,k,cats in sides(model, row,
            SPECS)]
        h = np.maximum(np_of(hid)@np.concatenate(parts)+hid.bias.detach().numpy(), 0)
        assert math.isclose(got.item(), (np_of(out)@h).item()+out.bias.item(), abs_tol=1e-4)

MODELS = {f'{how}-{agg}': (HybridMF,dict(how=how, agg=agg)) for how in HOWS for agg in AGGS}
MODELS.update({f'net-{agg}': (HybridNN,dict(agg=agg)) for agg in AGGS}, param=(HybridMF,dict(emb=ParamEmbedding)))

@pytest.mark.parametrize('which', MODELS)
def test_padding_leaks_nothing(which):
    "Whatever row 0 of a feature table holds, nothing changes; it gets no gradient; and more padding is no other set"
    cls,kwargs = MODELS[which]
    model,x = tiny(cls, **kwargs)
    def answers():
        res = [model(x), model.predictions(torch.arange(4)),
            *(o for k in (0,1) for o in (model.vectors(k),model.biases(k)) if o is not None)]
        return [o.detach().clone() for o in res]
    before = answers()
    tables = [m for m in model.modules() if isinstance(m, GenreEmbedding)]
    assert len(tables) == (4 if cls is HybridNN else 8) and (x[:,2:]==0).any(0).all()
    for t in tables: t.weight.data[0] = 100.
    for a,b in zip(before, answers()): assert torch.equal(a, b)
    model.zero_grad()
    (model(x)**2).sum().backward()
    for t in tables: assert (t.weight.grad[0]==0).all() and (t.weight.grad[1:]!=0).any()
    perm = x.clone()
    # the categories of a set in another order, padding in front
    perm[:,2:5],perm[:,-2:] = x[:,[4,2,3]],x[:,[-1,-2]]
    assert torch.allclose(model(perm), model(x), atol=1e-5)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kwargs', [dict(config=dict(how='add')), dict(config=dict(how='scale')), dict(use_nn=True)],
    ids=['add','scale','net'])
def test_scores_are_predictions_of_known_ids(kwargs):
    "All users by all items, by row or by id, match the batches; so do the two tables of the model alone"
    dls = load()
    learn = quiet(collab_learner(dls, n_factors=5, y_range=(0,5.5), **kwargs), 2, 2e-2)
    model = learn.model.eval()
    assert model.u_table.tolist() == dls.train_ds.tables[0].tolist() and model.i_table.tolist() == dls.train_ds.tables[
        1].tolist()
    scores = model.predictions(torch.arange(dls.n_users))
    for dl in dls.loaders:
        for x,_ in dl: assert torch.allclose(model(x), scores[x[:,0],x[:,1]], atol=1e-5)
    df = FULL.iloc[:100]
    u,i = (tensor([dls.classes[c].o2i[o] for o in df[c]]) for c in ('userId','movieId'))
    assert np.allclose(learn.predict(df), scores[u,i], atol=1e-5)
    assert np.allclose(learn.predict(list(df.userId), list(df.movieId)), scores[u,i], atol=1e-5)

@pytest.mark.filterwarnings('ignore')
def test_validation_ids_are_those_of_training():
    "The validation part uses the mapping of training: same id, same row, same features, in any order of rows"
    perm = np.random.default_rng(3).permutation(1200)
    df = FULL.assign(userId=FULL.userId.map('u{}'.format), movieId=FULL.movieId.map('m{}'.format))
    dls = load(df, splits=(perm[:700], perm[700:]))
    features = {}
    for ds,rows in ((dls.train_ds,perm[:700]), (dls.valid_ds,perm[700:])):
        x,_ = ds.rows(torch.arange(len(ds)))
        for k,c in enumerate(('userId','movieId')):
            classes = dls.classes[c]
            assert [classes[o] for o in x[:,k].tolist()] == [v if v in classes.o2i else '#na#'
                for v in df[c].iloc[rows]] and (x[:,k]>0).float().mean()>.95
        for (u,i),g in zip(x[:,:2].tolist(), x[:,2:].tolist()):
            if u and i: assert features.setdefault((u,'u'), g[dls.features[0].width+1:])==g[dls.features[0].width+1:]
            if i: assert features.setdefault((i,'i'), g[:dls.features[0].width+1])==g[:dls.features[0].width+1]
    learn = quiet(collab_learner(dls, n_factors=5, y_range=(0,5.5)), 3, 3e-2)
    want = [float(learn.predict(r.userId, r.movieId)) for r in df.iloc[perm[700:760]].itertuples()]
    assert np.allclose(learn.get_preds()[0][:60], want, atol=1e-5)

def test_vectors_and_biases_of_features():
    "By the name of the column, in the order of its classes, as copies"
    dls = load()
    model = HybridMF.from_dls(dls, n_factors=4)
    for side,cols in ((1,ITEM_COLS), (0,USER_COLS)):
        for k,c in enumerate(cols):
            v,b = model.feature_factors(c)
            assert torch.equal(v, model.f_weight[side].tables[k].weight) and torch.equal(b,
                model.f_bias[side].tables[k].weight[:,0])
            assert v.shape==(len(dls.classes[c]),4) and b.shape==(len(dls.classes[c]),
                ) and not v.requires_grad and not b.requires_grad
            v.zero_(), b.zero_()
            assert all(o.abs().sum()>0 for o in model.feature_factors(c))
    with pytest.raises(KeyError,
        match=r"no feature 'genre'; the features are \['genres', 'decade', 'age', 'job', "
        r"'hobbies'\]"): model.feature_factors('genre')

def test_answers_about_ids_include_the_features():
    "`bias` and `weight`, in raw ids, are what the model uses: own plus features"
    dls = load()
    model = HybridMF.from_dls(dls, n_factors=4, agg='sum')
    i = dls.classes['movieId'][3]
    cats = blocks(dls, dls.test_dl(dict(userId=1, movieId=i)).one_batch()[0])
    own = model.i_weight.weight[3],model.i_bias.weight[3]
    for c in ITEM_COLS: own = [o+t[cats[c][0][cats[c][0]>0]].sum(0) for o,t in zip(own, model.feature_factors(c))]
    assert torch.allclose(model.weight([i])[0], own[0]) and torch.allclose(model.bias([i]),
        own[1]) and (model.weight([i])[0]!=model.i_weight.weight[3]).all()

def test_the_tables_of_a_model_are_its_own():
    "Saved with it, not trained, and not those of the loaders"
    dls = load()
    model = HybridMF.from_dls(dls, n_factors=4)
    assert {'u_table','i_table'} <= set(model.state_dict()) and not {'u_table','i_table'} & {n
        for n,_ in model.named_parameters()}
    model.i_table.zero_()
    assert (dls.train_ds.tables[1]>0).any() and (HybridMF.from_dls(dls).i_table>0).any()

@pytest.mark.parametrize('use_nn', [False,True])
def test_misspelt_arguments(use_nn):
    dls = load()
    with pytest.raises(ValueError, match="agg is 'avg'; choose 'sum', 'mean' or 'sqrtn'"):
        collab_learner(dls, use_nn=use_nn, config=dict(agg='avg'))
    if not use_nn:
        for how in ('plus', None, 'Add'):
            with pytest.raises(ValueError, match=f"how is {how!r}; choose 'add' or 'scale'"):
                collab_learner(dls, config=dict(how=how))
    else:
        with pytest.raises(TypeError, match='how'): collab_learner(dls, use_nn=True, config=dict(how='add'))

@pytest.mark.parametrize('cls', [HybridMF,HybridNN])
def test_loaders_without_or_with_other_features(cls):
    plain = CollabDataLoaders.from_df(BASE, seed=1)
    for make in (lambda: cls.from_dls(plain), lambda: collab_learner(plain, arch=cls)):
        with pytest.raises(ValueError, match=f'{cls.__name__} needs features; name them in from_df'): make()
    model = cls.from_dls(load())
    width = sum(f.width for f in load().features)
    for other in (plain, load(user_cols='job')):
        n = other.one_batch()[0].shape[1]
        with pytest.raises(ValueError,
            match=rf"{n} columns came, 2 of ids and {width} of \['genres', 'decade', 'age', 'job', 'hobbies'\] are "
            rf"needed"):
            model(other.one_batch()[0])

def test_sizes_of_the_net():
    "As the embedding-size rule says for each of the features; the first layer takes all of them"
    dls = load()
    model = HybridNN.from_dls(dls, n_factors=7)
    sizes = [emb_size(len(dls.classes[c])) for c in (*ITEM_COLS,*USER_COLS)]
    assert [t.weight.shape for s in (1,0) for t in model.f_weight[s].tables] == [(len(dls.classes[c]),k)
        for c,k in zip((*ITEM_COLS,*USER_COLS), sizes)]
    assert len(set(sizes))>2 and model.layers[0][0].weight.shape == (7,
        emb_size(dls.n_users)+emb_size(dls.n_items)+sum(sizes))
    model = HybridNN.from_dls(dls, emb_szs=(5,6), layers=[9,8], ps=.1)
    assert model.layers[0][0].weight.shape == (9, 11+sum(sizes)) and model.layers[1][0].weight.shape == (8,9)

def test_the_model_follows_the_loaders():
    plain,full = CollabDataLoaders.from_df(BASE, seed=1),load(user_cols=None)
    kinds = [type(collab_learner(d, use_nn=nn).model) for d in (plain,full,load(item_cols=None)) for nn in (False,True)]
    assert kinds == [DotProductBias,CollabNN] + [HybridMF,HybridNN]*2
    model = collab_learner(full).model
    assert (model.how,model.f_weight[1].tables[0].agg)==('add',
        'sqrtn') and HybridNN.from_dls(full).f_weight[1].tables[0].agg=='mean'
    model = collab_learner(full, n_factors=6, config=dict(how='scale', agg='mean')).model
    assert (model.how,model.f_weight[1].tables[0].agg,model.f_bias[1].tables[0].agg,
        model.u_weight.weight.shape[1])==('scale','mean','mean',6)
    # a model without features reads only the ids
    model = collab_learner(full, arch=DotProductBias).model
    assert model(full.one_batch()[0]).shape == (64,)

# A task that only the feature can solve

def colours(side):
    "Users rate items of their own color 5, others 1; the colors of new users are known, their ratings aren't"
    df = pd.DataFrame([(u,i,5. if u%2==i%2 else 1.) for u in range(30) for i in range(30)],
        columns=['user','item','rating'])
    who = df[('user','item')[side]]
    df['colour'] = np.where(who%2, 'red', 'blue')
    return df,(np.flatnonzero(who<24), np.flatnonzero(who>=24))

def cold_error(side, cols=None, **kwargs):
    "RMSE on the newcomers"
    df,splits = colours(side)
    dls = CollabDataLoaders.from_df(df, splits=splits, seed=1, bs=64, **(cols or {}))
    set_seed(1)   # not every start of the neural net gets that far in 8 epochs
    return rmse(*quiet(collab_learner(dls, n_factors=8, y_range=(0,6), unk_p=.2, **kwargs), 8, 5e-2).get_preds()).item()

ARCHS = dict(add={}, mul=dict(config=dict(how='scale')), net=dict(use_nn=True))

@pytest.mark.parametrize('side', [1,0])
@pytest.mark.parametrize('arch', ARCHS)
def test_features_speak_for_newcomers(arch, side):
    "Items (or users) that nobody has seen are predicted all but right"
    assert cold_error(side, {('user_cols','item_cols')[side]:'colour'}, **ARCHS[arch]) < .7

@pytest.mark.parametrize('use_nn', [False,True])
def test_without_the_feature_newcomers_are_unknown(use_nn):
    "The same task without the feature: no better than the mean"
    assert 1.9 < cold_error(1, use_nn=use_nn) < 2.6

# Work that belongs to items is not done for each row

def counted_splits(monkeypatch, frame, **kwargs):
    "How often a text is split into its categories, and the loaders"
    from fastcollab.data import features
    calls,keep = [],features.split_categories
    monkeypatch.setattr(features, 'split_categories', lambda *a: calls.append(a) or keep(*a))
    names = dict(user_name='user', item_name='item', rating_name='rating')
    return calls,CollabDataLoaders.from_df(frame, seed=1, **names, **kwargs)

def test_texts_are_split_once(monkeypatch):
    "Each distinct text is split once to learn it and once to encode it, however many items and rows have it"
    rng = np.random.default_rng(0)
    item = rng.integers(0, 500, 5000)
    frame = pd.DataFrame(dict(user=rng.integers(0, 50, 5000), item=item, rating=1.+item%5,
        genres=np.array(['a|b','b','c|a'])[item%3]))
    calls,dls = counted_splits(monkeypatch, frame.drop_duplicates(['user','item']), genre_name='genres')
    assert len(calls)<=6 and [len(f.codec.classes) for f in dls.features]==[4]

def test_values_that_change_between_rows():
    "Another value, a missing one, and one that no first row has: each is found, in one chunk or in several"
    from fastcollab.data.features import _other_values
    col = pd.Series(['a','a','b',None,None,'z','b','a'])
    codes,first = np.array([0,0,1,2,2,2,1,1]),np.array([0,2,3])
    for o in (col, col.astype(object), col.astype('category')):
        for bs in (2,3,100): assert _other_values(o, first, codes, bs).tolist()==[False]*5+[True,False,True]
    lists = pd.Series([['a'],['a'],['b'],['c'],['c'],['z'],['b'],['a']])
    assert _other_values(lists, first, codes).tolist()==[False]*5+[True,False,True]

def test_lists_of_arrow_and_lists_of_lists():
    "Lists of PyArrow are sets of categories, as those of Python are; what has no hash is its text"
    genres = [o.split('|') for o in BASE.genres]
    arrow = pd.array(genres, dtype=pd.ArrowDtype(pa.list_(pa.string())))
    plain,listed = (load(BASE.assign(genres=o), item_cols='genres', user_cols=None) for o in (genres,arrow))
    assert list(listed.classes['genres'])==list(plain.classes['genres'])
    assert torch.equal(listed.train_ds.tables[1], plain.train_ds.tables[1])
    nested = BASE.assign(genres=[[[o]] for o in BASE.movieId], decade=[{'a':o} for o in BASE.movieId])
    odd = load(nested, user_cols=None)
    assert '[1]' in odd.classes['genres'] and "{'a': 1}" in odd.classes['decade']

@pytest.mark.parametrize('dtype', ['str',object,pd.ArrowDtype(pa.string())])
def test_changes_are_found_in_any_text(dtype):
    "A missing value is not a change from another missing value"
    col = pd.Series(['a','b',None,'a','c',None], dtype=dtype)
    first,codes = np.array([0,1,2]),np.array([0,1,2,0,1,2])
    assert _other_values(col, first, codes, bs=4).tolist()==[False]*4+[True,False]
