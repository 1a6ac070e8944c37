"session effects: the Gaussian process by hand, what they leave alone, and when they are learned"
import subprocess, sys

import numpy as np, pytest, torch
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastcollab.all import (PosteriorAverage, Callback, CollabDataLoaders, DotProductBias, FitSessionEffects,
    SessionEffects, L1LossFlat, OrdinalLoss, SVDPlusPlus, collab_learner, ensemble, rmse, set_seed, synthetic_ratings)
from hypothesis import given, settings, strategies as st

def by_hand(users, secs, errors, ask_users, ask_secs):
    "The posterior mean, with a matrix of all ratings"
    def k(u, t, v, s): return (u[:,None]==v)*sum(a*np.exp(-np.abs(t[:,None]-s)/r) for a,r in ((.1,20),(.15,600)))
    known = (users>0)&(secs>0)
    u,t,e = users[known],secs[known],errors[known]
    res = k(ask_users, ask_secs, u, t)@np.linalg.solve(k(u, t, u, t)+np.eye(len(u)), e)
    return np.where((ask_users>0)&(ask_secs>0), res, 0)

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([30,5000,2**30]))
def test_equals_the_textbook(seed, span):
    "Users in any order, ratings of the same second, unknown users and times, close together and far apart"
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 60))
    users,secs,errors = rng.integers(0, 5, n),rng.integers(0, span, n)*(rng.random(n)<.9),rng.normal(size=n)
    ask = rng.integers(0, 7, 80),rng.integers(0, span+span//5, 80)*(rng.random(80)<.9)
    got = SessionEffects().fit(*map(torch.from_numpy, (users,secs,errors)))(*map(torch.from_numpy, ask))
    assert got.shape==(80,) and np.allclose(got, by_hand(users, secs, errors, *ask), atol=1e-4)

def sittings(n_users=60, seed=0):
    "Ratings whose users have a mood in each sitting, of some twenty minutes"
    df = synthetic_ratings(n_users, 40, 1800, seed=5).sort_values('userId').reset_index(drop=True)
    rng,n = np.random.default_rng(seed),np.arange(len(df))
    mood = rng.normal(size=len(df))[n//15]
    return df.assign(rating=((df.rating+mood)*2).round().clip(1, 10)/2, timestamp=10**9+n//15*86400*3+n%15*60)

DF = sittings()
def loaders(df=DF, time='timestamp', **kwargs):
    return CollabDataLoaders.from_df(df, seed=1, bs=64, time_name=time, **kwargs)
def best(dls, epochs=3, **kwargs):
    set_seed(0)
    learn = collab_learner(dls, arch='auto', n_factors=5, metrics=rmse, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=[.3,.4])
    return learn

def test_the_best_model_has_moods_and_no_days():
    learn = best(loaders())
    m = learn.model
    assert m.timestamps==() and len(m.session_effects)==len(learn.dls.train_ds)
    before,after = (o[2] for o in learn.recorder.values[-2:])
    assert after<.95*before
    none = best(loaders(time=None))
    assert not len(none.model.session_effects) and not any(isinstance(cb, FitSessionEffects) for cb in none.cbs)

def test_lists_know_no_moods(recwarn):
    "A prediction without a time, and all lists, are those of the model below"
    learn = best(loaders())
    plain,with_time = learn.predict(DF.drop(columns='timestamp')),learn.predict(DF)
    assert np.abs(plain-with_time).max()>.3 and with_time.min()>=.25 and with_time.max()<=5.25
    rec = learn.recommender()
    assert not [o for o in recwarn if 'time' in str(o.message)] and np.allclose(rec.predict(DF), plain, atol=1e-4)
    later = learn.predict(DF.assign(timestamp=DF.timestamp+10**7))
    assert np.allclose(later, plain, atol=1e-4)
    learn.model.session_effects.clear()
    assert np.allclose(learn.predict(DF), plain, atol=1e-6)

def test_learned_anew_by_each_fit():
    "Errors are those of the model without session effects, however often it is trained"
    learn = best(loaders())
    first = {k:v.clone() for k,v in learn.model.session_effects.state_dict().items()}
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 0.)
    for k,v in learn.model.session_effects.state_dict().items(): assert torch.allclose(v, first[k], atol=1e-4)

def test_saved_loaded_exported(tmp_path):
    learn = best(loaders())
    learn.path = tmp_path
    want = learn.predict(DF)
    learn.save('m')
    other = best(loaders(), 1)
    other.path = tmp_path
    other.load('m')
    assert np.array_equal(other.predict(DF), want)
    new = collab_learner(loaders(), arch='auto', n_factors=5)
    new.path = tmp_path
    new.load('m')
    assert np.array_equal(new.predict(DF), want)
    learn.export('l.pkl')
    from fastai.learner import load_learner
    assert np.array_equal(load_learner(tmp_path/'l.pkl').predict(DF), want)

def test_fits_that_end_early(tmp_path):
    "An early stop, and weights of another epoch that come back, still leave session effects that fit them"
    for cb in (EarlyStoppingCallback('rmse', comp=np.less, min_delta=10, patience=1),
        SaveModelCallback('rmse', comp=np.less, min_delta=10)):
        dls = loaders()
        dls.path = tmp_path
        learn = best(dls, 5, cbs=cb)
        m = learn.model
        assert len(m.session_effects)==len(dls.train_ds)
        have = m.session_effects.before.clone()
        next(o for o in learn.cbs if isinstance(o, FitSessionEffects)).session_effects.clear()
        next(o for o in learn.cbs if isinstance(o, FitSessionEffects)).fit_effects()
        assert torch.allclose(m.session_effects.before, have, atol=1e-5)

def test_the_rate_finder_learns_none(tmp_path):
    dls = loaders()
    dls.path = tmp_path
    learn = collab_learner(dls, arch='auto', n_factors=5)
    with learn.no_bar(), learn.no_logging(): learn.lr_find(show_plot=False, num_it=20)
    assert not len(learn.model.session_effects)

def test_chains_and_ensembles():
    "A chain fits session effects to its mean predictions; those of an ensemble are weighted like its predictions"
    dls = loaders()
    chain = collab_learner(dls, arch=SVDPlusPlus, n_factors=4, config=dict(timestamps=()))
    with chain.no_bar(), chain.no_logging(): chain.fit_gibbs(20)
    assert isinstance(chain.model, PosteriorAverage) and len(chain.model.model.session_effects)==len(dls.train_ds)
    learn = best(loaders())
    both = ensemble([learn,chain], weights=[.5,.5])
    assert np.allclose(both.predict(DF), (learn.predict(DF)+chain.predict(DF))/2, atol=1e-5)
    assert not len(both.recommender().scorer.model.models[0].session_effects) and len(both.model.models[
        0].session_effects)

def test_interrupted_fits():
    "Session effects come from the last complete fit, whatever was interrupted before it; `validate` learns none"
    class Stop(Callback):
        def __init__(self, event, epoch): self.event,self.at = event,epoch
        def __call__(self, name):
            if name==self.event and self.epoch==self.at: raise KeyboardInterrupt
            return super().__call__(name)
    for event,epoch in (('before_batch',1), ('before_validate',2)):
        learn = best(loaders())
        with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt):
            learn.fit(3, 1e-3, cbs=Stop(event, epoch))
        first = [learn.validate()[1] for _ in range(2)]
        assert first[0]==first[1]
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.)
        have = learn.model.session_effects.before.clone()
        next(o for o in learn.cbs if isinstance(o, FitSessionEffects)).fit_effects()
        assert torch.allclose(learn.model.session_effects.before, have, atol=1e-5)

def test_twice_is_once():
    a,b = best(loaders()),best(loaders(), cbs=FitSessionEffects())
    assert torch.allclose(a.model.session_effects.before, b.model.session_effects.before, atol=1e-5)

def test_another_loss_keeps_tables_of_days():
    learn = best(loaders(), 1, loss_func=L1LossFlat())
    assert len(learn.model.timestamps)==3 and not any(isinstance(o, FitSessionEffects) for o in learn.cbs)

@pytest.mark.slow
def test_without_numba():
    "Where nothing can be compiled, the same in Python"
    code = """import sys; sys.modules['numba'] = None
import torch
from fastcollab.models.session import SessionEffects
effects = SessionEffects().fit(torch.tensor([1,1]), torch.tensor([100,110]), torch.tensor([1.,.5]))
print(effects(torch.tensor([1]), torch.tensor([105])).item())"""
    got = float(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
        check=True).stdout)
    assert abs(got-by_hand(*map(np.array, ([1,1],[100,110],[1.,.5],[1],[105])))[0])<1e-5

ERRORS = [('diverged', lambda dls: SessionEffects().fit(torch.tensor([1,2]), torch.tensor([5,5]),
    torch.tensor([1.,np.nan])), lambda: None, ValueError, ['1 of 2','row 2','lower rate']),
    ('times of one only', lambda dls: ensemble([best(dls, 1),best(loaders(time=None), 1)], weights=[1,0]), loaders,
        ValueError, ['learner 1','times']),
    ('no session effects', lambda dls: collab_learner(dls, arch=DotProductBias, y_range=(0,5.5),
        cbs=FitSessionEffects()), loaders, TypeError, ['DotProductBias has no session effects']),
    ('no times', lambda dls: collab_learner(dls, arch=SVDPlusPlus, y_range=(0,5.5), cbs=FitSessionEffects()),
        lambda: loaders(time=None), ValueError, ['no times','time_name=']),
    ('another loss', lambda dls: collab_learner(dls, arch=SVDPlusPlus, loss_func=OrdinalLoss.from_dls(dls),
        cbs=FitSessionEffects()), loaders, TypeError, ['RatingMSE','OrdinalLoss'])]
@pytest.mark.parametrize('name,make,dls,kind,words', ERRORS, ids=[o[0] for o in ERRORS])
def test_errors(name, make, dls, kind, words):
    with pytest.raises(kind) as e:
        learn = make(dls())
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert all(o in str(e.value) for o in words)

@pytest.mark.cuda
def test_cuda():
    learn = best(loaders(device='cuda'))
    want = learn.predict(DF)
    assert len(learn.model.session_effects)==len(
        learn.dls.train_ds) and learn.model.session_effects.key.device.type=='cuda'
    learn.model.cpu()
    assert np.allclose(learn.predict(DF), want, atol=1e-4)
