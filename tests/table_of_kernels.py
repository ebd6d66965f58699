"""The one table of kernels: a new kernel is one line here and inherits every test of kernels.

Moments of the linear-Gaussian model and calibration by ranks (``tests/mcmc``), Pyro's interface,
runs that share one kernel object, copies of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro_vae as pv


class Case(NamedTuple):
    """A kernel, and how long its chains must be.

    Attributes:
        build: takes the model in Pyro's manner, or nothing.
        draws: draws a chain, of 8 chains, that tell a posterior from one 15 % wider.
        thinning: steps between draws that are nearly independent; odd if two kinds of step alternate.
        guided: whether it proposes from a guide.
        gaussian: whether it samples Gaussian posteriors alone.
    """

    build: Callable[..., Any]
    draws: int
    thinning: int
    guided: bool = False
    gaussian: bool = False


KERNELS = {
    "HMC": Case(pv.HMC, 400, 4),
    "ChEES": Case(pv.ChEES, 400, 4),
    "NUTS": Case(pv.NUTS, 200, 1),
    "MALA": Case(partial(pv.MALA, full_mass=True), 1500, 15),
    "Barker": Case(partial(pv.Barker, full_mass=True), 1500, 15),
    "RandomWalk": Case(partial(pv.RandomWalk, full_mass=True), 2500, 25),
    "Gibbs": Case(pv.Gibbs, 500, 4),
    "GaussianGibbs": Case(pv.GaussianGibbs, 1500, 25, gaussian=True),
    "IndependenceMH": Case(pv.IndependenceMH, 1500, 25, guided=True),
    "ParallelTempering": Case(partial(pv.ParallelTempering, num_temperatures=3), 400, 5),
}
