"""A coupling flow on top of a Gaussian, with parameters of its own for every posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.func import functional_call, vmap

from pyro_vae.flows.networks import FlowDistribution, FlowNetwork, coupling
from pyro_vae.inference.variational.whole.families import Family, cholesky, log_normal

__all__ = ["Flow"]


class Flow(Family):
    r"""Real NVP, :math:`u = \mu_0 + T_0\, g_\theta(z)`, g a row of affine couplings that starts at the identity.

    Each posterior has its own weights; theta holds what they differ by from their random first values, so that
    theta = 0 is the starting Gaussian.

    Source: Dinh, Sohl-Dickstein & Bengio 2017; Agrawal & Domke 2024, arXiv 2412.08824, who find that such flows are
    enough for most programs if they are large and trained with many draws.

    Args:
        start: as of :class:`~pyro_vae.inference.variational.whole.families.Family`.
        num_transforms: couplings.
        hidden: width of the two hidden layers of each.
    """

    def __init__(self, start: Any, *, num_transforms: int = 8, hidden: int = 32) -> None:
        super().__init__(start)
        self.tril = cholesky(start.covariance_matrix)
        L = self.noise_dim
        network = coupling(L, context_dim=0, num_transforms=num_transforms, hidden=(hidden, hidden))
        self.network = _Both(network).to(self.loc)
        self.first = {name: value.detach() for name, value in self.network.named_parameters()}
        self.num_params = sum(value.numel() for value in self.first.values())

    def _weights(self, theta: Tensor) -> dict[str, Tensor]:
        """The network's parameters, ``(N, *shape)`` each."""
        parts = theta.split([value.numel() for value in self.first.values()], -1)
        pairs = zip(self.first.items(), parts, strict=True)
        return {
            name: value + part.unflatten(-1, value.shape) if value.dim() else part[..., 0]
            for (name, value), part in pairs
        }

    def run(self, theta: Tensor, points: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return g or its inverse at points ``(K, N, L)``, with the log determinants ``(K, N)``."""

        def one(weights: dict[str, Tensor], own: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.network, weights, (own, inverse))

        if len(theta) == 1:  # a third of the time
            weights = {name: value.squeeze(0) for name, value in self._weights(theta).items()}
            out, log_det = one(weights, points.squeeze(-2))
            return out.unsqueeze(-2), log_det.unsqueeze(-1)
        lead = points.shape[:-2]
        flat = points.reshape(-1, *points.shape[-2:])
        out, log_det = vmap(one, in_dims=(0, 1), out_dims=1)(self._weights(theta), flat)
        return out.reshape(*lead, *out.shape[1:]), log_det.reshape(*lead, *log_det.shape[1:])

    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and log q."""
        z, log_det = self.run(theta, noise.expand(-1, len(theta), -1), inverse=False)
        u = self.loc + (self.tril @ z.unsqueeze(-1)).squeeze(-1)
        return u, log_normal(noise) - log_det - self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def distribution(self, theta: Tensor) -> Any:
        """Return q."""
        base = dist.Normal(torch.zeros_like(self.loc), 1.0, validate_args=False).to_event(1)
        return FlowDistribution(_Map(self, theta), base)


class _Both(nn.Module):
    """A flow's two ways as one call, which functional_call needs."""

    def __init__(self, network: FlowNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, points: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        transform = self.network(None)
        found: tuple[Tensor, Tensor] = (transform.inv if inverse else transform).call_and_ladj(points)
        return found


class _Map(Transform):
    """z to u, with the log determinant in the same pass; ``inv`` is the way back."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, family: Flow, theta: Tensor, *, inverse: bool = False) -> None:
        super().__init__()
        self._family, self._theta, self._inverse = family, theta, inverse

    @property
    def inv(self) -> Transform:
        return _Map(self._family, self._theta, inverse=not self._inverse)

    def __call__(self, points: Tensor) -> Tensor:
        return self.call_and_ladj(points)[0]

    def call_and_ladj(self, points: Tensor) -> tuple[Tensor, Tensor]:
        family = self._family
        stretch = family.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self._inverse:
            away = (points - family.loc).unsqueeze(-1)
            z = torch.linalg.solve_triangular(family.tril, away, upper=False).squeeze(-1)
            z, log_det = family.run(self._theta, z, inverse=True)
            return z, log_det - stretch
        z, log_det = family.run(self._theta, points, inverse=False)
        return family.loc + (family.tril @ z.unsqueeze(-1)).squeeze(-1), log_det + stretch
