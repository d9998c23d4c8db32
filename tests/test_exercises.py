"Exercises of the notebooks outside the course: checks that answer in a sentence, starters that are empty, and solutions. That these pass, and wrong answers do not, is shown by `nbs/solutions`, which `nbdev_test` runs."
import json, re
from pathlib import Path
import nbformat, pytest

nbs = Path(__file__).parent.parent/'nbs'
solutions = sorted((nbs/'solutions').glob('*.ipynb'))
check = re.compile(r'^@exercise\s*\ndef (exercise_\d+)\(', re.M)
old = re.compile(r'^if .* is not \.\.\.:|^ *if .* is \.\.\.: continue', re.M)


def section(path):
    "The cells from the heading of the exercises on"
    cells = nbformat.read(path, as_version=4).cells
    start = [i for i,c in enumerate(cells) if c.cell_type=='markdown' and re.search('^## Exercises', c.source, re.M)]
    return cells[start[0]:] if start else []


def code(cells): return [c for c in cells if c.cell_type=='code']


def test_no_traceback_tells_the_answer():
    "A cell of exercises that asks whether it was answered would compare by `test_eq`, and print what is right"
    bad = [f'{p.name}: {c.source[:60]!r}' for p in map(nbs.joinpath, [f.name for f in solutions]) for c in code(section(p)) if old.search(c.source)]
    assert not bad, '\n'.join(['', *bad])


later = '05_learner.ipynb','13_three_ways.ipynb','40_widgets.ipynb','50_course.ipynb' # their solutions would train for long; 50 would check its own checks


def test_old_checks_are_named():
    found = [p.name for p in sorted(nbs.glob('*.ipynb')) if any(old.search(c.source) for c in code(section(p)))]
    assert found==list(later)


def test_none_without_solutions():
    with_checks = [p.name for p in sorted(nbs.glob('*.ipynb')) if any(check.search(c.source) for c in code(section(p)))]
    assert [p.name for p in solutions]==with_checks


@pytest.mark.parametrize('path', solutions, ids=lambda p: p.stem)
def test_exercises(path):
    "Each check has a question of its number, and after it a starter that is empty as stored; it is answered in the solutions, which hold no copy of it"
    cells = section(nbs/path.name)
    text = '\n'.join(c.source for c in cells if c.cell_type=='markdown')
    names = [n for c in code(cells) for n in check.findall(c.source)]
    assert names and len(names)==len(set(names))
    assert f'](solutions/{path.name})' in text
    solved = '\n'.join(c.source for c in code(nbformat.read(path, as_version=4).cells))
    assert f"run_lesson('../{path.name}'" in solved and solved.endswith('confirm_solutions(wrong=3, right=2)')
    assert '@exercise' not in solved and 'from ganomaly_nb.course import *' in solved
    for n in names:
        i = next(i for i,c in enumerate(cells) if n in check.findall(c.source))
        starter = next(c for c in code(cells[i+1:]) if re.search(rf'^{n}\(', c.source, re.M))
        assert '...' in starter.source and starter.source.splitlines()[-1].startswith(f'{n}('), n
        assert [o.get('text') for o in starter.outputs]==[n.replace('_', ' ')+': not answered yet\n'], n
        assert f'**{n.split("_")[1]}. ' in text and f'{n}(' in solved, n
    stored = json.dumps(nbformat.read(path, as_version=4).cells[-1].outputs)
    assert f'{len(names)} of {len(names)} exercises solved' in stored
