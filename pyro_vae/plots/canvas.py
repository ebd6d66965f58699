"""Figures that belong to no window and no global state of matplotlib."""

from __future__ import annotations

from typing import Any

__all__ = ["one", "panels"]


def one(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of that size in inches, and its one pair of axes."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def panels(count: int, columns: int) -> tuple[Any, list[Any]]:
    """Return a figure of so many panels, at most ``columns`` a row, and the axes of each."""
    from matplotlib.figure import Figure as NewFigure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = NewFigure(figsize=(3.6 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes_of = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in axes_of[count:]:
        axes.axis("off")
    return figure, axes_of[:count]
