"Conditions on tables: every operator, missing values, a reference in pandas, and that nothing of a text is ever run"
import builtins, os, re, subprocess, warnings

import numpy as np, pandas as pd, pytest
from fastcollab.recommend.filters import where
from hypothesis import given, settings, strategies as st

FILMS = pd.DataFrame(dict(title=['Heat (1995)','Toy Story (1995)','Alien (1979)',"It's Complicated",'Amélie (2001)'],
    genres=['Action|Crime','Comedy| Children','Horror|Sci-Fi','Comedy','Romance|Comedy'], year=[1995,1995,1979,2009,2001], score=[8.3,-1.5,8.5,0.,-2.],
    seats=[7,9,1979,2000,5], stock=[True,False,True,False,True], lead=['Pacino','Hanks','Weaver','Streep','Tautou']))
GAPS = pd.DataFrame(dict(year=[1995,np.nan,1979], seats=pd.array([1,None,3], dtype='Int64'), title=['Heat',None,'Alien'], genres=['Action|Crime',None,'']))
SETS = dict(genres='|')

FLAGS = pd.DataFrame(dict(plain=[True,False,True], nullable=pd.array([True,None,False], dtype='boolean'), mixed=[True,None,np.nan], text=['a','b','c'], none=[None]*3))

def rows(text, table=FILMS): return np.flatnonzero(where(table, text, SETS)).tolist()

HOLDS = [ # Condition and the rows of FILMS that fulfil it
    ('year == 1995', [0,1]), ('year != 1995', [2,3,4]), ('year < 1995', [2]), ('year <= 1995', [0,1,2]), ('year > 1995', [3,4]), ('year >= 1995', [0,1,3,4]),
    ('1995 == year', [0,1]), ('1995 < year', [3,4]), ('2001 >= year', [0,1,2,4]),
    ('score > -2', [0,1,2,3]), ('score == -1.5', [1]), ('-2 < score < 8.4', [0,1,3]), ('score in [-2, 8.5]', [2,4]), ('score == 0', [3]), ('score >= 8.3e0', [0,2]),
    ('1979 < year < 2005', [0,1,4]), ('1979 <= year <= 1995 != seats', [0,1,2]), ('1970 < year == seats', [2]), ('seats < year < 2001 < seats', []),
    ('year > seats', [0,1,3,4]), ('year != seats', [0,1,3,4]), ('year == seats', [2]),
    ('year in [1979, 2009]', [2,3]), ('year in (1979, 2009)', [2,3]), ('year in {1979, 2009}', [2,3]), ('year not in [1979, 2009]', [0,1,4]), ('year in []', []),
    ('year in [1979.0]', [2]), ("year in [1979, 'a']", [2]), ("year == 'x'", []), ("year != 'x'", [0,1,2,3,4]),
    ("lead == 'Hanks'", [1]), ("lead > 'Pacino'", [2,3,4]), ("lead in ['Hanks', 'Streep']", [1,3]), ("'Hanks' == lead", [1]), ("title < lead", [0,2,3,4]),
    ("'Comedy' in genres", [1,3,4]), ("'Children' in genres", [1]), ("'Com' in genres", []), ("'Sci' in genres", []), ("'Sci-Fi' in genres", [2]),
    ("'Comedy' not in genres", [0,2]), ("'' in genres", []), ("'Comedy|Children' in genres", []), ("genres == 'Comedy'", [3]),
    ("'95' in title", [0,1]), ("'(' in title", [0,1,2,4]), ("'.' in title", []), ("'H' in lead", [1]), ("'h' in lead", []), ("'Toy' not in title", [0,2,3,4]),
    ("'Amélie' in title", [4]), ("'é' in title", [4]), ('"It\'s" in title', [3]), ("'It\\'s' in title", [3]), ('title == "It\'s Complicated"', [3]),
    ('stock', [0,2,4]), ('not stock', [1,3]), ('stock == True', [0,2,4]), ('stock != True', [1,3]), ('stock and year < 1990', [2]), ('year > 2000 or stock', [0,2,3,4]),
    ('stock == False or year == 1979', [1,2,3]), ('not year == 1995 and not stock', [3]), ('not (year == 1995 and not stock)', [0,2,3,4]),
    ("year == 1995 or year == 1979 and 'Comedy' in genres", [0,1]), ("(year == 1995 or year == 1979) and 'Comedy' in genres", [1]), ('not not stock', [0,2,4]),
    ('year > 999999999999999999999999999999', []), ('year > 1e400', []), ('  year == 1979  ', [2]), ('(year\n== 1979)', [2])]

@pytest.mark.parametrize('text,want', [('plain', [0,2]), ('nullable', [0]), ('mixed', [0]), ('not mixed', [1,2]), ('not nullable', [1,2]), ('plain and not mixed', [2]),
    ('nullable == True', [0]), ('mixed == True', [0])])
def test_missing_is_not_true(text, want):
    "A Boolean column may have gaps, which are False"
    assert rows(text, FLAGS)==want
    for o in ('text','none'):
        with pytest.raises(ValueError, match='is no comparison'): rows(o, FLAGS)

@pytest.mark.parametrize('text,want', HOLDS, ids=[o[0] for o in HOLDS])
def test_what_holds(text, want):
    "The rows that a reader would name, as a plain mask"
    res = where(FILMS, text, SETS)
    assert isinstance(res, np.ndarray) and res.dtype==bool and res.shape==(5,)
    assert np.flatnonzero(res).tolist()==want

def test_sets_and_text_are_told_apart():
    "The same question asks for a category in a column of sets, and for a piece in a column of text; the separator may be any"
    assert rows("'Com' in genres")==[] and np.flatnonzero(where(FILMS, "'Com' in genres")).tolist()==[1,3,4]
    assert np.flatnonzero(where(FILMS.assign(genres=FILMS.genres.str.replace('|', ', ')), "'Crime' in genres", dict(genres=', '))).tolist()==[0]

@pytest.mark.parametrize('text', ['year == 1995 or year != 1995', 'year < 3000', 'year > 0', 'year == year', 'seats >= 0', 'seats != 7', 'year <= 3000 and seats <= 3000',
    "title != 'x'", "title >= ''", "'' in title", 'year in [1995, 1979]', 'seats not in [7]', 'year not in [7]', "title not in ['x']", "'x' not in title", "'x' not in genres"])
def test_missing_values_fulfil_no_comparison(text):
    "Row 1 is missing everywhere: none of the comparisons holds there, and all of them hold elsewhere"
    assert rows(text, GAPS)==[0,2]

def test_not_of_a_missing_value():
    "`not` turns the answer around: what was not fulfilled is taken"
    assert rows('not year == 1995', GAPS)==[1,2] and rows("not 'Action' in genres", GAPS)==[1,2]

@pytest.mark.parametrize('table', [FILMS[:0], FILMS[:1], FILMS.set_index('title', drop=False), FILMS.set_axis([3,3,3,1,1])], ids=['empty','one','named','repeated'])
def test_any_index(table):
    "The mask is by position, whatever the index"
    want = (table.year.to_numpy()>1990)&(table.seats.to_numpy()<table.year.to_numpy())
    assert where(table, 'year > 1990 and seats < year').tolist()==want.tolist()

@pytest.mark.parametrize('n', [1,10,190])
def test_deep_nesting(n):
    "As deep as Python parses"
    assert rows('('*n+'year == 1979'+')'*n)==[2]
    assert rows('not '*n+'stock')==([0,2,4] if n%2==0 else [1,3])
    assert rows(' or '.join(f'year == {1990+k}' for k in range(min(n, 100))))==([0,1,3,4] if n>10 else [0,1] if n>5 else [])

def test_length():
    "2,000 characters are a condition, 2,001 are an error"
    text = 'year in [1979,'+'1,'*900+'1]'
    text += ' '*(1999-len(text))
    assert rows(text+' ')==[2] and rows('stock'+' '*1995)==[0,2,4]
    with pytest.raises(ValueError, match=r'2,001 characters, e.g. .*2,000 are allowed'): where(FILMS, text+'  ')

HOSTILE = ["__import__('os')", "__import__('os').system('touch hacked')", "__import__('os').system('touch hacked') == 0", "year == __import__('os').system('touch hacked')",
    "year in [__import__('os').system('touch hacked')]", "open('hacked', 'w')", "year > open('hacked', 'w').write('x')", "exec('raise SystemExit') or stock",
    "eval('1') == year", "(lambda: open('hacked', 'w'))()", 'lambda: year', 'year == (lambda: 3)', '[o for o in year]', 'year in [o for o in (1,)]', '{o: 1 for o in year}',
    'stock and (x for x in [1])', 'title.str', 'title.upper() == 1', 'year.__class__ == 1', "''.__class__.__mro__ == year", 'year == title.values', 'year(1)', 'year == abs(-3)',
    'stock()', '(x := 3)', '(year := 3)', '(x := year) > 3', 'stock and (x := stock)', "f'{year}'", "lead == f'{lead}'", "f'{open(\"hacked\", \"w\")}' == lead",
    "year[0]", 'year[0] == 1995', 'year == title[0]', 'year == [1995][0]', 'title[1:]', 'await year', 'await year == 3', '(yield)', '(yield from year)', 'year if stock else seats',
    'stock if True else stock', 'year + 1 == 1996', 'year * 2', 'year ** year', 'year == 2**9999999', "lead == 'a'*10**9", '~stock', '-year == 3', '+year > 3', 'year | 3', 'stock & stock',
    '*year', '(*year,)', 'year in [*title]', 'year in {**title}', '...', 'year == ...', 'None', 'year == None', 'year is None', 'year is not 3', 'year is year', '1j == year', "year == b'x'",
    'print', '__name__', '__builtins__', 'globals()', "'' == ''", '1 == 1', '1 < 2 < year', 'True', 'not 1', 'year', 'lead', 'not year', '1995', "'Heat'", '[]', '()', '{}', '{}[0]',
    'import os', 'year == 1; stock', 'year = 3', 'del year', 'pass', 'assert stock', 'year == 3\nstock', 'return', 'async', 'year ==', '== 3', '(year', 'year)', "'", '"""', '@', '\\', '\0', '\ud800',
    'year = = 3', 'year =< 3', 'year <> 3', 'year === 3', 'year && stock', '!stock', 'stock AND stock', 'year in', 'in year', 'year in 3', "year in 'abc'", 'year in year', '3 in year', 'year in (1995)',
    "['Comedy'] in genres", "[1995] == year", 'year < [3]', 'year in [[1995]]', 'year in [None]', 'year in {1: 2}', "year < 'a'", "'a' > year", 'lead > 3', 'lead < year', "title < 3 < year", '-True < year', '--3 < year',
    'year == -lead', 'a.b.c', 'stock.any', 'year @ year', 'year == 3 if stock', 'not', 'and', 'stock and', 'stock or or stock', 'year > 9' + '9'*400 + ' + 1', '('*300+'stock'+')'*300, 'year == '+'-'*480+'3']

@pytest.mark.parametrize('text', HOSTILE, ids=range(len(HOSTILE)))
def test_all_else_is_refused(text, monkeypatch, tmp_path):
    "One ValueError (KeyError for a name) that shows the condition; nothing is called, imported, opened or written"
    monkeypatch.chdir(tmp_path)
    def never(*args, **kwargs): pytest.fail(f'{args} was called')
    with monkeypatch.context() as m:
        for o in ('eval','exec','open','print','input','breakpoint'): m.setattr(builtins, o, never)
        for mod,name in ((os,'system'),(os,'popen'),(subprocess,'Popen')): m.setattr(mod, name, never)
        with warnings.catch_warnings(), pytest.raises((ValueError,KeyError)) as e:
            warnings.simplefilter('ignore', (SyntaxWarning,DeprecationWarning))
            where(FILMS, text, SETS)
    assert repr(text)[1:12].rstrip("'\"") in str(e.value) or repr(text)[1:12] in e.value.args[0]
    assert list(tmp_path.iterdir())==[]

@pytest.mark.parametrize('text', ['9'*400, '1'+'0'*330], ids=['9','10'])
@pytest.mark.parametrize('op', ['>','==','in'])
def test_numbers_beyond_all_floats(text, op):
    "A whole number that no float can hold is larger than all of them"
    for col in ('year','score'): assert rows(f'{col} {op} {text}' if op!='in' else f'{col} in [{text}]')==[]

def test_escapes_are_quiet():
    "A backslash that means nothing to Python is a backslash, and nobody is warned"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert rows(r"'\d' in title")==[]

WRONG = [ # What is no condition, the error, and words of its message
    ('', ValueError, ["''", 'year >= 1990']), ('   ', ValueError, ["'   '", 'year >= 1990']), (None, ValueError, ['None', 'year >= 1990']), (3, ValueError, ['3', 'year >= 1990']),
    (b'year > 3', ValueError, ["b'year > 3'"]), ('yaer > 1990', KeyError, ["'yaer'", "'year'", 'columns']), ("'x' in genre", KeyError, ["'genre'", "'genres'"]),
    ('year > seat', KeyError, ["'seat'", 'columns']), ('stocks', KeyError, ["'stocks'"]), ('year >', ValueError, ["'year >'", 'no condition', 'invalid syntax']),
    ("year in 'abc'", ValueError, ["'abc'", 'brackets']), ("'3' in year", ValueError, ["'year'", 'int64', 'not text']), ('3 in title', ValueError, ['3', 'no text']),
    ("year < 'x'", ValueError, ["'year'", 'no order']), ('year == [3]', ValueError, ['several constants', 'in']), ('year == seats + 1', ValueError, ["'seats + 1'", 'no constant']),
    ('title.upper()', ValueError, ["'title.upper()'", 'no comparison', 'columns, constants, comparisons']), ('1 == 2', ValueError, ['no column', "'1'", "'2'"]),
    ('year is 3', ValueError, ['no comparison']), ('year in seats', ValueError, ['two columns']), ('stock and year', ValueError, ["'year'", 'no comparison'])]

@pytest.mark.parametrize('text,error,words', WRONG, ids=[str(o[0]) for o in WRONG])
def test_what_is_wrong_is_said(text, error, words):
    "The type of error, what came and what to do"
    with pytest.raises(error) as e: where(FILMS, text, SETS)
    assert [o for o in words if o not in e.value.args[0]]==[]

def test_reads_do_not_write():
    "The table and the separators are as before, and the mask is not a view of a column"
    before,sets = FILMS.copy(deep=True),dict(SETS)
    for text,_ in HOLDS:
        res = where(FILMS, text, sets)
        if res.flags.writeable: res[:] = ~res
    pd.testing.assert_frame_equal(FILMS, before)
    assert sets==SETS

# Against a second implementation

TABLE = pd.DataFrame(dict(a=[0,1,2,3,-1,5], b=[1,1,0,3,7,-2], f=[.5,np.nan,-1.,2.,np.nan,1.], s=['a','bc','b|c',None,'','c|a'], t=[True,False,True,True,False,False]))
OPS = {'==':lambda a,b: a==b, '!=':lambda a,b: a!=b, '<':lambda a,b: a<b, '<=':lambda a,b: a<=b, '>':lambda a,b: a>b, '>=':lambda a,b: a>=b}
numbers,texts = st.sampled_from([-2,-1,0,1,2,3,.5,-.5,1e3]),st.sampled_from(['','a','b','c','bc','b|c','|'])

def missing(o): return o is None or isinstance(o, float) and np.isnan(o)
def by_row(f): return np.array([bool(f(r)) for r in TABLE.astype(object).to_dict('records')])

@st.composite
def conditions(draw, depth=3):
    "A condition as text, and the rows that fulfil it, row by row"
    kind = draw(st.sampled_from(['chain','in','piece','bool'] + ['not','and','or']*(depth>0)))
    if kind=='bool': return 't',by_row(lambda r: r['t'])
    if kind=='not':
        text,mask = draw(conditions(depth=depth-1))
        return f'not ({text})',~mask
    if kind in ('and','or'):
        parts = [draw(conditions(depth=depth-1)) for _ in range(draw(st.integers(2, 3)))]
        return f' {kind} '.join(f'({o})' for o,_ in parts),(np.all if kind=='and' else np.any)([m for _,m in parts], axis=0)
    if kind=='in':
        col,values,no = draw(st.sampled_from('ab')),draw(st.lists(numbers, max_size=3)),draw(st.booleans())
        return f'{col} {"not "*no}in {values}',by_row(lambda r: (r[col] in values)!=no)
    if kind=='piece':
        col,value = 's',draw(texts)
        return f'{value!r} in {col}',by_row(lambda r: isinstance(r[col], str) and value in r[col])
    sides,ops = [draw(st.sampled_from('abf'))],[]
    for _ in range(draw(st.integers(1, 3))):
        ops.append(draw(st.sampled_from(sorted(OPS))))
        sides.append(draw(numbers) if isinstance(sides[-1], str) and draw(st.booleans()) else draw(st.sampled_from('abf')))
    def holds(r):
        got = [r[o] if isinstance(o, str) else o for o in sides]
        return all(not missing(x) and not missing(y) and OPS[o](x, y) for x,o,y in zip(got, ops, got[1:]))
    return ' '.join(f'{o} {s}' for o,s in zip(['', *ops], sides)).strip(),by_row(holds)

@settings(max_examples=150, deadline=None)
@given(conditions())
def test_against_rows_in_python(case):
    "Random conditions hold in the rows in which Python itself says so"
    text,want = case
    assert where(TABLE, text).tolist()==want.tolist(), text

@settings(max_examples=80, deadline=None)
@given(st.text(max_size=30)|st.text('aft<>=!()[]\'" 019.-andortinx,', max_size=30))
def test_no_text_does_anything_else(text):
    "Whatever comes, a mask or one of the two errors"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', (SyntaxWarning,DeprecationWarning))
        try: res = where(TABLE, text)
        except (ValueError,KeyError) as e: assert re.search('condition', str(e))
        else: assert res.shape==(6,) and res.dtype==bool

@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=['Cs']), max_size=6), min_size=1, max_size=6), st.data())
def test_any_text_in_quotes(values, data):
    "Quotes, backslashes, line ends and any script: a text is found as it stands in the table"
    table,one = pd.DataFrame(dict(s=values)),data.draw(st.sampled_from(values))
    assert where(table, f's == {one!r}').tolist()==[o==one for o in values]
    assert where(table, f'{one!r} in s').tolist()==[one in o for o in values]
    assert where(table, f's in [{one!r}]').tolist()==[o==one for o in values]
