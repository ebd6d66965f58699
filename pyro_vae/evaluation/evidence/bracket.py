"""The evidence of simulated data between a lower and an upper bound."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer
from pyro_vae.evaluation.evidence.annealed import anneal, pilot, resolve_start, reverse_anneal
from pyro_vae.evaluation.evidence.importance import log_mean_exp
from pyro_vae.evaluation.simulation import applied, simulated
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["Bracket", "bracket"]


@dataclass(frozen=True)
class Bracket:
    """The evidence of simulated data from below and above; every tensor is ``(N,)``, nats.

    Attributes:
        lower: forward annealing, a lower bound in expectation.
        upper: backward annealing, an upper bound in expectation.
        lower_error: standard error over chains.
        upper_error: standard error over chains; that all start from one exact draw is not in it.
        log_evidence: the middle where the bracket is resolved, else NaN.
        resolved: whether it is no wider than the tolerance.
        x: the simulated data.
        u: the latents that made them, ``(N, L)``.
        seconds: wall time.
    """

    lower: Tensor
    upper: Tensor
    lower_error: Tensor
    upper_error: Tensor
    log_evidence: Tensor
    resolved: Tensor
    x: Tensor
    u: Tensor
    seconds: float

    @property
    def width(self) -> Tensor:
        """Upper less lower, ``(N,)``."""
        return self.upper - self.lower

    def __str__(self) -> str:
        error = float((self.lower_error.square() + self.upper_error.square()).sum().sqrt()) / len(self.width)
        width = f"{float(self.width.mean()):.3f} ± {error:.3f} nats wide on average"
        return f"bracket of log p(x): {width}, {int(self.resolved.sum())} of {len(self.resolved)} simulated resolved"


def bracket(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    num_chains: int = 16,
    num_temperatures: int = 200,
    num_steps: int = 3,
    start: Any = "chains",
    tolerance: float = 0.5,
    plate: str | None = "data",
) -> Bracket:
    """Bracket the evidence of data simulated from the program, by annealing in both directions.

    Only simulated data have an exact posterior draw to start backwards from: the latents that made them. How wide the
    bracket is on them says how far annealing with these settings can be relied on for real data like them.

    Args:
        model: a Pyro program with one observed site, its first argument; or a Target in place of it and x.
        x: data of the shape to simulate, ``(N, *D)``, whose values are not used; with covariates, a tuple that begins
            with them.
        num_chains: C, in each direction.
        num_temperatures: T.
        num_steps: leapfrog steps between temperatures.
        start: where annealing starts: "chains" for a Gaussian fitted to pilot chains, None for the prior, a guide, or
            a function of the simulated data that returns a distribution, such as ``lambda x: pv.laplace(model, x)``.
        tolerance: the width above which a bracket is unresolved, nats.
        plate: the data plate.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> bool(bracket(model, torch.zeros(5, 8), num_temperatures=50).resolved.all())
        True
    """
    began = time.perf_counter()
    C = positive_integer(num_chains, "num_chains", minimum=2)
    target, u = simulated(as_target(model, x, plate=plate))
    start = resolve_start(target, applied(start, target))
    plan = pilot(target, start, num_temperatures=num_temperatures, num_steps=num_steps)
    lower, lower_error = log_mean_exp(anneal(target, plan, start, num_chains=C).log_weights)
    backward = reverse_anneal(target, plan, u.expand(C, *u.shape), start)
    upper, upper_error = log_mean_exp(-backward.log_weights)
    upper = -upper
    resolved = (upper - lower).abs() <= tolerance
    middle = torch.where(resolved, (upper + lower) / 2, math.nan)
    seconds = time.perf_counter() - began
    return Bracket(lower, upper, lower_error, upper_error, middle, resolved, target.args[0], u, seconds)
