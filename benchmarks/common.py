"What the benchmarks share: seeds, quiet fits, printed lines that are kept for a file, and the machine they ran on"
import os, platform, sys, time, warnings
from datetime import date
from pathlib import Path

import fastai

from fastcollab.all import *
from fastcollab import __version__

SEEDS = (0,1,2)
LINES = []

def say(text=''):
    "Print a line and keep it for the file"
    print(text, flush=True)
    LINES.append(str(text))

def row(what, value, asked='', secs=None):
    say(f'{what:<66} {value:<22} {asked:<26}' + (f'{secs:6.1f} s a fit' if secs else ''))

def machine():
    "What this ran on"
    cpu = next((o.split(':')[1].strip() for o in Path('/proc/cpuinfo').read_text().splitlines()
        if o.startswith('model name')), platform.processor()) \
        if Path('/proc/cpuinfo').exists() else platform.processor()
    return (f'{date.today()}, {cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, '
        f'torch {torch.__version__}, '
        f'fastai {fastai.__version__}, pandas {pd.__version__}, fastcollab {__version__}')

def quiet_fit(learn, epochs, lr, wd):
    "The last line of the table of a fit: train loss, valid loss, metrics"
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, wd=wd)
    return learn.recorder.values[-1]

def resident(kind='VmRSS'):
    "Bytes of memory that this process has now; the most it had, 'VmHWM'; without files, 'RssAnon'"
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024*next(int(o.split()[1]) for o in lines if o.startswith(kind))

def timed(f):
    "What `f` returns, and the seconds it took"
    start = time.perf_counter()
    return f(),time.perf_counter()-start

NOTE = f'one thread; means over training seeds {SEEDS}; the last column is the time of a fit, validation included'

def report(file, parts, note=NOTE):
    "Run `parts`, or those that the command line names, on one thread, and save what they print in results/"
    named = [o for o in parts if o.__name__ in sys.argv[1:]]
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    file = Path(file)
    say(f'benchmarks/{file.name}: {machine()}\n{note}')
    for part in named or parts: part()
    out = file.parent/'results'/f'{"-".join([file.stem, *(o.__name__ for o in named)])}.txt'
    out.parent.mkdir(exist_ok=True)
    out.write_text('\n'.join(LINES)+'\n')
