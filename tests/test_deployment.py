"Models outside of this package: in onnxruntime, in torch alone, without torch, behind a server."
import io, json, subprocess, sys, warnings, zipfile
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.images import load_image
import ganomaly_nb.maps # `learn.maps`
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.baselines.egbad import egbad_learner
from ganomaly_nb.baselines.fanogan import fanogan_learner
from ganomaly_nb.baselines.skip import skip_ganomaly_learner
from ganomaly_nb.baselines.alad import alad_learner
from ganomaly_nb.baselines.adae import adae_learner
from ganomaly_nb.deployment import *

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
examples = Path(__file__).parent.parent/'examples'
sys.path.insert(0, str(examples))
import score_onnx


@pytest.fixture(scope='module')
def dls(): return AnomalyDataLoaders.from_digits(abnormal=0, size=16, held_out=.2, bs=32)


@pytest.fixture(scope='module')
def learn(dls):
    "A learner with a score that is fitted"
    learn = ganomaly_learner(dls, nz=6, nf=8, lr=1e-3, score='neighbours', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.calibrate()
    return learn


@pytest.fixture(scope='module')
def file(learn, tmp_path_factory): return learn.export_onnx(tmp_path_factory.mktemp('onnx')/'m.onnx')


@pytest.fixture(scope='module')
def images(dls): return dls.test.dataset[range(len(dls.test.dataset))][0]


def with_score(learn, score, **kwargs):
    "A learner of another score with the same weights, and its threshold"
    other = ganomaly_learner(learn.dls, nz=6, nf=8, score=score, **kwargs)
    other.model.load_state_dict(learn.model.state_dict())
    other.calibrate()
    return other


def run(session, images):
    "What onnxruntime gives, by name"
    return {o.name:torch.tensor(v) for o,v in zip(session.get_outputs(), session.run(None, {'images':images.numpy()}))}


def check_same(found, learn, images):
    "The score is the learner's, and p-value and flag are those of that score"
    with learn.no_bar(): scores,_ = learn.get_preds(dl=learn.dls.test)
    maps = learn.maps(learn.dls.test)
    cal = learn.calibration
    assert (found['score']-scores).abs().max()<1e-4 and (found['map']-maps).abs().max()<1e-4
    assert (found['p_value']-cal.p_value(found['score'])).abs().max()<1e-6 and found['is_abnormal'].equal(cal.is_abnormal(found['score']))
    assert 0<found['is_abnormal'].sum()<len(images)


@pytest.mark.parametrize('score', ['l1','mse','mahalanobis','activations','neighbours','places'])
def test_scorer(learn, images, score):
    "The module that is exported, with every score"
    other = with_score(learn, score)
    with torch.no_grad(): check_same(PictureScorer(other)(images), other, images)


def test_ties_and_ends(learn, images):
    "A score that meets the threshold is normal, and one that meets a held-out score counts it; maps are of images in [0, 1]"
    scorer = PictureScorer(learn)
    with torch.no_grad():
        s = scorer(images[:5])['score']
        scorer.held_out,scorer.threshold = s.clone(),s[2].clone()
        found = scorer(images[:5])
    assert found['is_abnormal'].equal(s>s[2]) and found['is_abnormal'].any()
    assert found['p_value'].sort().values.tolist()==pytest.approx([2/6,3/6,4/6,5/6,1])
    assert scorer.decode(torch.tensor([-5.,0,5])).tolist()==[0,.5,1]


def test_same_brightness(learn, images, tmp_path):
    "Pictures of one brightness: the choice is in the file, and half the light makes no difference"
    other = with_score(learn, 'neighbours', normalise=.3)
    session = onnxruntime.InferenceSession(other.export_onnx(tmp_path/'m.onnx'))
    found = run(session, images)
    check_same(found, other, images)
    assert (run(session, images//2)['score']-found['score']).abs().mean()<.02*found['score'].mean()
    assert not np.allclose(found['score'], run(onnxruntime.InferenceSession(learn.export_onnx(tmp_path/'l.onnx')), images)['score'], atol=1e-2)


def test_onnx(learn, images, file):
    session = onnxruntime.InferenceSession(file)
    check_same(run(session, images), learn, images)
    assert run(session, images[:1])['score'].shape==(1,)
    with pytest.raises(Exception, match='Expected: 16'): run(session, images[...,:8])
    with pytest.raises(Exception, match='uint8'): run(session, images.float())


@pytest.mark.parametrize('score', ['mahalanobis','activations','places'])
def test_onnx_of_fitted_scores(learn, images, score):
    other = with_score(learn, score)
    check_same(run(onnxruntime.InferenceSession(as_onnx(other).SerializeToString()), images), other, images)


@pytest.mark.parametrize('make', [egbad_learner,fanogan_learner,skip_ganomaly_learner,alad_learner,adae_learner])
def test_colours_and_other_models(tmp_path, make):
    "Three channels, another scale, another model"
    x = np.random.default_rng(0).integers(0, 256, (90,16,16,3), dtype=np.uint8)
    dls = AnomalyDataLoaders.from_arrays(x[:70], x[70:], [0]*10+[1]*10, held_out=.4, bs=16, stats=(.4,.3))
    learn = make(dls, nz=4, nf=8)
    loaded = torch.export.load(learn.export_program(tmp_path/'m.pt2')).module()
    images = torch.tensor(x[70:]).permute(0,3,1,2)
    with learn.no_bar(): scores,_ = learn.get_preds(dl=dls.test)
    found = loaded(images)
    assert ((found['score']-scores)/scores).abs().max()<1e-4 and found['is_abnormal'].dtype==torch.bool


def test_learner_is_left_alone(learn, images):
    "Exporting changes neither weights nor threshold nor the mode of the model"
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    learn.model.train()
    as_program(learn)
    assert learn.model.training and learn.calibration is not None
    assert all(before[k].equal(v) for k,v in learn.model.state_dict().items())


def test_says_what_it_is_and_not_where_it_was_made(learn, file, tmp_path):
    about = json.loads(onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map['ganomaly_nb'])
    assert about==about_file(learn) and (about['channels'],about['height'],about['width'])==(1,16,16) and about['calibration']['n']==len(learn.calibration.scores)
    program = learn.export_program(tmp_path/'m.pt2')
    parts = [file.read_bytes()] + [zipfile.ZipFile(program).read(o) for o in zipfile.ZipFile(program).namelist()]
    for where in (torch.__file__, as_program.__code__.co_filename):
        assert not any(str(Path(where).parent).encode() in o for o in parts)


@pytest.mark.parametrize('export', ['export_onnx','export_program'])
def test_nothing_is_overwritten(learn, tmp_path, monkeypatch, export):
    there = tmp_path/'m'
    there.write_text('mine')
    with pytest.raises(FileExistsError, match='overwrite=True'): getattr(learn, export)(there)
    with pytest.raises(FileNotFoundError, match='no such folder'): getattr(learn, export)(tmp_path/'none'/'m')
    def broken(*args): raise ValueError('broken')
    monkeypatch.setattr('ganomaly_nb.deployment.as_program', broken)
    with pytest.raises(ValueError, match='broken'): getattr(learn, export)(there, overwrite=True)
    assert there.read_text()=='mine' and [o.name for o in tmp_path.iterdir()]==['m']


def test_without_the_extra(learn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ImportError, match=r'needs onnx: pip install ganomaly_nb\[onnx\]'): learn.export_onnx(tmp_path/'m.onnx')
    assert not list(tmp_path.iterdir())


def test_example_without_torch(learn, images, file, tmp_path):
    "The example scores a picture as `predict` does, in a process that never imports torch"
    Image.fromarray(images[0,0].numpy()).save(tmp_path/'a.png')
    code = f"import sys, runpy; sys.argv = ['score_onnx.py', {str(file)!r}, 'a.png']; runpy.run_path({str(examples/'score_onnx.py')!r}, run_name='__main__'); assert not {{'torch','fastai','ganomaly_nb'}} & set(sys.modules)"
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode==0, out.stderr
    found = dict(o.split('=') for o in out.stdout.split()[1:])
    label,is_abnormal,score = learn.predict(tmp_path/'a.png')
    assert abs(float(found['score'])-score)<1e-4 and float(found['is_abnormal'])==is_abnormal and set(found)=={'score','p_value','is_abnormal'}


def picture(mode):
    "A picture of 50 x 30 pixels"
    a = np.random.default_rng(1).integers(0, 256, (30,50,4), dtype=np.uint8)
    return Image.fromarray(a, 'RGBA').convert(mode) if mode!='LA' else Image.fromarray(a[...,:2].copy(), 'LA')


@pytest.mark.parametrize('channels', [1,3])
@pytest.mark.parametrize('mode', ['L','RGB','RGBA','LA','P','CMYK'])
def test_example_reads_as_the_package_does(mode, channels, tmp_path):
    file = tmp_path/('a.tif' if mode=='CMYK' else 'a.png')
    picture(mode).save(file)
    ours,theirs = load_image(file, 16, channels).numpy(),score_onnx.as_pixels(file, channels, 16, 16)
    assert ours.shape==theirs.shape and np.abs(ours.astype(int)-theirs).max()<=1


def test_example_turns_and_refuses(tmp_path):
    exif = Image.Exif()
    exif[274] = 6 # lies on its side
    picture('RGB').save(tmp_path/'a.png', exif=exif)
    assert np.abs(load_image(tmp_path/'a.png', 16, 3).numpy().astype(int)-score_onnx.as_pixels(tmp_path/'a.png', 3, 16, 16)).max()<=1
    Image.fromarray(np.full((9,9), 4000, np.uint16)).save(tmp_path/'deep.png')
    with pytest.raises(ValueError, match='8 bits a pixel expected, found mode I'): score_onnx.as_pixels(tmp_path/'deep.png', 1, 16, 16)


def test_example_pads_and_crops(tmp_path):
    "A picture that is twice as wide as high: bars above and below, or its middle half"
    a = np.full((20,40), 200, np.uint8)
    a[:,:8] = 100 # the left end
    Image.fromarray(a).save(tmp_path/'a.png')
    def fit(how): return score_onnx.as_pixels(tmp_path/'a.png', 1, 16, 16, how)[0].astype(int)
    padded = fit('pad')
    assert (padded[:4]==0).all() and (padded[12:]==0).all() and (padded[4:12,5:]==200).all() and (padded[4:12,:2]==100).all()
    assert (fit('crop')==200).all() # both ends are gone
    assert (fit('squash')[:,5:]==200).all() and (fit('squash')[:,:2]==100).all()
    assert score_onnx.as_pixels(tmp_path/'a.png', 1, 8, 24).shape==(1,8,24)


@pytest.mark.parametrize('fit', ['pad','crop'])
@pytest.mark.parametrize('size', [(16,16),(16,28),(32,20)], ids=str)
@pytest.mark.parametrize('was', [(30,50),(51,33),(8,90),(20,20)], ids=str)
def test_example_fits_as_the_package_does(tmp_path, was, size, fit):
    "Pictures that are wider, higher, smaller and narrower, with odd numbers of pixels left over"
    a = np.random.default_rng(2).integers(0, 256, was, dtype=np.uint8)
    Image.fromarray(a).save(tmp_path/'a.png')
    ours = load_image(tmp_path/'a.png', size, 1, fit=fit).numpy()
    theirs = score_onnx.as_pixels(tmp_path/'a.png', 1, *size, fit)
    assert ours.shape==theirs.shape==(1,*size) and np.abs(ours.astype(int)-theirs).max()<=1


def test_pictures_that_are_no_squares(tmp_path):
    "Height and width keep their order: in the file, in what it says, and in the example"
    x = np.random.default_rng(0).integers(0, 256, (60,16,28), dtype=np.uint8)
    dls = AnomalyDataLoaders.from_arrays(x[:40], x[40:], [0]*10+[1]*10, held_out=.5, bs=16, fit='pad')
    learn = ganomaly_learner(dls, nz=4, nf=4, seed=0)
    file = learn.export_onnx(tmp_path/'m.onnx')
    session = onnxruntime.InferenceSession(file)
    about = json.loads(session.get_modelmeta().custom_metadata_map['ganomaly_nb'])
    assert (about['height'],about['width'],about['fit'])==(16,28,'pad') and session.get_inputs()[0].shape[1:]==[1,16,28]
    found = run(session, torch.tensor(x[40:])[:,None])
    with learn.no_bar(): scores,_ = learn.get_preds(dl=dls.test)
    assert found['map'].shape==(20,16,28) and (found['score']-scores).abs().max()<1e-4
    Image.fromarray(x[40]).resize((90,30)).save(tmp_path/'a.png')
    assert abs(score_onnx.score(tmp_path/'a.png', session)['score']-learn.predict(tmp_path/'a.png')[2])<1e-2


@pytest.fixture(scope='module')
def client(file):
    testclient = pytest.importorskip('fastapi.testclient')
    import server
    return testclient.TestClient(server.make_app(str(file)))


def as_file(img, kind='png'):
    data = io.BytesIO()
    img.save(data, kind)
    return data.getvalue()


def test_server(client, learn, images):
    assert '<h1>Score a picture</h1>' in client.get('/').text
    img = Image.fromarray(images[0,0].numpy())
    found = client.post('/score', content=as_file(img))
    assert found.status_code==200 and abs(found.json()['score']-learn.predict(img)[2])<1e-4 and 'p-value' in found.json()['text']
    assert found.json()['map'].startswith('data:image/png;base64,')


@pytest.mark.parametrize('data,status,says', [(b'', 400, 'the file is empty'), (b'<svg>', 400, 'no picture'), (as_file(picture('RGB'))[:200], 400, 'cannot be'),
                                              (bytes(10_000_001), 413, 'larger than 10 MB'), (as_file(Image.new('1', (10_000,6_000))), 413, '10000 x 6000 pixels'),
                                              (as_file(Image.fromarray(np.full((9,9), 4000, np.uint16))), 400, '8 bits a pixel expected')])
def test_server_refuses(client, data, status, says):
    found = client.post('/score', content=data)
    assert found.status_code==status and says in found.json()['detail'] and 'Traceback' not in found.text
