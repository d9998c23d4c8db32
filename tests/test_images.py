"Images as people have them: every mode, size and orientation, and what is broken."
import itertools, os, signal, struct, subprocess, sys, time, tracemalloc, warnings, zlib
from functools import partial
import numpy as np, pytest, torch
from PIL import Image, ImageFile
from ganomaly_nb import cache, images
from ganomaly_nb.data import AnomalyDataLoaders, load_image
from ganomaly_nb.images import LazyImages, as_pixels, digest, file_digests, find_white, image_files, read_images

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
    files = []
    for i in range(5): files.append(tmp_path/f'{i}.png'); Image.new('L', (20,20), i).save(files[-1])
    def interrupted(*args, **kwargs): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(images, '_write_block', interrupted)
        with pytest.raises(KeyboardInterrupt): read_images(files, 16, 1, cache=tmp_path/'cache')
    assert not list((tmp_path/'cache').iterdir())
    assert read_images(files, 16, 1, cache=tmp_path/'cache')[0][:,0,0,0].tolist()==list(range(5))


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


# --- pixels in memory

def flaws():
    "Name, pixels, keyword arguments, and what the error must say"
    grey = np.zeros((40,32), np.uint8)
    yield 'one number', np.uint8(3), {}, '2 or 3 dimensions'
    yield 'None', None, {}, '2 or 3 dimensions'
    yield 'a row', grey[0], {}, '2 or 3 dimensions'
    yield 'no pixels', grey[:0], {}, 'without pixels'
    yield 'a batch', np.zeros((9,1,40,32), np.uint8), {}, '2 or 3 dimensions'
    yield 'one image for a batch', np.zeros((40,32,3), np.uint8), dict(batch=True), 'found one image'
    yield 'five dimensions', np.zeros((2,2,3,4,4), np.uint8), dict(batch=True), '2 or 3 dimensions'
    yield 'rgba', np.zeros((40,32,4), np.uint8), {}, '4 channels .RGB with alpha'
    yield 'rgba, first', torch.zeros(4,40,32), {}, '4 channels .RGB with alpha'
    yield 'grey with alpha', np.zeros((40,32,2), np.uint8), {}, '2 channels .grey with alpha'
    yield 'bands', np.zeros((8,5,40,32), np.uint8), dict(batch=True), '5 channels'
    yield 'both ends', np.zeros((3,40,3), np.uint8), {}, "layout='CHW' or layout='HWC'"
    yield 'both ends, tensor', torch.zeros(8,1,40,3), dict(batch=True), "layout='CHW' or layout='HWC'"
    yield 'layout against shape', np.zeros((40,32,3), np.uint8), dict(layout='CHW'), '40 channels'
    yield 'no such layout', np.zeros((40,32,3), np.uint8), dict(layout='WHC'), 'layout must be'
    yield 'nan', np.full((40,32), np.nan), {}, 'finite'
    yield 'infinity in a batch', np.stack([grey/1., grey-np.inf]), dict(batch=True), 'image 1 must be finite'
    yield 'not divided', grey+255., {}, 'divide them by 255'
    yield 'normalised', grey-1., {}, r'\[0, 1\], found -1'
    yield 'just above 1', grey+1.001, {}, r'\[0, 1\]'
    yield 'half precision', torch.full((40,32), 2., dtype=torch.bfloat16), {}, r'\[0, 1\]'
    yield 'bool', grey==0, {}, 'bool: a mask'
    yield 'int64', grey.astype(int), {}, 'int64.*need `white`'
    yield 'int64 tensor', torch.zeros(40,32, dtype=torch.int64), {}, 'int64.*need `white`'
    yield 'complex', grey+1j, {}, 'complex'
    yield 'objects', np.array([[None]*3]*4), {}, 'object'
    yield 'above white', np.full((4,4), 4096, np.uint16), dict(white=4095), 'white=4095, found 4096'
    yield 'below black', np.full((4,4), -1), dict(white=4095), 'found -1'
    for white in (0, -1, 65536, 4095.5, True, '12'):
        yield f'white={white!r}', grey, dict(white=white), 'white must be a whole number'


@pytest.mark.parametrize('pixels,kwargs,message', [pytest.param(*o[1:], id=o[0]) for o in flaws()])
def test_pixels_refused(pixels, kwargs, message):
    with pytest.raises(ValueError, match=message): as_pixels(pixels, **kwargs)


def test_pixels_taken():
    "However the numbers lie in memory, and wherever the channels are"
    x = rng.integers(0, 256, (5,7,6,3), dtype=np.uint8)
    want = torch.tensor(x.transpose(0,3,1,2).copy())
    fixed = x.copy()
    fixed.setflags(write=False)
    for y in (x, fixed, np.asfortranarray(x), x[...,::-1][...,::-1], want, want.numpy(), want.to(memory_format=torch.channels_last)):
        assert torch.equal(as_pixels(y, batch=True), want)
    assert torch.equal(as_pixels(x/255, batch=True), want)
    assert torch.equal(as_pixels(torch.tensor(x/255).half(), batch=True), want)
    assert torch.equal(as_pixels(x.astype(np.uint16)*257, batch=True), want)
    assert torch.equal(as_pixels(x.astype('>u2')*257, batch=True, white=65535), want)
    assert torch.equal(as_pixels(x[:,:,:,::-1], batch=True), want.flip(1))
    assert torch.equal(as_pixels(x[:,::-1,::2], batch=True), want.flip(2)[...,::2])
    tie = x[0,:3]
    assert torch.equal(as_pixels(tie, layout='HWC'), want[0,:,:3])
    assert torch.equal(as_pixels(tie, layout='CHW'), torch.tensor(tie))
    y = as_pixels(x, batch=True)
    x[:] = 0
    assert torch.equal(y, want) # a copy


def said(f, *args, **kwargs):
    "Result, and the texts of the warnings"
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        return f(*args, **kwargs),[str(w.message) for w in ws]


@pytest.mark.parametrize('bits', [9,10,12,14,16])
def test_depth_is_found(bits, tmp_path):
    "A ramp of any depth keeps its greys, in memory and from a file, and a guess is told"
    a = np.linspace(0, 2**bits-1, 4096).reshape(64,64).astype(np.uint16)
    Image.fromarray(a).save(tmp_path/'a.png')
    white = find_white([tmp_path/'a.png'])
    assert white=={9:1023, 10:1023, 12:4095, 14:16383, 16:65535}[bits]
    for x in (a, tmp_path/'a.png', Image.fromarray(a), Image.fromarray(a.astype(np.int32))):
        y,ws = said(load_image, x, None, 1)
        assert len(y.unique())>=128 and len(ws)==(bits<16)
        assert all(f'white={white}' in w for w in ws)
        assert said(load_image, x, None, 1, white=white)[1]==[]
        assert torch.equal(load_image(x, None, 1, white=white), y)


def test_few_levels_are_a_warning(tmp_path):
    "At 16 levels there is one, at 17 there is none, and none where there were no more"
    wide = np.arange(4096).reshape(64,64).astype(np.uint16)
    assert len(said(as_pixels, wide, white=65535)[1])==1 # 16 are left
    assert said(as_pixels, np.pad(wide, 1, constant_values=4096+257), white=65535)[1]==[] # 17
    assert said(as_pixels, wide//4096*65535, white=65535)[1]==[]
    assert len(said(as_pixels, wide/4096/17)[1])==1 # fractions that use a seventeenth of the range
    assert said(as_pixels, wide/4096)[1]==[]


def png_of_16_bit_colours(a):
    "Pillow writes none: width, height, 16 bits, and 2 for RGB"
    def chunk(kind, data): return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
    rows = b''.join(b'\0'+row.astype('>u2').tobytes() for row in a)
    head = struct.pack('>IIBBBBB', a.shape[1], a.shape[0], 16, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', head)+chunk(b'IDAT', zlib.compress(rows))+chunk(b'IEND', b'')


def test_deep_colours(tmp_path):
    a = np.linspace(0, 4095, 64*64*3).reshape(64,64,3)
    (tmp_path/'12.png').write_bytes(png_of_16_bit_colours(a))
    (tmp_path/'16.png').write_bytes(png_of_16_bit_colours(a*16))
    x,ws = said(load_image, tmp_path/'12.png', None)
    assert len(ws)==1 and '12.png: 16 or fewer levels' in ws[0]
    x,ws = said(load_image, tmp_path/'16.png', None)
    assert ws==[] and len(x.unique())==256
    with pytest.raises(ValueError, match='12.png: 16-bit colours'): load_image(tmp_path/'12.png', white=4095)


@pytest.mark.parametrize('top', [-1,65536,2**31-1])
def test_more_than_16_bits(top, tmp_path):
    Image.fromarray(np.array([[0,top]], np.int32)).save(tmp_path/'a.tif')
    with pytest.raises(ValueError, match='a.tif: grey values'): load_image(tmp_path/'a.tif', 16, 1)
    Image.fromarray(np.array([[0,900]], np.uint16)).save(tmp_path/'b.png')
    assert find_white([tmp_path/'a.tif',tmp_path/'b.png'])==1023 # reading the first is an error anyway
    _,bad = read_images([tmp_path/'a.tif',tmp_path/'b.png'], 16, 1, 'skip', tmp_path/'cache')
    assert list(bad)==[0]


@pytest.mark.parametrize('ext', ['tif','gif','webp','png','apng'])
def test_several_pages(ext, tmp_path):
    pages = [Image.new('RGB', (20,20), (80*i,0,0)) for i in range(3)]
    pages[0].save(tmp_path/f'a.{ext}', save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=f'a.{ext}: one picture expected, found 3 pages'): load_image(tmp_path/f'a.{ext}')
    pages[0].save(tmp_path/f'b.{ext}', save_all=True)
    load_image(tmp_path/f'b.{ext}')


def test_photo_with_helpers(tmp_path):
    "A phone's MPO: one photo, and a small copy"
    Image.new('RGB', (40,40), (200,0,0)).save(tmp_path/'a.jpg', 'MPO', save_all=True, append_images=[Image.new('RGB', (8,8))])
    assert load_image(tmp_path/'a.jpg', 16)[0].min()>190


def test_fractions_in_files(tmp_path):
    Image.fromarray(np.full((8,8), .5, np.float32)).save(tmp_path/'a.tif')
    assert load_image(tmp_path/'a.tif', 4, 1).unique().tolist()==[128]
    Image.fromarray(np.full((8,8), 200, np.float32)).save(tmp_path/'b.tif')
    with pytest.raises(ValueError, match='b.tif: float pixels must lie in .0, 1., found 0 to 200: divide'): load_image(tmp_path/'b.tif', 4, 1)


def test_flat_pictures(tmp_path):
    "One or three pixels high: a file has no doubt about its layout"
    for size in ((9,1),(9,3),(1,9),(3,9)):
        Image.new('RGB', size, (9,8,7)).save(tmp_path/'a.png')
        assert load_image(tmp_path/'a.png', 4)[:,0,0].tolist()==[9,8,7]


@pytest.mark.parametrize('kwargs,message', [(dict(nc=4),'nc must'), (dict(nc=2),'nc must'), (dict(nc=True),'nc must'), (dict(size=0),'size must'), (dict(size=16.),'size must'),
                                            (dict(size='16'),'size must'), (dict(fit='fill'),'fit must'), (dict(white=70000),'white must'), (dict(white=0),'white must')])
def test_settings_before_images(kwargs, message, tmp_path):
    "A wrong setting is no image's fault, and is told even where every image is bad"
    (tmp_path/'a.png').write_bytes(b'')
    for f in (lambda: load_image(tmp_path/'a.png', **kwargs), lambda: LazyImages([tmp_path/'a.png'], **kwargs),
              lambda: read_images([tmp_path/'a.png'], on_error='skip', cache=tmp_path/'cache', **kwargs)):
        with pytest.raises(ValueError, match=message): f()
    assert not (tmp_path/'cache').exists()


# --- which files

def test_links(tmp_path):
    "Loops end, two folders that link to each other too; a folder that is linked twice is there twice"
    for d in 'ab':
        (tmp_path/d).mkdir()
        Image.new('L', (4,4)).save(tmp_path/d/'x.png')
    (tmp_path/'a/to_b').symlink_to(tmp_path/'b')
    (tmp_path/'b/to_a').symlink_to(tmp_path/'a')
    (tmp_path/'self').symlink_to(tmp_path)
    (tmp_path/'gone.png').symlink_to(tmp_path/'nothing')
    found = {f.relative_to(tmp_path).as_posix() for f in image_files(tmp_path)}
    assert found=={'a/x.png','b/x.png','a/to_b/x.png','b/to_a/x.png','gone.png'}


def test_no_table_of_mime_types(tmp_path, monkeypatch):
    import mimetypes
    monkeypatch.setattr(mimetypes, 'guess_type', lambda *args, **kwargs: (None,None))
    monkeypatch.setattr(mimetypes, 'types_map', {})
    for ext in ('webp','png','JPG','jp2','avif','tif','heic'): (tmp_path/f'a.{ext}').touch()
    assert len(image_files(tmp_path))==7


# --- the cache

def numbered(folder, n, mode='RGB'):
    "Files whose grey is their number"
    folder.mkdir(exist_ok=True)
    files = [folder/f'{i}.png' for i in range(n)]
    for i,f in enumerate(files): Image.new(mode, (9,9), (i,)*3 if mode=='RGB' else i).save(f)
    return files


def test_key(tmp_path, monkeypatch):
    "All that pixels depend on is in the key: channels, size, white, content, order, and the decoder"
    files = numbered(tmp_path/'a', 3)
    deep = [tmp_path/'d.png']
    Image.fromarray(np.full((9,9), 900, np.uint16)).save(deep[0])
    read = partial(read_images, cache=tmp_path/'cache')
    assert read(files, 16, 3)[0].shape==(3,3,16,16)
    assert read(files, 16, 1)[0].shape==(3,1,16,16)
    assert read(files, 8, 1)[0].shape==(3,1,8,8)
    assert [read(deep, 16, 1, white=w)[0].max() for w in (1023,4095,None)]==[224,56,224]
    assert read(files[::-1], 16, 1)[0][:,0,0,0].tolist()==[2,1,0]
    for module,name,new in ((cache,'__version__','9.9'), (cache.PIL,'__version__','99.0'), (cache,'format_number',99), (ImageFile,'LOAD_TRUNCATED_IMAGES',True)):
        before = digest(files)
        with monkeypatch.context() as m:
            m.setattr(module, name, new)
            assert digest(files)!=before
        assert digest(files)==before


def test_skipped_then_raised(tmp_path):
    "What `on_error` is does not hang on who filled the cache"
    files = numbered(tmp_path/'a', 3)
    files[1].write_bytes(b'broken')
    read = partial(read_images, files, 16, 1, cache=tmp_path/'cache')
    with pytest.raises(ValueError, match='1.png'): read()
    x,bad = read(on_error='skip')
    assert list(bad)==[1] and x[:,0,0,0].tolist()==[0,0,2]
    with pytest.raises(ValueError, match='1.png'): read(on_error='raise')
    with pytest.raises(ValueError, match="'raise' or 'skip', found 'ignore'"): read(on_error='ignore')


def test_messages_of_today(tmp_path):
    files = numbered(tmp_path/'old', 2)
    files[1].write_bytes(b'broken')
    Image.fromarray(np.full((9,9), 4000, np.uint16)).save(files[0])
    (_,bad),ws = said(read_images, files, 16, 1, 'skip', tmp_path/'cache', 65535)
    assert 'old' in bad[1]
    (tmp_path/'old').rename(tmp_path/'new')
    files = [tmp_path/'new'/f.name for f in files]
    (_,bad),ws = said(read_images, files, 16, 1, 'skip', tmp_path/'cache')
    assert 'new' in bad[1] and 'old' not in bad[1]


def test_warnings_are_not_swallowed_by_the_cache(tmp_path):
    for i,d in enumerate(('old','new')):
        (tmp_path/d).mkdir()
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64,64)).save(tmp_path/d/'a.png')
        _,ws = said(read_images, [tmp_path/d/'a.png']*3, 16, 1, 'raise', tmp_path/'cache', 65535)
        assert len(ws)==1 and ws[0].startswith('3 of 3 images: 16 or fewer') and d in ws[0]
    assert len(list((tmp_path/'cache').iterdir()))==1


@pytest.fixture
def later(monkeypatch):
    "Ten seconds from now, when the index trusts files made a moment ago; it counts the files that are read"
    now,read = time.time,[]
    whole = cache._digest_file
    def counted(f):
        read.append(f)
        return whole(f)
    monkeypatch.setattr(cache.time, 'time', lambda: now()+10)
    monkeypatch.setattr(cache, '_digest_file', counted)
    return read


def test_index(tmp_path, later):
    "A file is read once; after any change it is read again, even if size and date are put back"
    files = [tmp_path/str(i) for i in range(3)]
    for f in files: f.write_text(f.name)
    first = file_digests(files)
    assert len(later)==3 and file_digests(files)==first and len(later)==3
    before = files[0].stat()
    files[0].write_bytes(files[1].read_bytes())
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (files[0].stat().st_size, files[0].stat().st_mtime_ns)==(before.st_size, before.st_mtime_ns)
    assert file_digests(files)==[first[1],*first[1:]] and len(later)==4
    files[2].replace(files[0])
    assert file_digests(files)[0]==first[2]
    assert file_digests(files)[2].startswith('cannot be read: ')


def test_fresh_files_are_not_indexed(tmp_path, monkeypatch):
    "Within two seconds of a change nothing is trusted; a clock that is behind is no reason for trust either"
    files = numbered(tmp_path/'a', 1)
    now = time.time
    for shift,trusted in ((-100,False), (0,False), (1.5,False), (2.5,True)):
        monkeypatch.setattr(cache.time, 'time', lambda: files[0].stat().st_ctime+shift)
        assert (cache._digest_file(files[0])[1] is not None)==trusted


@pytest.mark.parametrize('damage', ['text','folder','read-only'])
def test_index_is_not_needed(damage, tmp_path, monkeypatch):
    home = tmp_path/'home'
    home.mkdir()
    if damage=='text': (home/'index.sqlite').write_text('this is no database')
    if damage=='folder': (home/'index.sqlite').mkdir()
    if damage=='read-only': home.rmdir(); home.write_text('in the way')
    whole = cache.cache_folder
    monkeypatch.setattr(cache, 'cache_folder', lambda folder=None: whole(folder or home))
    files = numbered(tmp_path/'a', 3)
    assert len(set(file_digests(files)))==3
    assert read_images(files, 16, 1, cache=tmp_path/'cache')[0][:,0,0,0].tolist()==[0,1,2]


@pytest.mark.parametrize('cut', [0,1,20,1000])
def test_damaged_block_is_made_again(cut, tmp_path):
    files = numbered(tmp_path/'a', 3)
    read_images(files, 16, 1, cache=tmp_path/'cache')
    block, = (tmp_path/'cache').iterdir()
    block.write_bytes(block.read_bytes()[:-cut] if cut else b'')
    assert read_images(files, 16, 1, cache=tmp_path/'cache')[0][:,0,0,0].tolist()==[0,1,2]


code = '''
import os, sys, warnings
os.getpid = lambda: 1 # as in a container
warnings.simplefilter('ignore')
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from ganomaly_nb.images import read_images
folder,cache = map(Path, sys.argv[1:])
files = sorted(folder.iterdir(), key=lambda f: int(f.stem))
def read(_): return read_images(files, 32, 1, cache=cache)[0][:,0,0,0].tolist()
with ThreadPoolExecutor(3) as pool: seen = list(pool.map(read, range(3)))
assert seen==[list(range(len(files)))]*3
'''


@pytest.mark.slow
def test_two_on_one_cache(tmp_path):
    "Two processes that both have the number 1, as in two containers, of three threads each"
    numbered(tmp_path/'a', 200, 'L')
    args = [sys.executable, '-c', code, str(tmp_path/'a'), str(tmp_path/'cache')]
    running = [subprocess.Popen(args, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for p in running: assert p.communicate(timeout=120)[1][-500:]=='' or p.returncode==0
    assert [p.returncode for p in running]==[0,0]
    assert len(list((tmp_path/'cache').iterdir()))==1


full = '''
import resource, signal, sys, warnings
warnings.simplefilter('ignore')
from pathlib import Path
from ganomaly_nb.images import read_images
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,20_000))
files = [Path(sys.argv[1])]*100
try: read_images(files, 64, 1, cache=sys.argv[2])
except OSError as e: print(e)
'''


@pytest.mark.slow
def test_no_space(tmp_path):
    "A file that may not grow: one error before any work, and nothing left"
    file, = numbered(tmp_path/'a', 1)
    r = subprocess.run([sys.executable, '-c', full, str(file), str(tmp_path/'cache')], capture_output=True, text=True)
    assert r.returncode==0 and 'the cache needs 0 MB' in r.stdout and str(tmp_path/'cache') in r.stdout
    assert list((tmp_path/'cache').iterdir())==[]


slow = '''
import signal, sys, time, warnings
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell in the background ignores it
warnings.simplefilter('ignore')
from pathlib import Path
from ganomaly_nb import images
load = images._try_load
def slowly(*args, **kwargs):
    time.sleep(.01)
    return load(*args, **kwargs)
images._try_load = slowly
print('ready', flush=True)
images.read_images([Path(sys.argv[1])]*20_000, 16, 1, cache=sys.argv[2])
'''


@pytest.mark.slow
def test_ctrl_c(tmp_path):
    "Ends at once, not after the 200 seconds that all files would take, and leaves nothing half-written"
    file, = numbered(tmp_path/'a', 1)
    p = subprocess.Popen([sys.executable, '-c', slow, str(file), str(tmp_path/'cache')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline()=='ready\n'
    for _ in range(600):
        if list(tmp_path.glob('cache/*.part')): break
        time.sleep(.1)
    p.send_signal(signal.SIGINT)
    _,errors = p.communicate(timeout=60)
    assert p.returncode!=0 and 'KeyboardInterrupt' in errors
    assert list((tmp_path/'cache').iterdir())==[]


def test_memory_of_many_files(tmp_path, monkeypatch):
    "What is held while caching is a chunk, not a trace of every file"
    file, = numbered(tmp_path/'a', 1, 'L')
    monkeypatch.setattr(cache, '_is_settled', lambda f: True) # or a file that was just written is read again and again
    x = load_image(file, 16, 1)
    monkeypatch.setattr(images, '_try_load', lambda *args, **kwargs: (x,None,[])) # decoding is slow when traced
    def peak(n):
        tracemalloc.start()
        read_images([file]*n, 16, 1, cache=tmp_path/'cache')
        _,top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top
    for _ in range(3): peak(2100) # what is made once and kept, the progress bar of long work, too
    growth = peak(8000)-peak(2100)
    assert growth < 5900*100 # bytes: the list of files is 8 of them a file, a future alone is 500
