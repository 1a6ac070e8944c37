"What all tests share: small tables, and what to do without real data, a GPU or a browser"
import os
from collections import Counter
from pathlib import Path

import matplotlib, matplotlib.pyplot as plt, pytest, torch
from hypothesis import settings

matplotlib.use('agg')
settings.register_profile('repeatable', derandomize=True)   # the same examples in every run
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'repeatable'))               # 'default' draws others
torch.set_num_threads(1)   # the batches here are small: threads that wait for each other cost more than they help
from fastcollab.all import CollabDataLoaders, synthetic_ratings

DATA = os.environ.get('FASTCOLLAB_DATA')

@pytest.hookimpl(tryfirst=True)   # before pytest looks at the markers that -m asks for
def pytest_collection_modifyitems(config, items):
    "Skip tests on real data without `FASTCOLLAB_DATA`, and say so; deselect those for a GPU without one"
    no_data = pytest.mark.skip(reason="FASTCOLLAB_DATA isn't set: tests on real data are skipped")
    for item in items:
        if item.get_closest_marker('data') and not DATA: item.add_marker(no_data)
        if 'browser' in item.fixturenames: item.add_marker('browser')
    no_gpu = [o for o in items if o.get_closest_marker('cuda') and not torch.cuda.is_available()]
    config.hook.pytest_deselected(items=no_gpu)
    items[:] = slow_files_first([o for o in items if o not in no_gpu])

def slow_files_first(items):
    "Tests in the order of their files, those with the most slow tests first: two processes then end at the same time"
    slow = Counter(o.path for o in items if o.get_closest_marker('slow') or o.get_closest_marker('browser'))
    return sorted(items, key=lambda o: (-slow[o.path],str(o.path)))   # stable: within a file, the order stays

@pytest.fixture(autouse=True)
def closed():
    "No figure stays open"
    yield
    plt.close('all')

@pytest.fixture(scope='session')
def data_dir():
    "The directory with the real data; a name that leads nowhere is an error, not a reason to skip"
    path = Path(DATA).resolve()
    assert path.is_dir(), f'FASTCOLLAB_DATA is {DATA}, but there is no such folder'
    return path

@pytest.fixture(scope='session')
def ratings():
    "5,000 ratings of 200 users for 100 items; tests must not write into it"
    return synthetic_ratings(200, 100, 5000)

@pytest.fixture
def dls(ratings): return CollabDataLoaders.from_df(ratings, item_name='title', seed=42, bs=64)

@pytest.fixture(scope='session')
def browser(tmp_path_factory):
    "Headless Chromium as a selenium driver; tests/browser.py has the questions to ask it"
    from browser import chromium
    driver = chromium(tmp_path_factory.mktemp('chromium'))
    if isinstance(driver, str): pytest.skip(driver)
    yield driver
    driver.quit()
