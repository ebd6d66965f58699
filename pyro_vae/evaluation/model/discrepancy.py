r"""Statistics of a data set, and the family-wise test of all of them against replicated data sets.

Let :math:`x_0` be the data and :math:`x_1, \dots, x_R` replicates. If the model is right, all R + 1 are exchangeable,
and so are their statistics, however they are standardised, as long as all R + 1 take part alike. The largest
standardised statistic of each set then gives adjusted p-values that hold for all together (Westfall & Young 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["QUANTILES", "Family", "Statistic", "family", "pit", "statistics_of"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_CORRELATED = 128  # columns whose correlations are all looked at


@dataclass(frozen=True)
class Statistic:
    """One number of a data set: its name, the columns that it is of, and the smallest difference that can matter."""

    name: str
    columns: tuple[int, ...]
    resolution: float = 1e-12
    one_sided: bool = False


@dataclass(frozen=True)
class Family:
    """All statistics of the data against those of R replicates.

    Attributes:
        statistics: the J of them.
        observed: ``(J,)``.
        replicated: ``(R, J)``.
        p_value: two-sided Monte Carlo p-value of each, ``(J,)``.
        adjusted: p-value of each, corrected for looking at all, ``(J,)``.
    """

    statistics: tuple[Statistic, ...]
    observed: np.ndarray
    replicated: np.ndarray
    p_value: np.ndarray
    adjusted: np.ndarray


def statistics_of(sets: np.ndarray, discrete: np.ndarray, pits: np.ndarray) -> tuple[list[Statistic], np.ndarray]:
    """Return the statistics of S data sets and their values ``(S, J)``.

    Args:
        sets: ``(S, N, D)``, missing at the same places.
        discrete: which columns are discrete, ``(D,)``.
        pits: :func:`pit` of the sets.
    """
    labels: list[Statistic] = []
    values: list[np.ndarray] = []
    for d in range(sets.shape[2]):
        keep = ~np.isnan(sets[0, :, d])
        n = int(keep.sum())
        if not n:
            continue
        v = sets[:, keep, d]
        lattice = 0.5 if discrete[d] else 1e-12
        labels += [Statistic("mean", (d,)), Statistic("standard deviation", (d,))]
        values += [v.mean(1), v.std(1)]
        labels += [Statistic(f"{100 * q:.0f} % quantile", (d,), lattice) for q in QUANTILES]
        values += list(np.quantile(v, QUANTILES, axis=1))
        labels += [Statistic("minimum", (d,), lattice), Statistic("maximum", (d,), lattice)]
        values += [v.min(1), v.max(1)]
        labels += [Statistic("share of zeros", (d,), 1.0 / n)]
        values += [(v == 0).mean(1)]
        labels += [Statistic("PIT", (d,), one_sided=True)]
        values += [_anderson_darling(pits[:, keep, d])]
    pairs, correlations = _rank_correlations(sets)
    labels += [Statistic("rank correlation", pair) for pair in pairs]
    return labels, np.concatenate([np.array(values).reshape(-1, len(sets)).T, correlations], 1)


def family(labels: list[Statistic], values: np.ndarray) -> Family:
    """Test set 0 against the others, statistic by statistic and all together.

    A statistic is standardised by its median and, upwards and downwards apart, by its 5 % and 95 % quantiles over all
    sets, so that a skewed one does not rule the maximum.

    Args:
        labels: the J statistics.
        values: ``(R + 1, J)``, the data first.
    """
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
    floor = np.maximum([label.resolution for label in labels], 1e-9 * np.abs(middle))
    up, down = np.maximum(high - middle, floor) / 1.645, np.maximum(middle - low, floor) / 1.645
    away = values - middle
    one_sided = np.array([label.one_sided for label in labels], dtype=bool)
    size = np.where(away >= 0, away / up, np.where(one_sided, 0.0, -away / down))
    largest = size.max(1, initial=0.0)
    adjusted = (largest[:, None] >= size[0]).mean(0)
    above, below = (values >= values[0]).mean(0), (values <= values[0]).mean(0)
    p_value = np.where(one_sided, above, np.minimum(1.0, 2 * np.minimum(above, below)))
    return Family(tuple(labels), values[0], values[1:], p_value, adjusted)


def pit(sets: np.ndarray, discrete: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return where each entry lies among the same entry of all sets, ``(S, N, D)`` in (0, 1).

    Uniform if the sets are exchangeable, whatever covariates a row has; ties are broken at random (randomised PIT).
    """
    S, _, D = sets.shape
    ranks = np.empty(sets.shape)
    place = np.broadcast_to(np.arange(S)[:, None], sets.shape[:2])
    for d in range(D):
        v = sets[:, :, d]
        order = np.lexsort((rng.random(v.shape), v), axis=0) if discrete[d] else np.argsort(v, axis=0)
        np.put_along_axis(ranks[:, :, d], order, place, axis=0)
    return np.where(np.isnan(sets), np.nan, (ranks + rng.random(sets.shape)) / S)


def _anderson_darling(u: np.ndarray) -> np.ndarray:
    """Anderson & Darling's distance from uniform of each row of ``(S, n)``."""
    n = u.shape[1]
    u = np.clip(np.sort(u, 1), 1e-12, 1 - 1e-12)
    odd = 2 * np.arange(1, n + 1) - 1
    return -n - (odd * (np.log(u) + np.log1p(-u[:, ::-1]))).sum(1) / n


def _rank_correlations(sets: np.ndarray) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Spearman's correlations of all pairs of columns, ``(S, J)``, over rows where both are there."""
    from scipy.stats import rankdata

    columns = np.flatnonzero((~np.isnan(sets[0])).sum(0) > 2)
    if len(columns) > _MAX_CORRELATED:
        columns = np.sort(columns[np.argsort(-np.nanstd(sets[0][:, columns], 0))[:_MAX_CORRELATED]])
    there = (~np.isnan(sets[0][:, columns])).astype(float)
    first, second = np.triu_indices(len(columns), 1)
    found = np.zeros((len(sets), len(first)))
    for s, one in enumerate(sets):
        ranks = rankdata(one[:, columns], axis=0, nan_policy="omit")
        z = np.nan_to_num(ranks - np.nanmean(ranks, 0))
        square = (z**2).T @ there
        scale = np.sqrt(square * square.T)
        matrix = np.divide(z.T @ z, scale, out=np.zeros_like(scale), where=scale > 0)
        found[s] = matrix[first, second]
    return list(zip(columns[first].tolist(), columns[second].tolist(), strict=True)), found
