"""Let each notebook run alone, in Colab or in an empty folder: `python docs/install_cells.py`.

Its first code cell installs the package, from `pip_source` of settings.ini, where there is none; a notebook
that reads `results/` gets a copy of the stored files. A last cell that exports goes: `make export` does that, and
elsewhere there is nothing to export to. Written anew each time, so it can be run at any time."""
import json, re
from pathlib import Path
from nbdev.config import get_config

cfg = get_config()
extras = {'widgets':r'\bipywidgets\b|ganomaly_nb\.widgets', 'onnx':r'\bonnx'}
ours = re.compile(r"from importlib\.util import find_spec\nif not find_spec\('\w+'\):\n    %pip .*\n?(?:from ganomaly_nb\.results import results_here\nresults_here\(\).*\n?)?")

def install(code):
    "The lines for a notebook with this code"
    needs = ','.join(k for k,v in extras.items() if re.search(v, code))
    what = cfg.lib_name + f'[{needs}]'*bool(needs) + f'@{cfg.pip_source}'*bool(cfg.pip_source)
    res = f"from importlib.util import find_spec\nif not find_spec('{cfg.lib_name}'):\n    %pip install -q \"{what}\"\n"
    if re.search(r"(?<!stored\(')(?<![\w/])results/|Path\('results'\)", code): res += 'from ganomaly_nb.results import results_here\nresults_here() # a copy of the stored files\n'
    return res

def source(c): return ''.join(c['source'])

def with_install(nb):
    "The notebook, a dictionary, with these lines in its first code cell, which is hidden"
    nb['cells'] = [c for c in nb['cells'] if not re.fullmatch(r'#\| hide\nimport nbdev[;\n] *nbdev\.nbdev_export\(\)\s*', source(c))]
    code = [c for c in nb['cells'] if c['cell_type']=='code']
    first = code[0]
    text = ours.sub('', source(first)).strip()
    if not re.match(r'#\| *(hide|default_exp)\b', text): # one that is seen
        first = dict(cell_type='code', execution_count=None, id='install', metadata={}, outputs=[], source=[])
        nb['cells'].insert(nb['cells'].index(code[0]), first)
        text = '#| hide'
    heads = [l for l in text.splitlines() if l.startswith('#|') and l!='#| hide'] + ['#| hide']
    rest = [l for l in text.splitlines() if not l.startswith('#|')]
    seen = '\n'.join(ours.sub('', source(c)) for c in nb['cells'] if c['cell_type']=='code')
    first['source'] = '\n'.join([*heads, install(seen).strip(), *rest]).splitlines(keepends=True)
    return nb

def as_text(nb): return json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True)+'\n'

def notebooks(): return [p for p in sorted(cfg.nbs_path.rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

def stale():
    "Notebooks whose lines are missing or old, with what they should be"
    return {p:new for p in notebooks() if (new := as_text(with_install(json.loads(p.read_text(encoding='utf-8')))))!=p.read_text(encoding='utf-8')}

if __name__=='__main__':
    for p,new in stale().items(): p.write_text(new, encoding='utf-8')
