"""BUCC from files to scores: every gold pair counts, and a repeated sentence is treated as in XTREME's evaluation."""
import numpy as np
import pytest
from xstilts.evaluate import retrieval
from xstilts.data.load import load, test_rows as rows_of_test
from xstilts.data.columns import gold_ids
from xstilts.run.experiment import Experiment
from xstilts.run.predictions import prediction_key
from xstilts.run.scores import run_experiment
from xstilts.core.store import read_json
from xstilts.evaluate.submission import score_folder, write_labels

CLEAN = [(f'd{i}', f'e{i}') for i in range(5)]
FOREIGN = {f'd{i}': f'satz {i}' for i in range(5)}|dict(d5='satz 5', d6='satz 5 ')  # the last two differ by a space
ENGLISH = {f'e{i}': f'satz {i}' for i in range(6)}  # the same words, so that translations have the same vector


def write(folder, split, foreign, english, gold, mark=''):
    "Write files in the shared task's format; `mark` is put before each"
    for name, pairs in (('de', foreign.items()), ('en', english.items()), ('gold', gold)):
        (folder/f'de-en.{split}.{name}').write_text(mark+''.join(f'{a}\t{b}\n' for a, b in pairs), encoding='utf-8')


@pytest.fixture
def folder(tmp_path, monkeypatch, store):
    "Five clean pairs in dev; the embedding of every text has a direction of its own"
    monkeypatch.setenv('XSTILTS_FOLDERS', str(tmp_path/'folders'))
    at = tmp_path/'folders'/'bucc2018'
    at.mkdir(parents=True)
    write(at, 'dev', {k: FOREIGN[k] for k, _ in CLEAN}, {k: ENGLISH[k] for _, k in CLEAN}, CLEAN)

    def embed(encoder, tok, rows, layers, **_):
        words = np.array([int(o['text'].split()[1]) for o in rows])
        return {layers[0]: np.eye(9, dtype=np.float32)[words]}
    monkeypatch.setattr(retrieval, 'embed', embed)
    return at


def experiment(data='hub', **more):
    settings = dict(languages='de', layer=1, **more)
    return Experiment(model='random:mini', intermediate='none', target='bucc2018', seed=0, data=data, settings=settings)


@pytest.mark.parametrize('gold, f1', [(CLEAN+[('d5', 'e5')], 90.91), (CLEAN+[('d6', 'e5')], 90.91), (CLEAN, 100)])
def test_a_repeated_sentence(gold, f1, folder):
    "Gold pairs with a repeated sentence count as missed, as in XTREME, and a flag counts them."
    write(folder, 'test', FOREIGN, ENGLISH, gold)
    res = read_json(run_experiment(experiment()))
    assert res['scores']['de']['f1']==pytest.approx(f1, abs=.005)
    missed = len(gold)-5
    flag = next(o for o in res['flags'] if 'more than once' in o)
    assert flag==('bucc2018 in de: 2 of 13 sentences occur more than once and so are not candidates, '
        f'{missed} of {len(gold)} gold pairs contain one and count as missed (as in XTREME)')


def test_several_translations(folder, tmp_path):
    "A sentence with two translations gives two gold pairs, from the file to the score and the exported labels."
    gold = [*CLEAN, ('d0', 'e5'), ('d1', 'e0')]
    write(folder, 'test', {k: FOREIGN[k] for k, _ in CLEAN}, ENGLISH, gold)
    rows = load('hub', 'bucc2018', 'test', 'de')
    assert {(o['id'], g) for o in rows if o['side']=='foreign' for g in gold_ids(o)}=={*gold}
    assert {(g, o['id']) for o in rows if o['side']=='english' for g in gold_ids(o)}=={*gold}
    res = read_json(run_experiment(experiment()))
    assert res['scores']['de']['recall']==pytest.approx(100*5/7)
    out = write_labels(tmp_path/'labels', 'bucc2018', {'de': rows})
    assert sorted((out/'test-de.tsv').read_text().splitlines())==sorted('\t'.join(o) for o in gold)


def test_a_pair_without_its_sentence_is_an_error(folder):
    "A gold pair whose sentence is missing, or whose ids are in the wrong order, is an error."
    write(folder, 'test', FOREIGN, ENGLISH, [*CLEAN, ('d9', 'e5')])
    lost = "bucc2018 in de: de-en.test.gold: no sentence has the id 'd9' of column 1, 1 of 6 pairs lack"
    with pytest.raises(ValueError, match=lost): load('hub', 'bucc2018', 'test', 'de')
    write(folder, 'test', FOREIGN, ENGLISH, [(b, a) for a, b in CLEAN])
    with pytest.raises(ValueError, match='a line must be a foreign id, a tab and an English id'):
        load('hub', 'bucc2018', 'test', 'de')


def test_a_limit_keeps_pairs_whole(folder):
    "A limit keeps both sentences of a pair, although they are at different places of their pools."
    write(folder, 'test', FOREIGN, dict(reversed(ENGLISH.items())), CLEAN)
    rows = rows_of_test('hub', 'bucc2018', 'de', 2)
    assert sorted(o['id'] for o in rows)==['d0', 'd1', 'd5', 'd6', 'e0', 'e1', 'e5']


def test_a_byte_order_mark_is_no_part_of_an_id(folder):
    "Files with and without a byte order mark give the same rows."
    write(folder, 'test', FOREIGN, ENGLISH, CLEAN)
    before = load('hub', 'bucc2018', 'test', 'de')
    write(folder, 'test', FOREIGN, ENGLISH, CLEAN, '\ufeff')
    assert load('hub', 'bucc2018', 'test', 'de')==before


def test_predictions_of_before_are_not_taken(folder, monkeypatch):
    "The rule for repeated sentences is part of the key, since rows and settings did not change with it."
    from xstilts.run import predictions
    write(folder, 'test', FOREIGN, ENGLISH, CLEAN)
    mini = experiment('mini')
    now = prediction_key(experiment()), prediction_key(mini)
    monkeypatch.setattr(predictions, 'is_mined', lambda c: False)
    before = prediction_key(experiment()), prediction_key(mini)
    assert [a==b for a, b in zip(now, before)]==[False, True]


def test_files_of_a_benchmark_with_a_byte_order_mark(tmp_path):
    "Official predictions and labels with a byte order mark score the same."
    for where in ('predictions', 'labels'):
        (tmp_path/where/'bucc2018').mkdir(parents=True)
        for lang in ('de', 'fr', 'ru', 'zh'):
            file = tmp_path/where/'bucc2018'/f'test-{lang}.tsv'
            file.write_text('\ufeffxx-1\ten-1\nxx-2\ten-2\n', encoding='utf-8')
    (tmp_path/'labels'/'bucc2018'/'test-de.tsv').write_text('xx-1\ten-1\nxx-3\ten-3\n')
    got = score_folder(tmp_path/'predictions', tmp_path/'labels')['tasks']['bucc2018']['languages']
    assert [got[o]['f1'] for o in ('de', 'fr')]==[50, 100]
