"""Model folders: keys depend on content, unsafe folders are refused before loading, and the hub may be unreachable."""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace

import pytest
from xstilts.learn.heads import backbone, new_encoder, tokenizer
from xstilts.core.hub import content_fingerprint
from xstilts.catalog.encoders import Model
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.predictions import prediction_key
from xstilts.run.scores import score_key
from xstilts.learn.tokenize import train_tokenizer

FEW = dict(intermediate_train_limit=8, target_train_limit=8, eval_limit=4, languages='de', target_max_length=64)


pytestmark = pytest.mark.usefixtures('store')


@pytest.fixture
def folder(tmp_path):
    tok = train_tokenizer(['the farmer reads a book', 'no man sleeps'], 60, max_length=512)
    new_encoder(len(tok), layers=1, hidden=16, heads=2, max_length=64).save_pretrained(tmp_path/'sound')
    tok.save_pretrained(tmp_path/'sound')
    return tmp_path/'sound'


def experiment(name, intermediate='mnli', target='xnli', **settings):
    return Experiment(model=str(name), intermediate=intermediate, target=target, seed=0, settings=dict(FEW)|settings)


def keys(name, **kw):
    made = experiment(name, **kw)
    return [*(o.key for o in stages_of(made)), prediction_key(made), score_key(made)]


def changed(folder, name, **values):
    "Set some values of a JSON file in a model folder"
    file = folder/name
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found|values))


# Keys

def test_a_folder_that_is_moved_copied_and_touched_keeps_its_keys(folder, tmp_path, monkeypatch):
    "Moving, copying and touching a model folder does not change its keys."
    before = keys(folder)
    random = keys(f'random:{folder}')
    copy = shutil.copytree(folder, tmp_path/'a much longer name'/'copy')
    for o in copy.iterdir(): os.utime(o, (1, 1))
    (copy/'notes.md').write_text('mine')
    moved = shutil.move(folder, tmp_path/'moved')
    monkeypatch.chdir(tmp_path)
    assert keys(copy)==keys(moved)==keys('./moved')==before
    assert keys(f'random:{copy}')==random!=before
    assert not any('sound' in o or 'tmp' in o for o in before), before
    assert all('-xlm-roberta-' in o for o in before), before


FILES = ('model.safetensors', 'config.json', 'tokenizer.json', 'sentencepiece.bpe.model', 'vocab.txt')


@pytest.mark.parametrize('name', FILES)
def test_a_changed_byte_changes_the_keys(name, folder, tmp_path):
    "One changed byte in a model folder changes the keys."
    before = keys(folder)
    other = shutil.copytree(folder, tmp_path/'other')
    data = (other/name).read_bytes() if (other/name).exists() else b''
    (other/name).write_bytes(data.replace(b'{', b'{ ', 1) if name.endswith('.json') else data[:-1]+b'!')
    assert not set(keys(other))&set(before)


def test_the_hub_id_of_a_listed_model_gives_the_same_keys():
    "A model has the same keys by its name in the table and by its hub id."
    assert keys('FacebookAI/xlm-roberta-base')==keys('xlmr-base')


def test_spaces_before_words_change_the_keys_of_tagging_only(monkeypatch):
    "The rule for spaces before words changes keys of tagging only, in families whose tokens begin with the space."
    tagged = keys('mmbert-base', target='udpos', intermediate='none')
    pairs = keys('mmbert-base', intermediate='none')
    from xstilts.catalog.families import families
    from xstilts.run.stages import stage_key
    unspaced = {**families, 'modernbert': replace(families['modernbert'], spaces=False)}
    monkeypatch.setattr('xstilts.catalog.families.families', unspaced)
    stage_key.cache_clear()
    assert not set(tagged)&set(keys('mmbert-base', target='udpos', intermediate='none'))
    assert pairs==keys('mmbert-base', intermediate='none')
    stage_key.cache_clear()


def test_hashing_does_not_load_the_weights(tmp_path):
    "A folder is hashed without loading its weights into memory."
    with open(tmp_path/'model.safetensors', 'wb') as f: f.truncate(200*2**20)
    tracemalloc.start()
    content_fingerprint(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak<8*2**20, peak


def test_a_folder_of_links_as_in_the_cache_of_the_hub(folder, tmp_path):
    "A snapshot of links into blobs has the keys of its files and can be loaded."
    blobs = tmp_path/'models--a--b'/'blobs'
    snapshot = tmp_path/'models--a--b'/'snapshots'/'0123'
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, o in enumerate(sorted(folder.iterdir())):
        shutil.copy(o, blobs/f'{i}')
        (snapshot/o.name).symlink_to(f'../../blobs/{i}')
    assert keys(snapshot)==keys(folder)
    assert backbone(str(snapshot)).config.hidden_size==16 and len(tokenizer(str(snapshot)))


# Folders that are refused when an experiment is created, before it is planned and before anything is loaded

def code(folder):
    changed(folder, 'config.json', model_type='mine', auto_map=dict(AutoConfig='mine.Config', AutoModel='mine.Model'))


def tokenizer_code(folder):
    changed(folder, 'tokenizer_config.json', auto_map=dict(AutoTokenizer=['mine.Tokenizer', None]))


def index(folder, name): changed(folder, 'model.safetensors.index.json', metadata={}, weight_map=dict(a=name))
def weights_elsewhere(folder): index(folder, '../other/model.safetensors')
def absolute_weights(folder): index(folder, '/other/model.safetensors')
def lost_weights(folder): index(folder, 'model-2.safetensors')
def adapter(folder): changed(folder, 'adapter_config.json', base_model_name_or_path='somebody/else')
def device(folder): (folder/'vocab.txt').symlink_to('/dev/zero')
def dead_link(folder): (folder/'vocab.txt').symlink_to('nowhere')
def folder_for_file(folder): (folder/'vocab.txt').mkdir()
def not_an_object(folder): (folder/'config.json').write_text('[]')


def pipe(folder):
    (folder/'config.json').unlink()
    os.mkfifo(folder/'config.json')


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket has about a hundred characters
        s.bind('vocab.txt')
        os.chdir(here)


BAD = {
    code: 'config.json names Python code',
    tokenizer_code: 'tokenizer_config.json names Python code',
    adapter: 'this is an adapter of another model',
    weights_elsewhere: 'names weights in another folder',
    absolute_weights: 'names weights in another folder',
    lost_weights: 'names model-2.safetensors, which does not exist',
    device: 'vocab.txt is a device',
    dead_link: 'vocab.txt is a broken link',
    folder_for_file: 'vocab.txt is a folder',
    pipe: 'config.json is a named pipe',
    unix_socket: 'vocab.txt is a socket',
    not_an_object: 'config.json contains no JSON object'}


def function_name(function): return function.__name__


@pytest.mark.parametrize('spoil', BAD, ids=function_name)
def test_a_refused_folder(spoil, folder, monkeypatch):
    "An unsafe folder is refused in one sentence without a prompt, also by a row of models.yaml and when it is loaded."
    (folder/'mine.py').write_text('raise SystemExit("the code of the folder was run")')
    spoil(folder)
    def prompt(*_): raise AssertionError('a prompt was shown')
    def own_models(*_): return dict(ours=Model(name='ours', path=str(folder)))
    monkeypatch.setattr('builtins.input', prompt)
    monkeypatch.setattr('xstilts.catalog.encoders.own_models', own_models)
    for attempt, name in ((keys, folder), (keys, 'ours'), (backbone, str(folder)), (tokenizer, str(folder))):
        with pytest.raises(ValueError, match=BAD[spoil]) as e: attempt(name)
        assert '\n' not in str(e.value)


# The hub without a network

def offline(home, code, *args):
    "Run Python code without access to the hub: the finished process and its seconds"
    env = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'TRANSFORMERS_'))}
    env |= dict(HF_HOME=str(home), HF_ENDPOINT='http://127.0.0.1:9', OMP_NUM_THREADS='1')
    began = time.monotonic()
    res = subprocess.run([sys.executable, '-c', code, *args], env=env, capture_output=True, text=True, timeout=120)
    return res, time.monotonic()-began


def study(tmp_path, data, model):
    file = tmp_path/'mine.yaml'
    rest = 'report: 60_intermediate_tasks\nintermediate: [none]\ntarget: xnli\nseed: 0\n'
    file.write_text(f'study: mine\ndata: {data}\nmodel: {model}\n{rest}')
    return str(file)


PLANS = [('mini', 'somebody/encoder', "model 'somebody/encoder' is neither a row of the table nor a folder"),
    ('hub', 'xlmr-base', 'is not on this machine')]


@pytest.mark.parametrize('data, model, words', PLANS)
def test_a_plan_without_a_network_fails_at_once(data, model, words, tmp_path):
    "Without a network, a plan that needs the hub fails at once."
    main = 'from xstilts.cli import main; raise SystemExit(main())'
    res, seconds = offline(tmp_path, main, 'plan', study(tmp_path, data, model))
    assert res.returncode==2 and words in res.stderr, res
    assert 'the hub cannot be reached; `xstilts data hub --fetch STUDY`' in res.stderr
    assert 'Traceback' not in res.stderr and 'Retrying' not in res.stderr
    assert seconds<45, seconds


def test_fetched_data_are_read_without_a_network(tmp_path):
    "A snapshot of a data set in the hub's cache is read without a network."
    import pyarrow as pa
    import pyarrow.parquet as pq
    repo = tmp_path/'hub'/'datasets--aps--super_glue'
    snapshot = repo/'snapshots'/('0'*40)
    (snapshot/'copa').mkdir(parents=True)
    (repo/'refs').mkdir()
    (repo/'refs'/'main').write_text('0'*40)
    configs = 'configs:\n- config_name: copa\n  data_files:\n  - split: train\n    path: copa/train-*\n'
    (snapshot/'README.md').write_text(f'---\n{configs}---\n')
    row = dict(premise='It rained.', choice1='I got wet.', choice2='I ate.', question='effect', idx=0, label=0)
    pq.write_table(pa.Table.from_pylist([row]), snapshot/'copa'/'train-0.parquet')
    res, _ = offline(tmp_path, "from xstilts.data.load import load; print(load('hub', 'copa', 'train')[0]['choices'])")
    assert res.stdout.strip()=="['I got wet.', 'I ate.']", res.stderr[-2000:]
