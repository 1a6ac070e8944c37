"Data sets: the download, every official format, folds, Netflix text files, made-up ratings, a first look"
import csv, datetime, hashlib, io, pickle, socket, statistics, warnings, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from hypothesis import example, given, settings, strategies as st
from pandas.testing import assert_frame_equal

from fastcollab.data import datasets
from fastcollab.data.datasets import MOVIELENS_ZIPS, SetFiles, download_movielens, movielens, movielens_fold, verify_zip
from fastcollab.data.netflix import netflix_prize
from fastcollab.data.ratings import describe_ratings, plot_ratings, rating_columns
from fastcollab.data.synthetic import synthetic_ratings

four = ['userId','movieId','rating','timestamp']
six = four + ['title','genres']

def zip_bytes(files, folder, compression=zipfile.ZIP_DEFLATED):
    "A zip with `files` (name:bytes) under `folder`"
    with io.BytesIO() as f:
        with zipfile.ZipFile(f, 'w', compression) as z:
            for k,v in files.items(): z.writestr(f'{folder}/{k}', v)
        return f.getvalue()

def flip(b, at, n=1):
    "`b` with all bits of `n` bytes from `at` on turned over"
    return b[:at] + bytes(255-o for o in b[at:at+n]) + b[at+n:]

def rows(df):
    "The rows of `df` as tuples, with None where a value is missing"
    return [tuple(None if pd.isna(o) else o for o in r) for r in df.astype(object).itertuples(index=False)]

# ---- verify_zip

lines = ''.join(f'{1+k//25},{1+k*37%101},{.5+k%10/2},{820_000_000+k*k}\n' for k in range(500))
small = {'ratings.csv': ('userId,movieId,rating,timestamp\n'+lines).encode(),
    'movies.csv': ('movieId,title,genres\n' + ''.join(f'{k},"Film, The {k} (1999)",Drama|War\n'
        for k in range(1, 102))).encode()}

def test_verify_zip(tmp_path):
    "A whole file passes and is returned; wrong size, wrong md5 and no zip do not, and the text says what was expected"
    p,b = tmp_path/'a.zip',zip_bytes(small, 'ml-latest-small')
    p.write_bytes(b)
    md5 = hashlib.md5(b).hexdigest()
    for args in ((), (len(b),), (len(b),md5), (None,md5)): assert verify_zip(str(p), *args) == p
    with pytest.raises(ValueError,
        match=rf'a\.zip is not a complete zip file: {len(b):,} bytes where {len(b)+1:,} were.*download it again'):
        verify_zip(p, len(b)+1, md5)
    with pytest.raises(ValueError, match=f'a.zip.*md5 {md5} where {"0"*32} was published.*download it again'):
        verify_zip(p, len(b), '0'*32)
    for bad in (b'', b'<html>busy</html>', b[:-30], b[:len(b)//2]):
        p.write_bytes(bad)
        with pytest.raises(ValueError, match=r'a\.zip is not a complete zip file: .*download it again'): verify_zip(p)

def test_verify_zip_without_file_digest(tmp_path, monkeypatch):
    "Python 3.10 has no `hashlib.file_digest`; the sum over several blocks is the same"
    monkeypatch.delattr(hashlib, 'file_digest', raising=False)
    p = tmp_path/'a.zip'
    p.write_bytes(b := zip_bytes({'a':bytes(3*2**20)}, 'x', zipfile.ZIP_STORED))
    assert verify_zip(p, len(b), hashlib.md5(b).hexdigest()) == p
    with pytest.raises(ValueError, match='was published'): verify_zip(p, len(b), hashlib.md5(b+b' ').hexdigest())

def after_damage(p, files):
    "What `verify_zip` says of `p`, and whether its members are those of `files` where it says nothing"
    try: verify_zip(p)
    except ValueError as e: return 'refused' if 'a.zip is not a complete zip file: ' in str(e) else repr(e)
    except Exception as e: return repr(e)
    try:   # an entry that the directory lost is reported as a missing file by whoever needs it
        with zipfile.ZipFile(p) as z: changed = [o for o in z.namelist() if z.read(o) != files[Path(o).name]]
        return f'passed, but changed: {changed}' if changed else 'same'
    except Exception as e: return f'passed, but cannot be read: {e!r}'

@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED,zipfile.ZIP_DEFLATED])
def test_verify_zip_any_damage(tmp_path, compression):
    "Whichever byte is damaged: refused by name, or members that are what they were"
    p,files,seen = tmp_path/'a.zip',{k:v[:400] for k,v in small.items()},{}
    b = zip_bytes(files, 'x', compression)
    for k in range(len(b)):
        p.write_bytes(flip(b, k))
        seen.setdefault(after_damage(p, files), []).append(k)
    assert set(seen) == {'refused','same'}
    assert len(seen['same']) < len(b)/4   # dates, versions and attributes may change, content may not

# ---- Download

@pytest.fixture
def site(tmp_path, monkeypatch):
    "A server in place of GroupLens that answers with `reply` (status, body, announced length), and an empty home"
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.asked.append(self.path)
            status,body,size = site.reply
            self.send_response(status)
            if size is not None: self.send_header('Content-Length', str(size))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *args): pass
    site = SimpleNamespace(asked=[], reply=None, arch=tmp_path/'home'/'.fastcollab'/'archive')
    for k in ('FASTCOLLAB_DATA','http_proxy','HTTP_PROXY','all_proxy','ALL_PROXY'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    with ThreadingHTTPServer(('127.0.0.1',0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs=dict(poll_interval=.01), daemon=True)
        thread.start()
        site.url = f'http://127.0.0.1:{server.server_port}/datasets'
        monkeypatch.setattr(datasets, 'MOVIELENS_URL', site.url)
        yield site
        server.shutdown()
        thread.join()

@pytest.fixture(params=['small', pytest.param('real', marks=pytest.mark.data)])
def official(request, tmp_path):
    "A folder with ml-latest-small.zip: one made here and the real one"
    if request.param=='real': return request.getfixturevalue('data_dir')
    (path := tmp_path/'official').mkdir()
    (path/'ml-latest-small.zip').write_bytes(zip_bytes(small, 'ml-latest-small'))
    return path

@pytest.mark.slow
def test_download(site, official, monkeypatch):
    "The downloaded set equals the one that lies in FASTCOLLAB_DATA, and it is downloaded once"
    whole = (official/'ml-latest-small.zip').read_bytes()
    site.reply = 200,whole,len(whole)
    df = movielens()
    assert site.asked == ['/datasets/ml-latest-small.zip']
    assert_frame_equal(movielens('ml-latest-small'), df)
    assert download_movielens('ml-latest-small') == site.arch/'ml-latest-small.zip'
    assert len(site.asked) == 1
    assert [o.name for o in site.arch.iterdir()] == ['ml-latest-small.zip']
    assert (site.arch/'ml-latest-small.zip').read_bytes() == whole
    monkeypatch.setenv('FASTCOLLAB_DATA', str(official))
    assert_frame_equal(movielens(), df)
    assert list(df.columns) == six and df.title.notna().all() and len(df) == (500 if len(whole)<50_000 else 100_836)
    assert len(site.asked) == 1

def failures(b):
    "Answers in place of the zip `b`: (status, body, announced length), the error, and what its text has to say"
    offline,again,half = (ConnectionError,'set FASTCOLLAB_DATA to it'),(ValueError,'download it again'),len(b)//2
    return {'cut': ((200, b[:half], len(b)), *offline), 'cut, length unknown': ((200, b[:3000], None), *again),
        'not found': ((404, b'no such file', None), *offline), 'busy': ((503, b'later', None), *offline),
        'html': ((200, b'<!doctype html><title>Maintenance</title>', None), *again), 'empty': ((200, b'', 0), *again),
        'flipped': ((200, flip(b, half, 8), len(b)), *again), 'one byte flipped': ((200, flip(b, len(b)//3), len(b)),
            *again)}

@pytest.mark.parametrize('kind', failures(b''))
@pytest.mark.filterwarnings('ignore:Your generator is empty')   # the progress bar, of a download without bytes
def test_download_fails(site, official, kind):
    "Whatever goes wrong: an error with the address and what to do, nothing left behind, and the next call downloads"
    whole = (official/'ml-latest-small.zip').read_bytes()
    site.reply,error,todo = failures(whole)[kind]
    for _ in range(2):   # the second call trusts nothing that the first one left
        with pytest.raises(error) as e: movielens()
        assert f'{site.url}/ml-latest-small.zip' in str(e.value) and todo in str(e.value)
        assert not list(site.arch.glob('*'))
    assert len(site.asked) == 2
    site.reply = 200,whole,len(whole)
    assert len(movielens()) >= 500
    assert (site.arch/'ml-latest-small.zip').read_bytes() == whole

def test_download_without_server(site, official, monkeypatch):
    "Offline: a ConnectionError with the address and where to put the file; once there is a server, the next call works"
    whole = (official/'ml-latest-small.zip').read_bytes()
    with socket.socket() as s:
        s.bind(('127.0.0.1',0))   # bound, but nobody listens
        url = f'http://127.0.0.1:{s.getsockname()[1]}/datasets'
        monkeypatch.setattr(datasets, 'MOVIELENS_URL', url)
        with pytest.raises(ConnectionError) as e: movielens()
    assert f'{url}/ml-latest-small.zip' in str(e.value)
    assert 'put ml-latest-small.zip in a directory and set FASTCOLLAB_DATA to it' in str(e.value)
    assert not list(site.arch.glob('*'))
    monkeypatch.setattr(datasets, 'MOVIELENS_URL', site.url)
    site.reply = 200,whole,len(whole)
    assert len(movielens()) >= 500

def test_download_length_unknown(site, capsys):
    "A server that does not announce the length is good enough, and the progress bar stays a bar"
    b = zip_bytes(small | {'README.txt': bytes(100_000)}, 'ml-latest', zipfile.ZIP_STORED)
    site.reply = 200,b,None
    assert len(movielens('ml-latest')) == 500
    assert (site.arch/'ml-latest.zip').read_bytes() == b
    assert len(capsys.readouterr().out) < 10_000

def test_download_interrupted(site, monkeypatch):
    "Ctrl-C in the middle leaves no file behind"
    def stop(url, dest, **kwargs):
        dest.parent.mkdir(parents=True, exist_ok=True)
        dest.write_bytes(b'half')
        raise KeyboardInterrupt
    monkeypatch.setattr(datasets, '_download', stop)
    with pytest.raises(KeyboardInterrupt): download_movielens('ml-latest-small')
    assert not list(site.arch.glob('*'))

def test_download_published(site, monkeypatch):
    "A set with a published size and md5 has to match both, when it arrives and when it is read again"
    b = zip_bytes(small, 'ml-20m')
    md5 = hashlib.md5(b).hexdigest()
    site.reply = 200,b,len(b)
    for size,sum_,text in ((len(b)-1,md5,'were expected'), (len(b),md5[::-1],'was published')):
        monkeypatch.setitem(MOVIELENS_ZIPS, 'ml-20m', (size,sum_))
        with pytest.raises(ValueError, match=f'{site.url}/ml-20m.zip.*{text}'): movielens('ml-20m')
        assert not list(site.arch.glob('*'))
    monkeypatch.setitem(MOVIELENS_ZIPS, 'ml-20m', (len(b),md5))
    assert len(movielens('ml-20m')) == len(movielens('ml-20m')) == 500
    assert len(site.asked) == 3
    monkeypatch.setitem(MOVIELENS_ZIPS, 'ml-20m', (len(b),md5[::-1]))
    with pytest.raises(ValueError, match='was published'): movielens('ml-20m')
    assert len(site.asked) == 3

@pytest.mark.parametrize('kind', ['cut','flipped','html'])
def test_corrupt_archive(site, kind):
    "A damaged file in the archive is refused by name; deleting it, as the text says, is all that it takes"
    b = zip_bytes(small, 'ml-latest-small')
    site.arch.mkdir(parents=True)
    (p := site.arch/'ml-latest-small.zip').write_bytes(dict(cut=b[:-100], flipped=flip(b, len(b)//2, 8),
        html=b'<html></html>')[kind])
    with pytest.raises(ValueError) as e: movielens()
    assert str(p) in str(e.value) and 'delete it and download it again' in str(e.value)
    assert not site.asked
    p.unlink()
    site.reply = 200,b,len(b)
    assert len(movielens()) == 500

def test_published_sums():
    "The sets that never change have a size and an md5, the two that do have none"
    assert [k for k,v in MOVIELENS_ZIPS.items() if v is None] == ['ml-latest-small','ml-latest']
    for size,md5 in filter(None, MOVIELENS_ZIPS.values()): assert size > 4_000_000 and len(md5) == 32 and int(md5, 16)

# ---- Official formats

genre_names = ("unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|"
    'Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western').split('|')

def item(id, title, *genres):
    "A line of u.item"
    return f'{id}|{title}|01-Jan-1995||http://us.imdb.com/M/title-exact?x|' + '|'.join(str(int(o in genres))
        for o in genre_names)

ml100k = {
    'u.data': (
        '901\t411\t3\t880000001\n902\t412\t3\t890000002\n903\t413\t1\t870000003\n'
        '901\t412\t5\t880000004\n7\t411\t4\t890000005\n'),
    'u.item': '\n'.join([item(411, 'Quiet Lake (1996)', 'Comedy'), item(5, '"Quiet" One (1995)', 'unknown'),
        item(412, 'Café des étés perdus, Le (1995)', 'Adventure', 'Sci-Fi', 'Western')]) + '\n',
    'u.genre': ''.join(f'{o}|{k}\n' for k,o in enumerate(genre_names)) + '\n',
    'u.user': '901|49|M|writer|12345\n902|39|F|none|00000\n903|25|M|educator|X1Y2Z\n',
    'u1.base': '901\t411\t3\t880000001\n7\t411\t4\t890000005\n903\t413\t1\t870000003\n',
    'u1.test': '901\t412\t5\t880000004\n902\t412\t3\t890000002\n',
    'ua.base': '902\t412\t3\t890000002\n', 'ua.test': '903\t413\t1\t870000003\n'}
lake,summers = ('Quiet Lake (1996)','Comedy'), ('Café des étés perdus, Le (1995)','Adventure|Sci-Fi|Western')
rows100k = [(901,411,3,880000001,*lake,49,'M','writer','12345'), (902,412,3,890000002,*summers,39,'F','none','00000'),
    (903,413,1,870000003,None,None,25,'M','educator','X1Y2Z'), (901,412,5,880000004,*summers,49,'M','writer','12345'),
    (7,411,4,890000005,*lake,None,None,None,None)]
ml1m = {
    'ratings.dat': '2::1511::5::970000001\n1::512::3::970000002\n1::3513::4::970000003\n3::512::1::970000004\n',
    'movies.dat': "512::Gigant: Étés, Les (1995)::Drama|Musical\n1511::Two Slept Under the Owl's Nest (1975)::Drama\n",
    'users.dat': '1::F::1::10::23456\n2::M::56::0::02460-1234\n3::M::25::20::00000\n'}
nest,gigant = ("Two Slept Under the Owl's Nest (1975)",'Drama'), ('Gigant: Étés, Les (1995)','Drama|Musical')
rows1m = [(2,1511,5,970000001,*nest,56,'M','other','02460-1234'), (1,512,3,970000002,*gigant,1,'F','K-12 student',
    '23456'),
    (1,3513,4,970000003,None,None,1,'F','K-12 student','23456'), (3,512,1,970000004,*gigant,25,'M','writer','00000')]
ml10m = {
    'ratings.dat': '1::122::5::830000001\n1::185::0.5::830000002\n2::122::3.5::860000003\n2::64000::4::1230000004\n',
    'movies.dat': '122::Bumblebees (1992)::Comedy|Romance\n185::Das Böse: Nosferatu – 夜 (1922)::(no genres listed)\n',
    'tags.dat': '1::122::x::1\n'}
boom,evil = ('Bumblebees (1992)','Comedy|Romance'), ('Das Böse: Nosferatu – 夜 (1922)','(no genres listed)')
rows10m = [(1,122,5,830000001,*boom), (1,185,.5,830000002,*evil), (2,122,3.5,860000003,*boom),
    (2,64000,4,1230000004,None,None)]
ml20m = {
    'ratings.csv': (
        'userId,movieId,rating,timestamp\n1,2,3.5,1110000001\n1,11,5.0,1110000002\n'
        '138999,2,0.5,1250000003\n4,99,4.0,1\n'),
    'movies.csv': 'movieId,title,genres\n2,Léon (1995),Adventure|Children\n11,"President, The ""A.P."" (1995)",(no '
    'genres listed)\n',
    'links.csv': 'movieId,imdbId,tmdbId\n2,1,1\n', 'tags.csv': 'userId,movieId,tag,timestamp\n1,2,x,1\n'}
leon,president = ('Léon (1995)','Adventure|Children'), ('President, The "A.P." (1995)','(no genres listed)')
rows20m = [(1,2,3.5,1110000001,*leon), (1,11,5,1110000002,*president), (138999,2,.5,1250000003,*leon),
    (4,99,4,1,None,None)]

users = ['age','gender','occupation','zip']
latin,utf = 'latin-1','utf-8'
sets = {'ml-100k': ('ml-100k',ml100k,latin,rows100k,six+users), 'ml-1m': ('ml-1m',ml1m,latin,rows1m,six+users),
    'ml-10m': ('ml-10M100K',ml10m,utf,rows10m,six)}
sets |= {o: (o,ml20m,utf,rows20m,six) for o in ('ml-20m','ml-25m','ml-32m','ml-latest','ml-latest-small')}

def put(path, name, kind, leave_out=(), edit=lambda name,text: text, compression=zipfile.ZIP_DEFLATED):
    "Write the set `name` below `path` as the official zip or as a folder"
    folder,files,enc,*_ = sets[name]
    files = {k:edit(k, v).encode(enc) for k,v in files.items() if k not in leave_out}
    if kind=='zip': (path/f'{name}.zip').write_bytes(zip_bytes(files, folder, compression))
    else:
        (d := path/name/(folder if kind=='nested' else '')).mkdir(parents=True, exist_ok=True)
        for k,v in files.items(): (d/k).write_bytes(v)

@pytest.fixture
def local(tmp_path, monkeypatch):
    "An empty directory named by FASTCOLLAB_DATA; a download would fail at once"
    (path := tmp_path/'local').mkdir()
    monkeypatch.setenv('FASTCOLLAB_DATA', str(path))
    monkeypatch.setattr(datasets, 'download_movielens', lambda name: pytest.fail(f'download of {name}'))
    return path

@pytest.mark.parametrize('name', sets)
@pytest.mark.parametrize('kind', ['zip','folder','nested'])
def test_formats(local, name, kind):
    "Columns, types, values and order of every official format; a rating of an unknown movie or user keeps its row"
    put(local, name, kind)
    df = movielens(name)
    *_,expected,cols = sets[name]
    assert list(df.columns) == cols
    assert rows(df) == expected
    types = dict(userId='int64', movieId='int64', rating='float64', timestamp='int64') | {k:'category'
        for k in cols[4:]}
    if 'age' in cols: types['age'] = 'float64' if name=='ml-100k' else 'int64'   # there user 7 is not in the table
    assert df.dtypes.astype(str).to_dict() == types
    assert isinstance(df.index, pd.RangeIndex)

@pytest.mark.parametrize('name', ['ml-100k','ml-1m','ml-10m','ml-20m'])
def test_zip_before_folder(local, name):
    "Zip and folder give the same frame, and the zip comes first"
    put(local, name, 'folder')
    df = movielens(name)
    put(local, name, 'zip')
    assert_frame_equal(movielens(name), df)
    for p in (local/name).iterdir(): p.unlink()
    assert_frame_equal(movielens(name), df)

def test_crlf(local):
    "Files that went through Windows give the same frame"
    for name in ('ml-100k','ml-1m','ml-10m','ml-20m'):
        put(local, name, 'folder', edit=lambda k,v: v.replace('\n', '\r\n'))
        assert rows(movielens(name)) == sets[name][3], name

def test_every_flag_and_occupation(local):
    "Each of the 19 flags of u.item and each of the 21 codes of users.dat has its own name"
    new = {'u.item': ''.join(item(k+1, f'Film {k+1}', o)+'\n' for k,o in enumerate(genre_names)),
        'u.data': ''.join(f'196\t{k+1}\t3\t1\n' for k in range(19))}
    put(local, 'ml-100k', 'zip', edit=lambda k,v: new.get(k, v))
    assert list(movielens('ml-100k').genres) == genre_names
    jobs = ('other|academic/educator|artist|clerical/admin|college/grad student|customer service|doctor/health care|'
        'executive/managerial|farmer|homemaker|K-12 '
        'student|lawyer|programmer|retired|sales/marketing|scientist|self-employed|'
        'technician/engineer|tradesman/craftsman|unemployed|writer').split('|')   # from the README of ml-1m
    new = {'users.dat': ''.join(f'{k+1}::F::18::{k}::1\n' for k in range(21)),
        'ratings.dat': ''.join(f'{k+1}::661::3::1\n' for k in range(21))}
    put(local, 'ml-1m', 'zip', edit=lambda k,v: new.get(k, v))
    assert list(movielens('ml-1m').occupation) == jobs

def test_zip_codes(local):
    "Zip codes stay text, zeros in front included, where all of them are numbers"
    put(local, 'ml-100k', 'zip', edit=lambda k,v: v.replace('X1Y2Z', '00713'))
    df = movielens('ml-100k')
    assert rows(df[['zip']]) == [('12345',),('00000',),('00713',),('12345',),(None,)]

def test_no_such_set(local):
    "An unknown name lists the known ones"
    with pytest.raises(ValueError, match="'ml-3m'") as e: movielens('ml-3m')
    assert all(repr(o) in str(e.value) for o in sets)

def test_set_not_in_local_data(site, tmp_path, monkeypatch):
    "A set that FASTCOLLAB_DATA does not hold is downloaded"
    put(tmp_path, 'ml-20m', 'zip')
    monkeypatch.setenv('FASTCOLLAB_DATA', str(tmp_path))
    site.reply = 200,(b := zip_bytes(small, 'ml-latest')),len(b)
    assert (len(movielens('ml-20m')),site.asked) == (4,[])
    assert (len(movielens('ml-latest')),site.asked) == (500,['/datasets/ml-latest.zip'])

@pytest.mark.parametrize('name', ['ml-100k','ml-1m','ml-10m','ml-20m'])
def test_zip_cut_short(local, name):
    "A zip that lost its end is named, with what to do"
    put(local, name, 'zip')
    whole = (p := local/f'{name}.zip').read_bytes()
    for n in (0, 10, len(whole)//2, len(whole)-1):
        p.write_bytes(whole[:n])
        with pytest.raises(ValueError) as e: movielens(name)
        assert str(p) in str(e.value) and 'download it again' in str(e.value)

members = [('ml-100k','u.data'), ('ml-100k','u.item'), ('ml-100k','u.genre'), ('ml-100k','u.user'),
    ('ml-1m','ratings.dat'),
    ('ml-1m','movies.dat'), ('ml-1m','users.dat'), ('ml-10m','ratings.dat'), ('ml-10m','movies.dat'),
    ('ml-20m','ratings.csv'),
    ('ml-20m','movies.csv')]

@pytest.mark.parametrize('name,member', members)
def test_damaged_member(local, name, member):
    "A member whose content changed is no data set: both the member and the zip are named"
    put(local, name, 'zip', compression=zipfile.ZIP_STORED)
    b = (p := local/f'{name}.zip').read_bytes()
    text = sets[name][1][member].encode(sets[name][2])
    at = b.index(text)+text.rindex(b'1')   # another digit: still a number, so only the checksum tells
    p.write_bytes(b[:at]+b'2'+b[at+1:])
    with pytest.raises(ValueError) as e: movielens(name)
    assert member in str(e.value) and str(p) in str(e.value) and 'download it again' in str(e.value)

def test_damaged_compression(local):
    "Nor is a member that cannot be unpacked"
    (p := local/'ml-latest.zip').write_bytes(b := zip_bytes(small, 'ml-latest'))
    for at in range(100, len(b)//2, 97):
        p.write_bytes(flip(b, at, 4))
        with pytest.raises(ValueError) as e: movielens('ml-latest')
        assert str(p) in str(e.value), at

@pytest.mark.parametrize('name,member', [o for o in members if o[1] not in ('u.user','users.dat')])
@pytest.mark.parametrize('kind', ['zip','folder'])
def test_missing_member(local, name, member, kind):
    "A set without one of its files says where it looked and what is there"
    put(local, name, kind, leave_out=[member])
    with pytest.raises(FileNotFoundError, match=f'no .* in .*{name}.*; it holds') as e: movielens(name)
    there = sorted(set(sets[name][1])-{member})
    assert str(there[:8]) in str(e.value)

@pytest.mark.parametrize('kind', ['zip','nested'])
def test_set_files(tmp_path, kind):
    "Members are found by name wherever they lie"
    put(tmp_path, 'ml-10m', kind)
    files = SetFiles(tmp_path/('ml-10m.zip' if kind=='zip' else 'ml-10m'))
    assert 'movies.dat' in files and 'ml-10M100K' not in files and 'users.dat' not in files
    with files.open('tags.dat') as f: assert f.read() == b'1::122::x::1\n'
    assert files.csv('tags.dat', sep=':', header=None)[4].tolist() == ['x']
    with pytest.raises(FileNotFoundError,
        match=r"no users.dat in .*; it holds \['movies.dat', 'ratings.dat', 'tags.dat'\]"):
        files.open('users.dat')

# ---- Folds

@pytest.mark.parametrize('kind', ['zip','folder'])
def test_fold(local, kind):
    "Rows of the train file, then rows of the test file, with titles and users, and the row numbers of both"
    put(local, 'ml-100k', kind)
    df,(train,valid) = movielens_fold('ml-100k', 1)
    assert rows(df) == [rows100k[k] for k in (0,4,2,3,1)]
    assert (list(train),list(valid)) == ([0,1,2],[3,4])
    assert isinstance(df.index, pd.RangeIndex) and list(df.columns) == six+users
    df,(train,valid) = movielens_fold(fold='a')
    assert rows(df) == [rows100k[k] for k in (1,2)]
    assert (list(train),list(valid)) == ([0],[1])
    assert_frame_equal(movielens_fold(fold='1')[0], movielens_fold()[0])
    with pytest.raises(FileNotFoundError, match='no u2.base in'): movielens_fold(fold=2)

@pytest.mark.parametrize('fold', [0,6,-1,12,'','c','ab','12','u1',None,1.5])
def test_bad_fold(local, fold):
    "A fold that is not there is named, and those that are"
    put(local, 'ml-100k', 'zip')
    with pytest.raises(ValueError, match="choose from 1 to 5, 'a', 'b'") as e: movielens_fold('ml-100k', fold)
    assert repr(fold) in str(e.value)

@pytest.mark.parametrize('name', ['ml-1m','ml-latest-small','nope'])
def test_fold_of_other_set(local, name):
    "Only ml-100k has folds"
    with pytest.raises(ValueError, match=f"{name} has no predefined folds; choose 'ml-100k'"): movielens_fold(name)

# ---- Real data

def text(data_dir, member, encoding, name=None):
    "Lines of a member of ml-100k.zip (if it is called u.something) or ml-latest-small.zip"
    name = name or ('ml-100k' if member.startswith('u.') else 'ml-latest-small')
    with zipfile.ZipFile(data_dir/f'{name}.zip') as z: return z.read(f'{name}/{member}').decode(encoding).splitlines()

def raw(data_dir, member, sep='\t'):
    "Ratings of a member of ml-100k.zip or ml-latest-small.zip, (n_ratings,4) float64, read without pandas"
    name = 'ml-100k' if sep=='\t' else 'ml-latest-small'
    # (n_ratings,4)
    return np.array([o.split(sep) for o in text(data_dir, member, 'utf-8', name) if o[0].isdigit()], dtype=float)

@pytest.fixture(scope='module')
def real100k(data_dir): return movielens('ml-100k')

@pytest.mark.data
def test_real_100k(data_dir, real100k):
    "ml-100k is what its README says and what its lines say"
    df = real100k
    assert (len(df),df.userId.nunique(),df.movieId.nunique()) == (100_000,943,1682)
    assert (df[four].to_numpy() == raw(data_dir, 'u.data')).all()
    assert df.rating.value_counts().to_dict() == {1:6110, 2:11370, 3:27145, 4:34174, 5:21201}
    assert df.userId.value_counts().min() == 20
    assert not df.duplicated(['userId','movieId']).any() and df.notna().all().all()
    movies = df.drop_duplicates('movieId').set_index('movieId')
    lines = {int(o.split('|')[0]):o.split('|') for o in text(data_dir, 'u.item', 'latin-1')}
    assert all(movies.title[k]==o[1] for k,o in lines.items()) and movies.title.nunique() == 1664
    names = [o.split('|')[0] for o in text(data_dir, 'u.genre', 'latin-1') if o]
    assert all(movies.genres[k]=='|'.join(n for n,f in zip(names, o[5:]) if f=='1') for k,o in lines.items())
    people = df.drop_duplicates('userId').set_index('userId')
    assert all([str(v) for v in people.loc[int(o.split('|')[0]), users]] == o.split('|')[1:]
        for o in text(data_dir, 'u.user', 'latin-1'))
    assert people.gender.value_counts().to_dict() == {'M':670, 'F':273}
    assert (people.age.min(),people.age.max(),people.occupation.nunique()) == (7,73,21)

@pytest.mark.data
def test_real_latest_small(data_dir):
    "So is ml-latest-small"
    df,expected = movielens(),raw(data_dir, 'ratings.csv', ',')
    assert (len(df),df.userId.nunique(),df.movieId.nunique()) == (100_836,610,9724)
    assert (df[four].to_numpy() == expected).all() and df.rating.mean() == pytest.approx(expected[:,2].mean(),
        abs=1e-12)
    assert df.rating.mean() == pytest.approx(3.50156, abs=1e-5)
    assert sorted(df.rating.unique()) == list(np.arange(1, 11)/2) and df.userId.value_counts().min() == 20
    assert list(df.columns) == six and df.notna().all().all()
    titles = df.drop_duplicates('movieId').set_index('movieId').title
    table = {int(k):t for k,t,_ in csv.reader(text(data_dir, 'movies.csv', 'utf-8')[1:])}
    assert all(titles[k]==table[k] for k in titles.index)

@pytest.mark.data
@pytest.mark.parametrize('fold,n_train', [(1,80_000),(2,80_000),(3,80_000),(4,80_000),(5,80_000),('a',90_570),
    ('b',90_570)])
def test_real_fold(data_dir, real100k, fold, n_train):
    "Train and test rows are those of the authors' files, and title and user are those of the whole set"
    df,(train,valid) = movielens_fold('ml-100k', fold)
    assert (len(df),len(train),len(valid)) == (100_000,n_train,100_000-n_train)
    for part,o in ((train,'base'),(valid,'test')):
        assert (df.loc[part, four].to_numpy() == raw(data_dir, f'u{fold}.{o}')).all()
    whole,mine = [o.sort_values(['userId','movieId']) for o in (real100k,df)]
    for c in six+users: assert (mine[c].astype(object).to_numpy() == whole[c].astype(object).to_numpy()).all(), c
    if fold in ('a','b'): assert (df.loc[valid].userId.value_counts() == 10).all()

@pytest.mark.data
def test_real_folds_are_disjoint(real100k):
    "The five test parts cover every rating once; those of ua and ub have nothing in common"
    def pairs(fold):
        df,(_,valid) = movielens_fold('ml-100k', fold)
        return list(zip(df.userId[valid], df.movieId[valid]))
    tests = [o for k in range(1, 6) for o in pairs(k)]
    assert len(tests) == 100_000 and set(tests) == set(zip(real100k.userId, real100k.movieId))
    assert not set(pairs('a')) & set(pairs('b'))

# ---- Netflix Prize

def seconds(text): return int((datetime.date.fromisoformat(text)-datetime.date(1970, 1, 1)).total_seconds())

def parse_netflix(text):
    "Line by line: userId, movieId, rating, timestamp"
    res,movie = [],None
    for line in text.splitlines():
        if line.endswith(':'): movie = int(line[:-1])
        else:
            user,stars,date = line.split(',')
            res.append((int(user), movie, int(stars), seconds(date)))
    return res

two = '8:\n1234567,3,2005-09-06\n765432,5,2005-05-13\n30:\n7,4,2004-02-29\n2222222,1,1999-12-31\n'
more = '1:\n6,2,2000-01-01\n'
titles = '1,2003,Planet of Lamps\n8,2004,What Is the #$*! Doing!?\n30,NULL,This, That, Caf\xe9\n'

def write(path, text, encoding='latin-1'):
    "Write `text` byte by byte as it is, and its folder"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))

@pytest.mark.data
def test_netflix_slice(data_dir):
    "The real slice equals what a loop over its lines reads, to the last line, which has no end"
    df = netflix_prize(data_dir/'netflix')
    text = (data_dir/'netflix'/'combined_data_4.slice.txt').read_text()
    assert not text.endswith('\n')
    assert (len(df),df.movieId.nunique()) == (10_068,11)
    assert rows(df[four]) == parse_netflix(text)
    assert df.rating.isin([1,2,3,4,5]).all() and df.title.notna().all()
    names = {int(o.split(',')[0]):o.split(',', 2)[1:]
        for o in (data_dir/'netflix'/'movie_titles.csv').read_text('latin-1').splitlines()}
    assert len(names) == 17770
    seen = df.drop_duplicates('movieId')
    assert rows(seen[['title','year']]) == [(names[o][1],None if names[o][0]=='NULL' else float(names[o][0]))
        for o in seen.movieId]

@pytest.mark.data
@pytest.mark.parametrize('bs', [64,1000])
def test_netflix_slice_in_blocks(data_dir, bs):
    "The size of the blocks changes nothing"
    assert_frame_equal(netflix_prize(data_dir/'netflix', bs=bs), netflix_prize(data_dir/'netflix'))

def test_netflix(tmp_path):
    "Values, types and titles; a movie without a title, or a folder without titles, keeps its ratings"
    write(tmp_path/'combined_data_1.txt', two+'9:\n5,5,2001-02-03\n')
    df = netflix_prize(tmp_path)
    assert list(df.columns) == four
    write(tmp_path/'movie_titles.csv', titles)
    df = netflix_prize(str(tmp_path))
    know,cafe = ('What Is the #$*! Doing!?',2004), ('This, That, Café',None)
    assert rows(df) == [(1234567,8,3,seconds('2005-09-06'),*know), (765432,8,5,seconds('2005-05-13'),*know),
        (7,30,4,seconds('2004-02-29'),*cafe), (2222222,30,1,seconds('1999-12-31'),*cafe),
        (5,9,5,seconds('2001-02-03'),None,None)]
    assert df.dtypes.astype(str).to_dict() == dict(userId='int32', movieId='int32', rating='float32', timestamp='int64',
        title='category',
        year='float64')

@pytest.mark.parametrize('names', [('mv_0000001.txt','mv_0000008.txt'),
    ('training_set/mv_0000001.txt','training_set/mv_0000008.txt'),
    ('combined_data_1.txt','combined_data_2.txt'), ('training_set/combined_data_1.txt',
        'training_set/combined_data_2.txt')])
def test_netflix_layouts(tmp_path, names):
    "All files of a folder or of its training_set in the order of their names, and one file alone"
    for name,text in zip(names[::-1], (two,more)): write(tmp_path/name, text)
    write(tmp_path/'README', 'no ratings')
    write(tmp_path/'movie_titles.csv', titles)
    df = netflix_prize(tmp_path)
    assert rows(df[four]) == parse_netflix(more+two)
    assert df.title[0] == 'Planet of Lamps' and df.year[0] == 2003
    alone = netflix_prize(tmp_path/names[1])
    assert rows(alone[four]) == parse_netflix(two)
    assert ('title' in alone) == ('/' not in names[1])

@pytest.mark.parametrize('bs', [1,2,13,64,2**24])
@pytest.mark.parametrize('end', ['\n','\r\n'])
@pytest.mark.parametrize('last', [True,False])
def test_netflix_line_ends(tmp_path, bs, end, last):
    "Either line end, in blocks of any size, with or without one on the last line"
    text = two if last else two.rstrip('\n')
    write(tmp_path/'mv_0000008.txt', text.replace('\n', end))
    write(tmp_path/'movie_titles.csv', titles.replace('\n', end))
    df = netflix_prize(tmp_path, bs=bs)
    assert rows(df[four]) == parse_netflix(two)
    assert df.title[2] == 'This, That, Café'

def test_netflix_movie_open_across_files(tmp_path):
    "A movie ends with its file: ratings at the top of the next one belong to none"
    write(tmp_path/'combined_data_1.txt', two)
    write(tmp_path/'combined_data_2.txt', '7,5,2005-09-06\n')
    with pytest.raises(ValueError, match='combined_data_2.txt, line 1:'): netflix_prize(tmp_path)

bad_lines = {'month 13': '7,5,2005-13-06', 'month 0': '7,5,2005-00-06', 'day 0': '7,5,2005-09-00',
    'day 32': '7,5,2005-09-32',
    'february 30': '7,5,2004-02-30', 'no leap year': '7,5,2005-02-29', 'april 31': '7,5,2005-04-31',
    'date of text': '7,5,2005-Sep-6',
    'slashes': '7,5,2005/09/06', 'short date': '7,5,2005-9-6', 'date cut': '1234567,5,2005-0',
    'no date': '1234567890,5',
    'letter for stars': '7,x,2005-09-06', 'no stars': '77,,2005-09-06', '0 stars': '7,0,2005-09-06',
    '6 stars': '7,6,2005-09-06',
    '10 stars': '7,10,2005-09-06', 'half stars': '7,3.5,2005-09-06', 'first comma': '7;5,2005-09-06',
    'second comma': '7,5;2005-09-06',
    'first dash': '7,5,2005/09-06', 'second dash': '7,5,2005-09.06', 'semicolons': '7;5;2005-09-06',
    'no user': ',5,2005-09-06',
    'negative user': '-7,5,2005-09-06', 'space': ' 7,5,2005-09-06', 'space at the end': '7,5,2005-09-06 ',
    'user of text': 'u7,5,2005-09-06', 'huge user': '4294967303,5,2005-09-06', 'endless user': '1'*40+',5,2005-09-06',
    'short text': 'hello', 'text': 'no rating at all',
    'long text': 'a long line of text that is neither a movie nor a rating',
    'letter in movie': '12x:', 'no movie': ':', 'negative movie': '-8:', 'huge movie': '4294967304:',
    'endless movie': '1'*40+':',
    'empty line': ''}

@pytest.mark.parametrize('kind', bad_lines)
def test_netflix_malformed(tmp_path, kind):
    "A line that is neither a movie nor a rating: file, number and text of the line, whatever the blocks"
    write(tmp_path/'mv_0000001.txt', more)
    write(tmp_path/'mv_0000008.txt', f'{two}{bad_lines[kind]}\n{more}')
    for bs in (2**24, 32):
        with pytest.raises(ValueError, match=r'mv_0000008\.txt, line 7: ') as e: netflix_prize(tmp_path, bs=bs)
        assert repr(bad_lines[kind][:60]) in str(e.value)

def test_netflix_no_movie(tmp_path):
    "A rating before the first movie is malformed too"
    write(p := tmp_path/'mv_0000008.txt', two.partition('\n')[2])
    with pytest.raises(ValueError, match=r'mv_0000008\.txt, line 1: '): netflix_prize(p)

def test_netflix_nothing(tmp_path):
    "No file, or no rating in the files"
    for p in (tmp_path, tmp_path/'nowhere'):
        with pytest.raises(FileNotFoundError, match=r'no combined_data_\*\.txt or mv_\*\.txt in') as e: netflix_prize(p)
        assert str(p) in str(e.value)
    for text in ('', '8:\n', '8:\n30:'):
        write(tmp_path/'mv_0000008.txt', text)
        with pytest.raises(ValueError, match='no ratings in') as e: netflix_prize(tmp_path)
        assert str(tmp_path) in str(e.value)

dates = st.dates(datetime.date(1950, 1, 1), datetime.date(2100, 12, 31))
ratings_of = st.lists(st.tuples(st.integers(0, 2**31-1), st.integers(1, 5), dates), max_size=6)

@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(files=st.lists(st.lists(st.tuples(st.integers(1, 99999), ratings_of), max_size=4), min_size=1, max_size=3),
    bs=st.integers(1, 200),
    end=st.sampled_from(['\n','\r\n']), last=st.booleans())
@example(files=[[(1,[(0, 1, datetime.date(2000, 2, 29))])]], bs=1, end='\r\n', last=False)
def test_netflix_round_trip(files, bs, end, last):
    "What was written is what is read"
    expected = [(u,m,s,seconds(str(d))) for movies in files for m,rs in movies for u,s,d in rs]
    with TemporaryDirectory() as path:
        for k,movies in enumerate(files):
            text = end.join(o for m,rs in movies for o in (f'{m}:', *(f'{u},{s},{d}' for u,s,d in rs)))
            write(Path(path)/f'combined_data_{k}.txt', text+end if last and text else text)
        if expected: assert rows(netflix_prize(path, bs=bs)) == expected
        else:
            with pytest.raises(ValueError, match='no ratings in'): netflix_prize(path, bs=bs)

# ---- Made-up ratings

@pytest.fixture(scope='module')
def made():
    "60,000 ratings of 1,500 users for 800 items; tests must not write into it"
    return synthetic_ratings(1500, 800, 60_000, seed=7)

def test_synthetic_seed(made):
    "Same seed same frame, other seed other frame, whatever the state of numpy's own generator, which stays as it is"
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    again = synthetic_ratings(1500, 800, 60_000, seed=7)
    assert (np.random.get_state()[1] == state).all()
    assert_frame_equal(again, made)
    assert again.attrs['rmse'] == made.attrs['rmse']
    other = synthetic_ratings(1500, 800, 60_000, seed=8)
    for o in six: assert not (other[o].astype(object) == made[o].astype(object)).all(), o

def check_frame(df, n_users, n_items, n_ratings):
    "What holds for any size"
    assert list(df.columns) == six and len(df) == n_ratings
    assert not df.duplicated(['userId','movieId']).any()
    assert df.userId.between(1, n_users).all() and df.movieId.between(1, n_items).all()
    assert df.rating.isin(np.arange(1, 11)/2).all() and df.notna().all().all()
    assert df.dtypes.astype(str).tolist() == ['int64','int64','float64','int64','category','category']
    movies = df.drop_duplicates('movieId')
    assert movies.title.is_unique
    for o in ('title','genres'):
        assert (df[o].to_numpy() == movies.set_index('movieId')[o].reindex(df.movieId).to_numpy()).all()
    assert all(0 < len(o.split('|')) == len(set(o.split('|'))) <= 4 for o in movies.genres)
    seen = pd.to_datetime(df.timestamp, unit='s').dt.year
    assert seen.between(1995, 2025).all()

sizes = st.tuples(st.integers(1, 25), st.integers(1, 25)).flatmap(lambda s: st.tuples(*map(st.just, s),
    st.integers(1, s[0]*s[1])))

@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 5), st.integers(1, 4))
@example((25,20,500), 0, 3)
@example((1,1,1), 0, 1)
@example((1,25,25), 0, 3)
@example((25,1,25), 0, 3)
def test_synthetic_any_size(size, seed, n_factors):
    "Exact number of different pairs, up to the full table"
    df = synthetic_ratings(*size, n_factors=n_factors, seed=seed)
    check_frame(df, *size)
    truth = df.attrs['truth']
    assert (truth.user_factors.shape,truth.item_factors.shape) == ((size[0],n_factors),(size[1],n_factors))
    assert (truth.user_bias.shape,truth.item_bias.shape) == ((size[0],),(size[1],))

def test_synthetic_frame(made):
    "The same for a larger set, with more items than titles without a number; genres explain most of the item factors"
    check_frame(made, 1500, 800, 60_000)
    # (800,18)
    has = made.drop_duplicates('movieId').set_index('movieId').sort_index().genres.str.get_dummies('|').to_numpy()
    n,factors = has.sum(1, keepdims=True),made.attrs['truth'].item_factors
    assert has.shape == (800,18) and set(n.flat) == {1,2,3,4}
    x = has/n**.5
    left = factors - x@np.linalg.lstsq(x, factors)[0]
    assert .55 < 1-left.var()/factors.var() < .85

@pytest.mark.parametrize('n_users,n_items,n', [(1500,800,2400), (300,50,400), (50,300,400), (30,200,1500), (10,100,300),
    (100,10,300),
    (2,100,120), (40,40,1599)])
def test_synthetic_everyone(n_users, n_items, n):
    "Every user and every item is there as soon as there is room for them"
    for seed in range(3):
        df = synthetic_ratings(n_users, n_items, n, seed=seed)
        assert (df.userId.nunique(),df.movieId.nunique()) == (n_users,n_items)

def test_synthetic_tail(made):
    "A tenth of the items has more than 30 % of the ratings, and a tenth of the users"
    for c in ('movieId','userId'):
        n = made[c].value_counts()
        assert n.iloc[:len(n)//10].sum() > .3*len(made), c
        assert n.iloc[len(n)//2:].sum() < .3*len(made), c

def test_scores(made):
    "mean + biases + dot product, row by row, and the same in any order and across the pieces that it works in"
    t,some = made.attrs['truth'],made.iloc[::211]
    expected = [t.mean + t.user_bias[u-1] + t.item_bias[i-1] + np.dot(t.user_factors[u-1], t.item_factors[i-1])
        for u,i in zip(some.userId, some.movieId)]
    np.testing.assert_allclose(t.scores(some), expected, atol=1e-5)
    many = pd.concat([made[::-1]]*5)
    assert len(many) > 2**18
    np.testing.assert_array_equal(t.scores(many), np.tile(t.scores(made)[::-1], 5))
    assert len(t.scores(made[:0])) == 0

@pytest.mark.parametrize('noise', [.2,.75,2.])
def test_expected(noise):
    "The mean over the ten ratings, each weighted by the chance that score + noise rounds to it"
    df = synthetic_ratings(40, 40, 300, noise=noise)
    t,cdf = df.attrs['truth'],statistics.NormalDist(0, noise).cdf
    def mean(score):
        below = [0, *(cdf(k/2+.25-score) for k in range(1, 10)), 1]   # chance of at most k half stars
        return sum(k/2*(below[k]-below[k-1]) for k in range(1, 11))
    np.testing.assert_allclose(t.expected(df), [mean(o) for o in t.scores(df).astype(float)], atol=1e-4)

def test_without_noise():
    "Without noise a rating is its score in half stars, between 0.5 and 5"
    df = synthetic_ratings(300, 100, 5000, noise=0)
    t = df.attrs['truth']
    stars = (2*t.scores(df).astype(float)).round().clip(1, 10)/2
    assert (df.rating != stars).mean() < 1e-3   # but for scores that lie on a cut
    assert df.rating.nunique() == 10
    assert np.isclose(t.expected(df), df.rating, atol=1e-6).mean() > .98 and df.attrs['rmse'] < .05

@pytest.mark.parametrize('noise', [.3,.75,1.5])
def test_noise(noise):
    "Away from the ends, ratings differ from the score by the noise and the rounding to half stars"
    df = synthetic_ratings(800, 400, 80_000, noise=noise, seed=1)
    score = df.attrs['truth'].scores(df)
    mid = np.abs(score-2.75) < (.5 if noise<1 else .05)
    diff = (df.rating-score)[mid]
    if noise<1: assert diff.std() == pytest.approx((noise**2+.5**2/12)**.5, rel=.03)
    else: assert diff.std() < noise   # the ends cut it
    assert diff.mean() == pytest.approx(0, abs=5*noise/mid.sum()**.5)

def rmse(pred, df): return float(np.sqrt(np.mean((np.asarray(pred, float)-df.rating.to_numpy())**2)))

@pytest.mark.parametrize('noise', [.3,.75,1.5])
def test_best_possible(noise):
    "attrs['rmse'] is that of truth.expected, and no other monotone function of the score does better"
    df = synthetic_ratings(800, 400, 60_000, noise=noise, seed=2)
    t,y = df.attrs['truth'],df.rating.to_numpy()
    best,score = t.expected(df),t.scores(df).astype(float)
    assert df.attrs['rmse'] == pytest.approx(rmse(best, df), rel=1e-9)
    assert best.min() >= .5 and best.max() <= 5 and (np.diff(best[score.argsort()]) >= 0).all()
    slope,const = np.polyfit(score, y, 1)
    others = dict(score=score, clipped=score.clip(.5, 5), stars=(2*score).round().clip(1, 10)/2, line=const+slope*score,
        mean=np.full(len(y), y.mean()))
    others |= {f'{d:+}': best+d for d in (-.05,.05)} | {f'{f}': y.mean()+f*(best-y.mean()) for f in (.9,1.1)}
    for k,o in others.items(): assert rmse(o, df) > df.attrs['rmse'], k
    bins,even = np.digitize(score, np.quantile(score, np.linspace(0, 1, 41)[1:-1])),np.arange(len(y))%2==0
    fit = np.array([y[even&(bins==k)].mean() for k in range(40)])   # any shape at all, learned from half of the rows
    assert rmse(fit[bins[~even]], df[~even]) > rmse(best[~even], df[~even])
    gap = np.array([(y-best)[bins==k].mean() for k in range(40)])
    assert np.abs(gap).max() < 4.5*y.std()/(len(y)/40)**.5

def test_harder_with_noise():
    "More noise, higher lowest error"
    errors = [synthetic_ratings(200, 100, 5000, noise=o).attrs['rmse'] for o in (0,.25,.5,1.)]
    assert errors == sorted(errors) and errors[-1] > 3*errors[1]

def test_truth_survives(made, tmp_path):
    "Copies, selections, concatenations and pickles of the frame keep the truth; writing parquet gives no warning"
    t = made.attrs['truth']
    frames = (made.copy(), made.copy(deep=False), made[four[:3]], made[made.rating>4], made.head(),
        made.sample(9, random_state=0),
        made.reset_index(drop=True), pd.concat([made.head(), made.tail()]))
    for o in frames:
        assert o.attrs['truth'] is t and o.attrs['rmse'] == made.attrs['rmse']
        np.testing.assert_array_equal(t.scores(o), t.scores(made)[:5] if len(o)==5
            else o.attrs['truth'].scores(o.copy()))
    back = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(back.attrs['truth'].expected(made), t.expected(made))
    assert repr(made) and made.equals(made.copy())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        made.to_parquet(tmp_path/'a.parquet')
        again = pd.read_parquet(tmp_path/'a.parquet')
    assert_frame_equal(again, made)
    assert again.attrs['rmse'] == made.attrs['rmse']
    assert made.attrs['truth'] is t

def test_truths_differ(made):
    "A truth equals itself only, so a frame put together from two of them has none"
    other,t = synthetic_ratings(20, 20, 100),made.attrs['truth']
    assert t == t and not t != t and t != other.attrs['truth'] and not t == other.attrs['truth']
    other.attrs['rmse'] = made.attrs['rmse']
    assert not pd.concat([made, other]).attrs

@pytest.mark.parametrize('args,text', [((2,3,7),"7 ratings don't fit into 2 users x 3 items"), ((0,3,1),'at least 1'),
    ((3,0,1),'at least 1'), ((3,3,0),'at least 1'), ((3,3,-1),'at least 1'), ((3,3,3,0),'at least 1'),
    ((3,3,3,3,-.1),'noise is -0.1; give a number, at least 0')])
def test_synthetic_impossible(args, text):
    "Sizes that cannot be"
    with pytest.raises(ValueError, match=text): synthetic_ratings(*args)

# ---- A first look

def table():
    "Seven ratings by three of four users, of two of three films"
    u,i = pd.Categorical(list('aabbabc'), categories=list('abcd')), pd.Categorical(list('xyxyxxx'),
        categories=list('xyz'))
    return pd.DataFrame(dict(u=u, i=i, r=[1,2.5,2.5,4,4,4,5], timestamps=range(7)))

def test_rating_columns():
    "The first three by default, each replaceable by name"
    df = table()
    assert rating_columns(df) == ('u','i','r')
    assert rating_columns(df, item_name='timestamps') == ('u','timestamps','r')
    assert rating_columns(df, 'i', 'u', 'timestamps') == ('i','u','timestamps')
    assert rating_columns(pd.DataFrame({0:[1], 1:[2], 2:[3], 3:[4]}), rating_name=3, user_name=0) == (0,1,3)

@pytest.mark.parametrize('f', [rating_columns,describe_ratings,plot_ratings])
@pytest.mark.parametrize('arg', ['user_name','item_name','rating_name'])
def test_missing_column(f, arg):
    "A name that is not there is named, with those that are"
    with pytest.raises(KeyError, match=r"no column 'nope'; the columns are \['u', 'i', 'r', 'timestamps'\]"):
        f(table(), **{arg:'nope'})

def test_too_few_columns():
    "Two columns are no ratings, whether names were given or not"
    df = table()[['u','i']]
    with pytest.raises(KeyError, match=r"at least three columns .* this one has \['u', 'i'\]"): rating_columns(df)
    with pytest.raises(KeyError, match=r"at least three columns .* this one has \['u', 'i'\]"):
        rating_columns(df, 'u', 'i')
    with pytest.raises(KeyError, match=r"no column 'r'; the columns are \['u', 'i'\]"):
        rating_columns(df, 'u', 'i', 'r')

def test_describe():
    "All numbers of a small table, counted by hand; categories without rows do not count"
    df = table()
    res = describe_ratings(df)
    # two pairs are there twice
    assert res['size'].to_dict() == {'users':3, 'items':2, 'ratings':7, 'share filled':7/6}
    assert res['ratings per user'].to_dict() == pytest.approx({'min':1, '25%':2, 'median':3, '75%':3, '95%':3, 'max':3})
    assert res['ratings per item'].to_dict() == pytest.approx({'min':2, '25%':2.75, 'median':3.5, '75%':4.25,
        '95%':4.85, 'max':5})
    assert res['share of ratings'].to_dict() == pytest.approx({'1':1/7, '2.5':2/7, '4':3/7, '5':1/7})
    assert list(res['share of ratings'].index) == ['1','2.5','4','5']
    assert_frame_equal(df, table())
    other = describe_ratings(df, user_name='i', item_name='u', rating_name='timestamps')
    assert (other['size','users'],other['size','items'],len(other['share of ratings'])) == (2,3,7)
    none = describe_ratings(df[:0])
    assert none['size'].to_dict() == {'users':0, 'items':0, 'ratings':0, 'share filled':0}

@pytest.mark.data
def test_describe_real(real100k):
    "The known facts of ml-100k"
    res = describe_ratings(real100k)
    assert (res['size','users'],res['size','items'],res['size','ratings']) == (943,1682,100_000)
    assert res['size','share filled'] == pytest.approx(.0630, abs=5e-5)
    assert (res['ratings per user','min'],res['ratings per user','max'],res['ratings per item','max']) == (20,737,583)
    assert res['share of ratings','4'] == pytest.approx(.34174)

def test_plot():
    "A bar for each rating and two falling curves whose points add up to the number of ratings"
    df = table()
    axs = plot_ratings(df, figsize=(6,2))
    try:
        assert len(axs) == 3 and tuple(axs[0].figure.get_size_inches()) == (6,2)
        bars = [(o.get_x()+o.get_width()/2,o.get_height()) for o in axs[0].patches]
        np.testing.assert_allclose(bars, [(1,1),(2.5,2),(4,3),(5,1)])
        assert axs[0].patches[0].get_width() <= 1   # the closest two ratings differ by one: no overlap
        for ax,expected in zip(axs[1:], ([3,3,1],[5,2])):
            x,y = ax.lines[0].get_data()
            assert (list(x),list(y)) == (list(range(1, len(expected)+1)),expected)
            assert ax.get_xscale() == ax.get_yscale() == 'log'
        assert [o.get_xlabel() for o in axs] == ['rating','user, by rank','item, by rank']
    finally: plt.close(axs[0].figure)
    assert_frame_equal(df, table())

def test_plot_names(made):
    "Columns by name, and a table with one rating"
    for df,kwargs in ((made,dict(item_name='title')), (table()[:1],{})):
        axs = plot_ratings(df, **kwargs)
        try:
            axs[0].figure.canvas.draw()
            assert sum(o.get_height() for o in axs[0].patches) == len(df)
            assert [int(np.sum(o.lines[0].get_ydata())) for o in axs[1:]] == [len(df)]*2
            axes = [axis for o in axs[1:] for axis in (o.xaxis,o.yaxis)]
            labels = [t.get_text() for axis in axes for t in axis.get_ticklabels(which='both')]
            assert any(labels) and not any('$' in o for o in labels)   # plain numbers, not powers of 10
        finally: plt.close(axs[0].figure)
