"The notebooks are the source: they run, they are clean, and the package and README.md are what they make."
import json, os, re, shutil, subprocess, sys
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
    "Outputs without warnings, errors, paths of a machine or views of widgets that have no kernel; not too large; nothing skipped for good; ends with exercises"
    nb = json.loads(path.read_text())
    code = [c for c in nb['cells'] if c['cell_type']=='code']
    out = json.dumps([c['outputs'] for c in code])
    for bad in (r'Warning', r'Traceback', r'/(?:home|root|tmp|work|Users)/', r'<progress', r'\\r', r'widget-view'): assert not re.search(bad, out), f'{bad} in an output'
    assert path.stat().st_size<200_000 and len(nb['cells'])<=100
    source = '\n'.join(''.join(c['source']) for c in nb['cells'])
    assert 'skip_exec' not in source
    assert any(c['outputs'] for c in code), 'not executed: run `make outputs`'
    page = path.stem in ('index','00_syllabus','10_instructor') or path.parent.name=='solutions'
    if not page: assert '## Summary' in source and '## Exercises' in source


def test_notebooks_run(env):
    "nbdev's own tests: every notebook, top to bottom"
    run('nbdev_test', '--n_workers', '2', '--do_print', cwd=root, env={**env, 'OMP_NUM_THREADS':'1'}) # two workers that do not wait for each other's threads
