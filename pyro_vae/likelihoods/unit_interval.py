"""Likelihoods of binary data and of data in the unit interval: Bernoulli, continuous Bernoulli, Beta."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import SigmoidTransform, biject_to, constraints
from torch.nn.functional import softplus

from pyro_vae.checks import positive_integer, positive_number
from pyro_vae.likelihoods.base import Likelihood, split_last
from pyro_vae.scales import to_scale

__all__ = ["Bernoulli", "Beta", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    r"""Independent binary data, :math:`p(x|z) = \prod_d \pi_d(z)^{x_d} (1 - \pi_d(z))^{1 - x_d}`.

    Args:
        network: maps z ``(..., L)`` to logits ``(..., *D)``.
        event_dim: how many trailing dimensions one datum has.

    Example:
        >>> Bernoulli(nn.Linear(2, 64))(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    def __init__(self, network: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__()
        self.network = network
        self.event_dim = positive_integer(event_dim, "event_dim")

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.Bernoulli(logits=self.network(z)).to_event(self.event_dim)


class _ContinuousBernoulli(dist.ContinuousBernoulli):
    """torch's distribution with its normaliser taken from the logit, exact where probabilities round to 0 or 1."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> dist.TorchDistribution:
        return _ContinuousBernoulli(logits=self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        half = logits / 2
        small = half.abs() < 0.02
        safe = torch.where(small, torch.ones_like(half), half)
        series = half * half / 3 - half**4 * 7 / 90  # log(y / tanh y) = y^2/3 - 7 y^4/90 + O(y^6)
        log_ratio = torch.where(small, series, (safe / torch.tanh(safe)).log())
        return value * logits - softplus(logits) + math.log(2) + log_ratio


class ContinuousBernoulli(Likelihood):
    r"""Intensities in [0, 1], :math:`p(x|z) = \prod_d C(\lambda_d) \lambda_d^{x_d} (1 - \lambda_d)^{1 - x_d}`.

    Unlike a Bernoulli fed with intensities it is a density: the normaliser is
    :math:`C(\lambda) = \eta / \tanh(\eta / 2)` with :math:`\eta = \mathrm{logit}\,\lambda`.

    Args:
        network: maps z ``(..., L)`` to logits of lambda ``(..., *D)``.
        event_dim: how many trailing dimensions one datum has.

    Source:
        Loaiza-Ganem & Cunningham 2019.

    Example:
        >>> ContinuousBernoulli(nn.Linear(2, 64))(torch.zeros(7, 2)).batch_shape
        torch.Size([7])
    """

    def __init__(self, network: nn.Module, *, event_dim: int = 1) -> None:
        super().__init__()
        self.network = network
        self.event_dim = positive_integer(event_dim, "event_dim")

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return _ContinuousBernoulli(logits=self.network(z)).to_event(self.event_dim)


class _Open(constraints.Constraint):
    """The open unit interval."""

    lower_bound, upper_bound = 0.0, 1.0

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)

    def __str__(self) -> str:
        return "the open interval (0, 1)"


biject_to.register(_Open, lambda _: SigmoidTransform())


class _OpenBeta(dist.Beta):
    """torch's Beta, whose density is zero or infinite at 0 and 1, on the open interval."""

    support = _Open()  # type: ignore[assignment]

    def expand(self, batch_shape: Any, _instance: Any = None) -> dist.TorchDistribution:
        shape = torch.Size(batch_shape)
        a, b = self.concentration1.expand(shape), self.concentration0.expand(shape)
        return _OpenBeta(a, b, validate_args=False)


class Beta(Likelihood):
    r"""Proportions in (0, 1), :math:`x_d|z \sim \mathrm{Beta}(\mu_d \kappa_d, (1 - \mu_d) \kappa_d)`.

    mu = sigmoid(first half of the output), kappa = softplus(second half) + ``min_concentration``; mu is kept off 0
    and 1 by 1e-4. Data of exactly 0 or 1 are outside the support.

    Args:
        network: maps z ``(..., L)`` to raw mu and raw kappa side by side, ``(..., 2 D)``.
        min_concentration: the floor under kappa.

    Raises:
        ValueError: if the network's last dimension is odd, or ``min_concentration`` negative.

    Example:
        >>> Beta(nn.Linear(2, 10))(torch.zeros(7, 2)).event_shape
        torch.Size([5])
    """

    def __init__(self, network: nn.Module, *, min_concentration: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.min_concentration = positive_number(min_concentration, "min_concentration", zero=True)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        raw_mean, raw = split_last(self.network(z), 2, "mean and concentration")
        mean = 1e-4 + (1 - 2e-4) * torch.sigmoid(raw_mean)
        concentration = to_scale(raw, floor=self.min_concentration)
        return _OpenBeta(mean * concentration, (1 - mean) * concentration).to_event(1)
