"Sources, splits and loaders: what a user gets wrong, what a fault in the code would change."
import json, os, warnings
import numpy as np, pytest, torch
from fastai.basics import Pipeline, set_seed
from fastai.data.transforms import Transform
from fastai.torch_core import TensorImage
from fastai.vision.augment import aug_transforms
from PIL import Image
from torchvision.transforms import v2
from ganomaly_nb.data import AnomalyDataLoaders, AnomalyDL, ImageSet, anomaly_splits

rng = np.random.default_rng(0)


def noise(file, size=20, dtype=np.uint8, top=256):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, top, (size,size)).astype(dtype)).save(file)


def tree(path, **folders):
    "Folders of noise; `test__ok=3` makes three images in `test/ok`"
    for folder,n in folders.items():
        for i in range(n): noise(path/folder.replace('__', '/')/f'{i:03d}.png')
    return path


@pytest.fixture
def load(tmp_path):
    def load(path, **kwargs):
        kwargs = {'size':16, 'nc':1, 'bs':4, 'cache':tmp_path/'cache', **kwargs}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            dls = AnomalyDataLoaders.from_folder(path, **kwargs)
        dls.said = ' '.join(str(o.message) for o in said)
        return dls
    return load


def arrays(n=20, **kwargs):
    x = np.random.default_rng(1).integers(0, 256, (n,16,16), dtype=np.uint8)
    return AnomalyDataLoaders.from_arrays(x, **{'bs':4, **kwargs})


# labels and layouts

@pytest.mark.parametrize('train', ['normal','0.normal','GOOD','Ok','defect-free','01_normal'])
@pytest.mark.parametrize('test', ['Good','ok','0.Normal','NORMAL'])
def test_normal_by_any_name(tmp_path, load, train, test):
    tree(tmp_path/'p', **{f'train__{train}':8, f'test__{test}':3, 'test__scratch':2})
    dls = load(tmp_path/'p')
    assert dls.test.dataset.y.tolist().count(0)==3 and not dls.said


@pytest.mark.parametrize('test', ['fine','good_parts','0','iO','normal images'])
def test_a_name_that_is_not_known_is_named(tmp_path, load, test):
    tree(tmp_path/'p', train__good=8, **{f'test__{test}':3})
    tree(tmp_path/'p', test__scratch=2)
    dls = load(tmp_path/'p')
    assert test in dls.said and dls.test.dataset.y.sum()==5
    dls = load(tmp_path/'p', normal=['good',test.upper()])
    assert not dls.said and dls.test.dataset.y.sum()==2


@pytest.mark.parametrize('halves', [('Train','TEST'), ('training','Testing'), ('TRAIN','test')])
def test_halves_in_any_case(tmp_path, load, halves):
    tree(tmp_path/'p', **{f'{halves[0]}__good':8, f'{halves[1]}__good':2, f'{halves[1]}__bad':1})
    assert [len(o.dataset) for o in load(tmp_path/'p', held_out=.25).loaders]==[6,2,3]


def test_found(tmp_path, load):
    tree(tmp_path/'p', train__good=8, train__bad=2, test__ok=3, test__cut=2, ground_truth__cut=2)
    found = load(tmp_path/'p', held_out=.25, n_train=5).found
    seen = {(a,b):n for a,b,n in found.itertuples(index=False)}
    assert seen=={('train/good','train'):5, ('train/good','held-out'):2, ('train/good','not used'):1,
                  ('train/bad','not read'):2, ('test/ok','test normal'):3,
                  ('test/cut','test abnormal'):2, ('ground_truth/cut','mask'):2}


@pytest.mark.parametrize('mask', ['ground_truth/cut/{}_mask.png', 'ground_truth/cut/{}.png',
    'test/cut/{}_mask.png', 'test/cut/{}_label.png', 'test/Ground-Truth/cut/{}.png',
    'test/cut/ground_truth/{}_gt.png', 'GT/test/cut/{}.png', 'masks/cut/{}-mask.tif'])
def test_masks_are_no_images(tmp_path, load, mask):
    "The same names exist for another kind of defect, which has no masks"
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__cut=3, test__dent=3)
    for i in range(2): noise(p/mask.format(f'{i:03d}'))
    d = load(p).test.dataset
    assert (len(d),int(d.y.sum()))==(8,6)
    masked = {f'{f.parent.name}/{f.stem}':m for f,m in zip(d.items, d.masks) if m}
    assert set(masked)=={'cut/000','cut/001'}
    assert all(k[-3:] in m.name for k,m in masked.items())


def test_a_mask_of_no_image(tmp_path, load):
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__cut=2, ground_truth__cut=3)
    dls = load(p)
    assert '1 of 3 masks belong to no test image' in dls.said and '002.png' in dls.said


def test_flat_folder(tmp_path, load):
    dls = load(tree(tmp_path, p=8)/'p', held_out=.25)
    assert [len(o.dataset) for o in dls.loaders]==[6,2,0]


def test_symlink_loop(tmp_path, load):
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__bad=1)
    os.symlink(p, p/'train/good/again')
    assert [len(o.dataset) for o in load(p, held_out=0).loaders]==[8,0,3]


@pytest.mark.parametrize('where,report', [('train/good/copy.png',True), ('test/good/copy.png',True),
                                          ('test/cut/copy.png',True), (None,False)])
def test_duplicates(tmp_path, load, where, report):
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__cut=2)
    if where: (p/where).write_bytes((p/'train/good/000.png').read_bytes())
    dls = load(p)
    assert bool(dls.duplicates)==report and ('copy.png' in dls.said)==report
    if report: assert {o.name for o in dls.duplicates[0]}=={'000.png','copy.png'}


def test_copies_with_two_labels(tmp_path, load):
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__cut=2)
    (p/'test/cut/001.png').write_bytes((p/'test/good/001.png').read_bytes())
    assert len(load(p).duplicates)==1


# pixels

@pytest.mark.parametrize('top,white', [(1024,1023), (4096,4095), (16384,16383), (65536,65535)])
def test_white_of_a_folder(tmp_path, load, top, white):
    "Found over the training images, and used for every image scored later"
    for i in range(8): noise(tmp_path/f'p/train/good/{i}.png', dtype=np.uint16, top=top)
    noise(tmp_path/'new.png', dtype=np.uint16, top=top//4)
    dls = load(tmp_path/'p')
    assert dls.white==white and dls.new_empty().white==white
    for d in (dls, dls.new_empty()):
        x, = d.test_dl([tmp_path/'new.png']).one_batch()
        assert d.decode(x).max()<.27
    assert load(tmp_path/'p', white=65535).white==65535


bad_arrays = {
    'uint16 of 8 bits': (dict(x=np.full((9,16,16), 200, np.uint16)), 'pass white='),
    'alpha':            (dict(x=np.zeros((9,16,16,4), np.uint8)), '4 channels'),
    'two channels':     (dict(x=np.zeros((9,2,16,16), np.uint8)), '2 channels'),
    'a flat table':     (dict(x=np.zeros((9,256), np.uint8)), 'x_train'),
    'names':            (dict(x=np.array(['a.png']*9)), 'x_train'),
    'bools':            (dict(x=np.zeros((9,16,16), bool)), 'x_train'),
    'complex':          (dict(x=np.zeros((9,16,16), complex)), 'x_train'),
    'objects':          (dict(x=np.array([None]*9)), 'x_train'),
    'ragged':           (dict(x=[np.zeros((16,16)), np.zeros((8,8))]), 'one size'),
    'negative':         (dict(x=np.full((9,16,16), -1.)), r'\[0, 1\]'),
    'infinite':         (dict(x=np.full((9,16,16), np.inf)), 'finite'),
    'size 21':          (dict(size=21), 'size must have'),
    'size as text':     (dict(size='16'), 'size must be'),
    'bs':               (dict(bs=0), 'bs must be'),
    'bs as fraction':   (dict(bs=2.5), 'bs must be'),
    'held_out 1':       (dict(held_out=1), 'held_out must be'),
    'held_out negative':(dict(held_out=-.1), 'held_out must be'),
    'held_out text':    (dict(held_out='some'), 'held_out must be'),
    'all held out':     (dict(held_out=.99), 'no image to train on'),
    'n_train 0':        (dict(n_train=0), 'n_train must be'),
    'n_train half':     (dict(n_train=.5), 'n_train must be'),
    'seed':             (dict(seed=-1), 'seed must be'),
    'seed None':        (dict(seed=None), 'seed must be'),
    'white':            (dict(white=0), 'white must be'),
    'layout':           (dict(x=np.zeros((9,16,16,3), np.uint8), layout='NHWC'), 'layout must be'),
}

@pytest.mark.parametrize('name', bad_arrays)
def test_bad_arrays(name):
    kwargs,says = bad_arrays[name]
    x = kwargs.get('x', np.zeros((9,16,16), np.uint8))
    kwargs = {'bs':4, **{k:v for k,v in kwargs.items() if k!='x'}}
    with pytest.raises(ValueError, match=says): AnomalyDataLoaders.from_arrays(x, **kwargs)


@pytest.mark.parametrize('bad', [2, 255, -1, .5, float('nan'), None, '0', 'normal', b'1', [0]], ids=str)
def test_bad_labels(bad):
    x = rng.integers(0, 256, (8,16,16), dtype=np.uint8)
    y = np.array([0,1,None,1], object)
    y[2] = bad
    with pytest.raises(ValueError, match='y_test must be 0'):
        AnomalyDataLoaders.from_arrays(x, x[:4], y, bs=4, held_out=0)


def test_nearly_black_is_said():
    with pytest.warns(UserWarning, match='nearly black'): AnomalyDataLoaders.from_arrays(
        rng.random((8,16,16))/255, bs=4)


# splits and seeds

def test_the_ragged_last_batch():
    dls = arrays(23, held_out=0, x_test=np.zeros((6,16,16), np.uint8), y_test=[0]*6)
    assert [len(y) for _,y in dls.train]==[4]*5 and len(dls.train)==5
    assert [len(y) for _,y in dls.test]==[4,2]


@pytest.mark.parametrize('held_out,n', [(0,0), (.05,1), (.5,10), (.94,19)])
def test_share_held_out(held_out, n):
    dls = arrays(20, held_out=held_out, bs=1)
    assert [len(o.dataset) for o in dls.loaders[:2]]==[20-n,n]


def test_every_seed_changes_the_split_and_the_order():
    def seen(seed):
        dls = arrays(40, held_out=.25, seed=seed, bs=30)
        return set(dls.valid.dataset.items),dls.train.one_batch()[0]
    (a,x),(b,y),(c,z) = map(seen, (0,1,0))
    assert a!=b and a==c and torch.equal(x, z)
    same_rows = [AnomalyDL(ImageSet(torch.arange(30, dtype=torch.uint8).view(-1,1,1,1)), 30, seed, shuffle=True)
                 .one_batch()[0].flatten().tolist() for seed in (0,1)]
    assert same_rows[0]!=same_rows[1] and sorted(same_rows[0])==sorted(same_rows[1])


def test_the_seed_of_loaders_reaches_the_order():
    images = torch.arange(30, dtype=torch.uint8).view(-1,1,1,1).expand(-1,1,16,16)
    sets = [ImageSet(images, [0]*30), ImageSet(images[:0], []), ImageSet(images[:0], [])]
    first = [AnomalyDataLoaders.from_sets(*sets, bs=30, seed=s).train.one_batch()[0] for s in (0,1,0)]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])


def test_official_split_is_respected():
    abnormal,official = np.arange(60)%3==0,np.arange(60)%4==0
    for seed in range(3):
        train,valid,test = anomaly_splits(abnormal, official, .1, seed)
        assert test.tolist()==np.flatnonzero(official).tolist()
        assert sorted([*train,*valid])==np.flatnonzero(~official & ~abnormal).tolist()


def test_n_train_takes_from_training_only():
    full,few = arrays(40, held_out=.25),arrays(40, held_out=.25, n_train=7)
    assert few.train.dataset.items==full.train.dataset.items[:7]
    assert few.valid.dataset.items==full.valid.dataset.items


def test_order_goes_on():
    "The state of a loader after any number of epochs decides all that follow"
    dl = arrays(40, held_out=0).train
    for _ in range(3): list(dl)
    state = json.loads(json.dumps(dl.state()))
    then = [x for _ in range(2) for x,_ in dl]
    other = dl.new(seed=9)
    other.set_state(state)
    assert all(torch.equal(a, b) for a,b in zip(then, [x for _ in range(2) for x,_ in other]))


# fastai's arguments

class Darker(Transform):
    "A transform of fastai's kind, that needs fastai's types"
    split_idx = 0
    def encodes(self, x:TensorImage): return x*.5

tfms = {
    'torchvision': [v2.RandomHorizontalFlip(), v2.RandomAffine(5), v2.ColorJitter(.2)],
    'one module':  v2.Compose([v2.RandomVerticalFlip(), v2.RandomErasing(.5)]),
    'fastai':      aug_transforms(size=None),
    'pipeline':    Pipeline([Darker()]),
    'function':    lambda x: 1-x,
}

@pytest.mark.parametrize('nc', [1,3])
@pytest.mark.parametrize('name', tfms)
def test_augmentation(name, nc):
    set_seed(0)
    x = rng.integers(0, 256, (12,nc,16,16), dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = AnomalyDataLoaders.from_arrays(x, x[:4]//2, [0,1,0,1], bs=12, held_out=0, batch_tfms=tfms[name])
        b,_ = dls.train.one_batch()
    assert type(b) is torch.Tensor and b.dtype==torch.float32 and b.shape==(12,nc,16,16)
    assert -1<=b.min() and b.max()<=1
    plain = dls.train.new(shuffle=False).one_batch()[0]
    assert torch.equal(plain, dls.train.after_batch.__self__.new(shuffle=False, batch_tfms=None).one_batch()[0])
    assert not torch.allclose(b.sort(0).values, plain.sort(0).values)
    assert torch.allclose((dls.test.one_batch()[0]+1)*127.5, torch.as_tensor(x[:4]//2).float(), atol=1e-3)


def test_augmentation_of_every_source(tmp_path, load):
    p = tree(tmp_path/'p', train__good=8, test__good=2, test__bad=2)
    black = lambda x: x*0
    sources = [arrays(batch_tfms=black), load(p, batch_tfms=black),
        AnomalyDataLoaders.from_digits(batch_tfms=black, bs=4),
        AnomalyDataLoaders.from_class_folders(p, 'bad', 16, 1, cache=tmp_path/'cache', batch_tfms=black, bs=4)]
    for dls in sources:
        assert dls.train.one_batch()[0].max()==-1 and dls.test.bs==4
        if len(dls.test.dataset): assert dls.test.one_batch()[0].max()>-1


def test_test_dl(tmp_path):
    dls = arrays()
    noise(tmp_path/'a.png')
    items = [tmp_path/'a.png', str(tmp_path/'a.png'), Image.open(tmp_path/'a.png'), np.zeros((16,16), np.uint8)]
    assert dls.test_dl(items, bs=2, num_workers=0, rm_type_tfms=None, process=True).one_batch()[0].shape==(2,1,16,16)
    x,y = dls.test_dl([(items[0],'abnormal'), (items[3],0)], with_labels=True).one_batch()
    assert y.tolist()==[1,0]
    assert dls.test_dl(items, shuffle=True).shuffle
    assert len(list(dls.test_dl([])))==0
    for bad,error in ((dict(items=[tmp_path/'b.png']),FileNotFoundError), (dict(items=items, bs=-1),ValueError),
                      (dict(items=items, with_labels=True),ValueError), (dict(items=items, size=3),TypeError),
                      (dict(items=[(items[0],2)], with_labels=True),ValueError)):
        with pytest.raises(error): dls.test_dl(**bad)


@pytest.mark.parametrize('source', ['digits','folder'])
def test_what_interpretation_asks_of_a_loader(source, tmp_path, load):
    "Items go to `test_dl` and come back the same; titles are words; the vocabulary has two entries"
    if source=='digits': dls = AnomalyDataLoaders.from_digits(bs=8)
    else: dls = load(tree(tmp_path/'p', train__good=8, test__good=2, test__bad=2))
    again = dls.test_dl(dls.test.items[[0,3]], with_labels=True)
    x,y = dls.test.dataset[[0,3]]
    assert torch.equal(again.one_batch()[0], dls.test.after_batch((x,))[0])
    assert torch.equal(again.one_batch()[1], y)
    assert list(dls.test.vocab)==['normal','abnormal']
    b = dls.test.one_batch()
    x,y,its = dls.test._pre_show_batch(b, max_n=2)
    assert len(its)==2 and {o[1] for o in dls.test.decode_batch(b)}<={'normal','abnormal'}
    *_,outs = dls.test.show_results(b, b[1], max_n=2, show=False)
    assert [o[0] for o in outs]==[o[1] for o in its]


def test_an_empty_set_of_loaders_holds_no_pictures():
    x_test = rng.integers(0, 256, (4,16,16), dtype=np.uint8)
    dls = arrays(x_test=x_test, y_test=[0,0,1,1], stats=(.2,.4))
    bare = dls.new_empty()
    assert [len(o.dataset) for o in bare.loaders]==[0]*3 and bare.train.dataset.stats==(.2,.4)
    x = np.zeros((16,16), np.uint8)
    assert torch.equal(bare.test_dl([x]).one_batch()[0], dls.test_dl([x]).one_batch()[0])
