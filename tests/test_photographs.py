"Photographs in windows: the console, layouts of folders, and maps, on a made-up tree in MVTec AD's layout."
import re, subprocess, sys, warnings
import numpy as np, pytest, torch
from PIL import Image
from fastai.basics import get_model
from ganomaly_nb.commands import ganomaly_score, ganomaly_train
from ganomaly_nb.evaluation import AnomalyInterpretation
from ganomaly_nb.checkpoints import CheckpointCallback
from ganomaly_nb.learner import ganomaly_learner, load_model
from ganomaly_nb.maps import aupro, pixel_auroc
from ganomaly_nb.photographs import WindowDataLoaders, WindowDL


def save(a, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a.astype(np.uint8)).save(file)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    "bottle/train/good, bottle/test/{good,broken_small,contamination}, bottle/ground_truth/<kind>/*_mask.png"
    top = tmp_path_factory.mktemp('mvtec')/'bottle'
    rng = np.random.default_rng(0)
    def picture(): return rng.integers(150, 200, (40,24))
    for i in range(40): save(picture(), top/'train'/'good'/f'{i:03}.png')
    for i in range(4): save(picture(), top/'test'/'good'/f'{i:03}.png')
    for kind,height in (('broken_small',3), ('contamination',12)):
        for i in range(3):
            a,mask = picture(),np.zeros((40,24))
            a[20:20+height,5:15] = 0
            mask[20:20+height,5:15] = 255
            save(a, top/'test'/kind/f'{i:03}.png')
            save(mask, top/'ground_truth'/kind/f'{i:03}_mask.png')
    return top


@pytest.fixture(scope='module')
def model(tree, tmp_path_factory):
    file = tmp_path_factory.mktemp('model')/'m.safetensors'
    ganomaly_train(tree/'train'/'good', file, size=16, windows=8, worst=2, nc=1, epochs=1, bs=32, nz=4, nf=4, held_out=.5)
    return file


def test_console_speaks_of_pictures(tree, model, capsys):
    ganomaly_score(model, tree/'test')
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines)==1+10 # a row a picture
    learn = load_model(model)
    assert (learn.dls.windows,learn.dls.worst,len(learn.calibration.scores))==(8,2,20)
    for line in lines[1:]:
        file,score,_,flag = line.split(',')
        name,is_abnormal,own = learn.predict(file)
        assert abs(own-float(score))<1e-4*abs(own) and is_abnormal==bool(int(flag))


def test_card_tells_of_windows(model, capsys):
    ganomaly_score(model, card=True)
    said = capsys.readouterr().out
    assert 'windows=8' in said and 'worst=2' in said and '20 images' in said


def test_small_picture_is_named(model, tmp_path, capsys):
    save(np.zeros((12,40)), tmp_path/'small.png')
    with pytest.raises(SystemExit) as e: ganomaly_score(model, tmp_path)
    assert 'small.png: its sides of 40 x 12 pixels are too small for a window of 16' in str(e.value)


def test_windows_option_is_checked(tree, tmp_path):
    for how,what in ((dict(windows=17),'there would be gaps'), (dict(windows=8, worst=0),'worst must be')):
        with pytest.raises(SystemExit) as e: ganomaly_train(tree, tmp_path/'m', size=16, nc=1, epochs=1, bs=8, **how)
        assert what in str(e.value)


def test_maps_of_the_layout(tree, model):
    "Masks named *_mask.png are found; each kind of defect has its row; normals have empty masks"
    learn = load_model(model)
    learn.dls = WindowDataLoaders.from_folder(tree, size=16, windows=8, worst=2, nc=1, held_out=.5, bs=32, cache=tree.parent/'cache')
    interp = AnomalyInterpretation.from_learner(learn)
    assert interp.kinds==['broken_small']*3+['contamination']*3+['normal']*4
    assert [int(interp.mask_of(i).sum()) for i in range(10)]==[30]*3+[120]*3+[0]*4
    table = interp.pixel_summary()
    assert list(table.index)==['broken_small','contamination','all'] and list(table.pictures)==[3,3,6]
    its = [0,1,2,6,7,8,9]
    pair = [interp.map_of(i) for i in its],[interp.mask_of(i) for i in its]
    assert table.loc['broken_small'].tolist()[1:]==[pixel_auroc(*pair),aupro(*pair)]


def test_map_of_windows_is_the_mean_of_theirs(tree, model):
    "Against a stitching that visits every pixel"
    learn = load_model(model)
    file = tree/'test'/'contamination'/'000.png'
    found = learn.anomaly_map(file)
    x = np.asarray(Image.open(file), np.float32)/127.5-1
    total,count = np.zeros(x.shape),np.zeros(x.shape)
    m = get_model(learn.model).eval()
    for top in (0,8,16,24):
        for left in (0,8):
            here = slice(top, top+16),slice(left, left+16)
            with torch.no_grad(): out = m(torch.tensor(x[here])[None,None])
            total[here] += (out[0]-out[1]).abs()[0,0].numpy()/2
            count[here] += 1
    assert found.shape==(40,24)
    np.testing.assert_allclose(found, total/count, atol=1e-5)


def test_false_alarms_are_per_picture(tree, model):
    "The threshold is the one of held-out pictures, whatever a window scores"
    learn = load_model(model)
    learn.dls = WindowDataLoaders.from_folder(tree, size=16, windows=8, worst=2, nc=1, held_out=.5, bs=32, cache=tree.parent/'cache')
    with learn.no_bar():
        of_pictures = learn.get_preds(dl=learn.dls.valid)[0]
        of_windows = learn.get_preds(dl=learn.dls.valid.first())[0]
    assert len(of_pictures)==20 and len(of_windows)==20*8
    by_hand = [s.sort().values[-2:].mean() for s in of_windows.split(8)]
    torch.testing.assert_close(of_pictures, torch.stack(by_hand))
    assert learn.calibrate().threshold==of_pictures.sort().values[-1].item()


def test_light_is_the_mean_over_the_windows_of_a_picture(tree, model):
    "Brightness and contrast that a threshold is kept with: of every window, then of the picture"
    learn = load_model(model)
    learn.dls = WindowDataLoaders.from_folder(tree, size=16, windows=8, worst=2, nc=1, held_out=.5, bs=32, cache=tree.parent/'cache')
    learn.calibrate()
    assert learn.light.shape==(20,2)
    for file,light in zip(learn.dls.valid.dataset.items, learn.light):
        x = np.asarray(Image.open(file))/255
        windows = [x[top:top+16,left:left+16] for top in (0,8,16,24) for left in (0,8)]
        np.testing.assert_allclose(light, [np.mean([o.mean() for o in windows]), np.mean([o.std() for o in windows])], rtol=1e-4)


def test_a_training_goes_on_with_the_same_windows_only(tree, tmp_path):
    "Another step means other windows, although pictures, sizes and batches are alike"
    def learner(windows):
        dls = WindowDataLoaders.from_folder(tree, size=16, windows=windows, nc=1, held_out=.5, bs=32, cache=tree.parent/'cache')
        return ganomaly_learner(dls, nz=4, nf=4, seed=0, path=tmp_path)
    def fit(learn, n, **how):
        with learn.no_bar(), learn.no_logging(): learn.fit(n, **how)
    file = tmp_path/'half'
    fit(learner(8), 1, cbs=CheckpointCallback(file))
    fit(learner(8), 2, resume=file)
    with pytest.raises(ValueError, match='windows was 8, found 12'): fit(learner(12), 2, resume=file)


def test_the_command_goes_on_with_the_same_windows_only(tree, tmp_path, monkeypatch):
    out,how = tmp_path/'m.safetensors',dict(size=16, nc=1, bs=32, nz=4, nf=4, held_out=.5)
    def full(*args): raise OSError('the disk is full')
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match='the disk is full'):
        patch.setattr('ganomaly_nb.commands.write_model', full)
        ganomaly_train(tree, out, windows=8, epochs=1, **how)
    with pytest.raises(SystemExit, match='windows was 8, found 12'): ganomaly_train(tree, out, windows=12, epochs=2, resume=True, **how)
    assert not out.exists()


def test_every_class_can_be_the_anomaly(tree):
    "Folders of classes in windows, on which a learner trains, and an official test set"
    dls = WindowDataLoaders.from_class_folders(tree/'test', 'contamination', size=16, windows=8, nc=1, held_out=.2, bs=8, cache=tree.parent/'cache')
    assert [len(o.dataset) for o in dls.loaders]==[4,1,2+3] and dls.test.dataset.y.sum()==3
    assert {f.parent.name for f in [*dls.train.dataset.items, *dls.valid.dataset.items]}=={'good','broken_small'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = ganomaly_learner(dls, nz=4, nf=4, seed=0)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert learn.get_preds(dl=dls.test)[0].shape==(5,)
