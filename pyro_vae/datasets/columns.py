"""What one pass over a table says of its columns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyro_vae.checks import say
from pyro_vae.datasets.rows import pieces

__all__ = ["MOST_DECIMALS", "Columns", "no_infinity"]

MOST_DECIMALS = 6  # that a column may be written with, to be more than a rounded measurement


class Columns:
    r"""Range, kind of number and moments of each column of a table, learnt piece by piece.

    Means and variances are merged by Chan, Golub & LeVeque 1983: with :math:`\delta = m_b - m_a`,
    :math:`m = m_a + \delta n_b / n` and :math:`M = M_a + M_b + \delta^2 n_a n_b / n`.

    Attributes:
        low: smallest value, ``(D,)``; infinite in a column without any.
        high: largest value.
        needed: how many values need 0, 1, ... ``MOST_DECIMALS`` decimals, then how many need more, ``(8, D)``.
        filled: how many values there are.
        mean: over the training rows.
        std: over the training rows, by the count, not the count less one.
    """

    def __init__(self, values: np.ndarray, training: np.ndarray, call: Callable[[int], str]) -> None:
        """Go through a table.

        Args:
            values: ``(N, *shape)``, in memory or on disk.
            training: the rows to take moments of.
            call: what to call a column.

        Raises:
            ValueError: if a value is infinite.
        """
        D = int(np.prod(values.shape[1:]))
        self.low, self.high = np.full(D, np.inf), np.full(D, -np.inf)
        self.needed, self.filled = np.zeros((MOST_DECIMALS + 2, D), np.int64), np.zeros(D, np.int64)
        self.mean, self._count, self._squares = np.zeros(D), np.zeros(D, np.int64), np.zeros(D)
        chosen = np.zeros(len(values), bool)
        chosen[training] = True
        row = 0
        for piece in pieces(values):
            flat = np.asarray(piece).reshape(len(piece), -1)
            no_infinity(flat, call, first=row)
            flat = flat.astype(np.float64)
            there = ~np.isnan(flat)
            self.low = np.minimum(self.low, np.where(there, flat, np.inf).min(0))
            self.high = np.maximum(self.high, np.where(there, flat, -np.inf).max(0))
            self._count_decimals(flat)
            self.filled += there.sum(0)
            some = chosen[row : row + len(flat)]
            self._merge(flat[some], there[some])
            row += len(flat)
        self._num_rows = row

    def join(self, other: Columns) -> Columns:
        """Add what another has seen of a further part; return itself."""
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.needed += other.needed
        self.filled += other.filled
        self._num_rows += other._num_rows
        self._merge_moments(other._count, other.mean, other._squares)
        return self

    @property
    def missing(self) -> bool:
        """Whether entries are missing."""
        return bool((self.filled < self._num_rows).any())

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each column over the training rows."""
        with np.errstate(invalid="ignore"):
            return np.sqrt(self._squares / np.maximum(self._count, 1))

    @property
    def whole(self) -> np.ndarray:
        """Whether all values of a column are whole numbers, ``(D,)``."""
        return self.needed[0] == self.filled

    def _count_decimals(self, flat: np.ndarray) -> None:
        """Add up with how many decimals values are written."""
        open_ = ~np.isnan(flat)
        for decimals in range(MOST_DECIMALS + 1):
            values = np.where(open_, flat, 0.0)
            held = open_ & (np.abs(values - np.round(values, decimals)) <= (1e-9 * np.abs(values) if decimals else 0.0))
            self.needed[decimals] += held.sum(0)
            open_ &= ~held
            if not open_.any():
                return
        self.needed[-1] += open_.sum(0)

    def _merge(self, flat: np.ndarray, there: np.ndarray) -> None:
        """Add rows to the moments."""
        count = there.sum(0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(there, flat, 0.0).sum(0) / np.maximum(count, 1)
            squares = (np.where(there, flat - mean, 0.0) ** 2).sum(0)
        self._merge_moments(count, mean, squares)

    def _merge_moments(self, count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            share = count / np.maximum(self._count + count, 1)
            delta = np.where(count > 0, mean - self.mean, 0.0)
            self._squares += squares + delta**2 * share * self._count
            self.mean += delta * share
        self._count += count


def no_infinity(flat: np.ndarray, call: Callable[[int], str], *, first: int = 0) -> None:
    """Check that no value of a table ``(n, D)`` is infinite.

    Raises:
        ValueError: naming row, counted on from ``first``, and column.
    """
    if flat.dtype.kind == "f" and np.isinf(flat).any():
        row, column = np.argwhere(np.isinf(flat))[0]
        got = f"an infinite value in data row {first + row}, column {call(column)}"
        raise ValueError(say("finite data", got, "removing that row, or leaving the entry empty"))
