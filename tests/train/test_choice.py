"`fit_auto`: the hidden part, the budget, the choice, and what comes of it"
import warnings

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import (CollabDataLoaders, LeadEnsemble, PosteriorAverage, baseline_rmse, collab_learner,
    load_learner, rmse, synthetic_ratings)
from fastcollab.data.ratings import count_like
from fastcollab.train.choice import AutoChoice, auto_plan, choose, trial_loaders
from fastcollab.train.learner import fit_choice
from hypothesis import given, settings, strategies as st

FRAME = synthetic_ratings(120, 80, 2500, seed=5).assign(timestamp=lambda d: 10**9+d.timestamp%5*86400)
def loaders(df=FRAME, **kwargs): return CollabDataLoaders.from_df(df, **{**dict(seed=1, bs=64), **kwargs})
def auto(dls=None, **kwargs):
    learn = collab_learner(dls or loaders(), arch='auto', n_factors=8, metrics=rmse)
    with learn.no_bar(), learn.no_logging(): learn.fit_auto(**kwargs)
    return learn

def test_the_hidden_part_is_of_training_only():
    dls = loaders(genre_name='genres', time_name='timestamp')
    trial = trial_loaders(dls, seed=3)
    train,hidden = trial.train_ds,trial.valid_ds
    assert sorted([*train.index,*hidden.index])==sorted(dls.train_ds.index) and len(hidden)==len(dls.train_ds)//10
    assert not set(hidden.index)&set(dls.valid_ds.index)
    assert np.allclose(hidden.store.ratings()[:,0], FRAME.rating[hidden.index])
    same = trial_loaders(dls, seed=3).valid_ds
    assert torch.equal(same.store.ids(), hidden.store.ids()) and torch.equal(same.rows(torch.arange(9))[0],
        hidden.rows(torch.arange(9))[0])
    assert not torch.equal(trial_loaders(dls, seed=4).valid_ds.store.ids(), hidden.store.ids())

def test_hidden_newcomers_are_unknown_and_keep_their_features():
    df = pd.concat([FRAME, pd.DataFrame(dict(userId=range(1000, 1200), movieId=2000+np.arange(200), rating=4.,
        genres='rare', title='new'))], ignore_index=True)
    dls = loaders(df, genre_name='genres', splits=(np.arange(len(df)),np.arange(0)))
    hidden = trial_loaders(dls).valid_ds
    new = df.userId[hidden.index].to_numpy()>=1000
    x = hidden.rows(torch.arange(len(hidden)))[0]
    assert new.sum()>5 and (x[new,:2]==0).all() and (x[~new,:2]>0).all()
    assert (x[new,2]==dls.classes['genres'].o2i['rare']).all()

@settings(max_examples=100, deadline=None)
@given(st.integers(1, 10**8), st.integers(1, 10**6), st.integers(1, 64), st.floats(.01, 1e4))
def test_a_larger_budget_tries_more(n, n_ids, k, budget):
    small,large = (auto_plan(n, n_ids, k, 12, o) for o in (budget,2*budget))
    assert (small.trial,small.adam)<=(large.trial,large.adam)
    assert small.alone>=30 and (small.trial or not small.adam)

def test_the_budget_grows_with_the_ratings():
    assert [auto_plan(n, 100, 16, 12).budget for n in (1000,100_000,10**6)]==[30,30,300]
    assert auto_plan(1000, 100, 16, 12, sampler=False).alone==0

@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_no_choice_is_worse_than_the_averages(seed):
    "On the ratings that it was made on"
    rng = np.random.default_rng(seed)
    y = rng.normal(3, 1, 200)
    preds = {k:y+rng.normal(0, rng.uniform(.2, 3), 200) for k in ('mean','averages','gibbs','adam')}
    choice = choose(preds, y)
    assert choice.errors[choice.name]<=min(choice.errors[k] for k in ('mean','averages'))+1e-12
    assert sum(choice.weights.values())==pytest.approx(1)

def test_adam_and_a_blend_have_to_be_clearly_better():
    rng = np.random.default_rng(0)
    y = rng.normal(3, 1, 500)
    preds = dict(mean=y*0+3, averages=y+.9, gibbs=y+.5, adam=y+np.where(np.arange(500)%2, .49, .5))
    assert choose(preds, y).weights==dict(adam=1.)      # better on every second rating, worse on none
    preds['adam'] = y+np.r_[[2.]*5,[.45]*495]           # better, but five ratings decide by how much
    choice = choose(preds, y)
    assert choice.errors['blend']<choice.errors['adam']<choice.errors['gibbs'] and choice.weights==dict(gibbs=1.)

def test_without_structure_the_averages_win():
    rng = np.random.default_rng(0)
    df = FRAME.assign(rating=rng.integers(1, 6, len(FRAME)).astype(float))
    learn = auto(loaders(df))
    assert learn.validate()[1]<=baseline_rmse(learn.dls).iloc[0]*1.02

def test_counts_get_the_mean():
    "Plays: a few enormous numbers"
    rng = np.random.default_rng(0)
    df = FRAME.assign(rating=np.floor(rng.lognormal(4, 2, len(FRAME))))
    assert count_like(df.rating.to_numpy()) and not count_like(FRAME.rating.to_numpy())
    learn = auto(loaders(df))
    assert learn.auto_choice.name in ('mean','averages')
    assert learn.validate()[1]<=baseline_rmse(learn.dls).iloc[0]*1.001
    assert len(learn.recommend(FRAME.userId[0], k=3))==3

def test_little_time():
    learn = auto(budget=.001)
    assert learn.auto_choice.errors=={} and learn.auto_choice.sweeps==30 and isinstance(learn.model, PosteriorAverage)
    assert 'no time' in repr(learn.auto_choice)

def test_a_blend_answers_everything(tmp_path):
    learn = collab_learner(loaders(genre_name='genres', time_name='timestamp'), arch='auto', n_factors=8, metrics=rmse)
    choice = AutoChoice(dict(gibbs=.7, adam=.3), sweeps=30)
    with learn.no_bar(), learn.no_logging(): fit_choice(learn, choice, seed=0)
    assert isinstance(learn.model, LeadEnsemble) and learn.validate()[1]<baseline_rmse(learn.dls).iloc[1]
    user,item = FRAME.userId[0],FRAME.movieId[0]
    assert len(learn.recommend(user, k=3))==3 and len(learn.explain(user, item)) and len(learn.similar_items(item, 3))
    new = pd.DataFrame(dict(userId=[10**6]*3, movieId=FRAME.movieId[:3], rating=[5.,1,3]))
    assert len(learn.fold_in(new).recommend([10**6], k=4))==4
    assert len(learn.predict(user, [item], interval=.8))==1
    want = learn.predict(FRAME[:50])
    learn.export(tmp_path/'export.pkl')
    assert np.allclose(load_learner(tmp_path/'export.pkl').predict(FRAME[:50]), want)
    learn.path = tmp_path
    learn.save('m')
    assert np.allclose(learn.load('m').predict(FRAME[:50]), want)
    parts = [m.eval()(x) for m in learn.model.models for x in [learn.dls.valid_ds.rows(torch.arange(30))[0]]]
    assert torch.allclose(learn.model.eval()(learn.dls.valid_ds.rows(torch.arange(30))[0]), .7*parts[0]+.3*parts[1])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with learn.no_bar(), learn.no_logging(): fit_choice(learn, AutoChoice(dict(adam=1.)), seed=0)

def test_the_choice_reports_its_evidence():
    lines = []
    learn = collab_learner(loaders(), arch='auto', n_factors=8)
    with learn.no_bar():
        learn.logger = lines.append
        learn.fit_auto()
    assert 'hidden training ratings' in lines[0] and 'chosen' in lines[0]
    assert learn.auto_choice.n==len(learn.dls.train_ds)//10
