"300 odd calls of `make attack`, drawn by a seed: each is answered right, or refused with one clear error"
import random

import pytest, torch
from attacks.run import KINDS, cases
from attacks.verdict import judge

# These train, save and load a table of their own, or use a solver that may have to be compiled: `make attack` has them
DEAR = 'load(', 'clicks(', 'sets', 'fit_sgd(', 'als', 'sgd', 'gibbs', 'auto', 'resume', 'lr_find', 'interpret'

def drawn(kind):
    "60 cases of a kind, without dear ones"
    def is_dear(o): return kind in ('frames','events','arguments') and any(k in o.name for k in DEAR)
    return random.Random(0).sample([o for o in cases([kind]) if not is_dear(o)], 60)

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    "As in `make attack`"
    torch.set_num_threads(1)

@pytest.mark.parametrize('kind', KINDS)
def test_right_or_one_clear_error(kind):
    "No raw traceback, no wrong answer, no hang"
    outcomes = [judge(o, 100) for o in drawn(kind)]   # seconds: a kernel may have to be compiled
    bad = [f'{o.case.name}: {o.verdict}: {o.text}' for o in outcomes if o.verdict not in ('right','error')]
    assert len(outcomes)==60 and not bad, '\n'.join(bad)
    assert {o.verdict for o in outcomes}=={'right','error'}
