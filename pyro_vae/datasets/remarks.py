"""What a person should know of a table before a model is fitted to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["remarks"]

_FEW = 50  # rows, below which all that is held out is a handful
_SHOWN = 5  # names in one note


def remarks(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return notes on columns of one value, columns that number the rows, rows without a value, and few rows.

    Args:
        values: ``(N, D)``, NaN where missing.
        names: of the columns.

    Example:
        >>> remarks(np.array([[k, 7.0] for k in range(60)]), ["id", "site"])[0]
        "columns of one value, 'site': nothing to learn there, taken as certain"
    """
    notes = []
    there = ~np.isnan(values)
    one = [name for name, column in zip(names, values.T, strict=True) if len(np.unique(column[~np.isnan(column)])) == 1]
    if one:
        notes.append(f"columns of one value, {_list(one)}: nothing to learn there, taken as certain")
    counted = [name for name, column in zip(names, values.T, strict=True) if _numbers_rows(column)]
    if counted:
        notes.append(f"columns that rise with every row, {_list(counted)}: ids? --drop {','.join(counted[:_SHOWN])!r}")
    if empty := int((~there.any(1)).sum()):
        notes.append(f"{empty} of {len(values)} rows have no value at all, and say nothing of the columns")
    if len(values) < _FEW:
        notes.append(f"{len(values)} rows are few: what is said of held-out rows rests on a handful of them")
    elif values.shape[1] > len(values):
        notes.append(f"{values.shape[1]} columns and {len(values)} rows: a model of fewer columns may predict better")
    return notes


def _numbers_rows(column: np.ndarray) -> bool:
    """Whether a column holds whole numbers that rise by one step throughout, as a count of the rows does."""
    steps = np.diff(column)
    return len(column) > 3 and bool((column == np.round(column)).all() and steps[0] > 0 and (steps == steps[0]).all())


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
