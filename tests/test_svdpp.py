"SVDPlusPlus: its formula, what it does with ids it does not know, and the two ways to train it"
import subprocess, sys

import numpy as np, pandas as pd, pytest, torch
from fastcollab.all import (Adam, CollabDataLoaders, Embedding, LazyAdam, ParamEmbedding, Recommender, SVDPlusPlus, SetSum, baseline_rmse, collab_learner,
    load_learner, rmse, set_seed, synthetic_ratings, tower_splitter)
from hypothesis import given, settings, strategies as st

FRAME = synthetic_ratings(60, 40, 900, seed=5)
FEATURES = dict(item_cols=['genres'], user_cols=['group'])

def loaders(features=True, **kwargs):
    df = FRAME.assign(group=FRAME.userId%3)
    return CollabDataLoaders.from_df(df, seed=1, bs=64, **(FEATURES if features else {}), **kwargs)

def fitted(dls, opt_func=LazyAdam, epochs=2, unk_p=.1, seed=0, **kwargs):
    set_seed(seed)
    learn = collab_learner(dls, arch=SVDPlusPlus, n_factors=5, y_range=(0,5.5), splitter=tower_splitter, opt_func=opt_func, unk_p=unk_p, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=[.3,.4])
    return learn

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), max_size=30), st.integers(1, 4))
def test_sums_over_sets(pairs, k):
    "Sums over the root of the number, and their gradients, as a dense matrix gives them; a pair that is there twice counts twice"
    x = torch.tensor(pairs).view(-1, 2)
    sets,dense = SetSum(x[:,0].int(), x[:,1].int(), 6, 8, k),torch.zeros(6, 8)
    for u,i in pairs: dense[u,i] += 1
    dense = dense/dense.sum(1, keepdim=True).clamp(min=1).sqrt()
    w = torch.randn(6, k, generator=torch.Generator().manual_seed(0))
    (sets()*w).sum().backward()
    assert torch.allclose(sets(), dense@sets.table.weight, atol=1e-5) and torch.allclose(sets.table.weight.grad, dense.T@w, atol=1e-5)

@pytest.mark.parametrize('features', (False,True))
@pytest.mark.parametrize('emb', (Embedding,ParamEmbedding))
def test_the_formula_by_hand(features, emb):
    "Id, features and set on both sides, rating by rating"
    dls = loaders(features)
    m = SVDPlusPlus.from_dls(dls, n_factors=3, y_range=(0,5.5), emb=emb)
    for p in m.parameters(): torch.nn.init.normal_(p, std=.3)
    seen = dls.train_ds.x.long()
    def tower(k, row):
        v,b = (m.u_weight,m.i_weight)[k].weight[row],(m.u_bias,m.i_bias)[k].weight[row]
        others = seen[seen[:,k]==row,1-k]
        s = m.sets[k].table.weight[others].sum(0)/max(1, len(others))**.5
        v,b = v+s[:-1],b+s[-1:]
        if features:
            cats = (m.u_table,m.i_table)[k][row].long()
            cats = cats[cats>0]
            v,b = (o+t.tables[0].weight[cats].sum(0)/max(1, len(cats))**.5 for o,t in zip((v,b), (m.f_weight[k],m.f_bias[k])))
        return v,b
    for u,i in [(0,0),(0,3),(4,0),*dls.valid_ds.x[:20].tolist()]:
        (p,bu),(q,bi) = tower(0, u),tower(1, i)
        want = m._out((p@q+bu+bi).view(1, 1))
        assert torch.allclose(m(m._with_features(torch.tensor([[u,i]]))), want, atol=1e-5)

def test_only_training_ratings_are_seen():
    "Sets come from the training part: other validation rows leave the model as it is"
    dls = loaders()
    m = SVDPlusPlus.from_dls(dls, n_factors=3)
    counts = torch.bincount(dls.train_ds.x[:,0].long(), minlength=dls.n_users)
    assert torch.equal(m.sets[0].mat_ends.diff(), torch.tensor([len(dls.train_ds.x[dls.train_ds.x[:,0]==u].unique(dim=0)) for u in range(dls.n_users)]))
    assert counts[0]==0 and m.sets[0]()[0].abs().sum()==0

def test_lazy_adam_trains_it_as_adam():
    "Two groups with a decay each, tables that are read as a whole and tables that are not"
    a,b = (fitted(loaders(), o) for o in (LazyAdam,Adam))
    assert a.opt.hypers.attrgot('wd')==[.3,.4]
    for p,q in zip(a.model.parameters(), b.model.parameters()): assert torch.allclose(p, q, atol=2e-3)
    assert np.isclose(a.recorder.values[-1][1], b.recorder.values[-1][1], atol=2e-3)

def test_it_learns_and_the_seed_decides():
    dls = loaders()
    a,b,c = (fitted(loaders(), epochs=6, seed=s, metrics=rmse).recorder.values[-1][2] for s in (0,0,1))
    assert a==b!=c and a<baseline_rmse(dls).iloc[0]

def test_unknown_ids_have_their_features():
    "A new item of a genre is predicted by the unknown row and the genre; its set is empty"
    learn = fitted(loaders())
    df = pd.DataFrame(dict(userId=[1,1], movieId=[99991,99992], genres=['Drama','Comedy'], group=[1,1]))
    with pytest.warns(UserWarning, match='not seen in training'): pred = learn.predict(df)
    assert pred[0]!=pred[1] and np.isfinite(pred).all()

def test_recommender_export_and_checkpoint(tmp_path):
    "Towers collapse to vectors; a learner that was exported, or loaded, predicts the same"
    learn = fitted(loaders(path=tmp_path))
    rows = learn.dls.valid_ds.items
    rows = rows[(rows.userId!='#na#')&(rows.movieId!='#na#')]
    want,rec = learn.predict(rows),learn.recommender()
    assert np.allclose(rec.predict(rows), want, atol=1e-5)
    rec.save(tmp_path/'rec')
    assert Recommender.load(tmp_path/'rec').recommend(k=5).equals(rec.recommend(k=5))
    assert abs(rec.explain(1, 2).stars.sum()-rec.predict(1, 2))<1e-4
    learn.save('m')
    other = fitted(loaders(path=tmp_path), seed=7)
    assert not np.allclose(other.predict(rows), want, atol=1e-3) and np.allclose(other.load('m').predict(rows), want, atol=1e-6)
    learn.export('m.pkl')
    assert np.allclose(load_learner(tmp_path/'m.pkl').predict(rows), want, atol=1e-6)

def test_no_notes_of_pytorch_reach_the_user():
    "Those on sparse matrices come once a process, so this needs one of its own"
    code = "import torch, warnings; from fastcollab.svdpp import SetSum; warnings.simplefilter('error'); SetSum(*torch.tensor([[1,2],[1,3]]), 3, 4, 2)().sum().backward()"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr == ''

@pytest.mark.cuda
def test_on_cuda():
    "The same predictions on a device"
    m = SVDPlusPlus.from_dls(loaders(), n_factors=3)
    x = m._with_features(torch.tensor([[1,2],[0,3]]))
    assert torch.allclose(m.cuda()(x.cuda()).cpu(), m.cpu()(x), atol=1e-5)
