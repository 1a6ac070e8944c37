"Metrics of lists in the table of a fit: every item ranked for every user, what was seen left out"
import numpy as np, pandas as pd, pytest, torch
from fastai.callback.tracker import SaveModelCallback
from scipy.sparse import csr_matrix

from fastai.learner import load_learner
from fastcollab.all import (AUC, BPRLoss, ColdItemSplitter, ColdUserSplitter, CollabDataLoaders, Coverage, Diversity,
    EASE, ExposureGini, HitRate, ItemKNN, MAP, MRR, NDCG, Novelty, Popular, PopularityLift, Precision, Recall,
    UserStratifiedSplitter, auc_scores, collab_learner, evaluate, rmse)
from fastcollab.train.ranking import ranked_part

@pytest.fixture
def genre_dls(ratings): return CollabDataLoaders.from_df(ratings, genre_name='genres', seed=42, bs=64)

def brute_force(learn, k, min_rating=None):
    "Lists and held-out sets of each user by predictions of all pairs"
    train,valid = learn.dls.train_ds.items,learn.dls.valid_ds.items
    user,item,rating = train.columns[:3]
    known = np.array(list(learn.dls.classes[item])[1:])
    lists,held = [],[]
    for u in sorted(set(valid[user])&set(train[user])):
        pred = learn.predict(pd.DataFrame({user:u, item:known}))
        seen = set(train[item][train[user]==u])
        order = [o for o in known[np.argsort(-pred, kind='stable')] if o not in seen]
        mine = valid[valid[user]==u]
        if min_rating is not None: mine = mine[mine[rating]>=min_rating]
        lists.append(order[:k])
        held.append(set(mine[item])-seen)
    return lists,held

@pytest.mark.parametrize('arch', ['dot','net','hybrid'])
def test_the_table_of_a_fit_holds_what_predictions_give(ratings, arch):
    dls = CollabDataLoaders.from_df(ratings, seed=42, bs=64, genre_name='genres' if arch=='hybrid' else None)
    metrics = [rmse, NDCG(5), Recall(10), MAP(3), Precision(5, min_rating=4)]
    learn = collab_learner(dls, n_factors=8, use_nn=arch=='net', metrics=metrics)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    got = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    lists,held = brute_force(learn, 10)
    found = np.array([[i in h for i in l] for l,h in zip(lists, held)])
    n = np.array([len(h) for h in held])
    gain = 1/np.log2(np.arange(2, 7))
    best = np.append(0, gain.cumsum())[np.minimum(n, 5)]
    keep = n>0
    np.testing.assert_allclose(got['ndcg@5'], (found[:,:5]@gain)[keep].__truediv__(best[keep]).mean(), atol=1e-6)
    np.testing.assert_allclose(got['recall@10'], (found.sum(1)[keep]/n[keep]).mean(), atol=1e-6)
    _,liked = brute_force(learn, 5, 4)
    share = [np.mean([i in h for i in l[:5]]) for l,h in zip(lists, liked) if h]
    np.testing.assert_allclose(got['precision@5'], np.mean(share), atol=1e-6)
    assert got['rmse']>0 and len(share)<len(lists)
    np.testing.assert_allclose(learn.validate()[1:], [got[o.name] for o in metrics], atol=1e-6)

def test_auc_is_that_of_predictions(dls):
    learn = collab_learner(dls, n_factors=8, metrics=[AUC()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    lists,held = brute_force(learn, 10**6)
    aucs = []
    for l,h in zip(lists, held):
        hit = np.array([i in h for i in l])
        if hit.any(): aucs.append(sum((~hit)[r:].sum() for r in np.flatnonzero(hit))/(hit.sum()*(~hit).sum()))
    np.testing.assert_allclose(learn.validate()[-1], np.mean(aucs), atol=1e-3)   # ties count half

def test_the_compiled_loop_of_auc_is_the_one_that_sorts(monkeypatch):
    import fastcollab.ranking as module
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (30,20)).astype(np.float32)
    scores[rng.random(scores.shape)<.3] = -np.inf
    held = csr_matrix(np.hstack([np.zeros((30,1)), rng.random((30,22))<.2]))
    compiled = auc_scores(scores, held)
    monkeypatch.setattr(module, 'load_kernels', lambda name: None)
    np.testing.assert_allclose(compiled, auc_scores(scores, held), atol=1e-12)
    assert np.isfinite(compiled).any()

def test_lists_are_made_once_for_all_metrics(dls, monkeypatch):
    import fastcollab.train.ranking as module
    calls,real = [],module.ranked_lists
    monkeypatch.setattr(module, 'ranked_lists', lambda *args: calls.append(args[3]) or real(*args))
    learn = collab_learner(dls, n_factors=8, metrics=[NDCG(10), Recall(20), HitRate(5), Coverage(10)])
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    assert calls==[20]*3

def test_a_later_epoch_ranks_anew(dls):
    learn = collab_learner(dls, n_factors=8, metrics=[NDCG(10)])
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 2e-2)
    values = [v[-1] for v in learn.recorder.values]
    assert len(set(values))==3
    before = learn.validate()[-1]
    with torch.no_grad(): learn.model.i_bias.weight.mul_(-3)
    assert learn.validate()[-1]!=before

def test_every_so_many_epochs(dls):
    learn = collab_learner(dls, n_factors=8, metrics=[NDCG(10, every=2)])
    with learn.no_bar(), learn.no_logging(): learn.fit(5, 1e-2)
    assert [np.isnan(v[-1]) for v in learn.recorder.values]==[True,False,True,False,False]

def test_all_metrics_in_one_table(genre_dls):
    metrics = [NDCG(10), Recall(10), Precision(10), MAP(10), MRR(10), HitRate(10), AUC(), Coverage(10),
        ExposureGini(10), Novelty(10), PopularityLift(10), Diversity(10)]
    learn = collab_learner(genre_dls, n_factors=8, metrics=metrics)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()

def test_a_best_epoch_is_one_with_the_highest_ndcg(dls, tmp_path):
    learn = collab_learner(dls, n_factors=8, metrics=[NDCG(10)], path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(4, 3e-2, cbs=SaveModelCallback(monitor='ndcg@10'))
    np.testing.assert_allclose(learn.validate()[-1], max(v[-1] for v in learn.recorder.values), atol=1e-6)

def test_users_and_items_that_training_never_saw(ratings):
    "A new user has no row of its own, so no list; a new item counts as missed"
    dls = CollabDataLoaders.from_df(ratings, splitter=ColdUserSplitter(.1, seed=0), bs=64)
    learn = collab_learner(dls, n_factors=4, metrics=[NDCG(10)])
    assert np.isnan(learn.validate()[-1])
    dls = CollabDataLoaders.from_df(ratings, splitter=ColdItemSplitter(.1, seed=0), bs=64)
    learn = collab_learner(dls, n_factors=4, metrics=[NDCG(10), Recall(10)])
    assert learn.validate()[1:]==[0,0]
    part = ranked_part(dls.valid_ds, dls.train_ds)
    assert part.held().nnz==len(dls.valid_ds)

def test_the_training_part_is_ranked_with_what_was_seen(dls):
    learn = collab_learner(dls, n_factors=8, metrics=[NDCG(10)])
    assert learn.validate(ds_idx=0)[-1]>0

def test_seen_and_held_out_pairs_are_not_asked_for(ratings):
    twice = pd.concat([ratings, ratings[:1000]], ignore_index=True)
    splits = np.arange(len(ratings)),np.arange(len(ratings), len(twice))
    with pytest.warns(UserWarning): dls = CollabDataLoaders.from_df(twice, splits=splits)
    part = ranked_part(dls.valid_ds, dls.train_ds)
    assert len(part.users)==0 and part.held().shape[0]==0
    assert np.isnan(collab_learner(dls, n_factors=4, metrics=NDCG(10)).validate()[-1])

def test_an_export_carries_no_lists(dls, tmp_path):
    learn = collab_learner(dls, n_factors=4, metrics=[NDCG(10)], path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    learn.export('learn.pkl')
    again = load_learner(tmp_path/'learn.pkl')
    again.dls = dls
    np.testing.assert_allclose(again.validate()[-1], learn.recorder.values[-1][-1], atol=1e-6)

def test_bad_arguments(dls):
    with pytest.raises(ValueError, match='k is 0'): NDCG(0)
    with pytest.raises(ValueError, match="style is 'trec'"): Recall(5, style='trec')
    learn = collab_learner(dls, n_factors=4, metrics=[NDCG(1000)])
    with pytest.raises(ValueError, match='k is 1000, but there are'): learn.validate()
    learn = collab_learner(dls, n_factors=4, metrics=[Diversity(10)])
    with pytest.raises(ValueError, match='diversity needs features of items'): learn.validate()

@pytest.mark.parametrize('arch', ['dot','EASE','ItemKNN','Popular'])
def test_clicks(ratings, arch):
    "What the table of the fit says is what `evaluate` says"
    split = UserStratifiedSplitter(.2, seed=0)
    dls = CollabDataLoaders.from_interactions(ratings, splitter=split, seed=0)
    metrics,archs = [NDCG(10), Recall(5), AUC()],dict(EASE=EASE, ItemKNN=ItemKNN, Popular=Popular)
    kwargs = dict(loss_func=BPRLoss(), n_factors=8) if arch=='dot' else dict(arch=archs[arch])
    learn = collab_learner(dls, metrics=metrics, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    row = evaluate(learn, ratings.iloc[split(ratings)[1]], k=(5,10), n_boot=0)
    np.testing.assert_allclose(learn.recorder.values[-1][-3:], row[[o.name for o in metrics]].iloc[0], atol=1e-6)
