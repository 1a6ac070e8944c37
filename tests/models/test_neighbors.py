"Models in closed form against numpy, in a learner, for new users, and saved"
import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import CollabDataLoaders, EASE, ItemKNN, Popular, Recommender, SLIM, Successors
from fastcollab.all import collab_learner, load_learner, synthetic_ratings
from fastcollab.data.matrix import interaction_ages, interaction_matrix
from fastcollab.recommend import weights
from fastcollab.recommend.weights import check_dense, nearest_items, top_columns
from scipy.sparse import csr_matrix

CLICKS = synthetic_ratings(150, 60, 3000, seed=5)[['userId','movieId']]
ALL = pytest.mark.parametrize('arch', [Popular,ItemKNN,EASE,SLIM])
TIMED = CLICKS.assign(timestamp=1_500_000_000+np.random.default_rng(0).permutation(len(CLICKS)))
HISTORY = pytest.mark.parametrize('arch', [ItemKNN,EASE,SLIM])

def loaders(df=CLICKS, **kwargs): return CollabDataLoaders.from_interactions(df, **{**dict(seed=1, bs=64), **kwargs})
def fitted(arch, dls=None, **config):
    learn = collab_learner(dls or loaders(), arch=arch, config=config)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn
def met(learn): return interaction_matrix(learn.dls.train_ds, weights=False).toarray()
def scores(learn): return learn.model.predictions(torch.arange(learn.dls.n_users)).numpy()

def test_ease_is_the_ridge_regression_of_each_item_on_all_others():
    learn = fitted(EASE, reg=20.)
    X = met(learn).astype(float)
    for j in (1,5,len(X[0])-1):
        others = [o for o in range(1, X.shape[1]) if o!=j]
        A = X[:,others]
        w = np.linalg.solve(A.T@A+20*np.eye(len(others)), A.T@X[:,j])
        assert np.allclose(scores(learn)[1:,j], (A@w)[1:], atol=1e-4)

def test_knn_by_hand():
    learn = fitted(ItemKNN, k=7, shrink=3.)
    X = met(learn)
    n = np.sqrt(X.sum(0))
    S = X.T@X/(np.outer(n, n)+3)
    np.fill_diagonal(S, 0)
    for j in (1,4,9):
        near = np.argsort(-S[j], kind='stable')[:7]
        assert np.allclose(scores(learn)[1:,j], (X[1:,near]*S[j,near]).sum(1), atol=1e-4)

def test_slim_keeps_the_conditions_of_its_minimum():
    learn = fitted(SLIM, l1=.5, l2=3., candidates=100)
    W,X = learn.model.scorer().weights.toarray(),met(learn).astype(float)
    X[0] = 0
    slope = X.T@(X-X@W)-3*W-.5
    off = ~np.eye(len(W), dtype=bool)
    assert (W>=0).all() and not W.diagonal().any()
    assert (slope[off]<.05).all() and (abs(slope[off&(W>0)])<.05).all()

def test_largest_of_each_row():
    m = csr_matrix(np.array([[0,3,1,3],[0,0,0,0],[5,0,2,4]], np.float32))
    assert top_columns(m, 2).toarray().tolist()==[[0,3,0,3],[0,0,0,0],[5,0,0,4]]
    assert nearest_items(m.astype(bool).astype(np.float32), 3).diagonal().sum()==0

@ALL
def test_a_fit_solves_and_lists_leave_out_what_is_known(arch):
    learn = fitted(arch)
    user = CLICKS.userId.iloc[0]
    known = set(learn.dls.train_ds.items.query('userId==@user').movieId)
    top = learn.recommend(user, 5)
    assert not known&set(top.item) and (top.score.diff().dropna()<=0).all()
    assert np.allclose(learn.predict(top.user, top.item), top.score, atol=1e-5)
    before = scores(learn)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    assert np.array_equal(before, scores(learn))

@ALL
def test_new_users_get_the_list_of_who_has_met_the_same(arch, tmp_path):
    learn = fitted(arch)
    train,user = learn.dls.train_ds.items,CLICKS.userId.iloc[0]
    new = train[train.userId==user][['userId','movieId']].assign(userId=9999)
    learn.recommender().save(tmp_path/'rec')
    for rec in (learn.recommender(),Recommender.load(tmp_path/'rec')):
        both = rec.fold_in(new).recommend([user,9999], 5)
        assert both.item[:5].tolist()==both.item[5:].tolist() and np.allclose(both.score[:5], both.score[5:], atol=1e-5)
    learn.export(tmp_path/'l.pkl')
    assert load_learner(tmp_path/'l.pkl').recommend(user, 5).item.tolist()==learn.recommend(user, 5).item.tolist()

@HISTORY
def test_the_unknown_user_is_the_mean_of_all(arch):
    s = scores(fitted(arch))
    assert np.allclose(s[0], s[1:].mean(0), atol=1e-4)

@HISTORY
def test_new_items_are_solved_as_if_training_had_seen_them(arch, tmp_path):
    "Scores, similar items and explanations are those of a model that was solved with them; from a file, too"
    config = dict(ItemKNN=dict(k=9), EASE=dict(reg=20.), SLIM=dict(l1=.1, l2=5.))[arch.__name__]
    item = CLICKS.movieId.value_counts().index[4]
    train = loaders().train_ds.items[['userId','movieId']]
    some = train[train.movieId!=item]
    whole,less = (fitted(arch, loaders(o, valid_pct=0), **config).recommender() for o in (train,some))
    less.save(tmp_path/'rec')
    for rec in (less,Recommender.load(tmp_path/'rec')):
        more = rec.fold_in_items(train[train.movieId==item])
        users = train.userId.unique()[:20]
        u,i = np.repeat(users, 60),np.tile(train.movieId.unique()[:60], len(users))
        assert np.allclose(more.predict(u, i), whole.predict(u, i), atol=1e-3)   # SLIM stops when steps are small
        a,b = (o.similar_items(item, 5) for o in (more,whole))
        assert a.item.tolist()==b.item.tolist() and np.allclose(a.similarity, b.similarity, atol=1e-3)
    assert list(more.fold_in_items(items=pd.DataFrame(dict(movieId=[777], title=['New']))).items.title)[-1]=='New'

@HISTORY
def test_explanations_are_the_weights(arch):
    learn = fitted(arch)
    user = CLICKS.userId.iloc[0]
    top = learn.recommend(user, 1)
    why = learn.explain(user, top['item'][0], k=None)
    W,classes = learn.model.scorer().weights,learn.dls.classes['movieId']
    W = W.toarray() if hasattr(W, 'toarray') else W
    known = why[why.part=='rated']
    assert np.allclose(known.stars, [W[classes.o2i[o],classes.o2i[top['item'][0]]] for o in known['item']], atol=1e-6)
    assert why.stars.sum()==pytest.approx(top.score[0], abs=1e-5) and abs(why.stars.iloc[-1])<1e-5

@HISTORY
def test_similar_items_by_hand(arch):
    rec = fitted(arch).recommender()
    W = rec.scorer.weights
    V = (W.toarray() if hasattr(W, 'toarray') else W).astype(float)+np.eye(rec.n_items)
    for metric in ('cosine','dot'):
        s = V@V[7]/(np.linalg.norm(V, axis=1)*np.linalg.norm(V[7]) if metric=='cosine' else 1)
        got = rec.similar_items(rec.ids[1][6], 5, metric)
        s[[0,7]] = -1
        assert np.allclose(got.similarity, np.sort(s)[::-1][:5], atol=1e-6)
    with pytest.raises(TypeError, match='no vectors of users'): rec.similar_users(rec.ids[0][0])

def test_weights_without_a_rule_know_no_new_items():
    class Together(EASE):
        rule = None
        def solve_weights(self, m): return (m.T@m).tocsr()
    rec = fitted(Together).recommender()
    with pytest.raises(TypeError, match='weights of new items need a rule'):
        rec.fold_in_items(pd.DataFrame(dict(userId=CLICKS.userId.unique()[:3], movieId=9999)))

def test_dense_weights_say_what_they_take(monkeypatch):
    "Before anything is computed: an error without the memory, a warning where it takes long"
    need = 17_001**2*(2*4+4)
    with pytest.raises(MemoryError, match=r'17,000 items .* 3.2 GB, and 3.2 GB are free; .* ItemKNN or SLIM'):
        check_dense(17_001, torch.float32, need-1)
    monkeypatch.setattr(weights, 'inverse_seconds', lambda n, dtype: 95.)
    with pytest.warns(UserWarning, match='3.2 GB and about 95 seconds'): check_dense(17_001, torch.float32, need)
    monkeypatch.setattr(weights, 'free_memory', lambda: 1e4)
    with pytest.raises(MemoryError, match='60 items'): fitted(EASE)

def test_float32_gives_the_same_lists():
    a,b = (fitted(EASE, reg=20., float32=o).recommend(k=5) for o in (False,True))
    assert (a['item']==b['item']).mean()>.99 and np.allclose(a.score, b.score, atol=1e-3)

def test_weights_and_ratings_do_not_matter():
    df = CLICKS.assign(plays=np.arange(len(CLICKS))%5+1)
    assert np.array_equal(scores(fitted(EASE)), scores(fitted(EASE, loaders(df, weight_name='plays'))))

def test_threads_do_not_change_the_weights():
    threads = torch.get_num_threads()
    try:
        res = []
        for n in (1,3):
            torch.set_num_threads(n)
            res.append(scores(fitted(SLIM)))
    finally: torch.set_num_threads(threads)
    assert np.array_equal(*res)

def test_bad_settings():
    for arch,bad in ((EASE,dict(reg=0)),(ItemKNN,dict(k=0)),(ItemKNN,dict(shrink=-1)),(SLIM,dict(l1=-1))):
        with pytest.raises(ValueError): fitted(arch, **bad)
    with pytest.raises(ValueError, match='no vectors'): collab_learner(loaders(), arch=EASE, n_factors=9)

# ---- EASE where users are fewer than items
def few_users():
    rng = np.random.default_rng(0)
    df = CLICKS[CLICKS.userId.isin(CLICKS.userId.unique()[:40])]
    return loaders(df.assign(timestamp=1_500_000_000+rng.permutation(len(df))), time_name='timestamp')

def test_ease_by_users_is_ease(tmp_path):
    dls = few_users()
    assert dls.n_users<dls.n_items
    learn = fitted(EASE, dls, reg=30.)
    X = met(learn)[:,1:].astype(float)
    P = np.linalg.inv(X.T@X+30*np.eye(len(X[0])))
    want = X@(np.eye(len(P))-P/P.diagonal())                                # also for what users have met
    assert learn.model.users_inner.shape==(dls.n_users,)*2 and not learn.model.weights.numel()
    assert np.allclose(scores(learn)[1:,1:], want[1:], atol=1e-4)
    user,top = learn.dls.train_ds.items.userId.iloc[0],learn.recommend(k=5)
    learn.recommender().save(tmp_path/'rec')
    kept = Recommender.load(tmp_path/'rec').recommend(k=5)
    assert kept.item.equals(top.item) and np.allclose(kept.score, top.score, atol=1e-6)
    learn.export(tmp_path/'l.pkl')
    assert load_learner(tmp_path/'l.pkl').recommend(user, 5).item.tolist()==learn.recommend(user, 5).item.tolist()

# ---- Times
@pytest.mark.parametrize('arch', [EASE,ItemKNN])
def test_the_newest_counts_most(arch):
    dls = loaders(TIMED, time_name='timestamp')
    plain,learn = fitted(arch, dls),fitted(arch, dls, recency=.7)
    W,ages = plain.model.scorer().weights,interaction_ages(dls.train_ds).toarray()
    W = W if arch is EASE else W.toarray()
    assert np.allclose(scores(learn)[1:], np.where(ages>0, np.maximum(ages, 1)**-.7, 0)[1:]@W, atol=1e-4)
    assert np.allclose(scores(learn)[0], scores(learn)[1:].mean(0), atol=1e-4)
    with pytest.raises(ValueError, match='no timestamps'): fitted(arch, recency=.7)

def test_successors_by_hand():
    dls = loaders(TIMED, time_name='timestamp')
    learn = fitted(Successors, dls, window=3, decay=.5, power=.2, recency=0.)
    m,ages = met(learn),interaction_ages(dls.train_ds).toarray()
    want,count = np.zeros((len(m[0]),)*2),np.maximum(m.sum(0), 1)
    for row in ages:
        items = np.argsort(-row, kind='stable')[:(row>0).sum()]             # the oldest first
        for k,a in enumerate(items):
            for d,b in enumerate(items[k+1:k+4], 1): want[a,b] += d**-.5
    want /= count[:,None]**.8*count**.2
    assert np.allclose(learn.model.scorer().weights.toarray(), want, atol=1e-5)
    assert np.allclose(scores(learn)[1:], (m@want)[1:], atol=1e-4)
    with pytest.raises(ValueError, match='no timestamps'): fitted(Successors)

def test_new_clicks_leave_the_age_of_old_ones():
    learn = fitted(EASE, few_users(), recency=1.)
    rec,user = learn.recommender(),learn.dls.train_ds.items.userId.iloc[0]
    other = learn.dls.train_ds.items.userId.iloc[-1]
    new = rec.recommend(user, 1).item.iloc[0]
    more = rec.fold_in(pd.DataFrame(dict(userId=[user], movieId=[new])))
    before,after = (o.recommend(other, 5) for o in (rec,more))
    assert after.item.equals(before.item) and np.allclose(after.score, before.score, atol=1e-6)
    u,i = rec.ids[0].get_loc(user)+1,rec.ids[1].get_loc(new)+1
    change = (more.scorer.met-rec.scorer.met)[u].tocoo()
    change.eliminate_zeros()
    assert change.col.tolist()==[i] and change.data.tolist()==[1]
