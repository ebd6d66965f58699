"""What the documents say can be done: their Python runs, their commands exist, their stored output is of their code."""

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from docs.refresh import Blocks, digest
from pyro_vae.cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "tutorials").rglob("*.ipynb"))


@pytest.mark.parametrize("name", ["swap", "program", "trust"])
def test_a_guides_python_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(Blocks(ROOT / "docs" / "guides" / f"{name}.md").python(), {"__name__": "__main__"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_and_their_options_exist(path):
    commands = get_command(app).commands
    for line in re.findall(r"(?:pyro-vae|-m pyro_vae) ([^\n`|]+)", path.read_text("utf-8")):
        name, *rest = line.split()
        if name.startswith("-") or not name.islower():
            continue
        assert name in commands, f"{path.name}: pyro-vae {line}"
        known = {
            option for parameter in commands[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        asked = {word.split("=")[0].rstrip(".,;:)") for word in rest if word.startswith("--")}
        assert asked <= {*known, "--help"}, f"{path.name}: pyro-vae {line}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_the_output_of_its_code(path):
    notebook = json.loads(path.read_text("utf-8"))
    remedy = f"run: python docs/refresh.py notebooks {path.relative_to(ROOT)}"
    assert notebook["metadata"].get("digest") == digest(notebook), remedy
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs, remedy
    assert not [output for output in outputs if output["output_type"] == "error"], remedy
