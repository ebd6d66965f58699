"""Priors with independent dimensions: normal, Laplace, Cauchy, Student's t, uniform."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_integer, positive_number, say
from pyro_vae.priors.base import Prior
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["Cauchy", "DiagonalNormal", "Laplace", "StandardNormal", "StudentT", "Uniform"]


class StandardNormal(Prior):
    r"""The standard normal prior, :math:`p(z) = \prod_l N(z_l; 0, 1)`.

    Args:
        latent_dim: L.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if it is not positive.

    Example:
        >>> StandardNormal(2)().log_prob(torch.zeros(2))
        tensor(-1.8379)
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.register_buffer("loc", torch.zeros(self.latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(self.latent_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """Return N(0, I), ``event_shape (L,)``."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class DiagonalNormal(Prior):
    r"""A learned normal prior with independent dimensions, :math:`p(z) = \prod_l N(z_l; \mu_l, \sigma_l^2)`.

    It starts as the standard normal; sigma = softplus(raw) + 1e-3.

    Args:
        latent_dim: L.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if it is not positive.

    Example:
        >>> DiagonalNormal(2)().mean.detach()
        tensor([0., 0.])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.loc = nn.Parameter(torch.zeros(self.latent_dim))
        self.raw_scale = nn.Parameter(torch.full((self.latent_dim,), float(raw_scale(1.0, floor=_FLOOR))))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.Normal(self.loc, to_scale(self.raw_scale, floor=_FLOOR)).to_event(1)


class _Centred(Prior):
    """A family of location 0 and a fixed scale."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, scale: float) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        self.register_buffer("loc", torch.zeros(self.latent_dim))
        self.register_buffer("scale", torch.full((self.latent_dim,), positive_number(scale, "scale")))


class Laplace(_Centred):
    r"""The Laplace prior, :math:`p(z) = \prod_l \exp(-|z_l|/b) / 2b`: sparser than the normal.

    Args:
        latent_dim: L.
        scale: b; the standard deviation is b times the square root of 2, and the default gives variance 1.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if a number is not positive.

    Example:
        >>> Laplace(2)().variance
        tensor([1.0000, 1.0000])
    """

    def __init__(self, latent_dim: int, *, scale: float = math.sqrt(0.5)) -> None:
        super().__init__(latent_dim, scale)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class Cauchy(_Centred):
    r"""The Cauchy prior, :math:`p(z) = \prod_l 1 / (\pi s (1 + z_l^2 / s^2))`: no mean, no variance.

    Args:
        latent_dim: L.
        scale: s, where the density is half of that at 0; half of the mass lies within it.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if a number is not positive.

    Example:
        >>> Cauchy(1, scale=2.0)().log_prob(torch.zeros(1)).exp()
        tensor(0.1592)
    """

    def __init__(self, latent_dim: int, *, scale: float = 1.0) -> None:
        super().__init__(latent_dim, scale)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.Cauchy(self.loc, self.scale).to_event(1)


class StudentT(_Centred):
    r"""Student's t prior, :math:`p(z) = \prod_l t_\nu(z_l / s) / s`: tails heavier than the normal's.

    Args:
        latent_dim: L.
        df: the degrees of freedom nu.
        scale: s.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if a number is not positive.

    Example:
        >>> StudentT(2, df=4.0)().variance
        tensor([2., 2.])
    """

    df: Tensor

    def __init__(self, latent_dim: int, *, df: float = 5.0, scale: float = 1.0) -> None:
        super().__init__(latent_dim, scale)
        self.register_buffer("df", torch.full((self.latent_dim,), positive_number(df, "df")))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.StudentT(self.df, self.loc, self.scale).to_event(1)


class Uniform(Prior):
    r"""The uniform prior on a box, :math:`p(z) = \prod_l 1 / (b_l - a_l)` on :math:`a_l < z_l < b_l`.

    z is constrained: a guide over all real numbers does not fit it; wrap one in
    ``guides.Transformed(guide, torch.distributions.biject_to(prior().support))``.

    Args:
        latent_dim: L.
        low: the lower ends a, a number or ``(L,)``.
        high: the upper ends b, a number or ``(L,)``.

    Raises:
        TypeError: if ``latent_dim`` is no whole number.
        ValueError: if it is not positive, or ``low`` is not below ``high``.

    Example:
        >>> Uniform(2, low=-2.0, high=2.0)().log_prob(torch.zeros(2)).exp()
        tensor(0.0625)
    """

    low: Tensor
    high: Tensor

    def __init__(self, latent_dim: int, *, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> None:
        super().__init__()
        self.latent_dim = positive_integer(latent_dim, "latent_dim")
        dtype = torch.get_default_dtype()
        ends = [torch.as_tensor(end, dtype=dtype).expand(self.latent_dim).clone() for end in (low, high)]
        if not bool((ends[0] < ends[1]).all() and torch.isfinite(ends[0] + ends[1]).all()):
            raise ValueError(say("finite low < high", f"low={low}, high={high}", "low=0.0, high=1.0"))
        self.register_buffer("low", ends[0])
        self.register_buffer("high", ends[1])

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), ``event_shape (L,)``."""
        return dist.Uniform(self.low, self.high).to_event(1)


_FLOOR = 1e-3  # under a learnt sigma
