"The interactive map of items: what the page holds, that titles stay text, and what a browser makes of it"
import builtins, html, json, re, time

import numpy as np, pandas as pd, pytest
from browser import console_errors, contrast, set_width, too_wide
from fastcollab.all import CollabDataLoaders, CollabInterpretation, CollabNN, DotProduct
from fastcollab.all import collab_learner, set_seed, synthetic_ratings
from fastcollab.interpret.item_map import ItemMap, item_map, write_page

EVIL = ['</script><script>window.hacked=1</script>', '<img src=x onerror="window.hacked=1">',
    '<b>"Bold" & \'brave\'</b> &amp; &lt;', 'Amélie 🎬 \u2028 ñ', '${window.hacked=1}', 'javascript:window.hacked=1']

def frame(n=60, dims=2):
    "Items in a line, so that one knows where they are; the first titles are those that want to be code"
    df = pd.DataFrame({o:np.linspace(0, k+1, n) for k,o in enumerate('xyz'[:dims])})
    return df.assign(title=[*EVIL, *(f'Film {k}' for k in range(len(EVIL), n))],
        genres=[['Comedy','Comedy|Drama',None][k%3] for k in range(n)],
        bias=np.linspace(-1, 1, n).round(3), count=np.arange(n)[::-1]*1000)

def data(page): return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])

def test_what_the_page_holds():
    df = frame()
    got = data(item_map(df, axes=('one','two')).page)
    assert got['title']==list(df.title) and got['axes']==['one','two'] and got['top']==50
    assert np.allclose(got['x'], df.x, rtol=1e-4) and np.allclose(got['y'], df.y, rtol=1e-4) and 'z' not in got
    more = {o['name']:o['values'] for o in got['more']}
    assert list(more)==['genres','bias','count'] and more['genres'][:3]==['Comedy','Comedy, Drama',
        ''] and more['count']==df['count'].tolist() and np.allclose(more['bias'], df.bias)
    assert [(o['name'],len(o['rows']),o['shown']) for o in got['kinds']]==[('Comedy',40,True),('Drama',20,True)]
    assert got['kinds'][1]['rows']==list(range(1, 60, 3))
    assert 'z' in data(item_map(frame(dims=3)).page)

def test_columns_of_any_kind():
    "Missing values become null, lists are categories as text is, and dates are text"
    df = pd.DataFrame(dict(x=[0.,1,2], y=[0,1,2], title=['a',None,7], kinds=[['A','B'],(),['B']],
        seen=[True,False,True], n=pd.array([1,None,3], 'Int64'),
        timestamps=pd.to_datetime(['2020-01-01',None,'2021-01-01']), far=[np.inf,np.nan,1e-9]))
    got = data(item_map(df, by='kinds').page)
    more = {o['name']:o['values'] for o in got['more']}
    assert more==dict(kinds=['A, B','','B'], seen=['True','False','True'], n=[1,None,3],
        timestamps=['2020-01-01 00:00:00',None,'2021-01-01 00:00:00'], far=['inf',None,1e-9])
    assert [o['name'] for o in got['kinds']]==['B','A'] and got['title'][2]=='7'

def test_marks():
    "Those asked for come first and are on; of many, the 24 most frequent have a button"
    df = pd.DataFrame(dict(x=range(90), y=0, title='t', genres=[f'g{min(k, 29)}' for k in range(90)]))
    kinds = data(item_map(df, mark=['g3']).page)['kinds']
    assert len(kinds)==24 and kinds[0]==dict(name='g3', rows=[3],
        shown=True) and kinds[1]['name']=='g29' and not any(o['shown'] for o in kinds[1:])
    assert not any(o['shown'] for o in data(item_map(df, mark=[]).page)['kinds'])
    assert data(item_map(df.drop(columns='genres')).page)['kinds']==[]

def test_one_file_without_a_network():
    page = item_map(frame()).page
    own = page.replace(re.search(r'<script>(/\*\*.*?)</script>', page, re.S)[1], '')
    assert 'http' not in re.sub('http-equiv', '',
        own) and '<link' not in own and ' src=' not in own.replace(json.dumps(EVIL[1])[1:-1],
            '').replace('\\u003cimg src=x', '')
    assert "default-src 'none'" in own

def test_titles_are_never_html():
    m = item_map(frame(), title=EVIL[0], note=EVIL[1])
    for o in EVIL[:3]: assert o not in m.page and o not in m._repr_html_()
    assert m.page.count('</script>')==3 and html.escape(EVIL[0]) in m.page
    srcdoc = re.search('srcdoc="([^"]*)"', m._repr_html_())[1]
    assert html.unescape(srcdoc)==m.page and 'allow-same-origin' not in m._repr_html_()

BAD = {'no title': (dict(df=frame().drop(columns='title')), KeyError,
    "no column 'title' in the frame; the columns are"), 'no rows': (dict(df=frame()[:0]), ValueError,
        'the frame has no rows'),
    'no number': (dict(df=frame().assign(y=[np.nan,'u']*30)), ValueError,
        "60 of 60 values in y are not finite numbers, e.g. nan"),
    'endless': (dict(df=frame(dims=3).assign(z=[np.inf]+[0]*59)), ValueError,
        '1 of 60 values in z are not finite numbers, e.g. inf'),
    'no such mark': (dict(df=frame(), mark=['Comedy','Polka']), KeyError,
        "1 of 2 categories are not in 'genres', e.g. .'Polka'.; choose from .'Comedy', 'Drama'."),
    'no such column': (dict(df=frame(), by='genre', mark=['Comedy']), KeyError,
        "mark names categories of 'genre', which is not a column")}

@pytest.mark.parametrize('name', BAD)
def test_errors(name):
    kwargs,kind,match = BAD[name]
    with pytest.raises(kind, match=match): item_map(**kwargs)

def test_without_plotly(monkeypatch):
    real = builtins.__import__
    def fake(name, *args, **kwargs):
        if name.startswith('plotly'): raise ImportError(name)
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', fake)
    with pytest.raises(ImportError, match=r"needs plotly: pip install 'fastcollab\[viz\]'"): item_map(frame())

def test_pages_are_whole_or_not_there(tmp_path, monkeypatch):
    "An error while writing leaves the old page and no part of the new one"
    path = tmp_path/'new'/'page.html'
    assert write_page(path, 'old 🎬')==path and path.read_text(encoding='utf-8')=='old 🎬'
    with pytest.raises(UnicodeEncodeError): write_page(path, 'new \ud800')
    monkeypatch.setattr('os.replace', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): write_page(path, 'new')
    assert path.read_text(encoding='utf-8')=='old 🎬' and [o.name for o in path.parent.iterdir()]==['page.html']
    with pytest.raises(IsADirectoryError, match='is a folder; name a file in it'): write_page(tmp_path, 'new')
    for o in (path/'p.html', path/'deep'/'p.html'):
        with pytest.raises(NotADirectoryError, match='page.html is a file, but .*p.html needs a folder there'):
            write_page(o, 'new')

# From a learner

RATINGS = synthetic_ratings(120, 60, 3000)

@pytest.fixture(scope='module')
def learn():
    dls = CollabDataLoaders.from_df(RATINGS, user_name='userId', item_name='movieId', rating_name='rating',
        genre_name='genres', title_name='title', seed=1, bs=256)
    set_seed(1)
    learn = collab_learner(dls, n_factors=4, y_range=(0,5.5))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 2e-2)
    return learn

@pytest.mark.parametrize('dims', [2,3])
def test_from_a_learner(learn, dims):
    "The points of the picture, and what tables say of the items"
    interp = CollabInterpretation.from_learner(learn)
    m = interp.plot_factors(dims=dims, n=40, by='genres', mark='Drama', interactive=True)
    assert isinstance(m, ItemMap) and m.n==40 and f'of {learn.dls.n_items-1} items</h1>' in m.page
    got,ax = data(m.page),interp.plot_factors(dims=dims, n=40, top=0)
    xy = np.stack(ax.collections[0]._offsets3d, 1) if dims==3 else ax.collections[0].get_offsets()
    assert np.allclose(np.stack([got[o] for o in 'xyz'[:dims]], 1), xy, atol=1e-3)
    more,table = {o['name']:o['values'] for o in got['more']},interp.bias('items', None).set_index('title')
    assert np.allclose(more['bias'], table.bias[got['title']],
        atol=1e-3) and more['ratings']==table.ratings[got['title']].tolist()==sorted(more['ratings'], reverse=True)
    genres = RATINGS.drop_duplicates('title').set_index('title').genres
    assert [set(o.split(', ')) for o in more['genres']]==[set(genres[o].split('|')) for o in got['title']]
    assert [o['name'] for o in got['kinds'] if o['shown']]==['Drama']
    assert not any(o['shown'] for o in data(interp.plot_factors(interactive=True).page)['kinds'])

def test_models_without_biases_or_vectors(learn):
    def interp(arch): return CollabInterpretation.from_learner(collab_learner(learn.dls, arch=arch, n_factors=4))
    assert 'bias' not in [o['name'] for o in data(interp(DotProduct).plot_factors(interactive=True).page)['more']]
    with pytest.raises(ValueError, match='an interactive map is a page of its own; leave out ax'):
        interp(CollabNN).plot_factors(interactive=True, ax=object())

# In a browser

def opened(browser, m, path, width=1280, height=900, dark=False, wait=60):
    set_width(browser, width, height)
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia',
        dict(features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')]))
    browser.get(m.save(path).as_uri())
    until(browser, 'document.body.dataset.ready', wait)
    return browser

def until(browser, js, wait=20):
    "What `js` gives, as soon as it is true"
    end = time.time()+wait
    while not (res := browser.execute_script(f'return {js}')):
        assert time.time()<end, (js,browser.get_log('browser'))
        time.sleep(.05)
    return res

def seen(browser): return browser.execute_script('return document.getElementById("said").textContent')
def ring(browser): return browser.execute_script('return plot.data.at(-1).customdata')
def ready_for_keys(browser):
    find = browser.find_element('id', 'find')
    assert find.accessible_name=='Find a title'
    return find

@pytest.mark.parametrize('dims', [2,3])
def test_search(browser, tmp_path, dims):
    "Any case, accents or none; all hits have rings and the present one is in the middle; Enter, Shift+Enter and Escape"
    from selenium.webdriver.common.keys import Keys
    b = opened(browser, item_map(frame(dims=dims)), tmp_path/'map.html')
    find = ready_for_keys(b)
    find.send_keys('fiLM 1')
    said = until(b, 'document.getElementById("said").textContent')
    assert said.startswith('1 of 10: Film 10, genres: Comedy, Drama, bias: -0.661, count: '
        '49,000') and ring(b)==list(range(10, 20))
    def middle():
        if dims==3: return b.execute_script('return [plot.layout.scene.camera.center.x]')[0]
        return np.mean(b.execute_script('return plot._fullLayout.xaxis.range'))
    where = frame().x if dims==2 else (frame().x-.5)/1.08
    until(b, 'plot.layout.scene?.camera?.center || document.querySelector(".hit")')
    assert abs(middle()-where[10])<1e-3
    find.send_keys(Keys.ENTER)
    until(b, 'document.getElementById("said").textContent.startsWith("2 of 10: Film 11")')
    time.sleep(.3)
    assert abs(middle()-where[11])<1e-3
    find.send_keys(Keys.SHIFT, Keys.ENTER)
    find.send_keys(Keys.SHIFT, Keys.ENTER)
    until(b, 'document.getElementById("said").textContent.startsWith("10 of 10: Film 19")')
    find.send_keys(Keys.ESCAPE)
    until(b, 'document.getElementById("said").textContent == ""')
    until(b, 'plot.data.at(-1).customdata.length == 0')
    find.send_keys('AMELIE')
    assert until(b, 'document.getElementById("said").textContent').startswith('1 of 1: Amélie 🎬')
    find.send_keys('x')
    until(b, 'document.getElementById("said").textContent == "no title contains “AMELIEx”"')
    assert b.execute_script('return document.getElementById("said").getAttribute("aria-live")')=='polite'
    assert not console_errors(b)

def test_nothing_in_a_title_runs(browser, tmp_path):
    "Not on the page, in a label, in the search, nor where the pointer is"
    b = opened(browser, item_map(frame(), title=EVIL[0], note=EVIL[1]), tmp_path/'map.html')
    names = b.execute_script('return [...document.querySelectorAll("#names span")].map(o => o.textContent)')
    assert EVIL[0] in names
    for o in EVIL:
        b.execute_script('document.getElementById("find").value = arguments[0]; return find()', o.split('\u2028')[0])
        assert EVIL.index(o) in ring(b) and o.split('\u2028')[0].strip() in seen(b)
    assert b.execute_script('return window.hacked') is None and b.execute_script(
        'return document.querySelectorAll("img, b").length')==0
    assert b.title==EVIL[0] and not console_errors(b)

def point(b, r):
    "Move the pointer onto an item"
    from selenium.webdriver.common.action_chains import ActionChains
    x,y = b.execute_script('const L = plot._fullLayout, box = plot.getBoundingClientRect(); return '
        '[box.x+L.xaxis._offset+L.xaxis.l2p(D.x[arguments[0]]), box.y+L.yaxis._offset+L.yaxis.l2p(D.y[arguments[0]])]',
        r)
    acts = ActionChains(b)
    acts.w3c_actions.pointer_action.move_to_location(round(x)-30, round(y))
    acts.w3c_actions.pointer_action.move_to_location(round(x), round(y))
    acts.perform()
    until(b, '!document.getElementById("tip").hidden')
    return b.execute_script('return document.getElementById("tip").innerText')

@pytest.mark.parametrize('n', [60,4000])
def test_pointer_and_marks(browser, tmp_path, n):
    "Title, genres, bias and count where the pointer is, drawn by SVG or, of many, by WebGL; a button turns a genre off"
    df = frame(n)
    df.loc[1,['x','y']] = .8,.2   # off the line, where 4,000 items are less than a pixel apart
    b = opened(browser, item_map(df), tmp_path/'map.html')
    assert b.execute_script('return plot.data[0].type')==('scatter' if n==60 else 'scattergl')
    assert point(b, 1).split('\n')==[EVIL[1],'genres: Comedy, Drama',f'bias: {frame(n).bias[1]:g}',
        f'count: {frame(n)["count"][1]:,}']
    box = b.execute_script('const t = document.getElementById("tip").getBoundingClientRect(); return [t.left, '
        't.right, t.top, t.bottom]')
    assert box[0]>=0 and box[1]<=1280 and box[3]<=900
    button = b.find_element('xpath',
        f'//button[contains(., "Drama ({n//3:,})") or contains(., "Drama ({-(-(n-1)//3):,})")]')
    assert button.get_attribute('aria-pressed')=='true' and b.execute_script('return plot.data[2].visible')
    button.click()
    assert until(b, 'plot.data[2].visible === '
        'false') and button.get_attribute('aria-pressed')=='false' and not console_errors(b)

def test_narrow_and_dark(browser, tmp_path):
    "At 400 px nothing is cut off and the plot has room; colours follow the machine, while the page is open too"
    b = opened(browser, item_map(frame(4000)), tmp_path/'map.html', 400, 800)
    assert too_wide(b)==0
    plot = b.find_element('id', 'plot')
    assert plot.size['width']==400 and plot.size['height']>300 and contrast(plot)>5
    ready_for_keys(b).send_keys('film 123')
    until(b, 'document.querySelector("#names .hit")')
    box = b.execute_script('const t = document.querySelector(".hit").getBoundingClientRect(); return [t.left, t.right]')
    assert 0<=box[0] and box[1]<=400
    light = b.execute_script('return [getComputedStyle(document.body).backgroundColor, plot.layout.paper_bgcolor]')
    b.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[dict(name='prefers-color-scheme', value='dark')]))
    until(b, f'plot.layout.paper_bgcolor != {light[1]!r}')
    assert b.execute_script('return getComputedStyle(document.body).backgroundColor')!=light[0] and 'Film 123' in seen(
        b)
    set_width(b, 1280)
    until(b, 'plot._fullLayout.width == 1280')
    assert not console_errors(b)

@pytest.mark.parametrize('width', [1280,700])
def test_rows_of_buttons_are_whole(browser, tmp_path, width):
    "Buttons that don't fit can be scrolled to, and no row is cut in two"
    df = pd.DataFrame(dict(x=range(240), y=0, title='t', genres=[f'Long category {k%24}' for k in range(240)]))
    b = opened(browser, item_map(df), tmp_path/'map.html', width, 700)
    places = """const box = document.getElementById('kinds'), {top, bottom} = box.getBoundingClientRect(), seen = []
        for (const at of [0, 1e4]) {
            box.scrollTop = at
            const rows = [...box.children].map(o => o.getBoundingClientRect())
            seen.push(rows.map(o => [o.top-top, o.bottom-top]))
        }
        return [seen, bottom-top]"""
    (start,end),height = b.execute_script(places)
    whole = [(a>=0 and b<=height+.5, b<=0 or a>=height-.5) for o in (start,end) for a,b in o]
    assert len(start)==24 and [o for o in whole if not any(o)]==[]
    assert len({round(a) for (a,_),(inside,_) in zip(start, whole) if inside})==4

def test_in_a_notebook(browser, tmp_path):
    "The frame that a notebook shows works, and cannot reach the page around it"
    path = tmp_path/'notebook.html'
    path.write_text(f'<!doctype html><meta charset=utf-8><b>mine</b>{item_map(frame())._repr_html_()}',
        encoding='utf-8')
    set_width(browser, 1000)
    browser.get(path.as_uri())
    inner = browser.find_element('tag name', 'iframe')
    browser.switch_to.frame(inner)
    try:
        until(browser, 'document.body.dataset.ready', 60)
        assert browser.execute_script('try { return parent.document.title } catch { return "out of reach" '
            '}')=='out of reach'
    finally: browser.switch_to.default_content()
    assert contrast(inner)>5 and not console_errors(browser)

@pytest.mark.slow
def test_many_items():
    "A hundred thousand items take seconds; every one of them is on the page"
    rng,n = np.random.default_rng(0),100_000
    df = pd.DataFrame(rng.normal(size=(n,3)), columns=['x','y','bias']).assign(title=[f'Film {k}' for k in range(n)],
        genres=rng.choice(['Comedy|Drama','War','Crime|War'], n), count=n)
    start = time.process_time()
    m = item_map(df)
    assert time.process_time()-start<10 and len(m.page)<20e6 and len(data(m.page)['title'])==n
