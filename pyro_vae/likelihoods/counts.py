"""Likelihoods of counts: Poisson and negative binomial, plain and with extra zeros."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.likelihoods.base import OfNetwork, bounded_exp, split_last
from pyro_vae.scales import to_scale

__all__ = ["NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial", "ZeroInflatedPoisson"]


class Poisson(OfNetwork):
    r"""Counts, :math:`x_d|z \sim \mathrm{Poisson}(\ell\, e^{f_d(z)})` with library size :math:`\ell`.

    Args:
        network: maps z ``(..., L)`` to log rates ``(..., D)``.

    Example:
        >>> from torch import nn, zeros
        >>> Poisson(nn.Linear(2, 5))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        return dist.Poisson(_rate(self.network(z), library)).to_event(1)


class ZeroInflatedPoisson(OfNetwork):
    r"""Poisson's law with extra zeros, :math:`p(x_d|z) = g_d 1[x_d = 0] + (1 - g_d) e^{-m_d} m_d^{x_d} / x_d!`.

    The mean of the Poisson part is :math:`m_d = \ell\, e^{f_d(z)}` with library size :math:`\ell`.

    Args:
        network: maps z ``(..., L)`` to log rates and the logit of g side by side, ``(..., 2 D)``.

    Raises:
        ValueError: if the network's last dimension is odd.

    Source:
        Lambert 1992.

    Example:
        >>> from torch import nn, zeros
        >>> ZeroInflatedPoisson(nn.Linear(2, 10))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_rate, gate = split_last(self.network(z), 2, "log rate and gate")
        return dist.ZeroInflatedPoisson(_rate(log_rate, library), gate_logits=gate).to_event(1)


class NegativeBinomial(OfNetwork):
    r"""Counts more spread than Poisson's, with mean :math:`m_d = \ell\, e^{f_d(z)}` and variance :math:`m + m^2 / r_d`.

    Args:
        network: maps z ``(..., L)`` to log mean and raw r side by side, ``(..., 2 D)``; r = softplus(raw) + 0.01,
            at most 1e4.

    Raises:
        ValueError: if the network's last dimension is odd.

    Example:
        >>> from torch import nn, zeros
        >>> NegativeBinomial(nn.Linear(2, 10))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_mean, raw = split_last(self.network(z), 2, "log mean and inverse dispersion")
        r = to_scale(raw, floor=_FLOOR).clamp_max(_CEILING)
        return dist.NegativeBinomial(r, logits=_logits(log_mean, library, r)).to_event(1)


class ZeroInflatedNegativeBinomial(OfNetwork):
    r"""A negative binomial with extra zeros, :math:`p(x_d|z) = g_d 1[x_d = 0] + (1 - g_d) \mathrm{NB}(x_d; m_d, r_d)`.

    Args:
        network: maps z ``(..., L)`` to log mean, raw r and the logit of g side by side, ``(..., 3 D)``;
            r = softplus(raw) + 0.01,
            at most 1e4.

    Raises:
        ValueError: if the network's last dimension is no multiple of 3.

    Source:
        Lopez et al. 2018 (scVI), with the library size given as a covariate: ``model(x, library)``.

    Example:
        >>> from torch import nn, ones, zeros
        >>> ZeroInflatedNegativeBinomial(nn.Linear(2, 15))(zeros(7, 2), ones(7)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor, library: Tensor | None = None) -> dist.TorchDistribution:
        """Return the distribution of x given z; ``library`` is ``(N,)``, one when not given."""
        log_mean, raw, gate = split_last(self.network(z), 3, "log mean, inverse dispersion and gate")
        r = to_scale(raw, floor=_FLOOR).clamp_max(_CEILING)
        logits = _logits(log_mean, library, r)
        return dist.ZeroInflatedNegativeBinomial(r, logits=logits, gate_logits=gate).to_event(1)


_FLOOR = 1e-2  # under a learnt inverse dispersion
_CEILING = 1e4  # over it: nearly Poisson, and beyond it differences of lgamma lose all digits of single precision


def _rate(log_rate: Tensor, library: Tensor | None) -> Tensor:
    rate = bounded_exp(log_rate)
    return rate if library is None else library.unsqueeze(-1) * rate


def _logits(log_mean: Tensor, library: Tensor | None, r: Tensor) -> Tensor:
    """log(m / r), kept off where single-precision probabilities round to 1: m stays below three million r."""
    log_size = 0.0 if library is None else library.log().unsqueeze(-1)
    return (log_mean + log_size - r.log()).clamp(-30.0, 15.0)
