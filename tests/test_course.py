"Every lesson of the course is complete, and every exercise has a solution. That solutions pass, and empty starters and wrong answers do not, is shown by the notebooks in `solutions`, which `nbdev_test` runs."
import json, math, os, re, sys
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest
from nbclient import NotebookClient
from sklearn.metrics import roc_auc_score
from ganomaly_nb.course import exercise

nbs = Path(__file__).parent.parent/'nbs'
course = nbs/'course'
lessons = sorted(f for f in course.glob('*.ipynb') if f.stem not in ('00_syllabus','10_instructor'))
pages = sorted(course.glob('*.ipynb')) + sorted(course.glob('solutions/*.ipynb'))
check = re.compile(r'^@exercise\s*\ndef ((?:warm_up|core|stretch)_\d+)\(', re.M)


def cells(path, kind): return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type==kind]
def text(path): return '\n\n'.join(cells(path, 'markdown'))
def exercises(path): return [m for c in cells(path, 'code') for m in check.findall(c)]


def test_nine_lessons(): assert [f.stem[:2] for f in lessons]==[f'{i:02}' for i in range(1,10)]


@pytest.mark.parametrize('path', lessons, ids=lambda p: p.stem)
def test_lesson(path):
    "Objectives, prerequisites, time, what to read and run, lecture with figures, three grades of exercises, quiz, and the way on"
    t = text(path)
    for part in ('**You will be able to**','**You need**','**Time**','**Read and run**','## Lecture','## Summary','## Exercises','### Warm-up','### Core','### Stretch','## Quiz'): assert part in t, part
    assert re.search(r'\*\*Read and run\*\*.*\(\.\./\d\d_\w+\.ipynb\)', t), 'names no notebook of the package'
    nb = nbformat.read(path, as_version=4)
    assert sum('image/png' in o.get('data', {}) for c in nb.cells if c.cell_type=='code' for o in c.outputs)>=2
    assert not any(re.match(r'#\|\s*(slow|cuda)', c) for c in cells(path, 'code'))


@pytest.mark.parametrize('path', lessons, ids=lambda p: p.stem)
def test_quiz(path):
    "Answers are folded HTML, so that they work on a page without a kernel"
    quiz = text(path).split('## Quiz')[1]
    questions,answers = re.findall(r'^\*\*\d+\.\*\* (.+)', quiz, re.M),re.findall(r'<details><summary>Answer</summary>\n\n(.+?)\n\n</details>', quiz, re.S)
    assert len(questions)==len(answers)==quiz.count('<details')==quiz.count('</details>')>=4
    assert all(len(a)>60 for a in answers)


@pytest.mark.parametrize('path', lessons, ids=lambda p: p.stem)
def test_exercises(path):
    "Each has a check, then a starter that is empty and, as stored, is not passed; and a solution that is tried after a wrong answer"
    names,code = exercises(path),cells(path, 'code')
    assert len(names)==len(set(names))>=6 and {n.rsplit('_', 1)[0] for n in names}=={'warm_up','core','stretch'}
    solution = course/'solutions'/path.name
    answered = '\n'.join(cells(solution, 'code'))
    assert f"run_lesson('../{path.name}')" in answered and cells(solution, 'code')[-1]=='confirm_solutions()'
    assert '@exercise' not in answered
    for n in names:
        i = next(i for i,c in enumerate(code) if n in check.findall(c))
        starter = code[i+1]
        assert '...' in starter and starter.splitlines()[-1].startswith(f'{n}('), f'{n} has no starter after its check'
        assert len(re.findall(rf'^{n}\(', answered, re.M))>=2, f'{n} is not answered twice'
    stored = json.dumps([c.outputs for c in nbformat.read(path, as_version=4).cells if c.cell_type=='code'])
    assert stored.count('not answered yet')==len(names) and f'0 of {len(names)} exercises solved' in stored
    assert f'{len(names)} of {len(names)} exercises solved' in json.dumps(nbformat.read(solution, as_version=4).cells[-1].outputs)


def ppv(error): return lambda tpr, fpr, prevalence: (1+error)*prevalence*tpr/(prevalence*tpr + (1-prevalence)*fpr)


@pytest.mark.parametrize('lesson,name,right,wrong', [
    ('01_one_class', 'warm_up_2', (.83, .8333, .837), (.829, .838)), # 5/6 in two decimals
    ('07_operating_points', 'core_1', (ppv(0), ppv(5e-5), ppv(-5e-5)), (ppv(2e-4), ppv(-2e-4))),
    ('07_operating_points', 'stretch_2', (2995, 3000), (2994, 2996, 2999, 3001))])
def test_near_misses(lesson, name, right, wrong):
    "A check takes what is right, and nothing just beyond its tolerance; it stands by itself, so the lesson need not run"
    source = next(c for c in cells(course/f'{lesson}.ipynb', 'code') if name in check.findall(c))
    here = dict(np=np, math=math, auroc=roc_auc_score, exercise=exercise)
    exec(source, here)
    for answer in (*right, *wrong): here[name](answer)
    assert here[name].outcomes==[True]*len(right) + [False]*len(wrong), here[name].outcomes


def test_solutions_are_run():
    "nbdev_test skips a folder with .notest: that of the lessons, which the solutions run, and never that of the solutions"
    assert sorted(f.name for f in (course/'solutions').glob('*.ipynb'))==[f.name for f in lessons]
    assert (course/'.notest').exists() and not (course/'solutions'/'.notest').exists()


@pytest.mark.parametrize('path', [*pages, nbs/'50_course.ipynb'], ids=lambda p: f'{p.parent.name}-{p.stem}')
def test_links(path):
    links = re.findall(r'\]\(([^)#:]+\.ipynb)[^)]*\)', text(path))
    for l in links: assert (path.parent/l).exists(), l
    if path.parent==course: assert links


@pytest.mark.parametrize('name', ['00_syllabus','10_instructor'])
def test_page_runs(name, env, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(nbs.parent), os.environ.get('PYTHONPATH', '')]))
    nb = nbformat.read(course/f'{name}.ipynb', as_version=4)
    NotebookClient(nb, timeout=120, kernel_name='python3', resources={'metadata':{'path':str(course)}}).execute()


def test_times():
    "Every notebook was timed, and none needs five minutes"
    times = pd.read_csv(nbs/'results'/'course_times.csv')
    assert list(times.notebook)==[f.relative_to(course).as_posix() for f in pages]
    assert times.cpu_seconds.between(0, 300).all() and times.notna().all(axis=None)


def test_reading_times():
    "The words that are told to be read are there, within a tenth"
    sys.path.insert(0, str(nbs.parent/'benchmarks'))
    import reading
    stored,now = pd.read_csv(nbs/'results'/'course_reading.csv'),reading.table()
    assert stored.drop(columns='words').equals(now.drop(columns='words'))
    assert ((stored.words/now.words-1).abs()<.1).all(), 'stale: run `python benchmarks/reading.py`'
