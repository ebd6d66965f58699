r"""The pilot of annealing: chains that find step sizes, scales, temperatures and a start, and are then thrown away.

What they find is frozen before a chain whose weight counts takes its first step: a transition that adapts while it is
weighed voids the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.evaluation.evidence.importance import gaussian_of
from pyro_vae.evaluation.evidence.path import AnnealingPath, Move
from pyro_vae.inference.mcmc.kernels.base import Metric
from pyro_vae.inference.target.target import Target

__all__ = ["Schedule", "gaussian_start", "pilot"]

_TARGET_ACCEPT = 0.8
_RATE = 0.2  # of the pilot's running estimates: each looks back over about five temperatures
_WIDEN = 1.2  # of a fitted start: what lies outside a Gaussian is found by annealing, at the price of a longer path


@dataclass(frozen=True)
class Schedule:
    """What the pilot run found, frozen.

    Attributes:
        beta: T + 1 inverse temperatures from 0 to 1 for each datum, ``(T + 1, 1, N)``.
        step_size: at each, ``(T + 1, 1, N)``, in standard deviations of the metric.
        metric: the believed covariances, of one factor at each temperature, ``(T + 1, 1, N, L)``, or of a single
            triangular one, ``(1, N, L, L)``, where the start names its covariances.
        num_steps: leapfrog steps of a transition.
    """

    beta: Tensor
    step_size: Tensor
    metric: Metric
    num_steps: int

    def at(self, t: int) -> Move:
        """Return the transition at a temperature."""
        metric = self.metric if self.metric.dense else Metric(self.metric.factor[t])
        return Move(self.beta[t], self.step_size[t], metric, self.num_steps)


class _Pilot:
    """Chains that walk the path once, learning as they go."""

    def __init__(self, path: AnnealingPath, num_chains: int, num_steps: int) -> None:
        self.path, self.num_steps = path, positive_integer(num_steps, "num_steps")
        self.most = math.pi / 2 / self.num_steps  # a trajectory never passes a quarter of a period
        self.factor = path.factor()
        self.u = path.draw(positive_integer(num_chains, "num_chains", minimum=4)).contiguous()
        self.ends = path.ends(self.u)
        self.variance = self.u.var(0, keepdim=True)
        self.log_step = torch.full_like(self.u[:1, :, 0], math.log(0.5 * self.most))

    def scale(self) -> Tensor:
        return self.variance.sqrt().clamp_min(1e-6)

    def step(self, beta: Tensor) -> None:
        self.variance = torch.lerp(self.variance, self.u.var(0, keepdim=True), _RATE)
        metric = Metric(self.scale()) if self.factor is None else Metric(self.factor, dense=True)
        by = Move(beta, self.log_step.exp(), metric, self.num_steps)
        self.u, self.ends, acceptance = self.path.move(self.u, self.ends, by)
        wanted = self.log_step + (acceptance.mean(0, keepdim=True) - _TARGET_ACCEPT)
        self.log_step = wanted.clamp(-12, math.log(self.most))


def _rough(path: AnnealingPath, num_temperatures: int) -> Tensor:
    power = 4.0 if path.sampler is None else 2.0  # the likelihood bites early, the more so the wider the start
    return torch.linspace(0, 1, num_temperatures + 1).to(path.target.origin) ** power


@torch.no_grad()
def pilot(
    target: Target, start: Any = None, *, num_temperatures: int = 100, num_chains: int = 16, num_steps: int = 3
) -> Schedule:
    r"""Find step sizes, scales and temperatures on chains that are then thrown away.

    Step sizes follow the acceptance from one temperature to the next (aiming at 0.8, and never past a quarter of a
    period); scales are the chains' spread. The temperatures are respaced so that the spread of
    :math:`\log f_1 - \log f_0` over a step, averaged over data, is the same for all: the least variance of the weights
    for their number (Gelman & Meng 1998, section 4.1).

    Args:
        target: the densities.
        start: q_0: None for the prior, else a guide or distribution with a density.
        num_temperatures: T.
        num_chains: chains of the pilot.
        num_steps: leapfrog steps of a transition.

    Raises:
        TypeError: if the start has no density function.
        ValueError: if it is the prior, and that has not the density of its draws.
    """
    T = positive_integer(num_temperatures, "num_temperatures", minimum=2)
    if start is None and target.improper:
        got, remedy = f"masks, scales or densities without draws at {target.improper}", 'start="chains"'
        raise ValueError(say("a prior whose draws have its density, to anneal from", got, remedy))
    path = AnnealingPath(target, start)
    walk = _Pilot(path, num_chains, num_steps)
    beta = _rough(path, max(20, T // 2))
    steps, scales, spreads = [], [], []
    for b in beta:
        spreads.append(walk.ends.slope.std(0))
        walk.step(b)
        steps.append(walk.log_step)
        scales.append(walk.scale().log())
    place = _respaced(beta, torch.stack(spreads), T)[:, None]  # (T + 1, 1, N)
    metric = (
        Metric(_interpolate(torch.stack(scales), place[..., None]).exp())
        if walk.factor is None
        else Metric(walk.factor, dense=True)
    )
    step_size = _interpolate(torch.stack(steps), place).exp()
    return Schedule(_interpolate(beta[:, None, None], place), step_size, metric, num_steps)


def _respaced(beta: Tensor, spread: Tensor, num_temperatures: int) -> Tensor:
    """Places ``(T + 1, N)`` among the rough temperatures, by index, that cut the path into steps of equal spread."""
    spread = spread.nan_to_num(nan=0.0, posinf=0.0)
    spread = 0.5 * (spread + spread.mean(-1, keepdim=True))
    length = 0.5 * (spread[1:] + spread[:-1]) * beta.diff()[:, None]
    length = length + 0.1 * length.mean(0) + 1e-12  # nowhere more than about ten times coarser than on average
    along = torch.cat([torch.zeros_like(length[:1]), length.cumsum(0)]).T.contiguous()  # (N, R + 1)
    wanted = torch.linspace(0, 1, num_temperatures + 1).to(along) * along[:, -1:]  # (N, T + 1)
    below = (torch.searchsorted(along, wanted, right=True) - 1).clamp(0, len(length) - 1)
    place = below + ((wanted - along.gather(-1, below)) / length.T.gather(-1, below)).clamp(0, 1)
    place[:, -1] = len(length)
    return place.T


def _interpolate(values: Tensor, place: Tensor) -> Tensor:
    """``values`` of shape ``(R + 1, 1, N or 1, ...)`` at places ``(T + 1, 1, N, ...)``."""
    values = values.expand(-1, *torch.broadcast_shapes(values.shape[1:], place.shape[1:]))
    below = place.floor().long().clamp_max(len(values) - 2)
    index = below.expand(-1, *values.shape[1:])
    return torch.lerp(values.gather(0, index), values.gather(0, index + 1), (place - below).to(values))


@torch.no_grad()
def gaussian_start(
    target: Target, *, num_temperatures: int = 60, num_chains: int = 32, num_steps: int = 3, num_moves: int = 30
) -> dist.MultivariateNormal:
    """Return a Gaussian near each posterior, fitted to chains that were annealed from the prior: it knows no guide.

    The chains walk from the prior to the posterior, stay there for a while, and give the Gaussian of their moments,
    widened by a fifth. Chains in several modes make it wide enough to cover them. Annealing that starts from it is as
    unbiased as from any other start, and its path is far shorter than from the prior: at the same cost its weights
    spread a fifth as much on digits (L = 2), and a tenth as much at L = 50.

    Args:
        target: the densities.
        num_temperatures: of the walk.
        num_chains: chains that walk.
        num_steps: leapfrog steps of a transition.
        num_moves: transitions at the posterior; the last two thirds are kept.

    Returns:
        Over u, ``batch_shape (N,)``, ``event_shape (L,)``.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> start = gaussian_start(Target(model, torch.zeros(3, 5)))
        >>> exact = pv.analytic(model, torch.zeros(3, 5))
        >>> bool(((start.mean - exact.mean).abs() < 0.5 * exact.variance.sqrt()).all())
        True
    """
    path = AnnealingPath(target, None)
    walk = _Pilot(path, num_chains, num_steps)
    for b in _rough(path, positive_integer(num_temperatures, "num_temperatures", minimum=2)):
        walk.step(b)
    kept = []
    for _ in range(positive_integer(num_moves, "num_moves", minimum=3)):
        walk.step(torch.ones_like(walk.log_step))
        kept.append(walk.u)
    g = gaussian_of(torch.cat(kept[num_moves // 3 :]))
    return dist.MultivariateNormal(g.loc, scale_tril=_WIDEN * g.scale_tril)
