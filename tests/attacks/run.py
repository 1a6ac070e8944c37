"`python tests/attacks/run.py`: try odd calls at the public doors, and count what comes of them"
import argparse, json, random, resource, subprocess, sys, time
from collections import Counter
from importlib import import_module
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[k]) for k in (1,2)]
from attacks import values
from attacks.verdict import VERDICTS, Outcome, judge

KINDS = 'arguments','frames','ids','folders','events'
MEMORY = 6*2**30   # bytes that a process may take: less than what a bad case would ask for

def cases(kinds=KINDS): return [o for k in kinds for o in import_module(f'attacks.{k}').cases()]

def drawn(n, seed, kinds=KINDS):
    "`n` cases, as many of each kind as there are, up to an equal share"
    res,rng,pools = [],random.Random(seed),[cases([k]) for k in kinds]
    for left,pool in zip(range(len(pools), 0, -1), sorted(pools, key=len)):
        res += rng.sample(pool, min(len(pool), (n-len(res))//left))
    rng.shuffle(res)
    return res

def warm():
    "Compile what is compiled once: it is no hang"
    for o in ('ratings','clicks','features','sampled'): values.recommender(o)
    values.quiet(values.new(arch=values.SVDPlusPlus), 'fit', 1)
    for kind,fit in (('ratings','fit_als'),('clicks','fit_als'),('clicks','fit_sgd')):
        values.quiet(values.new(kind), fit, 1)
    values.quiet(values.new(arch='auto', n_factors=None), 'fit_auto')
    rec = values.recommender()
    rec.explain(1, 2)

def work(todo):
    "Judge cases, and write a line about each; the process may not live to see the end"
    import torch
    torch.set_num_threads(1)
    warm()
    used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used+MEMORY,)*2)
    for k,case in todo:
        print(json.dumps([k]), file=sys.__stdout__, flush=True)
        print(json.dumps([k, *judge(case)[1:]]), file=sys.__stdout__, flush=True)

def judged(args, todo, start, step):
    "Outcomes by number of case, from processes that go on where an older one died"
    numbers,res = list(range(start, len(todo), step)),{}
    own = [sys.executable, __file__, '--n', str(args.n), '--seed', str(args.seed), '--kinds', *args.kinds, '--only']
    while numbers:
        out = subprocess.run([*own, ','.join(map(str, numbers))], stdout=subprocess.PIPE, text=True).stdout
        lines = [json.loads(o) for o in out.splitlines() if o.startswith('[')]
        res.update({k:Outcome(todo[k], *o) for k,*o in lines if o})
        if lines and len(lines[-1])==1: res[lines[-1][0]] = Outcome(todo[lines[-1][0]], 'raw', 'the process died')
        if not lines: raise RuntimeError('no case could be tried')
        numbers = [k for k in numbers if k not in res]
    return res

def table(outcomes):
    "Counts by kind and verdict"
    counts = Counter((o.case.kind,o.verdict) for o in outcomes)
    kinds = sorted({k for k,_ in counts})
    rows = [[k, *(counts[k,v] for v in VERDICTS)] for k in kinds]
    rows.append(['all', *map(sum, zip(*(o[1:] for o in rows)))])
    widths = [max(len(o), 6) for o in VERDICTS.values()]
    head = ' '*12+'  '.join(f'{o:>{w}}' for o,w in zip(VERDICTS.values(), widths))
    return '\n'.join([head, *(f'{r[0]:<12}'+'  '.join(f'{o:>{w},}' for o,w in zip(r[1:], widths)) for r in rows)])

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, default=2000, help='how many cases')
    p.add_argument('--seed', type=int, default=0, help='which ones')
    p.add_argument('--kinds', nargs='*', default=KINDS, help='of which kinds')
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--only', help=argparse.SUPPRESS)
    args = p.parse_args()
    todo = drawn(args.n, args.seed, args.kinds)
    if args.only is not None: return work([(int(k),todo[int(k)]) for k in args.only.split(',')])
    from concurrent.futures import ThreadPoolExecutor
    start = time.perf_counter()
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda k: judged(args, todo, k, args.workers), range(args.workers)))
    outcomes = [o for part in parts for o in part.values()]
    for o in sorted(outcomes, key=lambda o: o[:2]):
        if o.verdict not in ('right','error'): print(f'{o.verdict:<6} {o.case.kind}: {o.case.name}: {o.text}')
    print(f'\n{table(outcomes)}\n{time.perf_counter()-start:.0f} s')
    return any(o.verdict not in ('right','error') for o in outcomes)

if __name__=='__main__': sys.exit(main())
