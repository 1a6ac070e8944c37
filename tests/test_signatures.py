"What help() says: the comments beside arguments"
import inspect

import fastcollab.all as door, pytest
from fastcollab.signatures import argument_comments

@pytest.mark.parametrize('f,names', [(door.Recommender.recommend, ['users','k','filters']),
    (door.CollabDataLoaders.from_df, ['ratings','valid_pct','device']), (door.collab_learner, ['dls','arch','y_range']),
    (door.CollabLearner.fit_gibbs, ['sweeps','cbs']), (door.IdDropout, ['p']), (door.evaluate, ['model','k'])])
def test_help_shows_arguments(f, names):
    "Below the line that was there, each once"
    first,*rest = inspect.getdoc(f).splitlines()
    said = [o.split()[0].rstrip(':') for o in rest if o.startswith('    ')]
    assert first and 'Args:' in rest and [said.count(o) for o in names]==[1]*len(names)

def test_all_argument_comments_are_found():
    "As many as there are parameters with a comment, whatever way a list of them ends"
    source = '''
def one(a, b): return a
def two(
    a:tuple=(1,2), # A pair (of what):
    *rest, # More
    b=None, c=1): return b
class Shop:
    def __init__(self,
        name:str='', # Its name
    ): self.name = name
    def sell(self, # Nothing
        n:int=1, # How many
    )->float: # In dollars
        return n
'''
    assert argument_comments(source) == {
        'two':(['a (tuple, default (1,2)): A pair (of what):','*rest: More'], ''),
        'Shop.__init__':(["name (str, default ''): Its name"], ''), 'Shop.sell':(['n (int, default 1): How many'],
            'float: In dollars')}

def test_reprs_say_what_they_hold():
    df = door.synthetic_ratings(50, 40, 600, seed=0)
    dls = door.CollabDataLoaders.from_df(df, genre_name='genres', seed=0)
    learn = door.collab_learner(dls, n_factors=3)
    assert all(o in repr(dls) for o in ('480 ratings','120 to validate',"'userId'",'genres','batches of 64'))
    assert repr(learn).startswith('CollabLearner: HybridMF, RatingMSE, not trained yet; CollabDataLoaders: 480')
