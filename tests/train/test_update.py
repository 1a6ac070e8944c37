"`learn.update`: the ratings of a new day, with new users and items"
import numpy as np, pandas as pd, pytest, torch
from fastai.learner import load_learner
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.losses import OrdinalLoss
from fastcollab.models.neighbors import EASE
from fastcollab.models.nn import CollabNN
from fastcollab.models.svdpp import SVDPlusPlus
from fastcollab.ranking_losses import SampledSoftmaxLoss
from fastcollab.train.growth import grown_loaders
from fastcollab.train.learner import collab_learner, is_due, retrain_seconds

FRAME = synthetic_ratings(120, 80, 4000, seed=1)
OLD,NEW = FRAME[(FRAME.userId<=110)&(FRAME.movieId<=75)],FRAME[(FRAME.userId>110)|(FRAME.movieId>75)]

def fitted(df=OLD, epochs=3, arch=None, **kwargs):
    learn = collab_learner(CollabDataLoaders.from_df(df, seed=1, **kwargs), n_factors=4, arch=arch)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=.1)
    return learn

@pytest.mark.parametrize('retrain', [True,False])
@pytest.mark.parametrize('kind', ['dot','genres','sets','clicks'])
def test_new_ids_are_known_and_old_ones_keep_their_rows(kind, retrain):
    if kind=='clicks':
        dls = CollabDataLoaders.from_interactions(OLD[['userId','movieId']], seed=1)
        learn,new = collab_learner(dls, n_factors=4),NEW[['userId','movieId']]
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
    else:
        learn = fitted(**dict(dot={}, genres=dict(genre_name='genres'), sets=dict(arch=SVDPlusPlus))[kind])
        new = NEW[['userId','movieId','rating','title','genres']]
    before,n = list(learn.dls.classes['userId']),len(learn.dls.train_ds)
    assert learn.update(new, retrain) is learn
    assert list(learn.dls.classes['userId'])[:len(before)]==before and len(learn.dls.train_ds)==n+len(new)
    user,item = NEW.userId.max(),NEW.movieId.max()
    assert len(learn.recommend(user, 3))==3 and np.isfinite(learn.predict(user, item))
    assert not set(learn.recommend(user, 10).item)&set(NEW.movieId[NEW.userId==user])

@pytest.mark.parametrize('retrain', [True,False])
def test_new_users_are_better_than_average_newcomers(retrain):
    rng = np.random.default_rng(0)
    held = rng.random(len(NEW))<.3
    learn,test = fitted(epochs=5),NEW[held&NEW.movieId.isin(OLD.movieId).to_numpy()]
    def error(): return np.mean((learn.predict(test.userId, test.movieId)-test.rating)**2)
    with pytest.warns(UserWarning): before = error()
    assert error.__call__() and learn.update(NEW[~held], retrain) and error()<.9*before

@pytest.mark.parametrize('retrain', [True,False])
def test_a_rating_replaces_an_older_one_of_the_pair(retrain):
    learn,row = fitted(),OLD.iloc[[0]]
    train = learn.dls.train_ds.items
    row = train.iloc[[0]][['userId','movieId','rating']].assign(rating=1.)
    learn.update(row, retrain)
    now = learn.dls.train_ds.items
    mine = now[(now.userId==row.userId.iloc[0])&(now.movieId==row.movieId.iloc[0])]
    assert len(now)==len(train) and mine.rating.tolist()==[1.]

def test_the_same_seed_gives_the_same_model():
    a,b = (fitted().update(NEW, retrain=False, seed=3) if torch.manual_seed(7) else None for _ in range(2))
    assert all(torch.equal(p, q) for p,q in zip(a.model.parameters(), b.model.parameters()))

@pytest.mark.filterwarnings('ignore:load_learner')
@pytest.mark.parametrize('retrain', [True,False])
def test_an_exported_learner_is_updated_too(tmp_path, retrain):
    learn = fitted()
    learn.path = tmp_path
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    n = len(learn.dls.train_ds)
    again.update(NEW, retrain)
    assert len(again.dls.train_ds)==n+len(NEW) and np.isfinite(again.predict(NEW.userId.max(), 3))

@pytest.mark.parametrize('rows', [1,4])
def test_the_ratings_of_one_user(rows):
    learn = fitted()
    n,more = len(learn.dls.train_ds),NEW[:rows].assign(userId=999, movieId=range(1, rows+1))
    learn.update(more)
    assert len(learn.dls.train_ds)==n+rows and np.isfinite(learn.predict(999, 3))

def test_what_cannot_be_updated_says_so_and_stays():
    learn = fitted()
    model,dls = learn.model,learn.dls
    for bad in (NEW.drop(columns='rating'), NEW.assign(rating=np.nan), NEW.assign(userId=NEW.userId.astype(str))):
        with pytest.raises((KeyError,ValueError,TypeError)): learn.update(bad)
        assert learn.model is model and learn.dls is dls
    for retrain in (None,True,False):
        with pytest.raises(ValueError, match='have no rows; give at least one'): learn.update(NEW[:0], retrain)
    other = collab_learner(dls, arch=model)
    with pytest.raises(TypeError, match='train this one again'): other.update(NEW)
    with pytest.raises(TypeError, match='call a fit first'): collab_learner(dls, n_factors=4).update(NEW)
    with pytest.raises(ValueError, match='retrain'): learn.update(NEW, 3)

COLS = ['userId','movieId']
CLICKS,PLAIN,RATED = COLS,[*COLS,'rating'],[*COLS,'rating','genres']
CASES = dict(
    one_cycle=(RATED, {}, lambda o: o.fit_one_cycle(3, 2e-2, wd=.1)),
    fit=(RATED, {}, lambda o: o.fit(2, lr=1e-2)),
    flat_cos=(RATED, dict(arch=SVDPlusPlus), lambda o: o.fit_flat_cos(2, 1e-2)),
    fine_tune=(RATED, dict(arch=CollabNN), lambda o: o.fine_tune(1, 1e-2, freeze_epochs=1)),
    sgdr=(RATED, {}, lambda o: o.fit_sgdr(1, 1, 1e-2)),
    gibbs=(RATED, {}, lambda o: o.fit_gibbs(12, seed=2)),
    als=(PLAIN, {}, lambda o: o.fit_als(2, seed=1)),
    auto=(RATED, dict(arch='auto', n_factors=None), lambda o: o.fit_auto(budget=0)),
    ordinal=(RATED, dict(loss_func='ordinal'), lambda o: o.fit_one_cycle(2, 2e-2)),
    clicks=(CLICKS, {}, lambda o: o.fit_one_cycle(2, 1e-2)),
    softmax=(CLICKS, dict(loss_func='softmax'), lambda o: o.fit_one_cycle(2, 1e-2)),
    click_als=(CLICKS, {}, lambda o: o.fit_als(2)),
    sgd=(CLICKS, {}, lambda o: o.fit_sgd(2)),
    closed=(CLICKS, dict(arch=EASE, n_factors=None), lambda o: o.fit(1)))

def loaders(cols):
    if cols==CLICKS: return CollabDataLoaders.from_interactions(OLD[cols], seed=1, n_neg=3)
    return CollabDataLoaders.from_df(OLD[cols], genre_name='genres' if 'genres' in cols else None, seed=1)

def made(dls, loss_func=None, **kwargs):
    "Made twice from the same arguments: a loss isn't shared"
    if loss_func=='ordinal': loss_func = OrdinalLoss(np.arange(.5, 5.5, .5))
    if loss_func=='softmax': loss_func = SampledSoftmaxLoss()
    return collab_learner(dls, **{'n_factors':4, 'loss_func':loss_func, **kwargs})

def quiet(learn, fit):
    with learn.no_bar(), learn.no_logging(): fit(learn)
    return learn

@pytest.mark.parametrize('case', CASES)
def test_to_train_again_is_what_a_new_learner_does(case):
    cols,given,fit = CASES[case]
    learn = quiet(made(loaders(cols), **given), fit)
    call = learn._call
    learn.update(NEW[cols], True, seed=3)
    torch.manual_seed(3)
    new = quiet(made(grown_loaders(loaders(cols), NEW[cols])[0], **given), fit)
    a,b = learn.model.state_dict(),new.model.state_dict()
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert type(learn.model) is type(new.model) and learn._call==call==new._call
    assert len(learn.recommend(NEW.userId.max(), 3))==3

@pytest.mark.filterwarnings('ignore:load_learner')
@pytest.mark.parametrize('case', ['gibbs','als','softmax','closed','auto'])
def test_a_loaded_learner_repeats_its_fit(case, tmp_path):
    cols,given,fit = CASES[case]
    learn = quiet(made(loaders(cols), **given), fit)
    learn.path = tmp_path
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl').update(NEW[cols])
    assert again._call==learn._call and len(again.dls.train_ds)==len(learn.dls.train_ds)+len(NEW)
    assert len(again.recommend(NEW.userId.max(), 3))==3

def test_the_last_fit_is_remembered_whole():
    learn = quiet(fitted(), lambda o: o.fit_gibbs(4))
    quiet(learn, lambda o: o.fit_gibbs(3, resume=True))
    assert learn._call.name=='fit_gibbs' and learn._call.given==dict(sweeps=4)
    learn = fitted()
    quiet(learn, lambda o: o.lr_find(show_plot=False, num_it=5))
    assert learn._call==('fit_one_cycle', dict(n_epoch=3, lr_max=2e-2, wd=.1), 3)
    quiet(learn, lambda o: o.fine_tune(2, freeze_epochs=1, cbs=[]))
    assert learn._call==('fine_tune', dict(epochs=2, freeze_epochs=1), 3)

@pytest.mark.parametrize('case', ['gibbs','als','sgd','closed','auto'])
def test_there_is_no_short_cycle_for_solvers(case):
    cols,given,fit = CASES[case]
    learn = quiet(made(loaders(cols), **given), fit)
    with pytest.raises(TypeError, match='no short cycle'): learn.update(NEW[cols], retrain=False)

def test_the_size_decides_where_there_is_no_filter(monkeypatch):
    learn,again = fitted(),[]
    monkeypatch.setattr('fastcollab.train.learner.is_online', lambda *args: False)
    n = len(learn.dls.train_ds)
    assert retrain_seconds(learn, 6)==2*retrain_seconds(learn, 3)
    assert .3<retrain_seconds(learn, 3)/(3e-6*n)<.5
    learn.fused = False
    assert retrain_seconds(learn, 1)==.003*len(learn.dls.train)
    monkeypatch.setattr('fastcollab.train.learner.train_again', lambda *args: again.append(1))
    learn.fused = 'auto'
    for most in (1e9,0.):
        monkeypatch.setattr('fastcollab.train.learner.CHEAP', most)
        before = learn.model
        learn.update(NEW)
    assert again==[1] and learn.model is not before

def test_an_interrupted_update_leaves_everything(monkeypatch):
    learn = fitted()
    before,x = (learn.model,learn.dls,learn.opt,learn.id_dropout.p),learn.predict(OLD.userId[:9], OLD.movieId[:9])
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('fastcollab.train.learner.check_weights', stop)
    with pytest.raises(KeyboardInterrupt): learn.update(NEW, True)
    assert all(a is b for a,b in zip(before, (learn.model,learn.dls,learn.opt,learn.id_dropout.p)))
    assert np.array_equal(learn.predict(OLD.userId[:9], OLD.movieId[:9]), x)

@pytest.mark.filterwarnings('ignore:load_learner')
def test_lost_times_are_named(tmp_path):
    df = OLD[[*COLS,'rating']].assign(time=10**9+np.arange(len(OLD))*3600)
    learn = quiet(made(CollabDataLoaders.from_df(df, seed=1, time_name='time')), lambda o: o.fit_one_cycle(1, 1e-2))
    learn.path = tmp_path
    learn.export('l.pkl')
    again,new = load_learner(tmp_path/'l.pkl'),NEW[[*COLS,'rating']].assign(time=11*10**8)
    with pytest.raises(ValueError, match='no times'): again.update(new, retrain=True)
    assert again.update(new) is again

# ---- The filter
@pytest.mark.filterwarnings('ignore:load_learner')
def test_an_updated_learner_does_everything(tmp_path):
    learn = fitted(genre_name='genres')
    learn.update(NEW, retrain=False)
    user,item,at = int(NEW.userId.max()),int(NEW.movieId.max()),(NEW.userId[:9],NEW.movieId[:9])
    want,learn.path = learn.predict(*at),tmp_path
    assert np.allclose(learn.recommender().predict(*at), want, atol=1e-4)
    assert len(learn.explain(user, item)) and len(learn.fold_in(NEW.assign(userId=9999).drop_duplicates('movieId'))
        .recommend(9999, 3))==3
    learn.save('model')
    learn.export('l.pkl')
    assert np.array_equal(load_learner(tmp_path/'l.pkl').predict(*at), want)
    quiet(learn, lambda o: o.fit_one_cycle(1, 1e-2))
    assert not np.array_equal(learn.predict(*at), want)
    learn.load('model')
    assert np.array_equal(learn.predict(*at), want)

def test_an_interrupted_filter_leaves_everything(monkeypatch):
    torch.manual_seed(7)
    learn = fitted()
    before,x = (learn.model,learn.dls,learn.opt),learn.predict(OLD.userId[:9], OLD.movieId[:9])
    def stop(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr('fastcollab.train.learner.filter_ratings', stop)
        with pytest.raises(KeyboardInterrupt): learn.update(NEW, retrain=False)
    assert all(a is b for a,b in zip(before, (learn.model,learn.dls,learn.opt)))
    assert np.array_equal(learn.predict(OLD.userId[:9], OLD.movieId[:9]), x)
    torch.manual_seed(7)
    again = fitted().update(NEW, retrain=False)
    learn.update(NEW, retrain=False)   # the interrupted one has written behind the rows of training
    assert np.array_equal(*(o.predict(NEW.userId, NEW.movieId) for o in (learn,again)))
    assert torch.equal(learn.dls.train_ds.store.ids(), again.dls.train_ds.store.ids())

def test_it_trains_again_when_rows_have_grown_by_half_or_it_is_quick(monkeypatch):
    learn,again = fitted(OLD[::2]),[]
    assert is_due(learn, learn.dls)   # a few thousand rows
    monkeypatch.setattr('fastcollab.train.learner.QUICK', 0.)
    monkeypatch.setattr('fastcollab.train.learner.train_again', lambda *args: again.append(1))
    n = len(learn.dls.train_ds)
    learn.update(OLD[1::2][:n//2-1])
    assert not again and learn._rows==n
    learn.update(NEW)
    assert again==[1]

def test_days_give_the_rows_of_all_of_them():
    learn,days = fitted(),[NEW[k::3] for k in range(3)]
    repeated = learn.dls.train_ds.items.iloc[[5]][['userId','movieId','rating']].assign(rating=1.)
    for o in (days[0],repeated,days[1],days[2]): learn.update(o, retrain=False)
    whole = grown_loaders(grown_loaders(fitted().dls, repeated)[0], pd.concat(days))[0]
    assert learn.dls.train_ds.items.equals(whole.train_ds.items)

def test_new_ratings_of_known_users_and_items_help():
    rng,known = np.random.default_rng(0),FRAME[(FRAME.userId<=110)&(FRAME.movieId<=75)]
    part = rng.permutation(len(known))
    first,more,test = known.iloc[part[:1500]],known.iloc[part[1500:2200]],known.iloc[part[2200:]]
    test = test[test.userId.isin(first.userId)&test.movieId.isin(first.movieId)]
    learn = fitted(first, epochs=10)
    def error(): return np.mean((learn.predict(test.userId, test.movieId)-test.rating)**2)
    before = error()
    learn.update(more, retrain=False)
    assert error()<before-.01
