"""The atlas as pages: the map of all, and one page a posterior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_vae.atlas.claims import claims
from pyro_vae.atlas.measure import limit
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.result import Atlas
from pyro_vae.plots.atlas import atlas_costs, atlas_map, atlas_posteriors
from pyro_vae.report.page import Section, write_report
from pyro_vae.runs.folder import versions

__all__ = ["write_atlas"]

_LEGEND = (
    "Errors are the largest over all named numbers, in posterior standard deviations; a ratio is of standard "
    "deviations, the one furthest from 1. The distance is the energy distance to the truth's draws, and its floor what "
    "500 draws of the truth itself would show. The gap is log p(x) less the bound, in nats."
)


def write_atlas(atlas: Atlas, folder: str | Path) -> Path:
    """Write ``index.html`` with the map of all, and a page for every posterior; return the index.

    Args:
        atlas: what ``pv.atlas.run`` returned, with its problems.
        folder: where; it is made.
    """
    folder = Path(folder)
    pages = [_page(atlas, problem, folder) for problem in atlas.problems.values()]
    frame = atlas.verdicts().rename(columns=lambda name: name.replace("_", " "))
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    sections = [
        Section("The map", _MAP, figure=atlas_map(atlas)),
        Section("Was the verdict right?", _VERDICTS, table=frame),
        Section("What is claimed", "\n\n".join(f"{claim}: {said}." for claim, said in claims(atlas))),
        Section("Means", "Largest error of a mean, in posterior standard deviations.", table=atlas.table("mean_error")),
        Section("Standard deviations", "Ratio furthest from 1.", table=atlas.table("std_ratio")),
        Section("Evaluations", "Of log p or its gradient, in all.", table=atlas.table("num_gradients")),
        Section("Seconds", f"Wall time. {installed}.", table=atlas.table("seconds")),
        Section("Pages", "One for every posterior.", links={page.stem: page.name for page in pages}),
    ]
    return write_report(folder / "index.html", "Where does variational inference fail?", sections)


_MAP = (
    "Blue is within the limits of the verdict, red beyond; the number is the error in units of the limit: a quarter of "
    "a posterior standard deviation for a mean, a factor of 1.25 for a standard deviation, whichever is worse."
)
_VERDICTS = (
    "The verdict asks the posterior's own importance weights, and a reference that does not depend on it. Here it is "
    "judged against the truth: how often it trusts what is wrong, and distrusts what is right."
)


def _page(atlas: Atlas, problem: Problem, folder: Path) -> Path:
    """Write the page of one posterior."""
    truth = problem.truth
    known = "" if truth.log_evidence is None else f" log p(x) = {truth.log_evidence:.3f} nats."
    about = f"{problem.why}\n\nTruth: {truth.how}.{known} {problem.source}"
    sections = [
        Section("Why it is here", about),
        Section(
            "The posterior under every route",
            f"{problem.telling[0]} and {problem.telling[1]}: the truth in grey; a route in blue where it is within the "
            "limits, in red beyond.",
            figure=atlas_posteriors(atlas, problem),
        ),
    ]
    if any(cell.num_gradients for cell in atlas.cells if cell.problem == problem.name):
        sections.append(Section("Error against cost", _COSTS, figure=atlas_costs(atlas, problem)))
    sections += [
        Section("Figures", _LEGEND, table=_figures(atlas, problem.name)),
        Section("What was said", _SAID, table=_words(atlas, problem.name), sentences=True),
    ]
    return write_report(folder / f"{problem.name}.html", problem.title or problem.name, sections)


_SAID = "Each route's own words, and the verdict's."
_COSTS = (
    "The currency is one evaluation of log p or its gradient at one point. To the left all of them count; to the right "
    "those that must come one after another, as where particles and chains run side by side at no cost."
)


def _figures(atlas: Atlas, problem: str) -> Any:
    import pandas as pd

    cells = [cell for cell in atlas.at_largest_budget() if cell.problem == problem and not cell.refused]
    cells.sort(key=lambda cell: limit(cell.errors))
    rows = {
        cell.route: {
            "mean error": cell.errors.mean,
            "sd ratio": cell.errors.std_ratio,
            "quantile error": cell.errors.quantile,
            "distance": cell.distance,
            "floor": cell.floor,
            "gap": cell.gap,
            "k-hat": cell.pareto_k,
            "mean error, re-weighted": cell.reweighted.mean,
            "sd ratio, re-weighted": cell.reweighted.std_ratio,
            "evaluations": cell.num_gradients,
            "one after another": cell.num_sequential,
            "seconds": cell.seconds,
        }
        for cell in cells
    }
    return pd.DataFrame.from_dict(rows, orient="index").dropna(axis=1, how="all")


def _words(atlas: Atlas, problem: str) -> Any:
    import pandas as pd

    cells = [cell for cell in atlas.at_largest_budget() if cell.problem == problem]
    rows = {
        cell.route: {
            "verdict": cell.decision or "none",
            "which was": cell.judged or "–",
            "because": cell.refused or cell.reason,
            "the route says": cell.said,
        }
        for cell in cells
    }
    return pd.DataFrame.from_dict(rows, orient="index")
