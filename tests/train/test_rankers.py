"`arch='auto'` for clicks: never below the baselines on what it hides, saved mixes, and what it looks at"
import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import Callback, CollabDataLoaders, EASE, ItemKNN, LastShareSplitter, NDCG, RankEnsemble
from fastcollab.all import Recommender, collab_learner, ensemble, load_learner, synthetic_ratings
from fastcollab.train import rankers
from fastcollab.train.rankers import Ranker, RankerChoice, Trial, choose_rankers, fit_ranker, fit_rankers, mix, search
from fastcollab.train.rankers import looks_ahead, row_seconds, widen

CLICKS = synthetic_ratings(150, 60, 3000, seed=5)[['userId','movieId']]
def loaders(**kwargs): return CollabDataLoaders.from_interactions(CLICKS, **{**dict(seed=1, bs=64), **kwargs})

@pytest.fixture(scope='module')
def learn():
    res = collab_learner(loaders(), arch='auto', metrics=NDCG(10))
    with res.no_logging(): res.fit_auto()
    return res

def test_never_below_the_baselines_on_what_is_hidden(learn):
    values = learn.auto_choice.ndcg
    assert values['mix']>=max(v for k,v in values.items() if k!='mix')-1e-9
    assert {'popular','itemknn'}<=set(values) and 'fitting' in str(learn.auto_choice)
    assert learn.validate()[1]>0

def test_a_mix_below_the_baselines_gives_way_to_the_best_ranker(monkeypatch):
    def worst(scores, quality, *args): return {min(scores, key=lambda k: quality(scores[k])):1.}
    monkeypatch.setattr(rankers, 'mix', worst)
    monkeypatch.setattr(rankers, 'widen', lambda weights, *args: weights)
    choice = choose_rankers(loaders())
    singles = {k:v for k,v in choice.ndcg.items() if k!='mix'}
    lead = max(singles, key=singles.get)
    assert [str(o) for o in choice.rankers]==[lead] and choice.ndcg['mix']==singles[lead]

def test_the_choice_looks_at_the_training_part_only():
    "Other held-out rows don't change it"
    rows = np.random.default_rng(0).permutation(len(CLICKS))
    a,b = (choose_rankers(loaders(splits=(np.sort(rows[:2000]), np.sort(o)))) for o in (rows[2000:2400],rows[2400:]))
    assert a.ndcg==b.ndcg and str(a)==str(b)

def test_lists_of_a_mix_are_saved(tmp_path):
    dls = loaders()
    rankers = [Ranker('als', dict(n_factors=8, reg=10.)),Ranker('ease', dict(reg=50.)),Ranker('popular')]
    learn = collab_learner(dls, arch=fit_rankers(RankerChoice(rankers, [1.,.5,.1], {}), dls))
    assert isinstance(learn.model, RankEnsemble)
    rec = learn.recommender()
    rec.save(tmp_path/'rec')
    top = rec.recommend(k=5)
    assert Recommender.load(tmp_path/'rec').recommend(k=5).equals(top)
    assert np.allclose(learn.predict(top.user, top.item), top.score, atol=1e-4)
    assert len(rec.similar_items(CLICKS.movieId.iloc[0], 3))==3
    learn.export(tmp_path/'l.pkl')
    assert load_learner(tmp_path/'l.pkl').recommend(k=5).item.equals(top.item)
    with pytest.raises(TypeError, match='fold_in_items needs fold terms of items'):
        rec.fold_in_items(CLICKS.head(2).assign(movieId=[9991,9992]))

def mixed(seed=1):
    "A mix of ALS and EASE on all clicks"
    dls = loaders(valid_pct=0)
    rankers = [Ranker('als', dict(n_factors=8, reg=10.)),Ranker('ease', dict(reg=50.))]
    return collab_learner(dls, arch=fit_rankers(RankerChoice(rankers, [1.,.5], {}), dls))

def test_a_mix_folds_in_new_users(tmp_path):
    "One with the clicks of a known user gets the same list, from a file too"
    rec,user = mixed().recommender(),CLICKS.userId.iloc[0]
    own = CLICKS[CLICKS.userId==user]
    rec.save(tmp_path/'rec')
    for o in (rec,Recommender.load(tmp_path/'rec')):
        more = o.fold_in(own.assign(userId=9999))
        both = [more.recommend(u, 8) for u in (user,9999)]
        assert both[0]['item'].equals(both[1]['item']) and np.allclose(both[0].score, both[1].score, atol=1e-3)
        assert more.fold_in(own.head(2).assign(userId=9998)).n_users==rec.n_users+2

def test_a_mix_folds_in_new_items():
    "A copy of an item scores like it"
    rec,item = mixed().recommender(),CLICKS.movieId.value_counts().index[2]
    own = CLICKS[CLICKS.movieId==item]
    more = rec.fold_in_items(own.assign(movieId=9999))
    users = CLICKS.userId.unique()[:50]
    a,b = (more.predict(users, [o]*50) for o in (item,9999))
    assert np.corrcoef(a, b)[0,1]>.8

def test_a_mix_explains_its_scores():
    "The parts sum to the score; by hand for one of the clicks"
    learn,user = mixed(),CLICKS.userId.iloc[0]
    rec = learn.recommender()
    top = rec.recommend(user, 1)
    why = rec.explain(user, top['item'][0], k=None)
    assert why.stars.sum()==pytest.approx(top.score[0], abs=1e-5)
    assert abs(why[why.part=='remainder'].stars.item())<.02 and (why.part=='rated').sum()==(CLICKS.userId==user).sum()
    assert rec.explain(user, top['item'][0], k=3).stars.sum()==pytest.approx(top.score[0], abs=1e-5)
    als,ease = rec.parts
    click = why[why.part=='rated'].iloc[0]
    u,i,j = (rec.ids[k].get_loc(o)+1 for k,o in ((0,user),(1,top['item'][0]),(1,click['item'])))
    def z(scorer, parts): return (parts[i]-parts[1:].mean())/scorer.block(torch.tensor([u])).double().std(correction=0)
    V,(alpha,reg,growth),n = als.scorer.factors(1).vec.double(),als.terms[0].clicks,(CLICKS.userId==user).sum()
    met = V[[rec.ids[1].get_loc(o)+1 for o in CLICKS[CLICKS.userId==user].movieId]]
    A = V[1:].T@V[1:]+alpha*met.T@met+reg*(alpha*n)**growth*torch.eye(8, dtype=torch.float64)
    by_als = (1+alpha)*V[j]@torch.linalg.solve(A, V.T)
    by_ease = torch.from_numpy(ease.scorer.weights[j]).double()
    assert z(als.scorer, by_als)+.5*z(ease.scorer, by_ease)==pytest.approx(click.stars, abs=1e-4)

def test_what_auto_returns_takes_in_new_users(learn):
    "Whatever it chose"
    rec,own = learn.recommender(),CLICKS[CLICKS.userId==CLICKS.userId.iloc[0]]
    more = learn.fold_in(own.assign(userId=9999))
    assert not set(own.movieId)&set(more.recommend(9999, 5)['item']) and len(learn.explain(own.userId.iloc[0],
        learn.recommend(own.userId.iloc[0], 1)['item'][0]))>3

def test_scores_of_a_mix_by_hand():
    dls = loaders()
    models = [fit_ranker(o, dls) for o in (Ranker('als', dict(n_factors=8, reg=10.)),Ranker('ease'))]
    u = torch.tensor([1,5])
    def z(m):
        s = m.predictions(u).detach()[:,1:]
        return (s-s.mean(1, keepdim=True))/s.std(1, correction=0, keepdim=True)
    got = RankEnsemble(models, [1,.5]).scorer().block(u)
    assert torch.allclose(got, z(models[0])+.5*z(models[1]), atol=1e-4)

def test_search_and_mix_by_hand():
    "The peak of a parabola; and two rankers that are right about different users"
    best = search(Ranker('als', dict(reg=4.)), dict(reg=(.5,2.,3.)), lambda o: -(o.config['reg']-9)**2)
    assert best.config['reg']==8
    a,b = torch.tensor([[1.,0],[0,0]]),torch.tensor([[0.,0],[0,1]])
    right = torch.tensor([[1.,0],[0,1]])
    weights = mix(dict(a=a, b=b), lambda s: 1-(s-right).abs().mean().item())
    assert set(weights)=={'a','b'}

def test_the_mean_of_a_group_leads_unless_a_single_ranker_is_clearly_better():
    "Lists are told apart by what is right; a lead of a thousandth is noise, and one of a tenth isn't"
    scores = dict(a=torch.tensor([1.]), b=torch.tensor([.9]))
    for of_mean,lead in ((.999,{'a':.5,'b':.5}),(.9,{'a':1.})):
        values = {1.:1., .9:.8, .95:of_mean}
        assert mix(scores, lambda s: values.get(round(s.item(), 4), 0.), ['a','b'])==lead

def test_good_rankers_of_other_kinds_join_a_mix():
    "One of each kind, if it is near the best, and none if the mix falls behind it, at any scale of the weights"
    scores = {k:torch.tensor([v]) for k,v in dict(a=1., b=.95, c=.92, d=.5, e=.99).items()}
    kinds = dict(a='als', b='ease', c='ease', d='slim', e='als')
    def ndcg(s): return min(1., s.item())
    got = widen({'a':2.}, kinds, scores, ndcg)
    assert got=={'a':2.,'b':.05*2}
    assert widen({'a':1.}, kinds, scores, lambda s: s.item() if s.item()<=1 else 0.)=={'a':1.}

def test_a_budget_ends_the_search_early_and_callbacks_are_refused():
    choice = choose_rankers(loaders(), seconds=0)
    assert list(choice.ndcg)==['popular','mix']
    learn = collab_learner(loaders(), arch='auto')
    with pytest.raises(ValueError, match='never called'): learn.fit_auto(cbs=[Callback()])

def test_hidden_parts_are_left_out_of_training():
    dls = loaders()
    for part in Trial(dls).parts:
        hidden = set(zip(part.users[part.held.nonzero()[0]].tolist(), part.held.nonzero()[1].tolist()))
        assert not hidden & set(map(tuple, part.dls.train_ds.store.ids().tolist())) and len(hidden)>100

def test_ensemble_of_learners_of_clicks():
    dls = loaders()
    learners = [collab_learner(dls, arch=o, metrics=NDCG(10)) for o in (EASE,ItemKNN)]
    for o in learners:
        with o.no_bar(), o.no_logging(): o.fit(1)
    mixed = ensemble(learners)
    assert mixed.model.weights.tolist()==[1,1] and mixed.validate()[1]>0
    one = ensemble(learners, [1,0]).recommend(k=3)
    assert one.item.equals(learners[0].recommend(k=3).item)

# ---- Times
def sequences(n_users=60, n_items=30, n=15, seed=0):
    "Users who go from an item to one of the next three, again and again"
    rng = np.random.default_rng(seed)
    items = (rng.integers(0, n_items, (n_users,1))+rng.integers(1, 4, (n_users,n)).cumsum(1))%n_items
    users,times = np.repeat(np.arange(n_users), n),1_500_000_000+np.arange(items.size)
    return pd.DataFrame(dict(user=users, item=items.ravel(), time=times)).drop_duplicates(['user','item'])

def test_what_is_hidden_is_what_is_asked():
    df = sequences()
    ahead = LastShareSplitter(.2, time_name='time')
    def dls(**kwargs): return CollabDataLoaders.from_interactions(df, time_name='time', seed=1, bs=64, **kwargs)
    assert looks_ahead(dls(splitter=ahead)) and looks_ahead(dls(valid_pct=0))
    assert not looks_ahead(dls()) and not looks_ahead(loaders())
    part, = Trial(dls(splitter=ahead)).parts
    train,hidden = part.dls.train_ds,part.dls.valid_ds
    newest = pd.Series(row_seconds(train)).groupby(train.store.arrays()[0][:,0]).max()
    assert (row_seconds(hidden)>newest[hidden.store.arrays()[0][:,0]].to_numpy()).all()
    assert len(Trial(dls()).parts)==3

def test_the_future_of_sequences_is_found():
    df = sequences()
    learn = collab_learner(CollabDataLoaders.from_interactions(df, time_name='time', bs=64, seed=1,
        splitter=LastShareSplitter(.2, time_name='time')), arch='auto', metrics=NDCG(5))
    with learn.no_logging(): learn.fit_auto()
    values,what = learn.auto_choice.ndcg,str(learn.auto_choice)
    assert max((k for k in values if k!='mix'), key=values.get).startswith('successors') and 'newest fifth' in what
    assert 'successors' in what.splitlines()[-1]
    random = choose_rankers(CollabDataLoaders.from_interactions(df, time_name='time', bs=64, seed=1))
    assert not any('recency' in k or 'successors' in k for k in random.ndcg)

def test_what_takes_too_long_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(rankers, 'EASE_ROOM', 0)
    choice = choose_rankers(loaders())
    assert 'not tried: ease: an inverse of 61 rows' in str(choice)
    assert not any(k.startswith('ease') for k in choice.ndcg)

def test_mixes_are_compared_on_few_items():
    trial = Trial(loaders())
    scores = {str(o):trial.scores(o) for o in (Ranker('popular'),Ranker('itemknn'),Ranker('ease', dict(reg=50.)))}
    few,items = trial.narrow(scores, 20)
    assert items.shape[1]<trial.held.shape[1]
    def same(a, b): return abs(trial.ndcg(a, items)-trial.ndcg(b))<2e-3      # ties of popularity in another order
    assert all(same(few[k], scores[k]) for k in scores) and same(sum(few.values()), sum(scores.values()))
