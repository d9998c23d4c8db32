"The notebooks are the source: they run, they are clean, and the package and README.md are what they make."
import ast, io, json, os, re, shutil, subprocess, sys, tokenize
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
notebooks = sorted((root/'nbs').glob('**/*.ipynb'))
generated = ('ganomaly_nb','nbs','README.md')


def run(*cmd, **kwargs):
    r = subprocess.run(cmd, capture_output=True, text=True, **kwargs)
    assert r.returncode==0, f'{" ".join(map(str, cmd))}\n{r.stdout[-6000:]}\n{r.stderr[-3000:]}'
    return r.stdout


def contents(path): return {str(f.relative_to(path)):f.read_bytes() for o in generated for f in sorted([path/o] if (path/o).is_file() else (path/o).rglob('*'))
                            if f.is_file() and not {'__pycache__','.ipynb_checkpoints'} & set(f.parts)}


def test_exported_and_clean(tmp_path, env):
    "`make export` changes nothing"
    copy = tmp_path/'copy'
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns('.venv','.git','demo','build','__pycache__','*.egg-info'))
    before = contents(copy)
    for cmd in (['nbdev_export'], ['nbdev_clean'], [sys.executable, 'docs/readme.py']): run(*cmd, cwd=copy, env=env)
    after = contents(copy)
    assert sorted(before)==sorted(after)
    assert [f for f in before if before[f]!=after[f]]==[]


@pytest.mark.parametrize('path', notebooks, ids=lambda p: p.stem)
def test_notebook_as_stored(path):
    "Outputs without warnings, errors, paths of a machine or views of widgets that have no kernel; every figure told in words; not too large; nothing skipped for good; ends with exercises"
    nb = json.loads(path.read_text())
    code = [c for c in nb['cells'] if c['cell_type']=='code']
    out = json.dumps([c['outputs'] for c in code])
    for bad in (r'Warning', r'Traceback', r'/(?:home|root|tmp|work|Users)/', r'<progress', r'\\r', r'widget-view'): assert not re.search(bad, out), f'{bad} in an output'
    assert path.stat().st_size<200_000 and len(nb['cells'])<=100
    assert len({c['id'] for c in nb['cells']})==len(nb['cells']), 'two cells of one id'
    source = '\n'.join(''.join(c['source']) for c in nb['cells'])
    assert 'skip_exec' not in source
    assert any(c['outputs'] for c in code), 'not executed: run `make outputs`'
    def told(i): return '#| fig-alt: ' in ''.join(nb['cells'][i]['source']) or ''.join(nb['cells'][i+1]['source']).startswith('*') # a caption in italics
    shown = [any(k.startswith('image/') for o in c.get('outputs', []) for k in o.get('data', {})) for c in nb['cells']]
    mute = [i for i,figure in enumerate(shown) if figure and not told(i)]
    assert not mute, f'a figure is not told in words: cells {mute}'
    empty = [i for i,c in enumerate(nb['cells']) if '#| fig-alt: ' in ''.join(c['source']) and not shown[i]]
    assert not empty, f'words without a figure: cells {empty}'
    page = path.stem in ('index','00_syllabus','10_instructor') or path.parent.name=='solutions'
    if not page: assert '## Summary' in source and '## Exercises' in source


floors = {'nbs':('0[0-4]','0[5-7]','0[89]','10','1[12]','1[3-5]','1[6-9]','2','3[0-4]','3[5-9]','[4-8]','9|index'), 'nbs/course/solutions':('0[1-5]','0[6-9]'), 'nbs/solutions':('0','1','[2-9]')}
floors = [(folder,floor) for folder,those in floors.items() for floor in those]
quick = '0[0-4]','0[5-7]','9|index' # the core of the package; `make test-all` runs the others, too


def test_each_notebook_runs_once():
    "None is left out below, but the starters of the lessons, whose solutions run"
    for p in notebooks:
        where = p.parent.relative_to(root).as_posix()
        assert sum(where==folder and bool(re.match(floor, p.name)) for folder,floor in floors)==(where!='nbs/course'), p


@pytest.mark.parametrize('folder, floor', [pytest.param(*o, marks=() if o[1] in quick else pytest.mark.slow) for o in floors])
def test_notebooks_run(folder, floor, env):
    "nbdev's own tests: every notebook, top to bottom; on one thread, as several floors run at a time"
    args = dict(path=folder, file_re=f'^({floor})', skip_folder_re='^([_.]|course|solutions)', n_workers=0, do_print=True)
    code = ('import faulthandler; faulthandler.dump_traceback_later(1500, exit=True) # one that waits for ever says where\n'
            f'from nbdev.test import nbdev_test; nbdev_test(**{args})\n'
            'import os, sys; sys.stdout.flush(); os._exit(0) # else IPython collects garbage, once for each notebook')
    out = run(sys.executable, '-c', code, cwd=root, env={**env, 'OMP_NUM_THREADS':'1'})
    ran = {line.split('/')[-1] for line in out.splitlines() if line.startswith('- Completed')}
    assert ran=={p.name for p in notebooks if p.parent==root/folder and re.match(floor, p.name)}


# How the house holds together: each test lists everything that is wrong, as `notebook, cell, line: what`

class Cell:
    "A code cell: where it stands, whether it is exported, hidden, and its syntax tree"
    def __init__(self, path, i, source):
        self.where,self.i,self.source = f'{path.relative_to(root/"nbs")} cell {i}',i,source
        flags = re.findall(r'^#\s*\|\s*(\w+)', source, re.M)
        self.exported,self.hidden = 'export' in flags or 'exporti' in flags,'hide' in flags or 'default_exp' in flags
        self.tree = ast.parse(re.sub(r'^( *)[%!].*', r'\1pass', source, flags=re.M))
    def at(self, node): return f'{self.where} line {getattr(node, "lineno", node)}'


class Notebook:
    "A notebook: its number, its module if it makes one, its code cells and its markdown by position"
    def __init__(self, path):
        cells = [(c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text())['cells']]
        self.path,self.number = path,re.match('([0-9]+[a-z]?)?', path.name)[0] or '00' # two digits, then a letter: 21 < 21a < 22 as text, too
        self.code = [Cell(path, i, s) for i,(kind,s) in enumerate(cells) if kind=='code']
        self.text = {i:s for i,(kind,s) in enumerate(cells) if kind=='markdown'}
        self.exported = [c for c in self.code if c.exported]
        names = [m[1] for c in self.code if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', c.source, re.M))]
        self.module = f'ganomaly_nb.{names[0]}' if names else None


house = [Notebook(p) for p in notebooks]
makers = [nb for nb in house if nb.module]


def public(node): return not node.name.startswith('_')
def defs(body): return [n for n in body if isinstance(n, (ast.FunctionDef,ast.ClassDef))]


def test_lines_fit():
    "No line of code is longer than 90 characters"
    wide = [f'{c.at(k)}: {len(l)} characters' for nb in house for c in nb.code for k,l in enumerate(c.source.splitlines(), 1) if len(l)>90]
    assert not wide, '\n'.join(['', *wide, f'{len(wide)} lines'])


def described(cell, f):
    "Parameters of a function without a docment: the comment on a line that holds one parameter, or the line above it"
    comments = {t.start[0]:t.line.strip().startswith('#') for t in tokenize.generate_tokens(io.StringIO(cell.source).readline) if t.type==tokenize.COMMENT}
    a = f.args
    params = [*a.posonlyargs, *a.args, *a.kwonlyargs] + [v for v in (a.vararg,a.kwarg) if v]
    if any('delegates' in ast.unparse(d) for d in f.decorator_list): params = [p for p in params if p is not a.kwarg]
    last = {p.end_lineno:p.arg for p in sorted(params, key=lambda p: (p.end_lineno,p.end_col_offset))} # a comment belongs to the last one of a line
    for d in (*a.defaults, *(d for d in a.kw_defaults if d)): last.setdefault(d.end_lineno, None)
    def found(p): return any(comments.get(k)==False and last.get(p.end_lineno)==p.arg for k in (p.lineno,p.end_lineno)) or comments.get(p.lineno-1)==True
    return [p.arg for p in params if p.arg not in ('self','cls','_') and not found(p)]


def test_everything_is_described():
    "Every public function, class and method has a docstring, and each of their parameters a docment"
    bad = []
    def look(cell, node, name, borrowed=False):
        if any('.setter' in ast.unparse(d) for d in node.decorator_list): return # its getter speaks for it
        if public(node) and not ast.get_docstring(node): bad.append(f'{cell.at(node)}: {name} has no docstring')
        if isinstance(node, ast.FunctionDef):
            missing = described(cell, node) if public(node) or node.name=='__init__' and not borrowed else []
            if missing: bad.append(f'{cell.at(node)}: {name} says nothing of {", ".join(missing)}')
        elif public(node):
            borrowed = any('delegates' in ast.unparse(d) for d in node.decorator_list) # from another class
            for m in defs(node.body): look(cell, m, f'{name}.{m.name}', borrowed)
    for nb in makers:
        for c in nb.exported:
            for n in defs(c.tree.body): look(c, n, n.name)
    assert not bad, '\n'.join(['', *bad, f'{len(bad)} in all'])


def imports(cell):
    "What of ours exported code imports: (statement, module, names, whether inside a function)"
    inside = {id(n) for f in ast.walk(cell.tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for n in ast.walk(cell.tree):
        if isinstance(n, ast.ImportFrom) and (n.module or '').split('.')[0]=='ganomaly_nb':
            modules = {nb.module for nb in makers}
            for a in n.names: # `from ganomaly_nb import data` names a module, `from ganomaly_nb.data import x` does not
                full = f'{n.module}.{a.name}'
                yield n,(full if full in modules else n.module),a.name,id(n) in inside
        elif isinstance(n, ast.Import):
            for a in n.names:
                if a.name.split('.')[0]=='ganomaly_nb': yield n,a.name,'',id(n) in inside


def test_floors():
    "A module imports from lower floors and from the cellar (9x), which imports from itself only. Nothing imports `experiments` or `widgets`, but `commands` may inside a function"
    floor,bad = {nb.module:nb.number for nb in makers},[]
    for nb in makers:
        for c in nb.exported:
            for node,module,name,inside in imports(c):
                what = f'{c.at(node)}: {nb.module} ({nb.number}) imports {module}'
                late = inside and nb.module=='ganomaly_nb.commands'
                if module in ('ganomaly_nb.experiments','ganomaly_nb.widgets'): bad += [what]*(not late)
                elif module in floor:
                    ok = floor[module]>='90' or (floor[module]<nb.number<'90') or (floor[module]==nb.number<'90' and late)
                    bad += [f'{what} ({floor[module]})']*(not ok)
                elif module!='ganomaly_nb': bad.append(f'{what}, which no notebook makes')
    assert not bad, '\n'.join(['', *bad])


def test_no_private_name_of_another():
    bad = [f'{c.at(node)}: {module}.{name}' for nb in makers for c in nb.exported for node,module,name,_ in imports(c)
           if any(o.startswith('_') and not o.startswith('__') for o in (*module.split('.'), name))]
    assert not bad, '\n'.join(['', *bad])


def opening(nb):
    "What is wrong with how a notebook opens: title, subtitle, then why the thing exists, before the first code that is seen"
    first = min((c.i for c in nb.code if not c.hidden), default=10**6)
    prose = '\n'.join(s for i,s in nb.text.items() if i<first)
    words = re.sub(r'^(#|>).*$', '', prose, flags=re.M).split()
    if not nb.text.get(0, '').startswith('# '): return 'the first cell is not the title'
    if not re.search(r'^> ', prose, re.M): return 'no subtitle'
    if len(words)<15: return f'{len(words)} words between the subtitle and the first code'


def test_opens_with_prose():
    bad = [f'{nb.path.relative_to(root/"nbs")}: {wrong}' for nb in house if (wrong := opening(nb))]
    assert not bad, '\n'.join(['', *bad])


def uses(cell, name): return re.search(rf'(?<!\w){re.escape(name)}\b', cell.source)


called_by_others = r'forward|(before|after)_(fit|epoch|train|validate|batch|pred|loss|backward|step|create)' # by PyTorch, by fastai


def test_examples_follow_at_once():
    "A function or class is tried in a visible cell before the next export, and that example tests or shows something"
    total,late = 0,[]
    for nb in makers:
        for k,c in enumerate(nb.exported):
            end = nb.exported[k+1].i if k+1<len(nb.exported) else 10**6
            after = [o for o in nb.code if c.i<o.i<end and not o.hidden]
            tests = any(re.search(r'\btest_|\bassert\b|\bshow_|\bplot', o.source) for o in after)
            names = [n.name for n in defs(c.tree.body) if public(n) and not any('patch' in ast.unparse(d) for d in n.decorator_list)]
            total += len(names)
            late += [f'{c.where}: {n}' for n in names if not (tests and (re.fullmatch(called_by_others, n) or any(uses(o, n) for o in after)))]
    share = 1-len(late)/total
    print(f'{share:.3f} of {total} public names are tried before the next export')
    assert share>=.95, '\n'.join([f'{share:.3f} of {total}; not:', *late])
