"""Training over several processes, with all weights or a shard of them in each, gives the numbers of one process."""
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

root = Path(__file__).parents[2]
CPU = dict(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
two_cores = pytest.mark.skipif(os.cpu_count()<2, reason='two processes need two cores')
CODE = """
import json, sys
from xstilts.learn.train import log_warnings
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.run.predictions import predict_experiment
from xstilts.core.store import read_json
# eps: Adam makes full steps of gradients that are nothing but rounding
given = dict(target_train_limit=70, target_epochs=2, target_dropout=0., target_eval_steps=3, target_eval_rows=20,
    target_eps=1e-4, eval_limit=4, languages='en')
settings = given|json.loads(sys.argv[1])
experiment = Experiment(model='mini-s', intermediate='none', target=sys.argv[2], seed=0, settings=settings)
seen = []
folder = run_stage(stages_of(experiment)[-1], seen.append)
made = read_json(folder/'stage.json')
prob = predict_experiment(experiment)[0].get('prob')
shown = {k: made[k] for k in ('log', 'sharding', 'devices', 'key')}
print(json.dumps(dict(shown, warnings=log_warnings(made['log']), seen=len(seen), folder=str(folder), prob=prob)))
"""


def trained(folder, devices, sharding='none', target='xcopa', **given):
    env = os.environ|CPU|dict(XSTILTS_ARTIFACTS=str(folder), XSTILTS_DEVICES=str(devices), XSTILTS_SHARDING=sharding)
    argv = [sys.executable, '-c', CODE, json.dumps(given), target]
    return subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True)


def printed(res):
    assert res.returncode==0, res.stderr
    return json.loads(res.stdout.splitlines()[-1])


def same_log(one, two, eps=1e-6):
    for a, b in zip(one['log'], two['log'], strict=True):
        assert abs(a['loss']-b['loss'])<eps, (a, b)
        assert (a['labels'], a['padding'], a.get('dev'))==(b['labels'], b['padding'], b.get('dev'))


@two_cores
def test_groups_of_a_dual_encoder_are_shared_whole(tmp_path):
    "Two processes take complete groups in turn and get the loss of one; a process without a group causes a warning."
    few = dict(target='lareqa', target_train_limit=18, target_epochs=1, target_max_length=64)
    one = printed(trained(tmp_path/'one', 1, **few))
    two = printed(trained(tmp_path/'two', 2, **few))
    idle = printed(trained(tmp_path/'idle', 2, **few, target_negatives=16))
    for a, b in zip(one['log'], two['log'], strict=True):
        assert abs(a['loss']-b['loss'])<1e-5 and (a['labels'], a.get('dev'))==(b['labels'], b.get('dev')), (a, b)
    assert one['warnings']==two['warnings'] and 'nothing to do' not in ' '.join(two['warnings'])
    assert [o for o in idle['warnings'] if 'chance' not in o]==['1 of 2 processes had nothing to do: '
        'the number of groups of contrasted pairs in an update is at most 1, and no group is cut']


@pytest.fixture(scope='module')
def one(tmp_path_factory): return printed(trained(tmp_path_factory.mktemp('one'), 1))


@two_cores
def test_two_processes_agree_with_one(one, tmp_path):
    "Losses agree to 1e-6, also if the last update has fewer rows, and the log reaches the caller."
    two = printed(trained(tmp_path, 2))
    assert one['seen']==two['seen']>0 and two['devices']==2 and two['sharding']=='none'
    same_log(one, two)


@two_cores
def test_sharded_weights_agree_with_one_process(one, tmp_path):
    "Losses agree to 1e-6 and weights to 1e-5, a single process loads the folder, and the key depends on sharding."
    two = printed(trained(tmp_path, 2, 'fsdp'))
    assert one['seen']==two['seen']>0 and (two['devices'], two['sharding'])==(2, 'fsdp') and one['key']!=two['key']
    same_log(one, two)
    a, b = Path(one['folder']), Path(two['folder'])
    assert {o.relative_to(a) for o in a.rglob('*')}=={o.relative_to(b) for o in b.rglob('*')}
    for f in ('backbone/model.safetensors', 'heads.safetensors'):
        x, y = load_file(a/f), load_file(b/f)
        assert {k: (v.shape, v.dtype) for k, v in x.items()}=={k: (v.shape, v.dtype) for k, v in y.items()}
        for k in x: assert (x[k]-y[k]).abs().max()<1e-5, k
    assert one['prob']==pytest.approx(two['prob'], abs=1e-4)


@two_cores
def test_sharded_weights_in_bfloat16(tmp_path):
    "Sharded weights in bfloat16 learn what one process learns, and the result names what is rounded."
    given = dict(target_precision='bfloat16', target_eval_steps=0)
    one, two = printed(trained(tmp_path/'one', 1, **given)), printed(trained(tmp_path/'two', 2, 'fsdp', **given))
    for a, b in zip(one['log'], two['log'], strict=True): assert a['loss']==pytest.approx(b['loss'], abs=.02)
    words = 'weights were sharded over 2 processes and gathered in bfloat16'
    assert [sum(words in t for t in o['warnings']) for o in (one, two)]==[0, 1]


def test_a_number_of_devices_that_is_none(tmp_path):
    "An invalid number of devices or kind of sharding is an error that names it."
    for given in ('two', '0'):
        res = trained(tmp_path, given)
        assert res.returncode and f"XSTILTS_DEVICES is '{given}': it must be a whole number" in res.stderr
    res = trained(tmp_path, 1000)
    assert res.returncode and f'devices is 1000, and this machine has {os.cpu_count()} core' in res.stderr
    res = trained(tmp_path, 2, 'zero')
    assert res.returncode and "unknown sharding 'zero'" in res.stderr


KEPT = """
import resource, torch
from xstilts.learn.devices import retain_memory
def faults():
    "Pages that a block asks for where a larger one was freed before"
    for mb in (200, 100):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(mb, 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt-before
with retain_memory(): kept = faults()
print(kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0]!='glibc', reason='memory is kept where the C library is glibc')
def test_memory_is_kept_and_given_back():
    "Within the block freed memory is reused without new pages; after it, freed memory returns to the system."
    argv = [sys.executable, '-c', KEPT]
    res = subprocess.run(argv, cwd=root, env=os.environ|CPU, capture_output=True, text=True, check=True)
    kept, given_back = map(int, res.stdout.split())
    assert kept<given_back/10


FAMILY = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
sys.path.insert(0, 'tests/learn')
from test_families import FAMILIES, LENGTH, WITH_MLM, Lines, logits, parts, rows, toy_tokenizer
from xstilts.learn.heads import first_position
from xstilts.catalog.tasks import tasks
from xstilts.learn.tokenize import encode
from xstilts.learn.devices import gather, is_main
from xstilts.learn.feeds import TaskFeed, WithMLM
from xstilts.learn.recipe import Recipe
from xstilts.learn.train import train
to, logs = Path(sys.argv[1]), {}
def folder(name, specials, one, two, names, config, cls):
    "A toy of a family, one for each process; before they know of each other, since transformers lets one write for all"
    at, tok = to/f"{name}{os.environ.get('RANK', 0)}", toy_tokenizer(specials, one, two, names)
    torch.manual_seed(0)
    cls(config(len(tok))).save_pretrained(at)
    tok.save_pretrained(at)
    return str(at)
for name, at in {k: folder(k, *like, *v) for k, (like, *v) in FAMILIES.items()}.items():
    net, tok = parts(at, ['mnli', 'panx'], mlm=name in WITH_MLM)
    for o in net.modules():
        if isinstance(o, torch.nn.Dropout): o.p = 0.
    data = {o: rows(o, 'dev')[:9] for o in ('mnli', 'panx')}
    enc = {o: encode(tok, d, tasks[o], LENGTH) for o, d in data.items()}
    r = Recipe(lr=1e-2, epochs=2, batch_size=4, micro_batch=2, eval_steps=3, select='best', clip=.5, eps=1e-4,
        optimiser='adafactor' if name in ('mt5', 'bert') else 'adamw', recompute=name in ('xlmr', 'mmbert'),
        freeze=name=='deberta', precision='float32')
    feed = TaskFeed(enc, r, 0, tok.pad_token_id, first_position(net.encoder))
    if name in WITH_MLM: feed = WithMLM(feed, Lines(enc['mnli'], tok, first_position(net.encoder)), .3, 0)
    score = lambda n: float(sum(abs(o).sum() for o in logits(n, 'mnli', enc['mnli'], tok.pad_token_id)))
    logs[name] = [dict(loss=o['loss'], dev=o['dev']) for o in train(net, feed, r, 0, to/'work'/name, evaluate=score)]
    state = gather(net.state_dict())
    if is_main(): save_file(state, to/f'{name}.safetensors')
if is_main(): (to/'logs.json').write_text(json.dumps(logs))
"""


def together(n, code, *argv, **env):
    "Start `n` processes of one training without a launcher, so that a test can interfere with each"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    common = os.environ|CPU|dict(XSTILTS_DEVICES=str(n))
    if n>1:
        common |= dict(WORLD_SIZE=str(n), LOCAL_WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        common |= dict(ACCELERATE_USE_CPU='true')
    made = []
    for i in range(n):
        ranks = dict(RANK=str(i), LOCAL_RANK=str(i)) if n>1 else {}
        made.append(subprocess.Popen([sys.executable, '-c', code, *map(str, argv)], cwd=root, env=common|ranks|env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    try: return [(o.returncode, *out) for o, out in [(o, o.communicate(timeout=240)) for o in made]]
    finally:
        for o in made: o.kill()


@two_cores
def test_every_family_can_be_sharded(tmp_path):
    """Losses, dev scores and weights are those of one process.

    With two heads and language modelling, updates in two forward passes, clipping, AdamW and Adafactor, activation
    checkpointing, frozen embeddings."""
    for n in (1, 2):
        (tmp_path/str(n)).mkdir()
        for code, _, err in together(n, FAMILY, tmp_path/str(n), XSTILTS_SHARDING='fsdp' if n>1 else 'none'):
            assert code==0, err[-3000:]
    one, two = (json.loads((tmp_path/str(n)/'logs.json').read_text()) for n in (1, 2))
    for name in one:
        for a, b in zip(one[name], two[name], strict=True):
            assert a['loss']==pytest.approx(b['loss'], abs=1e-5), (name, a, b)
            assert a['dev']==pytest.approx(b['dev'], rel=1e-4), (name, a, b)
        x, y = (load_file(tmp_path/str(n)/f'{name}.safetensors') for n in (1, 2))
        assert x.keys()==y.keys()
        for k in x: assert torch.allclose(x[k], y[k], rtol=1e-3, atol=1e-4), (name, k, (x[k]-y[k]).abs().max())


WRITES = """
import json, os, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
sys.path.insert(0, 'tests/learn')
from test_families import FAMILIES, rows, toy_tokenizer
from xstilts.catalog.tasks import tasks
from xstilts.learn.text2text import TextFeed, TextNet, encode_text, generate_texts, seq2seq
from xstilts.learn.devices import gather, is_main
from xstilts.learn.recipe import Recipe
from xstilts.learn.train import train
to = Path(sys.argv[1])
at = str(to/f"mt5{os.environ.get('RANK', 0)}")
(specials, one, two, names), config, cls = FAMILIES['mt5']
tok = toy_tokenizer(specials, one, two, names)
torch.manual_seed(0)
cls(config(len(tok))).save_pretrained(at)
few = {o: rows(o, 'dev')[:9] for o in ('xnli', 'panx')}
enc = {o: encode_text(tok, d, tasks[o], 64) for o, d in few.items()}
net = TextNet(seq2seq(at), [tasks[o] for o in few])
r = Recipe(lr=1e-2, epochs=2, batch_size=4, micro_batch=2, eval_steps=3, optimiser='adafactor', precision='float32')
texts = []
def score(n):
    texts.append(generate_texts(n, tok, enc['panx'], 6))
    return float(sum(map(len, texts[-1])))
log = train(net, TextFeed(enc, r, 0, tok.pad_token_id, 0), r, 0, to/'work', evaluate=score)
state = gather(net.state_dict())
if is_main():
    save_file(state, to/'net.safetensors')
    log = [{k: o[k] for k in ('loss', 'dev', 'labels', 'padding')} for o in log]
    (to/'log.json').write_text(json.dumps(dict(log=log, texts=texts)))
"""


@two_cores
def test_a_model_that_generates_text_can_be_sharded(tmp_path):
    "Sharded mT5 with its decoder has the losses, generated texts and weights of one process."
    for n in (1, 2):
        (tmp_path/str(n)).mkdir()
        for code, _, err in together(n, WRITES, tmp_path/str(n), XSTILTS_SHARDING='fsdp' if n>1 else 'none'):
            assert code==0, err[-3000:]
    one, two = (json.loads((tmp_path/str(n)/'log.json').read_text()) for n in (1, 2))
    same_log(one, two, 1e-5)
    assert one['texts']==two['texts'] and any(''.join(o) for o in one['texts'])
    x, y = (load_file(tmp_path/str(n)/'net.safetensors') for n in (1, 2))
    assert x.keys()==y.keys()
    for k in x: assert torch.allclose(x[k], y[k], rtol=1e-3, atol=1e-4), k


RESUMED = """
import os, sys
from pathlib import Path
import xstilts.learn.train as t
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import make_stage
settings = dict(target_train_limit=60, target_batch_size=7, target_epochs=2, target_checkpoint_steps=2,
    target_eval_steps=3, target_eval_rows=20, target_select='best')
c = Experiment(model='mini-s', intermediate='none', target='udpos', seed=3, settings=settings)
step, real = int(sys.argv[2]), t.save_checkpoint
def stop(folder, n, *a):
    real(folder, n, *a)
    if n>=step>0: os.kill(os.getpid(), 9)
t.save_checkpoint = stop
make_stage(stages_of(c)[-1], Path(sys.argv[1])/'work', Path(sys.argv[1])/'made')
"""
TIMES = ('seconds', 'pieces_per_second', 'examples_per_second')


def timeless_log(folder):
    log = json.loads((folder/'stage.json').read_text())['log']
    return [{k: v for k, v in o.items() if k not in TIMES} for o in log]


@two_cores
@pytest.mark.parametrize('sharding', ['none', 'fsdp'])
def test_two_killed_processes_resume(sharding, tmp_path):
    "Two killed processes resume to the exact weights and log of an uninterrupted training, dropout included."
    env = dict(XSTILTS_SHARDING=sharding, XSTILTS_ARTIFACTS=str(tmp_path/'store'))
    def go(name, step): return together(2, RESUMED, tmp_path/name, step, **env)
    for code, _, err in go('a', 0): assert code==0, err[-3000:]
    for step in (3, 9): assert {o[0] for o in go('b', step)}=={-9}
    files = {o.name for o in next((tmp_path/'b'/'work').glob('checkpoint-*')).iterdir()}
    assert files=={'manifest.json', 'net.safetensors', 'optimiser.safetensors', 'state.json'}  # tensors and JSON
    for code, _, err in go('b', 0): assert code==0, err[-3000:]
    a, b = (tmp_path/o/'made' for o in 'ab')
    for f in ('backbone/model.safetensors', 'heads.safetensors'): assert (a/f).read_bytes()==(b/f).read_bytes(), f
    assert timeless_log(a)==timeless_log(b)
