"""What an import takes beside that of fastai, in CPU seconds

    python benchmarks/imports.py     # a minute on one core

Fresh processes import fastai.tabular.all and fastcollab.all in turns, and the recommender alone."""
import statistics, subprocess
from common import *

CODE = 'import time; import {}; print(time.process_time())'
MODULES = ('fastai.tabular.all','fastcollab.all','fastcollab.recommend.recommender')

def seconds(module):
    "CPU seconds of a new process that imports `module`, those of Python included"
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE.format(module)], capture_output=True, text=True,
        check=True)
    return float(res.stdout)

def imports(times=7):
    "The median of several imports in turns, after one of each to warm the disk up"
    for o in MODULES: seconds(o)
    took = {o:[] for o in MODULES}
    for _ in range(times):
        for o in MODULES: took[o].append(seconds(o))
    fastai,*_ = mid = [statistics.median(took[o]) for o in MODULES]
    for name,s in zip(MODULES, mid):
        row(f'import {name}', f'{s:.2f} s, {s/fastai:.2f}', '< 1.50' if name=='fastcollab.all' else '')

if __name__=='__main__': report(__file__, [imports], f'CPU seconds, and times those of {MODULES[0]}; medians of 7')
