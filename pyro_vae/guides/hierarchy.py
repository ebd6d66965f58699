"""Guides of the two-level prior: bottom-up and top-down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.checks import positive_integer
from pyro_vae.guides.base import Guide, check_width
from pyro_vae.scales import to_scale

__all__ = ["BottomUp", "ChainDistribution", "TopDown"]


class ChainDistribution(dist.TorchDistribution):
    r"""The joint law of two vectors, :math:`q(a) q(b|a)`, as one vector.

    Args:
        first: q(a).
        second: gives q(b|a) for a.
        first_is_left: whether the vector is (a, b) or (b, a).

    Example:
        >>> a = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> chain = ChainDistribution(a, lambda a: dist.Normal(a[..., :1], 1.0).to_event(1))
        >>> chain.event_shape, chain.log_prob(torch.zeros(3))
        (torch.Size([3]), tensor(-2.7568))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        first: dist.TorchDistribution,
        second: Callable[[Tensor], dist.TorchDistribution],
        *,
        first_is_left: bool = True,
    ) -> None:
        self.first, self.second, self.first_is_left = first, second, first_is_left
        with torch.no_grad():
            probe = second(torch.zeros_like(first.mean))
        self.widths = (first.event_shape[0], probe.event_shape[0])
        super().__init__(first.batch_shape, torch.Size([sum(self.widths)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainDistribution:
        """Return the same law with a larger ``batch_shape``."""
        first = self.first.expand(torch.Size(batch_shape))
        return ChainDistribution(first, self.second, first_is_left=self.first_is_left)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw both with gradients."""
        a = self.first.rsample(torch.Size(sample_shape))
        b = self.second(a).rsample()
        return torch.cat([a, b] if self.first_is_left else [b, a], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(a) + log q(b|a), ``(...)``, in nats."""
        if self.first_is_left:
            a, b = value.split(self.widths, -1)
        else:
            b, a = value.split(self.widths[::-1], -1)
        return self.first.log_prob(a) + self.second(a).log_prob(b)


def _gaussian(out: Tensor, dim: int) -> dist.TorchDistribution:
    loc, raw = check_width(out, 2 * dim, "mu and raw sigma, side by side").chunk(2, -1)
    return dist.Normal(loc, to_scale(raw)).to_event(1)


class _TwoLevel(Guide):
    """A guide of the sites ``top`` and ``latent``."""

    def __init__(self, network: nn.Module, *, latent_dim: int, top_dim: int, top: str, latent: str, plate: str) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.top_dim = positive_integer(top_dim, "top_dim")
        self.top = top


class BottomUp(_TwoLevel):
    r"""The guide that follows the data upwards, :math:`q(z|x)\, q(w|z)`, both diagonal Gaussians.

    Its posterior is over (w, z) side by side, in the order of the model's sites.

    Args:
        network: maps x ``(N, *D)`` to mu and raw sigma of z, ``(N, 2 L)``.
        top_network: maps z ``(..., L)`` to mu and raw sigma of w, ``(..., 2 M)``.
        latent_dim: L.
        top_dim: M.
        top: name of the site of w, as in the prior.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if a network's last dimension is another.

    Source:
        Burda, Grosse & Salakhutdinov 2016, two stochastic layers.

    Example:
        >>> guide = BottomUp(nn.Linear(5, 4), nn.Linear(2, 2), latent_dim=2, top_dim=1)
        >>> guide(torch.zeros(7, 5)).event_shape
        torch.Size([3])
    """

    def __init__(
        self,
        network: nn.Module,
        top_network: nn.Module,
        *,
        latent_dim: int,
        top_dim: int,
        top: str = "z_top",
        latent: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__(network, latent_dim=latent_dim, top_dim=top_dim, top=top, latent=latent, plate=plate)
        self.top_network = top_network

    def posterior(self, x: Tensor) -> ChainDistribution:
        """Return q(w, z|x), ``batch_shape (N,)``, ``event_shape (M + L,)``."""
        z = _gaussian(self.network(x), self.latent_dim)
        return ChainDistribution(z, lambda z: _gaussian(self.top_network(z), self.top_dim), first_is_left=False)

    def draw(self, q: ChainDistribution) -> None:
        """Sample z, then w."""
        z = pyro.sample(self.latent, q.first)
        pyro.sample(self.top, q.second(z))


class TopDown(_TwoLevel):
    r"""The guide that follows the model downwards, :math:`q(w|x)\, q(z|w, x)`, both diagonal Gaussians.

    Its posterior is over (w, z) side by side, in the order of the model's sites.

    Args:
        network: maps x ``(N, *D)`` to mu and raw sigma of w, ``(N, 2 M)``.
        lower_network: maps w and x side by side ``(..., M + D)`` to mu and raw sigma of z, ``(..., 2 L)``.
        latent_dim: L.
        top_dim: M.
        top: name of the site of w, as in the prior.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if a network's last dimension is another.

    Source:
        Sonderby et al. 2016, equation 7.

    Example:
        >>> guide = TopDown(nn.Linear(5, 2), nn.Linear(6, 4), latent_dim=2, top_dim=1)
        >>> guide(torch.zeros(7, 5)).event_shape
        torch.Size([3])
    """

    def __init__(
        self,
        network: nn.Module,
        lower_network: nn.Module,
        *,
        latent_dim: int,
        top_dim: int,
        top: str = "z_top",
        latent: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__(network, latent_dim=latent_dim, top_dim=top_dim, top=top, latent=latent, plate=plate)
        self.lower_network = lower_network

    def posterior(self, x: Tensor) -> ChainDistribution:
        """Return q(w, z|x), ``batch_shape (N,)``, ``event_shape (M + L,)``."""

        def lower(w: Tensor) -> dist.TorchDistribution:
            both = torch.cat([w, x.expand(*w.shape[:-1], x.shape[-1])], -1)
            return _gaussian(self.lower_network(both), self.latent_dim)

        return ChainDistribution(_gaussian(self.network(x), self.top_dim), lower)

    def draw(self, q: ChainDistribution) -> None:
        """Sample w, then z."""
        w = pyro.sample(self.top, q.first)
        pyro.sample(self.latent, q.second(w))
