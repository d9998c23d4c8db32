"The widgets of notebook 40 without a browser: for every model, every control, colour images, bad files, scripts; nothing changes the learner and nothing piles up."
import gc, io, itertools, subprocess, sys, tempfile
from datetime import datetime
from functools import partial
from pathlib import Path
import ipywidgets, matplotlib.pyplot as plt, numpy as np, pytest, torch
from fastai.basics import Callback, set_seed
from matplotlib.figure import Figure
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders, ImageSet
from ganomaly_nb.learner import ganomaly_learner, load_exported
from ganomaly_nb.baselines.vae import vae_learner
from ganomaly_nb.baselines.anogan import anogan_learner
from ganomaly_nb.baselines.egbad import egbad_learner
from ganomaly_nb.widgets import *

learners = dict(ganomaly=ganomaly_learner, vae=vae_learner, egbad=egbad_learner, anogan=partial(anogan_learner, steps=3))
views = dict(threshold=threshold_explorer, browser=reconstruction_browser, walk=latent_walk, lab=corruption_lab, scorer=scorer)


def digits(**kwargs): return AnomalyDataLoaders.from_digits(abnormal=0, bs=32, **{'held_out':.1, 'n_train':160, **kwargs})


def make(name='ganomaly', dls=None, epochs=2, **kwargs):
    set_seed(0)
    learn = learners[name](dls or digits(), nz=8, nf=4, path=Path(tempfile.mkdtemp()), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return learn


@pytest.fixture(scope='module', params=learners)
def learn(request): return make(request.param)


@pytest.fixture(scope='module')
def ganomaly(): return make(dls=digits(n_train=640), epochs=6, lr=2e-3) # long enough for its images to differ


@pytest.fixture(scope='module')
def colour():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200,16,16,3), dtype=np.uint8)
    return make(dls=AnomalyDataLoaders.from_arrays(x[:160], x[160:], np.arange(40)%2, held_out=.2, bs=32), epochs=12, lr=2e-3)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp('photos')
    for i in range(2): Image.fromarray(np.random.default_rng(i).integers(0, 256, (20,30), dtype=np.uint8)).save(path/f'{i}.png')
    return path


def few(learn, n=40):
    d = learn.dls.test.dataset
    return learn.dls.test.new(ImageSet(d.images, d.y[-n:], idxs=d.idxs[-n:]))


def show(name, learn, photos):
    if name=='scorer': return scorer(learn, photos)
    return views[name](learn, few(learn, 80))


def moves(panel):
    "Every control, to another value and back"
    for k,c in panel.controls.items():
        if k=='upload': continue
        was = c.value
        values = [v for _,v in c._options_full] if isinstance(c, ipywidgets.Dropdown) else [c.min, c.max, min(c.max, c.min+c.step)]
        for v in [v for v in values if v!=was][:2]+[was]: c.value = v; yield k


def look(panel): return [o.value for o in panel.images],panel.text.value


@pytest.mark.parametrize('name', views)
def test_learner_untouched(learn, name, photos):
    "Weights, running statistics, mode and calibration are those of before, in both modes, calibrated or not"
    if name=='walk' and hasattr(learn.model, 'starts'):
        with pytest.raises(TypeError, match='AnoGAN has no encoder'): latent_walk(learn)
        return
    state = {k:v.clone() for k,v in learn.model.state_dict().items()}
    for training in (True,False):
        learn.model.train(training)
        learn.calibration = None
        panel = show(name, learn, photos)
        for _ in itertools.islice(moves(panel), None if training else 2): assert 'error' not in panel.facts
        assert learn.calibration is None and learn.model.training==training
    assert all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    assert all(p.grad is None or not p.grad.any() for p in learn.model.parameters())


@pytest.mark.parametrize('name', views)
def test_colour_and_every_control(colour, name, photos):
    "Each control has an effect on what is seen; back in its place, on nothing; what is shown depends on the controls alone"
    panel = show(name, colour, photos)
    first,last,seen = look(panel),look(panel),{}
    for k in moves(panel):
        if look(panel)!=last: seen[k] = True
        last = look(panel)
    if name=='lab': panel.controls.noise.value = .2; panel.controls.occlusion.value = .4
    silent = {'across','down','angle'} if name=='lab' else set() # without a square or a stroke they change nothing
    assert set(seen)==set(panel.controls)-silent-{'upload'}
    if name=='lab':
        panel.controls.noise.value = panel.controls.occlusion.value = 0
    assert look(panel)==first


def test_positions_of_what_is_added(ganomaly):
    "Across, down and angle move square and stroke"
    panel = corruption_lab(ganomaly, stroke=.5, occlusion=.2)
    for k,v in dict(across=.2, down=.8, angle=90).items():
        was = look(panel)
        panel.controls[k].value = v
        assert look(panel)!=was


@pytest.mark.slow
def test_nothing_piles_up(ganomaly, photos):
    "Moving a slider makes no figures and no widgets"
    def count():
        gc.collect()
        return len(ipywidgets.widgets.widget._instances),sum(type(o) is Figure for o in gc.get_objects()),len(plt.get_fignums())
    panels = [show(k, ganomaly, photos) for k in views]
    before = count()
    for p in panels: list(moves(p))
    now = count()
    assert all(a<=b for a,b in zip(now, before)) and now[2]==0 # fewer: what other tests left is collected late


def drawings(panel, act):
    "How often each figure is drawn anew"
    counts = [0]*len(panel.figures)
    for i,f in enumerate(panel.figures):
        def draw(i=i, do=f.canvas.draw): counts[i] += 1; do()
        f.canvas.draw = draw
    act()
    return counts


def test_only_what_changed(ganomaly):
    "Line, point and mark move without a new drawing of their figures"
    panel = threshold_explorer(ganomaly)
    was,phi = look(panel)[0],panel.controls.phi
    assert drawings(panel, lambda: phi.set_trait('value', (phi.value+phi.min)/2))==[0,0,1,1] # histogram, ROC, table, images
    assert all(a!=b for a,b in zip(was, look(panel)[0]))
    panel = latent_walk(ganomaly)
    assert drawings(panel, lambda: panel.controls.way.set_trait('value', .7))==[1,0,1,0,1]   # here, curves, strips: of the second direction only


def test_options(ganomaly, photos):
    "Every argument has an effect"
    p = threshold_explorer(ganomaly)
    lo,hi = p.controls.phi.min,p.controls.phi.max
    assert threshold_explorer(ganomaly, phi=(lo+hi)/2).facts['threshold']==f'{(lo+hi)/2:.4g}'
    assert len(threshold_explorer(ganomaly, n=3).figures[3].axes)==3
    assert reconstruction_browser(ganomaly, start=2).controls.rank.value==2
    assert reconstruction_browser(ganomaly, few(ganomaly, 5)).controls.rank.max==4
    w = latent_walk(ganomaly, start=3, end=4, k=2)
    assert (w.controls.start.value, w.controls.end.value, len(w.controls.direction.options))==(3,4,2)
    assert latent_walk(ganomaly, start=3).facts!=latent_walk(ganomaly, start=9).facts
    assert corruption_lab(ganomaly, start=7, noise=.25).controls.noise.value==.25
    assert scorer(ganomaly).controls.image.options==() and len(scorer(ganomaly, photos).controls.image.options)==2
    text = p._repr_mimebundle_()[0]
    assert text['text/plain'].startswith('threshold ') and '; caught ' in text['text/plain'] and text['image/png'] and any('widget-view' in k for k in text)
    wide,usual,narrow = [p.static(w).size for w in (2000,720,100)]
    assert wide[0]>usual[0] and wide[1]<usual[1]<narrow[1]


def test_bad_input(ganomaly):
    nothing = ganomaly.dls.test.new(ImageSet(torch.empty(0,1,16,16, dtype=torch.uint8), []))
    for view in (threshold_explorer, reconstruction_browser, latent_walk, corruption_lab):
        with pytest.raises(TypeError, match='AnomalyLearner, found int'): view(3)
        with pytest.raises(ValueError, match='this loader is empty'): view(ganomaly, nothing)
    for bad in (dict(start=-1), dict(start=10_000), dict(end=10_000)):
        with pytest.raises(ValueError, match='must be a position from 0 to'): latent_walk(ganomaly, **bad)
    with pytest.raises(ValueError, match='noise must lie between 0 and 0.5, found 3'): corruption_lab(ganomaly, noise=3)
    with pytest.raises(FileNotFoundError, match='no images in'): scorer(ganomaly, tempfile.mkdtemp())
    unlabelled = ganomaly.dls.test_dl(list(ganomaly.dls.test.dataset[range(4)][0]))
    assert 'it is' not in reconstruction_browser(ganomaly, unlabelled).facts
    with pytest.raises(ValueError, match='no labels'): threshold_explorer(ganomaly, unlabelled)
    broken = make(epochs=1)
    broken.scorer.score_func = lambda out: torch.zeros(len(out[0]))
    with pytest.raises(ValueError, match='all scores are 0'): threshold_explorer(broken)
    broken = make(epochs=1)
    with torch.no_grad(): next(broken.model.parameters()).fill_(float('nan'))
    with pytest.raises(ValueError, match='must be finite'): threshold_explorer(broken)


def content(img, format): f = io.BytesIO(); img.save(f, format); return f.getvalue()

@pytest.mark.parametrize('mode,format', [('L','PNG'), ('RGB','JPEG'), ('RGBA','PNG'), ('P','GIF'), ('1','BMP'), ('CMYK','TIFF'), ('I;16','PNG')])
def test_upload_kinds(ganomaly, mode, format):
    "What `load_image` reads from a file it also reads from an upload"
    img = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40,50), dtype=np.uint8))
    data = content(img.convert(mode), format)
    path = Path(tempfile.mkdtemp())/f'a.{format.lower()}'; path.write_bytes(data)
    station = scorer(ganomaly)
    upload(station, 'a', data)
    assert station.facts['score']==f'{ganomaly.predict(path)[2]:.4g}'


def upload(station, name, data): station.controls.upload.value = (dict(name=name, type='', size=len(data), content=memoryview(data), last_modified=datetime.now()),)


def test_bad_uploads(ganomaly, photos):
    "One clear message without pictures; the next good image brings them back; names are text, not HTML"
    station = scorer(ganomaly, photos)
    good = content(Image.fromarray(np.random.default_rng(0).integers(0, 256, (30,30), dtype=np.uint8)), 'PNG')
    for data in (b'', b'hello', good[:500], b'GIF89a'+bytes(20)):
        upload(station, '<b>x</b>.png', data)
        assert station.facts['error'].startswith('cannot read the image <b>x</b>.png: ') and 'BytesIO' not in station.facts['error']
        assert '<b>x' not in station.text.value and station.pictures.layout.display=='none'
    upload(station, 'good.png', good)
    assert 'score' in station.facts and station.pictures.layout.display=='flex'
    assert len(station.controls.image.options)==3                                 # the last upload and the folder
    (photos/'broken.png').write_bytes(b'')
    try: assert scorer(ganomaly, photos).controls.image.options[2][0]=='broken.png'
    finally: (photos/'broken.png').unlink()


def test_exported(ganomaly, photos):
    "A loaded learner has no images, but a calibration: enough to score, too little for the others"
    ganomaly.calibrate(fpr=.2)
    loaded = load_exported(ganomaly.export('m.pkl', overwrite=True))
    assert scorer(loaded, photos).facts==scorer(ganomaly, photos).facts
    with pytest.raises(ValueError, match='this loader is empty'): corruption_lab(loaded)
    loaded.calibration = None
    with pytest.raises(ValueError, match='held-out normals, found 0'): scorer(loaded)


# The training dashboard

class Screen:
    "Stands for a notebook: keeps what is displayed"
    def __init__(self): self.shown,self.updates = [],[]
    def display(self, o, display_id): self.shown.append(o); return self
    def update(self, o): self.updates.append(dict(o.facts))


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr('ganomaly_nb.widgets._in_notebook', lambda: True)
    monkeypatch.setattr('IPython.display.display', screen.display)
    return screen


def fit(dashboard=None, epochs=3, **kwargs): return make(kwargs.pop('name', 'ganomaly'), epochs=epochs, cbs=dashboard, **kwargs)


def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


@pytest.mark.parametrize('name', ['ganomaly','vae','egbad'])
def test_dashboard(screen, name):
    "Shown once, drawn after each epoch, left in the notebook at the end; the training is the same as without"
    board = TrainingDashboard(n_shown=3, seconds=1e9)
    learn = fit(board, name=name)
    assert len(screen.shown)==1 and screen.shown[0] is board.panel
    assert screen.updates==[board.panel.facts] and board.panel.facts['epoch']=='3 of 3'
    assert [i for i,_ in board.held_out]==[0,5,10,15] and len(board.rebuilt[0])==3
    torch.testing.assert_close(board.held_out[-1][1], score_all(learn, learn.dls.valid))
    assert set(board.panel.facts)=={'epoch','step',*learn.loss_func.names}
    assert len(board.panel.figures)==(4 if name=='vae' else 5)                       # a VAE has no discriminator
    assert torch.equal(weights(learn), weights(fit(name=name)))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(board.held_out)==5 and board.panel is screen.shown[1]                 # the same panel goes on


def test_dashboard_within_epochs(screen, monkeypatch):
    "`seconds` decides how often it is drawn"
    drawn = []
    monkeypatch.setattr(TrainingDashboard, 'draw', lambda self, f=TrainingDashboard.draw: (drawn.append(self.stage['step']), f(self)))
    fit(TrainingDashboard(seconds=1e9), epochs=2)
    assert drawn==[5,10]
    drawn.clear(); fit(TrainingDashboard(seconds=0), epochs=2)
    assert drawn==[1,2,3,4,5,5,6,7,8,9,10,10]


def test_dashboard_special_cases(screen):
    board = TrainingDashboard()
    learn = fit(board, dls=digits(held_out=0))                                       # no held-out normals: training images, no scores
    assert board.held_out==[] and len(board.rebuilt[0])==8
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=20, show_plot=False)
    assert len(screen.shown)==1                                                      # not while looking for a learning rate
    assert load_exported(learn.export('m.pkl')).training_dashboard.panel is None     # a learner that carries it is exported, without the view
    board = TrainingDashboard()
    learn = make(epochs=1)
    learn.to_bf16()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=board)
    assert board.rebuilt[1].dtype==torch.float32
    with pytest.raises(TypeError, match='too slow to watch'): fit(TrainingDashboard(), name='anogan')
    with pytest.raises(ValueError, match='no TermsCallback'):
        bare = make(epochs=0); bare.remove_cb(bare.ganomaly)
        with bare.no_bar(), bare.no_logging(): bare.fit(1, cbs=TrainingDashboard())


def test_dashboard_interrupted(screen):
    "After Ctrl-C the learner goes on, and so does the dashboard"
    class Impatient(Callback):
        def after_backward(self):
            if self.iter==1: raise KeyboardInterrupt
    learn,board = make(epochs=0),TrainingDashboard(seconds=0)
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[Impatient(), board])
        learn.fit(1, cbs=board)
    assert board.panel.facts['epoch']=='1 of 1' and torch.isfinite(weights(learn)).all()


def test_dashboard_in_a_script(tmp_path, env):
    "Silent where there is no notebook; what it has recorded can still be drawn into a file"
    (tmp_path/'train.py').write_text('''
import ganomaly_nb
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.widgets import TrainingDashboard
board = TrainingDashboard()
learn = ganomaly_learner(AnomalyDataLoaders.from_digits(held_out=.1, bs=32, n_train=96), nz=8, nf=4)
with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=board)
assert board.panel is None and len(board.held_out)==3
board.plot().static().save('training.png')
''')
    r = subprocess.run([sys.executable, '-W', 'error::UserWarning', 'train.py'], cwd=tmp_path, env={k:v for k,v in env.items() if k not in ('MPLBACKEND','DISPLAY')}, capture_output=True, text=True)
    assert (r.returncode, r.stdout, r.stderr)==(0, '', ''), r.stderr[-2000:]
    assert Image.open(tmp_path/'training.png').size[0]>300
