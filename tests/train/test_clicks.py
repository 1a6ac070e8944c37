"Learners of clicks: every loss with every way of training, what they say, and what they refuse"
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.core import Callback

from fastcollab.all import (AdaptiveHingeLoss, BCELoss, BPRLoss, CollabDataLoaders, DotProduct, DotProductBias, EASE,
    HybridMF, ItemKNN, LightGCN, Link, Popular, RatingMSE, Recommender, SampledSoftmaxLoss, SLIM, SVDPlusPlus, WARPLoss,
    collab_learner, load_learner, synthetic_ratings, to_implicit)

@pytest.fixture(scope='module')
def clicks(): return to_implicit(synthetic_ratings(120, 60, 3000), threshold=4)
def loaders(df, **kwargs): return CollabDataLoaders.from_interactions(df, **{'seed':1, 'bs':64, **kwargs})
def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): f()
    return learn

LOSSES = BPRLoss,WARPLoss,AdaptiveHingeLoss,SampledSoftmaxLoss,BCELoss

class Looks(Callback):
    "Needs single batches, so that fastai's own loop runs"
    def before_step(self): pass

def fitted(df, loss, genre_name='genres', unk_p=.1, **kwargs):
    "Parameters after two epochs, and the last losses"
    dls = loaders(df, n_neg=6, sampler='popularity', genre_name=genre_name, weight_name='weight')
    torch.manual_seed(0)
    learn = collab_learner(dls, n_factors=8, loss_func=loss, unk_p=unk_p, wd=.01, **kwargs)
    quiet(learn, lambda: learn.fit_one_cycle(2, 1e-2))
    return [p.detach().clone() for p in learn.model.parameters()]+[torch.tensor(learn.recorder.values[-1])]

@pytest.mark.parametrize('loss', LOSSES)
def test_all_ways_of_training_give_the_same(clicks, loss):
    weighted = clicks.assign(weight=1+clicks.movieId%3)
    plain = dict(genre_name=None, unk_p=0)
    for a,b in zip(*(fitted(weighted, loss(), fused=o, **plain) for o in (False,True))):
        assert (a-b).norm()<=1e-3*b.norm()+1e-6
    # a gradient that is 0 but for rounding, as that of a user's bias, moves Adam as far as any other
    ways = dict(fused=False),dict(fused=True),dict(cbs=Looks())
    for a,b,c in zip(*(fitted(weighted, loss(), **o) for o in ways)):
        assert (a-b).norm()<=.05*b.norm()+1e-6 and (a-c).norm()<=.1*c.norm()+1e-6

class OwnRows(BPRLoss):
    "Another formula doesn't inherit the compiled one"
    def rows(self, scores, items=None): return (1-scores[:,:1]+scores[:,1:]).clamp(min=0).mean(1)

def test_a_loss_of_your_own_trains_in_batches(clicks):
    learn = collab_learner(loaders(clicks), loss_func=OwnRows())
    assert 'has no fused_lists()' in learn.fused_reason
    quiet(learn, lambda: learn.fit(1))
    assert collab_learner(loaders(clicks)).fused_reason==''

@pytest.mark.parametrize('arch', [DotProduct, DotProductBias, SVDPlusPlus])
def test_models_learn_to_rank(clicks, arch):
    dls = loaders(clicks)
    learn = collab_learner(dls, arch=arch, loss_func=BPRLoss())
    assert learn.model.link==Link() if arch is not SVDPlusPlus else learn.model.y_range is None
    quiet(learn, lambda: learn.fit_one_cycle(5, 3e-2))
    scores = learn.get_preds(ds_idx=0)[0]
    assert scores.shape==(len(dls.train_ds),2) and (scores[:,0]>scores[:,1]).float().mean()>.8

def test_ranking_losses_have_a_decay_of_their_own(clicks):
    "Larger than fastai's, unless you give one"
    assert collab_learner(loaders(clicks)).wd==BPRLoss.wd==.3 and collab_learner(loaders(clicks), wd=.1).wd==.1
    assert collab_learner(CollabDataLoaders.from_df(synthetic_ratings(120, 60, 3000), seed=1)).wd is None

@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('arch', [SVDPlusPlus,HybridMF,LightGCN])
def test_sets_features_and_graphs_learn_under_every_loss(clicks, arch, loss):
    "With genres of items and decades of users; batches and the short loop give the same"
    df,res = clicks.assign(decade=clicks.userId//10),[]
    for cbs in (None,Looks()):
        dls = loaders(df, n_neg=6, genre_name='genres', user_cols='decade', bs=256)
        torch.manual_seed(0)
        learn = collab_learner(dls, arch=arch, n_factors=8, loss_func=loss(), unk_p=0, cbs=cbs)
        quiet(learn, lambda: learn.fit_one_cycle(6, 3e-2))
        res.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]))
    assert (res[0]-res[1]).norm()<=.05*res[1].norm()
    scores = learn.get_preds(ds_idx=0)[0]
    assert scores.shape[1]==7 and (scores[:,:1]>scores[:,1:]).float().mean()>.7
    assert len(learn.recommend([1], 3))==3 and learn.validate()[0]<float('inf')

def test_validation_compares(clicks):
    learn = collab_learner(loaders(clicks))
    assert torch.equal(learn.get_preds()[0], learn.get_preds()[0])
    assert learn.validate()[0]==learn.validate()[0]

def test_a_score_is_called_a_score(clicks, tmp_path):
    learn = collab_learner(loaders(clicks))
    quiet(learn, lambda: learn.fit_one_cycle(1, 1e-2))
    top = learn.recommend([1,2], 3)
    assert list(top.columns)==['user','rank','item','title','score']
    np.testing.assert_allclose(learn.predict(top.user, top.item), top.score, rtol=1e-5)
    rec = learn.recommender()
    rec.save(tmp_path/'rec')
    assert Recommender.load(tmp_path/'rec').recommend([1,2], 3).equals(top)
    learn.export(tmp_path/'learn.pkl')
    assert load_learner(tmp_path/'learn.pkl').recommend([1,2], 3).equals(top)

def test_wrong_pairs_of_loss_and_loaders(clicks):
    dls = loaders(clicks)
    with pytest.raises(ValueError, match='RatingMSE predicts ratings, but these are interactions'):
        collab_learner(dls, loss_func=RatingMSE())
    with pytest.raises(ValueError, match='scores, which have no range'): collab_learner(dls, y_range=(0,5))
    rated = CollabDataLoaders.from_df(synthetic_ratings(120, 60, 3000), seed=1)
    with pytest.raises(ValueError, match='BPRLoss ranks items and needs negatives'):
        collab_learner(rated, loss_func=BPRLoss())
    with pytest.warns(UserWarning, match='looks for a violation among n_neg=1'):
        collab_learner(dls, loss_func=WARPLoss())

def test_lr_find_leaves_the_weights(clicks):
    learn = collab_learner(loaders(clicks))
    before = [p.clone() for p in learn.model.parameters()]
    with learn.no_bar(): learn.lr_find(show_plot=False)
    assert all(map(torch.equal, before, learn.model.parameters()))

# ---- Plain steps
@pytest.fixture(scope='module')
def many():
    "150,000 interactions of 3,000 users with 1,500 items, some more popular than others"
    rng = np.random.default_rng(0)
    chance = 1/np.arange(10, 1510)
    pairs = np.unique(np.c_[rng.integers(1, 3001, 170_000),1+rng.choice(1500, 170_000, p=chance/chance.sum())], axis=0)
    return pd.DataFrame(pairs, columns=['user','item'])

@pytest.fixture
def threads():
    "Set the number of threads; afterwards, it is what it was"
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)

@pytest.mark.parametrize('loss,lr,sampler', [(BPRLoss,.05,'uniform'),(WARPLoss,.002,'uniform'),
    (BPRLoss,.05,'popularity'),(SampledSoftmaxLoss,.05,'popularity')])
def test_plain_steps_are_the_same_in_any_number_of_threads(many, threads, loss, lr, sampler):
    res = []
    for n in (1,2,3):
        threads(n)
        torch.manual_seed(0)
        dls = loaders(many, valid_pct=.01, n_neg=10, sampler=sampler)
        learn = collab_learner(dls, n_factors=20, loss_func=loss())
        quiet(learn, lambda: learn.fit_sgd(3, lr, seed=2))
        res.append([p.detach().clone() for p in learn.model.parameters()]+[torch.tensor(learn.recorder.values)])
    for a,b,c in zip(*res): assert torch.equal(a, b) and torch.equal(a, c)
    assert res[0][-1].isfinite().all()

def test_lists_train_the_same_in_any_number_of_threads(many, threads):
    res = []
    for n in (1,2):
        threads(n)
        torch.manual_seed(0)
        learn = collab_learner(loaders(pd.concat([many]*4), bs=2048, valid_pct=.01, duplicates='keep'), n_factors=8)
        quiet(learn, lambda: learn.fit_one_cycle(1, 1e-2))
        assert learn.fused_reason==''
        res.append([p.detach().clone() for p in learn.model.parameters()])
    for a,b in zip(*res): assert torch.equal(a, b)

@pytest.mark.parametrize('loss', [BPRLoss,SampledSoftmaxLoss])
def test_plain_steps_rank(many, loss):
    learn = collab_learner(loaders(many, valid_pct=.05, n_neg=5), n_factors=8, loss_func=loss())
    quiet(learn, lambda: learn.fit_sgd(5, .1))
    scores = learn.get_preds()[0]
    assert (scores[:,0]>scores[:,1]).float().mean()>.7   # popularity
    assert (learn.model.factors(1).vec[0]-learn.model.factors(1).vec[1:].mean(0)).abs().max()<.05

def test_what_plain_steps_refuse(clicks, many):
    def says(learn, text, error=TypeError):
        with pytest.raises(error, match=text): learn.fit_sgd(1)
    for loss in (BCELoss(),AdaptiveHingeLoss(),OwnRows()):
        text = 'fit_sgd is for BPRLoss, WARPLoss and SampledSoftmaxLoss.*fit_one_cycle'
        says(collab_learner(loaders(clicks), loss_func=loss), text)
    says(collab_learner(loaders(clicks, genre_name='genres')), 'has features')
    text = "plain steps have no batches; sampler='popularity'"
    says(collab_learner(loaders(clicks, sampler='inbatch')), text, ValueError)
    says(collab_learner(loaders(clicks), cbs=Looks()), 'Looks acts on each')
    rated = CollabDataLoaders.from_df(synthetic_ratings(120, 60, 3000), seed=1)
    says(collab_learner(rated), 'not for RatingMSE')

# ---- After training
@pytest.fixture(scope='module')
def ranker():
    "A learner of 300 users, fitted by BPR"
    df = to_implicit(synthetic_ratings(300, 150, 12_000), threshold=4)
    learn = collab_learner(loaders(df, item_name='title', genre_name='genres'), n_factors=16)
    return quiet(learn, lambda: learn.fit_one_cycle(10, 1e-2, wd=.1))

def test_a_new_user_with_the_clicks_of_a_known_one_gets_a_like_list(ranker):
    history,shared = ranker.dls.train_ds.items,[]
    for user in (5,17,40,101):
        own = history[history.userId==user]
        rec = ranker.fold_in(own.assign(userId=9_999)[['userId','title']])
        exclude = dict(exclude_seen=True, k=20)
        a,b = ranker.recommend([user], **exclude),rec.recommend([9_999], **exclude)
        assert list(b.columns)[-1]=='score' and not set(b.item)&set(own.title)
        shared.append(len(set(a.item)&set(b.item))/20)
    assert np.mean(shared)>.5   # 20 of 150: by chance .14

def test_clicks_on_new_items_are_refused(ranker):
    new = pd.DataFrame(dict(userId=[5,6], title='New (2020)', weight=1.))
    with pytest.raises(TypeError, match='scores that only rank'): ranker.recommender().fold_in_items(new)
    items = pd.DataFrame(dict(title=['New (2020)'], genres=['Drama']))
    rec = ranker.recommender().fold_in_items(items=items)
    assert np.isfinite(rec.predict(5, 'New (2020)'))

def test_explanations_add_up(ranker, tmp_path):
    top = ranker.recommend([5], 1)
    table = ranker.explain(5, top.item[0])
    np.testing.assert_allclose(table.stars.sum(), top.score[0], rtol=1e-4)
    assert table.attrs['sentence'].startswith(f'a score of {top.score[0]:.2f} for {top.title[0]}')
    rec = ranker.recommender()
    rec.save(tmp_path/'rec')
    again = Recommender.load(tmp_path/'rec')
    assert again.explain(5, top.item[0]).stars.tolist()==rec.explain(5, top.item[0]).stars.tolist()

# ---- Users who have met every item
@pytest.fixture(scope='module')
def full_user():
    "30 users and 20 items; the first has met them all. Validation rows come first"
    rng = np.random.default_rng(0)
    pairs = np.unique(np.c_[rng.integers(2, 31, 250),rng.integers(0, 20, 250)], axis=0)
    return pd.DataFrame(np.r_[rng.permutation(pairs),[(1,i) for i in range(20)]], columns=['user','item'])
def full_loaders(df, **kwargs):
    with pytest.warns(UserWarning, match=FULL):
        return loaders(df, n_neg=6, splits=(range(40, len(df)),range(40)), bs=32, **kwargs)

FULL = '1 of 30 users have met all 20 items, e.g. 1; they have no negatives'

def finite(learn):
    "Are the parameters and what the fit table says finite?"
    return all(p.isfinite().all() for p in learn.model.parameters()) and np.isfinite(learn.recorder.values[-1]).all()

@pytest.mark.parametrize('sampler', ['uniform','popularity','inbatch'])
@pytest.mark.parametrize('loss', LOSSES)
def test_a_user_without_negatives_is_warned_about_and_teaches_nothing(full_user, loss, sampler):
    for how in (dict(fused=False),dict(fused=True)):
        dls = full_loaders(full_user, sampler=sampler)
        torch.manual_seed(0)
        learn = collab_learner(dls, n_factors=4, loss_func=loss(), unk_p=0, wd=0, **how)
        row = dls.classes['user'].o2i[1]
        before = learn.model.factors(0).vec[row].clone()
        quiet(learn, lambda: learn.fit_one_cycle(2, 1e-2))
        assert finite(learn) and torch.equal(learn.model.factors(0).vec[row], before)
        others = torch.arange(31)!=row
        assert not torch.equal(learn.model.factors(0).vec[others][1:], before)

@pytest.mark.parametrize('sampler', ['uniform','popularity'])
@pytest.mark.parametrize('loss', [BPRLoss,WARPLoss,SampledSoftmaxLoss])
def test_plain_steps_skip_a_user_without_negatives(full_user, loss, sampler):
    dls = full_loaders(full_user, sampler=sampler)
    torch.manual_seed(0)
    learn = collab_learner(dls, n_factors=4, loss_func=loss())
    row = dls.classes['user'].o2i[1]
    before = learn.model.factors(0).vec.clone()
    quiet(learn, lambda: learn.fit_sgd(2, .05))
    vec = learn.model.factors(0).vec
    assert finite(learn) and torch.equal(vec[row], before[row]) and not torch.equal(vec[2:], before[2:])

@pytest.mark.parametrize('arch', [EASE,ItemKNN,Popular,SLIM])
def test_other_ways_of_training_take_a_user_without_negatives(full_user, arch):
    "They need no negatives"
    dls = full_loaders(full_user)
    learn = collab_learner(dls, arch=arch)
    quiet(learn, lambda: learn.fit(1))
    assert np.isfinite(learn.recommend([1,2], 3, exclude_seen=False).score).all()
    als = collab_learner(dls, n_factors=4)
    quiet(als, lambda: als.fit_als(2))
    assert finite(als)
    assert np.isfinite(als.recommend([1,2], 3, exclude_seen=False).score).all()
