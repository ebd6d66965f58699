"""Families of posteriors with parameters of each datum's own, and the best member of one for every datum."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import among, positive_integer, say
from pyro_vae.inference.posterior import GuideSampler, named_posterior
from pyro_vae.inference.target.target import Target
from pyro_vae.scales import FLOOR, raw_scale, to_scale

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


def family_of(sampler: GuideSampler, family: str = "auto") -> tuple[str, Family, Tensor]:
    """Return a guide's family: its name, its maker, and the guide's own parameters in it, ``(N, P)``.

    Args:
        sampler: the guide as draws of u.
        family: "diagonal", "full", "own", or "auto" for the first that fits.

    Raises:
        TypeError: if the guide names no distribution, and "diagonal" or "full" is not asked for.
        ValueError: if "own" is asked for a guide without a network, or the name is unknown.
    """
    among(family, ("auto", "diagonal", "full", "own"), "family")
    network = getattr(sampler.guide, "network", None)
    if sampler.distribution is None and family in {"auto", "own"}:
        expected = "a guide that names its distribution, or a distribution over u"
        remedy = 'pyro_vae.guides.DiagonalGaussian, or family="full"'
        raise TypeError(say(expected, type(sampler.guide).__name__, remedy))
    if family == "auto":
        family = _natural(sampler.distribution, network)
    if family == "own":
        if not isinstance(network, nn.Module):
            got = type(sampler.guide).__name__
            raise ValueError(say('a guide with a network for family="own"', got, 'family="full"'))
        return "own", *_own(sampler, network)
    mean, tril = _gaussian(sampler)
    if family == "diagonal":
        return family, _diagonal, torch.cat([mean, _raw(tril.square().sum(-1).sqrt())], -1)
    rows, columns = torch.tril_indices(tril.shape[-1], tril.shape[-1], -1)
    return family, _full, torch.cat([mean, _raw(tril.diagonal(dim1=-2, dim2=-1)), tril[:, rows, columns]], -1)


def _natural(start: Any, network: Any) -> str:
    base = start.base_dist if isinstance(start, torch.distributions.Independent) else start
    if isinstance(base, torch.distributions.Normal):
        return "diagonal"
    if isinstance(base, torch.distributions.MultivariateNormal):
        return "full"
    return "own" if isinstance(network, nn.Module) else "full"


def _own(sampler: GuideSampler, network: nn.Module) -> tuple[Family, Tensor]:
    """All that a guide can say if its network could return anything, and what the network does return."""
    free = copy.deepcopy(sampler.guide).requires_grad_(False)
    free.network = _Free(copy.deepcopy(network))
    args = sampler.target.args
    with torch.no_grad():
        named_posterior(free, args)

    def own(phi: Tensor) -> Any:
        free.network.value = phi
        return named_posterior(free, args)

    return own, free.network.value


class _Free(nn.Module):
    """Stands in for a guide's network: at the first call what it returns, then parameters of each datum's own."""

    value: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any) -> Tensor:
        if not hasattr(self, "value"):
            self.value = self.network(*inputs)
        return self.value


def _diagonal(phi: Tensor) -> Any:
    mean, raw = phi.chunk(2, -1)
    return dist.Normal(mean, to_scale(raw)).to_event(1)


def _full(phi: Tensor) -> Any:
    L = round((-3 + math.sqrt(9 + 8 * phi.shape[-1])) / 2)  # 2 L + L (L - 1) / 2 numbers
    mean, raw, below = phi.split([L, L, L * (L - 1) // 2], -1)
    tril = torch.diag_embed(to_scale(raw))
    rows, columns = torch.tril_indices(L, L, -1)
    tril[:, rows, columns] = below
    return dist.MultivariateNormal(mean, scale_tril=tril)


def _raw(scale: Tensor) -> Tensor:
    return raw_scale(scale.clamp_min(2 * FLOOR))


@torch.no_grad()
def _gaussian(sampler: GuideSampler) -> tuple[Tensor, Tensor]:
    """Mean ``(N, L)`` and triangular factor ``(N, L, L)`` of a posterior, from its draws if need be."""
    q, shape = sampler.distribution, sampler.target.origin.shape
    if isinstance(q, torch.distributions.MultivariateNormal):
        return q.loc.expand(shape), q.scale_tril.expand(*shape, shape[-1])
    base = q.base_dist if isinstance(q, torch.distributions.Independent) else q
    if isinstance(base, torch.distributions.Normal):
        return base.loc.expand(shape), torch.diag_embed(base.scale.expand(shape))
    u = sampler.sample(1000)[0]
    return u.mean(0), torch.diag_embed(u.std(0))
