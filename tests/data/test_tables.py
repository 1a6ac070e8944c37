"Tables as people have them: of other libraries, with an index in front, with numbers as names, without titles"
import sys, warnings
from types import SimpleNamespace

import numpy as np, pandas as pd, pyarrow as pa, pytest
from fastcollab.all import (CollabDataLoaders, CollabInterpretation, ColdItemSplitter, ColdUserSplitter, FoldSplitter,
    HybridMF, LeaveLastSplitter, MetadataEmbedding, OrdinalLoss, PopularityBias, RandomSplitter, Recommender,
    StratifiedSplitter, TemporalSplitter, UserStratifiedSplitter, collab_learner, describe_ratings, load_learner,
    plot_ratings)
from fastcollab.checks import as_frame
from small import SMALL, load, quiet

PLAIN = SMALL.astype(dict(title=str, genres=str)).assign(fold=np.arange(300)%4)
class ByMethod(SimpleNamespace):
    "A table like those of polars, Modin or cuDF"
    def __init__(self, df): super().__init__(to_pandas=lambda: df)
class ByCapsule(SimpleNamespace):
    "A table like those of DuckDB or Ibis"
    def __init__(self, df): super().__init__(__arrow_c_stream__=pa.Table.from_pandas(df).__arrow_c_stream__)
class ByInterchange(SimpleNamespace):
    "A table like those of Vaex"
    def __init__(self, df): super().__init__(__dataframe__=pa.Table.from_pandas(df).__dataframe__)
def polars(df): return pytest.importorskip('polars').from_pandas(df)
FOREIGN = dict(method=ByMethod, capsule=ByCapsule, interchange=ByInterchange, pyarrow=pa.Table.from_pandas,
    polars=polars)

SPLITTERS = [RandomSplitter(.3, 1), UserStratifiedSplitter(.3, seed=1), LeaveLastSplitter(2), TemporalSplitter(.3),
    StratifiedSplitter(.3, seed=1), ColdUserSplitter(.3, seed=1), ColdItemSplitter(.3, seed=1), FoldSplitter(1)]
def same_splits(a, b):
    for f in SPLITTERS: assert [list(o) for o in f(a)]==[list(o) for o in f(b)]

@pytest.fixture(scope='module')
def learn(): return quiet(collab_learner(load(PLAIN, genre_name='genres'), n_factors=4, y_range=(0,5.5)), 1)

@pytest.mark.filterwarnings('error::UserWarning')
@pytest.mark.parametrize('kind', FOREIGN)
def test_tables_of_other_libraries(learn, kind):
    "Wherever a table goes, one of another library gives what one of pandas gives"
    make = FOREIGN[kind]
    foreign,dls = make(PLAIN),load(make(PLAIN), genre_name='genres')
    assert dls.train_ds.items.equals(learn.dls.train_ds.items)
    same_splits(foreign, PLAIN)
    assert describe_ratings(foreign).equals(describe_ratings(PLAIN)) and len(plot_ratings(foreign))==3
    rec,pairs = learn.recommender(),PLAIN[['userId','movieId']]
    for o in (learn,rec): assert np.array_equal(o.predict(make(pairs)), o.predict(pairs))
    assert len(learn.get_preds(dl=learn.dls.test_dl(foreign))[0])==300
    new = PLAIN[['userId','movieId','rating']].drop_duplicates('movieId').assign(userId=99)
    assert rec.fold_in(make(new)).recommend(99).equals(rec.fold_in(new).recommend(99))
    items = PLAIN[['movieId','title','genres']].drop_duplicates('movieId', ignore_index=True)
    pd.testing.assert_frame_equal(learn.recommender(make(items)).items, learn.recommender(items).items)
    meta = pd.DataFrame(dict(userId=rec.ids[0], age=np.arange(len(rec.ids[0]))))
    for o in (meta, make(meta)): assert MetadataEmbedding(learn, o, seed=1).factors(o).vec.shape[1]==4

@pytest.mark.parametrize('kind', ['pyarrow','polars'])
def test_answers_in_kind(learn, kind):
    "Tables come in the library of the question, or in the one that `as_` names, with the same values"
    make = FOREIGN[kind]
    users,rec = make(PLAIN)['userId'][:5],learn.recommender()
    want,type_ = rec.recommend(list(PLAIN.userId[:5]), 3),type(make(PLAIN))
    for o in (learn, rec):
        for res in (o.recommend(users, 3), o.recommend(list(PLAIN.userId[:5]), 3, as_=kind)):
            assert type(res) is type_ and as_frame(res).equals(want)
        assert o.recommend(users, 3, as_='pandas').equals(want)
        assert type(o.similar_items(2, 3, as_=kind)) is type_ and isinstance(o.similar_items(2, 3), pd.DataFrame)
    assert type(rec.similar_users(2, 3, as_=kind)) is type_
    assert [type(o) for o in rec.batches(users, 3, mb=1e-3)]==[type_]*5
    with pytest.raises(ValueError, match="as_ is 'arrow'; choose None, 'pandas', 'polars' or 'pyarrow'"):
        rec.recommend(1, as_='arrow')

@pytest.mark.parametrize('kind', ['pyarrow','polars'])
def test_probabilities_in_kind(kind):
    learn = collab_learner(load(PLAIN), n_factors=4, loss_func=OrdinalLoss.from_dls(load(PLAIN)))
    res = learn.predict_dist(FOREIGN[kind](PLAIN[:3]))
    assert type(res) is type(FOREIGN[kind](PLAIN)) and np.allclose(as_frame(res), learn.predict_dist(PLAIN[:3]))

@pytest.mark.parametrize('kind', ['pyarrow','polars'])
def test_numbers_are_not_copied(kind):
    "Columns of numbers without gaps are the memory of the other table"
    df = PLAIN[['userId','movieId','rating']]
    table = FOREIGN[kind](df)
    for k in df:
        theirs = table[k].chunk(0) if kind=='pyarrow' else table[k]
        assert np.shares_memory(as_frame(table)[k].to_numpy(), theirs.to_numpy())

def test_without_polars(learn, monkeypatch):
    "The error says what to install"
    monkeypatch.setitem(sys.modules, 'polars', None)
    with pytest.raises(ImportError, match=r"needs polars: pip install 'fastcollab\[polars\]'"):
        learn.recommend(1, 3, as_='polars')

def test_what_is_no_table():
    "The error names the type with the module that it comes from"
    lazy = type('LazyFrame', (), dict(__module__='polars.lazyframe.frame'))()
    for o,name in ((lazy,'polars.lazyframe.frame.LazyFrame'), (np.zeros((3,3)),'numpy.ndarray'), ([1],'a list')):
        for f in (load, describe_ratings, TemporalSplitter(), UserStratifiedSplitter()):
            with pytest.raises(TypeError) as e: f(o)
            assert name in str(e.value) and 'give a DataFrame' in str(e.value)

# The index in front

def with_index(df, name='Unnamed: 0'): return df.reset_index(names=name)
INDEXED = dict(read_csv=with_index(PLAIN), polars=with_index(PLAIN, ''), reset_index=PLAIN.reset_index(),
    parquet=with_index(PLAIN, '__index_level_0__'), filtered=with_index(PLAIN[1::2]),
    shuffled=with_index(PLAIN.sample(frac=1., random_state=1)),
    joined=with_index(pd.concat([PLAIN[:150], PLAIN[:150]])))
@pytest.mark.parametrize('kind', INDEXED)
def test_index_is_skipped(kind):
    "A first column that only counts the rows holds no users: one warning, and everything else as without it"
    df = INDEXED[kind]
    rest = df.iloc[:,1:]
    for f in (load, describe_ratings, plot_ratings, UserStratifiedSplitter(.3, seed=1)):
        with pytest.warns(UserWarning, match='only counts the rows'): f(df)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert load(df).train_ds.items.equals(load(rest).train_ds.items)
        assert describe_ratings(df).equals(describe_ratings(rest))
        same_splits(df, rest)

@pytest.mark.filterwarnings('error')
def test_users_in_front_are_kept():
    "Users without a name for their column, one rating each, or names that say who they are"
    nameless = PLAIN.rename(columns=dict(userId='Unnamed: 0'))
    for df in (nameless, PLAIN.sort_values('userId').rename(columns=dict(userId=''))):
        assert load(df).train_ds.enc.n_users==load(PLAIN).train_ds.enc.n_users
    one_each = PLAIN.assign(userId=np.arange(300))
    assert load(one_each).train_ds.enc.user_name=='userId'
    assert load(with_index(PLAIN), user_name='userId', item_name='movieId', rating_name='rating')
    load(with_index(one_each), user_name='Unnamed: 0', item_name='movieId', rating_name='rating')

def test_from_csv_with_its_index(tmp_path):
    PLAIN.to_csv(tmp_path/'r.csv')
    with pytest.warns(UserWarning, match="'Unnamed: 0', only counts the rows: it is skipped"):
        dls = CollabDataLoaders.from_csv(tmp_path/'r.csv', seed=1)
    assert dls.train_ds.items.equals(load(PLAIN).train_ds.items)
    with pytest.raises(KeyError, match="'Unnamed: 0', 'userId', 'movieId'"), pytest.warns(UserWarning):
        load(with_index(PLAIN)[['Unnamed: 0','userId','movieId']])

# Numbers as names

def test_numbers_as_names(tmp_path):
    "What read_csv(header=None) gives: from the table to lists of a saved recommender"
    names = dict(zip(PLAIN, range(PLAIN.shape[1])))
    df = PLAIN.rename(columns=names)
    kwargs = dict(item_cols=[names['genres']], title_name=names['title'], time_name=names['timestamp'])
    learn = quiet(collab_learner(load(df, **kwargs), n_factors=4, y_range=(0,5.5)), 1)
    named = dict(item_cols=['genres'], title_name='title', time_name='timestamp')
    want = quiet(collab_learner(load(PLAIN, **named), n_factors=4, y_range=(0,5.5)), 1)
    assert [list(o) for o in describe_ratings(df).items()]==[list(o) for o in describe_ratings(PLAIN).items()]
    plot_ratings(df)
    by = dict(user_name=0, time_name=names['timestamp'])
    assert list(LeaveLastSplitter(**by)(df)[1])==list(LeaveLastSplitter()(PLAIN)[1])
    assert list(FoldSplitter(1, names['fold'])(df)[1])==list(FoldSplitter(1)(PLAIN)[1])
    assert np.isfinite(learn.predict(df)).all() and learn.dls.train_ds.items.shape==want.dls.train_ds.items.shape
    rec = learn.recommender()
    assert list(rec.items['title'])==list(want.recommender().items['title'])
    new = df[[0,1,2]].drop_duplicates(1)
    new[0] = 99
    rec = rec.fold_in(new)
    assert len(rec.recommend(1, 3))==3 and list(rec.names)==[0,1,2]
    rec.save(tmp_path/'rec')
    again = Recommender.load(tmp_path/'rec')
    assert again.recommend(k=3).equals(rec.recommend(k=3)) and list(again.names)==[0,1,2]
    assert np.array_equal(again.predict(df[[0,1]]), rec.predict(df[[0,1]]))

def test_numbers_as_names_of_features(tmp_path):
    "Interpretation finds features whose columns are numbers, by number or by text"
    df = PLAIN.assign(age=PLAIN.userId%7).set_axis(range(8), axis=1)
    dls = load(df, item_cols=[5], user_cols=[7], title_name=4)
    learn = quiet(collab_learner(dls, arch=HybridMF, n_factors=4, y_range=(0,5.5), cbs=PopularityBias(by=5)), 1)
    for data in (CollabInterpretation(learn), CollabInterpretation.from_recommender(learn.recommender(), df)):
        assert data.bias(5).equals(data.bias('5')) and len(data.bias(7))==5
        data.plot_genres(5), data.plot_factors(by=5), data.plot_similarity(7), data.plot_factors(by=5, interactive=True)
    data.report(tmp_path/'r.html')
    learn.export(tmp_path/'l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert np.array_equal(load_learner(tmp_path/'l.pkl').predict(df), learn.predict(df))

@pytest.mark.parametrize('label', ['userId','movieId','rating','title','genres','timestamp'])
def test_the_label_zero_is_a_name(label):
    "Any of the columns may be called 0, also those of titles, times and features"
    kwargs = dict(genre_name='genres', title_name='title', time_name='timestamp')
    a = load(PLAIN.rename(columns={label:0}), **{k:0 if v==label else v for k,v in kwargs.items()})
    b = load(PLAIN, **kwargs)
    x,y = (o.train.one_batch()[0] for o in (a,b))
    assert x.equal(y) and list(a.train_ds.enc.titles)==list(b.train_ds.enc.titles)

# Titles

def test_titles_are_text(tmp_path):
    "Without titles, those of lists are the ids as text, also of new items and after loading; 1984 is a book"
    df = PLAIN.drop(columns='title')
    learn = quiet(collab_learner(load(df), n_factors=4, y_range=(0,5.5)), 1)
    rec = learn.recommender()
    rec.save(tmp_path/'rec')
    new = pd.DataFrame(dict(userId=[1,2,3], movieId=99, rating=[4.,5.,3.]))
    for o in (rec, Recommender.load(tmp_path/'rec'), rec.fold_in_items(new)):
        assert list(o.items['title'])==[str(i) for i in o.ids[1]]
        top = o.recommend(1, 5)
        assert top.title.str.isdigit().all() and list(top.title)==[str(i) for i in top['item']]
    years = pd.DataFrame(dict(movieId=rec.ids[1], title=np.arange(1984, 1984+len(rec.ids[1])).astype(float)))
    years.loc[3,'title'] = np.nan
    titles = list(learn.recommender(years).items['title'])
    assert titles[:3]==['1984','1985','1986'] and titles[3]==str(rec.ids[1][3])

def test_titles_are_text_where_ids_are_called_title():
    "Ids stay what they are, and the titles of every table are text"
    learn = collab_learner(load(PLAIN.drop(columns='title').rename(columns=dict(movieId='title'))), n_factors=4)
    rec = learn.recommender()
    for table in (rec.recommend(1, 5), rec.similar_items(rec.ids[1][0], 5), rec.recommend(1, 5)[:0]):
        assert pd.api.types.is_string_dtype(table.title) and list(table.title)==[str(o) for o in table['item']]
    assert rec.recommend(1, 1)['item'].dtype==rec.items.title.dtype==np.int64
    told = rec.explain(1, rec.ids[1][3], 2).title.dropna()
    assert len(told) and all(type(o) is str for o in told)
