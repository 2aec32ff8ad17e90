"""Malformed and odd study files: each gives one ValueError that says what is wrong, and no other exception."""
import time

import pytest
from xstilts.core.config import settings
from xstilts.run.study import check, load_study

SOUND = dict(study='a', report='60_intermediate_tasks', data='mini', model='mini', intermediate='[none, mnli]',
    target='[xnli, tatoeba]', seed='[0, 1]')

# (setting, value as written, words of the error); a value of None leaves the line out
VALUES = (
    # text stays text
    ('intermediate', '[none, no]', "line 5: unknown intermediate task 'no', did you mean 'none'?"),
    ('intermediate', '[none, null]', "line 5: unknown intermediate task 'null'"),
    ('intermediate', '[none, 12]', "line 5: unknown intermediate task '12'"),
    ('intermediate', '[none, true]', "line 5: unknown intermediate task 'true'"),
    ('intermediate', '[none, 2024-01-01]', "line 5: intermediate '2024-01-01'"),
    ('intermediate', '~', "line 5: intermediate '~'"),
    ('model', '12', "line 4: unknown model '12'"),
    ('model', '[mini, null]', "line 4: unknown model 'null'"),
    ('model', 'true', "line 4: unknown model 'true'"),
    ('model', '1.10', "line 4: model '1.10'"),
    ('model', '2024-01-01', "line 4: unknown model '2024-01-01'"),
    ('model', '0x1f', "line 4: unknown model '0x1f'"),
    ('target', 'off', "line 6: unknown target task 'off'"),
    ('data', 'null', "line 3: unknown data origin 'null'"),
    ('data', 'yes', "line 3: unknown data origin 'yes'"),
    ('report', '60', "line 2: unknown report notebook '60'"),
    # missing values
    ('model', '', 'line 4: model has no value'),
    ('model', '[]', 'line 4: model has no value'),
    ('model', "[mini, '']", "line 4: unknown model ''"),
    ('seed', '', 'line 7: seed has no value'),
    ('eval_limit', '', 'line 8: eval_limit has no value'),
    ('languages', '', 'line 8: languages has no value'),
    ('target_lr', '[]', 'line 8: target_lr has no value'),
    ('model', None, '`model` is missing'),
    ('study', None, '`study` is missing'),
    # names of studies
    ('study', '~', "study '~' cannot name a folder"),
    ('study', 'null', "study 'null' cannot name a folder"),
    ('study', 'NaN', "study 'NaN' cannot name a folder"),
    ('study', '.nan', "study '.nan' cannot name a folder"),
    ('study', '2024-01-01', "study '2024-01-01' cannot name a folder"),
    ('study', '1:30', "study '1:30' cannot name a folder"),
    ('study', 'true', "study 'true' cannot name a folder"),
    ('study', 'site', 'reports/ holds something else of that name'),
    ('study', 'benchmarks', 'reports/ holds something else of that name'),
    ('study', 'Gallery', 'reports/ holds something else of that name'),
    ('study', 'results', 'reports/ holds something else of that name'),
    ('study', 'README.md', 'reports/ holds something else of that name'),
    ('study', 'a.', 'ends with a dot or a space'),
    ('study', "'a '", 'ends with a dot or a space'),
    ('study', 'CON', 'Windows has a device of that name'),
    ('study', 'lpt1.x', 'Windows has a device of that name'),
    ('study', 'x'*101, 'it has 101 bytes, more than 100'),
    ('study', 'x'*256, 'it has 256 bytes'),
    ('study', '日'*40, 'it has 120 bytes'),
    ('study', '../x', 'cannot name a folder'),
    ('study', '_static', 'cannot name a folder'),
    ('study', '[a, b]', 'study takes one value, not a list'),
    # reports
    ('report', '50_stage', "unknown report notebook '50_stage'"),
    ('report', '51_experiment', "unknown report notebook '51_experiment'"),
    ('report', '90_benchmark', "unknown report notebook '90_benchmark'"),
    ('report', '../nbs/60_intermediate_tasks', 'unknown report notebook'),
    ('report', '/somewhere/else/60_mine', 'unknown report notebook'),
    ('report', '60_intermediate_task', "did you mean '60_intermediate_tasks'?"),
    # seeds
    ('seed', 'true', "seed must be a whole number, at least 0"),
    ('seed', '1.0', 'seed must be a whole number'),
    ('seed', '-1', 'seed must be a whole number'),
    ('seed', str(2**63), 'seed must be a whole number'),
    ('seed', '1e30', 'seed must be a whole number'),
    ('seed', "'1'", "not '1'; leave the quotes out"),
    ('seed', '9'*5000, 'seed must be a whole number'),
    ('seed', '0b1', 'seed must be a whole number'),
    ('seed', '1_000', 'seed must be a whole number'),
    ('seed', '1:30', 'seed must be a whole number'),
    ('seed', '2024-01-01', 'seed must be a whole number'),
    # twice
    ('intermediate', '[none, none]', "intermediate contains 'none' twice"),
    ('intermediate', "[none, ' none']", "intermediate ' none' is the same as 'none'"),
    ('intermediate', '[none, mnli+squad_v1+mnli]', 'mnli occurs twice'),
    ('seed', '[1, 01]', 'seed contains 1 twice'),
    ('target_lr', '[0.001, 1e-3]', 'target_lr contains 0.001 twice'),
    ('target', '[xnli, xnli]', "target contains 'xnli' twice"),
    ('intermediate', 'mnli', 'intermediate needs `none`'),
    # types
    ('target_epochs', '2.5', 'line 8: target_epochs must be a whole number, at least 1'),
    ('target_epochs', '"2"', 'leave the quotes out'),
    ('target_dropout', "'0.1'", 'leave the quotes out'),
    ('layer', '"3"', 'leave the quotes out'),
    ('target_freeze', '"no"', 'target_freeze must be true or false'),
    ('target_freeze', 'no', 'target_freeze must be true or false'),
    ('target_freeze', '1', 'target_freeze must be true or false'),
    ('target_freeze', "'true'", "target_freeze must be true or false, not 'true'; leave the quotes out"),
    ('dual', 'on', 'dual must be true or false'),
    ('eval_limit', '-5', 'eval_limit must be a whole number, at least 0'),
    ('eval_limit', '.inf', 'eval_limit must be a whole number'),
    ('eval_limit', '1e30', 'eval_limit must be a whole number'),
    ('eval_limit', 'true', 'eval_limit must be a whole number'),
    ('target_lr', 'true', 'target_lr must be a number, above 0 and at most 1'),
    ('target_lr', '0', 'target_lr must be a number'),
    ('target_lr', 'fast', 'target_lr must be a number'),
    ('target_lr', '.nan', 'target_lr must be a number'),
    ('target_lr', '1e-400', 'target_lr must be a number'),
    ('target_lr', '1e400', 'target_lr must be a number'),
    ('target_train_limit', '2.5', 'target_train_limit must be a whole number'),
    ('target_train_limit', '1e3', 'target_train_limit must be a whole number'),
    ('target_train_from', '5', "unknown split of mnli in train_from '5'"),
    ('target_train_from', 'a:b:c', 'target_train_from must be a split, or pairs task:split'),
    ('target_train_from', 'dev mnli:dev', 'target_train_from must be a split, or pairs task:split'),
    ('target_match', '5', 'target_match must be the code of a language'),
    ('target_match', 'zz', "unknown language of target_match 'zz'"),
    ('pretrain_replace', '0 36', 'pretrain_replace must be shares from 0 to 1'),
    ('pretrain_langs', 'English', 'pretrain_langs must be codes of languages'),
    ('pretrain_seed', '1.5', 'pretrain_seed must be a whole number'),
    ('pretrain_mask', '0', 'pretrain_mask must be a number, above 0'),
    # ranges
    ('target_clip', '-1', 'target_clip must be a number, above 0'),
    ('target_dropout', '1.0', 'target_dropout must be a number, at least 0 and below 1'),
    ('target_dropout', '-0.5', 'target_dropout must be a number'),
    ('target_warmup', '2', 'target_warmup must be a number, at least 0 and at most 1'),
    ('intermediate_weight_decay', '-1', 'intermediate_weight_decay must be a number'),
    ('target_batch_size', '1e30', 'target_batch_size must be a whole number'),
    ('target_threads', '100000', 'target_threads must be a whole number, at least 1 and at most 1,024'),
    ('target_mlm_rate', '1', 'target_mlm_rate must be a number, at least 0 and below 1'),
    ('target_temperature', '0', 'target_temperature must be a number, above 0'),
    ('target_beta2', '1', 'target_beta2 must be a number'),
    ('target_max_length', '1', 'target_max_length must be a whole number, at least 8'),
    ('layer', '99', 'layer 99: mini has 4 layers'),
    ('layer', '-1', 'layer must be a whole number, at least 0'),
    ('layer', '1000', 'layer must be a whole number, at least 0 and at most 200'),
    # names in settings, and settings that need each other
    ('target_schedule', 'linnear', "did you mean 'linear'?"),
    ('target_optimiser', 'adam', "did you mean 'adamw'?"),
    ('target_recipe', 'xtrem', "did you mean 'xtreme'?"),
    ('runtime', 'onxx', "did you mean 'onnx'?"),
    ('runtime', 'int8', 'line 8: runtime int8 is built for tasks with a head; tatoeba has none'),
    ('head', 'text2text', 'line 8: head text2text needs a model of the mT5 family'),
    ('languages', 'deu', "unknown language 'deu'"),
    ('languages', 'fi', 'none of the languages fi'),
    ('target_select', 'best', 'line 8: select: best needs scores to compare'),
    ('target_patience', '3', 'line 8: patience needs scores to compare'),
    ('target_mlm_languages', 'en German', 'target_mlm_languages must be codes of languages'),
    ('target_lrr', '1', "line 8: unknown setting 'target_lrr', did you mean 'target_lr'?"),
    ('yes', '1', "unknown setting 'yes'"),
    ('target_lr', '{a: 1}', 'target_lr: studies are flat'),
    ('target_lr', '[[0.1], 0.2]', 'a list may contain only strings and numbers'),
    # paths and characters that no file name may contain
    ('model', 'x/'+'y'*300, 'a name in a path has at most 255 bytes'),
    ('model', '"a\\0/b"', "there is no folder 'a\\x00/b'"),
    ('model', '"\\uD800/x"', "there is no folder '\\ud800/x'"),
    ('model', '../../..', 'has no config.json'),
)

FORMS = (
    ('', '`study` is missing'),
    ('{}', '`study` is missing'),
    ('# nothing\n', '`study` is missing'),
    ('just text', 'a file is a list of assignments'),
    ('- study\n- report\n', 'a file is a list of assignments'),
    ('study: a\n---\nstudy: b\n', 'not readable as YAML: expected a single document'),
    ('study: a\nstudy: b\n', "line 2: 'study' is given twice, first on line 1"),
    ('study: [a\n', 'line 2: not readable as YAML'),
    ('study: "a\n', 'not readable as YAML'),
    ('study: a: b\n', 'line 1: not readable as YAML'),
    ('\tstudy: a\n', 'not readable as YAML'),
    ('study: @a\n', 'not readable as YAML'),
    ('study: !!python/object/apply:os.system [ls]\n', "the tag '!!python/object/apply:os.system' is not read"),
    ('study: !!python/name:os.system\n', 'is not read'),
    ('study: !foo a\n', "the tag '!foo' is not read"),
    ('seed: !!int "3"\n', "the tag '!!int' is not read"),
    ('? [a, b]\n: 1\n', 'line 1: a name must be a string, not a list or a mapping'),
    ('? {a: b}\n: 1\n', 'line 1: a name must be a string, not a list or a mapping'),
    ('{[a]: 1, study: b}\n', 'a name must be a string'),
    ('study: {a: {b: c}}\n', 'study: studies are flat'),
    ('study: *gone\n', "undefined alias 'gone'"),
    ('seed: &a [*a]\n', 'a list may contain only strings and numbers'),
    ('a: &a {<<: *a}\n', 'a mapping contains itself'),
    ('study: "\\UFFFFFFFF"\n', 'not readable as YAML'),
    ('study: "\\q"\n', 'not readable as YAML'),
    ('study: a\0\n', 'is not allowed in YAML'),
    ('%YAML 9.9\n---\nstudy: a\n', 'not readable as YAML'),
    ('seed: '+'['*5000+']'*5000, 'nested more than 12 deep'),
    ('seed: '+'{a: '*5000+'}'*5000, 'nested more than 12 deep'),
    ('seed:\n'+''.join(f"{' '*i}-\n" for i in range(1200)), 'nested more than 12 deep'),
    ('seed: ['+'1, '*5_000_000+']', 'more than 1,000,000 bytes'),
    ('seed: ['+'1, '*300_000+']', 'more than 20,000 values'),
    ('model: ['+'minni, '*9000+']', "unknown model 'minni'"),
    ('seed: '+'7'*900_000, 'seed must be a whole number'),
    ('model: '+'x'*900_000, '(900,002 characters)'),
)


@pytest.fixture
def file(tmp_path): return tmp_path/'a.yaml'


def refused(file)->str:
    "The error of a study file: one ValueError whose sentences are short and not repeated"
    with pytest.raises(ValueError) as e: load_study(file)
    assert type(e.value) is ValueError, repr(e.value)
    lines = str(e.value).splitlines()
    assert lines[0]=='a.yaml:' and len(set(lines))==len(lines)<=22 and max(map(len, lines))<2000, lines
    assert 'Traceback' not in str(e.value)
    return str(e.value)


def written(**changed)->str: return ''.join(f'{k}: {v}\n' for k, v in (SOUND|changed).items() if v is not None)


def test_the_sound_one_passes(file):
    "The sound study file passes all checks."
    file.write_text(written())
    assert check(file)==[]


@pytest.mark.parametrize('name,value,words', VALUES, ids=lambda o: str(o)[:30])
def test_value(file, name, value, words):
    "A wrong value is an error with the expected words."
    file.write_text(written(**{name: value}), encoding='utf-8')
    assert words in refused(file)


@pytest.mark.parametrize('text,words', FORMS, ids=lambda o: o[:30].encode('unicode_escape').decode())
def test_form(file, text, words):
    "A malformed file is an error with the expected words, within seconds."
    file.write_text(text, encoding='utf-8')
    began = time.monotonic()
    assert words in refused(file)
    assert time.monotonic()-began<20


def test_bytes_that_are_no_text(file):
    "A file that is not UTF-8 is an error, with its line where possible."
    file.write_bytes(written().encode()+b'languages: \xff\xfe\n')
    assert 'line 8: not text in UTF-8' in refused(file)
    file.write_bytes(written().encode('utf-16'))
    assert 'not text in UTF-8' in refused(file)


def test_no_file(tmp_path):
    "A folder, a name that is too long and a name with a zero byte are no studies."
    for o in (tmp_path, tmp_path/('x'*300), 'a\0b', ''):
        with pytest.raises(ValueError, match='no study file'): load_study(o)


@pytest.mark.parametrize('changed,axis,setting', [
    (dict(study='1.10'), {}, {}),
    (dict(study='12', seed='[0, 010, 0x10]'), dict(seed=[0, 10, 16]), {}),
    (dict(target_eps='1e-6', target_lr='5E-5', target_dropout=0, target_clip='1.'), {},
        dict(target_eps=1e-6, target_lr=5e-5, target_dropout=0, target_clip=1.)),
    (dict(eval_limit=20, target_freeze='true', target_compile='False'), {},
        dict(eval_limit=20, target_freeze=True, target_compile=False)),
    (dict(target_lr='[1e-4, 0.001]'), dict(target_lr=[1e-4, .001]), {}),
    (dict(languages='xtreme'), {}, dict(languages='xtreme')),
    (dict(languages="'en de'", target_train_from="''"), {}, dict(languages='en de', target_train_from='')),
    (dict(target_select='best', target_eval_steps=5, target_patience=2), {},
        dict(target_select='best', target_eval_steps=5, target_patience=2)),
    (dict(seed=2**63-1), dict(seed=[2**63-1]), {}),
    (dict(model='[mini, mini-s]', layer=0), dict(model=['mini', 'mini-s']), dict(layer=0)),
    (dict(target='\n  - xnli\n  - udpos', seed='&s [0, 1]'), dict(target=['xnli', 'udpos'], seed=[0, 1]), {})], ids=str)
def test_what_a_sound_file_means(file, changed, axis, setting):
    "Values keep their types: integers stay integers, and text stays text."
    file.write_text('\ufeff'+written(**changed), encoding='utf-8')
    study = load_study(file)
    assert study.name==str(changed.get('study', 'a'))
    assert {k: study.axes[k] for k in axis}==axis and dict(study.settings)==setting
    assert [type(v) for v in study.settings.values()]==[type(v) for v in setting.values()]


def test_all_errors_in_one_round(file):
    "Errors of form, names, types and axes are reported together, in the order of the lines."
    file.write_text(written(study='site', report='90', model='minni', seed='true', target_lr='fast', lagnuages='en',
        eval_limit='!x 3'))
    mistakes = refused(file).splitlines()[1:]
    assert [o.split(':')[0].strip() for o in mistakes]==[f'line {i}' for i in (1, 2, 4, 7, 8, 9, 10)]


def test_a_report_is_run_from_this_checkout_only(file, tmp_path):
    "A notebook outside the checkout is not executed, whatever its name."
    (tmp_path/'60_mine.ipynb').write_text('{}')
    for o in (tmp_path/'60_mine', '../'*20+str(tmp_path).lstrip('/')+'/60_mine'):
        file.write_text(written(report=o))
        assert 'unknown report notebook' in refused(file)
    assert (settings().nbs_path/'studies'/'60_intermediate_tasks.ipynb').is_file()
