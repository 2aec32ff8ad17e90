"""Text files as users have them: byte order marks, other names of a class, tags missing from training, odd JSON."""
import json

import pytest
from xstilts.data.load import inventory, load, task_of, train_rows
from xstilts.data.origins import plain_text
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.core.store import read_json

MARK = '\ufeff'
QUESTION = dict(id='q1', question='Who?', answers=[dict(text='Anna', answer_start=0)])
PARAGRAPH = dict(context='Anna left.', qas=[QUESTION])
SQUAD = dict(data=[dict(paragraphs=[PARAGRAPH])])
LAREQA = dict(data=[dict(paragraphs=[PARAGRAPH|dict(sentences=['Anna left.'], sentence_breaks=[[0, 10]])])])
JNLI = dict(sentence_pair_id='7', sentence1='a', sentence2='b', label='entailment')
ENTITY = dict(entity_id='Q1', description='A city.', sentence_spans=[dict(start=0, end=7)])

# file, its text, the arguments of `load` or `train_rows`, a column of the first row and its content
FILES = [
    ('xtreme_r/udpos/test-lt.tsv', 'Labas\tINTJ\n', ('udpos', 'test', 'lt'), 'tokens', ['Labas']),
    ('xtreme_r/panx/test-pl.tsv', 'pl:Warszawa\tB-LOC\n', ('panx', 'test', 'pl'), 'tokens', ['Warszawa']),
    ('xtreme_r/xquad/xquad.ro.json', json.dumps(SQUAD), ('xquad', 'test', 'ro'), 'question', 'Who?'),
    ('ccg/train.txt', 'dogs\tN\n', ('ccg', 'train'), 'tokens', ['dogs']),
    ('translate_train/pawsx/en-de.tsv', 'A\tB\tC\tD\t0\n', ('mt(pawsx,de)',), 'text_a', 'C'),
    ('translate_train/squad_v1/en-de.json', json.dumps(SQUAD), ('mt(squad_v1,de)',), 'question', 'Who?'),
    ('jglue/jnli-v1/train-v1.json', json.dumps(JNLI)+'\n', ('mnli@ja',), 'text_a', 'a'),
    ('lareqa/xquad-r/de.json', json.dumps(LAREQA), ('lareqa', 'test', 'de'), 'text', 'Anna left.'),
    ('mewslix/candidate_set_entities.jsonl', json.dumps(ENTITY)+'\n', ('mewslix', 'dev', 'de'), 'text', 'A city.')]


@pytest.fixture
def folders(tmp_path, monkeypatch, store):
    "An empty folder of data and an empty store"
    monkeypatch.setenv('XSTILTS_FOLDERS', str(tmp_path/'folders'))
    (tmp_path/'folders'/'mewslix').mkdir(parents=True)
    (tmp_path/'folders'/'mewslix'/'wikinews_mentions-dev.jsonl').write_text('')
    return tmp_path/'folders'


def put(folders, file, text):
    (folders/file).parent.mkdir(parents=True, exist_ok=True)
    (folders/file).write_text(text, encoding='utf-8')


@pytest.mark.parametrize('file, text, args, column, content', FILES)
def test_a_byte_order_mark_is_no_text(file, text, args, column, content, folders):
    "A file with a byte order mark gives the same rows as without."
    def rows(): return train_rows('hub', *args) if len(args)==1 else load('hub', *args)
    put(folders, file, text)
    before = rows()
    assert before[0][column]==content
    put(folders, file, MARK+text)
    assert rows()==before


def test_lines_of_two_files_with_marks(folders):
    "Parallel files and plain text lose their byte order marks and empty lines."
    for name, text in (('lit', 'Labas.'), ('eng', 'Hello.')):
        put(folders, f'xtreme_r/tatoeba/tatoeba.lit-eng.{name}', f'{MARK}{text}\n')
    assert [o['text'] for o in load('hub', 'tatoeba', 'test', 'lt')]==['Labas.', 'Hello.']
    put(folders, 'text/sw.txt', f'{MARK}Habari.\r\n\u2028 \n')
    assert plain_text('hub', 'sw', 9)==['Habari.']


def test_only_line_breaks_end_a_line(folders):
    "A Unicode separator within a text does not end the line."
    put(folders, 'text/sw.txt', 'a\u2028b\x0bc\n')
    assert plain_text('hub', 'sw', 9)==['a\u2028b\x0bc']
    (folders/'text'/'sw.txt').write_bytes(b'\xef\xbb\xbfone\ntwo\n\xff\n')
    with pytest.raises(ValueError, match='sw.txt, line 3: not UTF-8'): plain_text('hub', 'sw', 9)


def test_contradictory_is_contradiction(folders):
    "The label contradictory of some sources is read as contradiction."
    put(folders, 'translate_train/mnli/en-de.tsv', 'A\tB\tC\tD\tcontradictory\nA\tB\tC\tD\tneutral\n')
    put(folders, 'jglue/jnli-v1/train-v1.json', json.dumps(JNLI|dict(label='contradictory'))+'\n')
    assert [o['label'] for o in train_rows('hub', 'mt(mnli,de)')]==['contradiction', 'neutral']
    assert [o['label'] for o in train_rows('hub', 'mnli@ja')]==['contradiction']


# text of a file in SQuAD's format, part of the message
ODD_QUESTIONS = [
    ('[]', 'expected an object, found list'),
    ('{}', "'data' is missing"),
    ('{"data": 5}', 'column data holds 5, not a list'),
    ('{"data": [', 'line 1: not JSON'),
    ('{"data": [{"paragraphs": [5]}]}', 'the row holds 5, not an object with context'),
    (json.dumps(SQUAD).replace('"Who?"', 'null'), 'column question holds None, not a text'),
    (json.dumps(SQUAD).replace('"answer_start": 0', '"answer_start": "0"'),
        "column answer_start holds '0', not a whole number")]
ODD_LINES = [
    ('5', 'expected an object, found int'),
    ('{}', "'sentence_pair_id' is missing"),
    (json.dumps(JNLI|dict(sentence1=None)), 'column sentence1 holds None, not a text'),
    (json.dumps(JNLI|dict(label=['a'])), "column label holds ['a'], not a text"),
    (json.dumps(JNLI|dict(sentence_pair_id=[7])), 'column id holds [7], not a text or a whole number')]


@pytest.mark.parametrize('text, message', ODD_QUESTIONS)
def test_odd_questions(text, message, folders):
    "A malformed SQuAD file is an error that names the file and the fault."
    put(folders, 'translate_train/squad_v1/en-de.json', text)
    with pytest.raises(ValueError) as e: train_rows('hub', 'mt(squad_v1,de)')
    assert 'en-de.json' in str(e.value) and message in str(e.value), str(e.value)


@pytest.mark.parametrize('line, message', ODD_LINES)
def test_odd_lines(line, message, folders):
    "A malformed line of JSON is an error that names the file, the line and the fault."
    put(folders, 'jglue/jnli-v1/train-v1.json', json.dumps(JNLI)+'\n'+line+'\n')
    with pytest.raises(ValueError) as e: train_rows('hub', 'mnli@ja')
    assert 'train-v1.json, line 2: ' in str(e.value) and message in str(e.value), str(e.value)


XQUAD_R = 'xquad-r/de.json'
ENTITIES = 'candidate_set_entities.jsonl'
MENTIONS = 'wikinews_mentions-dev.jsonl'


@pytest.mark.parametrize('task, split, file, text', [
    ('lareqa', 'test', XQUAD_R, json.dumps(LAREQA).replace('[[0, 10]]', '[[0]]')),
    ('lareqa', 'test', XQUAD_R, json.dumps(LAREQA).replace('[{"text": "Anna", "answer_start": 0}]', '[]')),
    ('lareqa', 'test', XQUAD_R, json.dumps(LAREQA).replace('["Anna left."]', 'null')),
    ('mewslix', 'dev', ENTITIES, json.dumps(ENTITY|dict(sentence_spans=None))),
    ('mewslix', 'dev', ENTITIES, json.dumps(ENTITY|dict(entity_id=5))),
    ('mewslix', 'dev', MENTIONS, json.dumps(dict(context=dict(language='tlh'), mentions=[])))])
def test_odd_answers_and_entities(task, split, file, text, folders):
    "The error names the task, the file and the column."
    put(folders, f'mewslix/{ENTITIES}', json.dumps(ENTITY)+'\n')
    put(folders, f'{task}/{file}', text)
    message = rf'{task} in de: [\w.-]+: .*column|{task} in de: [\w.-]+, line 1: column'
    with pytest.raises(ValueError, match=message): load('hub', task, split, 'de')


def test_a_tag_that_training_lacks_is_wrong(folders):
    "In a dev set, a tag that training lacks counts as wrong; in training rows it is an error."
    put(folders, 'ccg/train.txt', 'dogs\tN\nbark\tV\n\n'*8)
    put(folders, 'ccg/dev.txt', 'dogs\tN\nbark\tNEW\n\n')
    assert task_of('hub', 'ccg').labels==('N', 'V')
    settings = dict(intermediate_epochs=9, intermediate_eval_steps=4, intermediate_lr=.01, eval_limit=2)
    experiment = Experiment(model='random:mini', intermediate='ccg', target='udpos', seed=0, data='hub',
        settings=settings)
    log = read_json(run_stage(stages_of(experiment)[0])/'stage.json')['log']
    assert max(o['dev'] for o in log if 'dev' in o)==50
    with pytest.raises(ValueError, match="ccg: 1 tags of the dev split, such as 'NEW', are not in the train split"):
        train_rows('hub', 'ccg', given='dev')


def test_an_inventory_without_a_mirror(tmp_path, monkeypatch):
    "A missing mirror is one error, not one for each task and language."
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path/'nowhere'))
    with pytest.raises(ValueError, match='^no mirror: set `mirror` in settings.ini'): inventory('mirror')


def test_an_inventory_lists_errors(tmp_path, monkeypatch, store):
    "An inventory lists a task that cannot be read with its error, and goes on with the others."
    from mirrors import repository
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path/'mirror'))
    monkeypatch.delenv('XSTILTS_FOLDERS', raising=False)
    odd = dict(sentence1=None, sentence2='A', label=1, idx=0)
    repository(tmp_path/'mirror', 'nyu-mll/glue', dict(train=[odd]), 'stsb')
    repository(tmp_path/'mirror', 'Rowan/hellaswag', dict(validation=[dict(ctx='He', endings=['a', 'b'], label='0')]))
    found = {o['task']: o for o in inventory('mirror')}
    assert found['hellaswag']['splits']=='dev 1' and 'column sentence1 holds None' in found['stsb']['missing']
    assert 'the mirror has no google/xtreme' in found['xnli']['missing']
