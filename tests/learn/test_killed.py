"""A training that is killed with -9 at random moments, again and again, ends in the same bits as an uninterrupted
one: weights, log, the checkpoint that was chosen, when it stopped."""
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from xstilts.learn.train import log_warnings

root = Path(__file__).parents[2]
KILLED = """
import json, os, random, shutil, sys
import xstilts.learn.updates as updates
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.core.store import read_json
import safetensors.torch, transformers
moments = json.loads(sys.argv[2])  # the kill comes with the n-th of these events
experiment = Experiment(model='mini-s', intermediate='none', target='xcopa', seed=3, settings=json.loads(sys.argv[1]))
times = ('seconds','pieces_per_second','examples_per_second')

def watched(at):
    "Count updates, tensors on their way to the disk, renames and removals, and die at one of them"
    seen = [0]
    def around(of, name):
        real = getattr(of, name)
        def call(*a, **kw):
            seen[0] += 1
            if seen[0]==at: os.kill(os.getpid(), 9)
            return real(*a, **kw)
        setattr(of, name, call)
    for of,name in ((updates,'one_update'),(safetensors.torch,'save_file'),(os,'replace'),(shutil,'rmtree')):
        around(of, name)
    return seen

def attempt(store, at):
    "A stage in a process of its own; its exit status"
    pid = os.fork()
    if pid: return os.waitpid(pid, 0)[1]
    os.environ['XSTILTS_ARTIFACTS'] = store
    watched(at)
    folder = run_stage(stages_of(experiment)[-1])
    log = [{k: v for k,v in o.items() if k not in times} for o in read_json(folder/'stage.json')['log']]
    sums = {k: v['blake2b'] for k,v in read_json(folder/'manifest.json').items() if k.endswith('.safetensors')}
    print(json.dumps(dict(log=log, sums=sums)), flush=True)
    os._exit(0)

assert attempt(sys.argv[3]+'/whole', 0)==0
deaths = [attempt(sys.argv[3]+'/killed', o) for o in moments]
assert attempt(sys.argv[3]+'/killed', 0)==0
print(json.dumps(deaths))
"""
GIVEN = dict(target_train_limit=60, target_batch_size=6, target_epochs=4, target_checkpoint_steps=4,
    target_eval_steps=3, target_eval_rows=20, target_select='best')


@pytest.mark.parametrize('seed, more', [(0, {}), (1, dict(target_patience=3))], ids=['best', 'patience'])
def test_killed_at_random_steps(seed, more, tmp_path):
    "Repeatedly killed with -9, a training ends with the weights and log of an uninterrupted one."
    rng = random.Random(seed)
    moments = [rng.randrange(6, 30) for _ in range(5)]
    argv = [sys.executable, '-c', KILLED, json.dumps(GIVEN|more), json.dumps(moments), str(tmp_path)]
    env = os.environ|dict(CUDA_VISIBLE_DEVICES='', XSTILTS_DEVICES='1', OMP_NUM_THREADS='1')
    res = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr[-3000:]
    # an attempt may end before its moment, and print a line of its own
    whole, *_, again, deaths = map(json.loads, res.stdout.splitlines())
    assert deaths.count(9)>=3 and set(deaths)<={0, 9}, deaths
    assert whole==again
    warnings = ' '.join(log_warnings(whole['log']))
    assert 'kept: the weights after' in warnings and ('stopped after' in warnings)==bool(more), warnings
