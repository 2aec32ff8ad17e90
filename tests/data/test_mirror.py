"""Real data: every row of the mirror comes out in our columns. Skipped without a mirror (`XSTILTS_MIRROR`)."""
import re
from dataclasses import replace
from functools import cache

import pyarrow.parquet as pq
import pytest
import yaml
from xstilts.core.config import settings
from xstilts.data.folders import split_names
from xstilts.data.load import fingerprint, left_out_note, load, overlap, rows_fingerprint, test_rows as rows_of_test
from xstilts.data.origins import plain_text, source_rows
from xstilts.data.sources import MIRROR_SOURCES, SOURCES
from xstilts.catalog.tasks import COLUMNS as TASK_COLUMNS, tasks

NO_MIRROR = 'no mirror here: set XSTILTS_MIRROR'
pytestmark = [
    pytest.mark.usefixtures('module_store'),
    pytest.mark.skipif(not settings().mirror.is_dir(), reason=NO_MIRROR)]
COLUMNS = {k: {*v.split()} for k, v in TASK_COLUMNS.items()}
SOME = dict(xnli=('test', 'sw'), udpos=('test', 'ja'), panx=('test', 'te'), xquad=('test', 'ru'),
    tydiqa=('test', 'fi'), tatoeba=('test', 'ko'), squad_v1=('train', 'en'))
MIRRORED = [o for o in SOURCES if (settings().mirror/MIRROR_SOURCES[o][-1].repo).is_dir()]


@cache
def configs_of(repo): return yaml.load((repo/'README.md').read_text().split('---')[1], yaml.CSafeLoader)['configs']


def files_of(repo, named):
    "The Parquet files of a configuration, by split"
    found = next((o for o in configs_of(repo) if named in (None, o['config_name'])), dict(data_files=[]))
    return {o['split']: repo/o['path'] for o in found['data_files']}


def rows_in_files(source, split, lang):
    "The number of rows in the mirror's Parquet files of a split; None where a file is missing, as a mirror may grow."
    theirs = source.splits.get(split)
    if not theirs: return 0
    files = files_of(settings().mirror/source.repo, source.config(lang))
    if not {*theirs.split('+')}<={*files}: return None
    return sum(pq.read_metadata(files[o]).num_rows for o in theirs.split('+'))


def expected(task, split, lang):
    "Rows of all sources of a task; None where one is missing, 0 where the task has no such split."
    found = [rows_in_files(o, split, lang) for o in MIRROR_SOURCES[task]]
    return None if None in found else sum(found)


@pytest.mark.parametrize('task', SOME)
def test_rows(task):
    "The columns of the task's kind, labels of the table, answers at their offsets, no id twice."
    split, lang = SOME[task]
    kind = tasks[task].kind
    labels = {*tasks[task].labels}
    rows = load('mirror', task, split, lang)
    assert set(rows[0])=={'id', 'lang', 'cluster', 'split'}|COLUMNS[kind]
    assert {(o['lang'], o['split']) for o in rows}=={(lang, split)}
    assert len({o['id'] for o in rows})==len(rows)
    if kind=='pair': assert {o['label'] for o in rows}==labels
    if kind=='tags': assert {t for o in rows for t in o['tags']}<=labels
    if kind=='tags': assert all(len(o['tokens'])==len(o['tags'])>0 for o in rows)
    if kind=='span': assert all(answers_are_at_their_offsets(o) for o in rows)
    if kind=='retrieval': assert {o['gold_id'] for o in rows}=={o['id'] for o in rows}


def answers_are_at_their_offsets(row):
    answers = zip(row['answers']['text'], row['answers']['start'])
    return all(row['context'][s:s+len(t)]==t for t, s in answers)


def sets(task):
    "Every split and language of a task that could be there, without development sets that are scored as test sets."
    source = MIRROR_SOURCES[task][-1]
    for split in split_names(task):
        if split=='dev' and not source.own_test: continue
        for lang in source.train_langs if split=='train' else tasks[task].langs: yield split, lang


@pytest.mark.parametrize('task', MIRRORED)
def test_every_set_of_a_task(task):
    "Of all languages and splits, every row of a file is a row of ours, or a note says what was left out."
    shared = any(o.lang for o in MIRROR_SOURCES[task])
    found = {}
    for split, lang in sets(task):
        n = expected(task, split, lang)
        if n is None:
            with pytest.raises(ValueError, match=f'mirror: {task} in {lang} has no {split} split'):
                load('mirror', task, split, lang)
            continue
        rows = load('mirror', task, split, lang)
        assert set(rows[0])>={'id', 'lang', 'cluster', 'split'}|COLUMNS[tasks[task].kind]
        assert all(o['cluster'] and o['lang']==lang for o in rows)
        found.setdefault((split, '' if shared else lang), [n, 0])[1] += len(rows)
        if not shared: assert two_sided(task, len(rows))==n or left_out_note('mirror', task, split, lang)
    for (split, _), (n, got) in found.items():
        if shared and split!='train': assert got==n


def two_sided(task, n): return n//2 if tasks[task].kind=='retrieval' else n


def test_the_mirror_is_not_empty(): assert len(MIRRORED)>15


def test_rows_left_out_are_counted():
    "TyDiQA's training set has answers that do not occur at their offsets."
    rows = load('mirror', 'tydiqa', 'train', 'en')
    note = re.search(r'(\d+) of ([\d,]+) rows cannot be used', left_out_note('mirror', 'tydiqa'))
    assert int(note[2].replace(',', ''))-int(note[1])==len(rows)


def test_questions_in_other_languages():
    "MLQA's mixed pairs, which XTREME does not score, read the same way."
    source = replace(SOURCES['mlqa'][0], configuration='MLQA.de.en')
    rows = source_rows('mirror', 'mlqa', source, 'dev', 'de')
    assert len(rows)==rows_in_files(source, 'dev', 'de')>0 and rows[0]['question'].startswith('What')


def test_known_overlap_is_caught():
    "XQuAD's English contexts are paragraphs of SQuAD's development set, and none of its training set."
    rows = rows_of_test('mirror', 'xquad', 'en')
    assert overlap('mirror', 'squad_v1', rows, given='dev')>1100
    assert overlap('mirror', 'squad_v1', rows)==0


def test_limited_rows_are_the_first():
    "A limit reads a part of the same rows."
    every = load('mirror', 'tydiqa', 'test', 'fi')
    assert load('mirror', 'tydiqa', 'test', 'fi', 7)==every[:7]
    assert rows_fingerprint('mirror', 'tydiqa', 'test', 'fi', 7)==fingerprint(every[:7])


@pytest.mark.parametrize('task, split', [('xnli', 'train'), ('xquad', 'train')])
def test_what_no_mirror_has_is_named(task, split):
    "The message names the task, the split and the splits that there are."
    with pytest.raises(ValueError, match=f'{task} has no {split} split: it has '): load('mirror', task, split)


def test_text_of_the_mirror_may_be_published():
    "Sources whose licence allows no derivatives are left out."
    assert len(plain_text("mirror", "sw", 50))==50


def test_the_majority_floor_is_of_the_split_that_trains():
    "Where another split trains, as MNLI's validation set for XNLI here, its most frequent class is the floor."
    from xstilts.run.experiment import Experiment
    from xstilts.report.results import majority
    settings = dict(target_train_from='mnli:validation_matched', eval_limit=300, languages='de sw')
    experiment = Experiment(model='random:mini', intermediate='none', target='xnli', seed=0, data='mirror',
        settings=settings)
    got = majority(experiment)
    assert got.keys()=={'de', 'sw'} and got['de']==got['sw'] and 25<got['de']<42
