"What makes the pages of the site, without a browser (tests/browser/test_site.py opens them)."
import json, re, subprocess, sys
from functools import partial
from importlib import import_module
from inspect import signature
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace as NS
import nbformat, pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'docs'))
import install_cells, pages, sheet, slides, website

names = {'f':'lib.m.f', 'C.run':'lib.m.C.run', 'lib.m':'lib.m', 'score()':'lib.m.score'} # `score` alone is a parameter


@pytest.mark.parametrize('text,linked', [
    ('Call `f`.', 'Call {py:obj}`f <lib.m.f>`.'),
    ('`f()` and `C.run`', '{py:obj}`f() <lib.m.f>` and {py:obj}`C.run <lib.m.C.run>`'),
    ("`f('x', 2)`", "{py:obj}`f('x', 2) <lib.m.f>`"),
    ('`score` and `score(x)`', '`score` and {py:obj}`score(x) <lib.m.score>`'),
    ('`f(x)+1`, `g`, f, ``f``, [`f`](x.md), {py:obj}`f`', None),
    ('# About `f`\n`lib.m`', '# About `f`\n{py:obj}`lib.m <lib.m>`'),
    ('```python\n`f`\n```\n`f`', '```python\n`f`\n```\n{py:obj}`f <lib.m.f>`'),
    ('[00 data](00_data.ipynb), [a](../03_training.ipynb#the-step)', '[00 data](data.ipynb), [a](../training.ipynb#the-step)'),
    ('[b](course/01_one_class.ipynb), [c](00_syllabus.ipynb)', '[b](course/one_class.ipynb), [c](syllabus.ipynb)'),
    ('[e](../docs/guide/faq.md#is-it), [f](../docs/references.bib)', '[e](/guide/faq.md#is-it), [f](/guide/bibliography.md)'),
    ('[c](https://host/00_data.ipynb), [d](data.csv)', None)])
def test_link(text, linked): assert pages.link(text, names)==(linked or text)


def notebook(path, *cells):
    "Write a notebook of (source, outputs or None for text)"
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [dict(cell_type='markdown' if o is None else 'code', source=s, metadata={}, **({} if o is None else dict(outputs=o, execution_count=None))) for s,o in cells]
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))


def test_lesson(tmp_path, monkeypatch):
    "nbdev's directives take effect and are not seen; what needs a kernel is left out"
    monkeypatch.setattr(pages, 'cfg', NS(nbs_path=tmp_path, lib_name='lib'))
    image,view,both = [dict(output_type='display_data', metadata={}, data={k:'...' for k in ks}) for ks in (['image/png'], [pages.widget,'text/plain'], [pages.widget,'image/png'])]
    notebook(tmp_path/'07_More_things.ipynb', ('# More things\n\n> Of `f`', None), ('#| hide\nsecret = 1', []), ('#| echo: false\nplot()', [image]),
        ('#| code-fold: true\n#| slow\ny = 2', []), ('#| hide\nnbdev_export()', []), ('slider()', [view, image, both]))
    p = pages.Page(tmp_path/'07_More_things.ipynb')
    assert (p.page, p.title, p.subtitle, p.module)==('more_things', '07 More things', 'Of `f`', None)
    cells = [c for c in pages.lesson(p, names) if c.source not in ('<a id="figure-2"></a>','<a id="figure-5"></a>')]
    assert [c.source for c in cells]==['# More things\n\n> Of {py:obj}`f <lib.m.f>`', 'plot()', 'y = 2', 'slider()']
    assert [c.metadata['tags'] for c in cells[1:]]==[['remove-input'], ['slow','hide-input'], []]
    assert [o['data'] for o in cells[-1].outputs]==[image['data']]*2


@pytest.mark.parametrize('cells,said', [
    ([('Some text.', None), ('#| fig-alt: Two lines,\n#|   crossing.\nplot()', ['image/png']), ('*A caption.*', None)], 'Two lines, crossing.'),
    ([('Some text.', None), ('plot()', ['image/jpeg']), ('*Two lines in `f`.*\n\nMore.', None)], 'Two lines in f.'),
    ([('# T\n\nOld.', None), ('Of [this](a.ipynb) and $\\hat z$:', None), ('plot()', ['image/png']), ('**Do.** Look.', None)], 'Of this and hat z:')])
def test_alternative(tmp_path, monkeypatch, cells, said):
    "A figure says what it shows: by its directive, its caption, or what comes before"
    monkeypatch.setattr(pages, 'cfg', NS(nbs_path=tmp_path, lib_name='lib'))
    notebook(tmp_path/'a.ipynb', *((s, o and [dict(output_type='display_data', metadata={}, data=dict.fromkeys(o, '...'))]) for s,o in cells))
    p = pages.Page(tmp_path/'a.ipynb')
    shown = next(c for c in pages.lesson(p, {}) if c.cell_type=='code')
    assert shown.metadata['mystnb']['image']['alt']==said and shown.source=='plot()'
    assert [c.source for c in pages.lesson(pages.Page(tmp_path/'a.ipynb'), {}) if 'id=' in c.source]


def test_every_figure_is_told():
    "No figure is left with less than a sentence, and none with a formula's source"
    told = {f'{p.rel} cell {i}':pages.alternative(p.cells, i) for p in pages.pages() for i,c in enumerate(p.cells) if pages.pictures(c)}
    assert len(told)>100
    assert {k:v for k,v in told.items() if len(v)<25 or re.search(r'[$\\`]|\.png', v)}=={}


def test_bibliography():
    "Every entry is complete, its readers exist, and all of the file is on the page"
    text = (root/'docs'/'references.bib').read_text(encoding='utf-8')
    page = pages.bibliography(text, pages.pages())
    assert text.count('\n@')==page.count('<a id=')>30
    assert 'Diederik P. Kingma and Max Welling: [Auto-Encoding Variational Bayes](https://arxiv.org/abs/1312.6114). International Conference on Learning Representations, 2014. Read with: [10 VAE](/vae.ipynb).' in page


def test_result_files_are_listed():
    page = pages.results(pages.pages())
    missing = [f.name for f in (root/'nbs'/'results').iterdir() if f.is_file() and f.suffix!='.lock' and f'[{f.name}]' not in page]
    assert not missing and '37_scores/*.npz' in page
    assert not re.findall(r'^\|.*\| \|$', page, re.M), 'read by nobody'


def test_guide():
    "Links of the guide lead somewhere in the repository, too, and every word of the paper's tables is in the glossary"
    for g in pages.guide:
        f = root/'docs'/'guide'/f'{g}.md'
        for to in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', f.read_text(encoding='utf-8')): assert (f.parent/to).exists(), f'{g}: {to}'
    words = (root/'docs'/'guide'/'glossary.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| (.+?) \|', words, re.M)[2:]
    assert rows==sorted(rows, key=str.casefold)
    assert all(re.search(rf'\b{w}\b', words) for w in ('UBA','FFOB','DCGAN','BiGAN','AUROC','AUPRC','EER','TPR','FPR','PPV','ONNX','ELBO','t-SNE'))


def test_sitemap(tmp_path):
    for f in ('a.html','sub/b.html','search.html','_static/c.html'):
        (tmp_path/f).parent.mkdir(exist_ok=True); (tmp_path/f).touch()
    assert re.findall('<loc>(.*?)</loc>', website.sitemap(tmp_path))==[f'{pages.cfg.doc_host}{pages.cfg.doc_baseurl}/{f}' for f in ('a.html','sub/b.html')]


def test_sidebar():
    "Where a page stands follows from its folder and from whether it makes a module"
    def page(path, module=None): return NS(rel=Path(path), page=pages.page_of(path), module=module)
    ps = [page('course/01_a.ipynb'), page('course/00_syllabus.ipynb'), page('course/solutions/01_a.ipynb'), page('00_data.ipynb', 'data'), page('13_three.ipynb'), page('30_runs.ipynb', 'runs'), page('index.ipynb')]
    assert [[p.page for p in part] for part in pages.sidebar(ps)]==[['course/syllabus','data','runs'], ['three'], ['course/a']]
    assert [[p.page for p in part] for part in pages.sidebar(ps[:1]+ps[2:])]==[['course/a','data','runs'], ['three'], []]


def test_defined():
    "Functions, classes, methods and patched methods; nothing private"
    code = """x = 1
y,z = 2,3
def f(): pass
def _g(): pass
class C:
    order = 1
    def run(self): pass
    def _step(self): pass
@patch(as_prop=True)
def size(self:C): pass
@patch
def to(self:(A,C), device): pass"""
    assert pages.defined(code)==['x','y','z','f','C','C.run','C.size','A.to','C.to']


def test_describe():
    "Docstring, docments and where it was made; what reStructuredText would take for its own is escaped"
    def f(
        x:str|None, # Name of `<kind>` | *b*, or `score(x)`
        score=len, # A function
        **kwargs
    )->list: # Names_
        "Do"
    page = NS(module='lib.m', title='07 M', page='m', names={'run':'lib.m.run'})
    def said(name, doc, what='function'):
        lines = [doc]
        pages.describe(what, f'lib.m.{name}', f, lines, names, [page])
        return lines
    assert said('f', 'Do `f` to $x_1$ and x_')==[r'Do \ :py:obj:`f <lib.m.f>`\  to \ :math:`x_1`\  and x\_', '',
        r':param x: Name of \ ``<kind>``\  \| \*b\*, or \ :py:obj:`score(x) <lib.m.score>`\ ', ':param score: A function', r':returns: Names\_']
    assert said('run', 'Do')[-2:]==['Made in `07 M <../m.html#run>`__.', '']
    assert said('run', 'A dictionary is ...', what='data')[0]!='A dictionary is ...'


def parameters(o):
    "Names of the parameters of what can be called; none for a `partial`, and for classes of C"
    if not callable(o) or isinstance(o, partial): return []
    try: return list(signature(o).parameters)
    except ValueError: return []


def test_everything_has_an_entry():
    "Each exported name and method, with an anchor where nbdev's `doc` looks for it; no name of a parameter leads to a function"
    ps = pages.pages()
    syms = pages.symbols(ps)
    anchors = {f'{p.page.split("/")[-1]}.html#{n.lower()}' for p in ps for n in p.names}
    for p in ps:
        if p.module: assert {n for n in import_module(p.module).__all__ if not {n,f'{n}()'} & set(syms)}==set()
    for module,found in import_module('ganomaly_nb._modidx').d['syms'].items():
        exported = import_module(module).__all__
        for name,(url,_) in found.items():
            parts = name.removeprefix(f'{module}.').split('.')
            if parts[0] in exported and not any(o[0]=='_' for o in parts): assert url in anchors and name in syms, name
    params = {k for p in ps for n in p.names for k in parameters(attrgetter(n)(import_module(p.module)))}
    assert not params & set(syms) and len(params)>100
    assert {'ganomaly_learner', 'AnomalyLearner.calibrate', 'AnomalyDataLoaders.from_digits', 'AnomalyInterpretation.from_learner', 'mnist_stats', 'ganomaly_nb.data'}<=set(syms)
    assert len({p.page for p in ps})==len(ps), 'two notebooks of one name'


def test_broken_links(tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'a.html').write_text('<h1 id="top"></h1><a href="sub/b.html#x">, <a href="#top">, <a href="https://host/gone">, <img src="sub/pic.png">')
    (tmp_path/'sub'/'b.html').write_text('<p id="x"></p><a href="../a.html?q=1#top">')
    (tmp_path/'sub'/'pic.png').touch()
    assert website.broken_links(tmp_path)==[]
    (tmp_path/'sub'/'b.html').write_text('<a href="../a.html#end">, <a href="gone.html">')
    (tmp_path/'sub'/'pic.png').unlink()
    assert website.broken_links(tmp_path)==['a.html: sub/b.html#x', 'a.html: sub/pic.png', 'sub/b.html: ../a.html#end', 'sub/b.html: gone.html']


def test_install_cells():
    "Every notebook can run alone: `python docs/install_cells.py` changes nothing, and each first cell installs from the one place that settings.ini names"
    assert install_cells.stale()=={}
    for p in install_cells.notebooks():
        first = next(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type=='code')
        assert '#| hide' in first and f'%pip install -q "ganomaly_nb' in first and f'git+{pages.cfg.git_url}' in first, p.name
        assert p.parent==pages.cfg.nbs_path or 'results_here' not in first, f'{p.name} would copy results beside itself in a clone'


def test_install_cell_is_written_anew(monkeypatch):
    "Into a hidden cell or one of its own; with results if they are read; an old source is replaced, the rest is kept"
    def cell(source): return dict(cell_type='code', source=source.splitlines(keepends=True), metadata={}, outputs=[], execution_count=None)
    def made(*sources):
        nb = install_cells.with_install(dict(cells=[dict(cell_type='markdown', source=['# A']), *map(cell, sources)]))
        assert install_cells.with_install(json.loads(json.dumps(nb)))==nb
        return [''.join(c['source']) for c in nb['cells'][1:]]
    hidden = made('#| default_exp m', 'import ipywidgets', '#| hide\nimport nbdev; nbdev.nbdev_export()')
    assert len(hidden)==2 and hidden[0].startswith('#| default_exp m\n#| hide\n') and 'ganomaly_nb[widgets]@git+' in hidden[0] and 'results_here' not in hidden[0]
    own = made("df = read('results/a.csv')")
    assert len(own)==2 and own[0].startswith('#| hide\n') and own[0].rstrip().endswith('# a copy of the stored files') and own[1]=="df = read('results/a.csv')"
    monkeypatch.setattr(install_cells, 'cfg', NS(lib_name='ganomaly_nb', pip_source=''))
    released = made(own[0]+'\nimport ganomaly_nb', 'x = 1')
    assert 'git+' not in released[0] and '-q "ganomaly_nb"\n' in released[0] and 'results_here' not in released[0] and released[0].endswith('import ganomaly_nb')


@pytest.mark.slow
def test_nbdev_docs(env):
    "What `nbdev_docs` does before it calls Quarto. It runs every cell with an import and nothing before it, so such a cell cannot use what others made"
    code = ('import os; from nbdev.doclinks import nbglob; from nbdev.processors import FilterDefaults; from execnb.nbio import read_nb\n'
            'for p in nbglob(as_path=True): FilterDefaults()(read_nb(p))\n'
            'os._exit(0) # else IPython collects garbage, once for each notebook')
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=root/'nbs', env=env, capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-3000:]


@pytest.fixture(scope='module')
def decks(tmp_path_factory):
    out = tmp_path_factory.mktemp('decks')/'slides'
    slides.make_slides(out)
    return out


@pytest.mark.parametrize('lesson', slides.lessons, ids=lambda p: p.stem)
def test_slides(decks, lesson):
    "A slide for each heading of the lecture, figures with words, notes, no exercise and nothing from other hosts"
    text = (decks/f'{lesson.stem}.html').read_text()
    needed = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?!data:)([^"]+)"', text)
    assert [f for f in needed if not (decks/f).exists()]==[]
    lecture = '\n'.join(c.source for c in nbformat.read(lesson, as_version=4).cells if c.cell_type=='markdown').split('## Exercises')[0]
    headings = re.findall(r'^### (\S+)', lecture, re.M)
    shown = [h.split()[0] for h in re.findall(r'<h3[^>]*>(.*?)</h3>', text) if not h.endswith('…')]
    assert len(headings)>3 and shown==headings and not [o for o in website.broken_links(decks) if ': #' in o] # others lead to the site
    assert '@exercise' not in text and 'answer = ...' not in text
    assert all(re.search('alt="[^"]{20,}"', img) for img in re.findall(r'<img[^>]*>', text))
    assert text.count('class="notes"')>3 and not re.search(r'<section[^>]*>\s*</section>', text)


def test_parts_of_slides():
    "Formulas, lists and tables are seen, text is said; long code is left out, its figure is not; what is full is not filled further"
    assert slides.blocks('# A\nb\nc\n\n$$x\n+y$$\n\n- d')==['# A', 'b\nc', '$$x\n+y$$', '- d']
    cells = [NS(cell_type='markdown', source='# A\n\nSaid. More of it.\n\n**Bold.** Text.\n\n- a list'), code_cell('x = 1\n'*20, 'image/png'),
             code_cell('y = 2'), code_cell('z\n'*20), NS(cell_type='markdown', source='## Exercises\n\nNot seen.')]
    found = slides.slides(cells)
    assert [s.heading for s in found]==['# A', '# A …', '# A …']
    assert [[c.source[:6] for c in s.cells] for s in found]==[['- a li'], ['x = 1\n'], ['y = 2']]
    assert found[1].cells[0].metadata['tags']==['remove-input'] and 'tags' not in found[2].cells[0].metadata
    assert slides.gist(found[0].notes)==['Said.', '**Bold.**']
    assert slides.links('[a](03_gans.ipynb#x) [b](../01_networks.ipynb) [c](https://h/a.ipynb)')=='[a](../course/gans.html#x) [b](../networks.html) [c](https://h/a.ipynb)'


def code_cell(source, *kinds):
    outputs = [nbformat.v4.new_output('display_data', {k:'...'}) for k in kinds]
    return nbformat.v4.new_code_cell(source, outputs=outputs)


def test_cheat_sheet(tmp_path):
    "One page that holds every line of its source, nothing beyond its edges; a longer source is refused"
    sheet.make_sheet(tmp_path/'sheet.pdf')
    data = (tmp_path/'sheet.pdf').read_bytes()
    assert data[:5]==b'%PDF-' and data.count(b'/Type /Page ')==1
    text = sheet.source.read_text(encoding='utf-8')
    fig = sheet.draw(text)
    box,renderer = fig.bbox,FigureCanvasAgg(fig).get_renderer()
    for t in fig.texts:
        o = t.get_window_extent(renderer)
        assert box.x0<=o.x0 and o.x1<=box.x1 and box.y0<=o.y0 and o.y1<=box.y1, t.get_text()
    drawn = ' '.join(t.get_text() for t in fig.texts)
    for line in re.findall(r'^(?:ganomaly_|learn|dls|interp|make|pip).*', text, re.M): assert line in drawn
    for name in re.findall(r'^\| `(\w+)`', text, re.M): assert name in drawn
    with pytest.raises(ValueError, match='points longer'): sheet.draw(text+'\n- more'*40)
