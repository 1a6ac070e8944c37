"What tables of clicks may have wrong, beyond tests/data/test_interactions.py: one clear error or warning each"
import numpy as np, pandas as pd, pytest
from fastcollab.all import CollabDataLoaders, DotProductBias, EASE, ItemKNN, LightGCN, NDCG, collab_learner, evaluate
from fastcollab.all import synthetic_ratings

CLICKS = synthetic_ratings(60, 25, 600, seed=2)[['userId','movieId']]
def loaders(df=CLICKS, **kwargs): return CollabDataLoaders.from_interactions(df, **{**dict(seed=1, bs=64), **kwargs})
def solved(dls, arch=EASE):
    learn = collab_learner(dls, arch=arch)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn

@pytest.mark.parametrize('arch', [EASE,ItemKNN,DotProductBias,LightGCN])
def test_an_item_without_interactions_in_training(arch):
    "One that only the validation part has is unknown: nothing fails, and no list holds it"
    rare = pd.DataFrame(dict(userId=CLICKS.userId.unique()[:3], movieId=999))
    df,n = pd.concat([CLICKS,rare], ignore_index=True),len(CLICKS)
    learn = solved(loaders(df, splits=(np.arange(n-60),np.arange(n-60, n+3))), arch)
    assert 999 not in set(learn.recommend(k=20)['item']) and np.isfinite(learn.validate()[0])
    with pytest.raises(KeyError, match='999'): learn.similar_items(999)

def test_more_items_than_there_are():
    learn = solved(loaders())
    with pytest.raises(ValueError, match='k is 26, but there are 25 items to choose from; lower k'): learn.recommend(1,
        26)
    learn.metrics = [NDCG(26)]
    with pytest.raises(ValueError, match='k is 26, but there are 25 items; lower k'): learn.validate()

def test_test_users_that_training_does_not_know_are_counted():
    learn = solved(loaders(valid_pct=0))
    train = set(map(tuple, CLICKS.to_numpy()))
    known = pd.DataFrame([(u,i) for u in CLICKS.userId.unique()[:20] for i in CLICKS.movieId.unique()[:12]
        if (u,i) not in train], columns=['userId','movieId'])
    new = known.head(4).assign(userId=[901,901,902,903])
    with pytest.warns(UserWarning, match='3 of .* users'): both = evaluate(learn, pd.concat([known,new]), k=5)
    assert both['ndcg@5'].item()==pytest.approx(evaluate(learn, known, k=5)['ndcg@5'].item())

def test_a_weight_that_is_no_number_of_times():
    for bad,what in ((-2.,'negative'),(np.nan,'not a finite number')):
        df = CLICKS.assign(plays=1.)
        df.loc[3,'plays'] = bad
        with pytest.raises(ValueError, match=what): loaders(df, weight_name='plays')
