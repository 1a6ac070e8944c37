"Filters on tables: every operator, missing values, random filters against plain Python; the text never runs as code"
import builtins, os, re, subprocess, warnings

import numpy as np, pandas as pd, pytest
from fastcollab.recommend.filters import filter_mask
from hypothesis import given, settings, strategies as st

FILMS = pd.DataFrame(dict(title=['Heat (1995)','Toy Story (1995)','Alien (1979)',"It's Complicated",'Amélie (2001)'],
    genres=['Action|Crime','Comedy| Children','Horror|Sci-Fi','Comedy','Romance|Comedy'],
    year=[1995,1995,1979,2009,2001], score=[8.3,-1.5,8.5,0.,-2.],
    seats=[7,9,1979,2000,5], stock=[True,False,True,False,True], lead=['Pacino','Hanks','Weaver','Streep','Tautou']))
GAPS = pd.DataFrame(dict(year=[1995,np.nan,1979], seats=pd.array([1,None,3], dtype='Int64'),
    title=['Heat',None,'Alien'], genres=['Action|Crime',None,'']))
SEPARATORS = dict(genres='|')

FLAGS = pd.DataFrame(dict(plain=[True,False,True], nullable=pd.array([True,None,False], dtype='boolean'),
    mixed=[True,None,np.nan], text=['a','b','c'], none=[None]*3))

def rows(text, table=FILMS): return np.flatnonzero(filter_mask(table, text, SEPARATORS)).tolist()

HOLDS = [ # Filter and the rows of FILMS that fulfill it
    ('year == 1995', [0,1]), ('year != 1995', [2,3,4]), ('year < 1995', [2]), ('year <= 1995', [0,1,2]),
    ('year > 1995', [3,4]), ('year >= 1995', [0,1,3,4]),
    ('1995 == year', [0,1]), ('1995 < year', [3,4]), ('2001 >= year', [0,1,2,4]),
    ('score > -2', [0,1,2,3]), ('score == -1.5', [1]), ('-2 < score < 8.4', [0,1,3]), ('score in [-2, 8.5]', [2,4]),
    ('score == 0', [3]), ('score >= 8.3e0', [0,2]),
    ('1979 < year < 2005', [0,1,4]), ('1979 <= year <= 1995 != seats', [0,1,2]), ('1970 < year == seats', [2]),
    ('seats < year < 2001 < seats', []),
    ('year > seats', [0,1,3,4]), ('year != seats', [0,1,3,4]), ('year == seats', [2]),
    ('year in [1979, 2009]', [2,3]), ('year in (1979, 2009)', [2,3]), ('year in {1979, 2009}', [2,3]),
    ('year not in [1979, 2009]', [0,1,4]), ('year in []', []),
    ('year in [1979.0]', [2]), ("year in [1979, 'a']", [2]), ("year == 'x'", []), ("year != 'x'", [0,1,2,3,4]),
    ("lead == 'Hanks'", [1]), ("lead > 'Pacino'", [2,3,4]), ("lead in ['Hanks', 'Streep']", [1,3]),
    ("'Hanks' == lead", [1]), ("title < lead", [0,2,3,4]),
    ("'Comedy' in genres", [1,3,4]), ("'Children' in genres", [1]), ("'Com' in genres", []), ("'Sci' in genres", []),
    ("'Sci-Fi' in genres", [2]),
    ("'Comedy' not in genres", [0,2]), ("'' in genres", []), ("'Comedy|Children' in genres", []),
    ("genres == 'Comedy'", [3]),
    ("'95' in title", [0,1]), ("'(' in title", [0,1,2,4]), ("'.' in title", []), ("'H' in lead", [1]),
    ("'h' in lead", []), ("'Toy' not in title", [0,2,3,4]),
    ("'Amélie' in title", [4]), ("'é' in title", [4]), ('"It\'s" in title', [3]), ("'It\\'s' in title", [3]),
    ('title == "It\'s Complicated"', [3]),
    ('stock', [0,2,4]), ('not stock', [1,3]), ('stock == True', [0,2,4]), ('stock != True', [1,3]),
    ('stock and year < 1990', [2]), ('year > 2000 or stock', [0,2,3,4]),
    ('stock == False or year == 1979', [1,2,3]), ('not year == 1995 and not stock', [3]),
    ('not (year == 1995 and not stock)', [0,2,3,4]),
    ("year == 1995 or year == 1979 and 'Comedy' in genres", [0,1]),
    ("(year == 1995 or year == 1979) and 'Comedy' in genres", [1]), ('not not stock', [0,2,4]),
    ('year > 999999999999999999999999999999', []), ('year > 1e400', []), ('  year == 1979  ', [2]),
    ('(year\n== 1979)', [2])]

@pytest.mark.parametrize('text,want', [('plain', [0,2]), ('nullable', [0]), ('mixed', [0]), ('not mixed', [1,2]),
    ('not nullable', [1,2]), ('plain and not mixed', [2]),
    ('nullable == True', [0]), ('mixed == True', [0])])
def test_missing_is_not_true(text, want):
    "Gaps in a Boolean column count as False"
    assert rows(text, FLAGS)==want
    for o in ('text','none'):
        with pytest.raises(ValueError, match='is not a comparison'): rows(o, FLAGS)

@pytest.mark.parametrize('text,want', HOLDS, ids=[o[0] for o in HOLDS])
def test_matching_rows(text, want):
    "A plain mask of the rows that a reader would pick"
    res = filter_mask(FILMS, text, SEPARATORS)
    assert isinstance(res, np.ndarray) and res.dtype==bool and res.shape==(5,)
    assert np.flatnonzero(res).tolist()==want

def test_sets_and_text_are_told_apart():
    "`in` looks for a category in a column of sets and for a piece of text elsewhere; any separator works"
    assert rows("'Com' in genres")==[] and np.flatnonzero(filter_mask(FILMS, "'Com' in genres")).tolist()==[1,3,4]
    assert np.flatnonzero(filter_mask(FILMS.assign(genres=FILMS.genres.str.replace('|', ', ')), "'Crime' in genres",
        dict(genres=', '))).tolist()==[0]

@pytest.mark.parametrize('text', ['year == 1995 or year != 1995', 'year < 3000', 'year > 0', 'year == year',
    'seats >= 0', 'seats != 7', 'year <= 3000 and seats <= 3000',
    "title != 'x'", "title >= ''", "'' in title", 'year in [1995, 1979]', 'seats not in [7]', 'year not in [7]',
    "title not in ['x']", "'x' not in title", "'x' not in genres"])
def test_missing_values_fulfill_no_comparison(text):
    "Row 1 is missing everywhere: no comparison holds there, and every one holds elsewhere"
    assert rows(text, GAPS)==[0,2]

def test_not_of_a_missing_value():
    "`not` inverts the mask, so rows with a missing value match"
    assert rows('not year == 1995', GAPS)==[1,2] and rows("not 'Action' in genres", GAPS)==[1,2]

@pytest.mark.parametrize('table', [FILMS[:0], FILMS[:1], FILMS.set_index('title', drop=False),
    FILMS.set_axis([3,3,3,1,1])], ids=['empty','one','named','repeated'])
def test_any_index(table):
    "The mask goes by position, whatever the index"
    want = (table.year.to_numpy()>1990)&(table.seats.to_numpy()<table.year.to_numpy())
    assert filter_mask(table, 'year > 1990 and seats < year').tolist()==want.tolist()

@pytest.mark.parametrize('n', [1,10,190])
def test_deep_nesting(n):
    "Filters nest as deep as Python parses"
    assert rows('('*n+'year == 1979'+')'*n)==[2]
    assert rows('not '*n+'stock')==([0,2,4] if n%2==0 else [1,3])
    assert rows(' or '.join(f'year == {1990+k}' for k in range(min(n, 100))))==([0,1,3,4] if n>10 else [0,1] if n>5
        else [])

def test_length():
    "2,000 characters are a filter, 2,001 are an error"
    text = 'year in [1979,'+'1,'*900+'1]'
    text += ' '*(1999-len(text))
    assert rows(text+' ')==[2] and rows('stock'+' '*1995)==[0,2,4]
    with pytest.raises(ValueError, match=r'2,001 characters, e.g. .*2,000 are allowed'): filter_mask(FILMS, text+'  ')

HOSTILE = ["__import__('os')", "__import__('os').system('touch hacked')",
    "__import__('os').system('touch hacked') == 0", "year == __import__('os').system('touch hacked')",
    "year in [__import__('os').system('touch hacked')]", "open('hacked', 'w')", "year > open('hacked', 'w').write('x')",
    "exec('raise SystemExit') or stock",
    "eval('1') == year", "(lambda: open('hacked', 'w'))()", 'lambda: year', 'year == (lambda: 3)', '[o for o in year]',
    'year in [o for o in (1,)]', '{o: 1 for o in year}',
    'stock and (x for x in [1])', 'title.str', 'title.upper() == 1', 'year.__class__ == 1',
    "''.__class__.__mro__ == year", 'year == title.values', 'year(1)', 'year == abs(-3)',
    'stock()', '(x := 3)', '(year := 3)', '(x := year) > 3', 'stock and (x := stock)', "f'{year}'", "lead == f'{lead}'",
    "f'{open(\"hacked\", \"w\")}' == lead",
    "year[0]", 'year[0] == 1995', 'year == title[0]', 'year == [1995][0]', 'title[1:]', 'await year', 'await year == 3',
    '(yield)', '(yield from year)', 'year if stock else seats',
    'stock if True else stock', 'year + 1 == 1996', 'year * 2', 'year ** year', 'year == 2**9999999',
    "lead == 'a'*10**9", '~stock', '-year == 3', '+year > 3', 'year | 3', 'stock & stock',
    '*year', '(*year,)', 'year in [*title]', 'year in {**title}', '...', 'year == ...', 'None', 'year == None',
    'year is None', 'year is not 3', 'year is year', '1j == year', "year == b'x'",
    'print', '__name__', '__builtins__', 'globals()', "'' == ''", '1 == 1', '1 < 2 < year', 'True', 'not 1', 'year',
    'lead', 'not year', '1995', "'Heat'", '[]', '()', '{}', '{}[0]',
    'import os', 'year == 1; stock', 'year = 3', 'del year', 'pass', 'assert stock', 'year == 3\nstock', 'return',
    'async', 'year ==', '== 3', '(year', 'year)', "'", '"""', '@', '\\', '\0', '\ud800',
    'year = = 3', 'year =< 3', 'year <> 3', 'year === 3', 'year && stock', '!stock', 'stock AND stock', 'year in',
    'in year', 'year in 3', "year in 'abc'", 'year in year', '3 in year', 'year in (1995)',
    "['Comedy'] in genres", "[1995] == year", 'year < [3]', 'year in [[1995]]', 'year in [None]', 'year in {1: 2}',
    "year < 'a'", "'a' > year", 'lead > 3', 'lead < year', "title < 3 < year", '-True < year', '--3 < year',
    'year == -lead', 'a.b.c', 'stock.any', 'year @ year', 'year == 3 if stock', 'not', 'and', 'stock and',
    'stock or or stock', 'year > 9' + '9'*400 + ' + 1', '('*300+'stock'+')'*300, 'year == '+'-'*480+'3']

@pytest.mark.parametrize('text', HOSTILE, ids=range(len(HOSTILE)))
def test_everything_else_is_rejected(text, monkeypatch, tmp_path):
    "One ValueError (KeyError for a name) that shows the filter; nothing is called, imported, opened or written"
    monkeypatch.chdir(tmp_path)
    def never(*args, **kwargs): pytest.fail(f'{args} was called')
    with monkeypatch.context() as m:
        for o in ('eval','exec','open','print','input','breakpoint'): m.setattr(builtins, o, never)
        for mod,name in ((os,'system'),(os,'popen'),(subprocess,'Popen')): m.setattr(mod, name, never)
        with warnings.catch_warnings(), pytest.raises((ValueError,KeyError)) as e:
            warnings.simplefilter('ignore', (SyntaxWarning,DeprecationWarning))
            filter_mask(FILMS, text, SEPARATORS)
    assert repr(text)[1:12].rstrip("'\"") in str(e.value) or repr(text)[1:12] in e.value.args[0]
    assert list(tmp_path.iterdir())==[]

@pytest.mark.parametrize('text', ['9'*400, '1'+'0'*330], ids=['9','10'])
@pytest.mark.parametrize('op', ['>','==','in'])
def test_numbers_beyond_all_floats(text, op):
    "An integer that no float can hold is larger than every float"
    for col in ('year','score'): assert rows(f'{col} {op} {text}' if op!='in' else f'{col} in [{text}]')==[]

def test_escapes_are_quiet():
    "An unknown escape is a plain backslash, without a warning"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert rows(r"'\d' in title")==[]

WRONG = [ # Text that is not a filter, the error, and words in its message
    ('', ValueError, ["''", 'year >= 1990']), ('   ', ValueError, ["'   '", 'year >= 1990']),
    (None, ValueError, ['None', 'year >= 1990']), (3, ValueError, ['3', 'year >= 1990']),
    (b'year > 3', ValueError, ["b'year > 3'"]), ('yaer > 1990', KeyError, ["'yaer'", "'year'", 'columns']),
    ("'x' in genre", KeyError, ["'genre'", "'genres'"]),
    ('year > seat', KeyError, ["'seat'", 'columns']), ('stocks', KeyError, ["'stocks'"]),
    ('year >', ValueError, ["'year >'", 'not a filter', 'invalid syntax']),
    ("year in 'abc'", ValueError, ["'abc'", 'brackets']), ("'3' in year", ValueError, ["'year'", 'int64', 'not text']),
    ('3 in title', ValueError, ['3', 'not text']),
    ("year < 'x'", ValueError, ["'year'", 'no order']),
    ('year == [3]', ValueError, ['several constants', 'in compares']), ('year == seats + 1', ValueError,
        ["'seats + 1'", 'not a constant']),
    ('title.upper()', ValueError, ["'title.upper()'", 'not a comparison', 'columns, constants, comparisons']),
    ('1 == 2', ValueError, ['no column', "'1'", "'2'"]),
    ('year is 3', ValueError, ['not a comparison']), ('year in seats', ValueError, ['two columns']),
    ('stock and year', ValueError, ["'year'", 'not a comparison'])]

@pytest.mark.parametrize('text,error,words', WRONG, ids=[str(o[0]) for o in WRONG])
def test_error_messages(text, error, words):
    "The type of error, what came, and what to do"
    with pytest.raises(error) as e: filter_mask(FILMS, text, SEPARATORS)
    assert [o for o in words if o not in e.value.args[0]]==[]

def test_reads_do_not_write():
    "The table and the separators stay as they were, and the mask is not a view of a column"
    before,sets = FILMS.copy(deep=True),dict(SEPARATORS)
    for text,_ in HOLDS:
        res = filter_mask(FILMS, text, sets)
        if res.flags.writeable: res[:] = ~res
    pd.testing.assert_frame_equal(FILMS, before)
    assert sets==SEPARATORS

# Against a second implementation: random tables and random filters

CATEGORIES = ['a','b','b c','-','ü']
OPS = {'==':lambda a,b: a==b, '!=':lambda a,b: a!=b, '<':lambda a,b: a<b, '<=':lambda a,b: a<=b, '>':lambda a,b: a>b,
    '>=':lambda a,b: a>=b}
numbers,texts = st.sampled_from([-2,-1,0,1,2,3,.5,-.5,1e3]),st.sampled_from(['','a','b','c','bc','b|c','|','ü'])
KINDS = dict(i=numbers.filter(lambda o: isinstance(o, int)), j=numbers.filter(lambda o: isinstance(o, int)),
    f=numbers|st.none(), s=texts|st.none(),
    r=texts, g=st.lists(st.sampled_from(CATEGORIES), unique=True, max_size=3).map('|'.join)|st.none(), t=st.booleans(),
    m=st.booleans()|st.none())

def missing(o): return o is None or isinstance(o, float) and np.isnan(o)

@st.composite
def tables(draw):
    "A table of numbers, texts, sets and Booleans, some of them with gaps, under any index"
    rows = draw(st.lists(st.fixed_dictionaries(KINDS), min_size=1, max_size=8))
    df = pd.DataFrame(rows, columns=list(KINDS)).astype(dict(f=float, m='boolean'))
    return df.astype(dict(s=object, g=object)).set_axis(draw(st.permutations(range(len(df)))) if draw(st.booleans())
        else [7]*len(df))

def comparison(draw):
    "A chain of comparisons between columns of numbers and constants"
    sides,ops = [draw(st.sampled_from('ijf'))],[]
    for _ in range(draw(st.integers(1, 3))):
        ops.append(draw(st.sampled_from(sorted(OPS))))
        sides.append(draw(numbers) if isinstance(sides[-1], str) and draw(st.booleans())
            else draw(st.sampled_from('ijf')))
    def holds(r):
        got = [r[o] if isinstance(o, str) else o for o in sides]
        return all(not missing(x) and not missing(y) and OPS[o](x, y) for x,o,y in zip(got, ops, got[1:]))
    return ' '.join(f'{o} {s}' for o,s in zip(['', *ops], sides)).strip(),holds

def text_comparison(draw):
    op,value,col = draw(st.sampled_from(sorted(OPS))),draw(texts),draw(st.sampled_from('sr'))
    return f'{col} {op} {value!r}',lambda r: not missing(r[col]) and OPS[op](r[col], value)

def membership(draw):
    "`in` and `not in`: a value among several, a piece of text, or a category"
    no,kind = draw(st.booleans()),draw(st.sampled_from(['several','piece','category']))
    if kind=='several': col,values = draw(st.sampled_from('ijf')),draw(st.lists(numbers, max_size=3))
    if kind=='piece': col,value = draw(st.sampled_from('sr')),draw(texts)
    if kind=='category': col,value = 'g',draw(st.sampled_from(CATEGORIES+['','a|b','ab']))
    def has(r):
        return r[col] in values if kind=='several' else value in r[col] if kind=='piece' else value in filter(None,
            r[col].split('|'))
    text = f'{col} {"not "*no}in {values}' if kind=='several' else f'{value!r} {"not "*no}in {col}'
    return text,lambda r: not missing(r[col]) and has(r)!=no

def boolean(draw):
    col = draw(st.sampled_from('tm'))
    return col,lambda r: r[col] is True

LEAVES = [comparison,text_comparison,membership,boolean]

@st.composite
def filters(draw, depth=3):
    "A filter as text, and the same in Python: a function of a row"
    kind = draw(st.sampled_from([*LEAVES, *['not','and','or']*(depth>0)]))
    if kind in LEAVES: return kind(draw)
    if kind=='not':
        text,holds = draw(filters(depth=depth-1))
        return f'not ({text})',lambda r: not holds(r)
    parts = [draw(filters(depth=depth-1)) for _ in range(draw(st.integers(2, 3)))]
    return f' {kind} '.join(f'({o})' for o,_ in parts),lambda r: (all if kind=='and' else any)(o(r) for _,o in parts)

def by_row(table, holds):
    "The mask that plain Python gives, one row at a time"
    return [bool(holds({k:None if v is pd.NA else v for k,v in r.items()}))
        for r in table.astype(object).to_dict('records')]

@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(tables(), filters())
def test_against_rows_in_python(table, case):
    "Random filters on random tables match the rows that plain Python picks, and leave the table alone"
    (text,holds),before = case,table.copy(deep=True)
    mask = filter_mask(table, text, dict(g='|'))
    assert mask.dtype==bool and mask.tolist()==by_row(table, holds), text
    pd.testing.assert_frame_equal(table, before)

@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(tables(), filters(), filters(), st.data())
def test_laws(table, a, b, data):
    "`not` complements, De Morgan's laws hold, `and` narrows and `or` widens; a mask goes along with its rows"
    def mask(text, df=table): return filter_mask(df, text, dict(g='|'))
    (a,_),(b,_) = a,b
    assert (mask(f'not ({a})')==~mask(a)).all()
    assert (mask(f'not (({a}) and ({b}))')==mask(f'not ({a}) or not ({b})')).all()
    assert (mask(f'({a}) and ({b})')==mask(a)&mask(b)).all() and (mask(f'({a}) or ({b})')==mask(a)|mask(b)).all()
    rows = data.draw(st.lists(st.integers(0, len(table)-1), min_size=1))
    kept = table.iloc[rows]
    if all(kept[o].notna().any() for o in 'sm'): assert mask(a, kept).tolist()==mask(a)[rows].tolist()

@settings(max_examples=50, deadline=None)
@given(tables(), filters(depth=0))
def test_missing_values_never_match(table, case):
    "In a row without any values no comparison holds, positive or negative, and `not` turns that around"
    gone = pd.DataFrame({o:table[o].astype(object) for o in table}).iloc[:1].assign(**dict.fromkeys(table, None))
    text,both = case[0],pd.concat([table.astype(object), gone])
    types = dict(i='Int64', j='Int64', f=float, t='boolean', m='boolean')
    both = both.astype(types)
    assert not filter_mask(both, text, dict(g='|'))[-1] and filter_mask(both, f'not ({text})', SEPARATORS)[-1]
    assert filter_mask(both, text, dict(g='|'))[:-1].tolist()==filter_mask(table, text, SEPARATORS).tolist()

class Untouchable:
    "A value that a filter must never call"
    called = False
    def __call__(self, *args): self.called = True

expressions = st.recursive(st.sampled_from(['i','s','t','x','1',"'a'",'None','print','__import__']),
    lambda o: st.one_of(
        st.builds('{}({})'.format, o, o), st.builds('{}.{}'.format, o,
            st.sampled_from(['upper','__class__','values','str'])), st.builds('{}[{}]'.format, o, o),
        st.builds('({} {} {})'.format, o, st.sampled_from(['+','*','**','|','and','or','==','<','in','is']), o),
        st.builds('(lambda: {})'.format, o),
        st.builds('[{} for k in {}]'.format, o, o), st.builds('({} if {} else {})'.format, o, o, o),
        st.builds('(y := {})'.format, o), st.builds("f'{{{}}}'".format, o)), max_leaves=6)

@settings(max_examples=200, deadline=None)
@given(expressions)
def test_nothing_is_executed(text):
    "Random Python expressions give a mask or one of the two errors, and no value of the table is called"
    value = Untouchable()
    table = pd.DataFrame(dict(i=[1,2], s=['a','b'], t=[True,False])).assign(x=pd.Series([value,value], dtype=object))
    def never(*args, **kwargs): raise AssertionError(f'{args} ran')
    old = builtins.print
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', (SyntaxWarning,DeprecationWarning))
        builtins.print = never
        try: assert filter_mask(table, text).shape==(2,)
        except (ValueError,KeyError) as e: assert re.search('filter', str(e))
        finally: builtins.print = old
    assert not value.called, text

TABLE = pd.DataFrame(dict(a=[0,1,2,3,-1,5], f=[.5,np.nan,-1.,2.,np.nan,1.], t=[True,False,True,True,False,False]))

@settings(max_examples=80, deadline=None)
@given(st.text(max_size=30)|st.text('aft<>=!()[]\'" 019.-andortinx,', max_size=30))
def test_any_text_is_a_mask_or_an_error(text):
    "Any text gives a mask or one of the two errors"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', (SyntaxWarning,DeprecationWarning))
        try: res = filter_mask(TABLE, text)
        except (ValueError,KeyError) as e: assert re.search('filter', str(e))
        else: assert res.shape==(6,) and res.dtype==bool

@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=['Cs']), max_size=6), min_size=1, max_size=6), st.data())
def test_any_text_in_quotes(values, data):
    "Quotes, backslashes, line ends, any script: text is found exactly as it stands in the table"
    table,one = pd.DataFrame(dict(s=values)),data.draw(st.sampled_from(values))
    assert filter_mask(table, f's == {one!r}').tolist()==[o==one for o in values]
    assert filter_mask(table, f'{one!r} in s').tolist()==[one in o for o in values]
    assert filter_mask(table, f's in [{one!r}]').tolist()==[o==one for o in values]
