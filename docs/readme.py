"Make README.md from nbs/index.ipynb: `python docs/readme.py`. It needs no Quarto, unlike `nbdev_readme`."
import re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).parent.parent

def readme():
    "The text of README.md"
    nb = nbformat.read(root/'nbs'/'index.ipynb', as_version=4)
    nb.metadata['language_info'] = {'name':'python'}
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide', c.source, re.M)]
    for c in nb.cells: c.source = '' if '#| echo: false' in c.source else re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
    text,files = MarkdownExporter().from_notebook_node(nb)
    if files['outputs']: raise SystemExit('index.ipynb must not hold pictures as outputs: link to files instead')
    text = re.sub(r'\]\(([\w/]+\.(?:ipynb|png))\)', r'](nbs/\1)', text.replace('](../', '](')) # links lead from the root
    text = re.sub(r'```python\s*```', '', text) # cells without their source
    text = re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+$', '', text, flags=re.M)).strip()
    return f'<!-- made from nbs/index.ipynb by docs/readme.py: edit the notebook -->\n\n{text}\n'

if __name__=='__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
