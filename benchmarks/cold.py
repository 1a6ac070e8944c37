"""Errors for users and items without a single rating, beside cmfrec

    FASTCOLLAB_DATA=DIR python benchmarks/cold.py [PART...]   # about 8 minutes on one core

DIR holds ml-100k.zip. PEERS_PYTHON names a Python that has cmfrec, if this one doesn't. A seed decides on a random
fifth of the users and a random fifth of the items, all of whose ratings are held out, and on a random tenth of the
others. So there are four kinds of pairs to predict: both known, a new item, a new user, and both new. It is the seed of
training, too. Features are genres and year of items, and age, gender, occupation and the first character of the zip
code of users.

* biases: `BiasBaseline`, which knows no features; the mean stands for what is new
* cmfrec CMF: as it comes, with features of both sides if they are asked for
* Adam: `collab_learner(dls, arch='auto')`, trained with the settings of `learn.auto_config`
* auto: `learn.fit_auto()` of the same learner
* Gibbs: `collab_learner(dls, arch=SVDPlusPlus)` and `learn.fit_gibbs()`

Models see the training part only. `learn.predict` gets a table of the pairs to predict, with the columns of features.
`fold_in` prints the errors of new users after 0, 1, 3 and 10 ratings; the same other ratings are predicted each time.
There all items are known, and no model is trained again."""
import contextlib, io

from accuracy import ITEMS, USERS, quietly, with_year
from any_data import Part, arrays, ask
from common import *

KINDS = 'known','new items','new users','both new'

def cold_split(df, seed):
    "Training and test rows, and of each test row which of `KINDS` it is"
    rng = np.random.default_rng(seed)
    def held(ids): return ids.isin(rng.permutation(ids.unique())[:ids.nunique()//5]).to_numpy()
    kind = 2*held(df.userId)+held(df.movieId)
    test = (kind>0)|(rng.random(len(df))<.1)
    return np.flatnonzero(~test),np.flatnonzero(test),kind[test]

def errors(pred, y, kind, bounds):
    "RMSE of each kind of pairs and of all"
    squares = (np.clip(pred, *bounds)-y)**2
    return [*(np.sqrt(squares[kind==k].mean()) for k in range(4)),np.sqrt(squares.mean())]

def adam(learn):
    s = learn.auto_config
    return quietly(learn, lambda: learn.fit_one_cycle(s.epochs, s.lr, wd=list(s.wd)))
def fit_adam(dls): return adam(collab_learner(dls, arch='auto'))
def fit_auto(dls):
    learn = collab_learner(dls, arch='auto')
    with contextlib.redirect_stdout(io.StringIO()): return quietly(learn, learn.fit_auto)
def fit_gibbs(dls, **kwargs):
    learn = collab_learner(dls, arch=SVDPlusPlus)
    return quietly(learn, lambda: learn.fit_gibbs(**kwargs))
def fit_biases(dls): return collab_learner(dls, arch=BiasBaseline.from_dls(dls))

COLS = {'':{}, ', features':dict(user_cols=USERS, item_cols=ITEMS)}
OURS = {'Adam':fit_adam, 'Gibbs':fit_gibbs}

def rows_of(df, split, seed, fits, peers=True):
    "RMSE of each kind by row of the table"
    train,test,kind = split
    y,bounds,res = df.rating.to_numpy(),(df.rating[train].min(),df.rating[train].max()),{}
    def ours(fit, cols):
        dls = CollabDataLoaders.from_df(df.iloc[train], valid_pct=0, seed=42, **cols)
        set_seed(seed)
        with (learn := fit(dls)).no_bar(): return errors(learn.predict(df.iloc[test]), y[test], kind, bounds)
    for name,fit in fits.items():
        for what,cols in COLS.items(): res[name+what] = ours(fit, cols)
    if not peers: return res
    res = {'biases':ours(fit_biases, {}), **res}
    d = arrays(Part('ml-100k', 'cold', df, [(train,test)], COLS[', features']), (train,test))
    for what,o in zip(COLS, ask(d, [('cmfrec',seed,dict(side_info=bool(cols))) for cols in COLS.values()])):
        res[f'cmfrec CMF{what}'] = o if isinstance(o, str) else errors(o[0], y[test], kind, bounds)
    return res

def cold(fits=OURS, peers=True):
    "The four kinds of pairs"
    df = with_year(movielens('ml-100k'))
    splits = [cold_split(df, seed) for seed in SEEDS]
    res = [rows_of(df, o, seed, fits, peers) for o,seed in zip(splits, SEEDS)]
    n = np.mean([np.bincount(o[2], minlength=4) for o in splits], 0)
    say(f'\nml-100k without a fifth of the users and of the items: RMSE\n{"":<24} '
        +' '.join(f'{o:>10}' for o in (*KINDS,'all')))
    say(f'{"ratings to predict":<24} '+' '.join(f'{o:>10,.0f}' for o in (*n,n.sum())))
    for name in res[0]:
        if isinstance(res[0][name], str): say(f'{name:<24} {res[0][name]}')
        else: say(f'{name:<24} '+' '.join(f'{o:>10.4f}' for o in np.mean([o[name] for o in res], 0)))

def auto():
    "The same for `fit_auto`, which takes longer"
    cold(dict(auto=fit_auto), False)

SHOWN,LEAST = (0,1,3,10),20

def new_users(df, seed):
    "Rows of a random fifth of the users, other rows, and the place of each rating in a random order of its user's"
    rng = np.random.default_rng(seed)
    new = df.userId.isin(rng.permutation(df.userId.unique())[:df.userId.nunique()//5])
    df = df.assign(order=rng.random(len(df)))
    place = df.groupby('userId').order.rank(method='first').astype(int)-1
    known = df.movieId.isin(df.movieId[~new])
    enough = df.groupby('userId').userId.transform('size')>=LEAST
    return df[~new],df[new&known&enough],place

def folded(fit, train, test, place, seed):
    "RMSE of the ratings from the eleventh on, after some ratings"
    dls = CollabDataLoaders.from_df(train[['userId','movieId','rating']], valid_pct=0, seed=42)
    set_seed(seed)
    rec,at,res = fit(dls).recommender(),place[test.index],[]
    rest = test[at>=max(SHOWN)]
    for n in SHOWN:
        shown = test[['userId','movieId','rating']][at<n]
        new = rec.fold_in(shown, pd.DataFrame(dict(userId=rest.userId.unique())))
        res.append(np.sqrt(np.mean((new.predict(rest).clip(1, 5)-rest.rating)**2)))
    return res

def fold_in():
    "New users with few ratings"
    df = with_year(movielens('ml-100k'))
    say(f'\nml-100k, new users by the number of their ratings that fold-in gets: RMSE\n{"":<24} '
        +' '.join(f'{o:>10}' for o in SHOWN))
    for name,fit in {'biases':fit_biases, **OURS}.items():
        res = np.mean([folded(fit, *new_users(df, seed), seed) for seed in SEEDS], 0)
        say(f'{name:<24} '+' '.join(f'{o:>10.4f}' for o in res))

if __name__=='__main__':
    report(__file__, [cold, fold_in, auto], 'one thread; means over three splits and seeds 0, 1, 2')
