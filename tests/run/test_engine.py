"""A run that leaves work undone reports it and ends, whatever a node, a thread, a kernel or a disk does.

Nothing that a run did not make is removed.
"""
import asyncio
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import nbformat
import pytest
from jupyter_client.kernelspec import NoSuchKernel

from xstilts import cli
from xstilts.report import site
from xstilts.run import engine
from xstilts.run.stages import stages_of
from xstilts.core.store import artifact_path, read_json
from xstilts.run.study import Node, experiments, load_study, plan

root = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    "A store and a folder of reports for each test"
    for o in ('artifacts', 'reports'): monkeypatch.setenv(f'XSTILTS_{o.upper()}', str(tmp_path/o))
    return tmp_path


def node(key, *parents, kind='experiment', notebook='50_stage', **params):
    return Node(kind=kind, key=key, title=key, notebook=notebook, params=MappingProxyType(params), parents=parents,
        result=artifact_path('scores', key))


def graph(*nodes): return {o.key: o for o in nodes}


def study(folder, *parents, name='demo', file='a.yaml'):
    "The report node of a study whose file is in `folder`"
    (folder/file).write_text(f'study: {name}\n')
    report = node(f'report-{name}-01234567', *parents, kind='report', study=str(folder/file))
    return replace(report, result=folder/'reports'/name/f'.{report.key}')


@pytest.fixture
def fake(monkeypatch, store):
    "Nodes without a kernel: `fake.errors[key]` is raised, other nodes create their result; `fake.ran` lists them"
    class Fake:
        errors = {}
        ran = []
    def execute(notebook, to, params, fork):
        Fake.ran.append(to.stem)
        if to.stem in Fake.errors: raise Fake.errors[to.stem]
        if not to.stem.startswith('report-') and to.stem!='lazy': artifact_path('scores', to.stem).touch()
        to.write_text('{"cells": []}')
    monkeypatch.setattr(engine, 'execute', execute)
    return Fake


# How nodes fail

ENDS = [KeyError('x'), NoSuchKernel('gone'), EOFError(), MemoryError(), nbformat.reader.NotJSONError('not JSON'),
    asyncio.CancelledError(), AssertionError('no'), RecursionError()]

@pytest.mark.parametrize('error', ENDS, ids=lambda e: type(e).__name__)
def test_whatever_a_node_ends_in_is_its_failure(error, fake):
    "Any exception is a failure of its node; dependent nodes are not started and the others run."
    fake.errors['b'] = error
    errors = engine.run(graph(node('a'), node('b'), node('c', 'b'), node('d', 'a')), jobs=2)
    assert errors.keys()=={'b', 'c'} and type(error).__name__ in errors['b'] and errors['c']=='not started: b failed'
    assert sorted(fake.ran)==['a', 'b', 'd']
    assert type(error).__name__ in read_json(artifact_path('logs', 'b.json'))['trace']


def test_a_notebook_that_makes_nothing_has_failed(fake):
    "A notebook that does not create its result has failed."
    errors = engine.run(graph(node('lazy')))
    assert 'ended without writing lazy' in errors['lazy']


def test_a_broken_template_fails(store):
    "A notebook that is not JSON fails without starting a kernel."
    (store/'broken.ipynb').write_text('{"cells": [')
    errors = engine.run(graph(node('a', notebook=os.path.relpath(store/'broken', root/'nbs'))), fork=False)
    assert 'JSON' in errors['a']


def test_a_kernel_that_is_not_installed_is_refused_before_anything_runs(fake, monkeypatch):
    "An unknown kernel is refused before anything runs."
    found = replace(engine.settings(), kernel_name='pyhton3')
    monkeypatch.setattr(engine, 'settings', lambda: found)
    with pytest.raises(ValueError, match="unknown kernel 'pyhton3', did you mean 'python3'.*ipykernel install"):
        engine.run(graph(node('a')))
    assert not fake.ran


def test_braces_in_paths(store, monkeypatch):
    "Braces in paths of notebooks and of the store survive papermill, which formats paths."
    folder = store/'{work} {0}'
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(folder/'artifacts'))
    folder.mkdir()
    parameters = nbformat.v4.new_code_cell('x = 1', metadata=dict(tags=['parameters']))
    nb = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell('print(x+1)')])
    nb.metadata['kernelspec'] = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, folder/'stub.ipynb')
    engine.execute(folder/'stub.ipynb', folder/'out.ipynb', dict(x=41), fork=False)
    assert '42' in (folder/'out.ipynb').read_text()
    assert not list(artifact_path('work').glob('*.ipynb'))


# Threads, kernels and outputs that end

def test_what_ends_a_thread_ends_the_run(fake):
    "SystemExit ends the run, not just its node, and the run lists what it leaves undone."
    fake.errors['a'] = SystemExit(0)
    errors = engine.run(graph(node('a'), node('b')), jobs=1)
    assert 'SystemExit' in errors['a'] and errors['b']=='not started: the run stopped at a'


def test_a_thread_that_dies_without_a_word_is_noticed(fake, monkeypatch):
    "A worker thread that ends early is an error."
    monkeypatch.setattr(engine, '_worker', lambda *a: None)
    with pytest.raises(RuntimeError, match='a thread that executes notebooks died'): engine.run(graph(node('a')))


INTERRUPTED = """
import os, signal, sys, threading, time
from xstilts.run import engine
def execute(*a):
    threading.Timer(.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(60)
engine.execute = execute
a = engine.Node(kind='experiment', key='a', title='a', notebook='50_stage', params={}, result=engine.Path('none'))
engine.run(dict(a=a))
"""

def test_ctrl_c_does_not_wait_for_a_notebook():
    "An interrupt does not wait for running notebooks, as a ThreadPoolExecutor would."
    began = time.monotonic()
    res = subprocess.run([sys.executable, '-c', INTERRUPTED], cwd=root, capture_output=True, text=True, timeout=90)
    assert 'KeyboardInterrupt' in res.stderr and time.monotonic()-began<50


def test_a_warm_process_that_does_not_start_ends_the_run(fake):
    "A warm process that cannot start gives one error, not one for each node."
    fake.errors['a'] = engine.Stopped('too little memory')
    errors = engine.run(graph(node('a'), node('b')), jobs=1)
    assert errors==dict(a='too little memory', b='not started: the run stopped at a')
    assert 'Stopped' in read_json(artifact_path('logs', 'a.json'))['trace']


def test_nodes_that_wait_for_each_other_are_not_forgotten(fake):
    "Nodes in a cycle are reported as not started."
    errors = engine.run(graph(node('a', 'b'), node('b', 'a'), node('c')))
    assert errors.keys()=={'a', 'b'} and fake.ran==['c']


def test_a_kernel_that_dies_while_it_starts_fails_its_node(store, monkeypatch):
    "A kernel that dies while starting is a failure of its node."
    def start(target, args):
        p = multiprocessing.get_context('fork').Process(target=os._exit, args=(9,), daemon=True)
        p.start()
        return p
    monkeypatch.setattr(engine, 'start_forked', start)
    monkeypatch.setattr(engine, 'PRELOAD', [])
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1')]), store/'stub.ipynb')
    began = time.monotonic()
    errors = engine.run(graph(node('a', notebook=os.path.relpath(store/'stub', root/'nbs'))), fork=True)
    assert 'Kernel died' in errors['a'] and time.monotonic()-began<30


WARM = """
import os, sys, threading, time
from multiprocessing import forkserver
from xstilts.run import engine
engine.PRELOAD = ['slow']
killed = []
def kill():
    while len(killed)<int(sys.argv[1]):
        pid = forkserver._forkserver._forkserver_pid
        if pid and pid not in killed:
            time.sleep(.2)
            os.kill(pid, 9)
            killed.append(pid)
        time.sleep(.01)
threading.Thread(target=kill, daemon=True).start()
p = engine.start_forked(time.sleep, (0,))
p.join()
print(len(killed), p.exitcode)
"""

@pytest.mark.parametrize('kills', [1, 9])
def test_a_warm_process_killed_while_it_starts(kills, store):
    "It is started again; killed repeatedly, it is an error within seconds."
    (store/'slow.py').write_text('import time; time.sleep(1)')
    env = os.environ|dict(PYTHONPATH=os.pathsep.join([str(store), str(root)]))
    code = [sys.executable, '-c', WARM, str(kills)]
    res = subprocess.run(code, cwd=root, env=env, capture_output=True, text=True, timeout=60)
    if kills==1: assert res.stdout.split()==['1', '0'], res.stderr
    else: assert res.returncode and 'killed again and again while it starts' in res.stderr


SAY = """
import sys
from xstilts.cli import _say
for o in ('stdout', 'stderr')*9: _say('x'*99, o)
sys.exit(1)
"""

@pytest.mark.parametrize('to', ['a closed pipe', '/dev/full'])
def test_output_that_nobody_can_read_ends_nothing(to):
    "A closed output does not end a run, as in `xstilts run demo | head -1`."
    if to=='/dev/full': out = os.open(to, os.O_WRONLY)
    else:
        reader,out = os.pipe()
        os.close(reader)
    res = subprocess.run([sys.executable, '-c', SAY], cwd=root, stdout=out, stderr=out)
    os.close(out)
    assert res.returncode==1


# Full disks

def test_a_full_disk_is_called_that(fake):
    "The error of a full disk says so."
    fake.errors['a'] = FULL
    assert engine.run(graph(node('a')))['a'].startswith('the disk is full: make room, then run again')


def test_a_run_whose_logs_cannot_be_written_stops(fake, monkeypatch):
    "A run that cannot write logs stops and lists what it leaves undone."
    def write_json(*a): raise FULL
    monkeypatch.setattr(engine, 'write_json', write_json)
    fake.errors['a'] = FULL
    errors = engine.run(graph(node('a'), node('b'), node('c', 'a')), jobs=1)
    assert 'its log could not be written' in errors['a'] and fake.ran==['a']
    assert errors['b']=='not started: the run stopped at a' and errors['c']=='not started: a failed'


def test_a_report_that_does_not_fit_fails(fake, store, monkeypatch):
    "On a full disk the report fails, the run ends, and no partial file is left."
    nodes = graph(node('a'), study(store, 'a'))
    def copyfile(a, b):
        Path(b).write_text('a part')
        raise FULL
    monkeypatch.setattr(engine.shutil, 'copyfile', copyfile)
    lines = []
    errors = engine.run(nodes, say=lines.append)
    assert list(errors)==['report-demo-01234567'] and 'the disk is full' in errors['report-demo-01234567']
    assert 'FAILED report-demo-01234567' in lines[-1]
    assert [o.name for o in (store/'reports'/'demo').rglob('*')]==['.study']
    monkeypatch.undo()


# The folder of a study

def foreign(at):
    at.mkdir(parents=True)
    (at/'rows.jsonl').write_text('1')

def link(at):
    foreign(at.parent.parent/'elsewhere')
    at.parent.mkdir()
    at.symlink_to('../elsewhere')

def plain(at):
    at.parent.mkdir()
    at.write_text('1')

NOT_OURS = [(foreign, 'was not made by a study'), (link, 'is no folder'), (plain, 'is no folder')]

@pytest.mark.parametrize('make, why', NOT_OURS)
def test_what_no_study_made_is_refused_before_anything_runs(make, why, fake, store):
    "A report folder that no study made is refused before anything runs."
    make(store/'reports'/'demo')
    with pytest.raises(ValueError, match=why): engine.run(graph(node('a'), study(store, 'a')))
    assert not fake.ran and (store/'reports'/'demo').exists()
    with pytest.raises(ValueError, match=why): engine.check_folder(study(store))


def test_reports_that_are_a_file_are_one_sentence(fake, store):
    "A file in place of the folder of reports is one error before anything runs."
    (store/'reports').write_text('')
    with pytest.raises(ValueError, match='reports cannot be written to'):
        engine.run(graph(node('a'), study(store, 'a')))
    assert not fake.ran


def test_two_study_files_of_one_name(fake, store):
    "The second of two study files with one name runs nothing and names both; a moved file keeps its folder."
    assert not engine.run(graph(node('a'), study(store, 'a')))
    second = graph(node('b'), study(store, 'b', file='b.yaml'))
    with pytest.raises(ValueError, match="two study files are called 'demo': .*b.yaml and .*a.yaml"): engine.run(second)
    assert fake.ran==['a', 'report-demo-01234567']
    (store/'a.yaml').unlink()
    artifact_path('notebooks', 'report-demo-01234567.ipynb').unlink()
    assert not engine.run(second)
    assert read_json(store/'reports'/'demo'/'.study')['file']==str(store/'b.yaml')


def write(folder, *names):
    "Write files with the content 'old'"
    for o in names:
        (folder/o).parent.mkdir(parents=True, exist_ok=True)
        (folder/o).write_text('old')


def test_only_what_a_run_made_is_replaced(fake, store):
    "A folder of an earlier version is adopted: stale experiments are removed, notes and checkpoints stay."
    folder = store/'reports'/'demo'
    write(folder, 'report.ipynb', 'study.yaml', '.report-demo-89abcdef', 'notes.md', 'experiments/mine.ipynb',
        'experiments/score-old-89abcdef.ipynb', 'experiments/.ipynb_checkpoints/x.ipynb')
    assert not engine.run(graph(node('score-a-00000000'), study(store, 'score-a-00000000')))
    found = sorted(o.relative_to(folder).as_posix() for o in folder.rglob('*') if o.is_file())
    assert found==['.report-demo-01234567', '.study', 'experiments/.ipynb_checkpoints/x.ipynb',
        'experiments/mine.ipynb', 'experiments/score-a-00000000.ipynb', 'notes.md', 'report.ipynb', 'study.yaml']
    assert (folder/'notes.md').read_text()=='old' and (folder/'report.ipynb').read_text()=='{"cells": []}'


@pytest.mark.parametrize('marker', ['.study', '.report-demo-01234567', 'stages/x.ipynb'])
def test_a_study_rendered_before_cells_became_experiments(marker, fake, store):
    "It is rendered again and its former pages are removed; files of users stay."
    folder = store/'reports'/'demo'
    write(folder, 'report.ipynb', 'study.yaml', 'cells/score-a-00000000.ipynb', 'cells/notes.md', marker)
    if marker=='.study': (folder/marker).write_text(json.dumps(dict(file=str(store/'a.yaml'))))
    nodes = graph(node('score-a-00000000'), study(store, 'score-a-00000000'))
    report = engine.report_of(nodes)
    artifact_path('notebooks', f'{report.key}.ipynb').write_text('{"cells": []}')
    assert not engine.is_done(report)
    assert not engine.run(nodes) and engine.is_done(report)
    assert [o.name for o in (folder/'cells').iterdir()]==['notes.md']
    assert [o.name for o in (folder/'experiments').iterdir()]==['score-a-00000000.ipynb']


def test_runs_of_one_study_that_end_together(fake, store):
    "Four processes may renew one folder at the same time."
    nodes = graph(*(node(f'score-{i}-00000000') for i in range(5)), study(store))
    assert not engine.run(nodes)
    def many():
        for _ in range(15): engine.collect(nodes)
    ps = [multiprocessing.get_context('fork').Process(target=many) for _ in range(4)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert [p.exitcode for p in ps]==[0]*4
    assert [o.name for o in (store/'reports').iterdir()]==['demo']
    assert len(list((store/'reports'/'demo').rglob('*.ipynb')))==6


def test_hidden_folders_of_dead_runs_are_swept(fake, store):
    "Hidden folders of dead runs are removed, those of live runs stay."
    dead = subprocess.Popen(['true'])
    dead.wait()
    for pid,name in ((dead.pid, 'report.ipynb'), (os.getpid(), 'report.ipynb')):
        (store/'reports'/f'.demo.{pid}'/'experiments').mkdir(parents=True)
        (store/'reports'/f'.demo.{pid}'/name).write_text('{}')
    (store/'reports'/f'.demo x.{dead.pid}').mkdir()
    assert not engine.run(graph(node('a'), study(store, 'a')))
    assert {o.name for o in (store/'reports').iterdir()}=={'demo', f'.demo.{os.getpid()}', f'.demo x.{dead.pid}'}


def test_hidden_folders_are_no_studies(store, monkeypatch):
    "The remains of a killed run are not published."
    for o in ('demo', '.demo.123'):
        (store/'reports'/o).mkdir(parents=True)
        (store/'reports'/o/'report.ipynb').write_text('{}')
    seen = []
    def write_sources(reports, studies, src):
        seen.extend(o.name for o in studies)
        raise KeyboardInterrupt
    monkeypatch.setattr(site, 'write_sources', write_sources)
    with pytest.raises(KeyboardInterrupt): site.build_site(store/'reports')
    assert seen==['demo']


# The command line, and size

@pytest.mark.parametrize('jobs', ['-3', '100000', '2.5', 'two'])
def test_jobs_that_mean_nothing_are_refused(jobs, capsys):
    "An invalid number of jobs is refused with exit code 2."
    assert cli.main(['run', 'demo', '--jobs', jobs])==2
    assert jobs in capsys.readouterr().err


def test_bookkeeping_of_twenty_thousand_nodes_is_linear(monkeypatch):
    "About one second; 119 s when every node searched all others."
    stage = [node(f't{i}', kind='stage') for i in range(5000)]
    experiment = [node(f'c{i}', f't{i//3}') for i in range(15000)]
    nodes = graph(*stage, *experiment, node('r', *(o.key for o in experiment), kind='report'))
    monkeypatch.setattr(engine, 'is_done', lambda o: False)
    monkeypatch.setattr(engine, 'collect', lambda *a, **kw: None)
    monkeypatch.setattr(engine, 'check_folder', lambda o: None)
    monkeypatch.setattr(engine, 'run_node', lambda o, fork: 'bad' if o.key.endswith('7') else '')
    began = time.process_time()
    errors = engine.run(nodes, jobs=2)
    assert sum(o=='bad' for o in errors.values())==500+1500-sum(i//3%10==7 for i in range(7, 15000, 10))
    assert time.process_time()-began<8


# Sequences of intermediate tasks

STUDY = """study: sequence
report: 60_intermediate_tasks
data: mini
model: mini
intermediate: [none, udpos..panx]
target: tatoeba
seed: 0
eval_limit: 20
intermediate_train_limit: 32
intermediate_epochs: 1
"""

def test_each_training_of_a_sequence_has_its_own_node(store):
    "In `a..b` both trainings have their own keys, and the experiment finds b."
    (store/'sequence.yaml').write_text(STUDY)
    made = load_study(store/'sequence.yaml')
    trainings = {k: o for k,o in plan(made).items() if o.kind=='stage'}
    assert engine.run(trainings, jobs=1)=={}
    for k,task in zip(trainings, ('udpos', 'panx')):
        assert read_json(artifact_path('models', k)/'stage.json')['tasks']==[task]
        assert f"'name': 'mini {task}" in artifact_path('notebooks', f'{k}.ipynb').read_text()
    last = [o for o in experiments(made) if o.intermediate!='none'][0]
    assert [o.key for o in stages_of(last)]==list(trainings)


def test_a_training_that_an_earlier_version_executed_is_found_by_its_key(store):
    "Earlier versions passed only the kind of a stage; a study report is no training."
    def executed(key, template, **parameters):
        f = artifact_path('notebooks', f'{key}.ipynb')
        written = dict(input_path=f'nbs/{template}.ipynb', parameters=parameters)
        f.write_text(json.dumps(dict(metadata=dict(papermill=written))))
        return cli._made_from(f)
    made = executed('intermediate-b-01234567', '50_stage', phase='intermediate', seed=0)
    assert (made.kind, made.params)==('stage', dict(seed=0, key='intermediate-b-01234567'))
    assert executed('score-b-01234567', '51_experiment', seed=0).params==dict(seed=0)
    assert executed('report-b-01234567', '60_intermediate_tasks', study='b.yaml') is None


def test_an_unknown_training_is_refused():
    "The notebook refuses an unknown key before any data are read."
    nb = nbformat.read(root/'nbs'/'templates'/'50_stage.ipynb', as_version=4)
    first,second = [o.source for o in nb.cells if o.cell_type=='code'][:2]
    space = {}
    exec(first, space)
    with pytest.raises(ValueError, match="unknown training of this experiment 'target-x'"):
        exec(second, space|dict(key='target-x'))
    exec(second, space)
    assert space['stage'].kind=='target'
