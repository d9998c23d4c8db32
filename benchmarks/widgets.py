"""How long does a widget take to answer? `make bench`, or `python benchmarks/widgets.py`.

Twenty moves of a control of each widget on scikit-learn's digits, from the new value to the new pictures and numbers; what the browser then needs is not in it.
Rows and their environment go to `benchmarks/widgets.csv`.
"""
import platform, statistics, tempfile, time
from pathlib import Path
import ipywidgets, matplotlib, numpy as np, pandas as pd, torch
import ganomaly_nb
from fastai.basics import set_seed
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.widgets import *

n,rows = 20,[]
moved = dict(threshold_explorer='phi', reconstruction_browser='rank', latent_walk=('start','way','sd'), corruption_lab=('image','stroke','noise'), scorer='image')


def milliseconds(f, values):
    for v in values:
        start = time.perf_counter(); f(v)
        yield 1e3*(time.perf_counter()-start)


def note(what, ms):
    ms = sorted(ms)
    rows.append(dict(what=what, median_ms=round(statistics.median(ms), 1), target_ms=200, spread=f'{ms[0]:.1f} to {ms[-1]:.1f}', n=len(ms), device=str(learn.dls.device), threads=torch.get_num_threads(), torch=torch.__version__,
                     matplotlib=matplotlib.__version__, ipywidgets=ipywidgets.__version__, python=platform.python_version(), processor=platform.processor() or platform.machine()))
    print('{what:40} {median_ms:7.1f} ms   (target {target_ms}; {spread})'.format(**rows[-1]), flush=True)


def values(control):
    "`n` values of a control, in the middle of its range"
    if isinstance(control, ipywidgets.Dropdown): return [v for _,v in control.options][1:n+1]
    lo,hi = control.min,control.max
    return [type(control.value)(v) for v in np.linspace(lo+.2*(hi-lo), hi-.2*(hi-lo), n)]


if __name__=='__main__':
    set_seed(0)
    learn = ganomaly_learner(AnomalyDataLoaders.from_digits(abnormal=2, held_out=.1, bs=32), nf=32, path=Path(tempfile.mkdtemp()))
    board,photos = TrainingDashboard(),Path(tempfile.mkdtemp())
    with learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=board)
    for i in range(n+1): Image.fromarray(learn.dls.test.dataset[[i]][0][0,0].numpy()).save(photos/f'{i}.png')
    for name,controls in moved.items():
        panel = scorer(learn, photos) if name=='scorer' else globals()[name](learn)
        for k in [controls] if isinstance(controls, str) else controls:
            c = panel.controls[k]
            note(f'{name}: {c.description}', list(milliseconds(lambda v: setattr(c, 'value', v), values(c))))
    panel = board.plot()
    note('TrainingDashboard: a drawing', list(milliseconds(lambda _: panel.refresh(), range(n))))
    pd.DataFrame(rows).to_csv(Path(__file__).parent/'widgets.csv', index=False)
