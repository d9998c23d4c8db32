"The widgets of notebook 40 in a real JupyterLab: cells run, sliders moved with the keyboard, the new numbers read from the page."
import json, os, re, secrets, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import nbformat, numpy as np, pytest

root = Path(__file__).parent.parent.parent
setup = '''import ganomaly_nb, json, tempfile
from fastai.basics import *
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
from ganomaly_nb.widgets import *
set_seed(0)
dls = AnomalyDataLoaders.from_digits(abnormal=0, held_out=.1, bs=32)
learn = ganomaly_learner(dls, nz=32, nf=16, path=Path(tempfile.mkdtemp()))
with learn.no_bar(), learn.no_logging(): learn.fit(5, cbs=TrainingDashboard(seconds=.1))
learn.calibrate()
for i in range(3): Image.fromarray(dls.test.dataset[[50*i]][0][0,0].numpy()).save(f'photos/{i}.png')
Path('truth.json').write_text(json.dumps(dict(scores=score_all(learn, dls.test).tolist(), y=dls.test.dataset.y.tolist())))'''
cells = dict(dashboard=setup, threshold='threshold_explorer(learn)', browser='reconstruction_browser(learn)', walk='latent_walk(learn)',
             lab='corruption_lab(learn)', scorer="scorer(learn, 'photos')")


def serve(path):
    "A JupyterLab whose settings live and die with the test: its process, and the address of a notebook but for its name"
    settings = {'notebook-extension/tracker':{'windowingMode':'none'}, 'apputils-extension/notification':{'fetchNews':'false', 'checkForUpdates':False}}
    for name,value in settings.items(): # render all cells, ask for no news
        f = path/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(value))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    own = {k:str(path/k.lower()) for k in ('JUPYTER_CONFIG_DIR','JUPYTER_RUNTIME_DIR','JUPYTERLAB_WORKSPACES_DIR','IPYTHONDIR','FASTAI_HOME')}
    env = {**os.environ, **own, 'JUPYTERLAB_SETTINGS_DIR':str(path/'settings'), 'PYTHONPATH':str(root), 'OMP_NUM_THREADS':'1'}
    token,log = secrets.token_hex(8),open(path/'lab.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', f'--IdentityProvider.token={token}',
                               f'--ServerApp.root_dir={path/"root"}', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
                               '--LabApp.extension_manager=readonly'], env=env, stdout=log, stderr=log)
    for _ in range(600):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}'); break
        except OSError: time.sleep(.1)
        if server.poll() is not None: break
    else: server.kill(); server.wait()
    if server.poll() is not None: pytest.fail(f'JupyterLab did not start:\n{(path/"lab.log").read_text()[-3000:]}')
    return server,f'http://127.0.0.1:{port}/doc/tree/{{}}?reset&token={token}'


def open_notebook(page, url):
    page.goto(url)
    page.get_by_text('Python 3 (ipykernel) | Idle').wait_for(timeout=60_000) # a kernel that listens


def run_all(page, n):
    "Run all cells by the menu, and wait for `n` widgets. What the first cell says while it runs is kept in the page"
    page.evaluate('''() => { window.said = []; setInterval(() => { const e = document.querySelector('[role=status] b');
                     if (e && window.said.at(-1)!==e.textContent) window.said.push(e.textContent) }, 20) }''')
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    page.wait_for_function('n => document.querySelectorAll(".jp-OutputArea [role=status], .jp-OutputArea [data-mime-type$=error]").length>=n', arg=n, timeout=60_000)
    failed = page.locator('.jp-OutputArea [data-mime-type$=error]').all_inner_texts()
    assert not failed, failed[0]


class Shown:
    "A widget in the page"
    def __init__(self, page, i): self.page,self.el = page,page.locator('.jp-CodeCell').nth(i).locator('.jp-OutputArea')

    def facts(self):
        "Its numbers, by name"
        return {k.strip():v for k,v in self.el.locator('[role=status] span').evaluate_all('es => es.map(e => [e.firstChild.textContent, e.querySelector("b").textContent])')}

    def control(self, name): return self.el.locator('.widget-inline-hbox', has=self.page.get_by_text(name, exact=True))
    def handle(self, name): return self.control(name).locator('.noUi-handle')
    def pictures(self): return self.el.locator('img:visible').evaluate_all('es => es.map(e => e.src)')

    def after(self, act):
        "Do something, and wait for what the widget then says; gives its numbers"
        was,start = self.el.locator('[role=status]').inner_text(),time.perf_counter()
        act()
        self.page.wait_for_function('([e,was]) => e.querySelector("[role=status]").innerText!==was', arg=[self.el.element_handle(), was], timeout=20_000)
        print(f'{1e3*(time.perf_counter()-start):.0f} ms', end=' ')
        return self.facts()

    def press(self, name, key, times=1):
        "Press a key on a slider"
        self.handle(name).focus()
        for _ in range(times): facts = self.after(lambda: self.page.keyboard.press(key))
        return facts


@pytest.fixture(scope='module')
def lab(browser, tmp_path_factory):
    "A page with all widgets, live"
    path = tmp_path_factory.mktemp('lab')
    (path/'root'/'photos').mkdir(parents=True)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells.values()], metadata={'kernelspec':{'display_name':'Python 3', 'language':'python', 'name':'python3'}})
    nbformat.write(nb, path/'root'/'widgets.ipynb')
    shutil.copy(root/'nbs'/'40_widgets.ipynb', path/'root')
    server,url = serve(path)
    page = browser.new_page(viewport=dict(width=1000, height=900))
    page.errors,page.outside,page.root,page.address = [],[],path/'root',url
    page.on('console', lambda m: page.errors.append(m.text) if m.type=='error' else None)
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.on('request', lambda r: page.outside.append(r.url) if r.url.startswith('http') and '127.0.0.1' not in r.url else None)
    try:
        open_notebook(page, url.format('widgets.ipynb'))
        run_all(page, len(cells))
        yield page
    finally:
        page.close()
        server.terminate(); server.wait(30)


@pytest.fixture
def widget(lab, request): return Shown(lab, list(cells).index(request.node.name.removeprefix('test_')))


@pytest.fixture
def truth(lab): return {k:np.array(v) for k,v in json.loads((lab.root/'truth.json').read_text()).items()}


def test_dashboard(lab, widget):
    "It speaks while `fit` runs, and at the end it has seen every epoch"
    said = lab.evaluate('window.said')
    assert len(said)>2 and said==sorted(said) and said[-1]=='5 of 5', said
    facts = widget.facts()
    assert facts['epoch']=='5 of 5' and facts['step']=='180' and float(facts['con'])>0
    assert len(widget.pictures())==5


def test_threshold(widget, truth):
    s,y = truth['scores'],truth['y']
    before,pictures = widget.facts(),widget.pictures()
    facts = widget.press('threshold phi', 'ArrowRight', 5)
    phi = float(facts['threshold'])
    assert phi>float(before['threshold'])
    for k,name in enumerate(('false alarms','caught')): # the page shows two decimals of phi
        n = int(facts[name].split()[0])
        assert (s[y==k]>phi+.01).sum()<=n<=(s[y==k]>phi-.01).sum() and f'of {(y==k).sum()}' in facts[name]
    assert all(a!=b for a,b in zip(pictures, widget.pictures()))
    assert widget.press('threshold phi', 'End')['caught'].startswith('0 of')


def test_browser(widget, truth):
    s,y = truth['scores'],truth['y']
    assert float(widget.facts()['score'])==pytest.approx(s.max(), abs=.01)
    assert int(widget.press('rank', 'End')['position'])==s.argmin()
    facts = widget.after(lambda: widget.control('show').locator('select').select_option('abnormal'))
    assert facts['it is']=='abnormal' and float(facts['score'])==pytest.approx(s[y==1].min(), abs=.01)
    assert len(widget.pictures())==3


def test_walk(widget):
    assert widget.facts()['way']=='0.50'
    was = widget.pictures()
    assert widget.press('way', 'ArrowRight')['way']=='0.52'
    assert [a!=b for a,b in zip(was, widget.pictures())]==[True,True,True,False,True] # the strip along the way stays
    assert widget.press('deviations', 'Home')['deviations']=='-3.0' and widget.pictures()[3]!=was[3]
    facts = widget.after(lambda: widget.control('direction').locator('select').select_option('2'))
    assert facts['deviations']=='-3.0' and float(facts['score'])>0


def test_lab(widget):
    "Also: Tab leads from one slider to the next"
    assert widget.facts()['clean']==widget.facts()['spoilt']
    widget.handle('image').focus()
    for _ in range(3):
        widget.page.keyboard.press('Tab')
        if widget.handle('occlusion').evaluate('e => e===document.activeElement'): break
    facts = widget.after(lambda: widget.page.keyboard.press('ArrowRight'))
    assert facts['clean']!=facts['spoilt']
    facts = widget.press('noise', 'End')
    assert facts['spoilt'].endswith('abnormal') and float(facts['spoilt'].split(',')[0])>float(facts['clean'].split(',')[0])


def test_scorer(widget, lab):
    def upload(name, content):
        (lab.root/name).write_bytes(content)
        with lab.expect_file_chooser() as chosen: widget.el.get_by_role('button', name=re.compile('Upload')).press('Enter')
        return widget.after(lambda: chosen.value.set_files(lab.root/name))
    first = widget.facts()
    second = widget.after(lambda: widget.control('image').locator('select').select_option('1.png'))
    assert second['score']!=first['score']
    assert upload('mine.png', (lab.root/'photos'/'0.png').read_bytes())==first
    assert upload('notes.png', b'no image')=={'error':'cannot read the image notes.png: it is of no kind that Pillow knows'}
    assert widget.pictures()==[]
    assert widget.after(lambda: widget.control('image').locator('select').select_option('1.png'))==second and len(widget.pictures())==2


def test_narrow(lab):
    "On a narrow screen the figures go below each other, and nothing must be scrolled sideways"
    lab.set_viewport_size(dict(width=460, height=900))
    lab.wait_for_timeout(500)
    wide = lab.locator('.jp-OutputArea-output').evaluate_all('es => es.filter(e => e.scrollWidth>e.clientWidth+1).length')
    lab.set_viewport_size(dict(width=1000, height=900))
    assert wide==0


def test_quiet(lab):
    "No error in the console, nothing asked of other machines"
    assert lab.errors==[] and lab.outside==[]


def test_without_kernel(lab):
    "The stored notebook shows a picture where a widget was"
    stored = nbformat.read(root/'nbs'/'40_widgets.ipynb', as_version=4)
    n = sum('image/png' in o.get('data', {}) for c in stored.cells for o in c.get('outputs', ()))
    open_notebook(lab, lab.address.format('40_widgets.ipynb'))
    lab.wait_for_function('n => document.querySelectorAll(".jp-OutputArea img").length>=n', arg=n, timeout=30_000)
    text = lab.locator('.jp-Notebook').inner_text()
    assert n>=7 and not re.search('loading widget|error displaying widget|model not found', text, re.I)
