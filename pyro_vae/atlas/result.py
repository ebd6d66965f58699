"""What the atlas measured: one row a cell, a map of all, and how often the verdicts were right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_vae.atlas.cell import Cell, read_cells
from pyro_vae.atlas.measure import DISTRUSTS_RIGHT, RIGHT, TRUSTS_WRONG
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.programs import load, names
from pyro_vae.checks import say
from pyro_vae.evaluation.posterior.verdict import UNDECIDED

__all__ = ["Atlas", "read"]

OUTCOMES = (RIGHT, TRUSTS_WRONG, DISTRUSTS_RIGHT, UNDECIDED)


@dataclass(frozen=True)
class Atlas:
    """The cells of a run. Prints as the table of errors, posterior by route.

    Attributes:
        cells: one for each posterior, route, budget and seed, in the order of the atlas.
        problems: the posteriors by name.
    """

    cells: tuple[Cell, ...]
    problems: Mapping[str, Problem] = field(repr=False, default_factory=dict)

    def at_largest_budget(self) -> list[Cell]:
        """Return the cells of each route's largest budget."""
        most: dict[tuple[str, str], int] = {}
        for cell in self.cells:
            most[cell.problem, cell.route] = max(cell.budget, most.get((cell.problem, cell.route), 0))
        return [cell for cell in self.cells if cell.budget == most[cell.problem, cell.route]]

    def verdicts(self) -> Any:
        """Return how often the verdicts were right, a pandas DataFrame: a row a route, and one of all.

        Counted are the cells of each route's largest budget that have a verdict; ``share_...`` are of these.
        """
        import pandas as pd

        judged = [cell for cell in self.at_largest_budget() if cell.judged]
        routes = list(dict.fromkeys(cell.route for cell in judged))
        rows = {route: Counter(cell.judged for cell in judged if cell.route == route) for route in routes}
        rows["all"] = Counter(cell.judged for cell in judged)
        frame = pd.DataFrame([[rows[route][outcome] for outcome in OUTCOMES] for route in rows], list(rows), OUTCOMES)
        total = frame.sum(axis=1)
        shares = {f"share_{'_'.join(name.split())}": frame[name] / total for name in OUTCOMES[1:]}
        return frame.assign(**shares)

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame, one row a cell."""
        import pandas as pd

        return pd.DataFrame([_row(cell) for cell in self.cells])

    def table(self, value: str = "mean_error") -> Any:
        """Return one figure of the cells of the largest budgets, posterior by route, the median over seeds.

        Args:
            value: a column of :meth:`to_dataframe` that holds numbers.

        Raises:
            ValueError: if there is no such column.
        """
        import pandas as pd

        frame = pd.DataFrame([_row(cell) for cell in self.at_largest_budget()])
        if value not in frame or not pd.api.types.is_numeric_dtype(frame[value]):
            known = [name for name in frame if pd.api.types.is_numeric_dtype(frame[name])]
            raise ValueError(say(f"one of {known}", repr(value), "mean_error"))
        problems, routes = (list(dict.fromkeys(frame[name])) for name in ("problem", "route"))
        return frame.pivot_table(
            index="problem", columns="route", values=value, aggfunc="median", dropna=False
        ).reindex(index=problems, columns=routes)

    def __str__(self) -> str:
        refused = Counter(cell.refused for cell in self.cells if cell.refused)
        lines = ["largest error of a mean, in posterior standard deviations", self._text("mean_error")]
        lines += ["", "verdicts", self.verdicts().to_string(float_format=lambda share: f"{share:.2f}")]
        return "\n".join([*lines, *(f"{count} without a posterior: {reason}" for reason, count in refused.items())])

    def _text(self, value: str) -> str:
        return str(self.table(value).to_string(float_format=lambda number: f"{number:.2f}", na_rep="-"))


def read(folder: str | Path) -> Atlas:
    """Return the atlas that a run kept in a folder.

    Raises:
        ValueError: if there is none.
    """
    files = sorted((Path(folder) / "cells").glob("*.jsonl"))
    if not files:
        raise ValueError(say(f"a folder with the cells of an atlas at {folder}", "none", "pyro-vae atlas"))
    order = {name: place for place, name in enumerate(names())}
    files.sort(key=lambda file: order.get(file.stem, len(order)))
    cells = [cell for file in files for cell in read_cells(file).values()]
    known = [name for name in dict.fromkeys(cell.problem for cell in cells) if name in names()]
    return Atlas(tuple(cells), {name: load(name) for name in known})


def _row(cell: Cell) -> dict[str, Any]:
    """A cell's figures side by side."""
    errors, reweighted = cell.errors, cell.reweighted
    return {
        "problem": cell.problem,
        "route": cell.route,
        "budget": cell.budget,
        "seed": cell.seed,
        "mean_error": errors.mean,
        "std_ratio": errors.std_ratio,
        "quantile_error": errors.quantile,
        "distance": cell.distance,
        "floor": cell.floor,
        "elbo": cell.elbo,
        "gap": cell.gap,
        "pareto_k": cell.pareto_k,
        "reweighted_mean_error": reweighted.mean,
        "reweighted_std_ratio": reweighted.std_ratio,
        "num_gradients": math.nan if cell.num_gradients is None else cell.num_gradients,
        "num_sequential": math.nan if cell.num_sequential is None else cell.num_sequential,
        "seconds": cell.seconds,
        "wrong": bool(errors.wrong),
        "decision": cell.decision,
        "judged": cell.judged,
        "reason": cell.reason,
        "said": cell.said,
        "refused": cell.refused,
    }
