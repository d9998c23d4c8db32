"""X-ray scans a minute, on this machine: `python benchmarks/xray.py`, also part of `make bench`.

Simulated bags; threats projected into scans; and 1,000 JPEG files of 1000 x 1000 pixels decoded, cut into 64 x 64 windows and labelled, then every patch read once.
Rows go to `benchmarks/xray.csv`. The targets are 1,000 scans a minute on two cores. `per_core_minute` counts the processor time that was used, which on a busy machine is less than what the clock says.
"""
import os, platform, re, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from fastai.basics import L, chunked, defaults
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.xray.projection import project_threat
from ganomaly_nb.xray.simulator import moved, render, simulate_scans, threats
from ganomaly_nb.xray.scans import Scan

root,rows = Path(__file__).parent.parent,[]


def own_memory():
    "Memory of this process in MB without the mapped files, which the system takes back when it needs to (Linux; None elsewhere)"
    status = Path('/proc/self/status')
    found = re.search(r'RssAnon:\s+(\d+)', status.read_text()) if status.exists() else None
    return int(found[1])//1024 if found else None


def note(what, n, used, target, more=''):
    seconds,cpu = used
    rows.append(dict(what=what, n=n, seconds=round(seconds, 2), per_minute=round(60*n/seconds), per_core_minute=round(60*n/cpu), target=target, more=more, load=round(os.getloadavg()[0], 1), cpus=defaults.cpus, own_MB=own_memory(),
                     torch=torch.__version__, python=platform.python_version(), processor=platform.processor() or platform.machine()))
    print(f'{what:66} {60*n/seconds:9,.0f} a minute, {60*n/cpu:7,.0f} a minute of one core   {target:9} {more}', flush=True)


def clock(f):
    "What f returns; seconds by the clock, and of processors"
    start,t = time.perf_counter(),os.times()
    res = f()
    return res,np.array([time.perf_counter()-start, sum(os.times()[:4])-sum(t[:4])])


def simulator():
    for n_workers in (0,defaults.cpus):
        scans,s = clock(lambda: simulate_scans(200, list(threats), n_workers=n_workers))
        note(f'simulated scans, {n_workers or 1} process{"es"*(n_workers>1)}', 200, s, '>= 1,000', f'mean size {np.mean([o.image.shape[:2] for o in scans], 0).round().astype(int)[::-1].tolist()}')


def files(path, n=1000, different=25):
    "JPEG files of 1000 x 1000; every fifth scan holds a gun"
    scans = simulate_scans(different, ['gun'], px_per_cm=16, n_workers=defaults.cpus)
    for i,s in enumerate(scans): Image.fromarray(s.image).resize((1000,1000)).save(path/f'{i}.jpg', quality=92)
    for i in range(different, n): (path/f'{i}.jpg').write_bytes((path/f'{i%different}.jpg').read_bytes())
    return L(Scan(path/f'{i}.jpg', [[400,300,500,380]]*(i%5==0), ['gun']*(i%5==0)) for i in range(n))


def patches():
    with tempfile.TemporaryDirectory() as d:
        path = Path(d); scans = files(path)
        for min_content in (0,.1):
            before = set(path.glob('cache/*'))
            for f in before: f.unlink()
            dls,s = clock(lambda: AnomalyDataLoaders.from_scans(scans, min_content=min_content, cache=path/'cache'))
            n = sum(len(o.dataset) for o in dls.loaders)
            note('scans of 1000 x 1000 decoded, cut, labelled'+', empty windows dropped'*bool(min_content), len(scans), s, '>= 1,000', f'{n:,} patches of 64 x 64, cache {sum(f.stat().st_size for f in path.glob("cache/*.bin"))/1e9:.1f} GB')
            if not min_content:
                def read(): return sum(len(b[0]) for dl in dls.loaders for b in dl)
                n,t = clock(read)
                note('the same, and every patch put into a batch once', len(scans), s+t, '>= 1,000', f'{n/t[0]:,.0f} patches a second')


def projection(n=60):
    scans = [Scan(np.asarray(Image.fromarray(s.image).resize((1000,1000)))) for s in simulate_scans(6, px_per_cm=16)]
    threat = render(moved(threats['gun'](np.random.default_rng(0)), 15, 15), 480, 480, 16)
    _,s = clock(lambda: [project_threat(scans[i%6], threat, 'gun', i) for i in range(n)])
    note('threats projected into coloured scans of 1000 x 1000, 1 process', n, s, '')


if __name__=='__main__':
    for f in (simulator, patches, projection): f()
    pd.DataFrame(rows).to_csv(root/'benchmarks'/'xray.csv', index=False)
