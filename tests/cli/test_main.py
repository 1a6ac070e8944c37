"The command as people type it: what it prints, and what it leaves behind"
import inspect, re, shlex, shutil, subprocess, sys
from importlib.metadata import version
from pathlib import Path

import matplotlib.image, matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from fastai.learner import load_learner
from fastcollab.all import RandomSplitter, Recommender
from fastcollab.cli.main import COMMANDS, command, main
from fastcollab.cli.train import ARCHS

def run(monkeypatch, capsys, *args):
    "What `fastcollab ARGS` prints"
    monkeypatch.setattr(sys, 'argv', ['fastcollab', *map(str, args)])
    main()
    return capsys.readouterr().out

@pytest.fixture
def csv(ratings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ratings.to_csv('r.csv', index=False)
    ratings.astype(dict(title=str, genres=str)).to_parquet('r.parquet')
    return 'r.csv'

LOOKED_AT = 'test_train_leaves_a_learner','test_demo','test_vectors_of_length_one'
@pytest.fixture(autouse=True)
def empty_figures(request, monkeypatch):
    "Most tests don't look at the figures, and to draw them is most of what the command does"
    if request.node.originalname in LOOKED_AT: return
    monkeypatch.setattr('fastcollab.cli.fit._figures', lambda learn: {o:plt.figure() for o in ('loss','items')})

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:load_learner')
@pytest.mark.parametrize('arch', ARCHS)
def test_train_leaves_a_learner(csv, ratings, monkeypatch, capsys, tmp_path, arch):
    "Files, the table of the fit, and a learner that predicts what the fit measured"
    genres = ('--genres','genres') if arch.startswith('Hybrid') else ()
    said = run(monkeypatch, capsys, 'train', csv, '--item-col', 'title', '--epochs', 2, '--lr', .02, '--factors', 6,
        '--arch', arch, '--out', 'a/b', *genres)
    assert sorted(o.name for o in (tmp_path/'a/b').iterdir()) == ['history.csv','items.png','learner.pkl','loss.png',
        'recommender']
    table = pd.read_csv(tmp_path/'a/b/history.csv')
    assert list(table) == ['epoch','train_loss','valid_loss','valid_rmse','global mean',
        'user + item bias'] and len(table)==2
    assert f'{table.valid_rmse.iloc[-1]:.4f}' in said and arch in said and 'a/b' in said
    # something is drawn
    for o in ('loss.png','items.png'): assert matplotlib.image.imread(tmp_path/'a/b'/o).std() > .01
    learn = load_learner(tmp_path/'a/b/learner.pkl')
    held = ratings.iloc[RandomSplitter(.2, 42)(ratings)[1]]
    assert np.isclose(np.sqrt(np.mean((learn.predict(held)-held.rating)**2)), table.valid_rmse.iloc[-1], atol=1e-4)

@pytest.mark.slow
def test_same_seed_same_table(csv, monkeypatch, capsys):
    a,b,c,p = (run(monkeypatch, capsys, 'train', f, '--epochs', 1, '--factors', 4, '--seed', s)
        for f,s in ((csv,1),(csv,1),(csv,2),('r.parquet',1)))
    assert a==b==p and a!=c

@pytest.mark.slow
def test_without_out_the_folder_is_named_after_the_ratings(csv, monkeypatch, capsys, tmp_path):
    said = run(monkeypatch, capsys, 'train', csv, '--epochs', 1, '--factors', 4)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['r-model','r.csv','r.parquet'] and 'r-model' in said
    assert re.search(r'^RMSE .* % (better|worse) than .*$', said, re.M)

def test_items_add_titles_and_genres(csv, ratings, monkeypatch, capsys, tmp_path):
    "Lists have titles, filters have genres, and an item is named by its title wherever one is asked for"
    ratings[['userId','movieId','rating']].to_csv('bare.csv', index=False)
    ratings.drop_duplicates('movieId')[['movieId','title','genres']].to_csv('items.csv', index=False)
    said = run(monkeypatch, capsys, 'train', 'bare.csv', '--items', 'items.csv', '--epochs', 1, '--factors', 4)
    assert 'HybridMF' in said
    rec,title = Recommender.load(tmp_path/'bare-model/recommender'),ratings.title[0]
    assert set(rec.items.columns) == {'movieId','title','genres'}
    want = rec.predict(7, ratings.movieId[0])
    assert f'{want:.3f}' in run(monkeypatch, capsys, 'predict', 'bare-model', '--user', 7, '--item', title)
    why = run(monkeypatch, capsys, 'explain', 'bare-model', '7', title)
    assert f'{want:.2f} stars predicted for {title}' in why
    run(monkeypatch, capsys, 'predict', 'bare-model', '--pairs', 'bare.csv', '--csv', 'p.csv')
    assert np.allclose(pd.read_csv('p.csv').prediction, rec.predict(ratings.userId, ratings.movieId), atol=1e-4)
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, 'predict', 'bare-model', '--user', 7)
    assert '--item' in str(e.value)

@pytest.mark.slow
def test_update_learns_a_new_day(ratings, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    new = ratings.userId>ratings.userId.max()-5
    ratings[~new].to_csv('old.csv', index=False)
    ratings[new].to_csv('new.csv', index=False)
    run(monkeypatch, capsys, 'train', 'old.csv', '--epochs', 1, '--factors', 4, '--out', 'm')
    assert '5 new users' in run(monkeypatch, capsys, 'update', 'm', 'new.csv')
    assert run(monkeypatch, capsys, 'recommend', 'm', '--user', ratings.userId.max(), '-k', 3)
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, 'update', 'm/recommender', 'new.csv')
    assert 'learner.pkl' in str(e.value)

@pytest.mark.slow
def test_arch_auto(csv, monkeypatch, capsys, tmp_path):
    said = run(monkeypatch, capsys, 'train', csv, '--arch', 'auto', '--out', 'best')
    assert 'chosen: ' in said and (tmp_path/'best/recommender').is_dir()

def test_describe_and_doctor(csv, ratings, monkeypatch, capsys):
    said = run(monkeypatch, capsys, 'describe', csv)
    assert "'userId' (users), 'movieId' (items), 'rating' (ratings)" in said and f'{len(ratings):,}' in said
    said = run(monkeypatch, capsys, 'doctor')
    assert all(o in said for o in ('torch','threads','devices','compiled'))

@pytest.mark.parametrize('args,words', [
    (['trian','r.csv'], ["did you mean 'train'?"]),
    (['describe','r.csv','--rating-col','raiting'], ["did you mean 'rating'?"]),
    (['train','r.csv','--epocks','3'], ["no option --epocks; did you mean '--epochs'?"])])
def test_did_you_mean(csv, monkeypatch, capsys, args, words):
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, *args)
    assert all(o in str(e.value) for o in words)

def test_the_version_is_said(monkeypatch, capsys):
    assert run(monkeypatch, capsys, '--version') == f'fastcollab {version("fastcollab")}\n'

@pytest.mark.slow
def test_train_reports(csv, monkeypatch, capsys, tmp_path):
    "A page of what was learned, beside the model; a folder in its place is refused before the training"
    said = run(monkeypatch, capsys, 'train', csv, '--epochs', 2, '--factors', 4, '--arch', 'CollabNN', '--report',
        'new/page.html')
    page = (tmp_path/'new/page.html').read_text(encoding='utf-8')
    assert 'report written to new/page.html' in said
    assert 'What CollabNN has learned' in page and '2 epochs' in page
    assert sorted(o.name for o in tmp_path.iterdir())==['new','r-model','r.csv','r.parquet']
    rmse = re.search(r'<b>([\d.]+)</b>RMSE, in stars', page)[1]
    assert rmse in said
    with pytest.raises(SystemExit, match='new is a folder; name a file in it'):
        run(monkeypatch, capsys, 'train', csv, '--report', 'new')
    assert 'epoch' not in capsys.readouterr().out

def test_vectors_of_length_one(csv, monkeypatch, capsys):
    assert 'items.png' in run(monkeypatch, capsys, 'train', csv, '--epochs', 1, '--factors', 1, '--out', 'out')

def test_help(monkeypatch, capsys):
    for args in ([], ['--help']): assert all(o in run(monkeypatch, capsys, *args) for o in ('demo','train'))
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, 'train', '--help')
    said = ' '.join(capsys.readouterr().out.split())
    assert e.value.code==0
    for o in ('epochs (int) Passes over the training part (default: 5)','(default: 0.005)','(default: 0.1)',
        '(default: 50)','DotProductBias','(default: 64)','(default: 42)'):
        assert o in said, o

@pytest.mark.slow
def test_demo(monkeypatch, capsys, tmp_path):
    "The fit beside its baselines and the truth, a list for one user, the most and least liked, four files"
    said = run(monkeypatch, capsys, 'demo', '--out', tmp_path/'demo')
    for o in ('valid_rmse','global mean','user + item bias','truth behind the ratings','Top 10 for user',
        'Most and least liked'): assert o in said
    table = pd.read_csv(tmp_path/'demo/history.csv')
    assert table.valid_rmse.iloc[-1] < table['user + item bias'].iloc[-1] < table['global mean'].iloc[-1]
    top = said[said.index('Top 10'):said.index('Most and least')].strip().splitlines()[2:]
    scores = [float(o.split(')')[1].split()[0]) for o in top]
    assert len(top)==10 and scores==sorted(scores, reverse=True) and scores[0]<=5.5
    assert sorted(o.name for o in (tmp_path/'demo').iterdir()) == ['history.csv','items.png','learner.pkl','loss.png',
        'recommender']

@pytest.fixture(scope='module')
def model(ratings, tmp_path_factory):
    "A folder that `fastcollab train` left"
    folder = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as m:
        m.chdir(folder)
        ratings.to_csv('r.csv', index=False)
        m.setattr(sys, 'argv', 'fastcollab train r.csv --epochs 1 --factors 4 --genres genres --out model'.split())
        main()
    return folder/'model'

@pytest.fixture
def trained(csv, model):
    "A copy of that folder, where the test runs"
    return shutil.copytree(model, 'model')

def test_lists_of_one_user(trained, ratings, monkeypatch, capsys):
    "Shown or written, restricted or not; ids and titles as in the table"
    rec = Recommender.load('model/recommender')
    run(monkeypatch, capsys, 'recommend', trained, '--user', 7, '-k', 5, '--filters', "'Drama' in genres", '--csv',
        'top.csv')
    top = pd.read_csv('top.csv')
    pd.testing.assert_frame_equal(top, rec.recommend(7, 5, filters="'Drama' in genres"), check_dtype=False, atol=1e-5)
    assert ratings.drop_duplicates('movieId').set_index('movieId').genres[top['item']].str.contains('Drama').all()
    said = run(monkeypatch, capsys, 'recommend', 'model/recommender', '--user', 7, '-k', 3)
    assert [o in said for o in rec.recommend(7, 3).title] == [True]*3 and 'prediction' in said
    assert len(run(monkeypatch, capsys, 'recommend', trained, '--user', 7, '-k', 50, '--seen').splitlines()) == 51
    assert run(monkeypatch, capsys, 'recommend', trained, '--user', 7, '-k3')==run(monkeypatch, capsys, 'recommend',
        trained, '--user', 7, '--k', 3)==said

@pytest.mark.parametrize('mb', (.001,64))
@pytest.mark.parametrize('suffix', ('parquet','csv'))
def test_lists_of_everybody(trained, monkeypatch, capsys, tmp_path, suffix, mb):
    "A file that is complete when it has its name, whatever the memory"
    said = run(monkeypatch, capsys, 'recommend', trained, '--all', '-k', 4, '--mb', mb, '--out', f'all.{suffix}')
    df,rec = (pd.read_csv if suffix=='csv' else pd.read_parquet)(f'all.{suffix}'),Recommender.load('model/recommender')
    pd.testing.assert_frame_equal(df, rec.recommend(k=4), check_dtype=False, atol=1e-5)
    assert f'{len(df):,} rows for {rec.n_users-1:,} users' in said and not list(tmp_path.glob('.*.part'))

def test_a_broken_run_leaves_the_old_file(trained, monkeypatch, capsys, tmp_path):
    Path('all.csv').write_text('old')
    monkeypatch.setattr(Recommender, 'batches', lambda *args, **kwargs: (1/0 for _ in range(2)))
    with pytest.raises(ZeroDivisionError): run(monkeypatch, capsys, 'recommend', trained, '--all', '--out', 'all.csv')
    assert Path('all.csv').read_text()=='old' and not list(tmp_path.glob('.*.part'))

def test_similar_info_and_newcomers(trained, ratings, monkeypatch, capsys):
    "By title and by id; what a folder holds; a user who came after training"
    item = ratings.movieId[0]
    by = [run(monkeypatch, capsys, 'similar', trained, o, '-k', 3) for o in (item,ratings.title[0])]
    assert by[0]==by[1] and len(by[0].splitlines())==4
    ratings[ratings.userId==7].assign(userId=999).to_csv('new.csv', index=False)
    assert '1 new users, 201 in all' in run(monkeypatch, capsys, 'fold-in', trained, 'new.csv', '--out', 'model2')
    assert '999' in run(monkeypatch, capsys, 'recommend', 'model2', '--user', 999, '-k', 2)
    said = run(monkeypatch, capsys, 'info', 'model2')
    assert '201 (userId)' in said and '100 (movieId)' in said and 'genres' in said and 'np.' not in said

@pytest.mark.parametrize('args,words', [
    (['recommend','model'], ['--user','--all']), (['recommend','model','--all'], ['--out','parquet']),
    (['recommend','model','--user','no'], ["'no'",'fold-in']),
    (['recommend','nowhere','--user','7'], ['nowhere','holds no recommender']),
    (['recommend','model','--user','7','-k','0'], ['k is 0']),
    (['recommend','model','--user','7','--filters','year >'], ['not a filter']),
    (['recommend','model','--all','--out','a.txt'], ['a.txt','csv']),
    (['recommend','model','--user','7','--out','x.parquet'], ['--out','--all','--csv']),
    (['recommend','model','--all','--out','t.parquet','--csv','c.csv'], ['--csv','--out','--all']),
    (['recommend','model','--user','7','--mb','0'], ['mb is 0']),
    (['recommend','model','--all','--out','t.csv','-k','0'], ['k is 0']),
    (['fold-in','model','empty.csv','--out','x'], ['empty.csv','is empty']),
    (['fold-in','model','r.parquet.csv','--out','x'], ['r.parquet.csv','Parquet file']),
    (['fold-in','model','text.parquet','--out','x'], ['text.parquet','damaged']),
    (['fold-in','model','uneven.csv','--out','x'], ['uneven.csv','not a table','--sep']),
    (['similar','model','Nothing like it'], ["no item 'Nothing like it'"]), (['fold-in','model','r.csv'], ['--out']),
    (['fold-in','model','none.csv','--out','x'], ['none.csv'])])
def test_errors_of_the_commands(trained, monkeypatch, capsys, args, words):
    "One line that says what is wrong, and no file"
    for name,text in (('empty.csv',''), ('text.parquet','a,b\n1,2\n'), ('uneven.csv','a,b\n1,2\n1,2,3,4\n')):
        Path(name).write_text(text)
    Path('r.parquet.csv').write_bytes(Path('r.parquet').read_bytes())
    before = sorted(Path().rglob('*'))
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, *args)
    assert all(o in str(e.value)
        for o in words) and 'Traceback' not in str(e.value) and sorted(Path().rglob('*'))==before

@pytest.mark.slow
def test_asking_imports_no_fastai():
    "What answers starts without what trains"
    code = ("import sys\nfrom fastcollab.cli.main import command\n"
        "for o in ('recommend','similar','fold-in','info'): command(o)\nsys.exit('fastai' in sys.modules)")
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0

@pytest.mark.parametrize('name', COMMANDS)
def test_usage_is_what_the_commands_say(name): assert command(name).__doc__==COMMANDS[name]

def shown_commands():
    "What README, start pages and recipes tell people to type"
    root = Path(__file__).parents[2]
    pages = [root/'README.md', *(root/'nbs/start').glob('*.ipynb'), *(root/'nbs/guide').glob('*.ipynb')]
    text = '\n'.join(p.read_text(encoding='utf-8') for p in pages)
    found = re.findall(r'`fastcollab ([a-z-]+(?: [^`|;]+)?)`', text)
    return sorted({o.replace('\\"', '"') for o in found if '...' not in o and o.split()[0] in COMMANDS})

@pytest.mark.parametrize('line', shown_commands())
def test_commands_of_the_docs_can_be_typed(line):
    "Their options exist, and words without an option are as many as the command needs, or none: then it's a mention"
    name,*words = shlex.split(line)
    params,free = inspect.signature(command(name)).parameters,0
    while words:
        word = words.pop(0)
        if not word.startswith('-'):
            free += 1
            continue
        option = re.match('--?([a-z-]+)', word)[1].replace('-', '_')
        assert option in params, word
        if not isinstance(params[option].default, bool): words.pop(0)
    assert free in (0,sum(o.default is o.empty for o in params.values()))

def test_version(): assert version('fastcollab') == __import__('fastcollab').__version__

@pytest.mark.data
def test_train_on_a_movielens_set(data_dir, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('FASTCOLLAB_DATA', str(data_dir))
    said = run(monkeypatch, capsys, 'train', 'ml-100k', '--epochs', 1, '--bs', 2048, '--lr', .01, '--factors', 8)
    assert '80,000 ratings of 943 users' in said

# Files of every kind

def texts(df, sep, header=True, encoding='utf-8'):
    "A table as text of any separator and encoding"
    rows = [list(df)] if header else []
    lines = [sep.join(map(str, o)) for o in rows+df.to_numpy(object).tolist()]
    return '\n'.join(lines).encode(encoding)

KINDS = dict(semicolon=(';',True,'utf-8'), tab=('\t',True,'utf-8'), colons=('::',False,'utf-8'),
    latin=(';',True,'latin-1'), utf16=(',',True,'utf-16'), bar=('|',False,'utf-16-le'))
@pytest.mark.parametrize('kind', KINDS)
def test_train_reads_files_of_every_kind(csv, ratings, monkeypatch, capsys, kind):
    "Without an option, and with those that say what can be seen"
    sep,header,encoding = KINDS[kind]
    df = ratings[['userId','movieId','rating','timestamp']].assign(note='é' if kind=='latin' else 'e')
    Path('r.txt').write_bytes(texts(df, sep, header, encoding))
    want = run(monkeypatch, capsys, 'train', csv, '--epochs', 1, '--factors', 2, '--arch', 'DotProductBias')
    args = 'train','r.txt','--epochs',1,'--factors',2,'--arch','DotProductBias'
    assert run(monkeypatch, capsys, *args)==want
    told = '--sep',sep.replace('\t', '\\t'),'--encoding',encoding
    names = () if header else ('--user-col','0','--item-col','1','--rating-col','2')
    assert run(monkeypatch, capsys, *args, *told, *names)==want

def test_fold_in_reads_files_of_every_kind(trained, ratings, monkeypatch, capsys):
    new = ratings[ratings.userId==7][['userId','movieId','rating']].assign(userId=999)
    for sep,header,encoding in KINDS.values():
        Path('new.dat').write_bytes(texts(new, sep, header, encoding))
        for told in ((), ('--sep',sep.replace('\t', '\\t'),'--encoding',encoding)):
            said = run(monkeypatch, capsys, 'fold-in', trained, 'new.dat', '--out', 'model2', *told)
            assert '1 new users, 201 in all' in said

FILES = {'one.csv':b'ab\n12\n', 'latin.csv':'user;item;rating\n1;Amélie;4\n'.encode('latin-1'),
    'none.dat':b'1::2::3\n4::5::3\n', 'semi.csv':b'u;i;r\n1;2;3\n4;5;3\n'}
@pytest.mark.parametrize('args,words', [(['one.csv'], ["['ab']",'--sep']),
    (['semi.csv','--sep',','], ["['u;i;r']",'--sep']), (['latin.csv','--encoding','utf-8'], ['0xe9','--encoding']),
    (['none.dat','--user-col','userId'], ["'userId'",'no header','0 to 2']),
    (['latin.csv','--encoding','klingon'], ['klingon']), (['r.parquet','--sep',';'], ['Parquet','--sep']),
    (['ml-100k','--sep',';'], ['MovieLens set','--sep'])])
def test_advice_names_options_that_exist(csv, monkeypatch, capsys, args, words):
    "What came, and the options of this very command"
    for name,data in FILES.items(): Path(name).write_bytes(data)
    with pytest.raises(SystemExit) as e: run(monkeypatch, capsys, 'train', *args)
    assert all(o in str(e.value) for o in words), str(e.value)
    with pytest.raises(SystemExit): run(monkeypatch, capsys, 'train', '--help')
    options = set(re.findall(r'--[a-z-]+', capsys.readouterr().out))
    assert set(re.findall(r'--[a-z-]+', str(e.value)))<=options

@pytest.mark.filterwarnings('always')
def test_a_warning_is_a_line(csv, ratings, monkeypatch, capsys):
    ratings.to_csv('i.csv')
    monkeypatch.setattr(sys, 'argv', ['fastcollab','train','i.csv','--epochs','1','--factors','2'])
    main()
    said = capsys.readouterr().err.strip().splitlines()
    assert any(o.startswith("fastcollab train: the first column, 'Unnamed: 0', only counts the rows") for o in said)
    assert not any('Warning' in o for o in said)

# ---- evaluate
def test_evaluate_measures_what_the_library_measures(ratings, tmp_path, monkeypatch, capsys):
    "A line per metric, a row as CSV, text ids, and files without a header"
    from fastcollab.all import CollabDataLoaders, collab_learner, evaluate
    monkeypatch.chdir(tmp_path)
    train,test = (ratings.iloc[o, :4].assign(userId='u'+ratings.userId.astype(str))
        for o in RandomSplitter(.2, 0)(ratings))
    rec = collab_learner(CollabDataLoaders.from_df(train, valid_pct=0), n_factors=4).recommender()
    rec.save('model')
    test.to_csv('test.csv', index=False)
    said = run(monkeypatch, capsys, 'evaluate', 'model', 'test.csv', '-k', '5,10', '--n-boot', 50)
    row = evaluate(rec, test, k=(5,10), n_boot=50).iloc[0]
    for o in ('ndcg@5','recall@10','coverage@10'):
        assert re.search(rf'{o}\s+{row[o]:.3f}', said), said
    assert f'{int(row.users)} users, {int(row.unknown_users)} unknown' in said
    run(monkeypatch, capsys, 'evaluate', 'model', 'test.csv', '-k5', '--csv', 'row.csv', '--style', 'ranx')
    kept = pd.read_csv('row.csv').iloc[0]
    assert np.isclose(kept['map@5'], evaluate(rec, test, k=5, style='ranx')['map@5'][0])
    for args,words in ((('-k','ten'),'-k is .ten.'), (('-k','9999'),'k is 9999')):
        with pytest.raises(SystemExit, match=words): run(monkeypatch, capsys, 'evaluate', 'model', 'test.csv', *args)
    with pytest.raises(SystemExit, match='fastcollab evaluate'):
        run(monkeypatch, capsys, 'evaluate', 'model', 'nothing.csv')

def test_evaluate_reads_numbers_of_text_ids_and_files_without_a_header(tmp_path, monkeypatch, capsys, ratings):
    from fastcollab.all import CollabDataLoaders, collab_learner
    monkeypatch.chdir(tmp_path)
    train,test = (ratings.iloc[o, :3].astype(dict(userId=str)) for o in RandomSplitter(.2, 0)(ratings))
    collab_learner(CollabDataLoaders.from_df(train, valid_pct=0), n_factors=4).recommender().save('model')
    test.to_csv('named.csv', index=False)
    test.to_csv('bare.csv', index=False, header=False)
    a,b = (run(monkeypatch, capsys, 'evaluate', 'model', o, '-k', 5, '--min-rating', 4)
        for o in ('named.csv','bare.csv'))
    assert a==b and 'ndcg@5' in a

def test_evaluate_says_the_error_beside_averages(tmp_path, monkeypatch, capsys, ratings):
    "Of predictions, if there are ratings: the RMSE that numpy finds, and those of the mean and of damped biases"
    from fastcollab.all import CollabDataLoaders, baseline_rmse, collab_learner, to_implicit
    monkeypatch.chdir(tmp_path)
    splits = RandomSplitter(.2, 0)(ratings)
    dls = CollabDataLoaders.from_df(ratings, splits=splits)
    rec = collab_learner(dls, n_factors=4).recommender()
    rec.save('model')
    test = ratings.iloc[splits[1]]
    test.to_csv('test.csv', index=False)
    test.drop(columns='rating').to_csv('unrated.csv', index=False)
    error = np.sqrt(np.mean((rec.predict(test)-test.rating)**2))
    mean,biases = baseline_rmse(dls)
    said = run(monkeypatch, capsys, 'evaluate', 'model', 'test.csv', '--n-boot', 0)
    assert said.startswith(f'RMSE {error:.4g} on {len(test):,} test ratings: ')
    assert f'user and item biases ({biases:.4g})' in said and f'the mean rating ({mean:.4g})' in said
    assert 'RMSE' not in run(monkeypatch, capsys, 'evaluate', 'model', 'unrated.csv', '--n-boot', 0)
    odd = test.astype(dict(rating=object))
    odd.iloc[:2,odd.columns.get_loc('rating')] = 'good','bad'
    odd.to_csv('odd.csv', index=False)
    monkeypatch.setattr(sys, 'argv', 'fastcollab evaluate model odd.csv --n-boot 0'.split())
    main()
    said = capsys.readouterr()
    assert f' on {len(test)-2:,} test ratings' in said.out
    assert f"2 of {len(test):,} ratings aren't numbers, e.g. 'good'; the RMSE leaves these rows out" in said.err
    run(monkeypatch, capsys, 'evaluate', 'model', 'test.csv', '--n-boot', 0, '--csv', 'row.csv')
    assert np.isclose(pd.read_csv('row.csv').rmse[0], error)
    clicks = to_implicit(ratings, threshold=4)
    collab_learner(CollabDataLoaders.from_interactions(clicks, valid_pct=0), n_factors=4).recommender().save('ranker')
    assert 'RMSE' not in run(monkeypatch, capsys, 'evaluate', 'ranker', 'test.csv', '--n-boot', 0)
