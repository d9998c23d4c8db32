"The example server in a browser: a picture is dropped, verdict and map are seen, a bad file is told so."
import socket, sys, threading, time
from pathlib import Path
import pytest
from PIL import Image
from ganomaly_nb.data import AnomalyDataLoaders
from ganomaly_nb.learner import ganomaly_learner
import ganomaly_nb.deployment

sys.path.insert(0, str(Path(__file__).parent.parent.parent/'examples'))


@pytest.fixture(scope='module')
def made(tmp_path_factory, browser):
    "Address of a server, its learner, and a picture"
    import uvicorn, server
    folder = tmp_path_factory.mktemp('server')
    dls = AnomalyDataLoaders.from_digits(abnormal=0, size=16, held_out=.2)
    learn = ganomaly_learner(dls, nz=4, nf=8, seed=0)
    learn.export_onnx(folder/'m.onnx')
    Image.fromarray(dls.test.dataset[[0]][0][0,0].numpy()).save(folder/'a.png')
    (folder/'text.png').write_text('<b>no picture</b>')
    with socket.socket() as s:
        s.bind(('127.0.0.1',0))
        port = s.getsockname()[1]
    runs = uvicorn.Server(uvicorn.Config(server.make_app(str(folder/'m.onnx')), host='127.0.0.1', port=port, log_level='error'))
    thread = threading.Thread(target=runs.run, daemon=True)
    thread.start()
    while not runs.started: time.sleep(.05)
    yield f'http://127.0.0.1:{port}',learn,folder
    runs.should_exit = True
    thread.join()


def test_upload(page, made):
    url,learn,folder = made
    page.goto(url)
    page.get_by_label('Picture:').set_input_files(folder/'a.png')
    page.locator('#pictures img').nth(1).wait_for()
    score = learn.predict(folder/'a.png')[2]
    assert page.get_by_role('status').inner_text().startswith(f'a.png: score {score:.4g}, p-value ')
    assert page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")==[16,16]
    assert page.errors==[]
    page.set_viewport_size(dict(width=390, height=844)) # a phone
    assert page.evaluate('document.documentElement.scrollWidth<=window.innerWidth')


def test_bad_upload(page, made):
    url,_,folder = made
    page.goto(url)
    page.get_by_label('Picture:').set_input_files(folder/'text.png')
    page.get_by_text('no picture that can be read').wait_for()
    assert page.locator('#pictures img').count()==0
    assert len(page.errors)==1 and '400' in page.errors[0] # the browser's own note of the answer
