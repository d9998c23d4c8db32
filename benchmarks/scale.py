"""Cost against work: 1,000 to 1,000,000 images. `python benchmarks/scale.py`, about a quarter of an hour.

Loading, training an epoch, scoring, calibrating, and scoring by the nearest neighbours of 10,000 pixels; images of 16 x 16, a small network.
Every row is a process of its own. A row says how long an image took as a multiple of what it took among 10,000 images in the same run,
and how much memory the process had taken at its peak beside the images themselves. Rows go to `benchmarks/scale.csv`.
"""
import platform, resource, subprocess, sys, time
from pathlib import Path

works = 'loading','training an epoch','scoring','calibrating','neighbours'
sizes = 1000,10_000,100_000,1_000_000
base = 10_000
here = Path(__file__).parent


def measured(what, n):
    "Seconds of one work on `n` images, and peak memory in megabytes without them"
    import numpy as np, torch
    from fastai.basics import set_seed
    from ganomaly_nb.controls import control_scores, fit_control
    from ganomaly_nb.data import AnomalyDataLoaders
    from ganomaly_nb.learner import ganomaly_learner
    torch.set_num_threads(1)
    set_seed(0)
    x = np.random.default_rng(0).integers(0, 256, (n,16,16), dtype=np.uint8)
    few = x[:1000]
    def loaders(train, test=None): return AnomalyDataLoaders.from_arrays(train, test, None if test is None else np.zeros(len(test), int), held_out=0, bs=256)
    def learner(dls): return ganomaly_learner(dls, nf=4, nz=16)
    def load():
        dls = loaders(x)
        for _ in dls.train: pass
    def prepared():
        "What is not measured, and the function that is"
        if what=='loading': return load
        if what=='training an epoch':
            learn = learner(loaders(x))
            return lambda: learn.fit(1)
        dls = loaders(few if what!='neighbours' else x[:10_000], x)
        if what=='neighbours':
            control = fit_control('neighbours of pixels', dls)
            return lambda: control_scores(control, dls.test)
        learn = learner(dls)
        if what=='scoring': return lambda: learn.get_preds(dl=dls.test)
        return lambda: learn.calibrate(dl=dls.test)
    work = prepared()
    if what=='loading': loaders(few)
    start = time.perf_counter()
    work()
    s = time.perf_counter()-start
    return s,resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024-x.nbytes/2**20


def in_a_process(what, n):
    out = subprocess.run([sys.executable,'-W','ignore',__file__,what,str(n)], capture_output=True, text=True, check=True).stdout
    return [float(o) for o in out.split()[-2:]]


def main():
    import pandas as pd, torch
    rows = []
    for what in works:
        found = {n:in_a_process(what, n) for n in sizes}
        for n,(s,mb) in found.items():
            per_image = (s/n)/(found[base][0]/base)
            rows.append(dict(what=what, images=n, per_image=round(per_image, 3), megabytes=round(mb), images_megabytes=round(n*256/2**20, 1), threads=1, torch=torch.__version__,
                             python=platform.python_version(), processor=platform.processor() or platform.machine()))
            print(f'{what:20} {n:9,} images: {per_image:6.2f} times as long an image, {mb:6.0f} MB', flush=True)
            pd.DataFrame(rows).to_csv(here/'scale.csv', index=False)


if __name__=='__main__':
    if len(sys.argv)==3: print(*measured(sys.argv[1], int(sys.argv[2])))
    else: main()
