"""Likelihoods of positive data: exponential, gamma, log-normal."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.likelihoods.base import OfNetwork, bounded_exp, split_last
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.scales import to_scale

__all__ = ["Exponential", "Gamma", "LogNormal"]


class Exponential(OfNetwork):
    r"""Waiting times, :math:`p(x|z) = \prod_d e^{-x_d / m_d} / m_d` with mean :math:`m_d = e^{f_d(z)}`.

    Args:
        network: maps z ``(..., L)`` to log means ``(..., D)``.

    Example:
        >>> from torch import nn, zeros
        >>> Exponential(nn.Linear(2, 5))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.Exponential(bounded_exp(-self.network(z))).to_event(1)


class Gamma(OfNetwork):
    r"""Positive data with mean m and shape k, :math:`p(x_d|z) \propto x_d^{k_d - 1} e^{-k_d x_d / m_d}`.

    The standard deviation is :math:`m / \sqrt k`; k = 1 is the exponential.

    Args:
        network: maps z ``(..., L)`` to log mean and raw k side by side, ``(..., 2 D)``; k = softplus(raw) + 0.01, at
            most 10,000, beyond which single precision loses the normaliser.

    Raises:
        ValueError: if the network's last dimension is odd.

    Example:
        >>> from torch import nn, zeros
        >>> Gamma(nn.Linear(2, 10))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        log_mean, raw = split_last(self.network(z), 2, "log mean and shape")
        shape = to_scale(raw, floor=1e-2).clamp_max(1e4)
        return dist.Gamma(shape, shape * bounded_exp(-log_mean)).to_event(1)


class LogNormal(LocationScale):
    r"""Positive data whose logarithm is normal, :math:`\log x_d \sim N(\mu_d(z), \sigma_d^2)`.

    Args:
        network: maps z to mu, or to mu and raw sigma.
        scale: sigma, one of the three kinds that :class:`Gaussian` describes.
        data_dim: D; needed by ``scale="learned"`` only.
        min_scale: the floor under a learnt sigma, in units of log x.
        initial_scale: where ``scale="learned"`` starts, in units of log x.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, or a missing ``data_dim``.

    Example:
        >>> from torch import nn, zeros
        >>> LogNormal(nn.Linear(2, 10), scale=0.5)(zeros(7, 2)).event_shape
        torch.Size([10])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.LogNormal(*self._location_and_scale(z)).to_event(1)
