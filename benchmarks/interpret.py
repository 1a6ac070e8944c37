"""Time and memory of looking at a model

    FASTCOLLAB_DATA=DIR python benchmarks/interpret.py [PART...]   # about 10 minutes on 2 cores

DIR holds ml-latest-small.zip. Linux only. 6 to 15 minutes on 2 cores with other work beside it. Results go to
benchmarks/results/. A call starts from the learner and computes all it needs, predictions included; a figure is drawn
and written as PNG. UMAP compiles itself in each process, which counts, except in a second call.
* many: 100,000 synthetic items, 50 factors and genres, one epoch
* small: ml-latest-small with genres, five epochs"""
import ctypes, gc, io, multiprocessing
from pathlib import Path

from common import quiet_fit, report, row, say, timed
from fastcollab.all import *

ASKED = '< 10 s, < 2,000 MB'
TABLES = {'bias': lambda i: i.bias('items'), 'bias of users': lambda i: i.bias('users'),
    'bias of genres': lambda i: i.bias('genres', None), 'similar': lambda i: i.similar(_first(i)),
    'genre_similarity': lambda i: i.genre_similarity(), 'rows': lambda i: i.rows,
    'worst_users': lambda i: i.worst_users(), 'worst_items': lambda i: i.worst_items(),
    'top_losses': lambda i: i.top_losses(), 'cold_report': lambda i: i.cold_report(),
    'representation': lambda i: i.representation()}
PLOTS = {'plot_factors': lambda i: i.plot_factors(by='genre'), 'plot_factors, tsne': lambda i: i.plot_factors('tsne',
    by='genre'),
    'plot_factors, umap in 3 dimensions': lambda i: i.plot_factors('umap', dims=3, by='genre', top=50),
    'plot_factors, umap in 3 dimensions, second call': lambda i: i.plot_factors('umap', dims=3, by='genre', top=50),
    'plot_factors, all items': lambda i: i.plot_factors(n=None),
    'plot_genres': lambda i: i.plot_genres(), 'plot_bias': lambda i: i.plot_bias(),
    'plot_similarity': lambda i: i.plot_similarity(),
    'plot_similarity of genres': lambda i: i.plot_similarity(what='genres'),
    'plot_popularity': lambda i: i.plot_popularity(), 'plot_training': lambda i: i.plot_training(),
    'plot_error_by_popularity': lambda i: i.plot_error_by_popularity(),
    'plot_calibration': lambda i: i.plot_calibration(), 'plot_residuals': lambda i: i.plot_residuals(),
    'plot_star_confusion': lambda i: i.plot_star_confusion()}
PAGES = {'a page with the map of all items': lambda i: i.plot_factors(n=None, by='genre', interactive=True).save(_PAGE),
    'report': lambda i: i.report(_PAGE)}
CALLS = {**TABLES, **PLOTS, **PAGES}
_PAGE = Path(tempfile.gettempdir())/'interpret.html'

def _first(interp): return interp.bias('items', 1)['items'][0]

def peak_mb(reset=False):
    "Peak of the memory of this process since it was reset, in MB"
    gc.collect()
    if reset:
        ctypes.CDLL(None).malloc_trim(0)   # what was freed before would be taken again without being counted
        Path('/proc/self/clear_refs').write_text('5')
    return int(next(o for o in Path('/proc/self/status').read_text().splitlines()
        if o.startswith('VmHWM')).split()[1])/1024

def learner(df, epochs, bs):
    "The learner that is looked at"
    dls = CollabDataLoaders.from_df(df, genre_name='genres', title_name='title', seed=42, bs=bs)
    set_seed(0)
    learn = collab_learner(dls, n_factors=50, y_range=(0,5.5))
    quiet_fit(learn, epochs, 1e-2, .1)
    return learn

def call(name, learn, send):
    "In a process of its own: seconds, MB over the learner, and MB in all"
    base = peak_mb(reset=True)
    def look():
        made = CALLS[name](CollabInterpretation.from_learner(learn))
        if name in PLOTS: (made[0] if isinstance(made, np.ndarray) else made).figure.savefig(io.BytesIO())
    if name.endswith('second call'): look()
    secs = timed(look)[1]
    peak = peak_mb()
    send.send((secs,peak-base,peak))

def look_at(title, learn):
    "A line for each call"
    say(f'\n{title}: {learn.dls.n_users-1:,} users, {learn.dls.n_items-1:,} items, {len(learn.dls.train_ds):,} '
        f'ratings, {len(learn.dls.valid_ds):,} held out')
    took,ctx = [],multiprocessing.get_context('fork')
    for name in CALLS:
        receive,send = ctx.Pipe(False)
        process = ctx.Process(target=call, args=(name,learn,send))
        process.start()
        took.append(receive.recv())
        process.join()
        # a report is everything at once
        row(name, f'{took[-1][0]:6.2f} s {took[-1][1]:7,.0f} MB', '< 20 s' if name=='report' else ASKED)
    row('all of them, and the most memory of a process with the learner in it',
        f'{sum(o[0] for o in took):6.2f} s {max(o[2] for o in took):7,.0f} MB')

def many(): look_at('Synthetic', learner(synthetic_ratings(20_000, 100_000, 3_000_000), 1, 2**13))
def small(): look_at('ml-latest-small', learner(movielens('ml-latest-small'), 5, 512))

NOTE = 'one thread; each call in a process of its own, and its memory is what it takes over that of the learner'
if __name__=='__main__': report(__file__, [many,small], NOTE)
