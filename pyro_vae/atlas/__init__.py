"""The atlas: classic Pyro programs, each with what is known of its posterior.

Example:
    >>> import pyro_vae as pv
    >>> problem = pv.atlas.load("linear_regression")
    >>> problem.target.latent_dim, problem.truth.how
    (4, 'closed form')
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.programs import NAMES, UNFINISHED
from pyro_vae.atlas.truth import Truth
from pyro_vae.checks import among

__all__ = ["Problem", "Truth", "load", "names"]


def names() -> list[str]:
    """Return the names of the atlas' posteriors that have a truth, simple ones first.

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
    return _load(among(name, (*NAMES, *UNFINISHED), "name"))


@cache
def _load(name: str) -> Problem:
    problem: Problem = import_module(f"pyro_vae.atlas.programs.{name}").problem()
    return problem
