"""Print what fastcollab and fastai need, without spacy, torchvision and fastai itself

    python tools/light.py > light.txt
    pip install -r light.txt
    pip install --no-deps fastai fastcollab

Nothing here imports spacy or torchvision, but pip can't leave them out while it installs fastai's own list."""
import re
from pathlib import Path

# of fastai's own list; versions as it wants them
FASTAI = ['cloudpickle','fasttransform>=0.0.3','packaging','pillow>=9.0.0','plum-dispatch<2.10','pyyaml','requests']

def needs():
    "The dependencies of pyproject.toml, and fastai's"
    text = (Path(__file__).parents[1]/'pyproject.toml').read_text(encoding='utf8')
    listed = re.search(r'^dependencies = \[(.*?)^\]', text, re.M|re.S)[1]
    ours = [o for o in re.findall('"(.+?)"', listed) if not o.startswith('fastai')]
    return sorted(ours+FASTAI)

if __name__=='__main__': print('\n'.join(needs()))
