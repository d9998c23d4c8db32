"""Slides of the lessons: `python docs/slides.py` writes them into _slides/.

A lesson's own cells make its slides, so there is one source. What is to be seen goes on the slide: headings, formulas,
lists, tables, short code and what it prints, figures. What is to be said goes into the speaker's notes (key S)."""
import re, shutil, sys
from importlib.util import find_spec
from pathlib import Path
import nbformat
from jinja2 import DictLoader
from nbconvert import SlidesExporter
from pages import alternative, cfg, directives, page_of, pictures

lessons = sorted((cfg.nbs_path/'course').glob('0[1-8]_*.ipynb'))
max_lines = 14 # of code, and of what it prints

# What is to be seen, and what is to be said

def blocks(text):
    "Paragraphs, formulas, lists, tables and headings of some Markdown, one by one"
    text = re.sub(r'^(#+ .*)$', r'\n\1\n', text, flags=re.M)
    return [b.strip('\n') for b in re.split(r'\n\s*\n', text) if b.strip()]

def seen(block): return bool(re.match(r'\$\$|\||[-*] |\d+\. |>|!\[|<img|```', block.lstrip()))

def links(text):
    "Notebooks as the pages of the site, which lies above the folder of the slides"
    def to(m):
        path = (Path('course')/m[1]).as_posix().replace('course/../', '')
        return f'](../{page_of(path)}.html{m[2]})'
    text = re.sub(r'\]\((?![a-z]+:)([^()\s#]+\.ipynb)(#[^()\s]*)?\)', lambda m: to([0, m[1], m[2] or '']), text)
    return re.sub(r'\]\((?:\.\./)+docs/guide/(\w+)\.md', r'](../guide/\1.html', text)

def gist(notes):
    "The first sentence that is said, and all that is said in bold"
    first = re.split(r'(?<=[.?!]) ', notes[0])[0]
    bold = [b for n in notes for b in re.findall(r'\*\*[^*]+[.?!]\*\*', n)]
    return [first, *(b for b in bold if b not in first)]

class Slide:
    "Cells to be seen and paragraphs to be said; a figure, code or a table fills it"
    def __init__(self, heading):
        self.heading,self.cells,self.notes,self.full = heading,[],[],False

    def as_cells(self):
        "The first begins the slide; a slide without a text says the gist of its notes"
        text = any(c.cell_type=='markdown' for c in self.cells)
        lead = gist(self.notes) if self.notes and not text else []
        head = nbformat.v4.new_markdown_cell('\n\n'.join([self.heading, *lead]))
        notes = nbformat.v4.new_markdown_cell('\n\n'.join(self.notes))
        kinds = [(head,'slide')] + [(c,'-') for c in self.cells] + [(notes,'notes')]*bool(self.notes)
        for c,kind in kinds: c.metadata['slideshow'] = {'slide_type':kind}
        return [c for c,_ in kinds]

def short(cell):
    "A copy of a code cell for a slide: short code, pictures, tables and short text; None if that leaves nothing"
    d = directives(cell)
    code = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
    folded = 'code-fold' in d or d.get('echo')=='false' or len(code.splitlines())>max_lines
    def fits(o): return 'data' in o or len(o.get('text', '').splitlines())<=max_lines
    outputs = [o for o in cell.outputs if fits(o)]
    if folded and not outputs: return None
    new = nbformat.v4.new_code_cell(code, outputs=outputs)
    if folded: new.metadata['tags'] = ['remove-input']
    return new

def slides(cells):
    "Slides of the cells of a lesson, up to its exercises"
    found,fresh = [Slide('')],False
    def room():
        "The slide to write on: a new one, if the last is full"
        if found[-1].full: found.append(Slide(re.sub(r'(?<! …)$', ' …', found[-1].heading)))
        return found[-1]
    for i,c in enumerate(cells):
        if c.cell_type=='markdown':
            for b in blocks(links(c.source)):
                if b=='## Exercises': return [s for s in found if s.cells or s.notes]
                if b[0]=='#': found.append(Slide(b))
                elif seen(b): room().cells.append(nbformat.v4.new_markdown_cell(b))
                else: found[-1].notes.append(b)
        elif 'hide' not in directives(c) and not c.source.startswith(('import ','from ')) and (new := short(c)):
            if found[-1].cells: found[-1].full = True
            slide = room()
            for o in new.outputs:
                if pictures(dict(outputs=[o])): o.metadata['alt'] = alternative(cells, i)
            slide.cells.append(new)
            slide.full = True
    return [s for s in found if s.cells or s.notes]

# Pages

template = """{%- extends 'reveal/base.html.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ nb.metadata.title | escape }}</title><link rel="icon" href="data:,">
<meta name="description" content="{{ nb.metadata.about | escape }}"><meta property="og:title" content="{{ nb.metadata.title | escape }}">
<link rel="stylesheet" href="reveal/dist/reset.css"><link rel="stylesheet" href="reveal/dist/reveal.css"><link rel="stylesheet" href="reveal/dist/theme/white.css">
{% for css in resources.inlining.css %}<style>{{ css }}</style>{% endfor %}
<link rel="stylesheet" href="slides.css"></head>
{%- endblock header -%}
{%- block body_header %}<body><div class="reveal"><main class="slides">{% endblock -%}
{%- block body_footer %}</main></div>
<script>MathJax = {tex: {inlineMath: [['$','$']]}}</script>
<script src="tex-svg.js"></script><script src="reveal/dist/reveal.js"></script><script src="reveal/plugin/notes/notes.js"></script>
<script>Reveal.initialize({hash: true, slideNumber: 'c/t', width: 1100, height: 700, transition: 'none', plugins: [RevealNotes]})</script>
</body></html>{% endblock -%}
{%- block footer %}{% endblock -%}
{%- block data_png %}<img src="data:image/png;base64,{{ output.data['image/png'] }}" alt="{{ output.metadata.alt | escape }}">{% endblock -%}
{%- block input %}{% if 'remove-input' not in cell.metadata.tags %}{{ super() }}{% endif %}{% endblock -%}
"""

def write(path, out):
    "Write the slides of the lesson `path` into the folder `out`"
    nb = nbformat.read(path, as_version=4)
    found = slides(nb.cells)
    title = f"Slides: {found[0].heading.lstrip('# ')}"
    about = f'The lecture of lesson {int(path.stem[:2])} in {len(found)} slides, with what to say'
    new = nbformat.v4.new_notebook(cells=[c for s in found for c in s.as_cells()], metadata={'title':title, 'about':about, 'language_info':{'name':'python', 'pygments_lexer':'python'}})
    to = SlidesExporter(exclude_anchor_links=True, extra_loaders=[DictLoader({'lesson.html.j2':template})], template_file='lesson.html.j2')
    (out/f'{path.stem}.html').write_text(to.from_notebook_node(new)[0], encoding='utf-8')

def make_slides(out):
    "Write the slides of all lessons into the folder `out`, with all they need: they work without a network"
    out.mkdir(parents=True)
    here,packages = Path(__file__).parent,{k:Path(find_spec(k).origin).parent for k in ('sphinx-mathjax-offline','sphinx_revealjs')}
    shutil.copy(packages['sphinx-mathjax-offline']/'static'/'mathjax'/'tex-svg.js', out)
    shutil.copy(here/'static'/'slides.css', out)
    reveal = packages['sphinx_revealjs']/'_static'/'revealjs'
    for name in ('dist','plugin/notes'): shutil.copytree(reveal/name, out/'reveal'/name, ignore=shutil.ignore_patterns('*.esm.js','*.map'))
    for p in lessons: write(p, out)

if __name__=='__main__':
    to = cfg.config_path/'_slides'
    shutil.rmtree(to, ignore_errors=True)
    make_slides(to)
    print(f'{len(lessons)} lessons: open {to.name}/{lessons[0].stem}.html')
