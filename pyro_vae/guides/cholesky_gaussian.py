"""A Gaussian by its Cholesky factor, whose density at its own draws is that of their noise."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.utils import _standard_normal

__all__ = ["CholeskyGaussian"]


class CholeskyGaussian(dist.MultivariateNormal):
    r"""The Gaussian :math:`z = \mu + T \epsilon`, :math:`\epsilon \sim N(0, I)`, with T lower triangular.

    Where z is the latest draw itself, :math:`\log q(z) = \log N(\epsilon; 0, I) - \sum_i \log T_{ii}` of the noise that
    made it. Solving for the noise gives the same in exact arithmetic; in single precision, where an early T may have a
    condition of 1e20, it gives any number, and an ELBO without a bound. At other points it is solved for.

    Args:
        loc: mu ``(..., L)``.
        scale_tril: T ``(..., L, L)``.

    Example:
        >>> q = CholeskyGaussian(torch.zeros(2), scale_tril=torch.tensor([[1.0, 0.0], [3.0, 0.5]]))
        >>> z = q.sample()
        >>> bool(torch.isclose(q.log_prob(z), q.log_prob(z.clone())))
        True
    """

    _latest: tuple[Tensor, int, Tensor] | None = None  # a draw, its version, and its noise

    def __init__(self, loc: Tensor, *, scale_tril: Tensor) -> None:
        super().__init__(loc, scale_tril=scale_tril)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CholeskyGaussian:
        """Return the same law with a larger ``batch_shape``."""
        batch = torch.Size(batch_shape)
        tril = self._unbroadcasted_scale_tril.expand(*batch, *self.event_shape, *self.event_shape)
        return CholeskyGaussian(self.loc.expand(*batch, *self.event_shape), scale_tril=tril)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw, with gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _standard_normal(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self._latest = value, _version(value), noise
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q, nats."""
        if self._latest is None or value is not self._latest[0] or _version(value) != self._latest[1]:
            found: Tensor = super().log_prob(value)
            return found
        constant = 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        log_det = self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * self._latest[2].square().sum(-1) - constant - log_det


def _version(value: Tensor) -> int:
    """How often a tensor was written to in place; a draw that was is a draw no longer."""
    return 0 if value.is_inference() else value._version
