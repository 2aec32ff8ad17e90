"""Damaged artifacts are moved aside with a warning and recomputed: the scores equal those of an undamaged store."""
import importlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

root = Path(__file__).parents[2]
EXPERIMENT = dict(model='mini-s', intermediate='mnli', target='pawsx', seed=3, settings=dict(
    languages='en de', eval_limit=8, intermediate_train_limit=16, intermediate_epochs=1, intermediate_batch_size=8,
    target_train_limit=24, target_epochs=1, target_batch_size=8))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content)//4] ^= 1
    path.write_bytes(content)


def truncate(path): path.write_bytes(path.read_bytes()[:-5])


def empty(path): path.write_bytes(b'')


def delete(path): path.unlink()


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_file(path):
    shutil.rmtree(path)
    path.write_text('not a folder')


def hollow(path):
    shutil.rmtree(path)
    path.mkdir()


IN_FILE = dict(flip=flip, truncate=truncate, empty=empty, delete=delete)
OF_FILE = dict(replace_by_folder=replace_by_folder)
OF_FOLDER = dict(replace_by_file=replace_by_file, hollow=hollow)
HEAVY = (  # torch is imported once, before the forks
    'accelerate', 'fastcore.xtras', 'pandas', 'pyarrow.parquet', 'safetensors.torch',
    'transformers.models.xlm_roberta.modeling_xlm_roberta',
    'xstilts.evaluate.predict', 'xstilts.run.scores', 'xstilts.learn.train')
AFTER_ROWS = ('tokens', 'models', 'predictions', 'scores')
AFTER_TOKENS = ('models', 'predictions', 'scores')
AFTER_MODEL = ('predictions', 'scores')
ARTIFACTS = {  # what is damaged -> its path, what to remove so that it is read, how it is damaged
    'fingerprints': ('rows/prints/*', (), IN_FILE | OF_FILE),
    'rows': ('rows/*.parquet', AFTER_ROWS, IN_FILE),
    'a folder for rows': ('rows/*.pawsx.test.de.*.parquet', AFTER_MODEL, OF_FILE),
    'pieces': ('tokens/*/ids.npy', AFTER_TOKENS, IN_FILE),
    'labels': ('tokens/*/y.label.npy', AFTER_TOKENS, dict(flip=flip)),
    'manifest of tokens': ('tokens/*/manifest.json', AFTER_TOKENS, dict(flip=flip, empty=empty)),
    'token folders': ('tokens/*', AFTER_TOKENS, OF_FOLDER),
    'weights of the intermediate stage':
        ('models/inter*/backbone/*.safetensors', ('models/target*', *AFTER_MODEL), dict(flip=flip)),
    'weights': ('models/target*/backbone/*.safetensors', AFTER_MODEL, IN_FILE),
    'head': ('models/target*/heads.safetensors', AFTER_MODEL, dict(flip=flip, truncate=truncate)),
    'records': ('models/*/stage.json', ('scores',), dict(flip=flip, delete=delete)),
    'manifest of a model': ('models/target*/manifest.json', AFTER_MODEL, IN_FILE),
    'model folder': ('models/target*', AFTER_MODEL, OF_FOLDER),
    'predictions': ('predictions/*/*.de.parquet', ('scores',), IN_FILE),
    'predictions of a scored experiment': ('predictions/*/*.de.parquet', (), dict(truncate=truncate, delete=delete)),
    'predictions folder': ('predictions/*', (), OF_FOLDER),
    'scores': ('scores/*.json', (), IN_FILE | OF_FILE),
    'checksum of scores': ('scores/*.json.blake2b', (), dict(flip=flip, empty=empty)),
}
SINGLE_FILES = ('fingerprints', 'rows', 'scores')  # a deleted one counts as not yet computed
CASES = [(name, how) for name, (_, _, ways) in ARTIFACTS.items() for how in ways]


def prepare(store, name, how):
    "Damage a copy of a store"
    where, removed, ways = ARTIFACTS[name]
    for o in (o for pattern in removed for o in store.glob(pattern)): shutil.rmtree(o)
    found = sorted(o for o in store.glob(where) if o.suffix != '.blake2b' or 'blake2b' in where)
    assert found, name
    for o in found: ways[how](o)


def unseal(store):
    "Make a store look like one of an earlier version"
    manifests = [*store.glob('tokens/*/manifest.json'), *store.glob('predictions/*/manifest.json')]
    for o in (*store.rglob('*.blake2b'), *manifests): o.unlink()


def outcome(store):
    "Run the experiment in a store: scores, warnings, moved artifacts and models"
    from xstilts.run.experiment import Experiment
    from xstilts.run.scores import run_experiment
    from xstilts.core.store import read_json
    os.environ['XSTILTS_ARTIFACTS'] = str(store)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('always')
        scores = read_json(run_experiment(Experiment(**EXPERIMENT)))['scores']
    moved = sorted(o.name for o in store.glob('damaged/[!.]*') if o.suffix != '.blake2b')
    messages = [str(o.message) for o in shown if 'damaged' in str(o.message)]
    models = sorted(o.name for o in store.glob('models/[!.]*'))
    return dict(scores=scores, warnings=messages, moved=moved, models=models)


def forked(work):
    "What a function returns in a new process without caches; None if the process was killed"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as f: result = f.read()
    os.waitpid(pid, 0)
    return json.loads(result) if result else None


def killed_after(store, step):
    "Run the experiment and kill it after a checkpoint of its target stage"
    import xstilts.learn.train as t
    real = t.save_checkpoint
    def stop(folder, n, *a):
        real(folder, n, *a)
        if n == step and 'target' in folder.name: os.kill(os.getpid(), 9)
    t.save_checkpoint = stop
    EXPERIMENT['settings']['target_checkpoint_steps'] = 1
    return outcome(store)


def resumed(store, how):
    "Kill a training, damage its checkpoint, and resume it"
    assert forked(lambda: killed_after(store, 2)) is None
    for o in store.glob('work/target*/checkpoint-2/net.safetensors'): IN_FILE[how](o)
    return forked(lambda: outcome(store))


def play(folder):
    "Print all outcomes as JSON; torch is imported once, and every case runs in a fork"
    for o in HEAVY: importlib.import_module(o)
    undamaged = folder/'undamaged'
    res = {'undamaged': forked(lambda: outcome(undamaged))}
    def case(name, change):
        store = folder/'case'
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(undamaged, store)
        change(store)
        res[name] = forked(lambda: outcome(store))
    def truncate_and_unseal(store):
        prepare(store, 'predictions', 'truncate')
        unseal(store)
    for name, how in CASES: case(f'{name}, {how}', partial(prepare, name=name, how=how))
    case('an earlier version, truncated', truncate_and_unseal)
    case('an earlier version', unseal)
    for how in ('flip', 'truncate'): res[f'checkpoint, {how}'] = resumed(folder/f'killed-{how}', how)
    print(json.dumps(res))


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('damage')
    env = os.environ | dict(CUDA_VISIBLE_DEVICES='', XSTILTS_DEVICES='1', OMP_NUM_THREADS='1')
    res = subprocess.run([sys.executable, __file__, str(folder)], cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-3000:]
    return json.loads(res.stdout.splitlines()[-1]) | dict(folder=folder)


def recovered(outcomes, name):
    "Check that a case has the scores and keys of an undamaged run and warnings about everything moved aside"
    undamaged = outcomes['undamaged']
    got = outcomes[name]
    assert (got['scores'], got['models']) == (undamaged['scores'], undamaged['models'])
    assert len(got['warnings']) == len(got['moved'])
    for o in got['moved']: assert any(f'damaged/{o}' in message for message in got['warnings']), (o, got['warnings'])
    return got


@pytest.mark.parametrize('name, how', CASES)
def test_damaged_artifacts_are_recomputed(name, how, outcomes):
    "Every kind of damage to every kind of artifact is detected and repaired."
    got = recovered(outcomes, f'{name}, {how}')
    assert bool(got['moved']) != (name in SINGLE_FILES and how == 'delete')


@pytest.mark.parametrize('name', ['checkpoint, flip', 'checkpoint, truncate', 'an earlier version, truncated'])
def test_damaged_checkpoints_and_old_artifacts_are_recomputed(name, outcomes):
    "Damaged checkpoints and damaged artifacts without checksums are moved aside."
    assert recovered(outcomes, name)['moved']


def test_a_store_of_an_earlier_version_is_used_and_sealed(outcomes):
    "Nothing is recomputed, and whatever was read has a checksum afterwards."
    assert recovered(outcomes, 'an earlier version')['moved'] == []
    assert list((outcomes['folder']/'case').glob('scores/*.json.blake2b'))


@pytest.fixture
def store(outcomes, tmp_path, monkeypatch):
    "A finished store, and a rendered study of one page"
    from xstilts.core.files import commit_sealed, seal
    shutil.copytree(outcomes['folder']/'undamaged', tmp_path/'artifacts')
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(tmp_path/'artifacts'))
    monkeypatch.setenv('XSTILTS_REPORTS', str(tmp_path/'reports'))
    pages = tmp_path/'reports'/'tiny'/'experiments'
    pages.mkdir(parents=True)
    for o in (pages/'page.ipynb', pages.parent/'report.ipynb', pages/'made.ipynb'): o.write_text('{"cells": []}')
    (tmp_path/'artifacts'/'notebooks').mkdir()
    commit_sealed(pages/'made.ipynb', tmp_path/'artifacts'/'notebooks'/'made.ipynb')
    seal(pages.parent, '.report-tiny')
    return tmp_path


RESULTS = dict(
    stage='artifacts/models/target*',
    experiment='artifacts/scores/*.json',
    report='reports/tiny/.report-tiny')
UNDONE = {  # what is damaged -> kind of node, file, damage, what is moved aside
    'weights truncated': ('stage', 'artifacts/models/target*/backbone/model.safetensors', truncate, 'target*'),
    'head deleted': ('stage', 'artifacts/models/target*/heads.safetensors', delete, 'target*'),
    'record flipped': ('stage', 'artifacts/models/target*/stage.json', flip, 'target*'),
    'model folder empty': ('stage', 'artifacts/models/target*', hollow, 'target*'),
    'scores truncated': ('experiment', 'artifacts/scores/*.json', truncate, 'score*'),
    'scores flipped': ('experiment', 'artifacts/scores/*.json', flip, 'score*'),
    'predictions truncated': ('experiment', 'artifacts/predictions/*/*.de.parquet', truncate, 'prediction*'),
    'predictions deleted': ('experiment', 'artifacts/predictions/*/*.de.parquet', delete, 'prediction*'),
    'notebook truncated': ('experiment', 'artifacts/notebooks/made.ipynb', truncate, 'made*'),
    'notebook deleted': ('stage', 'artifacts/notebooks/made.ipynb', delete, ''),
    'report deleted': ('report', 'reports/tiny/report.ipynb', delete, ''),
    'page truncated': ('report', 'reports/tiny/experiments/page.ipynb', truncate, ''),
    'page deleted': ('report', 'reports/tiny/experiments/page.ipynb', delete, ''),
    'marker truncated': ('report', 'reports/tiny/.report-tiny', truncate, ''),
}


@pytest.mark.parametrize('what', UNDONE)
@pytest.mark.filterwarnings('ignore::xstilts.core.files.DamageWarning')
def test_a_damaged_node_is_not_done(what, store):
    "A node with a damaged result is not done, so the next run computes it again."
    from xstilts.run.engine import is_done
    from xstilts.run.study import Node
    kind, where, damage, moved = UNDONE[what]
    result = next(store.glob(RESULTS[kind]))
    node = Node(kind=kind, key='made', title='made', notebook='', params={}, result=result)
    assert is_done(node)
    damage(next(store.glob(where)))
    assert not is_done(node)
    assert bool(list(store.glob(f'artifacts/damaged/{moved or "[!.]*"}'))) == bool(moved)


STUDY = """study: tiny
report: 60_intermediate_tasks
data: mini
model: random:mini-s
intermediate: none
target: tatoeba
seed: 0
languages: de
"""


@pytest.mark.parametrize('verb, code', [('status', 0), ('logs', 2)])
def test_a_truncated_log_gives_a_warning(verb, code, store, capsys):
    "A node with a truncated log counts as not yet tried, and the log is moved aside."
    from xstilts.cli import main
    from xstilts.run.study import load_study, plan
    (store/'tiny.yaml').write_text(STUDY)
    key = next(iter(plan(load_study(store/'tiny.yaml'))))
    log = store/'artifacts'/'logs'/f'{key}.json'
    log.parent.mkdir()
    log.write_text('{"error": "ValueError: no')
    with pytest.warns(UserWarning, match=f'logs/{key}.json was damaged'):
        assert main([verb, str(store/'tiny.yaml') if verb == 'status' else key]) == code
    assert not log.exists() and 'Traceback' not in capsys.readouterr().err


if __name__ == '__main__': play(Path(sys.argv[1]))
