"Tables of errors and of lists against pandas and the learner's own numbers, from a learner and from a recommender"
import warnings

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Learner, set_seed
from fastcollab.all import (CollabDataLoaders, CollabInterpretation, DotProduct, HybridNN, OrdinalLoss, Recommender,
    PopularityBias, collab_learner, synthetic_ratings)
from fastcollab.interpret import tables
from fastcollab.interpret.popularity_bias import list_counts

@pytest.fixture(scope='module')
def frame():
    "80 users and 60 items; titles 7 and 9 are the same"
    df = synthetic_ratings(80, 60, 2500)
    df['title'] = df.title.astype(str).where(df.movieId!=7, df.title[df.movieId==9].iloc[0])
    return df.assign(decade=1950+10*(df.movieId%3))

@pytest.fixture(scope='module')
def held(frame):
    "Row numbers: all of user 5 and of item 11, and a fifth of the others"
    return np.flatnonzero(((frame.userId==5)|(frame.movieId==11)).to_numpy()
        | (np.random.default_rng(0).random(len(frame))<.2))

def make(frame, held, epochs=2, cols=dict(item_cols=['genres','decade']), loss=None, **kwargs):
    set_seed(1)
    dls = CollabDataLoaders.from_df(frame, splits=(np.setdiff1d(np.arange(len(frame)), held),held), seed=1, bs=256,
        **cols)
    learn = collab_learner(dls, n_factors=4, loss_func=loss and loss.from_dls(dls), y_range=None if loss else (0,5.5),
        **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=.1)
    return learn

@pytest.fixture(scope='module')
def learn(frame, held): return make(frame, held)

@pytest.fixture(scope='module')
def interp(learn): return CollabInterpretation.from_learner(learn)

@pytest.fixture(scope='module')
def alone(learn, frame, held): return quiet(learn.recommender(), frame.iloc[held])

def quiet(rec, test):
    "From a recommender, with its rows, and without the warning about unknown ids"
    res = CollabInterpretation.from_recommender(rec, test)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return res.rows is not None and res

# Rows

def test_rows_of_a_learner(learn, interp, frame, held):
    "Ratings, predictions and counts are those of the loaders, the learner and the training part, in order"
    rows,df = interp.rows,frame.iloc[held].reset_index(drop=True)
    assert list(rows.columns)==['user','item','title','rating','prediction','error','user_ratings',
        'item_ratings'] and len(rows)==len(df)
    assert np.array_equal(rows.rating, df.rating) and np.allclose(rows.prediction, learn.get_preds()[0].reshape(-1),
        atol=1e-5)
    assert np.allclose(rows.error, rows.prediction-rows.rating)
    train = frame.drop(index=frame.index[held])
    for col,name in (('user','userId'),('item','movieId')):
        assert np.array_equal(rows[f'{col}_ratings'], df[name].map(train[name].value_counts()).fillna(0))
        cold = rows[f'{col}_ratings']==0
        assert cold.any() and set(rows[col][cold])=={'#na#'} and list(rows[col][~cold])==list(df[name][~cold])
    warm = rows.item_ratings>0
    assert list(rows.title[warm])==list(df.title[warm]) and set(rows.title[~warm])=={'#na#'}

def test_rows_of_a_recommender(interp, alone, frame, held):
    "The same, but that unknown ids keep their names"
    a,b,df = interp.rows,alone.rows,frame.iloc[held]
    assert list(b.user)==list(df.userId) and list(b.item)==list(df.movieId) and (b.title==b.item)[
        b.item_ratings==0].all()
    for col in ('rating','user_ratings','item_ratings'): assert np.array_equal(a[col], b[col])
    warm = a.item_ratings>0       # the learner knows the genres of cold items too, a recommender does not
    assert np.allclose(a.prediction[warm], b.prediction[warm], atol=1e-4)

def test_training_rows(learn):
    rows = CollabInterpretation.from_learner(learn, ds_idx=0).rows
    assert np.array_equal(rows.rating,
        learn.dls.train_ds.store.ratings()[:,0]) and (rows[['user_ratings','item_ratings']]>0).all(axis=None)

@pytest.mark.parametrize('kwargs', [dict(arch=DotProduct), dict(arch=HybridNN),
    dict(arch='auto', cols=dict(genre_name='genres')),
    dict(loss=OrdinalLoss), dict(center=True)], ids=str)
def test_rows_of_other_models(frame, held, kwargs):
    "Stars, also where the model gives scores of another kind; a recommender gives the same for warm ids"
    learn = make(frame, held, 1, **kwargs)
    rows = CollabInterpretation(learn).rows
    assert np.allclose(rows.prediction, learn.get_preds()[0].reshape(-1), atol=1e-4) and rows.prediction.between(.5,
        5.5).all()
    warm = (rows.user_ratings>0) & (rows.item_ratings>0)
    assert np.allclose(quiet(learn.recommender(), frame.iloc[held]).rows.prediction[warm], rows.prediction[warm],
        atol=1e-4)

# Tables of errors

@pytest.mark.parametrize('source', ['interp','alone'])
def test_worst(source, request):
    "Means over the rows of each warm user or item, the largest error first"
    it = request.getfixturevalue(source)
    for by,call in (('user',it.worst_users),('item',it.worst_items)):
        rows = it.rows[it.rows[f'{by}_ratings']>0]
        g = rows.groupby(by)
        want = pd.DataFrame(dict(rows=g.size(), rmse=g.error.apply(lambda e: (e**2).mean()**.5),
            mean_error=g.error.mean(), ratings=g[f'{by}_ratings'].first()))
        want = want[want.rows>=8].sort_values('rmse', ascending=False)
        got = call(None, min_rows=8)
        assert 0<len(got)<g.ngroups and list(got[by])==list(want.index)
        assert list(got.columns)==[by,*(['title'] if by=='item' else []),'rows','rmse','mean_error','ratings']
        for col in want: assert np.allclose(got[col], want[col])
        pd.testing.assert_frame_equal(call(3, min_rows=8), got[:3])
        assert len(call(10**6))<=g.ngroups and not len(call(min_rows=10**6)) and list(call())[0]==by

def test_top_losses(interp):
    got = interp.top_losses(7)
    assert list(got.columns)==list(interp.rows.columns) and np.allclose(got.error.abs(),
        interp.rows.error.abs().nlargest(7))
    assert len(interp.top_losses(10**6))==len(interp.rows)

@pytest.mark.parametrize('source', ['interp','alone'])
def test_cold_report(source, request, frame, held):
    "Four kinds of rows, and all of them"
    it,df,train = request.getfixturevalue(source),frame.iloc[held],frame.drop(index=frame.index[held])
    report,cold = it.cold_report(),[~df[o].isin(train[o]) for o in ('userId','movieId')]
    assert list(report.index)==[('warm','warm'),('warm','cold'),('cold','warm'),('cold','cold'),('all','all')]
    for (u,i),r in report[:4].iterrows():
        at = ((cold[0]==(u=='cold')) & (cold[1]==(i=='cold'))).to_numpy()
        error = it.rows.error[at]
        assert r.rows==at.sum() and r.share==pytest.approx(at.mean())
        assert [r.rmse,r.mean_error]==pytest.approx([(error**2).mean()**.5,error.mean()], nan_ok=True)
    assert report.rows.iloc[4]==len(df) and report.share.iloc[4]==1 and report.rows.iloc[1]>0 and report.rows.iloc[2]>0

# Lists

def test_representation(interp, alone, learn, frame):
    "Shares are those of the callback and of pandas; a recommender gives the same"
    got = interp.representation(k=5)
    assert list(got.index.names)==['part','group'] and list(got.columns)==['rated','recommended','ratio']
    assert list(dict.fromkeys(got.index.get_level_values(0)))==['popularity','genres','decade']
    pd.testing.assert_frame_equal(alone.representation(k=5), got)
    listed = list_counts(learn.recommender(), torch.arange(1, learn.dls.n_users), 5)
    cb = PopularityBias(k=5)
    cb.learn = learn
    for by in ('genres','decade'):
        cb.by = by
        want = cb._shares(listed)
        pd.testing.assert_frame_equal(got.loc[by], want, check_names=False)
    n = learn.dls.train_ds.items.movieId.value_counts().reindex(list(learn.dls.classes['movieId'])[1:]).to_numpy()
    order,m,ends = np.argsort(-n, kind='stable'),len(n),[0]
    for p in (.01,.1,.5,1): ends.append(int(np.ceil(p*m)))
    parts = [order[a:b] for a,b in zip(ends, ends[1:])]
    for col,c in (('rated',n),('recommended',listed.numpy())):
        assert np.allclose(got.loc['popularity'][col], [c[o].sum()/c.sum() for o in parts])
    assert not interp.representation(k=5, n_users=20).equals(got)
    assert interp.representation(k=5, n_users=20).equals(interp.representation(k=5, n_users=20))

# Names

def test_titles_and_ids(interp, frame):
    "Items are asked for by id or by title, are shown with both, and a title that two have is asked for by id"
    title = frame.title[frame.movieId==3].iloc[0]
    assert interp.similar(title).equals(interp.similar(3)) and list(interp.similar(3).columns)==['items','title',
        'cosine','ratings']
    both = interp.bias('items', None)
    assert list(both.columns)==['items','title','bias',
        'ratings'] and list(both.title)==list(both['items'].map(frame.drop_duplicates('movieId').set_index(
            'movieId').title))
    twin = frame.title[frame.movieId==9].iloc[0]
    with pytest.raises(KeyError, match=r'2 items have the title .*; name one by its id: \[7, 9\]'): interp.similar(twin)
    assert interp.similar(f'{twin} [7]').equals(interp.similar(7))
    with pytest.raises(KeyError, match='1 of 1 items not seen in training, e.g. .11.'): interp.similar(11)

def test_genre_is_the_feature_with_several(interp, frame, held):
    "'genre' and 'genres' mean the one such feature, whatever its name; a column of that name comes first"
    learn = make(frame.rename(columns=dict(genres='kinds')), held, 1, cols=dict(item_cols=['decade','kinds']))
    other = CollabInterpretation(learn)
    for o in ('genre','genres'):
        assert other.bias(o, None).equals(other.bias('kinds', None)) and list(other.bias(o).columns)==['kinds','bias',
            'ratings']
    assert interp.bias('genre').equals(interp.bias('genres')) and other.genre_similarity().equals(other.similarity(
        what='kinds'))
    two = CollabInterpretation(make(frame.assign(tags=frame.genres), held, 1, cols=dict(item_cols=['genres','tags'])))
    assert list(two.bias('genres').columns)[0]=='genres'
    with pytest.raises(KeyError,
        match="'genre' is not the name of users, items or a feature; choose from .'users', 'items', 'genres', "
        "'tags'."): two.bias('genre')
    none = CollabInterpretation(make(frame.drop(columns='genres'), held, 1, cols={}))
    with pytest.raises(KeyError, match="choose from .'users', 'items'.. Name features in from_df"):
        none.genre_similarity()
    with pytest.raises(ValueError, match="'items' is not a feature; similarity takes"): interp.genre_similarity('items')

def test_genres_without_vectors(frame, held):
    "Where the model has none, the mean of the items less the mean of all"
    learn = make(frame, held, 1, arch=DotProduct)
    v,sets = learn.model.vectors(1)[1:].numpy(),learn.dls.train_ds.items.drop_duplicates('movieId').set_index(
        'movieId').genres.str.split('|')
    names = list(learn.dls.classes['genres'])[1:]
    has = np.array([[g in sets[o] for o in list(learn.dls.classes['movieId'])[1:]] for g in names], float)
    want = has@(v-v.mean(0))
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    for it in (CollabInterpretation(learn), CollabInterpretation.from_recommender(learn.recommender(), frame)):
        got = it.genre_similarity()
        assert list(got.index)==list(got.columns)==names and np.allclose(got, want@want.T, atol=1e-5)

def test_tables_of_a_recommender(interp, alone):
    "What a recommender keeps is what the learner says"
    for what in ('items','users','genres','decade'):
        pd.testing.assert_frame_equal(alone.bias(what, None), interp.bias(what, None), atol=1e-6)
        if what!='users':
            pd.testing.assert_frame_equal(alone.similarity(what=what), interp.similarity(what=what), atol=1e-6)
    pd.testing.assert_frame_equal(alone.similar(3), interp.similar(3), atol=1e-6)

def test_saved_and_folded_in(learn, alone, frame, held, tmp_path):
    "A recommender from a folder, and one that has taken in a new user"
    learn.recommender().save(tmp_path/'rec')
    again = quiet(Recommender.load(tmp_path/'rec'), frame.iloc[held])
    pd.testing.assert_frame_equal(again.rows, alone.rows)
    more = learn.recommender().fold_in(frame[frame.userId==5][['userId','movieId','rating']].query('movieId!=11'))
    rows = quiet(more, frame.iloc[held]).rows
    assert (rows.user_ratings[rows.user==5]>0).all() and 5 in set(quiet(more, frame).bias('users', None).users)

# What cannot be

def test_what_a_recommender_does_not_keep(frame, held):
    rec = make(frame, held, 1, arch=HybridNN).recommender()
    it = CollabInterpretation.from_recommender(rec, frame)
    for call in (it.bias, lambda: it.bias('users')):
        with pytest.raises(TypeError, match='this recommender has no biases of (items|users); train a model'): call()
    with pytest.raises(TypeError, match='this recommender has no vectors of genres'): it.similarity(what='genres')
    assert len(it.similar(3))==5 and len(it.genre_similarity())>5

def test_other_sources(learn, frame):
    rec = learn.recommender()
    with pytest.raises(TypeError, match='learn is a Recommender; give a CollabLearner'):
        CollabInterpretation.from_learner(rec)
    with pytest.raises(TypeError, match='learn is a Learner; give a CollabLearner'):
        CollabInterpretation(Learner(learn.dls, learn.model))
    with pytest.raises(TypeError, match='rec is a CollabLearner; give a Recommender'):
        CollabInterpretation.from_recommender(learn, frame)
    with pytest.raises(TypeError, match='test is a list; give a DataFrame with the columns'):
        CollabInterpretation.from_recommender(rec, [1])
    def rows(df): return CollabInterpretation.from_recommender(rec, df).rows
    with pytest.raises(KeyError, match="no rating column 'rating' in the test ratings"):
        rows(frame.drop(columns='rating'))
    with pytest.raises(KeyError, match='movieId'): rows(frame.drop(columns='movieId'))
    with pytest.warns(UserWarning, match='100.0% of the rows have a user not seen .*check the columns'):
        rows(frame.assign(userId=-1, movieId=-1))
    with pytest.raises(TypeError, match='text here'): rows(frame.assign(userId=frame.userId.astype(str)))
    with pytest.raises(ValueError, match='not a finite number'): rows(frame.assign(rating=np.nan))
    with pytest.raises(ValueError, match='there are no ratings to examine'): rows(frame[:0])
    with pytest.warns(UserWarning, match='have a user not seen in training, e.g. 5'): rows(frame)
    assert len(rows(frame[frame.userId!=5][:1]))==1

def test_too_many_pairs(interp, monkeypatch):
    monkeypatch.setattr(tables, '_MAX_PAIRED', 50)
    with pytest.raises(ValueError, match=r'5\d items have 3,\d+ pairs; name at most 50 of them'): interp.similarity()
    assert interp.similarity([1,3]).shape==(2,2)

def test_counts(interp):
    for call in (interp.worst_users, interp.worst_items, interp.top_losses):
        with pytest.raises(ValueError, match=' is -1; give a whole number of at least 1'): call(-1)
    assert len(interp.worst_items(None, 1))==interp.rows.item[interp.rows.item_ratings>0].nunique()
