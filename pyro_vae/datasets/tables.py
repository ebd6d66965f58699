"""Tables of the user's, ``.csv`` and ``.parquet``: numbers as they are, columns of words as codes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.checks import say

__all__ = ["read_table"]

_MOST_CATEGORIES = 50  # a column of more different words is a text or a name, not a category


def read_table(path: Path) -> tuple[np.ndarray, tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return a table's numbers ``(N, D)``, its columns' names, and the words behind the codes of columns of words.

    A column without any number whose words repeat is a category, coded 0, 1, ... in the words' order. An empty cell is
    NaN.

    Raises:
        ValueError: if it is no table, holds no row, has lines of different lengths, or text among numbers; then row
            and column are named.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
        if path.suffix != ".parquet":
            _check_widths(path, len(table.columns))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ImportError, csv.Error) as error:
        raise ValueError(say("a table of numbers", f"{path}: {error}", "commas between columns")) from error
    table.columns = [str(name) for name in table.columns]
    if not len(table) or not len(table.columns):
        raise ValueError(say(f"at least one row in {path}", f"{len(table)} below the names", "a file that holds data"))
    columns, categories = [], {}
    for i, name in enumerate(table.columns):
        numbers, words = _column(table.iloc[:, i], name, path)
        columns.append(numbers)
        if words:
            categories[name] = words
    return np.stack(columns, -1), tuple(table.columns), categories


def _read_csv(path: Path) -> Any:
    import pandas as pd

    settings: dict[str, Any] = {"index_col": False, "low_memory": False, "on_bad_lines": "error"}
    head = pd.read_csv(path, header=None, nrows=1, **settings)
    names = bool(head.map(lambda cell: isinstance(cell, str)).to_numpy().any())
    if not names:
        return pd.read_csv(path, header=None, **settings)
    try:
        widest = pd.read_csv(path, header=None, nrows=2, skiprows=1, **settings)
    except pd.errors.EmptyDataError:
        return head.iloc[:0]
    if len(widest.columns) != len(head.columns):
        got = f"{len(head.columns)} names over {len(widest.columns)} columns in {path}"
        raise ValueError(say("one name a column", got, "commas between columns, and no comma in a number"))
    return pd.read_csv(path, header=0, **settings)


def _check_widths(path: Path, width: int) -> None:
    """Check that no line is short: pandas fills it up with NaN, as if cells had been left empty."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        for cells in lines:
            if cells and len(cells) < width:
                got = f"{len(cells)} in line {lines.line_num} of {path}"
                raise ValueError(say(f"{width} columns in each line", got, "a comma for each empty cell"))


def _column(cells: Any, name: str, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    import pandas as pd

    try:
        numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(say("numbers", f"column {name!r} of {path}: {error}", "removing that column")) from error
    filled = cells.notna().to_numpy()
    bad = filled & np.isnan(numbers)
    if not bad.any():
        return numbers, ()
    words = sorted({str(word) for word in cells[filled]})
    if bad.sum() == filled.sum() and len(words) <= min(_MOST_CATEGORIES, max(1, int(filled.sum()) // 2)):
        code = {word: float(i) for i, word in enumerate(words)}
        codes = [code[str(word)] if there else np.nan for word, there in zip(cells, filled, strict=True)]
        return np.asarray(codes), tuple(words)
    if any(mark in name for mark in ";\t|"):
        raise ValueError(say("commas between columns", f"the one name {name!r} in {path}", "saving it with commas"))
    row = int(bad.argmax())
    got = f"{cells.iloc[row]!r} in data row {row}, column {name!r} of {path}"
    raise ValueError(say("numbers", got, "removing or encoding that column"))
