"""What a sweep measured, as a table and as a heat map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro_vae.checks import among, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "PARTS", "Sweep"]

PARTS = ("prior", "likelihood", "guide", "objective")
FIGURES = ("elbo", "evidence", "gap", "active_units", "seconds")

_INCHES = 0.085  # that a letter of a name takes


@dataclass(frozen=True)
class Sweep:
    """What :func:`~pyro_vae.evaluation.sweep.grid.sweep` measured. Prints as a table of means and spreads over seeds.

    Attributes:
        rows: one dictionary a run: the four parts' names and ``seed``; ``elbo``, ``evidence`` and ``gap`` (nats per
            datum of the test data), ``evidence_by`` ("quadrature", or "IWAE-K", a lower bound), ``active_units``,
            ``seconds``; ``error`` says why a run failed, and is empty otherwise.
    """

    rows: list[dict[str, Any]]

    def to_dataframe(self, *, per_seed: bool = False) -> Any:
        """Return a pandas DataFrame: one row a combination (means and standard deviations), or one a run."""
        import pandas as pd

        runs = pd.DataFrame(self.rows)
        if per_seed:
            return runs
        grouped = runs.groupby(list(PARTS), sort=False)
        table = grouped[list(FIGURES)].agg(["mean", "std"])
        table.columns = [name if which == "mean" else f"{name}_std" for name, which in table.columns]
        table["failed"] = grouped["error"].agg(lambda errors: sum(bool(error) for error in errors))
        return table.reset_index()

    def __str__(self) -> str:
        table = self.to_dataframe().round(3).to_string(index=False)
        reasons: dict[str, int] = {}
        for row in self.rows:
            if row["error"]:
                reasons[row["error"]] = reasons.get(row["error"], 0) + 1
        return "\n".join([table, *(f"{count} failed: {reason}" for reason, count in reasons.items())])

    def heat_map(self, value: str = "evidence", *, rows: str = "prior", columns: str = "guide") -> Figure:
        """Draw the mean of a figure over seeds and over the parts that are not shown, with the spread of the runs.

        A cell without a figure says so: its runs failed, or have none.

        Args:
            value: "elbo", "evidence", "gap", "active_units" or "seconds".
            rows: the part that runs down: "prior", "likelihood", "guide" or "objective".
            columns: the part that runs across.

        Raises:
            ValueError: on an unknown name, or the same part twice.
        """
        from matplotlib.figure import Figure

        among(value, FIGURES, "value")
        if among(rows, PARTS, "rows") == among(columns, PARTS, "columns"):
            raise ValueError(say("two different parts", f"{rows!r} twice", "rows='prior', columns='guide'"))
        runs = self.to_dataframe(per_seed=True)
        down, across = runs[rows].unique(), runs[columns].unique()  # in the order they were run
        cells = runs.groupby([rows, columns])[value]
        mean, spread, count = (
            table.unstack().reindex(index=down, columns=across).to_numpy(dtype=float)
            for table in (cells.mean(), cells.std(), cells.count())
        )
        beside, below = (_INCHES * max(map(len, names)) for names in (down, across))  # room for names of any length
        size = (2.0 + beside + max(1.3 * len(across), 0.9 * below), 1.4 + 0.5 * below + 0.6 * len(down))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_facecolor("0.9")
        image = axes.imshow(mean, aspect="auto", cmap="viridis")
        share: Any = image.norm(mean)
        axes.set_xticks(range(len(across)), across, rotation=30, ha="right")
        axes.set_yticks(range(len(down)), down)
        unit = {"seconds": "s", "active_units": "dimensions"}.get(value, "nats per datum")
        axes.set(xlabel=columns, ylabel=rows, title=f"{value} ({unit})")
        for i in range(len(down)):
            for j in range(len(across)):
                bare = not count[i, j] > 0
                text = "no figure" if bare else f"{mean[i, j]:.2f}"
                if count[i, j] > 1:
                    text += f"\n± {spread[i, j]:.2f}"
                bright = bare or float(share[i, j]) > 0.6
                axes.text(j, i, text, ha="center", va="center", color="black" if bright else "white", fontsize=8)
        figure.colorbar(image)  # the title names it: a grid of one row is too low for a label
        return figure
