"""Real data: what the mirror holds comes out in the contract's columns. Needs a mirror (`XSTILTS_MIRROR`, `settings.ini`); skipped where there is none."""
import os
from pathlib import Path

import pytest
from xstilts.config import settings
from xstilts.data import SOURCES, load, source_print, row_print, fingerprint, plain_text
from xstilts.tasks import tasks

pytestmark = pytest.mark.skipif(not settings().mirror.is_dir(), reason='no mirror of real data here: set XSTILTS_MIRROR')
COLUMNS = dict(pair={'text_a', 'text_b', 'label'}, tags={'tokens', 'tags'}, span={'question', 'context', 'question_lang', 'answers'}, retrieval={'text', 'side', 'gold_id'})
# rows as their papers count them, or as the mirror's README does where it lacks some
SIZES = dict(xnli=('test', 'sw', 5010), udpos=('test', 'ja', 2372), panx=('test', 'te', 1000), xquad=('test', 'ru', 1190), tydiqa=('test', 'fi', 782),
    tatoeba=('test', 'ko', 2000), squad_v1=('train', 'en', 87433))


@pytest.fixture(scope='module', autouse=True)
def store(tmp_path_factory):
    os.environ['XSTILTS_ARTIFACTS'] = str(tmp_path_factory.mktemp('store'))
    yield
    del os.environ['XSTILTS_ARTIFACTS']


@pytest.mark.parametrize('task', SIZES)
def test_rows(task):
    "The number of rows, the columns of the task's kind, labels of the table, answers where they are said to be, no id twice."
    split, lang, n = SIZES[task]
    rows = load('mirror', task, split, lang)
    assert len(rows)==n
    assert set(rows[0])=={'id', 'lang', 'cluster', 'split'}|COLUMNS[tasks[task].kind]
    assert {(o['lang'], o['split']) for o in rows}=={(lang, split)}
    assert len({o['id'] for o in rows})==n
    if tasks[task].kind=='pair': assert {o['label'] for o in rows}=={*tasks[task].labels}
    if tasks[task].kind=='tags': assert {t for o in rows for t in o['tags']}<={*tasks[task].labels} and all(len(o['tokens'])==len(o['tags'])>0 for o in rows)
    if tasks[task].kind=='span': assert all(o['context'][s:s+len(t)]==t for o in rows for t, s in zip(o['answers']['text'], o['answers']['start']))
    if tasks[task].kind=='retrieval': assert {o['gold_id'] for o in rows}=={o['id'] for o in rows}


def test_limited_rows_are_the_first():
    "A limit reads a part of the same rows."
    every = load('mirror', 'tydiqa', 'test', 'fi')
    assert load('mirror', 'tydiqa', 'test', 'fi', 7)==every[:7]
    assert row_print('mirror', 'tydiqa', 'test', 'fi', 7)==fingerprint(every[:7])


def test_a_changed_file_is_noticed(tmp_path, monkeypatch):
    "Rows in the store are named after the files they came from."
    folder = tmp_path/Path(SOURCES['xquad'][0].repo)
    folder.mkdir(parents=True)
    (folder/'a.parquet').write_text('one')
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path))
    before = source_print('mirror', 'xquad')
    (folder/'b.parquet').write_text('two')
    from xstilts import data
    data._folder_print.cache_clear()
    assert source_print('mirror', 'xquad')!=before


@pytest.mark.parametrize('task, split', [('mnli', 'train'), ('xquad', 'train')])
def test_what_is_missing_is_named(task, split):
    "No silent part: the task, the split and the origin are in the message."
    with pytest.raises(ValueError, match=task): load('mirror', task, split)


def test_text_of_the_mirror_may_be_published():
    "Sources without the right to derive are left out."
    assert len(plain_text("mirror", "sw", 50))==50
