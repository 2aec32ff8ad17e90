"""The repository keeps its own rules: notebooks are the source, studies are sound, nothing names a machine."""
import filecmp
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from fastcore.xtras import Config
from xstilts import study

root = Path(__file__).parents[1]
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
    cmp = filecmp.dircmp(root/dirname, tmp_path/dirname, ignore=['__pycache__', '.ipynb_checkpoints', '.last_checked', 'data'])
    assert not (cmp.left_only or cmp.right_only or cmp.diff_files), (cmp.left_only, cmp.right_only, cmp.diff_files)


def test_settings_agree_with_nbdev():
    from nbdev.config import get_config
    cfg = get_config(root)
    assert settings['lib_name']==cfg.lib_name
    for o in ('lib_path', 'nbs_path'): assert root/settings[o]==cfg[o]
    assert Config.find('settings.ini', root).d['kernel_name']=='python3'


@pytest.mark.parametrize('path', params, ids=lambda p: p.stem)
def test_studies_are_sound(path):
    "Every study file is accepted whole."
    assert not study.check(path)


def test_notebooks_import_only_lower_numbers():
    "Decades are layers."
    import json
    number = {}
    for nb in (root/'nbs').glob('*.ipynb'):
        src = ''.join(''.join(c['source']) for c in json.loads(nb.read_text())['cells'])
        if m := re.search(r'#\| default_exp (\w+)', src): number[m[1]] = nb.name
    for nb in sorted((root/'nbs').glob('*.ipynb')):
        cells = json.loads(nb.read_text())['cells']
        for c in cells:
            if c['cell_type']!='code': continue
            for m in re.findall(r'from xstilts\.(\w+) import', ''.join(c['source'])):
                assert m in number and number[m]<=nb.name, (nb.name, m)


def test_export_cells_are_short():
    "An export cell fits a screen, a notebook is read in one sitting."
    import json
    for nb in sorted((root/'nbs').glob('*.ipynb')):
        cells = json.loads(nb.read_text())['cells']
        assert len(cells)<80, (nb.name, len(cells))
        for c in cells:
            src = ''.join(c['source'])
            most = 80 if '(Realiser):' in src else 60  # a language is one class
            if src.startswith('#| export'): assert src.count('\n')<=most, (nb.name, src.count('\n'), src[:80])


def test_help_is_fast_and_light():
    "The command line imports nothing heavy before a verb needs it."
    code = "import sys; from xstilts.cli import parser; parser(); print([o for o in ('torch','transformers','pandas','datasets','fastcore') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.strip()=='[]'


def test_nothing_names_a_machine():
    "No tracked text holds a path of the machine it was written on."
    files = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    bad = [o for o in files if (root/o).is_file() and re.search(r'(/ho''me/|/ro''ot/|/wo''rk/|/tm''p/)', (root/o).read_text(errors='ignore'))]
    assert not bad, bad
