"Every plot for several models: drawn where it was asked for, legible, also in gray, and nothing changed by looking"
import builtins, itertools, random

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Module, set_seed
from fastcollab.all import (CollabDataLoaders, CollabInterpretation, DotProduct, HybridNN, OrdinalLoss, ValidRMSE,
    collab_learner, create_params, ensemble, rmse, synthetic_ratings)
from fastcollab.interpret.tables import counts_of

@pytest.fixture(scope='module')
def frame():
    "80 users and 60 items with titles, two of which are the same; a set of genres, a decade, and the age of users"
    df = synthetic_ratings(80, 60, 2500)
    df['title'] = df.title.astype(str).where(df.movieId!=7, df.title[df.movieId==9].iloc[0])
    return df.assign(decade=1950+10*(df.movieId%3), age=np.where(df.userId%3, 'old', 'young'))

def splits(df):
    "All ratings of one user and of one item are held out, and a fifth of the others"
    cold = ((df.userId==5)|(df.movieId==11)).to_numpy()
    held = cold | (np.random.default_rng(0).random(len(df))<.2)
    return np.flatnonzero(~held),np.flatnonzero(held)

def fit(learn, epochs=2, lr=2e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, wd=.1)
    return learn

class Own(Module):
    "A user's own model without any of our methods"
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return 3+self.w[x[:,1]]

def make(frame, name):
    "A fitted learner, or the interpretation of a recommender"
    set_seed(1)
    plain = frame.drop(columns=['genres','decade','age','title'])
    def dls(df=frame, **kwargs): return CollabDataLoaders.from_df(df, splits=splits(df), seed=1, bs=256, **kwargs)
    feats = dict(item_cols=['genres','decade'], user_cols='age')
    kwargs = dict(n_factors=4, y_range=(0,5.5))
    if name=='plain': return fit(collab_learner(dls(plain), **kwargs))
    if name=='dot': return fit(collab_learner(dls(**feats), arch=DotProduct, **kwargs))
    if name=='features': return fit(collab_learner(dls(**feats), cbs=ValidRMSE(), **kwargs))
    if name=='best': return fit(collab_learner(dls(genre_name='genres'), arch='auto', n_factors=4), lr=5e-3)
    if name=='net': return fit(collab_learner(dls(**feats), arch=HybridNN, **kwargs))
    if name=='own': return fit(collab_learner(dls(**feats), arch=Own(len(set(frame.movieId)))))
    if name=='ordinal': return fit(collab_learner((d:=dls(**feats)), n_factors=4, loss_func=OrdinalLoss.from_dls(d)))
    if name=='blend':
        d = dls(**feats)
        return ensemble([fit(collab_learner(d, **kwargs)), fit(collab_learner(d, arch=HybridNN, **kwargs))], [.5,.5])
    if name=='recommender': return fit(collab_learner(dls(**feats), **kwargs)).recommender()

MODELS = ['plain','dot','features','best','net','own','ordinal','blend','recommender']

@pytest.fixture(scope='module')
def made(frame):
    "Interpretations by name, made once"
    kept = {}
    def get(name):
        if name not in kept:
            learn = make(frame, name)
            kept[name] = CollabInterpretation.from_recommender(learn,
                frame.iloc[splits(frame)[1]]) if name=='recommender' else CollabInterpretation.from_learner(learn)
        return kept[name]
    return get

PLOTS = {'factors': lambda i,**k: i.plot_factors(**k), 'factors by': lambda i,**k: i.plot_factors('tsne', by='genre',
    **k), 'genres': lambda i,**k: i.plot_genres(**k),
    'factors 3d': lambda i,**k: i.plot_factors(dims=3, by='genre', **k), 'bias': lambda i,**k: i.plot_bias(**k),
    'bias of genres': lambda i,**k: i.plot_bias('genres', **k),
    'similarity': lambda i,**k: i.plot_similarity(**k), 'similarity of genres': lambda i,
    **k: i.plot_similarity(what='genres', **k), 'popularity': lambda i,**k: i.plot_popularity(**k),
    'error by items': lambda i,**k: i.plot_error_by_popularity(**k), 'error by users': lambda i,
    **k: i.plot_error_by_popularity('users', **k),
    'calibration': lambda i,**k: i.plot_calibration(**k), 'residuals': lambda i,**k: i.plot_residuals(**k),
    'confusion': lambda i,**k: i.plot_star_confusion(**k)}
# need nothing but predictions
ERRORS = ['popularity','error by items','error by users','calibration','residuals','confusion']
NO_GENRES = ['factors by','factors 3d','genres','bias of genres','similarity of genres']
NO_BIAS = dict.fromkeys(['bias','bias of genres'], TypeError)
FAILS = dict(plain=dict.fromkeys(NO_GENRES, KeyError), dot=NO_BIAS, net=NO_BIAS, blend=NO_BIAS,
    own=dict.fromkeys(set(PLOTS)-set(ERRORS), TypeError))

def boxes(texts, fig):
    "Extents of the texts that say something"
    return [(t.get_text(),t.get_window_extent(fig.canvas.get_renderer())) for t in texts if t.get_visible()
        and t.get_text().strip()]

def ticks(axis):
    "Labels of the ticks that are within the axes"
    low,high = sorted(axis.get_view_interval())
    return [t for t,at in zip(axis.get_ticklabels(), axis.get_ticklocs()) if low<=at<=high]

def check_picture(ax):
    "Not blank, also without its colors, no label on another one, and none that is cut off"
    fig = ax.figure
    fig.canvas.draw()
    rgb = np.asarray(fig.canvas.buffer_rgba())[...,:3].astype(int)
    assert (rgb@[.299,.587,.114]).std()>5, 'blank in gray'
    flat,names = ax.name!='3d',[ax.title,ax.xaxis.label,ax.yaxis.label]
    for group in [ax.texts, names, *([ticks(ax.xaxis),ticks(ax.yaxis)] if flat else [])]:
        for (a,x),(b,y) in itertools.combinations(boxes(group, fig), 2): assert not x.overlaps(y), (a,b)
    for t,box in boxes([*names,*ticks(ax.xaxis),*ticks(ax.yaxis)] if flat else [], fig):
        assert (box.min>=-1).all() and (box.max<=fig.bbox.max+1).all(), f'{t!r} is cut off'
    assert ax.get_title() and (ax.get_xlabel() or ax.images)

# plots of errors need nothing but predictions: three models stand for all
DRAWN = [(m,p) for m in MODELS for p in PLOTS if p not in ERRORS or m in ('features','own','recommender')]

@pytest.mark.slow
@pytest.mark.parametrize('model,plot', DRAWN)
def test_every_plot_of_every_model(made, model, plot):
    "Legible, or one error of the kind that says why, which leaves no figure behind"
    interp,expected = made(model),FAILS.get(model, {}).get(plot)
    if expected:
        with pytest.raises(expected, match='has no |is not the name of'): PLOTS[plot](interp)
        assert not plt.get_fignums()
    else:
        ax = PLOTS[plot](interp)
        assert len(plt.get_fignums())==1
        check_picture(ax)

@pytest.mark.parametrize('plot', PLOTS)
def test_axes_that_are_given(made, plot):
    "Drawn there and nowhere else; axes of another kind are refused before anything is drawn"
    dims,interp = 3 if '3d' in plot else 2,made('features')
    fig = plt.figure(figsize=(12,6), layout='constrained')
    axs = [fig.add_subplot(1, 2, k, projection='3d' if dims==3 else None) for k in (1,2)]
    assert PLOTS[plot](interp, ax=axs[1]) is axs[1] and plt.get_fignums()==[fig.number]
    assert not axs[0].has_data() and axs[1].has_data()
    other = plt.figure().add_subplot(projection=None if dims==3 else '3d')
    with pytest.raises(ValueError, match='but the axes are'): PLOTS[plot](interp, ax=other)
    polar = plt.figure().add_subplot(projection='polar')
    with pytest.raises(ValueError, match="but the axes are 'polar'"): PLOTS[plot](interp, ax=polar)
    assert not other.has_data() and not polar.has_data()
    with pytest.raises(TypeError, match='ax is a ndarray; give one pair of matplotlib axes'):
        PLOTS[plot](interp, ax=np.array(axs))

@pytest.mark.parametrize('plot', PLOTS)
def test_size(made, plot): assert list(PLOTS[plot](made('features'), figsize=(5,4)).figure.get_size_inches())==[5,4]

@pytest.mark.slow
def test_umap_as_asked_for(made):
    "The call of the documentation, in three dimensions; the seed decides, and the global random states are left alone"
    pytest.importorskip('umap')
    interp,state = made('features'),np.random.get_state()[1].tolist()
    def run(seed):
        return np.stack(interp.plot_factors(method='umap', dims=3, by='genre', top=50,
            seed=seed).collections[0]._offsets3d, 1)
    first = run(0)
    assert first.shape==(len(interp.bias(n=None)),3) and np.array_equal(first, run(0)) and not np.allclose(first,
        run(1))
    assert np.random.get_state()[1].tolist()==state
    check_picture(interp.plot_factors('umap', top=20))
    with pytest.raises(ValueError, match='4 items are too few for UMAP'): interp.plot_factors('umap', n=4)

def test_without_umap(made, monkeypatch):
    real = builtins.__import__
    def no_umap(name, *args, **kwargs):
        if name=='umap': raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', no_umap)
    with pytest.raises(ImportError, match=r"pip install 'fastcollab\[viz\]'"): made('features').plot_factors('umap')
    assert not plt.get_fignums()

# What is drawn

def test_genres_by_vectors(made):
    "Arrows are the vectors of the genres on the components of the items; without such vectors, the means of the items"
    from sklearn.decomposition import PCA
    for model in ('features','dot'):
        interp = made(model)
        ax,learn = interp.plot_genres(n=100),interp.data.learn
        v = learn.model.vectors(1)[1:].double().numpy()
        pca,dls = PCA(2).fit(v),learn.dls
        if model=='features': want = learn.model.feature_factors('genres').vec[1:].double().numpy()
        else:
            sets = dls.train_ds.items.drop_duplicates('movieId').set_index('movieId').genres.str.split('|')
            has = np.array([[g in sets[o] for o in list(dls.classes['movieId'])[1:]]
                for g in list(dls.classes['genres'])[1:]])
            want = has@(v-v.mean(0))/has.sum(1, keepdims=True)
        want = want@pca.components_.T
        order = np.argsort(-counts_of(interp.data, 'genres'), kind='stable')
        tips = np.array([o.xy for o in ax.texts if not o.get_text()])
        scale = np.linalg.norm(tips)/np.linalg.norm(want)
        assert np.allclose(np.abs(tips), np.abs(scale*want[order]), atol=1e-4)
        assert {o.get_text() for o in ax.texts if o.get_text()}==set(list(dls.classes['genres'])[1:])

def test_all_ends_of_bias(made):
    interp = made('features')
    df,ax = interp.bias('items', None),interp.plot_bias(n=4)
    ends = pd.concat([df[:4], df[-4:]])
    drawn = np.concatenate([o.get_xdata() for o in ax.lines[:2]])   # the liked, then the others
    assert np.allclose(np.sort(drawn), np.sort(ends.bias)) and [o.get_text().rsplit(' ', 1)[1]
        for o in ax.get_yticklabels()]==[f'({o})' for o in ends.ratings]
    assert ax.get_title()==f'The 4 most and the 4 least liked of {len(df)} items'
    assert interp.plot_bias('genres',
        n=50).get_title()==f'{len(interp.bias("genres", None))} genres, the most liked first'
    assert interp.plot_bias('users',
        n=4).get_title()==f'The 4 most and the 4 least generous of {len(interp.bias("users", None))} users'
    assert interp.plot_bias('age').get_title()=='2 age, the most generous first'
    with pytest.raises(ValueError, match='none of the items has 9,999 ratings; lower min_ratings'):
        interp.plot_bias(min_ratings=9999)

def test_similarity_of_names(made):
    "Cells are the table; names keep their order; an item is named by title, or by its id if two have the title"
    interp = made('features')
    table,ax = interp.similarity([1,7,3]),interp.plot_similarity([1,7,3])
    assert np.allclose(ax.images[0].get_array(), table, atol=1e-6) and [o.get_text()[:25]
        for o in ax.get_xticklabels()]==[o[:25] for o in table.index]
    assert table.index[1].endswith(' [7]') and interp.similarity([table.index[0],7,3]).equals(table)
    twin = table.index[1].removesuffix(' [7]')
    with pytest.raises(KeyError, match=r"2 items have the title .*; name one by its id: \[7, 9\]"):
        interp.plot_similarity([twin])
    with pytest.raises(ValueError, match='61 items are too many'): interp.plot_similarity([1]*61)
    with pytest.raises(ValueError, match='the list of items is empty; name some'): interp.plot_similarity([])
    assert ax.get_title()=='Similarity of 3 items'
    n = len(interp.bias(n=None))
    assert interp.plot_similarity().get_title()==f'Similarity of the 15 most rated of {n} items'
    assert interp.plot_similarity(what='genres').get_title()==f'Similarity of {len(interp.bias("genres", None))} genres'

@pytest.mark.parametrize('what', ['items','users'])
def test_error_by_popularity(made, what):
    "Points are the RMSE of tenths of the warm rows, and of the cold ones at 0"
    interp = made('features')
    rows,by = interp.rows,f'{what[:-1]}_ratings'
    line = interp.plot_error_by_popularity(what).lines[0]
    x,y = line.get_xdata(orig=False),line.get_ydata(orig=False)   # before 3.11, matplotlib keeps objects
    cold = rows[rows[by]==0]
    assert len(cold)>0 and x[0]==0 and y[0]==pytest.approx((cold.error**2).mean()**.5) and len(x)==11
    bins = pd.qcut(rows[by][rows[by]>0], 10, labels=False)
    assert np.allclose(y[1:], (rows.error**2).groupby(bins).mean()**.5) and np.allclose(x[1:],
        rows[by].groupby(bins).mean())
    with pytest.raises(ValueError, match="choose 'items' or 'users'"): interp.plot_error_by_popularity('genres')

def test_calibration_against_pandas(made):
    rows,ax = made('features').rows,made('features').plot_calibration(bins=4)
    g = rows.groupby(pd.qcut(rows.prediction, 4, labels=False))
    x,y = (getattr(ax.lines[1], f'get_{o}data')(orig=False) for o in 'xy')
    assert np.allclose(x, g.prediction.mean()) and np.allclose(y, g.rating.mean())
    half = 1.96*g.rating.std()/g.size()**.5
    segments = np.array(ax.collections[0].get_segments())
    assert np.allclose(segments[:,1,1]-segments[:,0,1], 2*half)
    with pytest.raises(ValueError, match='bins is 0'): made('features').plot_calibration(bins=0)

def test_confusion_against_pandas(made):
    rows,ax = made('features').rows,made('features').plot_star_confusion()
    levels = np.unique(made('features').data.history()[2])
    near = levels[np.abs(rows.prediction.to_numpy()[:,None]-levels).argmin(1)]
    want = pd.crosstab(rows.rating, near, normalize='index').reindex(index=levels, columns=levels, fill_value=0)*100
    assert np.allclose(ax.images[0].get_array(),
        want) and ax.get_title().startswith(f'{(near==rows.rating).mean():.0%} of')

def test_long_tail(made):
    "The lines are cumulative shares, of the ratings and of the lists of all users"
    interp = made('features')
    ax,learn = interp.plot_popularity(k=5),interp.data.learn
    n = learn.dls.train_ds.items.movieId.value_counts().reindex(list(learn.dls.classes['movieId'])[1:])
    lists = learn.recommend(k=5).item.value_counts().reindex(n.index, fill_value=0)
    order = np.argsort(-n.to_numpy(), kind='stable')
    for line,c in zip(ax.lines, (n,lists)):
        assert np.allclose(line.get_ydata()[1:], 100*c.to_numpy()[order].cumsum()/c.sum())
    assert ax.get_title().startswith(f'{(lists>0).mean():.0%} of the items')

@pytest.mark.parametrize('call,match', [(lambda i: i.plot_bias(n=0), 'n is 0; give a whole number of at least 1$'),
    (lambda i: i.plot_genres(n=-1), 'n is -1'),
    (lambda i: i.plot_popularity(n_users=0), 'n_users is 0'), (lambda i: i.plot_popularity(k=0), 'k is 0'),
    (lambda i: i.plot_residuals(bins=2.5), 'bins is 2.5')])
def test_counts(made, call, match):
    with pytest.raises(ValueError, match=match): call(made('features'))
    assert not plt.get_fignums()

# The fit

@pytest.mark.parametrize('fused', [True,False])
def test_training(frame, fused):
    "Losses, rates and momentum are those of the recorder, in compiled fits and others; RMSEs are those of the table"
    dls = CollabDataLoaders.from_df(frame, seed=1, bs=256)
    learn = collab_learner(dls, n_factors=3, fused=fused, metrics=rmse)
    interp = CollabInterpretation(learn)
    with pytest.raises(ValueError, match='the model has not been fitted yet; fit the learner first'):
        interp.plot_training()
    fit(learn, 3)
    axs = interp.plot_training()
    assert axs.shape==(4,) and len(plt.get_fignums())==1
    for ax in axs: check_picture(ax)
    rec = learn.recorder
    assert np.allclose(axs[0].lines[0].get_ydata(), [float(o)
        for o in rec.losses]) and np.allclose(axs[0].lines[1].get_ydata(), [o[1] for o in rec.values])
    assert np.allclose(axs[1].lines[0].get_ydata(), [o[2]
        for o in rec.values]) and list(axs[1].lines[0].get_xdata())==[1,2,3]
    assert np.allclose(axs[2].lines[0].get_ydata(), rec.lrs) and np.allclose(axs[3].lines[0].get_ydata(),
        rec.hps['mom'])
    given = plt.subplots(2, 2)[1]
    assert (interp.plot_training(ax=given)==given.ravel()).all()
    with pytest.raises(ValueError, match='2 axes; give four'): interp.plot_training(ax=given[0])
    with pytest.raises(TypeError, match='ax is a int; give one pair of matplotlib axes'):
        interp.plot_training(ax=np.array([1,2,3,4], object))
    with pytest.raises(ValueError, match='but the axes are'):
        interp.plot_training(ax=[*given.ravel()[:3],plt.figure().add_subplot(projection='polar')])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    # the momentum of an earlier fit is not drawn
    assert len(set(interp.plot_training()[3].lines[0].get_ydata()))==1

def test_training_without_an_rmse(made):
    "The root of a mean square is one; without either, the axes say what to do"
    assert made('plain').plot_training()[1].get_legend().get_texts()[0].get_text()=='root of the validation loss'
    ax = made('ordinal').plot_training()[1]
    assert 'no RMSE was recorded' in ax.texts[0].get_text()
    with pytest.raises(TypeError, match='a recommender keeps no record of its training'):
        made('recommender').plot_training()

# Edges

def small(df, valid):
    return CollabDataLoaders.from_df(df, splits=(np.setdiff1d(np.arange(len(df)), valid), valid), seed=1, bs=64)

@pytest.mark.slow
def test_one_row_and_none(frame):
    "A single row can be drawn; without any there is one error that says what to do"
    learn = collab_learner(small(frame, [3]), n_factors=3, y_range=(0,5.5))
    interp = CollabInterpretation(learn)
    for plot in ERRORS: check_picture(PLOTS[plot](interp))
    plt.close('all')
    learn = collab_learner(small(frame, []), n_factors=3, y_range=(0,5.5))
    for plot in ERRORS[1:]:
        with pytest.raises(ValueError, match='there are no ratings to examine; split some off for validation'):
            PLOTS[plot](CollabInterpretation(learn))
    assert not plt.get_fignums()
    assert PLOTS['popularity'](CollabInterpretation(learn)).has_data()
    assert CollabInterpretation.from_learner(learn, ds_idx=0).plot_residuals().has_data()

def test_long_titles(frame):
    "Titles of any length are legible, and symbols of mathematics in them are text"
    long = frame.assign(title='The $very$ long_title of ' + 'a film '*12 + frame.movieId.astype(str))
    interp = CollabInterpretation(collab_learner(CollabDataLoaders.from_df(long, seed=1, bs=256), n_factors=3))
    for plot in ('bias','similarity','factors'): check_picture(PLOTS[plot](interp))
    assert r'The \$very\$ long' in interp.plot_bias().get_yticklabels()[0].get_text()

@pytest.mark.slow
def test_reads_do_not_write(frame):
    "Weights, modes, random states, data, callbacks, the recorder and the style stay what they were; rows are made once"
    learn = make(frame, 'features')
    learn.model.train()
    learn.model.i_weight.eval()
    interp,dls = CollabInterpretation(learn),learn.dls
    def state():
        return dict(weights={k:v.tolist() for k,v in learn.model.state_dict().items()},
            grads=[p.grad is None for p in learn.model.parameters()],
            modes=[m.training for m in learn.model.modules()], training=learn.training, keys=sorted(learn.__dict__),
            order=dls.train.order.state(),
            dl=id(learn.dl),
            rng=(torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],
                random.getstate()),
            data=[o.tolist() for d in (dls.train_ds,dls.valid_ds) for o in (d.store.ids(),d.store.ratings(),*d.tables)],
            cbs=[id(o) for o in learn.cbs], style=plt.rcParams.copy(),
            rec={k:str(v) for k,v in learn.recorder.__dict__.items() if k in ('lrs','losses','iters','values','hps')})
    before = state()
    for plot in PLOTS.values(): plot(interp)
    interp.plot_training()
    for call in (interp.worst_users, interp.worst_items, interp.top_losses, interp.cold_report, interp.representation,
        interp.genre_similarity): call()
    assert state()==before and interp.rows is interp.rows
