"""Every tutorial runs from top to bottom, its assertions included: in this process, where the libraries are loaded."""

import json
import warnings
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def test_there_are_tutorials():
    assert len(list(TUTORIALS.glob("*.ipynb"))) >= 8


@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_cell_runs(path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(TUTORIALS)
    shell = InteractiveShell()
    shell.enable_gui = lambda gui=None: None  # of %matplotlib inline; there is no window here
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # what a reader sees; pytest makes errors of them
        for place, cell in enumerate(cells):
            result = shell.run_cell("".join(cell["source"]))
            assert result.success, f"code cell {place}: {result.error_before_exec or result.error_in_exec!r}"
    plt.close("all")
