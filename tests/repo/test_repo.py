"The repository itself: floors, mirrors, what is generated, and what must not be in it"
import ast, configparser, importlib, inspect, json, re, sys
from pathlib import Path

import pytest
from fastai.callback.core import Callback, _events

try: import tomllib
except ImportError: import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# a module between two floors stands between their numbers
FLOORS = dict(datasets=0, layers=0, metrics=0, losses=0, splits=.5, features=.5, times=.5, data=1, models=1, feature_models=1.5, kernel=0, towers=.5,
    item_map=0, optimizer=1, session_effects=1.2, svdpp=1.7, auto_config=1.8, fused=2, callback=2, langevin=2.2, where=2, scoring=2, folding=2, artifact=2, lists=2.3,
    newcomers=2.5, reasons=2.7, recommender=3, learner=4, ensemble=4.2, inference=4.3, metadata=4.5, feedback=4.5, sources=4.8, interpret=5, plots=5.1,
    errors=5.15, report=5.3, distributed=5, serve=5, cli_train=5.5, cli=6, all=6)
MODULES = sorted(o.stem for o in (ROOT/'fastcollab').glob('*.py') if not o.stem.startswith('_'))
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)

def imports(path):
    "Names of all modules that the file imports, anywhere in it"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): yield from (o.name for o in node.names)
        elif isinstance(node, ast.ImportFrom): yield ('fastcollab.' if node.level else '')+(node.module or '')   # nbdev writes `.data` for `fastcollab.data.loaders`

@pytest.mark.parametrize('name', MODULES)
def test_imports_only_from_lower_floors(name):
    assert name in FLOORS, f'{name} has no floor; add it to FLOORS and to the design'
    for o in imports(ROOT/f'fastcollab/{name}.py'):
        if not o.startswith('fastcollab.'): continue
        other = o.split('.')[1]
        assert FLOORS[other]<FLOORS[name], f'{name} (floor {FLOORS[name]}) imports {other} (floor {FLOORS[other]})'

def test_settings_ini_mirrors_pyproject():
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())
    cfg,(p,nb) = configparser.ConfigParser(),(proj['project'],proj['tool']['nbdev'])
    cfg.read(ROOT/'settings.ini')
    s = cfg['DEFAULT']
    version = re.search('__version__ = "(.*)"', (ROOT/'fastcollab/__init__.py').read_text())[1]
    dev = [o for o in p['optional-dependencies']['dev'] if ';' not in o]
    assert dict(s) == dict(lib_name=p['name'], repo=p['name'], version=version, description=p['description'], keywords=' '.join(p['keywords']),
        author=p['authors'][0]['name'], license='apache2', min_python=p['requires-python'].lstrip('>='), lib_path=nb['lib_path'], nbs_path=nb['nbs_path'],
        requirements=' '.join(p['dependencies']), dev_requirements=' '.join(dev), console_scripts='='.join(*p['scripts'].items()))

def test_dependencies_are_what_is_imported():
    "Every third-party import is declared, in an extra if the module works without; pyarrow is what pandas reads Parquet with"
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']
    declared = {re.split('[<>=;\\[ ]', o)[0] for o in proj['dependencies']}
    used = {dict(sklearn='scikit-learn', mpl_toolkits='matplotlib', umap='umap-learn').get(o.split('.')[0], o.split('.')[0]) for m in MODULES for o in imports(ROOT/f'fastcollab/{m}.py')} - set(sys.stdlib_module_names) - {'fastcollab'}
    assert used <= declared | {*proj['optional-dependencies']['ann'], *proj['optional-dependencies']['onnx'], *proj['optional-dependencies']['viz']}
    assert declared <= used

def test_constraints_cover_the_dependencies():
    names = {re.split('[=;]', o)[0] for o in (ROOT/'constraints.txt').read_text().splitlines() if o and o[0] not in '# '}
    proj = tomllib.loads((ROOT/'pyproject.toml').read_text())['project']
    needed = {re.split('[<>=;\\[ ]', o)[0] for o in proj['dependencies']+proj['optional-dependencies']['dev']+proj['optional-dependencies']['docs']} - {'tomli'}
    assert needed <= names
    assert 'torch==2.13.0' in (ROOT/'constraints.txt').read_text()

def test_readme_is_its_notebook():
    sys.path.insert(0, str(ROOT/'tools'))
    from readme import readme
    text,pics = readme(ROOT/'nbs/index.ipynb')
    assert (ROOT/'README.md').read_text() == text and len(text.splitlines()) <= 150
    assert len(pics)==1 and all((ROOT/name).read_bytes()==png for name,png in pics.items())

def test_figures_of_the_readme_were_printed():
    "Every number with decimals under `Figures` stands in the output of a benchmark"
    text,printed = (ROOT/'README.md').read_text(),''.join(o.read_text() for o in (ROOT/'benchmarks/results').glob('*.txt'))
    figures = re.findall(r'\d+\.\d+', text[text.index('## Figures'):text.index('## Where to go next')])
    assert len(figures)>=7 and [o for o in figures if o not in printed] == []

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: o.stem)
def test_notebook_outputs(path):
    "Outputs are results: no errors, no warnings, no paths of somebody's machine"
    for cell in json.loads(path.read_text())['cells']:
        for o in cell.get('outputs', []):
            text = json.dumps(o)
            assert o['output_type'] != 'error', f'cell {cell["id"]} shows an error'
            assert not re.search(r'Warning:|site-packages|/(home|root|tmp|work|Users)/', text), f'cell {cell["id"]}: {text[:200]}'
            assert o.get('name') != 'stderr', f'cell {cell["id"]} writes to stderr'

TUTORIALS = [o for o in NOTEBOOKS if o.parent.name=='tutorials']

@pytest.mark.parametrize('path', TUTORIALS, ids=lambda o: o.stem)
def test_tutorials_open_and_end(path):
    "A tutorial says first what the reader will be able to do, and last where to go next: the next one, and the API, in links that exist"
    texts = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown']
    assert 'you can' in '\n'.join(texts[:2])
    end = texts[-1][texts[-1].index('## Where to go next'):]
    links = [(path.parent/o).resolve() for o in re.findall(r'\]\(([^)#]+\.ipynb)\)', end)]
    assert [o for o in links if not o.is_file()] == []
    assert any(o.parent==ROOT/'nbs' for o in links), 'no link to a notebook of the API'
    k = TUTORIALS.index(path)
    assert k==len(TUTORIALS)-1 or TUTORIALS[k+1] in links, f'no link to {TUTORIALS[k+1].name}'

def test_tutorials_are_numbered_and_listed():
    "The numbers of their names are the reading order, and the README has all of them in it"
    assert [o.stem[:3] for o in TUTORIALS] == [f'{k:02}_' for k in range(1, len(TUTORIALS)+1)]
    assert re.findall(r'nbs/tutorials/(\w+)\.ipynb', (ROOT/'README.md').read_text()) == [o.stem for o in TUTORIALS]

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: o.stem)
def test_links_between_notebooks(path):
    "Links to files lead to files"
    text = '\n'.join(''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown')
    assert [o for o in re.findall(r'\]\(([^)#:]+\.\w+)\)', text) if not (path.parent/o).is_file()] == []

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: o.stem)
def test_title_has_a_cell_of_its_own(path):
    "nbdev makes the title and its line the head of a page, and drops what else their cell holds"
    first = next(c for c in json.loads(path.read_text())['cells'] if c['cell_type']=='markdown')
    assert re.fullmatch(r'# .+\n\n?> .+', ''.join(first['source'])), f'cell {first["id"]}: a title and a line that starts with >, the rest in a cell of its own'

def test_cell_ids_are_unique():
    ids = [c['id'] for p in NOTEBOOKS for c in json.loads(p.read_text())['cells']]
    assert len(ids) == len(set(ids))

def test_no_data_in_the_repository():
    "The licences of the data sets forbid shipping them"
    kinds,apart = {'.zip','.data','.dat','.base','.test','.parquet','.csv','.pkl','.pth'},{'.venv','demo','.git','models','build','.hypothesis'}
    files = [o.relative_to(ROOT) for o in ROOT.rglob('*') if o.suffix in kinds and o.is_file()]
    assert [o for o in files if not apart & set(o.parts)] == []

@pytest.mark.parametrize('name', [m for m in MODULES if m != 'all'])
def test_public_things_are_documented(name):
    "Every public class has a docstring, every public function one of one line"
    src = (ROOT/f'fastcollab/{name}.py').read_text()
    for node in ast.walk(ast.parse(src)):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        if isinstance(node, ast.ClassDef): assert ast.get_docstring(node), f'{name}.{node.name} has no docstring'
    for node in ast.parse(src).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_') and not node.decorator_list:
            assert ast.get_docstring(node) and '\n' not in ast.get_docstring(node), f'{name}.{node.name} wants a docstring of one line'

@pytest.mark.parametrize('name', [m for m in MODULES if m != 'all'])
def test_public_methods_are_documented(name):
    "Methods and classmethods of public classes have a docstring too; fastai and torch document what overrides theirs, events of callbacks included"
    module = importlib.import_module(f'fastcollab.{name}')
    own = lambda o: o.__module__==module.__name__
    classes = [o for o in vars(module).values() if isinstance(o, type) and own(o) and o.__name__[0]!='_']
    missing = []
    for cls in classes:
        theirs = {o for b in cls.__mro__ if not b.__module__.startswith('fastcollab') for o in vars(b)} | (set(_events) if issubclass(cls, Callback) else set())
        fns = {o:inspect.unwrap(getattr(f, '__func__', f)) for o,f in vars(cls).items() if o[0]!='_' and o not in theirs and not isinstance(f, property)}
        missing += [f'{cls.__name__}.{o}' for o,f in fns.items() if inspect.isfunction(f) and own(f) and not f.__doc__]
    assert missing == []
