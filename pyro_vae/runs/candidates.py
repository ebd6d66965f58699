"""Which likelihoods a column may have, by its kind and its values."""

from __future__ import annotations

from torch import Tensor

__all__ = ["MANY_VALUES", "candidates", "levels_of"]

_SHARE_OF_ZEROS = 0.1  # from which zeros beside positive numbers have a probability, not a density
MANY_VALUES = 20  # different ones above which a density may describe whole numbers, and up to which all have levels
_FROM_ZERO = 3.0  # standard deviations that a mean is above 0, from which a Gaussian has hardly any draws below
_COMMON = 0.1  # of the rows that have one and the same count above 0, from which counts have no density
_SELDOM = 0.8  # different values a row, from which whole numbers of few rows hardly repeat
_MOST_LEVELS = 256
_REPEATS = 5  # rows a value from which a density has no bound on few values


def levels_of(every: Tensor) -> tuple[float, ...]:
    """Return the different values of a column of numbers, lowest first, if they may be categories; else none.

    Example:
        >>> import torch
        >>> levels_of(torch.tensor([17.5, 22.0, 17.5, 27.0]))
        (17.5, 22.0, 27.0)
    """
    found = every[~every.isnan()].unique().tolist()
    return tuple(found) if len(found) <= MANY_VALUES else ()


def candidates(kind: str, values: Tensor, every: Tensor | None = None, *, guessed: bool = True) -> list[str]:
    """Return the likelihoods that a column of this kind may have, those to prefer among equals first.

    Families that can be as narrow as z makes them stand before those whose spread follows from their mean.

    Args:
        kind: of the column, as the schema guesses it.
        values: of the training rows that have one, in the column's own units.
        every: those of all rows, which must be in the support; the training rows' if None.
        guessed: whether the kind is a guess, which a few values that repeat overrule.
    """
    if kind in {"binary", "categories"}:
        return ["Bernoulli" if kind == "binary" else "Categorical"]
    every = values if every is None else every
    low, high, levels = float(every.min()), float(every.max()), levels_of(every)
    if guessed and kind != "counts" and 1 < len(levels) <= len(values) / _REPEATS:
        return [_levelled(levels)]
    line, above = ["Gaussian", "StudentT", "Laplace"], ["LogNormal", "Gamma"] if low > 0 else []
    zeros = float((values == 0).double().mean()) if low == 0 else 0.0
    if 0 < zeros < 1 and (zeros >= _SHARE_OF_ZEROS or kind != "counts"):
        above = ["HurdleGamma", "HurdleLogNormal"]
        line = [] if zeros >= _SHARE_OF_ZEROS else line  # there a density has no bound
    if kind != "counts":
        return [*line, *above, *(["Beta"] if kind == "unit" and low > 0 and high < 1 else [])]
    counts = [_levelled(levels)] if 1 < len(levels) <= len(values) / _REPEATS else []
    counts += ["DiscretisedLogistic"] if 0 < high < _MOST_LEVELS else []
    counts += ["NegativeBinomial", "ZeroInflatedNegativeBinomial", "Poisson", "ZeroInflatedPoisson"]
    different = len(values.unique())
    far = low > high - low and not levels  # years or numbers of a list: a count's spread follows from its mean
    seldom = different > _SELDOM * len(values)  # where values repeat, a density has no bound on a few of them
    repeats = float(values[values > 0].unique(return_counts=True)[1].max()) if high > 0 else 0.0
    common = repeats > _COMMON * len(values)  # a density is as high as it likes around a value that repeats
    if common or not (different > MANY_VALUES or far or seldom):
        return counts
    near = low >= 0 and float(values.mean()) < _FROM_ZERO * float(values.std(correction=0))
    return [*above, *counts, *line] if near else [*line, *above, *counts]  # a Gaussian near 0 has draws below it


def _levelled(levels: tuple[float, ...]) -> str:
    """The likelihood of numbers that take these values: of two, an order says nothing."""
    return "OrderedLogistic" if len(levels) > 2 else "Categorical"
