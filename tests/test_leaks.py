"""What the miniature gives away: shallow baselines near chance where a task needs both sides and structure; no item twice, nothing shared by splits."""
import os

import pytest
from xstilts.data.load import load
from xstilts.mini.rows import MAKERS, SIZES
from xstilts.mini.grammars import LANGS
from xstilts.data.partial_input import partial_input_summary
from xstilts.catalog.tasks import tasks, train_task

MARGIN = 8.  # points; the standard error of 600 items is 2


@pytest.fixture(scope='module', autouse=True)
def store(tmp_path_factory):
    os.environ['XSTILTS_ARTIFACTS'] = str(tmp_path_factory.mktemp('store'))
    yield
    del os.environ['XSTILTS_ARTIFACTS']


@pytest.mark.parametrize('task', ['xnli', 'pawsx', 'qqp', 'xcopa', 'hellaswag', 'csqa', 'cosmosqa'])
def test_shallow_baselines_are_near_chance(task):
    got = partial_input_summary(task, 1500)
    assert all(v<got['chance']+MARGIN for v in got.values()), got


def test_a_balanced_set_gives_little_away_to_one_like_it():
    got = partial_input_summary('xnli', 1002, 'test')
    assert all(v<got['chance']+MARGIN for v in got.values()), got


@pytest.mark.parametrize('task', [o for o in MAKERS if o not in ('text', 'ccg')])
def test_no_item_twice_and_none_shared(task):
    "Within a split no row is repeated; between splits none is shared; in English and in a language far from it."
    def items(split, lang, n=300):
        rows = load('mini', task, split, lang, n)
        return [str({k: v for k, v in o.items() if k not in ('id', 'cluster', 'split', 'gold_id', 'label', 'answers', 'tags')}) for o in rows]
    for lang in ('en', 'hi'):
        sets = {o: items(o, lang) for o in SIZES[task]}
        train = train_task(task)
        if train!=task and train in MAKERS: sets['train'] = [str({k: v for k, v in o.items() if k not in ('id', 'cluster', 'split', 'label', 'answers')}) for o in load('mini', train, 'train', lang, 300)]
        for o, rows in sets.items():
            if tasks[task].kind not in ('choice',): assert len(set(rows))>=.99*len(rows), (task, o, lang)
        for a in sets:
            for b in sets:
                if a<b and (a, b)!=('plain', 'test'): assert not {*sets[a]}&{*sets[b]}, (task, a, b, lang)


@pytest.mark.parametrize('lang', LANGS)
def test_answers_are_in_their_contexts(lang):
    for task in ('xquad', 'mlqa', 'tydiqa'):
        for o in load('mini', task, 'test', lang, 200):
            for t, s in zip(o['answers']['text'], o['answers']['start']): assert o['context'][s:s+len(t)]==t, o


def test_the_world_is_a_pure_function_of_its_seed():
    "Not of the order in which a process happens to keep strings."
    import subprocess
    import sys
    code = ("import hashlib; from xstilts.mini.rows import rows; "
            "print(hashlib.md5(repr([rows(o, 'dev', 'tr', limit=240) for o in ('xnli', 'pawsx', 'qqp', 'squad_v2', 'csqa', 'cosmosqa', 'hellaswag', 'xcopa', 'panx', 'stsb')]).encode()).hexdigest())")
    said = {subprocess.run([sys.executable, '-c', code], env=os.environ|{'PYTHONHASHSEED': o}, capture_output=True, text=True, check=True).stdout for o in ('1', '2')}
    assert len(said)==1
