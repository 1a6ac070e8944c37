"Write README.md from nbs/index.ipynb: what a reader of the notebook sees, as Markdown, without Quarto"
import re
from pathlib import Path

from fastcore.nbio import read_nb

def table(html):
    "An HTML table as a Markdown table"
    rows = [[re.sub('<.*?>', '', o).strip() for o in re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S)] for row in re.findall('<tr.*?</tr>', html, re.S)]
    rows.insert(1, ['---']*len(rows[0]))
    return '\n'.join(f'| {" | ".join(o)} |' for o in rows)

def outputs(cell):
    "What a cell shows: tables as tables, all else as text"
    for o in cell.get('outputs', []):
        data = {k:''.join(v) for k,v in o.get('data', dict(text=o.get('text', ''))).items()}
        if '<table' in data.get('text/html', ''): yield table(data['text/html'])
        elif text := (data.get('text/plain') or data.get('text', '')).rstrip(): yield f'```text\n{text}\n```'

def readme(nb_path):
    "The Markdown of the notebook `nb_path`, without hidden cells and directives"
    parts = []
    for cell in read_nb(nb_path).cells:
        src = cell.source.strip()
        if not src or src.startswith('#| hide'): continue
        if cell.cell_type=='markdown': parts.append(src)
        else: parts += [f'```python\n{src}\n```', *outputs(cell)]
    return '<!-- made from nbs/index.ipynb by tools/readme.py: edit that notebook -->\n\n' + '\n\n'.join(parts) + '\n'

if __name__=='__main__':
    root = Path(__file__).resolve().parent.parent
    (root/'README.md').write_text(readme(root/'nbs/index.ipynb'), encoding='utf-8')
