"One set of tests for every learner: GANomaly and the models that it is compared with."
import tempfile
from functools import partial
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from fastai.basics import Callback, CancelFitException, set_seed, load_learner
from fastai.callback.all import CSVLogger, GradientClip
from ganomaly_nb.data import AnomalyDataLoaders, ImageSet
from ganomaly_nb.learner import CheckpointCallback, ganomaly_learner, load_exported
from ganomaly_nb.evaluation import AnomalyInterpretation, TestAUROCMonitorOnly, auroc
from ganomaly_nb.baselines.vae import vae_learner
from ganomaly_nb.baselines.anogan import anogan_learner
from ganomaly_nb.baselines.egbad import egbad_learner
from ganomaly_nb.baselines.fanogan import fanogan_learner
from ganomaly_nb.baselines.skip import skip_ganomaly_learner
from ganomaly_nb.baselines.alad import alad_learner
from ganomaly_nb.baselines.adae import adae_learner

learners = dict(ganomaly=ganomaly_learner, activations=partial(ganomaly_learner, score='activations'), vae=vae_learner, anogan=partial(anogan_learner, steps=60), egbad=egbad_learner,
                fanogan=fanogan_learner, skip=skip_ganomaly_learner, alad=alad_learner,
                adae=adae_learner)


def make(name, seed=0, epochs=1, n_train=None, abnormal=0, nf=8, **kwargs):
    set_seed(seed)
    dls = AnomalyDataLoaders.from_digits(abnormal=abnormal, held_out=.1, bs=32, seed=seed, n_train=n_train)
    learn = learners[name](dls, nz=16, nf=nf, path=Path(tempfile.mkdtemp()), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return learn


def scores(learn, dl=None):
    with learn.no_bar(): return learn.get_preds(dl=learn.dls.test if dl is None else dl)


def few(learn, n=12, **kwargs):
    "A loader of the first `n` test images"
    d = learn.dls.test.dataset
    return learn.dls.test.new(ImageSet(d.images, d.y[:n], idxs=d.idxs[:n]), **kwargs)


def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


@pytest.fixture(scope='module', params=learners)
def learn(request): return make(request.param, epochs=8 if request.param=='alad' else 4) # after 4 its features say nothing yet


def test_scores(learn):
    "One for each image; higher for digits in negative, which no model has seen"
    s,y = scores(learn)
    assert s.shape==y.shape==(len(learn.dls.test.dataset),) and s.isfinite().all() and not s.requires_grad
    normal = few(learn).dataset
    x = normal.images[normal.idxs]
    s,y = scores(learn, learn.dls.test.new(ImageSet(torch.cat([x, 255-x]), [0]*len(x)+[1]*len(x))))
    assert auroc(y, s)>.9
    assert learn.validate() and set(learn.recorder.loss_terms)==set(learn.loss_func.names)
    assert all(len(v)==learn.n_epoch*len(learn.dls.train) for v in learn.recorder.loss_terms.values())


def test_batch_independence(learn):
    "Alone, in batches of other sizes, in another order: one and the same score"
    s = scores(learn, few(learn))[0]
    for bs in (1,5): torch.testing.assert_close(scores(learn, few(learn, bs=bs))[0], s, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores(learn, few(learn, shuffle=True))[0], s, rtol=1e-3, atol=1e-3)
    assert torch.equal(scores(learn, few(learn))[0], s)


def test_weights_stay(learn):
    "Scoring changes no weight, no running statistic, and leaves no gradient"
    learn.model.zero_grad()
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    scores(learn, few(learn))
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    assert all(p.grad is None for p in learn.model.parameters())


def test_predict_and_calibrate(learn):
    dl = few(learn)
    cal = learn.calibrate(fpr=.2)
    assert len(cal.scores)==len(learn.dls.valid.dataset)
    img = dl.dataset[[3]][0][0]
    label,is_abnormal,score = learn.predict(img)
    assert abs(score-scores(learn, dl)[0][3])<=.01*abs(score)+.01
    assert is_abnormal==(score>cal.threshold) and label==('abnormal' if is_abnormal else 'normal')
    assert learn.predict(img.numpy()[0])[2]==score
    x,x_hat,maps,s = learn.reconstruct(dl, [0,3])
    assert x.shape==x_hat.shape==(2,1,16,16) and maps.shape==(2,16,16) and 0<=x_hat.min()<=x_hat.max()<=1
    torch.testing.assert_close(s[1].item(), score, rtol=.01, atol=.01)


def test_export(learn):
    learn.calibrate(fpr=.2)
    s = scores(learn, few(learn))[0]
    learn.add_cb(CSVLogger())
    out = learn.export('model.pkl')
    learn.remove_cb(CSVLogger)
    for load in (load_learner, load_exported):
        again = load(out)
        assert again.calibration.threshold==learn.calibration.threshold and not len(again.dls.test.dataset)
        torch.testing.assert_close(scores(again, few(learn))[0], s, rtol=0, atol=1e-6)
    with pytest.raises(FileExistsError): learn.export('model.pkl')


def test_interpretation(learn):
    interp = AnomalyInterpretation.from_learner(learn, few(learn, 60))
    assert interp.features([0,1,2]).shape[0]==3
    interp.plot_losses(); interp.plot_roc(); interp.plot_scores(); interp.plot_tsne(40); interp.show_reconstructions(2); interp.plot_top_losses(2)
    plt.close('all')
    assert {'AUROC','F1 at the threshold'} <= set(interp.summary(n=20).index)


@pytest.mark.parametrize('name', learners)
def test_seed(name):
    a,b,c = [make(name, seed, n_train=96) for seed in (0,0,1)]
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))
    assert torch.equal(scores(a, few(a))[0], scores(b, few(b))[0])


@pytest.mark.parametrize('name', learners)
def test_stock_fastai(name):
    "One cycle, clipping, bfloat16, monitoring, saving and loading, colour images"
    learn = make(name, n_train=64)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3, cbs=[GradientClip(1.), CSVLogger()])
        assert len(learn.recorder.values[-1])==2+len(learn.loss_func.names)
        saved,w = learn.save('w').with_suffix(''),weights(learn)
        learn.fit(1)
        assert not torch.equal(weights(learn), w) and torch.equal(weights(learn.load(saved)), w)
    full = scores(learn, few(learn))[0]
    half = scores(learn.to_bf16(), few(learn))[0]
    torch.testing.assert_close(half, full, rtol=.3, atol=.3)
    rng = np.random.default_rng(0)
    dls = AnomalyDataLoaders.from_arrays(rng.random((80,16,16,3)), rng.random((6,16,16,3)), [0,1]*3, held_out=.1, bs=32)
    colour = learners[name](dls, nz=8, nf=4, n_extra=1)
    with colour.no_bar(), colour.no_logging(): colour.fit(1)
    assert scores(colour)[0].shape==(6,)
    colour.calibrate(fpr=.2)
    assert colour.predict(np.zeros((20,30,3), np.uint8))[0] in ('normal','abnormal')


@pytest.mark.parametrize('name', learners)
def test_monitor(name, capsys):
    learn,monitor = make(name, n_train=64, steps=5) if name=='anogan' else make(name, n_train=64),TestAUROCMonitorOnly()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=monitor)
    assert len(monitor.history)==1 and 'monitor only' in capsys.readouterr().out


def test_search_bar(capsys):
    "A bar of the steps of the search, unless bars are off"
    learn = make('anogan', n_train=64)
    capsys.readouterr()
    learn.get_preds(dl=few(learn))
    assert '/60 ' in capsys.readouterr().out
    scores(learn, few(learn))
    assert capsys.readouterr().out==''


@pytest.mark.parametrize('name', learners)
def test_bad_input(name):
    dls = AnomalyDataLoaders.from_digits(held_out=0)
    f = learners[name]
    with pytest.raises(ValueError, match='nz must be .*at least 1, found 0'): f(dls, nz=0)
    with pytest.raises(TypeError, match='must be AnomalyDataLoaders, found list'): f([1])
    if name!='anogan':
        with pytest.raises(ValueError, match="found 'best'"): f(dls, score='best')
    learn = f(dls, nz=4, nf=4)
    with pytest.raises(ValueError, match='no held-out normals'): learn.calibrate()
    learn.calibrate(scores=torch.arange(39.))
    with pytest.raises(ValueError, match='expected an image with 1 channel, found 3'): learn.predict(np.zeros((16,16,3), np.uint8))
    poisoned = make(name, n_train=64)
    w = weights(poisoned)
    def nan(out, *y, old=poisoned.loss_func): return old(out)*float('nan')
    nan.names,nan.terms = poisoned.loss_func.names,{k:torch.tensor(1.) for k in poisoned.loss_func.names}
    poisoned.loss_func = nan
    with poisoned.no_bar(), poisoned.no_logging(), pytest.raises(FloatingPointError, match='loss=nan'): poisoned.fit(1)
    assert torch.equal(weights(poisoned), w)


def test_two_phases(tmp_path):
    "f-AnoGAN's encoder stays while the game is played, the others while it learns; the same bits after a stop in the second phase"
    def sums(learn): return {n:sum(t.double().sum().item() for t in m.state_dict().values()) for n,m in learn.model.named_children()}
    class Watch(Callback):
        only_looks = True
        def before_fit(self): self.sums = [sums(self.learn)]
        def after_epoch(self): self.sums.append(sums(self.learn))
    class Stop(Callback):
        only_looks = True
        def before_epoch(self):
            if self.epoch==3: raise CancelFitException
    dls = AnomalyDataLoaders.from_digits(held_out=.1, bs=32, n_train=96)
    def fit(seed=0, epochs=4, **kwargs):
        learn = fanogan_learner(dls, nz=8, nf=4, seed=seed, path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs, **kwargs)
        return learn
    whole = fit(cbs=(watch := Watch()))
    moved = [{n for n in a if a[n]!=b[n]} for a,b in zip(watch.sums, watch.sums[1:])]
    assert moved==[{'generator','discriminator'}]*2+[{'encoder'}]*2
    fit(cbs=[CheckpointCallback(tmp_path/'c.ckpt'), Stop()])
    again = fit(seed=5, resume=tmp_path/'c.ckpt')
    assert torch.equal(weights(again), weights(whole)) and again.recorder.loss_terms==whole.recorder.loss_terms
    with pytest.raises(ValueError, match='epochs was 4, found 5'): fit(epochs=5, resume=tmp_path/'c.ckpt')
