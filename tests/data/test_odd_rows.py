"""Odd rows of real data: each is used, or is an error of one sentence that names the task, the row and the column."""
import datetime
import math

import pytest
from datasets import ClassLabel, Features, List, Value
from mirrors import repository
from xstilts.data.load import left_out_note, load
from xstilts.data.origins import plain_text
from xstilts.data.sources import MIRROR_SOURCES
from xstilts.catalog.tasks import tasks

# A sound row of each task that is tried, in the columns of its repository
ANSWER = dict(text=['Berlin'], answer_start=[24])
SOUND = dict(
    xnli=dict(language='de', sentence1='Er ging.', sentence2='Er ist weg.', gold_label='entailment'),
    pawsx=dict(id=1, sentence1='A saw B.', sentence2='B saw A.', label=0),
    mnli=dict(premise='He left.', hypothesis='He is gone.', label=0, idx=0),
    stsb=dict(sentence1='A man.', sentence2='A person.', label=4.2, idx=0),
    udpos=dict(tokens=['Er', 'ging'], pos_tags=[0, 1]),
    panx=dict(tokens=['Berlin'], ner_tags=['B-LOC'], langs=['de']),
    xquad=dict(id='q1', question='Where?', context='The Spree flows through Berlin.', answers=ANSWER),
    tydiqa=dict(id='english-1', question='Where?', context='The Spree flows through Berlin.', answers=ANSWER),
    copa=dict(premise='It rained.', choice1='It is wet.', choice2='It is dry.', question='effect', idx=0, label=0),
    csqa=dict(id='c1', question='Where?', choices=dict(label=['A', 'B'], text=['here', 'there']), answerKey='A'),
    hellaswag=dict(ctx='He sits and', endings=['stands.', 'sleeps.'], label='0'),
    cosmosqa=dict(id='k1', context='It rained.', question='Why?', answer0='a', answer1='b', answer2='c', answer3='d',
        label=3),
    siqa=dict(context='Anna fell.', question='How?', answerA='well', answerB='hurt', answerC='rich', label='2'),
    tatoeba=dict(source_sentence='Hallo.', target_sentence='Hello.'))
NLI = ClassLabel(names=['entailment', 'neutral', 'contradiction'])
TAGS = List(ClassLabel(names=['NOUN', 'VERB']))
TYPES = dict(  # of tasks whose classes are numbers with names
    mnli=Features(premise=Value('string'), hypothesis=Value('string'), label=NLI, idx=Value('int64')),
    udpos=Features(tokens=List(Value('string')), pos_tags=TAGS))
ENGLISH = ('mnli', 'stsb', 'copa', 'csqa', 'hellaswag', 'cosmosqa', 'siqa')
WHERE = dict.fromkeys(ENGLISH, ('dev', 'en'))|dict(tydiqa=('test', 'en'))
NULL = None
NAN = math.nan
DAY = datetime.date(2020, 1, 1)


def answers(text, start): return dict(text=text, answer_start=start)


def choices(label, text): return dict(label=label, text=text)


# task -> column -> odd values
ODD = {
    'xnli': dict(
        sentence1=[NULL, '', ' ', 7, 1.5, True, ['a'], dict(a='b'), b'raw', DAY, 'x'*100_001],
        sentence2=[NULL, []],
        gold_label=['maybe', 0, 1.0, True, ['entailment'], NAN],
        language=[NULL, 'EN', 'xx', 5, '']),
    'pawsx': dict(
        id=[1.5, NAN, [1], dict(a=1), True, DAY],
        sentence2=[NULL, 3, ['a', 'b']],
        label=[2, 7, -7, 1.0, NAN, 'perhaps', [0], True]),
    'mnli': dict(premise=[NULL, ''], hypothesis=[NULL], label=[3, 7, -2]),
    'stsb': dict(sentence1=[NULL, ''], label=[NAN, math.inf, -math.inf, 9.0, -3.0, 'good', '4,2', [4.2], True, DAY]),
    'udpos': dict(
        tokens=[NULL, [], ['', 'a'], ['a'], [' ', 'a'], [None, 'a']],
        pos_tags=[NULL, [], [0], [0, 1, 1], [None, 0], [0, 2], [-1, 0]]),
    'panx': dict(
        tokens=['Berlin', [5], [['Berlin']], 7],
        ner_tags=[['B-XYZ'], [''], [1.0], 'B-LOC', [True], [None], [['B-LOC']]]),
    'xquad': dict(
        id=[NAN, ['q'], 1.5],
        question=[NULL, '', 5, ['Where?']],
        context=[NULL, '', 7],
        answers=[NULL, [], 'Berlin', [answers('Berlin', 24)], answers(NULL, [24]), answers(['Berlin'], NULL),
            answers(['Berlin'], []), answers([None], [24]), answers('Berlin', 24), answers(['Berlin'], ['24']),
            answers(['Berlin'], [24.0]), answers([['Berlin']], [24])]),
    'tydiqa': dict(id=[NULL, 'klingon-1', 7, '']),
    'copa': dict(
        premise=[NULL, 7],
        choice1=[NULL, ['a']],
        choice2=[NULL],
        question=[NULL, 5],
        label=[2, 9, -2, 1.0, 'a', True, NAN, [0]]),
    'csqa': dict(
        question=[NULL, 5],
        choices=[NULL, [], choices(['A'], ['here']), choices(['A', 'B'], NULL), choices(['A', 'B'], ['here', None]),
            choices(NULL, ['a', 'b']), choices([1, 2], ['a', 'b']), choices(['A', 'B', 'C'], ['a']), choices([], [])],
        answerKey=['F', 0, 'a', ['A'], True, 1.0]),
    'hellaswag': dict(
        ctx=[NULL, 5],
        endings=[NULL, [], ['one'], 'text', [None, 'a'], [1, 2]],
        label=['2', '-3', 'x', '1.0', 4.0, True, ['0']]),
    'cosmosqa': dict(
        context=[NULL, 5],
        question=[NULL, ['a']],
        answer2=[NULL, 7, []],
        label=[4, -4, 1.5, 'three', True]),
    'siqa': dict(context=[NULL], question=[NULL], answerB=[NULL, 5], label=['0', '4', 'A', 1.0, True, ['1']]),
    'tatoeba': dict(source_sentence=[NULL, '', '  ', 5, ['Hallo.']], target_sentence=[NULL, '', 7.5, dict(a=1)])}
OURS = dict(  # our name of a column, in messages about its content
    sentence1='text_a', premise='text_a', source_sentence='text', target_sentence='text', gold_label='label',
    ner_tags='tags', pos_tags='tags', endings='choices', answerKey='choices')
CASES = [(t, c, i) for t, columns in ODD.items() for c, values in columns.items() for i in range(len(values))]

# Unusual values that are no mistakes
VALID = [
    ('xnli', dict(sentence1='null')), ('xnli', dict(sentence2='NA')), ('xnli', dict(sentence1='nan', sentence2='None')),
    ('pawsx', dict(id=NULL)), ('pawsx', dict(id=0)), ('pawsx', dict(label='1')), ('pawsx', dict(label='paraphrase')),
    ('stsb', dict(label=0)), ('stsb', dict(label=5.0)), ('stsb', dict(label='3.75')),
    ('xquad', dict(answers=answers([], []))), ('xquad', dict(answers=answers(['elsewhere'], [-5]))),
    ('xquad', dict(id=17)),
    ('copa', dict(label='1')), ('csqa', dict(choices=choices(['A', 'B', 'C'], ['a', '', 'c']))),
    ('hellaswag', dict(label=1)), ('siqa', dict(label=3)), ('panx', dict(ner_tags=['O'])),
    ('mnli', dict(premise='x'*50_000)), ('tatoeba', dict(source_sentence='\ufeffHallo.'))]
UNLABELLED = [
    ('pawsx', dict(label=-1)), ('mnli', dict(label=-1)), ('stsb', dict(label=-1.0)), ('xnli', dict(gold_label='-')),
    ('copa', dict(label=NULL)), ('csqa', dict(answerKey='')), ('hellaswag', dict(label='')), ('siqa', dict(label=''))]


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch, store):
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path/'mirror'))
    return tmp_path/'mirror'


def where(task): return WHERE.get(task, ('test', 'de'))


def read(mirror, task, *rows):
    "Rows of a task, read from a mirror that contains the given rows"
    split, lang = where(task)
    source = MIRROR_SOURCES[task][-1]
    config = source.config(lang) or 'default'
    repository(mirror, source.repo, {source.splits[split]: rows}, config, features=TYPES.get(task))
    return load('mirror', task, split, lang)


@pytest.mark.parametrize('task', SOUND)
def test_sound_rows_are_read(task, mirror):
    "Sound rows are read; a line of a bitext becomes two rows."
    assert len(read(mirror, task, SOUND[task]))==(2 if tasks[task].kind=='retrieval' else 1)


@pytest.mark.parametrize('task, column, i', CASES)
def test_an_odd_row_is_refused(task, column, i, mirror):
    "The error is one sentence with the origin and the task, the row and the column."
    with pytest.raises(ValueError) as e: read(mirror, task, SOUND[task]|{column: ODD[task][column][i]})
    message = str(e.value)
    assert message.startswith(f'mirror: {task} in ') and '1 of ' in message and ' row ' in message
    assert '\n' not in message and len(message)<500
    named = [column, f'column {OURS.get(column)}', 'longer than 100,000 characters']
    if column=='id': named.append('language')
    assert any(o in message for o in named), message


@pytest.mark.parametrize('task, change', VALID)
def test_an_unusual_row_is_used(task, change, mirror): assert read(mirror, task, SOUND[task]|change)


@pytest.mark.parametrize('task, change', UNLABELLED)
def test_a_row_without_a_label_is_left_out(task, change, mirror):
    "Rows without a label are left out with a note, also in test sets; a split without other rows is an error."
    split, lang = where(task)
    other = dict(SOUND[task])
    if 'id' in other: other['id'] = 2*other['id']
    assert len(read(mirror, task, SOUND[task], other|change))==1
    note = left_out_note('mirror', task, split, lang)
    assert note==f'mirror: {task} in {lang}, {split}: 1 of 2 rows have no label and are left out'
    with pytest.raises(ValueError, match='none of 1 rows has a label'): read(mirror, task, SOUND[task]|change)


@pytest.mark.parametrize('task, column', [
    ('xnli', 'language'), ('pawsx', 'label'), ('panx', 'tokens'), ('csqa', 'choices'), ('siqa', 'answerB')])
def test_missing_columns_are_named(task, column, mirror):
    "The error names the task and the missing column."
    row = {k: v for k, v in SOUND[task].items() if k!=column}
    with pytest.raises(ValueError, match=f"{task} in .*: column '{column}' is not in "): read(mirror, task, row)


@pytest.mark.parametrize('ids', [('a', 'a'), (7, 7)])
def test_an_id_twice_is_an_error(ids, mirror):
    "A repeated id is an error."
    rows = [SOUND['xquad']|dict(id=o) for o in ids]
    with pytest.raises(ValueError, match='mirror: xquad in de, test: .*the id occurs 2 times'):
        read(mirror, 'xquad', *rows)


def test_a_row_without_an_id_is_called_by_its_number(mirror):
    "A row without an id gets its number as id."
    rows = [SOUND['xquad']|dict(id=o) for o in (0, None)]
    assert [o['id'] for o in read(mirror, 'xquad', *rows)]==['0', '1']


def test_every_broken_row_counts(mirror):
    "Two hundred rows with one id count as two hundred broken rows, too many to be left out of a training set."
    good = [SOUND['pawsx']|dict(id=i) for i in range(1, 401)]
    twins = [SOUND['pawsx']|dict(id=0) for _ in range(200)]
    with pytest.raises(ValueError, match='200 of 600 rows cannot be used: row 0: the id occurs 200 times'):
        read_english(mirror, good+twins)
    assert len(read_english(mirror, [*good, SOUND['pawsx']|dict(id=0, sentence1=None)]))==400
    note = ('1 of 401 rows cannot be used: row number 400: column sentence1 holds None, not a text; '
        'they are left out of training')
    assert note in left_out_note('mirror', 'pawsx')


def read_english(mirror, rows):
    repository(mirror, 'google/xtreme', dict(train=rows), 'PAWS-X.en')
    return load('mirror', 'pawsx', 'train')


def test_every_row_has_as_many_choices(mirror):
    "A row with another number of choices than most is an error."
    two = SOUND['csqa']|dict(id='c2')
    three = SOUND['csqa']|dict(id='c3', choices=choices(['A', 'B', 'C'], ['a', 'b', 'c']))
    with pytest.raises(ValueError, match='row c3: column choices holds 3, but most rows have 2'):
        read(mirror, 'csqa', SOUND['csqa'], two, three)


LAREQA = dict(id='q1', question='Who?', context='Anna left.', answers=answers(['Anna'], [0]), sentences=['Anna left.'],
    sentence_breaks=[[0, 10]])
ODD_ANSWERS = [
    dict(id=NULL), dict(question=NULL), dict(context=NULL), dict(answers=NULL), dict(answers=answers([], [])),
    dict(answers=answers(['Anna'], [None])), dict(sentences=NULL), dict(sentences=[5]), dict(sentence_breaks=NULL),
    dict(sentence_breaks=[[0]]), dict(sentence_breaks=[0, 10]), dict(sentence_breaks=[[20, 30]])]


def test_sound_answers_are_read(mirror):
    "A sound row of LAReQA gives a query and a candidate."
    repository(mirror, 'google-research-datasets/lareqa', dict(validation=[LAREQA]), 'xquad-r.de')
    assert [o['side'] for o in load('mirror', 'lareqa', 'test', 'de')]==['candidate', 'query']


@pytest.mark.parametrize('change', ODD_ANSWERS)
def test_odd_answers_are_refused(change, mirror):
    "A malformed row of LAReQA is an error that names the row and the column."
    repository(mirror, 'google-research-datasets/lareqa', dict(validation=[LAREQA|change]), 'xquad-r.de')
    message = 'mirror: lareqa in de, .*: row number 0: .*(column|in no sentence of its context)'
    with pytest.raises(ValueError, match=message):
        load('mirror', 'lareqa', 'test', 'de')


@pytest.mark.parametrize('form', ['csv', 'json'])
def test_null_and_na_are_texts(form, mirror):
    "Words of a CSV file are not missing values."
    words = ('null', 'NULL', 'nan', 'None', 'N/A', '#N/A', 'n/a')
    rows = [SOUND['xnli']|dict(sentence1=o, sentence2='NA') for o in words]
    repository(mirror, 'google/xtreme', dict(test=rows), 'XNLI', form)
    assert [(o['text_a'], o['text_b']) for o in load('mirror', 'xnli', 'test', 'de')]==[(o, 'NA') for o in words]


ODD_TEXTS = [
    dict(text=None, source='wiki'), dict(text=5, source='wiki'), dict(text='Habari.', source=None),
    dict(text=['Habari.'], source='wiki')]


@pytest.mark.parametrize('row', ODD_TEXTS)
def test_odd_plain_text(row, mirror):
    "A malformed row of plain text is an error that names the file, the row and the column."
    import pyarrow as pa
    import pyarrow.parquet as pq
    (mirror/'text').mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), mirror/'text'/'sw.parquet')
    with pytest.raises(ValueError, match='text/sw.parquet of the mirror, row 0: column (text|source) holds'):
        plain_text('mirror', 'sw', 5)
