"What a user installs: the wheel, the console commands, and an import without nbdev."
import re, shutil, subprocess, sys, zipfile
from configparser import ConfigParser
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pytest
from PIL import Image

root = Path(__file__).parent.parent


def call(*cmd, env, ok=True, **kwargs):
    r = subprocess.run([*map(str, cmd)], capture_output=True, text=True, env=env, **kwargs)
    assert (r.returncode==0)==ok, r.stdout+r.stderr
    return r.stdout,r.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory, env):
    path = tmp_path_factory.mktemp('wheel')
    call('pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir', path, root, env=env)
    return next(path.glob('*.whl'))


def test_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'ganomaly_nb/{m}.py' for m in ('data','networks','losses','training','scoring','learner','evaluation','images','checks','xray/__init__','xray/scans','xray/projection','xray/simulator','experiments','widgets','course',
                                            'baselines/__init__','baselines/vae','baselines/anogan','baselines/egbad','baselines/fanogan','baselines/skip','baselines/alad','baselines/adae','baselines/variants','adversaries')} <= set(names)
    assert 'ganomaly_nb/py.typed' in names
    assert not [n for n in names if n.startswith(('nbs','tests','docs','benchmarks'))]
    meta = {Path(n).name: zipfile.ZipFile(wheel).read(n).decode() for n in names if n.endswith(('METADATA','entry_points.txt'))}
    assert all(f'{c} =' in meta['entry_points.txt'] for c in ('ganomaly_train','ganomaly_score','ganomaly_calibrate','ganomaly_demo','ganomaly_experiment'))
    lines = meta['METADATA'].splitlines()
    needs = [l for l in lines if l.startswith('Requires-Dist') and 'extra ==' not in l]
    assert not [l for l in needs if 'nbdev' in l or 'ipywidgets' in l] and [l for l in needs if 'fastai' in l]
    assert [l for l in lines if l.startswith('Requires-Dist: ipywidgets') and 'widgets' in l.split('extra ==')[1]]
    assert len([l for l in lines if l.startswith('Classifier: Programming Language :: Python :: 3.')])==4
    assert {l.split(',')[0] for l in lines if l.startswith('Project-URL')}=={f'Project-URL: {o}' for o in ('Documentation','Source','Issues','Changelog')}


def test_files_that_notebooks_read(wheel):
    "What stands in the repository once is in the wheel, all of it"
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [*(root/'nbs'/'results').rglob('*.*'), *(root/'nbs'/'course').glob('*.ipynb'), *(root/'examples').glob('*.py'), *(root/'benchmarks').glob('*.csv')]
    missing = {f'ganomaly_nb/stored/{f.relative_to(root/"nbs" if "nbs" in f.relative_to(root).parts else root).as_posix()}' for f in files if f.suffix!='.lock'}-names
    assert not missing and len(files)>50


alone = '''import json, sys
from pathlib import Path
sys.modules['nbdev'] = None
import ganomaly_nb
assert Path(ganomaly_nb.__file__).parent.parent==Path(sys.argv[2]), ganomaly_nb.__file__
from IPython.core.interactiveshell import InteractiveShell
import matplotlib; matplotlib.use('Agg')
shell = InteractiveShell.instance()
for c in json.loads(Path(sys.argv[1]).read_text(encoding='utf-8'))['cells']:
    source = ''.join(c['source']).replace('%matplotlib inline', '') # which wants a kernel
    if c['cell_type']!='code' or source.startswith(('#| slow','#| cuda')): continue
    shell.run_cell(source).raise_error()
'''


@pytest.mark.slow
@pytest.mark.parametrize('notebook', ['course/01_one_class','course/solutions/01_one_class','course/10_instructor','05_learner','23_xray_results','31_mnist'])
def test_a_notebook_runs_alone(notebook, wheel, tmp_path, env):
    "Downloaded into an empty folder, where only the wheel is installed"
    lib,here = tmp_path/'lib',tmp_path/'here'
    call('pip', 'install', '--quiet', '--no-deps', '--target', lib, wheel, env=env)
    here.mkdir()
    nb = shutil.copy(root/'nbs'/f'{notebook}.ipynb', here)
    call(sys.executable, '-c', alone, nb, lib, cwd=here, env={**env, 'PYTHONPATH':str(lib), 'OMP_NUM_THREADS':'1'})


def test_setup_from_another_folder(tmp_path, env):
    "setup.py finds its files from wherever it is called"
    for o in ('setup.py','settings.ini','README.md'): shutil.copy(root/o, tmp_path/o)
    for o in ('ganomaly_nb','nbs','examples','benchmarks'): shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__'))
    (tmp_path/'elsewhere').mkdir()
    out,_ = call(sys.executable, tmp_path/'setup.py', '-q', 'bdist_wheel', '-d', tmp_path/'dist', env=env, cwd=tmp_path/'elsewhere')
    wheel, = (tmp_path/'dist').glob('*.whl')
    assert {'ganomaly_nb/xray/scans.py','ganomaly_nb/py.typed'}<=set(zipfile.ZipFile(wheel).namelist())


def bounds(text): return dict(re.match(r'([\w-]+)(?:\[\w+\])?(?:==|>=)([\d.]+)', o).groups() for o in text if re.search('==|>=', o))


def test_lowest_versions_are_those_of_settings():
    "constraints-lowest.txt pins each lower bound of settings.ini"
    cfg = ConfigParser(delimiters=['=']); cfg.read(root/'settings.ini')
    lower = bounds(f"{cfg['DEFAULT']['requirements']} {cfg['DEFAULT']['widgets_requirements']}".split())
    pinned = bounds(l for l in (root/'constraints-lowest.txt').read_text().splitlines() if not l.startswith('#'))
    assert {k:pinned[k] for k in lower}==lower and set(pinned)==set(lower)


def test_workflows():
    "Actions are pinned by commit, and the Pythons are the oldest and the newest of the classifiers"
    text = '\n'.join(f.read_text() for f in sorted((root/'.github'/'workflows').glob('*.yml')))
    uses = re.findall(r'uses: *(\S+)(.*)', text)
    assert uses and all(re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40}', u) and re.search(r'# v\d', c) for u,c in uses)
    release = (root/'.github'/'workflows'/'release.yml').read_text()
    assert "tags: ['v*']" in release and release.count('id-token: write')==1 and 'secrets.' not in text
    known = re.findall(r'Python :: (3\.\d+)', (root/'settings.ini').read_text())
    assert {known[0],known[-1]}<=set(re.findall(r"python(?:-version)?: '([\d.]+)'", text))


def test_import_without_nbdev(env):
    code = "import sys; sys.modules['nbdev']=None; sys.modules['execnb']=None; import ganomaly_nb.evaluation, ganomaly_nb.experiments, ganomaly_nb.xray.simulator, ganomaly_nb.widgets, ganomaly_nb.course; print('fine')"
    out,err = call('python', '-c', code, env=env)
    assert out.strip()=='fine' and not err


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    "A folder of photos: grey parts, and some with a hole"
    path,rng = tmp_path_factory.mktemp('parts'),np.random.default_rng(0)
    for folder,n in (('train/normal',80),('test/normal',10),('test/hole',10)):
        (path/folder).mkdir(parents=True)
        for i in range(n):
            a = rng.normal(120, 12, (30,30,3))
            if 'hole' in folder: a[10:18,10:18] = 0
            Image.fromarray(a.clip(0,255).astype(np.uint8)).save(path/folder/f'{i:02}.png')
    return path


@pytest.mark.slow
def test_train_and_score(parts, tmp_path, env):
    model,args = tmp_path/'m.safetensors',('--size',16,'--nf',8,'--nz',10,'--bs',16,'--epochs',2,'--held_out','.3')
    out,_ = call('ganomaly_train', parts, '--out', model, *args, env=env)
    assert 'AUROC of 20 test images' in out and 'threshold' in out and model.exists()
    _,err = call('ganomaly_train', parts, '--out', model, *args, env=env, ok=False)
    assert 'exists' in err and 'Traceback' not in err
    out,err = call('ganomaly_score', model, parts/'test', env=env)
    rows = [l.split(',') for l in out.splitlines()]
    assert rows[0]==['file','score','p_value','is_abnormal'] and len(rows)==21 and err.startswith('scored 20 images: ') and len(err.splitlines())==1
    assert all(float(r[1])>=0 and 0<float(r[2])<=1 and r[3] in '01' for r in rows[1:])
    again,_ = call('ganomaly_score', model, parts/'test', '--bs', 3, env=env)
    for a,b in zip(rows[1:], again.splitlines()[1:]): assert a[0]==b.split(',')[0] and abs(float(a[1])-float(b.split(',')[1]))<1e-3


@pytest.mark.parametrize('args,says', [(('ganomaly_score','none.pkl','.'),'no such model'), (('ganomaly_train','nowhere'),'no such folder'), (('ganomaly_train','.', '--size','64,100'),'near it are (64, 96)'), (('ganomaly_experiment','r.csv','model=ganomoly'),'model must be one of')])
def test_errors_are_one_line(args, says, env):
    _,err = call(*args, env=env, ok=False)
    assert says in err and 'Traceback' not in err


@pytest.mark.skipif(find_spec('ganomaly_nb.commands') is None, reason='commands are not in a notebook of their own yet')
@pytest.mark.parametrize('command', ['ganomaly_train','ganomaly_score','ganomaly_calibrate','ganomaly_demo','ganomaly_experiment'])
def test_version(command, env):
    out,err = call(command, '--version', env=env)
    assert out.split()==['ganomaly_nb',metadata.version('ganomaly_nb')] and not err


def test_widgets_without_ipywidgets(env):
    "The package needs no ipywidgets, and its widgets say what to install"
    code = "import sys; sys.modules['ipywidgets']=None; import ganomaly_nb.evaluation, ganomaly_nb.xray.simulator, ganomaly_nb.course; import ganomaly_nb.widgets"
    _,err = call('python', '-c', code, env=env, ok=False)
    assert err.splitlines()[-1]=='ImportError: widgets need ipywidgets: pip install ganomaly_nb[widgets]'
