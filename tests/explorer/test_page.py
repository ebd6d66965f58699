"""The file itself: whole, offline, small, and of JavaScript without a fault that a linter sees."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyro_vae as pv
from pyro_vae.explorer import assembly
from pyro_vae.explorer.assembly import script, sources
from tests.explorer.conftest import MODULES, node, numbers


def test_every_module_is_in_the_page_after_what_it_imports():
    assert set(sources()) == {path.name for path in Path(str(MODULES)).glob("*.mjs")}
    program = script()
    assert not re.search(r"^(import|export)\b", program, flags=re.MULTILINE)
    assert program.index("// special.mjs") < program.index("// network.mjs") < program.index("// app.mjs")


def test_an_import_of_another_form_is_named(monkeypatch):
    monkeypatch.setattr(assembly, "sources", lambda: {"a.mjs": 'import * as b from "./b.mjs";\n'})
    with pytest.raises(ImportError, match=r"import \* as b.* in a\.mjs"):
        assembly.script()


def test_node_takes_the_program_whose_names_are_unique(tmp_path):
    (tmp_path / "page.mjs").write_text(script())
    done = subprocess.run([node(), "--check", tmp_path / "page.mjs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_linter_finds_nothing(tmp_path):
    """On the modules, and on the program put together, where a name that is nowhere defined would show."""
    linter = shutil.which("oxlint", path=str(Path(sys.executable).parent)) or shutil.which("oxlint")
    assert linter, "expected oxlint, a package of the test extra"
    rules = Path(__file__).with_name("oxlint.json")
    (tmp_path / "page.mjs").write_text(script())
    whole = [str(tmp_path), "--allow", "no-unused-vars"]  # of what only the tests use
    for target in ([str(MODULES)], [str(Path(__file__).parent)], whole):
        command = [linter, "--deny-warnings", "--config", str(rules), *target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_reaches_for_nothing_outside(digits):
    page = digits[-1].read_text()
    shown = re.sub(r'<script type="(application/json|text/plain)".*?</script>', "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", shown)
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts)\b|@import|url\(", shown)
    assert re.findall(r"https?://[^\s\"']+", shown) == ["http://www.w3.org/2000/svg"]
    assert len(page) < 1e6


def test_a_page_of_images_of_mnists_size_has_three_to_four_megabytes(tmp_path):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 400, 784)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(784, 400, 4))
    path = pv.explore(model, guide, (torch.rand(60, 784) < 0.3).float(), path=tmp_path / "mnist.html")
    assert path.stat().st_size < 4e6


def test_words_of_a_table_cannot_end_the_script_or_the_page(tmp_path):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 2), scale=1.0))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(2, 4))
    bad = "</script><script>alert(1)</script>"
    path = pv.explore(model, guide, torch.zeros(1, 2), path=tmp_path / "bad.html", columns=[bad, "{{data}}"], title=bad)
    page = path.read_text()
    assert "alert(1)</script>" not in page
    content = json.loads(re.search(r'id="content">(.*?)</script>', page)[1])
    assert [column["name"] for column in content["columns"]] == [bad, "{{data}}"]
    assert content["title"] == bad


def test_the_weights_come_back_to_the_bit_of_single_precision(digits):
    model, _, _, path = digits
    (found,) = numbers(path, ("decode", {"z": [[0.5, -1.0]]}))
    p = model.decode(torch.tensor([[0.5, -1.0]], dtype=torch.float64))
    assert [one["mean"] for one in found[0]] == pytest.approx(p.mean[0].tolist(), abs=1e-12)
