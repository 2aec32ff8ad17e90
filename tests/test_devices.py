"""One training over several processes: the numbers of one process, from the same function."""
import json, os, subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
CODE = """
import json, sys
from xstilts.stages import Cell, run_stage, stages
from xstilts.store import read_json
given = dict(target_train_limit=70, target_epochs=2, target_dropout=0., target_eval_steps=3, target_eval_rows=20)
cell = Cell(model='mini-s', intermediate='none', target='xcopa', seed=0, settings=given)
seen = []
made = read_json(run_stage(stages(cell)[-1], seen.append)/'stage.json')
print(json.dumps(dict(log=made['log'], seen=len(seen))))
"""


def trained(folder, devices):
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(folder), XSTILTS_DEVICES=str(devices), OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-c', CODE], cwd=root, env=env, capture_output=True, text=True)


def test_two_processes_agree_with_one(tmp_path):
    "Losses agree to 1e-6, though one update in the end has fewer rows than the others; the log reaches the caller."
    one,two = trained(tmp_path/'one', 1),trained(tmp_path/'two', 2)
    assert one.returncode==0 and two.returncode==0, one.stderr+two.stderr
    one,two = json.loads(one.stdout.splitlines()[-1]),json.loads(two.stdout.splitlines()[-1])
    assert one['seen']==two['seen']>0
    for a,b in zip(one['log'], two['log'], strict=True):
        assert abs(a['loss']-b['loss'])<1e-6, (a, b)
        assert (a['labels'], a['padding'], a.get('dev'))==(b['labels'], b['padding'], b.get('dev'))


def test_a_number_of_devices_that_is_none(tmp_path):
    res = trained(tmp_path, 'two')
    assert res.returncode and "XSTILTS_DEVICES is 'two': a number of processes from 1 wanted" in res.stderr
