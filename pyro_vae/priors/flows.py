"""Flow priors: a learned, invertible map of the standard normal."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform, ComposeTransform

from pyro_vae.checks import positive_integer
from pyro_vae.flows.networks import FlowDistribution, FlowNetwork, autoregressive, coupling
from pyro_vae.priors.base import Prior

__all__ = ["NICE", "MaskedAutoregressive", "NeuralSpline", "RealNVP"]


class _FlowPrior(Prior):
    """The law of z = g(u), u standard normal. A subclass says what g's inverse is made of, in ``_layers``."""

    loc: Tensor

    def __init__(self, latent_dim: int, *, num_transforms: int | None = None, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        # from z to u: the direction in which a density is evaluated
        self.normalise = self._layers(num_transforms, hidden)
        self.register_buffer("loc", torch.zeros(self.latent_dim), persistent=False)

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> FlowNetwork:
        raise NotImplementedError(f"{type(self).__name__} must define _layers(self, num_transforms, hidden)")

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        base = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return FlowDistribution(self.normalise(None).inv, base)


class NICE(_FlowPrior):
    """A flow of additive couplings and one learned scale a dimension; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many coupling layers; 4 if None.
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

    def __init__(self, latent_dim: int, *, num_transforms: int | None = None, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, num_transforms=num_transforms, hidden=hidden)
        self.log_scale = nn.Parameter(torch.zeros(self.latent_dim))

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> FlowNetwork:
        count = 4 if num_transforms is None else num_transforms
        return coupling(self.latent_dim, context_dim=0, num_transforms=count, hidden=hidden, additive=True)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        flow = super().forward()
        scale = AffineTransform(0.0, self.log_scale.exp(), event_dim=1)
        return FlowDistribution(ComposeTransform([scale, flow.transform]), flow.base)


class RealNVP(_FlowPrior):
    """A flow of affine couplings; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many coupling layers; 4 if None.
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

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> FlowNetwork:
        count = 4 if num_transforms is None else num_transforms
        return coupling(self.latent_dim, context_dim=0, num_transforms=count, hidden=hidden)


class MaskedAutoregressive(_FlowPrior):
    """A masked autoregressive flow: densities in one pass, draws in L; it starts as the standard normal.

    Args:
        latent_dim: L.
        num_transforms: how many autoregressive layers; 2 if None.
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

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> FlowNetwork:
        count = 2 if num_transforms is None else num_transforms
        return autoregressive(self.latent_dim, context_dim=0, num_transforms=count, hidden=hidden)


class NeuralSpline(_FlowPrior):
    """An autoregressive flow of monotone rational-quadratic splines; it starts as the standard normal.

    The splines act on (-5, 5) and are the identity beyond.

    Args:
        latent_dim: L.
        num_transforms: how many autoregressive layers; 2 if None.
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

    def _layers(self, num_transforms: int | None, hidden: Sequence[int]) -> FlowNetwork:
        count = 2 if num_transforms is None else num_transforms
        return autoregressive(self.latent_dim, context_dim=0, num_transforms=count, hidden=hidden, spline=True)
