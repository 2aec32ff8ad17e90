"""Bad input to an experiment gives one clear error before any training, and no work is lost."""
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file
from xstilts.learn.heads import new_encoder
from xstilts.catalog.encoders import model
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.run.scores import run_experiment
from xstilts.core.store import artifact_path
from xstilts.learn.tokenize import train_tokenizer

FEW = dict(target_train_limit=8, target_max_steps=2, eval_limit=4, languages='de')


pytestmark = pytest.mark.usefixtures('store')


@pytest.fixture
def folder(tmp_path):
    "A sound encoder of XLM-R's shape with 64 positions"
    tok = train_tokenizer(['the farmer reads a book', 'no man sleeps'], 60, max_length=512)
    new_encoder(len(tok), layers=1, hidden=16, heads=2, max_length=64).save_pretrained(tmp_path/'sound')
    tok.save_pretrained(tmp_path/'sound')
    return tmp_path/'sound'


def experiment(name, target='xnli', **settings):
    return Experiment(model=str(name), intermediate='none', target=target, seed=0, settings=dict(FEW)|settings)


def refused(words, make):
    "Check that one error has these words and that nothing is left that looks like a result."
    with pytest.raises(ValueError, match=words) as e: run_experiment(make())
    assert '\n' not in str(e.value)
    for folder in ('models', 'predictions', 'scores'):
        assert not [o for o in artifact_path(folder).iterdir() if not o.name.startswith('.')]
    return str(e.value)


def test_the_sound_folder_runs(folder): assert run_experiment(experiment(folder, target_max_length=64)).exists()


def test_a_model_that_is_not_on_the_hub(tmp_path, monkeypatch):
    "The error names the repository as the row does and says what to do, here without a network."
    monkeypatch.setattr('xstilts.core.hub.reachable', lambda: False)
    (tmp_path/'params').mkdir()
    (tmp_path/'params'/'models.yaml').write_text('gone: {path: nobody/no-such-model, layer: 1}\n')
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nlib_name = x\n')
    monkeypatch.chdir(tmp_path)
    said = refused('nobody/no-such-model is not on this machine', lambda: experiment('gone', target_max_length=64))
    assert 'the hub cannot be reached; `xstilts data hub --fetch STUDY`' in said


def test_a_folder_without_weights(folder):
    "A folder without weights is refused."
    (folder/'model.safetensors').unlink()
    refused('no .safetensors file', lambda: experiment(folder))


def test_a_folder_of_half_the_weights(folder):
    "A folder that lacks weights of the encoder is refused."
    w = load_file(folder/'model.safetensors')
    del w[next(k for k in w if 'query.weight' in k)]
    save_file(w, folder/'model.safetensors', metadata=dict(format='pt'))
    refused('the folder lacks weights of the encoder', lambda: experiment(folder, target_max_length=64))


def test_a_tokenizer_of_another_model(folder):
    "A tokenizer that does not fit the weights is refused."
    other = train_tokenizer([f'{a}{b}{c}' for a in 'abcdefgh' for b in 'ijklmnop' for c in 'qrstuv'], 300)
    for o in folder.glob('token*'): o.unlink()
    other.save_pretrained(folder)
    words = 'take the tokenizer that belongs to these weights'
    refused(words, lambda: experiment(folder, target_max_length=64))


def test_inputs_longer_than_the_positions(folder):
    "A max_length beyond the encoder's positions is refused."
    words = 'max_length 128 is longer than the 64 positions of the encoder'
    refused(words, lambda: experiment(folder, target_max_length=128))


def test_sentences_longer_than_the_positions_are_cut(folder, monkeypatch):
    "Retrieval has no max_length, so texts are truncated at the encoder's number of positions."
    import xstilts.run.experiment as s
    long = lambda rows: tuple(o|dict(text=' '.join([o['text']]*40)) for o in rows)
    real = s.test_rows
    monkeypatch.setattr(s, 'test_rows', lambda *a: long(real(*a)))
    assert run_experiment(experiment(folder, 'tatoeba', layer=1)).exists()


def test_a_gpu_where_there_is_none(folder, monkeypatch):
    "`device: cuda` is refused on a machine without a GPU."
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    refused('finds no GPU on this machine; leave `device` out', lambda: experiment(folder, device='cuda'))


def test_more_processes_than_gpus(folder, monkeypatch):
    "More processes than GPUs are refused."
    from xstilts.run.identity import n_devices
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    monkeypatch.setenv('XSTILTS_DEVICES', '4')
    words = 'devices is 4, and this machine has 1 GPU: set at most that in settings.ini or XSTILTS_DEVICES'
    with pytest.raises(ValueError, match=words): n_devices()


def test_an_update_that_does_not_fit_is_cut_with_a_warning(folder, monkeypatch):
    "It is halved as often as needed and gives the weights of the complete update up to rounding, with a flag."
    import torch
    import xstilts.learn.updates as updates
    from xstilts.core.store import read_json
    real = updates.one_update
    def short(acc, net, opt, micro, *a, **kw):
        if max(len(b['input_ids']) for _, b in micro)>3: raise torch.OutOfMemoryError('pretended')
        return real(acc, net, opt, micro, *a, **kw)
    size = dict(target_max_length=64, target_dropout=0., target_lr=1e-3)
    whole = load_file(run_stage(stages_of(experiment(folder, **size))[-1])/'heads.safetensors')
    shutil.rmtree(os.environ['XSTILTS_ARTIFACTS'])
    monkeypatch.setattr(updates, 'one_update', short)
    cut = load_file(run_stage(stages_of(experiment(folder, **size))[-1])/'heads.safetensors')
    assert all(torch.allclose(whole[k], cut[k], atol=1e-5) for k in whole)
    flags = read_json(run_experiment(experiment(folder, **size)))['flags']
    assert any('forward passes: memory' in o for o in flags)


def test_one_example_that_does_not_fit_keeps_the_checkpoint(folder, monkeypatch):
    "If a single example does not fit, the error says what to lower, and a later run resumes from the checkpoint."
    import torch
    import xstilts.learn.updates as updates
    real, seen = updates.one_update, []
    def full(*a, **kw):
        if len(seen)>2: raise torch.OutOfMemoryError('pretended')
        seen.append(1)
        return real(*a, **kw)
    long = experiment(folder, target_max_length=64, target_max_steps=6, target_batch_size=2, target_epochs=9,
        target_checkpoint_steps=1)
    monkeypatch.setattr(updates, 'one_update', full)
    with pytest.raises(ValueError, match='does not fit into memory: lower max_length'): run_experiment(long)
    work = artifact_path('work', stages_of(long)[-1].key)
    assert list(work.rglob('*.safetensors'))
    monkeypatch.setattr(updates, 'one_update', lambda *a, **kw: (seen.append(1), real(*a, **kw))[1])
    assert run_experiment(long).exists() and len(seen)==6


def test_a_name_that_is_markup(tmp_path):
    "A model folder may have any name, and a page displays it as text."
    from xstilts.report.site import sanitise_html
    from xstilts.report.tables import html_table
    import pandas as pd
    named = tmp_path/'<img src=x onerror=alert(1)>'
    new_encoder(9, layers=1, hidden=8, heads=2).save_pretrained(named)
    said = model(str(named)).name
    page = html_table(pd.DataFrame({said: [said]}), title=said, note=said).as_raw_html()
    assert '<img' not in page+sanitise_html(page) and 'onerror' not in sanitise_html(said)
    assert page.count('&lt;img')==sanitise_html(page).count('&lt;img')==4
