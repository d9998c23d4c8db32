"""What does a larger memory cost? `make bench`, or `python benchmarks/memory.py`.

Scoring 2,000 codes with memories of 1,000 to 30,000 codes (`score='neighbours'`), in rounds: each round times all memories, one after the other.
A row says how many times as long as the smallest memory of the same round: the median of the rounds and their spread. Rows go to `benchmarks/memory.csv`.
"""
import platform, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from torch.nn import functional as F
from ganomaly_nb.scoring import NeighbourScore

sizes,rounds,nz = (1000,3000,10_000,30_000),7,100


def directions(n, seed):
    return F.normalize(torch.randn(n, nz, generator=torch.Generator().manual_seed(seed)), dim=1)


def fitted(n):
    score = NeighbourScore(None, memory=None)
    score.fit(directions(n, 0))
    return score


if __name__=='__main__':
    torch.set_num_threads(1)
    scores,images = {n:fitted(n) for n in sizes},directions(2000, 1)
    ratios = {n:[] for n in sizes}
    for _ in range(rounds):
        seconds = {}
        for n,score in scores.items():
            start = time.perf_counter()
            for part in images.split(500): score.score_of(part)
            seconds[n] = time.perf_counter()-start
        for n,s in seconds.items(): ratios[n].append(s/seconds[sizes[0]])
    rows = [dict(memory=n, times_as_long=round(float(np.median(r)), 2), spread=f'{min(r):.2f} to {max(r):.2f}', linear=n/sizes[0], rounds=rounds, nz=nz, images=len(images),
                 threads=torch.get_num_threads(), torch=torch.__version__, python=platform.python_version(), processor=platform.processor() or platform.machine()) for n,r in ratios.items()]
    for r in rows: print('{memory:7,} codes: {times_as_long:6.2f} times as long as {0:,} ({spread})'.format(sizes[0], **r))
    pd.DataFrame(rows).to_csv(Path(__file__).parent/'memory.csv', index=False)
