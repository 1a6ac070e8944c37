"What a wrong call answers: which error, with which words, and nothing written"
import gzip, io, sys, uuid, warnings, zipfile
from datetime import date
from pathlib import Path

import fastai.collab, numpy as np, pandas as pd, pyarrow as pa, pytest, torch
from fastai.learner import Learner
from fastai.torch_core import Module
from torch import nn
from fastcollab.all import (BiasBaseline, BiasInterpretation, CollabDataLoaders, CollabNN, ColdItemSplitter, DotProduct,
    DotProductBias, FoldSplitter, GenreEmbedding, IdDropout, LeaveLastSplitter, RandomSplitter, RatingMSE,
    TemporalSplitter, UserStratifiedSplitter, baseline_rmse, collab_learner, describe_ratings, movielens,
    movielens_fold, rmse, synthetic_ratings)
from fastcollab.cli.main import main

BASE = synthetic_ratings(30, 20, 300)
TEXT = dict(userId=BASE.userId.map('u{}'.format), movieId=BASE.movieId.map('m{}'.format))
ROWS = np.arange(300)
GIVEN = {}   # the files that a case made, by name

def table(**cols): return BASE.copy().assign(**cols)
def first(col, value, n=3): return BASE[col].astype(object).where(ROWS>=n, value)   # `value` in the first `n` rows
def load(df=None, **kwargs): return CollabDataLoaders.from_df(table() if df is None else df, **{'seed':1, **kwargs})
def learner(**kwargs): return collab_learner(load(), **{'y_range':(0,5.5), **kwargs})

def put(name, data):
    "Make an input file; its name"
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    GIVEN[name] = Path(name).read_bytes()
    return name

def csv(df=None, **kwargs): return (BASE if df is None else df).to_csv(index=False, **kwargs)
def zipped(data):
    with zipfile.ZipFile(res := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('ratings.csv', data)
    return res.getvalue()
def parquet():
    BASE.drop(columns='title').to_parquet(res := io.BytesIO())
    return res.getvalue()
def half(data): return data[:len(data)//2]
def flip(data, at, n=1): return data[:at] + bytes(o^255 for o in data[at:at+n]) + data[at+n:]
def from_csv(name, data, **kwargs): return CollabDataLoaders.from_csv(put(name, data), **kwargs)
def from_parquet(name, data): return CollabDataLoaders.from_parquet(put(name, data))

def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

class Plain(Module):
    "A user's own model with `n_out` numbers per row"
    def __init__(self, n_out=1): self.a = nn.Embedding(50, n_out)
    def forward(self, x): return self.a(x[:,0])

class Whole(Plain):
    def forward(self, x): return super().forward(x).long()

CASES = [ # What is done, how, the error or warning, and words of its message
    # columns
    ('user column missing', lambda: load(user_name='usr'), KeyError, ["'usr'", "'userId'", 'columns']),
    ('item column missing', lambda: load(item_name='itm'), KeyError, ["'itm'", "'movieId'", 'columns']),
    ('rating column missing', lambda: load(rating_name='stars'), KeyError, ["'stars'", "'rating'", 'columns']),
    ('genre column missing', lambda: load(genre_name='genre'), KeyError, ["'genre'", "'genres'", 'columns']),
    ('wrong case', lambda: load(user_name='UserId'), KeyError, ["'UserId'", "'userId'"]),
    ('two columns', lambda: load(table()[['userId','movieId']]), KeyError, ['three columns', "['userId', 'movieId']"]),
    ('no columns', lambda: load(pd.DataFrame()), KeyError, ['three columns', '[]']),
    ('one column for two roles', lambda: load(user_name='userId', item_name='userId'), ValueError,
        ['three columns', 'userId']),
    ('column twice', lambda: load(pd.concat([table(), table()[['userId']]], axis=1)), ValueError,
        ['2 columns', "'userId'", 'rename']),
    # ratings
    ('rating is text', lambda: load(table(rating='4.5')), TypeError, ["'rating'", "'4.5'", '300 rows',
        'astype(float)']),
    ('rating is an object', lambda: load(table(rating=[[4.]]*300)), TypeError,
        ["'rating'", 'object', '[4.0]', 'astype']),
    ('rating is a time', lambda: load(table(rating=pd.Timestamp('2020-02-03'))), TypeError,
        ["'rating'", 'datetime', '2020-02-03']),
    ('rating is complex', lambda: load(table(rating=1+2j)), TypeError, ["'rating'", 'complex', '(1+2j)']),
    ('rating NaN', lambda: load(table(rating=BASE.rating.mask((ROWS==7)|(ROWS>297)))),
        ValueError, ["'rating'", '3 of 300', 'nan', 'row 7', 'drop']),
    ('rating NA', lambda: load(table(rating=BASE.rating.astype('Float64').mask(ROWS==7))),
        ValueError, ["'rating'", '1 of 300', 'NA', 'row 7']),
    ('rating inf', lambda: load(table(rating=BASE.rating.mask(ROWS==9, np.inf))), ValueError,
        ["'rating'", '1 of 300', 'inf', 'row 9']),
    ('rating -inf', lambda: load(table(rating=BASE.rating.mask(ROWS>297, -np.inf))),
        ValueError, ["'rating'", '2 of 300', '-inf', 'row 298']),
    # ids
    ('user NaN', lambda: load(table(userId=BASE.userId.mask(ROWS<3))),
        ValueError, ['user', "'userId'", '3 of 300', 'nan', 'row 0', 'drop']),
    ('item None', lambda: load(table(title=first('title', None)), item_name='title'),
        ValueError, ['item', "'title'", '3 of 300', 'row 0', 'drop']),
    ('category NaN', lambda: load(table(title=BASE.title.mask(ROWS==5)), item_name='title'), ValueError,
        ["'title'", '1 of 300', 'row 5']),
    ('users mix types', lambda: load(table(userId=first('userId', 'x'))),
        TypeError, ["'userId'", 'int', 'str', '3 of 300', "'x'", 'astype']),
    ('items mix types', lambda: load(table(movieId=first('movieId', 'x', 1))),
        TypeError, ["'movieId'", 'int', 'str', '1 of 300', "'x'", 'astype']),
    ('categories mix types', lambda: load(table(userId=first('userId', 'x').astype('category'))),
        TypeError, ["'userId'", 'int', 'str', "'x'"]),
    ('users are lists', lambda: load(table(userId=[[o] for o in BASE.userId])), TypeError, ["'userId'", 'list', '[1]']),
    ('users have no order', lambda: load(table(userId=pd.Series([complex(o, 1) for o in BASE.userId], dtype=object))),
        TypeError, ["'userId'", 'complex', 'sorted', 'astype']),
    ('users are dates and times', lambda: load(table(userId=pd.Series([date(2020, 1, 1) if o%2 else
        pd.Timestamp(2020, 1, o) for o in BASE.userId], dtype=object))), TypeError, ["'userId'", 'date', 'Timestamp']),
    ('times with and without a zone', lambda: load(table(userId=pd.Series([pd.Timestamp(2020, 1, o,
        tz='UTC' if o%2 else None) for o in BASE.userId], dtype=object))), TypeError, ["'userId'", 'sorted', 'tz']),
    ('users are structs', lambda: load(table(userId=pd.array([{'a':o} for o in BASE.userId.tolist()],
        dtype=pd.ArrowDtype(pa.struct([('a', pa.int64())]))))), TypeError, ["'userId'", 'dict', 'one value']),
    ('users with surrogates', lambda: load(table(userId=pd.Series([f'\ud800{o}' for o in BASE.userId], dtype=object))),
        ValueError, ["'userId'", 'surrogates', '300 of 300', 'replace']),
    ('a title with surrogates', lambda: load(table(title=first('title', '\ud800', 1))), ValueError,
        ["'title'", 'surrogates', '1 of 300', 'replace']),
    ('an id with surrogates', lambda: learner().predict('\ud800', 1), ValueError, ['users', 'surrogates']),
    ('a long id', lambda: learner().model.bias(['x'*9999]), TypeError, ["'xxx", '...']),
    ('one user', lambda: load(table(userId=7)), ValueError, ["'userId'", 'single user', '7', '300', 'right column']),
    ('one item', lambda: load(table(movieId='a')), ValueError, ["'movieId'", 'single item', "'a'", '300',
        'right column']),
    # tables
    ('no rows', lambda: load(table()[:0]), ValueError, ['0 ratings', 'at least two']),
    ('one row', lambda: load(table()[:1]), ValueError, ['1 rating', 'at least two']),
    ('list instead of a table', lambda: load([(1,2,3.)]), TypeError, ['DataFrame', 'list']),
    ('file name instead of a table', lambda: load('ratings.csv'), TypeError, ['DataFrame', 'str']),
    ('repeated pairs', lambda: load(pd.concat([table(), table()[5:9]])), UserWarning,
        ['4 of 304', "'userId'", "'movieId'",
            f'e.g. {BASE.userId[5]} and {BASE.movieId[5]}', 'kept']),
    ('NA for a name', lambda: load(rating_name=pd.NA), KeyError, ['no column <NA>', "'rating'"]),
    ('an array for a model', lambda: collab_learner(load(), arch=np.ones((2,2))), TypeError, ['arch is array',
        "'auto'"]),
    ('two learning rates', lambda: collab_learner(load(), lr=torch.tensor([.1,.2])).fit(1), ValueError,
        ['lr has 2 numbers', 'groups of parameters']),
    ('describe text', lambda: describe_ratings(table(rating='x')), TypeError, ["'rating'", "'x'", 'astype(float)']),
    ('describe lists', lambda: describe_ratings(table(userId=[[o] for o in BASE.userId])), TypeError, ["'userId'",
        'list']),
    # splits
    ('valid_pct 1', lambda: load(valid_pct=1.), ValueError, ['valid_pct is 1.0', 'less than 1']),
    ('valid_pct negative', lambda: load(valid_pct=-.1), ValueError, ['valid_pct is -0.1', 'at least 0']),
    ('valid_pct of a splitter', lambda: ColdItemSplitter(20), ValueError, ['valid_pct is 20', 'less than 1']),
    ('splits overlap', lambda: load(splits=(ROWS[:200], ROWS[198:])), ValueError, ['2 rows', 'both parts', 'row 198']),
    ('splits beyond the end', lambda: load(splits=(ROWS[:200], [300])), ValueError, ['row 300', '300 rows']),
    ('splits below 0', lambda: load(splits=(ROWS[:200], [-1])), ValueError, ['row -1', '300 rows']),
    ('training part empty', lambda: load(splits=([], ROWS)), ValueError, ['training part', 'empty']),
    ('three parts', lambda: load(splits=(ROWS[:9], ROWS[9:12], ROWS[12:])), ValueError, ['(train, valid)', '3 parts']),
    ('splits are floats', lambda: load(splits=(ROWS[:9]+.5, ROWS[12:])), TypeError, ['row numbers', 'float64']),
    ('splits are masks of another table', lambda: load(splits=(ROWS[:9]<5, ROWS[:9]>=5)), ValueError,
        ['splits', '9', '300']),
    ('splitter and splits', lambda: load(splits=(ROWS[:9], ROWS[9:]), splitter=RandomSplitter()),
        ValueError, ['splitter', 'splits', 'one of them']),
    ('no time column', lambda: load(table().drop(columns='timestamp'), splitter=TemporalSplitter()),
        KeyError, ["'timestamp'", "'genres'"]),
    ('no time to leave last', lambda: load(splitter=LeaveLastSplitter(time_name='day')), KeyError,
        ["'day'", "'timestamp'"]),
    ('no user column to split by', lambda: load(splitter=UserStratifiedSplitter(user_name='usr')), KeyError,
        ["'usr'", "'userId'"]),
    ('leave last 0', lambda: LeaveLastSplitter(0), ValueError, ['k is 0', 'at least 1']),
    ('no fold column', lambda: load(splitter=FoldSplitter()), KeyError, ["'fold'", "'genres'"]),
    ('no such fold', lambda: load(table(fold=ROWS%5), splitter=FoldSplitter(7)), ValueError, ["'fold'", '7', '4']),
    ('all in the fold', lambda: load(table(fold=1), splitter=FoldSplitter(1)), ValueError, ['training part', 'empty']),
    # loaders
    ('bs 0', lambda: load(bs=0), ValueError, ['bs is 0', 'at least 1']),
    ('bs no whole number', lambda: load(bs=2.5), (TypeError,ValueError), ['bs is 2.5']),
    ('val_bs negative', lambda: load(val_bs=-8), ValueError, ['bs is -8', 'at least 1']),
    ('weights in order', lambda: load(user_weight='sqrt', shuffle=False), ValueError, ['user_weight', 'shuffle=False']),
    ('unknown argument of test_dl', lambda: load().test_dl(table(), nonsense=3), TypeError, ['nonsense']),
    ('no ratings to test on', lambda: load().test_dl(table()[['userId','movieId']], with_labels=True), KeyError,
        ["'rating'"]),
    ('unknown argument', lambda: load(nonsense=3), TypeError, ['nonsense']),
    ('sep empty', lambda: load(genre_name='genres', sep=''), ValueError, ['sep is empty', 'between two categories']),
    ('batch of nothing', lambda: load(valid_pct=0.).valid.show_batch(), ValueError, ['no ratings', 'no batch']),
    # files
    ('CSV in latin-1', lambda: from_csv('r.csv', 'user,item,rating\n1,Amélie,4\n2,B,3\n'.encode('latin-1')),
        UserWarning, ['r.csv', 'UTF-8', 'cp1252', 'Amélie', 'encoding=']),
    ('CSV empty', lambda: from_csv('r.csv', ''), ValueError, ['r.csv', 'empty']),
    ('CSV of a header', lambda: from_csv('r.csv', 'user,item,rating\n'), ValueError, ['0 ratings', 'at least two']),
    ('CSV with tildes', lambda: from_csv('r.csv', csv(sep='~')), KeyError, ['three columns', 'userId~movieId~rating',
        'delimiter=']),
    ('CSV with ragged rows', lambda: from_csv('r.csv', 'u,i\n1,A\n2,B, C, D\n'),
        ValueError, ['r.csv', 'not a table', 'line 3', 'delimiter']),
    ('CSV missing', lambda: CollabDataLoaders.from_csv('r.csv'), FileNotFoundError, ['r.csv']),
    ('CSV, unknown argument', lambda: from_csv('r.csv', csv(), nonsense=3), TypeError, ['nonsense']),
    ('zip cut short', lambda: from_csv('r.csv.zip', half(zipped(csv()))), ValueError,
        ['r.csv.zip', 'complete zip', 'again']),
    ('zip damaged', lambda: from_csv('r.csv.zip', flip(zipped(csv()), 60)), ValueError, ['r.csv.zip', 'again']),
    ('gz cut short', lambda: from_csv('r.csv.gz', half(gzip.compress(csv().encode()))), ValueError,
        ['r.csv.gz', 'again']),
    ('gz damaged', lambda: from_csv('r.csv.gz', flip(gzip.compress(csv().encode()), 30)), ValueError,
        ['r.csv.gz', 'again']),
    ('gz only by name', lambda: from_csv('r.csv.gz', csv()), ValueError, ['r.csv.gz']),
    ('Parquet cut short', lambda: from_parquet('r.parquet', half(parquet())), ValueError, ['r.parquet', 'corrupted']),
    ('Parquet damaged', lambda: from_parquet('r.parquet', flip(parquet(), 4, 200)), ValueError, ['r.parquet']),
    ('Parquet empty', lambda: from_parquet('r.parquet', b''), ValueError, ['r.parquet', '0 bytes']),
    ('Parquet missing', lambda: CollabDataLoaders.from_parquet('r.parquet'), FileNotFoundError, ['r.parquet']),
    # new rows
    ('new rows without items', lambda: load().test_dl(table().drop(columns='movieId')), KeyError,
        ["'movieId'", "'rating'"]),
    ('row without an item', lambda: learner().predict({'userId':1}), KeyError, ["'movieId'", "'userId'"]),
    ('all ids unknown', lambda: load().test_dl(table(userId=9999, movieId=8888)), UserWarning,
        ['100.0%', 'user', '9999', 'item', '8888', 'check the columns']),
    ('ids of one row unknown', lambda: learner().predict(9999, 8888), UserWarning,
        ['9999', '8888', 'average', 'check the columns']),
    ('text for numbers', lambda: load().test_dl(table(**TEXT)), TypeError, ["'userId'", 'text', "'u1'", 'number',
        'astype']),
    ('text for a number', lambda: learner().predict(1, '3'), TypeError, ["'movieId'", 'text', "'3'", 'number',
        'astype']),
    ('numbers for text', lambda: load(table(**TEXT)).test_dl(table()), TypeError, ["'userId'", 'text', "'u1'", 'number',
        'astype']),
    ('some users unknown', lambda: load().test_dl(table(userId=first('userId', 9999, 75).astype(int))),
        UserWarning, ['25.0%', 'user', '9999', 'average new user']),
    ('some items unknown', lambda: learner().predict(table(movieId=first('movieId', 8888, 3).astype(int))),
        UserWarning, ['1.0%', 'item', '8888']),
    ('some of both unknown', lambda: learner().predict([1,9999,2,3], [2,3,8888,2]),
        UserWarning, ['25.0%', 'user', '9999', 'item', '8888']),
    ('predict a number', lambda: learner().predict(42), TypeError, ['(user, item)', 'DataFrame', 'int']),
    ('predict a list', lambda: learner().predict([1,2]), TypeError, ['(user, item)', 'DataFrame', 'list']),
    ('predict unequal lists', lambda: learner().predict([1,2], [3]), ValueError, ['length']),
    ('new ratings NaN', lambda: learner().validate(dl=load().test_dl(table(rating=np.nan))),
        ValueError, ["'rating'", '300 of 300', 'nan']),
    # learners
    ("fastai's loaders", lambda: collab_learner(fastai.collab.CollabDataLoaders.from_df(table())), TypeError,
        ['fastai', 'fastcollab.data.loaders.CollabDataLoaders']),
    ('arch is a number', lambda: learner(arch=3), TypeError, ['arch is 3', 'from_dls', 'model']),
    ('arch is a name', lambda: learner(arch='DotProduct'), TypeError, ["arch is 'DotProduct'", 'from_dls', 'model']),
    ('arch is another class', lambda: learner(arch=nn.Linear), TypeError, ['arch is', 'Linear', 'from_dls']),
    ('arch and use_nn', lambda: learner(arch=DotProduct, use_nn=True), ValueError, ['use_nn', 'arch', 'one of them']),
    ('arch built, y_range given', lambda: learner(arch=CollabNN.from_dls(load())), ValueError,
        ['arch', 'y_range', 'no effect']),
    ('arch built, options given', lambda: learner(arch=Plain(), y_range=None, layers=[3], config={}),
        ValueError, ['layers', 'config', 'no effect']),
    ('arch built, n_factors given', lambda: learner(arch=Plain(), y_range=None, n_factors=7), ValueError,
        ['n_factors', 'no effect']),
    ('emb_szs of one', lambda: learner(use_nn=True, emb_szs=[3]), ValueError, ['emb_szs', '1 entries', 'users',
        'items']),
    ('emb_szs of none', lambda: learner(use_nn=True, emb_szs=[]), ValueError, ['emb_szs', '0 entries', 'users',
        'items']),
    ('emb_szs with wrong rows', lambda: learner(use_nn=True, emb_szs=[(31,4),(50,3)]),
        ValueError, ['emb_szs', '50 rows', '21 items', '#na#']),
    ('emb_szs of another column', lambda: learner(use_nn=True, emb_szs={'usr':3}),
        KeyError, ['emb_szs', "'usr'", "'userId'", "'movieId'"]),
    ('ps too short', lambda: learner(use_nn=True, layers=[8,4], config=dict(ps=[.1])), ValueError,
        ['1 dropout', 'ps', '2 layers']),
    ('unknown option of the model', lambda: learner(config=dict(depth=3)), TypeError, ['depth']),
    ('a class in closed form', lambda: learner(arch=BiasBaseline, y_range=None), TypeError,
        ['BiasBaseline', 'n_factors', 'BiasBaseline.from_dls(dls)']),
    ('layers without a net', lambda: learner(layers=[8]), TypeError, ['layers']),
    ('unknown option of the learner', lambda: learner(nonsense=3), TypeError, ['nonsense']),
    ('layers from a generator', lambda: learner(use_nn=True, layers=(o for o in [8])), TypeError, ['layers',
        'generator', 'list of widths']),
    ('emb_szs from a generator', lambda: learner(use_nn=True, emb_szs=(o for o in [3,4])), TypeError, ['emb_szs',
        'generator', 'list of lengths']),
    ('config is text', lambda: learner(config='x', y_range=None), TypeError, ["config is 'x'", 'dict']),
    ('a model of whole numbers', lambda: learner(arch=Whole(), y_range=None), TypeError, ['int64', 'float', 'per row']),
    ('a metric that gives text', lambda: fit(learner(metrics=lambda p, y: 'x')), TypeError, ["'x'", 'one number']),
    ('no part 5', lambda: learner().get_preds(ds_idx=5), ValueError, ['ds_idx is 5', 'to 1']),
    ('no part 5 to validate', lambda: learner().validate(5), ValueError, ['ds_idx is 5', 'to 1']),
    ('no part 5 to show', lambda: learner().show_results(5), ValueError, ['ds_idx is 5', 'to 1']),
    ('nothing that trains', lambda: fit(learner(default_cbs=False)), ValueError, ['default_cbs', 'TrainEvalCallback']),
    ('unk_p 1.5', lambda: learner(unk_p=1.5), ValueError, ['1.5', 'share', 'less than 1']),
    ('IdDropout of all', lambda: IdDropout(1.), ValueError, ['p is 1.0', 'less than 1']),
    ('y_range reversed', lambda: learner(y_range=(5,1)), ValueError, ['y_range is (5, 1)', 'lowest', 'highest']),
    ('y_range of three', lambda: learner(y_range=(0,3,5)), ValueError, ['y_range is (0, 3, 5)', 'lowest', 'highest']),
    ('y_range a number', lambda: learner(y_range=5.5), ValueError, ['y_range is 5.5', 'lowest', 'highest']),
    ('ratings outside y_range', lambda: learner(y_range=(0,4)),
        UserWarning, [f'{(load().train_ds.store.ratings()>4).sum()} of 240', 'y_range=(0, 4)', 'e.g.', 'widen']),
    ('two numbers per row', lambda: fit(learner(arch=Plain(2), y_range=None)), ValueError,
        ['(64, 2)', '(64, 1)', 'one number per row']),
    ('no bias to interpret', lambda: fit(learner(use_nn=True, cbs=BiasInterpretation())),
        ValueError, ['CollabNN', 'item biases', 'DotProductBias']),
    ('nothing interpreted yet', lambda: BiasInterpretation().table(), ValueError, ['fit', 'first']),
    ('baseline without validation', lambda: baseline_rmse(load(valid_pct=0.)), ValueError, ['no validation ratings']),
    # models, layers, losses, metrics
    ('bias of an unknown item', lambda: DotProductBias.from_dls(load()).bias([1,999,998]),
        KeyError, ['2 of 3 items', '[999, 998]', 'check']),
    ('vector of an unknown user', lambda: DotProductBias.from_dls(load()).weight([999], is_item=False),
        KeyError, ['1 of 1 users', '999', 'check']),
    ('vector of a user of another type', lambda: DotProductBias.from_dls(load()).weight(['x'], is_item=False),
        TypeError, ["'userId'", 'text', "'x'", 'numbers in training', 'astype']),
    ('model without ids', lambda: DotProductBias(5, 5).bias([1]), ValueError,
        ['knows no ids', 'DotProductBias.from_dls']),
    ('model without a bias', lambda: DotProduct.from_dls(load()).bias([1]), TypeError, ['DotProduct', 'has no biases']),
    ('CollabNN, ps too long', lambda: CollabNN(5, 5, layers=[3], ps=[.1,.2]), ValueError,
        ['2 dropout', 'ps', '1 layers']),
    ('agg misspelt', lambda: GenreEmbedding(5, 3, agg='avg'), ValueError, ["agg is 'avg'", "'sum'", "'mean'"]),
    ('RatingMSE of two shapes', lambda: RatingMSE()(torch.zeros(4,2), torch.zeros(4,1)), ValueError,
        ['(4, 2)', '(4, 1)', '(bs,1)']),
    ('rmse of two shapes', lambda: rmse(torch.zeros(3), torch.zeros(4,1)), ValueError,
        ['(3,)', '(4, 1)', 'one number per row']),
    # data sets
    ('more ratings than pairs', lambda: synthetic_ratings(3, 4, 13), ValueError, ['13', '3 users', '4 items']),
    ('no such set', lambda: movielens('ml-200k'), ValueError, ["'ml-200k'", 'ml-100k']),
    ('no such fold of a set', lambda: movielens_fold(fold=7), ValueError, ['fold is 7', '1 to 5']),
    ('set without folds', lambda: movielens_fold('ml-1m'), ValueError, ['ml-1m', 'ml-100k'])]

@pytest.fixture(autouse=True)
def nothing_written(monkeypatch, tmp_path):
    "In an empty folder, with no files afterwards but those of the case, unchanged"
    GIVEN.clear()
    monkeypatch.chdir(tmp_path)
    yield
    assert {str(p.relative_to(tmp_path)):p.read_bytes() if p.is_file() else None for p in tmp_path.rglob('*')}==GIVEN

def message(e): return str(e.args[0]) if isinstance(e, KeyError) else str(e)
def lacks(text, words): return [o for o in words if o not in text.replace('\t', '\\t')]

@pytest.mark.parametrize('call,error,words', [pytest.param(*o[1:], id=o[0]) for o in CASES])
def test_bad_input(call, error, words, capsys):
    "The error or the one warning that is due, with what a reader needs to know"
    warned = isinstance(error, type) and issubclass(error, Warning)
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        if warned: call()
        else:
            with pytest.raises(error) as e: call()
    due = [o for o in w if not issubclass(o.category, (DeprecationWarning,FutureWarning))
        and 'not writable' not in str(o.message)]
    assert len(due)==warned, [str(o.message) for o in due]
    if warned: assert issubclass(due[0].category, error)
    text = str(due[0].message) if warned else message(e.value)
    assert lacks(text, words)==[], text
    assert capsys.readouterr().out==''

def test_table_is_large_enough():
    "No name occurs twice"
    assert len({o[0] for o in CASES})==len(CASES)>=100

# What is unusual and right works

def test_minus_zero_is_zero():
    "numpy refuses -0.0 as a deviation"
    assert synthetic_ratings(5, 5, 9, noise=-0.).equals(synthetic_ratings(5, 5, 9, noise=0.))

def test_nobody_to_describe():
    "A column without ids has no share that is filled"
    assert describe_ratings(table(userId=None))['size','share filled']==0

# What is only warned of goes on

@pytest.mark.filterwarnings('ignore')
def test_repeated_pairs_are_kept():
    "Every row is loaded, the repeated ones too"
    df = pd.concat([table(), table()[5:9].assign(rating=1.)], ignore_index=True)
    items = load(df, valid_pct=0.).train_ds.items
    assert sorted(map(tuple, items.to_numpy()))==sorted(map(tuple, df[list(items)].to_numpy())) and len(items)==304

@pytest.mark.filterwarnings('ignore')
def test_newcomers_are_predicted():
    "Unknown ids get the prediction of row 0, known ids beside them their own"
    learn = learner()
    fit(learn)
    got = learn.predict([1,9999,2,1], [2,2,8888,2])
    row,col = (learn.dls.classes[o].o2i for o in ('userId','movieId'))
    with torch.no_grad():
        want = learn.model.eval()(torch.tensor([[row[1],col[2]], [0,col[2]], [row[2],0], [row[1],col[2]]]))
    assert np.allclose(got, want, atol=1e-6)

UNUSUAL = dict(UUID=lambda o: uuid.UUID(int=o), date=lambda o: date(2020, 1, o), time=lambda o: pd.Timestamp(2020, 1,
    o),
    text='{} ü|"#na'.format, negative=lambda o: -o, float=lambda o: o+.5, large=lambda o: o+10**15,
    bytes=lambda o: str(o).encode())

@pytest.mark.parametrize('new', UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_ids_are_fine(new):
    "Ids of one type that can be told apart and sorted work from the table to the prediction"
    ids = BASE.userId.map(new)
    learn = collab_learner(load(table(userId=ids)), y_range=(0,5.5))
    fit(learn)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert 0<learn.predict(ids[0], int(BASE.movieId[0]))<5.5
        assert learn.predict(table(userId=ids)).shape==(300,)
    assert learn.model.bias([ids[0]], is_item=False).shape==(1,)
    assert set(learn.dls.train_ds.items.userId)<=set(ids)

@pytest.mark.parametrize('emb_szs', [None, {}, {'movieId':4}], ids=str)
def test_emb_szs_may_name_no_column(emb_szs):
    "Sizes not given follow the rule, also where none is given"
    m = learner(use_nn=True, emb_szs=emb_szs).model
    sizes = CollabNN.default_emb_szs(31, 21)
    assert (m.u_weight.weight.shape[1], m.i_weight.weight.shape[1])==(sizes[0],
        (emb_szs or {}).get('movieId', sizes[1]))

def test_plain_learner_says_what_is_wrong():
    "Two numbers per row are an error under a plain `Learner` too"
    with pytest.raises(ValueError, match='one number per row'): fit(Learner(load(), Plain(2)))

# The command

COMMANDS = [ # What is wrong, the file, the arguments, and words of what is said
    ('no command', None, ['trian'], ["'trian'", 'train', 'demo']),
    ('no file named', None, ['train'], ['ratings', 'required']),
    ('file missing', None, ['train', 'r.csv'], ['r.csv', 'ml-latest-small']),
    ('file empty', ('r.csv', ''), ['train', 'r.csv'], ['r.csv', 'empty']),
    ('column missing', ('r.csv', csv()), ['train', 'r.csv', '--user', 'usr'], ["'usr'", "'userId'"]),
    ('rating column of text', ('r.csv', csv()), ['train', 'r.csv', '--rating', 'title'], ["'title'", '300 rows']),
    ('ratings NaN', ('r.csv', csv(table(rating=BASE.rating.mask(ROWS<3)))), ['train', 'r.csv'],
        ["'rating'", '3 of 300', 'row 0']),
    ('not UTF-8', ('r.csv', 'user,item,rating\n1,Amélie,4\n2,B,3\n'.encode('latin-1')),
        ['train', 'r.csv', '--encoding', 'utf-8'], ['r.csv', 'utf-8', '0xe9']),
    ('zip cut short', ('r.csv.zip', half(zipped(csv()))), ['train', 'r.csv.zip'], ['r.csv.zip', 'again']),
    ('zip damaged', ('r.csv.zip', flip(zipped(csv()), 60)), ['train', 'r.csv.zip'], ['r.csv.zip', 'again']),
    ('Parquet cut short', ('r.parquet', half(parquet())), ['train', 'r.parquet'], ['r.parquet', 'corrupted']),
    ('unknown option', ('r.csv', csv()), ['train', 'r.csv', '--nonsense', '3'], ['--nonsense']),
    ('unknown model', ('r.csv', csv()), ['train', 'r.csv', '--arch', 'SVD'], ["'SVD'", 'DotProductBias']),
    ('lr of text', ('r.csv', csv()), ['train', 'r.csv', '--lr', 'fast'], ["'fast'", '--lr']),
    ('no epochs', ('r.csv', csv()), ['train', 'r.csv', '--epochs', '0'], ['epochs', '0']),
    ('no factors', ('r.csv', csv()), ['train', 'r.csv', '--factors', '0', '--epochs', '1'], ['factors', '0']),
    ('factors negative', ('r.csv', csv()), ['train', 'r.csv', '--factors', '-3'], ['factors', '-3']),
    ('bs 0', ('r.csv', csv()), ['train', 'r.csv', '--bs', '0'], ['bs is 0']),
    ('range reversed', ('r.csv', csv()), ['train', 'r.csv', '--low', '5', '--high', '1'], ['(5.0, 1.0)', 'lowest']),
    ('unk_p 2', ('r.csv', csv()), ['train', 'r.csv', '--unk-p', '2'], ['2.0', 'share']),
    ('nothing to train on', ('r.csv', csv()), ['train', 'r.csv', '--valid-pct', '1'], ['valid_pct is 1.0']),
    ('nothing to validate on', ('r.csv', csv()), ['train', 'r.csv', '--valid-pct', '0', '--epochs', '1'],
        ['no validation ratings']),
    ('seed of text', None, ['demo', '--seed', 'x'], ["'x'", '--seed'])]

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('file,args,words', [pytest.param(*o[1:], id=o[0]) for o in COMMANDS])
def test_bad_command(file, args, words, monkeypatch, capsys):
    "The command ends with a message and an exit code, without a traceback and without its output folder"
    if file is not None: put(*file)
    monkeypatch.setattr(sys, 'argv', ['fastcollab', *args, '--out', 'out'])
    with pytest.raises(SystemExit) as e: main()
    assert e.value.code not in (None,0)
    said = capsys.readouterr().err+str(e.value.code)
    assert lacks(said, words)==[], said
    assert 'Traceback' not in said and 'Error:' not in said
    assert not Path('out').exists()

def test_out_is_a_file(monkeypatch, capsys):
    "A file in the place of the output folder is named, and kept"
    put('out', 'here'), put('r.csv', csv())
    monkeypatch.setattr(sys, 'argv', ['fastcollab', 'train', 'r.csv', '--epochs', '1', '--out', 'out'])
    with pytest.raises(SystemExit, match="'out'"): main()
