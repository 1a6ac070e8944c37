"The folder of a recommender: round trips, kills at any moment, and messages about damage"
import json, multiprocessing, os, pickle, random, shutil, signal, time
from pathlib import Path

import numpy as np, pandas as pd, pytest, safetensors.torch, torch
from fastcollab.recommend import artifact
from fastcollab.recommend.artifact import FORMAT, VERSION, read_artifact, write_artifact
from fastcollab.recommend.base import Factors, FoldTerms, Link
from fastcollab.recommend.history import UserHistory
from fastcollab.recommend.recommender import Recommender
from fastcollab.recommend.scorers import DotScorer, NetScorer
from fastcollab.recommend.solve import Decay
from torch import nn

can_fork = hasattr(os, 'fork')
fork = multiprocessing.get_context('fork') if can_fork else None   # a child that has everything imported already
needs_fork = pytest.mark.skipif(not can_fork, reason='there is no fork here')

def made(seed=0, n_users=40, n_items=30, net=False):
    "A small recommender with random vectors and random ratings"
    g = torch.Generator().manual_seed(seed)
    U,M,link = torch.randn(n_users+1, 5, generator=g),torch.randn(n_items+1, 5, generator=g),Link((0.,5.5), 3.)
    layers = [(torch.randn(3, 5, generator=g),torch.zeros(3)), 'ReLU', (torch.randn(1, 3, generator=g),torch.zeros(1))]
    if net: scorer = NetScorer(U, M, layers, link, (U,M))
    else: scorer = DotScorer(Factors(U[:,:4], U[:,4]), Factors(M[:,:4], M[:,4]), link)
    u,i = torch.randint(1, n_users+1, (200,), generator=g),torch.randint(1, n_items+1, (200,), generator=g)
    films = pd.DataFrame(dict(item=[f'i{k}' for k in range(n_items)],
        title=[f'Übung {seed} {k}' for k in range(n_items)], year=range(1990, 1990+n_items)))
    history,ids = UserHistory.from_ratings(u, i, torch.randint(1, 6, (200,), generator=g),
        n_users+1),(pd.Index(range(7, 7+n_users)),pd.Index(films['item']))
    rec = Recommender(scorer, ids, ('user','item','rating'), films, history, (None,None) if net
        else (FoldTerms(),FoldTerms()), (1.,5.))
    rec.decays = [None,None] if net else [Decay(seed+1., .5),Decay(.5, 2.)]
    return rec

def same(a, b):
    "Are two recommenders the same in all that they hold and answer?"
    (info,t),(info2,t2) = a.scorer.state(),b.scorer.state()
    return (info==info2 and t.keys()==t2.keys() and all(torch.equal(t[k], t2[k]) for k in t)
        and all(torch.equal(*o) for o in zip(a.history, b.history))
        and all(x.equals(y) for x,y in zip((*a.ids,a.items,a.recommend(k=5)), (*b.ids,b.items,b.recommend(k=5))))
        and all(getattr(a, o)==getattr(b, o) for o in ('names','link','rated','terms','separators','decays')))

def files(path): return {str(o.relative_to(path)):o.read_bytes() for o in sorted(Path(path).rglob('*')) if o.is_file()}
def clean(path): return sorted(o.name[:5] for o in Path(path).iterdir())==['data-','recom']

@pytest.fixture
def saved(tmp_path):
    "A folder with the recommender of seed 0"
    made().save(tmp_path/'m')
    return tmp_path/'m'

# What comes back

def test_older_version(saved):
    "A folder of version 2 loads: its scorer knows no clipping and no levels"
    def older(o): return {k:v for k,v in o.items() if k not in ('clip','levels','cuts')}
    info = json.loads((saved/'recommender.json').read_text())['info']
    manifest(saved, version=2, info={**info, 'scorer':older(info['scorer'])})
    assert same(made(), Recommender.load(saved))

@pytest.mark.parametrize('net', [False,True])
def test_round_trip(net, tmp_path):
    "Everything comes back, lists to the last bit; the folder has four kinds of file, none of them a pickle"
    rec = made(net=net)
    rec.save(tmp_path/'a/b')
    assert same(rec, Recommender.load(tmp_path/'a/b')) and same(rec,
        Recommender.load(str(tmp_path/'a/b'))) and clean(tmp_path/'a/b')
    assert {Path(o).suffix for o in files(tmp_path)}=={'.json','.parquet','.safetensors'}

def test_saved_again_and_elsewhere(saved, tmp_path):
    "Loaded and saved is the same; a moved or copied folder works; a second save takes the place of the first"
    Recommender.load(saved).save(tmp_path/'again')
    shutil.move(saved, tmp_path/'moved')
    shutil.copytree(tmp_path/'moved', tmp_path/'copied')
    for o in ('again','moved','copied'): assert same(made(), Recommender.load(tmp_path/o))
    made(1).save(tmp_path/'moved')
    assert same(made(1), Recommender.load(tmp_path/'moved')) and not same(made(),
        Recommender.load(tmp_path/'moved')) and clean(tmp_path/'moved')

def test_reading_does_not_write(saved):
    before = files(saved),[o.stat().st_mtime_ns for o in sorted(saved.rglob('*'))]
    Recommender.load(saved).recommend(7)
    assert (files(saved),[o.stat().st_mtime_ns for o in sorted(saved.rglob('*'))])==before

def test_saving_does_not_write_into_what_is_saved(tmp_path):
    "The recommender is as it was, and what was loaded shares nothing with it"
    rec,other = made(),made()
    rec.save(tmp_path/'m')
    assert same(rec, other)
    Recommender.load(tmp_path/'m').scorer.factors(0).vec.zero_()
    assert same(rec, other) and same(Recommender.load(tmp_path/'m'), other)

IDS = dict(int=range(5), negative=[-3,-1,0,7,10**15], float=[.5,1.5,2.5,3.5,9.], text=['a','ü','日本','#na#',''],
    time=pd.date_range('2020-01-01', periods=5),
    category=pd.Categorical(list('abcde')), bool_like=['True','False','1','0','None'])

@pytest.mark.parametrize('ids', IDS.values(), ids=IDS)
def test_ids_keep_their_type(ids, tmp_path):
    "Ids of any type that Parquet has come back as they were, and find what they found"
    rec = made(n_users=5)
    rec.ids = (pd.Index(ids),rec.ids[1])
    rec.save(tmp_path)
    again = Recommender.load(tmp_path)
    assert again.ids[0].equals(rec.ids[0]) and again.ids[0].dtype==rec.ids[0].dtype
    for o in rec.ids[0]: assert again.recommend(o, 3).equals(rec.recommend(o, 3))

def test_raw_round_trip(tmp_path):
    "Info, tensors of every type and layout, tables with gaps, scripts and no rows"
    tensors = {str(t):torch.arange(6).to(t).view(2, 3) for t in (torch.float32,torch.float64,torch.int64,torch.int32,
        torch.bool,torch.float16)}
    base = torch.arange(20.)
    tensors.update(part=base[::2], turned=base.view(4, 5).T, empty=torch.zeros(0, 3), one=torch.tensor(3.), shared=base,
        shared2=base[:3])
    tables = dict(a=pd.DataFrame({'x':[1,None,3],'日本':['a',None,'\n|"']}), none=pd.DataFrame(dict(x=[])))
    info = dict(n=1, f=.1, t='ü"\n', l=[None,True,[1]], inf=float('inf'))
    write_artifact(tmp_path/'m', info, tensors, tables)
    got = read_artifact(tmp_path/'m')
    assert got[0]==info and got[1].keys()==tensors.keys() and all(torch.equal(got[1][k], v)
        and got[1][k].dtype==v.dtype for k,v in tensors.items())
    for k,v in tables.items(): pd.testing.assert_frame_equal(got[2][k], v)

def test_own_model_round_trip(tmp_path):
    "A model of one's own: its weights come back into one that is given, and without one the error says which is needed"
    from fastcollab.recommend.scorers import ModelScorer
    class Mine(nn.Module):
        def __init__(self, n=41):
            super().__init__()
            self.u,self.i = nn.Embedding(n, 3),nn.Embedding(31, 3)
        def forward(self, x): return (self.u(x[:,0])*self.i(x[:,1])).sum(1)
    rec = made()
    rec.scorer = ModelScorer(Mine().eval(), 31)
    rec.save(tmp_path)
    other = Mine()
    assert Recommender.load(tmp_path,
        model=other).recommend(k=5).equals(rec.recommend(k=5)) and torch.equal(other.u.weight,
            rec.scorer.model.u.weight)
    with pytest.raises(TypeError, match='Mine.*model='): Recommender.load(tmp_path)
    with pytest.raises(ValueError, match='(?s)Mine do not fit the model'): Recommender.load(tmp_path, model=Mine(50))

# Killed at any moment

def forever(path, recs):
    "Save two recommenders in turn, until killed"
    torch.set_num_threads(1)            # OpenMP's threads don't come along into a fork
    while True:
        for o in recs: o.save(path)

def stop(child):
    os.kill(child.pid, signal.SIGKILL)
    child.join()

@needs_fork
@pytest.mark.slow
def test_kill_at_20_random_moments(tmp_path):
    "Whatever `kill -9` cuts off, `load` gives one of the two, whole; the next save takes away what was left behind"
    recs,path,left,seen = (made(1),made(2)),tmp_path/'m',0,set()
    recs[0].save(path)
    rng = random.Random(1)
    for k in range(20):
        child = fork.Process(target=forever, args=(path,recs[::(-1)**k]), daemon=True)
        child.start()
        time.sleep(.02+rng.random()*.1)
        stop(child)
        left += not clean(path)
        got = Recommender.load(path)
        which = [same(got, o) for o in recs]
        assert sum(which)==1
        seen.add(which.index(True))
    assert left>0 and len(seen)==2      # or else nothing was cut off, or nothing was saved
    recs[0].save(path)
    assert clean(path) and same(Recommender.load(path), recs[0])

STEPS = [('os.fsync',o) for o in range(6)]+[('os.replace',0),('Path.rename',0),('Path.mkdir',1),('shutil.rmtree',0)]

def patched(monkey, step, n, act):
    "Do `act` at the n-th call of a step of the file system, before it is done"
    where,name = step.split('.')
    where,count = dict(os=os, shutil=shutil, Path=Path)[where],[0]
    old = getattr(where, name)
    def new(*args, **kwargs):
        count[0] += 1
        if count[0]==n+1: act()
        return old(*args, **kwargs)
    monkey.setattr(where, name, new)

@needs_fork
@pytest.mark.parametrize('step,n,first', [(*o, k) for o in STEPS for k in (False,True) if o[0]!='shutil.rmtree'
    or not k])
def test_gone_at_each_step(step, n, first, tmp_path, monkeypatch):
    "A process killed before any single step leaves the old artifact or the new one, and saving works afterwards"
    path,done = tmp_path/'m',step=='shutil.rmtree'
    if not first: made(1).save(path)
    def child():
        torch.set_num_threads(1)            # OpenMP's threads don't come along into a fork
        patched(monkeypatch, step, n, lambda: os._exit(9))
        made(2).save(path)
        os._exit(0)
    p = fork.Process(target=child)
    p.start(), p.join()
    assert p.exitcode==9
    if first:
        with pytest.raises(FileNotFoundError): Recommender.load(path)
    else: assert same(Recommender.load(path), made(2 if done else 1))
    made(3).save(path)
    assert same(Recommender.load(path), made(3)) and clean(path)

@pytest.mark.parametrize('error', [OSError('disk full'),KeyboardInterrupt()], ids=['disk full','Ctrl-C'])
@pytest.mark.parametrize('step,n', STEPS[:-1])
def test_error_at_each_step(step, n, error, saved, monkeypatch):
    "The error comes out, the old one is there, and nothing else is"
    before = files(saved)
    with monkeypatch.context() as m, pytest.raises(type(error)):
        def fail(): raise error
        patched(m, step, n, fail)
        made(2).save(saved)
    assert files(saved)==before and clean(saved) and same(Recommender.load(saved), made())

def test_interrupted_when_it_is_in_place(saved, monkeypatch):
    "Ctrl-C in the moment after the manifest was replaced: the new one is in place, and whole"
    old = os.replace
    def late(*args):
        old(*args)
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(os, 'replace', late)
        made(2).save(saved)
    assert same(Recommender.load(saved), made(2))

def test_two_writers(saved, monkeypatch):
    "A writer that ends while another one is about to: a whole artifact of one of them is there"
    old = os.replace
    def overtaken(*args):
        monkeypatch.setattr(os, 'replace', old)
        made(1).save(saved)
        return old(*args)
    monkeypatch.setattr(os, 'replace', overtaken)
    try: made(2).save(saved)
    except OSError: pass                                            # to say that somebody else is writing is fine
    got = Recommender.load(saved)
    assert same(got, made(1)) or same(got, made(2))

@needs_fork
@pytest.mark.slow
def test_a_reader_beside_a_writer(tmp_path):
    "One process saves without a pause, the other one loads: each time it is one of the two, and both of them come"
    recs,path,seen = (made(1),made(2)),tmp_path/'m',set()
    recs[0].save(path)
    child = fork.Process(target=forever, args=(path,recs), daemon=True)
    child.start()
    end = time.monotonic()+2.5
    try:
        while time.monotonic()<end:
            got = Recommender.load(path)
            seen.add(tuple(same(got, o) for o in recs))
    finally: stop(child)
    assert seen=={(True,False),(False,True)}

@pytest.mark.parametrize('times', [1,2,5])
def test_overtaken_while_reading(times, saved, monkeypatch):
    "A reader that a writer overtakes again and again, between the manifest and the files, begins again and again"
    old,left = artifact._read,[times]
    def slow(path, body):
        if left[0]:
            left[0] -= 1
            made(left[0]).save(saved)
        return old(path, body)
    monkeypatch.setattr(artifact, '_read', slow)
    assert same(Recommender.load(saved), made(0)) and left==[0]

# Damaged, foreign, newer

def manifest(path, signed=True, **changes):
    "Change the manifest, with a checksum that fits"
    body = json.loads((path/'recommender.json').read_text())
    body.pop('sum')
    body = {k:v for k,v in {**body, **changes}.items() if v is not ...}
    (path/'recommender.json').write_text(json.dumps({**body, 'sum':artifact._json_checksum(body) if signed
        else '0'*64}))

def resigned(path, name, change):
    "Change what is in a file, a dict of tensors or a table, with checksums that fit"
    file = data(path)/name
    if name.endswith('.parquet'): change(pd.read_parquet(file)).to_parquet(file, index=False)
    else:
        safetensors.torch.save_file({k:v.contiguous() for k,v in change(safetensors.torch.load_file(file)).items()},
            file)
    manifest(path, files={**json.loads((path/'recommender.json').read_text())['files'],
        name:artifact._checksum(file.read_bytes())})

def informed(path, **changes):
    "Change what `info` says of the recommender, or with `scorer_` in front of the scorer"
    info = json.loads((path/'recommender.json').read_text())['info']
    own = {k:v for k,v in changes.items() if not k.startswith('scorer_')}
    scorer = {k.removeprefix('scorer_'):v for k,v in changes.items() if k.startswith('scorer_')}
    manifest(path, info={**info, 'scorer':{**info['scorer'], **scorer}, **own})
def tensors(path, **changes):
    resigned(path, 'tensors.safetensors', lambda t: {**t, **{k:f(t[k]) for k,f in changes.items()}})
def data(path): return next(path.glob('data-*'))
def put(path, content): path.write_bytes(content)
def cut(path, n): put(path, path.read_bytes()[:n])
def flip(path, at):
    old = bytearray(path.read_bytes())
    old[at] ^= 255
    put(path, bytes(old))

FILES = ['tensors.safetensors','user_ids.parquet','item_ids.parquet','items.parquet','history.parquet']
DAMAGE = {**{f'{f} cut':(lambda p, f=f: cut(data(p)/f, -1), ValueError, [f,'damaged','bytes','checksum','again'])
    for f in FILES},
    **{f'{f} empty':(lambda p, f=f: cut(data(p)/f, 0), ValueError, [f,'damaged','0 bytes','again']) for f in FILES},
    **{f'{f} flipped':(lambda p, f=f: flip(data(p)/f, -9), ValueError, [f,'damaged','checksum','again'])
        for f in FILES},
    **{f'{f} missing':(lambda p, f=f: (data(p)/f).unlink(), ValueError, ['damaged','data-','missing','again'])
        for f in FILES},
    'file longer':(lambda p: put(data(p)/FILES[0], (data(p)/FILES[0]).read_bytes()+b'\0'), ValueError,
        [FILES[0],'damaged','checksum']),
    'file of another save':(lambda p: put(data(p)/FILES[2], (data(p)/FILES[3]).read_bytes()), ValueError,
        [FILES[2],'damaged','checksum']),
    'data missing':(lambda p: shutil.rmtree(data(p)), ValueError, ['damaged','data-','missing','again']),
    'manifest cut':(lambda p: cut(p/'recommender.json', 300), ValueError, ['recommender.json','damaged','again']),
    'manifest empty':(lambda p: cut(p/'recommender.json', 0), ValueError, ['recommender.json','damaged','again']),
    'manifest of bytes':(lambda p: put(p/'recommender.json', bytes(range(256))), ValueError,
        ['recommender.json','damaged','again']),
    'manifest edited':(lambda p: manifest(p, False, info={}), ValueError, ['recommender.json','damaged','checksum',
        'again']),
    'manifest without a checksum':(lambda p: put(p/'recommender.json',
        json.dumps(dict(format=FORMAT, version=VERSION)).encode()), ValueError, ['damaged','checksum']),
    'manifest of a list':(lambda p: put(p/'recommender.json', b'[1]'), ValueError,
        ['recommender.json','not a','name the folder']),
    'manifest of another program':(lambda p: put(p/'recommender.json', b'{"name":"x"}'), ValueError,
        ['recommender.json','not a','name the folder']),
    'manifest missing':(lambda p: (p/'recommender.json').unlink(), FileNotFoundError,
        ['no recommender','recommender.json','name the folder']),
    'data elsewhere':(lambda p: manifest(p, data='../../etc'), ValueError, ['damaged']),
    'older':(lambda p: manifest(p, version=1), ValueError, ['saved by an older fastcollab (format 1)',
        'save the recommender again']),
    'newer':(lambda p: manifest(p, version=VERSION+1), ValueError, [f'format {VERSION+1}',
        f'reads format 2 to {VERSION}', 'update fastcollab']),
    'much newer':(lambda p: put(p/'recommender.json', json.dumps(dict(format=FORMAT, version=99, other=1)).encode()),
        ValueError, ['format 99', f'reads format 2 to {VERSION}', 'update']),
    'version of text':(lambda p: manifest(p, version='1'), ValueError, ['version']),
    'no version':(lambda p: manifest(p, version=...), ValueError, ['version']),
    'no files':(lambda p: manifest(p, files=...), ValueError, ['damaged','again']),
    'no info':(lambda p: manifest(p, info=...), ValueError, ['damaged','again']),
    'info without a kind':(lambda p: manifest(p, info={}), ValueError, ['damaged','again']),
    **{f'version {v}':(lambda p, v=v: manifest(p, version=v), ValueError, ['version', repr(v), 'damaged','again'])
        for v in (0,-1,True,1.)},
    'too few users':(lambda p: tensors(p, **{'scorer.users':lambda o: o[:-1]}), ValueError,
        ['users','(40, 4)','41 rows','damaged','again']),
    'too few items':(lambda p: tensors(p, **{'scorer.items':lambda o: o[:7]}), ValueError,
        ['items','(7, 4)','31 rows','damaged','again']),
    'users in a row':(lambda p: tensors(p, **{'scorer.users':lambda o: o[0]}), ValueError,
        ['users','(4,)','damaged','again']),
    'vectors too short':(lambda p: tensors(p, **{'scorer.users':lambda o: o[:,:3]}), ValueError,
        ['3 columns','4','damaged','again']),
    'no tensor of users':(lambda p: resigned(p, FILES[0], lambda t: {k:v for k,v in t.items() if k!='scorer.users'}),
        ValueError, ["'users'",'damaged','again']),
    'table of items too short':(lambda p: resigned(p, 'items.parquet', lambda o: o[:9]), ValueError,
        ['table of items','9 rows','30 items','damaged','again']),
    'ids too short':(lambda p: resigned(p, 'item_ids.parquet', lambda o: o[:9]), ValueError,
        ['31','10 rows','damaged','again']),
    'an item that is not there':(lambda p: resigned(p, 'history.parquet',
        lambda o: o.assign(item=o['item'].replace(3, 31))), ValueError, ['row of items','31','damaged','again']),
    'a negative item':(lambda p: resigned(p, 'history.parquet', lambda o: o.assign(item=-1)), ValueError,
        ['200 of 200','row of items','-1','damaged']),
    'a user that is not there':(lambda p: resigned(p, 'history.parquet', lambda o: o.assign(user=999)), ValueError,
        ['200 of 200','row of users','999','damaged']),
    'seen without ratings':(lambda p: resigned(p, 'history.parquet', lambda o: o.drop(columns='rating')), ValueError,
        ["'rating'",'damaged','again']),
    'one number as a range':(lambda p: informed(p, rated=3), ValueError, ['rated is 3','two numbers','damaged',
        'again']),
    'text as a range':(lambda p: informed(p, scorer_y_range=['a','b']), ValueError,
        ['y_range is','two numbers','damaged','again']),
    'a range of three':(lambda p: informed(p, scorer_y_range=[1,2,3]), ValueError,
        ['y_range is [1, 2, 3]','two numbers','damaged','again']),
    'a level without its cut':(lambda p: informed(p, scorer_levels=[1,2,3], scorer_cuts=[0]), ValueError,
        ['levels are [1, 2, 3]','cuts [0]','damaged','again']),
    'levels without cuts':(lambda p: informed(p, scorer_levels=[1,2,3]), ValueError, ['cuts None','damaged']),
    'terms that are a number':(lambda p: informed(p, terms=3), ValueError, ['damaged','again']),
    'an unknown kind':(lambda p: informed(p, scorer_kind='tree'), ValueError, ["'tree'",'damaged','again']),
    'empty folder':(lambda p: (shutil.rmtree(p), p.mkdir()), FileNotFoundError, ['no recommender','name the folder']),
    'no folder':(lambda p: shutil.rmtree(p), FileNotFoundError, ['no recommender','name the folder']),
    'a file':(lambda p: (shutil.rmtree(p), put(p, b'x')), (FileNotFoundError,ValueError),
        ['no recommender','name the folder']),
    'a pickle':(lambda p: (shutil.rmtree(p), p.mkdir(), put(p/'learner.pkl', pickle.dumps(3))), FileNotFoundError,
        ['no recommender'])}

@pytest.mark.parametrize('hurt,error,words', DAMAGE.values(), ids=DAMAGE)
def test_damage(hurt, error, words, saved):
    "One error says what is wrong and what to do; the folder stays as it is; a new save repairs it"
    hurt(saved)
    before = files(saved)
    with pytest.raises(error) as e: Recommender.load(saved)
    text = str(e.value.args[0]) if isinstance(e.value, KeyError) else str(e.value)
    assert [o for o in words if o not in text]==[], text
    assert str(saved) in text and files(saved)==before
    if saved.is_dir() and 'learner.pkl' not in before:
        made(1).save(saved)
        assert same(Recommender.load(saved), made(1)) and clean(saved)

def test_every_single_byte_counts(saved):
    "A byte that is changed anywhere in any of the files is found"
    rng = random.Random(0)
    for f in [data(saved)/o for o in FILES]+[saved/'recommender.json']:
        whole = f.read_bytes()
        for at in rng.sample(range(len(whole)), 12):
            flip(f, at)
            with pytest.raises(ValueError): Recommender.load(saved)
            put(f, whole)
    assert same(Recommender.load(saved), made())

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch,(Path(self.path),)

@pytest.mark.parametrize('f', FILES)
def test_no_pickle_is_read(f, saved, tmp_path):
    "A pickle in the place of a file, with a checksum that fits, is an error and is not run"
    for content in (pickle.dumps(Bomb(tmp_path/'hacked')), b''):
        if not content: torch.save(Bomb(tmp_path/'hacked'), data(saved)/f)
        else: put(data(saved)/f, content)
        body = json.loads((saved/'recommender.json').read_text())
        manifest(saved, files={**body['files'], f:artifact._checksum((data(saved)/f).read_bytes())})
        with pytest.raises(Exception): Recommender.load(saved)
        assert not (tmp_path/'hacked').exists()
    pickle.loads(pickle.dumps(Bomb(tmp_path/'hacked')))
    assert (tmp_path/'hacked').exists()                              # it does go off where it is run

# What cannot be saved

def test_somebody_elses_folder(tmp_path):
    "A folder with other files, or a file, is an error and stays as it is; hidden files are no reason"
    (tmp_path/'thesis.txt').write_text('all of it')
    with pytest.raises(FileExistsError, match="other files, e.g. thesis.txt; name a new folder"): made().save(tmp_path)
    with pytest.raises(FileExistsError, match='thesis.txt is a file; name a folder'): made().save(tmp_path/'thesis.txt')
    assert files(tmp_path)=={'thesis.txt':b'all of it'}
    (tmp_path/'m').mkdir()
    (tmp_path/'m/.DS_Store').write_text('x')
    made().save(tmp_path/'m')
    made(1).save(tmp_path/'m')
    assert same(Recommender.load(tmp_path/'m'), made(1)) and (tmp_path/'m/.DS_Store').read_text()=='x'

def test_files_beside_an_artifact_stay(saved):
    "What others put into the folder is not taken away by a save, whatever it is called"
    for o in ('notes.txt','data-mine','.writing','data-abc.txt'): (saved/o).write_text(o)
    (saved/'data').mkdir()
    made(1).save(saved)
    assert {o.name for o in saved.iterdir()}>={'notes.txt','data-mine','.writing','data-abc.txt',
        'data'} and same(Recommender.load(saved), made(1))

@pytest.mark.parametrize('column', [[{1:2},3]+[None]*28, [object()]*30, [1,'a']*15], ids=['dict','object','mixed'])
def test_tables_that_parquet_cannot_hold(column, tmp_path):
    "A TypeError that names the table, and no folder"
    rec = made()
    rec.items = rec.items.assign(odd=column)
    with pytest.raises(TypeError, match='table of items cannot be saved as Parquet.*convert its columns'):
        rec.save(tmp_path/'m')
    assert not (tmp_path/'m').exists()

def test_the_tensors_are_safetensors(saved):
    "Others can read them without this library"
    t = safetensors.torch.load_file(data(saved)/'tensors.safetensors')
    assert torch.equal(t['scorer.users'],
        made().scorer.factors(0).vec) and np.array_equal(pd.read_parquet(data(saved)/'user_ids.parquet').id,
            range(7, 47))
