"A headless Chromium of the system, driven by Playwright. Without one, these tests are skipped."
import os, shutil
import pytest

chromium = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)
quiet = ['--no-sandbox','--disable-gpu','--disable-quic','--no-first-run','--disable-background-networking','--disable-component-update','--disable-sync']

@pytest.fixture(scope='session')
def browser():
    if chromium is None: pytest.skip('no Chromium found: install it, or name it in the environment variable CHROMIUM')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=quiet)
        yield b
        b.close()

@pytest.fixture
def page(browser):
    "A new page of 1280 x 900 pixels whose console errors are collected in `page.errors`"
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.errors = []
    page.on('console', lambda m: page.errors.append(m.text) if m.type=='error' else None)
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    yield page
    page.close()
