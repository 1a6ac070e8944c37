"""The seconds of SVD++ by Adam

    FASTCOLLAB_DATA=DIR python benchmarks/svdpp.py [PART...]

DIR holds ml-100k.zip. Settings are those of `arch='auto'`. `u1` is a whole fit of ml-100k u1 with validation;
`million`, `five` and `sparse` are epochs of synthetic ratings, with a fiftieth for validation. Each is timed in the
compiled loop of sets, and in the torch loop (`fused=False`). Seconds of the processor count all threads, and are what
to compare on a machine with other work. OTHER names a checkout of another version, whose seconds are printed too."""
import json, os, subprocess, sys

from common import *

SIZES = dict(million=(6040,3706,1_000_209), five=(30_000,12_000,5_000_000), sparse=(20_000,15_000,150_000),
    tiny=(60,40,1000))

def seconds(what, threads=1, fused=True, epochs=None):
    "Seconds of the processor, of the clock, and the last line of the table of a fit"
    torch.set_num_threads(threads)
    df,splits = movielens_fold('ml-100k', 1) if what=='u1' else (synthetic_ratings(*SIZES[what]),None)
    kwargs = dict(splits=splits) if splits else dict(valid_pct=.02, seed=42)
    set_seed(0)
    dls = CollabDataLoaders.from_df(df, **kwargs)
    learn = collab_learner(dls, arch='auto', metrics=rmse, fused='auto' if fused else False)
    config = learn.auto_config
    start = time.process_time(),time.perf_counter()
    quiet_fit(learn, epochs or config.epochs, config.lr, list(config.wd))
    spent = time.process_time()-start[0],time.perf_counter()-start[1]
    return dict(cpu=spent[0], wall=spent[1], rmse=learn.recorder.values[-1][-1], n=epochs or config.epochs)

def ask(what, code=None, **kwargs):
    "`seconds` in a process of its own, after a fit of tiny data, with the library of this checkout or of another"
    env = {**os.environ, **({'PYTHONPATH':code} if code else {})}
    args = [sys.executable,__file__,'run',json.dumps(dict(what=what, **kwargs))]
    return json.loads(subprocess.run(args, capture_output=True, text=True, check=True, env=env).stdout.splitlines()[-1])

def compare(what, asked, epochs=None):
    "A row for each way of training"
    ways = {'torch loop':dict(fused=False), 'compiled':{}, 'compiled, two threads':dict(threads=2)}
    if 'OTHER' in os.environ: ways = {'other version':dict(code=os.environ['OTHER']), **ways}
    for name,kwargs in ways.items():
        o = ask(what, epochs=epochs, **kwargs)
        value = f'{o["cpu"]/(epochs or 1):.2f} s, {o["wall"]/(epochs or 1):.2f} s'
        row(f'{what}, {name}', value, f'RMSE {o["rmse"]:.4f}'+(f'  {asked}' if 'two' in name else ''))

def u1(): compare('u1', 'asked: 2.5 s')
def million(): compare('million', 'asked: 3 s', 1)
def five(): compare('five', 'asked: 12 s', 1)
def sparse(): compare('sparse', '', 2)

if __name__=='__main__':
    if sys.argv[1:2]==['run']:
        warnings.simplefilter('ignore')
        seconds('tiny', epochs=1)
        print(json.dumps(seconds(**json.loads(sys.argv[2]))))
    else:
        report(__file__, (u1,million,five,sparse), f'load {os.getloadavg()[0]:.1f}; seconds of the processor, then of '
            'the clock; synthetic: seconds an epoch')
