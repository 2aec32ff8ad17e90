"""What a user can do wrong at the command line, and what a machine can lack.

Each gives one message and an exit code, never a traceback.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xstilts.cli import main

root = Path(__file__).parents[2]
STUDY = """study: small
report: 60_intermediate_tasks
data: mini
model: random:mini
intermediate: none
target: tatoeba
seed: 0
languages: de
eval_limit: 10
layer: 1
"""


@pytest.fixture(scope='module')
def planned(tmp_path_factory):
    "A study file whose rows are in the store"
    folder = tmp_path_factory.mktemp('planned')
    (folder/'small.yaml').write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XSTILTS_ARTIFACTS', str(folder/'store'))
        assert main(['plan', str(folder/'small.yaml')])==0
    return folder


@pytest.mark.parametrize('verb', ['plan', 'status'])
def test_a_plan_imports_nothing_heavy(verb, planned):
    "A plan imports neither torch nor libraries that read tables, unless torch has to report a GPU."
    from xstilts.learn.recipe import gpu_build
    heavy = ['transformers', 'pandas', 'datasets', 'scipy', 'papermill']
    if not gpu_build(): heavy.append('torch')
    code = f"""
import sys
from xstilts.cli import main
main([{verb!r}, 'small.yaml'])
print([o for o in {heavy} if o in sys.modules])
"""
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(planned/'store'), PYTHONPATH=str(root))
    res = subprocess.run([sys.executable, '-c', code], cwd=planned, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr
    assert res.stdout.splitlines()[-1]=='[]'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty folder in which every verb starts"
    (tmp_path/'params').mkdir()
    (tmp_path/'params'/'small.yaml').write_text(STUDY)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\n')
    (tmp_path/'latin.yaml').write_bytes('study: caf\xe9\n'.encode('latin-1'))
    monkeypatch.chdir(tmp_path)
    for o in ('ARTIFACTS', 'REPORTS', 'MIRROR', 'FOLDERS'): monkeypatch.delenv(f'XSTILTS_{o}', raising=False)
    return tmp_path


def refused(capsys, *argv, code=2):
    "Check for one message on stderr, nothing on stdout and no traceback; return the message"
    assert main(list(argv))==code, argv
    out, err = capsys.readouterr()
    assert err.startswith('xstilts: ') and 'Traceback' not in err, err
    assert out=='', out
    return err.removeprefix('xstilts: ')


OF_A_STUDY = ('plan', 'run', 'status', 'retry')
WRONG = [  # arguments, and words of the message
    ((), 'Missing command'),
    (('plam', 'small'), "No such command 'plam'. Did you mean 'plan'?"),
    (('--verbose',), 'No such option: --verbose'),
    (('init',), "Missing argument 'DIR'"),
    (('init', ''), "'DIR': it is empty"),
    (('init', 'settings.ini'), 'settings.ini is a file'),
    (('init', '.'), 'settings.ini already, and nothing is overwritten'),
    (('init', 'settings.ini/below'), 'settings.ini'),
    *(((verb,), "Missing argument 'STUDY'") for verb in OF_A_STUDY),
    *(((verb, ''), "'STUDY': it is empty") for verb in OF_A_STUDY),
    *(((verb, 'smal'), 'no study file') for verb in OF_A_STUDY),
    *(((verb, 'params'), 'no study file') for verb in OF_A_STUDY),
    *(((verb, 'settings.ini/x.yaml'), 'no study file') for verb in OF_A_STUDY),
    *(((verb, 'latin.yaml'), 'UTF-8|utf-8') for verb in OF_A_STUDY),
    *(((verb, 'small', 'small'), 'unexpected extra argument(s) (small)') for verb in OF_A_STUDY),
    *(((verb, 'small', '--jsn'), 'No such option: --jsn') for verb in OF_A_STUDY),
    *(((verb, 'small', '--jobs', 'many'), "'--jobs': 'many' is not a whole number") for verb in ('run', 'retry')),
    (('plan', 'x'*300), 'File name too long'),
    (('logs',), "Missing argument 'NODE'"),
    (('logs', ''), "'NODE': it is empty"),
    (('logs', 'score-nothing'), "no failed node matches 'score-nothing'"),
    (('report',), "Missing argument 'STUDY_OR_NODE'"),
    (('report', ''), "'STUDY_OR_NODE': it is empty"),
    (('report', 'score-nothing'), "'score-nothing'"),
    (('report', 'score-nothing', '--same-data'), '--same-data is for the report of a study'),
    (('publish',), 'no study has been rendered'),
    (('publish', 'small'), 'unexpected extra argument(s) (small)'),
    (('publish', '--to', ''), "'--to': it is empty"),
    (('data', 'minni'), "unknown data origin 'minni', did you mean 'mini'?"),
    (('data', 'mini', 'hub'), 'unexpected extra argument(s) (hub)'),
    (('data', 'mirror'), 'there is no mirror in'),
    (('data', '--yes'), '--yes answers the question of --fetch'),
    (('data', '--fetch'), "Option '--fetch' requires an argument"),
    (('data', '--fetch', 'smal'), 'no study file'),
    (('data', '--fetch', 'small', '--json'), '--fetch downloads'),
    (('export',), "Missing argument 'STUDY_OR_NODE'|Missing option '--to'"),
    (('export', 'small'), "Missing option '--to'"),
    (('export', 'small', '--to', ''), "'--to': it is empty"),
    (('export', 'small', '--to', 'settings.ini'), 'settings.ini is not a folder'),
    (('export', 'small', '--to', 'out'), '1 of 1 experiments have no predictions'),
    (('export', 'score-nothing', '--to', 'out'), 'experiments match'),
    (('export', '--hf', 'score-nothing', '--to', 'out'), "no experiments or trainings match 'score-nothing'"),
    (('export', '--hf', 'small', '--to', 'out', '--part'), '--part is for predictions'),
    (('score',), "Missing option '--predictions'"),
    (('score', '--predictions', 'no', '--labels', 'no'), 'no folder no'),
    (('score', '--predictions', 'settings.ini', '--labels', 'params'), 'no folder settings.ini'),
    (('score', '--predictions', 'params', '--labels', 'params', '--suite', 'glue'), "'glue'"),
    (('score', '--predictions', 'params', '--labels', 'params', '--output', 'no/scores.json'),
        'its folder does not exist'),
    (('doctor', 'now'), 'unexpected extra argument(s) (now)')]


@pytest.mark.parametrize('argv, words', WRONG, ids=[' '.join(o)[:60] or 'nothing' for o, _ in WRONG])
def test_wrong_arguments_are_one_message(argv, words, folder, capsys):
    "Wrong arguments give exit code 2 before anything is created."
    message = refused(capsys, *argv)
    assert any(o in message for o in words.split('|')), message
    assert not (folder/'out').exists() and not (folder/'reports').exists()


def test_every_verb_is_tried():
    "The list of wrong arguments includes every verb."
    from xstilts.cli import app
    verbs = {o.name for o in app.registered_commands}
    assert {o[0] for o, _ in WRONG if o and o[0] in verbs}==verbs


READS = [('plan', 'small'), ('status', 'small'), ('logs', 'x'), ('export', 'small', '--to', 'out', '--part'),
    ('export', '--hf', 'x', '--to', 'out')]
WRITES = [('run', 'small'), ('retry', 'small'), ('report', 'small')]


@pytest.mark.parametrize('argv', READS+WRITES, ids=' '.join)
@pytest.mark.parametrize('place', ['file', 'file/below', '/proc/no-such/store'])
def test_a_store_that_cannot_be(place, argv, folder, capsys, monkeypatch):
    "The store may not be a file, a folder below a file, or a place where no folder can be created."
    (folder/'file').touch()
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(folder/place))
    message = refused(capsys, *argv)
    assert message.count('\n')==1 and 'the store' in message and 'XSTILTS_ARTIFACTS' in message


@pytest.mark.parametrize('argv', [*WRITES, ('publish',)], ids=' '.join)
def test_reports_that_cannot_be(argv, folder, capsys, monkeypatch):
    "An unusable folder of reports is an error before training, not after it."
    (folder/'file').touch()
    monkeypatch.setenv('XSTILTS_REPORTS', str(folder/'file'))
    message = refused(capsys, *argv)
    assert message.count('\n')==1 and 'file is not a folder' in message and 'XSTILTS_REPORTS' in message
    assert not (folder/'artifacts').exists()


@pytest.mark.parametrize('argv', WRITES, ids=' '.join)
def test_a_read_only_store(argv, folder, capsys, monkeypatch):
    "A read-only store is an error; since root may write anywhere, the system's answer is simulated."
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    message = refused(capsys, *argv)
    assert message.count('\n')==1 and 'cannot be written to: set artifacts_path in settings.ini' in message


def test_a_read_only_store_is_named_on_first_use(folder, capsys, monkeypatch):
    "The error names the store as soon as a plan has to write to it."
    def mkdir(self, *a, **kw): raise PermissionError(13, 'Permission denied', str(self))
    monkeypatch.setattr(Path, 'mkdir', mkdir)
    message = refused(capsys, 'plan', 'small')
    assert message.count('\n')==1 and 'Permission denied' in message
    assert 'the store is' in message and 'artifacts_path in settings.ini' in message


def test_settings_that_are_none(folder, capsys):
    "A malformed settings.ini is an error that names the file."
    (folder/'settings.ini').write_text('params_path = params\n')
    assert 'settings.ini' in refused(capsys, 'plan', 'small')


def test_a_bug_of_ours_shows_where(folder, monkeypatch):
    "Only errors of users and machines become one sentence; a bug keeps its traceback."
    import xstilts.run.study
    def broken(path): raise KeyError('ours')
    monkeypatch.setattr(xstilts.run.study, 'load_study', broken)
    with pytest.raises(KeyError): main(['plan', 'small'])


def test_an_interrupt_is_no_traceback(folder, capsys, monkeypatch):
    "An interrupt ends with exit code 130 and no traceback."
    import xstilts.run.study
    def stop(path): raise KeyboardInterrupt
    monkeypatch.setattr(xstilts.run.study, 'load_study', stop)
    assert 'interrupted' in refused(capsys, 'plan', 'small', code=130)


def test_nobody_answers_the_question(folder, capsys, monkeypatch):
    "Without a keyboard to confirm a download, nothing is downloaded."
    import io
    from xstilts.share import fetch
    found = [fetch.Repository('models', 'a/b', '123', 5, False)]
    monkeypatch.setattr(fetch, 'repositories', lambda wanted: found)
    monkeypatch.setattr(sys, 'stdin', io.StringIO(''))
    assert main(['data', '--fetch', 'small'])==2
    assert '--yes downloads without asking' in capsys.readouterr().err


@pytest.mark.parametrize('buffered', [True, False], ids=['buffered', 'unbuffered'])
@pytest.mark.parametrize('argv', [('plan', 'small.yaml'), ('data', 'mini'), ('--help',)], ids=['plan', 'data', 'help'])
def test_output_that_nobody_reads(argv, buffered, planned):
    "A closed output ends the program quietly with 141, the exit code that a shell gives after SIGPIPE."
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(planned/'store'), PYTHONPATH=str(root))
    env['PYTHONUNBUFFERED'] = '' if buffered else '1'
    code = f'import sys; from xstilts.cli import main; sys.exit(main({[*argv]}))'
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, '-c', code]
    res = subprocess.run(command, cwd=planned, env=env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert res.returncode==141 and res.stderr==''


def test_a_full_disk_behind_the_output(planned):
    "If the output is on a full disk, the error says so with exit code 2."
    env = dict(os.environ, XSTILTS_ARTIFACTS=str(planned/'store'), PYTHONPATH=str(root))
    if not Path('/dev/full').exists(): pytest.skip('this system has no /dev/full')
    code = 'import sys; from xstilts.cli import main; sys.exit(main(["plan", "small.yaml"]))'
    command = [sys.executable, '-c', code]
    with open('/dev/full', 'w') as full:
        res = subprocess.run(command, cwd=planned, env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert res.returncode==2 and 'make room on the disk' in res.stderr and 'Traceback' not in res.stderr


SHAPES = [(('plan', 'small.yaml'), list), (('status', 'small.yaml'), dict), (('data', 'mini'), list)]

@pytest.mark.parametrize('argv, shape', SHAPES, ids=['plan', 'status', 'data'])
def test_json_is_alone_on_stdout(argv, shape, planned, monkeypatch, capfd):
    "Only JSON is written to stdout; messages of libraries go elsewhere."
    monkeypatch.chdir(planned)
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(planned/'store'))
    assert main([*argv, '--json'])==0
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, shape) and found


@pytest.mark.parametrize('argv', [('plan', 'small.yaml'), ('data', 'mini'), ('data', 'hub')], ids=' '.join)
def test_columns_are_apart(argv, planned, monkeypatch, capsys):
    "Columns are aligned and separated by two spaces."
    monkeypatch.chdir(planned)
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(planned/'store'))
    assert main([*argv])==0
    lines = [o for o in capsys.readouterr().out.splitlines() if ' nodes: ' not in o]
    second = lines[0].index(lines[0].split()[1])
    assert all(o[second-2:second]=='  ' for o in lines)


def rows_of_doctor(capsys):
    "The output of `doctor`: name -> passed, and the text"
    code = main(['doctor'])
    out = capsys.readouterr().out
    rows = {o.split(':')[0].split(maxsplit=1)[1]: o.startswith('ok') for o in out.splitlines()}
    assert code==(0 if all(rows.values()) else 1)
    return rows, out


@pytest.fixture
def doctor(folder, monkeypatch):
    "`doctor` without the checks that take seconds"
    import xstilts.cli as cli
    quick = {k: v for k, v in cli.CHECKS.items() if k not in ('device', 'miniature encoder')}
    monkeypatch.setattr(cli, 'CHECKS', quick)
    return folder


def test_doctor_finds_nothing_where_nothing_is_wrong(doctor, capsys):
    "In a sound installation every check passes."
    rows, out = rows_of_doctor(capsys)
    assert all(rows.values()), out


@pytest.mark.parametrize('name, text, row, words', [
    ('settings.ini', '[DEFAULT]\nartifacts_path = latin.yaml\n', 'store',
        'latin.yaml is not a folder: set artifacts_path'),
    ('settings.ini', '[DEFAULT]\nreports_path = latin.yaml\n', 'reports',
        'latin.yaml is not a folder: set reports_path'),
    ('settings.ini', '[DEFAULT]\nmirror = latin.yaml\n', 'mirror', 'latin.yaml is not a folder: set mirror'),
    ('settings.ini', '[DEFAULT]\nkernel_name = pythn3\n', 'kernel', "unknown kernel 'pythn3', did you mean 'python3'?"),
    ('settings.ini', 'kernel_name = python3\n', 'settings.ini', 'no section headers'),
    ('params/models.yaml', 'tiny:\n  layers: 1\n', 'models of your own', "did you mean 'layer'?"),
    ('params/models.yaml', 'tiny: {layer: 1\n', 'models of your own', 'while parsing|models.yaml'),
    ('params/revisions.lock', 'models: {a', 'revisions', 'not readable as YAML')])
def test_doctor_finds_what_is_wrong(name, text, row, words, doctor, capsys):
    "Exactly one check fails and says what to do, and all checks are listed."
    from xstilts.cli import CHECKS
    (doctor/name).write_text(text)
    rows, out = rows_of_doctor(capsys)
    assert not rows[row] and any(o in out for o in words.split('|')), out
    assert list(rows)==list(CHECKS)


def test_doctor_finds_a_read_only_store(doctor, capsys, monkeypatch):
    "A read-only store fails two checks, with a remedy."
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    rows, out = rows_of_doctor(capsys)
    assert not rows['store'] and not rows['reports'] and 'cannot be written to: set artifacts_path' in out


def test_doctor_finds_a_kernel_whose_program_is_gone(doctor, capsys, monkeypatch):
    "A kernel whose environment was deleted fails a check."
    kernel = doctor/'jupyter'/'kernels'/'gone'
    kernel.mkdir(parents=True)
    spec = dict(argv=['/no/such/python', '-m', 'ipykernel'], display_name='gone', language='python')
    (kernel/'kernel.json').write_text(json.dumps(spec))
    monkeypatch.setenv('JUPYTER_PATH', str(doctor/'jupyter'))
    (doctor/'settings.ini').write_text('[DEFAULT]\nkernel_name = gone\n')
    rows, out = rows_of_doctor(capsys)
    assert not rows['kernel'] and '/no/such/python, which does not exist' in out
