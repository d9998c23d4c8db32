"""The pages that Sphinx turns into the site, made from the notebooks as they are stored.

A notebook becomes a lesson and keeps its code; a module becomes a page of entries besides,
which Sphinx's autodoc writes. Pages and anchors have the names that nbdev gives them:
its `doc(contextual_loss)` points to `losses.html#contextual_loss`."""
import ast, base64, csv, html, io, os, re, shutil
from functools import cache
from importlib import import_module
from inspect import isroutine, unwrap
from pathlib import Path
from types import FunctionType
import nbformat
import numpy as np
from PIL import Image
from fastcore.docments import docments
from fastcore.script import anno_parser
from nbdev.config import get_config

cfg = get_config()
widget = 'application/vnd.jupyter.widget-view+json'

# What there is

def page_of(path): return re.sub(r'(^|/)\d+\w?_([^/]+)\.ipynb$', r'\1\2', str(path).lower()).removesuffix('.ipynb')

def directives(cell):
    "nbdev's directives: `{'export': '', 'code-fold': 'true', ...}`"
    return dict(re.findall(r'^#\| *([\w-]+):? *(.*)$', cell.source, re.M)) if cell.cell_type=='code' else {}

def defined(source):
    "Public names that code defines, methods too: `['Calibration', 'Calibration.scale', ...]`"
    def says(node, name): return [name] if node.name[0]!='_' else []
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign): names += [n.id for t in node.targets for n in getattr(t, 'elts', [t]) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.ClassDef):
            names += says(node, node.name)
            for m in node.body: names += says(m, f'{node.name}.{m.name}') if isinstance(m, ast.FunctionDef) else []
        elif isinstance(node, ast.FunctionDef):
            patched = any(ast.unparse(d).split('(')[0]=='patch' for d in node.decorator_list)
            classes = re.findall(r'\w+', ast.unparse(node.args.args[0].annotation)) if patched else ['']
            for c in classes: names += says(node, f'{c}.{node.name}'.lstrip('.'))
    return names

class Page:
    "A notebook, its place in the site and what it exports"
    def __init__(self, path):
        self.rel = path.relative_to(cfg.nbs_path)
        self.page = page_of(self.rel.as_posix())
        self.cells = nbformat.read(path, as_version=4).cells
        text = '\n\n'.join(c.source for c in self.cells if c.cell_type=='markdown')
        title,self.subtitle = (''.join(re.findall(p, text, re.M)[:1]) for p in (r'^# +(.+)', r'^> *(.+)'))
        number = re.findall(r'^(?:[0-9]+[a-z]?(?=_))?', path.name)[0] if self.rel.parent==Path('.') else '' # the course counts its lessons itself
        self.title = f'{number} {title}'.strip()
        exp = [d['default_exp'] for d in map(directives, self.cells) if 'default_exp' in d]
        self.module = f'{cfg.lib_name}.{exp[0]}' if exp else None
        mod = import_module(self.module) if exp else None
        def full(n): # a method is an entry of its class, wherever it was patched in
            top = n.split('.')[0]
            home = getattr(mod, top).__module__ if '.' in n else self.module
            return f'{home}.{n}' if home.startswith(cfg.lib_name) and (top in mod.__all__ or home!=self.module) else None
        self.defined = {i:[n for n in defined(c.source) if full(n)] for i,c in enumerate(self.cells) if 'export' in directives(c)}
        self.names = {n:full(n) for names in self.defined.values() for n in names}
        def made_here(o): return isinstance(o, (type,FunctionType)) and o.__module__==self.module
        self.variables = [n for n in self.names if '.' not in n and not made_here(getattr(mod, n))]

@cache
def pages(): return [Page(p) for p in sorted(cfg.nbs_path.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

def sidebar(ps):
    """Pages to learn from (their notebooks make a module), pages of results (all other notebooks), and pages that hang from the course's syllabus.
    What lies in other folders, such as solutions, is reached from the pages only that lead there"""
    top,course = [p for p in ps if len(p.rel.parts)==1 and p.page!='index'],[p for p in ps if p.rel.parts[:-1]==('course',)]
    head = [p for p in course if p.page in ('course/index','course/syllabus')] or course
    return head+[p for p in top if p.module], [p for p in top if not p.module], [p for p in course if p not in head]

def symbols(ps):
    "Where names lead: `{'ganomaly_learner': 'ganomaly_nb.learner.ganomaly_learner', ...}`. A name that parameters have too needs its parentheses: `score()`"
    ps = [p for p in ps if p.module]
    params = {n.arg for p in ps for i in p.defined for n in ast.walk(ast.parse(p.cells[i].source)) if isinstance(n, ast.arg)}
    res = {p.module:p.module for p in ps}
    for p in reversed(ps):
        for n,full in p.names.items(): res |= dict.fromkeys((n+'()'*(n in params), f'{p.module}.{n}', full), full)
    return res

# Text

def target(code, names):
    "The full name that code in backticks stands for, if any"
    name,args = re.fullmatch(r'([\w.]*)(\(.*\))?.*', code, re.S).groups()
    return names.get(name) or names.get(f'{name}()' if args else '') if code==name+(args or '') else None

def link(text, names):
    "Markdown with names in backticks linked to their entries, and notebooks to their pages; not in fenced code or headings"
    def name(m): return f'{{py:obj}}`{m[1]} <{to}>`' if (to := target(m[1], names)) else m[0]
    def f(s): return re.sub(r'\]\((?![a-z]+:)([^()\s#]+\.ipynb)', lambda m: f']({page_of(m[1])}.ipynb', re.sub(r'(?<![\[`}])`([^`<>\n]+)`(?![\]`])', name, s))
    text = re.sub(r'\]\((?:\.\./)+docs/guide/', '](/guide/', text)
    text = re.sub(r'\]\((?:\.\./)+docs/references\.bib', '](/guide/bibliography.md', text)
    parts = re.split(r'(^ *```.*?^ *```$|^#[^\n]*$)', text, flags=re.M|re.S)
    return ''.join(o if i%2 else f(o) for i,o in enumerate(parts))

def rst(text, names):
    "The Markdown of a docstring as reStructuredText: names linked, code, formulas; all else stands for itself"
    def f(m):
        code,math = m.groups()
        if math: return rf'\ :math:`{math}`\ '
        if not code: return '\\'+m[0]
        return rf'\ :py:obj:`{code} <{to}>`\ ' if (to := target(code, names)) else rf'\ ``{code}``\ '
    return re.sub(r'`([^`]+)`|\$([^$]+)\$|[\\*_|`]', f, text)

def toctree(entries, caption=''):
    return '\n'.join(['', '```{toctree}', ':hidden:', f':caption: {caption}'*bool(caption), *(f'{t} <{d}>' for t,d in entries), '```', ''])

# Figures

def plain(text):
    "Markdown as plain text, on one line"
    text = re.sub(r'!?\[([^]]*)\]\([^)]*\)', r'\1', text)                             # links
    text = re.sub(r'\$([^$]*)\$', lambda m: re.sub(r'\\(?:mathcal|mathbb|mathrm|text|,|;)|[{}\\]', '', m[1]), text)
    return ' '.join(re.sub(r'[*`]|^[>#]+ *', '', text, flags=re.M).split())

def pictures(cell): return [(k,v) for o in cell.get('outputs', []) for k,v in o.get('data', {}).items() if k in ('image/png','image/jpeg','image/svg+xml')]

def alternative(cells, i):
    "What the figure of a cell shows, in words: its directive `fig-alt`, else the caption in italics below it, else what is said before it"
    if m := re.search(r'^#\| fig-alt: (.*(?:\n#\|   .*)*)', cells[i].source, re.M): return ' '.join(m[1].replace('#|', '').split())
    below = cells[i+1].source if i+1<len(cells) and cells[i+1].cell_type=='markdown' else ''
    if m := re.match(r'\*(?!\*)(.+?)\*(?:\n\n|$)', below, re.S): return plain(m[1])
    said = [plain(p) for c in cells[:i] if c.cell_type=='markdown' for p in c.source.split('\n\n') if p.strip() and p[0] not in '|`$<']
    return said[-1]

def gallery(ps, out):
    "A page of all figures, small, each with a link to its place; the small pictures are written into the folder `out`"
    out.mkdir(parents=True)
    res = ['# Figures', '', '> All figures of the notebooks. Each leads to its place.', '']
    for p in ps:
        shown = [(i,k,data) for i,c in enumerate(p.cells) if 'hide' not in directives(c) for k,(kind,data) in enumerate(pictures(c)) if 'svg' not in kind]
        if not shown: continue
        res += [f'## [{p.title}](/{p.page}.ipynb)', '', '<div class="gallery">']
        for i,k,data in shown:
            name = f'{p.page.replace("/", "-")}-{i}-{k}.jpg'
            img = Image.open(io.BytesIO(base64.b64decode(data))).convert('RGBA')
            img = Image.alpha_composite(Image.new('RGBA', img.size, 'white'), img).convert('RGB')
            img.thumbnail((360,240))
            img.save(out/name, quality=80)
            alt = html.escape(alternative(p.cells, i))
            res.append(f'<a href="../{p.page}.html#figure-{i}" title="{alt}"><img src="../small/{name}" width="{img.width}" height="{img.height}" loading="lazy" alt="{alt}"></a>')
        res += ['</div>', '']
    return '\n'.join(res)

# Lessons

def still(output):
    "An output without its widget, which needs a kernel; None if only the widget's name remains"
    data = output.get('data', {})
    return output if not data.pop(widget, None) or any(k!='text/plain' for k in data) else None

def lesson(page, names):
    "Cells of a lesson: names linked, tags for Sphinx in place of nbdev's directives, an anchor where something is defined"
    res,text = [],nbformat.v4.new_markdown_cell
    alts = {i:alternative(page.cells, i) for i,c in enumerate(page.cells) if pictures(c)}
    for i,c in enumerate(page.cells):
        d = directives(c)
        if 'hide' in d: continue
        c.source = link(c.source, names) if c.cell_type=='markdown' else re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
        if c.cell_type=='code':
            c.outputs = [o for o in map(still, c.get('outputs', [])) if o]
            if i in alts: c.metadata['mystnb'] = {'image':{'alt':alts[i]}}
            tags = {**{k:k in d for k in ('export','slow','cuda')}, 'hide-input':d.get('code-fold')=='true', 'remove-input':d.get('echo')=='false'}
            c.metadata['tags'] = [k for k,v in tags.items() if v]
        anchors = [n.lower() for n in page.defined.get(i, ())] + [f'figure-{i}']*(i in alts)
        res += [text(f'<a id="{a}"></a>') for a in anchors] + [c]*bool(c.source)
    return res

def about(page):
    "Line under the title of a notebook"
    makes = f'The cells with a bar make the module {{py:mod}}`{page.module}`. ' if page.module else ''
    path = page.rel.as_posix()
    colab = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{cfg.nbs_path.name}/{path}'
    lesson = re.fullmatch(r'course/0[1-8]_\w+', path.removesuffix('.ipynb'))
    deck = f' <a href="../slides/{page.rel.stem}.html">Slides</a> for the lecture.' if lesson else ''
    return f'{{.about}}\n{makes}[Open in Colab]({colab}) or {{download}}`download this notebook </notebooks/{path}>`.{deck}'

# Reference

def passed_on(obj):
    "What the constructors of a class say of parameters, for one that passes them on to another: `{'held_out': 'Share of ...', ...}`"
    cls = getattr(obj, '__self__', None)
    if not isinstance(cls, type): return {}
    said = [(k, v.docment) for n in vars(cls) if isroutine(f := getattr(cls, n)) for k,v in docments(f, full=True).items() if v.docment]
    return dict(reversed(said))

def describe(what, name, obj, lines, names, ps):
    "What autodoc shall say of an object: its docstring, its docments, and where it is made"
    lines[:] = [rst(l, names) for l in lines if what!='data'] # what stands there for a value is the docstring of its type
    docs = docments(obj, full=True) if isroutine(obj) or isinstance(obj, type) else {}
    others = passed_on(obj)
    for k,v in docs.items():
        if k!='return' and not v.docment: v.docment = others.get(k)
    if any(v.docment for v in docs.values()): lines.append('')
    for k,v in docs.items():
        if v.docment and k not in ('self','cls'): lines.append(f':returns: {rst(v.docment, names)}' if k=='return' else f':param {k}: {rst(v.docment, names)}')
    for p in ps:
        made = [f'Made in `{p.title} <../{p.page}.html#{n.lower()}>`__.' for n,full in p.names.items() if full==name]
        lines += ['', *made, '']*bool(made)

def modules(ps):
    "Pages of the reference: all modules and what they export, and a page of entries for each"
    def table(p): return ['.. autosummary::', '   :nosignatures:', '', *(f'   ~{p.module}.{n}' for n in p.names if '.' not in n), '']
    def title(s, line='='): return [s, line*len(s), '']
    ps = [p for p in ps if p.module]
    index = title('Modules') + ['.. toctree::', '   :hidden:', '', *(f'   {p.module.split(".", 1)[1]} <{p.module}>' for p in ps), '']
    for p in ps: index += [*title(p.module.split('.', 1)[1], '-'), f':py:mod:`{p.module}`: {rst(p.subtitle, {})}', '', *table(p)]
    entries = {p.module: [*title(p.module), f'.. automodule:: {p.module}', '', *(f'.. autodata:: {p.module}.{n}' for n in p.variables)] for p in ps}
    return {f'reference/{k}.rst': '\n'.join(v)+'\n' for k,v in {'index':index, **entries}.items()}

def commands(names):
    "What the console commands say of themselves"
    os.environ['COLUMNS'] = '88'
    res = ['# Commands', '', 'They are installed with the package.', '']
    for line in cfg.console_scripts.splitlines():
        name,module,func = re.split('[=:]', line.strip())
        f = unwrap(getattr(import_module(module), func))
        res += [f'## {name}', '', f'{f.__doc__}. In Python: {link(f"`{module}.{func}`", names)}.', '', '```text', anno_parser(f, prog=name).format_help().strip(), '```', '']
    return '\n'.join(res)

def inside(f):
    "How many rows a file of results has, and its columns; of arrays their shapes, of a picture its size"
    if f.suffix=='.csv':
        with f.open(encoding='utf-8') as o: head,*rows = csv.reader(o)
        return len(rows),head
    if f.suffix=='.npz': return '',[f'{k}: {" x ".join(map(str, a.shape))}' for k,a in np.load(f).items()]
    with Image.open(f) as img: return '',[f'{img.width} x {img.height} pixels']

def results(ps):
    "The files of results, their columns and the notebooks that read them: those that name them, or whose number they have"
    res = ['# Result files', '', 'They stand in `nbs/results` and are installed with the package.', '', '| file | rows | holds | read by |', '|---|---|---|---|']
    folder = cfg.nbs_path/'results'
    files = sorted(f for f in folder.rglob('*') if f.is_file() and f.suffix in ('.csv','.npz','.jpg'))
    for d in sorted({f.parent for f in files}-{folder}): files = [f for f in files if f.parent!=d] + [next(f for f in files if f.parent==d)] # one for all of a folder
    for f in sorted(files):
        name = f.relative_to(folder).as_posix()
        rows,holds = inside(f)
        number = re.match(r'\d+\w?(?=_)', name)
        readers = [p for p in ps if any(re.search(rf'\b{re.escape(name.split("/")[0])}\b', c.source) for c in p.cells if c.cell_type=='code') or number and p.rel.name.startswith(f'{number[0]}_') and len(p.rel.parts)==1]
        shown = f'{name.split("/")[0]}/*{f.suffix} ({len(list(f.parent.iterdir()))} files)' if '/' in name else name
        res.append(f'| [{shown}](/results/{name}) | {rows} | {", ".join(f"`{h}`" for h in holds)} | {", ".join(f"[{p.title}](/{p.page}.ipynb)" for p in readers)} |')
    return '\n'.join(res)

# Guide

guide = ('questions','cheat_sheet','troubleshooting','faq','compared','glossary')

def guide_page(name, text, names):
    "A page of docs/guide, whose links lead to notebooks of the repository; the cheat sheet is there as a PDF, too"
    if name=='cheat_sheet': text = re.sub(r'^(> .*)$', r'\1 <a href="cheat_sheet.pdf">The same as a PDF</a>.', text, count=1, flags=re.M)
    return link(text, names).replace('](../../nbs/', '](/')

def bibliography(text, ps):
    "The page of a .bib file with one field a line: authors, title, place, year, and who reads it"
    res = ['# Bibliography', '', '> What the notebooks rest on. `docs/references.bib` holds it for your own papers.', '']
    by = {p.rel.as_posix().removesuffix('.ipynb'):p for p in ps}
    for key,body in re.findall(r'^@\w+\{(\w+),\n(.*?)^\}', text, re.M|re.S):
        f = dict(re.findall(r'^ *(\w+) = \{(.*)\},?$', body, re.M))
        authors = f['author'].split(' and ')
        who = ', '.join(authors[:-1])+' and '*(len(authors)>1)+authors[-1]
        title = f'[{f["title"]}]({f["url"]})' if 'url' in f else f'*{f["title"]}*'
        read = ', '.join(f'[{by[n].title}](/{by[n].page}.ipynb)' for n in f.get('notebooks', '').split())
        res += [f'<a id="{key}"></a>', '', f'{who}: {title}. {f["journal"]}, {f["year"]}.' + f' Read with: {read}.'*bool(read), '']
    return '\n'.join(res)

# All

def make(out):
    "Write all pages into the folder `out`"
    ps = pages()
    names,(learn,res,course) = symbols(ps),sidebar(ps)
    def tree(ps, caption=''): return toctree([(p.title, f'/{p.page}') for p in ps], caption)
    reference = toctree([('Modules','/reference/index'), ('Commands','/reference/commands'), ('Result files','/reference/results')], 'Reference')
    texts = {g:(Path(__file__).parent/'guide'/f'{g}.md').read_text(encoding='utf-8') for g in guide}
    titles = {g:re.match('# (.*)', t)[1] for g,t in texts.items()} | {'figures':'Figures', 'bibliography':'Bibliography'}
    help = toctree([(t, f'/guide/{g}') for g,t in titles.items()], 'Help')
    more = {'index': toctree([('Home','self')]) + help + tree(learn, 'Learn') + tree(res, 'Results') + reference}
    if course: more[learn[0].page] = tree(course)
    files = {**modules(ps), 'reference/commands.md':commands(names), 'reference/results.md':results(ps)}
    files |= {f'guide/{g}.md':guide_page(g, t, names) for g,t in texts.items()}
    files['guide/bibliography.md'] = bibliography((Path(__file__).parent/'references.bib').read_text(encoding='utf-8'), ps)
    shutil.rmtree(out.parent/'extra', ignore_errors=True)
    files['guide/figures.md'] = gallery(ps, out.parent/'extra'/'small')
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(cfg.nbs_path, out, ignore=shutil.ignore_patterns('*.ipynb','*.yml','.*'))
    shutil.copytree(cfg.nbs_path, out/'notebooks', ignore=lambda d, fs: [f for f in fs if f[0]=='.' or Path(f).suffix not in ('','.ipynb')])
    for p in ps:
        cells = lesson(p, names) + [nbformat.v4.new_markdown_cell(more.get(p.page, ''))]
        cells.insert(1, nbformat.v4.new_markdown_cell(link(about(p), names)))
        nb = nbformat.v4.new_notebook(cells=cells, metadata={'language_info':{'name':'python'}})
        (out/p.page).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, out/f'{p.page}.ipynb')
    for f,text in files.items():
        (out/f).parent.mkdir(exist_ok=True)
        (out/f).write_text(text, encoding='utf-8')
