"The widgets of notebook 40 in a real JupyterLab: cells run, sliders moved with the keyboard, the new numbers read from the page."
import json, os, re, secrets, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import nbformat, pytest

root = Path(__file__).parent.parent.parent
quiet = ('--no-browser','--allow-root','--LabApp.news_url=None','--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
         '--LabApp.extension_manager=readonly','--ServerApp.disable_check_xsrf=True')

setup = '''
import ganomaly_nb, tempfile
from fastai.basics import *
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.widgets import *
set_seed(0)
dls = AnomalyDataLoaders.from_digits(abnormal=0, held_out=.1, bs=32, n_train=320)
learn = ganomaly_learner(dls, nz=16, nf=8, path=Path(tempfile.mkdtemp()))
dashboard = TrainingDashboard(seconds=.1)
with learn.no_bar(), learn.no_logging(): learn.fit(3, cbs=dashboard)
'''
cells = dict(dashboard=setup, threshold='threshold_explorer(learn)', browser='reconstruction_browser(learn)', walk='latent_walk(learn)',
             lab='corruption_lab(learn)', scorer="scorer(learn, 'photos')")


def serve(path):
    "A JupyterLab whose settings live and die with the test; gives its process and address"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    settings = path/'settings'/'@jupyterlab'
    for name,value in {'notebook-extension/tracker':{'windowingMode':'none'}, 'apputils-extension/notification':{'fetchNews':'false', 'checkForUpdates':False}}.items():
        f = settings/f'{name}.jupyterlab-settings'; f.parent.mkdir(parents=True); f.write_text(json.dumps(value)) # render all cells, ask for nothing
    folders = {k:str(path/k.lower()) for k in ('JUPYTER_CONFIG_DIR','JUPYTER_RUNTIME_DIR','IPYTHONDIR','FASTAI_HOME','JUPYTERLAB_WORKSPACES_DIR')}
    env = {**os.environ, **folders, 'JUPYTERLAB_SETTINGS_DIR':str(path/'settings'), 'PYTHONPATH':str(root), 'OMP_NUM_THREADS':'1'}
    token,log = secrets.token_hex(8),open(path/'lab.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *quiet, f'--ServerApp.root_dir={path/"nbs"}', f'--port={port}', f'--IdentityProvider.token={token}'], env=env, stdout=log, stderr=log)
    for _ in range(600):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}'); break
        except OSError: time.sleep(.1)
        if server.poll() is not None: break
    else: server.kill()
    if server.poll() is not None: pytest.fail(f'JupyterLab did not start:\n{(path/"lab.log").read_text()[-3000:]}')
    return server,f'http://127.0.0.1:{port}/doc/tree/widgets.ipynb?reset&token={token}'
