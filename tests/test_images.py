"Images as people have them: every mode, size and orientation, and what is broken."
import itertools
import numpy as np, pytest, torch
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders, load_image

rng = np.random.default_rng(0)
modes = ['1','L','LA','P','RGB','RGBA','CMYK','YCbCr','HSV','LAB','I','I;16']


def image(mode, size):
    "A picture whose left half is dark and whose right half is bright"
    w,h = size
    a = np.full((h,w), 30, np.uint8); a[:,w//2:] = 220
    if mode=='I;16': return Image.fromarray(a.astype(np.uint16)*257)
    if mode=='I': return Image.fromarray(a.astype(np.int32)*257)
    return Image.fromarray(a).convert('RGB').convert(mode)


@pytest.mark.parametrize('mode,size,nc', list(itertools.product(modes, [(40,40),(90,31),(17,200)], [1,3])))
def test_mode(mode, size, nc):
    x = load_image(image(mode, size), 32, nc)
    assert x.shape==(nc,32,32) and x.dtype==torch.uint8
    dark,bright = x[...,:14].float().mean(),x[...,18:].float().mean()
    if mode=='1': assert dark<60 and bright>190 # black and white only
    else: assert abs(dark-30)<12 and abs(bright-220)<12


@pytest.mark.parametrize('ext,mode', [('png','I;16'),('tif','I;16'),('png','LA'),('png','P'),('gif','P'),('jpg','CMYK'),('jpg','L'),('webp','RGBA'),('bmp','RGB'),('tif','CMYK')])
def test_file(ext, mode, tmp_path):
    image(mode, (60,50)).save(tmp_path/f'a.{ext}')
    x = load_image(tmp_path/f'a.{ext}', 16, 1)
    assert abs(x[...,:7].float().mean()-30)<12 and abs(x[...,9:].float().mean()-220)<12


@pytest.mark.parametrize('orientation', range(1,9))
def test_exif(orientation, tmp_path):
    "Whatever way the camera was held, the bright corner is where a viewer shows it"
    a = np.zeros((40,40), np.uint8); a[:10,:10] = 255
    img = Image.fromarray(a); img.getexif()[274] = orientation
    img.save(tmp_path/'a.jpg', exif=img.getexif(), quality=95)
    corners = load_image(tmp_path/'a.jpg', 16, 1)[0].float()
    corner = {1:(0,0),2:(0,-1),3:(-1,-1),4:(-1,0),5:(0,0),6:(0,-1),7:(-1,-1),8:(-1,0)}[orientation]
    assert corners[corner]>200 and corners.mean()<60


def test_palette_with_transparency(tmp_path):
    img = Image.new('P', (20,20), 0); img.putpalette([200,0,0, 0,0,200]); img.paste(1, (0,0,10,20))
    img.save(tmp_path/'a.png', transparency=0)
    x = load_image(tmp_path/'a.png', 16)
    assert x[:,8,14].tolist()==[255]*3 and x[:,8,2].tolist()==[0,0,200]


@pytest.mark.parametrize('data', [b'', b'\x89PNG\r\n\x1a\n', b'GIF89a', bytes(rng.integers(0, 256, 500, dtype=np.uint8))], ids=['empty','png-head','gif-head','noise'])
def test_broken_file(data, tmp_path):
    (tmp_path/'bad.png').write_bytes(data)
    with pytest.raises(ValueError, match='bad.png'): load_image(tmp_path/'bad.png')


@pytest.mark.parametrize('cut', [.1,.5,.9])
def test_truncated(cut, tmp_path):
    Image.fromarray(rng.integers(0, 256, (64,64,3), dtype=np.uint8)).save(tmp_path/'a.jpg')
    data = (tmp_path/'a.jpg').read_bytes()
    (tmp_path/'a.jpg').write_bytes(data[:int(cut*len(data))])
    with pytest.raises(ValueError, match='a.jpg'): load_image(tmp_path/'a.jpg')


def test_interrupted_cache_is_made_again(tmp_path, monkeypatch):
    "Decoding that breaks off leaves no cache behind, and the next call decodes again"
    from ganomaly_nb import images as data
    files = []
    for i in range(5): files.append(tmp_path/f'{i}.png'); Image.new('L', (20,20), i).save(files[-1])
    def interrupted(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(data, '_write_block', interrupted)
        with pytest.raises(KeyboardInterrupt): data.read_images(files, 16, 1, cache=tmp_path/'cache')
    assert not list((tmp_path/'cache').iterdir())
    assert data.read_images(files, 16, 1, cache=tmp_path/'cache')[0][:,0,0,0].tolist()==list(range(5))


def test_last_batch_of_one():
    "65 images in batches of 32: the last batch holds one image, and scores and training are fine with it"
    from ganomaly_nb.learner import ganomaly_learner
    x = rng.integers(0, 256, (66,16,16), dtype=np.uint8)
    dls = AnomalyDataLoaders.from_arrays(x[:65], x[:33], np.arange(33)%2, held_out=0, bs=32)
    learn = ganomaly_learner(dls, nf=4, nz=4)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        scores,_ = learn.get_preds(dl=dls.test)
        alone,_ = learn.get_preds(dl=dls.test.new(bs=1))
    assert scores.shape==(33,)
    torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)
