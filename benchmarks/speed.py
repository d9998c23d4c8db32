"""Side-by-side timings, as ratios: `make bench`.

Every row runs two things in turn in this one process and takes the median of the paired ratios, because a machine's speed drifts and single seconds say little.
Rows and their environment go to `benchmarks/speed.csv`, the machine's own ceiling among them; where the time of a step goes, to `benchmarks/step.csv`.
"""
import contextlib, gzip, platform, statistics, struct, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import fastai, numpy as np, pandas as pd, torch

root = Path(__file__).parent.parent
sys.path.insert(0, str(root/'tests'))
import ganomaly_nb
from fastai.basics import set_seed
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner, has_fast_bf16
from ganomaly_nb.training import ganomaly_opt
from torch.utils.flop_counter import FlopCounterMode
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


def learner(dls, **kwargs):
    learn = ganomaly_learner(dls, path=Path(tempfile.mkdtemp()), **kwargs)
    learn.create_opt()
    return learn


def random_loaders(n, bs=64, **kwargs):
    x = np.random.default_rng(0).integers(0, 256, (n+1024,32,32), dtype=np.uint8)
    return AnomalyDataLoaders.from_arrays(x[1024:], x[:1024], np.arange(1024)%2, held_out=0, bs=bs, **kwargs)


def steps(dls, last=True, precision='fp32', compiled=False, **kwargs):
    "A function that makes one training step, with everything in place"
    learn = learner(dls, **kwargs)
    x,_ = dls.train.one_batch()
    model = learn.model.train()
    if compiled: model.compile()
    if last: model.to(memory_format=torch.channels_last)
    def step():
        with torch.autocast(device, torch.bfloat16, enabled=precision=='bf16'): out = model(x)
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
    compare('training step: textbook / ours, weights as torch makes them', base, steps(dls, last=False), '')
    compare('training step: textbook / ours, as `fit` does it (channels last)', base, steps(dls), '>= 1.4')
    compare('training step: textbook / ours, channels last, compiled', base, steps(dls, compiled=True), '')
    compare('training step: textbook / ours, channels last, fused Adam', base, steps(dls, opt_func=lambda p, **kw: ganomaly_opt(p, fused=True, **kw)), '')
    if not has_fast_bf16(): return note('bf16: not measured, this processor has no instructions for it', float('nan'), '>= 2.3', '', 0)
    compare('training step: textbook / ours, bf16', base, steps(dls, precision='bf16'), '>= 2.3')
    compare('training step: textbook / ours, bf16, compiled', base, steps(dls, precision='bf16', compiled=True), '>= 2.3')


def fit():
    "What a user writes against a textbook's loop, and fastai's loop with our callbacks against the same steps in a bare one"
    dls,textbook = random_loaders(640),Textbook()
    learn,step = learner(dls),steps(dls)
    def by_the_book():
        for x,_ in dls.train: textbook.step(x)
    def loop():
        for _ in dls.train: step()
    def fitting():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    compare('ten steps: textbook loop / learn.fit, fp32', by_the_book, fitting, '>= 1.4', n=9)
    compare('ten steps: bare loop / learn.fit, nf 64', loop, fitting, '>= 0.97', n=9)
    small = AnomalyDataLoaders.from_digits(n_train=1024, held_out=0) # or `fit` would validate too, and the loop would not
    learn,step = learner(small, nf=8),steps(small, nf=8)
    def small_loop():
        for _ in small.train: step()
    def small_fitting():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    compare('sixteen steps on digits: bare loop / learn.fit, nf 8', small_loop, small_fitting, '>= 0.85', n=15)


def flops(f):
    "Floating point operations of a call, counted by torch"
    with FlopCounterMode(display=False) as count: f()
    return count.get_total_flops()


def rate(f, n=9):
    "Operations of `f`, and median GFLOP/s"
    times = [seconds(f) for _ in range(n+2)][2:]
    return flops(f),flops(f)/statistics.median(times)/1e9


def bounds():
    "What the machine can do, in the same run, and how much of it a step reaches"
    a = torch.randn(1024, 1024, device=device)
    conv = torch.nn.Conv2d(64, 128, 4, 2, 1, bias=False).to(device, memory_format=torch.channels_last)
    x = torch.randn(64, 64, 16, 16, device=device).to(memory_format=torch.channels_last).requires_grad_()
    def convolution(): conv(x).sum().backward()
    _,product = rate(lambda: a@a)
    _,of_conv = rate(convolution)
    n,ours = rate(steps(random_loaders(640)))
    params = sum(p.numel() for p in learner(random_loaders(640)).model.parameters())
    note('GFLOP/s of a product of 1024 x 1024 matrices', product, '', '', 9)
    note('GFLOP/s of a convolution, 64 to 128 maps of 16 x 16, both ways', of_conv, '', '', 9)
    note('GFLOP in a training step, batch 64, nf 64', n/1e9, '', '', 1)
    note('GFLOP/s of a training step', ours, '', '', 9)
    note('GFLOP/s: training step / matrix product', ours/product, '', '', 9)
    note('GFLOP/s: training step / convolution', ours/of_conv, '', '', 9)
    note('MB that Adam reads and writes in a step (7 numbers a weight)', params*4*7/1e6, '', '', 1)


def table():
    "Where the time of a step goes, as shares of the textbook's step: `step.csv`"
    from torch.profiler import ProfilerActivity, profile
    dls = random_loaders(640)
    x,_ = dls.train.one_batch()
    textbook,rows = Textbook(),[]
    loops = {'textbook':lambda: textbook.step(x), 'ours':steps(dls)}
    totals = {}
    for name,f in loops.items():
        for _ in range(2): f()
        with profile(activities=[ProfilerActivity.CPU]) as p:
            for _ in range(5): f()
        events = [(e.key, e.count//5, e.self_cpu_time_total) for e in p.key_averages() if e.self_cpu_time_total]
        totals[name] = sum(t for *_,t in events)
        rows += [dict(loop=name, operation=k, calls=n, share=t/totals['textbook']) for k,n,t in events]
    ordered = pd.DataFrame(rows).sort_values(['loop','share'], ascending=[False,False])
    top = ordered.groupby('loop', sort=False).head(12)
    rest = ordered.drop(top.index).groupby('loop', sort=False).agg(calls=('calls','sum'), share=('share','sum')).reset_index().assign(operation='all others')
    pd.concat([top, rest]).assign(threads=torch.get_num_threads(), torch=torch.__version__).round(4).to_csv(root/'benchmarks'/'step.csv', index=False)


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
    kinds = ['fp32','bf16'] if has_fast_bf16() else ['fp32']
    for precision in kinds:
        learn = learner(dls, precision=precision)
        def ours():
            with learn.no_bar(): learn.get_preds(dl=dls.test)
        compare(f'scoring: plain loop / get_preds, {precision}', base, ours, '>= 2' if precision=='bf16' else '', n=9)


def importing():
    "Seconds that `import ganomaly_nb.learner` takes beyond `import fastai.vision.all`"
    def clock(what): return float(subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import time; t=time.perf_counter(); import {what}; print(time.perf_counter()-t)'], capture_output=True, text=True, check=True).stdout)
    clock('fastai.vision.all')
    d = sorted(clock('ganomaly_nb.learner')-clock('fastai.vision.all') for _ in range(5))
    note('import ganomaly_nb.learner - import fastai.vision.all, seconds', d[2], '<= 0.3', f'{d[0]:.2f} to {d[-1]:.2f}', 5)


if __name__=='__main__':
    set_seed(0)
    for f in (importing, data, bounds, training, fit, scoring, table): f()
    pd.DataFrame(rows).to_csv(root/'benchmarks'/'speed.csv', index=False)
