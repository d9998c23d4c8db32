"Everything that varies stands in settings.ini, which nbdev reads too."
import os
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

os.chdir(Path(__file__).resolve().parent) # setuptools looks for files from the working folder
cfg = ConfigParser(delimiters=['='])
cfg.read('settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(name): return [line.strip() for line in cfg[name].splitlines()]

lib = cfg['lib_path']
stored = {f'{lib}.stored.{Path(o).name}':o for o in ('nbs/results','nbs/course','examples','benchmarks')} # read by notebooks that run elsewhere

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    project_urls=dict(line.split(' = ') for line in lines('project_urls')),
    author=cfg['author'],
    author_email=cfg['author_email'],
    license='Apache-2.0',
    classifiers=lines('classifiers'),
    keywords=cfg['keywords'].split(),
    packages=[*find_packages(include=[lib, f'{lib}.*']), *stored],
    package_dir=stored,
    package_data={lib: ['py.typed'], **dict.fromkeys(stored, ['*.csv','*.npz','*.jpg','*.ipynb','*/*.npz'])},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require={k: cfg[f'{k}_requirements'].split() for k in ('widgets','cluster','onnx','server','dev')},
    entry_points={
        'console_scripts': lines('console_scripts'),
        'nbdev': [f'{lib}={lib}._modidx:d'],
    },
    zip_safe=False,
)
