"""Cheaper runtimes: their cost in points on the shipped encoder, and their use as a setting of an experiment."""
import importlib.util
import tempfile
from pathlib import Path

import pytest
import torch
from xstilts.data.load import test_rows as items, train_rows
from xstilts.evaluate.runtimes import EXTRA, compared, run_by
from xstilts.learn.heads import Net, first_position
from xstilts.run.experiment import Experiment
from xstilts.run.training import load_encoder
from xstilts.run.predictions import prediction_key
from xstilts.run.scores import run_experiment
from xstilts.core.store import artifact_path, read_json
from xstilts.catalog.tasks import tasks
from xstilts.learn.tokenize import encode
from xstilts.catalog.trainings import Recipe
from xstilts.learn.feeds import TaskFeed
from xstilts.learn.train import train

WITHOUT = any(importlib.util.find_spec(o) is None for o in EXTRA)
needs_onnx = pytest.mark.skipif(WITHOUT, reason="needs the extra: pip install 'xstilts[onnx]'")


@pytest.fixture(scope='module')
def tagger():
    "The mini encoder after a short training on names"
    encoder, tok = load_encoder(None, 'mini')
    torch.manual_seed(0)
    net = Net(encoder, [tasks['panx']])
    recipe = Recipe(lr=5e-4, epochs=2, max_length=128, freeze=True, reset_positions=True)
    rows = encode(tok, train_rows('mini', 'panx', 600), tasks['panx'], 128, True)
    feed = TaskFeed(dict(panx=rows), recipe, 0, tok.pad_token_id, first_position(encoder))
    train(net, feed, recipe, 0, Path(tempfile.mkdtemp()))
    return net, tok, [o for lang in ('en', 'de', 'ja') for o in items('mini', 'panx', lang, 60)]


def test_int8_costs_little(tagger):
    "Eight-bit layers change the F1 of a tagger by less than five points and over 90 % of its predictions not at all."
    net, tok, rows = tagger
    res = compared(net, run_by(net, 'panx', 'int8'), tok, tasks['panx'], rows, max_length=128, reset=True)
    assert res['score']>50 and abs(res['difference'])<5 and res['same']>.9 and 0<res['moved'], res


@needs_onnx
def test_onnx_costs_nothing(tagger):
    "ONNX Runtime gives the same predictions as torch, with probabilities that agree to 1e-4."
    net, tok, rows = tagger
    res = compared(net, run_by(net, 'panx', 'onnx'), tok, tasks['panx'], rows, max_length=128, reset=True)
    assert res['score']>50 and res['same']==1 and res['difference']==0 and 0<res['moved']<1e-4, res


@needs_onnx
@pytest.mark.parametrize('target', ['xnli', 'panx', 'xquad', 'xcopa'])
def test_a_cell_run_by_onnx_is_the_cell(target, tmp_path, monkeypatch):
    "For every kind of task, predictions have a key of their own and agree, and the result names the runtime."
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path))
    few = dict(target_train_limit=24, target_max_steps=2, eval_limit=12, languages='de ja')
    plain = Experiment(model='mini-s', intermediate='none', target=target, seed=0, settings=few)
    onnx = Experiment(model='mini-s', intermediate='none', target=target, seed=0, settings=few|dict(runtime='onnx'))
    got, want = read_json(run_experiment(onnx)), read_json(run_experiment(plain))
    assert prediction_key(onnx)!=prediction_key(plain)==got['against']
    assert got['runtime']=='onnx' and 'runtime' not in want
    assert got['scores']==want['scores'] and got['stages']==want['stages']
    for o in got['difference'].values(): assert o['same']==1 and o['difference']==0 and o['moved']<1e-4, o
    assert any('points against torch' in o for o in got['flags']) and len(list(artifact_path('models').iterdir()))==1
