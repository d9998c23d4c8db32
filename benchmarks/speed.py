"""Side-by-side timings, as ratios: `make bench`.

Every row runs two things in turn in this one process and takes the median of the paired ratios, because a machine's speed drifts and single seconds say little.
Rows and their environment go to `benchmarks/speed.csv`.
"""
import contextlib, gzip, platform, statistics, struct, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import fastai, numpy as np, pandas as pd, torch

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'tests'))
import ganomaly_nb
from fastai.callback.channelslast import ChannelsLast
from fastai.basics import set_seed
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from textbook import Textbook

rows = []
device = 'cuda' if torch.cuda.is_available() else 'cpu'


def seconds(f):
    start = time.perf_counter(); f()
    if device=='cuda': torch.cuda.synchronize()
    return time.perf_counter()-start


def compare(what, base, ours, target, n=15, warmup=2):
    "How many times faster is `ours` than `base`? They take turns"
    pairs = [(seconds(base), seconds(ours)) for _ in range(n+warmup)][warmup:]
    ratios = sorted(a/b for a,b in pairs)
    note(what, statistics.median(ratios), target, f'{ratios[0]:.2f} to {ratios[-1]:.2f}', n)


def note(what, value, target, spread, n):
    rows.append(dict(what=what, ratio=round(value, 3), target=target, spread=spread, n=n, device=device if device=='cpu' else torch.cuda.get_device_name(), threads=torch.get_num_threads(),
                     torch=torch.__version__, fastai=fastai.__version__, python=platform.python_version(), processor=platform.processor() or platform.machine()))
    print(f'{what:70} {value:7.2f}   (target {target}; {spread})', flush=True)


def learner(dls, *cbs, bf16=False, **kwargs):
    learn = ganomaly_learner(dls, cbs=cbs, path=Path(tempfile.mkdtemp()), **kwargs)
    if bf16: learn.to_bf16()
    learn.create_opt()
    return learn


def random_loaders(n, bs=64, **kwargs):
    x = np.random.default_rng(0).integers(0, 256, (n+1024,32,32), dtype=np.uint8)
    return AnomalyDataLoaders.from_arrays(x[1024:], x[:1024], np.arange(1024)%2, held_out=0, bs=bs, **kwargs)


def steps(dls, *cbs, bf16=False, compiled=False):
    "A function that makes one training step, with everything in place"
    learn = learner(dls, *cbs, bf16=bf16)
    x,_ = dls.train.one_batch()
    model = learn.model.train()
    if compiled: model.compile()
    if cbs: model.to(memory_format=torch.channels_last)
    def step():
        with torch.autocast(device, torch.bfloat16, enabled=bf16): out = model(x)
        learn.loss_func([o.float() for o in out]).backward()
        learn.opt.step(); learn.opt.zero_grad()
    return step


def training():
    "Batch 64, 1 x 32 x 32, nz 100, nf 64"
    dls = random_loaders(640)
    x,_ = dls.train.one_batch()
    textbook = Textbook()
    if device=='cuda':
        for m in textbook.modules(): m.cuda()
    base = lambda: textbook.step(x)
    compare('training step: textbook / ours, fp32', base, steps(dls), '')
    compare('training step: textbook / ours, fp32 channels last', base, steps(dls, ChannelsLast()), '>= 1.35')
    compare('training step: textbook / ours, bf16 channels last', base, steps(dls, ChannelsLast(), bf16=True), '>= 2.0')
    compare('training step: textbook / ours, bf16 channels last, compiled', base, steps(dls, ChannelsLast(), bf16=True, compiled=True), '>= 2.0')


def fit():
    "fastai's loop with our callbacks against the same steps in a bare loop"
    dls = random_loaders(640)
    learn,step = learner(dls),steps(dls)
    def loop():
        for _ in dls.train: step()
    def fitting():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    compare('ten steps: bare loop / learn.fit', loop, fitting, '>= 0.95', n=9)


def write_mnist(path, n):
    raw = path/'MNIST'/'raw'; raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name,k in (('train',n),('t10k',1000)):
        (raw/f'{name}-images-idx3-ubyte').write_bytes(struct.pack('>IIII', 2051, k, 28, 28) + rng.integers(0, 256, k*784, dtype=np.uint8).tobytes())
        (raw/f'{name}-labels-idx1-ubyte').write_bytes(struct.pack('>II', 2049, k) + (np.arange(k)%10).astype(np.uint8).tobytes())


def data():
    "One epoch of batches, as float tensors in the networks' range"
    from torchvision import datasets, transforms
    path = Path(tempfile.mkdtemp()); write_mnist(path, 10_000)
    ds = datasets.MNIST(path, transform=transforms.Compose([transforms.Resize(32), transforms.ToTensor(), transforms.Normalize(.5, .5)]))
    dls = AnomalyDataLoaders.from_mnist(path, abnormal=2)
    n = len(dls.train)*64
    subset = torch.utils.data.Subset(ds, range(n))
    theirs = torch.utils.data.DataLoader(subset, batch_size=64, shuffle=True)
    def epoch(dl):
        for _ in dl: pass
    compare(f'epoch of {n} images: torchvision MNIST with PIL / ours', lambda: epoch(theirs), lambda: epoch(dls.train), '>= 20', n=7)


def scoring():
    "1,024 images"
    dls = random_loaders(640)
    textbook = Textbook()
    if device=='cuda':
        for m in textbook.modules(): m.cuda()
    x = torch.cat([b[0] for b in dls.test])
    def base(): [textbook.score(b) for b in x.split(64)]
    for name,cbs,bf16,target in (('fp32',(),False,''), ('fp32 channels last',[ChannelsLast()],False,''), ('bf16 channels last',[ChannelsLast()],True,'>= 1.5')):
        learn = learner(dls, *cbs, bf16=bf16)
        if cbs: learn.model.to(memory_format=torch.channels_last)
        def ours():
            with learn.no_bar(): learn.get_preds(dl=dls.test)
        compare(f'scoring: plain loop / get_preds, {name}', base, ours, target, n=9)


def importing():
    "Seconds that `import ganomaly_nb.learner` takes beyond `import fastai.vision.all`"
    def clock(what): return float(subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import time; t=time.perf_counter(); import {what}; print(time.perf_counter()-t)'], capture_output=True, text=True, check=True).stdout)
    clock('fastai.vision.all')
    d = sorted(clock('ganomaly_nb.learner')-clock('fastai.vision.all') for _ in range(5))
    note('import ganomaly_nb.learner - import fastai.vision.all, seconds', d[2], '<= 0.3', f'{d[0]:.2f} to {d[-1]:.2f}', 5)


if __name__=='__main__':
    set_seed(0)
    for f in (importing, data, training, fit, scoring): f()
    pd.DataFrame(rows).to_csv(root/'benchmarks'/'speed.csv', index=False)
