"Vectors from metadata: newcomers are predicted from their answers, and nothing but the tabular model is trained"
import copy, warnings
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from fastai.tabular.all import Module, set_seed
from fastcollab.all import (CollabDataLoaders, CollabNN, DotProduct, DotProductBias, HybridMF, MetadataEmbedding,
    collab_learner, create_params, synthetic_ratings)
from popularity import quiet, rng_state

def learner_state(learn):
    "Weights, gradients, modes, data and callbacks of a learner, to compare"
    model,train = learn.model,learn.dls.train_ds
    return dict(weights={k:v.tolist() for k,v in model.state_dict().items()},
        grads=[p.grad is None for p in model.parameters()],
        needs=[p.requires_grad for p in model.parameters()], modes=[m.training for m in model.modules()],
        training=learn.training,
        x=train.store.ids().tolist(), y=train.store.ratings().tolist(), n=learn.dls.train.n,
        classes={k:list(v) for k,v in learn.dls.classes.items()},
        cbs=[type(o) for o in learn.cbs], history=copy.deepcopy(learn.recorder.values), dls=id(learn.dls),
        model=id(model))

def by_hand(a, b):
    "Scores of pairs, one by one"
    return torch.stack([sum(x*y for x,y in zip(u, i))+(0 if a.bias is None else a.bias[k]+b.bias[k])
        for k,(u,i) in enumerate(zip(a.vec, b.vec))])

def error(pred, df): return float(np.sqrt(np.mean((pred-df.rating)**2)))

@pytest.fixture(scope='module')
def world():
    "Ratings whose truth is known; the last 40 users and the last 20 items come after training"
    df = synthetic_ratings(400, 200, 12_000)
    truth,rng = df.attrs['truth'],np.random.default_rng(0)
    cold_user,cold_item = df.userId>360,df.movieId>180
    dls = CollabDataLoaders.from_df(df[~cold_user & ~cold_item], genre_name='genres', seed=42, bs=256)
    set_seed(42)
    learn = quiet(collab_learner(dls, n_factors=5, y_range=(0,5.5), arch=DotProductBias), 6, 2e-2, wd=.1)
    users = pd.DataFrame(dict(userId=np.arange(1, 401), mood=np.where(truth.user_factors[:,0]>0, 'bright', 'dark'),
        generosity=truth.user_bias))
    items = pd.DataFrame(dict(movieId=np.arange(1, 201), kind=np.where(truth.item_factors[:,0]>0, 'loud', 'calm'),
        quality=truth.item_bias))
    noise = [o.assign(**{o.columns[1]:rng.choice(['a','b','c'], len(o)), o.columns[2]:rng.normal(size=len(o))})
        for o in (users,items)]
    new = df[cold_user & ~cold_item], df[~cold_user & cold_item]
    return SimpleNamespace(learn=learn, users=users, items=items, metas=(users,items), noise=noise, new=new)

@pytest.fixture(scope='module')
def fitted(world): return MetadataEmbedding(world.learn, world.users, seed=1).fit(5, 1e-2)

@pytest.fixture(scope='module')
def asked(world): return world.new[0].merge(world.users, on='userId')[['userId','movieId','mood','generosity']]

@pytest.mark.slow
@pytest.mark.parametrize('side', [0,1], ids=['users','items'])
def test_answers_help_and_nonsense_does_little_harm(world, side):
    "Useful metadata predicts new users clearly better than the unknown row; useless metadata hardly worse"
    new = world.new[side]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        unknown = error(world.learn.predict(new), new)
    def by(meta):
        return error(MetadataEmbedding(world.learn, meta, bool(side), seed=1).fit(12,
            1e-2).predict(new.merge(meta, on=meta.columns[0])), new)
    assert by(world.metas[side]) < (.94,.96)[side]*unknown
    assert by(world.noise[side]) < 1.04*unknown

def test_items_and_users_are_not_mixed_up(world):
    "`factors` of users deviate from the row of the unknown user, those of items from that of the unknown item"
    for side,meta in enumerate(world.metas):
        m = MetadataEmbedding(world.learn, meta, bool(side), seed=1)
        row,got = world.learn.model.factors(side).detach(),m.fit(6, 1e-2).factors(meta)
        assert got.vec.shape==(len(meta),5) and got.bias.shape==(len(meta),) and got.bias.std()>.05
        assert (got.vec.mean(0)-row.vec[0]).abs().max()<.3 and abs(got.bias.mean()-row.bias[0])<.3

def test_an_untrained_model_predicts_the_average_newcomer(world):
    for side,meta in enumerate(world.metas):
        got = MetadataEmbedding(world.learn, meta, bool(side), seed=1).factors(meta[:9])
        row = world.learn.model.factors(side).detach()
        assert torch.equal(got.vec, row.vec[:1].expand(9, -1)) and torch.equal(got.bias, row.bias[:1].expand(9))

def _seeded(world, asked, seed, state):
    set_seed(state)
    return MetadataEmbedding(world.learn, world.users, seed=seed).fit(2, 1e-2).predict(asked)

def test_seed(world, asked):
    "The same seed gives the same predictions whatever the global random state is, and another seed gives others"
    first = _seeded(world, asked, 1, 5)
    assert np.array_equal(first, _seeded(world, asked, 1, 6)) and not np.array_equal(first, _seeded(world, asked, 2, 5))

def test_no_seed(world, asked):
    "Without a seed, the global random state decides"
    first = _seeded(world, asked, None, 5)
    assert np.array_equal(first, _seeded(world, asked, None, 5)) and not np.array_equal(first,
        _seeded(world, asked, None, 6))

def test_nothing_else_changes(world, asked):
    "With a seed, building and fitting leave the global random states, the learner and the caller's frames as they were"
    meta,df = world.users.copy(),asked.copy()
    set_seed(7)
    world.learn.model.train()
    before,state = learner_state(world.learn),rng_state()
    m = MetadataEmbedding(world.learn, meta, seed=1).fit(2, 1e-2)
    assert rng_state()==state and learner_state(world.learn)==before
    m.predict(df), m.factors(meta)
    assert learner_state(world.learn)==before
    pd.testing.assert_frame_equal(meta, world.users)
    pd.testing.assert_frame_equal(df, asked)

@pytest.mark.parametrize('seed', [1,None])
def test_predicting_leaves_the_random_states(world, asked, seed):
    m = MetadataEmbedding(world.learn, world.users, seed=seed).fit(1, 1e-2)
    state = rng_state()
    m.predict(asked), m.factors(world.users)
    assert rng_state()==state

def test_mode_of_the_tabular_model_is_kept(fitted, asked):
    "Predicting works in evaluation mode, and leaves the mode that it found"
    fitted.learn.model.train()
    stats = copy.deepcopy(fitted.learn.model.state_dict())
    fitted.predict(asked)
    assert all(m.training for m in fitted.learn.model.modules())
    # batch norm has counted nothing
    assert all(torch.equal(v, stats[k]) for k,v in fitted.learn.model.state_dict().items())
    assert not fitted.factors(asked).vec.requires_grad

def test_factors_by_hand(world, fitted):
    "Numbered categories and numbers standardized over known users give a scaled deviation from the unknown row"
    known = world.users[world.users.userId<=360]
    cats = torch.from_numpy((world.users.mood.map({'bright':1,'dark':2})).to_numpy())[:,None]
    cont = (world.users.generosity-known.generosity.mean())/known.generosity.std(ddof=0)
    table = torch.column_stack(world.learn.model.factors(0).detach())
    # (360,6), in the order of the ids
    dev = table[1:]-table[0]
    with torch.no_grad(): out = fitted.learn.model.eval()(cats, torch.from_numpy(cont.to_numpy())[:,None].float())
    assert torch.allclose(torch.column_stack(fitted.factors(world.users)), table[0]+out*dev.std(), atol=1e-5)
    assert len(fitted.learn.dls.train_ds)==360 and (fitted.cat_names,fitted.cont_names)==(['mood'],['generosity'])

def test_the_answer_of_all_is_their_weighted_mean(world):
    "If all answers are equal, the result is the mean vector, weighted by the square root of the number of ratings"
    dls = world.learn.dls
    counts = dls.train_ds.items.userId.value_counts()
    busy,rest = counts.index[:3],counts.index[-9:]
    who = [*busy,*rest]
    learn = collab_learner(dls, n_factors=1, arch=DotProduct)
    learn.model.u_weight.weight.data.fill_(-1.)[dls.train_ds.enc.encode_ids('userId', busy)] = 1.
    learn.model.u_weight.weight.data[0] = 0
    w,v = np.sqrt(counts[who].to_numpy()),np.array([1]*3+[-1]*9)
    weighted,plain,squared = ((v*o).sum()/o.sum() for o in (w,w**0,w**2))
    m = MetadataEmbedding(learn, pd.DataFrame(dict(userId=who, answer='yes')), layers=[], seed=1).fit(40, .1, wd=0.)
    assert m.factors(pd.DataFrame(dict(answer=['yes']))).vec.item()==pytest.approx(weighted, abs=.05)
    assert plain < weighted-.3 and squared > weighted+.3                  # the test can tell them apart

def test_an_epoch_sees_every_id_once(world):
    "All users are drawn exactly once where the batches have room for them"
    m = MetadataEmbedding(world.learn, world.users, bs=36, seed=1)
    seen = torch.cat([y for *_,y in m.learn.dls.train])                   # (360,7): no two users have the same vector
    assert len(seen)==len(seen.unique(dim=0))==360

@pytest.mark.parametrize('center', [False,True])
@pytest.mark.parametrize('y_range', [False,(0,5.5)])
@pytest.mark.parametrize('arch', [DotProduct,DotProductBias,HybridMF])
def test_predictions_are_the_product(world, asked, arch, y_range, center):
    "Ratings of new users are the link of their vectors times those of the items, plus both biases, features included"
    dls = world.learn.dls
    set_seed(0)
    learn = collab_learner(dls, n_factors=3, arch=arch, y_range=y_range, center=center)
    for p in learn.model.parameters():
        if p.requires_grad: torch.nn.init.normal_(p, std=.5)              # a fit would only be slower
    m = MetadataEmbedding(learn, world.users, seed=1).fit(1, 1e-2)
    df = asked[:50]
    rows = [list(dls.classes['movieId']).index(o) for o in df.movieId]
    with torch.no_grad():
        score = by_hand(m.factors(df), learn.model.factors(1).take(rows))
        want = learn.model.link(score)
    got = m.predict(df)
    assert got.shape==(50,) and got.dtype==np.float32 and np.allclose(got, want, atol=1e-5)
    if not y_range: assert np.allclose(got-score.numpy(), dls.train_ds.store.mean() if center else 0, atol=1e-4)
    else: assert ((got>0) & (got<5.5)).all()

def test_predictions_for_new_items(world):
    "The other way round: metadata of items, ids of users"
    m = MetadataEmbedding(world.learn, world.items, True, seed=1).fit(2, 1e-2)
    df = world.new[1][:50].merge(world.items, on='movieId')
    rows = [list(world.learn.dls.classes['userId']).index(o) for o in df.userId]
    with torch.no_grad(): want = world.learn.model.link(by_hand(m.factors(df), world.learn.model.factors(0).take(rows)))
    assert np.allclose(m.predict(df), want, atol=1e-5)
    assert np.array_equal(m.predict(df.drop(columns='movieId')), m.predict(df))             # new items have no id yet

def test_predictions_follow_the_rows(world, fitted, asked):
    "Neither the order of the rows nor the index matters, nor how many there are"
    want,perm = fitted.predict(asked),np.random.default_rng(0).permutation(len(asked))
    assert np.allclose(fitted.predict(asked.iloc[perm]), want[perm], atol=1e-5)
    assert np.allclose(fitted.predict(asked.set_axis([3]*len(asked))), want, atol=1e-5)
    assert np.allclose([fitted.predict(asked[k:k+1])[0] for k in (0,5)], want[[0,5]], atol=1e-5)
    many = pd.concat([asked]*10, ignore_index=True)                        # more than are predicted at a time
    assert len(many)>2*2**12 and np.allclose(fitted.predict(many), np.tile(want, 10), atol=1e-5)

def test_unknown_categories_and_items(world, fitted, asked):
    "A category that training did not see counts as no answer, an item that it did not see is the unknown one"
    df = asked[:20]
    got = fitted.factors(df.assign(mood='sleepy'))
    def same(mood): return torch.equal(got.vec, fitted.factors(df.assign(mood=mood)).vec)
    assert torch.isfinite(got.vec).all() and same(None) and not same('dark') and not same('bright')
    item = world.learn.model.factors(1).take([0]*20)
    with torch.no_grad(): want = world.learn.model.link(by_hand(fitted.factors(df), item))
    assert np.allclose(fitted.predict(df.assign(movieId=10**6)), want, atol=1e-5)

def test_missing_categories_in_training(world):
    "Nobody has to answer everything: no answer is a category of its own"
    some = world.users.assign(mood=world.users.mood.where(world.users.userId%4>0))
    m = MetadataEmbedding(world.learn, some, cont_names=[], cat_names=['mood'], seed=1).fit(3, 1e-2)
    got = m.factors(pd.DataFrame(dict(mood=['bright','dark',None])))
    assert torch.isfinite(got.vec).all() and len(np.unique(got.vec[:,0]))==3

def test_ids_that_training_has_not_seen_are_left_out(world, asked):
    "Rows of newcomers in the metadata teach nothing: neither their answers nor their numbers are looked at"
    old = world.users[:360]
    odd = pd.concat([old, pd.DataFrame(dict(userId=np.arange(900, 960), mood='other', generosity=1e3))])
    want = MetadataEmbedding(world.learn, old, seed=1).fit(2, 1e-2).predict(asked)
    assert np.array_equal(MetadataEmbedding(world.learn, odd, seed=1).fit(2, 1e-2).predict(asked), want)

def test_part_of_the_users_is_enough(world, asked):
    "Training users without metadata are no error; the order of the columns and the place of the id do not matter"
    some = world.users[world.users.userId%3==0]
    want = MetadataEmbedding(world.learn, some, seed=1).fit(2, 1e-2).predict(asked)
    assert np.isfinite(want).all() and len(np.unique(want))>len(want)//2
    m = MetadataEmbedding(world.learn, some[['generosity','userId','mood']], seed=1).fit(2, 1e-2)
    assert np.array_equal(m.predict(asked[['mood','movieId','generosity']]), want)

@pytest.mark.parametrize('cols,kwargs,want', [
    (['generosity'], {}, ([],['generosity'])),
    (['mood'], {}, (['mood'],[])),
    (['mood','age'], {}, (['mood'],['age'])),
    (['mood','age','generosity'], dict(cat_names=['mood','age']), (['mood','age'],['generosity'])),
    (['mood','age','generosity'], dict(cont_names=['generosity']), (['mood','age'],['generosity'])),
    (['mood','age','generosity'], dict(cat_names=['mood'], cont_names=[]), (['mood'],[])),
    (['kind','sure'], {}, (['kind'],['sure'])),
    (['kind','generosity','year'], {}, (['kind'],['generosity','year']))], ids=str)
def test_columns(world, asked, cols, kwargs, want):
    "Which columns are categories and which are numbers; only those are asked for"
    n = len(world.users)
    meta = world.users.assign(age=np.arange(n)%5, kind=pd.Categorical(['a','b']*(n//2)), sure=np.arange(n)%3>0,
        year=pd.array([1990,2000]*(n//2), 'Int64'))
    m = MetadataEmbedding(world.learn, meta[['userId',*cols]], seed=1, **kwargs)
    assert (m.cat_names,m.cont_names)==want
    df = meta[360:][[*want[0],*want[1]]].assign(movieId=3)
    got = m.fit(2, 1e-2).predict(df)
    assert np.isfinite(got).all() and len(np.unique(got))>1

def test_layers_epochs_and_batches(world):
    "`layers` and `bs` are those of the tabular learner; `fit` returns what it fits, and goes on from where it was"
    m = MetadataEmbedding(world.learn, world.users, layers=[7,3], bs=100, seed=1)
    assert [o.shape[0] for k,o in m.learn.model.named_parameters() if k.startswith('layers') and o.ndim==2]==[7,3,6]
    assert len(m.learn.dls.train)==3 and len(MetadataEmbedding(world.learn, world.users[:50],
        seed=1).learn.dls.train)==1
    assert m.fit(1) is m and len(m.learn.recorder.values)==1
    first = m.factors(world.users).vec
    assert not torch.equal(m.fit(2, 1e-2).factors(world.users).vec, first) and len(m.learn.recorder.values)==2
    small,large = (MetadataEmbedding(world.learn, world.users, seed=1).fit(3, lr) for lr in (1e-5,1e-2))
    row,start = world.learn.model.factors(0).detach().vec[0],MetadataEmbedding(world.learn, world.users,
        seed=1).factors(world.users).vec
    def vectors(m): return m.factors(world.users).vec
    assert (vectors(small)-start).abs().max() < .01 < .1 < (vectors(large)-row).abs().max()
    decayed = MetadataEmbedding(world.learn, world.users, seed=1).fit(3, 1e-2, wd=50.)
    assert (vectors(decayed)-row).abs().mean() < (vectors(large)-row).abs().mean()

def test_empty_frames(fitted, asked):
    assert fitted.factors(asked[:0]).vec.shape==(0,5) and fitted.factors(asked[:0]).bias.shape==(0,)
    got = fitted.predict(asked[:0])
    assert got.shape==(0,) and got.dtype==np.float32

def test_learner_with_text_ids(world):
    "Ids of text, and other names of columns"
    df = synthetic_ratings(60, 30, 900).assign(user=lambda d: 'u'+d.userId.astype(str))
    learn = collab_learner(CollabDataLoaders.from_df(df, user_name='user', item_name='title', rating_name='rating',
        seed=1), n_factors=2)
    meta = pd.DataFrame(dict(user=[f'u{k}' for k in range(1, 61)], age=np.arange(60.)))
    assert MetadataEmbedding(learn, meta, seed=1).fit(1).predict(meta.assign(title=df.title[0])).shape==(60,)
    with pytest.raises(KeyError, match="no column 'title'"): MetadataEmbedding(learn, meta, seed=1).predict(meta)

class _NoFactors(Module):
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return self.w[x[:,1]]

BUILD = {
    'no id column': (lambda d: d.rename(columns=dict(userId='id')), {}, KeyError,
        "no column 'userId' in the metadata; the columns are .'id', 'mood', 'generosity'."),
    'id of the other side': (lambda d: d, dict(is_item=True), KeyError, "no column 'movieId'"),
    'repeated ids': (lambda d: pd.concat([d, d[4:7]]), {}, ValueError,
        "3 of 403 rows of the metadata repeat an earlier 'userId', e.g. .*5"),
    'ids only': (lambda d: d[['userId']], {}, ValueError, "the metadata has no column besides 'userId'"),
    'nothing asked for': (lambda d: d, dict(cat_names=[], cont_names=[]), ValueError,
        'the metadata has no column besides'),
    'NaN': (lambda d: d.assign(generosity=d.generosity.where(d.userId!=3)), {}, ValueError,
        "'generosity' is missing.* in 1 of 400 rows, e.g. (nan|inf) in row 2"),
    'NaN in an unknown user': (lambda d: d.assign(generosity=d.generosity.where(d.userId!=399)), {}, ValueError,
        "missing.* in 1 of 400 rows, e.g. (nan|inf) in row 398"),
    'infinity': (lambda d: d.assign(generosity=d.generosity.where(d.userId!=3, np.inf)), {}, ValueError,
        "'generosity'.* 1 of 400 rows, e.g. (nan|inf) in row 2"),
    'text as numbers': (lambda d: d, dict(cont_names=['mood']), TypeError,
        "'mood' holds .*, e.g. '(dark|bright)'; convert it, or name it in cat_names"),
    'no such category': (lambda d: d, dict(cat_names=['job']), KeyError, "no column 'job' in the metadata"),
    'no such number': (lambda d: d, dict(cont_names=['age']), KeyError, "no column 'age' in the metadata"),
    'unknown ids': (lambda d: d.assign(userId=d.userId+1000), {}, KeyError,
        '400 of 400 ids of the metadata not seen in training, e.g. .*1001'),
    'ids of new users': (lambda d: d[360:], {}, KeyError, '40 of 40 ids'),
    'ids of another type': (lambda d: d.assign(userId=d.userId.astype(str)), {}, TypeError,
        'text here.*numbers in training')}

@pytest.mark.parametrize('name', BUILD)
def test_errors_of_building(world, name):
    change,kwargs,kind,match = BUILD[name]
    with pytest.raises(kind, match=match): MetadataEmbedding(world.learn, change(world.users.copy()), **kwargs)

@pytest.mark.parametrize('arch', [CollabNN,'own'])
def test_models_without_factors(world, arch):
    dls = world.learn.dls
    learn = collab_learner(dls, arch=_NoFactors(dls.n_items) if arch=='own' else arch)
    with pytest.raises(TypeError, match='(CollabNN|_NoFactors) has no factors'): MetadataEmbedding(learn, world.users)

ASK = {'no answer': (lambda d: d.drop(columns='mood'), KeyError,
    "no column 'mood' in the metadata; the columns are .*'generosity'"),
    'no number': (lambda d: d.drop(columns='generosity'), KeyError, "no column 'generosity'"),
    'no item': (lambda d: d.drop(columns='movieId'), KeyError,
        "no column 'movieId'; the columns are .'userId', 'mood', 'generosity'."),
    'NaN': (lambda d: d.assign(generosity=[np.nan,*d.generosity[1:]]), ValueError,
        "'generosity' is missing.* in 1 of [0-9,]+ rows, e.g. nan in row 0"),
    'text': (lambda d: d.assign(generosity='much'), TypeError, "'generosity' holds .*, e.g. 'much'"),
    'items of another type': (lambda d: d.assign(movieId='5'), TypeError, 'text here.*numbers in training')}

@pytest.mark.parametrize('name', ASK)
def test_errors_of_asking(fitted, asked, name):
    change,kind,match = ASK[name]
    with pytest.raises(kind, match=match): fitted.predict(change(asked.copy()))
    if name in ('no item','items of another type'): assert len(fitted.factors(change(asked.copy())).vec)==len(asked)
    else:
        with pytest.raises(kind, match=match): fitted.factors(change(asked.copy()))

@pytest.mark.parametrize('n,bs', [(1,64),(9,1),(9,0)])
def test_batch_norm_needs_two(world, n, bs):
    with pytest.raises(ValueError, match=f'the metadata has {n} known ids and bs is {bs}'):
        MetadataEmbedding(world.learn, world.users[:n], bs=bs)
