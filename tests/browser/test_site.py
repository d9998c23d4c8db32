"Every page of the site as a reader sees it, at the width of a desk and of a phone, without a network."
import json, re, subprocess, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest

root = Path(__file__).parent.parent.parent
sys.path.insert(0, str(root/'docs'))
site = root/'_docs'
desk,phone = dict(width=1280, height=900),dict(width=390, height=844)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def url(browser):
    "Address of the site, which is built if something is newer than it"
    sources = [f for o in ('nbs','docs','ganomaly_nb') for f in (root/o).rglob('*') if '__pycache__' not in f.parts] + [root/'settings.ini']
    if not (site/'index.html').exists() or max(f.stat().st_mtime for f in sources)>(site/'index.html').stat().st_mtime:
        r = subprocess.run([sys.executable, 'docs/website.py'], cwd=root, capture_output=True, text=True)
        assert r.returncode==0, r.stdout[-3000:]+r.stderr[-6000:]
    server = ThreadingHTTPServer(('localhost',0), partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://localhost:{server.server_port}'
    server.shutdown()


def pages():
    "Paths of all pages of the site; what lies in a library's own folders is none"
    paths = [p.relative_to(site) for p in site.rglob('*.html')]
    return sorted(p.as_posix() for p in paths if not {'_static','plugin'} & set(p.parts))

@pytest.fixture
def visit(page, url):
    "Open a page of the site; bad requests are added to the errors"
    page.on('request', lambda r: page.errors.append(f'asks another host: {r.url}') if not r.url.startswith((url,'data:')) else None)
    page.on('response', lambda r: page.errors.append(f'{r.status} {r.url}') if r.status>=400 else None)
    def f(path):
        page.goto(f'{url}/{path}')
        page.evaluate('window.MathJax ? MathJax.startup.promise : 0')
        return page
    return f


look = """() => {
    const all = s => [...document.querySelectorAll(s)], wide = document.documentElement.scrollWidth - window.innerWidth
    return [wide>0 && `${wide} pixels too wide`,
        ...all('img:not([loading=lazy])').map(i => !(i.complete && i.naturalWidth) && `no image ${i.src}`),
        ...all('.math').map(m => (m.querySelectorAll('mjx-container').length!=1 || m.querySelector('[data-mml-node=merror], [fill=red]')) && `formula ${m.textContent}`),
        ...all('article img').map(i => (i.alt.length<20 || /[.](png|jpe?g|svg)$|[$\\\\]/.test(i.alt)) && `no words for ${i.src}: ${i.alt}`),
        ...all('.highlight pre').map(p => !p.closest('.cell_output') && p.scrollWidth>p.clientWidth+1 && `code is cut: ${p.textContent.slice(0, 60)}`),
        !(document.querySelector('meta[name=description]')?.content.length>20) && 'no description',
        !document.querySelector('meta[property="og:title"]')?.content && 'no title for previews',
        !document.querySelector('h1') && 'no title'].filter(o => o)
}"""


def test_every_page(visit):
    "No horizontal scroll, no missing image, words for each image, no code cut, formulas drawn, a description, no error in the console, nothing from another host"
    bad = {}
    for path in pages():
        page = visit(path)
        for size in (desk, phone):
            page.set_viewport_size(size)
            if found := page.evaluate(look)+page.errors: bad[f'{path} at {size["width"]}'] = found
            page.errors.clear()
    assert bad=={}
    assert len(list(site.rglob('*.html')))>len(list((root/'nbs').glob('*.ipynb')))


scrolled = """() => [...document.querySelectorAll('div.cell.tag_export div.cell_input pre')].filter(p => p.scrollWidth>p.clientWidth+1).map(p => p.textContent)"""


def test_code_fits(visit):
    "At 1280 pixels no exported cell needs a sideways scroll bar; 90 characters fit"
    import pages # which notebook makes which page
    bad = []
    for p in pages.pages():
        if not p.module: continue
        page = visit(f'{p.page}.html')
        for code in page.evaluate(scrolled):
            cell = next((i for i,c in enumerate(p.cells) if code.strip()[:200] in c.source), '?')
            line = max(code.splitlines(), key=len)
            bad.append(f'nbs/{p.rel} cell {cell}: {len(line)} characters: {line.strip()[:60]}...')
    assert not bad, '\n'.join(['', *bad])
    fit = page.evaluate("""() => { const p = document.querySelector('div.cell_input pre'), s = document.createElement('span'), c = getComputedStyle(p)
        s.textContent = 'x'.repeat(90); p.append(s); return p.clientWidth - parseFloat(c.paddingLeft) - parseFloat(c.paddingRight) - s.getBoundingClientRect().width }""")
    assert fit>0, f'90 characters are {-fit} pixels too wide'


def test_notebook_pages(visit):
    "To Colab, to the file itself, to the neighbours, and code that can be copied"
    from nbdev.config import get_config
    cfg = get_config(path=root)
    page = visit('losses.html')
    assert page.get_by_role('link', name='Open in Colab').get_attribute('href')==f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/02_losses.ipynb'
    with page.expect_download() as d: page.get_by_role('link', name='download this notebook').click()
    assert json.loads(Path(d.value.path()).read_text())==json.loads((root/'nbs'/'02_losses.ipynb').read_text())
    assert page.locator('.prev-next-area a').count()==2
    assert page.locator('button.copybtn').count()>=page.locator('div.cell_input').count()>10
    assert [o.strip() for o in page.locator('.bd-sidebar-primary .caption').all_inner_texts()]==['Help','Learn','Results','Reference']


def test_names_lead_to_entries(visit):
    "A name in a text leads to its entry, the entry to its source and back to the notebook, as does nbdev's `doc`"
    from nbdev.doclinks import NbdevLookup
    page = visit('index.html')
    page.locator('a', has_text='AnomalyDataLoaders.from_folder').first.click()
    entry = page.locator('dl', has=page.locator('[id="ganomaly_nb.data.AnomalyDataLoaders.from_folder"]')).last # within that of its class
    assert page.url.endswith('reference/ganomaly_nb.data.html#ganomaly_nb.data.AnomalyDataLoaders.from_folder')
    held_out = entry.locator('.field-list li', has=page.locator('strong', has_text='held_out')).inner_text()
    assert 'float' in held_out and 'calibration' in held_out and 'held_out=0.05' in entry.locator('dt').first.inner_text().replace(' ', '')
    source = entry.get_by_role('link', name='[source]').get_attribute('href')
    path,lines = source.partition('/blob/main/')[2].split('#')
    first,last = (int(o[1:]) for o in lines.split('-'))
    code = (root/path).read_text().splitlines()[first-1:last]
    assert any('def from_folder(' in l for l in code[:3]) and code[-1].strip().startswith('return')
    entry.get_by_role('link', name='00 Data').click()
    assert page.url.endswith(anchor := 'data.html#anomalydataloaders.from_folder') and NbdevLookup().doc('AnomalyDataLoaders.from_folder').endswith(anchor)
    assert page.evaluate('document.getElementById("anomalydataloaders.from_folder").getBoundingClientRect().top')<desk['height']


def test_search(visit):
    page = visit('search.html?q=ganomaly_learner')
    page.locator('.search a', has_text='ganomaly_learner').first.wait_for()
    assert 'reference/ganomaly_nb.learner.html#ganomaly_nb.learner.ganomaly_learner' in page.locator('.search a').first.get_attribute('href')


@pytest.mark.parametrize('query,page_found', [('install','faq'), ('image size','faq'), ('onnx','deployment'), ('glossary','glossary'), ('auroc','evaluation'), ('learning rate','training')])
def test_search_finds(visit, query, page_found):
    "Words that people look for lead to a page about them, among the first results, and excerpts hold no source of a formula"
    page = visit(f'search.html?q={query.replace(" ", "+")}')
    page.locator('.search-summary', has_text='found').wait_for()
    page.locator('.search p.context').first.wait_for()
    found = page.locator('.search li > a').evaluate_all('es => es.map(e => e.getAttribute("href"))')
    assert any(page_found in o for o in found[:12]), found[:12]
    page.wait_for_timeout(1000) # excerpts of all results
    bad = [o for o in page.locator('.search p.context').all_inner_texts() if re.search(r'\\[(\[]', o)]
    assert not bad and page.errors==[]


contrast = """() => {
    const parts = s => { const n = s.match(/[0-9.]+/g).map(Number); return {c: n.slice(0, 3), a: n[3] ?? 1} }
    const light = c => { const [r, g, b] = c.map(v => (v /= 255)<=.03928 ? v/12.92 : ((v+.055)/1.055)**2.4); return .2126*r + .7152*g + .0722*b }
    const behind = e => { for (; e; e = e.parentElement) { const b = parts(getComputedStyle(e).backgroundColor); if (b.a>.5) return b.c } return [255, 255, 255] }
    const bad = {}
    for (const e of document.querySelectorAll('article :is(a, code, p, li, td, .highlight span, .sig span, .pre)')) {
        if (!e.textContent.trim() || !e.checkVisibility() || e.matches('.headerlink')) continue // one is seen when the mouse is there
        const [x, y] = [light(parts(getComputedStyle(e).color).c), light(behind(e))]
        const r = (Math.max(x, y)+.05)/(Math.min(x, y)+.05)
        if (r<4.5) bad[`${e.tagName} ${e.className}`] = `${r.toFixed(2)}: ${e.textContent.slice(0, 40)}`
    }
    return bad
}"""


@pytest.mark.parametrize('scheme', ['light','dark'])
def test_contrast(visit, scheme):
    "Text, links and links on code have a contrast of at least 4.5 to 1"
    for path in ('index.html','losses.html','course/gans.html','reference/ganomaly_nb.data.html','guide/faq.html'):
        page = visit(path)
        page.emulate_media(color_scheme=scheme)
        page.reload()
        assert page.evaluate(contrast)=={}, path


def test_first_screen(visit):
    "A picture, what it shows, two commands and where to go next are seen without scrolling, all but the last on a phone, too"
    page = visit('index.html')
    def bottom(locator): return locator.first.evaluate('e => e.getBoundingClientRect().bottom')
    article = page.locator('article')
    for part in (article.locator('img'), article.get_by_text('learns from normal images alone'), article.locator('.highlight', has_text='make demo')): assert bottom(part)<desk['height']
    page.set_viewport_size(phone)
    assert bottom(article.locator('img'))<phone['height']


def test_gallery(visit):
    "A small picture leads to its figure"
    page = visit('guide/figures.html')
    page.locator('.gallery a[href^="../losses.html"]').first.click()
    assert '/losses.html#figure-' in page.url
    anchor = page.locator(f'[id="{page.url.split("#")[1]}"]')
    assert anchor.evaluate('e => { const i = document.querySelector("article .cell_output img").getBoundingClientRect().top; return i - e.getBoundingClientRect().top }')<1500


def test_sitemap(visit):
    paths = set(pages())-{'search.html'}
    found = re.findall(r'<loc>(.*?)</loc>', (site/'sitemap.xml').read_text())
    assert len(found)==len(paths) and all(any(f.endswith(f'/{p}') for f in found) for p in paths)


def test_dark(visit):
    "The dark mode is dark, and figures stand on white"
    page = visit('evaluation.html')
    def light(css): return page.evaluate("s => Math.max(...getComputedStyle(document.querySelector(s)).backgroundColor.match(/[0-9]+/g).slice(0,3))", css)
    assert light('body')>240
    page.emulate_media(color_scheme='dark')
    page.reload()
    assert light('body')<40 and light('.cell_output img')==255
    assert page.errors==[]
