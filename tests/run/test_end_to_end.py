"""The smallest study from the command line to the report, killed at random moments, and its exact scores."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from xstilts.core.config import notebook_path

root = Path(__file__).parents[2]
xstilts = Path(sys.executable).parent/'xstilts'
STUDY = """study: tiny
report: 60_intermediate_tasks
data: mini
model: mini
intermediate: [none, squad_v1]
target: [udpos, tatoeba]
seed: 0
eval_limit: 40
target_train_limit: 128
target_lr: 0.004
intermediate_train_limit: 128
target_epochs: 2
intermediate_epochs: 1
target_checkpoint_steps: 1
intermediate_checkpoint_steps: 1
"""


def at(folder, rows=None):
    "The environment of a separate store; the rows of the miniature may be shared"
    env = dict(os.environ, OMP_NUM_THREADS='1')
    env |= dict(XSTILTS_ARTIFACTS=str(folder/'artifacts'), XSTILTS_REPORTS=str(folder/'reports'))
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'tiny.yaml').write_text(STUDY)
    return env


def command(folder, *args, **kw): return [str(xstilts), *args, str(folder/'tiny.yaml')]


def execute(*args, env):
    "Run a verb without a study"
    return subprocess.run([str(xstilts), *args], cwd=root, env=env, capture_output=True, text=True)


def scores(folder):
    return {f.name: json.loads(f.read_text())['scores'] for f in sorted((folder/'artifacts'/'scores').glob('*.json'))}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The study after one undisturbed run"
    folder = tmp_path_factory.mktemp('whole')
    res = subprocess.run(command(folder, 'run'), cwd=root, env=at(folder), capture_output=True, text=True)
    assert res.returncode==0, res.stdout+res.stderr
    return folder


def test_study_reaches_its_report(whole):
    "Every experiment has scores, the report contains tables and findings, and a second run does nothing."
    assert len(scores(whole))==6
    report = (whole/'reports'/'tiny'/'report.ipynb').read_text()
    assert 'baseline (no intermediate)' in report and 'miniature world' in report and 'image/png' in report
    assert len(list((whole/'reports'/'tiny'/'experiments').glob('*.ipynb')))==6
    again = subprocess.run(command(whole, 'run'), cwd=root, env=at(whole), capture_output=True, text=True)
    assert again.returncode==0 and ' 0 to run' in again.stdout, again.stdout+again.stderr


def test_encoder_is_above_its_floors(whole):
    "The shipped encoder translates and tags far better than the same architecture with random weights."
    results = [json.loads(f.read_text()) for f in (whole/'artifacts'/'scores').glob('*.json')]
    baselines = {(o['model'], o['target']): o for o in results if o['intermediate']=='none'}
    def mean(model, target):
        found = baselines[model,target]
        scores = [v[found['main']] for l,v in found['scores'].items() if l!='en']
        return sum(scores)/len(scores)
    assert mean('mini', 'tatoeba')>mean('random:mini', 'tatoeba')+20
    assert mean('mini', 'udpos')>mean('random:mini', 'udpos')+5


def test_one_cell_is_rendered_again(whole):
    "`report` accepts the key of a node and renews its copy in the rendered study."
    key = next((whole/'reports'/'tiny'/'experiments').glob('score-mini-none-udpos*')).stem
    copy = whole/'reports'/'tiny'/'experiments'/f'{key}.ipynb'
    copy.write_text('stale')
    res = execute('report', key, env=at(whole))
    assert res.returncode==0, res.stderr
    assert 'dataframe' in copy.read_text() or 'table' in copy.read_text()
    res = execute('report', 'score-nonsense', env=at(whole))
    assert res.returncode==2 and 'score-nonsense' in res.stderr and 'Traceback' not in res.stderr


def test_a_report_counts_same_data_where_it_is_asked_to(whole):
    "The note below the main table says which targets the mean gain leaves out."
    report = whole/'reports'/'tiny'/'report.ipynb'
    for flag, left_out in (([], True), (['--same-data'], False), ([], True)):
        res = subprocess.run(command(whole, 'report', *flag), cwd=root, env=at(whole), capture_output=True, text=True)
        assert res.returncode==0, res.stderr
        assert ('leaving out targets at chance and same data' in report.read_text())==left_out


@pytest.mark.parametrize('what, why', [
    ('pretraining', '61_pretraining has no mean of gains'),
    ('score-mini-none-udpos', "no study file is called 'score-mini-none-udpos'")])
def test_a_mean_that_is_not_there_counts_nothing(what, why, whole):
    "`--same-data` is refused before rendering if the report has no mean gain."
    res = execute('report', what, '--same-data', env=at(whole))
    assert res.returncode==2 and why in res.stderr and 'Traceback' not in res.stderr


@pytest.mark.parametrize('name', ['50_stage', '51_experiment', '60_intermediate_tasks'])
def test_template_runs_by_plain_papermill(name, whole, tmp_path):
    "Notebooks run as in JupyterLab: in their folder, on a fresh kernel and with their default parameters."
    params = ['-p', 'study', str(whole/'tiny.yaml')] if name[0]=='6' else []
    command = [sys.executable, '-m', 'papermill', '-k', 'python3', str(notebook_path(name)), str(tmp_path/'out.ipynb')]
    env = at(whole if params else tmp_path)
    res = subprocess.run([*command, *params], cwd=root/'nbs', env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stderr[-2000:]


def test_site(whole):
    "The site opens from disk and contains the report."
    res = execute('publish', '--to', str(whole/'site'), env=at(whole))
    assert res.returncode==0, res.stderr
    assert 'zero-shot' in (whole/'site'/'index.html').read_text()


def test_killed_at_random_moments(whole, tmp_path):
    "With engine and kernels repeatedly killed by -9, the final scores are the same."
    rng = random.Random(0)
    env = at(tmp_path)
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(4):
        p = subprocess.Popen(command(tmp_path, 'run'), cwd=root, env=env, start_new_session=True, **silent)
        time.sleep(rng.uniform(9, 16))
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        time.sleep(1)
    res = subprocess.run(command(tmp_path, 'run'), cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==0, res.stdout+res.stderr
    assert scores(tmp_path)==scores(whole)


PLAIN = dict(intermediate='none', target='udpos',
    settings=dict(target_train_limit=256, target_epochs=3, target_checkpoint_steps=2))
MODELLED = dict(intermediate='mnli', target='tatoeba',
    settings=dict(intermediate_train_limit=256, intermediate_epochs=1, intermediate_mlm_rate=.5,
        intermediate_mlm_languages='en ja', intermediate_checkpoint_steps=2))

@pytest.mark.parametrize('experiment', [PLAIN, MODELLED], ids=['target', 'with modelling'])
def test_stage_killed_between_updates(experiment, tmp_path):
    "A training process killed with -9 after some updates resumes from its checkpoint and ends with the same weights."
    code = f"experiment = {experiment!r}" + """
import os, sys
os.environ['XSTILTS_ARTIFACTS'] = sys.argv[1]
import xstilts.run.training as s
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.core.store import read_json
s.MLM_DOCUMENTS = 200
c = Experiment(model='mini', seed=3, **experiment)
step = int(sys.argv[2])
if step:
    import xstilts.learn.train as t
    real = t.save_checkpoint
    def stop(folder, n, *a):
        real(folder, n, *a)
        if n>=step: os.kill(os.getpid(), 9)
    t.save_checkpoint = stop
print(read_json(run_stage(stages_of(c)[-1])/'manifest.json')['heads.safetensors']['blake2b'])
"""
    def go(name, step):
        command = [sys.executable, '-c', code, str(tmp_path/name), str(step)]
        env = dict(os.environ, OMP_NUM_THREADS='1')
        return subprocess.run(command, cwd=root, capture_output=True, text=True, env=env)
    whole = go('a', 0)
    assert whole.returncode==0, whole.stderr
    assert go('b', 6).returncode==-9
    assert go('b', 14).returncode==-9
    again = go('b', 0)
    assert again.returncode==0, again.stderr
    assert again.stdout==whole.stdout


@pytest.mark.parametrize('change,words', [
    ('target: [udpos, tatoeba]|target: [udpso]', "did you mean 'udpos'"),
    ('model: mini|model: minni', "did you mean 'mini'"),
    ('eval_limit: 40|eval_limits: 40', "did you mean 'eval_limit'"),
    ('data: mini|data: mirorr', "did you mean 'mirror'"),
    ('data: mini|data: mirror', 'no mirror'),
    ('model: mini|model: ./nowhere', "there is no folder 'nowhere'")])
def test_bad_input_is_one_clear_error(change, words, tmp_path):
    "Bad input gives exit code 2 and an error with the value and the remedy, no traceback, and nothing runs."
    env = dict(at(tmp_path), XSTILTS_MIRROR=str(tmp_path/'none'))
    old, new = change.split('|')
    (tmp_path/'tiny.yaml').write_text(STUDY.replace(old, new))
    res = subprocess.run(command(tmp_path, 'run'), cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==2 and words in res.stderr and 'Traceback' not in res.stderr, res.stderr
    assert not (tmp_path/'artifacts'/'models').exists() or not list((tmp_path/'artifacts'/'models').iterdir())


def test_a_failing_node_does_not_stop_the_rest(tmp_path):
    "If an intermediate stage fails, its experiments fail, the others finish, and the report names the missing ones."
    env = at(tmp_path)
    nodes = json.loads(execute('plan', str(tmp_path/'tiny.yaml'), '--json', env=env).stdout)
    key, = [o['key'] for o in nodes if o['kind']=='stage' and o['title']=='mini squad_v1 s0']
    bad = tmp_path/'artifacts'/'work'/f'{key}.lock'
    bad.mkdir(parents=True)
    res = subprocess.run(command(tmp_path, 'run'), cwd=root, env=env, capture_output=True, text=True)
    assert res.returncode==1 and 'Traceback' not in res.stderr, res.stderr
    assert len(scores(tmp_path))==4
    assert 'Missing: 2 experiments' in (tmp_path/'reports'/'tiny'/'report.ipynb').read_text()
    bad.rmdir()
    assert subprocess.run(command(tmp_path, 'retry'), cwd=root, env=env, capture_output=True).returncode==0
    assert len(scores(tmp_path))==6
