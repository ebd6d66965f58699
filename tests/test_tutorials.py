"""Every tutorial runs from top to bottom, its assertions included: in this process, where the libraries are loaded."""

import json
import warnings
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

TUTORIALS = Path(__file__).parent.parent / "tutorials"


NOTEBOOKS = sorted(TUTORIALS.rglob("[!.]*.ipynb"))


def test_every_lesson_has_its_solutions():
    lessons = {path.name for path in TUTORIALS.glob("*.ipynb")}
    assert len(lessons) == 12
    assert lessons == {path.name for path in (TUTORIALS / "solutions").glob("*.ipynb")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_every_cell_runs(path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(path.parent)
    shell = InteractiveShell()
    shell.enable_gui = lambda gui=None: None  # of %matplotlib inline; there is no window here
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # what a reader sees; pytest makes errors of them
        for place, cell in enumerate(cells):
            result = shell.run_cell("".join(cell["source"]))
            assert result.success, f"code cell {place}: {result.error_before_exec or result.error_in_exec!r}"
    plt.close("all")
