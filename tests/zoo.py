"All models that the contract suite runs for; a model joins by one line in `ZOO`"
import functools
from typing import Callable, NamedTuple

import numpy as np, pandas as pd, torch
from fastai.tabular.all import Module, set_seed, sigmoid_range
from fastcollab.all import (BiasBaseline, collab_learner, collab_model, CollabDataLoaders, CollabNN, create_params,
    DotProduct, DotProductBias, EASE, HybridMF, HybridNN, ItemKNN, LeadEnsemble, LightGCN, LinearCollab,
    ParamEmbedding, Popular, PosteriorAverage, RankEnsemble, Recommender, rmse, SLIM, Successors, SVDPlusPlus,
    synthetic_ratings, WeightedEnsemble)
from fastcollab.recommend.base import Link
from fastcollab.recommend.recommender import terms_state
from torch import Tensor, nn

BASE = synthetic_ratings(40, 30, 500)
BASE = BASE.assign(decade=BASE.userId//10*10, timestamp=10**9+BASE.timestamp%5*86400)
ITEMS = BASE.drop_duplicates('movieId').set_index('movieId').sort_index()

# Models of users: without any base class, or built on one of ours

class Flat(Module):
    "A user's model, `(bs,)` out"
    def __init__(self, n_users, n_items, y_range=None):
        self.u,self.i,self.b,self.y_range = nn.Embedding(n_users, 5),nn.Embedding(n_items, 5),nn.Embedding(n_items,
            1),y_range
    def forward(self, x):
        res = (self.u(x[:,0])*self.i(x[:,1])).sum(1)+self.b(x[:,1])[:,0]
        return res if self.y_range is None else sigmoid_range(res, *self.y_range)
    @classmethod
    def from_dls(cls, dls, **kwargs): return cls(dls.n_users, dls.n_items, **kwargs)

class Params(Flat):
    "The same with parameters rolled by hand, `(bs,1)` out, and dropout"
    def __init__(self, n_users, n_items, y_range=None):
        self.u,self.i,self.y_range,self.drop = create_params(n_users, 5),create_params(n_items,
            5),y_range,nn.Dropout(.1)
    def forward(self, x):
        return sigmoid_range((self.drop(self.u[x[:,0]])*self.i[x[:,1]]).sum(1, keepdim=True), *(self.y_range or (-9,9)))

class Features(Flat):
    "The same, plus the columns of the features"
    def __init__(self, n_users, n_items, y_range=None):
        super().__init__(n_users, n_items, y_range)
        self.g = nn.Embedding(40, 5)
    def forward(self, x):
        return sigmoid_range((self.u(x[:,0])*(self.i(x[:,1])+self.g(x[:,2:]).sum(1))).sum(1), *(self.y_range or (-9,9)))

class Twice(DotProductBias):
    "Built on a model of the library, with an output of its own"
    def forward(self, x): return 2*super().forward(x)
class TwiceNN(CollabNN):
    "The same with a neural net"
    def forward(self, x): return 2*super().forward(x)

def ensemble_of(*classes):
    "A maker of a weighted ensemble of several models"
    def make(dls, **kwargs):
        return WeightedEnsemble([collab_model(o.from_dls(dls, **kwargs), dls.train_ds) for o in classes], [.3,.7])
    return make
def samples_of(cls, **args):
    "A maker of a model to be averaged over samples of its parameters"
    def make(dls, **kwargs): return PosteriorAverage(cls.from_dls(dls, **{**args, **kwargs}))
    return make
def led_by(cls):
    "A maker of an ensemble of one model and itself, which predicts what this one predicts"
    def make(dls, **kwargs): return LeadEnsemble([cls.from_dls(dls, **kwargs)]*2, [.6,.4])
    return make
def closed_form(dls, **kwargs): return BiasBaseline.from_dls(dls)

def solved(cls, **args):
    "A maker of a model in closed form for clicks"
    def make(dls, **kwargs):
        res = cls.from_dls(dls, **args)
        res.solve(dls.train_ds)
        return res
    return make

def ranked_by(dls, **kwargs):
    "A mix of two rankers"
    return RankEnsemble([solved(EASE, reg=5.)(dls), solved(Popular)(dls)], [.7,.3])

class Entry(NamedTuple):
    "A model of the suite, and what it can do"
    make:Callable|type        # Class with `from_dls`, or a function of loaders and arguments
    kind:str                  # How its scorer computes: 'dot', 'net', 'history', 'ensemble' or 'model'
    args:dict = {}            # Further arguments
    features:bool = False     # Does it read features?
    times:bool = False        # Does it read times?
    vectors:bool = True       # Has it vectors to compare?
    additive:bool = False     # Is it too simple to tell tastes apart?
    foreign:bool = False      # Is it a model without our base class?
    fused:bool = False        # Does it train in the compiled loop?
    center:bool = False       # Around the mean?
    closed:bool = False       # Is it solved from who met what, and blind to ratings?
    fit:tuple = (30,2e-2)     # Epochs and learning rate that teach it a checkerboard

nine = dict(n_factors=9)
ZOO = dict(
    DotProduct=Entry(DotProduct, 'dot', nine, fused=True),
    DotProductBias=Entry(DotProductBias, 'dot', nine, fused=True),
    DotProductBias_param=Entry(DotProductBias, 'dot', dict(emb=ParamEmbedding, **nine), fused=True),
    DotProductBias_centered=Entry(DotProductBias, 'dot', nine, fused=True, center=True),
    HybridMF_add=Entry(HybridMF, 'dot', nine, features=True, fused=True),
    HybridMF_scale=Entry(HybridMF, 'dot', dict(how='scale', agg='mean', **nine), features=True),
    CollabNN=Entry(CollabNN, 'net', dict(n_factors=16)),
    CollabNN_bn=Entry(CollabNN, 'net', dict(layers=[16,8], use_bn=True, bn_final=True, ps=.05, embed_p=.05)),
    CollabNN_bn_first=Entry(CollabNN, 'net', dict(layers=[16,8], use_bn=True, lin_first=False)),
    CollabNN_tanh=Entry(CollabNN, 'net', dict(layers=[16,8], act_cls=nn.Tanh()), fit=(45,5e-2)),
    CollabNN_leaky=Entry(CollabNN, 'model', dict(act_cls=nn.LeakyReLU())),
    HybridNN=Entry(HybridNN, 'net', dict(n_factors=16), features=True),
    HybridNN_deep=Entry(HybridNN, 'net', dict(layers=[16,8], use_bn=True), features=True),
    LinearCollab=Entry(LinearCollab, 'net', additive=True),
    SVDPlusPlus=Entry(SVDPlusPlus, 'dot', nine),
    SVDPlusPlus_features=Entry(SVDPlusPlus, 'dot', nine, features=True),
    SVDPlusPlus_times=Entry(SVDPlusPlus, 'dot', nine, features=True, times=True),
    BiasBaseline=Entry(closed_form, 'dot', vectors=False, additive=True),
    PosteriorAverage=Entry(samples_of(SVDPlusPlus, n_factors=4), 'dot'),
    WeightedEnsemble=Entry(ensemble_of(DotProductBias, CollabNN), 'model'),
    WeightedEnsemble_foreign=Entry(ensemble_of(Features, HybridMF), 'model', features=True),
    LeadEnsemble=Entry(led_by(DotProductBias), 'dot', nine),
    LightGCN=Entry(LightGCN, 'dot', nine, fit=(45,5e-2)),
    Popular=Entry(solved(Popular), 'dot', vectors=False, additive=True, closed=True),
    ItemKNN=Entry(solved(ItemKNN, k=5), 'history', vectors=False, additive=True, closed=True),
    EASE=Entry(solved(EASE, reg=5.), 'history', vectors=False, additive=True, closed=True),
    SLIM=Entry(solved(SLIM, l1=.1, l2=5.), 'history', vectors=False, additive=True, closed=True),
    Successors=Entry(solved(Successors, window=5), 'history', times=True, vectors=False, additive=True, closed=True),
    RankEnsemble=Entry(ranked_by, 'ensemble', vectors=False, additive=True, closed=True),
    Flat=Entry(Flat, 'model', vectors=False, foreign=True),
    Params=Entry(Params, 'model', vectors=False, foreign=True),
    Features=Entry(Features, 'model', features=True, vectors=False, foreign=True),
    Twice=Entry(Twice, 'model', nine),
    TwiceNN=Entry(TwiceNN, 'model', dict(n_factors=16), fit=(45,5e-2)))

def names(**want):
    "Names of the models that have these properties: `names(kind='dot', features=True)`"
    return [k for k,o in ZOO.items() if all(getattr(o, a)==v for a,v in want.items())]

def loaders(name, df=BASE, **kwargs):
    "Loaders with genres of items, decades of users and times for the models that need them"
    cols = dict(genre_name='genres', user_cols='decade') if ZOO[name].features else {}
    if ZOO[name].times: cols['time_name'] = 'timestamp'
    return CollabDataLoaders.from_df(df, **{**dict(bs=64, seed=1), **cols, **kwargs})

def build(name, dls, y_range=(0.,5.5), **kwargs):
    "A model of `name` for `dls`; one in closed form is fitted"
    entry = ZOO[name]
    make = entry.make.from_dls if isinstance(entry.make, type) else entry.make
    return make(dls, **{**entry.args, 'y_range':y_range, **kwargs})

def randomize(model):
    "Large random weights, so that every part of a model counts"
    g = torch.Generator().manual_seed(1)
    for n,p in [*model.named_parameters(), *model.named_buffers()]:
        constant = n.endswith('mean') and 'running' not in n or n=='weights' or 'sets' in n and 'scale' in n
        if constant or p.dtype!=torch.float32: continue
        p.data = torch.randn(p.shape, generator=g)*.5+('var' in n)*2
        if 'var' in n: p.data = p.data.abs()+.1
    return model

class OneSample(NamedTuple):
    "A sample as `PosteriorAverage` takes it"
    users:Tensor
    items:Tensor
    features:list
    precision:float
    user_precision:Tensor
    item_precision:Tensor

def with_samples(model):
    "Two samples around the parameters, if the model averages samples"
    if not isinstance(model, PosteriorAverage): return model
    bounds = model.y_range or (-100,100)
    model.inner.set_link(Link(bounds, 3., True))
    model.clear(unit=(3.,1.), bounds=bounds)
    tables = [torch.cat([o.vec,o.bias[:,None]], 1) for o in map(model.inner.factors, (0,1))]
    none,ones = [torch.zeros(0, tables[0].shape[1])]*2,[torch.ones(len(o)) for o in tables]
    for shift in (-.1,.1):   # biases of users that differ between the samples
        users = tables[0].detach().clone()
        users[:,-1] += shift
        model.add(OneSample(users, tables[1].detach(), none, 1., *ones))
    return model

@functools.cache
def learner(name, y_range=(0.,5.5)):
    "A learner with large random weights; tests must not write into it"
    dls = loaders(name)
    model = build(name, dls, y_range=y_range)
    if name!='BiasBaseline': with_samples(randomize(model))
    return collab_learner(dls, arch=model, center=ZOO[name].center)

@functools.cache
def rec_of(name, y_range=(0.,5.5)): return learner(name, y_range).recommender()

def world(name):
    "Users like items of their own parity (5), not the others (1); in additive models, all like the even ones"
    likes = (lambda u, i: i%2==0) if ZOO[name].additive else (lambda u, i: u%2==i%2)
    df = pd.DataFrame([(u,i,5. if likes(u, i) else 1.) for u in range(40) for i in range(30)],
        columns=['userId','movieId','rating'])
    return df.assign(genres=[f'all|{i//10}' for i in df.movieId], decade=df.userId//10,
        timestamp=10**9+np.arange(len(df))%5*86400),likes

def trained(name, y_range, n_epochs=None, lr=None, **kwargs):
    "A learner that was trained on `world(name)` (a tenth is held out), and who likes what"
    df,likes = world(name)
    dls,entry = loaders(name, df, valid_pct=.1, **kwargs),ZOO[name]
    set_seed(3)
    learn = collab_learner(dls, arch=build(name, dls, y_range=y_range), unk_p=0)
    with learn.no_bar(), learn.no_logging():
        if name=='PosteriorAverage': learn.fit_gibbs(60)
        elif name!='BiasBaseline': learn.fit_one_cycle(n_epochs or entry.fit[0], lr or entry.fit[1])
    return learn,likes

def finds_held_out(learn):
    "Assert that a learner of a checkerboard knows pairs that it hasn't seen"
    held = learn.dls.valid_ds.items
    assert rmse(*learn.get_preds()).item() < .5
    assert ((learn.predict(held)>3) == (held.rating>3)).all()

# Recommenders

def again(rec, name, folder):
    "The recommender after saving and loading it"
    rec.save(folder)
    return Recommender.load(folder, **(dict(model=build(name, loaders(name))) if rec.scorer.kind=='model' else {}))

def pairs(rec):
    "Ids of all pairs"
    return [np.array(o) for o in zip(*((u,i) for u in rec.ids[0] for i in rec.ids[1]))]
def train_of(learn):
    "The items that each user rated in training"
    x = learn.dls.train_ds.items
    return x.groupby('userId').movieId.agg(set).to_dict()
def by_user(df):
    "The list of each user"
    return {u:list(g.item) for u,g in df.groupby('user')}

def state(rec):
    "A copy of everything a recommender holds"
    t = [*rec.scorer.state()[1].values(), *rec.history, *terms_state(rec.terms)[1].values()]
    return [o.clone() for o in t],[o.copy() for o in rec.ids],rec.items.copy(deep=True)
def unchanged(a, b):
    "Are two states the same?"
    tensors = len(a[0])==len(b[0]) and all(torch.equal(x, y) for x,y in zip(a[0], b[0]))
    return tensors and all(x.equals(y) for x,y in zip(a[1], b[1])) and a[2].equals(b[2])
