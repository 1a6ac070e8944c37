"""What each default of `collab_learner` is worth, on sparse and dense data

    FASTCOLLAB_DATA=DIR python benchmarks/defaults.py   # about 20 minutes on one core

DIR holds flixster_monti.npz, yahoo_music_monti.npz, filmtrust.txt, ml-100k.zip and ml-latest-small.zip. Only training
parts are used: those of Monti et al. (2017), 80 % of FilmTrust (`default_rng(0)`), of u1 and of ml-latest-small. Each
row is the RMSE on a tenth of them, the mean of three tenths and seeds (six for YahooMusic, whose tenth has 480
ratings). DotProductBias, k=50, bs=64, fit_one_cycle(5, 5e-3, wd=wd). Every row adds one default to those above it:
* before: no range, no mean, biases decayed like vectors, a tenth of the ids replaced by the unknown one
* mean: the mean of the training ratings, item biases that start at the mean of the items' means
* biases: a fiftieth of the decay for biases
* range: `rating_range`
* share: `new_id_share` of the ids replaced by the unknown one
"without mean" is the last row without the mean: what you get when you name a range and `is_dense` is true.
`decays` does the same for the decays of `auto_config`."""
from common import *
from fastcollab.all import *

DATA = Path(os.environ.get('FASTCOLLAB_DATA', '.'))

def monti(file):
    "The training part of a split of Monti et al."
    z = np.load(DATA/file)
    return pd.DataFrame(dict(user=z['train'][:,0], item=z['train'][:,1], rating=z['train_rating'].astype(float)))

def filmtrust():
    df = pd.read_csv(DATA/'filmtrust.txt', sep=' ', names=['user','item','rating']).drop_duplicates(['user','item'])
    return df.iloc[np.random.default_rng(0).permutation(len(df))[:int(.8*len(df))]].reset_index(drop=True)

def movies(name):
    "The training part of u1, or of ml-latest-small, without features and times"
    if name=='ml-100k': df,splits = movielens_fold(name, 1)
    else: splits = RandomSplitter(.2, seed=42)(df := movielens(name))
    return df.iloc[splits[0]][['userId','movieId','rating']].reset_index(drop=True)

SETS = {'YahooMusic':lambda: monti('yahoo_music_monti.npz'), 'Flixster':lambda: monti('flixster_monti.npz'),
    'FilmTrust':filmtrust, 'ml-100k u1':lambda: movies('ml-100k'), 'ml-latest-small':lambda: movies('ml-latest-small')}
BEFORE = dict(y_range=False, center=False, bias_wd=1., unk_p=.1)
STEPS = dict(before={}, mean=dict(center=True), biases=dict(bias_wd=.02), range=dict(y_range=None),
    share=dict(unk_p=None), **{'without mean':dict(center=False)})

def loaders(df, seed):
    rows,n = np.random.default_rng(seed).permutation(len(df)),len(df)//10
    return CollabDataLoaders.from_df(df, splits=(rows[n:],rows[:n]), seed=42+seed, bs=64, val_bs=2**15)

def error(dls, seed, wd, kwargs):
    set_seed(seed)
    return quiet_fit(collab_learner(dls, metrics=rmse, **kwargs), 5, 5e-3, wd)[2]

def defaults():
    "One more default per row"
    for wd in (.1,.3):
        say(f'\nwd={wd:<22}'+''.join(f'{o:>17}' for o in SETS))
        kwargs,table = dict(BEFORE),{}
        dls = {k:[loaders(f(), s) for s in range(6 if k=='YahooMusic' else 3)] for k,f in SETS.items()}
        for name,step in STEPS.items():
            kwargs.update(step)
            table[name] = [np.mean([error(d, s, wd, kwargs) for s,d in enumerate(o)]) for o in dls.values()]
            say(f'{name:<25}'+''.join(f'{o:17.4f}' for o in table[name]))

def decays():
    "SVD++ as `auto_config` suggests, with biases decayed like vectors and less, for multiples of the rule's decays"
    say(f'\nSVDPlusPlus, one tenth, multiples of the rule: '+', '.join(map(str, MULTIPLES)))
    for name,f in SETS.items():
        dls = loaders(f(), 0)
        auto = auto_config(dls)
        dls = type(dls)(dls.train.new(bs=auto.bs), dls.valid)
        for bias_wd in (1.,.02):
            res = []
            for o in MULTIPLES:
                set_seed(0)
                learn = collab_learner(dls, auto.n_factors, arch=SVDPlusPlus, bias_wd=bias_wd, metrics=rmse)
                res.append(quiet_fit(learn, auto.epochs, auto.lr, [o*wd for wd in auto.wd])[2])
            row(f'{name}, bias_wd={bias_wd}', ' '.join(f'{o:.4f}' for o in res))

MULTIPLES = .5,1,2

if __name__=='__main__': report(__file__, [defaults, decays], 'one thread; means over tenths and seeds')
