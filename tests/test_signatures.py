"What help() says: the comments beside arguments"
import ast, inspect, sys
from pathlib import Path

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

def untyped(node, cls=''):
    "Parameters of the functions in a syntax tree that have no type; `self`, `cls` and stars need none"
    for o in node.body:
        if isinstance(o, ast.ClassDef): yield from untyped(o, f'{o.name}.')
        if not isinstance(o, ast.FunctionDef) or o.name.startswith('_') and o.name!='__init__': continue
        for a in o.args.posonlyargs+o.args.args+o.args.kwonlyargs:
            if a.annotation is None and a.arg not in ('self','cls'): yield f'{cls}{o.name}',a.arg

def test_untyped_finds_parameters():
    "Methods too, keywords too; not what starts with an underscore"
    source = 'def f(a, b:int, *c, d=1, **e): pass\nclass C:\n    def __init__(self, x): pass\n    def _g(self, y): pass'
    assert list(untyped(ast.parse(source)))==[('f','a'),('f','d'),('C.__init__','x')]

def test_every_public_argument_has_a_type():
    "Of what `fastcollab.all` exports, and of the classes below it"
    own = [o for o in vars(door).values() if inspect.isclass(o) or inspect.isfunction(o)]
    names = {f'{o.__module__}.{o.__qualname__}' for o in own}
    names |= {f'{b.__module__}.{b.__qualname__}' for o in own if inspect.isclass(o) for b in o.__mro__}
    names = {o for o in names if o.startswith('fastcollab.')}
    modules = {o.rsplit('.', 1)[0] for o in names}
    trees = {o:ast.parse(Path(sys.modules[o].__file__).read_text(encoding='utf-8')) for o in modules}
    missing = [f'{m}.{f}({a})' for m,tree in trees.items() for f,a in untyped(tree) if f'{m}.{f.split(".")[0]}' in names]
    assert len(names)>100 and not missing
