"""The programs of the atlas, one a file, each with a function ``problem()``."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from pyro_vae.atlas.problem import Problem
from pyro_vae.checks import among

__all__ = ["NAMES", "load", "names"]

NAMES = (
    "linear_regression",
    "funnel",
)


def names() -> list[str]:
    """Return the names of the atlas' posteriors, simple ones first.

    Example:
        >>> "funnel" in names()
        True
    """
    return list(NAMES)


def load(name: str) -> Problem:
    """Return one posterior of the atlas by name.

    Raises:
        ValueError: if there is none of that name; the nearest is suggested.

    Example:
        >>> load("funnel").telling
        ('v', 'x[0]')
    """
    return _load(among(name, NAMES, "name"))


@cache
def _load(name: str) -> Problem:
    problem: Problem = import_module(f"{__name__}.{name}").problem()
    return problem
