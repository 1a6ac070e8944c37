"The report: what the page shows, for models that have everything or lack something, and in a browser"
import html, os, random, re, time
from html.parser import HTMLParser

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from browser import console_errors, contrast, set_width, too_wide
from fastai.tabular.all import Module
from fastcollab.interpret import report
from fastcollab.all import BiasBaseline, CollabDataLoaders, CollabInterpretation, CollabNN, DotProduct, DotProductBias
from fastcollab.all import HybridMF, HybridNN, Recommender, ValidRMSE, baseline_rmse, collab_learner, create_params
from fastcollab.all import movielens, set_seed, synthetic_ratings

HEADINGS = ['Training','Errors','Calibration','Cold start','Popularity','Biases','Similarity','Genres','Map']
EVIL = '<script>window.hacked=1</script> & "Ünï 🎬"'
RATINGS = synthetic_ratings(150, 60, 4000).astype(dict(title=object))
# the most rated, so that it is everywhere
RATINGS.loc[RATINGS.title==RATINGS.title.value_counts().index[0],'title'] = EVIL

def loaders(**kwargs): return CollabDataLoaders.from_df(RATINGS, item_name='title', seed=1, bs=256, **kwargs)

def fitted(arch=None, dls=None, **kwargs):
    dls = dls or loaders(genre_name='genres')
    set_seed(1)
    learn = collab_learner(dls, arch=arch, **(kwargs or dict(n_factors=4, y_range=(0,5.5))), cbs=ValidRMSE())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(3, 2e-2, wd=.1)
    return learn

@pytest.fixture(scope='module')
def learn(): return fitted()

@pytest.fixture(scope='module')
def whole(learn, tmp_path_factory):
    "The report of a model that has everything"
    return CollabInterpretation.from_learner(learn).report(tmp_path_factory.mktemp('report')/'report.html')

@pytest.fixture(scope='module')
def page(whole): return whole.read_text(encoding='utf-8')

def slug(name): return name.lower().replace(' ', '-')
def section(page, name): return re.search(f'<section id="{slug(name)}">(.*?)</section>', page, re.S)[1]
def text(part): return html.unescape(re.sub('<[^>]*>', '', part))
def left_out(page):
    return {o:found for o in HEADINGS if (found := [text(p) for p in re.findall('<p class=none>(.*?)</p>',
        section(page, o))])}
def tables(part):
    "Frames of text and numbers"
    res = []
    for o in re.findall('<table>.*?</table>', part, re.S):
        head,*rows = [[text(c) for c in re.findall('<t[hd].*?>(.*?)</t[hd]>', r)] for r in re.findall('<tr>(.*?)</tr>',
            o)]
        res.append(pd.DataFrame(rows, columns=head))
    return res
def numbers(col): return col.str.replace(',', '').astype(float)

@pytest.fixture
def quick(monkeypatch):
    "Plots are made, but not written as PNG, which takes most of the time"
    monkeypatch.setattr(report, '_figure_html', lambda ax,
        alt: f'<div class=wide><img width={len(np.ravel(ax))} height=1 alt="{html.escape(alt)}" '
        f'src="data:image/png;base64,"></div>')

class Balanced(HTMLParser):
    "Fails where a tag is closed that was not open"
    def __init__(self):
        super().__init__()
        self.open = []
    def handle_starttag(self, tag, attrs):
        if tag not in ('meta','img'): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop()==tag, (tag,self.getpos())

def check(page):
    "What holds for every report"
    parser = Balanced()
    parser.feed(page)
    assert parser.open==[] and re.findall('<h2>(.*?)</h2>', page)==HEADINGS and re.findall(r'<li><a href="#(.*?)">',
        page)==[slug(o) for o in HEADINGS]
    assert 'http:' not in page and 'https:' not in page and '<link' not in page and set(re.findall('src="(.{22})',
        page))<={'data:image/png;base64,'}
    assert page.count('<figure>')==page.count('<figcaption>') and all(len(o)>30
        for o in re.findall('<figcaption>(.*?)</figcaption>', page))
    assert EVIL not in page and 'nan' not in text(page)
    return page

def test_everything_is_there(page):
    check(page)
    assert 'in all components instead of two' in section(page, 'Genres') and text(section(page,
        'Errors')).count('line falls to the right '
            'if')==2 and 'dl {display:grid; grid-template-columns:11rem 1fr' in page
    assert page.count('<img')==14 and page.count('<table>')==6 and left_out(page)=={} and len(
        page)<5e6 and '<script' not in page
    assert html.escape(EVIL) in section(page, 'Errors')+section(page, 'Similarity')
    for o in re.findall('<img width=(.*?) height=(.*?) alt="(.*?)"', page): assert 400<=int(o[0])<=900 and len(o[2])>30

def test_numbers_at_the_top(page, learn):
    "The errors are those of the fit and of the baselines; sizes and settings are those of the learner"
    head = text(re.search('<main>(.*?)<section', page, re.S)[1])
    rmse,base = learn.recorder.values[-1][2],baseline_rmse(learn.dls)
    tiles = dict((b,float(a)) for a,b in re.findall('<div><b>(.*?)</b>(.*?)</div>', page))
    assert list(tiles)==['RMSE, in stars','RMSE of global mean','RMSE of user + item bias','mean absolute error']
    assert np.allclose(list(tiles.values())[:3], [rmse,base['global mean'],base['user + item bias']], atol=6e-4)
    dls = learn.dls
    facts = dict(zip(*(re.findall(f'<{o}>(.*?)</{o}>', page) for o in ('dt','dd'))))
    assert facts['users']==str(dls.n_users-1) and facts['items']==str(dls.n_items-1) and facts[
        'model']=='HybridMF' and facts['loss']=='RatingMSE'
    assert facts['ratings in training'].startswith(f'{len(dls.train_ds):,}, ') and facts['density'].startswith(
        f'{len(dls.train_ds)/(dls.n_users-1)/(dls.n_items-1):.2%} ')
    assert facts['ratings examined here']==f'{len(dls.valid_ds):,}, not seen in training' and facts[
        'predictions']=='0 to 5.5' and 'genres (' in facts['features']
    rates = '256 ratings per step, learning rate up to 0.02, weight decay 0.1'
    assert facts['fit']==f'3 epochs of {len(dls.train)} steps, {rates}'
    assert facts['parameters']==f'{sum(p.numel() for p in learn.model.parameters()):,}' and head

def test_tables_are_those_of_the_interpretation(page, learn):
    interp = CollabInterpretation.from_learner(learn)
    users,items,losses = tables(section(page, 'Errors'))
    assert users.user.tolist()==interp.worst_users().user.astype(str).tolist() and np.allclose(numbers(users.rmse),
        interp.worst_users().rmse, atol=6e-4)
    assert items.item.tolist()==interp.worst_items().item.tolist()
    assert losses.item.tolist()==interp.top_losses().item.tolist()
    assert np.allclose(numbers(losses.error), interp.top_losses().error, atol=6e-3)
    cold, = tables(section(page, 'Cold start'))
    assert numbers(cold.rows).tolist()==interp.cold_report().rows.tolist() and cold.share.iloc[
        -1]=='100.0%' and cold.rmse.iloc[3]=='–'
    rep, = tables(section(page, 'Popularity'))
    assert len(rep)==len(interp.representation()) and list(rep)==['part','group','rated','recommended','ratio']
    like, = tables(section(page, 'Similarity'))
    assert like.columns[0]==f'similar to {EVIL}' and like.iloc[:,0].tolist()==interp.similar(EVIL, 8,
        min_ratings=10)['items'].tolist()

class Own(Module):
    "A user's own model without any of our methods"
    def __init__(self, n): self.w = create_params(n, 1)
    def forward(self, x): return self.w[x[:,1]]

def _of(arch, genres=True):
    dls = loaders(genre_name='genres') if genres else loaders()
    return fitted(arch, dls) if isinstance(arch, type) else fitted(arch(dls), dls, y_range=None)

NO = {DotProduct: dict(Biases=3), DotProductBias: dict(Biases=1), CollabNN: dict(Biases=3), HybridNN: dict(Biases=3),
    HybridMF: {}}

@pytest.mark.slow
@pytest.mark.parametrize('arch', NO, ids=lambda o: o.__name__)
def test_models(arch, quick, tmp_path):
    "What a model has not is left out, and the page says so"
    page = check(CollabInterpretation.from_learner(_of(arch)).report(tmp_path/'r.html').read_text(encoding='utf-8'))
    assert {k:len(v) for k,v in left_out(page).items()}==NO[arch]
    for o in sum(left_out(page).values(), []):
        assert re.match(f'(This|Some of this) is left out: {arch.__name__} has no biases of (users|items|genres)[.]', o)
    assert page.count('<img')==14-NO[arch].get('Biases', 0) and f'What {arch.__name__} has learned' in page

def test_models_without_vectors(quick, tmp_path):
    "A model of somebody's own and the averages have no map; without genres there is nothing to say of them"
    page = check(CollabInterpretation.from_learner(_of(lambda dls: Own(dls.n_items),
        False)).report(tmp_path/'r.html').read_text(encoding='utf-8'))
    no = left_out(page)
    assert set(no)=={'Biases','Similarity','Genres',
        'Map'} and no['Map']==['This is left out: Own has no vectors of '
            'items.'] and no['Genres']==['This is left out: the items have no features.']
    assert page.count('<img')==7 and page.count('<table>')==5
    base = collab_learner(loaders(), arch=BiasBaseline.from_dls(loaders()))
    page = check(CollabInterpretation.from_learner(base).report(tmp_path/'b.html').read_text(encoding='utf-8'))
    assert set(left_out(page))=={'Training','Biases','Similarity','Genres',
        'Map'} and left_out(page)['Training']==['This is left out: the model has not been fitted yet.']
    assert len(left_out(page)['Biases'])==1 and 'Some of this' in left_out(page)['Biases'][0]

@pytest.mark.parametrize('how', ['made','loaded'])
def test_from_a_recommender(learn, page, quick, tmp_path, how):
    "The errors are those of the learner; of the training it knows nothing"
    rec = learn.recommender()
    if how=='loaded':
        rec.save(tmp_path/'rec')
        rec = Recommender.load(tmp_path/'rec')
    test = CollabInterpretation.from_learner(learn).rows[['user','item','rating']].set_axis(['userId','title','rating'],
        axis=1)
    got = check(CollabInterpretation.from_recommender(rec, test).report(tmp_path/'r.html').read_text(encoding='utf-8'))
    assert left_out(got)['Training']==['This is left out: a recommender keeps no record of its '
        'training.'] and 'What this recommender has learned' in got and got.count('<img')>=12
    for name in ('Cold start','Errors'):
        for a,b in zip(tables(section(got, name)), tables(section(page, name))):
            assert a.iloc[:,0].tolist()==b.iloc[:,0].tolist()
    a,b = (re.findall('<div><b>(.*?)</b>RMSE', o) for o in (got,page))
    assert np.allclose([float(o) for o in a], [float(o) for o in b[:len(a)]], atol=2e-3) and len(a)==2

def test_without_a_validation_part(quick, tmp_path):
    learn = collab_learner(loaders(valid_pct=0), n_factors=4, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    page = check(CollabInterpretation.from_learner(learn).report(tmp_path/'r.html').read_text(encoding='utf-8'))
    for o in ('Errors','Calibration','Cold start'):
        assert left_out(page)[o]==['This is left out: there are no ratings to examine.']
    assert 'class=tiles' not in page and page.count('<img')>=5
    page = check(CollabInterpretation.from_learner(learn,
        ds_idx=0).report(tmp_path/'t.html').read_text(encoding='utf-8'))
    assert 'those of training' in page and 'Errors' not in left_out(page)

def test_title_is_text(learn, quick, tmp_path):
    page = CollabInterpretation.from_learner(learn).report(tmp_path/'r.html', title=EVIL).read_text(encoding='utf-8')
    assert f'<title>{html.escape(EVIL)}</title>' in page and f'<h1>{html.escape(EVIL)}</h1>' in page and check(page)

def test_an_error_leaves_what_was_there(learn, quick, tmp_path, monkeypatch):
    "Nothing half-written, no figure open, and no work before a bad name is refused"
    interp,path,figs = CollabInterpretation.from_learner(learn),tmp_path/'r.html',plt.get_fignums()
    path.write_text('old')
    with monkeypatch.context() as m:
        m.setattr(report, 'plot_calibration', lambda *args, **kwargs: 1/0)
        with pytest.raises(ZeroDivisionError): interp.report(path)
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', lambda *args: 1/0)
        with pytest.raises(ZeroDivisionError): interp.report(path)
    assert path.read_text()=='old' and [o.name for o in tmp_path.iterdir()]==['r.html'] and plt.get_fignums()==figs
    monkeypatch.setattr(report, 'plot_training', lambda *args, **kwargs: 1/0)
    with pytest.raises(IsADirectoryError, match='is a folder; name a file in it'): interp.report(tmp_path)
    with pytest.raises(NotADirectoryError, match='r.html is a file'): interp.report(path/'r.html')

def test_reads_do_not_write(quick, tmp_path):
    "Weights, modes, random states, history, figures and settings are as before"
    learn = fitted()
    learn.model.train()
    fig = plt.figure()
    def state():
        rng = torch.get_rng_state().tolist(),np.random.get_state()[1].tolist(),random.getstate()
        weights,modes = {k:v.tolist() for k,v in learn.model.state_dict().items()},[m.training
            for m in learn.model.modules()]
        return rng,weights,modes,[list(o)
            for o in learn.recorder.values],plt.get_fignums(),plt.rcParams.copy(),plt.isinteractive()
    before = state()
    CollabInterpretation.from_learner(learn).report(tmp_path/'a.html')
    assert state()==before
    plt.close(fig)

@pytest.mark.slow
@pytest.mark.data
def test_on_real_data(data_dir, tmp_path):
    "All of ml-latest-small in 20 seconds, in less than 5 MB"
    dls = CollabDataLoaders.from_df(movielens('ml-latest-small'), genre_name='genres', title_name='title', seed=42,
        bs=512)
    set_seed(42)
    learn = collab_learner(dls, n_factors=50, y_range=(0,5.5), cbs=ValidRMSE())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 5e-3, wd=.3)
    # other tests share the processors, so that a clock on the wall would measure them
    interp,start = CollabInterpretation.from_learner(learn),time.process_time()
    page = check(interp.report(tmp_path/'r.html').read_text(encoding='utf-8'))
    assert time.process_time()-start<20 and len(page)<5e6 and left_out(page)=={}

# In a browser

def opened(browser, path, width, dark=False):
    set_width(browser, width)
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia',
        dict(features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')]))
    browser.get(path.as_uri())
    return browser

@pytest.mark.parametrize('dark', [False,True], ids=['light','dark'])
@pytest.mark.parametrize('width', [1280,400])
def test_looks(browser, whole, width, dark):
    "No errors, nothing too wide, figures present and not blank, on a background as light or dark as the system's"
    b = opened(browser, whole, width, dark)
    assert too_wide(b)==0 and not console_errors(b)
    figs = b.find_elements('tag name', 'img')
    assert len(figs)==14 and all(b.execute_script('return arguments[0].complete && '
        'arguments[0].naturalWidth>1.9*arguments[0].width', o) for o in figs)
    for o in figs:
        b.execute_script('arguments[0].scrollIntoView({block:"center", behavior:"instant"})', o)
        assert contrast(o)>5, o.get_attribute('alt')
    ground = b.execute_script('return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)')
    assert (max(ground)<60)==dark and (min(ground)>240)==(not dark)
    small = b.execute_script('return Math.min(...[...document.querySelectorAll("main *")].filter(o => o.innerText && '
        '!o.children.length).map(o => parseFloat(getComputedStyle(o).fontSize)))')
    assert small>=12 and b.execute_script('return window.hacked') is None

def test_contents_lead_there(browser, whole):
    b = opened(browser, whole, 1280)
    for o in b.find_elements('css selector', 'nav a')[3:7]:
        b.execute_script('document.documentElement.style.scrollBehavior = "auto"')
        o.click()
        assert abs(b.execute_script('return document.querySelector(location.hash).getBoundingClientRect().top'))<40
        assert o.is_displayed()

@pytest.mark.slow
def test_with_the_map_to_walk_in(browser, learn, quick, tmp_path):
    "The map is a frame of its own in the page, with the search; nothing else runs"
    path = CollabInterpretation.from_learner(learn).report(tmp_path/'r.html', interactive=True)
    b = opened(browser, path, 400)
    assert len(path.read_text(encoding='utf-8'))<12e6 and too_wide(b)==0
    inner = b.find_element('tag name', 'iframe')
    b.execute_script('arguments[0].scrollIntoView({block:"center", behavior:"instant"})', inner)
    b.switch_to.frame(inner)
    try:
        end = time.time()+60
        while not b.execute_script('return document.body && document.body.dataset.ready'):
            assert time.time()<end
            time.sleep(.1)
        b.find_element('id', 'find').send_keys('window.hacked')
        while not (said := b.execute_script('return document.getElementById("said").textContent')): time.sleep(.05)
        assert said.startswith(f'1 of 1: {EVIL}, genres: ') and b.execute_script('return window.hacked') is None
    finally: b.switch_to.default_content()
    assert contrast(inner)>5 and not console_errors(b)
