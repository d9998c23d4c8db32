import os, sys
from pathlib import Path
import matplotlib, pytest

matplotlib.use('Agg')
root = Path(__file__).parent.parent

def pytest_configure(config):
    config.addinivalue_line('filterwarnings', 'ignore:`torch.jit.script` is deprecated:FutureWarning') # fastai 2.8

@pytest.fixture(scope='session')
def env(tmp_path_factory):
    "An environment whose caches live and die with the tests"
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return {**os.environ, 'PATH':path, 'FASTAI_HOME':str(tmp_path_factory.mktemp('fastai')), 'MPLBACKEND':'Agg'}
