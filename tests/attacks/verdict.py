"One attack and what came of it"
import ast, contextlib, functools, io, os, re, signal, tempfile, traceback, warnings
from pathlib import Path
from typing import Callable, NamedTuple

import fastcollab, matplotlib.pyplot as plt, torch

OURS,HERE = (str(Path(o).resolve().parent) for o in (fastcollab.__file__,__file__))
VERDICTS = dict(right='right', error='one clear error', raw='a raw traceback', wrong='accepted and wrong',
    hang='a hang')

class Case(NamedTuple):
    "One odd call at a public door"
    kind:str               # 'frames', 'ids', 'arguments', 'folders' or 'events'
    name:str
    call:Callable          # Makes the call, uses what it gave, and raises `Wrong` if that isn't right
    bad:bool|None = None   # Has it to be refused? None if either will do
class Wrong(Exception): "What came back isn't right"
class Hang(BaseException): "It took too long"
class Mine(Exception): "Raised by the callback of a user, and to reach them as it is"

class Outcome(NamedTuple):
    "What came of a case"
    case:Case
    verdict:str   # One of `VERDICTS`
    text:str = '' # What was said

def want(ok, text):
    "`Wrong` unless `ok`"
    if not ok: raise Wrong(text)

# ---- Is an error ours?
@functools.cache
def raises(file):
    "The lines of `raise` statements of a file"
    nodes = ast.walk(ast.parse(Path(file).read_text(encoding='utf8')))
    return {k for o in nodes if isinstance(o, ast.Raise) for k in range(o.lineno, o.end_lineno+1)}

def unclear(e):
    "Why an error isn't a clear one of ours, '' if it is"
    last,text = traceback.extract_tb(e.__traceback__)[-1],str(e.args[0] if isinstance(e, KeyError) and e.args else e)
    if last.filename.startswith(HERE) and last.name=='<lambda>': return ''   # raised by what the user gave
    if not isinstance(e,
        (ValueError,TypeError,KeyError,OSError,ImportError,FloatingPointError)): return 'another type of error'
    if len(text)<20 or len(text)>1500: return f'{len(text):,} characters'
    called = isinstance(e, TypeError) and re.search(r'\(\) (got|missing|takes)\b', text)   # Python's own, at our door
    if called and (last.filename.startswith(HERE) or last.name=='wrapped' or '<lambda>' in text): return ''
    if isinstance(e, OSError) and e.filename is not None: return ''
    if not last.filename.startswith(OURS) or last.lineno not in raises(last.filename): return 'not raised by us'
    return 'two tracebacks' if e.__context__ is not None and not e.__suppress_context__ else ''

# ---- One case
@contextlib.contextmanager
def alarm(seconds):
    "`Hang` after some seconds of computing, or thirty times as many of waiting: the machine may be busy"
    def ring(*args): raise Hang
    timers = {signal.ITIMER_REAL:(signal.SIGALRM,30*seconds), signal.ITIMER_PROF:(signal.SIGPROF,seconds)}
    old = {s:signal.signal(s, ring) for s,_ in timers.values()}
    for timer,(_,t) in timers.items(): signal.setitimer(timer, t)
    try: yield
    finally:
        for timer,(s,_) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(s, old[s])

@contextlib.contextmanager
def alone():
    "In an empty folder, with nothing shown, and torch's random state as it was"
    old,streams = os.getcwd(),(io.StringIO(),io.StringIO())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter('ignore')
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]): yield
        finally:
            os.chdir(old)
            plt.close('all')

def judge(case, seconds=10):
    "The `Outcome` of a case"
    try:
        with alone(), alarm(seconds): case.call()
    except Hang: return Outcome(case, 'hang', f'{seconds} s')
    except Wrong as e: return Outcome(case, 'wrong', str(e))
    except (Exception,KeyboardInterrupt,SystemExit) as e:
        why = unclear(e)
        return Outcome(case, 'raw' if why else 'error', f'{why+": "*bool(why)}{type(e).__name__}: {str(e)[:200]}')
    return Outcome(case, 'wrong', 'it was not refused') if case.bad else Outcome(case, 'right')
