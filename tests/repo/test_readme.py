"""The README's code, study file, links and notebook references work."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
readme = (root/'README.md').read_text(encoding='utf-8')


def test_ten_lines_run(tmp_path):
    "The Python code of the README prints a score and a gain for each language."
    code = re.search(r'```python\n(.+?)```', readme, re.S)[1]
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(tmp_path), OMP_NUM_THREADS='1')
    res = subprocess.run([sys.executable, '-c', code], cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    rows = [o.split() for o in res.stdout.splitlines()]
    assert [o[0] for o in rows]=='en de es ru tr sw ja hi'.split(), res.stdout
    assert all(0<=float(o[1])<=100 and o[2][0] in '+-' for o in rows)


def test_the_study_shown_is_sound(tmp_path):
    "The YAML of the README passes every check, except that the mirror is missing here."
    from xstilts.run.study import check
    f = tmp_path/'mine.yaml'
    f.write_text(re.search(r'```yaml\n(.+?)```', readme, re.S)[1])
    assert not check(f)


def test_every_notebook_has_its_line():
    "The README links every notebook."
    for nb in (root/'nbs').rglob('[0-9]*.ipynb'): assert f'({nb.relative_to(root).as_posix()})' in readme, nb.name


def test_links_lead_somewhere():
    "Every local link of the README leads to an existing file."
    for link in re.findall(r'\]\(([^)#]+)\)', readme):
        if not link.startswith('http'): assert (root/link).exists(), link


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'ARCHITECTURE.md'])
def test_what_is_said_to_be_in_a_notebook_is_there(name):
    "For `NAME` in `nbs/x.ipynb` and `nbs/x.ipynb` (`NAME`), the notebook and the name exist."
    text = (root/name).read_text(encoding='utf-8')
    for nb in re.findall(r'`(nbs/[\w/]+\.ipynb)`', text): assert (root/nb).exists(), nb
    pairs = re.findall(r'`(\w+)` in `(nbs/[\w/]+\.ipynb)`', text)+[(b, a) for a, b in re.findall(r'`(nbs/[\w/]+\.ipynb)` \(`(\w+)`\)', text)]
    for what, nb in pairs: assert re.search(rf'\b{what} = |def {what}\b|class {what}\b', (root/nb).read_text(encoding='utf-8')), (what, nb)
