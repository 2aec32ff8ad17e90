"""Real data: what the mirror holds comes out in the contract's columns. Needs a mirror (`XSTILTS_MIRROR`, `settings.ini`); skipped where there is none."""
import os
from pathlib import Path

import pytest
from xstilts.config import settings
from xstilts.data import fingerprint, langs, left_out, load, overlap, row_print, source_print, test_rows as rows_of_test
from xstilts.sources import SOURCES, plain_text
from xstilts.tasks import COLUMNS as TASK_COLUMNS, tasks

pytestmark = pytest.mark.skipif(not settings().mirror.is_dir(), reason='no mirror of real data here: set XSTILTS_MIRROR')
COLUMNS = {k: {*v.split()} for k, v in TASK_COLUMNS.items()}
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


# task -> (sets of a split and a language, rows in all), as the mirror has them; panx and mlqa are scored on their development sets
THERE = dict(xnli=(30, 112500), pawsx=(9, 18000), udpos=(63, 155012), panx=(40, 272300), xquad=(11, 13090), mlqa=(7, 4199), tydiqa=(10, 8762), tatoeba=(36, 63384), xcopa=(22, 6600), lareqa=(11, 26104),
    bucc2018_gold=(1, 514), masakhaner=(60, 152784), mnli=(1, 9815), anli=(1, 3198), qqp=(2, 19845), squad_v1=(2, 98003), squad_v2=(1, 11873), hellaswag=(2, 13410), cosmosqa=(1, 2985), csqa=(2, 10962), copa=(2, 500))


@pytest.mark.parametrize('task', THERE)
def test_every_set_of_a_task(task):
    "All languages and splits that are there come out whole: columns, classes, clusters; nothing is lost without an error."
    found, n, gaps = 0, 0, []
    for split in ('train', 'dev', 'test'):
        if split=='dev' and task in ('panx', 'mlqa'): continue
        for lang in dict.fromkeys((*langs('mirror', task), 'en')):
            if split=='train' and lang!='en' and task!='masakhaner': continue
            try: rows = load('mirror', task, split, lang)
            except ValueError as e:
                gaps.append(str(e))
                continue
            assert set(rows[0])>={'id', 'lang', 'cluster', 'split'}|COLUMNS[tasks[task].kind]
            assert all(o['cluster'] and o['lang']==lang for o in rows)
            found, n = found+1, n+len(rows)
    assert (found, n)==THERE[task], gaps
    assert all(task in o for o in gaps)


def test_rows_left_out_are_told():
    "TyDiQA's training set has answers that are not where they are said to be."
    load('mirror', 'tydiqa', 'train', 'en')
    assert '11 of 3,696 rows cannot be used' in left_out('mirror', 'tydiqa')


def test_questions_in_other_languages():
    "MLQA's mixed pairs, which XTREME does not score, read the same way."
    from xstilts.sources import _part
    from dataclasses import replace
    rows = _part('mirror', 'mlqa', replace(SOURCES['mlqa'][0], config=lambda l: 'MLQA.de.en'), 'dev', 'de')
    assert len(rows)==512 and rows[0]['question'].startswith('What')


def test_known_overlap_is_caught():
    "XQuAD's English contexts are paragraphs of SQuAD's development set, and none of its training set."
    rows = rows_of_test('mirror', 'xquad', 'en')
    assert overlap('mirror', 'squad_v1', rows, given='dev')>1100
    assert overlap('mirror', 'squad_v1', rows)==0


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


def test_a_majority_answer_of_what_really_trains():
    "Where another split trains, as MNLI's validation set for XNLI here, its most frequent class is the floor."
    from xstilts.stages import Cell
    from xstilts.tables import majority
    cell = Cell(model='random:mini', intermediate='none', target='xnli', seed=0, data='mirror', settings=dict(target_train_from='mnli:validation_matched', eval_limit=300, languages='de sw'))
    got = majority(cell)
    assert got.keys()=={'de', 'sw'} and got['de']==got['sw'] and 25<got['de']<42
