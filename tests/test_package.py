"What a user installs: the wheel, the console commands, and an import without nbdev."
import subprocess, zipfile
from pathlib import Path
import numpy as np, pytest
from PIL import Image

root = Path(__file__).parent.parent


def call(*cmd, env, ok=True):
    r = subprocess.run([*map(str, cmd)], capture_output=True, text=True, env=env)
    assert (r.returncode==0)==ok, r.stdout+r.stderr
    return r.stdout,r.stderr


def test_wheel(tmp_path, env):
    call('pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir', tmp_path, root, env=env)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {f'ganomaly_nb/{m}.py' for m in ('data','networks','losses','training','scoring','learner','evaluation','xray','projection','simulator','experiments','widgets','course',
                                            'baselines/__init__','baselines/vae','baselines/anogan','baselines/egbad','baselines/variants')} <= set(names)
    assert not [n for n in names if n.startswith(('nbs','tests','docs','benchmarks'))]
    meta = {Path(n).name: zipfile.ZipFile(wheel).read(n).decode() for n in names if n.endswith(('METADATA','entry_points.txt'))}
    assert all(f'{c} =' in meta['entry_points.txt'] for c in ('ganomaly_train','ganomaly_score','ganomaly_demo','ganomaly_experiment'))
    needs = [l for l in meta['METADATA'].splitlines() if l.startswith('Requires-Dist') and 'extra ==' not in l]
    assert not [l for l in needs if 'nbdev' in l] and [l for l in needs if 'fastai' in l]


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


def test_train_and_score(parts, tmp_path, env):
    model,args = tmp_path/'m.pkl',('--size',16,'--nf',8,'--nz',10,'--bs',16,'--epochs',2,'--held_out','.3')
    out,_ = call('ganomaly_train', parts, '--out', model, *args, env=env)
    assert 'AUROC of 20 test images' in out and 'threshold' in out and model.exists()
    _,err = call('ganomaly_train', parts, '--out', model, *args, env=env, ok=False)
    assert 'exists' in err and 'Traceback' not in err
    out,err = call('ganomaly_score', model, parts/'test', env=env)
    rows = [l.split(',') for l in out.splitlines()]
    assert rows[0]==['file','score','p_value','is_abnormal'] and len(rows)==21 and not err
    assert all(float(r[1])>=0 and 0<float(r[2])<=1 and r[3] in '01' for r in rows[1:])
    again,_ = call('ganomaly_score', model, parts/'test', '--bs', 3, env=env)
    for a,b in zip(rows[1:], again.splitlines()[1:]): assert a[0]==b.split(',')[0] and abs(float(a[1])-float(b.split(',')[1]))<1e-3


@pytest.mark.parametrize('args,says', [(('ganomaly_score','none.pkl','.'),'no such model'), (('ganomaly_train','nowhere'),'no such folder'), (('ganomaly_train','.', '--size',20),'power of two'), (('ganomaly_experiment','r.csv','model=ganomoly'),'model must be one of')])
def test_errors_are_one_line(args, says, env):
    _,err = call(*args, env=env, ok=False)
    assert says in err and 'Traceback' not in err
