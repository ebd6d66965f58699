r"""Annealed importance sampling over chains x data, forwards and backwards, with a transition that never adapts.

The path goes from a start q_0 (the prior, or a guide) to the joint:
:math:`\log f_\beta(u) = (1 - \beta) \log q_0(u) + \beta \log p(x, u)`. A separate pilot run finds step sizes, scales
and the spacing of the temperatures; all are frozen before a chain whose weight counts takes its first step.

Sources: Neal 2001, "Annealed importance sampling"; Grosse, Ghahramani & Adams 2015, "Sandwiching the marginal
likelihood using bidirectional Monte Carlo"; Wu, Burda, Salakhutdinov & Grosse 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.guided import GuideSampler
from pyro_vae.inference.mcmc.hmc import hmc_transition
from pyro_vae.inference.mcmc.kernel import Metric, State
from pyro_vae.inference.target import Target

__all__ = ["Annealed", "Schedule", "anneal", "pilot", "reverse_anneal"]

_TARGET_ACCEPT = 0.8
_RATE = 0.2  # of the pilot's running estimates: each looks back over about five temperatures
_JITTER = 0.2


@dataclass(frozen=True)
class Schedule:
    """What the pilot run found, frozen.

    Attributes:
        beta: T + 1 inverse temperatures from 0 to 1.
        step_size: at each, ``(T + 1, 1, N)``, in standard deviations of ``scale``.
        scale: believed standard deviations of u at each, ``(T + 1, 1, N, L)``.
        num_steps: leapfrog steps of a transition.
    """

    beta: Tensor
    step_size: Tensor
    scale: Tensor
    num_steps: int


@dataclass(frozen=True)
class Annealed:
    """Annealed chains.

    Attributes:
        log_weights: ``(C, N)``, nats; forwards the mean of exp is unbiased for p(x), backwards the mean of exp(-log w)
            for 1 / p(x).
        u: where the chains ended, ``(C, N, L)``; weighted by exp(log_weights) they are draws of the posterior.
        acceptance: mean acceptance probability, ``(N,)``.
    """

    log_weights: Tensor
    u: Tensor
    acceptance: Tensor


class _Path:
    """Both ends of the path, with gradients."""

    def __init__(self, target: Target, start: Any) -> None:
        self.target = target
        self.sampler = None if start is None else GuideSampler(target, start)
        if self.sampler is not None and self.sampler.distribution is None:
            expected = "a start with a density at every u (a distribution, or a guide of this package)"
            raise TypeError(say(expected, "a guide program", "start=None for the prior"))

    def draw(self, num_chains: int) -> Tensor:
        """Draw of the start, ``(C, N, L)``."""
        if self.sampler is None:
            return self.target.sample_prior(num_chains)
        return self.sampler.sample(num_chains)[0]

    def at(self, u: Tensor, beta: Tensor | float) -> tuple[State, Tensor]:
        """The state on the path at ``beta``, and log f_1 - log f_0 there, ``(C, N)``."""
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            if self.sampler is None:
                first, slope = self.target.log_parts(u)
            else:
                first = self.sampler.distribution.log_prob(u)
                slope = self.target.log_joint(u) - first
            value = first + beta * slope
            (grad,) = torch.autograd.grad(value.sum(), u)
        return State(u.detach(), value.detach(), grad), slope.detach()

    def move(self, state: State, beta: Tensor, step_size: Tensor, scale: Tensor, num_steps: int) -> tuple[Tensor, Any]:
        jittered = step_size * (1 + _JITTER * (2 * torch.rand_like(state.log_density) - 1))
        moved, info = hmc_transition(
            state,
            lambda v: self.at(v, beta)[0][1:3],
            step_size=jittered,
            num_steps=num_steps,
            metric=Metric(scale),
        )
        return moved.u, info.acceptance


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
    """
    T = positive_integer(num_temperatures, "num_temperatures", minimum=2)
    path = _Path(target, start)
    rough = max(20, T // 2)
    power = 4.0 if start is None else 1.0  # the likelihood bites early when the start is wide
    beta = torch.linspace(0, 1, rough + 1).to(target.origin) ** power
    u = path.draw(positive_integer(num_chains, "num_chains", minimum=4))
    variance = u.var(0, keepdim=True)
    most = math.pi / 2 / positive_integer(num_steps, "num_steps")
    log_step = torch.full_like(u[:1, :, 0], math.log(0.5 * most))
    steps, scales, spreads = [], [], []
    for b in beta:
        state, slope = path.at(u, b)
        spreads.append(slope.std(0).mean())
        variance = torch.lerp(variance, u.var(0, keepdim=True), _RATE)
        scale = variance.sqrt().clamp_min(1e-6)
        u, acceptance = path.move(state, b, log_step.exp(), scale, num_steps)
        log_step = (log_step + (acceptance.mean(0, keepdim=True) - _TARGET_ACCEPT)).clamp(-12, math.log(most))
        steps.append(log_step)
        scales.append(scale.log())
    place = _respaced(beta, torch.stack(spreads), T)
    step_size = _interpolate(torch.stack(steps), place).exp()
    return Schedule(_interpolate(beta, place), step_size, _interpolate(torch.stack(scales), place).exp(), num_steps)


def _respaced(beta: Tensor, spread: Tensor, num_temperatures: int) -> Tensor:
    """Places ``(T + 1,)`` among the rough temperatures, by index, that cut the path into steps of equal spread."""
    spread = spread.nan_to_num(nan=0.0, posinf=0.0)
    length = 0.5 * (spread[1:] + spread[:-1]) * beta.diff()
    length = length + 0.1 * length.mean() + 1e-12  # nowhere more than about ten times coarser than on average
    along = torch.cat([length.new_zeros(1), length.cumsum(0)])
    wanted = torch.linspace(0, 1, num_temperatures + 1).to(along) * along[-1]
    below = (torch.searchsorted(along, wanted, right=True) - 1).clamp(0, len(length) - 1)
    place = below + ((wanted - along[below]) / length[below]).clamp(0, 1)
    place[-1] = len(length)
    return place


def _interpolate(values: Tensor, place: Tensor) -> Tensor:
    below = place.floor().long().clamp_max(len(values) - 2)
    share = (place - below).reshape(-1, *[1] * (values.dim() - 1))
    return torch.lerp(values[below], values[below + 1], share)


@torch.no_grad()
def anneal(target: Target, schedule: Schedule, start: Any = None, *, num_chains: int = 16) -> Annealed:
    r"""Run annealing forwards: from the start to the posterior.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, [\log f_1 - \log f_0](u_{t-1})

    with one HMC transition that leaves :math:`f_{\beta_t}` invariant between. :math:`E[w] = p(x)`, so the logarithm of
    the mean weight is a lower bound in expectation.

    Args:
        target: the densities.
        schedule: of :func:`pilot`, with the same start.
        start: q_0, None for the prior.
        num_chains: C.

    Example:
        >>> import pyro_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 5), scale=1.0))
        >>> target = Target(model, torch.zeros(3, 5))
        >>> chains = anneal(target, pilot(target, num_temperatures=50), num_chains=64)
        >>> estimate = chains.log_weights.logsumexp(0) - torch.tensor(64.0).log()
        >>> bool((estimate - pv.analytic(model, torch.zeros(3, 5)).log_evidence).abs().max() < 0.2)
        True
    """
    path = _Path(target, start)
    u = path.draw(positive_integer(num_chains, "num_chains", minimum=2))
    beta = schedule.beta
    log_weights = torch.zeros_like(u[..., 0], dtype=torch.float64)
    accepted = torch.zeros_like(log_weights[0])
    for t in range(1, len(beta)):
        state, slope = path.at(u, beta[t])
        log_weights += (beta[t] - beta[t - 1]) * slope
        u, acceptance = path.move(state, beta[t], schedule.step_size[t], schedule.scale[t], schedule.num_steps)
        accepted += acceptance.mean(0)
    return Annealed(log_weights.nan_to_num(nan=-math.inf), u, accepted / (len(beta) - 1))


@torch.no_grad()
def reverse_anneal(target: Target, schedule: Schedule, u: Tensor, start: Any = None) -> Annealed:
    r"""Run annealing backwards: from exact posterior draws to the start.

    The same sum over the reversed chain has :math:`E[1 / w] = 1 / p(x)`, so minus the logarithm of the mean of 1 / w is
    an upper bound in expectation; only exact posterior draws make it one.

    Args:
        target: the densities.
        schedule: that of the forward run.
        u: exact posterior draws, ``(C, N, L)``: of a route that knows the posterior, or the latents that simulated
            the data.
        start: q_0 of the forward run.
    """
    path = _Path(target, start)
    beta = schedule.beta
    log_weights = torch.zeros_like(u[..., 0], dtype=torch.float64)
    accepted = torch.zeros_like(log_weights[0])
    for t in range(len(beta) - 1, 0, -1):
        state, slope = path.at(u, beta[t - 1])
        log_weights += (beta[t] - beta[t - 1]) * slope
        if t > 1:
            u, acceptance = path.move(
                state, beta[t - 1], schedule.step_size[t - 1], schedule.scale[t - 1], schedule.num_steps
            )
            accepted += acceptance.mean(0)
    return Annealed(log_weights, u, accepted / max(1, len(beta) - 2))
