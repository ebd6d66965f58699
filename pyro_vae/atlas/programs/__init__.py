"""The programs of the atlas, one a file, each with a function ``problem()``."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from pyro_vae.atlas.problem import Problem
from pyro_vae.checks import among

__all__ = ["NAMES", "load", "names"]

NAMES = (
    # regressions
    "linear_regression",
    "logistic_regression",
    "poisson_regression",
    "robust_regression",
    "horseshoe",
    # hierarchies
    "eight_schools_centred",
    "eight_schools_noncentred",
    "radon",
    "seeds",
    "item_response",
    # time
    "ar2",
    "local_level",
    "seasonal",
    "stochastic_volatility",
    "lotka_volterra",
    "gaussian_process",
    # discrete sites, summed out
    "changepoint",
    "gaussian_mixture",
    "latent_class",
    "hidden_markov",
    # factors and networks
    "factor_analysis",
    "matrix_factorisation",
    "neural_network",
    "vae_digit",
    # pure shapes
    "ill_conditioned",
    "heavy_tails",
    "funnel",
    "banana",
    "donut",
    "two_modes",
    "many_modes",
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
