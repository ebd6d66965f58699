"""What a function refers to: the contents of its closure, and the names that its code looks up."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

__all__ = ["cell_content", "names_in_code"]


def cell_content(cell: types.CellType) -> Any:
    """Return what a closure's cell holds; an ellipsis where the name is not bound yet."""
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return ...


def names_in_code(code: types.CodeType) -> Iterator[str]:
    """Yield the names that code looks up, with those of the functions defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from names_in_code(constant)
