"""Families of Gaussians over u, as maps of standard normal noise, in coordinates where the start is zero."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["Family", "FullRank", "LowRank", "MeanField", "cholesky", "log_normal"]


class Family(ABC):
    """Gaussians q with parameters theta ``(N, p)``; theta = 0 is where the search begins.

    The steps of a search are then measured in the start's own standard deviations, so that it is well conditioned.
    To write a family, set ``num_params`` and ``noise_dim`` and define ``place`` and ``distribution``.

    Args:
        start: a Gaussian over u, ``batch_shape (N,)``, with ``covariance_matrix``.

    Attributes:
        noise_dim: numbers that one draw takes.
        num_params: p, how many numbers describe one Gaussian.
    """

    noise_dim: int
    num_params: int

    def __init__(self, start: Any) -> None:
        self.loc: Tensor = start.mean
        self.noise_dim = self.loc.shape[-1]

    @property
    def origin(self) -> Tensor:
        """The parameters of the start, ``(N, p)``."""
        return self.loc.new_zeros(len(self.loc), self.num_params)

    @abstractmethod
    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws u ``(K, N, L)`` of noise ``(K, 1, noise_dim)`` and log q at them ``(K, N)``."""

    @abstractmethod
    def distribution(self, theta: Tensor) -> Any:
        """Return q, ``batch_shape (N,)``, ``event_shape (L,)``."""


def log_normal(noise: Tensor) -> Tensor:
    """Return the log density of standard normal noise ``(..., dim)``, ``(...)``."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2 * math.pi))


class MeanField(Family):
    r"""Independent numbers, :math:`N(\mu, \mathrm{diag}\,\sigma^2)`; starts with the start's conditional variances.

    Those, the inverses of the precision's diagonal, are the optimum where the posterior is the start.
    """

    def __init__(self, start: Any) -> None:
        super().__init__(start)
        self.scale = torch.linalg.inv(start.covariance_matrix).diagonal(dim1=-2, dim2=-1).rsqrt()
        self.num_params = 2 * self.noise_dim

    def _read(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_stretch = theta.chunk(2, -1)
        return self.loc + self.scale * shift, self.scale * log_stretch.exp()

    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and log q."""
        loc, scale = self._read(theta)
        return loc + scale * noise, log_normal(noise) - scale.log().sum(-1)

    def distribution(self, theta: Tensor) -> Any:
        """Return q."""
        return dist.Normal(*self._read(theta), validate_args=False).to_event(1)


class FullRank(Family):
    r"""Any Gaussian, :math:`N(\mu, T T^\top)` with :math:`T = T_0 \Lambda`, T_0 the start's triangular factor."""

    def __init__(self, start: Any) -> None:
        super().__init__(start)
        self.tril = cholesky(start.covariance_matrix)
        L = self.noise_dim
        self.rows, self.columns = torch.tril_indices(L, L, -1, device=self.loc.device)
        self.num_params = 2 * L + len(self.rows)

    def _read(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        L = self.noise_dim
        shift, log_stretch, below = theta.split([L, L, len(self.rows)], -1)
        change = torch.diag_embed(log_stretch.exp())
        change = change.index_put(
            (torch.arange(len(theta), device=theta.device)[:, None], self.rows, self.columns), below
        )
        return self.loc + (self.tril @ shift.unsqueeze(-1)).squeeze(-1), self.tril @ change

    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and log q."""
        loc, tril = self._read(theta)
        u = loc + (tril @ noise.movedim(0, -1)).movedim(-1, 0)
        return u, log_normal(noise) - tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def distribution(self, theta: Tensor) -> Any:
        """Return q."""
        loc, tril = self._read(theta)
        return dist.MultivariateNormal(loc, scale_tril=tril, validate_args=False)


class LowRank(Family):
    r"""A diagonal and a few directions, :math:`N(\mu, \mathrm{diag}\,\sigma^2 + W W^\top)`.

    It starts with the start's largest directions, in units of the conditional standard deviations.

    Args:
        start: as of :class:`Family`.
        rank: r, columns of W.
    """

    def __init__(self, start: Any, rank: int) -> None:
        super().__init__(start)
        covariance = start.covariance_matrix
        L = self.noise_dim
        self.rank = r = min(rank, L)
        self.scale = torch.linalg.inv(covariance).diagonal(dim1=-2, dim2=-1).rsqrt()
        unit = covariance / (self.scale.unsqueeze(-1) * self.scale.unsqueeze(-2))
        values, vectors = torch.linalg.eigh(unit)
        self.factor = vectors[..., -r:] * (values[..., -r:] - 1).clamp_min(1e-2).sqrt().unsqueeze(-2)
        self.noise_dim = L + r
        self.num_params = 2 * L + L * r

    def _read(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        L = self.loc.shape[-1]
        shift, log_stretch, change = theta.split([L, L, L * self.rank], -1)
        factor = self.scale.unsqueeze(-1) * (self.factor + change.unflatten(-1, (L, self.rank)))
        return self.loc + self.scale * shift, factor, self.scale * log_stretch.exp()

    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and log q."""
        loc, factor, scale = self._read(theta)
        own, along = noise.split([loc.shape[-1], self.rank], -1)
        u = loc + scale * own + (factor @ along.movedim(0, -1)).movedim(-1, 0)
        return u, self._log_prob(u, loc, factor, scale)

    def _log_prob(self, u: Tensor, loc: Tensor, factor: Tensor, scale: Tensor) -> Tensor:
        """Log q by Woodbury's identity, NaN where rounding leaves no covariance: torch's own raises for all then."""
        x, W = (u - loc) / scale, factor / scale.unsqueeze(-1)
        tril, trouble = torch.linalg.cholesky_ex(torch.eye(self.rank).to(W) + W.mT @ W)
        along = torch.linalg.solve_triangular(tril, (W.mT @ x.unsqueeze(-1)), upper=False).squeeze(-1)
        log_det = scale.log().sum(-1) + tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        found = log_normal(x) + 0.5 * along.square().sum(-1) - log_det
        return torch.where(trouble == 0, found, torch.nan)

    def distribution(self, theta: Tensor) -> Any:
        """Return q."""
        loc, factor, scale = self._read(theta)
        return dist.LowRankMultivariateNormal(loc, factor, scale.square(), validate_args=False)


def cholesky(covariance: Tensor) -> Tensor:
    """Return the triangular factor of a covariance that rounding may have brought to the edge, ``(N, L, L)``."""
    ridge = 1e-10 if covariance.dtype == torch.float64 else 1e-5
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    return torch.linalg.cholesky(covariance + torch.diag_embed(ridge * diagonal))
