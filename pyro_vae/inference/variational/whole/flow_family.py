"""A coupling flow on top of a Gaussian, with weights of its own for every posterior."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn.functional import silu

from pyro_vae.flows.networks import FlowDistribution
from pyro_vae.inference.variational.whole.families import Family, cholesky, log_normal

__all__ = ["Flow"]

_MOST_STRETCH = 2.0  # log scale of one coupling: a bound keeps the tails of q from running away


class Flow(Family):
    r"""Real NVP, :math:`u = \mu_0 + T_0\, g_\theta(z)`, g a row of affine couplings that starts at the identity.

    A coupling keeps some numbers and moves the others, :math:`z_b \to z_b e^{s(z_a)} + t(z_a)` with s and t from a
    network of two hidden layers. Each posterior has its own weights, side by side in one matrix product; theta holds
    what they differ by from their random first values, so that theta = 0 is the starting Gaussian. The couplings of
    zuko, one posterior at a time under ``torch.vmap``, take several times as long.

    Source: Dinh, Sohl-Dickstein & Bengio 2017; Agrawal & Domke 2024, arXiv 2412.08824, who find that such flows are
    enough for most programs if they are large and trained with many draws.

    Args:
        start: as of :class:`~pyro_vae.inference.variational.whole.families.Family`.
        num_transforms: couplings.
        hidden: width of the hidden layers of each.
    """

    def __init__(self, start: Any, *, num_transforms: int = 8, hidden: int = 32) -> None:
        super().__init__(start)
        self.tril = cholesky(start.covariance_matrix)
        self.couplings = [_Coupling.number(i, self.loc, hidden) for i in range(num_transforms)]
        self.sizes = [c.num_params for c in self.couplings]
        self.num_params = sum(self.sizes)

    def run(self, theta: Tensor, points: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return g or its inverse at points ``(..., N, L)``, with the log determinants ``(..., N)``."""
        z = points.reshape(-1, *points.shape[-2:]).movedim(-2, 0)  # (N, K, L)
        log_det = z.new_zeros(z.shape[:-1])
        pairs = list(zip(self.couplings, theta.split(self.sizes, -1), strict=True))
        for coupling, weights in reversed(pairs) if inverse else pairs:
            z, stretch = coupling.move(weights, z, inverse=inverse)
            log_det = log_det + stretch
        return z.movedim(0, -2).reshape(points.shape), log_det.mT.reshape(points.shape[:-1])

    def place(self, theta: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and log q."""
        z, log_det = self.run(theta, noise.expand(-1, len(theta), -1), inverse=False)
        u = self.loc + (self.tril @ z.unsqueeze(-1)).squeeze(-1)
        return u, log_normal(noise) - log_det - self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def distribution(self, theta: Tensor) -> Any:
        """Return q."""
        base = dist.Normal(torch.zeros_like(self.loc), 1.0, validate_args=False).to_event(1)
        return FlowDistribution(_Map(self, theta), base)


@dataclass(frozen=True)
class _Coupling:
    """One affine coupling: which numbers it keeps, which it moves, and the first weights of its network."""

    kept: Tensor
    moved: Tensor
    first: tuple[Tensor, ...]  # weight and bias of three layers

    @classmethod
    def number(cls, i: int, like: Tensor, hidden: int) -> _Coupling:
        """The i-th: every other number in turn, then one half and the other."""
        L = like.shape[-1]
        place = torch.arange(L, device=like.device)
        which = (place % 2 if i % 4 < 2 else (place >= (L + 1) // 2).long()) == (i + 1) % 2
        kept, moved = (~which).nonzero().flatten(), which.nonzero().flatten()
        if not len(moved):
            kept, moved = moved, kept  # one number alone has none to look at: it is stretched and shifted
        sizes = [len(kept), hidden, hidden]
        weights = [(torch.randn(a, b) / max(a, 1) ** 0.5).to(like) for a, b in pairwise(sizes)]
        last = like.new_zeros(hidden, 2 * len(moved))
        layers = [(w, w.new_zeros(w.shape[-1])) for w in (*weights, last)]
        return cls(kept, moved, tuple(part for layer in layers for part in layer))

    @property
    def num_params(self) -> int:
        return sum(part.numel() for part in self.first)

    def move(self, weights: Tensor, z: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        """Return z ``(N, K, L)`` moved, or moved back, and the log determinant ``(N, K)``."""
        changes = weights.split([part.numel() for part in self.first], -1)
        W = [a + b.unflatten(-1, a.shape) for a, b in zip(self.first, changes, strict=True)]
        h = z[..., self.kept]
        for weight, bias in ((W[0], W[1]), (W[2], W[3])):
            h = silu(torch.baddbmm(bias.unsqueeze(-2), h, weight))
        shift, raw = torch.baddbmm(W[5].unsqueeze(-2), h, W[4]).chunk(2, -1)
        stretch = _MOST_STRETCH * torch.tanh(raw / _MOST_STRETCH)
        own = z[..., self.moved]
        own = (own - shift) * (-stretch).exp() if inverse else own * stretch.exp() + shift
        log_det = stretch.sum(-1)
        return z.index_copy(-1, self.moved, own), -log_det if inverse else log_det


class _Map(Transform):
    """Noise to u, with the log determinant in the same pass; ``inv`` is the way back."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, family: Flow, theta: Tensor, *, back: bool = False) -> None:
        super().__init__()
        self._family, self._theta, self._back = family, theta, back

    @property
    def inv(self) -> Transform:
        return _Map(self._family, self._theta, back=not self._back)

    def __call__(self, points: Tensor) -> Tensor:
        return self.call_and_ladj(points)[0]

    def call_and_ladj(self, points: Tensor) -> tuple[Tensor, Tensor]:
        family = self._family
        stretch = family.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self._back:
            away = (points - family.loc).unsqueeze(-1)
            z = torch.linalg.solve_triangular(family.tril, away, upper=False).squeeze(-1)
            z, log_det = family.run(self._theta, z, inverse=True)
            return z, log_det - stretch
        z, log_det = family.run(self._theta, points, inverse=False)
        return family.loc + (family.tril @ z.unsqueeze(-1)).squeeze(-1), log_det + stretch
