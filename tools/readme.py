"What a reader of a notebook sees, as Markdown, without Quarto: README.md here, the pages of the site in docs.py"
import base64, posixpath, re
from pathlib import Path

from fastcore.nbio import read_nb

NOTHING = '','<IPython.core.display.HTML object>'   # such as the styles of a progress bar

def table(html):
    "An HTML table as a Markdown table"
    rows = [[re.sub('<.*?>', '', o).strip().replace('|', r'\|') for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row,
        re.S)] for row in re.findall('<tr.*?</tr>', html, re.S)]
    rows.insert(1, ['---']*len(rows[0]))
    return '\n'.join(f'| {" | ".join(o)} |' for o in rows)

def joined(outs):
    "Outputs of a cell, with what was printed in several pieces as one, as Jupyter shows it"
    res = []
    for o in outs:
        if res and 'name' in o and o['name']==res[-1].get('name'):
            res[-1] = dict(res[-1], text=''.join(res[-1]['text'])+''.join(o['text']))
        else: res.append(o)
    return res

def outputs(cell, table=table, image=lambda png:None):
    "What a cell shows: tables by `table`, pictures by `image` if it makes something of them, all else as text"
    for o in joined(cell.get('outputs', [])):
        data = {k:''.join(v) for k,v in o.get('data', dict(text=o.get('text', ''))).items()}
        if '<table' in data.get('text/html', ''): yield table(data['text/html'])
        elif 'image/png' in data and (shown := image(data['image/png'])): yield shown
        elif (text := (data.get('text/plain') or data.get('text', '')).rstrip()) not in NOTHING:
            yield f'```text\n{text}\n```'

def parts(nb, code):
    "The cells of `nb` as Markdown, without hidden ones; `code` makes the parts of a code cell"
    for cell in nb.cells:
        src = cell.get('source', '').strip()
        if not src or src.startswith('#| hide'): continue
        if cell.cell_type=='markdown': yield src
        elif cell.cell_type=='code': yield from code(cell)

def source(cell):
    "The source of a cell as a block of Markdown, without directives; nothing if one of them hides it"
    src = re.sub(r'^#\|.*\n', '', cell.source, flags=re.M).strip()
    return [] if '#| echo: false' in cell.source else [f'```python\n{src}\n```']

def relink(md, place):
    "`md` with links to files replaced by what `place` makes of them"
    return re.sub(r'\]\((?!\w+:|#)([^)#\s]+)', lambda m: f']({place(m[1])}', md)

def above(nb, cell):
    "The last heading or short line of text above `cell`: what its picture shows"
    texts = [c.source.strip() for c in nb.cells[:cell.idx_] if c.cell_type=='markdown']
    lines = [o for text in texts for o in (re.findall('^#+ (.*)', text, re.M) if '\n' in text or len(text)>100
        else [text.lstrip('# ')])]
    return re.sub(r'\[(.*?)\]\(.*?\)', r'\1', lines[-1]).replace('`', '') if lines else ''

def readme(nb_path):
    "The Markdown of `nb_path`, with links that start where README.md is, and its pictures by file name"
    nb,folder,pics = read_nb(nb_path),nb_path.parent.name,{}
    def image(png, cell):
        name = f'{folder}/images/{nb_path.stem}{len(pics)}.png'
        pics[name] = base64.b64decode(png)
        return f'![{above(nb, cell)}]({name})'
    for c in nb.cells:
        if c.cell_type=='markdown': c.source = relink(c.source, lambda o: posixpath.normpath(f'{folder}/{o}'))
    md = parts(nb, lambda cell: [*source(cell), *outputs(cell, image=lambda png: image(png, cell))])
    return '<!-- made from nbs/index.ipynb by tools/readme.py: edit that notebook -->\n\n' + '\n\n'.join(md) + '\n',pics

if __name__=='__main__':
    root = Path(__file__).resolve().parent.parent
    text,pics = readme(root/'nbs/index.ipynb')
    (root/'README.md').write_text(text, encoding='utf-8')
    for name,png in pics.items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(png)
