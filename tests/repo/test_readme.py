"""What the README says can be done, done."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
readme = (root/'README.md').read_text(encoding='utf-8')


def test_ten_lines_run(tmp_path):
    "The Python of the README prints a score and a gain per language."
    code = re.search(r'```python\n(.+?)```', readme, re.S)[1]
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(tmp_path), OMP_NUM_THREADS='1')
    res = subprocess.run([sys.executable, '-c', code], cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    rows = [o.split() for o in res.stdout.splitlines()]
    assert [o[0] for o in rows]=='en de es ru tr sw ja hi'.split(), res.stdout
    assert all(0<=float(o[1])<=100 and o[2][0] in '+-' for o in rows)


def test_the_study_shown_is_sound(tmp_path):
    "The YAML of the README passes every check, but for what is not here: the mirror."
    from xstilts.run.study import check
    f = tmp_path/'mine.yaml'
    f.write_text(re.search(r'```yaml\n(.+?)```', readme, re.S)[1])
    assert not check(f)


PACKAGES = dict(core='settings, checksums, keys, the store', catalog='read-only tables', mini='the synthetic world',
    data='rows of every origin', learn='from rows to a trained network', evaluate='from a network to scores',
    run='experiments, stages, studies, the engine', share='what leaves the project',
    report='statistics, tables, figures, pages', templates='executed for every training and experiment',
    studies='executed for every study', tours='to read', bench='to measure')


def title_and_subtitle(nb):
    "The first heading of a notebook and the line below it"
    cells = json.loads(nb.read_text())['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type']=='markdown')
    return re.search(r'^# (.+)$', text, re.M)[1], re.search(r'^> (.+)$', text, re.M)[1]


def notebooks_page():
    "docs/notebooks.md: one line per notebook, in reading order"
    how = 'In reading order. `python tests/repo/test_readme.py` writes this page from their titles.'
    lines = ['# Notebooks', '', how, '']
    for package, what in [*PACKAGES.items(), ('', 'the command line')]:
        lines += [f'## {package or "cli"}: {what}', '', '| notebook | |', '| --- | --- |']
        for nb in sorted((root/'nbs'/package).glob('[0-9]*.ipynb')) if package else [root/'nbs'/'cli.ipynb']:
            title, subtitle = title_and_subtitle(nb)
            lines.append(f'| [{title}](../{nb.relative_to(root).as_posix()}) | {subtitle} |')
        lines.append('')
    return '\n'.join(lines)


def test_every_notebook_has_its_line():
    assert (root/'docs'/'notebooks.md').read_text(encoding='utf-8')==notebooks_page()


PAGES = ('README.md', 'ARCHITECTURE.md', 'docs/guide.md', 'docs/notebooks.md', 'docs/speed.md',
    'reports/gallery/README.md')


@pytest.mark.parametrize('name', PAGES)
def test_links_lead_somewhere(name):
    page = root/name
    for link in re.findall(r'\]\(([^)#]+)\)', page.read_text(encoding='utf-8')):
        if not link.startswith('http'): assert (page.parent/link).exists(), link


@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'ARCHITECTURE.md'])
def test_what_is_said_to_be_in_a_notebook_is_there(name):
    "Of `NAME` in `nbs/x.ipynb`, and of `nbs/x.ipynb` (`NAME`), both exist."
    text = (root/name).read_text(encoding='utf-8')
    for nb in re.findall(r'`(nbs/[\w/]+\.ipynb)`', text): assert (root/nb).exists(), nb
    pairs = re.findall(r'`(\w+)` in `(nbs/[\w/]+\.ipynb)`', text)
    pairs += [(b, a) for a, b in re.findall(r'`(nbs/[\w/]+\.ipynb)` \(`(\w+)`\)', text)]
    for what, nb in pairs:
        found = re.search(rf'\b{what} = |def {what}\b|class {what}\b', (root/nb).read_text(encoding='utf-8'))
        assert found, (what, nb)

SHOWN = dict(study='studies/60_intermediate_tasks', experiment='templates/51_experiment',
    stage='templates/50_stage')


@pytest.mark.parametrize('name', SHOWN)
def test_the_gallery_shows_the_notebooks_as_they_are(name):
    "A rendered notebook has the prose and code of its template, no error, and tables or pictures."
    rendered = json.loads((root/'reports'/'gallery'/f'{name}.ipynb').read_text())['cells']
    template = json.loads((root/'nbs'/f'{SHOWN[name]}.ipynb').read_text())['cells']
    injected = [c for c in rendered if 'injected-parameters' in c['metadata'].get('tags', ())]
    shown = [''.join(c['source']) for c in rendered if c not in injected]
    assert shown==[''.join(c['source']) for c in template]
    outputs = [o for c in rendered for o in c.get('outputs', ())]
    assert not [o for o in outputs if o['output_type']=='error']
    assert any({'image/png', 'text/html'}&{*o.get('data', ())} for o in outputs)


if __name__=='__main__': (root/'docs'/'notebooks.md').write_text(notebooks_page(), encoding='utf-8')
