"""The base class of priors: the recipe for writing one."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

__all__ = ["Prior"]


class Prior(nn.Module):
    """Base class of priors p(z).

    To write one, subclass it, set ``latent_dim``, and define ``forward``, which returns a Pyro distribution with
    ``batch_shape ()`` and ``event_shape (L,)``; parameters that are ``torch.nn.Parameter`` are learnt:

        >>> import torch
        >>> class Wide(Prior):
        ...     def __init__(self, latent_dim):
        ...         super().__init__()
        ...         self.latent_dim = latent_dim
        ...         self.log_scale = nn.Parameter(torch.zeros(latent_dim))
        ...     def forward(self):
        ...         return dist.Normal(0.0, self.log_scale.exp()).to_event(1)
        >>> Wide(3)().event_shape
        torch.Size([3])

    A prior with several latent sites overrides ``draw`` in place of ``forward``: see :class:`HierarchicalNormal`.
    """

    latent_dim: int

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``batch_shape ()``, ``event_shape (L,)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self) -> Distribution")

    def draw(self, latent: str) -> Tensor:
        """Run the prior's sample statements inside the model's data plate and return z, ``(..., N, L)``.

        Args:
            latent: name of the site that holds z.
        """
        return pyro.sample(latent, self())
