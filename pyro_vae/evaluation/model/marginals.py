"""One column at a time: its Gaussian, log-normal or kernel density, its smoothed histogram."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["Discrete", "KernelDensity", "density", "resolution"]

_FOLDS = 5
_MOST_ROWS = 2_000  # to choose a density on, and kernels in a density
_BLOCK = 4_000  # rows that are held against all kernels at once


def resolution(column: np.ndarray) -> float:
    """Return the variance that a column's own rounding leaves open, h^2 / 12 with h the smallest gap of its values.

    Where one value holds a tenth of the rows and more, it is an atom, and h is at least a hundredth of the standard
    deviation: no density can then be raised without end by a peak there.
    """
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    if len(values) < 2:
        return 0.0
    h = float(np.diff(values).min())
    if counts.max() >= 0.1 * counts.sum():
        h = max(h, 0.01 * float(np.nanstd(column)))
    return h**2 / 12


class Discrete:
    r"""A smoothed histogram, :math:`P(v) = (n_v + a\, g(v)) / (n + a)`.

    The base g is uniform over the values or, for counts, negative binomial with the column's moments, and a is the
    weight that predicts each row best from all others. Of two values, it is Laplace's (n_v + 1) / (n + 2).

    Args:
        column: training values, NaN where missing.
        test: values to score: which values there can be is known from both.
    """

    def __init__(self, column: np.ndarray, test: np.ndarray) -> None:
        column = column[~np.isnan(column)]
        values = np.unique(np.concatenate([column, test[~np.isnan(test)]]))
        whole = bool((values == np.round(values)).all()) and np.ptp(values) < 1e5
        self.values = np.arange(values[0], values[-1] + 1) if whole else values
        counts = np.bincount(np.searchsorted(self.values, column), minlength=len(self.values))
        K, n = len(self.values), len(column)
        uniform = np.full(K, 1.0 / K)
        choices = [(2.0, uniform)] if K <= 2 else [(a, uniform) for a in (0.5, 1.0, K / 2, 1.0 * K, 3.0 * K)]
        if K > 2 and whole and self.values[0] >= 0 and n > 1:
            choices += [(a, self._counts_base(column)) for a in (1.0, 0.1 * n, n, 10.0 * n, 1000.0 * n)]

        def others(choice: tuple[float, np.ndarray]) -> float:
            a, base = choice
            with np.errstate(divide="ignore"):
                left = np.log(np.maximum(counts - 1 + a * base, 1e-300)) - np.log(max(n - 1, 0) + a)
            return float((counts * left).sum())

        a, base = max(choices, key=others)
        self.prob = (counts + a * base) / (n + a)
        self.edges = np.minimum(np.append(0.0, np.cumsum(self.prob)), 1.0)

    def _counts_base(self, column: np.ndarray) -> np.ndarray:
        from scipy.stats import nbinom, poisson

        mean, variance = max(float(column.mean()), 1e-3), float(column.var())
        if variance <= 1.001 * mean:
            return poisson(mean).pmf(self.values)
        return nbinom(mean**2 / (variance - mean), mean / variance).pmf(self.values)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return log P(x), nats; 0 where missing."""
        place = np.searchsorted(self.values, np.where(np.isnan(x), self.values[0], x))
        return np.where(np.isnan(x), 0.0, np.log(np.maximum(self.prob[place], 1e-300)))

    def box(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distribution function just below x and at x; 0 and 1 where missing."""
        place = np.searchsorted(self.values, np.where(np.isnan(x), self.values[0], x))
        low, high = self.edges[place], self.edges[place + 1]
        return np.where(np.isnan(x), 0.0, low), np.where(np.isnan(x), 1.0, high)


def density(column: np.ndarray, test: np.ndarray, floor: float) -> tuple[str, np.ndarray]:
    r"""Fit a column by a Gaussian, by a log-normal where all values are positive, or by a kernel density.

    Which of them, five-fold cross-validation says: of those that are not worse than the best by a paired standard error
    the first.

    Args:
        column: training values, NaN where missing.
        test: values to score; whether all are positive is known from both.
        floor: variance that the density has at least.

    Returns:
        Its name, and log p(x) of the test values, nats, 0 where missing.
    """
    column = column[~np.isnan(column)]
    there = ~np.isnan(test)
    names = [name for name in _FITS if name != "log-normal" or min(column.min(), test[there].min(initial=1.0)) > 0]
    name = _best(names, column[np.random.default_rng(0).permutation(len(column))[:_MOST_ROWS]], floor)
    found = np.zeros(len(test))
    found[there] = _FITS[name](column, test[there], floor)
    return name, found


def _best(names: list[str], column: np.ndarray, floor: float) -> str:
    """The first density that held-out rows do not call worse than the best; the first where none can be asked."""
    folds = np.arange(len(column)) % _FOLDS
    parts = [(column[folds != k], column[folds == k]) for k in range(_FOLDS)] if len(column) >= 2 * _FOLDS else []
    parts = [(rest, held) for rest, held in parts if np.ptp(rest) > 0]
    if not parts:
        return names[0]
    scores = {name: np.concatenate([_FITS[name](*part, floor) for part in parts]) for name in names}
    best = max(names, key=lambda name: scores[name].mean())
    behind = {name: scores[best] - scores[name] for name in names}
    return next(name for name in names if behind[name].mean() <= behind[name].std() / len(behind[name]) ** 0.5)


def _normal(column: np.ndarray, x: np.ndarray, floor: float) -> np.ndarray:
    from scipy.stats import norm

    return norm.logpdf(x, column.mean(), np.sqrt(column.var() + floor))


def _log_normal(column: np.ndarray, x: np.ndarray, floor: float) -> np.ndarray:
    return _normal(np.log(column), np.log(x), floor / np.median(column) ** 2) - np.log(x)


class KernelDensity:
    r"""A Gaussian kernel density with Silverman's bandwidth, and one wide Gaussian, of a row's weight, for the tails.

    Of more than 2,000 rows, kernels stand at so many quantiles.

    Args:
        column: training values, NaN where missing.
        floor: variance that the bandwidth has at least.
    """

    def __init__(self, column: np.ndarray, floor: float) -> None:
        column = column[~np.isnan(column)]
        n, sd = len(column), float(column.std())
        spread = min(sd, float(np.subtract(*np.quantile(column, [0.75, 0.25]))) / 1.349 or sd)
        width = max(0.9 * spread * n**-0.2, floor**0.5)
        K = min(n, _MOST_ROWS)
        at = column if n == K else np.quantile(column, (np.arange(K) + 0.5) / K)
        self.loc = np.append(at, column.mean())
        self.scale = np.append(np.full(K, width), 2 * sd)
        self.weight = np.append(np.full(K, n / K), 1.0) / (n + 1)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Return the log density ``(N,)``, nats."""
        constant = np.log(self.weight) - np.log(self.scale) - 0.5 * math.log(2 * math.pi)
        found = []
        for rows in self._blocks(x):
            terms = constant - 0.5 * np.square((rows - self.loc) / self.scale)  # (n, K + 1)
            top = terms.max(1, keepdims=True)
            found.append(np.log(np.exp(terms - top).sum(1)) + top[:, 0])
        return np.concatenate(found)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Return the normal scores, the standard normal quantile of the distribution function at x, ``(N,)``."""
        from scipy.special import ndtr, ndtri

        def tail(sign: float) -> np.ndarray:
            tails = [ndtr(sign * (rows - self.loc) / self.scale) @ self.weight for rows in self._blocks(x)]
            return np.concatenate(tails)

        upper, lower = tail(-1.0), tail(1.0)
        return np.where(upper < lower, -ndtri(np.maximum(upper, 1e-300)), ndtri(np.maximum(lower, 1e-300)))

    @staticmethod
    def _blocks(x: np.ndarray) -> list[np.ndarray]:
        return np.array_split(x[:, None], max(1, -(-len(x) // _BLOCK)))


_FITS: Mapping[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "Gaussian": _normal,
    "log-normal": _log_normal,
    "kernel density": lambda column, x, floor: KernelDensity(column, floor).log_prob(x),
}
