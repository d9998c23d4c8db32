"Run notebooks and store their outputs, without the cells flagged slow or cuda: `python docs/execute.py [notebook ...]`."
import os, re, sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient

def flagged(cell): return cell.cell_type=='code' and re.search(r'^#\|\s*(slow|cuda)\b', cell.source, re.M)

def execute(path):
    "Run one notebook in its folder, top to bottom"
    nb = nbformat.read(path, as_version=4)
    for c in filter(flagged, nb.cells): c.metadata['tags'] = ['skip-execution']
    NotebookClient(nb, timeout=1200, kernel_name='python3', store_widget_state=False, resources={'metadata':{'path':str(path.parent)}}).execute()
    for c in filter(flagged, nb.cells): del c.metadata['tags']
    for o in (o for c in nb.cells for o in c.get('outputs', ())): o.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None) # without a kernel its picture is shown
    nbformat.write(nb, path)

if __name__=='__main__':
    root = Path(__file__).parent.parent/'nbs'
    os.environ.pop('MPLBACKEND', None) # figures belong into the notebooks
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else [f for o in ('.','solutions','course','course/solutions') for f in sorted((root/o).glob('*.ipynb'))]:
        print(path.name, flush=True)
        execute(path.resolve())
