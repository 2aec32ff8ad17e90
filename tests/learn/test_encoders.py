"""The encoders that ship with the package: small, safe, carded, and of the shape their recipes say."""
import json
from importlib.resources import files

import pytest
from xstilts.catalog.encoders import model, own_models
from xstilts.learn.mlm import Shape, pretrain
from xstilts.run.experiment import Experiment
from xstilts.run.stages import pretraining
from xstilts.run.training import load_encoder
from xstilts.catalog.trainings import Recipe

SHIPPED = ('mini', 'mini-s')
folder = lambda name: files('xstilts').joinpath('assets', f'{name}-encoder')


def test_all_together_are_small():
    assert sum(o.stat().st_size for name in SHIPPED for o in folder(name).iterdir())<8*2**20
    files = {'README.md', 'config.json', 'log.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'}
    assert {o.name for name in SHIPPED for o in folder(name).iterdir()}==files


@pytest.mark.parametrize('name', SHIPPED)
def test_card_and_recipe_agree(name):
    "Shape, vocabulary and languages are those of the row in models.yaml; the card states the bilingual supervision."
    card = folder(name).joinpath('README.md').read_text()
    assert 'Bilingual supervision: yes' in card and f'`{name}-remade`' in card and 'Licence' in card
    row = own_models()[f'{name}-remade']
    s = pretraining(Experiment(model=f'{name}-remade', intermediate='none', target='tatoeba', seed=0))
    encoder, tok = load_encoder(None, name)
    c = encoder.config
    assert (c.num_hidden_layers, c.hidden_size, c.num_attention_heads)==(s.shape.layers, s.shape.hidden, s.shape.heads)
    assert len(tok)<=s.shape.vocab
    assert (row.langs, row.layer, row.lr)==(model(name).langs, model(name).layer, model(name).lr)
    log = json.loads(folder(name).joinpath('log.json').read_text())
    assert log[-1]['step']==s.recipe.max_steps and log[-1]['loss']<log[0]['loss']/2


def test_the_recipe_trains(tmp_path):
    "The recipe of mini-s on little text for a few updates."
    s = pretraining(Experiment(model='mini-s-remade', intermediate='none', target='tatoeba', seed=0))
    shape = Shape(**{k: getattr(s.shape, k) for k in Shape.__dataclass_fields__}|dict(documents=40, vocab=800))
    _, _, log = pretrain(shape, Recipe(lr=s.recipe.lr, max_steps=60, dropout=0., max_length=128, warmup=.3), tmp_path)
    assert log[-1]['loss']<log[0]['loss']-.3
