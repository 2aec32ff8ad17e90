"""The installed package works without a checkout: a wheel, a fresh environment, an empty folder."""
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
SOURCES = ('xstilts', 'nbs', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE')
STUDY = """study: one
report: 60_intermediate_tasks
data: mini
model: mini
intermediate: none
target: tatoeba
seed: 0
languages: de
eval_limit: 20
"""


def call(*argv, **how):
    "The output of a command that has to succeed"
    res = subprocess.run([*map(str, argv)], capture_output=True, text=True, **how)
    assert res.returncode==0, (argv, res.stdout[-3000:], res.stderr[-3000:])
    return res.stdout


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "A folder with an environment that has the wheel of this checkout; other packages come from the current environment"
    folder = tmp_path_factory.mktemp('wheel')
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for o in SOURCES:
        if (root/o).is_dir(): shutil.copytree(root/o, folder/'source'/o, ignore=skip)
        else: shutil.copy(root/o, folder/'source'/o)
    pip = (sys.executable, '-m', 'pip', '--disable-pip-version-check')
    call(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, folder/'source')
    call(sys.executable, '-m', 'venv', '--without-pip', folder/'env')
    python = folder/'env'/'bin'/'python'
    call(*pip, '--python', python, 'install', '--no-deps', '--no-index', next(folder.glob('*.whl')))
    site = call(python, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site)/'others.pth').write_text(sysconfig.get_path('purelib')+'\n')
    return folder/'env'


def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    "`init`, a study of one experiment and `publish` work in an empty folder."
    names = ('PYTHONPATH', 'PYTHONHOME')
    env = {k: v for k, v in os.environ.items() if k not in names and not k.startswith('XSTILTS_')}
    env |= dict(OMP_NUM_THREADS='1', PATH=f"{installed/'bin'}{os.pathsep}{os.environ['PATH']}")
    at = dict(cwd=tmp_path, env=env)
    where = call(installed/'bin'/'python', '-c', 'import xstilts; print(xstilts.__file__)', **at)
    assert Path(where.strip()).is_relative_to(installed)
    xstilts = installed/'bin'/'xstilts'
    call(xstilts, 'init', '.', **at)
    assert 'nodes: ' in call(xstilts, 'plan', 'first', **at)
    (tmp_path/'params'/'one.yaml').write_text(STUDY)
    call(xstilts, 'run', 'one', **at)
    report = json.loads((tmp_path/'reports'/'one'/'report.ipynb').read_text())
    assert 'cells' in report and len(list((tmp_path/'reports'/'one'/'experiments').glob('*.ipynb')))==2
    call(xstilts, 'publish', **at)
    assert (tmp_path/'reports'/'site'/'one'/'index.html').exists()
    assert {'BAD'}.isdisjoint(call(xstilts, 'doctor', **at).split())
