"The site is built once, its links are checked, and Chromium looks at it"
import importlib, inspect, re, subprocess, sys, time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np, pytest
from PIL import Image

pytestmark = pytest.mark.slow   # building the site takes half a minute
for o in ('material','mkdocs','ziamath'):
    pytest.importorskip(o, reason="the site is not built: pip install -e '.[docs]'")
from browser import console_errors, contrast, serve, set_width, too_wide

from links import Links, check

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(o.relative_to(ROOT/'fastcollab').with_suffix('').as_posix() for o in (ROOT/'fastcollab').rglob('*.py')
    if o.stem[0]!='_' and o.stem!='all')   # `data/loaders`

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site"
    out = tmp_path_factory.mktemp('site')
    res = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '-q', '-d', out], cwd=ROOT, capture_output=True,
        text=True)
    assert res.returncode==0, (res.stdout+res.stderr)[-3000:]
    return out

@pytest.fixture(scope='session')
def texts(site): return {o.relative_to(site).as_posix():o.read_text() for o in site.rglob('*.html')}

@pytest.fixture(scope='session')
def url(site):
    with serve(site) as address: yield address

def test_links(site):
    broken,external = check(site)
    assert broken==[] and all(o.startswith(('http://','https://')) for o in external)

def test_broken_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<h1 id="top">A</h1><a href="b.html#x">1</a><a href="b.html#y">2</a><a '
        'href="c.html">3</a><a href="#top">4</a><img src="d.png">')
    (tmp_path/'b.html').write_text('<h2 id="x">B</h2><a href="https://example.com/z">5</a>')
    assert check(tmp_path)==(['a.html -> b.html#y', 'a.html -> c.html', 'a.html -> d.png'], ['https://example.com/z'])

@pytest.mark.parametrize('name', MODULES)
def test_every_symbol_is_on_its_page(name, texts):
    "Signature, source and docments of what a module exports"
    module,text = importlib.import_module(f'fastcollab.{name}'.replace('/', '.')),texts[f'{name}.html']
    ids = Links(text).ids
    syms = {o:getattr(module, o) for o in module.__all__}
    syms = [o for o,f in syms.items() if o[0]!='_' and (inspect.isroutine(f) or isinstance(f, type))
        and (f.__module__,f.__name__)==(module.__name__,o)]   # an alias stands on the page under its own name
    assert [o for o in syms if o.lower() not in ids]==[]
    up = '../'*name.count('/')
    assert text.count(f'href="{up}source/fastcollab/{name}.html#__codelineno-0-') >= len(syms)

def test_an_entry(texts):
    text = texts['train/learner.html']
    entry = text.split('id="collab_learner"')[1].split('<h3')[0]
    assert 'n_factors' in entry and '<td>int | None</td><td>Length of the vectors' in entry   # docments as a table
    assert '<td>Returns</td><td>CollabLearner</td>' in entry
    # a symbol of another page
    assert 'href="../losses.html#ratingmse"><code>RatingMSE</code></a>' in entry
    line = int(re.search(r'source/fastcollab/train/learner\.html#__codelineno-0-(\d+)', entry)[1])
    assert 'def collab_learner(' in ''.join((ROOT/'fastcollab/train/learner.py').read_text().splitlines()[
        line-1:line+4])   # below its decorators

def test_names_lead_to_what_is_meant(texts):
    "`predict` is a method of the class on its page, and `learn.predict()` leads there from every page"
    assert '<a href="learner.html#collablearner.predict"><code>predict</code></a>' in texts['train/learner.html']
    everywhere = ''.join(texts.values())
    assert re.search(r'<a href="(\.\./)?train/learner\.html#collablearner\.predict"><code>learn\.predict\(', everywhere)
    assert re.search(r'<a href="(\.\./)?train/\w+\.html#collablearner\.recommender"><code>learn\.recommender\(',
        everywhere)
    # a function comes before the method that calls it
    assert '<a href="interpret/plots.html#plot_factors"><code>plot_factors' in texts['changelog.html']

class Headings(HTMLParser):
    "Headings and all else that is seen in a text, as (tag, text)"
    def __init__(self, text):
        super().__init__()
        self.seen,self.tag = [],''
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tag = tag if re.fullmatch('h[1-6]', tag) else '' if tag in ('p','div','table','img','ol','ul','pre',
            'svg') else self.tag
    def handle_endtag(self, tag): self.tag = '' if tag==self.tag else self.tag
    def handle_data(self, data): self.seen += [(self.tag, data)]*bool(data.strip('\n ¶'))

def test_nothing_is_left_over(texts):
    "No directives, no calls of show_doc, no formulas in TeX, no headings over nothing"
    for page,text in texts.items():
        if page.startswith('source/'): continue
        body = re.sub('<(script|style).*?</\\1>', '', text[text.index('<article') if '<article' in text
            else 0:].split('</article>')[0], flags=re.S)
        prose = re.sub('<(pre|svg|code).*?</\\1>', '', body, flags=re.S)
        assert '#|' not in body and 'show_doc(' not in body and 'arithmatex' not in body, page
        assert not re.search(r'\$[^$\s][^$]*\$|\\(frac|sum|sqrt)', prose), page
        seen = Headings(body).seen
        levels = [(a,x,b) for (a,x),(b,_) in zip(seen, seen[1:]+[('h1','')]) if a and b and b<=a and a!=b]
        assert levels==[], page

def test_pictures(site):
    pics = list((site/'images').glob('*.png'))
    assert len(pics)>=10 and [o.name for o in pics if np.asarray(Image.open(o).convert('L')).std()<5]==[]

def listed(html): return re.findall(r'<li><a href="(?:\.\./)?([\w./]+)\.html">', html.split('<article')[1])

def names(folder): return [re.sub(r'^\d+_', '', o.stem) for o in sorted((ROOT/'nbs'/folder).glob('*.ipynb'))]

def test_tutorials_are_in_the_order_of_their_names(texts):
    "Tutorials, then case studies"
    assert [o.split('/')[-1] for o in listed(texts['tutorials/index.html'])]==names('tutorials')+names('cases')

def headings(html, level): return re.findall(rf'<h{level} id="[^"]*">(.*?)<a', html.split('<article')[1])

def test_four_tabs(texts):
    tabs = re.findall(r'class="md-tabs__link">\s*(.*?)\s*</a>', texts['index.html'], re.S)
    assert tabs==['Start','How do I ...','Tutorials','Reference']
    assert 'class="map" src="map.html"' in texts['index.html'] and texts['map.html'].count('The Silent')>5

def test_recipes_are_listed_with_their_pages(texts):
    "Each heading of a page of the guide is a recipe: there are 20 or more, and the list leads to each"
    found = re.findall(r'<li><a href="([\w.]+)#([\w-]+)">', texts['guide/index.html'])
    assert len(found)>=20 and [o for o in found if o[1] not in Links(texts[f'guide/{o[0]}']).ids]==[]
    assert len(found)==sum(len(headings(texts[f'guide/{o}.html'], 2)) for o in names('guide'))

def test_the_reference_has_all_modules_in_six_groups(texts):
    "Classes first, then modules, and helpers last"
    page = texts['api/index.html']
    pages = listed(page)
    assert sorted(o for o in pages if not o.startswith('reference/'))==MODULES
    groups = headings(page, 2)
    assert groups==['Data','Models and losses','Training','Recommending','Evaluation and interpretation',
        'Command line and helpers']
    assert pages[0]=='reference/CollabDataLoaders' and 'reference/Recommender' in pages
    assert pages.index('reference/CollabLearner')<pages.index('train/loops')
    assert pages.index('cli/main')<pages.index('kernels/jit')

@pytest.mark.parametrize('name', ['CollabDataLoaders','CollabLearner','CollabInterpretation','Recommender'])
def test_a_class_has_all_its_methods_on_one_page(name, texts):
    "At a glance, then each with its arguments"
    text = texts[f'reference/{name}.html']
    cls = getattr(importlib.import_module('fastcollab.all'), name)
    public = [k for k,o in vars(cls).items() if k[0]!='_' and inspect.isfunction(inspect.unwrap(o)) and o.__doc__
        and inspect.unwrap(o).__module__==cls.__module__]
    assert len(public)>5 and [o for o in public if text.count(f'id="{o.lower()}"')!=1]==[]
    assert text.index('id="at-a-glance"')<text.index('id="methods"')

def test_properties_are_not_calls(texts):
    text = texts['reference/Recommender.html'].split('id="n_users"')[1].split('<h3')[0]
    assert 'n_users' in text and 'def' not in re.sub('<.*?>', '', text).split() and '<table' not in text

def test_nothing_is_fetched_from_elsewhere(texts):
    for page,text in texts.items():
        assert not re.search(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="https?:', text), page

# ---- What a browser shows
def look(browser, address, width=1280, scheme='light'):
    "Open a page as somebody who was never there before"
    browser.get('about:blank')
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia',
        dict(features=[dict(name='prefers-color-scheme', value=scheme)]))
    browser.execute_cdp_cmd('Storage.clearDataForOrigin', dict(origin='/'.join(address.split('/')[:3]),
        storageTypes='local_storage'))
    set_width(browser, width)
    browser.get(address)

def find(browser, css): return browser.find_elements('css selector', css)

def wait(f, seconds=10):
    "The first true result of `f`, which is tried again until then"
    end = time.monotonic()+seconds
    while not (res := f()) and time.monotonic()<end: time.sleep(.05)
    return res

def test_pages_on_screens_and_phones(browser, url, texts):
    "No complaints, nothing to scroll sideways, and figures that are there"
    tutorials,figures = sorted(o for o in texts if o.startswith('tutorials/')),0
    for page in ('index.html','api/index.html','train/learner.html','train/optimizer.html',
        'source/fastcollab/train/learner.html','figures.html',
        *(f'interpret/{o}.html' for o in ('plots','error_analysis','item_map','report')),*tutorials):
        look(browser, f'{url}/{page}')
        for img in find(browser, 'article img'):
            browser.execute_script('arguments[0].scrollIntoView({block:"center"})', img)
            assert wait(lambda: img.get_property('naturalWidth')>0) and contrast(img)>5, (page,
                img.get_attribute('src'))
            figures += 1
        assert too_wide(browser)==0, page
        set_width(browser, 400)
        assert too_wide(browser)==0 and browser.execute_script('return innerWidth')==400, page
        assert console_errors(browser)==[], page
    assert figures>=10

def test_tables_and_printed_lines_on_a_phone(browser, url):
    "A verdict is seen as a whole, names aren't cut in two, and a title takes one line"
    look(browser, f'{url}/tutorials/quick_start.html', 400)
    hidden = browser.execute_script("""return [...document.querySelectorAll('.prose pre > code')].map(
        o => [o.textContent, o.scrollWidth-o.clientWidth])""")
    assert any('% better than' in o for o,_ in hidden) and [o for o in hidden if o[1]>0]==[]
    look(browser, f'{url}/index.html', 400)
    lines = browser.execute_script("""return [...document.querySelectorAll('article th code')].map(
        o => [o.textContent, o.getClientRects().length])""")
    assert ['fit_gibbs',1] in lines and ['fit_auto',1] in lines
    title = next(o for o in find(browser, '.frame td') if o.text.startswith('The '))
    assert title.size['height']<40

def test_formulas_are_shown(browser, url):
    look(browser, f'{url}/kernels/steps.html', 400)
    maths = find(browser, 'article .math svg')
    assert maths and all(o.size['width']>3 and o.size['height']>5 for o in maths)
    assert contrast(find(browser, 'div.math')[0])>5 and len(find(browser, 'div.math'))>=2 and len(find(browser,
        'span.math'))>=5

@pytest.mark.parametrize('scheme', ['light','dark'])
def test_palettes(browser, url, scheme):
    "The palette of the system, text that stands out from it, and a switch to the other one"
    def lightness(css, prop):
        rgb = browser.execute_script(f'return getComputedStyle(document.querySelector("{css}")).{prop}')
        return np.mean([float(o) for o in re.findall(r'[\d.]+', rgb)[:3]])   # of 255
    look(browser, f'{url}/train/learner.html', scheme=scheme)
    back,text = lightness('body', 'backgroundColor'),lightness('article p', 'color')
    assert (back<80)==(scheme=='dark') and abs(back-text)>120
    find(browser, 'form[data-md-component=palette] label:not([hidden])')[0].click()
    assert wait(lambda: (lightness('body', 'backgroundColor')<80)!=(scheme=='dark'))

@pytest.mark.parametrize('query,page', [('collab_learner','learner.html'), ('evaluate','evaluating.html'),
    ('implicit feedback','data.html'), ('cold start','cold_start.html'), ('deploy','shipping.html'),
    ('hyperparameters','training.html'), ('similar items','recommending.html'), ('save model','shipping.html'),
    ('lightfm','coming_from.html'), ('glossary','glossary.html')])
def test_search(browser, url, query, page):
    "What people look for is among the first hits"
    look(browser, f'{url}/index.html')
    find(browser, '[data-md-component=search-query]')[0].send_keys(query)
    links = 'return [...document.querySelectorAll(".md-search-result__link")].map(o => o.href)'
    found = wait(lambda: any(page in o for o in browser.execute_script(links)[:6]))   # hits come in as they are found
    assert found, browser.execute_script(links)[:6]
    assert console_errors(browser)==[]

def test_navigation_on_a_phone(browser, url):
    "From the first page to a tutorial and back to the modules, by the drawer"
    def click(css, text):
        wait(lambda: [o for o in find(browser, css) if o.is_displayed()
            and (o.text.strip()==text or not text)])[0].click()
    look(browser, f'{url}/index.html', 400)
    click('header label[for=__drawer]', '')
    click('.md-nav__title[for=__nav_1]', '')   # from the list of the tab up to that of all tabs
    click('.md-sidebar--primary a', 'Tutorials')
    assert wait(lambda: 'tutorials/index.html' in browser.current_url)
    click('article li a', '')
    assert wait(lambda: 'index' not in browser.current_url) and too_wide(browser)==0
