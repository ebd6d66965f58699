"""What a user reads of a posterior: its named sites, on the scale of the program."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform

from pyro_vae.inference.posterior import Answer
from pyro_vae.inference.target.target import Target

__all__ = ["distances", "furthest", "joined_moments", "side_by_side", "site_moments"]


def side_by_side(target: Target, u: Tensor) -> Tensor:
    """The named sites' numbers at u ``(S, N, L)``, side by side in the program's order, ``(S, N, M)``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> side_by_side(Target(model, torch.ones(3)), torch.zeros(5, 3, 1)).unique()
        tensor([1.])
    """
    return u if target.plain else torch.cat(list(_flat(target, u).values()), -1)


def site_moments(target: Target, seen: Answer) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of each named site's numbers, ``(N, m)`` each, by site.

    They are those of the posterior itself at sites of real numbers, else those of its draws.
    """
    values = {} if target.plain else _flat(target, seen.u)
    found = {}
    for name, site in target.sites.items():
        if target.plain or _is_identity(site.transform):
            found[name] = seen.mean[:, site.columns], seen.std[:, site.columns]
        else:
            value = values[name]
            found[name] = value.mean(0), value.std(0) if len(value) > 1 else torch.zeros_like(value[0])
    return found


def distances(mean: Tensor, std: Tensor, true_mean: Tensor, true_std: Tensor) -> tuple[Tensor, Tensor]:
    """Error of means in true standard deviations, and the ratio of standard deviations, ``(N, m)`` each.

    A number that no posterior moves (the zeros of a triangular factor) has neither: 0 and 1.
    """
    fixed = (true_std == 0) & (std == 0) & (mean == true_mean)
    return ((mean - true_mean).abs() / true_std).masked_fill(fixed, 0), (std / true_std).masked_fill(fixed, 1)


def joined_moments(target: Target, seen: Answer) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of all named sites' numbers, as :func:`side_by_side` has them, ``(N, M)`` each."""
    means, stds = zip(*site_moments(target, seen).values(), strict=True)
    return torch.cat(means, -1), torch.cat(stds, -1)


def furthest(mean: Tensor, std: Tensor, true_mean: Tensor, true_std: Tensor) -> tuple[Tensor, Tensor]:
    """The largest error of a mean and the ratio of standard deviations furthest from 1, ``(N,)`` each."""
    shift, ratio = distances(mean, std, true_mean, true_std)
    away = ratio.log().abs().argmax(-1, keepdim=True)
    return shift.amax(-1), ratio.gather(-1, away).squeeze(-1)


def _flat(target: Target, u: Tensor) -> dict[str, Tensor]:
    return {name: value.reshape(*u.shape[:2], -1) for name, value in target.constrain(u).items()}


def _is_identity(transform: Any) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts
