"Raw ids of any type and container at the door of a learner, and ids that training never saw"
import warnings
from datetime import date
from uuid import UUID

import numpy as np, pandas as pd, pyarrow as pa, pytest, torch
from fastcollab.all import DotProductBias, HybridMF, HybridNN, SVDPlusPlus, collab_learner
from tests.small import SMALL, load

@pytest.fixture(scope='module')
def learn():
    "A learner with genres; ids are numbers"
    return collab_learner(load(genre_name='genres'), y_range=(0,5.5))

def caught(f, *args, **kwargs):
    "What a call returns, and the texts of its warnings"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        res = f(*args, **kwargs)
    return res,[str(o.message) for o in w if o.category is UserWarning]

# Unknown ids

NEW = pd.DataFrame(dict(userId=[9001,9002,1], movieId=[8001,8002,2], genres=['Drama','Comedy','Drama']))

def test_an_answer_does_not_depend_on_its_neighbors(learn):
    "Rows of unknown ids alone, with their features, get what they get among known ones"
    both,said = caught(learn.predict, NEW)
    alone,said_alone = caught(learn.predict, NEW[:2])
    assert np.allclose(both[:2], alone) and alone[0]!=alone[1]          # the genres differ
    assert len(said)==len(said_alone)==1 and '66.7%' in said[0] and '9001' in said_alone[0]
    one,said_one = caught(learn.predict, NEW.iloc[0])
    assert np.isclose(one, both[0]) and len(said_one)==1 and 'check the columns' in said_one[0]
    assert np.isclose(caught(learn.predict, 9001, 8001)[0], caught(learn.predict, [9001,1], [8001,2])[0][0])

@pytest.mark.parametrize('n', [2, 3])
def test_loaders_of_unknown_ids(learn, n):
    "`test_dl`, `get_preds` and `validate` take rows of unknown ids, with one warning"
    dl,said = caught(learn.dls.test_dl, NEW[:n].assign(rating=3.))
    assert len(said)==1
    assert np.allclose(learn.get_preds(dl=dl)[0], caught(learn.predict, NEW[:n])[0], atol=1e-6)
    with learn.no_bar(): assert np.isfinite(learn.validate(dl=dl)).all()

def test_unknown_says_what_happens(learn):
    "As an average newcomer, as nan, or not at all"
    average,said = caught(learn.predict, NEW)
    assert np.isfinite(average).all() and len(said)==1
    nan,said = caught(learn.predict, NEW, unknown='nan')
    assert np.isnan(nan).tolist()==[True,True,False] and nan[2]==average[2] and not said
    assert np.isnan(learn.predict(9001, 2, unknown='nan')) and np.isfinite(learn.predict(1, 2, unknown='nan'))
    with pytest.raises(KeyError, match='66.7% of the rows have a user not seen in training, e.g. 9001'):
        learn.predict(NEW, unknown='raise')
    with pytest.raises(ValueError, match="unknown is 'mean'; choose 'average', 'nan' or 'raise'"):
        learn.predict(1, 2, unknown='mean')
    assert learn.predict(NEW[2:], unknown='raise')==average[2:]

@pytest.mark.parametrize('arch', [DotProductBias, HybridMF, SVDPlusPlus, HybridNN])
def test_a_recommender_predicts_alike(arch):
    "The same numbers, warnings and errors for unknown ids as the learner"
    learn = collab_learner(load(genre_name='genres'), arch=arch, y_range=(0,5.5), n_factors=4)
    rec,pairs = learn.recommender(),([9001,9002,1,1], [8001,2,2,8001])
    (got,said),(want,said_too) = (caught(o.predict, *pairs) for o in (rec,learn))
    assert np.allclose(got, want, atol=1e-4) and said==said_too and len(said)==1
    assert np.isnan(rec.predict(*pairs, unknown='nan')).tolist()==[True,True,False,True]
    texts = []
    for o in (rec,learn):
        with pytest.raises(KeyError) as e: o.predict(*pairs, unknown='raise')
        texts.append(str(e.value))
    assert texts[0]==texts[1]
    table = pd.DataFrame(dict(userId=[1,2], movieId=[2,3]), index=[3,3])
    assert np.allclose(rec.predict(table), learn.predict(table), atol=1e-4)
    assert np.allclose(rec.predict(pa.Table.from_pandas(table)), rec.predict(table))
    assert np.allclose(rec.predict(pd.Series([1,2], index=[1,0]), pd.Series([2,3])), rec.predict(table))

@pytest.mark.parametrize('missing', [None, np.nan, pd.NA, pd.NaT], ids=str)
def test_missing_ids_are_unknown(learn, missing):
    "None, nan and NA, alone and beside others, in lists and columns"
    (res,said),want = caught(learn.predict, [1,missing], 2),caught(learn.predict, [1,9001], 2)[0]
    assert np.allclose(res, want) and len(said)==1 and '50.0%' in said[0]
    assert np.isclose(caught(learn.predict, missing, 2)[0], want[1])

# Types

@pytest.mark.parametrize('ids', ['1', ['1'], ['1','2'], [1,'2'], b'1', date(2020, 1, 1), UUID(int=1), True, (1,'1'),
    pd.Categorical(['1']), pa.array(['1']), pd.Series(['1'], dtype='string'), np.array(['1'])], ids=str)
def test_another_type_is_an_error(learn, ids):
    "Whatever the container, and in a single row; the same words everywhere"
    texts = []
    for f in (lambda: learn.predict(ids, 2), lambda: learn.recommend(ids), lambda: learn.model.bias(ids, is_item=False),
        lambda: learn.model.weight(ids, is_item=False)):
        with pytest.raises(TypeError, match='numbers in training, e.g. 1; convert them with astype') as e: f()
        texts.append(str(e.value).replace("ids in 'userId'", 'users'))
    assert len(set(texts))==1

@pytest.mark.parametrize('two', [np.int64(2), np.int8(2), np.uint64(2), np.float32(2), 2., np.array(2), torch.tensor(2),
    pa.scalar(2), np.array([2])[0]], ids=repr)
def test_one_id_in_any_type(learn, two):
    "Numbers of numpy, of 0 dimensions, of PyArrow and torch are one id: `predict` returns a number"
    want = learn.predict(2, 3)
    for res in (learn.predict(two, 3), learn.predict({'userId':two, 'movieId':3})):
        assert isinstance(res, float) and res==want
    assert learn.predict(2, two)==learn.predict(2, 2)
    assert learn.recommend(two, 3).equals(learn.recommend(2, 3))
    assert learn.similar_items(two, 3).equals(learn.similar_items(2, 3))
    assert learn.explain(2, two).equals(learn.explain(2, 2))
    assert torch.equal(learn.model.bias(two), learn.model.bias([2])) and learn.model.bias(two).shape==(1,)

SEVERAL = dict(list=[3,1], tuple=(3,1), array=np.array([3,1]), small=np.array([3,1], np.int8), index=pd.Index([3,1]),
    series=pd.Series([3,1], index=[1,0]), labels=pd.Series([3,1], index=['a','a']), na=pd.array([3,1], dtype='Int64'),
    categories=pd.Categorical([3,1]), tensor=torch.tensor([3,1]), arrow=pa.array([3,1]),
    chunks=pa.chunked_array([[3],[1]]), arrow_type=pd.Series([3,1], dtype=pd.ArrowDtype(pa.int64())),
    objects=np.array([3,1], object), range=range(3, 0, -2), generator=None, scalars=[np.int64(3),torch.tensor(1)])

@pytest.mark.parametrize('name', SEVERAL)
def test_several_ids_in_any_container(learn, name):
    "Each by its position, whatever the labels"
    def ids(): return (o for o in (3,1)) if name=='generator' else SEVERAL[name]
    want = learn.predict([3,1], [2,4])
    other = pd.Series([2,4], index=[1,0])                                  # labels in another order
    for res in (learn.predict(ids(), [2,4]), learn.predict(ids(), other)): assert np.array_equal(res, want)
    assert np.array_equal(learn.predict(ids(), 2), learn.predict([3,1], [2,2]))
    assert np.array_equal(learn.predict(2, ids()), learn.predict([2,2], [3,1]))
    assert learn.recommend(ids(), 3, as_='pandas').user.unique().tolist()==[3,1]
    assert torch.equal(learn.model.weight(ids()), learn.model.weight([3,1]))
    assert torch.equal(learn.model.bias(ids(), is_item=False), learn.model.bias([3,1], is_item=False))

@pytest.mark.parametrize('users,items,error,words', [
    ([1,2,3], [1,2], ValueError, '3 users and 2 items differ in length'),
    ([1,2], [1], ValueError, '2 users and 1 items differ in length'),
    (pd.Series([1,2]), pd.Series([1,2,3]), ValueError, '2 users and 3 items'),
    (np.ones((2,2)), [1,2], ValueError, r'users have the shape \(2, 2\)'),
    ([1,2], torch.ones(2, 1), ValueError, r'items have the shape \(2, 1\)'),
    ([[1,2],[3,4]], [1,2], TypeError, r'users hold several values, e.g. \[1, 2\]'),
    ({1,2}, [1,2], TypeError, 'users are a set'),
    (SMALL[['userId','title']], 1, TypeError, r"users are a DataFrame with the columns \['userId', 'title'\]"),
    (pa.table(dict(userId=[1])), 1, TypeError, r"users are a Table with the columns \['userId'\]"),
    ({'userId':[1,2], 'movieId':[1,2]}, None, TypeError, r"several values, e.g. \[1, 2\]")], ids=range(10))
def test_what_has_no_single_answer(learn, users, items, error, words):
    "Different lengths, two dimensions and tables are one clear error"
    with pytest.raises(error, match=words): learn.predict(users, items)

def test_no_ids_are_no_rows(learn):
    "Empty lists and tables give empty arrays, without a warning"
    for args in (([], []), ([], 2), (2, np.array([])), (SMALL[:0],)):
        res,said = caught(learn.predict, *args)
        assert res.shape==(0,) and not said

@pytest.mark.parametrize('kind', [str, np.str_, lambda o: str(o).encode(), lambda o: UUID(int=o), pd.Timestamp,
    lambda o: date(2020+o, 1, 1)], ids=['str','np.str_','bytes','UUID','Timestamp','date'])
def test_other_ids_than_numbers(kind):
    "Known ones are found, unknown ones are unknown, and numbers are of another type"
    df = SMALL.assign(userId=[kind(o) for o in SMALL.userId])
    learn = collab_learner(load(df), y_range=(0,5.5))
    id_ = df.userId[0]
    (res,said) = caught(learn.predict, [id_,kind(40)], 2)
    assert res[0]==learn.predict(id_, 2) and len(said)==1 and '50.0%' in said[0]
    assert torch.equal(learn.model.bias(id_, is_item=False), learn.model.bias([id_], is_item=False))
    with pytest.raises(TypeError, match='numbers here, e.g. 5'): learn.predict(5, 2)

class Foreign:
    "A table of a library that isn't here, which can make one of pandas"
    def __init__(self, df): self.df,self.columns = df,list(df.columns)
    def to_pandas(self): return self.df

@pytest.mark.parametrize('foreign', [Foreign, pa.Table.from_pandas], ids=['with to_pandas','PyArrow'])
def test_tables_of_other_libraries(learn, foreign):
    "In loaders, predictions, fold-in and tables of items"
    table = foreign(SMALL)
    dls = load(table, genre_name='genres')
    assert dls.valid.dataset.items.equals(learn.dls.valid.dataset.items)
    assert np.array_equal(learn.predict(table), learn.predict(SMALL))
    assert len(learn.dls.test_dl(table).dataset)==300
    new = pd.DataFrame(dict(userId=[901,901], movieId=[1,2], rating=[5.,1.]))
    assert learn.fold_in(foreign(new)).predict(901, 3)==learn.fold_in(new).predict(901, 3)
    items = pd.DataFrame(dict(movieId=[1,2], title=['a','b']))
    assert learn.recommender(foreign(items)).items.equals(learn.recommender(items).items)
    with pytest.raises(TypeError, match='name one of its columns'): learn.predict(table, 1)
    with pytest.raises(TypeError, match='name one of its columns'): learn.recommend(table)

NEW_IDS = dict(objects=pd.Series([901,901], dtype=object), missing_type=pd.array([901,901], dtype='Int64'),
    arrow=pd.Series([901,901], dtype=pd.ArrowDtype(pa.int64())), floats=[901.,901.], small=np.array([90,90], np.int8),
    categories=pd.Categorical([901,901]))

@pytest.mark.parametrize('name', NEW_IDS)
def test_new_users_of_any_type(learn, name):
    "Numbers are numbers, and the recommender's ids stay of one type"
    new = pd.DataFrame(dict(userId=NEW_IDS[name], movieId=pd.Series([1,2], dtype=object), rating=[5.,1.]))
    id_ = int(new.userId[0])
    rec = learn.fold_in(new)
    assert rec.ids[0].dtype==np.int64 and rec.recommend(id_, 3).user.tolist()==[id_]*3
    want = learn.fold_in(pd.DataFrame(dict(userId=[id_,id_], movieId=[1,2], rating=[5.,1.])))
    assert rec.predict(id_, 3)==want.predict(id_, 3)

@pytest.mark.parametrize('ids,words', [(['a','b'], "text, e.g. 'a'"), ([1.5,2.5], 'fractions, e.g. 1.5'),
    ([True,False], 'Booleans, e.g. True')], ids=['text','fractions','Booleans'])
def test_new_users_of_another_type(learn, ids, words):
    with pytest.raises(TypeError, match=f'new users are {words}, and those of the model .*numbers, e.g. 1; convert'):
        learn.fold_in(pd.DataFrame(dict(userId=ids, movieId=[1,2], rating=[5.,1.])))
