"""Fixtures for tests of several packages: empty stores."""
import pytest


@pytest.fixture
def store(tmp_path, monkeypatch):
    "The folder of an empty store for one test"
    folder = tmp_path/'store'
    monkeypatch.setenv('XSTILTS_ARTIFACTS', str(folder))
    return folder


@pytest.fixture(scope='module')
def module_store(tmp_path_factory):
    "The folder of an empty store that the tests of a file share"
    folder = tmp_path_factory.mktemp('store')
    with pytest.MonkeyPatch.context() as m:
        m.setenv('XSTILTS_ARTIFACTS', str(folder))
        yield folder
