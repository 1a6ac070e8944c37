"""The site, as hooks of mkdocs: pages made from notebooks, processed by nbdev

A page of a module shows signatures, docments as tables, and links to the source. `make docs` builds the site and
links.py checks it."""
import ast, inspect, re, sys, tempfile
from base64 import b64decode
from functools import cache
from html import escape, unescape
from importlib import import_module
from pathlib import Path
from xml.etree.ElementTree import tostring

import yaml
from fastcore.docments import DocmentTbl, DocmentText, docstring, empty
from fastcore.nbio import read_nb
from markdown.extensions.toc import slugify
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url
from nbdev.doclinks import nbglob
from nbdev.processors import FilterDefaults
from packages import PACKAGES
from readme import above, outputs, parts, relink, source
from ziamath import Latex, config as zia

ROOT = Path(__file__).resolve().parent.parent
# what the text calls instances
VARIABLES = dict(learn='CollabLearner', rec='Recommender', dls='CollabDataLoaders', interp='CollabInterpretation')
PLACES = {'nbs':'api/index.md', **{f'nbs/{o}':'api/index.md' for o in PACKAGES if o},
    'nbs/tutorials':'tutorials/index.md', 'nbs/cases':'tutorials/index.md', 'nbs/guide':'guide/index.md',
    'benchmarks/results':'figures.md', 'CHANGELOG.md':'changelog.md', 'CONTRIBUTING.md':'contributing.md'}
# The reference in the order people need it: the classes that have a page of their own, and the packages and modules of
# a group, of which those that `fastcollab.all` takes nothing from come last. The last group has the rest.
GROUPS = {'Data':(['CollabDataLoaders'], {'data'}),
    'Models and losses':([], {'models','losses','ranking_losses'}),
    'Training':(['CollabLearner'], {'train'}),
    'Recommending':(['Recommender'], {'recommend'}),
    'Evaluation and interpretation':(['CollabInterpretation'], {'evaluate','interpret','metrics','ranking'}),
    'Command line and helpers':([], {'cli'})}
BOOST = dict(guide=4, start=3, tutorials=2)   # of hits in a search: what to do comes before how it is made
MAP = r'<iframe class="map" src="map.html" title="\1"></iframe>'
CASES = '''## Case studies

Five public notebooks, retold with this library. Their text and outputs are for the original MovieLens and Netflix Prize
data. Without it they run on synthetic ratings, and you get other numbers.

'''
log = get_plugin_logger('docs')   # a warning fails the build
site = None   # the `Site` being built: hooks of mkdocs are functions of a module

zia.svg2 = False   # paths without names, which would clash on a page
# ---- What is said of a symbol
def getter(sym):
    "The function behind a property, or `sym` itself"
    return sym.fget if isinstance(sym, property) else sym

def said(sym):
    "The docstring of a symbol, without the arguments, which have a table of their own"
    return docstring(getter(sym)).split('\n\nArgs:')[0].split('\n\nReturns:')[0]

def property_type(sym):
    "What a property gives, as a line of code: it isn't called"
    typ = type_str(inspect.signature(sym.fget).return_annotation)
    return f'{sym.fget.__name__}{": "*bool(typ)}{typ}'

class Signature(DocmentText):
    "A signature without what the table below it says: types and docments"
    def _fmt_param(self, nm, p): return super()._fmt_param(nm, {**p, 'anno':empty})
    def __str__(self):
        lines = [f'{"class" if isinstance(self.obj, type) else "def"} {self.obj.__name__}(']
        for i,(o,_) in enumerate(params := self.params):
            o += ', ' if i<len(params)-1 else ')'
            if len(lines[-1]+o)>80: lines.append('    ')
            lines[-1] += o
        return '\n'.join(o.rstrip() for o in lines) + ')'*(not params)

def signature(sym):
    "How `sym` is called, or what it is, as a block of code"
    return f'```python\n{property_type(sym) if isinstance(sym, property) else Signature(sym)}\n```'

def type_str(anno):
    "A type by its last name: `DataFrame` for `pandas.DataFrame`"
    if inspect.isroutine(anno): return anno.__name__   # such as `threading.RLock`
    return '' if anno is empty else re.sub(r'\b(?:\w+\.)+(?=\w)', '',
        inspect.formatannotation(anno)).strip("'").replace('NoneType', 'None')

def inline(text):
    "Plain text with `code` and addresses, as HTML"
    text = re.sub('`([^`]+)`', r'<code>\1</code>', escape(text, quote=False))
    return re.sub(r'https?://[^\s<)]*\w', r'<a href="\g<0>">\g<0></a>', text)

def docments_table(sym):
    "The arguments and the result of `sym`, as an HTML table; '' if nothing is said of them"
    doc = DocmentTbl(getter(sym))
    rows = [(f'<code>{o}</code>', doc.dm[o]) for o in doc.params] + [('Returns', doc.dm['return'])]*bool(doc.has_return)
    # a type of None is fastcore's guess from a default of None
    rows = [(name, type_str(d['anno']).removeprefix('None'), '' if d['docment'] is empty else d['docment'])
        for name,d in rows]
    if not any(says or typ and not isinstance(sym, property) for _,typ,says in rows): return ''
    body = ''.join(f'<tr><td>{name}</td><td>{escape(typ)}</td><td>{inline(says)}</td></tr>' for name,typ,says in rows)
    head = '<tr><th>Argument</th><th>Type</th><th>Meaning</th></tr>'
    return f'<div class="docments"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'

def methods(cls):
    "Names of the documented public methods in the body of `cls`, and what their signatures are read from"
    for name,o in vars(cls).items():
        fn = inspect.unwrap(getter(getattr(o, '__func__', o)))
        if isinstance(o, classmethod): o = getattr(cls, name)   # bound: `cls` is no argument
        if name[0]!='_' and inspect.isfunction(fn) and fn.__doc__ and fn.__module__==cls.__module__:
            yield name,(o if inspect.ismethod(o) or isinstance(o, property) else fn)

# ---- Pages
@cache
def class_lines(module):
    "First line of each class of a module: `inspect` would read the module anew for each"
    tree = ast.parse(Path(sys.modules[module].__file__).read_text(encoding='utf-8'))
    return {o.name:min(d.lineno for d in [o,*o.decorator_list]) for o in tree.body if isinstance(o, ast.ClassDef)}

def first_line(sym):
    "Where a function or a class begins in its file, decorators included"
    if isinstance(sym, type): return class_lines(sym.__module__)[sym.__name__]
    return inspect.unwrap(getter(sym)).__code__.co_firstlineno

class Processors(FilterDefaults):
    """nbdev's processors of a notebook, without those that take long and add nothing here

    `Page.doc` reads signatures from the modules, so no cell has to run, and no cell has magics."""
    def base_procs(self):
        return [o for o in super().base_procs() if o.__name__ not in ('exec_show_docs','clean_magics')]

class Page:
    "The page made from a notebook"
    def __init__(self, path):
        self.nb,self.src,self.symbols = read_nb(path),path.relative_to(ROOT/'nbs'),{}
        Processors()(self.nb)
        fm = yaml.safe_load(self.nb.cells[0].source.strip().strip('-'))
        self.title,self.description = fm['title'],fm.get('description', '')
        name = re.search(r'#\| default_exp ([\w.]+)', (ROOT/'nbs'/self.src).read_text(encoding='utf8'))
        self.module = import_module(f'fastcollab.{name[1]}') if name else None
        path = Path(*name[1].split('.')) if name else self.src.parent/Path(fm['output-file']).stem
        self.uri,self.package = f'{path.as_posix()}.md',path.parent.as_posix().strip('.')
        self.source = get_relative_url(f'source/fastcollab/{path.as_posix()}.html', self.uri)

    def code(self, cell):
        "The parts of a code cell"
        if m := re.search(r'^show_doc\(([^,)]+)', cell.source, re.M): return self.doc(m[1])
        shown = outputs(cell, table=frame, image=lambda png: self.image(png, cell))
        def printed(o): return re.sub('^```text', f'```{{ .text .output{" .prose"*is_prose(o)} }}', o)
        return [*source(cell), *map(printed, shown)]

    def image(self, png, cell):
        "A picture as a file of its own, named by its cell and described by what stands above it"
        name = f'images/{Path(self.uri).stem}-{cell.id}-{len(site.files)}.png'
        site.files.append(File.generated(site.config, name, content=b64decode(png)))
        return f'![{above(self.nb, cell) or self.title}]({get_relative_url(name, self.uri)})'

    def doc(self, name):
        "Heading, source, signature, docstring and docments of the symbol `name`, and of the methods of a class"
        if name[0]=='_': return   # a method patched into a private class
        sym = eval(name, dict(vars(self.module)))
        yield from self.entry(name, inspect.unwrap(sym))
        if not isinstance(sym, type): return
        for m,fn in methods(sym):
            if not self.shown(f'{name}.{m}'): yield from self.entry(f'{name}.{m}', fn, level=4)

    def shown(self, name):
        "Has, or will have, the symbol `name` a cell of its own in the notebook?"
        return any(re.search(rf'^show_doc\({re.escape(name)}\)', c.get('source', ''), re.M) for c in self.nb.cells)

    def entry(self, name, sym, level=3):
        self.symbols[name] = name.lower()
        line = first_line(sym)
        yield f'{"#"*level} `{name}` {{ #{name.lower()} data-toc-label="{name.split(".")[-1]}" }}'
        yield f'<a class="source" href="{self.source}#__codelineno-0-{line}">source</a>'
        yield signature(sym)
        yield f'<p>{inline(said(sym))}</p>'
        yield docments_table(sym)

    def markdown(self):
        for c in self.nb.cells:
            # links to symbols are made on the page, where more is known of them than nbdev knows
            if c.cell_type=='markdown':
                c.source = site.relink(re.sub(r'\[(`[^`]+`)\]\(/[^)]*\)', r'\1', c.get('source', '')),
                    ROOT/'nbs'/self.src, self.uri)
        body = [o for o in parts(self.nb, self.code) if o and not o.startswith('<!--')]
        link = f'<a class="source" href="{self.source}">source</a>\n\n' if self.module else ''
        text = '\n\n'.join(body)
        # on the home page the map can be searched
        if self.uri=='index.md': text = re.sub(r'!\[(.*?)\]\([^)]*item_map\.png\)', MAP, text)
        boost = BOOST.get(self.src.parts[0], 1)
        return top(self.title, self.description, link, search=dict(boost=boost)) + text

    def headings(self):
        "The headings of the second level"
        return [o for c in self.nb.cells if c.cell_type=='markdown' for o in re.findall('^## (.*)$', c.source, re.M)]

    def helps(self, site):
        "Does `fastcollab.all` leave out all that this module exports?"
        return not any(getattr(site.all, o, None) is getattr(self.module, o) for o in self.module.__all__)

class ClassPage:
    "All that can be done with one class, without how it is made: its methods at a glance, then each of them"
    def __init__(self, cls, page): self.cls,self.page,self.uri = cls,page,f'reference/{cls.__name__}.md'
    title = property(lambda self: self.cls.__name__)
    description = property(lambda self: said(self.cls))

    def markdown(self):
        known = sorted(methods(self.cls), key=lambda o: isinstance(getattr(self.cls, o[0]), property))   # these last
        rows = ''.join(f'<tr><td><a href="#{name.lower()}"><code>{name}</code></a></td><td>{inline(said(fn))}</td></tr>'
            for name,fn in known)
        head = '<tr><th>Method</th><th>What it does</th></tr>'
        glance = f'<div class="docments"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        made = f'[How it is made, with examples]({get_relative_url(self.page.uri, self.uri)})'
        entries = [o for name,fn in known for o in self.entry(name, fn)]
        return top(self.title, self.description, search=dict(boost=2)) + '\n\n'.join([made, '## At a glance', glance,
            '## Methods', *entries])

    def entry(self, name, fn):
        yield f'### `{name}` {{ #{name.lower()} }}'
        yield signature(fn)
        yield f'<p>{inline(said(fn))}</p>'
        yield docments_table(fn)

def top(title, description='', link='', **meta):
    "Front matter, title, link to the source and lead of a page"
    return f'---\n{yaml.dump(dict(title=title, **meta))}---\n\n# {title}\n\n{link}' + (
        f'<p class="lead">{inline(description)}</p>\n\n' if description else '')

def is_prose(text):
    "Can long lines of a printed text be wrapped? Those of tables and trees can't: they have columns or indents"
    return not re.search(r'^ |\S {2,}\S', text, re.M)

def frame(html):
    "A table as Jupyter shows it, without its style"
    html = re.sub('<table[^>]*>', '<table>', re.sub('<style.*?</style>', '', html, flags=re.S))
    return f'<div class="frame">{html}</div>'.replace('\n', ' ')

def formula(tex, block):
    "TeX as an SVG of paths: it looks the same everywhere, in the size and color of the text, and reads out as TeX"
    tex,size = tex.strip(),20
    math = Latex(tex, size=size, inline=not block, color='currentColor')
    svg,(width,height) = math.svgxml(),math.getsize()
    svg.attrib.update({'role':'img', 'aria-label':tex,
        'style':f'width:{width/size:.3f}em;height:{height/size:.3f}em;vertical-align:{math.getyofst()/size:.3f}em'})
    return tostring(svg, encoding='unicode')

def source_page(path):
    "A file of the repository as a page with numbered lines"
    name = path.relative_to(ROOT).as_posix()
    lang = 'python' if path.suffix=='.py' else 'text'
    return top(name, search=dict(exclude=True)) + f'````{lang} linenums="1"\n{path.read_text(encoding="utf8")}````\n'

class Site:
    "All pages, and the files that belong to them"
    def __init__(self, config):
        self.config,self.files,self.all = config,[],import_module('fastcollab.all')
        self.pages = [Page(Path(o)) for o in sorted(nbglob(ROOT/'nbs'))]
        self.modules = sorted((o for o in self.pages if o.module), key=lambda o: (PACKAGES.index(o.package),
            o.src.name))
        self.groups,left = {},self.modules
        for n,(name,(classes,places)) in enumerate(GROUPS.items()):
            mine = [o for o in left if places & {o.package,o.uri.removesuffix('.md')} or n==len(GROUPS)-1]
            left = [o for o in left if o not in mine]
            mine.sort(key=lambda o: o.package not in places and o.uri.removesuffix('.md') not in places)
            self.groups[name] = self.group(classes, mine)

    def folder(self, name): return [o for o in self.pages if o.src.parent==Path(name)]

    def group(self, classes, pages):
        "Pages of a group of the reference: of classes, of modules, of modules that are helpers"
        homes = {name:next(o for o in pages if name in o.module.__all__) for name in classes}
        return ([ClassPage(getattr(o.module, name), o) for name,o in homes.items()],
            [o for o in pages if not o.helps(self)], [o for o in pages if o.helps(self)])

    def add(self, uri, text): self.files.append(File.generated(self.config, uri, content=text))

    def relink(self, md, path, uri):
        "Links from `path` to other files, as links from its page `uri` to their pages; mkdocs reports the rest"
        def place(to):
            file = (path.parent/to).resolve()
            return get_relative_url(self.place(file), uri) if file.exists() and file.is_relative_to(ROOT) else to
        return relink(md, place)

    def place(self, file):
        "The page or the file of the site that shows `file`; one is made if there is none"
        name = file.relative_to(ROOT).as_posix()
        if uri := PLACES.get(name) or next((o.uri for o in self.pages if ROOT/'nbs'/o.src==file), None): return uri
        uri = f'images/{file.name}' if file.suffix in ('.png','.svg','.jpg',
            '.gif') else f'source/{Path(name).with_suffix(".md")}'
        if not any(o.src_uri==uri for o in self.files):
            self.add(uri, file.read_bytes() if uri.startswith('images') else source_page(file))
        return uri

    def add_index(self, uri, title, description, sections):
        "A page that lists the pages of `sections`, pairs of a heading and pages"
        def rows(pages):
            return '\n'.join(f'1. [{o.title}]({get_relative_url(o.uri, uri)}): {o.description}'.rstrip(': ')
                for o in pages)
        self.add(uri, top(title, description) + '\n\n'.join(f'{head}{rows(pages)}' for head,pages in sections if pages)
            + '\n')

    def add_guide(self):
        "The list of all recipes, by page"
        def rows(page): return '\n'.join(f'1. [{o}]({get_relative_url(page.uri, "guide/index.md")}#{slugify(o, "-")})'
            for o in page.headings())
        text = '\n\n'.join(f'## {o.title}\n\n{o.description}\n\n{rows(o)}' for o in self.folder('guide'))
        self.add('guide/index.md', top('How do I ...',
            'Short recipes that run as they stand. Copy one, and change the names of columns.') + text)

    def add_map(self):
        "The interactive map of the home page: a model of synthetic ratings, trained here"
        lib = self.all
        dls = lib.CollabDataLoaders.from_df(lib.synthetic_ratings(), genre_name='genres', seed=42, bs=512)
        lib.set_seed(42)
        learn = lib.collab_learner(dls, n_factors=5, y_range=(0,5.5))
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5, 2e-2, wd=.1)
        page = lib.CollabInterpretation.from_learner(learn).plot_factors(by='genre', top=30, interactive=True)
        with tempfile.TemporaryDirectory() as folder:
            page.save(Path(folder)/'map.html')
            self.files.append(File.generated(self.config, 'map.html', content=(Path(folder)/'map.html').read_bytes()))

    def build(self):
        "Every page as a file of mkdocs"
        for o in self.pages: self.add(o.uri, o.markdown())
        for classes,_,_ in self.groups.values():
            for o in classes: self.add(o.uri, o.markdown())
        for o in self.modules: self.place((ROOT/'fastcollab'/o.uri).with_suffix('.py'))
        self.add_guide()
        self.add_map()
        self.add_index('tutorials/index.md', 'Tutorials',
            'In reading order. Each is a notebook that runs as it stands.',
            [('',self.folder('tutorials')), (CASES,self.folder('cases'))])
        self.add_index('api/index.md', 'Reference',
            'In the order in which you need them. The page of a module is the notebook that it is exported from. '
            'Helpers come last: you need them to change the library, not to use it.',
            [o for name,(classes,modules,helpers) in self.groups.items() for o in (
                (f'## {name}\n\n', classes+modules or helpers), ('### Helpers\n\n', helpers*bool(classes+modules)))])
        for o in ('CHANGELOG.md', 'CONTRIBUTING.md'):
            text = self.relink((ROOT/o).read_text(encoding='utf8'), ROOT/o, PLACES[o])
            self.add(PLACES[o], text)
        results = [f'## {o.stem}\n\n```text\n{o.read_text(encoding="utf8")}```'
            for o in sorted((ROOT/'benchmarks/results').glob('*.txt'))]
        self.add('figures.md', top('Figures', 'What the commands in `benchmarks/` printed.')
            + '\n\n'.join(results))
        # a name that two modules define is the one of `fastcollab.all`; two that are not there are linked on their own
        # pages only
        self.public,homes = {},{}
        for o in self.modules:
            for name in o.symbols: homes.setdefault(name, []).append(o)
        for name,pages in homes.items():
            head = name.split('.')[0]
            door = [o for o in pages if getattr(self.all, head, None) is getattr(o.module, head)]
            if len(door or pages)==1: self.public[name] = ((door or pages)[0].uri, name.lower())
        return self.files

    def cls(self, name):
        "The class of the library that is called `name`, or None"
        uri,_ = self.public.get(name, ('',''))
        sym = next((getattr(o.module, name) for o in self.modules if o.uri==uri), None)
        return sym if isinstance(sym, type) else None

    def symbol(self, code, uri):
        """Page and anchor of what `code` on the page `uri` names, else None

        `code` is `f`, `f(x)`, `Class.method`, `learn.method()`, `method` on the page of its class,
        and `to_ann` anywhere if only one class has it"""
        if not (m := re.fullmatch(r'([A-Za-z]\w*(?:\.\w+)*)(\(.*\))?', code, re.S)): return None
        name,own = m[1],next((o.symbols for o in self.modules if o.uri==uri), {})
        var,_,attr = name.partition('.')
        local = [o for o in own if o==name or o.endswith(f'.{name}')]
        if name in own or len(local)==1: return uri,own[name if name in own else local[0]]
        name = f'{VARIABLES.get(var, var)}.{attr}' if attr else name
        cls = self.cls(name.split('.')[0])
        if cls and attr and (var not in VARIABLES or m[2]) and not hasattr(cls, attr.split('.')[0]):
            log.warning(f'{uri}: `{code}`, but {cls.__name__} has no {attr}')
        # a plain word, such as `users` or `weight`, means other things too
        special = bool(m[2] or re.search('[_A-Z.]', name))
        if name in self.public and (special or hasattr(self.all, name)): return self.public[name]
        same = [o for o in self.public if o.endswith(f'.{name}')] if '.' not in name and ('_' in name or m[2]) else []
        return self.public[same[0]] if len(same)==1 else None

# ---- Hooks
def on_config(config):
    global site
    site = Site(config)
    uris = lambda pages: [o.uri for o in pages]
    reference = [{name:[*uris(classes+modules), *([dict(Helpers=uris(helpers))] if helpers else [])]}
        for name,(classes,modules,helpers) in site.groups.items()]
    about = [dict(Figures='figures.md'), dict(Changelog='changelog.md'), dict(Contributing='contributing.md')]
    config.nav = [dict(Start=['index.md', *uris(site.folder('start')), *about]),
        {'How do I ...':['guide/index.md', *uris(site.folder('guide'))]},
        {'Tutorials':['tutorials/index.md', *uris(site.folder('tutorials')),
            *([{'Case studies':uris(site.folder('cases'))}] if site.folder('cases') else [])]},
        {'Reference':['api/index.md', *reference]}]

def on_files(files, config):
    # notebooks as they are: their pages come instead
    for o in [o for o in files if o.src_dir==config.docs_dir]: files.remove(o)
    for o in site.build(): files.append(o)
    files.append(File.generated(config, 'site.css', content=(ROOT/'tools/site.css').read_text(encoding='utf8')))
    return files

def on_page_content(html, page, **kwargs):
    "Formulas as pictures, names of symbols as links"
    def math(m): return f'<{m[1]} class="math">{formula(unescape(m[2])[2:-2], m[1]=="div")}</{m[1]}>'
    def link(m):
        to = site.symbol(unescape(re.sub('<.*?>', '', m[1])), page.file.src_uri)
        if not to: return m[0]
        href = get_relative_url(to[0].replace('.md', '.html'), page.file.url)
        return f'<a href="{href}#{to[1]}">{m[0]}</a>'
    html = re.sub(r'<(div|span) class="arithmatex">(.*?)</\1>', math, html, flags=re.S)
    # no links in code, links and headings
    apart = re.split(r'(<pre.*?</pre>|<a\b.*?</a>|<h\d.*?</h\d>)', html, flags=re.S)
    html = ''.join(o if i%2 else re.sub(r'<code>(.*?)</code>', link, o, flags=re.S) for i,o in enumerate(apart))
    def cell(m): return re.sub('<code>[^<]{16,}</code>', breakable, m[0])
    return re.sub(r'(?<=<t[dh]).*?(?=</t[dh]>)', cell, html, flags=re.S)

def breakable(code):
    "A long name, with the places where a narrow table may cut it"
    return re.sub(r'(?<=\w)[._(/](?=[A-Za-z])', r'\g<0><wbr>', code[0])
