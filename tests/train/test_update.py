"`learn.update`: the ratings of a new day, with new users and items"
import numpy as np, pytest, torch
from fastai.learner import load_learner
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.models.svdpp import SVDPlusPlus
from fastcollab.train.learner import collab_learner

FRAME = synthetic_ratings(120, 80, 4000, seed=1)
OLD,NEW = FRAME[(FRAME.userId<=110)&(FRAME.movieId<=75)],FRAME[(FRAME.userId>110)|(FRAME.movieId>75)]

def fitted(df=OLD, epochs=3, arch=None, **kwargs):
    learn = collab_learner(CollabDataLoaders.from_df(df, seed=1, **kwargs), n_factors=4, arch=arch)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=.1)
    return learn

@pytest.mark.parametrize('kind', ['dot','genres','sets','clicks'])
def test_new_ids_are_known_and_old_ones_keep_their_rows(kind):
    if kind=='clicks':
        dls = CollabDataLoaders.from_interactions(OLD[['userId','movieId']], seed=1)
        learn,new = collab_learner(dls, n_factors=4),NEW[['userId','movieId']]
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
    else:
        learn = fitted(**dict(dot={}, genres=dict(genre_name='genres'), sets=dict(arch=SVDPlusPlus))[kind])
        new = NEW[['userId','movieId','rating','title','genres']]
    before,n = list(learn.dls.classes['userId']),len(learn.dls.train_ds)
    assert learn.update(new) is learn
    assert list(learn.dls.classes['userId'])[:len(before)]==before and len(learn.dls.train_ds)==n+len(new)
    user,item = NEW.userId.max(),NEW.movieId.max()
    assert len(learn.recommend(user, 3))==3 and np.isfinite(learn.predict(user, item))
    assert not set(learn.recommend(user, 10).item)&set(NEW.movieId[NEW.userId==user])

def test_new_users_are_better_than_average_newcomers():
    rng = np.random.default_rng(0)
    held = rng.random(len(NEW))<.3
    learn,test = fitted(epochs=5),NEW[held&NEW.movieId.isin(OLD.movieId).to_numpy()]
    def error(): return np.mean((learn.predict(test.userId, test.movieId)-test.rating)**2)
    with pytest.warns(UserWarning): before = error()
    assert error.__call__() and learn.update(NEW[~held]) and error()<.9*before

def test_a_rating_replaces_an_older_one_of_the_pair():
    learn,row = fitted(),OLD.iloc[[0]]
    train = learn.dls.train_ds.items
    row = train.iloc[[0]][['userId','movieId','rating']].assign(rating=1.)
    learn.update(row)
    now = learn.dls.train_ds.items
    mine = now[(now.userId==row.userId.iloc[0])&(now.movieId==row.movieId.iloc[0])]
    assert len(now)==len(train) and mine.rating.tolist()==[1.]

def test_the_same_seed_gives_the_same_model():
    a,b = (fitted().update(NEW, seed=3) if torch.manual_seed(7) else None for _ in range(2))
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))

@pytest.mark.filterwarnings('ignore:load_learner')
def test_an_exported_learner_is_updated_too(tmp_path):
    learn = fitted()
    learn.path = tmp_path
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    n = len(learn.dls.train_ds)
    again.update(NEW)
    assert len(again.dls.train_ds)==n+len(NEW) and np.isfinite(again.predict(NEW.userId.max(), 3))

def test_what_cannot_be_updated_says_so_and_stays():
    learn = fitted()
    model,dls = learn.model,learn.dls
    for bad in (NEW.drop(columns='rating'), NEW.assign(rating=np.nan), NEW.assign(userId=NEW.userId.astype(str))):
        with pytest.raises((KeyError,ValueError,TypeError)): learn.update(bad)
        assert learn.model is model and learn.dls is dls
    other = collab_learner(dls, arch=model)
    with pytest.raises(TypeError, match='train this one again'): other.update(NEW)
