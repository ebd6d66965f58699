"""The base class of likelihoods: the recipe for writing one."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say

__all__ = ["Likelihood", "OfNetwork", "bounded_exp", "data_width", "split_last"]


class Likelihood(nn.Module):
    """Base class of likelihoods p(x|z).

    To write one, subclass it and define ``forward(z)``, which takes z ``(..., L)`` and returns a Pyro distribution
    with ``batch_shape (...)`` and ``event_shape`` one datum's shape:

        >>> import torch
        >>> class Rate(Likelihood):
        ...     def __init__(self, network):
        ...         super().__init__()
        ...         self.network = network
        ...     def forward(self, z):
        ...         return dist.Exponential(bounded_exp(self.network(z))).to_event(1)
        >>> Rate(nn.Linear(2, 5))(torch.zeros(7, 2)).event_shape
        torch.Size([5])

    Rates go through ``bounded_exp`` and scales through ``pyro_vae.scales.to_scale``, which no output of a network
    takes out of range. The tests ask a finite density and gradient for outputs up to 1e4 in single precision: where the
    data are raised to a power, that needs a narrower bound of your own.

    A likelihood may take covariates of the data after z, such as a library size: ``model(x, library)`` hands on all
    that follows x.
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x|z), ``batch_shape (...)``, ``event_shape`` that of one datum."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, z) -> Distribution")


class OfNetwork(Likelihood):
    """Base class of likelihoods whose one argument is a network of z."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def bounded_exp(log_rate: Tensor) -> Tensor:
    """Return exp between e^-30 and e^30: a wild first step must not end the training.

    Example:
        >>> import torch
        >>> bool(bounded_exp(torch.tensor(1e4)).isfinite())
        True
    """
    return log_rate.clamp(-30.0, 30.0).exp()


def data_width(data_dim: int | None, why: str) -> int:
    """Return D, which an option that is learnt or kept a column needs.

    Raises:
        ValueError: if there is none.
    """
    if data_dim is None:
        raise ValueError(say(f"data_dim with {why}", "none", "data_dim=x.shape[-1]"))
    return positive_integer(data_dim, "data_dim")


def split_last(out: Tensor, parts: int, meaning: str) -> tuple[Tensor, ...]:
    """Split a network's output ``(..., parts D)`` into ``parts`` tensors ``(..., D)``.

    Raises:
        ValueError: if the last dimension is no multiple of ``parts``.
    """
    if out.shape[-1] % parts:
        got = f"a last dimension of {out.shape[-1]}"
        raise ValueError(say(f"a network that gives {meaning} side by side", got, f"a last layer of {parts} * D"))
    return out.chunk(parts, -1)
