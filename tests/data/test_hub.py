"""Rows of the hub without a network: the requested data sets, on stand-ins of the hub's shape."""
import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from xstilts.data import load as data, repositories

MNLI = ClassLabel(names=['entailment', 'neutral', 'contradiction'])
PAIRS = Features(premise=Value('string'), hypothesis=Value('string'), label=MNLI)
HUB = {
    ('stanfordnlp/snli', None, 'train', None): Dataset.from_list([
        dict(premise='A man eats.', hypothesis='A man sleeps.', label=2),
        dict(premise='A dog.', hypothesis='A cat.', label=-1)], PAIRS),
    ('nyu-mll/glue', 'mnli', 'train', None): Dataset.from_list([
        dict(premise='He left.', hypothesis='He is gone.', label=0)], PAIRS),
    ('facebook/anli', None, 'train_r1+train_r2+train_r3', None): Dataset.from_list([
        dict(premise='He came.', hypothesis='It rained.', label=1)], PAIRS),
    ('nyu-mll/glue', 'stsb', 'train', None): Dataset.from_list([
        dict(sentence1='A man.', sentence2='A person.', label=4.2)]),
    ('allenai/social_i_qa', None, 'train', 'refs/convert/parquet'): Dataset.from_list([
        dict(context='Anna fell.', question='How did she feel?',
            answerA='well', answerB='hurt', answerC='rich', label='2')]),
    ('google/xtreme', 'PAWS-X.en', 'train', None): Dataset.from_list([
        dict(sentence1='A saw B.', sentence2='B saw A.', label='0')])}


@pytest.fixture
def hub(monkeypatch):
    def load_dataset(repo, config, split, revision=None):
        if (repo, config, split, revision) in HUB: return HUB[repo, config, split, revision]
        if repo=='allenai/social_i_qa':
            raise RuntimeError('Dataset scripts are no longer supported, but found social_i_qa.py')
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{repo}' doesn't exist on the Hub.")
    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    monkeypatch.setattr('xstilts.core.hub.reachable', lambda: True)
    repositories._split_rows.cache_clear()
    data.load.cache_clear()
    yield
    repositories._split_rows.cache_clear()
    data.load.cache_clear()


def test_a_download_is_said(hub, capsys):
    "Planning a study of the hub's data announces the downloads that its keys need."
    data.load('hub', 'stsb', 'train')
    assert capsys.readouterr().err.startswith('downloading nyu-mll/glue (stsb, train) from the hub')


def test_one_task_of_three_sets(hub):
    "ANLI+ consists of SNLI, MNLI and three rounds of ANLI, without the rows that have no label."
    rows = data.load('hub', 'anli', 'train')
    assert [(o['id'], o['label']) for o in rows]==[('0-0', 'contradiction'), ('1-0', 'entailment'), ('2-0', 'neutral')]


def test_numbers_and_classes(hub):
    "Numeric labels become numbers and class ids become names."
    assert data.load('hub', 'stsb', 'train')[0]['score']==pytest.approx(4.2)
    assert data.load('hub', 'pawsx', 'train')[0]['label']=='different'


def test_a_script_is_read_from_its_conversion(hub):
    "Data sets with loading scripts are read from their conversion, so no code of a repository runs."
    row = data.load('hub', 'siqa', 'train')[0]
    assert row['choices'][row['label']]=='hurt'


def test_what_the_hub_does_not_have_is_named(hub):
    "The error names the missing split and its data set."
    with pytest.raises(ValueError, match=r"hub: qqp in en has no train split \(nyu-mll/glue, qqp, train\)"):
        data.load('hub', 'qqp', 'train')


def test_a_wrong_column_is_named(hub, monkeypatch):
    "The error names the missing column and the columns of the data set."
    wrong = Dataset.from_list([dict(text='He left.', label=0)])
    monkeypatch.setitem(HUB, ('nyu-mll/glue', 'mnli', 'train', None), wrong)
    words = "hub: mnli in en: column 'premise' is not in nyu-mll/glue, mnli, train: it has text label"
    with pytest.raises(ValueError, match=words): data.load('hub', 'mnli', 'train')
