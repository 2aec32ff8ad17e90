"""Memory that a budget promises, and the benchmark notebook whole at smoke size."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parents[2]

SEARCH = """
import resource, sys
import numpy as np
from xstilts.evaluate.retrieval import neighbours
unit = lambda n: np.random.default_rng(n).normal(size=(n,16)).astype(np.float32)
x,y = unit(6000),unit(12000)
neighbours(x[:100], y[:100])
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)
before = most()
sim,near,*_ = neighbours(x, y, 4, memory=2**24)
grown = most()-before
some = np.random.default_rng(0).integers(0, 6000, 20)
assert (near[some]==np.argsort(-x[some]@y.T, axis=1)[:,:4]).all()
print(grown)
"""


def test_neighbours_keep_within_their_memory():
    "The whole product would take 288 MB; 16 are allowed, and 2 are the results."
    env = dict(os.environ, OMP_NUM_THREADS='1')
    res = subprocess.run([sys.executable, '-c', SEARCH], cwd=root, capture_output=True, text=True, env=env)
    assert res.returncode==0, res.stderr
    assert int(res.stdout)<60*2**20, f'{int(res.stdout)/2**20:.0f} MB'


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "The rows of the benchmark at the values of its parameters cell"
    to = tmp_path_factory.mktemp('bench')
    env = dict(os.environ, OMP_NUM_THREADS='1', XSTILTS_ARTIFACTS=str(to))
    notebook = root/'nbs'/'bench'/'90_benchmark.ipynb'
    papermill = [sys.executable, '-m', 'papermill', '-k', 'python3']
    command = [*papermill, str(notebook), str(to/'out.ipynb'), '-p', 'folder', str(to/'rows')]
    res = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr[-3000:]
    file, = (to/'rows').glob('*.jsonl')
    return [json.loads(o) for o in file.read_text().splitlines()]


def test_benchmark_has_a_row_for_every_work_and_system(smoke):
    systems = {}
    for o in smoke: systems.setdefault(o['work'], set()).add(o['system'])
    for kind in ('pair', 'span', 'tags'):
        for work in (f'train-{kind}', f'predict-{kind}'):
            assert systems[work]>={'published', 'default collator', 'best flags', 'ours, float32'}, work
    assert 'ours, last layer' in systems['embed'] and 'ours, both from one product' in systems['retrieve-200x300']


def test_benchmark_rows_are_whole(smoke):
    for o in smoke:
        assert o['seconds']>0 and o['examples_per_second']>0 and 0<o['peak_share']<1 and o['memory_mb']>=0, o
        assert o['hardware'] and o['versions']['torch'] and o['peak_gflops']['float32']>0, o
        if o['work'].startswith(('train', 'predict')): assert 0<o['useful_share']<=1, o
    useful = {(o['work'], o['system']): o['useful_share'] for o in smoke}
    for kind in ('pair', 'span', 'tags'):
        assert useful[f'train-{kind}', 'ours, float32']>useful[f'train-{kind}', 'published']
