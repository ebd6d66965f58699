"""Imports point down the flow only: read from the source, not run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent
# Each room, and the rooms below it that it may import.
PARTS = {"checks", "networks", "flows", "priors", "likelihoods", "guides", "model", "missing"}
EXACT = {"inference.analytic", "inference.quadrature", "inference.optimum", "inference.mcmc", "inference.target"}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pyro_vae"):
            inside = node.module.removeprefix("pyro_vae").lstrip(".")
            yield from ([inside] if inside else [alias.name for alias in node.names])


def _files():
    return {str(p.relative_to(ROOT).with_suffix("")).replace("/", "."): p for p in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("name", [n for n in _files() if n.split(".")[0] in PARTS])
def test_parts_know_neither_route_nor_measure(name):
    assert not [m for m in _imports(_files()[name]) if m.split(".")[0] in {"inference", "evaluation", "plots", "cli"}]


@pytest.mark.parametrize("name", [n for n in _files() if any(n.startswith(e) for e in EXACT)])
def test_exact_routes_and_chains_cannot_see_guides(name):
    assert not [m for m in _imports(_files()[name]) if m.split(".")[0] in {"guides", "priors", "likelihoods", "model"}]
    assert "inference.variational" not in _imports(_files()[name])


@pytest.mark.parametrize("name", [n for n in _files() if n.startswith("inference")])
def test_routes_know_no_measure_and_no_figure(name):
    assert not [
        m for m in _imports(_files()[name]) if m.split(".")[0] in {"evaluation", "plots", "report", "cli", "demo"}
    ]


def test_heavy_libraries_are_imported_when_used_and_no_state_is_touched():
    code = (
        "import sys, torch, pyro; before = torch.distributions.Distribution._validate_args;"
        "seed = torch.initial_seed(); import pyro_vae; pyro_vae.Model; pyro_vae.priors; pyro_vae.guides;"
        "heavy = {'arviz', 'pandas', 'sklearn', 'matplotlib', 'zuko', 'rich', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy; assert torch.distributions.Distribution._validate_args is before;"
        "assert torch.initial_seed() == seed; assert torch.get_default_dtype() is torch.float32"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
