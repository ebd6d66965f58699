"""The planar flow: every layer bends space along one direction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import softplus

from pyro_vae.checks import positive_integer
from pyro_vae.flows.networks import compose

__all__ = ["PlanarNetwork", "PlanarTransform"]


class PlanarTransform(Transform):
    r"""The planar map :math:`g(u) = u + \hat v \tanh(w^\top u + b)`, kept invertible by :math:`w^\top\hat v \ge -1`.

    Its inverse solves a scalar equation: with a = w'u, the number y = a + (w'v) tanh(a + b) is monotone in a, and is
    inverted by bisection, polished by one Newton step that carries the gradient.

    Args:
        weight: w ``(..., L)``.
        direction: v ``(..., L)``; moved to v-hat, which keeps the map invertible.
        bias: b ``(...)``.

    Source:
        Rezende & Mohamed 2015, equation 10 and appendix A.1.

    Example:
        >>> g = PlanarTransform(torch.ones(2), torch.ones(2), torch.zeros(()))
        >>> u = torch.tensor([0.3, -1.0])
        >>> torch.allclose(g.inv(g(u)), u, atol=1e-5)
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, weight: Tensor, direction: Tensor, bias: Tensor) -> None:
        super().__init__()
        dot = (weight * direction).sum(-1, keepdim=True)
        square = weight.square().sum(-1, keepdim=True) + 1e-12
        self.weight, self.bias = weight, bias
        self.direction = direction + (softplus(dot) - 1 - dot) * weight / square  # w'v = softplus(.) - 1 > -1
        self.slope = (weight * self.direction).sum(-1)

    def _call(self, u: Tensor) -> Tensor:
        return u + self.direction * torch.tanh((self.weight * u).sum(-1) + self.bias).unsqueeze(-1)

    def _inverse(self, z: Tensor) -> Tensor:
        """Solve a + slope tanh(a + bias) = w'z by bisection, then one Newton step that carries the gradient."""
        y = (self.weight * z).sum(-1)
        with torch.no_grad():  # a lies in y +- |slope|
            reach = self.slope.abs() + 1e-3
            low, high = y - reach, y + reach
            for _ in range(60 if y.dtype == torch.float64 else 32):
                a = (low + high) / 2
                above = a + self.slope * torch.tanh(a + self.bias) > y
                low, high = torch.where(above, low, a), torch.where(above, a, high)
        a = (low + high) / 2
        t = torch.tanh(a + self.bias)
        a = a - (a + self.slope * t - y) / (1 + self.slope * (1 - t * t)).detach()
        return z - self.direction * torch.tanh(a + self.bias).unsqueeze(-1)

    def log_abs_det_jacobian(self, u: Tensor, z: Tensor) -> Tensor:
        """Return log |1 + w'v (1 - tanh^2)|, ``(...)``."""
        t = torch.tanh((self.weight * u).sum(-1) + self.bias)
        return torch.log1p(self.slope * (1 - t * t))


class PlanarNetwork(nn.Module):
    """A network that gives planar transforms, one after the other, for a context ``(..., context_dim)``.

    They start close to the identity.

    Args:
        latent_dim: L.
        context_dim: how many numbers the context has.
        num_transforms: how many layers.

    Raises:
        TypeError: if ``num_transforms`` is no whole number.
        ValueError: if it is not positive.

    Example:
        >>> PlanarNetwork(2, context_dim=3, num_transforms=4)(torch.zeros(7, 3))(torch.zeros(7, 2)).shape
        torch.Size([7, 2])
    """

    def __init__(self, latent_dim: int, *, context_dim: int, num_transforms: int) -> None:
        super().__init__()
        num_transforms = positive_integer(num_transforms, "num_transforms")
        self.shape = (num_transforms, 2 * latent_dim + 1)
        self.head = nn.Linear(context_dim, num_transforms * (2 * latent_dim + 1))
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=1e-2 / math.sqrt(context_dim))
        with torch.no_grad():  # distinct directions w; v near the value that makes the map the identity
            bias = self.head.bias.view(self.shape)
            bias[:, :latent_dim] = torch.randn(num_transforms, latent_dim)
            w = bias[:, :latent_dim]
            still = math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True)  # softplus(w'v) = 1: no bend
            bias[:, latent_dim:-1] = still + 1e-2 * torch.randn(num_transforms, latent_dim)

    def forward(self, context: Tensor) -> Transform:
        """Return the transforms one after the other, as one."""
        raw = self.head(context).unflatten(-1, self.shape)
        L = (self.shape[1] - 1) // 2
        layers = [PlanarTransform(p[..., :L], p[..., L:-1], p[..., -1]) for p in raw.unbind(-2)]
        return compose(*layers)
