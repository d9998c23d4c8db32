"""All checks and timings that need a GPU, in one call of under eight minutes: `python benchmarks/gpu.py`.

Each check is a row of `benchmarks/gpu.csv`, written as soon as it is done; one that fails is a row with its reason, and the others go on.
Without a GPU the same script runs the same checks on the CPU with small networks (`--dry`), so that it is known to run when a GPU is lent.
"""
import argparse, platform, statistics, subprocess, sys, tempfile, time, traceback, warnings
from pathlib import Path
import fastai, numpy as np, pandas as pd, torch

root = Path(__file__).parent.parent
sys.path[:0] = [str(root),str(root/'tests')]
warnings.filterwarnings('ignore')
import ganomaly_nb
from fastai.basics import *
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.networks import GANomaly
from textbook import Textbook

args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
args.add_argument('--dry', action='store_true', help='on the CPU, with small networks: does the script run?')
args.add_argument('--out', type=Path, default=root/'benchmarks'/'gpu.csv')
args.add_argument('--minutes', type=float, default=7.5, help='no check begins after so many')
args = args.parse_args()
if not args.dry and not torch.cuda.is_available(): raise SystemExit('no GPU here: `--dry` tries the script on the CPU')
device = 'cpu' if args.dry else 'cuda'
nf = 8 if args.dry else 64
n = 2 if args.dry else 30
began,rows = time.time(),[]
about = dict(device='cpu' if args.dry else torch.cuda.get_device_name(), torch=torch.__version__, fastai=fastai.__version__, ganomaly_nb=ganomaly_nb.__version__,
             python=platform.python_version(), dry=args.dry)


def note(what, value, target='', spread=''):
    rows.append(dict(what=what, value=value, target=target, spread=spread, **about))
    pd.DataFrame(rows).to_csv(args.out, index=False)
    print(f'{what:75} {value}   {target}   {spread}', flush=True)


def wait():
    if device=='cuda': torch.cuda.synchronize()


def seconds(f):
    wait()
    start = time.perf_counter()
    f()
    wait()
    return time.perf_counter()-start


def compare(what, base, ours, target=''):
    "How many times faster is `ours` than `base`? They take turns"
    pairs = [(seconds(base), seconds(ours)) for _ in range(n+3)][3:]
    ratios = sorted(a/b for a,b in pairs)
    note(f'{what}, ratio', round(statistics.median(ratios), 3), target, f'{ratios[0]:.2f} to {ratios[-1]:.2f}')
    ms = statistics.median(b for _,b in pairs)*1000
    note(f'{what}, milliseconds of the second', round(ms, 3))


def random_loaders(n_images=640, bs=64):
    x = np.random.default_rng(0).integers(0, 256, (n_images+512,32,32), dtype=np.uint8)
    dls = AnomalyDataLoaders.from_arrays(x[512:], x[:512], np.arange(512)%2, held_out=0, bs=bs)
    return dls.to(device)


def learner(dls, **kwargs):
    learn = ganomaly_learner(dls, nf=nf, seed=0, path=Path(tempfile.mkdtemp()), **kwargs)
    learn.model.to(device)
    learn.create_opt()
    return learn


def step_of(precision='fp32', last=True, compiled=None):
    "A function that makes one training step on one batch, again and again"
    learn = learner(random_loaders())
    model,opt,loss_func = learn.model.train(),learn.opt.opt,learn.loss_func
    x,_ = learn.dls.train.one_batch()
    if last: model.to(memory_format=torch.channels_last)
    if compiled: model.compile(mode=compiled)
    kind = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)[precision]
    def step():
        with torch.autocast(device, kind, enabled=precision!='fp32'): out = model(x)
        loss_func([o.float() for o in out]).backward()
        opt.step()
        opt.zero_grad()
    return step


def cuda_cells():
    "The cells flagged `cuda` of the notebooks"
    if args.dry: return note('cuda cells', 'not on a CPU')
    r = subprocess.run(['nbdev_test','--flags','cuda','--path',str(root/'nbs'/'03_training.ipynb'),'--n_workers','1','--do_print'], cwd=root, capture_output=True, text=True, timeout=150)
    note('cuda cells of 03', 'pass' if r.returncode==0 else (r.stdout+r.stderr)[-500:])


def golden():
    "The golden runs of tests/test_parity.py, with losses to 1e-3 on a GPU"
    r = subprocess.run([sys.executable,'-m','pytest','-q','tests/test_parity.py','-k',device], cwd=root, capture_output=True, text=True, timeout=150)
    note('golden runs', r.stdout.strip().splitlines()[-1] if r.returncode==0 else r.stdout[-500:].replace('\n', ' '))


def no_waiting():
    "A whole epoch whose steps never wait"
    dls = random_loaders()
    class NoWaiting(Callback):
        order = 100
        def before_batch(self):
            if self.training and device=='cuda': torch.cuda.set_sync_debug_mode('error')
        def after_step(self):
            if device=='cuda': torch.cuda.set_sync_debug_mode('default')
    learn = learner(dls)
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=NoWaiting())
        note('two epochs without a wait in a step', 'pass')
    finally:
        if device=='cuda': torch.cuda.set_sync_debug_mode('default')


def reset_and_nan():
    "NaN in a late batch stops the training, and the weights are finite"
    learn = learner(random_loaders())
    class Spoil(Callback):
        def before_batch(self):
            if self.training and self.iter==4: self.learn.xb = (self.xb[0]*float('nan'),)
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Spoil())
        said = 'nothing was raised'
    except FloatingPointError as e: said = str(e)
    fine = all(p.isfinite().all() for p in learn.model.state_dict().values())
    note('NaN in batch 4', 'pass' if fine and 'batch 4' in said else f'{fine} {said}')


def half_precisions():
    "The last loss of ten steps in half precision, over that in full"
    full = learner(random_loaders())
    with full.no_bar(), full.no_logging(): full.fit(1)
    for precision in ('bf16',) if args.dry else ('bf16','fp16'):
        half = learner(random_loaders(), precision=precision)
        with half.no_bar(), half.no_logging(): half.fit(1)
        note(f'{precision}: last loss over that of fp32', round(float(half.recorder.losses[-1]/full.recorder.losses[-1]), 4), '0.95 to 1.05')


def textbook_step():
    book = Textbook(nf=nf)
    for m in book.modules(): m.to(device)
    x,_ = random_loaders().train.one_batch()
    return lambda: book.step(x)


def steps():
    base = textbook_step()
    compare('step, batch 64: textbook / fp32', base, step_of(), '')
    compare('step, batch 64: textbook / bf16', base, step_of('bf16'), '>= 2')
    if not args.dry:
        compare('step, batch 64: textbook / bf16, CUDA graphs', base, step_of('bf16', compiled='reduce-overhead'), '< 1 ms')


def fit_overhead():
    dls = random_loaders(64*40)
    learn,step = learner(dls),step_of()
    def loop():
        for _ in dls.train: step()
    def fitting():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
    compare('forty steps: bare loop / learn.fit', loop, fitting, '>= 0.97')


def several_at_once():
    "k networks of k digits in one step, with torch.func, against one after another"
    from torch.func import functional_call, stack_module_state
    k = 2 if args.dry else 5
    models = [GANomaly(32, 100, 1, nf).to(device).eval() for _ in range(k)]
    x = torch.randn(k, 64, 1, 32, 32, device=device)
    weights,buffers = stack_module_state(models)
    skeleton = GANomaly(32, 100, 1, nf).to('meta').eval()
    def one(w, b, x): return functional_call(skeleton, (w,b), (x,))[1]
    together = torch.vmap(one)
    with torch.no_grad():
        compare(f'reconstructing with {k} models: one by one / at once', lambda: [m(o) for m,o in zip(models, x)], lambda: together(weights, buffers, x))


def scoring():
    dls = random_loaders()
    for precision in ('fp32','bf16'):
        learn,book = learner(dls, precision=precision),Textbook(nf=nf)
        for m in book.modules(): m.to(device)
        x = torch.cat([b[0] for b in dls.test])
        def base(): [book.score(b) for b in x.split(64)]
        def ours():
            with learn.no_bar(): learn.get_preds(dl=dls.test)
        compare(f'scoring 512 images: plain loop / get_preds, {precision}', base, ours, '>= 2' if precision=='bf16' else '')


checks = cuda_cells, no_waiting, reset_and_nan, half_precisions, golden, steps, fit_overhead, scoring, several_at_once
for check in checks:
    if time.time()-began>args.minutes*60:
        note(check.__name__, 'not begun: no time left')
        continue
    set_seed(0)
    try: check()
    except Exception as e:
        traceback.print_exc()
        note(check.__name__, f'failed: {type(e).__name__}: {e}'.replace('\n', ' ')[:500])
print(f'{time.time()-began:.0f} s')
