"""Gaussian guides: diagonal, full and low-rank covariance; and the point mass."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say
from pyro_vae.guides.base import Guide, check_width, last_width
from pyro_vae.guides.cholesky_gaussian import CholeskyGaussian
from pyro_vae.scales import to_scale

__all__ = ["DiagonalGaussian", "FullCovarianceGaussian", "LowRankGaussian", "PointMass", "triangle"]


class DiagonalGaussian(Guide):
    r"""The amortised mean-field Gaussian, :math:`q(z|x) = N(z; \mu(x), \mathrm{diag}\,\sigma(x)^2)`.

    Source: Kingma & Welling 2014, equation 9.

    Args:
        network: maps x ``(N, *D)`` to mu and a raw sigma side by side, ``(N, 2 L)``; sigma = softplus(raw) + 1e-6.
        latent_dim: L; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is not 2 L.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> DiagonalGaussian(mlp(64, 128, 4)).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(
        self, network: nn.Module, *, latent_dim: int | None = None, latent: str = "z", plate: str = "data"
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        if latent_dim is None:
            width = last_width(network, "latent_dim")
            if width % 2:
                raise ValueError(
                    say("a network whose last layer holds mu and sigma (2 L)", f"{width}", "an even last layer")
                )
            latent_dim = width // 2
        self.latent_dim = positive_integer(latent_dim, "latent_dim")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        out = check_width(self.network(x), 2 * self.latent_dim, "mu and sigma (2 L)")
        loc, raw = out.chunk(2, -1)
        return dist.Normal(loc, to_scale(raw)).to_event(1)


class FullCovarianceGaussian(Guide):
    r"""The amortised Gaussian with full covariance, :math:`q(z|x) = N(z; \mu(x), T(x) T(x)^\top)`.

    T is lower triangular with a positive diagonal, softplus(raw) + 1e-6.

    Args:
        network: maps x ``(N, *D)`` to mu, the raw diagonal of T and its strict lower triangle row by row,
            ``(N, 2 L + L (L - 1) / 2)``.
        latent_dim: L.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is another.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> guide = FullCovarianceGaussian(mlp(64, 128, 5), latent_dim=2)
        >>> guide.posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(self, network: nn.Module, *, latent_dim: int, latent: str = "z", plate: str = "data") -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        L = self.latent_dim
        out = check_width(self.network(x), 2 * L + L * (L - 1) // 2, "mu, diagonal and triangle (2 L + L (L - 1) / 2)")
        loc, rest = out.split([L, out.shape[-1] - L], -1)
        return CholeskyGaussian(loc, scale_tril=triangle(rest, L))


class LowRankGaussian(Guide):
    r"""The amortised Gaussian with low-rank covariance, :math:`N(z; \mu(x), F(x) F(x)^\top + \mathrm{diag}\,d(x)^2)`.

    Args:
        network: maps x ``(N, *D)`` to mu, a raw d and F row by row, ``(N, 2 L + L R)``; d = softplus(raw) + 1e-3.
        latent_dim: L.
        rank: R.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is another.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> guide = LowRankGaussian(mlp(64, 128, 15), latent_dim=5, rank=1)
        >>> guide.posterior(torch.zeros(7, 64)).event_shape
        torch.Size([5])
    """

    def __init__(
        self, network: nn.Module, *, latent_dim: int, rank: int = 1, latent: str = "z", plate: str = "data"
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.rank = positive_integer(rank, "rank")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        L, R = self.latent_dim, self.rank
        out = check_width(self.network(x), 2 * L + L * R, "mu, raw d and factor (2 L + L R)")
        loc, raw, factor = out.split([L, L, L * R], -1)
        diagonal = to_scale(raw, floor=1e-3).square()
        return dist.LowRankMultivariateNormal(loc, factor.unflatten(-1, (L, R)), diagonal)


class PointMass(Guide):
    r"""The amortised point mass, :math:`q(z|x) = \delta(z - \mu(x))`: SVI with it finds the mode (MAP).

    Its "ELBO" is log p(x, z) at the point: no bound on the evidence, for a point mass has no density.

    Args:
        network: maps x ``(N, *D)`` to mu ``(N, L)``.
        latent_dim: L; taken from the network's last linear layer when not given.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is not L.

    Example:
        >>> from pyro_vae.networks import mlp
        >>> PointMass(mlp(64, 128, 2)).posterior(torch.zeros(7, 64)).event_shape
        torch.Size([2])
    """

    def __init__(
        self, network: nn.Module, *, latent_dim: int | None = None, latent: str = "z", plate: str = "data"
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        width = last_width(network, "latent_dim") if latent_dim is None else latent_dim
        self.latent_dim = positive_integer(width, "latent_dim")

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        return dist.Delta(check_width(self.network(x), self.latent_dim, "mu (L)"), event_dim=1)


def triangle(raw: Tensor, latent_dim: int) -> Tensor:
    """Return the lower triangular T ``(..., L, L)`` of a raw diagonal and a strict triangle, row by row.

    Args:
        raw: ``(..., L + L (L - 1) / 2)``; the diagonal is softplus(raw) + 1e-6.
        latent_dim: L.
    """
    L = latent_dim
    diagonal, below = raw[..., :L], raw[..., L:]
    rows, columns = torch.tril_indices(L, L, -1, device=raw.device)
    strict = raw.new_zeros(*raw.shape[:-1], L * L).index_copy(-1, rows * L + columns, below).unflatten(-1, (L, L))
    return strict + torch.diag_embed(to_scale(diagonal))
