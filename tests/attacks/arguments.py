"Odd values for each argument of the public calls"
import inspect, math
from fractions import Fraction

import numpy as np, pandas as pd, torch
from fastcollab import all as public
from fastcollab.all import (CollabDataLoaders, CollabInterpretation, CollabNN, DotProductBias, IdDropout,
    LeaveLastSplitter, RandomSplitter, SVDPlusPlus, TemporalSplitter, collab_learner, evaluate, synthetic_ratings,
    to_implicit)
from .values import BASE, CLICKS, ODD, fitted, loaders, new, quiet, recommender, works
from .verdict import Case, want

# ---- Which values are right: True must work, False must be refused, None may do either
LONG = 2**20   # counts above it would only take long: not tried

def plain(o): return o.item() if getattr(o, 'ndim', None)==0 else o
def is_number(o): return isinstance(o, (int,float)) and not isinstance(o, bool)
def whole(low=1, high=2**62, none=False, end=None):
    "Whole numbers from `low` to `high`; above, either will do: what is too much for one machine may suit another"
    def right(o):
        if (o := plain(o)) is None: return none
        if isinstance(o, float) and o.is_integer() and low<=o<=high: return None
        if not isinstance(o, int) or isinstance(o, bool) or o<low: return False
        return True if o<=high else False if end else None
    return right
def number(low=-1e20, high=1e20, none=False, more=(Fraction,), end=False):
    "Numbers between `low` and `high`, not included; at the ends, above, and for other types in `more`, either will do"
    def right(o):
        if (o := plain(o)) is None: return none
        if isinstance(o, more) or is_number(o) and o in (low,high): return None
        if not is_number(o) or not o>low or o==math.inf: return False
        return True if o<high else False if end else None
    return right
def flag(o): return True if isinstance(o, bool) else None if o is None or isinstance(plain(o), (bool,int)) else False
def among(*values):
    "Some values, and no other"
    def right(o): return any(type(o) is type(v) and o==v for v in values)
    return right
def either(o): "What isn't for us to say"
def never(o): return False
def places(o): return None if isinstance(o, str) or hasattr(o, '__fspath__') or o is None else False

# ---- The doors: a call with one argument, which then uses what it got
def load(name, v):
    dls = CollabDataLoaders.from_df(BASE, **{'seed':1, name:v})
    works(collab_learner(dls, n_factors=4))
def click(name, v):
    dls = CollabDataLoaders.from_interactions(CLICKS, **{'seed':1, name:v})
    works(collab_learner(dls, n_factors=4))
def learn(name, v): works(new(**{name:v}))
def net(name, v): works(new(use_nn=True, **{name:v}))
def fits(how, **given):
    def door(name, v): works(quiet(new('clicks' if how=='fit_sgd' else 'ratings'), how, **{**given, name:v}), False)
    door.__name__ = how
    return door
def gibbs(name, v):
    args = {'sweeps':4, 'every':2, name:v}
    works(quiet(new(arch=SVDPlusPlus), 'fit_gibbs', **args), False)
def resumed(name, v): quiet(new(), 'fit_gibbs', 4, **{name:v})
def predict(name, v):
    args = {'user':1, 'item':int(BASE.movieId[0]), name:v}
    got = fitted('sampled').predict(**args)
    want(np.isfinite(np.asarray(got)).all(), got)
def lists(name, v):
    got = recommender().recommend(**{'users':[1,2], 'k':3, name:v})
    want(list(got)[:4]==['user','rank','item','title'] and len(got)>0, list(got))
def similar(name, v): want(len(recommender().similar_items(**{'item':1, 'k':3, name:v}))>0, 'no items')
def explain(name, v): want(len(recommender().explain(**{'user':1, 'item':2, name:v}))>0, 'no parts')
def fold(name, v):
    rows = pd.DataFrame(dict(userId=[99], movieId=[1], rating=[3.]))
    got = recommender().fold_in(**{'ratings':rows, name:v})
    want(len(got.recommend(99 if name=='users' else 1, 3))==3, 'no list')
def measure(name, v):
    got = evaluate(fitted(), fitted().dls.valid_ds.items, **{'k':(3,), 'n_boot':5, name:v})
    want(len(got)==1, 'no row')
def make(cls, **given):
    def door(name, v):
        model = cls.from_dls(loaders(), **{**given, name:v})
        want(model(torch.tensor([[1,1],[2,3]])).shape==(2,), 'another shape')
    door.__name__ = cls.__name__
    return door
def synthetic(name, v): want(len(synthetic_ratings(**{'n_users':9, 'n_items':9, 'n_ratings':40, name:v}))>0,
    'no rows')
def split(cls):
    def door(name, v):
        train,valid = cls(**{name:v})(BASE)
        want(len(set(train)&set(valid))==0 and len(train)>0, 'parts overlap')
    door.__name__ = cls.__name__
    return door
def clicks_of(name, v): want(len(to_implicit(BASE, **{name:v}))>=0, 'no rows')
def interpret(name, v): CollabInterpretation(fitted()).plot_factors(**{name:v})
def dropout(name, v): IdDropout(**{name:v})

SHARE,SEED = number(0, 1, end=True),whole(-2**63, 2**64-1, none=True, end=True)
POSITIVE,COLUMN = number(0, 1e6),among(None)
SEVERAL = Fraction,slice,list,tuple,set,range,np.ndarray,torch.Tensor,pd.Series
RATE,SIZE = number(0, 1e3, none=True, more=SEVERAL),whole(high=2**16)
CALLS = [ # door, and its arguments with what is right for them
    (load, dict(bs=whole(), val_bs=whole(none=True), seed=SEED, valid_pct=SHARE, shuffle=flag, drop_last=flag,
        user_name=COLUMN, item_name=COLUMN, rating_name=COLUMN, genre_name=either, item_cols=either, user_cols=either,
        sep=either, title_name=COLUMN, time_name=COLUMN, user_weight=among(None), splitter=either, splits=either,
        path=places, device=either, num_workers=either)),
    (click, dict(n_neg=whole(high=100), sampler=never, duplicates=never, rule=never, alpha=POSITIVE,
        weight_name=COLUMN, bs=whole(), seed=SEED, valid_pct=SHARE, path=places)),
    (learn, dict(n_factors=whole(none=True, high=2**16), emb_szs=either, layers=either, config=either, y_range=either,
        loss_func=either, arch=either, unk_p=number(0, 1, none=True, end=True), center=flag, bias_wd=POSITIVE,
        opt_func=either, cbs=either, lr=number(0, 1e3, more=SEVERAL), splitter=either, metrics=either, path=places,
        model_dir=places, wd=RATE, moms=either, fused=either, train_bn=flag, wd_bn_bias=flag, default_cbs=either,
        use_nn=flag)),
    (net, dict(n_factors=whole(none=True, high=2**16), layers=either, emb_szs=either, config=either)),
    (fits('fit', n_epoch=1), dict(n_epoch=whole(0, LONG), lr=RATE, wd=RATE, cbs=either, reset_opt=flag,
        start_epoch=either)),
    (fits('fit_one_cycle', n_epoch=1), dict(lr_max=RATE, div=POSITIVE, div_final=POSITIVE, pct_start=SHARE, wd=RATE,
        moms=either, cbs=either)),
    (fits('fit_flat_cos', n_epoch=1), dict(lr=RATE, div_final=POSITIVE, pct_start=SHARE)),
    (fits('fit_als', epochs=1), dict(reg=number(0, 1e6, none=True), alpha=either, cg=whole(none=True, high=LONG),
        growth=either)),
    (fits('fit_sgd', epochs=1), dict(lr=POSITIVE, reg=number(0, 1e6), seed=SEED)),
    (gibbs, dict(sweeps=whole(high=LONG), every=whole(), n_factors=either, samples=whole(none=True), seed=SEED,
        cbs=either)),
    (resumed, dict(resume=flag)),
    (predict, dict(unknown=never, interval=number(0, 1, none=True, end=True))),
    (lists, dict(k=whole(high=20), exclude_seen=flag, filters=among(None), mb=number(0), as_=among(None), items=either,
        exclude=either)),
    (similar, dict(k=whole(high=19), metric=never, as_=among(None))),
    (explain, dict(k=whole())),
    (fold, dict(ratings=either, users=either)),
    (measure, dict(k=either, style=among(None), min_rating=either, n_boot=whole(0, LONG), interval=SHARE, seed=SEED,
        n_sampled=either, auc=flag)),
    (make(DotProductBias, n_factors=4), dict(n_factors=SIZE, y_range=either, emb=either)),
    (make(CollabNN), dict(layers=either, emb_szs=either, ps=either, embed_p=either, use_bn=flag, act_cls=either)),
    (make(SVDPlusPlus, n_factors=4), dict(n_factors=SIZE, y_range=either, timestamps=either)),
    (synthetic, dict(n_users=either, n_items=either, n_ratings=whole(high=81), n_factors=SIZE, noise=number(0),
        seed=SEED)),
    (split(RandomSplitter), dict(valid_pct=SHARE, seed=SEED)),
    (split(LeaveLastSplitter), dict(k=whole(high=5), time_name=never)),
    (split(TemporalSplitter), dict(valid_pct=SHARE, time_name=never)),
    (clicks_of, dict(threshold=either, rating_name=COLUMN)),
    (interpret, dict(n=whole(none=True), top=whole())),
    (dropout, dict(p=SHARE))]

# ---- The other doors: whatever comes, it works or is refused; no argument is left out
def learned(how, **given):
    "A method of a learner that was fitted"
    f = getattr(public.CollabLearner, how)
    return how,lambda **kwargs: f(quiet(new(), 'fit', 1), **{**given, **kwargs}),f
def solved(name):
    cls = getattr(public, name)
    return name,lambda **kwargs: works(quiet(new('clicks', arch=cls, **{'n_factors':None, **kwargs}), 'fit', 1),
        False),cls
def lost(name):
    cls = getattr(public, name)
    return name,lambda **kwargs: works(quiet(new('clicks', loss_func=cls(**kwargs)), 'fit', 1), False),cls
def measured(name):
    cls = getattr(public, name)
    return name,lambda **kwargs: quiet(new('clicks', metrics=cls(**kwargs)), 'fit', 1),cls
def called(name, kind='ratings'):
    cls = getattr(public, name)
    return name,lambda **kwargs: quiet(new(kind), 'fit', 1, cbs=cls(**kwargs)),cls
def parted(name):
    cls = getattr(public, name)
    return name,lambda **kwargs: cls(**kwargs)(BASE),cls
def shown(name):
    f = getattr(CollabInterpretation, name)
    return name,lambda **kwargs: f(CollabInterpretation.from_learner(fitted('features')), **kwargs),f
def function(name, **given):
    f = getattr(public, name)
    return name,lambda **kwargs: f(**{**{k:v() for k,v in given.items()}, **kwargs}),f
def asked(name, **given):
    f = getattr(type(recommender()), name)
    def call(**kwargs):
        for _ in f(recommender(), **{**given, **kwargs}): pass   # `batches` makes its lists one after the other
    return name,call,f

POINTS = pd.DataFrame(dict(x=[0.,1,2], y=[0.,1,2], title=list('abc'), genres=['A','B','A|B']))
OTHERS = [
    *map(solved, ('EASE','SLIM','ItemKNN','Popular')),
    *map(lost, ('BPRLoss','WARPLoss','AdaptiveHingeLoss','SampledSoftmaxLoss','BCELoss')),
    *map(measured, ('NDCG','Recall','Precision','MAP','MRR','HitRate','AUC','Coverage','ExposureGini','Novelty',
        'PopularityLift','Diversity')),
    *map(called, ('ValidRMSE','BiasInterpretation','PopularityBias','GravityRegularizer')),
    *map(parted, ('StratifiedSplitter','UserStratifiedSplitter','LastShareSplitter','ItemStratifiedSplitter',
        'ColdUserSplitter','ColdItemSplitter','FoldSplitter')),
    *map(shown, ('similarity','genre_similarity','representation','worst_users','worst_items','top_losses','bias',
        'cold_report','plot_error_by_popularity','plot_calibration','plot_residuals','plot_star_confusion',
        'plot_genres','plot_bias','plot_similarity','plot_popularity','plot_factors')),
    learned('fine_tune', epochs=1), learned('fit_sgdr', n_cycles=1, cycle_len=1), learned('summary'),
    learned('update', ratings=BASE.head(3)), asked('similar_users', user=1), asked('batches', k=3), asked('decay'),
    function('item_map', df=lambda: POINTS), function('plot_ratings', df=lambda: BASE),
    function('describe_ratings', df=lambda: BASE), function('baseline_rmse', dls=loaders),
    function('split_leaks', df=lambda: BASE, splits=lambda: (range(100),range(100, 240))),
    function('ensemble', learners=lambda: [fitted()]*2),
    function('compare', models=lambda: dict(a=recommender()), test=lambda: BASE, k=lambda: 3, n_boot=lambda: 5)]
_left = 'self','dls','ds','truth','ax'

def arguments_of(f):
    "The arguments of a call that can be given by name"
    params = inspect.signature(f).parameters.values()
    return [o.name for o in params if o.kind not in (o.VAR_POSITIONAL,o.VAR_KEYWORD) and o.name not in _left
        and not o.name.startswith(('before_','after_'))]

_fit,_cycle = fits('fit', n_epoch=1),fits('fit_one_cycle', n_epoch=1)
MISSPELT = [(load, 'batch_size'), (load, 'user_nam'), (learn, 'n_factor'), (learn, 'metric'), (learn, 'cb'),
    (learn, 'nn'), (click, 'n_negs'), (_fit, 'epochs'), (_cycle, 'lr_maxx'), (lists, 'top_k'), (gibbs, 'sweep'),
    (similar, 'kk'), (measure, 'n_bot'), (make(DotProductBias), 'factors'), (synthetic, 'users')]
_counts = 'n_epoch','epochs','freeze_epochs','sweeps','n_boot','cg','n_cycles','cycle_len'

def tried(name, o):
    "Would the value be right, and only take long?"
    return not (name in _counts and is_number(plain(o)) and plain(o)>LONG)

def cases():
    "Each argument with each value"
    for door,arguments in CALLS:
        for name,right in arguments.items():
            for label,value in ODD.items():
                if not tried(name, value()): continue
                verdict = right(value())
                bad = None if verdict is None else not verdict
                def call(door=door, name=name, value=value, bad=bad): demand(door, name, value(), bad)
                yield Case('arguments', f'{door.__name__}({name}={label})', call, bad)
    for label,call,f in OTHERS:
        for name in arguments_of(f):
            for kind,value in ODD.items():
                if tried(name, value()): yield Case('arguments', f'{label}({name}={kind})',
                    lambda call=call, name=name, value=value: call(**{name:value()}))
    for door,name in MISSPELT: yield Case('arguments', f'{door.__name__}({name}=5)', lambda d=door, n=name: d(n, 5),
        True)

def demand(door, name, value, bad):
    "Call; a value that is right has to work"
    try: door(name, value)
    except (ValueError,TypeError,KeyError) as e:
        if bad is False: want(False, f'a right value was refused: {e}')
        raise
