"Run every notebook of the course on one thread and write how long it took: nbs/results/course_times.csv."
import datetime, os, platform, resource, time
from pathlib import Path
import nbformat, pandas as pd, torch
from nbclient import NotebookClient

course = Path(__file__).resolve().parent.parent/'nbs'/'course'
os.environ['OMP_NUM_THREADS'] = '1'

def cpu_seconds(): return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) # of processes that have ended
def cpu_name():
    info = Path('/proc/cpuinfo')
    names = [l.split(':')[1].strip() for l in info.read_text().splitlines() if l.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()

rows = []
for f in sorted(course.glob('*.ipynb')) + sorted(course.glob('solutions/*.ipynb')):
    nb,before,start = nbformat.read(f, as_version=4),cpu_seconds(),time.perf_counter()
    NotebookClient(nb, timeout=600, kernel_name='python3', extra_arguments=['--log-level=ERROR'], resources={'metadata':{'path':str(f.parent)}}).execute()
    rows.append(dict(notebook=f.relative_to(course).as_posix(), cpu_seconds=round(cpu_seconds()-before), wall_seconds=round(time.perf_counter()-start), threads=1, machine=cpu_name(), cores=os.cpu_count(),
                     python=platform.python_version(), torch=torch.__version__, date=datetime.date.today().isoformat()))
    print(rows[-1]['notebook'], rows[-1]['cpu_seconds'], flush=True)
out = course.parent/'results'/'course_times.csv'
pd.DataFrame(rows).to_csv(out.with_suffix('.part'), index=False)
out.with_suffix('.part').replace(out)
