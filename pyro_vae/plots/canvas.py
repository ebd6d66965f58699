"""Figures that belong to no window and no global state of matplotlib."""

from __future__ import annotations

from typing import Any

__all__ = ["one", "panels"]


def one(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of that size in inches, and its one pair of axes."""
    figure, axes = panels(1, 1, cell=(width, height), margin=0)
    return figure, axes[0]


def panels(
    count: int, columns: int, *, cell: tuple[float, float] = (3.6, 3.4), margin: float = 0.4
) -> tuple[Any, list[Any]]:
    """Return a figure of so many panels, at most ``columns`` a row, and the axes of each; sizes in inches."""
    from matplotlib.figure import Figure as NewFigure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = NewFigure(figsize=(cell[0] * columns, cell[1] * rows + margin), layout="constrained")
    axes_of = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in axes_of[count:]:
        axes.axis("off")
    return figure, axes_of[:count]
