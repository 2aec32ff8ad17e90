"""A new kind of task or model family takes one row in the catalog and one module; a copy of the package trains both."""
import os
import shutil
import subprocess
import sys
from filecmp import dircmp
from pathlib import Path

import pytest
from xstilts.catalog.families import families
from xstilts.catalog.kinds import kinds, resolve

ROOT = Path(__file__).parents[2]
ENTRIES = [e for o in kinds.values() for e in (o.check, o.encode, o.head, o.loss, o.chance_loss, o.read, o.decode) if e]
ENTRIES += [o.encoder for o in families.values()]

# the new kind: a text may have any number of labels, each with its own loss
KIND_ROW = """
    Kind(name='multilabel', columns=('text','labels'), one_vector=True, encode='learn.multilabel:encode',
         loss='learn.multilabel:loss', chance_loss='learn.multilabel:chance', decode='learn.multilabel:decode'),"""
KIND_MODULE = '''
"""Several labels per text, each with a sigmoid"""
import math
import numpy as np
import torch
from .tokenize import encode_plain


def encode(tok, rows, task, max_length, reset=False):
    res = encode_plain(tok, rows, task, max_length)
    res.y['targets'] = np.array([[o in r['labels'] for o in task.labels] for r in rows], np.float32)
    return res


def loss(logits, b):
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), b['targets'], reduction='none')
    return each.mean(-1).sum(), torch.tensor(len(logits))


def chance(enc, negatives=0): return math.log(2)


def decode(task, rows, enc, outs):
    chosen = [[l for l, x in zip(task.labels, o) if x > 0] for o in outs[0].tolist()]
    return [dict(gold=r['labels'], pred=p, prob=[]) for r, p in zip(rows, chosen)]
'''
# the new family: DistilBERT, which takes position ids and names its dropouts differently
FAMILY_ROW = """
    Family(name='distilbert', groups=('distilbert',), like='mbert', encoder='learn.distilbert:encoder_class',
           positions=True, dropouts=('dropout','attention_dropout')),"""
FAMILY_MODULE = '''
"""DistilBERT's encoder"""


def encoder_class(cfg):
    from transformers import DistilBertModel
    assert cfg.model_type == 'distilbert'

    class Encoder(DistilBertModel):
        seen = []
        @classmethod
        def from_config(cls, cfg, **kw): return cls(cfg)
        def forward(self, **kw):
            self.seen.append(sorted(kw))
            return super().forward(**kw)
    return Encoder
'''
LEARNS = '''
from pathlib import Path
import torch
from xstilts.catalog.tasks import Task
from xstilts.data.columns import mistyped
from xstilts.evaluate.predict import predict
from xstilts.learn.heads import Net, backbone, first_position, tokenizer
from xstilts.learn.recipe import Recipe
from xstilts.learn.tokenize import encode
from xstilts.learn.train import TaskFeed, chance_loss, train
from xstilts.mini.rows import rows


def learn(encoder, tok, task, data, steps, work):
    "What a task's training logs, and what its head predicts afterwards"
    torch.manual_seed(0)
    net = Net(encoder, [task])
    enc = encode(tok, data, task, 64)
    recipe = Recipe(lr=3e-3, max_steps=steps, epochs=steps, batch_size=16, dropout=0., warmup=0.)
    feed = TaskFeed({task.name: enc}, recipe, 0, tok.pad_token_id, first_position(encoder))
    log = train(net, feed, recipe, 0, work, log_every=1, chance=chance_loss(task.kind, enc))
    return net, [o['loss'] for o in log], predict(net, tok, task, data, enc=enc)
'''
LEARNS_KIND = LEARNS+'''
task = Task(name='articles', kind='multilabel', metric='accuracy', category='other', langs=('en',), labels=('the', 'a'),
            paper='this test')


def row(o):
    "A sentence and the articles in it"
    return dict(o, text=o['text_a'], labels=[l for l in task.labels if l in o['text_a'].lower().split()])


data = [row(o) for o in rows('mnli', 'dev')[:32]]
assert not mistyped(data[0], task.kind, ('text',))
folder = 'xstilts/assets/mini-s-encoder'
_, losses, predicted = learn(backbone(folder), tokenizer(folder), task, data, 20, Path('work'))
assert losses[-1] < losses[0], losses
assert set(predicted[0]) == {'id', 'lang', 'cluster', 'gold', 'pred', 'prob'}
right = sum(o['gold'] == o['pred'] for o in predicted)
assert right > len(predicted)//2, right
'''
LEARNS_FAMILY = LEARNS+'''
from transformers import DistilBertConfig, DistilBertModel
from xstilts.catalog.encoders import model, models
from xstilts.catalog.tasks import tasks
tok = tokenizer('xstilts/assets/mini-s-encoder')
shape = dict(dim=32, hidden_dim=64, n_layers=2, n_heads=2)
config = DistilBertConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **shape)
torch.manual_seed(0)
DistilBertModel(config).save_pretrained('toy')
assert model('./toy').lr == models['mbert'].lr
encoder = backbone('toy', dropout=.25)
assert encoder.config.dropout == encoder.config.attention_dropout == .25
net, losses, predicted = learn(encoder, tok, tasks['mnli'], rows('mnli', 'dev')[:16], 30, Path('work'))
assert losses[-1] < losses[0], losses
assert {o['pred'] for o in predicted} <= {*tasks['mnli'].labels}
assert {*map(tuple, encoder.seen)} == {('attention_mask', 'input_ids', 'position_ids')}, encoder.seen
assert net.encoder is encoder
'''


@pytest.fixture
def copy(tmp_path):
    "The package alone, in a separate folder"
    shutil.copytree(ROOT/'xstilts', tmp_path/'xstilts', ignore=shutil.ignore_patterns('__pycache__'))
    for o in ('settings.ini', 'pyproject.toml'): shutil.copy(ROOT/o, tmp_path)
    return tmp_path


def insert(path, table, row):
    "Insert one row at the head of a table"
    text = path.read_text()
    assert text.count(table)==1
    path.write_text(text.replace(table, table+row))


def run(copy, script):
    "Run a script in the copy, without the checkout on its path"
    env = {k: v for k, v in os.environ.items() if not k.startswith('XSTILTS_')}
    env |= dict(PYTHONPATH=str(copy), XSTILTS_ARTIFACTS=str(copy/'store'))
    (copy/'script.py').write_text(script)
    done = subprocess.run([sys.executable, 'script.py'], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode==0, done.stderr[-3000:]


def touched(copy):
    "The modules of the copy that are new or differ from the checkout"
    def below(cmp, at=''):
        res = {at+o for o in (*cmp.left_only, *cmp.right_only, *cmp.diff_files, *cmp.funny_files)}
        for name, sub in cmp.subdirs.items(): res |= below(sub, f'{at}{name}/')
        return res
    return below(dircmp(ROOT/'xstilts', copy/'xstilts', ignore=['__pycache__']))


def added(copy, path):
    "The lines that a file of the copy has in addition to the checkout's; no line of the checkout may be missing"
    old, new = ((o/'xstilts'/path).read_text().splitlines() for o in (ROOT, copy))
    at = next(i for i, (a, b) in enumerate(zip(old, new)) if a!=b)
    n = len(new)-len(old)
    assert new[:at]+new[at+n:]==old
    return '\n'.join(new[at:at+n])


def test_a_new_kind_is_a_row_and_a_module(copy):
    "A new kind of task trains and scores with one row and one module added."
    insert(copy/'xstilts/catalog/kinds.py', 'kinds = table(', KIND_ROW)
    (copy/'xstilts/learn/multilabel.py').write_text(KIND_MODULE)
    run(copy, LEARNS_KIND)
    assert touched(copy)=={'catalog/kinds.py', 'learn/multilabel.py'}
    assert added(copy, 'catalog/kinds.py')==KIND_ROW.strip('\n')


def test_a_new_family_is_a_row_and_a_module(copy):
    "A new model family trains with one row and one module added."
    insert(copy/'xstilts/catalog/families.py', 'families = table(', FAMILY_ROW)
    (copy/'xstilts/learn/distilbert.py').write_text(FAMILY_MODULE)
    run(copy, LEARNS_FAMILY)
    assert touched(copy)=={'catalog/families.py', 'learn/distilbert.py'}
    assert added(copy, 'catalog/families.py')==FAMILY_ROW.strip('\n')


@pytest.mark.parametrize('entry', dict.fromkeys(ENTRIES))
def test_every_entry_point_exists(entry): assert callable(resolve(entry))


def test_rows_name_kinds_and_models_that_exist():
    "Families name kinds and models that exist, and models name existing families."
    from xstilts.catalog.encoders import models
    assert {k for o in families.values() for k in (*o.exports, *o.in_decoder)}<={*kinds}
    assert {o.like for o in families.values()}<={'', *models}
    assert all(o.architecture.name in families for o in models.values())
