"""What it costs to train where ratings and model are not: a fit on a pretended device against the same on the CPU

    FASTCOLLAB_DATA=DIR python benchmarks/placement.py

DIR holds ml-latest-small.zip. The pretended device (tests/pretend.py) refuses what a GPU refuses, and its copies are
copies. Seconds are those of the processor, of one thread; fits alternate, and the smallest and the median of both
count. About a minute. The column after a figure is the target."""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
from pretend import DEVICE, pretending

from common import quiet_fit, report, row
from fastcollab.all import *

FITS,EPOCHS = 8,10

def fit(df, device):
    "Processor seconds of an epoch of a fit, and its RMSE"
    dls = CollabDataLoaders.from_df(df, seed=42, bs=64, device=device)
    set_seed(0)
    learn = collab_learner(dls, n_factors=50, y_range=(0,5.5))
    assert not learn.fused_reason
    start = time.process_time()
    loss = quiet_fit(learn, EPOCHS, 5e-3, .1)[1]
    return (time.process_time()-start)/EPOCHS,loss**.5

def small():
    "ml-latest-small, bs=64"
    df = movielens('ml-latest-small')
    with pretending():
        for device in ('cpu',DEVICE): fit(df, device)   # compiles
        fits = [[fit(df, device) for device in ('cpu',DEVICE)] for _ in range(FITS)]
    secs = np.array([[o[0] for o in pair] for pair in fits])
    for k,name in enumerate(('cpu','pretended device')):
        row(f'ratings and model on: {name}', f'{1e3*secs[:,k].min():.1f} ms an epoch', '', None)
    best,median = secs[:,1].min()/secs[:,0].min(),np.median(secs[:,1])/np.median(secs[:,0])
    row('pretended device against CPU: smallest', f'{best:.2f}x', '<= 1.3x')
    row('pretended device against CPU: medians', f'{median:.2f}x')
    row('RMSE: CPU, pretended device', ', '.join(f'{o[1]:.6f}' for o in fits[0]), 'equal')

if __name__=='__main__':
    report(__file__, [small],
        f'one thread, {FITS} fits of {EPOCHS} epochs each, in turns: fit_one_cycle({EPOCHS}, 5e-3, wd=0.1), k=50')
