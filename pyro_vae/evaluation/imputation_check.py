"""How well a model fills in missing cells: observed ones are hidden, imputed, and compared with what they were."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.imputation import impute
from pyro_vae.model import Model
from pyro_vae.randomness import fork_rng

__all__ = ["ImputationCheck", "check_imputation", "point_estimate"]

_ENOUGH = 1_000  # hidden cells in all, for which cells are hidden anew until every one has been
_LEVELS = (0.5, 0.9)
_VAGUE = 0.05  # the standard error of a coverage from which it says nothing


@dataclass(frozen=True)
class ImputationCheck:
    """Hidden cells, what a model and simple methods made of them, and how often its intervals held them.

    Attributes:
        names: of the D columns.
        categories: which of them are compared as categories, ``(D,)``.
        column: of each of the M hidden cells.
        error: of the imputed mean of each, in the column's standard deviations; of a category 0 if right, 1 if wrong.
        mean_error: that of the column's mean, or of its most frequent category.
        regression_error: that of scikit-learn's IterativeImputer; NaN of a category.
        place: where the hidden value lies among its draws, ``(M,)``, uniform over (0, 1) if they are drawn from what is
            known of it; NaN of a category.
        notes: what a person should know.
    """

    names: tuple[str, ...]
    categories: np.ndarray
    column: np.ndarray
    error: np.ndarray
    mean_error: np.ndarray
    regression_error: np.ndarray
    place: np.ndarray
    notes: tuple[str, ...] = ()

    def coverage(self, level: float, column: int | None = None) -> float:
        """Share of hidden numbers within the central interval of this level; of one column, or of all."""
        place = self.place if column is None else self.place[self.column == column]
        place = place[~np.isnan(place)]
        return float((np.abs(place - 0.5) <= level / 2).mean()) if len(place) else math.nan

    def to_dataframe(self) -> Any:
        """Return a pandas DataFrame: one row a column with hidden cells, and rows for all numbers, all categories.

        Numbers have ``rmse``, ``rmse_mean`` and ``rmse_iterative`` in standard deviations of the column and
        ``coverage_50`` and ``coverage_90``; categories ``accuracy`` and ``accuracy_mode``.
        """
        import pandas as pd

        code = self.categories[self.column]
        rows = [self._row(self.names[d], self.column == d, coded=bool(self.categories[d])) for d in self._order()]
        for label, some, coded in (("all numbers", ~code, False), ("all categories", code, True)):
            if some.any():
                rows.append(self._row(label, some, coded=coded))
        columns = ["cells", "rmse", "rmse_mean", "rmse_iterative", "coverage_50", "coverage_90"]
        frame = pd.DataFrame(rows).set_index("column")
        return frame.reindex(columns=[*columns, *(["accuracy", "accuracy_mode"] if code.any() else [])])

    def _order(self) -> list[int]:
        return sorted(set(self.column.tolist()))

    def _row(self, label: str, some: np.ndarray, *, coded: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"column": label, "cells": int(some.sum())}
        if coded:
            return row | {"accuracy": 1 - self.error[some].mean(), "accuracy_mode": 1 - self.mean_error[some].mean()}
        errors = {"rmse": self.error, "rmse_mean": self.mean_error, "rmse_iterative": self.regression_error}
        row |= {name: float(np.sqrt(np.square(error[some]).mean())) for name, error in errors.items()}
        place = self.place[some]
        return row | {
            f"coverage_{100 * level:.0f}": float((np.abs(place - 0.5) <= level / 2).mean()) for level in _LEVELS
        }

    @property
    def verdict(self) -> str:
        """Whether the imputed means are better than simple ones, and whether the intervals hold what they say."""
        frame, said = self.to_dataframe(), []
        if "all numbers" in frame.index:
            row = frame.loc["all numbers"]
            ratio = row["rmse"] / row["rmse_iterative"]
            said.append(
                f"imputed means err by {row['rmse']:.3f} standard deviations, column means by {row['rmse_mean']:.3f}, "
                f"IterativeImputer by {row['rmse_iterative']:.3f} ({ratio:.2f} times its error)"
            )
            error, off = math.sqrt(0.09 / row["cells"]), row["coverage_90"] - 0.9
            word = "as they should" if abs(off) <= 2 * error else "too wide" if off > 0 else "too narrow"
            word = word if error < _VAGUE else "too few to tell"
            said.append(f"90 % intervals hold {row['coverage_90']:.1%} of {row['cells']:.0f} hidden numbers: {word}")
        if "all categories" in frame.index:
            row = frame.loc["all categories"]
            said.append(f"{row['accuracy']:.1%} of categories are right, {row['accuracy_mode']:.1%} by the mode alone")
        return "; ".join(said)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        table = Table(title=f"{len(self.column)} observed cells, hidden and imputed", title_justify="left")
        frame = self.to_dataframe()
        table.add_column("column")
        for name in frame.columns:
            table.add_column(_HEADINGS[name], justify="right")
        for label, row in frame.iterrows():
            cells = ["-" if math.isnan(row[name]) else f"{row[name]:{_FORMATS.get(name, '.3f')}}" for name in frame]
            table.add_row(str(label), *cells)
        table.caption, table.caption_justify = "errors in standard deviations of the column", "left"
        return Group(table, self.verdict, *(f"note: {note}" for note in self.notes))

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        Console(file=out, width=110, no_color=True, highlight=False).print(self)
        return out.getvalue().rstrip()


_HEADINGS = {
    **{"cells": "cells", "rmse": "RMSE", "rmse_mean": "of means", "rmse_iterative": "of IterativeImputer"},
    **{"coverage_50": "in 50 %", "coverage_90": "in 90 %", "accuracy": "right", "accuracy_mode": "by the mode"},
}
_FORMATS = {"cells": ".0f", "coverage_50": ".1%", "coverage_90": ".1%", "accuracy": ".1%", "accuracy_mode": ".1%"}


def check_imputation(
    model: Model,
    x_test: Tensor,
    posterior: Any,
    *,
    x_train: Tensor,
    share: float = 0.1,
    categories: Sequence[bool] | None = None,
    names: Sequence[str] | None = None,
    num_samples: int = 200,
    num_particles: int | None = None,
    seed: int = 0,
) -> ImputationCheck:
    r"""Hide observed cells, impute them, and measure the error of the means and the coverage of the intervals.

    The observed cells are dealt at random into groups of this share of them; a group is hidden at a time, until a
    thousand cells have been, or all. Of a hidden x with draws :math:`x_1, \dots, x_S` from
    :math:`p(x_{mis} | x_{obs})`, the rank of x among them over S + 1, ties broken and steps filled at random, is
    uniform over (0, 1) if the draws are right, for any S and for counts as well; an interval of level a holds x where
    it lies within a/2 of one half.

    Args:
        model: a ``Model(..., missing=True)``.
        x_test: rows to hide cells of ``(N, D)``, NaN where missing already.
        posterior: a guide (a torch module), or what returns a posterior for ``(model, x)``, as ``pv.laplace`` does.
        x_train: the rows that the model was fitted to, for means, standard deviations and the IterativeImputer, which
            sees categories as indicators.
        share: of the observed cells to hide at a time, in (0, 1).
        categories: which columns are categories, ``(D,)``; None for none.
        names: of the columns; None for their numbers.
        num_samples: S.
        num_particles: K that the draws are resampled from, as in :func:`impute`; None for none.
        seed: of what is random.

    Raises:
        TypeError: if the data are no tensors.
        ValueError: if the share is not in (0, 1), rows have other columns, or nothing is observed.

    Example:
        >>> import pyro_vae as pv
        >>> network = torch.nn.Linear(1, 4)
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(network, scale=0.3), missing=True)
        >>> x = model.sample(300)["x"]
        >>> found = check_imputation(model, x[:100], pv.analytic, x_train=x[100:])
        >>> bool(found.to_dataframe().loc["all numbers", "rmse"] < 1.2)
        True
    """
    checks.tensor(x_test, "x_test", min_dim=2)
    checks.tensor(x_train, "x_train", min_dim=2)
    S, D = positive_integer(num_samples, "num_samples", minimum=2), x_test.shape[1]
    if not 0 < share < 1:
        raise ValueError(say("a share of the observed cells in (0, 1)", f"{share!r}", "share=0.1"))
    if x_train.shape[1] != D or len(names or range(D)) != D or len(categories or range(D)) != D:
        got = f"{x_train.shape[1]} in x_train, {D} in x_test, names and categories of {len(names or categories or ())}"
        raise ValueError(say("training and test rows, names and categories of the same columns", got, "the same table"))
    coded = np.asarray(categories if categories is not None else [False] * D, dtype=bool)
    train = x_train.detach().double().cpu().numpy()
    vary = np.array([len(np.unique(column[~np.isnan(column)])) > 1 for column in train.T])
    rounds = _hidden(x_test, vary, share, seed)
    regression = _Regression(train, coded)
    found: list[list[np.ndarray]] = []
    ties = np.random.default_rng(seed)  # one stream for all rounds: cells of two rounds are not to share their luck
    with fork_rng(seed=seed):
        for rows, columns in rounds:
            x = x_test.clone()
            x[rows, columns] = torch.nan
            answer = posterior if isinstance(posterior, nn.Module) else posterior(model, x)
            drawn = impute(model, x, answer, num_samples=S, num_particles=num_particles)
            draws = drawn[:, rows, columns].double().cpu().numpy()
            truth = x_test[rows, columns].double().cpu().numpy()
            other = regression(x.double().cpu().numpy())[rows, columns]
            found.append(
                [columns, *_measured(truth, draws, other, columns=columns, train=train, coded=coded, ties=ties)]
            )
    label = tuple(str(name) for name in (names or range(D)))
    left = ", ".join(name for name, some in zip(label, vary, strict=True) if not some)
    notes = (f"columns of one value in training are left out: {left}",) if left else ()
    column, error, mean_error, regression_error, place = map(np.concatenate, zip(*found, strict=True))
    return ImputationCheck(label, coded, column, error, mean_error, regression_error, place, notes)


def point_estimate(draws: Tensor, categories: Any) -> Tensor:
    """Return the mean over draws ``(S, ..., D)``, and of categories the most frequent draw, ``(..., D)``."""
    middle = draws.mean(0)
    if bool(categories.any()):
        middle[..., categories] = draws[..., categories].mode(0).values
    return middle


def _hidden(x: Tensor, vary: np.ndarray, share: float, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the cells to hide in each round."""
    rows, columns = np.nonzero((~x.isnan()).cpu().numpy() & vary)
    if not len(rows):
        raise ValueError(say("observed cells of columns that vary, to hide some", "none", "other rows"))
    size = max(1, round(share * len(rows)))
    order = np.random.default_rng(seed).permutation(len(rows))
    starts = range(0, min(len(rows) - size + 1, max(1, math.ceil(_ENOUGH / size)) * size), size)
    return [(rows[order[k : k + size]], columns[order[k : k + size]]) for k in starts]


def _measured(
    truth: np.ndarray,
    draws: np.ndarray,
    other: np.ndarray,
    *,
    columns: np.ndarray,
    train: np.ndarray,
    coded: np.ndarray,
    ties: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Errors by the model, by columns' means and by the regression of M hidden cells; their place among the draws."""
    code = coded[columns]
    centre = np.array([_mode(column) if c else np.nanmean(column) for column, c in zip(train.T, coded, strict=True)])
    scale = np.where(code, 1.0, np.nanstd(train, 0)[columns])
    middle = point_estimate(torch.as_tensor(draws), torch.as_tensor(code)).numpy()
    error, mean_error, regression_error = ((value - truth) / scale for value in (middle, centre[columns], other))
    wrong = [np.where(code, value != 0, value) for value in (error, mean_error)]
    below, same = (draws < truth).sum(0), (draws == truth).sum(0)
    place = (below + ties.random(len(truth)) * (same + 1)) / (len(draws) + 1)
    return wrong[0], wrong[1], np.where(code, np.nan, regression_error), np.where(code, np.nan, place)


def _mode(column: np.ndarray) -> float:
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    return float(values[counts.argmax()]) if len(values) else math.nan


class _Regression:
    """Scikit-learn's IterativeImputer, fitted to training rows: standardised numbers, indicators of categories."""

    def __init__(self, train: np.ndarray, coded: np.ndarray) -> None:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer

        self._coded, self._values = coded, [np.unique(c[~np.isnan(c)]) for c in train.T[coded]]
        self._loc, self._scale = np.nanmean(train, 0), np.maximum(np.nanstd(train, 0), 1e-300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its convergence
            self._imputer: Any = IterativeImputer(random_state=0, keep_empty_features=True).fit(self._features(train))

    def _features(self, x: np.ndarray) -> np.ndarray:
        numbers = ((x - self._loc) / self._scale)[:, ~self._coded]
        indicators = [
            np.where(np.isnan(column[:, None]), np.nan, column[:, None] == values)
            for column, values in zip(x.T[self._coded], self._values, strict=True)
        ]
        return np.concatenate([numbers, *indicators], 1)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return x ``(N, D)`` with its missing numbers filled in; categories are left as they are."""
        filled = x.copy()
        numbers = self._imputer.transform(self._features(x))[:, : int((~self._coded).sum())]
        filled[:, ~self._coded] = numbers * self._scale[~self._coded] + self._loc[~self._coded]
        return filled
