"""A column's cells as numbers: as they are, as codes of words, or a sentence that says what is in the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.checks import say

__all__ = ["as_number", "numbers_or_codes"]

_MOST_CATEGORIES = 50  # a column of more different words is a text or a name, not a category
_MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "na", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?", "-", "--", "."]
)
_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_ALMOST = re.compile(r"[-+<>~]?\s?[$€£]?\s?\d[\d,.' ]*\s?[%$€£]?")  # a number with a sign or a mark in it
_DATE = re.compile(r"(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[T ].*)?")


def as_number(cell: str, *, comma: bool) -> float | None:
    """Return the number that a cell holds, NaN for a mark of a missing one, None for text.

    Args:
        cell: its text.
        comma: whether 1,5 is a number.
    """
    cell = cell.strip()
    if cell in _MISSING:
        return float("nan")
    try:
        return float(cell.replace(",", ".") if comma and _COMMA.fullmatch(cell) else cell)
    except ValueError:
        return None


def numbers_or_codes(
    cells: Any, name: str, path: Path, *, comma: bool, known: Sequence[str] | None, notes: dict[str, list[str]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a column's numbers ``(N,)``, NaN where missing, and the words behind them, if they are codes.

    Args:
        cells: the column, a pandas Series.
        name: of the column.
        path: of the file.
        comma: whether 1,5 is a number.
        known: words behind the codes in training, none for a column of numbers; None in training itself.
        notes: columns by what a person should know of them; this one is added.

    Raises:
        ValueError: if it holds text among numbers, dates, or too many different words.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(cells.dtype) or pd.api.types.is_timedelta64_dtype(cells.dtype):
        raise ValueError(_dates(str(cells.iloc[0]), name, path))
    there = cells.notna().to_numpy()
    if not known and there.any() and all(isinstance(cell, bool | np.bool_) for cell in cells[there]):
        notes.setdefault("FALSE is 0, TRUE is 1", []).append(name)
    elif pd.api.types.is_string_dtype(cells.dtype) or cells.dtype == object:
        cells = _without_marks(cells, there, name, notes)
        there = cells.notna().to_numpy()
    if known and there.any():
        return _recoded(cells, there, name, path, known), tuple(known)
    try:
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(say("numbers", f"column {name!r} of {path}: {error}", f"--drop {name!r}")) from error
    bad = there & np.isnan(numbers)
    if comma and bad.any():
        numbers, bad = _with_commas(cells, numbers, bad, name, notes)
    if not bad.any():
        return numbers, ()
    if bad.sum() < there.sum() or known is not None:
        row = int(bad.argmax())
        got = f"{str(cells.iloc[row])!r} in data row {row}, column {name!r} of {path} ({bad.sum()} such cells)"
        raise ValueError(say("numbers", got, f"an empty cell for what is not known, or --drop {name!r}"))
    return _coded(cells, there, name, path, notes)


def _without_marks(cells: Any, there: np.ndarray, name: str, notes: dict[str, list[str]]) -> Any:
    """Text without blanks around it, and without the marks that say that a value is missing."""
    cells = cells.astype(object)
    cells[there] = [cell.strip() if isinstance(cell, str) else cell for cell in cells[there]]
    marked = cells.map(lambda cell: isinstance(cell, str) and cell in _MISSING)
    for mark in sorted(set(cells[marked]) - {""}):
        notes.setdefault(f"{mark!r} is read as missing", []).append(f"{name} ({int((cells == mark).sum())} cells)")
    return cells.mask(marked.astype(bool), np.nan)


def _with_commas(
    cells: Any, numbers: np.ndarray, bad: np.ndarray, name: str, notes: dict[str, list[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Read decimal commas where all that is left of a column is such numbers."""
    found = [as_number(str(cell), comma=True) for cell in cells[bad]]
    if any(number is None for number in found):
        return numbers, bad
    numbers = numbers.copy()
    numbers[bad] = found
    notes.setdefault("decimal commas are read as points", []).append(name)
    return numbers, np.zeros_like(bad)


def _coded(
    cells: Any, there: np.ndarray, name: str, path: Path, notes: dict[str, list[str]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column of words alone as codes, if they repeat as those of a category do."""
    words = sorted({str(word) for word in cells[there]})
    count, example = int(there.sum()), str(cells[there].iloc[0])
    dated = all(_DATE.fullmatch(word) for word in words)
    where = f"column {name!r} of {path}"
    if not dated and all(_ALMOST.fullmatch(word) for word in words):
        row = int(there.argmax())
        remedy = f"the number alone, a point for decimals and nothing between thousands, or --drop {name!r}"
        raise ValueError(say("plain numbers", f"{example!r} in data row {row}, {where}", remedy))
    if len(words) <= min(_MOST_CATEGORIES, max(1, count // 2)):
        if dated:
            notes.setdefault("dates that repeat are categories without an order", []).append(name)
        return _recoded(cells, there, name, path, words), tuple(words)
    if dated:
        raise ValueError(_dates(example, name, path))
    if len(words) == count:
        got = f"text that is another in every row, such as {example!r}, in {where}: an id or a name"
        raise ValueError(say("numbers, or words that repeat", got, f"--drop {name!r}"))
    got = f"{len(words)} different words in {count} cells, such as {example!r}, in {where}"
    remedy = f"--drop {name!r}, or one word for all rare ones"
    raise ValueError(say(f"numbers, or at most {_MOST_CATEGORIES} words that repeat", got, remedy))


def _recoded(cells: Any, there: np.ndarray, name: str, path: Path, words: Sequence[str]) -> np.ndarray:
    """Codes of a column of known words."""
    code = {word: float(i) for i, word in enumerate(words)}
    found = [code.get(str(word)) if full else np.nan for word, full in zip(cells, there, strict=True)]
    if None in found:
        row = found.index(None)
        shown = ", ".join(map(repr, words[:8])) + (", ..." if len(words) > 8 else "")
        got = f"{str(cells.iloc[row])!r} in data row {row} of {path}"
        remedy = "an empty cell there, or training on a table that has it"
        raise ValueError(say(f"words of the training data in column {name!r}: {shown}", got, remedy))
    return np.asarray(found, dtype=np.float64)


def _dates(example: str, name: str, path: Path) -> str:
    got = f"dates, such as {example!r}, in column {name!r} of {path}"
    return say("numbers", got, f"a number in their place (days since the first, month, weekday), or --drop {name!r}")
