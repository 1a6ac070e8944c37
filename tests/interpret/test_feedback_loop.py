"The loop of recommending, rating and training, and its plot"
import copy

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Callback, set_seed
from fastcollab.interpret import feedback_loop, popularity_bias
from fastcollab.interpret.popularity_bias import top_rows
from fastcollab.all import (CollabDataLoaders, CollabLearner, IdDropout, PopularityBias, RatingMSE, ValidRMSE,
    collab_learner, plot_feedback, simulate_feedback, synthetic_ratings)
from popularity import learner_state, quiet, rng_state, second_opinion

@pytest.fixture(scope='module')
def frame():
    "Ratings with two features of the items, the first a set with one rare category, and one of the users"
    df = synthetic_ratings(100, 60, 2500)
    df['genres'] = df.genres.astype(str).where(df.movieId!=df.movieId.value_counts().index[-1], 'Rare')
    return df.assign(decade=1950+10*(df.movieId%5), age=np.where(df.userId%2, 'old', 'young'))

@pytest.fixture(scope='module')
def learn(frame):
    dls = CollabDataLoaders.from_df(frame, item_cols=['genres','decade'], user_cols='age', seed=42, bs=256)
    set_seed(1)
    return quiet(collab_learner(dls, n_factors=4, y_range=(0,5.5)), 3, 2e-2)

class Spy:
    "The lists that `simulate_feedback` asks for: the learner, its ratings, the users and the lists of each call"
    def __init__(self, monkeypatch):
        self.calls,recommender = [],CollabLearner.recommender
        def remember(learn, *args):
            self.learn = learn
            return recommender(learn, *args)
        monkeypatch.setattr(CollabLearner, 'recommender', remember)
        for module in (popularity_bias,feedback_loop): monkeypatch.setattr(module, 'top_rows', self)
    def __call__(self, rec, u, k=10):
        res = top_rows(rec, u, k)
        self.calls.append((self.learn, self.learn.dls.train_ds.items, u.tolist(), res.tolist()))
        return res
    def rounds(self):
        "For each round: the ratings before it, its visitors with their lists, and the ratings that it added"
        models,visits = self.calls[::2],self.calls[1::2]
        return [(a[1],v[2],v[3],b[1][len(a[1]):]) for a,v,b in zip(models, visits, models[1:])]

@pytest.fixture
def spy(monkeypatch): return Spy(monkeypatch)

@pytest.fixture(scope='module')
def truth(frame): return frame.attrs['truth']

def loop(learn, truth, rounds=2, k=5, **kwargs):
    return simulate_feedback(learn, rounds, k, truth=truth, **{'n_epoch':1, **kwargs})

def test_the_learner_is_not_changed(frame, truth):
    dls = CollabDataLoaders.from_df(frame, genre_name='genres', seed=42, bs=128)
    learn = quiet(collab_learner(dls, n_factors=3, y_range=(0,5.5), cbs=ValidRMSE()), 1, 1e-2)
    learn.model.train()
    before = learner_state(learn)
    set_seed(4)
    state = rng_state()
    loop(learn, truth, visits=.5)
    assert rng_state()==state and learner_state(learn)==before

def test_loop_is_reproducible(learn, truth):
    "The seed decides all of it, and whatever else is random does not"
    set_seed(1)
    first = loop(learn, truth)
    set_seed(2)
    pd.testing.assert_frame_equal(loop(learn, truth), first)
    assert not loop(learn, truth, seed=1).equals(first)

def test_all_that_is_random_has_the_seed(learn, truth, spy):
    "Who comes, what they rate and the training are drawn anew in each round, and differently with another seed"
    states = []
    class Look(RatingMSE):
        def __call__(self, *args):
            states.append(torch.initial_seed())
            return super().__call__(*args)
    small = collab_learner(learn.dls, n_factors=2, loss_func=Look())
    seen = []
    for seed in (0,7):
        states.clear(), spy.calls.clear()
        loop(small, truth, seed=seed, visits=.1, like=.5)
        rounds = spy.rounds()
        seen.append((set(states), *[tuple(u) for _,u,*_ in rounds]))
        assert len(set(states))==3 and seen[-1][1]!=seen[-1][2]
    assert not seen[0][0] & seen[1][0] and seen[0][1]!=seen[1][1]

def test_rows_of_the_loop(learn, truth, spy):
    "The counts: ratings grow by what was liked, each visitor sees one list, and the last row has shown nothing"
    res = loop(learn, truth, rounds=3, k=4, visits=.25)
    assert list(res.index)==[0,1,2,3] and res.index.name=='round'
    assert list(res.columns)==['ratings','shown','liked',*second_opinion(learn, 1)[0]]
    assert res.ratings[0]==2000 and (res.ratings.diff()[1:].to_numpy()==res.liked[:3].to_numpy()).all()
    assert list(res.shown)==[25*4]*3+[0] and res.liked[3]==0 and (res.liked[:3]>0).all() and (
        res.liked<=res.shown).all()
    assert [len(c[1]) for c in spy.calls[::2]]==list(res.ratings)
    for before,u,lists,new in spy.rounds(): assert len(set(u))==len(u)==25 and len(new)>0
    assert len({tuple(u) for _,u,*_ in spy.rounds()})==3                      # others come in each round
    for (_,items,u,lists),(_,row) in zip(spy.calls[::2], res.iterrows()):
        # the numbers are those of all users
        assert u==list(range(1, 101)) and row['coverage']==len({i for o in lists for i in o})/60
        assert row['top 10 % of users']==pytest.approx(items.userId.value_counts()[:10].sum()/len(items))

def test_last_numbers_are_those_of_the_last_model(learn, truth, spy):
    "All numbers of the last round against pandas"
    res = loop(learn, truth, rounds=1, k=3)
    want = second_opinion(spy.calls[-1][0], 3)[0]
    assert res.iloc[-1][list(want)].astype(float).to_numpy()==pytest.approx(list(want.values()), rel=1e-6)

@pytest.mark.parametrize('like', [2.5,4.])
def test_only_what_is_liked_is_rated(learn, truth, spy, like):
    "Without noise, exactly the shown items with a true rating of at least `like` are added, in half stars"
    exact = copy.copy(truth)
    exact.__dict__.update(truth.__dict__, noise=0)
    loop(learn, exact, like=like, visits=.4)
    classes = {o:list(learn.dls.classes[o]) for o in ('userId','movieId')}
    for before,u,lists,new in spy.rounds():
        shown = pd.DataFrame([(classes['userId'][o],classes['movieId'][i]) for o,row in zip(u, lists) for i in row
            if i], columns=['userId','movieId'])
        score = truth.scores(shown).clip(.5, 5)
        want = shown.assign(rating=np.round(score*2)/2)[score>=like]
        pd.testing.assert_frame_equal(new[['userId','movieId','rating']].reset_index(drop=True),
            want.reset_index(drop=True), check_dtype=False)
        # nothing is shown twice to who has rated it
        assert 0<len(want)<len(shown) and not len(shown.merge(before))

def test_noise_and_the_scale(learn, truth, spy):
    "If the lowest star is enough, everything is rated: half stars from .5 to 5, off the truth by its noise"
    res = loop(learn, truth, like=.5, visits=1., k=4)
    assert list(res.liked[:2])==list(res.shown[:2])==[400,400]
    new = pd.concat([o for *_,o in spy.rounds()])
    stars = new.rating.to_numpy()
    assert set(stars*2)<=set(range(1, 11)) and stars.max()==5
    inner = (truth.scores(new)>2.5) & (truth.scores(new)<3.5)
    error = (stars-truth.scores(new))[inner]
    assert inner.sum()>100 and abs(error.mean())<.15 and error.std()==pytest.approx((truth.noise**2+.25/12)**.5,
        rel=.15)
    wild = copy.copy(truth)
    wild.__dict__.update(truth.__dict__, noise=30.)
    spy.calls.clear()
    loop(learn, wild, like=.5, visits=1., rounds=1)
    assert set(spy.rounds()[0][3].rating)>={.5,5.} and spy.rounds()[0][3].rating.between(.5, 5).all()

def test_nobody_likes_anything(learn, truth):
    res = loop(learn, truth, like=5.5)
    assert list(res.liked)==[0,0,0] and list(res.ratings)==[2000]*3 and (res.shown[:2]>0).all()

def test_busy_users_come_more_often(learn, truth, spy):
    "Visits are drawn by the number of ratings"
    loop(learn, truth, rounds=5, visits=.2, like=5.5, k=1)
    counts = learn.dls.train_ds.items.userId.value_counts().sort_index().to_numpy()
    come = np.concatenate([u for _,u,*_ in spy.rounds()])
    expected = (counts*counts).sum()/counts.sum()
    assert len(come)==100 and counts[come-1].mean() > (counts.mean()+expected)/2
    spy.calls.clear()
    loop(learn, truth, rounds=1, visits=1.)
    assert sorted(spy.rounds()[0][1])==list(range(1, 101))
    spy.calls.clear()
    loop(learn, truth, rounds=1, visits=1e-9)
    assert len(spy.rounds()[0][1])==1                                         # somebody always comes

def test_weights_and_callbacks_of_the_loop(frame, truth, spy):
    "`user_weight` reaches the loader, `IdDropout` is the only callback kept, and all ratings are trained, new ones too"
    seen = []
    class Look(Callback):
        def before_batch(self): seen.append(len(self.x))
    dls = CollabDataLoaders.from_df(frame, seed=42, bs=100)
    learn = quiet(collab_learner(dls, n_factors=3, unk_p=.3,
        cbs=[PopularityBias(limits=dict.fromkeys(PopularityBias.limits, 1e9)), Look()]), 1, 1e-2)
    seen.clear(), spy.calls.clear()
    runs = {o:loop(learn, truth, user_weight=o) for o in (None,'sqrt')}
    first,last = spy.calls[0][0],spy.calls[-1][0]
    n = torch.cat([b[0] for b in first.dls.train]).shape[0]
    assert (first.dls.train.user_weight,last.dls.train.user_weight)==(None,
        'sqrt') and not runs[None].equals(runs['sqrt'])
    assert not seen and len(learn.popularity_bias.history)==1
    drop = last._grab_cbs(IdDropout)
    assert [o.p for o in drop]==[.3] and drop[0] is not learn._grab_cbs(IdDropout)[0] and not last._grab_cbs(
        PopularityBias)
    assert last.model is not learn.model and last.dls.train_ds is not learn.dls.train_ds and last.dls.train.bs==100
    assert n==len(first.dls.train_ds)==runs[None].ratings.iloc[-1]>2000

def test_training_of_the_loop(learn, truth, spy):
    "`n_epoch`, `lr` and `wd` are those of each round; training goes on from the model that it was given"
    start = {k:v.clone() for k,v in learn.model.state_dict().items()}
    def far(**kwargs):
        spy.calls.clear()
        loop(learn, truth, rounds=1, **kwargs)
        now = spy.calls[-1][0].model.state_dict()
        return sum((now[k]-v).float().norm().item()
            for k,v in start.items()),len(spy.calls[-1][0].recorder.values),now['u_weight.weight'].norm().item()
    tiny,more,decay = far(lr=1e-6, wd=0.),far(n_epoch=3),far(n_epoch=3, wd=5.)
    assert tiny[0]<1e-2<.5<more[0] and (tiny[1],more[1])==(1,3) and decay[2]<.9*more[2]

def test_shown_counts_items_only(learn, truth, spy):
    res = loop(learn, truth, rounds=1, k=59, visits=1.)
    assert res.shown[0]==sum(i>0 for row in spy.rounds()[0][2] for i in row)

ERRORS = {
    'no round': (dict(rounds=0), ValueError, 'rounds is 0; give a whole number of at least 1'),
    'less than none': (dict(rounds=-1), ValueError, 'rounds is -1'),
    'no visits': (dict(visits=0), ValueError, 'visits is 0; give a share of the users, more than 0 and at most 1'),
    'too many': (dict(visits=1.1), ValueError, 'visits is 1.1'),
    'negative': (dict(visits=-.1), ValueError, 'visits is -0.1'), 'no list': (dict(k=0), ValueError,
        'k is 0; give a whole number of items, at least 1'),
    'weight': (dict(user_weight='log'), ValueError, "user_weight is 'log'; choose None or 'sqrt'")}

@pytest.mark.parametrize('name', ERRORS)
def test_errors_of_the_loop(learn, truth, name):
    kwargs,kind,match = ERRORS[name]
    with pytest.raises(kind, match=match): loop(learn, truth, **kwargs)

def test_the_truth_knows_its_own_columns_only(frame, truth):
    with pytest.raises(ValueError,
        match="the ground truth knows userId and movieId, but the loaders have .'userId', 'title'.; leave out "
        "user_name and item_name"):
        loop(collab_learner(CollabDataLoaders.from_df(frame, item_name='title', seed=1)), truth)
    with pytest.raises(TypeError, match='truth'):
        simulate_feedback(collab_learner(CollabDataLoaders.from_df(frame, seed=1)), 1)

# The plot

@pytest.fixture
def runs():
    "Made-up results of two runs"
    cols = ['gini of ratings','gini of lists','coverage','popularity lift','liked']
    return {nm:pd.DataFrame(np.random.default_rng(k).random((3,5)), columns=cols).rename_axis('round')
        for k,nm in enumerate(['as it comes','tempered'])}

def test_plot_has_a_line_per_run(runs):
    axs = plot_feedback(runs)
    assert axs.shape==(4,) and [o.get_title() for o in axs]==['gini of ratings','gini of lists','coverage',
        'popularity lift']
    for ax in axs:
        assert len(ax.lines)==2 and ax.get_xlabel()=='round'
        for line,df in zip(ax.lines, runs.values()):
            assert list(line.get_xdata())==[0,1,2] and list(line.get_ydata())==list(df[ax.get_title()])
        assert len({o.get_linestyle() for o in ax.lines})==2
    assert [o.get_text() for o in axs[0].get_legend().get_texts()]==list(runs)

def test_plot_of_other_columns(runs):
    axs = plot_feedback({None:runs['tempered']}, cols=('liked',), figsize=(4,2))
    assert axs.shape==(1,) and len(axs[0].lines)==1 and axs[0].get_legend().get_texts()[0].get_text()=='None'
    assert list(axs[0].figure.get_size_inches())==[4,2]

def test_plot_of_many_runs(runs): assert len(plot_feedback({k:runs['tempered'] for k in range(6)})[0].lines)==6
