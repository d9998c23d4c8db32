"The cheat sheet as a PDF of one page: `python docs/sheet.py FILE`. matplotlib draws what docs/guide/cheat_sheet.md says."
import re, sys
from pathlib import Path
import matplotlib
from matplotlib.figure import Figure

source = Path(__file__).parent/'guide'/'cheat_sheet.md'
width,height,margin = 595,842,40 # A4, in points
code = dict(family='DejaVu Sans Mono', size=8.4)
text = dict(family='DejaVu Sans', size=8.8)
columns = 0,62,130 # where the three columns of a table begin

def plain(line):
    "Markdown without links and marks; formulas stay"
    line = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', line)
    return line.replace('`', '').replace('**', '').replace(r'\mathcal L', r'\mathcal{L}').replace(r'\mathcal A', r'\mathcal{A}')

def parts(source):
    "What is on the sheet, line by line: text, distance to the line above, place from the left, looks"
    in_code = False
    for line in source.splitlines():
        if line.startswith('```'): in_code = not in_code
        elif in_code: yield line,11.2,8,code
        elif line.startswith('# '): yield line[2:],22,0,dict(text, size=17, weight='bold')
        elif line.startswith('## '): yield line[3:],24,0,dict(text, size=10.5, weight='bold', color='#14507a')
        elif line.startswith('|---') or not line: continue
        elif line.startswith('|'):
            for i,cell in enumerate(line.strip('|').split('|')): yield plain(cell.strip()),0 if i else 12.5,8+columns[i],text
        else: yield plain(re.sub(r'^- ', '• ', line.removeprefix('> '))),14,8 if line[0]=='-' else 0,text

def draw(source):
    "The sheet as a figure; raises `ValueError` if it needs more than a page"
    fig,y = Figure((width/72, height/72)),height-margin
    for line,down,right,looks in parts(source):
        y -= down
        fig.text((margin+right)/width, y/height, line, va='baseline', parse_math=looks is not code, **looks)
    if y<margin: raise ValueError(f'the cheat sheet is {margin-y:.0f} points longer than a page')
    return fig

def make_sheet(out):
    "Write the PDF"
    out.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({'pdf.fonttype':42}):
        draw(source.read_text(encoding='utf-8')).savefig(out, format='pdf', metadata={'Title':'ganomaly_nb: cheat sheet', 'CreationDate':None})

if __name__=='__main__': make_sheet(Path(sys.argv[1]))
