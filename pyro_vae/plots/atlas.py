"""Figures of the atlas: all posteriors by all routes, one posterior under every route, and error against cost."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.atlas.cell import Cell
from pyro_vae.atlas.measure import DISTRUSTS_RIGHT, RIGHT, TRUSTS_WRONG, limit
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.result import Atlas
from pyro_vae.atlas.values import number
from pyro_vae.checks import say
from pyro_vae.evaluation.posterior.verdict import UNDECIDED
from pyro_vae.plots import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["atlas_costs", "atlas_map", "atlas_posteriors"]

_MARKS = {RIGHT: "", TRUSTS_WRONG: "✗", DISTRUSTS_RIGHT: "–", UNDECIDED: "?"}
_CEILING = 30.0  # times the limit; what is further off has the same colour


def atlas_map(atlas: Atlas, *, title: str = "How far each route is from the truth") -> Figure:
    """Draw posterior by route: blue within the verdict's limits, red beyond; a mark where the verdict was wrong.

    The number is the error in units of the limits: of a mean in 0.25 posterior standard deviations, or of the logarithm
    of a standard deviation in log 1.25, whichever is larger over all named numbers; the median over seeds.

    Args:
        atlas: what ``pv.atlas.run`` returned.
        title: of the figure.
    """
    from matplotlib.colors import LogNorm

    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in atlas.at_largest_budget():
        cells.setdefault((cell.problem, cell.route), []).append(cell)
    problems, routes = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    values = np.array([[_middle(cells.get((p, r), [])) for r in routes] for p in problems])
    figure, axes = canvas.one(3.0 + 0.62 * len(routes), 2.2 + 0.36 * len(problems))
    axes.set_facecolor("0.92")
    shown = np.clip(values, 1 / _CEILING, _CEILING)
    image = axes.imshow(shown, norm=LogNorm(1 / _CEILING, _CEILING), cmap="RdBu_r", aspect="auto")
    for (i, p), (j, r) in ((a, b) for a in enumerate(problems) for b in enumerate(routes)):
        seeds = cells.get((p, r))
        if seeds is None:
            continue
        marks = "".join(dict.fromkeys(_MARKS.get(cell.judged, "") for cell in seeds))
        text = "·" if all(cell.refused for cell in seeds) else f"{_short(values[i, j])}{marks}"
        far = not math.isnan(values[i, j]) and abs(math.log(shown[i, j])) > 2.2
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if far else "black")
    axes.set_xticks(range(len(routes)), routes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(problems)), problems)
    axes.set_title(title)
    key = "verdict: ✗ trusts a wrong one, – distrusts a right one, ? undecided;  · no posterior"
    axes.set_xlabel(key, fontsize=8)
    figure.colorbar(image, label="largest error, in units of the verdict's limits", shrink=0.6)
    return figure


def _middle(cells: list[Cell]) -> float:
    """The median over seeds of the error in units of the limits; NaN where there is no posterior."""
    known = [limit(cell.errors) for cell in cells if not cell.refused]
    return statistics.median(known) if known else math.nan


def _short(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}" if value < 1000 else ">999"


def atlas_posteriors(atlas: Atlas, problem: Problem, *, columns: int = 5) -> Figure:
    """Draw the two most telling numbers of a posterior under every route, in colour over the truth's draws in grey.

    Args:
        atlas: with cells of this posterior.
        problem: the posterior, with its truth.
        columns: panels side by side.

    Raises:
        ValueError: if the atlas has no cell of it.
    """
    cells = [cell for cell in atlas.at_largest_budget() if cell.problem == problem.name and not cell.refused]
    cells = list({cell.route: cell for cell in cells}.values())
    if not cells:
        raise ValueError(say(f"cells of {problem.name!r}", "none", f"pv.atlas.run({problem.name!r})"))
    known = np.stack([number(problem.truth.draws, name).cpu().numpy() for name in problem.telling], -1)
    low, high = np.quantile(known, [0.005, 0.995], axis=0)
    margin = 0.25 * np.maximum(high - low, 1e-12)
    figure, panels = canvas.panels(len(cells), columns, cell=(2.3, 2.2))
    for axes, cell in zip(panels, cells, strict=True):
        axes.plot(*known.T, ".", color="0.75", ms=2.5, mew=0, rasterized=True)
        colour = "#d1495b" if cell.errors.wrong else "#00798c"
        found = np.array(cell.draws)
        axes.plot(*found.T, ".", color=colour, ms=9.0 if len(found) == 1 else 3.0, mew=0, alpha=0.7, rasterized=True)
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
        axes.set_title(f"{cell.route}{_MARKS.get(cell.judged, '') and ' ' + _MARKS[cell.judged]}", fontsize=8)
        axes.tick_params(labelsize=6)
    for axes in panels[::columns]:
        axes.set_ylabel(problem.telling[1], fontsize=7)
    for axes in panels[-columns:]:
        axes.set_xlabel(problem.telling[0], fontsize=7)
    return figure


def atlas_costs(atlas: Atlas, problem: Problem) -> Figure:
    """Draw every route's largest error against what it spent: evaluations in all, and one after another.

    Args:
        atlas: with cells of this posterior at one budget or several.
        problem: the posterior.

    Raises:
        ValueError: if no cell of it has a count.
    """
    from matplotlib.ticker import NullFormatter

    cells = [cell for cell in atlas.cells if cell.problem == problem.name and cell.num_gradients]
    if not cells:
        raise ValueError(say(f"cells of {problem.name!r} with counts", "none", "a route that counts, such as NUTS"))
    figure, panels = canvas.panels(2, 2, cell=(4.6, 3.8))
    routes = list(dict.fromkeys(cell.route for cell in cells))
    words = ("evaluations of log p or its gradient, in all", "the same, one after another")
    for axes, cost, label in zip(panels, ("num_gradients", "num_sequential"), words, strict=True):
        for place, route in enumerate(routes):
            points = sorted((getattr(cell, cost) or 0, limit(cell.errors)) for cell in cells if cell.route == route)
            style: dict[str, Any] = {"color": f"C{place % 10}", "marker": "osD^v"[place // 10]}
            axes.plot(*zip(*points, strict=True), ms=4, lw=1, label=route, **style)
        axes.axhline(1.0, color="0.6", lw=0.8, ls=":")
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("largest error, in the verdict's limits")
    panels[1].legend(frameon=False, fontsize=6.5, ncols=2)
    return figure
