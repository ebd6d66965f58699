"""The Gaussian guide for data with gaps: a product of experts, one for each entry that is there."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, say
from pyro_vae.guides.base import Guide, check_width
from pyro_vae.guides.cholesky_gaussian import CholeskyGaussian
from pyro_vae.scales import to_scale

__all__ = ["ProductOfExperts"]


class ProductOfExperts(Guide):
    r"""The amortised Gaussian whose precision grows with every entry observed, :math:`q(z|x) = N(P^{-1} h, P^{-1})`.

    .. math:: P(x) = A A^\top + \mathrm{diag}\,r(x) + \sum_{d\ \mathrm{observed}} v_d v_d^\top

    The network gives h and r; A and the experts v are learnt. Of factor analysis it holds the exact posterior whatever
    is missing, where a diagonal Gaussian has to leave out the correlations that gaps leave behind.

    Source: Wu & Goodman 2018, Multimodal generative models for scalable weakly-supervised learning, equation 3; the
    precision of factor analysis is that of Rubin & Thayer 1982.

    Args:
        network: maps x ``(N, *D)``, with its gaps, to h and a raw r side by side, ``(N, 2 L)``; r = softplus(raw) +
            1e-6. One on :class:`~pyro_vae.networks.MaskedInput` or :class:`~pyro_vae.networks.ColumnFeatures` sees
            what is missing.
        data_dim: D, entries of a datum; NaN is missing.
        latent_dim: L.
        latent: the latent site's name.
        plate: the data plate's name.

    Raises:
        ValueError: if the network's last dimension is not 2 L, or a datum has not D entries.

    Example:
        >>> from pyro_vae.networks import MaskedInput, mlp
        >>> guide = ProductOfExperts(MaskedInput(mlp(128, 128, 4)), data_dim=64, latent_dim=2)
        >>> guide.posterior(torch.full((7, 64), torch.nan)).covariance_matrix.shape
        torch.Size([7, 2, 2])
    """

    def __init__(
        self, network: nn.Module, *, data_dim: int, latent_dim: int, latent: str = "z", plate: str = "data"
    ) -> None:
        super().__init__(latent=latent, plate=plate)
        self.network = network
        D, L = positive_integer(data_dim, "data_dim"), positive_integer(latent_dim, "latent_dim")
        self.latent_dim = L
        self.experts = nn.Parameter(0.1 * torch.randn(D, L))
        self.base = nn.Parameter(torch.zeros(L, L))

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """Return q(z|x), ``batch_shape (N,)``, ``event_shape (L,)``."""
        h, raw = check_width(self.network(x), 2 * self.latent_dim, "h and r (2 L)").chunk(2, -1)
        there = (~x.flatten(1).isnan()).to(h)
        if there.shape[1] != len(self.experts):
            got, remedy = f"{there.shape[1]} entries a datum", f"data_dim={there.shape[1]}"
            raise ValueError(say(f"data of {len(self.experts)} entries, as data_dim says", got, remedy))
        each = (self.experts.unsqueeze(-1) * self.experts.unsqueeze(-2)).flatten(1)  # (D, L * L)
        precision = (there @ each).unflatten(-1, self.base.shape) + self.base @ self.base.mT
        scale_tril = _inverse_root(precision + torch.diag_embed(to_scale(raw)))
        loc = (scale_tril @ (scale_tril.mT @ h.unsqueeze(-1))).squeeze(-1)
        return CholeskyGaussian(loc, scale_tril=scale_tril)


def _inverse_root(precision: Tensor) -> Tensor:
    """Lower triangular T ``(..., L, L)`` with T T' the inverse of a positive definite matrix; NaN for another."""
    lower, failed = torch.linalg.cholesky_ex(precision.flip((-2, -1)))
    upper = torch.where(failed[..., None, None] > 0, torch.nan, lower).flip((-2, -1))  # U U' = P, upper triangular
    one = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return torch.linalg.solve_triangular(upper.mT, one, upper=False)
