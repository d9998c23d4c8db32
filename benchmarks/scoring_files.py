"""How fast are files scored? `make bench`, or `python benchmarks/scoring_files.py`.

The old way (each picture through `load_image` twice, one after another, a call of `get_preds` a batch) and the new one (`score_blocks`) score the same PNG files in turns: small ones, which are bound by Python and by the model, and large ones, where decoding is the work.
A row says how many times as long the old way takes, by the clock and in seconds of all cores: the median of the rounds and their spread. `load_before` tells whether the machine was quiet. The last rows are peaks of memory: a process of its own scores the files again and again.
Rows go to `benchmarks/scoring_files.csv`.
"""
import os, platform, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from fastai.basics import chunked, set_seed
from ganomaly_nb.ahead import score_blocks
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.images import load_image
from ganomaly_nb.learner import ganomaly_learner

here,rounds,bs = Path(__file__).parent,9,64
n_files_of = {16:1000, 64:1000, 256:400, 1024:100} # by their side in pixels


def make_files(folder, size):
    "Pictures of noise"
    rng = np.random.default_rng(0)
    for i in range(n_files_of[size]): Image.fromarray(rng.integers(0, 256, (size,size), dtype=np.uint8)).save(folder/f'{i:05}.png')
    return sorted(folder.iterdir())


def learner(size, nf=16):
    "A model of at most 64 pixels, as a beginner has it: larger files are brought to that size"
    set_seed(0)
    dls = AnomalyDataLoaders.from_digits(abnormal=2, size=min(size, 64), held_out=.1, n_train=64, bs=32)
    learn = ganomaly_learner(dls, nf=nf, path=tempfile.mkdtemp())
    learn.calibrate()
    return learn


def old_way(learn, files):
    "As `ganomaly_score` read and scored files before"
    d,n = learn.dls,0
    for some in chunked(files, bs):
        images = [load_image(f, d.size, d.nc, white=d.white) for f in some]
        with learn.no_bar(): scores,_ = learn.get_preds(dl=d.test_dl(images))
        n += len(scores)
    return n


def new_way(learn, files): return sum(len(names) for names,*_ in score_blocks(learn, files, bs))


def clock(f, learn, files):
    "Seconds by the clock, and seconds of all cores that this process used"
    wall,cpu = time.perf_counter(),time.process_time()
    assert f(learn, files)==len(files)
    return time.perf_counter()-wall,time.process_time()-cpu


def row(what, pairs, note, target=''):
    ratios = [old/new for old,new in pairs]
    return dict(what=f'{what}: old way / new way', value=round(float(np.median(ratios)), 2), spread=f'{min(ratios):.2f} to {max(ratios):.2f}', note=note, target=target)


def speed(size):
    "Two rows: the clock, which other programs on the machine disturb, and the work, which they disturb less"
    with tempfile.TemporaryDirectory() as tmp:
        files,learn = make_files(Path(tmp), size),learner(size)
        for f in (old_way,new_way): f(learn, files[:100]) # warm
        rounds_of_both = [(clock(old_way, learn, files), clock(new_way, learn, files)) for _ in range(rounds)]
    wall,cpu = ([(old[i],new[i]) for old,new in rounds_of_both] for i in (0,1))
    n_files = len(files)
    old,new = (n_files/np.median(o) for o in zip(*wall))
    note = f'{old:,.0f} and {new:,.0f} pictures a second, {rounds} rounds of {n_files:,}'
    return [row(f'PNG of {size} x {size}, seconds', wall, note, '>= 1.7'), row(f'PNG of {size} x {size}, core seconds', cpu, f'{rounds} rounds of {n_files:,}')]


def peak(n):
    "Megabytes at the peak of a process that scores `n` files"
    out = subprocess.run([sys.executable, '-W', 'ignore', __file__, 'peak', str(n)], capture_output=True, text=True, check=True).stdout
    return float(out.split()[-1])


def score_many(n):
    with tempfile.TemporaryDirectory() as tmp:
        files,learn = make_files(Path(tmp), 16),learner(16, nf=4)
        many = (files*(n//len(files)+1))[:n]
        assert sum(len(names) for names,*_ in score_blocks(learn, many, bs))==n
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)


if __name__=='__main__':
    torch.set_num_threads(2)
    if sys.argv[1:2]==['peak']: sys.exit(score_many(int(sys.argv[2])))
    rows,load = [],round(os.getloadavg()[0], 1)
    for size in n_files_of:
        rows += speed(size)
        print(*rows[-2:], sep='\n', flush=True)
    few,many = peak(10_000),peak(100_000)
    rows.append(dict(what='peak memory: 100,000 files / 10,000 files', value=round(many/few, 3), spread='', note=f'{few:,.0f} and {many:,.0f} MB', target='<= 1.05'))
    about = dict(load_before=load, cores=len(os.sched_getaffinity(0)), threads=2, torch=torch.__version__, python=platform.python_version())
    print(rows[-1])
    pd.DataFrame([{**r, **about} for r in rows]).to_csv(here/'scoring_files.csv', index=False)
