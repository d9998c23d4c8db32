import os, sys
from importlib.util import find_spec
from pathlib import Path
import matplotlib, pytest

matplotlib.use('Agg')
root = Path(__file__).parent.parent

collect_ignore = [] if find_spec('nbdev') else ['browser','test_course.py','test_docs.py','test_project.py']

def pytest_report_header(config):
    if collect_ignore: return f'without nbdev, so these are left out: {", ".join(collect_ignore)}'

def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes so long that `make test` leaves it to `make test-all`')
    config.addinivalue_line('filterwarnings', 'ignore:`torch.jit.script` is deprecated:FutureWarning') # fastai 2.8

@pytest.fixture(scope='session')
def env(tmp_path_factory):
    "An environment whose caches live and die with the tests"
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH':path, 'FASTAI_HOME':str(tmp_path_factory.mktemp('fastai')), 'MPLBACKEND':'Agg'}

@pytest.fixture(scope='module')
def few_draws():
    "Intervals from few draws, for tests that look at what is printed, not at how wide it is"
    from ganomaly_nb.evaluation import AnomalyInterpretation
    full = AnomalyInterpretation.against_controls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnomalyInterpretation, 'against_controls', lambda self: full(self, n=2))
        yield

@pytest.fixture(autouse=True)
def no_open_figures():
    "A figure that a test leaves open is no other test's concern"
    yield
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')


def pytest_collection_modifyitems(items):
    "What takes minutes comes first, notebooks before all: at the end, no core waits for another"
    items.sort(key=lambda i: ('test_notebooks_run' not in i.name, 'slow' not in i.keywords))
