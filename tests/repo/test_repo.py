"The repository itself: floors, mirrors, what is generated, and what must not be in it"
import ast, configparser, importlib, inspect, json, re, shutil, subprocess, sys
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import pytest
from fastai.callback.core import Callback, _events
from packages import PACKAGES
from readme import outputs, readme

try: import tomllib
except ImportError: import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FILES = {o.relative_to(ROOT/'fastcollab').with_suffix('').as_posix():o
    for o in sorted((ROOT/'fastcollab').rglob('*.py'))}
MODULES = {k.replace('/', '.'):v for k,v in FILES.items() if not v.stem.startswith('_')}   # `data.loaders`: its file
EXPORTED = [o for o in MODULES if o!='all']
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
def place(path): return path.relative_to(ROOT/'nbs').with_suffix('').as_posix()   # `data/08_loaders`

def exported_module(path):
    "The module that a notebook is exported to, None if it is exported to none"
    code = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='code')
    return m[1] if (m := re.search(r'^#\|\s*default_exp (\S+)', code, re.M)) else None

SOURCES = {m:o for o in NOTEBOOKS if (m := exported_module(o))}   # the notebook of each module
def package(name): return name if name=='all' else name.rpartition('.')[0]
def floor(name): return PACKAGES.index(package(name)), SOURCES[name].stem if name in SOURCES else ''

def imports(path):
    "Names of all modules that the file imports, anywhere in it, relative ones written out"
    parents = ('fastcollab', *path.relative_to(ROOT/'fastcollab').parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): yield from (o.name for o in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join([*parents[:len(parents)+1-node.level]*bool(node.level),
                *([node.module] if node.module else [])])
            # `from ..kernels import mf` imports a module, `from .mf import Side` a name
            modules = [f'{base}.{o.name}' for o in node.names
                if f'{base}.{o.name}'.removeprefix('fastcollab.') in MODULES]
            yield from modules or [base]

def ours(path): return {o.removeprefix('fastcollab.') for o in imports(path) if o.startswith('fastcollab.')}

# ---- Floors
@pytest.mark.parametrize('name', EXPORTED)
def test_a_module_stands_where_its_notebook_stands(name):
    assert package(name) in PACKAGES, f'{name}: add its package to tools/packages.py and to CONTRIBUTING.md'
    assert name in SOURCES, f'{name} is exported by no notebook: remove the module or write its notebook'
    folder,_,stem = place(SOURCES[name]).rpartition('/')
    assert re.fullmatch(rf'\d\d_{name.rpartition(".")[2]}', stem) and folder==package(name).replace('.',
        '/'), place(SOURCES[name])

@pytest.mark.parametrize('name', MODULES)
def test_imports_only_from_lower_floors(name):
    for o in sorted(ours(MODULES[name])):
        assert o in MODULES, f'{name} imports {o}, which is no module'
        assert floor(o)<floor(name), f'{name} imports {o}, which stands above it'

@pytest.mark.parametrize('name', SOURCES)
def test_a_notebook_is_exported_whole(name): assert name in MODULES, f'{place(SOURCES[name])}: run nbdev-export'

def test_every_folder_is_a_package():
    assert {o for o in map(package, EXPORTED) if o and not (ROOT/'fastcollab'/o/'__init__.py').is_file()} == set()

# What serves recommendations needs no fastai, and compiled loops need no torch modules
LIGHT = [o for o in EXPORTED if package(o)=='recommend' or o in ('checks','data.features')]
def reached(name):
    "`name` and all modules of ours that its import brings"
    todo,seen = [name],set()
    while todo:
        if (o := todo.pop()) not in seen: todo += ours(MODULES[o])
        seen.add(o)
    return seen

@pytest.mark.parametrize('name', LIGHT)
def test_serving_imports_no_fastai(name):
    heavy = {o for m in reached(name) for o in imports(MODULES[m]) if o.split('.')[0]=='fastai'}
    assert heavy == set(), f'{name} reaches {sorted(heavy)}'

@pytest.mark.parametrize('name', [o for o in EXPORTED if package(o)=='kernels'])
def test_kernels_import_neither_torch_nor_fastai(name):
    assert {o.split('.')[0] for o in imports(MODULES[name])} & {'torch','fastai'} == set()

def test_the_path_of_a_rating_is_the_one_in_the_code():
    "Functions that CONTRIBUTING.md names together with their module are there"
    text = (ROOT/'CONTRIBUTING.md').read_text()
    named = re.findall(r'`([\w.]+)`\s\(`([a-z_]+\.[a-z_]+)`\)', text[text.index('## The path of a rating'):])
    assert len(named)>=10
    for name,module in named: assert attrgetter(name)(importlib.import_module(f'fastcollab.{module}')), (name, module)

# ---- What is packed
EVERYWHERE = """
import importlib, sys
target, packages, *names = sys.argv[1:]
sys.path += [target, packages]   # -I -S keep all else out, such as a checkout that is installed in place
for o in names:
    module = importlib.import_module(o)
    assert module.__file__.startswith(target), module.__file__
"""
@pytest.mark.slow
def test_wheel(tmp_path):
    "Build a wheel, install it into an empty folder, and import every module where no checkout can be seen"
    src,wheels,target = (tmp_path/o for o in ('src','wheels','target'))
    src.mkdir()
    for o in ('pyproject.toml','README.md','LICENSE'): shutil.copy(ROOT/o, src)
    shutil.copytree(ROOT/'fastcollab', src/'fastcollab', ignore=shutil.ignore_patterns('__pycache__'))
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    for args in (['wheel', '--no-deps', '--no-build-isolation', '-w', wheels, src],
        ['install', '--no-deps', '--no-index', '--target', target, '-f', wheels, 'fastcollab']):
        res = subprocess.run([*pip, *args], capture_output=True, text=True, cwd=tmp_path)
        assert res.returncode==0, res.stderr
    assert {o.relative_to(target/'fastcollab').as_posix() for o in (target/'fastcollab').rglob('*.py')} == {f'{o}.py'
        for o in FILES}
    names = [f'fastcollab.{o}' for o in MODULES]
    res = subprocess.run([sys.executable, '-I', '-S', '-W', 'ignore', '-c', EVERYWHERE, target,
        Path(pytest.__file__).parents[1], *names], capture_output=True, text=True, cwd=tmp_path)
    assert res.returncode==0, res.stderr[-2000:]

# ---- The import door
# the only names of fastai that mean something else after `from fastcollab.all import *`
# fastcore's Link is <link>
# fastai's Recall and Precision are those of a classifier
REPLACED = {'CollabDataLoaders', 'collab_learner', 'RandomSplitter', 'rmse', 'mae', 'Link', 'Recall', 'Precision'}

@pytest.fixture(scope='module')
def door():
    "The names that `fastai` and `fastcollab.all` bring"
    fastai,all = {},{}
    exec('from fastai.tabular.all import *\nfrom fastai.collab import *', fastai)
    exec('from fastcollab.all import *', all)
    return fastai,all

def listed():
    "The names that all.py lists, in its order, and where it takes each from"
    for node in ast.parse(MODULES['all'].read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith('fastcollab'):
            yield from ((o.asname or o.name, node.module.removeprefix('fastcollab.')) for o in node.names)

def test_only_what_is_listed_comes_through_the_door(door):
    fastai,all = door
    names = [o for o,_ in listed()]
    assert len(names)==len(set(names)) and '*' not in names and not any(o.startswith('_') for o in names)
    assert {o for o,x in all.items() if o not in fastai or x is not fastai[o]} - {'__builtins__'} == set(names)
    assert set(fastai) <= set(all)

def test_nothing_of_fastai_is_shadowed_unawares(door): assert {o for o,_ in listed()} & set(door[0]) == REPLACED

def test_a_name_comes_from_the_module_that_defines_it(door):
    "Where a reader who looks a name up in all.py is sent, it is defined"
    assert [o for o,module in listed() if getattr(door[1][o], '__module__', '')!=f'fastcollab.{module}'] == []

def test_modules_are_in_reading_order():
    modules = [o for o,_ in groupby(listed(), lambda o: o[1])]
    assert len(modules)==len(set(modules)), 'the names of a module stand together'

@pytest.fixture(scope='module')
def shown():
    "What notebooks say and run, without what they export"
    cells = (c for o in NOTEBOOKS for c in json.loads(o.read_text())['cells'])
    return '\n'.join(text for c in cells if not re.match(r'#\|\s*(export|hide)', text := ''.join(c['source'])))

@pytest.mark.parametrize('name', [o for o,_ in listed()])
def test_public_names_are_those_that_somebody_calls(name, door, shown):
    "Each is a documented class or function that a notebook shows; checks and drawing aids stay in their modules"
    constant = re.match('[A-Z_]+$', name) and not isinstance(door[1][name], type)   # NDCG is a class
    assert not constant and not re.match('check_|axes_', name)
    assert callable(door[1][name]) and door[1][name].__doc__
    assert re.search(rf'\b{name}\b', shown), f'no notebook speaks of {name}'

# ---- Mirrors
def test_settings_ini_mirrors_pyproject():
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())
    cfg,(p,nb) = configparser.ConfigParser(),(proj['project'],proj['tool']['nbdev'])
    cfg.read(ROOT/'settings.ini')
    s = cfg['DEFAULT']
    version = re.search('__version__ = "(.*)"', (ROOT/'fastcollab/__init__.py').read_text())[1]
    dev = [o for o in p['optional-dependencies']['dev'] if ';' not in o]
    assert dict(s) == dict(lib_name=p['name'], repo=p['name'], version=version, description=p['description'],
        keywords=' '.join(p['keywords']),
        author=p['authors'][0]['name'], license='apache2', min_python=p['requires-python'].lstrip('>='),
        lib_path=nb['lib_path'], nbs_path=nb['nbs_path'],
        requirements=' '.join(p['dependencies']), dev_requirements=' '.join(dev),
        console_scripts='='.join(*p['scripts'].items()))

def test_dependencies_are_what_is_imported():
    "Every third-party import is declared, in an extra if the module works without it; pandas reads Parquet by pyarrow"
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']
    declared = {re.split('[<>=;\\[ ]', o)[0] for o in proj['dependencies']}
    packages = dict(sklearn='scikit-learn', mpl_toolkits='matplotlib', umap='umap-learn', llvmlite='numba')
    roots = {o.split('.')[0] for m in MODULES.values()
        for o in imports(m)} - set(sys.stdlib_module_names) - {'fastcollab'}
    used = {packages.get(o, o) for o in roots}
    assert used <= declared.union(*(proj['optional-dependencies'][o] for o in ('ann','onnx','polars','viz')))
    assert declared <= used

def test_constraints_cover_the_dependencies():
    names = {re.split('[=;]', o)[0] for o in (ROOT/'constraints.txt').read_text().splitlines() if o
        and o[0] not in '# '}
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']
    extras = proj['optional-dependencies']
    needed = {re.split('[<>=;\\[ ]', o)[0] for o in proj['dependencies']+extras['dev']+extras['docs']} - {'tomli'}
    assert needed <= names
    assert 'torch==2.13.0' in (ROOT/'constraints.txt').read_text()

def test_readme_is_its_notebook():
    text,pics = readme(ROOT/'nbs/index.ipynb')
    assert (ROOT/'README.md').read_text() == text and len(text.splitlines()) <= 150
    assert len(pics)==1 and all((ROOT/name).read_bytes()==png for name,png in pics.items())

def test_what_a_cell_prints_is_one_block():
    "Also if the kernel sent it in pieces"
    piece = dict(output_type='stream', name='stdout')
    cell = dict(outputs=[dict(piece, text=['a\n','b']), dict(piece, text='c\n'), dict(data={'text/plain':'d'})])
    assert list(outputs(cell))==['```text\na\nbc\n```','```text\nd\n```']

def test_figures_of_the_readme_were_printed():
    "Every number with decimals under `Figures` stands in the output of a benchmark"
    text,printed = (ROOT/'README.md').read_text(),''.join(o.read_text()
        for o in (ROOT/'benchmarks/results').glob('*.txt'))
    figures = re.findall(r'\d+\.\d+', text[text.index('## Figures'):text.index('## Where to go next')])
    assert len(figures)>=7 and [o for o in figures if o not in printed] == []

@pytest.mark.parametrize('path', NOTEBOOKS, ids=place)
def test_notebook_outputs(path):
    "Outputs are results: no errors, no warnings, no paths of somebody's machine"
    for cell in json.loads(path.read_text())['cells']:
        for o in cell.get('outputs', []):
            text = json.dumps(o)
            assert o['output_type'] != 'error', f'cell {cell["id"]} shows an error'
            assert not re.search(r'Warning:|site-packages|/(home|root|tmp|work|Users)/',
                text), f'cell {cell["id"]}: {text[:200]}'
            assert o.get('name') != 'stderr', f'cell {cell["id"]} writes to stderr'

TUTORIALS = [o for k in ('tutorials','cases') for o in NOTEBOOKS if o.parent.name==k]

@pytest.mark.parametrize('path', TUTORIALS, ids=place)
def test_tutorials_open_and_end(path):
    "A tutorial opens with what you will be able to do, and ends with links to the next one and to the API"
    texts = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown']
    assert 'you can' in '\n'.join(texts[:2])
    end = texts[-1][texts[-1].index('## Where to go next'):]
    links = [(path.parent/o).resolve() for o in re.findall(r'\]\(([^)#]+\.ipynb)\)', end)]
    assert [o for o in links if not o.is_file()] == []
    assert any(exported_module(o) for o in links if o.suffix=='.ipynb'), 'no link to a notebook of the API'
    k = TUTORIALS.index(path)
    assert k==len(TUTORIALS)-1 or TUTORIALS[k+1] in links, f'no link to {TUTORIALS[k+1].name}'

def test_tutorials_are_numbered_and_listed():
    "The numbers of their names are the reading order, and the README has all of them in it, case studies last"
    for folder in ('tutorials','cases'):
        numbers = [o.stem[:3] for o in TUTORIALS if o.parent.name==folder]
        assert numbers == [f'{k:02}_' for k in range(1, len(numbers)+1)]
    readme = (ROOT/'README.md').read_text()
    assert re.findall(r'nbs/(?:tutorials|cases)/(\w+)\.ipynb', readme) == [o.stem for o in TUTORIALS]

@pytest.mark.parametrize('path', NOTEBOOKS, ids=place)
def test_links_between_notebooks(path):
    "Links to files lead to files"
    text = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown')
    assert [o for o in re.findall(r'\]\(([^)#:]+\.\w+)\)', text) if not (path.parent/o).is_file()] == []

@pytest.mark.parametrize('path', NOTEBOOKS, ids=place)
def test_title_has_a_cell_of_its_own(path):
    "nbdev makes the title and its line the head of a page, and drops what else their cell holds"
    first = next(c for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown')
    assert re.fullmatch(r'# .+\n\n?> .+', ''.join(first['source'])), \
        f'cell {first["id"]}: a title and a line that starts with >; the rest goes into the next cell'

def test_cell_ids_are_unique():
    ids = [c['id'] for p in NOTEBOOKS for c in json.loads(p.read_text())['cells']]
    assert len(ids) == len(set(ids))

def test_no_data_in_the_repository():
    "The licences of the data sets forbid shipping them"
    kinds,apart = {'.zip','.data','.dat','.base','.test','.parquet','.csv','.pkl','.pth'},{'.venv','demo','.git',
        'build','.hypothesis'}
    files = [o.relative_to(ROOT) for o in ROOT.rglob('*') if o.suffix in kinds and o.is_file()]
    assert [o for o in files if not apart & set(o.parts)] == []

CODE = sorted(o for k in ('fastcollab','tests','tools','benchmarks') for o in (ROOT/k).rglob('*.py')
    if o.stem!='_modidx')
def glued_words():
    "Where text in an f-string goes on with a word right behind a value"
    words = re.compile(r'(a|an|and|are|from|has|have|holds|in|is|lists|names|needs|of|or|takes|to|was|with)\b')
    for file in sorted((ROOT/'fastcollab').rglob('*.py')):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.JoinedStr): continue
            for value,text in zip(node.values, node.values[1:]):
                if isinstance(value, ast.Constant) or not isinstance(text, ast.Constant): continue
                if words.match(text.value): yield f'{file.relative_to(ROOT)}:{node.lineno}: {text.value[:30]}'

def test_messages_have_spaces_behind_values(): assert list(glued_words())==[]

@pytest.mark.parametrize('path', CODE, ids=lambda o: o.relative_to(ROOT).as_posix())
def test_lines_have_120_characters_at_most(path):
    "What nbdev writes at the top of a module may be longer"
    lines = path.read_text().splitlines()
    top = next((k for k,line in enumerate(lines) if line.startswith('# %% ../')), 0)
    assert [(k,line) for k,line in enumerate(lines[top:], top+1) if len(line)>120] == []

@pytest.mark.parametrize('name', EXPORTED)
def test_public_things_are_documented(name):
    "Every public class has a docstring, every public function one of one line"
    src = MODULES[name].read_text()
    for node in ast.walk(ast.parse(src)):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        if isinstance(node, ast.ClassDef): assert ast.get_docstring(node), f'{name}.{node.name} has no docstring'
    for node in ast.parse(src).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_') and not node.decorator_list:
            assert ast.get_docstring(node) and '\n' not in ast.get_docstring(
                node), f'{name}.{node.name} wants a docstring of one line'

@pytest.mark.parametrize('name', EXPORTED)
def test_public_methods_are_documented(name):
    "Public methods of public classes have a docstring, unless they override one that has"
    module = importlib.import_module(f'fastcollab.{name}')
    own = lambda o: o.__module__==module.__name__
    classes = [o for o in vars(module).values() if isinstance(o, type) and own(o) and o.__name__[0]!='_']
    def documents(base):
        return {o for o,f in vars(base).items() if not base.__module__.startswith('fastcollab') or f.__doc__}
    missing = []
    for cls in classes:
        known = set().union(*map(documents, cls.__mro__[1:]), _events if issubclass(cls, Callback) else ())
        fns = {o:inspect.unwrap(getattr(f, '__func__', f)) for o,f in vars(cls).items()
            if o[0]!='_' and o not in known and not isinstance(f, property)}
        missing += [f'{cls.__name__}.{o}' for o,f in fns.items() if inspect.isfunction(f) and own(f) and not f.__doc__]
    assert missing == []
