"""Golden digits: what each kind of node computes at toy size, from committed inputs. Changed digits need a new version
of their kind, or old results would pass for new ones.

Every kind starts from inputs that are the same on every CPU: rows of the miniature, the shipped encoder, heads drawn by
numpy. Nothing is compared after a long training, where rounding differences between CPUs grow. `TOLERANCE` is ten times
the largest difference between instruction sets that `python tests/run/test_digits.py drift` measured.

After a change that is meant to move digits: raise the version in `nbs/core/25_store.ipynb`, export, and run
`python tests/run/test_digits.py`."""
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from xstilts.evaluate import metrics
from xstilts.core.store import VERSIONS

GOLDEN = Path(__file__).with_name('digits.json')
TOLERANCE = 5e-5  # relative; see the docstring of this module
OTHER_PROCESSORS = {
    'AVX2': dict(ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2'),
    'no vector instructions': dict(ONEDNN_MAX_CPU_ISA='SSE41', ATEN_CPU_CAPABILITY='default'),
}
PREDICTED = ('xnli', 'udpos', 'xquad', 'xcopa')  # one target of every kind of head
# three updates on the same rows
STEPS = dict(epochs=3, batch_size=16, train_limit=16, dropout=0., lr=1e-3, eval_steps=1, eval_rows=4)


def digits_of_tokens():
    "Sums over token ids and positions of some rows, which are whole numbers."
    from xstilts.data.load import test_rows, train_rows
    from xstilts.run.training import load_encoder
    from xstilts.catalog.tasks import tasks
    from xstilts.learn.tokenize import encode
    _, tok = load_encoder(None, 'mini')
    rows = {o: train_rows('mini', o, 20) for o in ('mnli', 'squad_v1', 'udpos')}
    rows['tatoeba'] = test_rows('mini', 'tatoeba', 'ja', 20)
    found = {o: encode(tok, r, tasks[o], 48, reset=True) for o, r in rows.items()}
    return {o: [int(e.starts[-1]), int(e.ids.sum()), int((e.pos*e.ids).sum())] for o, e in found.items()}


@contextmanager
def batches_seen():
    "Collects sums over every batch that an encoder like XLM-R receives."
    from transformers import XLMRobertaModel
    plain = XLMRobertaModel.forward
    seen = []

    def forward(self, *args, **kw):
        ids, mask, positions = (kw[o] for o in ('input_ids', 'attention_mask', 'position_ids'))
        seen.append([int(ids.sum()), int(mask.sum()), int((positions*ids).sum()), int((mask*ids).sum())])
        return plain(self, *args, **kw)
    XLMRobertaModel.forward = forward
    try: yield seen
    finally: XLMRobertaModel.forward = plain


def digits_of_training(stage):
    "The loss before each update and the batches of a stage."
    from xstilts.run.launch import run_stage
    from xstilts.core.store import read_json
    with batches_seen() as seen: made = read_json(run_stage(stage)/'stage.json')
    return dict(loss=[o['loss'] for o in made['log']], batches=seen)


def pretraining():
    from xstilts.learn.mlm import Shape
    from xstilts.learn.recipe import Recipe
    from xstilts.run.stages import Stage
    shape = Shape(langs='en ja', documents=80, vocab=600, layers=1, hidden=16, heads=2, rows=8, split=.5)
    recipe = Recipe(lr=1e-2, max_steps=1, dropout=0., max_length=128)
    return Stage(kind='pretrain', model='toy', shape=shape, recipe=recipe)


def intermediate():
    "Three updates on two tasks from the shipped encoder."
    from xstilts.learn.recipe import Recipe
    from xstilts.run.stages import Stage
    steps = STEPS|dict(epochs=1, train_limit=48, eval_steps=2)
    recipe = Recipe(max_length=128, freeze=True, reset_positions=True, **steps)
    return Stage(kind='intermediate', model='mini', tasks=('mnli', 'squad_v1'), seed=3, recipe=recipe)


def target(task='udpos', **more):
    from xstilts.learn.recipe import Recipe
    from xstilts.run.stages import Stage
    recipe = Recipe(max_length=128, reset_positions=True, **STEPS|more)
    return Stage(kind='target', model='mini', tasks=(task,), seed=3, recipe=recipe)


def committed_stage(experiment):
    "Stores the shipped encoder, with heads drawn by numpy, as the target stage of an experiment."
    import torch
    from safetensors.torch import save_file
    from xstilts.data.load import task_of
    from xstilts.learn.heads import Net
    from xstilts.run.stages import stages_of
    from xstilts.run.training import load_encoder
    from xstilts.run.launch import stage_record
    from xstilts.core.files import sealed_folder
    from xstilts.core.store import artifact_path, write_json
    stage = stages_of(experiment)[-1]
    encoder, tok = load_encoder(None, 'mini')
    net = Net(encoder, [replace(task_of('mini', experiment.target), name=stage.tasks[0])])
    rng = np.random.default_rng(0)
    def drawn(v): return torch.from_numpy(rng.normal(0, .3, v.shape).astype(np.float32))
    heads = {k: drawn(v) for k, v in net.heads.state_dict().items()}
    with sealed_folder(artifact_path('models', stage.key)) as to:
        encoder.save_pretrained(to/'backbone')
        tok.save_pretrained(to/'backbone')
        save_file(heads, to/'heads.safetensors')
        write_json(to/'stage.json', stage_record(stage)|dict(log=[], warnings=[]))


def digits_of_prediction():
    "Probabilities, scores of spans and nearest neighbours in two languages."
    from xstilts.run.experiment import Experiment
    from xstilts.run.predictions import predict_experiment
    res = {}
    for name in (*PREDICTED, 'tatoeba'):
        few = dict(eval_limit=6, target_train_limit=8, languages='de ja')
        experiment = Experiment(model='mini', intermediate='none', target=name, seed=0, settings=few)
        if experiment.trained: committed_stage(experiment)
        with batches_seen() as seen: rows = predict_experiment(experiment)
        res[name] = dict(prob=[p for o in rows for p in o['prob'][:3]], batches=seen)
    return res


def scores():
    "Every official metric on predictions that a seed has corrupted"
    rng = Random(0)
    spoil = lambda gold, other: gold if rng.random()<.7 else other
    labels = ['B-PER', 'I-PER', 'O', 'B-LOC', 'I-LOC']
    words = [f'{rng.choice("abcd")} the {rng.choice("xyz")}.' for _ in range(60)]
    gold = dict(
        accuracy=[rng.choice('abc') for _ in words],
        token_accuracy=(tags := [[rng.choice(labels) for _ in range(8)] for _ in words]),
        span_f1=tags,
        qa=[[o] for o in words],
        bitext_f1=[rng.random()<.6 for _ in words],
        retrieval_accuracy=[str(i) for i in range(len(words))],
        pearson=[rng.random() for _ in words],
        mean_average_precision=[[str(i), f'{i}x'] for i in range(len(words))],
        span_f1_2020=tags,
        mlqa=[[o] for o in words],
        qa_v2=[[o] if i%3 else [] for i, o in enumerate(words)])
    spoilt = dict(
        accuracy=lambda o: spoil(o, 'a'),
        token_accuracy=lambda o: [spoil(t, rng.choice(labels)) for t in o],
        qa=lambda o: spoil(o[0], o[0][:1]),
        bitext_f1=lambda o: spoil(o, not o),
        retrieval_accuracy=lambda o: spoil(o, '-1'),
        pearson=lambda o: o+spoil(0, rng.random()),
        mean_average_precision=lambda o: ['-1', spoil(o[0], '-2'), o[1]])
    spoilt['span_f1'] = spoilt['span_f1_2020'] = spoilt['token_accuracy']
    spoilt['mlqa'] = spoilt['qa']
    spoilt['qa_v2'] = lambda o: spoil(o[0], o[0][:1]) if o else spoil('', 'a word')
    def predicted(k): return [dict(id=str(i), lang='de', gold=o, pred=spoilt[k](o)) for i, o in enumerate(gold[k])]
    return {k: metrics.score(k, predicted(k)) for k in gold}


KINDS = dict(
    tokens=digits_of_tokens,
    pretrain=lambda: digits_of_training(pretraining()),
    intermediate=lambda: digits_of_training(intermediate()),
    target=lambda: digits_of_training(target()),
    prediction=digits_of_prediction,
    score=scores)


@contextmanager
def fresh_store():
    "A separate store for the code of a block"
    before = os.environ.get('XSTILTS_ARTIFACTS')
    with TemporaryDirectory() as d:
        os.environ['XSTILTS_ARTIFACTS'] = d
        try: yield
        finally:
            del os.environ['XSTILTS_ARTIFACTS']
            if before is not None: os.environ['XSTILTS_ARTIFACTS'] = before


def computed(kind):
    "The digits of a kind of node as plain JSON, computed in a fresh store"
    with fresh_store(): return json.loads(json.dumps(KINDS[kind]()))


def differences(a, b):
    "Relative differences of all numbers of two equal structures; infinite where structures or whole numbers differ"
    if isinstance(a, dict) and isinstance(b, dict) and a.keys()==b.keys():
        return [x for k in a for x in differences(a[k], b[k])]
    if isinstance(a, list) and isinstance(b, list) and len(a)==len(b):
        return [x for o in zip(a, b) for x in differences(*o)]
    if isinstance(a, float) and isinstance(b, float): return [abs(a-b)/max(abs(a), abs(b), 1e-2)]
    return [0. if a==b else float('inf')]


def near(a, b): return max(differences(a, b))<=TOLERANCE


def golden(kind): return json.loads(GOLDEN.read_text())[kind]


@pytest.mark.parametrize('kind', VERSIONS)
def test_digits(kind):
    "The digits of each kind of node equal the committed ones within the tolerance."
    new = f"{kind} has a new version: run `python tests/run/test_digits.py` to write its digits"
    assert golden(kind)['version']==VERSIONS[kind], new
    off = max(differences(golden(kind)['digits'], computed(kind)))
    assert off<=TOLERANCE, (f"the digits of {kind} moved by {off:.1e}: was that meant? "
        "Then raise its version in nbs/core/25_store.ipynb and write them again")


@pytest.mark.parametrize('name', OTHER_PROCESSORS)
def test_another_instruction_set_gives_the_same_digits(name):
    "The same machine with other kernels serves as another processor."
    made = on_another(OTHER_PROCESSORS[name])
    assert {k: max(differences(golden(k)['digits'], made[k]))<=TOLERANCE for k in KINDS}==dict.fromkeys(KINDS, True)


def test_the_same_seed_twice_gives_the_same_bits(): assert computed('target')==computed('target')


def test_every_metric_has_digits(): assert set(scores())==set(metrics.metrics)


def flip_a_mask_bit(monkeypatch):
    "Mask the second token of the first example of a batch."
    from xstilts.learn import batches
    plain = batches.collate

    def collate(*args, **kw):
        res = plain(*args, **kw)
        res['attention_mask'][0, 1] = 0
        return res
    monkeypatch.setattr(batches, 'collate', collate)
    monkeypatch.setattr('xstilts.learn.feeds.collate', collate)


def wrong_padding_id(monkeypatch):
    from xstilts.learn import batches
    plain = batches.collate
    collate = lambda enc, ix, pad, *args, **kw: plain(enc, ix, pad+1, *args, **kw)
    monkeypatch.setattr(batches, 'collate', collate)
    monkeypatch.setattr('xstilts.learn.feeds.collate', collate)


def swap_a_label(monkeypatch):
    "Change the tags of two words in one training sentence."
    from xstilts.run import training
    plain = training.train_rows

    def train_rows(*args, **kw):
        first, *rest = plain(*args, **kw)
        tags = list(first['tags'])
        other = next(i for i, t in enumerate(tags) if t!=tags[0])
        tags[0], tags[other] = tags[other], tags[0]
        return (dict(first, tags=tags), *rest)
    monkeypatch.setattr(training, 'train_rows', train_rows)


MUTATIONS = {
    'learning rate up by 1 %': ('target', lambda monkeypatch: monkeypatch.setitem(STEPS, 'lr', 1.01e-3)),
    'a mask bit in training': ('target', flip_a_mask_bit),
    'a mask bit in prediction': ('prediction', flip_a_mask_bit),
    'another padding id in training': ('target', wrong_padding_id),
    'another padding id in prediction': ('prediction', wrong_padding_id),
    'two swapped labels': ('target', swap_a_label),
}


@pytest.mark.parametrize('name', MUTATIONS)
def test_a_real_change_is_seen(name, monkeypatch):
    "A deliberate fault changes the digits beyond the tolerance."
    kind, mutate = MUTATIONS[name]
    mutate(monkeypatch)
    assert not near(golden(kind)['digits'], computed(kind))


def on_another(env):
    "All digits, computed by a process with other kernels"
    code = 'import json\nfrom test_digits import KINDS,computed\nprint(json.dumps({k: computed(k) for k in KINDS}))'
    here = Path(__file__).parent
    res = subprocess.run([sys.executable, '-c', code], cwd=here, env=os.environ|env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr[-3000:]
    return json.loads(res.stdout.splitlines()[-1])


def show_drift():
    "The largest relative difference of each kind of node between this processor's kernels and others"
    here = {k: computed(k) for k in KINDS}
    for name, env in OTHER_PROCESSORS.items():
        there = on_another(env)
        for k in KINDS: print(f'{name:<24}{k:<14}{max(differences(here[k], there[k])):.1e}')


if __name__=='__main__':
    if sys.argv[1:]==['drift']: show_drift()
    else:
        digits = {k: dict(version=VERSIONS[k], digits=computed(k)) for k in VERSIONS}
        GOLDEN.write_text(json.dumps(digits, indent=1)+'\n')
