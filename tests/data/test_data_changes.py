"""Rows are read as the files are now: changed, copied, moved, touched and linked data, within one process and store."""
import os
import shutil
from pathlib import Path

import pytest
from mirrors import repository
from xstilts.data.load import load, rows_fingerprint, source_fingerprint, task_of, text_fingerprint
from xstilts.learn.mlm import Shape
from xstilts.learn.recipe import Recipe
from xstilts.run.stages import Stage, stage_key

PLAIN = dict(context='The Spree flows through Berlin.', answers=dict(text=['Berlin'], answer_start=[24]))


def questions(*texts): return [dict(id=str(i), question=t, **PLAIN) for i, t in enumerate(texts)]


def xquad(root, *texts): return repository(root, 'google/xtreme', dict(validation=questions(*texts)), 'XQuAD.de')


def asked(): return [o['question'] for o in load('mirror', 'xquad', 'test', 'de')]


@pytest.fixture
def mirror(tmp_path, monkeypatch, store):
    "A mirror of XQuAD in German with one question, and an empty store"
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path/'mirror'))
    xquad(tmp_path/'mirror', 'Where?')
    return tmp_path/'mirror'


def test_a_changed_mirror_gives_the_new_rows(mirror):
    "A changed file gives the new rows and another fingerprint."
    assert asked()==['Where?']
    before = rows_fingerprint('mirror', 'xquad', 'test', 'de')
    xquad(mirror, 'Where now?', 'And when?')
    assert asked()==['Where now?', 'And when?']
    assert rows_fingerprint('mirror', 'xquad', 'test', 'de')!=before


def test_a_second_mirror_with_the_same_readme_gives_its_own_rows(mirror, tmp_path, monkeypatch):
    "Another mirror gives its own rows, even if its README is the same."
    assert asked()==['Where?']
    xquad(tmp_path/'second', 'Who?')
    assert (mirror/'google/xtreme/README.md').read_text()==(tmp_path/'second/google/xtreme/README.md').read_text()
    monkeypatch.setenv('XSTILTS_MIRROR', str(tmp_path/'second'))
    assert asked()==['Who?']


def test_a_changed_file_behind_a_link_is_noticed(mirror, tmp_path):
    "A changed file behind a link is noticed although its size and times stay the same."
    folder = mirror/'google'/'xtreme'
    folder.rename(tmp_path/'elsewhere')
    folder.symlink_to(tmp_path/'elsewhere')
    (tmp_path/'deep').mkdir()
    (folder/'deep').symlink_to(tmp_path/'deep')
    (tmp_path/'deep'/'more.txt').write_text('one')
    before = source_fingerprint('mirror', 'xquad')
    then = (tmp_path/'deep'/'more.txt').stat()
    (tmp_path/'deep'/'more.txt').write_text('two')
    os.utime(tmp_path/'deep'/'more.txt', ns=(then.st_atime_ns, then.st_mtime_ns))
    assert source_fingerprint('mirror', 'xquad')!=before


def pretraining_key(langs='sw'):
    shape = Shape(origin='mirror', langs=langs)
    return stage_key.__wrapped__(Stage(kind='pretrain', model='mini', data='mirror', recipe=Recipe(), shape=shape))


def fingerprints():
    rows = [source_fingerprint('mirror', o) for o in ('xquad', 'bucc2018')]
    return *rows, text_fingerprint('mirror', ['sw']), pretraining_key()


def touched(folder):
    for i, o in enumerate(sorted(folder.rglob('*'))): os.utime(o, (i, i))


@pytest.fixture
def complete(mirror, tmp_path, monkeypatch):
    "A mirror with text, and a folder with pools of BUCC"
    (mirror/'text').mkdir()
    (mirror/'text'/'sw.parquet').write_bytes(b'Habari.')
    (tmp_path/'folders'/'bucc2018').mkdir(parents=True)
    (tmp_path/'folders'/'bucc2018'/'de-en.dev.gold').write_text('d1\te1\n')
    monkeypatch.setenv('XSTILTS_FOLDERS', str(tmp_path/'folders'))
    return mirror


@pytest.mark.parametrize('how', ['touched', 'copied', 'moved', 'linked'])
def test_where_and_when_data_lie_does_not_count(how, complete, tmp_path, monkeypatch):
    "Fingerprints and the key of a pretraining depend on contents, not on paths or times."
    before = fingerprints()
    for name, variable in (('mirror', 'XSTILTS_MIRROR'), ('folders', 'XSTILTS_FOLDERS')):
        old, new = tmp_path/name, tmp_path/'other'/name
        new.parent.mkdir(exist_ok=True)
        if how=='copied': shutil.copytree(old, new)
        if how=='moved': old.rename(new)
        if how=='linked': new.symlink_to(old)
        if how=='touched': touched(old)
        else: monkeypatch.setenv(variable, str(new))
    assert fingerprints()==before


@pytest.mark.parametrize('file, differs', [
    ('mirror/google/xtreme/XQuAD.de-validation.parquet', (True, False, False, False)),
    ('mirror/text/sw.parquet', (False, False, True, True)),
    ('folders/bucc2018/de-en.dev.gold', (False, True, False, False))])
def test_a_changed_byte_counts(file, differs, complete, tmp_path):
    "One changed byte changes exactly the fingerprints that depend on its file."
    before = fingerprints()
    raw = (tmp_path/file).read_bytes()
    (tmp_path/file).write_bytes(raw[:-1]+bytes([raw[-1]^1]))
    assert tuple(a!=b for a, b in zip(before, fingerprints()))==differs


def test_text_of_another_language_does_not_count(complete):
    "A mirror may grow: the key of a pretraining depends only on the texts that it reads."
    before = pretraining_key()
    (complete/'text'/'de.parquet').write_bytes(b'Hallo.')
    assert pretraining_key()==before!=pretraining_key('sw de')


def test_classes_come_from_the_files_that_are_there(tmp_path, monkeypatch, store):
    "The classes of CCG are those of its training rows, also after these have changed."
    folder = tmp_path/'folders'/'ccg'
    folder.mkdir(parents=True)
    monkeypatch.setenv('XSTILTS_FOLDERS', str(tmp_path/'folders'))
    for tag in ('N', 'NP'):
        (folder/'train.txt').write_text(f'dogs\t{tag}\n')
        assert task_of('hub', 'ccg').labels==(tag,)


def test_damaged_files_are_named(mirror):
    "A damaged file gives an error that names it, neither the earlier rows nor a traceback of a library."
    assert asked()==['Where?']
    file = mirror/'google/xtreme/XQuAD.de-validation.parquet'
    file.write_bytes(file.read_bytes()[:200])
    damaged = 'mirror: xquad in de: google/xtreme, XQuAD.de, validation cannot be read: '
    with pytest.raises(ValueError, match=damaged): asked()
    file.unlink()
    with pytest.raises(ValueError, match='mirror: xquad in de has no test split'): asked()
    readme = Path(mirror/'google/xtreme/README.md')
    readme.write_text('---\nconfigs: [a: b: c\n---\n')
    with pytest.raises(ValueError, match='mirror: xquad in de'): asked()
