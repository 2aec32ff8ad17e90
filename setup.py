"""Build the package with the notebooks that papermill executes, copied from nbs/ so that git holds them once."""
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXECUTED = ('templates', 'studies')  # folders of nbs/: templates of nodes, and every report of a study


class BuildWithNotebooks(build_py):
    "Copies the executed notebooks into the built package; an editable install finds them in nbs/"
    def run(self):
        super().run()
        if self.editable_mode: return
        to = Path(self.build_lib)/'xstilts'/'templates'
        to.mkdir(parents=True, exist_ok=True)
        for folder in EXECUTED:
            for notebook in sorted(Path('nbs', folder).glob('*.ipynb')): shutil.copyfile(notebook, to/notebook.name)


setup(cmdclass=dict(build_py=BuildWithNotebooks))
