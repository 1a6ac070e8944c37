"""The figures of the structure, of this checkout and of another one beside it

    python benchmarks/structure.py [OTHER]

It trains nothing, and imports nothing but `fastcollab.all`, to see which names that brings. It counts everything else
in the text of modules and notebooks. Three patterns find the code that asks for types; they are printed as grep
commands."""
import ast, json, re, subprocess, sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
LONG,CELL = 120,20

# names that stand for a model, a loss, a callback, a loader, a scorer, or what holds them; and the classes of these
HOLDER = (r'(self\.|learn\.|o\.)*(arch|models?(\[0\])?|m|learn|loss|loss_func|loss\.func|cb|dl|dls|scorer|scores|s'
    r'|opt|recorder|rec|source)')
KINDS = (r'\w*Model|DotProduct\w*|CollabNN|BiasBaseline|LinearCollab|Hybrid\w+|SVDPlusPlus|Moods|SessionEffects'
    r'|Averaged|PosteriorAverage|\w*Ensemble|nn\.Module|\w*MSE|\w*Loss\w*|\w*Callback|IdDropout|ParamScheduler|Recorder'
    r'|\w+DL|DataLoader|LazyAdam|\w+Scores|\w+Scorer')
ASKS = {'isinstance':rf'isinstance\([^,]+, *\(?[^)]*\b({KINDS})\b',
    'exact types':rf'\btype\((ifnone\()?{HOLDER}(, \w+\(\)\))?\) (is|in|not|==|!=)',
    'hasattr, getattr with a '
    'default':rf"hasattr\(({HOLDER}|self|type\(cb\)),|getattr\({HOLDER}, *('[^']*'|f'[^']*'|[a-z_.]+(\([^)]*\))?),"}

def modules(root): return {o.relative_to(root/'fastcollab').with_suffix('').as_posix().replace('/', '.'):o
    for o in sorted((root/'fastcollab').rglob('*.py')) if not o.stem.startswith('_')}

def package(name): return name.rpartition('.')[0]

def arrows(mods):
    "Pairs of modules: the first imports the second, anywhere in it"
    res = set()
    for name,path in mods.items():
        above = ['fastcollab', *name.split('.')[:-1]]
        for node in ast.walk(ast.parse(path.read_text())):
            found = []
            if isinstance(node, ast.Import): found = [o.name for o in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = '.'.join([*above[:len(above)+1-node.level]*bool(node.level),
                    *([node.module] if node.module else [])])
                found = [base, *(f'{base}.{o.name}' for o in node.names)]
            res |= {(name, o.removeprefix('fastcollab.')) for o in found if o.removeprefix('fastcollab.') in mods}
    return res

def floors(root, mods):
    "The floor of each module: a number, or the place of its package in the list and the number of its notebook"
    if (old := root/'tests/test_repo.py').is_file():
        call = next(o.value for o in ast.parse(old.read_text()).body if isinstance(o, ast.Assign)
            and getattr(o.targets[0], 'id', '')=='FLOORS')
        return {o.arg:(o.value.value,) for o in call.keywords if o.arg in mods}
    listed = next(o for o in ast.parse((root/'tools/packages.py').read_text()).body if isinstance(o, ast.Assign))
    order = ast.literal_eval(listed.value)
    books = {name:o.stem for o in notebooks(root) if (name := exported_to(o))}
    return {o:(order.index(o if o=='all' else package(o)), books.get(o, '')) for o in mods}

def notebooks(root): return [o for o in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in o.parts]
def code_cells(path):
    return [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='code']
def exported_to(path):
    return m[1] if (m := re.search(r'^#\| *default_exp (\S+)', '\n'.join(code_cells(path)), re.M)) else None

def code_lines(cell): return [o for o in cell.splitlines() if o.strip() and not o.startswith('#|')]
def written_lines(path):
    "Lines that somebody wrote: without what nbdev puts at the top of a module"
    lines = path.read_text().splitlines()
    return lines[next((k for k,line in enumerate(lines) if line.startswith('# %% ../')), 0):]

def is_class(cell):
    "Is a class all that the cell holds?"
    body = ast.parse(cell).body
    return len(body)==1 and isinstance(body[0], ast.ClassDef)

def our_classes(mods):
    return {node.name for o in mods.values() for node in ast.walk(ast.parse(o.read_text()))
        if isinstance(node, ast.ClassDef)}

def patches(mods):
    "Methods that `@patch` adds to classes of fastcollab"
    own,res = our_classes(mods),[]
    for name,path in mods.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or not any('patch' in ast.unparse(o) for o in node.decorator_list):
                continue
            to = ast.unparse(node.args.args[0].annotation) if node.args.args and node.args.args[0].annotation else ''
            res += [f'{name}.{node.name}'] if set(re.findall(r'\w+', to)) & own else []
    return res

DOOR = """
import warnings; warnings.simplefilter('ignore')
theirs,all = {},{}
exec('from fastai.tabular.all import *\\nfrom fastai.collab import *', theirs)
exec('from fastcollab.all import *', all)
print(len({o for o,x in all.items() if o not in theirs or x is not theirs[o]} - {'__builtins__'}))
"""
def public_names(root):
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c',
        f'import sys; sys.path.insert(0, {str(root)!r})\n{DOOR}'], capture_output=True, text=True, cwd=root)
    return int(res.stdout) if res.returncode==0 else res.stderr.strip().splitlines()[-1]

def figures(root):
    "What is counted, and how often it is found in the checkout `root`"
    mods = modules(root)
    found,floor = arrows(mods),floors(root, mods)
    inner = {(a,b) for a,b in found if a!='all'}
    res = {'modules':len(mods)}
    res |= {f'  in {k or "the root"}':v for k,v in Counter(map(package, mods)).items()}
    res |= {'floors: heights, or packages in the list':len({o[0] for o in floor.values()}),
        'import arrows between modules':len(found), '  without those of all.py':len(inner),
        '  from one package to another':len({(a,b) for a,b in inner if package(a)!=package(b)}),
        '  pairs of packages with an arrow':len({(package(a),package(b)) for a,b in inner if package(a)!=package(b)}),
        '  upward or level':len([1 for a,b in inner if a not in floor or b not in floor or floor[b]>=floor[a]])}
    lines = [line for o in mods.values() for line in o.read_text().splitlines()]
    res |= {f'asks for a type: {k}':sum(bool(re.search(v, o)) for o in lines) for k,v in ASKS.items()}
    for k in ('fastcollab','tests','tools','benchmarks'):
        files = [o for o in (root/k).rglob('*.py') if o.stem!='_modidx']
        res[f'lines over {LONG} in {k}'] = sum(len(line)>LONG for o in files for line in written_lines(o))
    cells = [c for o in notebooks(root) for c in code_cells(o) if re.match(r'#\| *export', c)]
    long = [c for c in cells if len(code_lines(c))>CELL]
    res |= {'export cells':len(cells), f'  over {CELL} lines of code':len(long),
        '  of these, without whole classes':len([c for c in long if not is_class(c)])}
    res |= {'methods patched onto classes of ours':len(patches(mods)),
        'names of all.py beyond those of fastai':public_names(root)}
    return res

if __name__=='__main__':
    roots = [HERE, *map(Path, sys.argv[1:])]
    tables = [figures(o.resolve()) for o in roots]
    names = list(dict.fromkeys(o for t in tables for o in t))
    head = ['this checkout', *(f'other {k}' if k>1 else 'the other' for k in range(1, len(roots)))]
    print(f'{"":<48}' + ''.join(f'{o:>16}' for o in head))
    for o in names: print(f'{o:<48}' + ''.join(f'{t.get(o, 0):>16}' for t in tables))
    print('\nWhat asks for a type, as commands:')
    for k,v in ASKS.items(): print(f'  grep -rnE --include=*.py "{v}" fastcollab')
