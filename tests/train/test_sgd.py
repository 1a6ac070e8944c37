"Plain steps against PyTorch's gradients, and what their negatives are"
from copy import deepcopy

import numpy as np, pandas as pd, pytest, torch

from fastcollab.all import (BPRLoss, CollabDataLoaders, DotProductBias, SampledSoftmaxLoss, WARPLoss, collab_learner,
    synthetic_ratings, to_implicit)
from fastcollab.kernels.compile import njit
from fastcollab.kernels.negatives import GOLDEN,mixed,next_bits
from fastcollab.kernels.sgd import SOME,draw_block,drawn
from fastcollab.train.sgd import SGDSolver,negative_source

LR,REG = .1,.02

@njit
def all_negatives(known, users, seed, source, n_neg):
    "What `draw_block` gives for all users, (n,n_neg)"
    res,neg = np.empty((len(users),n_neg), np.int32),np.empty(SOME*n_neg, np.int32)
    for o in range(0, len(users), SOME):
        end = min(len(users), o+SOME)
        draw_block(known, users, o, end, seed, source, n_neg, neg)
        res[o:end] = neg[:(end-o)*n_neg].reshape(end-o, n_neg)
    return res

@njit
def draws_in_turn(source, users, seed, n):
    "The items that WARP looks at, (len(users),n)"
    (items,share,other,ends,disliked),res = source,np.empty((len(users),n), np.int32)
    for r in range(len(users)):
        z = mixed(seed+np.int64(r)*GOLDEN)
        for k in range(n):
            res[r,k] = drawn(items, share, other, ends, disliked, users[r], z)
            z = next_bits(z)
    return res

def fresh(loss, seed=1, n_factors=6, reg=REG, **kwargs):
    "A solver of 120 users, 60 items and weights, and its dataset"
    df = to_implicit(synthetic_ratings(120, 60, 3000), threshold=4)
    df['weight'] = 1+df.movieId%3
    dls = CollabDataLoaders.from_interactions(df, **{'seed':1, 'weight_name':'weight', 'n_neg':5, **kwargs})
    torch.manual_seed(0)
    model = DotProductBias.from_dls(dls, n_factors=n_factors)
    with torch.no_grad():
        for p in model.parameters(): p.mul_(20)
    return SGDSolver(model, dls.train_ds, loss.setup(dls), reg, seed),dls.train_ds

def known_sets(ds):
    res = [set() for _ in range(ds.n_users)]
    for u,i in ds.sampler.ids.tolist(): res[u].add(i)
    return res

def epoch_in_torch(solver, ds, loss):
    "The tables after an epoch of the solver, made by autograd in float64, and its mean loss"
    rng = deepcopy(solver.rng)
    U,M = (torch.from_numpy(o.copy()).double() for o in solver.tables)
    bias = torch.from_numpy(solver.biases[1].copy()).double()
    block = rng.integers(0, solver.n_blocks, ds.n_items).astype(np.uint8)
    source,_ = negative_source(ds.sampler, block, 8)
    rng.integers(len(ds))
    seed,known = np.int64(rng.integers(2**62)),known_sets(ds)
    solver.epoch(LR)   # sorts the pairs
    keep,total,steps = 1-LR*REG,0.,0
    if isinstance(loss, WARPLoss): negatives = draws_in_turn(source, solver.pairs[0], seed, 10)
    else: negatives = all_negatives(solver.known, solver.pairs[0], seed, source, solver.formula.n_neg)
    for a,p,w,neg in zip(*solver.pairs, negatives):
        neg = [int(o) for o in neg]
        steps += 1
        weight = 1.
        if isinstance(loss, WARPLoss):
            gap = 1-bias[p]-U[a]@M[p]+bias[neg]+M[neg]@U[a]
            hits = [k for k,j in enumerate(neg) if j not in known[a] and gap[k]>0]
            if not hits: continue
            weight,neg = loss.weights(10)[hits[0]].item(),[neg[hits[0]]]
        assert not known[a]&set(neg)
        rows = [int(p),*neg]
        own,vecs,biases = (o.clone().requires_grad_() for o in (U[a],M[rows],bias[rows]))
        scores = (vecs@own+biases)[None]
        if isinstance(loss, WARPLoss): value = weight*(1-scores[0,0]+scores[0,1])
        else: value = loss.rows(scores, torch.tensor([rows]))[0]
        value.backward()
        total += value.item()
        step = LR*float(w)
        for k,j in enumerate(rows):
            M[j] = keep*M[j]-step*vecs.grad[k]
            bias[j] = keep*bias[j]-step*biases.grad[k]
        U[a] = keep*U[a]-step*own.grad
    return U,M,bias,total/steps

LOSSES = {'BPR':(BPRLoss,{}), 'BPR by popularity':(BPRLoss,dict(sampler='popularity')), 'WARP':(WARPLoss,{}),
    'softmax':(SampledSoftmaxLoss,{}), 'corrected softmax':(SampledSoftmaxLoss,dict(sampler='popularity'))}

@pytest.mark.parametrize('name', LOSSES)
def test_a_plain_step_is_a_step_of_autograd(name):
    loss,how = LOSSES[name][0](),LOSSES[name][1]
    solver,ds = fresh(loss, **how)
    U,M,bias,value = epoch_in_torch(solver, ds, loss)
    before,_ = fresh(loss, **how)
    for got,was,want in ((solver.tables[0],before.tables[0],U),(solver.tables[1],before.tables[1],M),
        (solver.biases[1],before.biases[1],bias)):
        assert np.abs(got-want.numpy()).max()<2e-4*np.abs(want.numpy()-was).max()
    assert solver.sums[:,0].sum()/solver.sums[:,1].sum()==pytest.approx(value, rel=1e-4)

def test_negatives_follow_the_sampler():
    "Popular items are drawn in proportion; half of the negatives are dislikes, where there are some"
    users = np.full(40_000, 7, np.int32)
    def shares(**kwargs):
        solver,ds = fresh(BPRLoss(), **kwargs)
        source,_ = negative_source(ds.sampler, np.zeros(ds.n_items, np.uint8), 8)
        neg = all_negatives(solver.known, users, np.int64(3), source, 2)
        new = np.setdiff1d(np.arange(1, ds.n_items), list(known_sets(ds)[7]))
        assert np.isin(neg, new).all()
        return np.bincount(neg.ravel(), minlength=ds.n_items)/neg.size,ds.sampler.counts,new
    got,counts,new = shares(sampler='popularity')
    np.testing.assert_allclose(got[new], counts[new-1]/counts[new-1].sum(), atol=.005)
    got,_,new = shares()
    np.testing.assert_allclose(got[new], 1/len(new), atol=.005)

@pytest.mark.parametrize('loss', [BPRLoss,SampledSoftmaxLoss,WARPLoss])
def test_dislikes_are_half_of_the_negatives(loss):
    "Of users who dislike something; what they dislike sinks"
    df = to_implicit(synthetic_ratings(120, 60, 3000), threshold=4)
    items = df.movieId.unique()
    bad = pd.DataFrame([(u,i) for u in df.userId.unique()[:60] for i in items[:3]], columns=['userId','movieId'])
    dls = CollabDataLoaders.from_interactions(df, seed=1, n_neg=10, dislikes=bad)
    ds,new = dls.train_ds,set(map(tuple, bad.to_numpy()))-set(map(tuple, df[['userId','movieId']].to_numpy()))
    source,_ = negative_source(ds.sampler, np.zeros(ds.n_items, np.uint8), 8)
    solver = SGDSolver(DotProductBias.from_dls(dls), ds, loss().setup(dls), seed=0)
    ends,_ = ds.sampler.disliked()
    some = int(torch.diff(ends).argmax())
    neg = all_negatives(solver.known, np.full(20_000, some, np.int32), np.int64(3), source, 1)
    own = ds.sampler.disliked()[1][ends[some]:ends[some+1]].numpy()
    assert np.isin(neg, own).mean()==pytest.approx(.5+.5*len(own)/(ds.n_items-1-len(known_sets(ds)[some])), abs=.02)
    learn = collab_learner(dls, n_factors=8, loss_func=loss())
    with learn.no_bar(), learn.no_logging(): learn.fit_sgd(100, .02 if loss is WARPLoss else .2)
    disliked = pd.DataFrame(sorted(new), columns=['userId','movieId'])
    others = disliked.assign(userId=np.random.default_rng(0).choice(df.userId.unique()[60:], len(disliked)))
    own,other = (learn.predict(o.userId, o.movieId).mean() for o in (disliked,others))
    assert own<other-.5
