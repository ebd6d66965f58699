"""What is done to data before the learned layers, with its Jacobian counted: levels, logits, standardised columns."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.checks import say
from pyro_vae.systems.densities.layers import Layer

__all__ = ["LevelsToUnit", "Logit", "Standardised"]


class LevelsToUnit(Layer):
    r"""From dequantised levels in [0, K] to the unit interval, :math:`y / K` with log-determinant :math:`-D \log K`.

    Example:
        >>> LevelsToUnit(4)(torch.tensor([[1.0, 3.0]]))
        (tensor([[0.2500, 0.7500]]), tensor([-2.7726]))
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Divide by K."""
        return x / self.num_levels, x.new_full((len(x),), -x.shape[-1] * math.log(self.num_levels))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by K."""
        return y * self.num_levels, y.new_full((len(y),), y.shape[-1] * math.log(self.num_levels))


class Logit(Layer):
    r"""The logits of a number kept off the ends, :math:`y = \mathrm{logit}(p),\; p = \alpha + (1 - 2 \alpha) x`.

    Its log-determinant is :math:`\sum_d \log(1 - 2 \alpha) - \log p_d - \log(1 - p_d)`.

    Source: Dinh, Sohl-Dickstein & Bengio 2017, section 4.1.

    Example:
        >>> Logit(0.05)(torch.tensor([[0.5]]))
        (tensor([[0.]]), tensor([1.2809]))
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of x in [0, 1]."""
        y = torch.logit(self.alpha + (1 - 2 * self.alpha) * x)
        return y, self._log_det(y)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x; outside [0, 1] where the logit of y is nearer the ends than alpha."""
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha), -self._log_det(y)

    def _log_det(self, y: Tensor) -> Tensor:
        return (math.log1p(-2 * self.alpha) - logsigmoid(y) - logsigmoid(-y)).sum(-1)


class Standardised(Layer):
    r"""A fixed affine map, :math:`y = W (x - m)` with log-determinant :math:`\log|\det W|`; W is lower triangular.

    It is the identity until it is fitted: to columns of mean 0 and variance 1 (W diagonal), or, whitened, to identity
    covariance too (:math:`W = T^{-1}`, T the Cholesky factor of Ledoit and Wolf's covariance).
    """

    loc: Tensor
    factor: Tensor

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(data_dim))
        self.register_buffer("factor", torch.eye(data_dim))  # T, the inverse of W

    @torch.no_grad()
    def fit(self, x: Tensor, *, whiten: bool) -> None:
        """Take mean and scale, or covariance, from data ``(N, D)``.

        Raises:
            ValueError: if a column does not vary: its density has no bound.
        """
        spread = x.std(0, correction=0)
        still = (spread <= 1e-6 * x.abs().amax(0)).nonzero().flatten()  # a column's own rounding
        if len(still):
            got = f"one value throughout in column {int(still[0])} ({len(still)} such columns)"
            raise ValueError(
                say("columns that vary, for a density", got, "leaving it out, or num_levels= for whole numbers")
            )
        self.loc.copy_(x.mean(0))
        self.factor.copy_(torch.diag(spread))
        if whiten:
            from sklearn.covariance import LedoitWolf

            rows = ((x - self.loc) / spread).double().cpu().numpy()
            covariance = torch.as_tensor(LedoitWolf(assume_centered=True).fit(rows).covariance_)
            self.factor.copy_(spread[:, None] * torch.linalg.cholesky(covariance).to(self.factor))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the standardised x."""
        y = torch.linalg.solve_triangular(self.factor, (x - self.loc).mT, upper=False).mT
        return y, -self._log_det().expand(len(x))

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return x in its own units."""
        return self.loc + y @ self.factor.mT, self._log_det().expand(len(y))

    def _log_det(self) -> Tensor:
        return self.factor.diagonal().log().sum()
