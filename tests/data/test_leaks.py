"""Leaks of the miniature: partial-input baselines are near chance, no item is repeated, and splits are disjoint."""
import os

import pytest
from xstilts.data.load import load
from xstilts.mini.rows import MAKERS, SIZES
from xstilts.mini.grammars import LANGS
from xstilts.data.partial_input import partial_input_summary
from xstilts.catalog.tasks import tasks, train_task

pytestmark = pytest.mark.usefixtures('module_store')
MARGIN = 8.  # points; the standard error of 600 items is 2


@pytest.mark.parametrize('task', ['xnli', 'pawsx', 'qqp', 'xcopa', 'hellaswag', 'csqa', 'cosmosqa'])
def test_partial_input_baselines_are_near_chance(task):
    "Baselines that see only part of the input are at chance within a margin."
    got = partial_input_summary(task, 1500)
    assert all(v<got['chance']+MARGIN for v in got.values()), got


def test_balanced_set_leaks_little_to_another_one():
    "Baselines trained on the balanced test rows of XNLI are near chance on its development rows."
    got = partial_input_summary('xnli', 1002, 'test')
    assert all(v<got['chance']+MARGIN for v in got.values()), got


@pytest.mark.parametrize('task', [o for o in MAKERS if o not in ('text', 'ccg')])
def test_no_item_twice_and_none_shared(task):
    "No row is repeated within a split or shared between splits, in English and in a distant language."
    ignored = ('id', 'cluster', 'split', 'gold_id', 'label', 'answers', 'tags')
    def items(task, split, lang, n=300):
        return [str({k: v for k, v in o.items() if k not in ignored}) for o in load('mini', task, split, lang, n)]
    for lang in ('en', 'hi'):
        sets = {o: items(task, o, lang) for o in SIZES[task]}
        train = train_task(task)
        if train!=task and train in MAKERS: sets['train'] = items(train, 'train', lang)
        for o, rows in sets.items():
            if tasks[task].kind!='choice': assert len(set(rows))>=.99*len(rows), (task, o, lang)
        for a in sets:
            for b in sets:
                if a<b and (a, b)!=('plain', 'test'): assert not {*sets[a]}&{*sets[b]}, (task, a, b, lang)


@pytest.mark.parametrize('lang', LANGS)
def test_answers_are_in_their_contexts(lang):
    "Every answer occurs at its offset in the context."
    for task in ('xquad', 'mlqa', 'tydiqa'):
        for o in load('mini', task, 'test', lang, 200):
            for text, start in zip(o['answers']['text'], o['answers']['start']):
                assert o['context'][start:start+len(text)]==text, o


def test_the_world_is_a_pure_function_of_its_seed():
    "The rows do not depend on the order in which a process hashes strings."
    import subprocess
    import sys
    code = """
import hashlib
from xstilts.mini.rows import rows

tasks = ('xnli', 'pawsx', 'qqp', 'squad_v2', 'csqa', 'cosmosqa', 'hellaswag', 'xcopa', 'panx', 'stsb')
print(hashlib.md5(repr([rows(o, 'dev', 'tr', limit=240) for o in tasks]).encode()).hexdigest())"""
    def digest(seed):
        env = os.environ|{'PYTHONHASHSEED': seed}
        return subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    assert digest('1')==digest('2')
