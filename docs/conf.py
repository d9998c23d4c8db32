"Sphinx's settings. The pages are made by pages.py; website.py runs both."
import html, inspect, re, sys
from importlib import import_module
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from docutils import nodes
here = Path(__file__).parent
sys.path.insert(0, str(here))
from pages import cfg, describe, pages, symbols

project,author,copyright,version,language = cfg.title,cfg.author,cfg.copyright,cfg.version,'en'
extensions = ['myst_nb','sphinx_copybutton','sphinx.ext.autodoc','sphinx.ext.autosummary','sphinx.ext.linkcode']
nitpicky = True
nitpick_ignore_regex = [('py:(class|data|exc)', '.*')] # types of other packages
suppress_warnings = ['toc.not_included']    # solutions are reached from what they solve
exclude_patterns = ['notebooks']            # the originals, to download

nb_execution_mode = 'off'                   # outputs as stored
nb_merge_streams = True
nb_code_prompt_show,nb_code_prompt_hide = 'Show the code','Hide the code'
nb_ipywidgets_js = {}                       # nothing from other hosts
myst_enable_extensions = ['amsmath','attrs_block','attrs_inline','colon_fence','dollarmath']
myst_heading_anchors = 4
mathjax_path = 'tex-svg.js'                 # what JupyterLab draws formulas with, from a pip package

html_theme = 'sphinx_book_theme'
html_title = cfg.title
html_logo = html_favicon = 'static/logo.svg'
html_static_path = ['static', str(Path(find_spec('sphinx-mathjax-offline').origin).parent/'static'/'mathjax'/mathjax_path)]
html_css_files = ['site.css']
html_js_files = ['search.js']
html_extra_path = [str(cfg.config_path/'build'/'extra')]
html_baseurl = f'{cfg.doc_host}{cfg.doc_baseurl}/'
html_copy_source = html_use_index = html_domain_indices = False
html_context = {'default_mode':'auto'}
html_theme_options = dict(repository_url=cfg.git_url, use_repository_button=True, use_download_button=False, use_fullscreen_button=False, show_toc_level=2,
    logo={'text':cfg.title}, navbar_start=[], navbar_center=[], navbar_end=[], navbar_persistent=[], pygments_light_style='a11y-high-contrast-light', pygments_dark_style='github-dark')
add_module_names = False
autosummary_generate = False
autodoc_default_options = {'members':True, 'undoc-members':True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_inherit_docstrings = False
toc_object_entries_show_parents = 'hide'

def linkcode_resolve(domain, info):
    "The lines of an object in the repository"
    mod = import_module(info['module'])
    obj = attrgetter(info['fullname'])(mod)
    obj = inspect.unwrap(getattr(obj, 'fget', None) or obj)
    try: lines,start = inspect.getsourcelines(obj)
    except (TypeError,OSError): # a variable
        text = inspect.getsourcelines(mod)[0]
        lines,start = [],1+next((i for i,l in enumerate(text) if re.match(rf'[\w, ]*\b{info["fullname"]}\b[\w, ]*=', l)), 0)
    return f'{cfg.git_url}/blob/{cfg.branch}/{mod.__name__.replace(".", "/")}.py#L{start}' + f'-L{start+len(lines)-1}'*bool(lines)

def setup(app):
    ps = pages()
    names = symbols(ps)
    app.connect('autodoc-process-docstring', lambda app, what, name, obj, options, lines: describe(what, name, obj, lines, names, ps))
    app.connect('autodoc-process-signature', plain)
    app.connect('autodoc-skip-member', skip)
    app.connect('html-page-context', preview)

def preview(app, pagename, templatename, context, doctree):
    "What search engines and messengers say of a page: its subtitle, else the package's description"
    said = next((n.astext() for n in doctree.findall(nodes.block_quote)), '') if doctree and not pagename.startswith('reference/') else ''
    text = html.escape(' '.join(said.split()) or cfg.description)
    about = {'og:title':html.escape(context.get('title') or cfg.title, quote=True), 'og:description':text, 'og:type':'article', 'og:site_name':cfg.title,
             'og:url':f'{html_baseurl}{pagename}.html', 'og:image':f'{html_baseurl}ganomaly.png'}
    context['metatags'] = context.get('metatags', '') + f'<meta name="description" content="{text}">\n<meta name="twitter:card" content="summary_large_image">\n'
    context['metatags'] += '\n'.join(f'<meta property="{k}" content="{v}">' for k,v in about.items())

def plain(app, what, name, obj, options, signature, returns):
    "Functions and classes as defaults by their names"
    return signature and re.sub(r"<(?:function|class) '?(?:\w+\.)*(\w+)'?>", r'\1', signature),returns

def skip(app, what, name, obj, skipped, options):
    "Attributes of a class that are plain values, and what a module only passes on"
    if what=='class': return not (callable(obj) or isinstance(obj, (property,classmethod))) or skipped
    if isinstance(obj, (type,FunctionType)): return obj.__module__!=app.env.docname.removeprefix('reference/') or skipped
