"What all tests share: small frames, and which tests need data or a GPU that is not here"
import os
from pathlib import Path

import matplotlib, pytest, torch

matplotlib.use('agg')
from fastcollab.all import CollabDataLoaders, synthetic_ratings

DATA = os.environ.get('FASTCOLLAB_DATA')

def pytest_collection_modifyitems(items):
    "Without `FASTCOLLAB_DATA` or a GPU the tests that need them are skipped, and the summary says so"
    no_data = pytest.mark.skip(reason='FASTCOLLAB_DATA is not set: tests on real data are left out')
    no_cuda = pytest.mark.skip(reason='no CUDA device')
    for item in items:
        if item.get_closest_marker('data') and not DATA: item.add_marker(no_data)
        if item.get_closest_marker('cuda') and not torch.cuda.is_available(): item.add_marker(no_cuda)

@pytest.fixture(scope='session')
def data_dir():
    "The directory with the real data; a name that leads nowhere is an error, not a reason to skip"
    path = Path(DATA).resolve()
    assert path.is_dir(), f'FASTCOLLAB_DATA is {DATA}, which is no directory'
    return path

@pytest.fixture(scope='session')
def ratings():
    "5,000 ratings of 200 users for 100 items; tests must not write into it"
    return synthetic_ratings(200, 100, 5000)

@pytest.fixture
def dls(ratings): return CollabDataLoaders.from_df(ratings, item_name='title', seed=42, bs=64)
