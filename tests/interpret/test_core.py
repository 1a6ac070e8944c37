"Tables against the model's own numbers, pandas and scikit-learn; maps by what is drawn in them"
import inspect, itertools, random

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Module, set_seed
from fastcollab.interpret import error_analysis, plots, report, tables
from fastcollab.all import (BiasBaseline, CollabDataLoaders, CollabInterpretation, CollabNN, DotProduct, DotProductBias,
    HybridNN, collab_learner, create_params, synthetic_ratings)
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

@pytest.fixture(scope='module')
def dls():
    "Two features of the items, the second with few categories, and one of the users"
    df = synthetic_ratings(100, 60, 2500)
    df = df.assign(decade=1950+10*(df.movieId%3), age=np.where(df.userId%3, 'old', 'young'))
    return CollabDataLoaders.from_df(df, item_name='title', item_cols=['genres','decade'], user_cols='age', seed=42,
        bs=256)

def make(dls, n_factors=4, **kwargs):
    "A learner with large random weights: nothing here depends on a fit"
    set_seed(3)
    learn = collab_learner(dls, n_factors=n_factors, **kwargs)
    for p in learn.model.parameters():
        if p.requires_grad: torch.nn.init.normal_(p, std=.5)
    return learn

@pytest.fixture(scope='module')
def learn(dls): return make(dls, y_range=(0,5.5))

@pytest.fixture(scope='module')
def interp(learn): return CollabInterpretation(learn)

WHAT = ['items','users','genres','decade','age']
COLUMN = dict(items='title', users='userId')

def own(learn, what, value):
    "Names of all rows, and their biases or vectors from the model"
    m = learn.model
    if what in COLUMN: t = dict(bias=m.biases, vectors=m.vectors)[value](('users','items').index(what))
    else: t = getattr(m.feature_factors(what), dict(bias='bias', vectors='vec')[value])
    return list(learn.dls.classes[COLUMN.get(what, what)])[1:],t[1:].numpy()

def rated(learn, what):
    "Ratings in training of each row, by its name"
    df = learn.dls.train_ds.items
    if what in COLUMN: return df[COLUMN[what]].value_counts()
    return df[what].astype(str).str.split('|').explode().value_counts()

def most_rated(learn):
    "Titles, the most rated first, those with as many in the order of the vocabulary"
    return list(rated(learn, 'items').sort_index().sort_values(ascending=False, kind='stable').index)

# Tables

@pytest.mark.parametrize('largest', [True,False])
@pytest.mark.parametrize('what', WHAT)
def test_bias(learn, interp, what, largest):
    "Names, biases and ratings are those of the model and the data; the largest or the smallest first"
    names,b = own(learn, what, 'bias')
    want = sorted(zip(b.tolist(), names), reverse=largest)
    df = interp.bias(what, None, largest)
    assert list(df.columns)==[what,'bias','ratings'] and len(df)==len(names)==len(set(b))
    assert list(df[what])==[o for _,o in want] and np.allclose(df.bias, [o for o,_ in want])
    assert list(df.ratings)==list(rated(learn, what)[list(df[what])]) and df.ratings.nunique()>1
    pd.testing.assert_frame_equal(interp.bias(what, 3, largest), df[:3])
    assert len(interp.bias(what, 10_000))==len(names)

def test_what_is_rated_rarely_can_be_left_out(learn, interp):
    "Rows with fewer than `min_ratings` ratings are left out before the first `n` are taken"
    for what in ('items','genres'):
        every = interp.bias(what, None)
        limit = int(every.ratings.sort_values().iloc[len(every)//2])
        want = every[every.ratings>=limit].reset_index(drop=True)
        assert limit in set(every.ratings) and 0<len(want)<len(every)
        pd.testing.assert_frame_equal(interp.bias(what, None, min_ratings=limit), want)
        pd.testing.assert_frame_equal(interp.bias(what, 3, min_ratings=limit), want[:3])
        rare = every[what].iloc[every.ratings.argmin()]
        alike = interp.similar(rare, None, what)
        pd.testing.assert_frame_equal(interp.similar(rare, 3, what, limit),
            alike[alike.ratings>=limit][:3].reset_index(drop=True))
        assert not len(interp.bias(what, min_ratings=10**6)) and not len(interp.similar(rare, what=what,
            min_ratings=10**6))

def test_bias_by_default_is_that_of_five_items(learn, interp):
    pd.testing.assert_frame_equal(interp.bias(), interp.bias('items', 5, True))
    assert np.allclose(interp.bias().bias, learn.model.bias(interp.bias()['items']))
    assert interp.bias('users')['users'].map(type).eq(int).all()

@pytest.mark.parametrize('what', WHAT)
def test_similarity(learn, interp, what):
    "Cosines are those of scikit-learn, for all pairs or for some in their order"
    names,v = own(learn, what, 'vectors')
    df = interp.similarity(what=what)
    assert list(df.index)==list(df.columns)==names and np.allclose(df, cosine_similarity(v), atol=1e-5)
    some = names[::-1][:3]
    assert np.allclose(interp.similarity(some, what), df.loc[some,some], atol=1e-6) and list(interp.similarity(some,
        what).index)==some
    assert interp.similarity(names[:1], what).shape==(1,1)

@pytest.mark.parametrize('what', WHAT)
def test_similar(learn, interp, what):
    "The other rows by their cosine, without the one that was asked about"
    names,v = own(learn, what, 'vectors')
    cos = pd.DataFrame(cosine_similarity(v), names, names)
    for name in names[:3]:
        want = cos[name].drop(name).sort_values(ascending=False)
        df = interp.similar(name, len(names), what)
        assert list(df.columns)==[what,'cosine',
            'ratings'] and list(df[what])==list(want.index) and np.allclose(df.cosine, want, atol=1e-5)
        assert list(df.ratings)==list(rated(learn, what)[list(df[what])])
        pd.testing.assert_frame_equal(interp.similar(name, 1, what), df[:1])
    if what=='items': pd.testing.assert_frame_equal(interp.similar(names[0]), interp.similar(names[0], 5, 'items'))

def test_a_vector_of_zeros_is_like_nothing(dls):
    learn = make(dls, arch=DotProductBias)
    learn.model.i_weight.weight.data[2] = 0
    sim = CollabInterpretation(learn).similarity()
    assert (sim.iloc[1]==0).all() and (sim.iloc[:,1]==0).all() and sim.iloc[0,0]==pytest.approx(1)

def test_the_unknown_row_is_in_no_table(interp):
    for what in WHAT: assert '#na#' not in set(interp.bias(what, None)[what]) | set(interp.similarity(what=what).index)
    with pytest.raises(KeyError, match='#na#'): interp.similar('#na#')

def test_from_learner_and_new_weights(dls):
    "Tables are of the weights that the learner has now, not of those it had"
    learn = make(dls)
    interp = CollabInterpretation.from_learner(learn)
    assert isinstance(interp, CollabInterpretation) and interp.data.learn is learn
    first = interp.bias()
    learn.model.i_bias.weight.data.neg_()
    assert not interp.bias().equals(first)

def test_tables_are_copies(learn, interp):
    weights = {k:v.clone() for k,v in learn.model.state_dict().items()}
    for df in (interp.bias(n=None), interp.bias('genres', None), interp.similar('Comedy', what='genres'),
        interp.similarity(what='age')): df.iloc[:,-1] = 9
    assert all(torch.equal(v, weights[k])
        for k,v in learn.model.state_dict().items()) and (interp.bias().ratings!=9).any()

def test_text_and_number_ids(dls):
    "Users by number, as numpy writes them too"
    interp = CollabInterpretation(make(dls))
    assert interp.similar(np.int64(7), what='users').equals(interp.similar(7, what='users'))
    assert list(interp.similarity(np.array([7,3]), 'users').index)==[7,3]

def test_items_of_numbers(dls):
    "Ids that are numbers, and loaders without features"
    df = dls.train_ds.items.assign(title=lambda d: d.title.astype('category').cat.codes+100)
    learn = make(CollabDataLoaders.from_df(df[['userId','title','rating']], seed=1))
    names,b = own(learn, 'items', 'bias')
    assert CollabInterpretation(learn).bias(n=1)['items'][0]==names[b.argmax()]

# What cannot be

def test_unknown_names(interp):
    title = interp.bias()['items'][0]
    with pytest.raises(KeyError, match="1 of 1 items not seen in training, e.g. .'Nothing like it'."):
        interp.similar('Nothing like it')
    with pytest.raises(KeyError, match="2 of 3 genres not seen in training, e.g. .'Polka', 'Waltz'."):
        interp.similarity(['Comedy','Polka','Waltz'], 'genres')
    with pytest.raises(KeyError, match='1 of 1 users not seen'): interp.similar(title, what='users')
    with pytest.raises(KeyError, match="1 of 1 items not seen"): interp.similar('Comedy')

def test_unknown_kinds(interp):
    for call in (interp.bias, lambda what: interp.similar('x', what=what), lambda what: interp.similarity(what=what)):
        for what in ('movies','title','Genres'):
            with pytest.raises(KeyError,
                match=f"'{what}' is not the name of users, items or a feature; choose from .'users', 'items', "
                f"'genres', 'decade', 'age'."): call(what)

class Own(Module):
    "A user's own model without any of our methods"
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return self.w[x[:,1]]

def test_models_that_lack_it(dls):
    "What a model does not have is said by name, and what it has works"
    def tables(arch):
        return CollabInterpretation(collab_learner(dls, arch=arch) if isinstance(arch, Module)
            else make(dls, arch=arch))
    for arch,nm in ((DotProduct,'DotProduct'),(CollabNN,'CollabNN'),(HybridNN,'HybridNN')):
        interp = tables(arch)
        for what in ('items','users'):
            with pytest.raises(TypeError,
                match=f'{nm} has no biases of {what}; train a model that has them, such as HybridMF'): interp.bias(what)
            names,v = own(interp.data.learn, what, 'vectors')
            assert np.allclose(interp.similarity(what=what), cosine_similarity(v), atol=1e-5)
        assert interp.plot_factors(top=0).collections
        for value,call in (('biases',interp.bias),('vectors',lambda what: interp.similarity(what=what))):
            with pytest.raises(TypeError, match=f'{nm} has no {value} of genres'): call('genres')
    base = tables(BiasBaseline.from_dls(dls))
    assert np.allclose(base.bias(n=None).bias.sort_values(), base.data.learn.model.biases(1)[1:].sort().values)
    for call in (base.similarity, base.plot_factors, lambda: base.similar(base.bias()['items'][0])):
        with pytest.raises(TypeError, match='BiasBaseline has no vectors of items'): call()
    with pytest.raises(TypeError, match='Own has no biases of items'): tables(Own(dls.n_items)).bias()
    with pytest.raises(TypeError, match='Own has no vectors of items'): tables(Own(dls.n_items)).plot_factors()

# Maps

def points(ax, k=0):
    "What is drawn in the `k`-th layer of points, (n,dims)"
    c = ax.collections[k]
    return np.stack(c._offsets3d, 1) if hasattr(c, '_offsets3d') else np.asarray(c.get_offsets())

def vectors(learn, titles):
    "Their vectors, in float64"
    names,v = own(learn, 'items', 'vectors')
    return v[[names.index(o) for o in titles]].astype(float)

@pytest.mark.parametrize('method', ['pca','tsne'])
@pytest.mark.parametrize('dims', [2,3])
def test_map(learn, interp, method, dims):
    "Points are those of scikit-learn, the axes are named, and the marks lie on the items that have the category"
    n = None if method=='pca' else 40
    ax = interp.plot_factors(method, dims, n=n, by='genres', mark=['Drama','Comedy','Western'], top=10)
    titles = most_rated(learn)[:n]
    xy,v = points(ax),vectors(learn, titles)
    if method=='pca': want = PCA(dims).fit_transform(v)*np.sign((PCA(dims).fit_transform(v)*xy).sum(0))
    else: want = TSNE(dims, init='pca', perplexity=13, random_state=0).fit_transform(v)
    assert xy.shape==(len(titles),dims) and np.allclose(xy, want, atol=1e-4)
    name = 'component' if method=='pca' else 't-SNE'
    share = PCA(dims).fit(v).explained_variance_ratio_
    want = [f'{name} {k+1}' + (f' ({o:.0%}{" of the variance"*(dims==2)})' if method=='pca' else '')
        for k,o in enumerate(share)]
    assert (ax.name=='3d')==(dims==3) and [ax.get_xlabel(),ax.get_ylabel(),
        *([ax.get_zlabel()] if dims==3 else [])]==want
    assert ax.get_title()==('60 items' if n is None
        else 'The 40 most rated of 60 items')+', by their vectors' and ax.texts
    sets = learn.dls.train_ds.items.drop_duplicates('title').set_index('title').genres.str.split('|')
    assert len(ax.collections)==5 and len(points(ax, 4))==len(ax.texts)
    for k,g in enumerate(['Drama','Comedy','Western'], 1):
        has = [g in sets[o] for o in titles]
        assert 0<sum(has)<len(titles) and ax.get_legend().get_texts()[k-1].get_text()==f'{g} ({sum(has)})'
        assert np.allclose(points(ax, k), xy[has])

def test_neighbours_of_tsne(monkeypatch):
    "The perplexity is 30 where there are items enough, and a third of them where not"
    asked = []
    class Fake:
        def __init__(self, dims, perplexity, **kwargs): asked.append(perplexity)
        def fit_transform(self, v): return v[:,:2]
    monkeypatch.setattr(plots, 'TSNE', Fake)
    interp = CollabInterpretation(make(CollabDataLoaders.from_df(synthetic_ratings(50, 120, 2000), seed=1)))
    for n in (120,92,91,61,4): interp.plot_factors('tsne', n=n, top=0)
    assert asked[:3]==[30]*3 and asked[3:]==[20,1]

def test_map_by_default(learn, interp):
    "Two components of at most the thousand most rated items, without marks"
    ax = interp.plot_factors()
    assert points(ax).shape==(60,
        2) and ax.get_legend() is None and len(ax.collections)==2 and ax.get_title()=='60 items, by their vectors'
    assert list(ax.figure.get_size_inches())==[9,7] and list(interp.plot_factors(figsize=(3,2),
        top=0).figure.get_size_inches())==[3,2]
    assert ax.figure is not interp.plot_factors(top=0).figure

@pytest.mark.parametrize('n', [3,17])
def test_the_most_rated_are_shown(learn, interp, n):
    ax = interp.plot_factors(n=n, top=0)
    want = PCA(2).fit_transform(vectors(learn, most_rated(learn)[:n]))
    assert np.allclose(np.abs(points(ax)), np.abs(want),
        atol=1e-5) and ax.get_title()==f'The {n} most rated of 60 items, by their vectors' and not ax.texts

def test_marks_by_default_are_the_two_most_rated(learn, interp):
    for by in ('genres','decade'):
        ax = interp.plot_factors(by=by, top=0)
        assert [o.get_text().rsplit(' ', 1)[0] for o in ax.get_legend().get_texts()]==list(rated(learn, by).index[:2])

def test_six_marks_can_be_told_apart(learn, interp):
    names = list(rated(learn, 'genres').index[:6])
    ax = interp.plot_factors(by='genres', mark=names, top=0)
    looks = [(o.get_paths()[0].vertices.tobytes(),o.get_facecolors().tobytes()) for o in ax.collections[1:]]
    assert len(set(looks))==6 and [o.get_text().rsplit(' ', 1)[0] for o in ax.get_legend().get_texts()]==names

@pytest.mark.parametrize('top,figsize,least', [(60,(7,5),3),(60,(3,2),1),(8,(7,5),3)])
def test_labels(learn, interp, top, figsize, least):
    "The most rated items have labels within the axes, apart and off all dots; one left out has no room at its point"
    ax = interp.plot_factors(top=top, figsize=figsize)
    ax.figure.canvas.draw()
    titles,xy = most_rated(learn)[:top],points(ax)
    boxes = {o.get_text():o.get_window_extent() for o in ax.texts}
    assert len(boxes)==len(ax.texts)>=least and list(boxes)==[o for o in titles if o in boxes]
    for o in ax.texts: assert np.allclose(o.xy, xy[titles.index(o.get_text())])
    # rings
    assert np.array_equal(points(ax, -1), [xy[titles.index(o)]
        for o in boxes]) and not len(ax.collections[-1].get_facecolors())
    for k,(a,box) in enumerate(boxes.items()):
        assert box.x1<=ax.bbox.x1 and box.y1<=ax.bbox.y1 and box.x0>=ax.bbox.x0 and box.y0>=ax.bbox.y0
        assert not any(box.overlaps(o) for o in list(boxes.values())[:k])
    left,dots = [o for o in titles if o not in boxes],ax.transData.transform(points(ax))
    leaders = [ax.transData.transform(o.get_xydata()) for o in ax.lines]     # lines to labels that are farther away
    leaders = np.vstack([dots[:0], *(np.linspace(a, b, 50) for a,b in leaders)])
    def covers(box, at=dots): return ((at>=box.p0) & (at<=box.p1)).all(1).any()
    assert not any(covers(o) for o in boxes.values())
    if top==60: assert left
    for o in left:
        before = [b for nm,b in boxes.items() if titles.index(nm)<titles.index(o)]
        for dx,dy in itertools.product((-1,0,1), (-1,0,1)):
            if dx==dy==0: continue
            box = ax.annotate(o, xy[titles.index(o)], xytext=(4*dx,4*dy), textcoords='offset points', fontsize=7,
                ha=('right','center','left')[dx+1],
                va=('top','center','bottom')[dy+1]).get_window_extent().padded(3)
            inside = ax.bbox.x0<box.x0 and box.x1<ax.bbox.x1 and ax.bbox.y0<box.y0 and box.y1<ax.bbox.y1
            covered = covers(box.padded(2)) or covers(box.padded(3), leaders)
            assert any(box.overlaps(b.padded(3)) for b in before) or covered or not inside, o

@pytest.mark.parametrize('dims', [2,3])
def test_axes_that_are_given(interp, dims):
    "Drawn where it was asked for, and nowhere else"
    fig = plt.figure()
    axs = [fig.add_subplot(1, 2, k, projection='3d' if dims==3 else None) for k in (1,2)]
    open_before = plt.get_fignums()
    assert interp.plot_factors(dims=dims, ax=axs[1], top=5) is axs[1]
    assert plt.get_fignums()==open_before and not axs[0].collections and points(axs[1]).shape==(60,dims)

def test_axes_of_a_subfigure(interp):
    ax = plt.figure().subfigures(1, 2)[1].subplots()
    assert interp.plot_factors(ax=ax) is ax and ax.texts

def test_two_maps_in_one_figure(interp):
    "The layout that the figure was given still makes room for both"
    fig,axs = plt.subplots(1, 2, layout='constrained')
    for ax in axs: interp.plot_factors(ax=ax, top=5)
    fig.canvas.draw()
    left,right = (o.get_tightbbox() for o in axs)
    assert left.x1<right.x0

@pytest.mark.parametrize('method', ['pca','tsne'])
@pytest.mark.parametrize('dims', [2,3])
def test_few_items_and_short_vectors(dls, method, dims):
    "Vectors of one number have room in two or three dimensions, and three items are enough"
    interp = CollabInterpretation(make(dls, 1))
    xy = points(interp.plot_factors(method, dims, n=20, top=0))
    assert xy.shape==(20,dims) and np.isfinite(xy).all()
    if method=='pca':
        v = vectors(interp.data.learn, most_rated(interp.data.learn)[:20])[:,0]
        assert np.allclose(np.abs(xy[:,0]), np.abs(v-v.mean()), atol=1e-5) and (xy[:,1:]==0).all()
    assert np.isfinite(points(interp.plot_factors(method, dims, n=3))).all()

def test_seed_of_the_map(dls):
    "A seed draws the same map whatever the global random state; with a random start, another seed draws another"
    interp = CollabInterpretation(make(dls, 1))
    def run(seed, state):
        set_seed(state)
        return points(interp.plot_factors('tsne', n=20, top=0, seed=seed))
    first = run(0, 1)
    assert np.array_equal(first, run(0, 2)) and not np.allclose(first, run(1, 1))

BAD = {'method': (dict(method='mds'), ValueError, "method is 'mds'; choose 'pca', 'tsne' or 'umap'"),
    'one dimension': (dict(dims=1), ValueError, 'dims is 1; choose 2 or 3'),
    'four dimensions': (dict(method='tsne', dims=4), ValueError, 'dims is 4'),
    'mark without by': (dict(mark=['Comedy']), ValueError,
        'mark names categories of a feature; name the feature in by'),
    'feature of users': (dict(by='age'), ValueError, "'age' is not a feature of the items"),
    'items': (dict(by='items'), ValueError, "'items' is not a feature of the items"),
    'users': (dict(by='users'), ValueError,
        r"'users' is not a feature of the items; choose from \['genres', 'decade'\]"),
    'no feature': (dict(by='nothing'), KeyError,
        r"'nothing' is not the name of users, items or a feature; choose from \['genres', 'decade'\]"),
    'no category': (dict(by='genres', mark=['Comedy','Polka']), KeyError,
        "1 of 2 genres not seen in training, e.g. .'Polka'."),
    'seven marks': (dict(by='genres', mark=['Comedy']*7), ValueError, 'mark has 7 categories; name at most 6'),
    'two items': (dict(n=2), ValueError, 'n is 2; give a whole number of at least 3, or None for all'),
    'no item': (dict(n=0), ValueError, 'n is 0'),
    'less than none': (dict(n=-1), ValueError, 'n is -1'), 'half an item': (dict(n=9.5), ValueError, 'n is 9.5'),
    'titles': (dict(top=-1), ValueError, 'top is -1')}

@pytest.mark.parametrize('name', BAD)
def test_errors_of_the_map(interp, name):
    "An error that says what is wrong, and no empty figure left behind"
    kwargs,kind,match = BAD[name]
    with pytest.raises(kind, match=match): interp.plot_factors(**kwargs)
    assert not plt.get_fignums()

def test_reads_do_not_write(dls):
    "Tables and maps leave weights, gradients, modes, random states, data, callbacks and the given names as they were"
    learn = make(dls)
    learn.model.train()
    learn.model.i_weight.eval()
    interp,names = CollabInterpretation(learn),['Comedy','Drama']
    def state():
        return dict(weights={k:v.tolist() for k,v in learn.model.state_dict().items()},
            grads=[p.grad is None for p in learn.model.parameters()],
            needs=[p.requires_grad for p in learn.model.parameters()],
            modes=[m.training for m in learn.model.modules()],
            training=learn.training,
            rng=(torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],
                random.getstate()),
            data=[o.tolist() for o in (dls.train_ds.store.ids(),dls.train_ds.store.ratings(),*dls.train_ds.tables)],
            classes={k:list(v) for k,v in dls.classes.items()},
            cbs=[id(o) for o in learn.cbs], style=plt.rcParams.copy())
    before = state()
    for what in WHAT:
        interp.bias(what)
        interp.similarity(what=what)
    interp.similar('Comedy', what='genres')
    for method,dims in (('pca',2),('pca',3),('tsne',2)):
        interp.plot_factors(method, dims, n=20, by='genres', mark=names)
    assert state()==before and names==['Comedy','Drama']

@pytest.mark.cuda
def test_cuda(dls):
    learn = make(dls)
    want = CollabInterpretation(learn).bias(n=None),CollabInterpretation(learn).similarity()
    learn.model.cuda()
    got = CollabInterpretation(learn).bias(n=None),CollabInterpretation(learn).similarity()
    for a,b in zip(got, want): pd.testing.assert_frame_equal(a, b, atol=1e-5)
    assert CollabInterpretation(learn).plot_factors().texts and next(learn.model.parameters()).is_cuda

def test_one_name_and_axes_of_another_kind(interp):
    "A single name isn't a list of letters, and flat axes have no room for three dimensions"
    assert list(interp.similarity('Comedy', 'genres').columns)==['Comedy']
    assert interp.plot_factors(by='genres', mark='Comedy').get_legend().get_texts()[0].get_text().startswith('Comedy (')
    for dims,projection in ((3,None),(2,'3d')):
        with pytest.raises(ValueError, match=f'dims is {dims}, but the axes are'):
            interp.plot_factors(dims=dims, ax=plt.figure().add_subplot(projection=projection))

def test_marks_look_alike_in_three_dimensions(interp):
    "Marks are as dark at the back as in the legend, and on top of the dots"
    ax = interp.plot_factors(dims=3, by='genres', top=5)
    ax.figure.canvas.draw()
    for c,handle in zip(ax.collections[1:], ax.get_legend().legend_handles):
        assert len(np.unique(c.get_facecolors(), axis=0))==1 and np.allclose(c.get_facecolors()[0],
            handle.get_facecolors()[0])
    assert len({o.get_zorder() for o in ax.collections})==1 and not ax.computed_zorder

@pytest.mark.parametrize('call,match', [(lambda i: i.bias(n=0),
    'n is 0; give a whole number of at least 1, or None for all'), (lambda i: i.similar('x', n=-2), 'n is -2'),
    (lambda i: i.representation(n_users=0), 'n_users is 0; give a whole number of at least 1$'),
    (lambda i: i.representation(k=0), 'k is 0'), (lambda i: i.bias(n='5'), "n is '5'")])
def test_counts(interp, call, match):
    with pytest.raises(ValueError, match=match): call(interp)

def test_similar_takes_one_name(interp):
    for names in (['The'], ('The',), pd.Series(['The'])):
        with pytest.raises(TypeError,
            match=f'name is a {type(names).__name__}; similar takes one name, and similarity takes '
            f'several'): interp.similar(names)

def test_parts_of_the_loaders(learn, interp):
    for bad in (2,-1,'valid',None):
        with pytest.raises(ValueError,
            match=f'ds_idx is {bad!r}; the loaders have 2 parts: 0 is training, 1 is '
            f'validation'): CollabInterpretation.from_learner(learn, bad)
    n = len(learn.dls.train_ds)
    assert repr(CollabInterpretation.from_learner(learn,
        0))==f'CollabInterpretation of a {type(learn.model).__name__} and part 0 of its loaders, {n:,} ratings'
    alone = CollabInterpretation.from_recommender(learn.recommender(), learn.dls.valid_ds.items)
    assert repr(alone)==f'CollabInterpretation of a recommender and {len(learn.dls.valid_ds):,} test ratings' and not {
        'counts','rows'} & set(vars(alone.data))

FUNCTIONS = {'bias':tables.bias_ranking, 'similar':tables.similar_table, 'similarity':tables.similarity_table,
    'genre_similarity':tables.feature_similarity,
    'representation':tables.representation_table, 'top_losses':error_analysis.top_losses,
    'cold_report':error_analysis.cold_report, 'report':report.write_report,
    **{o:getattr(error_analysis, o) for o in ('plot_error_by_popularity','plot_calibration','plot_residuals',
        'plot_star_confusion')},
    **{o:getattr(plots, o) for o in ('plot_factors','plot_genres','plot_bias','plot_similarity','plot_popularity',
        'plot_training')}}

@pytest.mark.parametrize('name', FUNCTIONS)
def test_methods_have_the_arguments_of_their_functions(name):
    "The same names in the same order with the same defaults, after the data"
    def args(f): return [(o.name,o.default) for o in list(inspect.signature(f).parameters.values())[1:]]
    more = 1 if name=='plot_factors' else 0                              # `interactive` chooses between two functions
    assert args(getattr(CollabInterpretation, name))[:-more or None]==args(FUNCTIONS[name])
