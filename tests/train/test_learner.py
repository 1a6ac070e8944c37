"Learner, callbacks and metrics: exact numbers against a second way to get them"
import copy, math, warnings

import numpy as np, pytest, torch
from fastai.metrics import mae as fastai_mae, rmse as fastai_rmse
from fastai.tabular.all import AvgMetric, Callback, DataLoader, Module, nn, set_seed
from fastcollab.all import (BiasBaseline, BiasInterpretation, CollabDataLoaders, CollabLearner, ColdItemSplitter,
    DotProductBias, IdDropout, RatingMSE, ValidRMSE, baseline_rmse, collab_learner, create_params, load_learner, mae,
    movielens_fold,
    movielens, rmse, synthetic_ratings)
from hypothesis import given, settings, strategies as st

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn

@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=40), st.integers(1, 41))
def test_metrics_do_not_depend_on_batches(err, bs):
    "Summed over batches of any size, the metric is that of all rows, and fastai's"
    pred,targ = torch.tensor(err)[:,None],torch.zeros(len(err), 1)
    class L: loss_func = None
    for m,theirs in ((rmse,fastai_rmse),(mae,fastai_mae)):
        m.reset()
        for o in range(0, len(err), bs):
            L.pred,L.yb = pred[o:o+bs],(targ[o:o+bs],)
            m.accumulate(L)
        assert math.isclose(m.value, float(theirs(pred, targ)), rel_tol=1e-5, abs_tol=1e-6)
        assert math.isclose(m.value, float(m(pred, targ)), rel_tol=1e-5, abs_tol=1e-6)

def test_a_mean_of_batches_would_be_wrong(dls):
    "`rmse` as a fastai metric is exact; the mean over batches is another number"
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5),
        metrics=[rmse, mae, AvgMetric(lambda p,t: rmse(p, t))], fused=False), 1, 1e-2)
    _,r,a,wrong = learn.validate()
    pred,targ = learn.get_preds()
    assert math.isclose(r, float(((pred-targ)**2).mean()**.5), rel_tol=1e-5) and math.isclose(a,
        float((pred-targ).abs().mean()), rel_tol=1e-5)
    assert abs(wrong-r) > 1e-3

def test_rating_mse(dls):
    p,t = torch.tensor([1.,2.,4.]),torch.tensor([[1.],[3.],[2.]])
    assert RatingMSE()(p, t)==5/3 and torch.equal(RatingMSE('none')(p, t),
        torch.tensor([0.,1.,4.])) and RatingMSE('sum')(p, t)==5
    learn = collab_learner(dls, n_factors=4)
    losses = learn.get_preds(with_loss=True)[2]
    assert losses.shape == (len(dls.valid_ds),)

def test_valid_rmse_warm_and_cold(ratings):
    "The three columns are the errors of the rows they name, and the metrics of the user stay"
    splits = ColdItemSplitter(.1, seed=1)(ratings)
    valid = np.concatenate([splits[1], splits[0][:500]])
    dls = CollabDataLoaders.from_df(ratings, splits=(splits[0][500:], valid), bs=64)
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5), cbs=ValidRMSE(), metrics=mae), 2, 1e-2)
    pred,targ = learn.get_preds()
    cold = (dls.valid_ds.store.ids()==0).any(1)
    names,last = list(learn.recorder.metric_names),learn.recorder.values[-1]
    assert names == ['epoch','train_loss','valid_loss','mae','valid_rmse','warm_rmse','cold_rmse','time']
    for got,on in zip(last[3:], (cold|True, ~cold, cold)):
        assert math.isclose(got, float(rmse(pred[on], targ[on])), rel_tol=1e-5)
    assert [m.name for m in learn.metrics] == ['mae']

def test_valid_rmse_after_an_interrupted_fit(dls):
    class Stop(Callback):
        def after_batch(self): raise KeyboardInterrupt
    learn = collab_learner(dls, n_factors=4, cbs=ValidRMSE())
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Stop())
    quiet(learn, 1)
    assert list(learn.recorder.metric_names).count('valid_rmse') == 1 and len(learn.metrics) == 0

def test_id_dropout_in_training_only(dls):
    seen = dict(train=[], valid=[])
    class Look(Callback):
        order = 6
        def before_batch(self): seen['train' if self.training else 'valid'].append(self.x.clone())
    quiet(collab_learner(dls, n_factors=4, unk_p=.3, cbs=Look()), 3)
    share = [(torch.cat(o)==0).float().mean(0) for o in seen.values()]
    assert torch.allclose(share[0], torch.tensor([.3,.3]), atol=.02) and (share[1]==0).all()
    both = (torch.cat(seen['train'])==0).all(1).float().mean()
    assert abs(both-.09) < .02                                             # user and item are drawn independently

def test_unk_p_0_turns_it_off(dls):
    assert not collab_learner(dls, unk_p=0)._grab_cbs(IdDropout)
    assert collab_learner(dls)._grab_cbs(IdDropout)[0].p == .01

def test_bias_interpretation(dls):
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5), cbs=BiasInterpretation(3)), 2, 1e-2)
    table,bias = learn.bias_interpretation.table(),learn.model.biases(1)[1:]
    titles = np.array(dls.classes['title'])[1:]
    order = bias.argsort(descending=True)
    assert list(table.item) == [*titles[order[:3]], *titles[order[-3:]]] and list(table.liked) == ['most']*3+['least']*3
    assert np.allclose(table.bias, bias[torch.cat([order[:3], order[-3:]])])
    counts = dls.train_ds.items.title.value_counts()
    assert list(table.ratings) == [counts[o] for o in table.item]
    assert len(learn.bias_interpretation.epoch_tables) == 2 and not learn.bias_interpretation.table(0).equals(table)
    learn.get_preds()
    learn.predict(1, titles[0])
    assert learn.bias_interpretation.table().equals(table)

def test_predict_in_every_form(dls, ratings):
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 1, 1e-2)
    df = ratings[:5]
    want = learn.predict(df)
    enc = dls.train_ds.enc
    x = torch.tensor(np.stack([enc.encode_ids(o, df[o]) for o in enc.id_names], 1)).long()
    assert want.dtype==np.float32 and np.allclose(want, learn.model.eval()(x).detach().numpy(), atol=1e-6)
    pairs = list(zip(df.userId, df.title))
    assert np.allclose([learn.predict(u, t) for u,t in pairs], want, atol=1e-6) and isinstance(learn.predict(*pairs[0]),
        float)
    for users in (list(df.userId), df.userId, df.userId.to_numpy()):
        assert np.allclose(learn.predict(users, list(df.title)), want, atol=1e-6)
    assert np.allclose(learn.predict(pairs[0][0], [t for _,t in pairs])[0], want[0], atol=1e-6)
    assert np.allclose([learn.predict(df.iloc[0]), learn.predict(dict(df.iloc[0]))], want[0], atol=1e-6)
    assert len(learn.predict(ratings[:0])) == 0
    assert np.allclose(learn.predict(df[['title','userId']]), want, atol=1e-6)

def test_predictions_of_a_shuffled_table_follow_its_rows(dls, ratings):
    learn = collab_learner(dls, n_factors=4)
    perm = np.random.default_rng(0).permutation(len(ratings))
    assert np.allclose(learn.predict(ratings)[perm], learn.predict(ratings.iloc[perm]), atol=1e-6)

def test_warning_counts_unknown_ids_once(dls, ratings):
    learn = collab_learner(dls, n_factors=4)
    df = ratings[:10].assign(userId=[*ratings.userId[:7], 901, 902, 903])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        learn.predict(df)
    mine = [str(o.message) for o in caught if 'not seen' in str(o.message)]
    assert len(mine)==1 and '30.0%' in mine[0] and '901' in mine[0]

def test_squeezing_models_and_batches_of_one(dls):
    "A model that squeezes gives () for one row; the loss, the metric and the predictions are those of one row"
    class Squeeze(Module):
        def __init__(self): self.w = create_params(dls.n_items, 1)
        def forward(self, x): return self.w[x[:,1]].squeeze() + 3
    # a last batch of one row in both parts
    small = CollabDataLoaders.from_df(dls.train_ds.items, splits=(range(65), range(65, 98)), bs=32)
    learn = quiet(collab_learner(small, arch=Squeeze(), loss_func=nn.MSELoss(), metrics=rmse, unk_p=0), 1)
    pred,targ = learn.get_preds()
    assert pred.shape==targ.shape==(33,) and math.isclose(learn.validate()[0], float(((pred-targ)**2).mean()),
        rel_tol=1e-5)

def test_wrong_number_of_outputs_is_an_error(dls):
    class Two(Module):
        def __init__(self): self.w = create_params(dls.n_items, 2)
        def forward(self, x): return self.w[x[:,1]]
    with pytest.raises(ValueError, match='one number per row'): quiet(collab_learner(dls, arch=Two()), 1)

def test_same_seed_same_fit(ratings):
    res = []
    for _ in range(2):
        dls = CollabDataLoaders.from_df(ratings, seed=1)
        set_seed(1)
        res.append(quiet(collab_learner(dls, n_factors=4), 2, 1e-2).recorder.values)
    assert res[0] == res[1]

def test_ratings_at_the_ends_of_y_range_are_fine(dls):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        collab_learner(dls, y_range=(.5,5))

def test_emb_szs_in_every_form(dls):
    n,m = dls.n_users,dls.n_items
    for szs in ([5,7], (5,7), [(n,5),(m,7)], dict(userId=5, title=7), dict(userId=(n,5), title=(m,7))):
        model = collab_learner(dls, use_nn=True, emb_szs=szs).model
        assert (model.u_weight.weight.shape[1],model.i_weight.weight.shape[1]) == (5,7)
    assert collab_learner(dls, use_nn=True, emb_szs=dict(userId=5)).model.u_weight.weight.shape[1] == 5

def test_baselines_are_beaten(dls):
    base = baseline_rmse(dls)
    y = dls.valid_ds.store.ratings()
    assert math.isclose(base['global mean'], float(((y-dls.train_ds.store.mean())**2).mean()**.5), rel_tol=1e-5)
    assert base['user + item bias'] < base['global mean']

def test_close_to_the_truth():
    "A quality floor on ratings whose truth is known: within 4 % of the best possible"
    df = synthetic_ratings()
    dls = CollabDataLoaders.from_df(df, seed=42, bs=512)
    def error(seed):
        set_seed(seed)
        return quiet(collab_learner(dls, n_factors=5, y_range=(0,5.5)), 8, 2e-2, wd=.1).validate()[0]**.5
    valid = dls.valid_ds.items
    floor = np.sqrt(np.mean((df.attrs['truth'].expected(valid)-valid.rating)**2))
    assert np.mean([error(o) for o in range(3)]) < 1.04*floor

@pytest.mark.data
@pytest.mark.parametrize('which', ['small','u1'])
def test_quality_floor(data_dir, monkeypatch, which):
    "A number on real data, with a seed: the settings of benchmarks/foundation.py"
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    if which=='small':
        df,splits,bound,fit,kw = movielens('ml-latest-small'),None,.86,(6, 5e-3, .3),dict(n_factors=100,
            y_range=(0,5.5))
    else: (df,splits),bound,fit,kw = movielens_fold('ml-100k', 1),.92,(8, 5e-3, .4),dict(y_range=(.5,5.5), unk_p=0)
    dls = CollabDataLoaders.from_df(df, splits=splits, seed=42, bs=512)
    set_seed(0)
    assert quiet(collab_learner(dls, **kw), *fit[:2], wd=fit[2]).validate()[0]**.5 < bound

@pytest.mark.data
def test_newcomers_are_predicted_better_with_id_dropout(data_dir, monkeypatch):
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), splitter=ColdItemSplitter(.1, seed=42), seed=42,
        bs=512)
    res = []
    for p in (.1, 0):
        set_seed(0)
        res.append(quiet(collab_learner(dls, y_range=(0,5.5), unk_p=p), 6, 8e-3, wd=.3).validate()[0]**.5)
    assert res[0] < .95 < res[1]

@pytest.mark.cuda
def test_cuda_fit(ratings):
    dls = CollabDataLoaders.from_df(ratings, seed=1, device='cuda')
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5), cbs=[ValidRMSE(), BiasInterpretation()]), 3, 2e-2)
    assert next(learn.model.parameters()).is_cuda and learn.recorder.values[-1][2] < baseline_rmse(dls)['global mean']
    assert learn.predict(ratings[:3]).shape == (3,)

def test_validating_is_no_fit_for_the_bias_tables(dls):
    "`validate` has the events of a fit; the tables of the last fit stay"
    learn = collab_learner(dls, n_factors=3, cbs=BiasInterpretation(2))
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 5e-3)
        before = learn.bias_interpretation.table()
        learn.validate()
    assert len(learn.bias_interpretation.epoch_tables)==2 and learn.bias_interpretation.table().equals(before)

def test_id_dropout_draws_anew_with_other_loaders():
    "A loader that says nothing of its order has other ids replaced in each epoch"
    cb,draws = IdDropout(.5),[]
    cb.learn = CollabLearner(CollabDataLoaders.from_df(synthetic_ratings(30, 20, 300)), torch.nn.Linear(1, 1))
    cb.learn.iter,cb.learn.dl = 0,DataLoader([1,2,3], bs=2)
    for _ in range(2):
        cb.learn.xb,cb.learn.yb = (torch.ones(50, 2, dtype=torch.long),),()
        cb.before_batch()
        draws.append(cb.x)
    assert not torch.equal(*draws)

# One recommender for many questions

@pytest.fixture
def copies(monkeypatch):
    "How often a recommender is built"
    import fastcollab.train.learner as module
    n,build = [],module.export_recommender
    monkeypatch.setattr(module, 'export_recommender', lambda *args: n.append(1) or build(*args))
    return n

def test_the_recommender_is_built_once(dls, ratings, copies):
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 1, 1e-2)
    first = learn.recommend(1, k=3)
    learn.similar_items(first.item[0], k=3)
    learn.explain(1, first.item[0])
    learn.fold_in(ratings[:3].assign(userId=-1))
    assert learn.recommend(1, k=3).equals(first) and len(copies)==1
    learn.predict(ratings[:5]), learn.validate(), learn.get_preds()          # reading changes nothing
    assert learn.recommend(1, k=3).equals(first) and len(copies)==1

def test_a_change_makes_a_new_recommender(dls, tmp_path, copies):
    learn = quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 1, 1e-2)
    learn.path = tmp_path
    learn.save('m')
    def fresh(f):
        "Does `f` change the learner, so that lists are those of a new recommender?"
        before = len(copies)
        f()
        res = learn.recommend([1,2], k=5)
        return len(copies)==before+1 and res.equals(learn.recommender().recommend([1,2], k=5))
    def add():
        with torch.no_grad(): learn.model.i_bias.weight.add_(torch.randn(dls.n_items, 1))
    def replace(): learn.model = DotProductBias.from_dls(dls, n_factors=4)
    def interrupted():
        class Stop(Callback):
            def after_batch(self): raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-1, cbs=Stop())
    for f in (lambda: None, lambda: quiet(learn, 1, 1e-2), add, lambda: learn.load('m'), interrupted, replace):
        assert fresh(f), f

def test_the_recommender_is_not_exported(dls, tmp_path):
    learn = collab_learner(dls, n_factors=4)
    learn.path = tmp_path
    learn.export('a.pkl')
    learn.recommend(1)
    learn.export('b.pkl')
    assert (tmp_path/'b.pkl').stat().st_size<=(tmp_path/'a.pkl').stat().st_size+100
    assert load_learner(tmp_path/'b.pkl')._recommender is None and copy.deepcopy(learn)._recommender is None

def test_one_number_per_row(dls):
    "Predictions, targets and losses of a learner are (n,), for each shape that a model may return"
    class Column(Module):
        def __init__(self): self.w = create_params(dls.n_items, 1)
        def forward(self, x): return self.w[x[:,1]]
    for model in (Column(),None):
        learn = collab_learner(dls, arch=model)
        outputs = learn.get_preds(with_loss=True)
        assert [o.shape for o in outputs] == [(len(dls.valid_ds),)]*3
        assert torch.allclose((outputs[0]-outputs[1])**2, outputs[2], atol=1e-5)

@pytest.mark.parametrize('what', ['closed form','frozen','lr_find'])
def test_nothing_to_train(dls, what):
    "Steps that would move nothing are one error in words, which leaves the learner as it was"
    made = dict(arch=BiasBaseline.from_dls(dls)) if what=='closed form' else dict(n_factors=4)
    learn = collab_learner(dls, **made)
    if what!='closed form':
        for p in learn.model.parameters(): p.requires_grad_(False)
    with pytest.raises(ValueError, match='no parameter of .* is trained in steps'):
        learn.lr_find() if what=='lr_find' else quiet(learn, 1)
    assert np.isfinite(learn.get_preds()[0]).all() and np.isfinite(learn.validate()[0])

def test_a_model_in_closed_form_is_exported(dls, tmp_path):
    "Although an optimizer would hold nothing"
    learn = collab_learner(dls, arch=BiasBaseline.from_dls(dls), path=tmp_path)
    learn.export('e.pkl')
    learn.save('weights')
    some = dls.valid_ds.items[:5]
    assert np.allclose(load_learner(tmp_path/'e.pkl').predict(some), learn.load('weights').predict(some))
