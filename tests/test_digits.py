"""Golden digits: what a node of each kind computes at toy size. Digits that move need a new version of their kind, or old results would pass for new ones.

After a change that is meant to move digits: raise the version in `nbs/30_store.ipynb`, export, and run `python tests/test_digits.py`."""
import json
from pathlib import Path
from random import Random

import pytest
from xstilts import metrics
from xstilts.store import VERSIONS

GOLDEN = Path(__file__).with_name('digits.json')


def run(folder):
    "The digits of every kind, made in a store of its own"
    import os
    os.environ['XSTILTS_ARTIFACTS'] = str(folder)
    from xstilts.data import test_rows, train_rows
    from xstilts.pretraining import Shape
    from xstilts.stages import Cell, Stage, load_encoder, predict_cell, run_stage, stages
    from xstilts.store import read_json
    from xstilts.tasks import tasks
    from xstilts.tokens import encode
    from xstilts.training import Recipe
    _, tok = load_encoder(None, 'mini')
    rows = {o: train_rows('mini', o, 20) for o in ('mnli', 'squad_v1', 'udpos')}|{'tatoeba': test_rows('mini', 'tatoeba', 'ja', 20)}
    enc = {o: encode(tok, r, tasks[o], 48, reset=True) for o, r in rows.items()}
    yield 'tokens', {o: [int(e.starts[-1]), int(e.ids.sum()), int((e.pos*e.ids).sum())] for o, e in enc.items()}

    def digits(stage):
        made = read_json(run_stage(stage)/'stage.json')
        net = load_encoder(stage, 'mini')[0]
        return [o['loss'] for o in made['log']]+[float(sum(p.detach().abs().double().sum() for p in net.parameters()))]
    shape = Shape(langs='en ja', documents=80, vocab=600, layers=1, hidden=16, heads=2, rows=8, split=.5)
    yield 'pretrain', digits(Stage(kind='pretrain', model='toy', shape=shape, recipe=Recipe(lr=1e-2, max_steps=12, dropout=0., max_length=128)))
    cell = Cell(model='mini', intermediate='mnli+squad_v1', target='xquad', seed=3, settings=dict(
        eval_limit=4, intermediate_train_limit=48, intermediate_epochs=1, target_train_limit=48, target_epochs=1, intermediate_dropout=0., target_dropout=0.))
    for s in stages(cell): yield s.kind, digits(s)
    yield 'prediction', [p for o in predict_cell(cell) for p in o['prob'][:3]]
    yield 'score', scores()


def scores():
    "Every official metric on predictions that a seed has spoilt"
    rng = Random(0)
    spoil = lambda gold, other: gold if rng.random()<.7 else other
    labels = ['B-PER', 'I-PER', 'O', 'B-LOC', 'I-LOC']
    words = [f'{rng.choice("abcd")} the {rng.choice("xyz")}.' for _ in range(60)]
    gold = dict(
        accuracy=[rng.choice('abc') for _ in words], token_accuracy=(tags := [[rng.choice(labels) for _ in range(8)] for _ in words]), span_f1=tags,
        qa=[[o] for o in words], bitext_f1=[rng.random()<.6 for _ in words], retrieval_accuracy=[str(i) for i in range(len(words))],
        pearson=[rng.random() for _ in words], mean_average_precision=[[str(i), f'{i}x'] for i in range(len(words))], span_f1_2020=tags, mlqa=[[o] for o in words],
        qa_v2=[[o] if i%3 else [] for i, o in enumerate(words)])
    spoilt = dict(
        accuracy=lambda o: spoil(o, 'a'), token_accuracy=lambda o: [spoil(t, rng.choice(labels)) for t in o], qa=lambda o: spoil(o[0], o[0][:1]),
        bitext_f1=lambda o: spoil(o, not o), retrieval_accuracy=lambda o: spoil(o, '-1'),
        pearson=lambda o: o+spoil(0, rng.random()), mean_average_precision=lambda o: ['-1', spoil(o[0], '-2'), o[1]])
    spoilt['span_f1'] = spoilt['span_f1_2020'] = spoilt['token_accuracy']
    spoilt['mlqa'] = spoilt['qa']
    spoilt['qa_v2'] = lambda o: spoil(o[0], o[0][:1]) if o else spoil('', 'a word')
    return {k: metrics.score(k, [dict(id=str(i), lang='de', gold=o, pred=spoilt[k](o)) for i, o in enumerate(v)]) for k, v in gold.items()}


def near(a, b):
    "Equal in structure, whole numbers exactly, others to five digits (processors differ in the last ones)"
    if isinstance(a, dict): return isinstance(b, dict) and a.keys()==b.keys() and all(near(a[k], b[k]) for k in a)
    if isinstance(a, list): return isinstance(b, list) and len(a)==len(b) and all(near(x, y) for x, y in zip(a, b))
    return a==b if isinstance(a, int) and isinstance(b, int) else a==pytest.approx(b, rel=1e-4, abs=1e-6)


@pytest.fixture(scope='module')
def now(tmp_path_factory): return json.loads(json.dumps(dict(run(tmp_path_factory.mktemp('store')))))


@pytest.mark.parametrize('kind', VERSIONS)
def test_digits(kind, now):
    golden = json.loads(GOLDEN.read_text())[kind]
    assert golden['version']==VERSIONS[kind], f"{kind} has a new version: run `python tests/test_digits.py` to write its digits"
    assert near(golden['digits'], now[kind]), f"the digits of {kind} moved: was that meant? Then raise its version in nbs/30_store.ipynb and write them again"


def test_every_metric_has_digits(): assert set(scores())==set(metrics.metrics)


def test_a_moved_digit_is_seen():
    assert near([1, .5], [1, .500001]) and not near([1, .5], [1, .501]) and not near([1], [2]) and not near([1], [1, 2])


if __name__=='__main__':
    from tempfile import TemporaryDirectory
    with TemporaryDirectory() as d: made = dict(run(Path(d)))
    GOLDEN.write_text(json.dumps({k: dict(version=VERSIONS[k], digits=made[k]) for k in VERSIONS}, indent=1)+'\n')
