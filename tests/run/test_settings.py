"settings.ini, params/models.yaml and params/revisions.lock: how they are read, and the errors of damaged files."
import os
import time
import warnings
from pathlib import Path

import pytest
from xstilts.catalog import encoders as models
from xstilts.core.config import KEYS, revisions, settings
from xstilts.catalog.encoders import own_models
from xstilts.run.study import check, load_study

STUDY = 'study: a\nreport: 60_intermediate_tasks\ndata: mini\nmodel: {}\nintermediate: none\ntarget: tatoeba\nseed: 0\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "A checkout without settings"
    for o in KEYS.values(): monkeypatch.delenv(o.environment or 'XSTILTS_NONE', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path/'own'))
    for o in ('params', 'nbs'): (tmp_path/o).mkdir()
    (tmp_path/'nbs'/'60_intermediate_tasks.ipynb').write_text('{}')
    (tmp_path/'settings.ini').write_text('[DEFAULT]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


PATHS = {  # as written -> expanded
    '~/store': '{root}/own/store',
    '~': '{root}/own',
    '$HOME/store': '{root}/own/store',
    '${HOME}/a/${PART}': '{root}/own/a/p',
    'store': '{root}/store',
    '../store': '{root}/../store',
    '100%/store': '{root}/100%/store',
    '%(data)s': '{root}/%(data)s',
    'a b': '{root}/a b',
    '/elsewhere/x': '/elsewhere/x',
    '': '{root}/artifacts',
    '   ': '{root}/artifacts'}


@pytest.mark.parametrize('written', PATHS)
def test_paths(folder, monkeypatch, written):
    "The file and the environment follow the same rules, in every folder of the checkout."
    monkeypatch.setenv('PART', 'p')
    (folder/'settings.ini').write_text(f'[DEFAULT]\nartifacts_path = {written}\n')
    want = Path(PATHS[written].format(root=folder))
    assert settings().artifacts_path==settings(folder/'nbs').artifacts_path==want
    (folder/'settings.ini').write_text('[DEFAULT]\n')
    monkeypatch.setenv('XSTILTS_ARTIFACTS', written)
    assert settings().artifacts_path==want


@pytest.mark.parametrize('name', [o.environment for o in KEYS.values() if o.path and o.environment])
def test_an_empty_variable_gives_no_path(folder, monkeypatch, name):
    "An empty variable gives no path; in particular, the checkout does not become the store."
    without = settings()
    monkeypatch.setenv(name, '')
    assert settings()==without and settings().artifacts_path!=folder


def test_a_change_is_noticed(folder, monkeypatch):
    "A changed file or variable applies from the next call on."
    monkeypatch.setenv('PLACE', 'one')
    (folder/'settings.ini').write_text('[DEFAULT]\nmirror = $PLACE\n')
    assert settings().mirror==folder/'one'
    monkeypatch.setenv('PLACE', 'three')
    assert settings().mirror==folder/'three'
    (folder/'settings.ini').write_text('[DEFAULT]\nmirror = four\n')
    assert settings().mirror==folder/'four'


WRONG = {  # text of settings.ini -> part of the message
    '[DEFAULT]\nartefacts_path = x\n': "'artefacts_path', did you mean 'artifacts_path'?",
    '[DEFAULT]\ndevces = 2\n': "did you mean 'devices'?",
    'data = mini\n': 'cannot be read',
    '[DEFAULT]\nmirror\n': 'cannot be read',
    '[DEFAULT]\ndata = mini\ndata = hub\n': 'cannot be read',
    '[paths]\nmirror = x\n': 'under [DEFAULT]',
    '[DEFAULT]\nmirror = $GONE/x\n': 'the environment variable GONE, which is not set',
    '[DEFAULT]\nmirror = ~nobody-here/x\n': 'a user who is not known',
    '[DEFAULT]\ndata = cloud\n': "unknown data origin 'cloud'",
    '[DEFAULT]\ndevices = 1.5\n': 'it must be a whole number of processes, at least 1'}


@pytest.mark.parametrize('text', WRONG)
def test_a_wrong_file(folder, text):
    "A malformed settings.ini is an error with the expected words."
    (folder/'settings.ini').write_text(text)
    with pytest.raises(ValueError) as e: settings()
    assert WRONG[text] in str(e.value)


def test_bytes_that_are_not_text(folder):
    "A settings.ini that is not UTF-8 is an error; a byte order mark is allowed."
    (folder/'settings.ini').write_bytes(b'[DEFAULT]\nmirror = caf\xe9\n')
    with pytest.raises(ValueError, match='settings.ini is not text in UTF-8'): settings()
    (folder/'settings.ini').write_bytes('\ufeff[DEFAULT]\nmirror = café\n'.encode())
    assert settings().mirror==folder/'café'


LAUGHS = 'a0: &a0 {layer: 1}\n'+''.join(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i-1}"]*9)}]}}\n' for i in range(1, 30))
NESTED = 'a0: &a0 [x]\n'+''.join(f'a{i}: &a{i} [{", ".join([f"*a{i-1}"]*9)}]\n' for i in range(1, 30))

DAMAGED = (  # text of models.yaml, and part of the message for a study that names its model `tiny`
    ('tiny: {layer: 1}\nx: [\n', 'line 3: not readable as YAML'),
    ('tiny: {born: 2024-13-45}\n', "line 1: model tiny: unknown setting 'born'"),
    ('tiny: {layer: 2024-13-45}\n', 'line 1: model tiny: layer must be a whole number'),
    ('tiny: !!python/name:os.system {}\n', 'is not read'),
    ('- tiny\n', 'a file is a list of assignments'),
    ('tiny: 5\n', 'line 1: model tiny needs settings'),
    ('tiny:\n', 'line 1: model tiny needs settings'),
    ('tiny: {lr: fast}\n', "line 1: model tiny: lr must be a number, above 0 and at most 1, not 'fast'"),
    ('tiny: {lr: true}\n', 'lr must be a number'),
    ('tiny: {layer: "3"}\n', 'leave the quotes out'),
    ('tiny: {freeze: no}\n', "freeze must be true or false, not 'no'"),
    ('tiny: {dropout: 1.0}\n', 'dropout must be a number'),
    ('tiny: {pooled: cls}\n', "unknown pooled 'cls'"),
    ('tiny: {optimiser: adam}\n', "did you mean 'adamw'?"),
    ('tiny: {pretrain_layers: 2.5}\n', 'pretrain_layers must be a whole number'),
    ('tiny: {pretrain_lr: .inf}\n', 'pretrain_lr must be a number'),
    ('tiny: {pretrain_rows: [1, 2]}\n', 'pretrain_rows takes one value'),
    ('tiny: {pretrain_size: 4}\n', "unknown setting 'pretrain_size'"),
    ('tiny: {layer: 9, pretrain_layers: 2}\n', 'layer: 9, but with pretrain_layers: 2'),
    ('tiny: {langs: }\n', 'langs must be codes of languages'),
    ('tiny: {langs: {en: 1}}\n', 'langs must be codes of languages'),
    ('tiny: {pretrain_hidden: 30}\n', 'hidden 30 cannot be divided among 4 heads'),
    ('tiny: {pretrain_langs: fi}\n', "unknown language of the miniature world in pretrain_langs 'fi'"),
    ('tiny: {layer: 1}\ntiny: {layer: 2}\n', "line 2: 'tiny' is given twice"),
    ('tiny: {? [a] : 1}\n', 'a name must be a string'),
    ('tiny: &a {<<: *a}\n', 'contains itself'),
    (NESTED+'tiny: {layer: 1}\n', 'a list may contain only strings and numbers'),
    ('tiny: '+'['*5000, 'nested more than 12 deep'),
    ('tiny: {source: '+'x'*2_000_000+'}\n', 'more than 1,000,000 bytes'),
    (b'tiny: {source: \xff}\n', 'not text in UTF-8'),
)


def first_characters(value): return str(value)[:30]


@pytest.mark.parametrize('text,words', DAMAGED, ids=first_characters)
@pytest.mark.filterwarnings('ignore:.*is damaged; its models cannot be used')
def test_damaged_models(folder, text, words):
    "A study that names the model gets an error with file and line; other studies are sound."
    path = folder/'params'/'models.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder/'a.yaml').write_text(STUDY.format('mini'))
    began = time.monotonic()
    assert not check(folder/'a.yaml')
    (folder/'a.yaml').write_text(STUDY.format('tiny'))
    with pytest.raises(ValueError) as e: load_study(folder/'a.yaml')
    assert words in str(e.value) and 'line 4: ' in str(e.value), str(e.value)
    assert time.monotonic()-began<10


def test_a_damaged_file_gives_a_warning(folder):
    "A damaged models.yaml gives a warning, and its sound rows remain usable."
    (folder/'params'/'models.yaml').write_text('tiny: [\n')
    message = 'models.yaml is damaged; its models cannot be used: line 2: not readable as YAML'
    with pytest.warns(UserWarning, match=message): found = own_models()
    assert len(found.errors())==1
    (folder/'params'/'models.yaml').write_text('tiny: {layer: one}\nother: {lr: 2}\ngood: {lr: 1e-3}\n')
    assert [o[:7] for o in own_models().errors()]==['line 1:', 'line 2:'] and own_models()['good'].lr==1e-3


def test_anchors_that_multiply(folder):
    "Nine to the thirtieth values are read in less than five seconds."
    (folder/'params'/'models.yaml').write_text(LAUGHS)
    began = time.monotonic()
    assert own_models()['a29'].layer==1 and time.monotonic()-began<5


def test_models_are_read_once(folder, monkeypatch):
    "The models are read once, and again after the file has changed."
    path = folder/'params'/'models.yaml'
    reads = []
    read_file = models.read_file
    def counted(p):
        reads.append(p)
        return read_file(p)
    monkeypatch.setattr(models, 'read_file', counted)
    path.write_text('tiny: {layer: 1, path: a/b}\n')
    (folder/'a.yaml').write_text(STUDY.format('[tiny, mini]'))
    for _ in range(20): assert not check(folder/'a.yaml')
    assert reads==[path]
    path.write_text('tiny: {layer: 12, path: a/b}\n')
    assert own_models()['tiny'].layer==12 and reads==[path]*2


def test_the_models_of_this_repository_are_sound():
    "The models of this repository are sound; their file merges rows with `<<`."
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = own_models(Path(__file__).parents[2]/'params'/'models.yaml')
    assert found.errors()==[] and len(found)>20
    assert found['mini-4lang-s1'].langs==('en', 'de', 'ru', 'ja') and found['mini-4lang-s1'].pretrain['seed']==1
    assert found['short-monolingual'].pretrain['replace']=='0' and found['short-narrow'].pretrain['layers']==2


@pytest.mark.parametrize('text,words', [
    ('models: [\n', 'line 2: not readable as YAML'),
    ('models: head\n', '`models` is a mapping'),
    ('models: {a/b: {c: d}}\n', '`models` is a mapping'),
    ('models: {a/b: !x y}\n', 'is not read')])
def test_a_damaged_lock(folder, text, words):
    "A damaged revisions.lock is an error that names the file."
    (folder/'params'/'revisions.lock').write_text(text)
    with pytest.raises(ValueError) as e: revisions()
    assert 'revisions.lock' in str(e.value) and words in str(e.value)


def test_a_revision_is_text(folder):
    "A revision stays text; digits with an e are not a number."
    (folder/'params'/'revisions.lock').write_text('models:\n  a/b: 1234567\n  c/d: 12e4\n')
    assert revisions()==dict(datasets={}, models={'a/b': '1234567', 'c/d': '12e4'})
    assert os.environ.get('XSTILTS_LOCKED') is None
