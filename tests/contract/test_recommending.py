"One contract for the recommender of every model: lists, predictions, neighbors, fold-in, saving, reading"
import copy, math
from functools import partial

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import collab_learner, collab_model
from zoo import BASE, ITEMS, ZOO, again, by_user, finds_held_out, learner, loaders, names, pairs, rec_of, state
from zoo import train_of, trained, unchanged, world

every = pytest.mark.parametrize('name', ZOO)
FEATURED,DOTS,OWN = names(features=True),names(kind='dot'),names(kind='model')

@pytest.mark.slow
@pytest.mark.parametrize('name', names(closed=False))
def test_checkerboard(name):
    "The right answer is known: with rated items the liked half and nothing else, without them the liked ones first"
    learn,likes = trained(name, (-1.,7.))
    finds_held_out(learn)
    df = world(name)[0]
    said = learn.predict(list(df.userId), list(df.movieId))
    assert ((said>said.mean())==(df.rating>3)).all()                                    # the model has learned it
    rec = learn.recommender()
    lists = by_user(rec.recommend(k=15, exclude_seen=False))
    assert {u:set(o) for u,o in lists.items()}=={u:{i for i in range(30) if likes(u, i)} for u in range(40)}
    new,seen = by_user(rec.recommend(k=30)),train_of(learn)
    for u in range(40):
        want = [i for i in range(30) if i not in seen[u]]
        assert set(new.get(u, ()))==set(want) and [likes(u, i) for i in new.get(u, ())]==sorted((likes(u, i)
            for i in want), reverse=True)

@every
@pytest.mark.parametrize('y_range', [(0.,5.5), None])
def test_scores_are_those_of_the_learner(name, y_range):
    "`predict`, `recommend`, `learn.predict` and `model.predictions` agree for all pairs"
    learn,rec = learner(name, y_range),rec_of(name, y_range)
    u,i = pairs(rec)
    want = learn.predict(list(u), list(i))
    # or else everything would be the same
    assert np.ptp(want)>.1
    assert np.allclose(rec.predict(u, i), want, atol=1e-4)
    assert np.allclose(rec.predict(pd.DataFrame(dict(movieId=i, userId=u))), want, atol=1e-4)
    df = rec.recommend(k=30, exclude_seen=False)
    assert list(df)==['user','rank','item','title',
        'prediction'] and len(df)==1200 and np.allclose(df.sort_values(['user','item']).prediction, want, atol=1e-4)
    assert list(df['rank'])==[*range(1,
        31)]*40 and (df.groupby('user').prediction.diff().dropna()<=0).all() and df.user.is_monotonic_increasing
    assert (df.title==df.item.map(ITEMS.title)).all()
    model = collab_model(learn.model, learn.dls.train_ds)
    assert np.allclose(model.predictions(torch.arange(41))[1:,1:].reshape(-1), want, atol=1e-4)

@every
def test_batch_equals_single(name):
    "The same lists whether you ask for users alone, together, in another order or twice, with any memory"
    rec = rec_of(name)
    whole = rec.recommend(k=6)
    for mb in (64, .5, .05, 1e-3, 1e-7):
        pd.testing.assert_frame_equal(rec.recommend(k=6, mb=mb), whole)
        assert len(list(rec.batches(k=6, mb=mb)))==math.ceil(40/rec.batch_size(mb, 6))
    alone = pd.concat([rec.recommend(u, 6) for u in rec.ids[0]], ignore_index=True)
    some = rec.recommend([31,7,31,2], 6)
    for got,want in ((alone,whole), (some, pd.concat([whole[whole.user==u] for u in (31,7,31,2)], ignore_index=True))):
        pd.testing.assert_frame_equal(got.drop(columns='prediction'), want.drop(columns='prediction'))
        assert np.allclose(got.prediction, want.prediction, atol=1e-6)
    assert [len(o) for o in rec.batches([1,2,3], 4, mb=1e-7)]==[4,4,4]
    assert type(rec.predict(7, 3)) is float and abs(rec.predict(7, 3)-rec.predict([7,8],
        [3,3])[0])<1e-6 and rec.predict([7], [3]).shape==(1,)
    assert np.allclose(rec.predict(7, [3,4]), [rec.predict(7, 3),rec.predict(7, 4)], atol=1e-6)
    assert np.allclose(rec.predict([7,8], 3), [rec.predict(7, 3),rec.predict(8, 3)], atol=1e-6)

@every
def test_reads_do_not_write(name, tmp_path):
    "Asking and saving leave the model, its modes, the recommender, random states and arguments alone"
    learn = learner(name)
    modes = [(m,m.training) for m in learn.model.modules()]
    learn.model.train()
    before,rng = copy.deepcopy(learn.model.state_dict()),(torch.get_rng_state(),np.random.get_state()[1].copy())
    given_ = pd.DataFrame(dict(movieId=[1,2], title=['a','b'], year=[1,2]))
    kept,x = given_.copy(deep=True),learn.dls.train_ds.store.ids().clone()
    rec = learn.recommender()
    assert list(learn.recommender(items=given_).items.title[:2])==['a','b']
    held,new = state(rec),pd.DataFrame(dict(userId=[901,901], movieId=[1,2], rating=[4.,2.]))
    more = new.copy(deep=True)
    lists = rec.recommend(k=3)
    lists['prediction'] = 0
    rec.predict([1], [2])[:] = 0
    if name in DOTS: rec.fold_in(new), rec.explain(3, 4), rec.to_ann()
    if ZOO[name].vectors: rec.similar_items(1)
    rec.save(tmp_path)
    learn.recommend(1, 3)
    assert learn.model.training and all(m.training for m in learn.model.modules())
    for m,t in modes: m.training = t
    assert all(torch.equal(before[k], v) for k,v in learn.model.state_dict().items()) and torch.equal(x,
        learn.dls.train_ds.store.ids())
    assert torch.equal(rng[0], torch.get_rng_state()) and (rng[1]==np.random.get_state()[1]).all()
    assert unchanged(held, state(rec)) and given_.equals(kept) and new.equals(more)
    # what it holds is its own
    rec.scorer.state()[1].popitem()[1].fill_(7)
    assert all(torch.equal(before[k], v) for k,v in learn.model.state_dict().items())

@every
def test_seen_items_are_left_out(name):
    "Lists leave out what a user rated in training and can have everything else, including held-out items"
    learn,rec = learner(name),rec_of(name)
    seen,got = train_of(learn),by_user(rec.recommend(k=30))
    for u in rec.ids[0]: assert set(got[u])==set(rec.ids[1])-seen.get(u, set()) and len(got[u])==len(set(got[u]))

@every
def test_order_of_training_rows_is_irrelevant(name):
    "Loaders with the same rows in another order give the same recommender"
    learn,perm = learner(name),np.random.default_rng(0).permutation(500)
    old = learn.dls
    key = set(map(tuple, old.train_ds.items[['userId','movieId']].to_numpy()))
    df = BASE.iloc[perm].reset_index(drop=True)
    train = np.array([o in key for o in zip(df.userId, df.movieId)])
    other = collab_learner(loaders(name, df, splits=(np.flatnonzero(train), np.flatnonzero(~train))),
        arch=learn.model).recommender()
    pd.testing.assert_frame_equal(other.recommend(k=30), rec_of(name).recommend(k=30))
    if ZOO[name].vectors and name in DOTS:
        pd.testing.assert_frame_equal(other.similar_items(3), rec_of(name).similar_items(3))

@every
def test_save_and_load(name, tmp_path):
    "Identical lists, predictions, neighbors, fold-in and explanations"
    rec = rec_of(name)
    other = again(rec, name, tmp_path)
    asks = [lambda r: r.recommend(k=7), lambda r: r.recommend(3, 2, filters="'a' in title"),
        lambda r: pd.DataFrame(dict(x=r.predict(*pairs(r))))]
    if name in DOTS:
        new = pd.DataFrame(dict(userId=[901]*3, movieId=[1,2,3], rating=[5.,1.,3.]))
        swap = new.rename(columns=dict(userId='movieId', movieId='userId'))
        asks += [lambda r: r.explain(3, 4), lambda r: r.fold_in(new).recommend(901)]
        if rec.terms[1] is not None: asks.append(lambda r: r.fold_in_items(swap).recommend(3, 30))
    if ZOO[name].features and name!='Features' and not name.endswith('foreign'):
        asks.append(lambda r: r.recommend(3, 1, filters="'Drama' in genres"))
    for ask in asks: pd.testing.assert_frame_equal(ask(rec), ask(other))
    assert repr(rec)==repr(other) and (name in OWN)==(rec.scorer.kind=='model')

@every
def test_fold_in_is_for_dot_products(name):
    "Other models say what they are and what to train instead"
    rec,new = rec_of(name),pd.DataFrame(dict(userId=[901,901], movieId=[1,2], rating=[5.,1.]))
    folds = ZOO[name].kind in ('history','ensemble')
    if folds:
        assert not {1,2} & set(rec.fold_in(new).recommend(901, 28).item)
        assert rec.explain(1, 2).stars.sum()==pytest.approx(rec.predict(1, 2), abs=1e-4)
    if name in DOTS:
        got = rec.fold_in(new)
        assert (name in ('BiasBaseline','Popular','LightGCN') or got.predict(901, 1)>got.predict(901, 2)) and not {1,
            2} & set(got.recommend(901, 28).item)
        return
    calls = [] if folds else [partial(rec.fold_in, new), partial(rec.fold_in_items, new), partial(rec.explain, 1, 2)]
    for call in (*calls, rec.to_ann, partial(rec.queries, [1]), rec.decay):
        with pytest.raises(TypeError,
            match=f'dot products, but this model has a {type(rec.scorer).__name__}; train a DotProductBias'): call()

@every
def test_neighbours(name):
    "Similar items and users by cosine and dot product, against numpy; an error without vectors"
    learn,rec = learner(name),rec_of(name)
    if not ZOO[name].vectors:
        weights = ZOO[name].kind in ('history','ensemble')   # these compare items by their weights
        for call in (rec.similar_users, *([] if weights else [rec.similar_items])):
            with pytest.raises(TypeError, match='no vectors'): call(1)
        if weights: assert rec.similar_items(rec.ids[1][4], 3).similarity.is_monotonic_decreasing
        return
    for side,ask,V in ((1,rec.similar_items,learn.model.vectors(1)), (0,rec.similar_users,learn.model.vectors(0))):
        V,n = V[1:].double().numpy(),len(rec.ids[side])
        for metric in ('cosine','dot'):
            s = V@V[4]/(np.linalg.norm(V, axis=1)*np.linalg.norm(V[4]) if metric=='cosine' else 1)
            got = ask(rec.ids[side][4], n-1, metric)
            assert list(got)==['rank',*(['item','title'] if side else ['user']),
                'similarity'] and list(got['rank'])==[*range(1, n)]
            assert list(got['item' if side else 'user'])==[rec.ids[side][k] for k in np.argsort(-s, kind='stable')
                if k!=4]
            assert np.allclose(got.similarity, sorted(np.delete(s, 4), reverse=True), atol=1e-5)
            if side: assert list(got.title)==list(got.item.map(ITEMS.title))

@every
def test_kinds(name):
    "Which models are collapsed to which scorer, and which go along as they are"
    assert rec_of(name).scorer.kind==ZOO[name].kind
