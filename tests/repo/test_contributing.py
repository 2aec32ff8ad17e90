"""The recipes of CONTRIBUTING.md, applied to a copy of the package: what they add works, and no other file changes."""
import os
import re
import shutil
import subprocess
import sys
from filecmp import dircmp
from pathlib import Path

import nbformat
import pytest

root = Path(__file__).parents[2]
text = (root/'CONTRIBUTING.md').read_text(encoding='utf-8')
RECIPES = dict(re.findall(r'^## (\d)\. .*\n((?:(?!^## ).*\n)*)', text, re.M))
BLOCK = re.compile(r'\*\*((?:nbs|params)/[\w/]+\.\w+)\*\*, (new|after `[^`]*`)\n```\w+\n(.*?)```', re.S)
COPIED = ('xstilts', 'nbs/templates', 'nbs/studies', 'params', 'settings.ini', 'pyproject.toml')

CHECKS = {}
CHECKS['1'] = '''
import json
from pathlib import Path
from xstilts.data.load import load
from xstilts.run.intermediate import parse_intermediate
from xstilts.catalog.trainings import Recipe
from xstilts.run.stages import Stage
from xstilts.run.training import train_stage
folder = Path('mirror/nyu-mll/glue')
folder.mkdir(parents=True)
rows = [dict(sentence1=f'Anna saw {n} cats.', sentence2='Anna saw cats.', label='entailment') for n in range(8)]
(folder/'train.jsonl').write_text('\\n'.join(map(json.dumps, rows)))
files = '- config_name: rte\\n  data_files:\\n  - split: train\\n    path: train.jsonl\\n'
(folder/'README.md').write_text(f'---\\nconfigs:\\n{files}---\\n')
assert len(load('mirror', 'rte', 'train'))==8
assert parse_intermediate('rte+mnli..mt(rte,de)').tasks==('rte', 'mnli', 'rte')
recipe = Recipe(max_length=64, max_steps=2, batch_size=4)
stage = Stage(kind='intermediate', model='mini-s', tasks=('rte',), data='mirror', recipe=recipe)
_, _, log = train_stage(stage, Path('work'))
assert log[-1]['step']==2
'''
LEARN = '''
from pathlib import Path
import torch
from xstilts.catalog.tasks import Task, tasks
from xstilts.data.columns import mistyped
from xstilts.evaluate.predict import predict
from xstilts.learn.heads import Net, backbone, first_position, tokenizer
from xstilts.learn.recipe import Recipe
from xstilts.learn.tokenize import encode
from xstilts.learn.feeds import TaskFeed
from xstilts.learn.train import chance_loss, train
from xstilts.mini.rows import rows


def learn(encoder, tok, task, data, steps):
    "The losses of a training, and what its head predicts afterwards"
    torch.manual_seed(0)
    net = Net(encoder, [task])
    enc = encode(tok, data, task, 64)
    recipe = Recipe(lr=3e-3, max_steps=steps, epochs=steps, batch_size=16, dropout=0., warmup=0.)
    feed = TaskFeed({task.name: enc}, recipe, 0, tok.pad_token_id, first_position(encoder))
    log = train(net, feed, recipe, 0, Path('work'), log_every=1, chance=chance_loss(task.kind, enc))
    return [o['loss'] for o in log], predict(net, tok, task, data, enc=enc)
'''
CHECKS['2'] = LEARN+'''
task = Task(name='articles', kind='multilabel', metric='accuracy', category='other', langs=('en',), labels=('the', 'a'),
            paper='this test')


def row(o):
    "A sentence and the articles in it"
    return dict(o, text=o['text_a'], labels=[l for l in task.labels if l in o['text_a'].lower().split()])


data = [row(o) for o in rows('mnli', 'dev')[:32]]
assert not mistyped(data[0], task.kind, ('text',))
folder = 'xstilts/assets/mini-s-encoder'
losses, predicted = learn(backbone(folder), tokenizer(folder), task, data, 20)
assert losses[-1]<losses[0], losses
assert sum(o['gold']==o['pred'] for o in predicted)>len(predicted)//2
'''
CHECKS['3'] = '''
from xstilts.catalog.encoders import model
from xstilts.run.experiment import Experiment, layer_of
from xstilts.run.stages import stages_of
assert model('facebook/xlm-v-base').name=='facebook/xlm-v-base' and model('xlmv-base').layer==8
common = dict(model='xlmv-base', intermediate='none', seed=0, data='hub')
assert layer_of(Experiment(target='tatoeba', **common))==8
assert stages_of(Experiment(target='xnli', **common))[0].recipe.lr==2e-5
'''
CHECKS['4'] = LEARN+'''
from transformers import DistilBertConfig, DistilBertModel
from xstilts.catalog.encoders import model, models
tok = tokenizer('xstilts/assets/mini-s-encoder')
shape = dict(dim=32, hidden_dim=64, n_layers=2, n_heads=2)
torch.manual_seed(0)
DistilBertModel(DistilBertConfig(vocab_size=len(tok), pad_token_id=tok.pad_token_id, **shape)).save_pretrained('toy')
assert model('./toy').lr==models['mbert'].lr
encoder = backbone('toy', dropout=.25)
assert encoder.config.dropout==encoder.config.attention_dropout==.25
losses, predicted = learn(encoder, tok, tasks['mnli'], rows('mnli', 'dev')[:16], 30)
assert losses[-1]<losses[0], losses
assert {o['pred'] for o in predicted}<={*tasks['mnli'].labels}
assert {*map(tuple, encoder.seen)}=={('attention_mask', 'input_ids', 'position_ids')}, encoder.seen
'''
STUDY = '''
study: few
report: 60_intermediate_tasks
data: mini
model: mini-s
intermediate: [none, mnli]
target: udpos
seed: [0, 1]
eval_limit: 20
intermediate_train_limit: 16
target_train_limit: 32
'''
CHECKS['5'] = f'''
from pathlib import Path
from xstilts.report.results import collect_results
from xstilts.report.tables import main_table
from xstilts.run.scores import run_experiment
from xstilts.run.study import experiments, floors, load_study
Path('params/few.yaml').write_text("""{STUDY}""")
st = load_study('params/few.yaml')
for o in (*experiments(st), *floors(st)): run_experiment(o)
table = main_table(collect_results(st))
assert set(table.columns)>=set(('mean gain', 'largest gain')), table.columns
assert table['largest gain'].iloc[-1].startswith('udpos ') and table['largest gain'].iloc[0]==''
'''
CHECKS['6'] = '''
from pathlib import Path
from xstilts.cli import main
assert main(['run', 'spread', '--jobs', '1']) in (None, 0)
report = Path('reports/spread/report.ipynb').read_text()
assert 'points between the best and the worst seed' in report
'''


@pytest.fixture
def copy(tmp_path):
    "The package in a folder of its own"
    for o in COPIED:
        (tmp_path/o).parent.mkdir(exist_ok=True)
        if (root/o).is_dir(): shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('__pycache__', '.*'))
        else: shutil.copy(root/o, tmp_path/o)
    return tmp_path


def module_of(path):
    "The exported file of a library notebook; other files stand for themselves"
    package, name = Path(path).parts[1], re.sub(r'^\d+_', '', Path(path).stem)
    exported = path.startswith('nbs/') and package not in ('studies', 'templates')
    return f'xstilts/{package}/{name}.py' if exported else path


def notebook(source):
    "A notebook from cells with `# %%` before each"
    cells = []
    for kind, body in re.findall(r'^# %% ?(\w*)\n(.*?)(?=^# %%|\Z)', source, re.S|re.M):
        make = nbformat.v4.new_markdown_cell if kind=='markdown' else nbformat.v4.new_code_cell
        cells.append(make(body.strip('\n'), metadata=dict(tags=['parameters']) if kind=='parameters' else {}))
    kernel = dict(display_name='python3', language='python', name='python3')
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel)))


def apply(copy, path, place, source):
    "Puts a block where it goes; the file"
    target = copy/module_of(path)
    if place=='new':
        assert not target.exists(), path
        target.write_text(notebook(source) if path.startswith('nbs/studies/') else source)
    else:
        line = place.removeprefix('after `').removesuffix('`')+'\n'
        code = target.read_text()
        assert code.count(line)==1, (path, line)
        target.write_text(code.replace(line, line+source))
    return module_of(path)


def changed(copy):
    "The files of the copy that are new or differ"
    def below(cmp, at):
        res = {at+o for o in (*cmp.right_only, *cmp.diff_files, *cmp.funny_files)}
        for name, sub in cmp.subdirs.items(): res |= below(sub, f'{at}{name}/')
        return res
    ignored = ['__pycache__', '.ipynb_checkpoints']
    folders = [o for o in COPIED if (root/o).is_dir()]
    return {x for o in folders for x in below(dircmp(root/o, copy/o, ignore=ignored), f'{o}/')}


def test_there_are_seven_recipes(): assert list(RECIPES)==[*'1234567']


@pytest.mark.parametrize('number', CHECKS)
def test_recipe(copy, number):
    files = {apply(copy, *block) for block in BLOCK.findall(RECIPES[number])}
    assert files and changed(copy)==files
    env = {k: v for k, v in os.environ.items() if not k.startswith('XSTILTS_')}
    env |= dict(PYTHONPATH=str(copy), OMP_NUM_THREADS='1', XSTILTS_MIRROR=str(copy/'mirror'))
    env |= dict(XSTILTS_ARTIFACTS=str(copy/'artifacts'), XSTILTS_REPORTS=str(copy/'reports'))
    (copy/'check.py').write_text(CHECKS[number])
    done = subprocess.run([sys.executable, 'check.py'], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode==0, done.stderr[-3000:]
