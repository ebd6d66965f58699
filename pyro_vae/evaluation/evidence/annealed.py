r"""Annealed importance sampling over chains x data, forwards and backwards, with a transition that never adapts.

The path goes from a start q_0 (the prior, or a distribution near the posterior) to the joint. Step sizes, scales and
the spacing of the temperatures come from a separate pilot run, frozen before a chain whose weight counts takes its
first step.

Sources: Neal 2001, "Annealed importance sampling"; Grosse, Ghahramani & Adams 2015, "Sandwiching the marginal
likelihood using bidirectional Monte Carlo"; Wu, Burda, Salakhutdinov & Grosse 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import among, positive_integer
from pyro_vae.evaluation.evidence.importance import log_mean_exp
from pyro_vae.evaluation.evidence.method import Estimate, EvidenceMethod, Settings
from pyro_vae.evaluation.evidence.path import AnnealingPath
from pyro_vae.evaluation.evidence.pilot import Schedule, gaussian_start, pilot
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.target import Target

__all__ = ["Annealed", "Annealing", "Schedule", "anneal", "gaussian_start", "pilot", "resolve_start", "reverse_anneal"]

_COMPILE_FROM = 1000  # gradients: fewer do not repay Inductor's seconds


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


def resolve_start(target: Target, start: Any) -> Any:
    """Return the start that the word "chains" stands for, :func:`gaussian_start`; any other start as it is."""
    if not isinstance(start, str):
        return start
    among(start, ("chains",), "start")
    return gaussian_start(target)


class Annealing(EvidenceMethod):
    """Annealed importance sampling, in blocks of data that fit; what "auto" takes where nothing better is possible.

    A start given as a distribution cannot be cut by rows, so then all data run together.
    """

    name = "ais"

    def estimate(self, target: Target, posterior: Any, settings: Settings) -> Estimate:
        """Return the log of the mean weight of all chains, its jackknife error, the weights and the final states."""
        start, C, T = settings.start, settings.num_chains, settings.num_temperatures
        size = target.num_data
        if target.per_datum and (start is None or isinstance(start, str)):
            size = max(1, size * 4 * block_size(target) // C)
        chains = []
        for rows in torch.arange(target.num_data).split(size):
            part = target.rows(rows) if len(rows) < target.num_data else target
            origin = resolve_start(part, start)
            plan = pilot(part, origin, num_temperatures=T, num_steps=settings.num_steps)
            chains.append(anneal(part, plan, origin, num_chains=C))
        log_weights = torch.cat([run.log_weights for run in chains], -1)
        words = {None: "the prior", "chains": "a Gaussian fitted to pilot chains"}
        where = words[start] if start is None or isinstance(start, str) else "the given start"
        reason = f"{C} chains from {where} over {T} temperatures; a lower bound in expectation"
        u = torch.cat([run.u for run in chains], 1)
        return Estimate(*log_mean_exp(log_weights), reason, log_weights, u)

    def attempt(self, target: Target, posterior: Any, settings: Settings) -> Estimate | None:
        """Return it: annealing is possible for every program."""
        return self.estimate(target, posterior, settings)


def _where_it_pays(schedule: Schedule) -> bool | str:
    """Compile, or fall back on the program, where the schedule is long enough to win the compilation back."""
    return "auto" if len(schedule.beta) * schedule.num_steps >= _COMPILE_FROM else False


@torch.no_grad()
def anneal(
    target: Target, schedule: Schedule, start: Any = None, *, num_chains: int = 16, compile: bool | None = None
) -> Annealed:
    r"""Run annealing forwards: from the start to the posterior.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, [\log f_1 - \log f_0](u_{t-1})

    with one HMC transition that leaves :math:`f_{\beta_t}` invariant between. :math:`E[w] = p(x)`, so the logarithm of
    the mean weight is a lower bound in expectation.

    Args:
        target: the densities.
        schedule: of :func:`pilot`, with the same start.
        start: q_0, None for the prior.
        num_chains: C.
        compile: compile the gradient; if not given, for schedules of 1000 gradients or more.

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
    path = AnnealingPath(target, start, compile=_where_it_pays(schedule) if compile is None else compile)
    u = path.draw(positive_integer(num_chains, "num_chains", minimum=2)).contiguous()
    ends = path.ends(u)
    beta = schedule.beta
    log_weights = torch.zeros_like(ends.slope, dtype=torch.float64)
    accepted = torch.zeros_like(log_weights[0])
    for t in range(1, len(beta)):
        log_weights += (beta[t] - beta[t - 1]) * ends.slope
        u, ends, acceptance = path.move(u, ends, schedule.at(t))
        accepted += acceptance.mean(0)
    return Annealed(log_weights.nan_to_num(nan=-math.inf), u, accepted / (len(beta) - 1))


@torch.no_grad()
def reverse_anneal(
    target: Target, schedule: Schedule, u: Tensor, start: Any = None, *, compile: bool | None = None
) -> Annealed:
    r"""Run annealing backwards: from exact posterior draws to the start.

    The same sum over the reversed chain has :math:`E[1 / w] = 1 / p(x)`, so minus the logarithm of the mean of 1 / w is
    an upper bound in expectation; only exact posterior draws make it one.

    Args:
        target: the densities.
        schedule: that of the forward run.
        u: exact posterior draws, ``(C, N, L)``: of a route that knows the posterior, or the latents that simulated
            the data.
        start: q_0 of the forward run.
        compile: as for the forward run.
    """
    path = AnnealingPath(target, start, compile=_where_it_pays(schedule) if compile is None else compile)
    u = u.contiguous()
    ends = path.ends(u)
    beta = schedule.beta
    log_weights = torch.zeros_like(ends.slope, dtype=torch.float64)
    accepted = torch.zeros_like(log_weights[0])
    u, ends, _ = path.move(u, ends, schedule.at(-1))  # chains that share a place part
    for t in range(len(beta) - 1, 0, -1):
        log_weights += (beta[t] - beta[t - 1]) * ends.slope
        if t > 1:
            u, ends, acceptance = path.move(u, ends, schedule.at(t - 1))
            accepted += acceptance.mean(0)
    return Annealed(log_weights, u, accepted / max(1, len(beta) - 2))
