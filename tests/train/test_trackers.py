"fastai's trackers know for each metric of this library whether lower or higher values are better"
import numpy as np, pytest
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TrackerCallback
from fastai.learner import Learner
from fastai.tabular.all import set_seed
from fastcollab.all import LazyAdam, RatingMSE, ValidRMSE, collab_learner, half_star_accuracy, mae, rmse
from fastcollab.metrics import RowMetric
from tests.small import load, quiet

ours = [rmse,mae,half_star_accuracy]
COLUMNS = ['rmse','mae','valid_rmse','warm_rmse','half_star_accuracy','valid_loss']

def learner(tmp_path=None, **kwargs):
    set_seed(0)
    return collab_learner(load(), n_factors=20, y_range=(0,5.5), metrics=ours, path=tmp_path or '.',
        **{'cbs':ValidRMSE(), **kwargs})
def fitted(learn, cb):
    "A fit that first learns and then overfits, or gets worse from the start"
    return quiet(learn, 4, 5e-2, wd=0, cbs=cb)
def column(learn, monitor):
    names = list(learn.recorder.metric_names)[1:]
    return [o[names.index(monitor)] for o in learn.recorder.values]
def best(monitor): return max if 'accuracy' in monitor else min

@pytest.mark.parametrize('monitor', COLUMNS)
def test_the_best_epoch_is_kept(monitor, tmp_path, capsys):
    "Whatever is monitored, and not the last epoch"
    learn = learner(tmp_path)
    fitted(learn, SaveModelCallback(monitor))
    values = column(learn, monitor)
    kept = quiet_values(learn)
    assert kept[monitor]==pytest.approx(best(monitor)(values), rel=1e-4)

def quiet_values(learn):
    "The columns of the present model"
    with learn.no_bar(), learn.no_logging(): res = learn.validate(cbs=ValidRMSE())
    return dict(zip(('valid_loss','rmse','mae','half_star_accuracy','valid_rmse','warm_rmse','cold_rmse'), res))

@pytest.mark.parametrize('monitor', COLUMNS)
@pytest.mark.parametrize('tracker', [TrackerCallback, EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback])
def test_direction(tracker, monitor, tmp_path, capsys):
    "Of the whole family, in every fit anew, with the sign of `min_delta`"
    want,cb = np.greater if 'accuracy' in monitor else np.less,tracker(monitor, min_delta=.1)
    learn = learner(tmp_path)
    for _ in (0,1):
        quiet(learn, 1, cbs=cb)
        assert cb.comp is want and cb.min_delta==(.1 if want is np.greater else -.1)

@pytest.mark.parametrize('comp', [np.less, np.greater])
def test_your_comp_wins(comp, capsys):
    cb = EarlyStoppingCallback('rmse', comp=comp)
    quiet(learner(), 1, cbs=cb)
    assert cb.comp is comp

def test_one_tracker_for_several_learners():
    "A callback that is used again looks at the metric of the learner that it is in"
    cb = TrackerCallback('quality')
    for lower in (True,False,True):
        learn = learner(cbs=None)
        learn.metrics = [RowMetric(rmse.func, 'quality', lower_is_better=lower)]
        quiet(learn, 1, cbs=cb)
        assert cb.comp is (np.less if lower else np.greater)

def test_names_do_not_decide():
    "A metric of ours that is called an error, where higher is better"
    cb = TrackerCallback('no_error')
    learn = learner(cbs=None)
    learn.metrics = [RowMetric(half_star_accuracy.func, 'no_error', lower_is_better=False)]
    quiet(learn, 1, cbs=cb)
    assert cb.comp is np.greater

def test_training_metrics():
    "The columns `train_rmse` and `valid_rmse` of the recorder"
    for monitor in ('train_rmse','valid_rmse','valid_half_star_accuracy'):
        cb,learn = TrackerCallback(monitor),learner(cbs=None)
        learn.recorder.train_metrics = True
        quiet(learn, 1, cbs=cb)
        assert cb.comp is (np.greater if 'accuracy' in monitor else np.less)

def test_metrics_of_others_are_as_in_fastai():
    "Any function is maximized, and in a plain learner our metrics have their direction too"
    def agreement(pred, targ): return -(pred-targ).abs().mean()
    cb,learn = TrackerCallback('agreement'),learner(cbs=None)
    learn.metrics = [agreement]
    quiet(learn, 1, cbs=cb)
    assert cb.comp is np.greater
    cb,learn = TrackerCallback('mae'),learner(cbs=None)
    quiet(Learner(learn.dls, learn.model, loss_func=RatingMSE(), opt_func=LazyAdam, metrics=ours), 1, cbs=cb)
    assert cb.comp is np.less

def test_early_stopping_stops_at_the_turn(capsys):
    "The fit ends one epoch after the lowest error"
    learn = learner()
    quiet(learn, 12, 5e-2, wd=0, cbs=EarlyStoppingCallback('rmse', patience=1))
    values = column(learn, 'rmse')
    assert len(values)<12 and min(values)==values[-2]
