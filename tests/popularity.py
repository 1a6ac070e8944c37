"What the tests of popularity bias share: a quick fit, the state of a learner, and all numbers from raw ids with pandas"
import random

import numpy as np, pandas as pd, torch

def quiet(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(*args, **kwargs)
    return learn

def rng_state():
    return torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),np.random.get_state()[2],random.getstate()

def learner_state(learn):
    "Weights, modes, data, order and callbacks of a learner, to compare"
    model,train = learn.model,learn.dls.train_ds
    return dict(weights={k:v.tolist() for k,v in model.state_dict().items()},
        grads=[p.grad is None for p in model.parameters()],
        modes=[m.training for m in model.modules()], training=learn.training, x=train.store.ids().tolist(),
        y=train.store.ratings().tolist(), n=learn.dls.train.n,
        valid=learn.dls.valid_ds.store.ids().tolist(), order=learn.dls.train.order.state(),
        weight=learn.dls.train.user_weight,
        cbs=[id(o) for o in learn.cbs], opt=id(learn.opt), history=str(getattr(learn.recorder, 'values', None)),
        ids=(id(learn.dls),id(model),id(train)))

def second_opinion(learn, k):
    "All numbers of the report from raw ids, with pandas and numpy: lists from `learn.predict`"
    train = learn.dls.train_ds.items
    users,items = np.unique(train.userId),np.unique(train.movieId)
    pred = pd.DataFrame(learn.predict(np.repeat(users, len(items)), np.tile(items, len(users))).reshape(len(users), -1),
        users, items)
    pred = pred.mask(pd.crosstab(train.userId, train.movieId)>0)
    listed = pd.concat([o.nlargest(k) for _,o in pred.iterrows()]).index.value_counts().reindex(items, fill_value=0)
    rated,busy = train.movieId.value_counts().reindex(items),train.userId.value_counts().to_numpy()
    # half the mean difference over the mean
    def gini(c): return np.abs(np.subtract.outer(c.to_numpy(), c.to_numpy())).mean()/(2*c.mean())
    lift = np.average(rated, weights=listed)/np.average(rated, weights=rated)
    shares = {f'top {p} % of users':busy[:n].sum()/len(train) for p,n in ((1,1),(5,5),(10,10))}       # 100 users
    return {**shares, 'gini of ratings':gini(rated), 'gini of lists':gini(listed), 'coverage':(listed>0).mean(),
        'popularity lift':lift}, rated, listed
