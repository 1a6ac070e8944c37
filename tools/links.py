"""Check the links of a built site: `python tools/links.py [FOLDER]` lists those that lead nowhere, and fails if any do

Links to other sites are counted, and listed with `--external`; nothing is fetched."""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class Links(HTMLParser):
    "The anchors of a page, and what it points to"
    def __init__(self, text):
        super().__init__()
        self.ids,self.links = {'', '__top'},[]
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[o] for o in ('id','name') if attrs.get(o)}
        self.links += [attrs[o] for o in ('href','src') if attrs.get(o)]

def check(
    folder:Path, # A built site
)->tuple: # Broken links as `page -> link`, and links to elsewhere, both sorted
    "Does every link inside the site lead to a page, and to an anchor that it has?"
    folder = Path(folder).resolve()
    pages = {o:Links(o.read_text(encoding='utf8')) for o in folder.rglob('*.html')}
    broken,external = set(),set()
    for page,found in pages.items():
        for link in found.links:
            url = urlsplit(link)
            to = (folder if url.path[:1]=='/' else page.parent)/unquote(url.path).lstrip('/') if url.path else page
            to = to.resolve()/'index.html' if to.is_dir() else to.resolve()
            if url.scheme or url.netloc: external.add(link)
            elif not to.is_file() or (to in pages and unquote(url.fragment) not in pages[to].ids):
                broken.add(f'{page.relative_to(folder)} -> {link}')
    return sorted(broken),sorted(external)

if __name__=='__main__':
    args = [o for o in sys.argv[1:] if o!='--external']
    folder = args[0] if args else '_docs'
    if not Path(folder, 'index.html').exists(): sys.exit(f'{folder} is no built site: run `make docs`')
    broken,external = check(folder)
    if '--external' in sys.argv: print('\n'.join(external))
    if broken: sys.exit('\n'.join([f'{len(broken)} broken links:', *broken]))
    print(f'every link inside {folder} leads somewhere; {len(external)} links to other sites were not looked at '
        f'(--external lists them)')
