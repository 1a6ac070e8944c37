"One line after a fit: how good the model is, and what to do"
import re, warnings

import pandas as pd, pytest, torch
from fastai.callback.tracker import SaveModelCallback
from fastcollab.data.loaders import CollabDataLoaders
from fastcollab.data.ratings import order_question
from fastcollab.data.synthetic import synthetic_ratings
from fastcollab.losses import OrdinalLoss
from fastcollab.models.neighbors import EASE
from fastcollab.train.learner import collab_learner, learner_verdict
from fastcollab.train.verdict import baseline_rmse, baselines

FRAME = synthetic_ratings(120, 80, 3000, seed=1)

@pytest.fixture
def dls(): return CollabDataLoaders.from_df(FRAME, seed=1, bs=64)

def fitted(dls, epochs=1, **kwargs):
    learn = collab_learner(dls, n_factors=4, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-2)
    return learn

def verdicts(text): return re.findall(r'^(?:RMSE|nDCG@10) .*$', text, re.M)

def test_a_fit_says_it_once(dls, capsys):
    learn = collab_learner(dls, n_factors=4)
    with learn.no_bar(): learn.fit_one_cycle(1, 1e-2)
    assert verdicts(capsys.readouterr().out) == [str(learn.verdict())]
    with learn.no_bar(): learn.fine_tune(1)
    assert len(verdicts(capsys.readouterr().out)) == 1
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not capsys.readouterr().out

def test_the_error_is_that_of_the_model_as_it_is(dls):
    "Also after a callback has brought back other weights, and for losses that aren't squared errors"
    learn = fitted(dls)
    p,y = learn.get_preds()
    assert learn.verdict().value == pytest.approx(((p-y)**2).mean().sqrt().item(), rel=1e-5)
    with torch.no_grad(): learn.model.i_bias.weight += .3
    p,y = learn.get_preds()
    assert learn.verdict().value == pytest.approx(((p-y)**2).mean().sqrt().item(), rel=1e-5)
    ordinal = fitted(dls, loss_func=OrdinalLoss.from_dls(dls))
    p,y = ordinal.get_preds()
    assert ordinal.verdict().value == pytest.approx(((p-y)**2).mean().sqrt().item(), rel=1e-5)

def test_a_tracker_that_loads_the_best_epoch(dls, tmp_path):
    learn = collab_learner(dls, n_factors=4, path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(8, .3, wd=0., cbs=SaveModelCallback())
    p,y = learn.get_preds()
    assert learn.verdict().value == pytest.approx(((p-y)**2).mean().sqrt().item(), rel=1e-5)

def test_worse_than_the_mean(dls):
    learn = fitted(dls)
    with torch.no_grad(): learn.model.i_bias.weight += 5
    verdict = learn.verdict()
    gain = 100*(1-verdict.value/baseline_rmse(dls)['global mean'])
    assert verdict.state=='bad' and verdict.gains['the mean rating'] == pytest.approx(gain)
    assert f'{-gain:.1f} % worse than the mean rating' in str(verdict) and 'Do not use it' in str(verdict)
    assert '\n' not in str(verdict) and '--arch auto' in verdict.line(shell=True)

def test_clicks_against_the_most_popular(capsys):
    dls = CollabDataLoaders.from_interactions(FRAME[['userId','movieId']], seed=1)
    learn = collab_learner(dls, arch=EASE)
    with learn.no_bar(): learn.fit(1)
    assert len(verdicts(capsys.readouterr().out)) == 1
    assert list(learn.verdict().gains) == ['the most popular items']

def test_nothing_to_measure_on(capsys):
    learn = collab_learner(CollabDataLoaders.from_df(FRAME, valid_pct=0, seed=1), n_factors=4)
    with learn.no_bar(): learn.fit_one_cycle(1)
    assert learn.verdict() is None and not verdicts(capsys.readouterr().out)

def test_the_summary_has_it(dls):
    assert 'Verdict: not trained yet' in collab_learner(dls, n_factors=4).summary()
    learn = fitted(dls)
    assert f'Verdict: {learn.verdict()}' in learn.summary()

def test_reads_do_not_write(dls):
    learn = fitted(dls)
    before,values = {k:v.clone() for k,v in learn.model.state_dict().items()},list(learn.recorder.values)
    state,mode = torch.get_rng_state(),learn.model.training
    learner_verdict(learn)
    assert torch.equal(torch.get_rng_state(), state) and learn.model.training==mode and learn.recorder.values==values
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())

def test_other_rows_are_measured_again(dls):
    first = baselines(dls)
    assert baselines(dls) is first
    ds = dls.valid_ds
    ds.append(ds.store.ids()[:10].clone(), ds.store.ratings()[:10].clone())
    assert baselines(dls).n == first.n+10

def test_an_untrained_learner_says_what_to_call(dls):
    learn = collab_learner(dls, n_factors=4)
    with pytest.warns(UserWarning, match=r'not trained yet.*call learn.fit_one_cycle'): learn.recommend(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fitted(dls).recommend(1)
        collab_learner(dls, arch=learn.model).recommend(1)   # may be trained already

@pytest.mark.parametrize('columns', ['userId movieId rating', 'user item stars', 'u i r', 'u i r timestamp',
    'CustomerID ProductID Score', 'user_id isbn rating'])
def test_usual_columns_raise_no_question(columns):
    names = columns.split()
    df = FRAME[['userId','movieId','rating']].assign(timestamp=10**9+FRAME.index)
    df = df.iloc[:,:len(names)].set_axis(names, axis=1)
    assert not order_question(df, tuple(names[:3]), (None,)*3)

@pytest.mark.parametrize('columns', ['stars customer sku', 'movie user rating', 'user item timestamp rating'])
def test_suspicious_columns(columns):
    names = columns.split()
    df = pd.DataFrame({o:range(60) for o in names})
    assert 'if that is wrong, name them: user_name=' in order_question(df, tuple(names[:3]), (None,)*3)
    assert not order_question(df, tuple(names[:3]), tuple(names[:3]))
