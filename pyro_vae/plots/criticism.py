"""The figure of a criticism: each column's data against the model's, its PIT, and what a classifier sees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.evaluation.model.result import Criticism
from pyro_vae.evaluation.model.words import Finding
from pyro_vae.plots import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["criticism"]

_RIGHT, _WRONG = "#00798c", "#d1495b"
_SHOWN = ("mean", "standard deviation", "5 % quantile", "50 % quantile", "95 % quantile", "share of zeros")
_MAX_COLUMNS = 16
_BINS = 10


def criticism(found: Criticism, *, title: str = "Data against data from the model") -> Figure:
    """Draw each column's statistics within the replicates' interval, its PIT histogram, and all correlations.

    A row is a column of the data; where there are many, those that fit worst. On the left, statistics in standard
    deviations of the replicates, the bar their central 95 %; in the middle, where the data lie among the replicates,
    from white (none) to dark (twice as many as there should be, or more); on the right, rank correlations of the data
    over those of the model. What fails at the level of the criticism is red.

    Args:
        found: what ``criticise`` returned.
        title: of the figure.
    """
    columns = _worst_columns(found)
    figure, (left, middle, right) = canvas.panels(3, 3)
    figure.set_size_inches(12.0, 2.0 + 0.34 * max(len(columns), 7))
    failed = set(found.failed)
    _intervals(left, found, columns, failed)
    _pit_strips(middle, found, columns)
    _correlations(right, found, failed)
    middle.set_yticks([])
    left.set_yticks(range(len(columns)), [found.names[d] for d in columns])
    wrong = {d for f in failed for d in f.columns}
    for d, label in zip(columns, left.get_yticklabels(), strict=True):
        label.set_color(_WRONG if d in wrong else "black")
    for axes in (left, middle):
        axes.set_ylim(len(columns) - 0.5, -0.5)
    two = found.two_sample
    said = f"AUC of a classifier {two.auc:.2f} (p {two.p_value:.2g})" if two else found.replicated_from
    figure.suptitle(f"{title}: {'nothing found' if found.ok else 'the model does not fit'}; {said}")
    return figure


def _worst_columns(found: Criticism) -> list[int]:
    """The columns to draw, in their order: all, or those with the smallest adjusted p-values."""
    smallest = dict.fromkeys(range(len(found.names)), 2.0)
    for f in found.findings:
        for d in f.columns:
            smallest[d] = min(smallest[d], f.adjusted)
    return sorted(sorted(smallest, key=lambda d: smallest[d])[:_MAX_COLUMNS])


def _intervals(axes: Any, found: Criticism, columns: list[int], failed: set[Finding]) -> None:
    """One line a statistic: its interval about the replicates' median, and the data's value."""
    place = {d: i for i, d in enumerate(columns)}
    step = 0.8 / len(_SHOWN)
    for f in found.findings:
        if f.statistic not in _SHOWN or f.columns[0] not in place or f.low == f.high == f.observed:
            continue
        y = place[f.columns[0]] + step * (_SHOWN.index(f.statistic) - (len(_SHOWN) - 1) / 2)
        scale = (f.high - f.low) / 3.92 or abs(f.observed - f.middle) / 4 or 1.0
        low, high = (f.low - f.middle) / scale, (f.high - f.middle) / scale
        at = float(np.clip((f.observed - f.middle) / scale, -8, 8))
        axes.plot([low, high], [y, y], color="0.75", lw=2.5, solid_capstyle="butt")
        marker = "o" if abs(at) < 8 else "<" if at < 0 else ">"
        axes.plot(at, y, marker, ms=3.5, color=_WRONG if f in failed else _RIGHT)
    axes.axvline(0, color="0.6", lw=0.6)
    label = "sd of replicates; downwards: mean, sd,\n5, 50, 95 % quantiles, share of zeros"
    axes.set(xlim=(-8.5, 8.5), xlabel=label, title="data in 95 % of replicates")


def _pit_strips(axes: Any, found: Criticism, columns: list[int]) -> None:
    """One strip a column: the histogram of its PIT, relative to uniform."""
    strips = np.full((len(columns), _BINS), math.nan)
    for i, d in enumerate(columns):
        u = found.pit[:, d]
        u = u[~np.isnan(u)]
        if len(u):
            strips[i] = np.histogram(u, _BINS, (0, 1))[0] * _BINS / len(u)
    image = axes.imshow(strips, aspect="auto", cmap="Greys", vmin=0, vmax=2, extent=(0, 1, len(columns) - 0.5, -0.5))
    axes.figure.colorbar(image, ax=axes, label="density (1 is right)", fraction=0.05)
    axes.set(xlabel="share of replicates below", title="PIT: place among replicates")


def _correlations(axes: Any, found: Criticism, failed: set[Finding]) -> None:
    pairs = [f for f in found.findings if len(f.columns) == 2]
    for wrong, colour in ((False, _RIGHT), (True, _WRONG)):
        some = [f for f in pairs if (f in failed) == wrong]
        if some:
            middle = np.array([f.middle for f in some])
            bars = np.abs(np.array([(f.low, f.high) for f in some]).T - middle)
            axes.errorbar([f.observed for f in some], middle, bars, fmt=".", ms=4, lw=0.6, color=colour)
    axes.plot([-1, 1], [-1, 1], color="0.6", lw=0.8)
    axes.set(xlabel="data", ylabel="model", xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), title="rank correlations")
