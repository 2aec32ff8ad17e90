"""Rules of the repository: notebooks are the source, study files are sound, and no text names a machine."""
import filecmp
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from fastcore.xtras import Config
from xstilts.run import study

root = Path(__file__).parents[2]
ini = ConfigParser()
ini.read(root/'settings.ini')
settings = ini['DEFAULT']
params = sorted(o for o in (root/settings['params_path']).glob('*.yaml') if o.stem!='models')
bin = Path(sys.executable).parent


@pytest.mark.parametrize('dirname', [settings['nbs_path'], settings['lib_path']])
def test_notebooks_are_clean_and_exported(dirname, tmp_path):
    "A fresh clean and export changes nothing, adds nothing and leaves nothing behind."
    for o in ('pyproject.toml', 'settings.ini'): shutil.copy(root/o, tmp_path)
    shutil.copytree(root/settings['nbs_path'], tmp_path/settings['nbs_path'])
    (tmp_path/settings['lib_path']).mkdir()
    shutil.copy(root/settings['lib_path']/'__init__.py', tmp_path/settings['lib_path'])
    for cmd in ('nbdev-clean', 'nbdev-export'): subprocess.run(bin/cmd, cwd=tmp_path, check=True)
    assert not (bad := list(differing(root/dirname, tmp_path/dirname))), bad


IGNORED = ['__pycache__', '.ipynb_checkpoints', '.last_checked', 'assets']


def differing(one, two):
    "The names that only one of two folder trees has, and the files that differ"
    found = filecmp.dircmp(one, two, ignore=IGNORED)
    yield from (str(Path(one)/o) for o in (*found.left_only, *found.right_only, *found.diff_files))
    for o in found.common_dirs: yield from differing(Path(one)/o, Path(two)/o)


def test_settings_agree_with_nbdev():
    "settings.ini and the configuration of nbdev name the same package and folders."
    from nbdev.config import get_config
    cfg = get_config(root)
    assert settings['lib_name']==cfg.lib_name
    for o in ('lib_path', 'nbs_path'): assert root/settings[o]==cfg[o]
    assert Config.find('settings.ini', root).d['kernel_name']=='python3'


@pytest.mark.parametrize('path', params, ids=lambda p: p.stem)
def test_studies_are_sound(path):
    "Every study file passes all checks."
    assert not study.check(path)


PACKAGES = ('core', 'catalog', 'mini', 'data', 'learn', 'evaluate', 'run', 'share', 'report')  # the layers, lowest first


def notebooks():
    "Every library notebook with its position in the layers: its package, then its number"
    import json
    for nb in sorted((root/'nbs').rglob('*.ipynb')):
        cells = json.loads(nb.read_text())['cells']
        source = '\n'.join(''.join(c['source']) for c in cells if c['cell_type']=='code')
        module = re.search(r'#\| default_exp ([\w.]+)', source)
        if module: yield nb, module[1], cells, source


def place_of(nb):
    package = nb.parent.name
    return (PACKAGES.index(package) if package in PACKAGES else len(PACKAGES), nb.name)


def test_notebooks_import_only_what_comes_before():
    "A module imports from packages above it in `PACKAGES`, and from lower numbers of its own."
    place = {module: place_of(nb) for nb, module, _, _ in notebooks()}
    for nb, module, _, source in notebooks():
        found = re.findall(r'from xstilts\.([\w.]+) import', source)
        found += [f'{a}.{b}' for a, b in re.findall(r'from xstilts\.(\w+) import (\w+)', source) if f'{a}.{b}' in place]
        late = [o for o in found if o in place and place[o]>place[module]]
        assert not late, (nb.name, late)


def test_export_cells_are_short():
    "An export cell fits on a screen, and a notebook can be read in one sitting."
    for nb, _, cells, _ in notebooks():
        assert len(cells)<80, (nb.name, len(cells))
        for c in cells:
            src = ''.join(c['source'])
            most = 80 if '(Grammar):' in src else 60  # grammars of languages are one class each
            if src.startswith('#| export'): assert src.count('\n')<=most, (nb.name, src.count('\n'), src[:80])


def test_help_is_fast_and_light():
    "The command line imports nothing heavy before a verb needs it."
    code = "import sys; from xstilts.cli import main; main(['--help']); print([o for o in ('torch','transformers','pandas','datasets','fastcore') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.splitlines()[-1]=='[]'


def test_nothing_names_a_machine():
    "No tracked text contains a path of the machine on which it was written."
    files = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    bad = [o for o in files if (root/o).is_file() and re.search(r'(/ho''me/|/ro''ot/|/wo''rk/|/tm''p/)', (root/o).read_text(errors='ignore'))]
    assert not bad, bad
