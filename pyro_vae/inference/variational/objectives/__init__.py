"""Objectives of variational inference: each is a Pyro ELBO, for ``pyro.infer.SVI`` and ``fit(..., loss=...)``.

Pyro's own ``Trace_ELBO`` and ``TraceMeanField_ELBO`` (closed-form KL) go in the same places.
"""

from pyro_vae.inference.variational.objectives.base import Objective
from pyro_vae.inference.variational.objectives.importance import (
    DoublyReparameterisedELBO,
    ImportanceWeightedELBO,
    RenyiELBO,
)
from pyro_vae.inference.variational.objectives.path_derivative import PathDerivativeELBO
from pyro_vae.inference.variational.objectives.schedules import cyclical, warm_up
from pyro_vae.inference.variational.objectives.wake_sleep import ReweightedWakeSleep
from pyro_vae.inference.variational.objectives.weighted import BetaELBO, FreeBitsELBO

__all__ = [
    "BetaELBO",
    "DoublyReparameterisedELBO",
    "FreeBitsELBO",
    "ImportanceWeightedELBO",
    "Objective",
    "PathDerivativeELBO",
    "RenyiELBO",
    "ReweightedWakeSleep",
    "cyclical",
    "warm_up",
]
