"How many words a lesson of the course and the notebooks that it asks to read have: nbs/results/course_reading.csv. `make course-times` runs it."
import re
from pathlib import Path
import nbformat, pandas as pd

nbs = Path(__file__).resolve().parent.parent/'nbs'

def words(path):
    "Words of text and of code, without what is folded or hidden"
    cells = nbformat.read(path, as_version=4).cells
    return sum(len(c.source.split()) for c in cells if not re.search(r'^#\| *(hide|code-fold)', c.source, re.M))

def lesson(path):
    "The minutes that a lesson says it needs, and the words of what it asks to read: at most, as often a part is enough"
    text = '\n\n'.join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type=='markdown')
    minutes = re.search(r'^\*\*Time\*\*[^\n]*?about (\d+) minutes', text, re.M)[1]
    asked = re.search(r'^\*\*Read and run\*\*[^\n]*', text, re.M)[0]
    names = list(dict.fromkeys(re.findall(r'\]\(\.\./([\w/]+)\.ipynb', asked)))
    return dict(lesson=path.stem, minutes=int(minutes), words=sum(words(nbs/f'{n}.ipynb') for n in names), reads=' '.join(names))

def table(): return pd.DataFrame([lesson(p) for p in sorted((nbs/'course').glob('0[1-9]_*.ipynb'))])

if __name__=='__main__':
    out = nbs/'results'/'course_reading.csv'
    table().to_csv(out.with_suffix('.part'), index=False)
    out.with_suffix('.part').replace(out)
    print(table().to_string())
