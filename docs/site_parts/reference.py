"""The reference: a page for each group of public names, made from the package itself, so that none is forgotten."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sphinx.application import Sphinx

import pyro_vae as pv


class Group(NamedTuple):
    """A page of the reference: public names by the room that they live in."""

    page: str
    title: str
    about: str
    homes: tuple[str, ...]  # prefixes of modules; the first group that fits takes a name


GROUPS = (
    Group("model", "Model", "A prior and a likelihood as a Pyro program.", ("pyro_vae.model", "pyro_vae.networks")),
    Group("priors", "Priors", "p(z).", ("pyro_vae.priors",)),
    Group("likelihoods", "Likelihoods", "p(x|z).", ("pyro_vae.likelihoods",)),
    Group("guides", "Guides", "q(z|x).", ("pyro_vae.guides",)),
    Group("datasets", "Data", "Data to try it on.", ("pyro_vae.datasets",)),
    Group("exact", "Exact posteriors", "In closed form and by integration.", ("pyro_vae.inference.exact",)),
    Group("optimum", "Mode, Laplace, Pathfinder", "Posteriors by climbing.", ("pyro_vae.inference.optimum",)),
    Group("mcmc", "Markov chains", "Thousands of posteriors at once.", ("pyro_vae.inference.mcmc", "pyro_vae.infer")),
    Group("variational", "Variational inference", "`fit`, its objectives, `vi`.", ("pyro_vae.inference.variational",)),
    Group("target", "Target", "A program as N densities.", ("pyro_vae.inference.target",)),
    Group("evidence", "Evidence", "log p(x).", ("pyro_vae.evaluation.evidence",)),
    Group("posterior", "Is the posterior right?", "Measures and verdicts.", ("pyro_vae.evaluation.posterior",)),
    Group(
        "criticism",
        "Is the model any good?",
        "Checks, baselines, comparison, imputation, sweeps, samples.",
        ("pyro_vae.evaluation",),
    ),
    Group("systems", "The lecture's other systems", "DRAW, flows, adversaries.", ("pyro_vae.systems",)),
    Group("atlas", "Atlas", "Classic posteriors with their truth.", ("pyro_vae.atlas",)),
    Group("course", "Course and page", "Checks of exercises, a page to play with.", ("pyro_vae",)),
)


def names() -> Iterator[tuple[str, str, Any]]:
    """Every public name as users write it, its home and what it is: the package's and those of its public modules."""
    for name in pv.__all__:
        value, home = getattr(pv, name), pv._HOMES[name]
        if not isinstance(value, ModuleType):
            yield f"pyro_vae.{name}", home, value
            continue
        sys.modules.setdefault(f"pyro_vae.{name}", value)  # autodoc imports what users reach by an attribute
        for inner in value.__all__:
            yield f"pyro_vae.{name}.{inner}", home, getattr(value, inner)


def _entry(name: str, value: Any) -> str:
    if isinstance(value, type):
        if issubclass(value, Warning):
            return f".. autoexception:: {name}\n"
        return f".. autoclass:: {name}\n   :members:\n   :show-inheritance:\n"
    return f".. autofunction:: {name}\n" if callable(value) else f".. py:data:: {name}\n"


def _order(entry: tuple[str, Any]) -> tuple[bool, str]:
    """Functions before classes, and those by name."""
    return isinstance(entry[1], type), entry[0].lower()


def write(folder: Path) -> None:
    """Write the pages; one that would be the same is left as it is, so that it isn't built again."""
    folder.mkdir(parents=True, exist_ok=True)
    pages: dict[str, dict[str, Any]] = {group.page: {} for group in GROUPS}
    for name, home, value in names():
        group = next(group for group in GROUPS if home.startswith(group.homes))
        pages[group.page][name] = value
    for group in GROUPS:
        entries = "\n".join(_entry(name, value) for name, value in sorted(pages[group.page].items(), key=_order))
        text = f"# {group.title}\n\n{group.about}\n\n```{{eval-rst}}\n{entries}\n```\n"
        path = folder / f"{group.page}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for sources."""
    write(Path(app.srcdir, "docs", "reference"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
