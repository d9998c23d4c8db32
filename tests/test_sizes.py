"Pictures of any shape: every model takes them, the choice of size and fit travels, and few photographs work as they are."
import io
from contextlib import redirect_stderr, redirect_stdout
import numpy as np, pytest, torch
from PIL import Image
from ganomaly_nb import commands
from ganomaly_nb.baselines.anogan import anogan_learner
from ganomaly_nb.baselines.egbad import egbad_learner
from ganomaly_nb.baselines.fanogan import fanogan_learner
from ganomaly_nb.baselines.skip import skip_ganomaly_learner
from ganomaly_nb.baselines.alad import alad_learner
from ganomaly_nb.baselines.adae import adae_learner
from ganomaly_nb.baselines.vae import vae_learner
from ganomaly_nb.controls import controls, fit_control, control_scores
from ganomaly_nb.commands import ganomaly_score, ganomaly_train, read_card
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.files import read_state, write_state
from ganomaly_nb.learner import ganomaly_learner, load_exported, load_model


def photographs(folder, n, level=100, size=(40,20), seed=0):
    "Pictures of noise on a slope, `size` is width and height"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, level])
    for i in range(n):
        slope = np.linspace(0, 100, size[0])
        a = level + slope[None,:] + rng.normal(0, 8, size[::-1])
        Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(folder/f'{i:02}.png')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('photographs')
    photographs(path/'train'/'good', 30)
    photographs(path/'test'/'good', 4, seed=1)
    photographs(path/'test'/'bright', 4, level=150)
    return path


@pytest.fixture(scope='module')
def learn(folder):
    "A small model of wide pictures, padded"
    cache = folder.parent/'cache'
    dls = AnomalyDataLoaders.from_folder(folder, (16,28), 1, fit='pad', held_out=.63, bs=8, cache=cache)
    learn = ganomaly_learner(dls, nf=4, nz=4, seed=0, path=folder)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.calibrate()
    return learn


def quiet(f, *args, **kwargs):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err: f(*args, **kwargs)
    return out.getvalue(),err.getvalue()


# sizes

makers = dict(ganomaly=ganomaly_learner, vae=vae_learner, anogan=anogan_learner, egbad=egbad_learner, fanogan=fanogan_learner, skip=skip_ganomaly_learner, alad=alad_learner, adae=adae_learner)

@pytest.mark.parametrize('make', makers.values(), ids=makers)
@pytest.mark.parametrize('size', [(16,28),(24,16)], ids=str)
def test_every_model_takes_pictures_that_are_no_squares(make, size):
    images = torch.randint(0, 256, (24,1,*size), dtype=torch.uint8)
    dls = AnomalyDataLoaders.from_arrays(images, images[:4], [0,0,1,1], bs=8, held_out=.3)
    assert dls.size==size
    few = dict(steps=2, restarts=1) if make is anogan_learner else {}
    learn = make(dls, nf=4, nz=4, **few)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        scores,_ = learn.get_preds(dl=dls.test)
    assert scores.shape==(4,) and scores.isfinite().all()


@pytest.mark.parametrize('score', ['mse','mahalanobis','activations','neighbours'])
def test_every_score_takes_them(score, learn):
    other = ganomaly_learner(learn.dls, nf=4, nz=4, score=score)
    with other.no_bar(): scores,_ = other.get_preds(dl=learn.dls.test)
    assert scores.shape==(8,) and scores.isfinite().all()


@pytest.mark.parametrize('name', controls)
def test_every_control_takes_them(name, learn):
    assert len(control_scores(fit_control(name, learn.dls), learn.dls.test))==8


def test_pictures_are_drawn(learn):
    learn.show_results(max_n=2)
    x = learn.predict(learn.dls.test.dataset.items[0], with_input=True)[0]
    assert x.shape==(1,16,28)
    assert 'Total params' in str(learn.summary())


# the choice travels

def test_size_and_fit_travel_with_the_model(learn, folder, tmp_path):
    item = learn.dls.test.dataset.items[0]
    score = learn.predict(item)[2]
    learn.save_model(tmp_path/'m.safetensors')
    learn.export('m.pkl', overwrite=True)
    for other in (load_model(tmp_path/'m.safetensors'), load_exported(folder/'m.pkl')):
        assert (other.dls.size, other.dls.fit)==((16,28), 'pad')
        assert abs(other.predict(item)[2]-score)<1e-4*score
    other.dls.fit = 'squash' # the fit has an effect
    assert abs(other.predict(item)[2]-score)>1e-4*score


def test_a_file_of_an_earlier_release_squashes(learn, tmp_path):
    state = learn.model_state()
    del state['images']['fit']
    write_state(tmp_path/'old.safetensors', state, 'model')
    assert load_model(tmp_path/'old.safetensors').dls.fit=='squash'


def test_a_learner_pickled_by_an_earlier_release_squashes(learn):
    dls = learn.dls.new_empty()
    del dls.__dict__['fit']
    assert dls.fit=='squash' and dls.new_empty().fit=='squash'


def test_loaders_of_another_fit_are_refused(learn, folder):
    other = AnomalyDataLoaders.empty((16,28), 1, fit='crop')
    with pytest.raises(ValueError, match='fit=pad, found crop'): learn.dls = other
    with pytest.raises(ValueError, match=r'size=\(16, 28\), found 16'): learn.dls = AnomalyDataLoaders.empty(16, 1, fit='pad')


# the command

tiny = dict(size=(16,28), nc=1, nf=4, nz=4, epochs=2)

@pytest.fixture(scope='module')
def thirty(folder, tmp_path_factory, few_draws):
    "What the command makes of thirty photographs, with no word on batches and held-out share, and what it says"
    out = tmp_path_factory.mktemp('thirty')/'m.safetensors'
    return out,*quiet(ganomaly_train, folder, out, fit='crop', **tiny)


def test_thirty_photographs(thirty):
    file,out,err = thirty
    learn = load_model(file)
    assert len(learn.calibration.scores)==19 and learn.dls.train.bs==8
    assert err.count('are few')==1 and '19 are held out' in err and '11 are trained on' in err
    assert (learn.dls.size, learn.dls.fit)==((16,28), 'crop')
    assert 'fit=crop' in read_card(file)[0]


def test_scoring_fits_as_the_training_did(thirty, folder):
    rows,_ = quiet(ganomaly_score, thirty[0], folder/'test')
    file,score = rows.splitlines()[1].split(',')[:2]
    assert abs(load_model(thirty[0]).predict(file)[2]-float(score))<2e-5*float(score)


def test_too_few_photographs_is_one_message(folder, tmp_path):
    with pytest.raises(SystemExit) as e: quiet(ganomaly_train, folder, tmp_path/'m.safetensors', fpr=.03, **tiny)
    assert '30 normal images are too few' in e.value.code and 'needs 33' in e.value.code and '--fpr' in e.value.code
    assert not list(tmp_path.iterdir())


def test_patience_and_threads(folder, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, 'set_num_threads', asked.append)
    monkeypatch.setattr(commands, 'model_card', lambda learn: ['card'])
    _,err = quiet(ganomaly_train, folder, tmp_path/'m.safetensors', lr=.3, patience=1, threads=3, **{**tiny, 'epochs':30})
    assert asked==[3]
    assert 'ended after epoch' in err and err.count(': loss ')<30
    assert [o.name for o in tmp_path.iterdir()]==['m.safetensors']
