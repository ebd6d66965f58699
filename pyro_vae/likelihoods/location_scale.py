"""Likelihoods of real data: a location from the network and one of three kinds of scale."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.checks import positive_number, say
from pyro_vae.likelihoods.base import Likelihood, data_width, split_last
from pyro_vae.scales import raw_scale, to_scale

__all__ = ["Gaussian", "Laplace", "LocationScale", "StudentT"]


class LocationScale(Likelihood):
    """A family of location and scale; the scale comes from the network, is learned, or is fixed."""

    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: str | float | Tensor = "network",
        data_dim: int | None = None,
        min_scale: float = 1e-3,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.min_scale = positive_number(min_scale, "min_scale", example=1e-3, zero=True)
        self.scale_from = scale if isinstance(scale, str) else "fixed"
        if scale == "learned":
            width = data_width(data_dim, 'scale="learned"')
            if not initial_scale > self.min_scale:
                got = f"{initial_scale} and min_scale={min_scale}"
                raise ValueError(say("an initial_scale above min_scale", got, "initial_scale=float(x.std())"))
            start = float(raw_scale(initial_scale, floor=self.min_scale))
            self.raw_scale = nn.Parameter(torch.full((width,), start))
        elif isinstance(scale, str):
            if scale != "network":
                raise ValueError(say('scale "network", "learned" or a number', repr(scale), "scale=1.0"))
        else:
            fixed = torch.as_tensor(scale, dtype=torch.get_default_dtype())
            if not bool((fixed > 0).all()) or not bool(torch.isfinite(fixed).all()):
                raise ValueError(say("a positive, finite scale", f"{scale}", "scale=1.0"))
            self.register_buffer("scale", fixed)

    def _location_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.network(z))

    def _split(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale that a network's output means."""
        if self.scale_from == "network":
            loc, raw = split_last(out, 2, "location and raw scale")
            return loc, to_scale(raw, floor=self.min_scale)
        return out, self.scale if self.scale_from == "fixed" else to_scale(self.raw_scale, floor=self.min_scale)


class Gaussian(LocationScale):
    r"""Independent real data, :math:`p(x|z) = \prod_d N(x_d; \mu_d(z), \sigma_d^2)`.

    Three kinds of sigma:

    - ``scale="network"``: the network gives mu and a raw sigma, side by side on its last dimension ``(..., 2 D)``, and
      sigma(z) = softplus(raw) + ``min_scale``;
    - ``scale="learned"``: one learned sigma a dimension; the network gives mu ``(..., D)``; needs ``data_dim``;
    - ``scale=<number or tensor>``: fixed.

    With a linear network and one of the last two this is the linear-Gaussian model (factor analysis; with one common
    sigma, probabilistic PCA). ``min_scale`` is a floor under a learnt sigma: without it the likelihood of a
    reproduced constant pixel is unbounded (Mattei & Frellsen 2018).

    Args:
        network: maps z to mu, or to mu and raw sigma.
        scale: see above.
        data_dim: D; needed by ``scale="learned"`` only.
        min_scale: the floor under a learnt sigma, in units of the data.
        initial_scale: where ``scale="learned"`` starts, in units of the data.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, or a missing ``data_dim``.

    Example:
        >>> Gaussian(nn.Linear(2, 10), scale=0.5)(torch.zeros(7, 2)).event_shape
        torch.Size([10])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.Normal(*self._location_and_scale(z)).to_event(1)


class Laplace(LocationScale):
    r"""Independent real data with heavier tails, :math:`p(x|z) = \prod_d \exp(-|x_d - \mu_d(z)| / b_d) / 2 b_d`.

    Args:
        network: maps z to mu, or to mu and raw b.
        scale: b, one of the three kinds that :class:`Gaussian` describes.
        data_dim: D; needed by ``scale="learned"`` only.
        min_scale: the floor under a learnt b, in units of the data.
        initial_scale: where ``scale="learned"`` starts, in units of the data.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, or a missing ``data_dim``.

    Example:
        >>> Laplace(nn.Linear(2, 10), scale=0.5)(torch.zeros(7, 2)).event_shape
        torch.Size([10])
    """

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        return dist.Laplace(*self._location_and_scale(z)).to_event(1)


class StudentT(LocationScale):
    r"""Independent real data with outliers, :math:`p(x|z) = \prod_d t_\nu((x_d - \mu_d(z)) / s_d) / s_d`.

    Args:
        network: maps z to mu, or to mu and raw s.
        df: the degrees of freedom nu; None learns one number, nu = 1 + softplus(raw), from 4 on: one for each column
            where ``data_dim`` is given.
        scale: s, one of the three kinds that :class:`Gaussian` describes.
        data_dim: D; needed by ``scale="learned"``.
        min_scale: the floor under a learnt s, in units of the data.
        initial_scale: where ``scale="learned"`` starts, in units of the data.

    Raises:
        ValueError: on an unknown ``scale``, one that is not positive, a missing ``data_dim``, or ``df`` that is not
            positive.

    Example:
        >>> StudentT(nn.Linear(2, 10), df=3.0, scale=0.5)(torch.zeros(7, 2)).event_shape
        torch.Size([10])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        df: float | None = 4.0,
        scale: str | float | Tensor = "network",
        data_dim: int | None = None,
        min_scale: float = 1e-3,
        initial_scale: float = 1.0,
    ) -> None:
        super().__init__(network, scale=scale, data_dim=data_dim, min_scale=min_scale, initial_scale=initial_scale)
        self.df = None if df is None else positive_number(df, "df", example=4.0)
        if df is None:
            self.raw_df = nn.Parameter(torch.full((data_dim,) if data_dim else (), float(raw_scale(3.0, floor=0.0))))

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return the distribution of x given z."""
        loc, scale = self._location_and_scale(z)
        df = 1 + to_scale(self.raw_df, floor=0.0) if self.df is None else torch.as_tensor(self.df).to(loc)
        return dist.StudentT(df, loc, scale).to_event(1)
