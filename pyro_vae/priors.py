"""Priors p(z): torch modules whose call returns a Pyro distribution."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer

__all__ = ["Prior", "StandardNormal"]


class Prior(nn.Module):
    """Base class of priors p(z).

    To write one, subclass it, set ``latent_dim``, and define ``forward``, which returns a Pyro distribution with
    ``batch_shape ()`` and ``event_shape (L,)``; parameters that are ``torch.nn.Parameter`` are learnt:

        >>> class Wide(Prior):
        ...     def __init__(self, latent_dim):
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...         self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        ...     def forward(self):
        ...         return dist.Normal(0.0, self.log_scale.exp()).to_event(1)
        >>> Wide(3)().event_shape
        torch.Size([3])
    """

    latent_dim: int

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``batch_shape ()``, ``event_shape (L,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self) -> Distribution")


class StandardNormal(Prior):
    r"""The standard normal prior, :math:`p(z) = \prod_l N(z_l; 0, 1)`.

    Args:
        latent_dim: L.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if it is not positive.

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.register_buffer("loc", torch.zeros(self.latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(self.latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return N(0, I), ``event_shape (L,)``."""
        return dist.Normal(self.loc, self.scale).to_event(1)
