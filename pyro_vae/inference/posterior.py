"""Every kind of posterior seen the same way: as draws of u with their density where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.guides import Guide
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target import Target, sample_sites

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
        seconds: wall time of the inference, where it is known.
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
    elif isinstance(posterior, Guide) and target.plain:
        start = time.perf_counter()
        q = posterior.posterior(*target.args)
        seconds = time.perf_counter() - start
        found = _of_distribution(target, q, num_samples, seconds)
    elif callable(posterior):
        found = _of_program(target, posterior, num_samples)
    else:
        expected = "a guide, a distribution over u or Draws"
        raise TypeError(say(expected, type(posterior).__name__, "the result of laplace, quadrature, mcmc or a guide"))
    if found.mean.shape != target.origin.shape:
        want, got = tuple(target.origin.shape), tuple(found.mean.shape)
        remedy = "the posterior of the same data, with the model's latent dimension"
        raise ValueError(say(f"a posterior of N data in L dimensions, {want}", f"{got}", remedy))
    return found


def _of_distribution(target: Target, q: Any, num_samples: int, seconds: float = 0.0) -> Answer:
    u = q.sample((num_samples,))
    point = isinstance(q, dist.Delta)
    log_q = None if point else q.log_prob(u)
    try:
        mean, std = q.mean.expand(u.shape[1:]), q.variance.clamp_min(0).sqrt().expand(u.shape[1:])
    except NotImplementedError:  # a flow, say
        mean, std = u.mean(0), u.std(0)
    log_prob = None if point else q.log_prob
    return Answer(u, log_q, mean, std, None, getattr(q, "seconds", seconds), log_prob)


def _of_draws(target: Target, draws: Draws) -> Answer:
    if draws.num_data != target.num_data:
        raise ValueError(say(f"draws of {target.num_data} posteriors", f"{draws.num_data}", "the same data for both"))
    samples = draws.samples if target.per_datum else {name: v.squeeze(2) for name, v in draws.samples.items()}
    u = target.unconstrain(samples).flatten(0, 1)  # (C S, N, L)
    ess = torch.stack([value.reshape(target.num_data, -1).amin(-1) for value in draws.ess_bulk.values()]).amin(0)
    return Answer(u, None, u.mean(0), u.std(0), ess, draws.seconds)


def _of_program(target: Target, guide: Any, num_samples: int) -> Answer:
    """Any Pyro program over the latent sites: the values it samples, and its density there."""
    start = time.perf_counter()
    with pyro.validation_enabled(False):
        pairs = [_run_guide(target, guide) for _ in range(num_samples)]
    u, log_q = (torch.stack(part) for part in zip(*pairs, strict=True))
    log_q = log_q + target.log_jacobian(u)
    return Answer(u, log_q, u.mean(0), u.std(0), None, (time.perf_counter() - start) / num_samples)


def _run_guide(target: Target, guide: Any) -> tuple[Tensor, Tensor]:
    """One draw of u ``(N, L)`` and its log density over the sites' own scale ``(N,)``."""
    trace = sample_sites(poutine.trace(guide).get_trace(*target.args))
    sites = {name: site for name, site in trace.items() if not site["is_observed"]}
    if set(target.sites) - set(sites):
        remedy = "the same names in model and guide"
        raise ValueError(say(f"a guide over the sites {list(target.sites)}", f"{list(sites)}", remedy))
    u = target.pack({name: sites[name]["value"] for name in target.sites})
    log_q = target.origin.new_zeros(target.num_data)
    for site in sites.values():
        log_q = log_q + target.reduce(site, site["fn"].log_prob(site["value"]))
    return u, log_q
