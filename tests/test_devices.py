"""One training over several processes: the numbers of one process, from the same function."""
import json, os, subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
CODE = """
import json, sys
from xstilts.stages import Cell, run_stage, stages
from xstilts.store import read_json
given = dict(target_train_limit=70, target_epochs=2, target_dropout=0., target_eval_steps=3, target_eval_rows=20)|json.loads(sys.argv[2])
cell = Cell(model='mini-s', intermediate='none', target=sys.argv[1], seed=0, settings=given)
seen = []
made = read_json(run_stage(stages(cell)[-1], seen.append)/'stage.json')
print(json.dumps(dict(log=made['log'], seen=len(seen))))
"""


def trained(folder, devices, target='xcopa', **more):
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(folder), XSTILTS_DEVICES=str(devices), OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable, '-c', CODE, target, json.dumps(more)], cwd=root, env=env, capture_output=True, text=True)


def test_two_processes_agree_with_one(tmp_path):
    "Losses agree to 1e-6, though one update in the end has fewer rows than the others; the log reaches the caller."
    one,two = trained(tmp_path/'one', 1),trained(tmp_path/'two', 2)
    assert one.returncode==0 and two.returncode==0, one.stderr+two.stderr
    one,two = json.loads(one.stdout.splitlines()[-1]),json.loads(two.stdout.splitlines()[-1])
    assert one['seen']==two['seen']>0
    for a,b in zip(one['log'], two['log'], strict=True):
        assert abs(a['loss']-b['loss'])<1e-6, (a, b)
        assert (a['labels'], a['padding'], a.get('dev'))==(b['labels'], b['padding'], b.get('dev'))


def test_groups_of_a_dual_encoder_are_shared_whole(tmp_path):
    "Two processes take its groups in turn, with the loss of one; a process for which there is no group is told of."
    one,two,idle = (trained(tmp_path/o, n, 'lareqa', target_train_limit=18, target_epochs=1, target_max_length=64, **more) for o,n,more in (('one',1,{}), ('two',2,{}), ('idle',2,dict(target_negatives=16))))
    assert not one.returncode and not two.returncode and not idle.returncode, one.stderr+two.stderr+idle.stderr
    one,two,idle = (json.loads(o.stdout.splitlines()[-1])['log'] for o in (one, two, idle))
    for a,b in zip(one, two, strict=True):
        assert abs(a['loss']-b['loss'])<1e-5 and (a['labels'], a.get('dev'))==(b['labels'], b.get('dev')), (a, b)
    assert one[-1]['told']==two[-1]['told']==[]
    assert idle[-1]['told']==['1 of 2 processes had nothing to do: an update has no more than 1 of the groups of pairs that are told apart together, and none is cut']


def test_a_number_of_devices_that_is_none(tmp_path):
    res = trained(tmp_path, 'two')
    assert res.returncode and "XSTILTS_DEVICES is 'two': a number of processes from 1 wanted" in res.stderr
