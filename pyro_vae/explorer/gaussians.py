"""Gaussians and their mixtures over the plane, as numbers: weight, location and a triangular root of the covariance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MixtureSameFamily, MultivariateNormal, Normal

from pyro_vae.guides.mixture import ReparameterisedMixture

__all__ = ["components"]


@torch.no_grad()
def components(p: Any) -> list[Any] | None:
    """Return the Gaussians of a distribution over the plane, ``[weight, m1, m2, t11, t21, t22]`` each.

    Args:
        p: a Gaussian or a mixture of some, ``event_shape (2,)``; of ``batch_shape (N,)`` the result is a list of N.

    Returns:
        None if it is something else.

    Example:
        >>> components(Independent(Normal(torch.zeros(2), torch.ones(2)), 1))
        [[1.0, 0.0, 0.0, 1.0, 0.0, 1.0]]
    """
    if isinstance(p, ReparameterisedMixture):
        return _numbers(p.logits.exp(), p.loc, torch.diag_embed(p.scale))
    mixture = isinstance(p, MixtureSameFamily)
    parts = _moments(p.component_distribution if mixture else p)
    if parts is None:
        return None
    if mixture:
        return _numbers(p.mixture_distribution.probs, *parts)
    loc, tril = (part.unsqueeze(-1 - part_dims) for part, part_dims in zip(parts, (1, 2), strict=True))
    return _numbers(loc.new_ones(loc.shape[:-1]), loc, tril)


def _moments(p: Any) -> tuple[Tensor, Tensor] | None:
    """Location and triangular root."""
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.base_dist.loc, torch.diag_embed(p.base_dist.scale)
    if isinstance(p, MultivariateNormal):
        return p.loc, p.scale_tril
    if isinstance(p, LowRankMultivariateNormal):
        return p.loc, p.scale_tril
    return None


def _numbers(weight: Tensor, loc: Tensor, tril: Tensor) -> list[Any]:
    root = torch.stack([tril[..., 0, 0], tril[..., 1, 0], tril[..., 1, 1]], -1)
    found: list[Any] = torch.cat([weight.unsqueeze(-1), loc, root], -1).double().tolist()
    return found
