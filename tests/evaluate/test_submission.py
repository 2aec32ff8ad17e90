"""Official folders: the benchmark's own numbers, round trips of experiments, and mistakes that are errors."""
import json
import os
from types import MappingProxyType

import pytest
from xstilts.cli import main
from xstilts.core.config import settings
from xstilts.share.export import export_study
from xstilts.run.scores import run_experiment
from xstilts.core.store import read_json
from xstilts.run.study import Study, experiments
from xstilts.evaluate.submission import members, score_folder
from xstilts.catalog.tasks import tasks

MOCK = settings().mirror/'xtreme-mock'
NO_MOCK = "no copy of XTREME's mock_test_data here: put it into xtreme-mock/ of a mirror and set XSTILTS_MIRROR"
mock = pytest.mark.skipif(not MOCK.is_dir(), reason=NO_MOCK)

# What `evaluate.py` of google-research/xtreme, commit 838c13b6, gives for its mock_test_data,
# run with Python 3.11 and seqeval 1.2.2
OFFICIAL = dict(
    pawsx=dict(accuracy=51.42857142857143), xnli=dict(accuracy=30.666666666666668),
    panx=dict(f1=57.50793650793652, precision=54.729166666666664, recall=62.750000000000014),
    udpos=dict(f1=70.39805810699043, precision=71.21832908642001, recall=69.71397801088123),
    bucc2018=dict(f1=55.0, precision=55.0, recall=55.0), tatoeba=dict(accuracy=53.611111111111114),
    xquad=dict(exact_match=77.27272727272727, f1=79.9586776859504),
    mlqa=dict(exact_match=57.142857142857146, f1=81.76870748299321),
    tydiqa=dict(exact_match=88.88888888888889, f1=97.22222222222223))
OVERALL = dict(classification=41.04761904761905, tagging=63.95299730746348, qa=80.37568011593986,
    retrieval=54.30555555555556, overall=62.1932649076773)
# The same with seqeval 0.0.12; the benchmark's own evaluate_test.py expects these numbers of parts of speech
OFFICIAL_2020 = OFFICIAL|dict(udpos=dict(f1=70.21746048354693, precision=71.02232625883823, recall=69.54982073976082))
OVERALL_2020 = OVERALL|dict(tagging=63.862698495741725, overall=62.17319850507246)
# Single languages of the same runs: scripts without spaces, articles inside words, all metrics different
LANGUAGES = dict(
    udpos=('de', 'f1', 81.57894736842104), panx=('de', 'f1', 57.14285714285715),
    xquad=('zh', 'f1', 25.0), mlqa=('es', 'f1', 26.66666666666667),
    tydiqa=('id', 'f1', 74.99999999999999), xnli=('zh', 'accuracy', 10.0), tatoeba=('it', 'accuracy', 100.0))
# `--xtreme_version xtreme-r` on the four tasks of the mock folder that have all of its languages
OFFICIAL_R = dict(
    xnli=dict(accuracy=30.666666666666668), mlqa=dict(exact_match=57.142857142857146, f1=81.76870748299321),
    tydiqa=dict(exact_match=88.88888888888889, f1=97.22222222222223), mewslix=dict(map20=14.39025156130419))


def close(a, b): return a==pytest.approx(b, rel=0, abs=1e-6)


@mock
@pytest.mark.parametrize('seqeval, official, overall', [
    ('1.2.2', OFFICIAL, OVERALL), ('0.0.12', OFFICIAL_2020, OVERALL_2020)])
def test_xtreme_mock(seqeval, official, overall):
    "Nine tasks, four categories and the overall score equal those of the benchmark's evaluator."
    res = score_folder(MOCK/'predictions', MOCK/'labels', seqeval=seqeval)
    assert set(res['tasks'])==set(official)
    for t, o in official.items(): assert close(res['tasks'][t]['mean'], o), t
    assert close({k: o['score'] for k, o in (res['categories']|dict(overall=res['overall'])).items()}, overall)
    assert (res['n_tasks'], res['missing'], res['ignored'])==(9, [], ['mewslix'])


@mock
def test_single_languages_of_the_mock():
    "Scores of single languages equal those of the benchmark's evaluator."
    res = score_folder(MOCK/'predictions', MOCK/'labels')['tasks']
    for t, (l, metric, points) in LANGUAGES.items(): assert close(res[t]['languages'][l][metric], points), t


@mock
def test_xtreme_r_mock(tmp_path):
    "Four of ten tasks give no overall score and no average of an incomplete category."
    for o in ('predictions', 'labels'):
        (tmp_path/o).mkdir()
        for t in OFFICIAL_R: (tmp_path/o/t).symlink_to(MOCK/o/t)
    res = score_folder(tmp_path/'predictions', tmp_path/'labels', 'xtreme-r')
    for t, o in OFFICIAL_R.items(): assert close(res['tasks'][t]['mean'], o), t
    assert (res['n_tasks'], res['of_tasks'], res['overall'], set(res['categories'].values()))==(4, 10, None, {None})
    with pytest.raises(ValueError, match='panx: 8 of 48 languages are missing: test-az.tsv'):
        score_folder(MOCK/'predictions', MOCK/'labels', 'xtreme-r')


@mock
def test_the_same_without_english():
    "The mean without English is recomputed from the languages; a task without English has the same mean twice."
    for t, o in score_folder(MOCK/'predictions', MOCK/'labels')['tasks'].items():
        for k, v in o['mean_without_english'].items():
            rest = [s[k] for l, s in o['languages'].items() if l!='en']
            assert len(rest)==len(o['languages'])-('en' in members('xtreme')[t]) and close(v, sum(rest)/len(rest))


# Round trips

FORMS = ['xnli', 'udpos', 'mlqa', 'bucc2018', 'tatoeba', 'xcopa', 'lareqa']  # one target task per file format


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "Experiments of the miniature on a random encoder: the study, its store and its exported folder"
    folder = tmp_path_factory.mktemp('toy')
    os.environ['XSTILTS_ARTIFACTS'] = str(folder/'artifacts')
    axes = dict(model=['random:mini'], intermediate=['none'], target=FORMS, seed=[0])
    few = dict(eval_limit=12, target_train_limit=32, target_epochs=1, layer=1)
    study = Study(name='toy', report='', data='mini', axes=MappingProxyType(axes), settings=MappingProxyType(few))
    scores = {c.target: read_json(run_experiment(c)) for c in experiments(study)}
    yield scores, export_study(study, folder/'out', part=True)[0]
    del os.environ['XSTILTS_ARTIFACTS']


@pytest.mark.parametrize('task', FORMS)
def test_a_cell_there_and_back(task, toy):
    "The exported folder of an experiment has the same scores, for every metric and language."
    scores, folder = toy
    got = score_folder(folder/'predictions', folder/'labels', 'mini')['tasks'][task]
    want = {l: {k: v for k, v in o.items() if k!='n'} for l, o in scores[task]['scores'].items()}
    assert set(got['languages'])==set(want)
    for l, o in want.items(): assert close(got['languages'][l], o), l
    assert any(0<v<100 for o in want.values() for v in o.values())


def test_a_cell_by_the_command_line(toy, tmp_path, capsys):
    "`export` takes the name of an experiment, `score` prints its mean, and a partial folder needs a flag."
    scores, _ = toy
    key = scores['xnli']['key']
    assert main(['export', key, '--to', str(tmp_path/'a')])==2
    assert 'only the first 12 test items' in capsys.readouterr().err and not (tmp_path/'a').exists()
    assert main(['export', key, '--to', str(tmp_path/'a'), '--part'])==0
    assert 'MINIATURE' in (tmp_path/'a'/'README.txt').read_text()
    capsys.readouterr()
    folders = ['--predictions', str(tmp_path/'a'/'predictions'), '--labels', str(tmp_path/'a'/'labels')]
    assert main(['score', *folders, '--suite', 'mini', '--json', '--output', str(tmp_path/'s.json')])==0
    res = json.loads(capsys.readouterr().out)
    mine = [o['accuracy'] for o in scores['xnli']['scores'].values()]
    assert close(res['tasks']['xnli']['score'], sum(mine)/len(mine))
    assert res==json.loads((tmp_path/'s.json').read_text())
    assert main(['export', 'score-', '--to', str(tmp_path/'b'), '--part'])==2
    assert f'{len(FORMS)} experiments match' in capsys.readouterr().err


def test_the_order_of_tatoeba(toy):
    "The English sentences are sorted, so the labels are a permutation and not the order of the rows."
    _, folder = toy
    labels = [int(o) for o in (folder/'labels'/'tatoeba'/'test-de.tsv').read_text().split()]
    assert sorted(labels)==[*range(12)]!=labels


# Mistakes

def squad(**answers):
    def question(id, text): return dict(id=id, question='', answers=[dict(text=text, answer_start=0)])
    paragraphs = [dict(context='', qas=[question(k, v)]) for k, v in answers.items()]
    return json.dumps(dict(data=[dict(paragraphs=paragraphs)]), indent=0)


GOOD = dict(
    xnli=('neutral\nentailment\nneutral\n',)*2, pawsx=('1\n0\n',)*2, udpos=('DET\nNOUN\n\nVERB\n',)*2,
    xquad=('{\n"q1": "Rhine",\n"q2": ""\n}', squad(q1='Rhine', q2='Elbe')),
    bucc2018=('xx-1\ten-1\n',)*2, tatoeba=('1\n0\n2\n',)*2, mlqa=('{"q1": "a Rhine"}', squad(q1='Rhine')))


@pytest.fixture
def folder(tmp_path):
    "A sound folder of seven tasks in all their languages"
    for t, texts in GOOD.items():
        for where, text in zip(('predictions', 'labels'), texts):
            (tmp_path/where/t).mkdir(parents=True)
            ext = 'json' if tasks[t].kind=='span' else 'tsv'
            for l in members('xtreme')[t]: (tmp_path/where/t/f'test-{l}.{ext}').write_text(text)
    return tmp_path


def test_the_sound_folder_is_scored(folder):
    "A sound folder without some tasks has their scores, but no overall score."
    res = score_folder(folder/'predictions', folder/'labels')
    for t in ('xnli', 'pawsx', 'udpos', 'bucc2018', 'tatoeba'): assert res['tasks'][t]['score']==100
    assert res['tasks']['xquad']['score']==50
    assert res['n_tasks']==7 and res['overall'] is None


@pytest.mark.parametrize('file, text, words', [
    ('xnli/test-de.tsv', 'neutral\nentailment\n', 'line 3: 2 lines, but there are 3 labels'),
    ('xnli/test-de.tsv', 'neutral\nentailment\nneutral\nneutral\n', 'line 4: 4 lines, but there are 3 labels'),
    ('xnli/test-de.tsv', 'neutral\nEntailment\nneutral\n',
        "line 2: unknown label 'Entailment', did you mean 'entailment'"),
    ('xnli/test-de.tsv', 'neutral\n\nneutral\n', "line 2: unknown label ''"),
    ('xnli/test-de.tsv', b'neutral\nentail\xe4ment\nneutral\n', 'not UTF-8'),
    ('pawsx/test-ko.tsv', 'paraphrase\n0\n', "line 1: unknown label 'paraphrase'"),
    ('udpos/test-th.tsv', 'DET\nNOUN\n\nVRB\n', "line 4: unknown tag 'VRB', did you mean 'VERB'"),
    ('udpos/test-th.tsv', 'DET\n\nVERB\n', 'line 1: sentence 1 has 1 tags, but 2 labels'),
    ('udpos/test-th.tsv', 'DET\nNOUN\nVERB\n', 'line 1: sentence 1 has 3 tags, but 2 labels'),
    ('udpos/test-th.tsv', 'DET\nNOUN\n', 'line 4: 1 sentences, but 2 in the labels'),
    ('xquad/test-zh.json', '{\n"q1": "Rhine"\n}', "1 of 2 ids of the labels are missing, the first is 'q2'"),
    ('xquad/test-zh.json', '{\n"q1": "Rhine",\n"q2": "",\n"q9": ""\n}',
        "line 4: 1 ids are not in the labels, the first is 'q9'"),
    ('xquad/test-zh.json', '{\n"q1": "Rhine",\n"q1": "",\n"q2": ""\n}', "line 3: 'q1' is given twice"),
    ('xquad/test-zh.json', '{\n"q1": "Rhine",\n"q2": ["Elbe"]\n}', "line 3: 'q2' needs one text"),
    ('xquad/test-zh.json', '{\n"q1": "Rhine",\n"q2": ', 'line 3: not JSON'),
    ('xquad/test-zh.json', '[]', 'line 1: one object expected'),
    ('bucc2018/test-fr.tsv', 'en-1\txx-1\n', "line 1: column 1 has the id 'en-1'"),
    ('bucc2018/test-fr.tsv', 'xx-1\ten-1\nxx-2 en-2\n', 'line 2: two ids with a tab between them'),
    ('tatoeba/test-ta.tsv', '2\n1\n3\n', 'line 3: sentence 3 does not exist'),
    ('tatoeba/test-ta.tsv', '1\n0\nforeign-2\n', "line 3: 'foreign-2' is not the number of a sentence"),
    ('tatoeba/test-ta.tsv', '1\n0\n', 'line 3: 2 lines, but there are 3 labels')])
def test_a_mistake_in_a_file_is_an_error(file, text, words, folder):
    "A mistake in a prediction file is an error with file and line, never a lower score."
    (folder/'predictions'/file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as e: score_folder(folder/'predictions', folder/'labels')
    message = str(e.value)
    assert message.startswith('1 problem, nothing is scored'), message
    assert f'predictions/{file}' in message and words in message, message


@pytest.mark.parametrize('file, text, words', [
    ('xquad/test-zh.json', squad(q1='Rhine', q2=''), 'XTREME\'s preprocessing removes the answers'),
    ('xquad/test-zh.json', '{"q1": "Rhine"}', 'not in the layout of SQuAD'),
    ('xnli/test-de.tsv', 'neutral\nno\nneutral\n', "line 2: unknown label 'no'")])
def test_a_mistake_in_the_labels_is_an_error(file, text, words, folder):
    "A mistake in a file of labels is an error that names the file."
    (folder/'labels'/file).write_text(text)
    with pytest.raises(ValueError) as e: score_folder(folder/'predictions', folder/'labels')
    assert f'labels/{file}' in str(e.value) and words in str(e.value)


def test_what_is_not_there_is_named(folder):
    "One error names all missing languages and tasks and all misspelt folders."
    (folder/'predictions'/'xnli'/'test-sw.tsv').unlink()
    (folder/'labels'/'udpos'/'test-kk.tsv').unlink()
    (folder/'predictions'/'pawsx').rename(folder/'predictions'/'paws')
    (folder/'labels'/'tatoeba').rename(folder/'labels'/'tatoba')
    (folder/'predictions'/'mlqa'/'test-zh.tsv').write_text('')
    with pytest.raises(ValueError) as e: score_folder(folder/'predictions', folder/'labels')
    message = str(e.value)
    wanted = (
        '5 problems',
        'predictions/xnli: 1 of 15 languages are missing: test-sw.tsv',
        'labels/udpos: 1 of 33 languages are missing: test-kk.tsv',
        "unknown task 'paws', did you mean 'pawsx'",
        'labels/tatoeba: no such folder',
        'predictions/mlqa/test-zh.tsv: not a file of mlqa')
    for o in wanted: assert o in message, message


def test_mistakes_leave_the_command_line_with_two(folder, capsys):
    "A mistake ends `score` with exit code 2 and writes no output."
    (folder/'predictions'/'xnli'/'test-sw.tsv').unlink()
    folders = ['--predictions', str(folder/'predictions'), '--labels', str(folder/'labels')]
    args = ['score', *folders, '--output', str(folder/'s.json')]
    assert main(args)==2
    out, err = capsys.readouterr()
    assert 'test-sw.tsv' in err and not out and not (folder/'s.json').exists()
    assert main([*args[:-1], str(folder/'nowhere'/'s.json')])==2
    assert 'its folder does not exist' in capsys.readouterr().err
