"What a new model, a new loss and a new store take: one piece of code in under 30 lines each, and nothing else changes"
import inspect

import numpy as np, pandas as pd
from fastai.tabular.all import set_seed
from fastcollab.all import CollabDataLoaders, CollabModel, Embedding, collab_learner, synthetic_ratings
from fastcollab.models.base import dot_plan, pair_scores
from fastcollab.recommend.base import Factors

def n_lines(o): return len([s for s in inspect.getsource(o).splitlines() if s.strip()])

# A new model

class Toy(CollabModel):
    "Dot product plus biases, with tables of its own"
    def __init__(self, n_users, n_items, n_factors=8, y_range=None):
        self.n_users,self.n_items,self.y_range = n_users,n_items,y_range
        self.users,self.items = Embedding(n_users, n_factors),Embedding(n_items, n_factors)
        self.generous,self.liked = Embedding(n_users, 1),Embedding(n_items, 1)
    def forward(self, x): return self.link(pair_scores(self.factors(0, x[:,0]), self.factors(1, x[:,1])))
    def factors(self, side, rows=None, categories=None):
        vec,bias = (t.weight if rows is None else t(rows) for t in self.sides(side))
        return Factors(vec, bias.squeeze(-1))
    def sides(self, side): return ((self.users,self.generous),(self.items,self.liked))[side]
    def fuse_plan(self, ds): return dot_plan(self, self.sides(0), self.sides(1))

def test_a_new_model():
    "It is fused, recommended, folded in and explained, and learns what the model of the library learns"
    assert n_lines(Toy)<30
    df = synthetic_ratings(60, 40, 900, seed=1)
    dls = CollabDataLoaders.from_df(df, seed=1, bs=64)
    set_seed(0)
    learn = collab_learner(dls, arch=Toy, n_factors=8, y_range=(0,5.5), center=True)
    assert learn.fused_reason==''
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
    rec,user = learn.recommender(),df.userId[0]
    rows = dls.train_ds.items[:50]
    assert rec.scorer.kind=='dot' and np.allclose(rec.predict(rows), learn.predict(rows), atol=1e-4)
    assert len(rec.recommend(user, 5))==5 and len(rec.similar_items(df.movieId[0], 3))==3
    new = pd.DataFrame(dict(userId=[901]*3, movieId=df.movieId.unique()[:3], rating=[5.,1.,4.]))
    assert len(rec.fold_in(new).recommend(901, 4))==4
    parts = rec.explain(user, int(df.movieId[0]))
    assert abs(parts.stars.sum()-rec.predict(user, int(df.movieId[0])))<1e-4
