"""The one progress bar: on standard error, in terminals and notebooks, and now and then in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress_bar", "write_above_bar"]


@contextmanager
def progress_bar(total: int, description: str, *, show: bool, unit: str = "it") -> Iterator[Any]:
    """Open a bar of ``total`` steps, tqdm's own object; silent unless ``show``.

    Where standard error is neither a terminal nor a notebook's, each drawing is a line: one a minute is enough.

    Example:
        >>> with progress_bar(3, "steps", show=False) as bar:
        ...     bar.update()
    """
    from tqdm.auto import tqdm

    drawn = sys.stderr.isatty() or "ipykernel" in sys.modules
    with tqdm(total=total, disable=not show, desc=description, unit=unit, mininterval=0.1 if drawn else 60.0) as bar:
        yield bar


def write_above_bar(message: str) -> None:
    """Write a line where the bar is: on standard error, which leaves standard output to results."""
    from tqdm.auto import tqdm

    tqdm.write(message, file=sys.stderr)
