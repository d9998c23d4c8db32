"""The pages that Sphinx turns into the site, made from the notebooks. No cell is run.

nbdev reads the notebooks: its directives, its rule of what is documented, its `show_doc`. A notebook becomes a lesson and keeps its code; a module becomes
a page of entries besides. Lessons have the names that nbdev gives them: its `doc(contextual_loss)` points to `losses.html#contextual_loss`."""
import ast, csv, inspect, os, re, shutil
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from execnb.nbio import mk_cell, write_nb
from fastcore.docments import docments
from fastcore.script import anno_parser
from nbdev.config import get_config
from nbdev.doclinks import _nbpath2html, nbglob
from nbdev.process import NBProcessor
from nbdev.processors import add_show_docs, clean_magics, filter_stream_, hide_, hide_line, rm_header_dash, strip_ansi
from nbdev.showdoc import show_doc

cfg = get_config()
procs = [add_show_docs, strip_ansi, hide_line, filter_stream_, rm_header_dash, hide_, clean_magics]
empty,widget = inspect.Parameter.empty,'application/vnd.jupyter.widget-view+json'

# What there is

def page_of(path): return _nbpath2html(Path(path)).with_suffix('').as_posix()
def shown(cell): return re.findall(r'^show_doc\(([\w.]+)', cell.source, re.M) if cell.cell_type=='code' else []

class Page:
    "A notebook or Markdown file, its place in the site and what it exports"
    def __init__(self, path):
        self.rel = path.relative_to(cfg.nbs_path)
        self.page = page_of(self.rel)
        self.cells = NBProcessor(path, procs=procs, process=True).nb.cells if path.suffix=='.ipynb' else [mk_cell(path.read_text(encoding='utf-8'), cell_type='markdown')]
        text = '\n\n'.join(c.source for c in self.cells if c.cell_type=='markdown')
        title,self.subtitle = (''.join(re.findall(p, text, re.M)[:1]) for p in (r'^# +(.+)', r'^> *(.+)'))
        number = ''.join(re.findall(r'^[0-9]+', path.name)) if self.rel.parent==Path('.') else '' # the course counts its lessons itself
        self.title = f'{number} {title}'.strip()
        exp = [c.directives_['default_exp'][0] for c in self.cells if 'default_exp' in c.get('directives_', ())]
        self.module = f'{cfg.lib_name}.{exp[0]}' if exp else None
        self.values = {} # of exported variables, as written
        if self.module: self.find_names(import_module(self.module))

    def find_names(self, mod):
        "Note in each exported cell what it defines: what nbdev shows, methods in the body of a class that say what they do, variables"
        def says(name, o):
            f = inspect.unwrap(getattr(o, '__func__', None) or getattr(o, 'fget', None) or o)
            return name[0]!='_' and inspect.isfunction(f) and f.__module__==self.module and (f.__doc__ or any(v.docment for v in docments(f, full=True).values()))
        top = [n for c in self.cells for n in shown(c)]
        for c in self.cells:
            if 'export' in c.get('directives_', ()):
                values = {t.id:ast.unparse(n.value) for n in ast.parse(c.source).body if isinstance(n, ast.Assign) for t in n.targets if getattr(t, 'id', None) in mod.__all__}
                self.values |= values
                exported,exported.names_ = c,list(values)
            for n in shown(c):
                o = attrgetter(n)(mod)
                exported.names_ += [n] + [m for k,v in (vars(o).items() if inspect.isclass(o) else ()) if (m := f'{n}.{k}') not in top and says(k, v)]

    @property
    def names(self): return [n for c in self.cells for n in c.get('names_', ())]

@cache
def pages(): return [Page(p) for g in ('*.ipynb','*.md') for p in nbglob(file_glob=g, as_path=True).sorted()]

def sidebar(ps):
    """Pages to learn from (their notebooks make a module), pages of results (all other notebooks), and pages that hang from the course's syllabus.
    What lies in folders inside the course, such as solutions, is reached from its pages only"""
    top,course = [p for p in ps if len(p.rel.parts)==1 and p.page!='index'],[p for p in ps if p.rel.parts[:-1]==('course',)]
    head = [p for p in course if p.page in ('course/index','course/syllabus')] or course
    return head+[p for p in top if p.module], [p for p in top if not p.module], [p for p in course if p not in head]

def symbols(ps):
    "Full names: `{'ganomaly_learner': 'ganomaly_nb.learner.ganomaly_learner', ...}`"
    ps = [p for p in ps if p.module]
    return {p.module:p.module for p in ps} | {k:f'{p.module}.{n}' for p in reversed(ps) for n in p.names for k in (n, f'{p.module}.{n}')}

# Text

def link(text, names):
    "Names in backticks become links to their entries, and links to notebooks and Markdown files links to their pages; not in fenced code or headings"
    def name(m): return f'{{py:obj}}`{m[1]} <{names[m[2]]}>`' if m[2] in names else m[0]
    def page(m): return f']({page_of(m[1])}.{m[2]}'
    def f(s): return re.sub(r'\]\((?![a-z]+:)([^()\s#]+\.(ipynb|md))', page, re.sub(r'(?<![\[`}])`(([\w.]+)(?:\([^`<>]*\))?)`(?![\]`])', name, s))
    parts = re.split(r'(^ *```.*?^ *```$|^#[^\n]*$)', text, flags=re.M|re.S)
    return ''.join(o if i%2 else f(o) for i,o in enumerate(parts))

def toctree(entries, caption=''):
    return '\n'.join(['', '```{toctree}', ':hidden:', f':caption: {caption}'*bool(caption), *(f'{t} <{d}>' for t,d in entries), '```', ''])

# Lessons

def still(output):
    "An output without its widget, which needs a kernel; None if only the widget's name remains"
    data = output.get('data', {})
    return output if not data.pop(widget, None) or any(k!='text/plain' for k in data) else None

def lesson(cells, names):
    "Cells of a lesson: names linked, tags for Sphinx in place of nbdev's directives, an anchor where something is defined"
    res = []
    for c in cells:
        if shown(c): continue
        d = {k.rstrip(':'):v for k,v in c.get('directives_', {}).items()}
        if c.cell_type=='markdown': c.source = link(c.source, names)
        else:
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            c.outputs = [o for o in map(still, c.get('outputs', [])) if o]
            tags = {**{k:k in d for k in ('export','slow','cuda')}, 'hide-input':d.get('code-fold')==['true'], 'remove-input':d.get('echo')==['false']}
            c.metadata['tags'] = [k for k,v in tags.items() if v]
        res += [mk_cell(f'<a id="{n.lower()}"></a>', cell_type='markdown') for n in c.get('names_', ())] + [c]*bool(c.source)
    return res

def about(page):
    "Line under the title of a notebook"
    makes = f'The cells with a bar make the module `{page.module}`. ' if page.module else ''
    colab = f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{cfg.nbs_path.name}/{page.rel.as_posix()}'
    return f'{{.about}}\n{makes}[Open in Colab]({colab}) or {{download}}`download this notebook </notebooks/{page.rel.as_posix()}>`.'

# Reference

def doc_of(page, name):
    "What nbdev's `show_doc` knows of an object, and its docstring (`show_doc` takes the docstring of the type where there is none)"
    obj = attrgetter(name)(import_module(page.module))
    try: doc = show_doc(obj, name=name)
    except ValueError as e: raise ValueError(f'{page.module}.{name} cannot be documented; is one of its defaults an array? {e}') from e
    return obj,doc,doc.docs if inspect.getdoc(obj) else ''

def short(o): return getattr(o, '__name__', None) or repr(o)

def signature(sig):
    "Names and defaults, without types"
    class Short:
        def __init__(self, o): self.o = o
        def __repr__(self): return short(self.o)
    ps = [p.replace(annotation=empty, default=p.default if p.default is empty else Short(p.default)) for p in sig.parameters.values() if p.name!='self']
    return str(sig.replace(parameters=ps, return_annotation=empty))

def table(f):
    "Parameters and result of `f`, with types, defaults and docments"
    def code(o): return '' if o is empty or o is type(None) else f'`{o if isinstance(o, str) else short(o)}`'
    def row(cells): return '| ' + ' | '.join(re.sub(r'(`.*?`)|<', lambda m: m[1] or '&lt;', c).replace('|', r'\|').replace('\n', ' ') for c in cells) + ' |'
    rows = [(f'`{k}`' if k!='return' else '*returns*', code(v.anno), '' if v.default is empty else f'`{short(v.default)}`', v.docment or '')
            for k,v in docments(f, full=True).items() if k not in ('self','cls')]
    rows = [r for r in rows if r[0]!='*returns*' or r[1] or r[3]]
    keep = [i for i in range(4) if any(r[i] for r in rows)]
    return '\n'.join(row([r[i] for i in keep]) for r in [('','Type','Default','Details'), ('---',)*4] + rows) if rows else ''

def entry(page, name, names):
    "An object in the words of nbdev's `show_doc`, as one of Sphinx's descriptions of Python objects"
    head,body = [f':module: {page.module}'],[]
    if name in page.values: kind,sig = 'data',''; head.append(f':value: {page.values[name]}')
    else:
        obj,doc,text = doc_of(page, name)
        kind = 'class' if inspect.isclass(obj) else 'property' if isinstance(obj, property) else 'method' if '.' in name else 'function'
        sig = signature(doc.sig) if doc.sig and kind!='property' else ''
        if inspect.ismethod(obj): head.append(':classmethod:')
        body = [link(text, names), '', link(table(obj), names), '']
    made = f'<p class="about">Made in <a href="../{page.page}.html#{name.lower()}">{page.title}</a>.</p>'
    return '\n'.join([f'````{{py:{kind}}} {name}{sig}', *head, '', *body, made, '````', ''])

def reference(page, names):
    "The entries of a module"
    return '\n'.join([f'# {page.module}', '', f'```{{py:module}} {page.module}', '```', '', f'> {link(page.subtitle, names)}', '', *(entry(page, n, names) for n in page.names)])

def index(ps, names):
    "All modules and what they export, with docstrings; methods without one are left to the entries"
    res = ['# Modules', '']
    for p in (p for p in ps if p.module):
        rows = [(n, f'`{p.values[n]}`' if n in p.values else doc_of(p, n)[2]) for n in p.names]
        res += [f'## {p.module.split(".", 1)[1]}', '', f'`{p.module}`: {p.subtitle}', '', '{.names}', '| | |', '|---|---|', *(f'| `{n}` | {text} |' for n,text in rows if text or '.' not in n), '']
    return link('\n'.join(res), names)

def commands(names):
    "What the console commands say of themselves"
    os.environ['COLUMNS'] = '88'
    res = ['# Commands', '', 'They are installed with the package.', '']
    for line in cfg.console_scripts.splitlines():
        name,module,func = re.split('[=:]', line.strip())
        f = inspect.unwrap(getattr(import_module(module), func))
        res += [f'## {name}', '', f'{f.__doc__}. In Python: {link(f"`{module}.{func}`", names)}.', '', '```text', anno_parser(f, prog=name).format_help().strip(), '```', '']
    return '\n'.join(res)

def results(ps):
    "The files of results, their columns and the notebooks that read them"
    res = ['# Result files', '', '| file | rows | columns | read by |', '|---|---|---|---|']
    for f in sorted((cfg.nbs_path/'results').glob('*.csv')):
        with f.open(encoding='utf-8') as o: head,*rows = csv.reader(o)
        readers = [f'[{p.title}](/{p.page}.ipynb)' for p in ps if any(f.name in c.source for c in p.cells if c.cell_type=='code')]
        res.append(f'| [{f.name}](/results/{f.name}) | {len(rows)} | {", ".join(f"`{h}`" for h in head)} | {", ".join(readers)} |')
    return '\n'.join(res)

# All

def make(out):
    "Write all pages into the folder `out`"
    ps = pages()
    names,modules,(learn,res,course) = symbols(ps),[p for p in ps if p.module],sidebar(ps)
    def tree(ps, caption=''): return toctree([(p.title, f'/{p.page}') for p in ps], caption)
    more = {'index': toctree([('Home','self')]) + tree(learn, 'Learn') + tree(res, 'Results')
            + toctree([('Modules','/reference/index'), ('Commands','/reference/commands'), ('Result files','/reference/results')], 'Reference')}
    if course: more[learn[0].page] = tree(course)
    files = {f'reference/{p.module}.md': reference(p, names) for p in modules} | {'reference/commands.md': commands(names), 'reference/results.md': results(ps),
        'reference/index.md': index(ps, names) + toctree([(p.module.split('.', 1)[1], f'/reference/{p.module}') for p in modules])}
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(cfg.nbs_path, out, ignore=shutil.ignore_patterns('*.ipynb','*.md','*.yml','*.css','.*'))
    for p in ps:
        cells = lesson(p.cells, names) + [mk_cell(more.get(p.page, ''), cell_type='markdown')]
        if p.rel.suffix=='.md': files[f'{p.page}.md'] = '\n'.join(c.source for c in cells); continue
        original = out/'notebooks'/p.rel
        original.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(cfg.nbs_path/p.rel, original)
        cells.insert(1, mk_cell(link(about(p), names), cell_type='markdown'))
        write_nb(dict(cells=cells, metadata={'language_info':{'name':'python'}}, nbformat=4, nbformat_minor=5), out/f'{p.page}.ipynb')
    for f,text in files.items():
        (out/f).parent.mkdir(exist_ok=True)
        (out/f).write_text(text, encoding='utf-8')
