"""Imports point down the flow only: read from the source, not run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent
# Each room, and the rooms that it may import. Read from bottom to top of the flow: an arrow points up this list only.
PARTS = ["networks", "priors", "likelihoods", "guides", "model"]
ROUTES = ["inference.target", "inference.optimum", "inference.exact", "inference.mcmc"]
# under every room; they import nothing of ours
BASE = ["arviz_import", "checks", "closures", "memory", "progress", "randomness", "scales"]
MAY_IMPORT = {
    "distributed": [],
    "datasets": [],
    "flows": [],
    "networks": [],
    "priors": ["flows"],
    "likelihoods": [],
    "model": ["likelihoods", "priors"],
    "guides": ["flows", "model"],
    "inference.target": [],
    "inference.compiled": ["distributed"],
    "inference.optimum": ["inference.target"],
    "inference.exact": ["inference.optimum", "inference.target"],
    "inference.posterior": ["inference.target"],
    "inference.mcmc": ["inference.compiled", "inference.posterior", "inference.target"],
    "inference.variational": [
        *("datasets", "distributed", "flows"),
        *("inference.compiled", "inference.exact", "inference.optimum", "inference.posterior", "inference.target"),
    ],
    "infer": ["inference.compiled", "inference.mcmc"],
    "evaluation.simulation": ["inference.target"],
    "evaluation.tables": [],
    "evaluation.sites": ["inference.posterior", "inference.target"],
    "evaluation.evidence": [
        *("evaluation.simulation", "evaluation.sites", "inference.posterior", *ROUTES),
    ],
    "evaluation.imputation": [
        *("evaluation.evidence", "evaluation.sites"),
        *("inference.mcmc", "inference.posterior", "inference.target", "model"),
    ],
    "evaluation.imputation_check": ["evaluation.imputation", "model"],
    "evaluation.posterior": [
        *("evaluation.evidence", "evaluation.simulation", "evaluation.sites", "evaluation.tables"),
        *("inference.posterior", "inference.variational", *ROUTES),
    ],
    "evaluation.model": [
        *("evaluation.evidence", "evaluation.simulation", "evaluation.tables", "inference.posterior"),
        *("likelihoods", "model", *ROUTES),
    ],
    "evaluation.samples": ["evaluation.tables"],
    "evaluation.sweep": [
        "distributed",
        "evaluation.posterior",
        "inference.posterior",
        "inference.variational",
        *PARTS,
        *ROUTES,
    ],
    "systems": ["evaluation.evidence", "flows", "inference.target", "inference.variational", *PARTS],
    "atlas": [
        *("datasets", "evaluation.evidence", "evaluation.posterior", "evaluation.sites"),
        *("inference.posterior", "inference.variational", *PARTS, *ROUTES),
    ],
    "course": ["datasets", "evaluation.evidence", "evaluation.posterior", "inference.variational", *PARTS, *ROUTES],
    "plots": [
        "atlas",
        "evaluation.evidence",
        "evaluation.model",
        "evaluation.posterior",
        "inference.posterior",
        "inference.variational",
        *ROUTES,
    ],
    "factor_analysis": [],
    "runs": [
        "datasets",
        "distributed",
        "evaluation.evidence",
        "evaluation.model",
        "evaluation.sweep",
        "factor_analysis",
        "inference.target",
        "inference.variational",
        "systems",
        *PARTS,
    ],
    "explorer": ["datasets", "guides", "likelihoods", "model", "networks", "priors", "runs"],
    "report": [
        *("atlas", "datasets", "evaluation.model", "evaluation.posterior", "inference.variational", "plots", "runs"),
        *PARTS,
        *ROUTES,
    ],
    "demo": [
        *("datasets", "evaluation.posterior", "explorer", "inference.variational", "plots", "report"),
        *PARTS,
        *ROUTES,
    ],
    "cli": [
        *("atlas", "datasets", "demo", "distributed", "explorer", "plots", "report", "runs"),
        *(
            "evaluation.evidence",
            "evaluation.imputation",
            "evaluation.imputation_check",
            "inference.posterior",
            "inference.target",
        ),
    ],
    "__main__": ["cli"],
}


def _files():
    names = {str(p.relative_to(ROOT).with_suffix("")).replace("/", "."): p for p in sorted(ROOT.rglob("*.py"))}
    del names["__init__"]  # the public names, from everywhere
    return names


def _room(module):
    parts = module.removesuffix(".__init__").split(".")
    return ".".join(parts[:2]) if parts[0] in {"inference", "evaluation"} and len(parts) > 1 else parts[0]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pyro_vae"):
            inside = node.module.removeprefix("pyro_vae").lstrip(".")
            yield from ([inside] if inside else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("pyro_vae.") for a in node.names if a.name.startswith("pyro_vae."))


@pytest.mark.parametrize("name", _files())
def test_a_room_imports_only_what_the_flow_allows(name):
    room = _room(name)
    if name in {"inference.__init__", "evaluation.__init__"}:
        assert not list(_imports(_files()[name]))
        return
    allowed = set() if room in BASE else {room, *BASE, *MAY_IMPORT[room]}
    assert {_room(module) for module in _imports(_files()[name])} <= allowed


def test_the_flow_has_a_direction():
    below = set(BASE)
    for room, allowed in MAY_IMPORT.items():
        assert set(allowed) <= below, f"{room} may import {set(allowed) - below}, which is not below it"
        below.add(room)


def test_every_line_of_the_flow_is_a_room():
    assert {_room(name) for name in _files()} - {"inference", "evaluation"} == {*BASE, *MAY_IMPORT}


@pytest.mark.parametrize("room", ROUTES)
def test_exact_routes_and_chains_cannot_see_parts(room):
    assert not {"guides", "priors", "likelihoods", "model", "inference.variational"} & set(MAY_IMPORT[room])


def test_heavy_libraries_are_imported_when_used_and_no_state_is_touched():
    code = (
        "import sys, torch, pyro; before = torch.distributions.Distribution._validate_args;"
        "seed = torch.initial_seed(); import pyro_vae; pyro_vae.Model; pyro_vae.priors; pyro_vae.guides;"
        "heavy = {'arviz', 'pandas', 'sklearn', 'matplotlib', 'zuko', 'rich', 'typer'} & set(sys.modules);"
        "assert not heavy, heavy; assert torch.distributions.Distribution._validate_args is before;"
        "assert torch.initial_seed() == seed; assert torch.get_default_dtype() is torch.float32"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
