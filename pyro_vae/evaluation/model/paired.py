"""When a mean of paired differences over rows is told apart from zero."""

from __future__ import annotations

import math

__all__ = ["told_apart"]


def told_apart(mean: float, standard_error: float, num_rows: int, *, estimate_error: float = 0.0) -> bool:
    """Whether a mean difference of so many rows is one: by Student's t with one degree of freedom less, at 5 %.

    Two standard errors would find a difference between two rows of noise 30 times in 100.

    Args:
        mean: of the differences.
        standard_error: of the mean, from the spread of the rows.
        num_rows: how many.
        estimate_error: of the mean, from what the rows' own values are known to.
    """
    if num_rows < 2:
        return False
    from scipy.stats import t

    return abs(mean) > float(t.ppf(0.975, num_rows - 1)) * math.hypot(standard_error, estimate_error)
