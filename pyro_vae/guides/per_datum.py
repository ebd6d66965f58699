"""Guides with parameters of their own for every datum: nothing is amortised."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say
from pyro_vae.guides.base import Guide
from pyro_vae.guides.cholesky_gaussian import CholeskyGaussian
from pyro_vae.guides.gaussian import triangle
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["PerDatumDiagonalGaussian", "PerDatumFullCovarianceGaussian"]


class _PerDatum(Guide):
    """A location and raw scales of its own for every datum."""

    _full = False  # whether the raw scales are those of a triangular factor

    def __init__(self, num_data: int, *, latent_dim: int, latent: str = "z", plate: str = "data") -> None:
        super().__init__(latent=latent, plate=plate)
        self.num_data = positive_integer(num_data, "num_data")
        self.latent_dim = L = positive_integer(latent_dim, "latent_dim")
        self.loc = nn.Parameter(torch.zeros(self.num_data, L))
        raw = torch.zeros(self.num_data, L + L * (L - 1) // 2 if self._full else L)
        raw[:, :L] = raw_scale(1.0, floor=0.0)  # starts as N(0, I)
        self.raw_scale = nn.Parameter(raw)

    def _check(self, x: Tensor) -> None:
        """Refuse data of another number than the guide has parameters for."""
        if len(x) != self.num_data:
            raise ValueError(
                say(
                    f"the {self.num_data} data that the guide was made for, in their order",
                    f"{len(x)}",
                    "fit(..., batch_size=len(x), validation=None), or an amortised guide",
                )
            )


class PerDatumDiagonalGaussian(_PerDatum):
    r"""Mean field without amortisation, :math:`q(z_n) = N(z_n; \mu_n, \mathrm{diag}\,\sigma_n^2)`.

    It fits the data it was made for, whole and in their order: no mini-batches. It starts as N(0, I).

    Args:
        num_data: N.
        latent_dim: L.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if a size is not positive, or another number of data comes.

    Example:
        >>> PerDatumDiagonalGaussian(7, latent_dim=2).posterior(torch.zeros(7, 5)).event_shape
        torch.Size([2])
    """

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z), ``batch_shape (N,)``, ``event_shape (L,)``."""
        self._check(x)
        return dist.Normal(self.loc, to_scale(self.raw_scale)).to_event(1)


class PerDatumFullCovarianceGaussian(_PerDatum):
    r"""A full-covariance Gaussian of its own for every datum, :math:`q(z_n) = N(z_n; \mu_n, T_n T_n^\top)`.

    It fits the data it was made for, whole and in their order: no mini-batches. It starts as N(0, I).

    Args:
        num_data: N.
        latent_dim: L.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if a size is not positive, or another number of data comes.

    Example:
        >>> PerDatumFullCovarianceGaussian(7, latent_dim=2).posterior(torch.zeros(7, 5)).event_shape
        torch.Size([2])
    """

    _full = True

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z), ``batch_shape (N,)``, ``event_shape (L,)``."""
        self._check(x)
        return CholeskyGaussian(self.loc, scale_tril=triangle(self.raw_scale, self.latent_dim))
