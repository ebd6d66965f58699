"""Which likelihood a column of a table gets: by held-out likelihood, not by looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.datasets.families import family_of
from pyro_vae.datasets.kinds import Schema
from pyro_vae.likelihoods.marginal import fit_marginal
from pyro_vae.runs.build import make_likelihood
from pyro_vae.runs.candidates import MANY_VALUES, candidates, levels_of

__all__ = ["Choice", "choose_likelihoods", "column_scale", "with_choices"]

_FOLDS = 5
_MANY_ROWS = 500  # from which two folds do
_MOST_ROWS = 1_500  # to judge on: more would not change the answer
_FEW_ROWS = 5_000  # below which each column has one learnt scale
_QUARTILES = 1.349  # standard deviations of a Gaussian from the lower quartile to the upper
_ENOUGH = 100_000  # rows to take quartiles of
_SAME = 0.02  # nats a row, below which two families are one density: Student's t of many degrees of freedom is Gaussian
_LEAST_VARIANCE = 1e-3  # within a group, the column's own being 1: fewer rows than a group needs must not make a spike


@dataclass(frozen=True)
class Choice:
    """What was chosen for a column, and what came next.

    Attributes:
        likelihood: the name of the part.
        num_values: K of a categorical column, levels of a discretised one, else 0.
        score: held-out log density a row, nats, in the column's own units; of a discrete one a log probability.
        runner_up: the name of the next best; empty where there was no other.
        lead: how much better the choice scores than the runner-up, nats a row; negative for a simpler one that is not
            worse by a standard error.
        lead_error: its paired standard error.
    """

    likelihood: str
    num_values: int
    score: float
    runner_up: str
    lead: float
    lead_error: float

    def __str__(self) -> str:
        if not self.runner_up:
            return self.likelihood
        lead = f"{self.lead:+.3f} +- {self.lead_error:.3f} nats a row"
        return f"{self.likelihood} ({lead} against {self.runner_up})"


def _with_options(name: str, *, few: bool) -> str:
    """A likelihood with the options that a table gives it."""
    family = family_of(name)
    options = ",".join(filter(None, [family.own_spread if few else "", family.unbounded]))
    return f"{name}:{options}" if options else name


def column_scale(likelihood: str, values: Tensor) -> tuple[float, float]:
    """Return what is subtracted from a column of this likelihood, and what it is divided by, for the model to see."""
    family = family_of(likelihood)
    values = values[values > 0] if family.atom else values
    if not len(values):  # of a column with few, in a fold that has none of them
        return 0.0, 1.0
    if family.centred:
        loc, scale = float(values.mean()), float(values.std(correction=0))
        if family.heavy:
            lower, median, upper = np.quantile(
                values[:: -(-len(values) // _ENOUGH)].numpy(), [0.25, 0.5, 0.75]
            ).tolist()
            loc, scale = (median, (upper - lower) / _QUARTILES) if upper > lower else (loc, scale)
        return loc, scale if scale > 1e-12 * max(abs(loc), 1e-300) else 1.0
    return 0.0, float(values.mean()) if family.scaled else 1.0


def choose_likelihoods(
    kinds: Sequence[str], table: Tensor, every: Tensor | None = None, *, guessed: bool = True, seed: int = 0
) -> list[Choice]:
    r"""Fit each candidate to each column alone and judge it on held-out rows, :math:`\frac1N \sum_n \log p_{-n}(x_n)`.

    Cross-validated. Of those that are not worse than the best by a paired standard error the first is taken.

    Args:
        kinds: of the columns, as the schema guesses them.
        table: training rows in the columns' own units ``(N, D)``; NaN is missing.
        every: all rows, whose values must be in the support; the training rows if None.
        guessed: whether the kinds are guesses, which a few values that repeat overrule.
        seed: of the folds.

    Example:
        >>> waiting = torch.distributions.Exponential(0.1).icdf(torch.linspace(0.001, 0.999, 400))
        >>> choose_likelihoods(["real"], waiting.unsqueeze(-1))[0].likelihood
        'Gamma'
    """
    every = (table if every is None else every).double()
    order = torch.as_tensor(np.random.RandomState(seed).permutation(len(table))[:_MOST_ROWS])
    table = table[order].double()
    all_rows = [column[~column.isnan()] for column in every.unbind(-1)]
    some_rows = [column[~column.isnan()] for column in table.unbind(-1)]
    names = [candidates(*column, guessed=guessed) for column in zip(kinds, some_rows, all_rows, strict=True)]
    scores: list[dict[str, Tensor]] = [{} for _ in names]
    sizes: list[dict[str, int]] = [{} for _ in names]
    for name in dict.fromkeys(name for own in names for name in own):
        columns = [i for i, own in enumerate(names) if name in own]
        seen = [_seen(name, kinds[i], table[:, i], all_rows[i]) for i in columns]
        K = max(size for _, size in seen)
        for i, (_, size) in zip(columns, seen, strict=True):
            sizes[i][name] = size if name == "Categorical" else K  # of other families a part holds columns of one K
        contested = [place for place, i in enumerate(columns) if len(names[i]) > 1]
        if contested:
            found = _held_out(name, K, torch.stack([seen[place][0] for place in contested], -1))
            for place, density in zip(contested, found.unbind(-1), strict=True):
                scores[columns[place]][name] = density[_compared(table[:, columns[place]], names[columns[place]])]
    choices = [_choose(*column) for column in zip(names, scores, sizes, strict=True)]
    for i, choice in enumerate(choices):
        if family_of(choice.likelihood).centred and choice.likelihood != "Gaussian":
            several = _held_out_modes(table[:, i])[_compared(table[:, i], names[i])]
            scores[i]["Gaussian"] = max(scores[i]["Gaussian"], several, key=lambda score: float(score.mean()))
            choices[i] = _choose(names[i], scores[i], sizes[i])
    return choices


def _compared(column: Tensor, names: list[str]) -> Tensor:
    """The rows on which candidates are compared: at 0 a probability is more than any density, and says nothing."""
    mixed = len({family_of(name).atom for name in names}) > 1
    return ~column.isnan() & ((column != 0) | (not mixed))


def _seen(name: str, kind: str, column: Tensor, every: Tensor) -> tuple[Tensor, int]:
    """A column as a family sees it, and over how many values the family is; 0 where it is over numbers of any size."""
    if not family_of(name).sized:
        return column, 0
    levels = levels_of(every) if family_of(name).levelled and kind != "categories" else ()
    return (to_levels(column, levels), len(levels)) if levels else (column, 1 + int(every.max()))


def to_levels(column: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the number of each value among the levels, from 0; NaN where it is missing."""
    known = torch.tensor(levels, dtype=column.dtype)
    return torch.where(column.isnan(), column, torch.searchsorted(known, column.contiguous()).to(column))


def _choose(names: list[str], scores: dict[str, Tensor], sizes: dict[str, int]) -> Choice:
    """The choice for a column among its candidates, by the held-out log densities of its values."""
    if len(names) == 1:
        nan = float("nan")
        return Choice(names[0], sizes[names[0]], nan, "", nan, nan)
    best = max(names, key=lambda name: float(scores[name].mean()))
    chosen = next(name for name in names if _lead(scores[best], scores[name]) <= 0)
    others = [name for name in names if name != chosen]
    apart = [name for name in others if float((scores[name] - scores[chosen]).abs().mean()) > _SAME]
    runner_up = max(apart or others, key=lambda name: float(scores[name].mean()))
    difference = scores[chosen] - scores[runner_up]
    error = float(difference.std().nan_to_num(0.0)) / len(difference) ** 0.5
    return Choice(chosen, sizes[chosen], float(scores[chosen].mean()), runner_up, float(difference.mean()), error)


def _lead(best: Tensor, other: Tensor) -> float:
    """By how much the best leads beyond a paired standard error; at most 0 where it does not."""
    difference = best - other
    return float(difference.mean()) - float(difference.std().nan_to_num(0.0)) / len(difference) ** 0.5


def _held_out(name: str, K: int, table: Tensor) -> Tensor:
    """Log density of each entry by a fit to the other folds, in the columns' own units, ``(N, D)``; NaN if missing."""
    found = torch.full_like(table, float("nan"))
    fold = _folds(len(table))
    for k in fold.unique():
        train, test = table[fold != k], table[fold == k]
        scales = [column_scale(name, column[~column.isnan()]) for column in train.unbind(-1)]
        loc, scale = torch.tensor(scales, dtype=table.dtype).unbind(-1)
        marginal = fit_marginal(
            lambda network: make_likelihood(name, table.shape[1], K, network), (train - loc) / scale
        )
        with torch.no_grad():
            density = marginal.log_prob((test - loc) / scale)
            density -= torch.where((test == 0) & family_of(name).atom, 0.0, scale.log())
        found[fold == k] = torch.where(test.isnan(), test, density.nan_to_num(-1e6, neginf=-1e6))
    return found


def _held_out_modes(column: Tensor) -> Tensor:
    """Log density of Gaussian noise around two or three places, as :func:`_held_out` has it, ``(N,)``.

    A latent variable moves the mean: a column of several groups is no sign of heavy tails within them.
    """
    from sklearn.mixture import GaussianMixture

    fold = _folds(len(column))
    found = column.new_full((2, len(column)), torch.nan)
    for k in fold.unique():
        train, test = column[(fold != k) & ~column.isnan()], (fold == k) & ~column.isnan()
        loc, scale = column_scale("Gaussian", train)
        for places, scores in zip((2, 3), found, strict=True):
            if len(train.unique()) > places and test.any():
                mixture = GaussianMixture(places, covariance_type="tied", random_state=0, reg_covar=_LEAST_VARIANCE)
                mixture.fit(((train - loc) / scale).unsqueeze(-1).numpy())
                log_prob = mixture.score_samples(((column[test] - loc) / scale).unsqueeze(-1).numpy())
                scores[test] = torch.as_tensor(log_prob) - math.log(scale)
    return max(found, key=lambda scores: float(scores.nanmean().nan_to_num(-math.inf)))


def _folds(num_rows: int) -> Tensor:
    """The fold of each row."""
    return torch.arange(num_rows) % min(_FOLDS if num_rows <= _MANY_ROWS else 2, num_rows)


def with_choices(
    schema: Schema,
    table: Tensor,
    every: Tensor,
    *,
    likelihood: str,
    standardise: bool,
    seed: int,
    guessed: bool = True,
) -> tuple[Schema, list[Choice]]:
    """Return the schema with a likelihood for each column, and why.

    Args:
        schema: of a table, with the likelihoods of its kinds.
        table: training rows in its own units ``(N, D)``.
        every: all rows.
        likelihood: of all columns, or "auto".
        standardise: bring the columns to one scale.
        seed: of the folds.
        guessed: whether the kinds are guesses, which a few values that repeat overrule.

    Raises:
        ValueError: if a column of many numbers is to be a category.
    """
    levels = [levels_of(column) if schema.kinds[i] != "categories" else () for i, column in enumerate(every.unbind(-1))]
    constant = [i for i, column in enumerate(every.unbind(-1)) if len(column[~column.isnan()].unique()) == 1]
    choices: list[Choice] = []
    names, K = [likelihood] * schema.data_dim, list(schema.num_categories)
    if likelihood == "auto":
        choices = choose_likelihoods(schema.kinds, table, every, guessed=guessed, seed=seed)
        for i in constant:
            choices[i] = Choice("Categorical", 2, 0.0, "", 0.0, 0.0)
        names, K = [one.likelihood for one in choices], [one.num_values for one in choices]
        few = len(table) < _FEW_ROWS  # a spread of its own for every z is learnt from many rows only
        names = [_with_options(name, few=few) for name in names]
    for i in constant:  # nothing to learn: one category, of probability 1
        names[i], K[i], levels[i] = "Categorical", 2, levels[i] or (float(every[:, i].nan_to_num(-math.inf).max()),)
    coded = {i for i, name in enumerate(names) if family_of(name).levelled}
    for i in sorted(coded):
        if not levels[i] and schema.kinds[i] != "categories":
            expected = f"at most {MANY_VALUES} different numbers in a column of categories or levels"
            got = f"{len(every[:, i].unique())} in column {schema.name(i)}"
            raise ValueError(say(expected, got, "--likelihood auto"))
        K[i] = K[i] or len(levels[i])
    ordered = [i for i in coded if names[i] == "OrderedLogistic"]
    for i in ordered:  # one part holds all of one K
        K[i] = max(K[other] for other in ordered)
    levels = [own if i in coded else () for i, own in enumerate(levels)]
    loc, scale = list(schema.loc), list(schema.scale)
    for i, name in enumerate(names):
        if levels[i]:
            loc[i], scale[i] = 0.0, 1.0
        elif standardise and (name != schema.likelihoods[i] or schema.kinds[i] != "real"):
            loc[i], scale[i] = column_scale(name, table[:, i][~table[:, i].isnan()])
    return schema.with_likelihoods(names, K, loc, scale, levels), choices
