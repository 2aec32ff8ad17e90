"""The repository keeps its own rules: notebooks are the source, studies are sound, nothing names a machine."""
import filecmp
import ast
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
    "Names that two trees of folders do not share, and files that are not the same in both."
    found = filecmp.dircmp(one, two, ignore=IGNORED)
    yield from (str(Path(one)/o) for o in (*found.left_only, *found.right_only, *found.diff_files))
    for o in found.common_dirs: yield from differing(Path(one)/o, Path(two)/o)


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


PACKAGES = ('core', 'catalog', 'mini', 'data', 'learn', 'evaluate', 'run', 'share', 'report')  # layers, lowest first


def notebooks():
    "Every library notebook with the place of its module in the layers: the package, then the number of the notebook."
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


def functions(cells):
    "Every exported function and method of a notebook, with the lines of its cell."
    for source in export_cells(cells):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): yield node, source.split('\n')


def export_cells(cells):
    sources = [''.join(c['source']) for c in cells if c['cell_type']=='code']
    return [o for o in sources if o.startswith('#| export')]


def test_functions_are_small():
    "A function does one thing: at most 250 nodes of syntax and 60 lines. A notebook is read in one sitting."
    for nb, _, cells, _ in notebooks():
        assert len(cells)<=80, (nb.name, len(cells))
        for f, _ in functions(cells):
            nodes = sum(1 for _ in ast.walk(f))
            assert nodes<=250 and f.end_lineno-f.lineno<60, (nb.name, f.name, nodes)


def test_parameters_are_documented():
    "A public function says what each parameter is; nine in ten at least, because some are plain."
    said, missing = 0, []
    for nb, _, cells, _ in notebooks():
        for f, lines in functions(cells):
            if f.name.startswith('_') or f.col_offset: continue
            for o in (*f.args.args, *f.args.kwonlyargs):
                documented = '#' in lines[o.lineno-1].split(o.arg, 1)[1]
                said += documented
                if not documented: missing.append(f'{nb.stem}.{f.name}({o.arg})')
    assert said>=.9*(said+len(missing)), missing


def test_notebooks_show():
    "At most two export cells follow each other without prose or an example; four examples in ten have an output."
    examples, shown = 0, 0
    for nb, _, cells, _ in notebooks():
        run = 0
        for c in cells:
            source = ''.join(c['source'])
            exported = c['cell_type']=='code' and source.startswith('#| export')
            if not exported:
                run = 0
            elif not re.fullmatch(r'#\| export\n((from|import) .*\n?|  .*\n?)*', source):
                run += 1
            assert run<=2, (nb.name, source[:80])
            if c['cell_type']=='code' and not re.match(r'#\| (export|hide|default_exp)', source):
                examples += 1
                shown += bool(c['outputs'])
    assert shown>=.4*examples, (shown, examples)


def test_public_names_are_used_in_their_notebook():
    "Every public function, class and table has an example where it is defined."
    for nb, _, cells, _ in notebooks():
        sources = [''.join(c['source']) for c in cells if c['cell_type']=='code']
        examples = '\n'.join(o for o in sources if not re.match(r'#\| (export|default_exp)', o))
        public = [o for source in export_cells(cells) for o in defined(ast.parse(source)) if not o.startswith('_')]
        unused = [o for o in public if not re.search(rf'\b{o}\b', examples) and (nb.stem, o) not in SHOWN_ELSEWHERE]
        assert not unused, (nb.name, unused)


SHOWN_ELSEWHERE = (('16_launch', 'launch'),)  # (notebook, name): needs processes, see tests/learn/test_devices.py


def defined(tree):
    "The names that a cell defines."
    for o in tree.body:
        if isinstance(o, (ast.FunctionDef, ast.ClassDef)): yield o.name
        if isinstance(o, ast.Assign): yield from (t.id for t in o.targets if isinstance(t, ast.Name))


def test_help_is_fast_and_light():
    "The command line imports nothing heavy before a verb needs it."
    heavy = ('torch', 'transformers', 'pandas', 'datasets', 'fastcore')
    code = f"import sys; from xstilts.cli import main; main(['--help']); print(set({heavy})&set(sys.modules))"
    res = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert res.stdout.splitlines()[-1]=='set()'


def test_nothing_names_a_machine():
    "No tracked text holds a path of the machine it was written on."
    files = subprocess.run(['git', 'ls-files'], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    texts = {o: (root/o).read_text(errors='ignore') for o in files if (root/o).is_file()}
    bad = [o for o, text in texts.items() if re.search(r'(/ho''me/|/ro''ot/|/wo''rk/|/tm''p/)', text)]
    assert not bad, bad
