"""ArviZ, imported where it is used and nowhere else: it costs a second, and announces its next version aloud."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["arviz"]


def arviz() -> Any:
    """Return the ArviZ module, without its announcement.

    Example:
        >>> arviz().__name__
        'arviz'
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz as module
    return module
