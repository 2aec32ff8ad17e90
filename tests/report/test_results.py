"""The results of small studies at the corners: no baselines with random weights, nothing stored, one language."""
from types import MappingProxyType

import pytest
from xstilts.report.claims import findings, limitations
from xstilts.report.results import MEAN, collect_results, select
from xstilts.report.tables import gap_table, language_table, main_table
from xstilts.run.scores import run_experiment
from xstilts.run.study import Study, experiments, floors

pytestmark = pytest.mark.usefixtures('module_store')


def study(model, intermediate=('none',), target=('tatoeba',), **settings):
    axes = dict(model=[model], intermediate=[*intermediate], target=[*target], seed=[0])
    return Study(name='small', report='', data='mini', path=None, axes=MappingProxyType(axes),
        settings=MappingProxyType(dict(eval_limit=20, **settings)))


def test_a_random_encoder_has_no_chance_level_of_its_own():
    "It is the chance level itself, so a study of it has no other."
    st = study('random:mini', layer=1)
    assert floors(st)==[]
    for o in experiments(st): run_experiment(o)
    res = collect_results(st)
    assert select(res.summary, kind='score', language=MEAN).value.notna().all()
    assert main_table(res).shape==(3, 3) and findings(res) and isinstance(limitations(res), list)
    assert len(language_table(res, 'tatoeba'))>=1 and gap_table(res).empty  # no English pairs


def test_a_study_without_any_result():
    res = collect_results(study('mini', target=('bucc2018',)))
    assert not res.experiments.stored.any() and res.scores.empty
    assert 'missing' in main_table(res).to_string() and findings(res)


def test_one_language():
    st = study('mini', languages='de')
    for o in (*experiments(st), *floors(st)): run_experiment(o)
    found = select(collect_results(st).summary, kind='score')
    assert {*found.language}=={'de', MEAN} and found.value.nunique()==1
