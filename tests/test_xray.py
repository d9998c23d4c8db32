"X-ray scans: windows, splits, annotations in four formats, files that are broken, projected threats, simulated bags."
import json, os, subprocess, sys, warnings
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from scipy.ndimage import binary_dilation
from fastcore.basics import defaults
from ganomaly_nb import windows, xray
from ganomaly_nb.baselines.anogan import anogan_learner
from ganomaly_nb.baselines.egbad import egbad_learner
from ganomaly_nb.baselines.vae import vae_learner
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.xray.projection import bag_mask, cut_out, optical_depth, project_threat
from ganomaly_nb.xray.simulator import harmless, simulate_scan, simulate_scans, threats
from ganomaly_nb.windows import heat_map, load_picture, read_pictures, windows_over
from ganomaly_nb.xray import Scan, label_windows, read_scans, share_in, window_boxes

from_scans = partial(AnomalyDataLoaders.from_scans, nc=1, size=32, stride=16, bs=8)


def grey(seed, h=80, w=100): return np.random.default_rng(seed).integers(60, 250, (h,w), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    "Five scans in files, of different sizes"
    (tmp_path/'scans').mkdir()
    for i in range(5): Image.fromarray(grey(i, 80+i)).save(tmp_path/'scans'/f'{i}.png')
    return tmp_path/'scans'


def files(folder): return sorted(folder.glob('*.png'))


# windows and labels

@pytest.mark.parametrize('seed', range(30))
def test_windows_cover_the_scan(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 40); stride = rng.integers(1, size+1); h,w = rng.integers(size, 120, 2)
    win = window_boxes(h, w, size, stride)
    assert len(np.unique(win, axis=0))==len(win)==np.prod([1+-(-(n-size)//stride) for n in (h,w)])
    assert (win[:,:2]>=0).all() and (win[:,2:]<=[w,h]).all() and (win[:,2:]-win[:,:2]==size).all()
    seen = np.zeros((h,w), bool)
    for x0,y0,x1,y1 in win: seen[y0:y1,x0:x1] = True
    assert seen.all()


@pytest.mark.parametrize('seed', range(30))
def test_labels_are_those_of_counted_pixels(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 60, (rng.integers(1, 4),2)); boxes = np.c_[a, a+rng.integers(1, 70, a.shape)]
    win = window_boxes(100, 100, 32, 11)
    def pixels(b): m = np.zeros((140,140), bool); m[b[1]:b[3],b[0]:b[2]] = True; return m
    iou = np.array([[(pixels(w)&pixels(b)).sum()/(pixels(w)|pixels(b)).sum() for b in boxes] for w in win])
    labels,which = label_windows(win, boxes, .3)
    assert labels.tolist()==[1 if m>.3 else -1 if m>0 else 0 for m in iou.max(1)]
    assert all(iou[i,which[i]]==iou[i].max() for i in np.flatnonzero(labels==1))


def test_bounds_of_labels():
    "At a threshold of .3 an IoU of exactly .3 is not above it; a shared edge is no overlap, a thousandth of a pixel is"
    window = [[0,0,20,20]]
    for box,label in (([0,0,12,10], -1), ([0,0,12,10.01], 1), ([20,0,30,10], 0), ([19.999,0,30,10], -1)): assert label_windows(window, [box])[0]==label
    scans = [Scan(grey(0, 20, 20), [[0,0,12,10]], ['gun'])]+[Scan(grey(i, 20, 20)) for i in range(1, 12)]
    def labels(**kwargs): return AnomalyDataLoaders.from_scans(scans, nc=1, size=16, stride=16, bs=4, **kwargs).test.dataset.kinds
    iou = 120/256                                                          # of the window at the upper left corner
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert 'gun' not in labels(iou=iou) and 'gun' in labels(iou=iou-1e-9)


@pytest.mark.parametrize('scale', [.5,.73,1.])
def test_patches_are_the_pixels_of_their_windows(scale, tmp_path, folder):
    dls = from_scans([Scan(f) for f in files(folder)], scale=scale, size=16, stride=5, cache=tmp_path)
    for o in dls.loaders[:1]:
        p = o.dataset.images
        for i in range(0, len(p), 17):
            x0,y0,x1,y1 = p.boxes[i]
            whole = load_picture(files(folder)[p.which[i]], 1, scale)[0]
            assert (p[[i]][0].numpy()==whole[:,y0:y1,x0:x1]).all()


def test_windows_of_any_size_and_their_maps():
    "Windows in any order give the picture back; a map has its size, and its values are scores"
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (nc,h,w), dtype=np.uint8) for nc,h,w in ((1,40,97),(1,33,32))]
    cut = windows_over(pictures, 32, 20)
    for i,m in enumerate(cut.maps(cut.which+1., 'max')): assert m.shape==pictures[i].shape[1:] and (m==i+1).all()
    for j in rng.permutation(len(cut)):
        x0,y0,x1,y1 = cut.boxes[j]
        assert (cut[[j]][0].numpy()==pictures[cut.which[j]][:,y0:y1,x0:x1]).all()


@pytest.mark.parametrize('how', ['mean','max'])
def test_map_is_what_a_loop_over_pixels_gives(how):
    rng = np.random.default_rng(1)
    boxes = window_boxes(20, 27, 8, 5)[::2]
    s = rng.normal(size=len(boxes))
    m = heat_map(boxes, s, 20, 27, how)
    for y in range(20):
        for x in range(27):
            here = [v for v,(x0,y0,x1,y1) in zip(s, boxes) if x0<=x<x1 and y0<=y<y1]
            if here: assert np.isclose(m[y,x], getattr(np, how)(here))
            else: assert np.isnan(m[y,x])


# names

@pytest.mark.parametrize('old,new', [('projection','xray.projection'),('simulator','xray.simulator')])
def test_old_modules(old, new):
    code = f"import ganomaly_nb.{old} as a, ganomaly_nb.{new} as b; assert a.__all__==b.__all__; assert all(getattr(a, k) is getattr(b, k) for k in b.__all__)"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_names_of_the_package():
    "What the single module exported, by star, without dragging its submodules along"
    code = ("before = set(globals()); from ganomaly_nb.xray import *; got = set(globals())-before-{'before'};"
            "want = set('Scan window_boxes label_windows share_in Patches PatchSet subclass_summary heat_map read_scans'.split());"
            "assert want<=got<=want|set('read_voc read_yolo read_mask read_coco'.split()), got;"
            "from ganomaly_nb.data import AnomalyDataLoaders as A; A.from_scans, A.from_full_scans")
    subprocess.run([sys.executable, '-c', code], check=True)


# the split

@pytest.mark.parametrize('seed', range(12))
def test_no_bag_on_two_sides(seed):
    "Bags with several scans, projections into some of them, crops, with and without a list of test scans"
    rng = np.random.default_rng(seed)
    scans = []
    for i in range(40):
        threat = rng.random()<.3
        scans.append(Scan(grey(i), [[20,20,50,50]] if threat else (), ['gun'] if threat else (), bag=f'bag {rng.integers(15+10*(seed%2))}'))
    scans += [Scan(grey(90+i), bag=f'clean {i}') for i in range(12)]
    crops = [c for s in scans for c in s.crops(nc=1)]+[Scan(grey(7, 30, 30), kinds=['knife'])]
    test = None if seed%3 else (rng.random(len(scans))<.4).tolist()
    dls = from_scans(scans, crops, test=test, held_out=.2, seed=seed)
    train,valid,tested = [set(o.dataset.bags) for o in dls.loaders]
    assert not train&valid and not train&tested and not valid&tested
    assert not dls.train.dataset.y.any() and not dls.valid.dataset.y.any() and dls.test.dataset.y.any()
    assert (dls.test.dataset.kinds=='knife').sum()==1
    assert len(valid)==round(.2*len(train|valid))
    if test is None: assert {s.bag for s in scans if s.kinds}<=tested
    else: assert {s.bag for s,t in zip(scans, test) if t}<=tested and not {s.bag for s,t in zip(scans, test) if t}&(train|valid)


@pytest.mark.parametrize('make', [ganomaly_learner,vae_learner,egbad_learner,partial(anogan_learner, steps=3)], ids=['ganomaly','vae','egbad','anogan'])
@pytest.mark.parametrize('full', [False,True], ids=['patches','full'])
def test_every_learner_takes_them(make, full, tmp_path):
    scans = [Scan(grey(i)) for i in range(20)]+[Scan(grey(i), [[20,20,60,60]], ['gun']) for i in range(4)]
    dls = AnomalyDataLoaders.from_full_scans(scans, size=16, nc=1, bs=4) if full else from_scans(scans, size=16, stride=32, n_train=16)
    learn = make(dls, nz=4, nf=4, path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        scores,y = learn.get_preds(dl=dls.test)
    assert len(scores)==len(dls.test.dataset.kinds) and y.tolist()==(dls.test.dataset.kinds!='normal').astype(int).tolist()
    assert scores.isfinite().all()


# files

def test_scans_are_decoded_once_and_kept_once(tmp_path, folder, monkeypatch):
    scans = [Scan(f) for f in files(folder)]
    dls = from_scans(scans, stride=4, cache=tmp_path/'cache')
    block, = (tmp_path/'cache').glob('*.bin')
    assert 0<=block.stat().st_size-sum(100*(80+i) for i in range(5))<5000 # the scans and a report, however many windows overlap
    assert len(dls.train.dataset.images)*32*32>20*block.stat().st_size
    assert all(type(s.base.base) is np.memmap or isinstance(s.base, np.memmap) for s in dls.train.dataset.images.scans)
    def fail(*args, **kwargs): raise AssertionError('decoded again')
    with monkeypatch.context() as m:
        m.setattr(windows, 'load_picture', fail)
        again = from_scans(scans, stride=4, cache=tmp_path/'cache')
    assert (again.train.dataset[[0]][0]==dls.train.dataset[[0]][0]).all()
    other = from_scans(scans, scale=.5, cache=tmp_path/'cache')           # other settings, another block
    assert other.train.dataset.images.scans[0].shape==(1,40,50)
    Image.fromarray(255-grey(0)).save(files(folder)[0])                  # other content under the same name
    assert from_scans(scans, stride=4, cache=tmp_path/'cache').train.dataset.images.scans[0][0,0,0]==255-grey(0)[0,0]


def test_few_scans_are_in_memory_at_a_time(tmp_path, folder, monkeypatch):
    real,sizes = windows.parallel,[]
    def watched(f, items, *args, **kwargs): sizes.append(len(items)); return real(f, items, *args, **kwargs)
    monkeypatch.setattr(windows, 'parallel', watched)
    from_scans([Scan(f) for f in files(folder)*20], cache=tmp_path)
    assert sum(sizes)==100 and max(sizes)<=8*defaults.cpus


def test_interrupted_reading_leaves_nothing_behind(tmp_path, folder, monkeypatch):
    def interrupted(*args, **kwargs): raise KeyboardInterrupt
    scans = [Scan(f) for f in files(folder)]
    with monkeypatch.context() as m:
        m.setattr(windows, 'load_picture', interrupted)
        with pytest.raises(KeyboardInterrupt): from_scans(scans, cache=tmp_path/'cache')
    assert not [f for f in (tmp_path/'cache').iterdir() if f.suffix in ('.bin','.part','.report','.json')]
    assert len(from_scans(scans, cache=tmp_path/'cache').train.dataset)


def bad_scans(folder):
    "What can be wrong with a scan, and what the message says beside its name"
    (folder/'noise.png').write_bytes(np.random.default_rng(0).bytes(500))
    (folder/'half.png').write_bytes((folder/'0.png').read_bytes()[:3000])
    (folder/'text.png').write_text('<html>not found</html>')
    Image.fromarray(grey(0, 80, 20)).save(folder/'narrow.png')
    f = folder/'1.png'
    return dict(noise=(Scan(folder/'noise.png'), 'cannot read'), half=(Scan(folder/'half.png'), 'cannot read'), text=(Scan(folder/'text.png'), 'cannot read'), missing=(Scan(folder/'missing.png'), 'no such image'),
                narrow=(Scan(folder/'narrow.png'), 'a picture of 20 x 80 pixels is smaller than a window'), outside=(Scan(f, [[50,50,120,70]], ['gun']), 'reaches outside the scan of 100 x 81'),
                left=(Scan(f, [[-9,50,20,70]], ['gun']), 'reaches outside'), unmarked=(Scan(f, kinds=['gun']), 'no box says where'))


@pytest.mark.parametrize('what', ['noise','half','text','missing','narrow','outside','left','unmarked'])
def test_bad_scan(what, tmp_path, folder):
    "One clear error that names the file; or it is skipped and listed, and the others are used"
    good = [Scan(f) for f in files(folder)]
    scan,message = bad_scans(folder)[what]
    with pytest.raises((ValueError,FileNotFoundError), match=message) as e: from_scans(good[2:]+[scan], cache=tmp_path/'cache')
    assert Path(scan.name).name in str(e.value)
    dls = from_scans([good[0],scan,*good[2:]], on_error='skip', cache=tmp_path/'cache')
    assert list(dls.skipped)==[scan.name] and message in dls.skipped[scan.name]
    assert {b for o in dls.loaders for b in o.dataset.bags}=={s.bag for s in [good[0],*good[2:]]}


def test_bad_crop(tmp_path, folder):
    scan,message = bad_scans(folder)['noise']
    crop,good = Scan(scan.image, kinds=['gun']),[Scan(f) for f in files(folder)[:5]]
    with pytest.raises(ValueError, match='noise.png'): from_scans(good, [crop], cache=tmp_path)
    dls = from_scans(good, [crop,Scan(folder/'0.png', kinds=['gun'], bag='another')], on_error='skip', cache=tmp_path)
    assert list(dls.skipped)==[crop.name] and dls.test.dataset.y.sum()==1


def test_failures_are_not_kept(tmp_path, folder):
    "A message names today's file, what is mended is read again, and no setting of another run decides"
    (folder/'5.png').write_bytes(b'nothing')
    def loaders(path, on_error='skip'): return from_scans([Scan(f) for f in files(path)], stride=4, on_error=on_error, cache=tmp_path/'cache')
    assert list(loaders(folder).skipped)==[str(folder/'5.png')]
    with pytest.raises(ValueError, match='5.png'): loaders(folder, 'raise')
    folder.rename(tmp_path/'moved')
    (name,why), = loaders(tmp_path/'moved').skipped.items()
    assert name==str(tmp_path/'moved'/'5.png') and name in why and str(folder) not in why
    Image.fromarray(grey(5)).save(tmp_path/'moved'/'5.png')
    assert loaders(tmp_path/'moved', 'raise').skipped=={}


@pytest.mark.parametrize('make', [from_scans,partial(AnomalyDataLoaders.from_full_scans, nc=1, size=32, bs=8)], ids=['patches','full'])
def test_white_belongs_to_the_set(make, tmp_path):
    "Twelve bits are found from all scans, so a dim scan stays dim; or white is said, and the cache knows it"
    for i in range(14): Image.fromarray(np.full((80,100), 4000 if i==5 else 1000, np.uint16)).save(tmp_path/f'{i:02}.png')
    scans = [Scan(f) for f in files(tmp_path)]
    def brightest(**kwargs):
        dls = make(scans, cache=tmp_path/'cache', **kwargs)
        return dls.white,[x.max() for x in dls.train.dataset.images.scans]
    for kwargs,white in ((dict(),4095), (dict(white=16383),16383)): assert brightest(**kwargs)==(white, [(4000 if i==5 else 1000)*255//white for i in range(14)])
    with pytest.raises(ValueError, match='white must be'): make(scans, white=0)


def shown(dls): return {k:(o.dataset.kinds=='gun').sum() for k,o in zip(('train','valid','test'), dls.loaders)}

options = dict(size=dict(size=16), stride=dict(stride=8), scale=dict(scale=.5), iou=dict(iou=.8), min_content=dict(min_content=.9), n_train=dict(n_train=8), held_out=dict(held_out=.4),
               seed=dict(seed=1), test=dict(test=[i%2==0 for i in range(24)]), stats=dict(stats=(.1,.9)), bs=dict(bs=4), nc=dict(nc=3), crops=dict(crops=[Scan(grey(1, 9, 9), kinds=['gun'])]))

@pytest.mark.parametrize('option', options)
def test_every_option_of_from_scans_has_an_effect(option, tmp_path):
    images = [np.where(np.arange(100)<20*(i%4), 255, grey(i)).astype(np.uint8) for i in range(24)]
    for i,a in enumerate(images): Image.fromarray(a).save(tmp_path/f'{i}.png')
    scans = [Scan(tmp_path/f'{i}.png', *([[[20,20,50,50]], ['gun']] if i%6==0 else [])) for i in range(24)]
    def told(**kwargs):
        dls = from_scans(scans, cache=tmp_path/'cache', **kwargs)
        train = dls.train.dataset
        first = dls.valid.new(bs=1).one_batch()[0]
        return dict(sizes=[len(o.dataset) for o in dls.loaders], shape=train.images.shape[1:], bs=dls.train.bs, bags=sorted(set(train.bags)), shown=shown(dls), first=first.flatten()[:50].tolist())
    a,b = told(),told(**options[option])
    assert a!=b and a==told()


def test_threats_that_no_window_shows():
    "Each in words, by scan and kind; not those of training scans, and not those that take part as crops"
    boxes = {'gun':[20,20,52,52], 'pin':[40,40,45,45], 'rifle':[0,10,100,70], 'ruler':[10,40,90,45]}
    scans = [Scan(grey(i), [b], [k], name=k) for i,(k,b) in enumerate(boxes.items())]+[Scan(grey(i), name=f'{i}') for i in range(10, 20)]
    with pytest.warns(UserWarning, match='1 x pin, 1 x rifle, 1 x ruler'): dls = from_scans(scans)
    assert dls.unseen==['pin, box 0: pin','rifle, box 0: rifle','ruler, box 0: ruler']
    with pytest.warns(UserWarning, match='1 x rifle, 1 x ruler'): dls = from_scans(scans, scans[1].crops(nc=1))
    assert dls.unseen==['rifle, box 0: rifle','ruler, box 0: ruler'] and 'pin' in dls.test.dataset.kinds
    with pytest.warns(UserWarning, match='1 x ruler'): dls = from_scans(scans, test=[k in ('gun','ruler','10') for k in [s.name for s in scans]])
    assert dls.unseen==['ruler, box 0: ruler']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert from_scans([s for s in scans if s.name not in ('pin','rifle','ruler')]).unseen==[]
        assert AnomalyDataLoaders.from_full_scans(scans, nc=1, size=16, bs=4).unseen==[]


def test_threat_beside_the_last_windows(folder):
    "A stride above the size leaves gaps; a threat in one is not passed over"
    scans = [Scan(grey(0), [[34,34,62,62]], ['gun'], name='a')]+[Scan(grey(i)) for i in range(1, 20)]
    assert from_scans(scans, stride=16).unseen==[]
    with pytest.warns(UserWarning, match='1 x gun'): assert from_scans(scans, stride=68).unseen==['a, box 0: gun']


# annotations

def write(kind, path, boxes, size, names):
    "The same boxes in each format; `names` are their kinds"
    w,h = size
    known = sorted(set(names))
    if kind=='voc': path.with_suffix('.xml').write_text(f'<annotation><size><width>{w}</width><height>{h}</height></size>'+''.join(f'<object><name>{k}</name><bndbox><xmin>{a+1}</xmin><ymin>{b+1}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>' for k,(a,b,c,d) in zip(names, boxes))+'</annotation>')
    if kind=='yolo': path.with_suffix('.txt').write_text('\n'.join(f'{known.index(k)} {(a+c)/2/w} {(b+d)/2/h} {(c-a)/w} {(d-b)/h}' for k,(a,b,c,d) in zip(names, boxes)))
    if kind=='mask':
        m = np.zeros((h,w), np.uint8)
        for k,(a,b,c,d) in zip(names, boxes): m[b:d,a:c] = 1+known.index(k)
        Image.fromarray(m).save(path.with_suffix('.png'))
    if kind=='coco':
        path.parent.with_suffix('.json').write_text(json.dumps(dict(images=[dict(id=1, file_name=path.stem+'.png', width=w, height=h)], categories=[dict(id=i, name=k) for i,k in enumerate(known)],
            annotations=[dict(image_id=1, category_id=known.index(k), bbox=[a,b,c-a,d-b]) for k,(a,b,c,d) in zip(names, boxes)])))
    return (path.parent.with_suffix('.json') if kind=='coco' else path.parent),known


@pytest.mark.parametrize('kind', ['voc','coco','yolo','mask'])
@pytest.mark.parametrize('seed', range(5))
def test_formats_agree(kind, seed, tmp_path, folder):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(6)[:rng.integers(1, 6)]                       # boxes that do not touch
    a = np.c_[cells%3*33+rng.integers(0, 8, len(cells)), cells//3*40+rng.integers(0, 8, len(cells))]
    boxes = np.c_[a, a+rng.integers(1, 25, a.shape)]
    kinds = rng.choice(['gun','knife','razor blade'], len(boxes)).tolist()
    (tmp_path/'marks').mkdir()
    path,names = write(kind, tmp_path/'marks'/'0', boxes.tolist(), (100,80), kinds)
    (scan,),skipped = read_scans(path, folder, names)
    assert not skipped and Path(scan.image)==folder/'0.png'
    assert sorted(zip(scan.boxes.round(6).tolist(), scan.kinds))==sorted(zip(boxes.astype(float).tolist(), kinds))


@pytest.mark.parametrize('kind', ['voc','coco','yolo','mask'])
def test_damaged_annotations(kind, tmp_path, folder):
    "Bytes changed, cut off or inserted: the file is read as it stands, or refused by name; nothing else is raised"
    rng,refused = np.random.default_rng(0),0
    (tmp_path/'marks').mkdir()
    path,names = write(kind, tmp_path/'marks'/'0', [[10,10,40,30],[50,50,70,60]], (100,80), ['gun','knife'])
    f = path if kind=='coco' else next((tmp_path/'marks').iterdir())
    whole = f.read_bytes()
    for i in range(150):
        data = bytearray(whole)
        if i%3==0: data = data[:rng.integers(len(data))]
        elif i%3==1: data[rng.integers(len(data))] = rng.integers(256)
        else: at = rng.integers(len(data)); data[at:at] = rng.bytes(rng.integers(1, 9))
        f.write_bytes(data)
        try: scans,_ = read_scans(path, folder, names)
        except ValueError as e:
            refused += 1
            assert f.name in str(e)
            try: scans,skipped = read_scans(path, folder, names, on_error='skip')
            except ValueError: assert kind=='coco'                        # nothing is left of a file that no one can parse
            else: assert len(skipped)==1 and not len(scans)
        else: assert all((s.boxes>=-1).all() and (s.boxes<=[101,81,101,81]).all() for s in scans)
    assert refused>40


def test_one_bad_entry_of_a_coco_file(tmp_path, folder):
    boxes = {1:[10,10,20,20], 2:[90,10,50,20], 3:[5,5,-3,9]}
    (tmp_path/'a.json').write_text(json.dumps(dict(images=[dict(id=i, file_name=f'{i}.png') for i in (1,2,3,4,9)], categories=[dict(id=0, name='gun')],
                                                   annotations=[dict(image_id=i, category_id=0, bbox=b) for i,b in boxes.items()]+[dict(image_id=9, category_id=0, bbox=[1,1,5,5]),dict(image_id=4, category_id=7, bbox=[1,1,5,5])])))
    scans,skipped = read_scans(tmp_path/'a.json', folder, on_error='skip')
    assert [Path(s.image).name for s in scans]==['1.png']
    assert [k.split(', ')[-1] for k in skipped]==['2.png','3.png','4.png','9.png']
    with pytest.raises(ValueError, match='2.png'): read_scans(tmp_path/'a.json', folder)


def coco_file(path, **parts):
    "A COCO file of one gun in 0.png, and 1.png without one; or with other parts"
    d = dict(images=[dict(id=i, file_name=f'{i}.png') for i in (0,1)], categories=[dict(id=1, name='gun')], annotations=[dict(id=0, image_id=0, category_id=1, bbox=[10,10,20,20])])
    (path/'c.json').write_text(json.dumps({**d, **parts}))
    return path/'c.json'


gun = dict(id=0, image_id=0, category_id=1, bbox=[10,10,20,20])
clashes = {
    'image ids':(dict(images=[dict(id=0, file_name='0.png'), dict(id=0, file_name='1.png')]), 'two images have the id 0'),
    'text ids':(dict(images=[dict(id='a', file_name='0.png'), dict(id='a', file_name='1.png')]), "two images have the id 'a'"),
    'category ids':(dict(categories=[dict(id=1, name='gun'), dict(id=1, name='knife')]), 'two categories have the id 1'),
    'annotation ids':(dict(annotations=[gun,{**gun, 'bbox':[1,1,5,5]}]), 'two annotations have the id 0'),
    'two entries':(dict(images=[dict(id=0, file_name='0.png'), dict(id=1, file_name='./0.png')]), '0.png has two entries, ids 0 and 1'),
    'unknown image':(dict(annotations=[{**gun, 'image_id':5}]), 'an annotation of image 5'),
    'no image':(dict(annotations=[dict(id=0, category_id=1, bbox=[1,1,5,5])]), 'an annotation of image None'),
    'unknown category':(dict(annotations=[{**gun, 'category_id':9}]), 'annotation 0 has the category 9'),
    'crowd':(dict(annotations=[{**gun, 'iscrowd':1}]), 'annotation 0 marks a crowd'),
    'polygon only':(dict(annotations=[dict(id=0, image_id=0, category_id=1, segmentation=[[1,1,9,1,9,9]])]), 'annotation 0 must have a bbox'),
    'three numbers':(dict(annotations=[{**gun, 'bbox':[1,2,3]}]), 'annotation 0 must have a bbox'),
    'no width':(dict(annotations=[{**gun, 'bbox':[1,2,0,5]}]), 'left < right'),
    'NaN':(dict(annotations=[{**gun, 'bbox':[1,2,float('nan'),5]}]), 'left < right'),
    'text':(dict(annotations=[{**gun, 'bbox':[1,2,'wide',5]}]), 'wide'),
    'outside':(dict(annotations=[{**gun, 'bbox':[90,2,30,5]}]), 'reaches outside'),
    'size':(dict(images=[dict(id=0, file_name='0.png', width=640, height=480), dict(id=1, file_name='1.png')]), 'is for a scan of 640 x 480'),
    'nameless':(dict(categories=[dict(id=1)]), 'a kind must not be empty'),
    'a list':(dict(images={}), 'lacks the lists'),
}

@pytest.mark.parametrize('what', clashes)
def test_coco_entries_that_clash(what, tmp_path, folder):
    parts,message = clashes[what]
    with pytest.raises(ValueError, match=message) as e: read_scans(coco_file(tmp_path, **parts), folder, allow_empty=True)
    assert 'c.json' in str(e.value)


@pytest.mark.parametrize('text', ['', '[]', '"images"', '{"images":[]}', '{"images":[{}],"categories":[],"annotations":[]}', '{"images":[1],"categories":[],"annotations":[]}', '{"version":"5.0","shapes":[]}', '{'])
def test_json_that_is_not_coco(text, tmp_path, folder):
    (tmp_path/'c.json').write_text(text)
    with pytest.raises(ValueError, match='c.json is no COCO file'): read_scans(tmp_path/'c.json', folder)


def masked(folder, a, tmp_path, **kwargs):
    (tmp_path/'masks').mkdir(exist_ok=True)
    img = Image.fromarray(a)
    if kwargs.pop('palette', False): img.putpalette(list(range(256))*3)
    img.save(tmp_path/'masks'/'0.png')
    return read_scans(tmp_path/'masks', folder, **kwargs)[0][0]


@pytest.mark.parametrize('palette', [False,True])
@pytest.mark.parametrize('values', [(1,2),(1,2,3),(2,5,9),(1,255)])
def test_masks_of_class_numbers_keep_every_class(values, palette, tmp_path, folder):
    m = np.zeros((80,100), np.uint8)
    for i,v in enumerate(values): m[10:30,30*i:30*i+20] = v
    with pytest.raises(ValueError, match='0.png: holds the values .* pass names'): masked(folder, m, tmp_path, palette=palette)
    names = {v:f'kind {v}' for v in values}
    scan = masked(folder, m, tmp_path, names=names, palette=palette)
    assert scan.kinds==[*names.values()] and scan.boxes[:,0].tolist()==[30*i for i in range(len(values))]
    with pytest.raises(ValueError, match=f'value {values[-1]} is not among'): masked(folder, m, tmp_path, names={v:'a' for v in values[:-1]})


@pytest.mark.parametrize('a', [m for m in (np.uint8(1), np.uint8(255), np.uint8(7), np.uint16(999), True)], ids=str)
def test_masks_of_one_value(a, tmp_path, folder):
    m = np.zeros((80,100), np.asarray(a).dtype)
    m[10:30,20:40] = a
    scan = masked(folder, m, tmp_path)
    assert (scan.boxes.tolist(),scan.kinds)==([[20,10,40,30]], ['threat'])
    assert masked(folder, m, tmp_path, names={int(a):'gun'}).kinds==['gun']


@pytest.mark.parametrize('line,message', [('0 .5 .5 .1', 'found 4'), ('0 .5 .5 .1 .1 .9', 'found 6'), ('0 '+'.1 '*8, 'found 9'), ('2 .5 .5 .1 .1', 'class 2 is not'), ('-1 .5 .5 .1 .1', 'class -1 is not'),
    ('0.5 .5 .5 .1 .1', 'class 0.5 is not'), ('gun .5 .5 .1 .1', 'expected numbers'), ('0 50 40 10 10', 'must lie in 0 to 1'), ('0 .5 .5 .1 1.00001', 'must lie'), ('0 -.00001 .5 .1 .1', 'must lie'), ('0 .5 .5 nan .1', 'must lie'),
    ('0 .5 .5 0 .1', 'left < right'), ('0 .99 .5 .5 .1', 'reaches outside')])
def test_yolo_lines_that_are_out_of_range(line, message, tmp_path, folder):
    (tmp_path/'marks').mkdir()
    (tmp_path/'marks'/'0.txt').write_text('0 .5 .5 .1 .1\n'+line)
    with pytest.raises(ValueError, match=message) as e: read_scans(tmp_path/'marks', folder, ['gun','knife'])
    assert '0.txt' in str(e.value)


def test_names_begin_where_the_format_does(tmp_path, folder):
    (tmp_path/'marks').mkdir()
    (tmp_path/'marks'/'0.txt').write_text('0 .5 .5 .1 .1')
    assert read_scans(tmp_path/'marks', folder, ['gun','knife'])[0][0].kinds==['gun']
    m = np.zeros((80,100), np.uint8)
    m[10:30,20:40] = 1
    assert masked(folder, m, tmp_path, names=['gun','knife']).kinds==['gun']
    for first in ('background','','__background__'):
        with pytest.raises(ValueError, match='leave the background'): masked(folder, m, tmp_path, names=[first,'gun'])


def test_one_scan_with_two_annotations(tmp_path, folder):
    (tmp_path/'marks').mkdir()
    write('voc', tmp_path/'marks'/'0', [[1,1,9,9]], (100,80), ['gun'])
    (tmp_path/'marks'/'0.XML').write_text((tmp_path/'marks'/'0.xml').read_text())
    with pytest.raises(ValueError, match='two annotations'): read_scans(tmp_path/'marks', folder)
    scans,skipped = read_scans(tmp_path/'marks', folder, on_error='skip')
    assert not scans and len(skipped)==2


def test_a_picture_given_twice(folder):
    scans = [Scan(f) for f in files(folder)]
    with pytest.raises(ValueError, match='0.png: the picture is given twice'): from_scans(scans+[Scan(folder/'0.png', [[0,0,40,40]], ['gun'])])
    with pytest.raises(ValueError, match='0.png: the picture is given twice'): AnomalyDataLoaders.from_full_scans(scans+[Scan(folder/'0.png', kinds=['gun'])])


def test_mixed_and_ambiguous_folders(tmp_path, folder):
    (tmp_path/'marks').mkdir()
    write('voc', tmp_path/'marks'/'0', [[1,1,9,9]], (100,80), ['gun']); write('yolo', tmp_path/'marks'/'0', [[1,1,9,9]], (100,80), ['gun'])
    with pytest.raises(ValueError, match='holds .xml and .txt files'): read_scans(tmp_path/'marks', folder)
    (tmp_path/'marks'/'0.txt').unlink()
    (folder/'more').mkdir(); Image.fromarray(grey(0)).save(folder/'more'/'0.jpg')
    with pytest.raises(ValueError, match='expected one image 0'): read_scans(tmp_path/'marks', folder)


# projection and simulation

@pytest.mark.parametrize('seed', range(10))
def test_projection(seed, tmp_path):
    "Into grey and coloured scans, in memory and in files: the box fits the mask, lies in the bag, and nothing else changes"
    nc = 1+2*(seed%2)
    scan = simulate_scan(seed, px_per_cm=4, colour=nc==3)
    Image.fromarray(scan.image).save(tmp_path/'a.png')
    bar = np.zeros((60,60), np.float32); bar[25:35,10:50] = .2
    threat = optical_depth(bar, 'steel')[-1-seed%3%2:]
    out = project_threat(Scan(tmp_path/'a.png'), threat, 'bar', seed, nc, contrast=1+seed/5)
    ys,xs = np.nonzero(out.mask)
    assert out.boxes[0].tolist()==[xs.min(),ys.min(),xs.max()+1,ys.max()+1] and out.bag==str(tmp_path/'a.png')
    assert (out.image[out.mask==0]==scan.image[out.mask==0]).all()
    assert (out.image<=scan.image).all() and (out.image[out.mask>0].astype(int)<scan.image[out.mask>0]).any()
    x = scan.image[None] if nc==1 else scan.image.transpose(2,0,1)
    assert share_in(bag_mask(x), out.boxes.astype(int))>.9


@pytest.mark.parametrize('kind', [*threats,*harmless])
def test_every_thing_can_be_simulated(kind):
    "Its box fits its mask, the mask is where the scan gets darker, and the bag is the same without it"
    for seed in range(3):
        with_it,without = [simulate_scan(seed, k, px_per_cm=4, colour=False, photons=1e9) for k in (kind,[])]
        ys,xs = np.nonzero(with_it.mask)
        assert with_it.kinds==[kind] and with_it.boxes[0].tolist()==[xs.min(),ys.min(),xs.max()+1,ys.max()+1]
        darker = without.image.astype(int)-with_it.image
        far = np.ones(darker.shape, bool); far[max(0, ys.min()-4):ys.max()+5,max(0, xs.min()-4):xs.max()+5] = False
        assert not darker[far].any() and darker.min()>=-1
        assert darker[binary_dilation(with_it.mask>0, iterations=2)].sum()>.98*darker.sum()>0 # two pixels of blur


def test_bags_differ_and_show_what_they_should():
    scans = simulate_scans(30, px_per_cm=3)
    assert len({s.image.shape for s in scans})>25
    dark = [bag_mask(s.image.transpose(2,0,1)) for s in scans]
    assert all(.3<m.mean()<.95 for m in dark)                              # a bag in the picture, with background around it
    for s in scans: assert (s.image[[0,-1]]>230).all() and (s.image[:,[0,-1]]>230).all() # and nothing of it cut off
    bright = np.array([s.image[m].mean() for s,m in zip(scans, dark)])
    assert bright.std()>5 and 80<bright.mean()<230
    r,g,b = np.concatenate([s.image[m].astype(int) for s,m in zip(scans, dark)]).T
    assert ((r>b+30)&(r>=g)).mean()>.3 and ((g>r+10)&(g>b+10)).mean()>.03 and ((b>r+30)).mean()>.02 # orange, green, blue


def test_processes_give_the_same_scans():
    kw = dict(kinds=['gun','knife'], seed=9, px_per_cm=3)
    for a,b in zip(simulate_scans(5, **kw), simulate_scans(5, n_workers=2, **kw)):
        assert (a.image==b.image).all() and (a.boxes==b.boxes).all() and (a.mask==b.mask).all() and (a.name,a.kinds)==(b.name,b.kinds)


@pytest.mark.skipif('GANOMALY_DATA' not in os.environ, reason='needs the public scans: set GANOMALY_DATA')
def test_public_scans(tmp_path):
    "Threats cut out of real crops, projected into real bags"
    root = Path(os.environ['GANOMALY_DATA'])/'xray'
    bags = [Scan(f) for f in sorted((root/'bags').glob('*.jpg'))[:24]]
    crops = {k:sorted((root/'threats'/k).glob('*.jpg'))[:2] for k in ('gun','shuriken','razor_blade')}
    posed = [project_threat(bags[i], cut_out(f), k, i, scale=(.15,.25)) for i,(k,f) in enumerate((k,f) for k,v in crops.items() for f in v)]
    for s in posed: assert share_in(bag_mask(s.image.transpose(2,0,1)), s.boxes.astype(int))>.9
    dls = AnomalyDataLoaders.from_scans(bags+posed, [Scan(f, kinds=[k]) for k,v in crops.items() for f in v], scale=.4, min_content=.99, cache=tmp_path)
    ds = dls.test.dataset
    assert set(ds.kinds)=={'normal',*crops}
    assert not {s.bag for s in posed}&(set(dls.train.dataset.bags)|set(dls.valid.dataset.bags))          # the bags of projected threats are not trained on
    full = AnomalyDataLoaders.from_full_scans(bags+posed, bs=8, cache=tmp_path)
    assert full.test.dataset.y.sum()==6
