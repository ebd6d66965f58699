"""What a table holds: its columns and their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pyro_vae.checks import among, say
from pyro_vae.datasets.columns import Columns
from pyro_vae.datasets.families import family_of
from pyro_vae.datasets.files import Loaded

__all__ = ["KINDS", "PROPOSED", "Schema", "describe"]

KINDS = {
    "binary": "only 0 and 1",
    "unit": "between 0 and 1",
    "counts": "whole numbers from 0",
    "categories": "words or codes without an order",
    "real": "any numbers",
    "mixed": "columns of different kinds",
}
PROPOSED = {  # the likelihood of a kind of data, where nothing else is asked for
    "binary": "Bernoulli",
    "unit": "ContinuousBernoulli",
    "counts": "NegativeBinomial",
    "categories": "Categorical",
    "real": "Gaussian",
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
        likelihoods: the likelihood of each column, in the table's order; by its kind until one is chosen.
        num_categories: K of each column of categories, levels of a discretised one, 0 of others.
        words: the names behind codes, by column.
        shape: shape of one datum in the file.
        missing: whether entries are missing.
        levels: the values of each column of numbers that are categories, lowest first; the model sees their places.
            Empty for other columns.
        decimals: the shares of each column's values that need 0, 1, ... decimals, in the table's order; empty for a
            column with more than a rounded measurement has.
    """

    kind: str
    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    order: tuple[int, ...]
    loc: tuple[float, ...]
    scale: tuple[float, ...]
    likelihoods: tuple[str, ...]
    num_categories: tuple[int, ...]
    words: dict[str, tuple[str, ...]]
    shape: tuple[int, ...]
    missing: bool
    levels: tuple[tuple[float, ...], ...] = ()
    decimals: tuple[tuple[float, ...], ...] = ()

    @property
    def data_dim(self) -> int:
        """D."""
        return len(self.kinds)

    def name(self, column: int) -> str:
        """What to call a column of the table."""
        return repr(self.columns[column]) if self.columns else f"number {column}"

    def groups(self) -> list[tuple[str, int, int]]:
        """Likelihood, number of columns and K of each run of like columns, in the model's order."""
        found: list[tuple[str, int, int]] = []
        for column in self.order:
            likelihood, K = self.likelihoods[column], self.num_categories[column]
            if found and found[-1][0] == likelihood and found[-1][2] == K:
                found[-1] = (likelihood, found[-1][1] + 1, K)
            else:
                found.append((likelihood, 1, K))
        return found

    @property
    def tabular(self) -> bool:
        """Whether columns stand for themselves, rather than for the pixels of an image."""
        return len(self.shape) == 1

    @property
    def units(self) -> str:
        """What the log density of a row is one of, in words."""
        families = [family_of(name) for name in self.likelihoods]
        if all(family.discrete for family in families):
            return "a probability"
        discrete = ", of discrete columns a probability" if any(family.discrete for family in families) else ""
        atom = f"{' and' if discrete else ', a probability'} where a column with a share of zeros is 0"
        has_atom = any(family.atom for family in families)
        return "a density in the table's own units" + discrete + (atom if has_atom else "")

    def with_likelihoods(
        self,
        likelihoods: Sequence[str],
        num_categories: Sequence[int],
        loc: Sequence[float],
        scale: Sequence[float],
        levels: Sequence[tuple[float, ...]],
    ) -> Schema:
        """Return the schema with these likelihoods of the columns; columns of one stand together."""
        place = {name: i for i, name in enumerate(dict.fromkeys(likelihoods))}
        order = sorted(range(len(likelihoods)), key=lambda i: (place[likelihoods[i]], num_categories[i], i))
        return replace(
            self,
            likelihoods=tuple(likelihoods),
            num_categories=tuple(num_categories),
            loc=tuple(loc),
            scale=tuple(scale),
            levels=tuple(levels),
            order=tuple(order),
        )

    def summary(self) -> str:
        """One line that says what the data are."""
        of = {kind: self.kinds.count(kind) for kind in KINDS if kind in self.kinds}
        parts = ", ".join(f"{count} {kind}" for kind, count in of.items()) if self.kind == "mixed" else ""
        line = f"{self.data_dim} columns, {self.kind} ({parts or KINDS[self.kind]})"
        return line + (", some entries missing" if self.missing else "")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Any) -> Schema:
        """Return what :meth:`to_json` wrote.

        Raises:
            ValueError: if it is something else.
        """
        try:
            values = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
            words = {name: tuple(words) for name, words in saved["words"].items()}
            nested = {name: tuple(map(tuple, saved[name])) for name in ("decimals", "levels")}
            return cls(**values | {"words": words} | nested)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                say("a table's schema", f"{type(error).__name__} about {error}", "a backup, or training again")
            ) from error


def describe(
    loaded: Loaded, rows: np.ndarray, *, kind: str = "auto", standardise: bool = True, seen: Columns | None = None
) -> Schema:
    """Guess what kind of data a file holds.

    Args:
        loaded: the file's content.
        rows: the rows to learn location and scale of real columns from: the training set.
        kind: of all columns, where the guess is wrong.
        standardise: bring real columns to mean 0 and standard deviation 1.
        seen: what a pass over all of it has said already, of a file that is one of several.

    Raises:
        ValueError: if a column has no value at all, or one is infinite or too large to square.
    """
    categories, names, values = loaded.categories or {}, loaded.columns, loaded.values
    label = (lambda i: repr(names[i])) if names else (lambda i: f"number {i}")
    seen = Columns(values, rows, label) if seen is None else seen
    D = len(seen.low)
    kinds = ["categories" if names and names[i] in categories else _guess(seen, i, label(i)) for i in range(D)]
    if kind != "auto":
        kinds = [among(kind, [name for name in KINDS if name != "mixed"], "the kind of data")] * D
    elif not names:  # an array, such as an image, is of one kind
        kinds = [_WIDER.get(frozenset(kinds), "real") if len(set(kinds)) > 1 else kinds[0]] * D
    loc, scale = [0.0] * D, [1.0] * D
    if values.dtype == np.uint8 and seen.high.max() > 1 and kind in {"auto", "unit"}:
        kinds, scale = ["unit"] * D, [255.0] * D
    for i in range(D):
        if kinds[i] == "real" and standardise:
            loc[i], scale[i] = _location_scale(seen, i, label(i))
    num_categories = [int(seen.high[i]) + 1 if kinds[i] == "categories" else 0 for i in range(D)]
    place = list(KINDS)
    return Schema(
        kind=kinds[0] if len(set(kinds)) == 1 else "mixed",
        columns=names,
        kinds=tuple(kinds),
        order=tuple(sorted(range(D), key=lambda i: (place.index(kinds[i]), num_categories[i], i))),
        loc=tuple(loc),
        scale=tuple(scale),
        likelihoods=tuple(PROPOSED[one] for one in kinds),
        num_categories=tuple(num_categories),
        words=categories,
        shape=tuple(int(size) for size in values.shape[1:]) or (1,),
        missing=seen.missing,
        decimals=tuple(_decimal_shares(needed) for needed in seen.needed.T),
    )


def _decimal_shares(needed: np.ndarray) -> tuple[float, ...]:
    """Shares of a column's values that need so many decimals, up to the most that one needs."""
    if needed[-1]:
        return ()
    most = int(np.flatnonzero(needed).max(initial=0))
    return tuple((needed[: most + 1] / max(needed.sum(), 1)).tolist())


def _guess(seen: Columns, i: int, name: str) -> str:
    """The narrowest kind that holds all values of a column of numbers."""
    if not seen.filled[i]:
        raise ValueError(say("a value in every column", f"none in column {name}", f"--drop {name}, or filling it"))
    low, high = seen.low[i], seen.high[i]
    if seen.whole[i] and low >= 0:
        return "binary" if high <= 1 else "counts" if high < 2**31 else "real"
    return "unit" if low >= 0 and high <= 1 else "real"


def _location_scale(seen: Columns, i: int, name: str) -> tuple[float, float]:
    """What brings a column to mean 0 and standard deviation 1; a constant one keeps its scale."""
    loc, scale = float(seen.mean[i]), float(seen.std[i])
    if not (np.isfinite(loc) and np.isfinite(scale)):
        got = f"values up to {max(-seen.low[i], seen.high[i]):g} in column {name}"
        raise ValueError(say("values whose squares a computer can add", got, "removing them, or other units"))
    return loc, scale if scale > 1e-12 * max(abs(loc), 1e-300) else 1.0
