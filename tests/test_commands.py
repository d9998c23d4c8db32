"The console commands: what is wrong is one clear line, and every option has an effect."
import io, os, shutil, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from ganomaly_nb import commands
from ganomaly_nb.commands import ganomaly_demo, ganomaly_experiment, ganomaly_score
from ganomaly_nb.commands import ganomaly_train, open_model, read_card
from ganomaly_nb.learner import load_exported, load_model

pytestmark = pytest.mark.usefixtures('few_draws')

small = dict(size=16, nf=4, nz=4, bs=8, epochs=1, held_out=.5)


def fill(folder, n, level=100, size=20, name='{:02}.png', seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, level])
    for i in range(n):
        a = rng.normal(level, 12, (size,size,3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(a).save(folder/name.format(i))


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
    "A folder of normals, and a labelled test set; other folders that are wrong"
    path = tmp_path_factory.mktemp('parts')
    fill(path/'ok'/'train'/'normal', 40)
    fill(path/'ok'/'test'/'normal', 6, seed=1)
    fill(path/'ok'/'test'/'hole', 6, 180, seed=1)
    fill(path/'torn'/'train'/'normal', 40)
    (path/'torn'/'train'/'normal'/'torn.png').write_text('?')
    fill(path/'odd'/'train'/'gut', 40)
    fill(path/'twins'/'train'/'good', 20)
    fill(path/'twins'/'train'/'ok', 20)
    fill(path/'loose'/'train'/'good', 40)
    fill(path/'loose'/'test', 2)
    fill(path/'few'/'train'/'good', 4)
    (path/'empty'/'train'/'good').mkdir(parents=True)
    (path/'none').mkdir()
    (path/'file.txt').write_text('hello')
    (path/'old.pkl').write_bytes(b'\x80\x04N.')
    (path/'hello.safetensors').write_text('hello')
    (path/'nothing.safetensors').write_bytes(b'')
    (path/'table.csv').write_text('a,b\n1,2\n')
    fill(path/'broken', 0)
    for i in range(2): (path/'broken'/f'{i}.png').write_text('?')
    return path


@pytest.fixture(scope='module')
def model(parts, few_draws):
    out = parts/'model.safetensors'
    quiet(ganomaly_train, parts/'ok', out, **small)
    (parts/'half.safetensors').write_bytes(out.read_bytes()[:3000])
    return out


def quiet(f, *args, **kwargs):
    "What a command prints, on standard output and on standard error"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        f(*args, **kwargs)
    return out.getvalue(),err.getvalue()


def refused(f, *args, **kwargs):
    "The one line with which a command ends"
    with pytest.raises(SystemExit) as e: quiet(f, *args, **kwargs)
    assert isinstance(e.value.code, str) and '\n' not in e.value.code, e.value.code
    return e.value.code


nan,inf = float('nan'),float('inf')
bad_settings = dict(
    size=(0, 1, 8, 15, 17, 21, 63, -16, 100, (16,), (16,33)), nc=(0, 2, 4, -1), epochs=(0, -1, -100),
    bs=(0, -1, 41), nz=(0, -5), nf=(0, -1), lr=(0., -1e-3, nan, inf),
    w_adv=(-1., nan, inf), w_con=(-1., nan, inf), w_enc=(-.1, nan, inf),
    norm=('l1', '', 'Paper'), score=('l2', '', 'L1', 'neighbour'),
    held_out=(-.1, 1., 1.5, nan, 0., .01), fpr=(0., 1., -.1, 1.1, nan, .01),
    seed=(-1, 2**32), white=(0, -1, 65536), normal=('schlecht', ''), fit=('fill', ''), patience=(0, -1), threads=(0, -2),
    normalise=(0., 1., -.1, 1.5, nan),
)


@pytest.mark.parametrize('name,value', [(k,v) for k,vs in bad_settings.items() for v in vs])
def test_bad_settings_of_a_training(name, value, parts, tmp_path):
    says = refused(ganomaly_train, parts/'ok', tmp_path/'m.safetensors', **{**small, name:value})
    words = dict(bs='bs', held_out='held', fpr='rate' if value==.01 else 'fpr',
                 normal='no folder of normal images')
    assert words.get(name, name) in says
    assert str(value) in says or name in ('bs','held_out')
    assert not list(tmp_path.iterdir())


folders = {'none':'no folder of normal', 'nowhere':'no such folder', 'file.txt':'is a file',
           'torn':'torn.png', 'odd':"['gut']", 'twins':'more than one folder',
           'loose':'directly in it', 'few':'fewer than one batch', 'empty':'no images'}

@pytest.mark.parametrize('folder,words', folders.items())
def test_bad_folders(folder, words, parts, tmp_path):
    assert words in refused(ganomaly_train, parts/folder, tmp_path/'m.safetensors', **small)
    assert not list(tmp_path.iterdir())


def test_bad_outs(parts, model, tmp_path):
    def says(out, **kwargs): return refused(ganomaly_train, parts/'ok', out, **small, **kwargs)
    assert 'exists: pass --overwrite' in says(model)
    assert 'is a folder' in says(tmp_path)
    assert 'no such folder' in says(tmp_path/'a'/'m.safetensors')
    assert 'no training to go on with' in says(tmp_path/'m.safetensors', resume=True)
    checkpoint = tmp_path/'m.safetensors.checkpoint'
    checkpoint.write_text('of another day')
    assert 'pass --resume' in says(tmp_path/'m.safetensors')
    assert 'damaged' in says(tmp_path/'m.safetensors', resume=True)
    assert checkpoint.read_text()=='of another day'


bad_models = {'nowhere.safetensors':'no such model', 'none':'is a folder', 'file.txt':'no file of',
              'hello.safetensors':'no file of', 'nothing.safetensors':'no file of', 'half.safetensors':'damaged',
              'old.pkl':'--trust_pickle', 'table.csv':'no file of'}

@pytest.mark.parametrize('name,words', bad_models.items())
def test_bad_models(name, words, parts, model):
    assert words in refused(ganomaly_score, parts/name, parts/'ok')
    assert name in refused(ganomaly_score, parts/name, parts/'ok')


def test_untrusted_pickles_are_not_opened(parts, tmp_path):
    class Evil:
        def __reduce__(self): return os.mkdir,(str(tmp_path/'done'),)
    import pickle
    for protocol in range(5):
        for name in ('m.pkl','m.safetensors','m'):
            (tmp_path/name).write_bytes(pickle.dumps(Evil(), protocol=protocol))
            refused(ganomaly_score, tmp_path/name, parts/'ok')
    assert not (tmp_path/'done').exists()
    assert 'no exported learner' in refused(ganomaly_score, parts/'old.pkl', parts/'ok', trust_pickle=True)


def test_bad_images_to_score(parts, model):
    def says(path=None, **kwargs): return refused(ganomaly_score, model, path, **kwargs)
    assert 'no such folder or image' in says(parts/'nowhere')
    assert 'no images in' in says(parts/'none')
    assert 'file.txt' in says(parts/'file.txt')
    assert '0.png' in says(parts/'broken')
    assert 'none of 2 images' in says(parts/'broken', skip_errors=True)
    assert 'none of 1 images' in says(parts/'file.txt', skip_errors=True)
    assert 'which images?' in says()
    assert 'no images' in says(parts/'ok', card=True)
    for bs in (0, -1): assert 'bs must be' in says(parts/'ok', bs=bs)


grids = [(['digits'],'name=value'), (['=3'],'name=value'), (['seed='],'name=value'), (['seed=0','seed=1'],'twice'),
         (['seed=0,0'],'twice'), (['model=ganomoly'],'model must be'), (['data=mnits'],'data must be'),
         (['epochs=0'],'epochs'), (['epochs=-1'],'epochs'), (['epochs=two'],'epochs'), (['lr=0'],'lr'), (['nz=-1'],'nz'),
         (['nf=0'],'nf'), (['bs=0'],'bs'), (['n_train=0'],'n_train'), (['size=21'],'size'), (['precision=fp8'],'precision'),
         (['protocol=mine'],'protocol'), (['stats=other'],'stats'), (['scoring=l7'],'score must be'), (['wcon=3'],'wcon'),
         (['held_out=1'],'held_out'), (['w_con=-1'],'w_con'), (['monitor=maybe'],'monitor'), (['seed=-1'],'seed')]

@pytest.mark.parametrize('grid,words', grids, ids=str)
def test_bad_grids(grid, words, tmp_path):
    grid = grid if grid[0].startswith('data') else ['data=digits', *grid]
    if words=='name=value' and grid[1:]==['data=']: grid = ['data=']
    assert words in refused(ganomaly_experiment, tmp_path/'r.csv', grid)
    assert not (tmp_path/'r.csv').exists()


def test_bad_files_of_results(parts, tmp_path):
    def says(file=tmp_path/'r.csv', **kwargs): return refused(ganomaly_experiment, file, ['data=digits'], **kwargs)
    assert 'no file of results' in says(parts/'table.csv')
    assert (parts/'table.csv').read_text()=='a,b\n1,2\n'
    assert 'is a folder' in says(tmp_path)
    assert 'no such folder' in says(tmp_path/'a'/'r.csv')
    assert 'no such folder of data' in says(path=tmp_path/'nowhere')
    for jobs in (0, -2): assert 'jobs must be' in says(jobs=jobs)


def test_failed_experiments_are_listed(tmp_path):
    grid = ['data=digits','abnormal=99','epochs=1','nz=4','nf=4','n_train=64','bs=8']
    for _ in range(2): # they are not run again, but listed again
        err = io.StringIO()
        with redirect_stderr(err), redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as e:
            ganomaly_experiment(tmp_path/'r.csv', grid)
        assert '--retry' in e.value.code and 'failed: ganomaly digits 99' in err.getvalue()
        assert 'abnormal must be one of the classes' in err.getvalue()


@pytest.mark.parametrize('kwargs,words', [(dict(digits=o),'digits must be') for o in ('', 'x', '00', '1a', '-1', ' ')]
                         + [(dict(epochs=o),'epochs must be') for o in (0, -1)] + [(dict(seed=-1),'seed must be')])
def test_bad_demos(kwargs, words, tmp_path):
    assert words in refused(ganomaly_demo, tmp_path/'demo', **kwargs)
    assert not (tmp_path/'demo').exists()


# every option has an effect

@pytest.fixture
def learners(monkeypatch):
    "What the command makes and how it trains: weights at the beginning, callbacks"
    made,make = [],commands.start_training
    def start(s):
        learn = make(s)
        made.append((learn, next(learn.model.parameters()).detach().clone()))
        return learn
    monkeypatch.setattr(commands, 'start_training', start)
    return made


def test_the_seed_is_that_of_weights_and_split(parts, tmp_path, learners):
    for seed in (0, 0, 1): quiet(ganomaly_train, parts/'ok', tmp_path/'m.safetensors', seed=seed, overwrite=True, **small)
    a,b,c = [w for _,w in learners]
    assert torch.equal(a, b) and not torch.equal(a, c)
    held_out = [sorted(l.dls.valid.dataset.items) for l,_ in learners]
    assert held_out[0]==held_out[1]!=held_out[2]


options = dict(w_adv=2., w_con=9., w_enc=3., norm='paper', score='mse', nz=5, nf=6, normalise=.4)

def test_options_reach_the_model(parts, tmp_path):
    out = tmp_path/'m.safetensors'
    quiet(ganomaly_train, parts/'ok', out, fpr=.2, nc=1, **{**small, **options})
    learn = load_model(out)
    assert options.items()<=learn.recipe['settings'].items()
    assert learn.calibration.fpr==.2 and learn.dls.nc==1 and learn.dls.size==16 and learn.dls.train.bs==8
    assert len(learn.calibration.scores)==20                # half of 40
    for o in ('fpr=0.2','nz=5'): assert o in ' '.join(read_card(out))


def test_options_of_the_training(parts, tmp_path, learners):
    quiet(ganomaly_train, parts/'ok', tmp_path/'a.safetensors', lr=.01, bf16=True, **small)
    learn = learners[0][0]
    assert learn.lr==.01
    assert 'BF16CPU' in str(learn.cbs) or 'MixedPrecision' in str(learn.cbs)
    _,err = quiet(ganomaly_train, parts/'ok', tmp_path/'b.safetensors', **{**small, 'epochs':3})
    assert err.count('epoch ')==3 and 'epoch 3 of 3: loss' in err
    weights = [torch.cat([p.flatten() for p in load_model(tmp_path/f'{o}.safetensors').model.parameters()]) for o in 'ab']
    assert not torch.equal(*weights)


def test_normal_and_white(parts, tmp_path):
    out,_ = quiet(ganomaly_train, parts/'odd', tmp_path/'a.safetensors', normal='gut', **small)
    assert 'train/gut' in out and 'no AUROC: the test set holds no images' in out
    quiet(ganomaly_train, parts/'odd', tmp_path/'b.safetensors', normal='gut', white=4095, **small)
    assert load_model(tmp_path/'a.safetensors').dls.white is None
    assert load_model(tmp_path/'b.safetensors').dls.white==4095


def test_skipped_and_twins_are_told(parts, tmp_path):
    path = tmp_path/'d'
    shutil.copytree(parts/'torn', path)
    shutil.copy(path/'train'/'normal'/'00.png', path/'train'/'normal'/'twin.png')
    _,err = quiet(ganomaly_train, path, tmp_path/'m.safetensors', skip_errors=True, **small)
    lines = err.splitlines()
    assert any(o.startswith('left out: ') and 'torn.png' in o for o in lines)
    assert any(o.startswith('warning: ') and 'same content' in o and 'twin.png' in o for o in lines)
    assert '.py' not in err


def test_pkl_is_an_export(parts, tmp_path):
    out = tmp_path/'m.pkl'
    quiet(ganomaly_train, parts/'ok', out, **small)
    assert load_exported(out).calibration is not None
    assert '--trust_pickle' in refused(ganomaly_score, out, parts/'ok'/'test')
    rows,_ = quiet(ganomaly_score, out, parts/'ok'/'test', trust_pickle=True)
    assert len(rows.splitlines())==13


def test_p_values_and_flags(parts, model):
    out,err = quiet(ganomaly_score, model, parts/'ok'/'test', bs=5)
    table,cal = pd.read_csv(io.StringIO(out)),load_model(model).calibration
    assert list(table)==['file','score','p_value','is_abnormal'] and list(table.file)==sorted(table.file)
    learn = open_model(model, False)
    for r in table.itertuples():
        score = learn.predict(r.file)[2]
        assert abs(cal.p_value(score)-r.p_value)<1e-4 and r.is_abnormal==cal.is_abnormal(score)
    assert 0<table.p_value.min()<table.p_value.max()<=1
    assert err.strip()==f'scored 12 images: {table.is_abnormal.sum()} abnormal, 0 left out'
    one,_ = quiet(ganomaly_score, model, parts/'ok'/'test'/'hole'/'00.png')
    assert one.splitlines()[1]==out.splitlines()[1]


def stopped_in_epoch(monkeypatch, epoch, error):
    "From now on trainings stop in the middle of this epoch"
    def stop(self):
        if self.training and self.epoch+1==epoch: raise error
    monkeypatch.setattr(commands.EpochLines, 'after_batch', stop)

def weights_of(file): return torch.cat([p.flatten() for p in load_model(file).model.parameters()])


def test_ctrl_c_and_resume(parts, tmp_path):
    three = {**small, 'epochs':3}
    quiet(ganomaly_train, parts/'ok', tmp_path/'a.safetensors', **three)
    out,err = tmp_path/'b.safetensors',io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        stopped_in_epoch(patch, 3, KeyboardInterrupt())
        with redirect_stderr(err), redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as e:
            ganomaly_train(parts/'ok', out, **three)
    assert e.value.code==130 and 'holds 2 epochs' in err.getvalue() and '--resume' in err.getvalue()
    assert not out.exists()
    assert 'is of another training' in refused(ganomaly_train, parts/'ok', out, resume=True, **{**three, 'nz':5})
    _,err = quiet(ganomaly_train, parts/'ok', out, resume=True, **three)
    assert err.count('epoch ')==1
    assert torch.equal(weights_of(out), weights_of(tmp_path/'a.safetensors'))
    assert [o.name for o in sorted(tmp_path.iterdir())]==['a.safetensors','b.safetensors']


def test_full_disk_at_the_end(parts, tmp_path):
    out = tmp_path/'m.safetensors'
    def full(*args): raise OSError(28, 'No space left on device')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, 'write_state', full)
        assert 'No space left' in refused(ganomaly_train, parts/'ok', out, **small)
    assert (tmp_path/'m.safetensors.checkpoint').exists() and not out.exists()
    _,err = quiet(ganomaly_train, parts/'ok', out, resume=True, **small)
    assert out.exists() and 'epoch' not in err


# in a shell

def shell(line, env): return subprocess.run(line, shell=True, capture_output=True, text=True, env=env, executable='/bin/bash')

@pytest.mark.slow
@pytest.mark.skipif(sys.platform=='win32', reason='pipes and devices of Unix')
def test_output_in_a_shell(parts, model, env, tmp_path):
    fill(tmp_path/'many', 12, name='x'*150+'{}ä.png')
    r = shell(f'ganomaly_score {model} {tmp_path}/many --bs 1 | head -n 1; exit ${{PIPESTATUS[0]}}', env)
    assert r.returncode==0 and r.stdout.startswith('file,') and 'Traceback' not in r.stderr
    r = shell(f'PYTHONIOENCODING=ascii ganomaly_score {model} {tmp_path}/many', env)
    assert r.returncode==0 and r.stdout.count('\\xe4')==12
    if os.path.exists('/dev/full'):
        r = shell(f'ganomaly_score {model} {tmp_path}/many > /dev/full', env)
        assert r.returncode==1 and len(r.stderr.splitlines())==1 and 'No space left' in r.stderr


@pytest.mark.slow
def test_scores_of_a_cluster(parts, tmp_path, capsys):
    "`--scheduler` gives the lines of a single process, in the same order"
    dask = pytest.importorskip('dask.distributed')
    quiet(ganomaly_train, parts/'ok', tmp_path/'m.safetensors', **small)
    def lines(**kwargs):
        capsys.readouterr()
        ganomaly_score(tmp_path/'m.safetensors', parts/'ok'/'test', **kwargs)
        return capsys.readouterr().out
    here = lines()
    with dask.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs='CRITICAL') as cluster:
        assert lines(scheduler=cluster.scheduler_address)==here
    assert len(here.splitlines())==1+12
