"""A mixture of Gaussians as a guide, with reparameterised draws."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.checks import positive_integer
from pyro_vae.guides.base import Guide, check_width
from pyro_vae.scales import to_scale

__all__ = ["MixtureOfGaussians", "ReparameterisedMixture"]


class ReparameterisedMixture(dist.TorchDistribution):
    r"""A mixture of Gaussians whose draws carry gradients, :math:`q(z) = \sum_k \pi_k N(z; \mu_k, \sigma_k^2)`.

    A draw is taken from its component, and gets the gradient of the map that keeps the conditional distribution
    functions :math:`F_l(z_l | z_{<l})` fixed: :math:`dz_l = -dF_l / q(z_l | z_{<l})`, one dimension after the other.

    Args:
        logits: of the weights, ``(..., K)``.
        loc: mu ``(..., K, L)``.
        scale: sigma ``(..., K, L)``.

    Source:
        Figurnov, Mohamed & Mnih 2018, section 4.

    Example:
        >>> q = ReparameterisedMixture(torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2))
        >>> q.log_prob(torch.zeros(2)), q.rsample().shape
        (tensor(-1.8379), torch.Size([2]))
    """

    arg_constraints = {  # noqa: RUF012  torch's own convention
        "logits": constraints.real_vector,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        super().__init__(loc.shape[:-2], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ReparameterisedMixture:
        """Return the same mixture with a larger ``batch_shape``."""
        batch = torch.Size(batch_shape)
        K, L = self.loc.shape[-2:]
        logits, loc, scale = (
            self.logits.expand(*batch, K),
            self.loc.expand(*batch, K, L),
            self.scale.expand(*batch, K, L),
        )
        return ReparameterisedMixture(logits, loc, scale, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z), ``(...)``, in nats."""
        return torch.logsumexp(self.logits + self._components(value).sum(-1), -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw z with gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            which = torch.distributions.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            pick = which[..., None, None].expand(*which.shape, 1, shape[-1])
            loc, scale = (
                t.expand(*which.shape, *t.shape[-2:]).gather(-2, pick).squeeze(-2) for t in (self.loc, self.scale)
            )
            z = loc + scale * torch.randn_like(loc)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (self.logits, self.loc, self.scale))):
            return z
        columns: list[Tensor] = []
        log_weight = self.logits.expand(*which.shape, -1)  # of the components, given the dimensions so far
        for dim in range(shape[-1]):
            value, loc, scale = z[..., dim, None], self.loc[..., dim], self.scale[..., dim]
            weight = log_weight.softmax(-1)
            density = (weight * (_log_normal(value, loc, scale)).exp()).sum(-1).detach()
            cdf = (weight * torch.special.ndtr((value - loc) / scale)).sum(-1)
            column = z[..., dim] - (cdf - cdf.detach()) / density
            columns.append(column)
            log_weight = log_weight + _log_normal(column.unsqueeze(-1), loc, scale)
        return torch.stack(columns, -1)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(..., L)``."""
        return (self.logits.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance, ``(..., L)``."""
        spread = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.logits.exp().unsqueeze(-1) * spread).sum(-2)

    def _components(self, value: Tensor) -> Tensor:
        return _log_normal(value.unsqueeze(-2), self.loc, self.scale)


def _log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((value - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


class MixtureOfGaussians(Guide):
    r"""The amortised mixture, :math:`q(z|x) = \sum_k \pi_k(x) N(z; \mu_k(x), \mathrm{diag}\,\sigma_k(x)^2)`.

    Fixed first offsets of the means, ``spread`` wide, set the components apart from the start: equal components
    would get equal gradients for ever.

    Args:
        network: maps x ``(N, *D)`` to K logits, the means and the raw sigmas, ``(N, K + 2 K L)``;
            sigma = softplus(raw) + 1e-6.
        latent_dim: L.
        num_components: K.
        spread: standard deviation of the first offsets.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is another.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> guide = MixtureOfGaussians(mlp(64, 128, 15), latent_dim=2, num_components=3)
        >>> guide.posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    offset: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        latent_dim: int,
        num_components: int = 3,
        spread: float = 0.5,
        latent: str = "z",
        plate: str = "data",
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.num_components = positive_integer(num_components, "num_components")
        self.register_buffer("offset", spread * torch.randn(self.num_components, self.latent_dim))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        K, L = self.num_components, self.latent_dim
        out = check_width(self.network(x), K + 2 * K * L, "logits, means and raw sigmas (K + 2 K L)")
        logits, loc, raw = out.split([K, K * L, K * L], -1)
        loc = loc.unflatten(-1, (K, L)) + self.offset
        return ReparameterisedMixture(logits, loc, to_scale(raw.unflatten(-1, (K, L))))
