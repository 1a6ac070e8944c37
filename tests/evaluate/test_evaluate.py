"Lists on held-out data: the same numbers from every source, nobody dropped silently, intervals that hold"
import warnings

import numpy as np, pandas as pd, pytest

from fastcollab.all import ColdUserSplitter,CollabDataLoaders,UserStratifiedSplitter,collab_learner,compare,evaluate
from fastcollab.evaluate.protocol import bootstrap_means, rank_recommender, user_metrics

@pytest.fixture(scope='module')
def parts(ratings): return [ratings.iloc[o] for o in UserStratifiedSplitter(.2, seed=0)(ratings)]

@pytest.fixture(scope='module')
def learn(parts):
    dls = CollabDataLoaders.from_df(parts[0], valid_pct=0, genre_name='genres', seed=0)
    learn = collab_learner(dls, n_factors=8)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, 2e-2)
    return learn

@pytest.fixture(scope='module')
def rec(learn): return learn.recommender()

def by_hand(rec, test, k):
    "nDCG and recall from the raw ids of `recommend`"
    lists = rec.recommend(k=k).groupby('user').item.apply(list)
    gain,res = 1/np.log2(np.arange(2, k+2)),{}
    for user,mine in test.groupby('userId'):
        held = set(mine.movieId)
        found = np.array([i in held for i in lists[user]])
        res[user] = (gain[:len(found)][found].sum()/gain[:min(k, len(held))].sum(), found.sum()/len(held))
    return np.array(list(res.values())).mean(0)

def test_numbers_by_hand(rec, parts):
    row = evaluate(rec, parts[1], k=(3,10), n_boot=0)
    for k in (3,10): np.testing.assert_allclose(row[[f'ndcg@{k}',f'recall@{k}']].iloc[0], by_hand(rec, parts[1], k))
    assert len(row)==1 and row.users[0]==parts[1].userId.nunique() and row.unknown_users[0]==0
    assert not any('_low' in o for o in row)

def test_every_metric_has_a_column_and_means_have_intervals(rec, parts):
    row = evaluate(rec, parts[1], n_boot=200).iloc[0]
    means = [f'{o}@{k}' for k in (5,10,20) for o in ('ndcg','recall','precision','map','mrr','hit_rate','novelty',
        'popularity_lift','diversity')]+['auc']
    for o in means: assert row[f'{o}_low']<=row[o]<=row[f'{o}_high'], o
    others = [f'{o}@{k}' for o in ('coverage','gini') for k in (5,10,20)]
    assert set(row.index)=={'users','unknown_users',*others,*(f'{o}{e}' for o in means for e in ('','_low','_high'))}
    assert np.isfinite(row.astype(float)).all()

def test_learner_recommender_and_table_agree(learn, rec, parts):
    train,test = parts
    own,table = evaluate(rec, test, k=10),rec.recommend(k=10)
    pd.testing.assert_frame_equal(own, evaluate(learn, test, k=10))
    shuffled = table.sample(frac=1, random_state=0)     # `rank` says the order
    for lists in (table,shuffled,table.drop(columns='rank'),table.rename(columns=dict(user='userId', item='movieId'))):
        other = evaluate(lists, test, k=10, train=train)
        shared = [o for o in other if not o.startswith(('diversity','coverage','gini'))]
        assert 'novelty@10' in shared and 'auc' not in shared
        np.testing.assert_allclose(other[shared].iloc[0], own[shared].iloc[0])
    np.testing.assert_allclose(evaluate(table, test, k=10, n_boot=0)['map@10'], own['map@10'])   # without training

def test_other_columns_and_text_ids(rec, parts):
    train,test = (o.assign(userId='u'+o.userId.astype(str))[['rating','movieId','userId']] for o in parts)
    lists = rec.recommend(k=5).assign(user=lambda o: 'u'+o.user.astype(str))
    row = evaluate(lists, test, k=5, train=train, names=('userId','movieId','rating'), n_boot=0)
    np.testing.assert_allclose(row['ndcg@5'], evaluate(rec, parts[1], k=5, n_boot=0)['ndcg@5'])

def test_unknown_users_are_reported_apart(ratings):
    train,test = (ratings.iloc[o] for o in ColdUserSplitter(.1, seed=0)(ratings))
    dls = CollabDataLoaders.from_df(train, valid_pct=0, seed=0)
    rec = collab_learner(dls, n_factors=4).recommender()
    with pytest.raises(ValueError, match='training saw none of the 20 test users, e.g. .*fold_in'):
        evaluate(rec, test, k=5)
    new = pd.DataFrame(dict(userId=train.userId.iloc[:1], movieId=[10**6], rating=5., timestamp=0))
    with pytest.warns(UserWarning, match='20 of 21 test users not seen in training, e.g. .*unknown_users'):
        row = evaluate(rec, pd.concat([test, new]), k=5)
    assert row.unknown_users[0]==20 and row.users[0]==1 and row['recall@5'][0]==0
    with pytest.warns(UserWarning, match='20 of 21 test users'):
        row = evaluate(rec.recommend(k=5), pd.concat([test, new]), k=5, train=train)
    assert row.unknown_users[0]==20

def test_the_history_stays_as_it_was(rec, parts):
    "Which rating belongs to which item, too"
    before = [o.clone() for o in rec.history]
    evaluate(rec, parts[1], k=5, n_boot=0)
    assert all((a==b).all() for a,b in zip(before, rec.history))

def test_new_items_count_as_missed(rec, parts):
    test = parts[1]
    more = pd.concat([test, test.drop_duplicates('userId').assign(movieId=10**6)])
    a,b = (user_metrics(rank_recommender(rec, o, 10), (10,))['recall@10'] for o in (test,more))
    n = test.groupby('userId').size()
    np.testing.assert_allclose(b, a*n[a.index]/(n[a.index]+1))

def test_a_leak_is_a_warning(rec, parts):
    train,test = parts
    with pytest.warns(UserWarning, match=r'200 of 1,\d+ test pairs are in training, too: a leak'):
        row = evaluate(rec, pd.concat([test, train[:200]]), k=10)
    np.testing.assert_allclose(row['ndcg@10'], evaluate(rec, test, k=10)['ndcg@10'])
    with pytest.raises(ValueError, match='training has all test pairs'), pytest.warns(UserWarning):
        evaluate(rec, train, k=10)

def test_rows_that_repeat_count_once(rec, parts):
    test = parts[1]
    pd.testing.assert_frame_equal(evaluate(rec, test, k=5), evaluate(rec, pd.concat([test, test]), k=5))

def test_min_rating(rec, parts):
    row = evaluate(rec, parts[1], k=10, min_rating=4, n_boot=0)
    pd.testing.assert_frame_equal(row, evaluate(rec, parts[1].query('rating>=4'), k=10, n_boot=0))

def test_styles(rec, parts):
    rows = {o:evaluate(rec, parts[1], k=3, style=o, n_boot=0).iloc[0] for o in (None,'recbole','ranx','lenskit')}
    pd.testing.assert_series_equal(rows[None], rows['recbole'])
    assert rows['ranx']['map@3']<rows[None]['map@3'] and rows['ranx']['ndcg@3']==rows[None]['ndcg@3']
    assert rows['lenskit']['recall@3']>rows[None]['recall@3'] and rows['lenskit']['ndcg@3']!=rows[None]['ndcg@3']

def test_users_without_a_list(parts, rec):
    "They score 0, and Recommenders leaves them out"
    lists = rec.recommend(k=5)
    some = lists[lists.user!=parts[1].userId.iloc[0]]
    all,part = (evaluate(o, parts[1], k=5, n_boot=0).iloc[0] for o in (lists,some))
    assert part.users==all.users and part['recall@5']<=all['recall@5']
    theirs = evaluate(some, parts[1], k=5, style='recommenders', n_boot=0).iloc[0]
    np.testing.assert_allclose(theirs['recall@5']*(all.users-1), part['recall@5']*all.users)

# ---- Intervals
def test_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(400,3))
    values[::5,1] = np.nan
    draws = bootstrap_means(values, 2000, seed=1)
    n = (~np.isnan(values)).sum(0)
    np.testing.assert_allclose(draws.mean(0), np.nanmean(values, 0), atol=.01)
    np.testing.assert_allclose(draws.std(0), np.nanstd(values, 0)/n**.5, rtol=.08)
    assert (draws==bootstrap_means(values, 2000, seed=1)).all() and not (draws==bootstrap_means(values, 2000, 2)).all()
    assert (bootstrap_means(values, 30)==bootstrap_means(values, 60)[:30])[:25].all()
    nobody = np.full((5,2), np.nan)
    assert np.isnan(bootstrap_means(nobody, 10)).all() and bootstrap_means(values, 7).shape==(7,3)

def test_intervals_hold_the_truth_as_often_as_they_say():
    rng,hits = np.random.default_rng(0),0
    for k in range(100):
        low,high = np.quantile(bootstrap_means(rng.beta(1, 3, (150,1)), 300, seed=k), [.025,.975])
        hits += low<=.25<=high
    assert 88<=hits<=99

# ---- Comparisons
def test_compare(rec, parts, learn):
    train,test = parts
    popular = train.movieId.value_counts().index[:40]
    lists = pd.DataFrame([(u,i) for u in train.userId.unique() for i in popular], columns=['user','item'])
    lists = lists[~pd.MultiIndex.from_frame(lists).isin(pd.MultiIndex.from_frame(train[['userId','movieId']]))]
    found = compare(dict(model=rec, same=learn, popular=lists), test, k=(5,10), train=train)
    table,gap = found.table,found.differences(base='model')
    np.testing.assert_allclose(table.loc['model','ndcg@5'], evaluate(rec, test, k=5, n_boot=0)['ndcg@5'])
    assert gap.loc['same',['difference','low','high']].abs().max()==0
    per_user = [user_metrics(rank_recommender(rec, test, 5), (5,))['ndcg@5']]
    draws = found.draws('ndcg@5')
    np.testing.assert_allclose(gap.loc['popular','low'], (draws.popular-draws.model).quantile(.025))
    width = gap.loc['popular','high']-gap.loc['popular','low']
    apart = sum(draws[o].quantile(.975)-draws[o].quantile(.025) for o in ('popular','model'))
    assert width<apart and len(per_user[0])==found.tables['model'].shape[0]
    assert found.differences('recall@10').index[0]==found.differences('recall@10')['recall@10'].idxmax()
    assert found.plot().get_xlabel().startswith('difference in ndcg@5 from ')
    assert 'difference' in repr(found) and '<table' in found._repr_html_()

def test_compare_wants_shared_users(rec, parts):
    test = parts[1]
    half = test[test.userId<test.userId.median()]
    lists = rec.recommend(k=5)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        dls = CollabDataLoaders.from_df(parts[0][parts[0].userId<test.userId.median()], valid_pct=0)
        found = compare({'all':rec, 'few':collab_learner(dls, n_factors=4)}, test, k=5)
    assert any('are not known to all models' in str(o.message) for o in w)
    assert len(found.tables['all'])==len(found.tables['few'])==half.userId.nunique()
    assert len(compare({'lists':lists, 'model':rec}, test, k=5).tables['lists'])==test.userId.nunique()

# ---- Errors
@pytest.mark.parametrize('words,kwargs', [('k is 500; give a whole number of items', dict(k=500)),
    ('k is 0', dict(k=0)), ('k is empty', dict(k=())), ("style is 'trec'", dict(style='trec')),
    ('no test rating is 9 or higher', dict(min_rating=9)), ('interval is 2', dict(interval=2)),
    ('n_boot is -1', dict(n_boot=-1)), ('train is for a table of lists', dict(train=pd.DataFrame()))])
def test_bad_arguments(rec, parts, words, kwargs):
    with pytest.raises(ValueError, match=words): evaluate(rec, parts[1], **{'k':5, **kwargs})

def test_bad_tables(rec, parts):
    test,lists = parts[1],rec.recommend(k=5)
    with pytest.raises(ValueError, match='the test table is empty'): evaluate(rec, test[:0])
    with pytest.raises(TypeError, match='test is a list'): evaluate(rec, [1,2])
    with pytest.raises(KeyError, match='userId'): evaluate(rec, test.rename(columns=dict(userId='who')))
    with pytest.raises(TypeError, match='are text'): evaluate(rec, test.assign(userId=test.userId.astype(str)))
    with pytest.raises(TypeError, match='model is a str'): evaluate('popular', test)
    with pytest.raises(ValueError, match='longest list of a test user has 5 items'): evaluate(lists, test, k=6)
    with pytest.raises(ValueError, match='rows of lists repeat an item'):
        evaluate(pd.concat([lists, lists[:3]]), test, k=5)
    with pytest.raises(TypeError, match='models is not a dict'): compare([rec], test)
    with pytest.raises(ValueError, match="metric is 'fame'"): compare({'a':rec}, test, metric='fame')

def test_draws_without_a_compiler_are_those_of_the_compiled_loop(monkeypatch):
    import fastcollab.evaluate.protocol as module
    compiled = [module.draw_counts(101, seed, 3, 4) for seed in (0,5,2**64-1)]
    monkeypatch.setattr(module, 'load_kernels', lambda name: None)
    for seed,c in zip((0,5,2**64-1), compiled): assert (c==module.draw_counts(101, seed, 3, 4)).all()
    assert (compiled[0].sum(1)==101).all() and not (compiled[0]==compiled[1]).all()

# ---- The sampled protocol
def test_sampled_items_are_said_to_be_sampled(rec, parts):
    row = evaluate(rec, parts[1], k=(5,10), n_sampled=20, n_boot=50)
    names = [o for o in row if '@' in o]
    assert names and all(' of 20 sampled' in o for o in names) and not any('coverage' in o for o in row)
    full = evaluate(rec, parts[1], k=(5,10), n_boot=0)
    assert row['ndcg@10 of 20 sampled'][0]>full['ndcg@10'][0] and row.users[0]==full.users[0]
    pd.testing.assert_frame_equal(row, evaluate(rec, parts[1], k=(5,10), n_sampled=20, n_boot=50))
    every = evaluate(rec, parts[1], k=(5,10), n_sampled=10**4, n_boot=0)   # all others: the full ranking
    for o in ('ndcg@5','map@10','recall@10'): np.testing.assert_allclose(every[f'{o} of 10000 sampled'], full[o])
    with pytest.raises(ValueError, match='n_sampled is 5; give a whole number'):
        evaluate(rec, parts[1], k=10, n_sampled=5)
    with pytest.raises(ValueError, match='n_sampled needs scores of all items'):
        evaluate(rec.recommend(k=10), parts[1], k=10, n_sampled=20)

WRONG = {'auc is':dict(auc='no'), 'interval is':dict(interval=3), 'n_boot is':dict(n_boot=-1),
    "n_bot'; did you mean 'n_boot'":dict(n_bot=3)}

@pytest.mark.parametrize('words', WRONG)
def test_arguments_are_checked_before_any_work(words, parts):
    "By both calls"
    for call,model in ((evaluate,None), (compare,{})):
        with pytest.raises((ValueError,TypeError), match=words): call(model, parts[1], **WRONG[words])
