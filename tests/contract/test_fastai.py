"Each fault of fastai.collab that fastcollab mends; fastai's own code stays unchanged; what a `Learner` can do"
import pickle, random, warnings
from types import SimpleNamespace

import fastai.collab, numpy as np, pandas as pd, pytest, torch
from fastai.data.transforms import RandomSplitter
from fastai.learner import load_learner
from fastai.losses import MSELossFlat
from fastai.tabular.all import CSVLogger, EarlyStoppingCallback, Embedding, Learner, Module, SaveModelCallback
from fastai.tabular.all import nn, params, sigmoid_range
from fastcollab.all import (BiasInterpretation, CollabDataLoaders, DotProduct, ValidRMSE, baseline_rmse, collab_learner,
    create_params, synthetic_ratings)

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
    assert [k for k in after if torch.equal(before[k], after[k])]==['u_weight.weight','i_weight.weight']
    learn.unfreeze()
    quietly(learn.fit, 1)
    assert not any(torch.equal(after[k], v) for k,v in weights(learn).items())

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
