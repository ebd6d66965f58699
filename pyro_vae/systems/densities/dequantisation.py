r"""Dequantisation: a probability of whole numbers from a density of real ones.

A level x in {0, ..., K - 1} is seen as the whole part of y, which has the density p. So
:math:`P(x) = \int_{[x, x+1)^D} p(y)\, dy`, a model with y as its latent and x as what is observed; and a guide q(y|x)
over the cell gives the ELBO :math:`\log P(x) \ge E_q[\log p(y) - \log q(y|x)]`.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_vae.flows.networks import FlowDistribution, compose, coupling
from pyro_vae.networks import mlp
from pyro_vae.systems.densities.layers import FlowWithin

__all__ = ["Dequantiser", "UniformDequantiser", "VariationalDequantiser", "WholePart"]


class WholePart(dist.TorchDistribution):
    """The whole part of y, for certain: log P(x|y) is 0 where y lies in the cell of x, else -inf.

    Args:
        y: ``(..., D)``.
        num_levels: K.

    Example:
        >>> law = WholePart(torch.tensor([0.3, 2.9]), 4)
        >>> law.sample(), law.log_prob(torch.tensor([0.0, 2.0])), law.log_prob(torch.tensor([0.0, 3.0]))
        (tensor([0., 2.]), tensor(0.), tensor(-inf))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention

    def __init__(self, y: Tensor, num_levels: int) -> None:
        self.y = y
        self.num_levels = num_levels
        super().__init__(y.shape[:-1], y.shape[-1:], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """Rows of the whole numbers 0 to K - 1."""
        return constraints.independent(constraints.integer_interval(0, self.num_levels - 1), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WholePart:
        """Return the same law with a larger ``batch_shape``."""
        return WholePart(self.y.expand(*batch_shape, *self.event_shape), self.num_levels)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the whole part; of a y beyond the levels the nearest one."""
        level = self.y.detach().floor().clamp(0, self.num_levels - 1)
        return level.expand(*sample_shape, *self.y.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return 0 or -inf, ``(...)``; a cell is closed, for rounding may reach its end."""
        inside = ((self.y >= value) & (self.y <= value + 1)).all(-1)
        return torch.where(inside, 0.0, -torch.inf).to(self.y)


class _IntoCell(Transform):
    """From v to x + Phi(v): a standard normal v is uniform over the cell."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, level: Tensor, num_levels: int) -> None:
        super().__init__()
        self.level = level
        self.margin = num_levels * torch.finfo(level.dtype).eps  # so that x + u never rounds up to x + 1

    def _call(self, v: Tensor) -> Tensor:
        return self.level + torch.special.ndtr(v).clamp(self.margin, 1 - self.margin)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtri((y - self.level).clamp(self.margin, 1 - self.margin))

    def log_abs_det_jacobian(self, v: Tensor, y: Tensor) -> Tensor:
        """Return log of the standard normal density, entry by entry."""
        return dist.Normal(torch.zeros_like(v), 1.0).log_prob(v)


class Dequantiser(nn.Module):
    """Base class of laws q(y|x) over the cell of x: its call on levels ``(N, D)`` returns the distribution of y.

    To write one, subclass it and define ``transform(level)``, the map of standard normal noise to v; y is x + Phi(v),
    so the identity is uniform over the cell.

    Args:
        num_levels: K.
    """

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.num_levels = num_levels

    def transform(self, level: Tensor) -> list[Transform]:
        """Return the transforms from noise to v, given the levels ``(N, D)``."""
        raise NotImplementedError(f"{type(self).__name__} must define transform(self, level)")

    def forward(self, level: Tensor) -> FlowDistribution:
        """Return q(y|x), ``batch_shape (N,)``, ``event_shape (D,)``; its density is of y in levels."""
        base = dist.Normal(torch.zeros_like(level), 1.0).to_event(1)
        whole = compose(*self.transform(level), _IntoCell(level, self.num_levels))
        return FlowWithin(whole, base, constraints.interval(level, level + 1))


class UniformDequantiser(Dequantiser):
    r"""Uniform noise, :math:`q(y|x) = 1` on the cell: the bound is :math:`E_u \log p(x + u)`.

    Source: Theis, van den Oord & Bethge 2016, section 3.1.

    Example:
        >>> q = UniformDequantiser(4)(torch.tensor([[0.0, 3.0]]))
        >>> y = q.rsample()
        >>> y.floor(), q.log_prob(y).abs() < 1e-6
        (tensor([[0., 3.]]), tensor([True]))
    """

    def transform(self, level: Tensor) -> list[Transform]:
        """Return the identity."""
        return [torch.distributions.AffineTransform(0.0, 1.0, event_dim=1)]


class VariationalDequantiser(Dequantiser):
    r"""A conditional flow of the noise: :math:`\log P(x) \ge E_{q(u|x)}[\log p(x + u) - \log q(u|x)]`.

    Affine couplings whose networks see the image move standard normal noise to v, and u = Phi(v). It starts as the
    uniform law, whose bound it can only better.

    Source: Ho et al. 2019 (Flow++), equation 12.

    Args:
        data_dim: D.
        num_levels: K.
        hidden: width of the networks' hidden layers.
        num_transforms: coupling layers.

    Example:
        >>> q = VariationalDequantiser(2, 4, hidden=8)(torch.tensor([[0.0, 3.0]]))
        >>> q.log_prob(q.rsample()).abs() < 1e-6
        tensor([True])
    """

    def __init__(self, data_dim: int, num_levels: int, *, hidden: int = 64, num_transforms: int = 2) -> None:
        super().__init__(num_levels)
        self.features = mlp(data_dim, hidden, hidden)
        self.flow = coupling(data_dim, context_dim=hidden, num_transforms=num_transforms, hidden=(hidden,))

    def transform(self, level: Tensor) -> list[Transform]:
        """Return couplings that see the levels, put on [-1, 1]."""
        return [self.flow(self.features(2 * level / (self.num_levels - 1) - 1))]
