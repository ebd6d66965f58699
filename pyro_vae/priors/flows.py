"""Flow priors: a learned, invertible map of the standard normal."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, ComposeTransform

from pyro_vae.checks import positive_integer
from pyro_vae.flows import FlowDistribution, autoregressive, coupling
from pyro_vae.priors.base import Prior

__all__ = ["NICE", "MaskedAutoregressive", "NeuralSpline", "RealNVP"]


class _FlowPrior(Prior):
    loc: Tensor

    def __init__(self, latent_dim: int, normalise: nn.Module) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.normalise = normalise  # z -> u, the direction in which a density is evaluated
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return FlowDistribution(self.normalise(None).inv, base)


class NICE(_FlowPrior):
    """A flow of additive couplings and one learned scale a dimension; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many coupling layers.
        hidden: widths of the networks' hidden layers.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Dinh, Krueger & Bengio 2014.

    Example:
        >>> NICE(2)().log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """

    def __init__(self, latent_dim: int, *, num_transforms: int = 4, hidden: Sequence[int] = (64,)) -> None:
        L = positive_integer(latent_dim, "latent_dim")
        super().__init__(
            L, coupling(L, context_dim=0, num_transforms=num_transforms, hidden=tuple(hidden), additive=True)
        )
        self.log_scale = nn.Parameter(torch.zeros(L))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        scale = AffineTransform(0.0, self.log_scale.exp(), event_dim=1)
        return FlowDistribution(ComposeTransform([scale, self.normalise(None).inv]), base)


class RealNVP(_FlowPrior):
    """A flow of affine couplings; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many coupling layers.
        hidden: widths of the networks' hidden layers.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Dinh, Sohl-Dickstein & Bengio 2017.

    Example:
        >>> RealNVP(2)().log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """

    def __init__(self, latent_dim: int, *, num_transforms: int = 4, hidden: Sequence[int] = (64,)) -> None:
        L = positive_integer(latent_dim, "latent_dim")
        super().__init__(L, coupling(L, context_dim=0, num_transforms=num_transforms, hidden=tuple(hidden)))


class MaskedAutoregressive(_FlowPrior):
    """A masked autoregressive flow: densities in one pass, draws in L; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many autoregressive layers.
        hidden: widths of the networks' hidden layers.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Papamakarios, Pavlakou & Murray 2017.

    Example:
        >>> MaskedAutoregressive(2)().log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """

    def __init__(self, latent_dim: int, *, num_transforms: int = 2, hidden: Sequence[int] = (64,)) -> None:
        L = positive_integer(latent_dim, "latent_dim")
        super().__init__(L, autoregressive(L, context_dim=0, num_transforms=num_transforms, hidden=tuple(hidden)))


class NeuralSpline(_FlowPrior):
    """An autoregressive flow of monotone rational-quadratic splines; it starts as the standard normal.

    The splines act on (-5, 5) and are the identity beyond.

    Args:
        latent_dim: L.
        num_transforms: how many autoregressive layers.
        hidden: widths of the networks' hidden layers.

    Raises:
        TypeError: if a size is no whole number.
        ValueError: if a size is not positive.

    Source:
        Durkan et al. 2019.

    Example:
        >>> NeuralSpline(2)().log_prob(torch.zeros(2)).detach()
        tensor(-1.8379)
    """

    def __init__(self, latent_dim: int, *, num_transforms: int = 2, hidden: Sequence[int] = (64,)) -> None:
        L = positive_integer(latent_dim, "latent_dim")
        flow = autoregressive(L, context_dim=0, num_transforms=num_transforms, hidden=tuple(hidden), spline=True)
        super().__init__(L, flow)
