"Text files as people have them: separators, encodings, headers, decimal commas; read without being told how"
import bz2, codecs, gzip, io, lzma, warnings, zipfile

import numpy as np, pandas as pd, pytest
from fastcollab.all import CollabDataLoaders, movielens
from fastcollab.data.files import guess_layout, read_table
from hypothesis import given, settings, strategies as st

RATINGS = pd.DataFrame(dict(user=['u1','u2','u3','u1']*5, item=['Amélie','Das Boot, Teil 1','12 Angry Men','Ran']*5,
    rating=[4.5,3.,2.5,5.]*5, time=[874724710,874811110,874897510,874983910]*5))
NUMBERS = RATINGS.assign(user=[7,8,9,7]*5, item=[101,102,103,104]*5)
SEPARATORS = dict(comma=',', semicolon=';', tab='\t', bar='|', colons='::', space=' ')
def same(a, b): pd.testing.assert_frame_equal(a, b, check_dtype=False)
def text(df, sep, header=True):
    rows = [list(df)] if header else []
    return '\n'.join(sep.join(map(str, o)) for o in rows+df.to_numpy(object).tolist())+'\n'
def put(path, data):
    path.write_bytes(data)
    return path

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('header', [True,False])
@pytest.mark.parametrize('sep', SEPARATORS)
def test_separators(tmp_path, sep, header):
    "Each separator, with a header and without one"
    file = put(tmp_path/'ratings.txt', text(NUMBERS, SEPARATORS[sep], header).encode())
    got = read_table(file)
    assert list(got)==(list(NUMBERS) if header else [0,1,2,3])
    same(got.set_axis(list(NUMBERS), axis=1), NUMBERS)

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('sep', [',',';','\t','|'])
def test_quoted_text(tmp_path, sep):
    "Text that holds the separator, quotes and line ends"
    df = RATINGS.assign(item=[f'a{sep}b','"c"','d;e,f|g','two\nlines']*5)
    df.to_csv(tmp_path/'r.csv', sep=sep, index=False)
    same(read_table(tmp_path/'r.csv'), df)

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('encoding', ['utf-8','utf-8-sig','utf-16','utf-16-le','utf-16-be','utf-32'])
@pytest.mark.parametrize('sep', [',',';','::'])
def test_encodings(tmp_path, encoding, sep):
    "With and without a mark in front; the first column has its name"
    df = RATINGS.assign(item=RATINGS['item'].str.replace(',', ''))
    same(read_table(put(tmp_path/'r.csv', text(df, sep).encode(encoding))), df)

@pytest.mark.parametrize('sep', [',','::'])
def test_older_encodings(tmp_path, sep):
    "Western text is read, and one warning says which word to look at"
    df = RATINGS.assign(item=RATINGS['item'].str.replace(',', ''))
    file = put(tmp_path/'r.csv', text(df, sep).encode('latin-1'))
    with pytest.warns(UserWarning) as w: same(read_table(file), df)
    said, = (str(o.message) for o in w)
    assert all(o in said for o in ('r.csv is not UTF-8, and was read as cp1252', 'Amélie', '--encoding')), said
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        same(read_table(file, encoding='latin-1'), df)
    with pytest.raises(ValueError, match='r.csv is not utf-8: it holds the byte 0xe9'):
        read_table(file, encoding='utf-8')
    with pytest.raises(ValueError, match='r.csv: unknown encoding: utf9; try'): read_table(file, encoding='utf9')

def test_a_late_byte(tmp_path):
    "The byte that isn't UTF-8 may come after the part that was looked at"
    df = pd.concat([RATINGS.assign(item='Ran')]*2000+[RATINGS], ignore_index=True)
    df['item'] = df['item'].str.replace(',', '')
    with pytest.warns(UserWarning, match='Amélie'):
        same(read_table(put(tmp_path/'r.csv', text(df, ',').encode('cp1252'))), df)

PACKED = {'.gz':gzip.compress, '.bz2':bz2.compress, '.xz':lzma.compress}
def zipped(data):
    with zipfile.ZipFile(res := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('ratings.dat', data)
    return res.getvalue()
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('suffix', [*PACKED,'.zip'])
@pytest.mark.parametrize('sep', [';','::'])
def test_packed(tmp_path, suffix, sep):
    data = text(NUMBERS, sep, header=False).encode()
    file = put(tmp_path/f'r.dat{suffix}', PACKED.get(suffix, zipped)(data))
    same(read_table(file).set_axis(list(NUMBERS), axis=1), NUMBERS)

@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('sep', [';','\t','|'])
@pytest.mark.parametrize('header', [True,False])
def test_decimal_commas(tmp_path, sep, header):
    file = put(tmp_path/'r.csv', text(NUMBERS, sep, header).replace('.', ',').encode())
    same(read_table(file).set_axis(list(NUMBERS), axis=1), NUMBERS)

def test_points_stay_points(tmp_path):
    "A comma in a text is no decimal comma, and points win"
    df = RATINGS.assign(item=['a','1,5','3,5','b']*5)
    same(read_table(put(tmp_path/'r.csv', text(df, ';').encode())), df)

@pytest.mark.filterwarnings('error')
def test_what_you_say_counts(tmp_path):
    "Arguments of the reader come before guesses"
    file = put(tmp_path/'r.csv', text(NUMBERS, ';', header=False).encode())
    named = read_table(file, names=['a','b','c','d'])
    assert list(named)==['a','b','c','d'] and len(named)==20
    assert len(read_table(file, header=0))==19 and list(read_table(file, sep='x', header=None))==[0]
    assert len(read_table(file, delimiter=';', nrows=5))==5
    assert read_table(file, sep=';', header=None, usecols=[0,2]).shape==(20,2)
    assert read_table(put(tmp_path/'c.csv', b'# notes\nu;i;r\n1;2;3\n'), sep=';', comment='#').shape==(1,3)
    assert read_table(put(tmp_path/'s.csv', b'notes\nu;i;r\n1;2;3\n'), sep=';', skiprows=1).shape==(1,3)
    assert read_table(io.StringIO('u,i,r\n1,2,3\n')).shape==(1,3)

HEADERS = [('userId,movieId,rating\n1,2,3\n', ['userId','movieId','rating']), ('1,2,3\n4,5,6\n', [0,1,2]),
    ('u1,i1,4.0\nu2,i2,3\n', [0,1,2]), ('0,1,2\n7,8,3.5\n', ['0','1','2']), (',0,1,2\n0,7,8,3.5\n', None),
    ('a,b,c\nd,e,f\n', ['a','b','c']), (',user,item,rating\n0,7,8,3.5\n', None), ('1,2,-3.5e1\n', [0,1,2]),
    ('user,item,rating\n', ['user','item','rating'])]
@pytest.mark.parametrize('data,names', HEADERS)
def test_headers(tmp_path, data, names):
    "A first line with a number among its first fields is no header, unless it counts the columns"
    got = read_table(put(tmp_path/'r.csv', data.encode()))
    assert list(got)==(names or list(pd.read_csv(io.StringIO(data))))

def test_mixed_ids_are_text(tmp_path):
    "ISBNs of digits far from others are the same kind of id"
    lines = [f'u{k},{k:010d},5\n' for k in range(300_000)]+['u1,080410526X,7\n']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = read_table(put(tmp_path/'r.csv', ''.join(['user,isbn,rating\n',*lines]).encode()))
    assert pd.api.types.infer_dtype(got.isbn)=='string'

def test_other_files(tmp_path):
    with pytest.raises(ValueError, match='is a Parquet file'):
        NUMBERS.to_parquet(tmp_path/'r.csv')
        read_table(tmp_path/'r.csv')
    for data in (b'', b'\n\n', codecs.BOM_UTF8):
        with pytest.raises(ValueError, match='is empty'): read_table(put(tmp_path/'r.csv', data))
    with pytest.raises(ValueError, match=r'not a table: .*line 3.*delimiter= in Python, --sep'):
        read_table(put(tmp_path/'r.csv', b'u,i\n1,2\n1,2,3,4\n'))
    with pytest.raises(FileNotFoundError): read_table(tmp_path/'none.csv')

@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(SEPARATORS.values())), st.booleans(), st.integers(3, 6), st.integers(1, 30),
    st.integers(0, 10**6))
def test_layout_of_any_numbers(sep, header, width, n, seed):
    "Whatever the numbers, separator and header are found"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({f'c{k}':rng.integers(0, 10**6, n) for k in range(width)})
    got = guess_layout(text(df, sep, header).splitlines())
    assert got['sep']==sep and ('header' in got)==(not header)

@pytest.mark.filterwarnings('error')
def test_loaders_from_any_file(tmp_path):
    "from_csv needs no options for what it can see"
    df = NUMBERS.assign(user=np.arange(20)//4)
    want = CollabDataLoaders.from_df(df, seed=1)
    dls = CollabDataLoaders.from_csv(put(tmp_path/'ratings.dat', text(df, '::', header=False).encode()), seed=1)
    assert dls.train_ds.store.ids().equal(want.train_ds.store.ids()) and dls.train_ds.enc.user_name==0

@pytest.mark.data
def test_files_of_real_sets(data_dir, tmp_path):
    "The original files of MovieLens and FilmTrust"
    with zipfile.ZipFile(data_dir/'ml-100k.zip') as z:
        for name in ('u.data','u.item','u.user'): put(tmp_path/name, z.read(f'ml-100k/{name}'))
    want = movielens('ml-100k')
    got = read_table(tmp_path/'u.data')
    assert list(got)==[0,1,2,3] and (got.to_numpy()==want[['userId','movieId','rating','timestamp']].to_numpy()).all()
    with pytest.warns(UserWarning, match='cp1252'): items = read_table(tmp_path/'u.item')
    assert items.shape==(1682,24) and read_table(tmp_path/'u.user').shape==(943,5)
    assert read_table(data_dir/'filmtrust.txt').shape[1]==3
    assert read_table(data_dir/'lastfm_user_artists.dat').shape[1]==3
