"""Large photographs cut into windows, on this machine: `python benchmarks/windows.py`, also part of `make bench`.

1,000 grey PNG files of 1024 x 1024 pixels are decoded into the cache, cut into windows of 64 x 64 (a step of 32 and of 64), and every window is put into a batch once. The target is less than a minute on two cores.
Rows go to `benchmarks/windows.csv`. `cpu_seconds` is processor time, which on a busy machine is less than what the clock says; `own_MB` is memory without the mapped file.
"""
import os, platform, re, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from fastai.basics import defaults
from ganomaly_nb.photographs import PictureSet, WindowDL, read_all

root,rows = Path(__file__).parent.parent,[]
n,side,size = 1000,1024,64


def own_memory():
    "Memory of this process in MB without the mapped files (Linux; None elsewhere)"
    status = Path('/proc/self/status')
    found = re.search(r'RssAnon:\s+(\d+)', status.read_text()) if status.exists() else None
    return int(found[1])//1024 if found else None


def clock(f):
    "What f returns; seconds by the clock, and of processors"
    start,t = time.perf_counter(),os.times()
    res = f()
    return res,np.array([time.perf_counter()-start, sum(os.times()[:4])-sum(t[:4])])


def note(what, used, windows):
    rows.append(dict(what=what, pictures=n, side=side, size=size, windows=windows, seconds=round(used[0], 1), cpu_seconds=round(used[1], 1), target='< 60', load=round(os.getloadavg()[0], 1), cpus=defaults.cpus,
                     own_MB=own_memory(), torch=torch.__version__, python=platform.python_version(), processor=platform.processor() or platform.machine()))
    print(rows[-1], flush=True)


def files(path, different=10):
    "Noisy surfaces as PNG files: noise is what PNG is slowest with"
    rng = np.random.default_rng(0)
    for i in range(different):
        surface = np.kron(rng.uniform(120, 200, (16,16)), np.ones((side//16,side//16)))
        Image.fromarray((surface+rng.normal(0, 3, (side,side))).round().astype(np.uint8)).save(path/f'{i:04}.png')
    for i in range(different, n): (path/f'{i:04}.png').write_bytes((path/f'{i%different:04}.png').read_bytes())
    return sorted(path.glob('*.png'))


if __name__=='__main__':
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)
        all_files = files(path)
        (pictures,_),decoded = clock(lambda: read_all(all_files, size, nc=1, cache=path/'cache'))
        for step in (64,32):
            dl,cut = clock(lambda: WindowDL(PictureSet(pictures, windows=step), bs=256))
            note(f'decoded and cut, a step of {step}', decoded+cut, dl.n)
            seen,read = clock(lambda: sum(len(b[0]) for b in dl))
            assert seen==dl.n
            note(f'the same, and every window in a batch once, a step of {step}', decoded+cut+read, dl.n)
    pd.DataFrame(rows).to_csv(root/'benchmarks'/'windows.csv', index=False)
