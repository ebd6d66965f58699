"""The Gaussian whose covariance is the inverse Hessian that L-BFGS has learnt."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["FactoredNormal"]


class FactoredNormal(dist.TorchDistribution):
    r"""The Gaussian :math:`N(\mu, A^{1/2} (I + Q (C C^\top - I) Q^\top) A^{1/2})`, A diagonal, Q with few columns.

    Drawing and densities cost L r numbers a draw; no L x L matrix is formed.

    Args:
        loc: mu, ``(*B, L)``.
        scale: the square root of A's diagonal, ``(*B, L)``.
        directions: Q, orthonormal columns, ``(*B, L, r)``.
        factor: C, lower triangular, ``(*B, r, r)``.

    Source:
        Zhang, Carpenter, Gelman & Vehtari 2022, algorithm 4.

    Example:
        >>> q = FactoredNormal(torch.zeros(3, 2), torch.ones(3, 2), torch.eye(2)[:, :1], 2 * torch.eye(1))
        >>> q.variance[0]
        tensor([4., 1.])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, directions: Tensor, factor: Tensor) -> None:
        self.loc, self.scale, self.directions, self.factor = loc, scale, directions, factor
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @classmethod
    def of_steps(
        cls, u: Tensor, grad: Tensor, steps: Tensor, drops: Tensor, diagonal: Tensor
    ) -> tuple[FactoredNormal, Tensor]:
        r"""Return :math:`N(u + H \nabla, H)`, and where H is a covariance, ``(*B)``; the unit Gaussian elsewhere.

        In compact form :math:`H = A + \beta \gamma \beta^\top` with :math:`\beta = (A Y, S)`,
        :math:`\gamma = \begin{pmatrix} 0 & -R^{-1} \\ -R^{-\top} & R^{-\top} (D + Y^\top A Y) R^{-1} \end{pmatrix}`,
        R the upper triangle of S'Y and D its diagonal.

        Args:
            u: where L-BFGS stands, ``(*B, L)``.
            grad: the gradient of log p there, ``(*B, L)``.
            steps: s, ``(m, *B, L)``, as :class:`~pyro_vae.inference.optimum.quasi_newton.History` keeps them.
            drops: y, ``(m, *B, L)``.
            diagonal: A's diagonal, ``(*B, L)``.

        Source:
            Byrd, Nocedal & Schnabel 1994, theorem 2.2; Pathfinder's equation 3.
        """
        S, Y = steps.movedim(0, -1), drops.movedim(0, -1)  # (*B, L, m)
        scale = diagonal.sqrt()
        taken = (S != 0).any(-2)
        R = (S.mT @ Y).triu() + torch.diag_embed((~taken).to(S))
        inverse = torch.linalg.solve_triangular(R, torch.eye(R.shape[-1]).to(R).expand_as(R), upper=True)
        scaled = scale.unsqueeze(-1) * Y  # A^(1/2) Y
        middle = torch.diag_embed(R.diagonal(dim1=-2, dim2=-1)) + scaled.mT @ scaled
        upper = torch.cat([torch.zeros_like(R), -inverse], -1)
        lower = torch.cat([-inverse.mT, inverse.mT @ middle @ inverse], -1)
        gamma = torch.cat([upper, lower], -2)
        directions, triangle = torch.linalg.qr(torch.cat([scaled, S / scale.unsqueeze(-1)], -1))
        inner = triangle @ gamma @ triangle.mT
        unit = torch.eye(inner.shape[-1]).to(inner)
        factor, trouble = torch.linalg.cholesky_ex(unit + (inner + inner.mT) / 2)
        good = (trouble == 0) & factor.isfinite().all(-1).all(-1) & directions.isfinite().all(-1).all(-1)
        keep = good[..., None, None]
        zero = torch.zeros_like(directions)
        zero[..., : unit.shape[-1], :] = unit
        q = cls(u, scale, torch.where(keep, directions, zero), torch.where(keep, factor, unit))
        q.loc = u + q.covariance_times(grad)
        return q, good & q.loc.isfinite().all(-1)

    def covariance_times(self, vector: Tensor) -> Tensor:
        """Return the covariance times a vector ``(*B, L)``."""
        x = self.scale * vector
        inside = self._project(x)
        change = self._times(self.factor, self._times(self.factor.mT, inside)) - inside
        return self.scale * (x + self._times(self.directions, change))

    def _project(self, x: Tensor) -> Tensor:
        return self._times(self.directions.mT, x)

    @staticmethod
    def _times(matrix: Tensor, vector: Tensor) -> Tensor:
        return (matrix @ vector.unsqueeze(-1)).squeeze(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactoredNormal:
        """Return the same Gaussian with a larger ``batch_shape``."""
        B, L, r = torch.Size(batch_shape), self.loc.shape[-1], self.factor.shape[-1]
        parts = (self.loc.expand(*B, L), self.scale.expand(*B, L))
        return FactoredNormal(*parts, self.directions.expand(*B, L, r), self.factor.expand(*B, r, r))

    def member(self, i: int) -> FactoredNormal:
        """Return the i-th of the first batch dimension."""
        return FactoredNormal(self.loc[i], self.scale[i], self.directions[i], self.factor[i])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw with gradients."""
        return self.place(torch.randn(torch.Size(sample_shape) + self.loc.shape).to(self.loc))

    def place(self, noise: Tensor) -> Tensor:
        """Return the draws of standard normal noise ``(..., *B, L)``."""
        inside = self._project(noise)
        change = self._times(self.factor, inside) - inside
        return self.loc + self.scale * (noise + self._times(self.directions, change))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, ``(..., *B)``, nats."""
        x = (value - self.loc) / self.scale
        inside = self._project(x)
        solved = torch.linalg.solve_triangular(self.factor, inside.unsqueeze(-1), upper=False).squeeze(-1)
        square = x.square().sum(-1) - inside.square().sum(-1) + solved.square().sum(-1)
        return -0.5 * (square + x.shape[-1] * math.log(2 * math.pi)) - self.log_det

    @property
    def log_det(self) -> Tensor:
        """Half the log determinant of the covariance, ``(*B)``."""
        return self.scale.log().sum(-1) + self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, L)``."""
        return self.loc.expand(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        """The variances, ``(*B, L)``."""
        Q = self.directions
        inner = (Q @ self.factor).square().sum(-1) - Q.square().sum(-1)
        return (self.scale.square() * (1 + inner)).expand(*self.batch_shape, -1)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, ``(*B, L, L)``."""
        Q, scale = self.directions, self.scale.unsqueeze(-1)
        inner = (Q @ self.factor) @ (Q @ self.factor).mT - Q @ Q.mT
        return scale * (torch.eye(Q.shape[-2]).to(Q) + inner) * scale.mT

    @property
    def precision_diagonal(self) -> Tensor:
        """The diagonal of the inverse covariance, ``(*B, L)``."""
        Q = self.directions
        solved = torch.linalg.solve_triangular(self.factor, Q.mT, upper=False)
        return (1 + solved.square().sum(-2) - Q.square().sum(-1)) / self.scale.square()
