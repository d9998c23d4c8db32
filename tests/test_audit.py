"The leak auditor: it finds every leak that was planted, and lets every honest scorer pass, whatever its form."
import numpy as np, pandas as pd, pytest, torch
from contextlib import nullcontext
from torch import nn
from fastai.basics import set_seed
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.controls import control_learner
from ganomaly_nb.evaluation import auroc, f1_at_threshold
from ganomaly_nb.scoring import Calibration
from ganomaly_nb.audit import *

rng = np.random.default_rng(0)
def draw(n, bright): return np.clip(rng.normal(100+bright, 25, (n,1,1,1)) + rng.normal(0, 20, (n,1,8,8)), 0, 255).astype(np.uint8)
train,held_out = draw(200, 0),draw(100, 0)
x = np.concatenate([draw(60, 0), draw(30, 40)])
y = np.r_[np.zeros(60), np.ones(30)].astype(int)
mixed = np.random.default_rng(1).permutation(90)
x,y = x[mixed],y[mixed]

def bright(x): return np.asarray(x, float).mean((1,2,3))
def leaks(table): return set(table.index[table.leak])
def ask(scorer, x=x, y=y, n=40, **kwargs): return audit(scorer, x, y, n=n, **kwargs)


# Honest scorers, in every form

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
for _ in range(20): net(torch.as_tensor(train[:64]).float()/255) # running statistics
net.eval()

@torch.no_grad()
def by_net(x, model=net): return model(torch.as_tensor(x).float()/255)[:,0]
def with_gradient(x): return net(torch.as_tensor(x).float()/255)[:,0]
def half(x): return by_net(x).bfloat16()
def one_by_one(x): return [float(o.mean()) for o in np.asarray(x)]
def one_only(x):
    if len(x)!=1: return np.concatenate([np.atleast_1d(one_only(x[i:i+1])) for i in range(len(x))])
    return float(bright(x)[0]) # a plain number
def writes_into(x):
    s = bright(x)
    x[:] = 0
    return s
def rounding(x): return (bright(x)*(1+1e-7*len(x))).astype(np.float32)
def noisy(x): return bright(x) + np.random.normal(0, .5, len(x))
def huge_outlier(x): return np.where(bright(x)>170, bright(x)*1e6, bright(x)).astype(np.float32)
def constant(x): return np.zeros(len(x))

honest = dict(numpy=bright, torch=by_net, gradient=with_gradient, list=one_by_one, single=one_only, writes_into=writes_into,
              rounding=rounding, noisy=noisy, outlier=huge_outlier, constant=constant)

@pytest.mark.parametrize('name', honest)
@pytest.mark.parametrize('form', [np.asarray, torch.as_tensor])
def test_honest(name, form):
    before = x.copy()
    table = ask(honest[name], form(x), form(y))
    assert not leaks(table), table.to_string()
    assert (x==before).all()
    assert list(table.columns)==['leak','verdict','points','seen'] and table.leak.dtype==bool
    assert leak_verdict(table).startswith('No leak found. Passed: repeat, batch, order, other images, threads.')


def test_other_shapes():
    "Images need not be images: anything with one row each"
    table = ask(lambda x: x[:,0], x.reshape(90, -1)/255., train=train.reshape(200, -1)/255.)
    assert not leaks(table) and table.verdict['copies']=='passed'
    assert not leaks(audit(bright, list(x), list(y), n=40))


def test_half_precision_needs_a_larger_tolerance():
    def half_batch(x): return by_net(x)*(1+.003*(len(x)>1)) # rounded to three digits, one way or the other
    assert leaks(ask(half_batch)) and not leaks(ask(half_batch, tol=.2)) and not leaks(ask(half))


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    set_seed(0)
    dls = AnomalyDataLoaders.from_arrays(train, x, y, size=16, bs=32, held_out=.2)
    learn = ganomaly_learner(dls, nz=8, nf=4, path=tmp_path_factory.mktemp('audit'))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.calibrate()
    return learn


def test_learner(learn):
    "By its own material; its state, threads and random numbers are as before"
    threads,cal = torch.get_num_threads(),learn.calibration
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    table = audit(learn, n=20)
    assert torch.rand(1)==expected and torch.get_num_threads()==threads and learn.calibration is cal
    assert not leaks(table) and (table.verdict=='passed').sum()==7
    given = audit(learn, x[:40], y[:40], n=20) # other images, of another size: the learner squeezes them
    assert not leaks(given) and given.verdict['threshold']==given.verdict['copies']=='not asked'
    assert audit(control_learner(learn.dls, 'brightness'), n=20).leak.sum()==0
    s = as_scorer(learn)(x).numpy()
    best = max(s, key=lambda t: f1_at_threshold(y, s, t))
    assert leaks(audit(learn, n=20, threshold=best))=={'threshold'} # not that of the calibration


# Planted leaks: which checks must find them

def batch_norm(x): return with_mode(x, True)
@torch.no_grad()
def with_mode(x, training):
    m = nn.BatchNorm2d(1, momentum=0.).train(training)
    return (m(torch.as_tensor(x).float())).clamp_min(0).mean((1,2,3))
def batch_norm_1d(x): return nn.BatchNorm1d(1)(torch.as_tensor(bright(x)[:,None]).float())[:,0]
def min_max(x):
    s = bright(x)
    return (s-s.min())/max(np.ptp(s), 1e-9)
def ranks(x): return bright(x).argsort().argsort()
def neighbours(x): return np.convolve(np.pad(bright(x), 1, 'edge'), np.ones(3)/3, 'valid')
def others_found(x): return np.array([np.sort(np.abs(bright(x)-o))[:5].mean() for o in bright(x)]) # nearest of the test set
def smoothed(x):
    s = bright(x)
    for k in range(1, len(s)): s[k] = .2*s[k]+.8*s[k-1]
    return s
def position(x): return bright(x)+np.arange(len(x))
def last_batch_lost(x): # of eight
    s = bright(x)
    s[len(s)//8*8:] = 0
    return s
def by_thread(x):
    parts = np.array_split(bright(x), torch.get_num_threads())
    return np.concatenate([o-o.mean() for o in parts])
def one_peeks(x):
    s = bright(x)
    s[s.argmax()] += .5 # a single score, by a few hundredths of the spread
    return s

planted = {
    'batch norm':(batch_norm, {'batch','other images'}), 'batch norm 1d':(batch_norm_1d, {'batch','other images'}), 'min and max':(min_max, {'batch','other images'}),
    'ranks':(ranks, {'batch','other images'}), 'neighbours':(neighbours, {'batch','order','other images'}), 'nearest in the test set':(others_found, {'batch','other images'}),
    'smoothed':(smoothed, {'batch','order','other images'}), 'position':(position, {'batch','order','other images'}),
    'last batch lost':(last_batch_lost, {'batch','other images'}), 'threads':(by_thread, {'threads','batch','other images'}), 'one peeks':(one_peeks, {'batch','other images'}),
}

@pytest.mark.parametrize('name', planted)
@pytest.mark.parametrize('form', [np.asarray, torch.as_tensor])
def test_planted(name, form):
    scorer,expected = planted[name]
    table = ask(scorer, form(x), form(y))
    assert leaks(table)==expected, table.to_string()
    assert leak_verdict(table).startswith('LEAK: ')


@pytest.mark.parametrize('what', ['mean','count'])
def test_running_state(what):
    "A memory of what was scored before"
    seen = []
    def remembers(x):
        seen.extend(bright(x))
        return bright(x)-(np.mean(seen) if what=='mean' else .1*len(seen))
    table = ask(remembers)
    assert 'repeat' in leaks(table) and ('points' in leak_verdict(table))==(table.points[table.leak].abs().max()>=.05)
    assert 'repeat' in leaks(ask(remembers, n=90)) # all of them, so that the mean of two calls alone is the same


def test_chance_is_no_leak_and_hides_none():
    "Random numbers raise the bar, but a scale of the batch is far above it"
    table = ask(lambda x: min_max(x)+np.random.normal(0, .01, len(x)))
    assert leaks(table)=={'batch','other images'} and 'another seed moves them' in table.seen['repeat']
    assert 'another seed' not in ask(bright).seen['repeat']


def test_points_of_sorted_labels():
    "What a sorted test set is worth, in points"
    table = ask(smoothed, n=90)
    i,shuffled = np.argsort(y, kind='stable'),np.random.default_rng(0).permutation(90)
    first,later = np.empty(90),np.empty(90)
    first[i],later[shuffled] = smoothed(x[i]),smoothed(x[shuffled])
    assert table.points['order']==pytest.approx(100*(auroc(y, first)-auroc(y, later))) and table.points['order']>5
    assert table.points['other images']==pytest.approx(100*(auroc(y, smoothed(x))-auroc(y, bright(x))))
    assert f'({table.points[table.leak].abs().idxmax()})' in leak_verdict(table)


# What was printed

def test_copies():
    exact = np.concatenate([train, x[:9]])
    shade = np.concatenate([train, np.clip(x[:9].astype(int)+2, 0, 255).astype(np.uint8)])
    found = {k:ask(bright, train=t) for k,t in dict(none=train, exact=exact, shade=shade).items()}
    assert [leaks(o) for o in found.values()]==[set(),{'copies'},{'copies'}]
    assert found['exact'].seen['copies'].startswith('9 of 90 test images are in training, 0 nearly')
    assert found['shade'].seen['copies'].startswith('0 of 90 test images are in training, 9 nearly')
    rest = 100*(auroc(y, bright(x))-auroc(y[9:], bright(x[9:])))
    assert found['exact'].points['copies']==pytest.approx(rest)==pytest.approx(found['shade'].points['copies'])
    assert leaks(ask(bright, train=torch.as_tensor(exact)))=={'copies'}
    all_ = ask(bright, train=np.concatenate([train, x]))
    assert leaks(all_)=={'copies'} and np.isnan(all_.points['copies']) # nothing is left to measure with
    fractions = [o+np.random.default_rng(2).normal(size=(1,1,8,8)) for o in (x,exact)] # whose distances lose digits
    assert check_copies(fractions[0], y, bright(x), fractions[1])['seen'].startswith('9 of 90 test images are in training, 0 nearly')
    s = bright(x)
    assert not check_copies(x, y, s, shade, near=.001)['leak'] and check_copies(x, y, s, exact, near=.001)['leak']


def test_threshold():
    s,normals = bright(x),bright(held_out)+1e-3 # never equal: bytes are on a grid
    cal = Calibration(normals, .05)
    assert not leaks(ask(bright, threshold=cal.threshold, held_out=normals)) and not leaks(ask(bright, threshold=cal.threshold))
    criteria = dict(f1=lambda t: f1_at_threshold(y, s, t), accuracy=lambda t: ((s>t)==y).mean(), youden=lambda t: (s>t)[y==1].mean()-(s>t)[y==0].mean())
    for criterion in criteria.values():
        table = ask(bright, threshold=max(s, key=criterion), held_out=torch.as_tensor(normals))
        assert leaks(table)=={'threshold'}
    above = max(s, key=criteria['f1'])+1e-6 # the same decisions
    found = check_threshold(y, s, above, normals)
    honest = f1_at_threshold(y, s, np.quantile(normals, .95))
    assert found['leak'] and found['points']==pytest.approx(100*(f1_at_threshold(y, s, above)-honest))
    for t in (s.min()-1,s.max()+1): assert not check_threshold(y, s, t)['leak']


def test_epoch():
    v = auroc(y, bright(x))
    assert leaks(ask(bright, candidates=[v-.1,v,v-.05]))=={'epoch'}
    assert ask(bright, candidates=[v-.1,v,v-.05]).points['epoch']==pytest.approx(5)
    assert not leaks(ask(bright, candidates=[v-.1,v-.05,v])) and not leaks(ask(bright, candidates=[v+.01,v-.05,v]))
    assert not leaks(ask(bright, candidates=pd.Series([v])))
    assert not leaks(ask(bright, candidates=[v,v+.01,v-.01])) # neither the best nor the last
    assert not leaks(ask(bright, candidates=[v+.0002,v])) # nobody can print that difference
    assert leaks(ask(bright, candidates=[.5,.6]))=={'epoch'}
    assert leaks(ask(bright, candidates=[v+.03,v], reported=v+.03))=={'epoch','AUROC'}


@pytest.mark.parametrize('mistake', ['the sign is flipped','ties count for the model','ties count against the model','it is an AUPRC'])
def test_wrong_auroc(mistake):
    def rough(x): return np.round(bright(x)/30)
    s = rough(x)
    wrong = usual_mistakes(y, s)[mistake]
    table = ask(rough, reported=round(wrong, 3))
    assert leaks(table)=={'AUROC'} and mistake in table.seen['AUROC']
    assert table.points['AUROC']==pytest.approx(100*(wrong-auroc(y, s)), abs=.06)
    assert not leaks(ask(rough, reported=round(auroc(y, s), 3))) and not leaks(ask(rough, reported=round(auroc(y, s), 2), digits=2))
    assert leaks(ask(rough, reported=round(auroc(y, s), 2)+.002))=={'AUROC'}


def test_ties_by_the_definition():
    s = np.round(bright(x)/30)
    won,tied = s[y==1][:,None]>s[y==0],s[y==1][:,None]==s[y==0]
    found = usual_mistakes(y, s)
    assert found['ties count for the model']==pytest.approx((won|tied).mean())
    assert found['ties count against the model']==pytest.approx(won.mean())


# Wrong input

def fails(x): raise RuntimeError('out of memory')

bad = {
    'no scorer':((None, x, y), {}, TypeError, 'a learner or a function of images, found NoneType'),
    'no images':((bright,), {}, ValueError, 'pass images and labels'),
    'no labels':((bright, x), {}, ValueError, 'labels must be 90 labels'),
    'fewer labels':((bright, x, y[1:]), {}, ValueError, r'labels must be 90 labels, one for each image, found shape \(89,\)'),
    'other labels':((bright, x, y+1), {}, ValueError, r'labels must be 0 \(normal\) or 1 \(abnormal\), found \[2'),
    'all normal':((bright, x, y*0), {}, ValueError, 'found 90 normal and 0 abnormal'),
    'all abnormal':((bright, x, y*0+1), {}, ValueError, 'found 0 normal and 90 abnormal'),
    'no image':((bright, x[:0], y[:0]), {}, ValueError, 'found 0 normal and 0 abnormal'),
    'fewer scores':((lambda x: bright(x)[1:], x, y), {}, ValueError, 'found 89 scores for 90 images'),
    'one score':((lambda x: 1., x, y), {}, ValueError, 'found 1 scores for 90 images'),
    'a column':((lambda x: bright(x)[:,None], x, y), {}, ValueError, r'scores must have the shape \(N,\), found \(90, 1\)'),
    'maps':((lambda x: x, x, y), {}, ValueError, r'scores must have the shape \(N,\)'),
    'words':((lambda x: ['a']*len(x), x, y), {}, ValueError, 'scores must be numbers'),
    'nan':((lambda x: bright(x)/0*0, x, y), {}, ValueError, 'scores must be finite, found 90 of 90'),
    'its own error':((fails, x, y), {}, RuntimeError, 'out of memory'),
    'several sizes':((bright, [x[0],x[0,:,1:]], [0,1]), {}, ValueError, 'images must be images of one size'),
    'training images of another size':((bright, x, y), dict(train=train[:,:,1:]), ValueError, r'shape of the test images \(1, 8, 8\), found \(200, 1, 7, 8\)'),
    'percent':((bright, x, y), dict(reported=91.2), ValueError, 'reported must be an AUROC from 0 to 1, found 91.2'),
    'candidates in percent':((bright, x, y), dict(candidates=[91,92]), ValueError, 'candidates must be an AUROC from 0 to 1'),
    'scores as candidates':((bright, x, y), dict(candidates=np.ones((2,90))), ValueError, r'candidates must have the shape \(N,\)'),
    'no candidates':((bright, x, y), dict(candidates=[]), ValueError, 'candidates must be one AUROC or more, found none'),
    'a threshold that is none':((bright, x, y), dict(threshold=np.nan), ValueError, 'threshold must be a finite number, found nan'),
    'n':((bright, x, y), dict(n=0), ValueError, 'n must be a whole number of at least 1'),
    'tol':((bright, x, y), dict(tol=-1), ValueError, 'tol must be a number of at least 0'),
    'seed':((bright, x, y), dict(seed=-1), ValueError, 'seed must be a whole number'),
    'digits':((bright, x, y), dict(digits=0), ValueError, 'digits must be 1 or more'),
}

@pytest.mark.filterwarnings('ignore::RuntimeWarning')
@pytest.mark.parametrize('name', bad)
def test_wrong_input(name):
    args,kwargs,error,says = bad[name]
    with pytest.raises(error, match=says): audit(*args, **kwargs)


def test_few_images():
    "Two of each kind are enough, and one anomaly is"
    some = np.r_[np.flatnonzero(y==0)[:2], np.flatnonzero(y==1)[:2]]
    for i in (some, some[:3]):
        assert not leaks(audit(bright, x[i], y[i])) and {'batch','other images'}<=leaks(audit(lambda x: bright(x)-bright(x).mean(), x[i], y[i]))


def test_a_scorer_that_fails_alone():
    "That is a finding, with its message, and no crash"
    table = ask(batch_norm_1d)
    assert '40 of 40 images get no finite score (ValueError: Expected more than 1 value' in table.seen['other images'] and np.isnan(table.points['other images'])


@pytest.mark.parametrize('others', [True,False])
def test_threads_are_put_back(others, monkeypatch):
    "Also when the scorer fails, and where torch has threads that nobody else sets"
    if not others: monkeypatch.setattr('ganomaly_nb.audit.threadpool_limits', lambda n: nullcontext())
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        with with_threads(3):
            assert torch.get_num_threads()==3
            raise RuntimeError
    assert torch.get_num_threads()==before
    asked = []
    ask(lambda x: asked.append(torch.get_num_threads()) or bright(x))
    assert {1,max(2, before)}<=set(asked) and torch.get_num_threads()==before


def test_random_numbers_of_others():
    "An audit draws none of them"
    for seed in (lambda: np.random.seed(1), lambda: torch.manual_seed(1)): seed()
    expected = np.random.rand(),torch.rand(1).item()
    for seed in (lambda: np.random.seed(1), lambda: torch.manual_seed(1)): seed()
    ask(noisy)
    assert (np.random.rand(),torch.rand(1).item())==expected


def test_seed_and_n():
    "The seed shuffles, n says how many are asked, both kinds in proportion"
    sizes = []
    ask(lambda x: sizes.append(len(x)) or bright(x), n=30)
    assert sizes[0]==90 and sizes[1]==30
    i = some_of(y, 30)
    assert y[i].sum()==10 and (np.diff(i)>0).all()
    a,b = [ask(smoothed, seed=k).points['order'] for k in (0,1)]
    assert a!=b and a==ask(smoothed, seed=0).points['order']
