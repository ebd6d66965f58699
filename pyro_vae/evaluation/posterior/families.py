"""Families of posteriors with parameters of each datum's own, and the best member of one for every datum."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.checks import among, positive_integer, say
from pyro_vae.inference.posterior import named_posterior
from pyro_vae.inference.target.target import Target

__all__ = ["Family", "best_in_family", "family_of"]

Family = Callable[[Tensor], Any]  # parameters (N, P) to a distribution of batch_shape (N,)


def best_in_family(
    target: Target,
    make: Family,
    parameters: Tensor,
    *,
    num_steps: int = 400,
    num_draws: int = 8,
    lr: float = 0.05,
) -> Tensor:
    r"""Climb the ELBO of every datum in the parameters of its own q, all data at once.

    Adam with a rate that falls to nothing, on the path gradient ("sticking the landing": log q with its parameters held
    still), whose noise vanishes where q is the posterior; the last quarter of the path is averaged.

    Source: Roeder, Wu & Duvenaud 2017; Polyak & Juditsky 1992.

    Args:
        target: the densities.
        make: parameters ``(N, P)`` to a distribution with ``batch_shape (N,)`` and reparametrised draws.
        parameters: where to start, ``(N, P)``.
        num_steps: of the ascent.
        num_draws: draws a step.
        lr: the first learning rate.

    Returns:
        Parameters, ``(N, P)``.
    """
    phi = parameters.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([phi], lr=lr, betas=(0.9, 0.99))
    average, weight = torch.zeros_like(parameters), 0
    for step in range(positive_integer(num_steps, "num_steps")):
        for group in optimiser.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        with torch.enable_grad():
            u = make(phi).rsample((num_draws,))
            bound = target.log_joint(u) - make(phi.detach()).log_prob(u)
            (phi.grad,) = torch.autograd.grad(-bound.mean(0).sum(), phi)
        phi.grad.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        optimiser.step()
        if 4 * step >= 3 * num_steps:
            weight += 1
            average = average + (phi.detach() - average) / weight
    return average


def family_of(guide: Any, start: Any, target: Target, family: str = "auto") -> tuple[str, Family, Tensor]:
    """Return a guide's family: its name, its maker, and the guide's own parameters in it, ``(N, P)``.

    Args:
        guide: a guide of this package, or a distribution over u.
        start: its distribution, ``batch_shape (N,)``.
        target: the densities.
        family: "diagonal", "full", "own", or "auto" for the first that fits.

    Raises:
        ValueError: if "own" is asked for a guide without a network, or the name is unknown.
    """
    among(family, ("auto", "diagonal", "full", "own"), "family")
    network = getattr(guide, "network", None)
    if family == "auto":
        family = _natural(start, network)
    if family == "own":
        if not isinstance(network, nn.Module):
            raise ValueError(say('a guide with a network for family="own"', type(guide).__name__, 'family="full"'))
        with torch.no_grad():
            parameters = network(target.args[0]).detach()  # covariates are not looked at by a guide's network
        free = copy.deepcopy(guide).requires_grad_(False)
        free.network = _Free()

        def own(phi: Tensor) -> Any:
            free.network.value = phi
            return named_posterior(free, target.args)

        return "own", own, parameters
    mean, tril = _gaussian(start, target)
    if family == "diagonal":
        raw = _inverse_softplus(tril.square().sum(-1).sqrt())
        return family, _diagonal, torch.cat([mean, raw], -1)
    rows, columns = torch.tril_indices(target.latent_dim, target.latent_dim, -1)
    raw = _inverse_softplus(tril.diagonal(dim1=-2, dim2=-1))
    return family, _full, torch.cat([mean, raw, tril[:, rows, columns]], -1)


def _natural(start: Any, network: Any) -> str:
    base = start.base_dist if isinstance(start, torch.distributions.Independent) else start
    if isinstance(base, torch.distributions.Normal):
        return "diagonal"
    if isinstance(base, torch.distributions.MultivariateNormal):
        return "full"
    return "own" if isinstance(network, nn.Module) else "full"


class _Free(nn.Module):
    """Stands in for a guide's network: returns parameters of each datum's own."""

    value: Tensor

    def forward(self, *_: Any) -> Tensor:
        return self.value


def _diagonal(phi: Tensor) -> Any:
    mean, raw = phi.chunk(2, -1)
    return dist.Normal(mean, softplus(raw) + 1e-6).to_event(1)


def _full(phi: Tensor) -> Any:
    L = round((-3 + math.sqrt(9 + 8 * phi.shape[-1])) / 2)  # 2 L + L (L - 1) / 2 numbers
    mean, raw, below = phi.split([L, L, L * (L - 1) // 2], -1)
    tril = torch.diag_embed(softplus(raw) + 1e-6)
    rows, columns = torch.tril_indices(L, L, -1)
    tril[:, rows, columns] = below
    return dist.MultivariateNormal(mean, scale_tril=tril)


def _inverse_softplus(scale: Tensor) -> Tensor:
    scale = scale.clamp_min(2e-6) - 1e-6
    return scale + torch.log(-torch.expm1(-scale))


def _gaussian(q: Any, target: Target) -> tuple[Tensor, Tensor]:
    """Mean ``(N, L)`` and triangular factor ``(N, L, L)`` of a distribution, from its draws if need be."""
    if isinstance(q, torch.distributions.MultivariateNormal):
        return q.loc.expand(target.origin.shape), q.scale_tril.expand(*target.origin.shape, target.latent_dim)
    base = q.base_dist if isinstance(q, torch.distributions.Independent) else q
    if isinstance(base, torch.distributions.Normal):
        return base.loc.expand(target.origin.shape), torch.diag_embed(base.scale.expand(target.origin.shape))
    with torch.no_grad():
        u = q.sample((1000,))
    return u.mean(0), torch.diag_embed(u.std(0))
