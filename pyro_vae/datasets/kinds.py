"""What kind of data a table holds, and the one way between its values and the model's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import among, say
from pyro_vae.datasets.columns import Columns, no_infinity
from pyro_vae.datasets.files import Loaded

__all__ = ["KINDS", "Schema", "describe"]

KINDS = {
    "binary": "only 0 and 1",
    "unit": "between 0 and 1",
    "counts": "whole numbers from 0",
    "categories": "words or codes without an order",
    "real": "any numbers",
    "mixed": "columns of different kinds",
}
_WIDER = {  # the kind that holds two kinds of column, where all columns are of one kind, as in an image
    frozenset({"binary", "unit"}): "unit",
    frozenset({"binary", "counts"}): "counts",
}


@dataclass(frozen=True)
class Schema:
    """What is known of a table, kept with the model so that new data are treated alike and output is in its units.

    Attributes:
        kind: one of ``KINDS``.
        columns: names of the columns, in the table's order; empty for an array.
        kinds: kind of each column, in the table's order.
        order: the table's columns in the model's order: columns of one kind stand together.
        loc: what is subtracted from each column, in the table's order.
        scale: what each column is divided by, in the table's order.
        num_categories: K of each column of categories, 0 of others.
        words: the names behind codes, by column.
        shape: shape of one datum in the file.
        missing: whether entries are missing.
    """

    kind: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    order: tuple[int, ...]
    loc: tuple[float, ...]
    scale: tuple[float, ...]
    num_categories: tuple[int, ...]
    words: dict[str, tuple[str, ...]]
    shape: tuple[int, ...]
    missing: bool

    @property
    def data_dim(self) -> int:
        """D."""
        return len(self.kinds)

    def name(self, column: int) -> str:
        """What to call a column of the table."""
        return repr(self.columns[column]) if self.columns else f"number {column}"

    def encode(self, values: np.ndarray) -> Tensor:
        """Return the model's data ``(N, D)`` for a table's values ``(N, *shape)``.

        Raises:
            ValueError: if the values have other columns, or are infinite.
        """
        flat = values.reshape(len(values), -1)
        if flat.shape[1] != self.data_dim:
            raise ValueError(say(f"{self.data_dim} columns, as in training", f"{flat.shape[1]}", "the same columns"))
        x = (flat.astype(np.float64) - np.asarray(self.loc)) / np.asarray(self.scale)
        no_infinity(x, self.name)
        if np.isnan(x).any() and not self.missing:
            row, column = np.argwhere(np.isnan(x))[0]
            got = f"a missing entry in data row {row}, column {self.name(column)}"
            raise ValueError(
                say(
                    "complete data, as in training",
                    got,
                    "training on a table that has empty cells too, or filling these",
                )
            )
        encoded = torch.as_tensor(x[:, list(self.order)], dtype=torch.get_default_dtype())
        return encoded.contiguous()  # the last bit of a product depends on the layout

    def decode(self, x: Tensor) -> np.ndarray:
        """Return values in the table's units and order ``(..., D)`` for the model's ``(..., D)``."""
        out = np.empty(tuple(x.shape))
        out[..., list(self.order)] = x.detach().cpu().double().numpy()
        return out * np.asarray(self.scale) + np.asarray(self.loc)

    def named(self, values: np.ndarray) -> dict[str, Any]:
        """Return values ``(n, D)`` in the table's units as columns by name: words for codes, whole numbers as such."""
        columns: dict[str, Any] = {}
        for i, name in enumerate(self.columns or [f"x{i}" for i in range(self.data_dim)]):
            words, column = self.words.get(name), values[:, i]
            there = ~np.isnan(column)
            if words:
                columns[name] = [words[int(code)] if full else None for code, full in zip(column, there, strict=True)]
            else:
                whole = self.kinds[i] in {"binary", "counts", "categories"} and bool(there.all())
                columns[name] = column.astype(np.int64) if whole else column
        return columns

    def groups(self) -> list[tuple[str, int, int]]:
        """Kind, number of columns and K of each run of like columns, in the model's order."""
        found: list[tuple[str, int, int]] = []
        for column in self.order:
            kind, K = self.kinds[column], self.num_categories[column]
            if found and found[-1][0] == kind and found[-1][2] == K:
                found[-1] = (kind, found[-1][1] + 1, K)
            else:
                found.append((kind, 1, K))
        return found

    def words_for_people(self) -> str:
        """One line that says what the data are."""
        of = {kind: self.kinds.count(kind) for kind in KINDS if kind in self.kinds}
        parts = ", ".join(f"{count} {kind}" for kind, count in of.items()) if self.kind == "mixed" else ""
        line = f"{self.data_dim} columns, {self.kind} ({parts or KINDS[self.kind]})"
        return line + (", some entries missing" if self.missing else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Schema:
        """Return what :meth:`to_json` wrote."""
        tuples: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()
        }
        tuples["words"] = {key: tuple(words) for key, words in saved["words"].items()}
        return cls(**tuples)


def describe(loaded: Loaded, rows: np.ndarray, *, kind: str = "auto", standardise: bool = True) -> Schema:
    """Guess what kind of data a file holds.

    Args:
        loaded: the file's content.
        rows: the rows to learn location and scale of real columns from: the training set.
        kind: of all columns, where the guess is wrong.
        standardise: bring real columns to mean 0 and standard deviation 1.

    Raises:
        ValueError: if a column has no value at all, or one is infinite or too large to square.
    """
    categories, names = loaded.categories or {}, loaded.columns
    call = (lambda i: repr(names[i])) if names else (lambda i: f"number {i}")
    seen = Columns(loaded.values, rows, call)
    guessed = [
        "categories" if names and names[i] in categories else _guess(seen, i, call(i)) for i in range(len(seen.low))
    ]
    if kind != "auto":
        among(kind, [name for name in KINDS if name != "mixed"], "the kind of data")
        guessed = [kind] * len(guessed)
    elif not names:
        kinds = frozenset(guessed)
        guessed = [_WIDER.get(kinds, "real") if len(kinds) > 1 else guessed[0]] * len(guessed)
    loc, scale = np.zeros(len(guessed)), np.ones(len(guessed))
    if loaded.values.dtype == np.uint8 and seen.high.max() > 1 and kind in {"auto", "unit"}:
        guessed, scale = ["unit"] * len(guessed), np.full(len(guessed), 255.0)
    for i, one in enumerate(guessed):
        if one == "real" and standardise:
            loc[i], scale[i] = _location_scale(seen, i, call(i))
    whole = guessed[0] if len(set(guessed)) == 1 else "mixed"
    counts = tuple(int(seen.high[i]) + 1 if one == "categories" else 0 for i, one in enumerate(guessed))
    place = list(KINDS)
    order = sorted(range(len(guessed)), key=lambda i: (place.index(guessed[i]), counts[i], i))
    numbers = (tuple(map(float, loc)), tuple(map(float, scale)))
    return Schema(
        whole, names, tuple(guessed), tuple(order), *numbers, counts, categories, values_shape(loaded), seen.missing
    )


def values_shape(loaded: Loaded) -> tuple[int, ...]:
    """Shape of one datum in the file."""
    return tuple(int(size) for size in loaded.values.shape[1:]) or (1,)


def _guess(seen: Columns, i: int, name: str) -> str:
    if not seen.filled[i]:
        raise ValueError(say("a value in every column", f"none in column {name}", "removing that column"))
    low, high = seen.low[i], seen.high[i]
    if seen.whole[i] and low >= 0:
        return "binary" if high <= 1 else "counts" if high < 2**31 else "real"
    return "unit" if low >= 0 and high <= 1 else "real"


def _location_scale(seen: Columns, i: int, name: str) -> tuple[float, float]:
    loc, scale = float(seen.mean[i]), float(seen.std[i])
    if not (np.isfinite(loc) and np.isfinite(scale)):
        got = f"values up to {max(-seen.low[i], seen.high[i]):g} in column {name}"
        raise ValueError(say("values whose squares a computer can add", got, "removing them, or other units"))
    return loc, scale if scale > 1e-12 * max(abs(loc), 1e-300) else 1.0
