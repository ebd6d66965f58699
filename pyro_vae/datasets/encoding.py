"""The one way between a table's values and the model's data, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.datasets.columns import no_infinity
from pyro_vae.datasets.families import family_of
from pyro_vae.datasets.kinds import Schema

__all__ = ["as_written", "decode", "encode", "log_jacobian", "named"]

_NO_DECIMALS = 22  # more than any number has: none are known
_WRITTEN = 0.01  # of the last decimal, by which a number may be off that is written with so many


def encode(schema: Schema, values: np.ndarray, *, dtype: torch.dtype) -> Tensor:
    """Return the model's data ``(N, D)`` for a table's values ``(N, *shape)``.

    Raises:
        ValueError: if the values have other columns, or are infinite, or are missing where none was in training, or are
            none of those that a column of few values has.
    """
    flat = values.reshape(len(values), -1)
    if flat.shape[1] != schema.data_dim:
        raise ValueError(say(f"{schema.data_dim} columns, as in training", f"{flat.shape[1]}", "the same columns"))
    x = (flat.astype(np.float64) - np.asarray(schema.loc)) / np.asarray(schema.scale)
    for i, levels in _with_levels(schema):
        x[:, i] = _places(schema, i, levels, x[:, i])
    no_infinity(x, schema.name)
    if not schema.missing and np.isnan(x).any():
        row, column = np.argwhere(np.isnan(x))[0]
        got = f"a missing entry in data row {row}, column {schema.name(column)}"
        remedy = "training on a table that has empty cells too, or filling these"
        raise ValueError(say("complete data, as in training", got, remedy))
    # contiguous, as the last bit of a product depends on the layout
    return torch.as_tensor(x[:, list(schema.order)], dtype=dtype).contiguous()


def decode(schema: Schema, x: Tensor) -> np.ndarray:
    """Return values in the table's units and order ``(..., D)`` for the model's ``(..., D)``."""
    out = np.empty(tuple(x.shape))
    out[..., list(schema.order)] = x.detach().cpu().double().numpy()
    for i, levels in _with_levels(schema):  # a mean of places lies between two values
        out[..., i] = np.interp(out[..., i], np.arange(len(levels)), levels)
    return out * np.asarray(schema.scale) + np.asarray(schema.loc)


def _with_levels(schema: Schema) -> list[tuple[int, np.ndarray]]:
    """The columns whose values are categories, and their values."""
    return [(i, np.asarray(levels)) for i, levels in enumerate(schema.levels) if levels]


def _places(schema: Schema, i: int, levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The place of each value of column i among its levels, NaN where missing; a level may come in single precision."""
    places = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
    single = levels.astype(np.float32).astype(np.float64)
    other = ~np.isnan(values) & (levels[places] != values) & (single[places] != values)
    if other.any():
        row = int(other.argmax())
        expected = f"values of the training data in column {schema.name(i)}: {', '.join(f'{v:.12g}' for v in levels)}"
        remedy = ("an empty cell there, or " if schema.missing else "") + "training on a table that has it"
        raise ValueError(say(expected, f"{values[row]:.12g} in data row {row}", remedy))
    return np.where(np.isnan(values), values, places)


def as_written(
    schema: Schema, values: np.ndarray, *, dtype: torch.dtype, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Round values ``(..., D)`` in the table's units to the decimals that each column is written with.

    A table's own values come back with their own digits; and a density knows nothing of them, so that without this a
    drawn length of 5.1437 tells itself apart among lengths of 5.1 and 5.2.

    Args:
        schema: of the table.
        values: as :func:`decode` returns them.
        dtype: of the model's data: digits that it cannot hold are not written.
        rng: rounds each value to decimals drawn as the column has them, for drawn rows of a column that is mostly
            whole; None to the most that the column has.
    """
    size = np.maximum(np.abs(values - np.asarray(schema.loc)) * torch.finfo(dtype).eps, 1e-22)
    shares = schema.decimals or ((),) * schema.data_dim
    top = np.array([len(own) - 1 if own else _NO_DECIMALS for own in shares])
    most = np.stack([_decimals(own, values.shape[:-1], rng) for own in shares], -1)
    finest = 10.0 ** np.minimum(top, 15)
    written = np.abs(values * finest - np.rint(values * finest)) <= np.minimum(4 * size * finest, _WRITTEN)
    most = np.where(written & (top < _NO_DECIMALS), top, most)  # a level that was drawn is one already
    places = np.minimum(np.floor(-np.log10(size)), most)
    power = 10.0 ** np.abs(places)  # a negative power of ten is no exact number
    rounded: np.ndarray = np.where(places < 0, np.round(values / power) * power, np.round(values * power) / power)
    for i, _ in _with_levels(schema):  # the table's own already
        rounded[..., i] = values[..., i]
    return rounded


def _decimals(shares: tuple[float, ...], shape: tuple[int, ...], rng: np.random.Generator | None) -> np.ndarray:
    """Decimals to round the values of a column to; of drawn ones so that as many need them as in the table.

    Of values rounded to d decimals one in ten needs fewer, one in a hundred fewer by two.
    """
    top = len(shares) - 1 if shares else _NO_DECIMALS
    if rng is None or top in {0, _NO_DECIMALS}:
        return np.full(shape, top)
    chance = np.zeros(top + 1)
    for d in range(top, 0, -1):
        already = sum(0.9 * chance[more] * 0.1 ** (more - d) for more in range(d + 1, top + 1))
        chance[d] = min(max(shares[d] - already, 0.0) / 0.9, 1 - chance.sum())
    chance[0] = max(1 - chance.sum(), 0.0)
    return rng.choice(top + 1, size=shape, p=chance / chance.sum())


def log_jacobian(schema: Schema, x: Tensor) -> Tensor:
    r"""Return what turns a log density of the model's data into one of the table's own units, ``(N,)``, nats.

    A column divided by s adds :math:`-\log s` where it is observed; a probability, of a discrete column or of a share
    of zeros, has no units.

    Args:
        schema: of the table.
        x: the model's data ``(N, D)``.
    """
    families = [family_of(schema.likelihoods[i]) for i in schema.order]
    scales = [1.0 if family.discrete else schema.scale[i] for i, family in zip(schema.order, families, strict=True)]
    atom = torch.tensor([family.atom for family in families], device=x.device)
    density = ~x.isnan() & ~(atom & (x == 0))
    return -(density.to(x) @ torch.tensor(scales, dtype=x.dtype, device=x.device).log())


def named(schema: Schema, values: np.ndarray) -> dict[str, Any]:
    """Return values ``(n, D)`` in the table's units as columns by name: words for codes, whole numbers as such."""
    columns: dict[str, Any] = {}
    for i, name in enumerate(schema.columns or [f"x{i}" for i in range(schema.data_dim)]):
        words, column = schema.words.get(name), values[:, i]
        there = ~np.isnan(column)
        if words:
            columns[name] = [words[int(code)] if full else None for code, full in zip(column, there, strict=True)]
        else:
            whole = schema.kinds[i] in {"binary", "counts", "categories"}
            whole |= bool(schema.decimals) and len(schema.decimals[i]) == 1 and bool((column == np.rint(column)).all())
            whole &= bool(there.all())
            columns[name] = np.rint(column).astype(np.int64) if whole else column
    return columns
