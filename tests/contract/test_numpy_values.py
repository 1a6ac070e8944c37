"Numbers from numpy and torch, wherever the library takes a number, a pair or a seed: the same answer as for Python's"
import warnings
from functools import partial

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import (BiasBaseline, BiasInterpretation, CollabInterpretation, CollabNN, ColdItemSplitter,
    ColdUserSplitter, DotProduct, DotProductBias, FoldSplitter, GenreCategorify, GenreEmbedding, GravityRegularizer,
    HybridMF, HybridNN, IdDropout, LazyAdam, LeaveLastSplitter, LinearCollab, Link, MetadataEmbedding, ParamEmbedding,
    PopularityBias, RandomSplitter, SVDPlusPlus, StratifiedSplitter, TemporalSplitter, UserStratifiedSplitter,
    ValidRMSE, baseline_rmse, collab_learner, create_params, item_map, sched_step, simulate_feedback, synthetic_ratings)
from small import SMALL, load, quiet

FOLDS = SMALL.assign(fold=np.arange(300)%4)
LEARN = quiet(collab_learner(load(title_name='title', genre_name='genres'), n_factors=4, y_range=(0,5.5)), 1, 5e-3)
REC,INTERP = LEARN.recommender(),CollabInterpretation(LEARN)
META = pd.DataFrame(dict(userId=REC.ids[0], age=np.arange(len(REC.ids[0])), job=['a','b','c']*(len(REC.ids[0])//3)))
PLACES = pd.DataFrame(dict(x=[1.,2.,3.], y=[2.,1.,3.], title=list('abc')))

def seeded(f):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return f()

def fitted(bs=64, seed=1, cbs=None, **kwargs):
    "What a learner predicts after an epoch with these options"
    fit = {k:kwargs.pop(k) for k in ('n','lr','wd','how') if k in kwargs}
    args = fit.pop('n', 1),fit.pop('lr', 5e-3)
    features = dict(genre_name='genres') if kwargs.get('arch') in (HybridMF,HybridNN) else {}
    def run():
        dls = load(bs=bs, seed=seed, **features)
        learn = collab_learner(dls, cbs=cbs, **{'n_factors':4, 'y_range':(0,5.5), **kwargs})
        return quiet(learn, *args, **{'how':'fit_one_cycle', **fit}).predict(SMALL)
    return seeded(run)

CASES = dict( # what is asked, given how to wrap a number and how to wrap several
    splits=lambda n,s: [f(FOLDS) for f in (RandomSplitter(n(.2), n(1)), StratifiedSplitter(n(.2), seed=n(1)),
        UserStratifiedSplitter(n(.3), seed=n(1)), LeaveLastSplitter(n(2)), TemporalSplitter(n(.2)),
        ColdUserSplitter(n(.2), seed=n(1)), ColdItemSplitter(n(.2), seed=n(1)), FoldSplitter(n(2)))],
    loaders=lambda n,s: [list(load(valid_pct=n(.3), seed=n(2), bs=n(16), val_bs=n(32)).train)],
    full_batch=lambda n,s: list(load().full_batch(n(2)).train),
    test_dl=lambda n,s: list(load().test_dl(SMALL, bs=n(7))),
    synthetic=lambda n,s: synthetic_ratings(n(10), n(8), n(40), n(2), noise=n(.5), seed=n(3)),
    learner=lambda n,s: fitted(n(32), n(2), n_factors=n(3), y_range=s((0,5.5)), unk_p=n(.2)),
    fit=lambda n,s: fitted(n=n(1), lr=n(.01), wd=n(.1)),
    fit_by_batches=lambda n,s: fitted(n(128), n(2), n_factors=n(3), y_range=s((0,5.5)), n=n(1), lr=n(.01), wd=n(.1),
        fused=False),
    net=lambda n,s: fitted(use_nn=True, layers=s((8,4)), emb_szs=s((5,3)), config=dict(ps=s((.1,.2)), embed_p=n(.1))),
    net_by_name=lambda n,s: fitted(use_nn=True, emb_szs={'movieId':n(3)}, n_factors=n(6)),
    step=lambda n,s: fitted(cbs=sched_step(n(.01), n(2), n(.5))),
    id_dropout=lambda n,s: fitted(unk_p=0, cbs=IdDropout(n(.3))),
    models=lambda n,s: [seeded(lambda: f(n(6), n(5), n(3), s((0,5.5)))(torch.tensor([[1,2],[3,4]])))
        for f in (DotProduct, DotProductBias, CollabNN)],
    other_models=lambda n,s: [fitted(arch=f, n_factors=n(3), y_range=s((0,5.5))) for f in (HybridMF, HybridNN,
        SVDPlusPlus, LinearCollab)],
    baseline=lambda n,s: [baseline_rmse(LEARN.dls, n(3.)), BiasBaseline.from_dls(LEARN.dls, damping=n(3.)).i_bias],
    losses=lambda n,s: fitted(cbs=[GravityRegularizer(n(.2), n(.3)), BiasInterpretation(n(3)), ValidRMSE()]),
    schedules=lambda n,s: [fitted(how=how, n=n(1), lr=n(.01)) for how in ('fit','fit_flat_cos','fine_tune')],
    moments=lambda n,s: fitted(opt_func=partial(LazyAdam, mom=n(.8), sqr_mom=n(.98), eps=n(1e-6), wd=n(.05))),
    slices=lambda n,s: fitted(lr=slice(n(.001), n(.01)), wd=n(.2)),
    lr_find=lambda n,s: seeded(lambda: quiet(collab_learner(load(), n_factors=4), n(1e-5), n(1), n(20), how='lr_find',
        show_plot=False)).recorder.lrs,
    metadata=lambda n,s: MetadataEmbedding(LEARN, META, bs=n(8), layers=s([6,4]), seed=n(1)).fit(n(1), n(.01),
        n(.1)).factors(META).vec,
    categories=lambda n,s: GenreCategorify(bins=n(3)).setup(pd.Series(range(40))).encode(pd.Series([3,30]))[0],
    item_maps=lambda n,s: str(item_map(PLACES, top=n(2)))==str(item_map(PLACES, top=2)),
    feature_loops=lambda n,s: fitted(n(16), n(1), arch=HybridMF, fused=False),
    layers=lambda n,s: [seeded(f) for f in (lambda: create_params(*s((3,2)), std=n(.1)), lambda: GenreEmbedding(n(5),
        n(3)).weight, lambda: ParamEmbedding(n(4), n(3), n(.1)).weight)],
    centered=lambda n,s: DotProductBias(6, 5, 3, s((0,5.5))).center(n(3.5)),
    link=lambda n,s: Link(s((0,5.5)), n(3.5))(torch.arange(3.)),
    get_preds=lambda n,s: LEARN.get_preds(n(1)),
    validate=lambda n,s: list(LEARN.validate(n(1))),
    lists=lambda n,s: [REC.recommend(n(7), n(3)), REC.recommend(k=n(3), mb=n(.5)), LEARN.recommend(n(7), k=n(3)),
        list(REC.batches(k=n(3), mb=n(.01)))],
    similar=lambda n,s: [REC.similar_items(n(3), n(4)), REC.similar_users(n(3), n(4)), LEARN.similar_items(n(3), n(4))],
    explain=lambda n,s: REC.explain(n(7), REC.recommend(7, 1)['item'][0], n(2)),
    decay=lambda n,s: REC.decay(n(0)),
    ann=lambda n,s: len(REC.to_ann(n(16), n(64))),
    pairs=lambda n,s: [LEARN.predict(n(1), n(2)), REC.predict(n(1), n(2))],
    tables=lambda n,s: [INTERP.bias(n=n(3), min_ratings=n(2)), INTERP.similar(REC.ids[1][0], n(3), min_ratings=n(2)),
        INTERP.representation(n(3), n(10), n(1)), INTERP.worst_users(n(3), n(2)), INTERP.worst_items(n(3), n(2)),
        INTERP.top_losses(n(3))],
    plots=lambda n,s: [f and None for f in (INTERP.plot_calibration(bins=n(5), figsize=s((4,3))),
        INTERP.plot_residuals(bins=n(5)), INTERP.plot_factors(n=n(10), top=n(5), seed=n(1), dims=n(2)),
        INTERP.plot_bias(n=n(3), min_ratings=n(1)), INTERP.plot_popularity(n(3), n(10), n(1)),
        INTERP.plot_factors(n=n(10), top=n(5), seed=n(1), dims=n(2), interactive=True))],
    popularity_bias=lambda n,s: quiet(collab_learner(load(), n_factors=4, y_range=(0,5.5), cbs=PopularityBias(n(3),
        n(10), seed=n(1))), 1) and None,
    feedback=lambda n,s: seeded(lambda: simulate_feedback(collab_learner(load(), n_factors=n(4), y_range=(0,5.5)),
        n(1), n(2), truth=SMALL.attrs['truth'], visits=n(.3), like=n(4.), n_epoch=n(1), lr=n(.02), wd=n(.1),
        seed=n(1))))

def same(a, b):
    if isinstance(a, pd.DataFrame): pd.testing.assert_frame_equal(a, b, rtol=1e-6)
    elif isinstance(a, (list,tuple)): assert len(a)==len(b) and all(same(*o) for o in zip(a, b))
    elif isinstance(a, torch.nn.Module): pass
    elif a is not None:   # the digits of float32 differ from those of float where nothing checks a number
        a,b = (np.asarray(o.detach() if hasattr(o, 'detach') else o) for o in (a,b))
        np.testing.assert_allclose(a, b, rtol=1e-6) if a.dtype.kind=='f' else np.testing.assert_array_equal(a, b)
    return True

def scalar(v): return (np.int64 if isinstance(v, int) else np.float32)(v)
def zero_dim(v): return np.array(scalar(v))
KINDS = dict(scalar=(scalar,np.array), zero_dim=(zero_dim,lambda v: [scalar(o) for o in v]), tensor=(torch.tensor,
    torch.tensor))

@pytest.fixture(scope='module', params=CASES)
def plain(request):
    "A case and its answer for numbers of Python"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return CASES[request.param],CASES[request.param](lambda v: v, lambda v: v)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', KINDS)
def test_same_as_plain_numbers(plain, kind): assert same(plain[1], plain[0](*KINDS[kind]))

MISTAKES = dict(bs=lambda o: load(bs=o), seed=lambda o: load(seed=o), steps=lambda o: load().full_batch(o),
    n_factors=lambda o: collab_learner(load(), n_factors=o), last=LeaveLastSplitter, k=lambda o: REC.recommend(1, o),
    similar=lambda o: REC.similar_items(1, o), n=lambda o: INTERP.bias(n=o), users=synthetic_ratings,
    split_seed=lambda o: RandomSplitter(seed=o))
@pytest.mark.parametrize('what', MISTAKES)
@pytest.mark.parametrize('value', [True, np.True_, np.array(False), 2.5, np.float32(2.5), np.array([3]), '3'], ids=repr)
def test_what_is_no_whole_number(what, value):
    "A flag, a fraction, an array or text is a mistake that is named where it is made"
    with pytest.raises(ValueError, match='give a whole number'): MISTAKES[what](value)

@pytest.mark.parametrize('value', [True, 5, (5,1), (1,1), (0,3,5), 'ab', (None,5), np.array([[0,5]])], ids=repr)
def test_what_is_no_range(value):
    with pytest.raises(ValueError, match='y_range is .*it has to be .lowest, highest'):
        collab_learner(load(), n_factors=2, y_range=value)
