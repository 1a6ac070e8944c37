"Each fault of fastai.collab that fastcollab mends; fastai's own code stays unchanged; what a `Learner` can do"
import pickle, random, re, warnings
from types import SimpleNamespace

import fastai.collab, fastai.tabular.all, fastcollab.all, numpy as np, pandas as pd, pytest, torch
from fastai.collab import EmbeddingDotBias, EmbeddingNN
from fastai.data.core import Datasets
from fastai.data.transforms import ColSplitter, EndSplitter, IndexSplitter, MaskSplitter
from fastai.data.transforms import RandomSplitter, TrainTestSplitter
from fastai.learner import load_learner
from fastai.losses import MSELossFlat
from fastai.tabular.all import Categorify, CSVLogger, EarlyStoppingCallback, Embedding, Learner, Module
from fastai.tabular.all import SaveModelCallback, nn, params, sigmoid_range
from fastcollab.all import (BiasInterpretation, ColdItemSplitter, ColdUserSplitter, CollabDataLoaders, DotProduct,
    FoldSplitter, LeaveLastSplitter, StratifiedSplitter, TemporalSplitter, UserStratifiedSplitter, ValidRMSE,
    baseline_rmse, collab_learner, create_params, synthetic_ratings)
from hypothesis import given, strategies as st

pytestmark = pytest.mark.filterwarnings('ignore')
RATINGS = synthetic_ratings(200, 100, 5000)   # 4,000 to train on; tests must not write into it
OURS = SimpleNamespace(CollabDataLoaders=CollabDataLoaders, collab_learner=collab_learner)
FASTAI = SimpleNamespace(CollabDataLoaders=fastai.collab.CollabDataLoaders, collab_learner=fastai.collab.collab_learner)
FAULTS = {}

def fault(error, match=None):
    "Register a function that states the right behavior of `lib`; fastai fails with `error` and a message like `match`"
    def _inner(f):
        FAULTS[f.__name__] = (f, error, match)
        return f
    return _inner

def loaders(lib=OURS, df=RATINGS, **kwargs): return lib.CollabDataLoaders.from_df(df, **{'seed':42, 'bs':64, **kwargs})
IDS = ['userId','movieId']

def sizes(dls): return [len(dls.classes[o]) for o in IDS]
def epoch(dl): return [torch.cat(o) for o in zip(*dl)]

class FlatDot(Module):
    "A user's own model, with predictions of shape (bs,)"
    def __init__(self, n_users, n_items, n_factors=5):
        self.u_weight,self.i_weight = Embedding(n_users, n_factors, std=.5),Embedding(n_items, n_factors, std=.5)
    def forward(self, x): return sigmoid_range((self.u_weight(x[:,0])*self.i_weight(x[:,1])).sum(1), 0, 5.5)   # (bs,)

class HandDot(Module):
    "A user's own model, all of `nn.Parameter`s"
    def __init__(self, n_users, n_items): self.u,self.i = create_params(n_users, 5),create_params([n_items, 5])
    def forward(self, x): return (self.u[x[:,0]]*self.i[x[:,1]]).sum(1, keepdim=True)   # (bs,1)

def own(lib, dls, model=FlatDot, **kwargs):
    "A learner of `lib` for a user's own model"
    torch.manual_seed(1)
    learn = lib.collab_learner(dls, **kwargs)
    learn.model = model(*sizes(dls))
    return learn

@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    "No files in the caller's folder"
    monkeypatch.chdir(tmp_path)

# Design, section 4: the faults of fastai.collab

@fault(AssertionError, 'not drawn exactly once')
def fault_1_each_rating_once(lib):
    "An epoch draws every rating of the training part once"
    dls = loaders(lib, bs=50)   # 80 whole batches: nothing is dropped at the end
    x,y = epoch(dls.train)
    users,items = [np.array(list(dls.classes[o]), dtype=object)[x[:,k]] for k,o in enumerate(IDS)]
    drawn = sorted(zip(users, items, y[:,0].tolist()))
    train = RATINGS.iloc[RandomSplitter(.2, seed=42)(RATINGS)[0]]
    want = sorted(zip(train.userId, train.movieId, train.rating))
    assert len(drawn)==len(want)
    assert drawn==want, f'{len(want)-len(set(drawn))} of {len(want)} ratings are not drawn exactly once'

def _predicted(learn, df): # by the model itself, for ids it knows, (n,)
    "What the model of `learn` says to the rows of `df`"
    x = torch.stack([torch.tensor([learn.dls.classes[o].o2i[v] for v in df[o]]) for o in IDS], 1)   # (n,2)
    with torch.no_grad(): return learn.model.eval()(x).reshape(-1)

@fault(TypeError, 'list indices')
def fault_2_predict_a_row(lib):
    "A row of the table has a prediction"
    learn = lib.collab_learner(loaders(lib), y_range=(0,5.5))
    want = _predicted(learn, RATINGS[:1]).item()
    assert learn.predict(RATINGS.iloc[0])==pytest.approx(want, abs=1e-6)
    # where pandas made ids floats
    assert learn.predict(RATINGS[['userId','movieId','rating']].iloc[0])==pytest.approx(want, abs=1e-6)

@fault(TypeError, 'list indices')
def fault_2_predict_ids(lib):
    "A user and an item have a prediction"
    learn = lib.collab_learner(loaders(lib), y_range=(0,5.5))
    want = _predicted(learn, RATINGS[:3])
    assert learn.predict(*RATINGS[IDS].iloc[0])==pytest.approx(want[0].item(), abs=1e-6)
    assert np.allclose(learn.predict(list(RATINGS.userId[:3]), list(RATINGS.movieId[:3])), want, atol=1e-6)

@fault(IndexError, 'dimension 0')
def fault_3_get_preds_of_one_row(lib):
    "A validation part of one row has one prediction, also where the model gives (bs,)"
    dls = loaders(lib, valid_pct=1.5/len(RATINGS))
    learn = own(lib, dls)
    preds,targs = learn.get_preds()
    assert preds.shape==targs.shape==(1,)
    assert torch.allclose(preds, learn.model.eval()(dls.valid.one_batch()[0]))

@fault(AssertionError, 'is not the MSE')
def fault_4_loss_does_not_broadcast(lib):
    "A (bs,) model under a plain MSE has the loss of its rows"
    learn = own(lib, loaders(lib), loss_func=nn.MSELoss())
    x,y = epoch(learn.dls.valid)
    with torch.no_grad(): want = ((learn.model(x)-y[:,0])**2).mean().item()
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        got = learn.validate()[0]
    assert got==pytest.approx(want, rel=1e-4), f'{got} is not the MSE {want}'
    assert not [o for o in w if 'size' in str(o.message)]

@fault(AssertionError, 'under a plain MSE')
def fault_4_fit_does_not_broadcast(lib):
    "Trained under a plain MSE, a (bs,) model reaches the error that it reaches under the loss by rows"
    def fit(loss_func):
        learn = own(lib, loaders(lib), loss_func=loss_func)
        torch.manual_seed(2), np.random.seed(2)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 2e-2)
        x,y = epoch(learn.dls.valid)
        with torch.no_grad(): return ((learn.model.eval()(x)-y[:,0])**2).mean().item()
    plain,rows = fit(nn.MSELoss()),fit(MSELossFlat())
    assert plain==pytest.approx(rows, rel=1e-4), f'{plain} under a plain MSE, {rows} by rows'

@fault(AssertionError, 'unknown user')
def fault_5_unknown_ids_are_trained(lib):
    "Where all ratings are high, those of an unknown user are predicted high, not at half of the range"
    df = RATINGS.assign(rating=RATINGS.rating.clip(4))   # mean 4.2, half of the range 2.75
    dls = loaders(lib, df)
    torch.manual_seed(0)
    learn = lib.collab_learner(dls, n_factors=5, y_range=(0,5.5), wd=.1)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 2e-2)
    items = torch.arange(1, sizes(dls)[1])
    with torch.no_grad(): preds = learn.model.eval()(torch.stack([items*0, items], 1))
    mean = df.rating.mean()
    found = preds.mean().item()
    assert abs(found-mean)<.15, f'predictions for an unknown user average {found:.2f}, and the ratings {mean:.2f}'
    with torch.no_grad(): both = learn.model.eval()(torch.zeros(1, 2, dtype=torch.long)).item()
    assert abs(both-mean)<.3, f'an unknown user and item are predicted at {both:.2f}, the mean is {mean:.2f}'

@fault(AssertionError, 'Total params')
def fault_6_summary_counts_parameters(lib):
    "`summary` counts parameters made by hand"
    learn = own(lib, loaders(lib), HandDot, loss_func=MSELossFlat())
    n = 5*sum(sizes(learn.dls))
    text = str(learn.summary())
    assert f'Total params: {n:,}' in text, text[:text.find('Optimizer')]
    assert f'Total trainable params: {n:,}' in text

@fault(AssertionError, '1000 rows')
def fault_7_splits(lib):
    "`splits` decides what is trained on"
    rows = np.arange(len(RATINGS))
    dls = loaders(lib, splits=(rows[100:], rows[:100]))
    x,y = epoch(dls.valid)
    assert (len(x), len(dls.train_ds))==(100, len(RATINGS)-100), f'{len(x)} rows to validate on'
    assert y[:,0].tolist()==RATINGS.rating[:100].tolist()

@fault(pytest.fail.Exception, 'DID NOT RAISE')
def fault_7_unknown_argument(lib):
    "An argument that means nothing is an error"
    with pytest.raises(TypeError, match='nonsense'): loaders(lib, nonsense=3)

@fault(AttributeError, "'list' object")
def fault_8_emb_szs_as_a_list(lib):
    "`emb_szs` can be a list of (rows, length)"
    dls = loaders(lib)
    learn = lib.collab_learner(dls, use_nn=True, emb_szs=list(zip(sizes(dls), (12,7))), y_range=(0,5.5))
    assert [m.weight.shape for m in learn.model.modules() if isinstance(m, nn.Embedding)]==list(zip(sizes(dls), (12,7)))
    assert learn.model(dls.one_batch()[0]).shape==(64,)

def _some_bias(lib):
    learn = lib.collab_learner(loaders(lib))
    return learn.model.train(),RATINGS.movieId[:4].tolist()

@fault(AssertionError, 'training mode')
def fault_9_modes(lib):
    "Asking for biases and vectors leaves all modules in training mode"
    model,ids = _some_bias(lib)
    model.bias(ids), model.weight(ids), model.bias([1], is_item=False), model.weight([1], is_item=False)
    assert all(m.training for m in model.modules()), 'not all modules are in training mode'

@fault(AssertionError, 'moved')
def fault_9_device(lib):
    "Asking for biases and vectors moves nothing to another device"
    model,ids = _some_bias(lib)
    moved,apply = [],nn.Module._apply
    def _apply(self, fn, *args, **kwargs):   # what `.cpu()`, `.cuda()` and `.to()` of any module go through
        moved.append(type(self).__name__)
        return apply(self, fn, *args, **kwargs)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(nn.Module, '_apply', _apply)
        bias,weight = model.bias(ids),model.weight(ids)
    assert not moved, f'{moved} moved'
    assert bias.device.type==weight.device.type=='cpu' and not bias.requires_grad and not weight.requires_grad

@fault(AssertionError, 'shape')
def fault_9_one_id(lib):
    "One id has a vector of one bias and a matrix of one row"
    model,ids = _some_bias(lib)
    assert model.weight(ids[:1]).shape==(1,50)
    assert model.bias(ids[:1]).shape==(1,), f'shape {model.bias(ids[:1]).shape}'

@fault(AssertionError, 'written to')
def fault_10_config(lib):
    "The caller's `config` stays as it was"
    config = dict(embed_p=.1)
    lib.collab_learner(loaders(lib), use_nn=True, config=config, y_range=(0,5.5), layers=[8])
    assert config==dict(embed_p=.1), f'config was written to: {config}'

@pytest.mark.parametrize('name', FAULTS)
def test_right_here(name): FAULTS[name][0](OURS)

@pytest.mark.parametrize('name', FAULTS)
def test_wrong_in_fastai(name):
    "The same function fails for fastai, and for the reason that the fault names"
    f,error,match = FAULTS[name]
    with pytest.raises(error, match=match): f(FASTAI)

def test_plain_learner_has_the_loss_of_the_rows():
    "fastai's `Learner`, told no loss, takes that of the loaders: a (bs,) model has the MSE of its rows there too"
    dls = loaders()
    learn = Learner(dls, FlatDot(*sizes(dls)))
    x,y = epoch(dls.valid)
    with learn.no_bar(), torch.no_grad():
        assert learn.validate()[0]==pytest.approx(((learn.model(x)-y[:,0])**2).mean().item(), rel=1e-4)

@pytest.mark.cuda
def test_bias_and_weight_leave_the_gpu():
    "Fault 9 on a device that is not the CPU"
    learn = collab_learner(loaders(device='cuda'))
    learn.model.cuda()
    bias,weight = learn.model.bias([1]),learn.model.weight([1])
    assert (bias.shape, weight.shape)==((1,), (1,50)) and bias.device.type==weight.device.type=='cpu'
    assert all(p.is_cuda for p in learn.model.parameters()) and all(m.training for m in learn.model.modules())

def test_same_work_as_fastai():
    "Fault 11 is about time, which no test measures; the timed steps must see at least as many rows as fastai's"
    ours,theirs = [[len(b[0]) for b in loaders(lib).train] for lib in (OURS,FASTAI)]
    assert sum(ours)==4000>=sum(theirs)==62*64
    assert ours==[64]*62+[32] and len(ours)==len(loaders().train)
    x,y = loaders().one_batch()
    tx,ty = loaders(FASTAI).one_batch()
    assert (x.shape, x.dtype, y.shape, y.dtype)==(tx.shape, tx.dtype, ty.shape, ty.dtype)==((64,2), torch.int64, (64,1),
        torch.float32)

# Code written for fastai: chapter 8 of the fastai book, word for word but for a frame that is made up and fewer epochs

IMPORTS = dict(fastcollab='from fastcollab.all import *',
    fastai='from fastai.collab import *\nfrom fastai.tabular.all import *')
LOADERS = '''
dls = CollabDataLoaders.from_df(ratings, item_name='title', bs=64)
n_users  = len(dls.classes['user'])
n_movies = len(dls.classes['title'])
n_factors = 5
'''
TOP = '''
learn = collab_learner(dls, n_factors=50, y_range=(0, 5.5))
learn.fit_one_cycle(1, 5e-3, wd=0.1)
g = ratings.groupby('title')['rating'].count()
top_movies = g.sort_values(ascending=False).index.values[:50]
'''
CELLS = dict(
    show_batch='''
dls.show_batch()
x,y = dls.one_batch()
assert x.shape==(64,2) and y.shape==(64,1)
assert dls.classes['title'].o2i[dls.classes['title'][3]]==3
''',
    dot_product='''
class DotProduct(Module):
    def __init__(self, n_users, n_movies, n_factors, y_range=(0,5.5)):
        self.user_factors = Embedding(n_users, n_factors)
        self.movie_factors = Embedding(n_movies, n_factors)
        self.y_range = y_range

    def forward(self, x):
        users = self.user_factors(x[:,0])
        movies = self.movie_factors(x[:,1])
        return sigmoid_range((users * movies).sum(dim=1), *self.y_range)
model = DotProduct(n_users, n_movies, 50)
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3)
assert len(learn.recorder.values)==1
''',
    dot_product_bias='''
class DotProductBias(Module):
    def __init__(self, n_users, n_movies, n_factors, y_range=(0,5.5)):
        self.user_factors = Embedding(n_users, n_factors)
        self.user_bias = Embedding(n_users, 1)
        self.movie_factors = Embedding(n_movies, n_factors)
        self.movie_bias = Embedding(n_movies, 1)
        self.y_range = y_range

    def forward(self, x):
        users = self.user_factors(x[:,0])
        movies = self.movie_factors(x[:,1])
        res = (users * movies).sum(dim=1, keepdim=True)
        res += self.user_bias(x[:,0]) + self.movie_bias(x[:,1])
        return sigmoid_range(res, *self.y_range)
model = DotProductBias(n_users, n_movies, 50)
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3, wd=0.1)
assert len(learn.recorder.values)==1
''',
    create_params='''
def create_params(size):
    return nn.Parameter(torch.zeros(*size).normal_(0, 0.01))
class DotProductBias(Module):
    def __init__(self, n_users, n_movies, n_factors, y_range=(0,5.5)):
        self.user_factors = create_params([n_users, n_factors])
        self.user_bias = create_params([n_users])
        self.movie_factors = create_params([n_movies, n_factors])
        self.movie_bias = create_params([n_movies])
        self.y_range = y_range

    def forward(self, x):
        users = self.user_factors[x[:,0]]
        movies = self.movie_factors[x[:,1]]
        res = (users*movies).sum(dim=1)
        res += self.user_bias[x[:,0]] + self.movie_bias[x[:,1]]
        return sigmoid_range(res, *self.y_range)
model = DotProductBias(n_users, n_movies, 50)
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3, wd=0.1)
movie_bias = learn.model.movie_bias.squeeze()
idxs = movie_bias.argsort()[:5]
assert len([dls.classes['title'][i] for i in idxs])==5
''',
    collab_learner=TOP+'''
learn.model
movie_bias = learn.model.i_bias.weight.squeeze()
idxs = movie_bias.argsort(descending=True)[:5]
assert len([dls.classes['title'][i] for i in idxs])==5
''',
    bias_and_weight=TOP+'''
movie_bias = learn.model.bias(top_movies, is_item=True)
assert movie_bias.shape==(50,)
mean_ratings = ratings.groupby('title')['rating'].mean()
movie_ratings = [(b, i, mean_ratings.loc[i]) for i,b in zip(top_movies,movie_bias)]
item0 = lambda o:o[0]
sorted(movie_ratings, key=item0)[:15]
sorted(movie_ratings, key=lambda o: o[0], reverse=True)[:15]
movie_w = learn.model.weight(top_movies, is_item=True)
assert movie_w.shape==(50,50)
movie_pca = movie_w.pca(3)
fac0,fac1,fac2 = movie_pca.t()
movie_comp = [(f, i) for f,i in zip(fac0, top_movies)]
''',
    pca_and_distance=TOP+'''
top_idxs = tensor([learn.dls.classes['title'].o2i[m] for m in top_movies])
movie_w = learn.model.i_weight.weight[top_idxs].cpu().detach()
movie_pca = movie_w.pca(3)
fac0,fac1,fac2 = movie_pca.t()
movie_factors = learn.model.i_weight.weight
idx = dls.classes['title'].o2i[top_movies[0]]
distances = nn.CosineSimilarity(dim=1)(movie_factors, movie_factors[idx][None])
idx = distances.argsort(descending=True)[1]
assert dls.classes['title'][idx]!=top_movies[0]
''',
    embedding_sizes='''
embs = get_emb_sz(dls)
assert embs==[(n_users, emb_sz_rule(n_users)), (n_movies, emb_sz_rule(n_movies))]
class CollabNN(Module):
    def __init__(self, user_sz, item_sz, y_range=(0,5.5), n_act=100):
        self.user_factors = Embedding(*user_sz)
        self.item_factors = Embedding(*item_sz)
        self.layers = nn.Sequential(
            nn.Linear(user_sz[1]+item_sz[1], n_act),
            nn.ReLU(),
            nn.Linear(n_act, 1))
        self.y_range = y_range

    def forward(self, x):
        embs = self.user_factors(x[:,0]),self.item_factors(x[:,1])
        x = self.layers(torch.cat(embs, dim=1))
        return sigmoid_range(x, *self.y_range)
model = CollabNN(*embs)
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3, wd=0.01)
''',
    use_nn='''
learn = collab_learner(dls, use_nn=True, y_range=(0, 5.5), layers=[100,50])
learn.fit_one_cycle(1, 5e-3, wd=0.1)
assert learn.model(dls.one_batch()[0]).numel()==64
config = tabular_config(embed_p=.1, ps=[.2])
learn = collab_learner(dls, use_nn=True, y_range=(0, 5.5), layers=[20], emb_szs={'title': 7}, config=config)
learn.fit_one_cycle(1, 5e-3)
''',
    from_classes='''
model = EmbeddingDotBias.from_classes(50, dls.classes, y_range=(0,5.5))
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3, wd=0.1)
top = ratings.title.value_counts().index[:3]
assert model.bias(top, is_item=True).shape==(3,) and model.weight(top).shape==(3,50)
assert model.bias(ratings.user[:2], is_item=False).shape==(2,)
''',
    embedding_nn='''
model = EmbeddingNN([(n_users, 10), (n_movies, 12)], layers=[20], y_range=(0,5.5))
learn = Learner(dls, model, loss_func=MSELossFlat())
learn.fit_one_cycle(1, 5e-3, wd=0.1)
''',
    inspect='''
learn = collab_learner(dls, n_factors=5, y_range=(0, 5.5), metrics=[mae, rmse])
learn.fit(1, 5e-3)
learn.show_results()
learn.recorder.plot_loss()
preds,targs = learn.get_preds()
assert preds.numel()==targs.numel()==200
assert len(learn.validate())==3
''')

@pytest.mark.parametrize('cell', CELLS)
@pytest.mark.parametrize('lib', IMPORTS)
def test_fastai_code_runs_unchanged(lib, cell):
    "Every cell runs with either import line"
    df = RATINGS.sample(1000, random_state=1).rename(columns=dict(userId='user', movieId='movie'))
    df = df[['user','movie','rating','timestamp','title']].astype({'title':str})
    names = dict(__name__='chapter8', ratings=df)
    for code in (IMPORTS[lib], LOADERS, CELLS[cell]): exec(code, names)
    assert names['CollabDataLoaders'].__module__==('fastcollab.data.loaders' if lib=='fastcollab' else 'fastai.collab')

# What a `Learner` can do

def learner(dls=None, seed=0, n_factors=5, y_range=(0,5.5), **kwargs):
    "A small learner with the same weights for the same `seed`"
    dls = loaders(bs=256) if dls is None else dls
    torch.manual_seed(seed)
    return collab_learner(dls, n_factors=n_factors, y_range=y_range, **kwargs)

def quietly(f, *args, **kwargs):
    with f.__self__.no_bar(), f.__self__.no_logging(): return f(*args, **kwargs)

def weights(learn): return {k:v.clone() for k,v in learn.model.state_dict().items()}
def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('how,lr', [('fit',3e-2), ('fit_one_cycle',6e-2), ('fit_flat_cos',3e-2), ('fine_tune',6e-2)])
def test_fit(how, lr):
    "Every kind of fit learns more than the mean and fills the recorder"
    learn = learner()
    quietly(getattr(learn, how), 4, lr)
    steps = 4*16   # of a fine tuning, the frozen epoch is a fit of its own
    assert len(learn.recorder.values)==4 and len(learn.recorder.losses)==len(learn.recorder.lrs)==steps
    assert learn.validate()[0]**.5<.9   # the global mean gives 0.979, the seeds tried 0.82 to 0.87

def test_same_seed_same_fit():
    "Two fits with the same seed end in the same weights"
    def run():
        learn = learner()
        quietly(learn.fit_one_cycle, 2, 1e-2)
        return weights(learn)
    assert same(run(), run())

def test_lr_find():
    "The learning rate finder suggests a rate and leaves weights, optimizer and epochs as they were"
    learn = learner(n_factors=20)
    before = weights(learn)
    found = quietly(learn.lr_find, show_plot=False)
    assert 1e-6<found.valley<10
    assert same(before, weights(learn)) and not list(learn.path.rglob('_tmp*.pth'))
    quietly(learn.fit_one_cycle, 3, found.valley)
    assert np.isfinite(learn.recorder.values[-1]).all()

KINDS = dict(DotProductBias={}, CollabNN=dict(use_nn=True, layers=[8]), DotProduct=dict(arch=DotProduct),
    callbacks=dict(cbs=[ValidRMSE(), BiasInterpretation()]))

@pytest.mark.parametrize('kwargs', KINDS.values(), ids=KINDS)
def test_export_and_load(kwargs):
    "A loaded learner predicts what the exported one predicted, for unknown ids too, and its loaders are empty"
    learn = learner(**kwargs)
    quietly(learn.fit_one_cycle, 1, 1e-2)
    new = RATINGS[:100].assign(userId=RATINGS.userId[:100].mask(RATINGS.index[:100]<10, 10**6))
    before = learn.predict(new)
    learn.export('model.pkl')
    loaded = load_learner('model.pkl')
    assert np.array_equal(loaded.predict(new), before)
    assert loaded.predict(1, int(RATINGS.movieId[0]))==learn.predict(1, int(RATINGS.movieId[0]))
    assert len(loaded.dls.train_ds)==len(loaded.dls.valid_ds)==0 and len(learn.dls.train_ds)==4000
    assert torch.equal(loaded.get_preds(dl=loaded.dls.test_dl(RATINGS[:50]))[0],
        learn.get_preds(dl=learn.dls.test_dl(RATINGS[:50]))[0])

@pytest.mark.parametrize('genre', [None,'genres'])
@pytest.mark.parametrize('fit', [False,True])
def test_export_holds_no_ratings(genre, fit):
    "With the same vocabularies and without the history, the file of ten times the ratings is as large"
    # a rating of everyone
    first = np.unique(np.concatenate([np.unique(RATINGS[o], return_index=True)[1] for o in IDS]))
    rest = np.setdiff1d(np.arange(len(RATINGS)), first)
    def size(train):
        dls = CollabDataLoaders.from_df(RATINGS, genre_name=genre, splits=(train, rest[:10]), bs=64)
        assert sizes(dls)==[201,101]
        learn = collab_learner(dls, n_factors=5, y_range=(0,5.5))
        if fit: quietly(learn.fit, 2)
        learn.export('model.pkl', history=False)
        return (learn.path/'model.pkl').stat().st_size
    small,large = size(first),size(np.concatenate([first, rest[10:]]))
    assert abs(large-small)<1000, f'{small:,} bytes for {len(first)} ratings, {large:,} for {len(RATINGS)-10}'

def test_save_and_load():
    "`load` brings back the weights that `save` kept, and the optimizer with them"
    learn = learner()
    quietly(learn.fit, 1)
    learn.save('here')
    kept = weights(learn)
    quietly(learn.fit, 1)
    assert not same(kept, weights(learn))
    learn.load('here')
    assert same(kept, weights(learn))
    assert same(kept, weights(learner(seed=5).load('here')))

def test_early_stopping():
    "A fit without progress stops"
    learn = learner(cbs=ValidRMSE())
    quietly(learn.fit, 6, cbs=EarlyStoppingCallback(min_delta=10, patience=1))
    assert len(learn.recorder.values)==2
    quietly(learn.fit, 6, cbs=EarlyStoppingCallback('valid_rmse', min_delta=10, patience=2))
    assert len(learn.recorder.values)==3

@pytest.mark.parametrize('monitor,col', [('valid_loss',1), ('valid_rmse',2)])
def test_save_model(monitor, col):
    "The best epoch is saved and loaded at the end, also when it is not the last"
    learn = learner(n_factors=50, cbs=ValidRMSE())
    quietly(learn.fit, 4, 5e-2, wd=0, cbs=SaveModelCallback(monitor, fname='best'))
    losses = [o[col] for o in learn.recorder.values]
    assert losses.index(min(losses))<3 and (learn.path/'models'/'best.pth').exists()
    loss = learn.validate()[0]
    assert (loss if col==1 else loss**.5)==pytest.approx(min(losses), rel=1e-4)

def test_fp16():
    "Mixed precision trains, and predictions are whole floats"
    learn = learner().to_fp16()
    quietly(learn.fit_one_cycle, 2, 1e-2)
    assert np.isfinite(learn.recorder.values[-1]).all()
    learn.to_fp32()
    assert learn.get_preds()[0].dtype==torch.float32

def test_csv_logger():
    "The log has a row per epoch and a column per value"
    learn = learner(cbs=[CSVLogger(), ValidRMSE()])
    with learn.no_bar(): learn.fit(2)
    log = pd.read_csv('history.csv')
    assert list(log.columns)==['epoch','train_loss','valid_loss','valid_rmse','warm_rmse','cold_rmse',
        'time'] and len(log)==2
    assert np.allclose(log.valid_rmse, [o[2] for o in learn.recorder.values])

def test_show_results(monkeypatch):
    "Results are shown with raw ids, ratings and predictions"
    learn,shown = collab_learner(loaders(item_name='title', bs=256), n_factors=5, y_range=(0,5.5)),[]
    monkeypatch.setattr('fastcollab.data.loaders.display_df', shown.append)
    with learn.no_bar(): learn.show_results(max_n=4)
    df = shown[0]
    assert list(df.columns)==['userId','title','rating','prediction'] and len(df)==len(shown)*4
    rows = RATINGS.set_index(['userId','title']).rating
    assert df.rating.tolist()==[rows[u,i] for u,i in zip(df.userId, df.title)]
    assert np.allclose(df.prediction, learn.predict(df), atol=1e-6)

def test_freeze():
    "Frozen tables stay as they are until they are unfrozen"
    def splitter(m): return [params(m.u_weight)+params(m.i_weight), params(m.u_bias)+params(m.i_bias)]
    learn = learner(splitter=splitter)
    before = weights(learn)
    learn.freeze()
    assert f'Total trainable params: {sum(sizes(learn.dls)):,}' in str(learn.summary())
    quietly(learn.fit, 1)
    after = weights(learn)
    assert [k for k in after if torch.equal(before[k], after[k])]==['mean','u_weight.weight','i_weight.weight']
    learn.unfreeze()
    quietly(learn.fit, 1)
    assert [k for k,v in weights(learn).items() if torch.equal(after[k], v)]==['mean']

# The uses of fastai.collab: what its notebook, the book, and the tools and tests of others that build on it do with it

WHOLE = dict(fastcollab=SimpleNamespace(**vars(fastcollab.all)),
    fastai=SimpleNamespace(**{**vars(fastai.tabular.all), **vars(fastai.collab)}))
FEW = RATINGS[['userId','movieId','rating','timestamp']].sample(600, random_state=2)   # its index is not 0, 1, 2, ...
USES = {}

def use(differs=None):
    "Register a use: a function of a library whose result is the same for both, or that differs for the reason given"
    def _inner(f):
        USES[f.__name__] = (f, differs)
        return f
    return _inner

def few(lib, df=FEW, **kwargs): return lib.CollabDataLoaders.from_df(df, **{'seed':1, 'bs':64, **kwargs})
def few_learner(lib, fit=True, dls=None, **kwargs):
    "A learner of few ratings"
    torch.manual_seed(0)
    learn = lib.collab_learner(few(lib) if dls is None else dls, **{'n_factors':5, 'y_range':(0,5.5), **kwargs})
    if fit: quietly(learn.fit_one_cycle, 1, 5e-3, wd=.1)
    return learn
def kind(*ts): return [(tuple(o.shape), str(o.dtype)) for o in ts]
def plain(df): return [list(map(str, df.columns)), df.index.tolist(), df.to_numpy(float).tolist()]
def error(f, *args, **kwargs):
    "The name of the error of a call"
    try: return f(*args, **kwargs)
    except Exception as e: return type(e).__name__
def shown_columns(f):
    "The columns of the tables that a call displays"
    texts = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr('IPython.display.display', lambda o: texts.append(o.data))
        f()
    return [re.findall(r'<th>(\w+)</th>', o)[:4] for o in texts]

@use()
def batch(lib): return kind(*few(lib).one_batch())
@use()
def batch_of_named_columns(lib):
    df = FEW[['timestamp','rating','movieId','userId']]
    dls = few(lib, df, user_name='userId', item_name='movieId', rating_name='rating')
    return kind(*dls.one_batch()),list(dls.classes),dls.valid.one_batch()[0].tolist()
@use()
def classes(lib): return {k:list(v) for k,v in few(lib).classes.items()}
@use('an id that only validation has is unknown; fastai gives texts of validation a row each that nothing trains')
def classes_of_text(lib):
    dls = few(lib, FEW.assign(userId='u'+FEW.userId.astype(str)))
    return {k:list(v) for k,v in dls.classes.items()},dls.classes['userId'].o2i['u1']
@use()
def from_csv(lib):
    FEW.to_csv('few.csv', index=False)
    dls = lib.CollabDataLoaders.from_csv('few.csv', seed=1, bs=32, valid_pct=.1)
    return kind(*dls.one_batch()),len(dls.train_ds),len(dls.valid_ds),dls.valid_ds.xs.index.tolist()
@use()
def from_csv_and_path(lib):
    FEW.to_csv('few.csv', index=False)
    return lib.CollabDataLoaders.from_csv('few.csv', path='models').path
@use()
def options_of_loaders(lib):
    dls = few(lib, shuffle=False, num_workers=0, drop_last=True, pin_memory=False, val_bs=50, device='cpu')
    return [len(b[1]) for b in dls.train],[len(b[1]) for b in dls.valid],epoch(dls.train)[0].tolist(),str(dls.device)
@use('every rating counts, so the last batch is kept, and each is drawn once, where fastai draws with replacement')
def epoch_of_default(lib): return sorted(map(tuple, epoch(few(lib).train)[0].tolist()))
@use()
def sizes_of_parts(lib):
    dls = few(lib)
    return dls.train.bs,dls.valid.bs,dls.n,len(dls.train_ds),len(dls.valid_ds),len(dls.valid),len(dls.loaders),dls.n_inp
@use()
def index_of_items(lib):
    dls = few(lib)
    return dls.train.items.index.tolist(),dls.valid.items.index.tolist(),dls.valid_ds.items.index.tolist()
@use()
def index_of_text(lib):
    dls = few(lib, FEW.set_index('r'+FEW.timestamp.astype(str)))
    return dls.items.index.tolist(),dls.valid.items.index.tolist()
@use()
def index_with_duplicates(lib): return few(lib, FEW.set_index(FEW.userId.to_numpy())).valid.items.index.tolist()
@use()
def join_by_index(lib):
    dls = few(lib)
    return (FEW.rating.loc[dls.valid.items.index].to_numpy()==epoch(dls.valid)[1][:,0].numpy()).all()
@use('raw ids mean the same in every loader; `xs` holds the row numbers, and columns that no loader needs are not kept')
def values_of_items(lib):
    items = few(lib).valid.items
    return list(items.columns),items.userId.tolist()
@use()
def ratings_of_items(lib): return few(lib).valid.items['rating'].tolist()
@use()
def parts_of_the_table(lib):
    dls = few(lib)
    return [plain(getattr(o, k)) for o in (dls, dls.valid) for k in ('xs','ys','cats','conts','targ','all_cols')]
@use()
def y_of_the_table(lib):
    y = few(lib).y
    return y.name,y.index.tolist(),y.tolist()
@use()
def names_of_the_table(lib):
    dls = few(lib)
    return [list(getattr(dls, o)) for o in ('cat_names','cont_names','x_names','y_names','all_col_names')],dls.with_cont
@use()
def procs(lib):
    p = few(lib).procs
    return type(p).__name__,[type(o).__name__ for o in p],list(p.categorify.classes['movieId'])
@use('rows of a loader are encoded ratings, not a table; `dls.xs.iloc` and `dls.items` are')
def rows_of_the_table(lib): return error(lambda: plain(few(lib).train_ds.iloc[:3].items))
@use()
def show_batch(lib): return shown_columns(lambda: few(lib).show_batch())
@use()
def embedding_lengths(lib): return lib.get_emb_sz(few(lib))
@use()
def rows_to_predict(lib):
    dl = few(lib).test_dl(FEW[:7])
    return [o.tolist() for o in epoch(dl)],dl.items.index.tolist(),dl.xs.to_numpy().tolist()
@use()
def rows_without_ratings(lib): return [o.tolist() for o in epoch(few(lib).test_dl(FEW[['userId','movieId']][:7]))]
@use()
def options_of_test_dl(lib):
    dl = few(lib).test_dl(FEW[:9], bs=4, num_workers=0, rm_type_tfms=None, shuffle=False, drop_last=False)
    return [len(o[0]) for o in dl]
@use()
def with_labels(lib): return [o.tolist() for o in epoch(few(lib).test_dl(FEW[:7], with_labels=True))]
@use('False means what it says: there are no targets')
def without_labels(lib): return len(epoch(few(lib).test_dl(FEW[:7], with_labels=False)))
@use()
def unknown_ids(lib): return epoch(few(lib).test_dl(FEW[:3].assign(userId=[999, *FEW.userId[1:3]])))[0].tolist()
@use()
def tabular_collab(lib):
    splits = lib.RandomSplitter(.2, seed=3)(lib.range_of(FEW))
    to = lib.TabularCollab(FEW, [lib.Categorify], IDS, y_names=['rating'], y_block=lib.TransformBlock(), splits=splits)
    dls = to.dataloaders(bs=32)
    return plain(dls.valid.xs),kind(*dls.one_batch())
@use()
def tabular_pandas(lib):
    df = FEW.reset_index(drop=True)
    to = lib.TabularPandas(df, [lib.Categorify,lib.Normalize], ['userId'], ['timestamp'], 'rating',
        splits=lib.RandomSplitter(seed=3)(df))
    return to.train.xs.index.tolist(),to.valid.xs.index.tolist()
@use()
def data_block(lib):
    block = lib.DataBlock(lib.TransformBlock(), splitter=lib.RandomSplitter(.25, seed=3))
    return list(block.datasets(list(range(40))).valid)

# Models and learners

@use()
def dot_bias(lib):
    dls = few(lib)
    out = lib.EmbeddingDotBias(50, *sizes(dls), y_range=(0,5))(dls.one_batch()[0])
    return kind(out),bool(((out>0)&(out<5)).all())
@use()
def dot_bias_from_classes(lib):
    dls = few(lib)
    model = lib.EmbeddingDotBias.from_classes(5, dls.classes, y_range=(0,5))
    ids = FEW.movieId.unique()[:4]
    return kind(model.bias(ids), model.weight(ids)),model._get_idx(ids).tolist(),model.user,model.item
@use()
def embedding_nn(lib): return kind(lib.EmbeddingNN(lib.get_emb_sz(few(lib)), [20])(few(lib).one_batch()[0]))
@use()
def embedding_lengths_of_a_dataset(lib): return lib.get_emb_sz(few(lib).train_ds, {})
@use()
def weight_is_the_row_of_the_table(lib):
    model = few_learner(lib).model
    ids = few(lib).classes['movieId'][[4,7]]
    weight,bias = model.i_weight(torch.tensor([4,7])),model.i_bias(torch.tensor([4,7]))
    return torch.equal(model.weight(ids), weight),torch.equal(model.bias(ids), bias.squeeze())
@use()
def weights_of_a_new_model(lib):
    dls = few(lib)
    a,b = (lib.EmbeddingDotBias.from_classes(5, dls.classes, 'userId', 'movieId', y_range=[0,5.5]) for _ in range(2))
    b.load_state_dict(a.state_dict())
    x,_ = dls.one_batch()
    return torch.equal(a(x), b.eval()(x)),list(b.classes['movieId'][1:4])
@use()
def unseen_pairs(lib):
    "Pairs of known users and items that training doesn't hold, scored"
    learn = few_learner(lib)
    users,items = (o[1:] for o in learn.dls.classes.values())
    seen = FEW.loc[learn.dls.train.items.index, IDS].assign(seen=True)
    pairs = pd.MultiIndex.from_product([users, items], names=IDS).to_frame(index=False).astype(int)
    pairs = pairs.merge(seen, how='left')
    pairs = pairs[pairs.seen.isna()]
    preds = learn.get_preds(dl=learn.dls.test_dl(pairs[IDS]))[0]
    return len(pairs),kind(preds)
@use()
def model_of_a_learner(lib):
    learn = few_learner(lib)
    tables = {k:tuple(v.shape) for k,v in learn.model.state_dict().items() if k!='mean'}
    return kind(learn.model(learn.dls.one_batch()[0])),tables
@use('a rating per row is (bs,) from every model here')
def net_of_a_learner(lib):
    learn = few_learner(lib, use_nn=True, layers=[8])
    return kind(learn.model(learn.dls.one_batch()[0]))
@use()
def bias_and_weight(lib):
    learn,ids = few_learner(lib),FEW.movieId.unique()[:4]
    model,users = learn.model,list(learn.dls.classes['userId'])[3:6]
    return kind(model.bias(ids), model.weight(ids), model.bias(users, is_item=False), model.weight(users, False))
@use()
def rows_of_ids(lib):
    learn,ids = few_learner(lib, False),FEW.movieId.unique()[:4]
    users = learn.dls.classes['userId'][3:6]
    return learn.model._get_idx(ids).tolist(),learn._get_idx(users, is_item=False).tolist(),kind(learn._get_idx(ids))
@use()
def unknown_id(lib):
    learn = few_learner(lib, False)
    return error(learn.model.bias, [10**6]),error(learn._get_idx, [np.nan])
@use('one id has a vector of one bias, as any number of ids')
def bias_of_one(lib): return kind(few_learner(lib, False).model.bias(FEW.movieId[:1]))
@use()
def pairs_by_row_numbers(lib):
    "Scores of all pairs of some users and items, ranked for each user"
    learn = few_learner(lib)
    users,items = learn.dls.classes.values()
    pairs = pd.MultiIndex.from_product([users[1:4], items[1:6]], names=IDS).to_frame(index=False)
    x = torch.column_stack([learn._get_idx(pairs.userId, is_item=False), learn._get_idx(pairs.movieId, is_item=True)])
    pairs['prediction'] = learn.model.forward(x).detach().numpy()
    top = pairs.sort_values(['userId','prediction'], ascending=[True,False]).groupby('userId').head(2)
    return x.tolist(),top.userId.tolist(),list(top.columns)
@use()
def one_pair_by_row_numbers(lib):
    model = few_learner(lib).model.eval()
    x = torch.stack([model._get_idx([1], is_item=False), model._get_idx(FEW.movieId[:1], is_item=True)], 1)
    return type(model(x).item()),0<model(x).item()<5.5
@use()
def own_loop(lib):
    dls = few(lib)
    model = lib.EmbeddingDotBias.from_classes(5, dls.classes, y_range=(0,5.5))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for x,y in dls.train:
        loss = nn.MSELoss()(model(x).view(-1), y.view(-1))
        loss.backward(), opt.step(), opt.zero_grad()
    return loss.item()<5,kind(x[:1], y[:1])
@use()
def recorder(lib):
    learn = few_learner(lib, metrics=[lib.rmse,lib.mae])
    rec = learn.recorder
    return [o.lstrip('_') for o in rec.metric_names],len(rec.values),[len(o) for o in rec.values],len(learn.validate())
@use('targets are (n,) as predictions are, so their difference is that of each row')
def predictions(lib): return kind(*few_learner(lib).get_preds())
@use()
def error_of_predictions(lib):
    learn = few_learner(lib)
    p,t = learn.get_preds()
    return kind(p, t.squeeze()),abs(((p-t.squeeze())**2).mean().item()-learn.validate()[0])<1e-5
@use()
def top_predictions(lib): return len(set(few_learner(lib).get_preds()[0].argsort(descending=True)[:5].tolist()))
@use()
def more_of_predictions(lib):
    learn = few_learner(lib)
    inp,p,t,dec,loss = learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    return kind(inp, p, dec),kind(t.squeeze(), loss.reshape(-1)),inp.tolist()
@use()
def predictions_of_training(lib):
    "Each row of the training part, in its order"
    learn = few_learner(lib)
    p,t = learn.get_preds(ds_idx=0)
    return kind(p, t.squeeze()),t.squeeze().tolist()==learn.dls.ys.rating.tolist()
@use()
def predictions_of_a_loader(lib):
    learn = few_learner(lib)
    dl = learn.dls.test_dl(FEW[:9])
    p,t = learn.get_preds(dl=dl, reorder=True)
    return kind(p),t.squeeze().tolist(),len(learn.validate(dl=dl))
@use()
def predictions_without_targets(lib):
    learn = few_learner(lib)
    return [o if o is None else kind(o) for o in learn.get_preds(dl=learn.dls.test_dl(FEW[['userId','movieId']][:9]))]
@use("a row has a prediction here; fastai's collab has no `predict`")
def predict_row(lib): return error(few_learner(lib).predict, FEW.iloc[0])
@use('predictions are called `prediction`, as in every table here')
def show_results(lib):
    learn = few_learner(lib)
    with learn.no_bar(): return shown_columns(learn.show_results)
@use()
def export_and_load(lib):
    learn = few_learner(lib)
    learn.export('model.pkl')
    loaded = lib.load_learner('model.pkl')
    a,b = (o.get_preds(dl=o.dls.test_dl(FEW[:9]))[0] for o in (learn,loaded))
    return kind(a, b),torch.equal(a, b),list(loaded.dls.classes['userId'])
@use()
def save_and_load(lib):
    learn = few_learner(lib)
    before = learn.get_preds()[0]
    path = learn.save('kept')
    quietly(learn.fit, 1)
    return str(path),torch.equal(learn.load('kept').get_preds()[0], before)
@use()
def rate_finder(lib):
    learn = few_learner(lib, fit=False)
    found = quietly(learn.lr_find, suggest_funcs=(lib.minimum,lib.steep,lib.valley), show_plot=False, num_it=30)
    return type(found).__name__,list(found._fields)
@use()
def loss(lib):
    learn = few_learner(lib, fit=False)
    p,t = torch.tensor([1.,2.,4.]),torch.tensor([[1.],[3.],[2.]])
    return learn.loss_func(p, t).item(),learn.loss_func.decodes(p).tolist(),learn.loss_func.activation(p).tolist()
@use()
def plain_learner(lib):
    dls = few(lib)
    model = lib.EmbeddingDotBias.from_classes(5, dls.classes, y_range=(0,5.5))
    learn = lib.Learner(dls, model, loss_func=lib.MSELossFlat())
    quietly(learn.fit_one_cycle, 1, 5e-3)
    return kind(learn.get_preds()[0]),len(learn.recorder.losses)
@use('there is no loss that fits all models in fastai; the loaders here name one')
def plain_learner_without_loss(lib):
    dls = few(lib)
    return error(lambda: lib.Learner(dls, lib.EmbeddingDotBias.from_classes(5, dls.classes)).model.user)

@pytest.mark.parametrize('name', USES)
def test_use(name):
    "The same result, or still another one where there is a reason"
    f,differs = USES[name]
    ours,theirs = (f(WHOLE[o]) for o in ('fastcollab','fastai'))
    if differs: assert ours!=theirs, f'{name} is the same now; {differs!r} is no reason any more'
    else: assert ours==theirs

# fastai's splitters here, ours in fastai, and fastai's models as `arch`

SPLITTERS = dict(random=RandomSplitter(.2, seed=1), index=IndexSplitter(range(30)), end=EndSplitter(.1),
    mask=MaskSplitter(RATINGS.rating>3), column=ColSplitter('held'), train_test=TrainTestSplitter(.2, random_state=1))

@pytest.mark.parametrize('name', SPLITTERS)
def test_splitters_of_fastai(name):
    "They split the same rows here as in fastai, as `splitter` and as `splits`"
    df = RATINGS.assign(held=RATINGS.rating==3)
    want = [list(o) for o in SPLITTERS[name](df)]
    for kwargs in (dict(splitter=SPLITTERS[name]), dict(splits=SPLITTERS[name](df))):
        dls = loaders(df=df, **kwargs)
        assert [o.items.index.tolist() for o in (dls.train,dls.valid)]==want

OUR_SPLITTERS = [fastcollab.all.RandomSplitter(seed=1), UserStratifiedSplitter(seed=1), LeaveLastSplitter(),
    StratifiedSplitter(seed=1), TemporalSplitter(), ColdUserSplitter(seed=1), ColdItemSplitter(seed=1),
    FoldSplitter(3, 'rating')]

@pytest.mark.parametrize('splitter', OUR_SPLITTERS, ids=lambda o: o.__qualname__.split('.')[0])
def test_splitters_in_fastai(splitter):
    "The parts of our splits are those of a `TabularPandas`, of `Datasets` and of our loaders"
    splits = splitter(RATINGS)
    want = [o.tolist() for o in splits]
    to = fastai.collab.TabularCollab(RATINGS, [Categorify], IDS, y_names='rating', splits=splits)
    assert [o.xs.index.tolist() for o in (to.train,to.valid)]==want
    assert [list(o) for o in Datasets(range(len(RATINGS)), [[]], splits=splits).splits]==want
    assert [o.items.index.tolist() for o in loaders(splitter=splitter).loaders]==want

@given(st.lists(st.integers(-5, 5), min_size=4, max_size=30), st.integers(0, 99))
def test_index_goes_with_the_rows(labels, seed):
    "Whatever the index of a frame, every rating has the label of its row"
    n = len(labels)
    df = pd.DataFrame(dict(u=np.arange(n)%2, i=np.arange(n)%3, y=np.arange(n)*1.), index=labels)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dls = CollabDataLoaders.from_df(df, seed=seed, bs=4)
    for part in dls.loaders: assert part.items.index.tolist()==[labels[int(y)] for y in part.y]

def test_index_costs_nothing_where_it_counts():
    "An index from 0 isn't kept, row numbers have 4 bytes, and an export has neither"
    for df in (RATINGS, RATINGS.set_index(RATINGS.index.to_numpy())):
        dls = loaders(df=df)
        assert dls.train_ds.labels is None and dls.train_ds.numbers.dtype==np.int32
    assert loaders(df=RATINGS[::-1]).new_empty().train_ds.labels is None
    ds = dls.train_ds
    ds.append(ds.store.ids()[:2].clone(), ds.store.ratings()[:2].clone())
    assert ds.items.index.equals(pd.RangeIndex(len(ds)))

def test_workers_are_not_needed():
    "Code that asks for workers runs, and hears that there are none"
    with pytest.warns(UserWarning, match='num_workers is 2'): dls = loaders(num_workers=2)
    with pytest.warns(UserWarning, match='num_workers is 2'): dls.test_dl(RATINGS[:5], num_workers=2, pin_memory=True)
    assert len(epoch(dls.train)[0])==4000

@pytest.mark.parametrize('drop_last', [False,True])
def test_order_of_the_compiled_loop(drop_last):
    "Without shuffling, the compiled loop trains on the batches that the loader gives"
    def fit(fused):
        learn = learner(loaders(shuffle=False, drop_last=drop_last, bs=300), fused=fused, unk_p=0)
        quietly(learn.fit, 2, 1e-2)
        return weights(learn)
    a,b = fit(True),fit(False)
    assert all(torch.allclose(a[k], v, atol=1e-5) for k,v in b.items())

def dots(arch, fused):
    "A learner of a dot product"
    model = arch if isinstance(arch, type) else None
    learn = learner(arch=model, fused=fused, unk_p=0)
    quietly(learn.fit, 2, 1e-2, wd=.01)
    return learn

def test_dot_of_fastai_trains_in_the_compiled_loop():
    "It ends where batches end, and predicts as it does"
    a,b = dots(EmbeddingDotBias, True),dots(EmbeddingDotBias, False)
    assert a.fused_reason=='' and all(torch.allclose(v, weights(b)[k], atol=1e-5) for k,v in weights(a).items())
    x,_ = epoch(a.dls.valid)
    with torch.no_grad(): assert torch.allclose(a.get_preds()[0], a.model.eval()(x), atol=1e-5)

def recommends(learn):
    "Lists, similar items, folded in users and explanations of a learner"
    item,new = int(RATINGS.movieId[0]),RATINGS[RATINGS.userId==RATINGS.userId[0]].assign(userId=10**6)
    folded = learn.fold_in(new[['userId','movieId','rating']])
    return learn.recommend([1,2], 4),learn.similar_items(item, 4),folded.recommend([10**6], 4),learn.explain(1, item, 3)

def test_dot_of_fastai_recommends():
    "Given the same tables, it answers what `DotProductBias` answers; so does one that was exported and loaded"
    theirs,ours = dots(EmbeddingDotBias, True),learner(center=False)
    ours.model.load_state_dict({**weights(ours), **weights(theirs)}, strict=False)
    for a,b in zip(recommends(theirs), recommends(ours)): pd.testing.assert_frame_equal(a, b)
    theirs.export('theirs.pkl')
    assert np.array_equal(load_learner('theirs.pkl').predict(RATINGS[:9]), theirs.predict(RATINGS[:9]))

def test_models_of_fastai_as_instances():
    "A model that exists, and a subclass, are what they are; a forward of its own makes a subclass any other model"
    class Named(EmbeddingDotBias): pass
    class Own(EmbeddingDotBias):
        def forward(self, x): return 2*super().forward(x)
    dls = loaders()
    def build(cls): return collab_learner(dls, arch=cls.from_classes(5, dls.classes, y_range=(0,5.5)))
    assert build(EmbeddingDotBias).fused_reason==build(Named).fused_reason==''
    assert 'Own' in build(Own).fused_reason
    assert isinstance(collab_learner(dls, arch=Named, n_factors=5).model, Named)

def test_net_of_fastai():
    "`EmbeddingNN` has the lengths that were asked for, recommends, and its vectors are those of similar items"
    learn = learner(arch=EmbeddingNN, layers=[8], emb_szs=[(201,6),(101,7)])
    quietly(learn.fit, 1, 1e-2)
    assert [tuple(o.weight.shape) for o in learn.model.embeds]==[(201,6),(101,7)]
    top = learn.recommend([1], 3)
    assert np.allclose(top.prediction, learn.predict(top.rename(columns={'user':'userId','item':'movieId'})), atol=1e-5)
    assert len(learn.similar_items(int(RATINGS.movieId[0]), 3))==3

# Reads do not write

FORECASTS = ['learn.predict(1, int(df.movieId[0]))', 'learn.predict(10**6, int(df.movieId[0]))',
    'learn.predict(df.iloc[0])',
    'learn.predict(df)', 'learn.validate()', 'learn.get_preds(with_loss=True)', 'learn.get_preds(ds_idx=0)',
    'learn.get_preds(dl=learn.dls.test_dl(df))']
LOOKS = ['learn.summary()', 'learn.dls.show_batch()', 'learn.dls.one_batch()', 'learn.show_results()',
    'learn.dls.train_ds.items', "learn.export('m.pkl')"]
TABLES = ['learn.model.bias(df.movieId[:5])', 'learn.model.weight([1], is_item=False)',
    'learn.model.predictions(torch.arange(4))',
    'learn.bias_interpretation.table()', 'baseline_rmse(learn.dls)']
MAKERS = ["CollabDataLoaders.from_df(df, seed=3, item_name='title', genre_name='genres')",
    'collab_learner(learn.dls, arch=learn.model)']

def do(read, learn, df=RATINGS):
    "Run the line `read`"
    names = dict(vars(OURS), learn=learn, df=df, torch=torch, baseline_rmse=baseline_rmse)
    with learn.no_bar(): eval(read, names)

def state(learn, df):
    "All that a read leaves as it is, as bytes by name"
    rec,dls = learn.recorder,learn.dls
    res = dict(torch=torch.get_rng_state().numpy(), numpy=np.random.get_state(), python=random.getstate(),
        modes=[m.training for m in learn.model.modules()]+[learn.training],
        grads=[p.requires_grad for p in learn.model.parameters()],
        weights=[o.numpy().copy() for o in weights(learn).values()], hypers=[dict(o) for o in learn.opt.hypers],
        moments=[{k:np.array(v) for k,v in o.items()} for o in learn.opt.state_dict()['state']],
        lrs=list(map(float, rec.lrs)), losses=list(map(float, rec.losses)), iters=list(rec.iters),
        values=list(map(list, rec.values)),
        names=list(rec.metric_names), metrics=[o.name for o in learn.metrics], callbacks=[o.name for o in learn.cbs],
        frame=[df[o].tolist() for o in df], columns=list(df), types=list(map(str, df.dtypes)), index=df.index.tolist(),
        attrs=sorted(df.attrs), config=[learn.path, learn.lr, learn.wd, str(dls.device), dls.train.bs, dls.valid.bs])
    return {k:pickle.dumps(v) for k,v in res.items()}

def changed(before, after): return [k for k in before if before[k]!=after[k]]

@pytest.fixture
def fitted():
    "A fitted learner whose modules are in different modes, and whose loaders draw from the global random state"
    learn = learner(loaders(bs=256, seed=None), cbs=[BiasInterpretation(), ValidRMSE()])
    quietly(learn.fit_one_cycle, 1, 1e-2)
    learn.model.train(), learn.model.u_weight.eval(), learn.model.i_bias.eval()
    learn.training = True
    return learn

@pytest.mark.parametrize('read', FORECASTS+LOOKS+TABLES+MAKERS)
def test_reads_do_not_write(fitted, read, capsys):
    "A read leaves random states, modes, weights, history, loaders and the caller's frame as they were"
    df = RATINGS.copy()
    before = state(fitted, df)
    do(read, fitted, df)
    assert changed(before, state(fitted, df))==[]

@pytest.mark.parametrize('read', FORECASTS+LOOKS)
def test_reads_leave_the_order(read, capsys):
    "The next epoch has the order that it would have had without the read"
    learn,twin = learner(),loaders(bs=256)
    epoch(learn.dls.train), epoch(twin.train)
    do(read, learn)
    assert torch.equal(epoch(learn.dls.train)[0], epoch(twin.train)[0])

def test_failing_reads_do_not_write(fitted, monkeypatch):
    "A read that ends in an error puts everything back too"
    class Broken(Exception): pass
    def forward(x): raise Broken
    before = state(fitted, RATINGS)
    monkeypatch.setattr(fitted.model, 'forward', forward)
    for read in FORECASTS:
        with pytest.raises(Broken): do(read, fitted)
    monkeypatch.undo()
    assert changed(before, state(fitted, RATINGS))==[]
