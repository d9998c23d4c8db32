"Build the site into _docs/: `python docs/website.py`. Warnings and broken links inside the site are errors."
import re, shutil, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from sphinx.cmd.build import build_main
from pages import cfg, make
from sheet import make_sheet
from slides import make_slides

class Links(HTMLParser):
    "Where a page can be pointed at, and what it points at"
    def __init__(self, path):
        super().__init__()
        self.ids,self.targets = set(),set()
        self.feed(path.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get(k) for k in ('id','name')}
        self.targets |= {v for k in ('href','src') if (v := attrs.get(k)) and not re.match(r'[a-z]+:', v)}

def broken_links(site):
    "Links inside the folder `site` to files or anchors that are not there: `['page.html: other.html#gone', ...]`"
    found = {p.resolve():Links(p) for p in Path(site).rglob('*.html') if '_static' not in p.parts}
    def ok(page, target):
        path,_,anchor = unquote(target).partition('#')
        to = (page.parent/path.split('?')[0]).resolve() if path else page
        return to.exists() and (not anchor or to not in found or anchor in found[to].ids)
    return sorted(f'{p.relative_to(Path(site).resolve())}: {t}' for p,links in found.items() for t in links.targets if not ok(p, t))

def sitemap(site):
    "All pages inside the folder `site`, for search engines"
    paths = sorted(p.relative_to(site).as_posix() for p in Path(site).rglob('*.html') if not {'_static','plugin'} & set(p.parts))
    urls = '\n'.join(f'<url><loc>{cfg.doc_host}{cfg.doc_baseurl}/{p}</loc></url>' for p in paths if p!='search.html')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}\n</urlset>\n'

def main():
    build,site = cfg.config_path/'build',cfg.config_path/cfg.doc_path.name
    new = build/'site'
    make(build/'pages')
    make_slides(build/'extra'/'slides')
    make_sheet(build/'extra'/'guide'/'cheat_sheet.pdf')
    shutil.rmtree(new, ignore_errors=True)
    args = ['-j','auto','-q','-E','-W','--keep-going','-c',Path(__file__).parent,'-d',build/'doctrees',build/'pages',new]
    if build_main(list(map(str, args))): return 'the site has warnings: see above'
    if bad := broken_links(new): return '\n'.join(['links that lead nowhere:', *bad])
    (new/'sitemap.xml').write_text(sitemap(new), encoding='utf-8')
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(new, site)

if __name__=='__main__': sys.exit(main())
