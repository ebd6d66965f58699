"""Likelihoods of positive data of which a share is exactly 0: expenses, rainfall, hours."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_vae.likelihoods.base import OfNetwork, bounded_exp, split_last
from pyro_vae.likelihoods.location_scale import LocationScale
from pyro_vae.scales import to_scale

__all__ = ["Hurdle", "HurdleGamma", "HurdleLogNormal"]


_NONNEGATIVE = type(constraints.nonnegative)(0.0)
setattr(_NONNEGATIVE, "atom", 0.0)  # noqa: B010  the value of this support that has a probability


class Hurdle(dist.TorchDistribution):
    r"""A probability at 0 and a density above it, :math:`p(0) = g`, :math:`p(x) = (1 - g) f(x)` for x > 0.

    Its log density is that of the counting measure at 0 and of Lebesgue's elsewhere: :math:`g + \int p(x) dx = 1`.

    Args:
        positive: f, a distribution of positive numbers.
        gate_logits: logit of g.

    Source:
        Cragg 1971.

    Example:
        >>> p = Hurdle(dist.LogNormal(torch.tensor(0.0), 1.0), gate_logits=torch.tensor(0.0))
        >>> p.log_prob(torch.tensor([0.0, 1.0]))
        tensor([-0.6931, -1.6121])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = _NONNEGATIVE

    def __init__(self, positive: dist.TorchDistribution, gate_logits: Tensor) -> None:
        batch = torch.broadcast_shapes(positive.batch_shape, gate_logits.shape)
        self.positive = positive.expand(batch)
        self.gate_logits = gate_logits.expand(batch)
        super().__init__(batch, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Hurdle:
        """Return the same law with a larger ``batch_shape``."""
        batch = torch.Size(batch_shape)
        return Hurdle(self.positive.expand(batch), self.gate_logits.expand(batch))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p, nats: of a probability at 0, of a density above."""
        zero = value == 0
        above = logsigmoid(-self.gate_logits) + self.positive.log_prob(torch.where(zero, 1.0, value))
        return torch.where(zero, logsigmoid(self.gate_logits), above)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw."""
        values = self.positive.sample(torch.Size(sample_shape))
        zero = torch.rand_like(values) < torch.sigmoid(self.gate_logits)
        return torch.where(zero, 0.0, values.clamp_min(torch.finfo(values.dtype).tiny))

    @property
    def mean(self) -> Tensor:
        """(1 - g) times that of f."""
        return torch.sigmoid(-self.gate_logits) * self.positive.mean

    @property
    def variance(self) -> Tensor:
        """(1 - g) times f's second moment, less the mean's square."""
        share = torch.sigmoid(-self.gate_logits)
        return share * (self.positive.variance + (1 - share) * self.positive.mean.square())


class HurdleGamma(OfNetwork):
    r"""Gamma's law with a probability at 0, :math:`p(0) = g_d`, :math:`(1 - g_d)\, \mathrm{Ga}(x_d; m_d, k_d)` above.

    Args:
        network: maps z ``(..., L)`` to log mean m, raw shape k (as of :class:`Gamma`) and the logit of g side by side,
            ``(..., 3 D)``.

    Raises:
        ValueError: if the network's last dimension is no multiple of 3.

    Example:
        >>> from torch import nn, zeros
        >>> HurdleGamma(nn.Linear(2, 15))(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        log_mean, raw, gate = split_last(self.network(z), 3, "log mean, shape and gate")
        shape = to_scale(raw, floor=1e-2).clamp_max(1e4)
        return Hurdle(dist.Gamma(shape, shape * bounded_exp(-log_mean)), gate).to_event(1)


class HurdleLogNormal(LocationScale):
    r"""The log-normal law with a probability at 0, :math:`p(0) = g_d`, else :math:`\log x_d \sim N(\mu_d, \sigma_d^2)`.

    Args:
        network: maps z ``(..., L)`` to mu and the logit of g, or to mu, raw sigma and the logit, side by side:
            ``(..., 2 D)`` or ``(..., 3 D)``.
        scale: sigma, one of the three kinds that :class:`Gaussian` describes.
        data_dim: D; needed by ``scale="learned"`` only.
        min_scale: the floor under a learnt sigma, in units of log x.
        initial_scale: where ``scale="learned"`` starts, in units of log x.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, a missing ``data_dim``, or a network whose last
            dimension is no multiple of what it holds.

    Example:
        >>> from torch import nn, zeros
        >>> HurdleLogNormal(nn.Linear(2, 10), scale=0.5)(zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        meaning = ["log location", *(["raw scale"] if self.scale_from == "network" else []), "gate"]
        *own, gate = split_last(self.network(z), len(meaning), " and ".join(meaning))
        return Hurdle(dist.LogNormal(*self._split(torch.cat(own, -1))), gate).to_event(1)
