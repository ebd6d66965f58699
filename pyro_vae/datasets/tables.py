"""Tables of the user's, ``.csv`` and ``.parquet``: which columns they have, and how their lines are cut into cells."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.checks import say
from pyro_vae.datasets.cells import as_number, numbers_or_codes

__all__ = ["Layout", "read_cells", "read_table"]

_SEPARATORS = (";", "\t", "|", ",")  # the comma last: in other tables it may stand within numbers
_LOOKED_AT = 50  # lines, to find the separator by


@dataclass(frozen=True)
class Layout:
    """The columns of a table that was read before, which another is to have too.

    Attributes:
        columns: their names, in order.
        words: the words behind the codes of columns of words, by column.
    """

    columns: Sequence[str] = ()
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_table(
    path: Path, *, like: Layout | None = None, drop: Collection[str] = ()
) -> tuple[np.ndarray, tuple[str, ...], dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return a table's numbers ``(N, D)``, names of columns, words behind codes, and what a person should know of it.

    Columns of a ``.csv`` stand between commas, semicolons, tabs or bars, whichever cut all lines alike. A column
    without any number whose words repeat is a category, coded 0, 1, ... in the words' order. An empty cell is NaN, and
    so are marks such as NA and ?.

    Args:
        path: the file.
        like: the columns to read, and the codes of their words; the file's own if None.
        drop: names of columns to leave out.

    Raises:
        ValueError: if it is no table, holds no row, has lines of different lengths, or a column that is neither
            numbers nor a category; then row and column are named.
    """
    notes: list[str] = []
    table, named, comma = _cells(path, notes)
    table = _chosen(table, path, like if named else None, drop, notes)
    columns, categories, said = [], {}, dict[str, list[str]]()
    for i, name in enumerate(table.columns):
        known = None if like is None else like.words.get(name, ())
        numbers, words = numbers_or_codes(table.iloc[:, i], name, path, comma=comma, known=known, notes=said)
        columns.append(numbers)
        if words:
            categories[name] = words
    notes += [f"{what}: {', '.join(those[:8])}{', ...' * (len(those) > 8)}" for what, those in said.items()]
    return np.stack(columns, -1), tuple(table.columns), categories, tuple(notes)


def read_cells(path: Path) -> Any:
    """Return the cells of a table as they stand in the file, a pandas DataFrame; of a ``.csv`` all are text.

    A file whose first line holds no names has no columns to call by name: the frame is empty.

    Raises:
        ValueError: if it is no table, holds no row, or has lines of different lengths.
    """
    table, named, _ = _cells(path, [], text=True)
    return table if named else table[[]]


def _cells(path: Path, notes: list[str], *, text: bool = False) -> tuple[Any, bool, bool]:
    """A file as a table, whether its first line holds names, and whether numbers may hold decimal commas."""
    import pandas as pd

    try:
        named, comma = True, False
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table, named, comma = _read_csv(path, notes, text=text)
    except UnicodeDecodeError as error:
        raise ValueError(_other_encoding(path)) from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(say("a table of numbers", f"an empty file at {path}", "a file that holds data")) from error
    except (pd.errors.ParserError, ImportError, csv.Error) as error:
        raise ValueError(say("a table of numbers", f"{path}: {error}", "commas between columns")) from error
    table.columns = [str(name).strip() for name in table.columns]
    if not len(table) or not len(table.columns):
        raise ValueError(say(f"at least one row in {path}", f"{len(table)} below the names", "a file that holds data"))
    return table, named, comma


def _chosen(table: Any, path: Path, like: Layout | None, drop: Collection[str], notes: list[str]) -> Any:
    """The columns asked for, in their order; none goes without a word."""
    for name in drop:
        if name not in table.columns:
            remedy = f"one of {', '.join(map(repr, table.columns[:8]))}"
            raise ValueError(say(f"a column to drop that {path} has", repr(name), remedy))
    if drop:
        notes.append(f"left out, as asked for: {', '.join(drop)}")
        table = table.drop(columns=list(drop))
    if not len(table.columns):
        raise ValueError(say(f"a column of {path} to keep", "all dropped", "--drop with fewer names"))
    if like is None or not like.columns:
        return table
    lost = [name for name in like.columns if name not in table.columns]
    if lost:
        got = f"none named {', '.join(map(repr, lost[:5]))} in {path}, but {', '.join(map(repr, table.columns[:8]))}"
        raise ValueError(say(f"the {len(like.columns)} columns of the training data", got, "the same columns"))
    more = [name for name in table.columns if name not in set(like.columns)]
    if more:
        notes.append(f"left out, as no column of the training data: {', '.join(more)}")
    return table[list(like.columns)]


def _read_csv(path: Path, notes: list[str], *, text: bool) -> tuple[Any, bool, bool]:
    """A file as a table, whether its first line holds names, and whether numbers may hold decimal commas."""
    import pandas as pd

    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(itertools.islice(file, _LOOKED_AT))
    separator = _separator(lines)
    first = next((cells for cells in csv.reader(lines, delimiter=separator) if any(cells)), [])
    comma = separator != ","
    settings: dict[str, Any] = {
        **{"sep": separator, "index_col": False, "low_memory": False, "on_bad_lines": "error"},
        **{"keep_default_na": False, "na_values": [""], "skip_blank_lines": len(first) != 1},
        **({"dtype": str} if text else {}),
    }
    if all(as_number(cell, comma=comma) is not None for cell in first):
        table = pd.read_csv(path, header=None, **settings)
        _check_widths(path, separator, len(table.columns))
        return table, False, comma
    _check_widths(path, separator, len(first))
    return pd.read_csv(path, header=0, names=_names(first, notes), **settings), True, comma


_WORDS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def _separator(lines: list[str]) -> str:
    """What cuts all lines into the same number of cells, two or more; the comma if nothing does."""
    for separator in _SEPARATORS:
        widths = {len(cells) for cells in csv.reader(lines, delimiter=separator) if cells}
        if len(widths) == 1 and widths.pop() > 1:
            return separator
    return ","


def _names(first: list[str], notes: list[str]) -> list[str]:
    """A name of its own for each column; notes names that stand twice, that are missing, and that look like data."""
    given = [name.strip() for name in first]
    names: list[str] = []
    for i, name in enumerate(given):
        tries = itertools.chain([name or f"unnamed_{i + 1}"], (f"{name}.{k}" for k in itertools.count(1)))
        names.append(next(new for new in tries if new not in names))
    renamed = [
        f"number {i + 1} as {new!r}" for i, (old, new) in enumerate(zip(given, names, strict=True)) if old != new
    ]
    if renamed:
        notes.append(f"columns without a name of their own are called: {', '.join(renamed)}")
    if any("." in name and as_number(name, comma=False) is not None for name in given):
        notes.append(f"the first line is taken as names: {', '.join(given[:6])}; if it is data, put names above it")
    return names


def _check_widths(path: Path, separator: str, width: int) -> None:
    """Check that every line has so many cells: pandas fills a short one up with NaN, as if cells had been empty."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, delimiter=separator)
        for cells in lines:
            if cells and len(cells) != width:
                got = f"{len(cells)} in line {lines.line_num} of {path}"
                remedy = f"{_WORDS[separator]} between columns, one for each empty cell, and none within a number"
                raise ValueError(say(f"{width} columns in each line", got, remedy))


def _other_encoding(path: Path) -> str:
    """What to say of a file that is not in UTF-8: where, and how to make it so."""
    raw = path.read_bytes()
    wide = raw[:2] in {b"\xff\xfe", b"\xfe\xff"}
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        start = error.start
    line = raw[:start].count(b"\n") + 1
    remedy = f"iconv -f {'UTF-16' if wide else 'WINDOWS-1252'} -t UTF-8 {path} > new.csv, or saving it as UTF-8"
    return say(f"text in UTF-8 in {path}", f"byte 0x{raw[start]:02x} in line {line} (another encoding)", remedy)
