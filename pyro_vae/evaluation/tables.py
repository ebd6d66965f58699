"""A result's rich table as plain text: what ``print`` shows of it."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["as_text"]


def as_text(table: Any, *, width: int = 110) -> str:
    """Return a rich table as text, at most so many characters wide.

    Example:
        >>> from rich.table import Table
        >>> as_text(Table("nats", title="none")).splitlines()[0].strip()
        'none'
    """
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(table)
    return out.getvalue().rstrip()
