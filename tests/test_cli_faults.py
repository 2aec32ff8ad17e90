"""What a user can do wrong at the command line, and what a machine can lack: one sentence and an exit code, never a traceback."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xstilts.cli import main

root = Path(__file__).parents[1]
STUDY = """study: small
report: 60_intermediate_tasks
data: mini
model: random:mini
intermediate: none
target: tatoeba
seed: 0
languages: de
eval_limit: 10
layer: 1
"""


@pytest.fixture(scope='module')
def planned(tmp_path_factory):
    "A study file whose rows are in a store"
    folder = tmp_path_factory.mktemp('planned')
    (folder/'small.yaml').write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XSTILTS_ARTIFACTS', str(folder/'store'))
        assert main(['plan', str(folder/'small.yaml')])==0
    return folder


@pytest.mark.parametrize('verb', ['plan', 'status'])
def test_a_plan_imports_nothing_heavy(verb, planned):
    "Neither torch, which takes a second, nor what reads tables; only where torch is built for a GPU is it asked for its name."
    from xstilts.recipe import gpu_build
    heavy = ('transformers', 'pandas', 'datasets', 'scipy', 'papermill')+('torch',)*(not gpu_build())
    code = f"import sys; from xstilts.cli import main; main([{verb!r}, 'small.yaml']); print([o for o in {heavy} if o in sys.modules])"
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(planned/'store'), PYTHONPATH=str(root))
    res = subprocess.run([sys.executable, '-c', code], cwd=planned, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    assert res.stdout.splitlines()[-1]=='[]'
