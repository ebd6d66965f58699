"""The classifier two-sample test: can a random forest tell the rows of two tables apart?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.checks import say

__all__ = ["TwoSample", "two_sample_test"]

_MAX_ROWS = 2000  # of each table: the forest grows slowly beyond, and rejects long before
_MIN_ROWS = 8  # of each table: half of them train, half are scored


@dataclass(frozen=True)
class TwoSample:
    """What a classifier says of two tables.

    Attributes:
        auc: area under the ROC curve on rows that the classifier did not see, mean of the two halves; 0.5 if the
            tables cannot be told apart.
        p_value: of the hypothesis that all rows are of one law; one-sided (AUC above 0.5), valid at any size.
        fold_auc: of each half.
        fold_p_value: of each half, before Bonferroni.
    """

    auc: float
    p_value: float
    fold_auc: tuple[float, float]
    fold_p_value: tuple[float, float]

    def __str__(self) -> str:
        return f"two-sample test by random forest: AUC {self.auc:.3f}, p {self.p_value:.3g}"


def two_sample_test(
    a: Tensor | np.ndarray, b: Tensor | np.ndarray, *, seed: int = 0, paired: bool = False, num_trees: int = 100
) -> TwoSample:
    r"""Test whether two tables hold rows of the same law.

    A forest learns on one half of both tables and scores the other half; then the halves change places. Given the
    forest, its scores of the other half are independent of it, and under the hypothesis those of a and of b have one
    law, so that the AUC times the number of pairs is Mann and Whitney's U: its p-value holds whatever was learned.
    The two p-values are joined by Bonferroni, :math:`p = \min(1, 2 \min(p_1, p_2))`.

    Args:
        a: rows ``(N, *D)``; NaN is a missing entry, and whether it is missing is a column of its own; categories are
            codes.
        b: rows ``(M, *D)``.
        seed: of the halves and of the forest.
        paired: whether row i of a and of b share something (a covariate, what is missing): they then stay together,
            and the p-value is conservative.
        num_trees: trees of the forest.

    Raises:
        ValueError: if a table has fewer than 8 rows, the columns differ, or pairs are asked of tables of two lengths.

    Source:
        Lopez-Paz & Oquab 2017, Revisiting classifier two-sample tests.

    Example:
        >>> import torch
        >>> found = two_sample_test(torch.randn(60, 2), torch.randn(60, 2) + 3)
        >>> found.auc > 0.9, found.p_value < 0.01
        (True, True)
    """
    first, second = (np.asarray(t, dtype=np.float64).reshape(len(t), -1) for t in (a, b))
    if first.shape[1] != second.shape[1]:
        raise ValueError(say("tables of the same columns", f"{first.shape[1]} and {second.shape[1]}", "one order"))
    if min(len(first), len(second)) < _MIN_ROWS:
        got = f"{len(first)} and {len(second)}"
        raise ValueError(say(f"at least {_MIN_ROWS} rows in each table", got, "more rows"))
    if paired and len(first) != len(second):
        raise ValueError(say("tables of one length, paired", f"{len(first)} and {len(second)}", "paired=False"))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(first))[:_MAX_ROWS]
    other = order if paired else rng.permutation(len(second))[:_MAX_ROWS]
    first, second = _with_indicators(first[order], second[other])
    halves = [(t[: len(t) // 2], t[len(t) // 2 :]) for t in (first, second)]
    folds = []
    for learn, score in ((0, 1), (1, 0)):
        forest = _forest(halves[0][learn], halves[1][learn], seed, num_trees)
        folds.append(_auc(forest, halves[0][score], halves[1][score]))
    (auc1, p1), (auc2, p2) = folds
    return TwoSample((auc1 + auc2) / 2, min(1.0, 2 * min(p1, p2)), (auc1, auc2), (p1, p2))


def _with_indicators(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fill missing entries by a column's median, and say in a column of its own where that was done."""
    both = np.concatenate([first, second])
    missing = np.isnan(both)
    some = missing.any(0)
    for column in np.flatnonzero(some):
        seen = both[~missing[:, column], column]
        both[missing[:, column], column] = np.median(seen) if len(seen) else 0.0
    both = np.clip(both, -1e30, 1e30)  # the forest works in float32
    both = np.concatenate([both, missing[:, some]], 1)
    return both[: len(first)], both[len(first) :]


def _forest(first: np.ndarray, second: np.ndarray, seed: int, num_trees: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    label = np.repeat([1, 0], [len(first), len(second)])
    forest = RandomForestClassifier(num_trees, min_samples_leaf=2, random_state=seed, class_weight="balanced")
    return forest.fit(np.concatenate([first, second]), label)


def _auc(forest: Any, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    from scipy.stats import mannwhitneyu

    scores = [forest.predict_proba(rows)[:, 1] for rows in (first, second)]
    found = mannwhitneyu(*scores, alternative="greater")
    return float(found.statistic) / (len(first) * len(second)), float(found.pvalue)
