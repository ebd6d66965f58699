"""Every kind of posterior seen the same way: as draws of u with their density where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.guided import GuideSampler, is_point_mass
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.target import Target

__all__ = ["Answer", "answer"]


@dataclass(frozen=True)
class Answer:
    """What a route says of N posteriors, over the unconstrained vector u.

    Attributes:
        u: draws ``(S, N, L)``.
        log_q: the route's own log density at them, ``(S, N)``, nats; None if it has none (chains, a point mass).
        mean: ``(N, L)``.
        std: ``(N, L)``.
        ess: effective number of draws, the smallest over latent numbers, ``(N,)``; None for independent draws.
        seconds: wall time from the data to the posteriors of all of them; NaN where nobody measured.
        log_prob: the density as a function of u ``(..., N, L)``, where there is one.
    """

    u: Tensor
    log_q: Tensor | None
    mean: Tensor
    std: Tensor
    ess: Tensor | None
    seconds: float
    log_prob: Callable[[Tensor], Tensor] | None = None


@torch.no_grad()
def answer(target: Target, posterior: Any, *, num_samples: int = 1000) -> Answer:
    """Return what a posterior says, whichever kind it is.

    Args:
        target: the densities that it is a posterior of.
        posterior: a guide (of this package, or any Pyro program over the same latent sites), a distribution with
            ``batch_shape (N,)`` and ``event_shape (L,)`` over u, or Draws.
        num_samples: S, draws to take where there are none yet.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it is of other data or another latent dimension.
    """
    if isinstance(posterior, Draws):
        found = _of_draws(target, posterior)
    elif isinstance(posterior, torch.distributions.Distribution):
        found = _of_distribution(target, posterior, num_samples)
    elif callable(posterior):
        found = _of_guide(target, posterior, num_samples)
    else:
        expected = "a guide, a distribution over u or Draws"
        raise TypeError(say(expected, type(posterior).__name__, "the result of laplace, quadrature, mcmc or a guide"))
    if found.mean.shape != target.origin.shape:
        want, got = tuple(target.origin.shape), tuple(found.mean.shape)
        remedy = "the posterior of the same data, with the model's latent dimension"
        raise ValueError(say(f"a posterior of N data in L dimensions, {want}", f"{got}", remedy))
    return found


def _of_distribution(target: Target, q: Any, num_samples: int, seconds: float = math.nan) -> Answer:
    point = is_point_mass(q)
    u = q.sample((1 if point else num_samples,))
    log_q = None if point else q.log_prob(u)
    try:
        mean, std = q.mean.expand(u.shape[1:]), q.variance.clamp_min(0).sqrt().expand(u.shape[1:])
    except NotImplementedError:  # a flow, say
        mean, std = u.mean(0), torch.zeros_like(u[0]) if point else u.std(0)
    log_prob = None if point else q.log_prob
    return Answer(u, log_q, mean, std, None, getattr(q, "seconds", seconds), log_prob)


def _of_draws(target: Target, draws: Draws) -> Answer:
    if draws.num_data != target.num_data:
        raise ValueError(say(f"draws of {target.num_data} posteriors", f"{draws.num_data}", "the same data for both"))
    samples = draws.samples if target.per_datum else {name: v.squeeze(2) for name, v in draws.samples.items()}
    u = target.unconstrain(samples).flatten(0, 1)  # (C S, N, L)
    ess = torch.stack([value.reshape(target.num_data, -1).amin(-1) for value in draws.ess_bulk.values()]).amin(0)
    return Answer(u, None, u.mean(0), u.std(0), ess, draws.seconds)


def _of_guide(target: Target, guide: Any, num_samples: int) -> Answer:
    sampler = GuideSampler(target, guide)
    if sampler.distribution is not None:
        return _of_distribution(target, sampler.distribution, num_samples, sampler.seconds)
    u, log_q = sampler.draw(num_samples)
    if log_q is None and bool((u == u[0]).all()):
        u = u[:1]  # every draw of a point mass is its place
        return Answer(u, None, u[0], torch.zeros_like(u[0]), None, sampler.seconds)
    return Answer(u, log_q, u.mean(0), u.std(0), None, sampler.seconds)
