"A learner that was exported and loaded answers as the one that was exported, with the ratings of training or without"
import warnings

import numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from fastai.tabular.all import set_seed
from fastcollab.all import CollabNN, DotProductBias, HybridMF, HybridNN, OrdinalLoss, Recommender, SVDPlusPlus
from fastcollab.all import collab_learner
from tests.small import SMALL, load, quiet

NEW = pd.DataFrame(dict(userId=[901,901], movieId=[1,2], rating=[5.,1.]))
MORE = pd.DataFrame(dict(userId=[3,3,3], movieId=[1,2,3], rating=[5.,1.,1.]))

def fitted(path, arch=HybridMF, **kwargs):
    set_seed(0)
    kwargs = dict(y_range=(0,5.5)) | kwargs
    learn = collab_learner(load(genre_name='genres', path=path), n_factors=4, arch=arch, **kwargs)
    return quiet(learn, 2, 2e-2)
def exported(learn, **kwargs):
    learn.export('e.pkl', **kwargs)
    return load_learner(learn.path/'e.pkl')
def said(f, *args, **kwargs):
    "What a call returns, and its warnings"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        res = f(*args, **kwargs)
    return res,[str(o.message) for o in w if o.category is UserWarning]
def same(a, b): pd.testing.assert_frame_equal(a, b, check_exact=False, rtol=1e-5)

@pytest.mark.parametrize('arch', [DotProductBias, HybridMF, SVDPlusPlus, HybridNN, CollabNN])
def test_answers_are_the_same(arch, tmp_path):
    "Lists without what was rated, neighbors, explanations, fold-in, and once more after another export"
    learn = fitted(tmp_path, arch)
    can_fold = arch not in (HybridNN,CollabNN)
    for loaded in (exported(learn), exported(exported(learn))):
        assert len(loaded.dls.train_ds)==0
        same(loaded.recommend([1,2], 5), learn.recommend([1,2], 5))
        same(loaded.recommend(1, 5, exclude_seen=False), learn.recommend(1, 5, exclude_seen=False))
        same(loaded.similar_items(1, 5), learn.similar_items(1, 5))
        if not can_fold: continue
        same(loaded.explain(1, 2), learn.explain(1, 2))
        same(loaded.fold_in(NEW).recommend(901, 5), learn.fold_in(NEW).recommend(901, 5))
        same(loaded.fold_in(MORE).recommend(3, 5), learn.fold_in(MORE).recommend(3, 5))
    rec = loaded.recommender()
    rec.save(tmp_path/'rec')
    if can_fold: same(Recommender.load(tmp_path/'rec').recommend(1, 5), learn.recommend(1, 5))

@pytest.mark.parametrize('arch', [HybridMF, SVDPlusPlus, HybridNN])
def test_answers_without_ratings(arch, tmp_path):
    "One warning says what is missing; lists may hold what was rated, and everything else works"
    learn = fitted(tmp_path, arch)
    loaded = exported(learn, history=False)
    res,texts = said(loaded.recommend, 1, 5)
    assert len(texts)==1 and 'no ratings' in texts[0] and 'history=True' in texts[0]
    same(res, learn.recommend(1, 5, exclude_seen=False))
    same(said(loaded.recommend, 1, 5)[0], res)
    assert said(loaded.recommend, 1, 5)[1]==[]                                   # the recommender is kept
    same(loaded.similar_items(1, 5), learn.similar_items(1, 5))
    assert loaded.predict(1, 2)==learn.predict(1, 2)
    if arch is HybridNN: return
    assert np.isclose(loaded.explain(1, 2).stars.sum(), learn.predict(1, 2), atol=1e-4)
    new = loaded.fold_in(NEW)
    assert np.isfinite(new.recommend(901, 5).prediction).all() and not set(new.recommend(901, 5)['item'])&{1,2}
    assert loaded.recommender().rated==learn.recommender().rated
    with pytest.raises(ValueError, match='outside'): loaded.fold_in(NEW.assign(rating=99.))

def test_known_users_need_their_ratings(tmp_path):
    "Without them, more ratings of a known user would replace all that the model has learned of him"
    loaded = exported(fitted(tmp_path), history=False)
    for kwargs in (dict(ratings=MORE), dict(users=MORE[:1])):
        with pytest.raises(ValueError, match='1 of 1 users are known, but not what they have rated, e.g. 3'):
            loaded.fold_in(**kwargs)

def test_losses_go_along(tmp_path):
    learn = fitted(tmp_path, loss_func=OrdinalLoss.from_dls(load()), y_range=None)
    same(exported(learn).recommend(1, 5), learn.recommend(1, 5))

def test_exporting_does_not_change_the_learner(tmp_path):
    learn = fitted(tmp_path)
    before = learn.recommend(1, 5)
    for history in (True,False):
        exported(learn, history=history)
        same(learn.recommend(1, 5), before)
        assert len(learn.dls.train_ds)==240

def test_a_loaded_learner_learns_from_new_loaders(tmp_path):
    "The ratings of its loaders count again, not those of the export"
    loaded = exported(fitted(tmp_path))
    loaded.dls = load(genre_name='genres', splits=(range(100), range(100, 300)))
    assert len(loaded.recommender().history.items)==100
    assert len(quiet(loaded, 1).recommender().history.items)==100

def test_empty_loaders_say_so(tmp_path):
    "Errors in words where ratings are needed; the answers of the model where they aren't"
    learn = fitted(tmp_path)
    learn.dls = learn.dls.new_empty()
    res,texts = said(learn.recommend, 1, 5)
    assert len(res)==5 and 'no ratings' in texts[0]
    assert len(learn.similar_items(1, 5))==5 and np.isfinite(learn.predict(1, 2))
    assert np.isfinite(learn.fold_in(NEW).predict(901, 3))
    for how in ('fit','fit_one_cycle'):
        with pytest.raises(ValueError, match='no ratings to train on'): getattr(learn, how)(1)
    with pytest.raises(ValueError, match='no ratings to train on'): learn.lr_find()

def test_batches_that_are_never_full_say_so(tmp_path):
    learn = fitted(tmp_path)
    learn.dls = type(learn.dls)(learn.dls.train.new(bs=500, drop_last=True), learn.dls.valid)
    with pytest.raises(ValueError, match='240 ratings fill no batch of 500; lower bs'): learn.fit(1)

def test_an_item_without_a_title_shows_its_id():
    "A recommender has a title for each item"
    df = SMALL.assign(title=SMALL.title.where(SMALL.movieId!=3))
    items = collab_learner(load(df), n_factors=2).recommender().items
    assert items.title[items.movieId==3].tolist()==['3'] and items.title.notna().all()
