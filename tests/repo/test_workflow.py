"What the package promises is what CI runs; the light install leaves out what nothing imports"
import re, subprocess, sys
from pathlib import Path

import yaml

try: import tomllib
except ImportError: import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf8'))['project']
JOBS = yaml.safe_load((ROOT/'.github/workflows/test.yml').read_text(encoding='utf8'))['jobs']
MATRIX = JOBS['versions']['strategy']['matrix']

def runs():
    "Python and pins of each run of one system"
    left_out = [(o['python'],o['pins']) for o in MATRIX['exclude']]
    return [(p,pins) for p in MATRIX['python'] for pins in MATRIX['pins'] if (p,pins) not in left_out]

def test_every_python_runs_with_all_versions_that_it_has():
    "From the oldest Python that is promised; numpy 1.26 and 2, pandas 2 and 3"
    assert MATRIX['python'][0]==PROJECT['requires-python'].removeprefix('>=')
    minor = [int(o.partition('.')[2]) for o in MATRIX['python']]
    assert minor==list(range(minor[0], minor[-1]+1)) and {p for p,_ in runs()}==set(MATRIX['python'])
    assert {pins for _,pins in runs()}=={'numpy<2 pandas<3 pyarrow<26','pandas<3',''} and ('3.14','') in runs()

def test_classifiers_are_what_ci_covers():
    "A system is promised if the workflow runs on it"
    systems = {'ubuntu-latest':'POSIX :: Linux', 'macos-latest':'MacOS', 'windows-latest':'Microsoft :: Windows'}
    promised = {o.removeprefix('Operating System :: ') for o in PROJECT['classifiers'] if o.startswith('Operating')}
    assert promised=={systems[o] for o in MATRIX['os']}
    pythons = {o.rpartition(' ')[2] for o in PROJECT['classifiers'] if re.search(r':: 3\.\d+$', o)}
    assert pythons==set(MATRIX['python'])

def test_light_install():
    "All dependencies of ours and of fastai but those that nothing here imports"
    from importlib.metadata import requires
    def name(o): return re.split(r'[<>=;\[ ]', o)[0].lower()
    out = subprocess.run([sys.executable, ROOT/'tools/light.py'], capture_output=True, text=True, check=True).stdout
    listed,fastai = {name(o) for o in out.split()},{name(o) for o in requires('fastai') if 'extra ==' not in o}
    ours = {name(o) for o in PROJECT['dependencies']}
    assert listed==(fastai|ours)-{'spacy','torchvision','fastai'}
    texts = [o.read_text(encoding='utf8') for o in (ROOT/'fastcollab').rglob('*.py')]
    assert not any(re.search(r'^\s*(import|from) (spacy|torchvision)', o, re.M) for o in texts)
    for o in ('tools/light.py','--no-deps fastai'): assert any(o in str(s) for s in JOBS['light']['steps'])

def test_sharding_is_run_with_the_line_that_is_documented():
    steps = [o.get('run', '') for o in JOBS['sharding']['steps']]
    text = (ROOT/'nbs/train/06_sharding.ipynb').read_text(encoding='utf8')
    line = next(o for o in steps if 'torchrec' in o)
    assert line in text and any('[dev,distributed]' in o for o in steps)
    assert 'distributed' in PROJECT['optional-dependencies']
    assert steps[-1].endswith('tests/train/test_sharding.py')
