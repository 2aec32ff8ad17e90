"""Every task from tokens to scores at toy size: on the miniature, and on real data if there is a mirror."""
import math

import pytest
from xstilts.core.config import settings
from xstilts.run.experiment import Experiment
from xstilts.run.stages import stages_of
from xstilts.run.launch import run_stage
from xstilts.run.scores import run_experiment
from xstilts.core.store import read_json
from xstilts.catalog.tasks import tasks

pytestmark = pytest.mark.usefixtures('module_store')

mirror = pytest.mark.skipif(not settings().mirror.is_dir(), reason='no mirror of real data here: set XSTILTS_MIRROR')
SMALL = dict(eval_limit=6, target_train_limit=8, target_epochs=1, intermediate_train_limit=8, intermediate_epochs=1)
TARGETS = [k for k, o in tasks.items() if o.category!='other']
MINI = [o for o in TARGETS if o not in ('mewslix', 'masakhaner', 'bucc2018_gold')]
INTERMEDIATES = 'mnli anli qqp squad_v1 squad_v2 hellaswag ccg cosmosqa csqa stsb copa'.split()
# real tasks that the mirror can train and score -> the split that trains them where it lacks training rows
REAL = dict.fromkeys('udpos panx xquad mlqa tydiqa tatoeba xcopa masakhaner'.split(), '')
REAL |= dict(xnli='mnli:validation_matched', pawsx='pawsx:validation')
REAL_INTERMEDIATES = dict.fromkeys('squad_v1 csqa qqp hellaswag copa'.split(), '')
REAL_INTERMEDIATES |= dict(mnli='mnli:validation_matched', cosmosqa='cosmosqa:dev', squad_v2='squad_v2:dev')
LANGS = dict(pawsx='de zh', panx='en sw', mlqa='de', tydiqa='sw', tatoeba='sw', xcopa='sw', masakhaner='sw yo',
             udpos='ja de')


def scored(experiment):
    res = read_json(run_experiment(experiment))
    assert set(res['scores'])=={*experiment.langs}
    for o in res['scores'].values(): assert o['n']>0 and all(math.isfinite(v) for v in o.values())
    return res


@pytest.mark.parametrize('target', MINI)
def test_targets_of_the_miniature(target):
    "Every target task of the miniature trains and gets scores."
    languages = 'en de' if 'en' in tasks[target].langs and target!='tatoeba' else 'de ru'
    settings = SMALL|dict(languages=languages)
    scored(Experiment(model='random:mini', intermediate='none', target=target, seed=0, settings=settings))


@pytest.mark.parametrize('task', INTERMEDIATES)
def test_intermediates_of_the_miniature(task):
    "Every intermediate task of the miniature trains to a finite loss."
    s = stages_of(Experiment(model='random:mini', intermediate=task, target='udpos', seed=0, settings=SMALL))[0]
    assert math.isfinite(read_json(run_stage(s)/'stage.json')['log'][-1]['loss'])


@mirror
@pytest.mark.parametrize('target', REAL)
def test_real_targets(target):
    "Every target task of the mirror trains and gets scores; training on the dev split is flagged."
    settings = SMALL|dict(target_train_from=REAL[target], languages=LANGS.get(target, 'en ru'))
    experiment = Experiment(model='random:mini', intermediate='none', target=target, seed=0, data='mirror',
                            settings=settings)
    flags = ' '.join(scored(experiment)['flags'])
    assert not REAL[target] or 'is trained on its dev split' in flags


@mirror
@pytest.mark.parametrize('task', REAL_INTERMEDIATES)
def test_real_intermediates(task):
    "Every intermediate task of the mirror trains to a finite loss."
    settings = SMALL|dict(intermediate_train_from=REAL_INTERMEDIATES[task])
    experiment = Experiment(model='random:mini', intermediate=task, target='tatoeba', seed=0, data='mirror',
                            settings=settings)
    s = stages_of(experiment)[0]
    assert math.isfinite(read_json(run_stage(s)/'stage.json')['log'][-1]['loss'])


@mirror
def test_training_and_scoring_on_one_split_is_refused():
    "Training and scoring on the same split is an error before anything is read."
    with pytest.raises(ValueError, match='pawsx is trained on its dev split and scored on it'):
        Experiment(model='mini', intermediate='none', target='pawsx', seed=0, data='mirror',
                   settings=dict(target_train_from='validation', eval_split='dev'))


def test_a_suite_member_without_data_is_named():
    with pytest.raises(ValueError, match='bucc2018 is not on the hub and its folder does not exist'):
        Experiment(model='mini', intermediate='none', target='bucc2018', seed=0, data='hub')
    with pytest.raises(ValueError, match='all_free leaves ccg out'):
        Experiment(model='mini', intermediate='all', target='xnli', seed=0, data='hub')
