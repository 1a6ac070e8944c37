"Small ratings, loaders and fits that tests of models and of callbacks share"
import torch
from fastai.tabular.all import Module, nn
from fastcollab.all import CollabDataLoaders, synthetic_ratings

SMALL = synthetic_ratings(30, 20, 300)

class Plain(Module):
    "A user's own model"
    def __init__(self): self.a = nn.Embedding(50, 1)
    def forward(self, x): return self.a(x[:,0])

def load(df=SMALL, **kwargs): return CollabDataLoaders.from_df(df, **{'seed':1, **kwargs})
def quiet(learn, *args, how='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def randomly(model, std=.3):
    "Weights far from zero"
    g = torch.Generator().manual_seed(1)
    for p in model.parameters():
        if p.requires_grad: p.data = torch.randn(p.shape, generator=g)*std
    return model
