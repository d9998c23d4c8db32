"Interrupted and continued trainings, files of models, fastai's stock callbacks."
import importlib, io, os, signal, subprocess, sys, time, types, warnings, zipfile
import numpy as np, pytest, torch
from pathlib import Path
from contextlib import redirect_stdout
from fastai.basics import Callback, load_learner
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from fastai.callback.schedule import ParamScheduler, SchedLin
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.metrics import RocAucBinary
from fastai.optimizer import SGD
from ganomaly_nb import files
from ganomaly_nb.checkpoints import training_state
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.files import pack, checksum, read_state, weights_checksum, write_state
from ganomaly_nb.learner import AnomalyLearner, CheckpointCallback, ganomaly_learner, load_exported, load_model

images,others = np.split(np.random.default_rng(0).integers(0, 256, (140,16,16), dtype=np.uint8), [120])
small = dict(nz=4, nf=4)


def make_dls(**kwargs):
    return AnomalyDataLoaders.from_arrays(images, others, np.arange(20)%2, **{'held_out':.3, 'bs':16, **kwargs})


def make(path, bf16=False, **kwargs):
    learn = ganomaly_learner(make_dls(), path=path, **{**small, 'seed':0, **kwargs})
    return learn.to_bf16() if bf16 else learn


def quiet(learn, f, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return f(*args, **kwargs)


def fit(learn, *args, **kwargs):
    quiet(learn, learn.fit, *args, **kwargs)
    return learn


def everything(learn):
    "Weights, optimizer, generators, what was recorded"
    state,tensors = training_state(learn, {}),{}
    state['callbacks'] = [getattr(learn.recorder, k) for k in ('values','losses','lrs','iters')] + [learn.ganomaly.loss_terms]
    return pack(state, tensors),{k: checksum(t).item() for k,t in tensors.items()}


class Stop(Callback):
    "Ctrl-C in the midst of an epoch"
    only_looks = True
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.training and (self.epoch,self.iter)==(self.at,2): raise KeyboardInterrupt


@pytest.mark.parametrize('bf16,method', [(False,'fit'), (True,'fit'), (False,'fit_one_cycle')])
def test_continued_is_undisturbed(tmp_path, capsys, bf16, method):
    file,train = tmp_path/'c.ckpt',lambda learn,**kw: quiet(learn, getattr(learn, method), 4, **kw)
    whole = make(tmp_path, bf16)
    train(whole)
    first = make(tmp_path, bf16)
    with pytest.raises(KeyboardInterrupt): train(first, cbs=[CheckpointCallback(file), Stop(2)])
    assert f'{file} holds 2 epochs' in capsys.readouterr().err
    second = make(tmp_path, bf16, seed=5)
    train(second, cbs=CheckpointCallback(file), resume=file)
    assert everything(second)==everything(whole)
    third = make(tmp_path, bf16, seed=5) # a training that was finished stays as it is
    train(third, resume=file)
    assert everything(third)[1]==everything(whole)[1]
    assert read_state(file, 'checkpoint')['epochs']==4


def test_killed(tmp_path, env):
    "SIGKILL at any moment loses at most an epoch"
    file = tmp_path/'c.ckpt'
    code = ("import sys; sys.path.insert(0, 'tests'); import test_learner as t; from pathlib import Path\n"
            f"p = Path({str(tmp_path)!r}); t.fit(t.make(p), 500, cbs=t.CheckpointCallback(p/'c.ckpt'))")
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], env=env, cwd=Path(__file__).parent.parent)
    deadline = time.time()+300
    while not file.exists() and time.time()<deadline and p.poll() is None: time.sleep(.05)
    time.sleep(.3)
    p.send_signal(signal.SIGKILL)
    p.wait()
    n = read_state(file, 'checkpoint')['epochs']
    assert n>=1
    again = fit(make(tmp_path, seed=3), n+1, resume=file)
    assert everything(again)==everything(fit(make(tmp_path), n+1))


def test_save_and_load_go_on(tmp_path):
    whole = fit(make(tmp_path), 4)
    fit(first:=make(tmp_path), 2).save('half')
    second = make(tmp_path, seed=7).load('half')
    assert weights_checksum(fit(second, 2).model)==weights_checksum(whole.model)!=weights_checksum(first.model)


def test_full_disk(tmp_path, monkeypatch):
    "One clear error, and the former checkpoint is there"
    file,fsync,n = tmp_path/'c.ckpt',os.fsync,[]
    def full(fd):
        n.append(fd)
        if len(n)==2: raise OSError(28, 'No space left on device')
        fsync(fd)
    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(OSError, match='could not write .*No space left on device; what was there is untouched'):
        fit(make(tmp_path), 3, cbs=CheckpointCallback(file))
    assert read_state(file, 'checkpoint')['epochs']==1 and [o.name for o in tmp_path.iterdir()]==['c.ckpt']


@pytest.mark.parametrize('change,says', [
    (dict(nz=5), 'shape of'), (dict(lr=1e-3), 'lr of group 0 was 0.0002, found 0.001'), (dict(w_con=5.), 'loss.w_con was 50.0, found 5.0'), (dict(normalise=.3), 'normalise was None, found 0.3'),
    (dict(bf16=True), 'callback BF16CPU was None, found True')])
def test_checkpoint_of_another_training(tmp_path, change, says):
    file = tmp_path/'c.ckpt'
    fit(make(tmp_path), 1, cbs=CheckpointCallback(file))
    other = make(tmp_path, **change)
    before = weights_checksum(other.model)
    with pytest.raises(ValueError, match='is of another training') as e: fit(other, 2, resume=file)
    assert says in str(e.value) and weights_checksum(other.model)==before


def test_checkpoint_of_other_data(tmp_path):
    file = tmp_path/'c.ckpt'
    fit(make(tmp_path), 1, cbs=CheckpointCallback(file, every=5)) # the last epoch has one too
    other = ganomaly_learner(AnomalyDataLoaders.from_arrays(images[::-1].copy(), held_out=.3, bs=16), path=tmp_path, **small)
    with pytest.raises(ValueError, match='training data was'): fit(other, 2, resume=file)
    with pytest.raises(ValueError, match='is a checkpoint, expected a model'): load_model(file)
    for every in (0, -1, 1.5):
        with pytest.raises(ValueError, match='every must be'): CheckpointCallback(file, every=every)


def test_interrupted_anywhere(tmp_path):
    "KeyboardInterrupt at every line of fastai's that get_preds runs through: the learner is usable afterwards"
    learn = fit(make(tmp_path), 1)
    for cb in list(learn._grab_cbs(ProgressCallback)): learn.remove_cb(cb)
    right,cbs,k = learn.get_preds(dl=learn.dls.test)[0],[type(c).__name__ for c in learn.cbs],0
    where = 'fastai/learner.py','fastcore/xtras.py','contextlib.py','callback/core.py'
    def trace(frame, event, arg):
        if not frame.f_code.co_filename.endswith(where): return None
        def line(frame, event, arg):
            nonlocal n
            n -= 1
            if n==0: raise KeyboardInterrupt
            return line
        return line
    hits = 0
    for k in range(1, 2000, 7):
        n = k
        sys.settrace(trace)
        try: learn.get_preds(dl=learn.dls.test)
        except KeyboardInterrupt: hits += 1
        finally: sys.settrace(None)
        assert not learn.lock.locked() and [type(c).__name__ for c in learn.cbs]==cbs, f'line event {k}'
        if n>0: break
    assert hits>20 and torch.is_grad_enabled() and learn.logger is print
    assert torch.equal(learn.get_preds(dl=learn.dls.test)[0], right)


@pytest.mark.parametrize('event', ['before_fit','before_validate','before_batch','after_pred','after_batch','after_validate'])
@pytest.mark.parametrize('exc', [KeyboardInterrupt, ValueError])
def test_callback_raises(tmp_path, event, exc):
    learn = make(tmp_path)
    def fail(): raise exc('here')
    bad = Callback(**{event: lambda *a: fail()})
    for f in (lambda: learn.get_preds(dl=learn.dls.test, cbs=bad), lambda: learn.validate(cbs=bad), lambda: fit(learn, 1, cbs=bad)):
        n = len(learn.cbs)
        with pytest.raises(exc): quiet(learn, f)
        assert len(learn.cbs)==n and not learn.lock.locked()
    with learn.no_bar(): assert len(learn.get_preds(dl=learn.dls.test)[0])==20


def test_seed_alone(tmp_path):
    "The same loaders and the same seed: the same weights after fit; another seed: others"
    dls = make_dls()
    def run(seed):
        learn = fit(ganomaly_learner(dls, seed=seed, path=tmp_path, **small), 1)
        np.random.rand(); torch.rand(1)
        return weights_checksum(learn.model)
    assert run(0)==run(0)!=run(1)!=run(None)!=run(None)


@pytest.mark.parametrize('make_cb,changes', [
    (lambda: GradientClip(.1), True), (lambda: GradientAccumulation(32), True), (lambda: ParamScheduler({'lr':SchedLin(1e-3, 1e-4)}), True),
    (CSVLogger, False), (lambda: EarlyStoppingCallback(patience=2), False), (lambda: ReduceLROnPlateau(patience=5), False),
    (ActivationStats, False), (TerminateOnNaNCallback, False), (ShowGraphCallback, False)])
def test_stock_callback(tmp_path, make_cb, changes):
    "fastai's own callbacks do what they do elsewhere, and those that only look change no weight"
    cb = make_cb()
    learn,plain = make(tmp_path),weights_checksum(fit(make(tmp_path), 2).model)
    with redirect_stdout(io.StringIO()):
        if isinstance(cb, ShowGraphCallback):
            with learn.no_logging(): learn.fit(2, cbs=cb)
        else: fit(learn, 2, cbs=cb)
    assert len(learn.recorder.values)==2 and np.isfinite(learn.recorder.values[-1]).all()
    assert (weights_checksum(learn.model)!=plain)==changes
    if isinstance(cb, CSVLogger): assert len((tmp_path/'history.csv').read_text().splitlines())==3


@pytest.fixture
def tensorboard(monkeypatch):
    "fastai's TensorBoardCallback on a stand-in for TensorBoard, and what is written there: name -> values"
    written,name = {},'fastai.callback.tensorboard'
    class SummaryWriter:
        def __init__(self, log_dir): pass
        def add_scalar(self, name, value, step): written.setdefault(name, []).append(float(value))
        def add_graph(self, model, *xb): written['graph'] = [tuple(x.shape) for x in xb]
        def add_figure(self, name, fig, step): written.setdefault('figures', []).append(len(fig.axes))
        def close(self): written['closed'] = True
    monkeypatch.setitem(sys.modules, 'tensorboard', types.ModuleType('tensorboard'))
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', types.SimpleNamespace(SummaryWriter=SummaryWriter))
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name).TensorBoardCallback,written
    sys.modules.pop(name, None) # the next one who wants it gets the real one


def test_tensorboard(tmp_path, tensorboard):
    "Every hyperparameter is written as a number, every column of the progress table, a graph and pictures"
    TensorBoardCallback,written = tensorboard
    learn = fit(make(tmp_path), 2, cbs=TensorBoardCallback())
    n = len(learn.recorder.losses)
    for i in (0,1):
        assert (written[f'lr_{i}'],written[f'mom_{i}'])==([2e-4]*len(written[f'lr_{i}']),[.5]*len(written[f'mom_{i}'])) and len(written[f'lr_{i}'])>=n
    assert not [k for k in written if k.startswith(('foreach','fused'))]
    for j,column in enumerate(learn.recorder.metric_names[2:-1], 1): assert np.allclose(written[column], [row[j] for row in learn.recorder.values])
    assert written['graph']==[(16,1,16,16)] and len(written['figures'])==2 and written['closed']
    looks = fit(make(tmp_path), 2, cbs=TensorBoardCallback(trace_model=False)) # tracing takes a batch
    assert weights_checksum(looks.model)==weights_checksum(fit(make(tmp_path), 2).model)


def test_continued_with_tensorboard(tmp_path, tensorboard):
    "It only looks on: a training with it goes on without it, or with another one"
    TensorBoardCallback,_ = tensorboard
    whole = fit(make(tmp_path), 3, cbs=TensorBoardCallback('a'))
    fit(make(tmp_path), 2, cbs=[TensorBoardCallback('a'), CheckpointCallback(tmp_path/'c.ckpt')])
    for more in ([],[TensorBoardCallback('b', trace_model=False)]):
        again = fit(make(tmp_path, seed=3), 3, cbs=more, resume=tmp_path/'c.ckpt')
        assert weights_checksum(again.model)==weights_checksum(whole.model)


def test_best_epoch_is_saved_and_loaded(tmp_path):
    with redirect_stdout(io.StringIO()): learn = fit(make(tmp_path), 3, cbs=SaveModelCallback(comp=np.greater, reset_on_fit=True))
    losses = [o[-1] for o in learn.recorder.values] # valid_loss comes last: there are no metrics
    best = int(np.argmax([o[list(learn.recorder.metric_names[1:-1]).index('valid_loss')] for o in learn.recorder.values]))
    assert weights_checksum(learn.model)==weights_checksum(fit(make(tmp_path), best+1).model) and len(losses)==3


def test_neighbours_in_a_file(tmp_path):
    "Codes, distances, memory and threshold travel; other weights forget them"
    learn = make(tmp_path, score='neighbours', memory=50)
    fit(learn, 1)
    learn.calibrate(.1)
    again = load_model(learn.save_model(tmp_path/'m.safetensors'))
    f,g = learn.scorer.score_func,again.scorer.score_func
    assert g.memory==f.memory==len(f.codes)==50 and torch.equal(f.codes, g.codes) and torch.equal(f.own, g.own)
    assert again.recipe['settings']['memory']==50 and again.calibration.threshold==learn.calibration.threshold
    with learn.no_bar(), again.no_bar():
        a,b = (l.get_preds(dl=l.dls.test_dl(list(others)))[0] for l in (learn,again))
    assert torch.equal(a, b) and again.predict(others[0])==learn.predict(others[0])
    with torch.no_grad(): next(again.model.parameters()).mul_(1.1)
    with pytest.warns(UserWarning, match='forgotten'): assert again.calibration is None
    assert not g.fitted
    with pytest.raises(ValueError, match='no training images'): again.fitted_score


def test_callbacks_refused(tmp_path):
    learn = make(tmp_path)
    for cb in (MixUp(), CutMix()):
        with pytest.raises(ValueError, match=f'{type(cb).__name__} blends'): fit(learn, 1, cbs=cb)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        none = ganomaly_learner(make_dls(held_out=0), path=tmp_path, **small)
    for cb in (SaveModelCallback(), EarlyStoppingCallback(), ReduceLROnPlateau(), EarlyStoppingCallback):
        with pytest.raises(ValueError, match="monitors 'valid_loss', but there are no held-out normals"): fit(none, 1, cbs=cb)
    with redirect_stdout(io.StringIO()): fit(none, 2, cbs=EarlyStoppingCallback('con', comp=np.less))
    with pytest.raises(ValueError, match='must monitor one of'): fit(learn, 1, cbs=EarlyStoppingCallback('auroc'))
    for f in (learn.freeze, lambda: learn.freeze_to(1)):
        with pytest.raises(ValueError, match='generator and discriminator'): f()
    with pytest.raises(ValueError, match='cannot be a metric here'): make(tmp_path, metrics=RocAucBinary())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='float16 needs a GPU'): learn.to_fp16()
    assert weights_checksum(fit(make(tmp_path, opt_func=SGD), 1).model)!=weights_checksum(fit(make(tmp_path), 1).model)


def test_made_with_too_few_held_out(tmp_path):
    for share,says in ((0,'found 0'), (.1,'needs at least 19 held-out normals, found 12')):
        with pytest.warns(UserWarning, match=says): ganomaly_learner(make_dls(held_out=share), path=tmp_path, **small)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        make(tmp_path)


def test_pickle_holds_no_paths(tmp_path):
    home = tmp_path/'secret_customer'
    home.mkdir()
    learn = fit(make(home, cbs=SaveModelCallback(fname='best')), 1)
    file = learn.export('m.pkl')
    with zipfile.ZipFile(file) as z: inside = b''.join(z.read(o) for o in z.namelist())
    assert not [o for o in (b'secret_customer', b'Posix', b'pathlib', str(tmp_path).encode()) if o in inside]
    assert load_exported(file).predict(images[0])==learn.predict(images[0]) and learn.path==home


def test_pickle_of_another_version(tmp_path, monkeypatch):
    learn = make(tmp_path)
    with monkeypatch.context() as m:
        m.setattr(files, '__version__', '0.0.9')
        learn.export('old.pkl')
    for load in (load_exported, load_learner):
        with pytest.raises(ValueError, match=r'was written by ganomaly_nb 0\.0\.9; this is ganomaly_nb'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            load(tmp_path/'old.pkl')


@pytest.mark.parametrize('module,name,kwargs', [('vae','vae',dict(score='elbo')), ('anogan','anogan',dict(steps=3)), ('egbad','egbad',dict(alpha=.5)), ('egbad','egbad',dict(score='ce')), ('fanogan','fanogan',dict(kappa=.5)), ('skip','skip_ganomaly',dict(skips=False, alpha=.5)), ('alad','alad',dict(w_xx=.5, w_zz=2., spectral=False, stacked=True, score='logits')), ('adae','adae',dict(w_fake=.5, score='d')),
                                                ('variants','bce',{}), ('variants','anomalib',{}), ('variants','plain_init',{})])
def test_every_model_in_a_file(tmp_path, module, name, kwargs):
    make = getattr(__import__(f'ganomaly_nb.baselines.{module}', fromlist=['x']), f'{name}_learner')
    learn = fit(make(make_dls(), path=tmp_path, **small, **kwargs), 1)
    again = load_model(learn.save_model(tmp_path/'m.safetensors'))
    assert weights_checksum(again.model)==weights_checksum(learn.model) and again.recipe==learn.recipe
    assert type(again.model) is type(learn.model) and type(again.loss_func) is type(learn.loss_func)
    assert again.calibration.threshold==learn.calibration.threshold


def test_damaged_models(tmp_path):
    file = make(tmp_path).save_model(tmp_path/'m.safetensors')
    good,bad,rng = file.read_bytes(),tmp_path/'bad',np.random.default_rng(0)
    for i in range(40):
        data = bytearray(good[:rng.integers(len(good))] if i%2 else good)
        if not i%2: data[rng.integers(len(data))] ^= 1<<int(rng.integers(8))
        bad.write_bytes(data)
        try: again = load_model(bad)
        except ValueError as e: assert str(bad) in str(e) and '\n' not in str(e)
        else: assert weights_checksum(again.model)==weights_checksum(load_model(file).model) # a bit of the header that says nothing
