"SVDPlusPlus: its formula, what it does with ids it does not know, and the two ways to train it"
import subprocess, sys

import numpy as np, pandas as pd, pytest, torch
from fastcollab.models import svdpp
from fastcollab.all import (Adam, CollabDataLoaders, LazyAdam, Recommender, SVDPlusPlus, baseline_rmse,
    collab_learner, load_learner, rmse, set_seed, synthetic_ratings)
from fastcollab.models.svdpp import ImplicitSum
from hypothesis import given, settings, strategies as st

FRAME = synthetic_ratings(60, 40, 900, seed=5)
FEATURES = dict(item_cols=['genres'], user_cols=['group','job'])

def loaders(features=True, time=False, **kwargs):
    df = FRAME.assign(group=FRAME.userId%3, job=np.where(FRAME.userId%4, 'a|b', 'c'),
        timestamp=10**9+FRAME.timestamp%5*86400)
    return CollabDataLoaders.from_df(df, seed=1, bs=64, time_name='timestamp' if time else None,
        **(FEATURES if features else {}), **kwargs)

def fitted(dls, opt_func=LazyAdam, epochs=2, unk_p=.1, seed=0, **kwargs):
    set_seed(seed)
    learn = collab_learner(dls, arch=SVDPlusPlus, n_factors=5, y_range=(0,5.5), opt_func=opt_func, unk_p=unk_p,
        **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-2, wd=[.3,.4])
    return learn

@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), max_size=30), st.integers(1, 4))
def test_sums_over_sets(pairs, k):
    "Sums divided by the root of the count, and their gradients, match a dense matrix; a repeated pair counts twice"
    x = torch.tensor(pairs).view(-1, 2)
    sets,dense = ImplicitSum(x[:,0].int(), x[:,1].int(), 6, 8, k),torch.zeros(6, 8)
    for u,i in pairs: dense[u,i] += 1
    dense = dense/dense.sum(1, keepdim=True).clamp(min=1).sqrt()
    w = torch.randn(6, k, generator=torch.Generator().manual_seed(0))
    (sets()*w).sum().backward()
    assert torch.allclose(sets(), dense@sets.weight, atol=1e-5) and torch.allclose(sets.weight.grad, dense.T@w,
        atol=1e-5)

def spread(m, std=.3):
    g = torch.Generator().manual_seed(0)
    for p in m.parameters(): p.data.normal_(0, std, generator=g)
    return m

@pytest.mark.parametrize('time', (False,True))
@pytest.mark.parametrize('features', (False,True))
def test_the_formula_by_hand(features, time):
    "Id, features, set and time, by rating; an unknown id has the features of its rating, an unknown user no days"
    dls = loaders(features, time)
    m = spread(SVDPlusPlus.from_dls(dls, n_factors=3, y_range=(0,5.5)))
    seen,starts = dls.train_ds.store.ids().long(),[m.feature_starts(k) for k in (0,1)]
    def tower(k, row, cats):
        t,others = m.ids[k][row].clone(),seen[seen[:,k]==row,1-k]
        t += m.sets[k].weight[others].sum(0)/max(1, len(others))**.5
        for spec,at,c in zip(m.sides[k], starts[k], cats):
            t += m.f_weight[k][at+c[c>0]].sum(0)/max(1, int((c>0).sum()))**.5
        return t
    def timestamps(row, u):
        ts = np.cumsum([0,*m.timestamps])
        return sum((m.d_weight[ts[c]+r] for c,r in enumerate(row.tolist()[:3]) if r and (c or u)), torch.zeros(4))
    x = torch.cat([dls.train_ds.rows(torch.arange(20))[0], dls.valid_ds.rows(torch.arange(40))[0]])
    x[:5,0],x[3:8,1] = 0,0
    n_item = sum(f.width for f in m.sides[1])
    n_user = sum(f.width for f in m.sides[0])
    for r in x:
        u,i,rest = r[0].item(),r[1].item(),r[2:]
        a = tower(0, u, rest[n_item:n_item+n_user].split([f.width for f in m.sides[0]]) if features else ())
        c = tower(1, i, rest[:n_item].split([f.width for f in m.sides[1]]) if features else ())
        d = timestamps(rest[n_item+n_user:], u) if time else torch.zeros(4)
        score = a[:3]@c[:3]+a[:3]@d[:3]+c[:3]@d[:3]+a[3]+c[3]+d[3]
        assert torch.allclose(m(r[None]), m.link(score.view(1)), atol=1e-5)

@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(1, 20), st.integers(0, 10**6))
def test_loops_equal_torch(features, time, k, seed):
    "Scores and all gradients, with ids that are unknown, features and times that are missing, and rows that repeat"
    dls = loaders(features, time)
    m,rng = spread(SVDPlusPlus.from_dls(dls, n_factors=k)),np.random.default_rng(seed)
    x = dls.train_ds.rows(torch.from_numpy(rng.integers(0, len(dls.train_ds), int(rng.integers(1, 80)))))[0]
    gone = torch.from_numpy(rng.random(x.shape)<.2)
    wi,wu = m.i_table.shape[1],m.u_table.shape[1]
    gone[:,2:2+wi] &= gone[:,1:2]                                           # those of a known id do not change
    gone[:,2+wi:2+wi+wu] &= gone[:,:1]
    x = m.split_times(x.masked_fill(gone, 0))[0]
    w = torch.from_numpy(rng.normal(size=len(x))).float()
    res = []
    for f in (m.torch_score, lambda x: svdpp.kernel_score(m, x)):
        m.zero_grad()
        out = f(x)
        (out*w).sum().backward()
        res.append([out.detach(),*(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in m.parameters())])
    for a,b in zip(*res): assert torch.allclose(a, b, atol=1e-4*max(1., b.abs().max().item() if b.numel() else 1.))

def test_a_plan_follows_the_tables():
    "Features that are replaced, loaded or copied count"
    dls = loaders()
    m = spread(SVDPlusPlus.from_dls(dls, n_factors=3))
    x = dls.one_batch()[0]
    before = m(x)
    m.i_table = m.i_table.roll(1, 0)
    changed = m(x)
    assert not torch.allclose(before, changed) and torch.allclose(changed, m.torch_score(x), atol=1e-5)
    other = SVDPlusPlus.from_dls(dls, n_factors=3)
    other(x)
    other.load_state_dict(m.state_dict())
    assert torch.allclose(other(x), changed, atol=1e-6)

def test_float64_runs_in_torch():
    dls = loaders(True, True)
    m = spread(SVDPlusPlus.from_dls(dls, n_factors=3)).double()
    x = dls.one_batch()[0]
    want = m(x)
    assert want.dtype==torch.float64 and torch.allclose(want.float(), m.float()(x), atol=1e-5)

def test_only_training_ratings_are_seen():
    "Sets come from the training part: other validation rows leave the model as it is"
    dls = loaders()
    m = SVDPlusPlus.from_dls(dls, n_factors=3)
    counts = torch.bincount(dls.train_ds.store.ids()[:,0].long(), minlength=dls.n_users)
    assert torch.equal(m.sets[0].mat_ends.diff(), counts)
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
    assert not np.allclose(other.predict(rows), want, atol=1e-3) and np.allclose(other.load('m').predict(rows), want,
        atol=1e-6)
    learn.export('m.pkl')
    assert np.allclose(load_learner(tmp_path/'m.pkl').predict(rows), want, atol=1e-6)

@pytest.mark.slow
def test_no_notes_of_pytorch_reach_the_user():
    "Those on sparse matrices come once a process, so this needs one of its own"
    code = ("import torch, warnings; from fastcollab.models.svdpp import ImplicitSum; warnings.simplefilter('error'); "
        "ImplicitSum(*torch.tensor([[1,2],[1,3]]), 3, 4, 2)().sum().backward()")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stderr == ''

@pytest.mark.cuda
def test_on_cuda():
    "The same predictions on a device"
    m = SVDPlusPlus.from_dls(loaders(), n_factors=3)
    x = m.with_features(torch.tensor([[1,2],[0,3]]))
    assert torch.allclose(m.cuda()(x.cuda()).cpu(), m.cpu()(x), atol=1e-5)

def test_summary_names_each_table_once():
    "Tables in lists have their numbers, and those without rows are not shown"
    lines = str(fitted(loaders(False, False), epochs=1).summary()).splitlines()
    names = [o.split(' (')[0] for o in lines[4:lines.index('_'*76)]]
    assert names==['mean','ids.0','ids.1','sets.0','sets.1']
