"""The atlas: classic Pyro programs, each with what is known of its posterior, and every route over them.

Example:
    >>> import pyro_vae as pv
    >>> problem = pv.atlas.load("linear_regression")
    >>> problem.target.latent_dim, problem.truth.how
    (4, 'closed form')
"""

from pyro_vae.atlas.cell import Cell
from pyro_vae.atlas.claims import claims
from pyro_vae.atlas.grid import BUDGETS, QUICK, QUICK_ROUTES, run
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.programs import load, names
from pyro_vae.atlas.result import Atlas, read
from pyro_vae.atlas.routes import ROUTES, Route
from pyro_vae.atlas.truth import Truth

__all__ = [
    "BUDGETS",
    "QUICK",
    "QUICK_ROUTES",
    "ROUTES",
    "Atlas",
    "Cell",
    "Problem",
    "Route",
    "Truth",
    "claims",
    "load",
    "names",
    "read",
    "run",
]
