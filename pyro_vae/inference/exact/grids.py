"""A posterior whose density stands on a grid of its own for every datum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.checks import say
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.target import Target

__all__ = ["Frame", "Grid", "QuadraturePosterior", "scatter"]

_CORRECTIONS = 4  # the interpolation is within some per cent of the density, so few steps suffice


class Frame(NamedTuple):
    """A box a datum, ``(n, L)``, in coordinates t of its own: u = centre + basis t, low <= t <= high."""

    centre: Tensor
    basis: Tensor
    low: Tensor
    high: Tensor

    def take(self, keep: Tensor) -> Frame:
        """The boxes of some data."""
        return Frame(*(part[keep] for part in self))

    def coordinates(self, u: Tensor) -> Tensor:
        """The coordinates t of u ``(K, n, L)``."""
        centred = (u - self.centre).movedim(0, -1)  # (n, L, K)
        return torch.linalg.solve_triangular(self.basis, centred, upper=False).movedim(-1, 0)

    def holds(self, u: Tensor) -> Tensor:
        """Whether u ``(K, n, L)`` lies in each datum's box, ``(K, n)``."""
        return self.spans(self.coordinates(u))

    def spans(self, t: Tensor) -> Tensor:
        """Whether coordinates t ``(K, n, L)`` lie in each datum's box, ``(K, n)``."""
        return ((t >= self.low) & (t <= self.high)).all(-1)


@dataclass(frozen=True)
class Grid:
    """Regular grids, one a datum, in coordinates t of its own: u = centre + basis t.

    ``centre (n, L)``, ``basis (n, L, L)``, ``low (n, L)`` and ``step (n, L)`` place m points a dimension at
    ``t = low + step * index``; ``log_joint (m**L, n)`` is the density there, -inf where it is ``unknown``: where it
    could not be computed.
    """

    centre: Tensor
    basis: Tensor
    low: Tensor
    step: Tensor
    m: int
    log_joint: Tensor
    unknown: Tensor

    @classmethod
    def empty(cls, frame: Frame, m: int) -> Grid:
        """The same without a density."""
        centre, basis, low, high = frame
        return cls(centre, basis, low, (high - low) / (m - 1), m, torch.empty(0), torch.empty(0))

    @classmethod
    def over(cls, frame: Frame, m: int, log_joint: Callable[[Tensor], Tensor]) -> Grid:
        """The grid of m points a dimension over a frame, where a density ``(G, n, L)`` to ``(G, n)`` is evaluated."""
        bare = cls.empty(frame, m)
        value = log_joint(bare.points())
        unknown = value.isnan() | (value == math.inf)  # which is what a density has where its argument underflows
        return replace(bare, log_joint=value.masked_fill(unknown, -math.inf), unknown=unknown)

    @property
    def log_cell(self) -> Tensor:
        """Log volume of a cell in u, ``(n,)``."""
        return self.step.log().sum(-1) + torch.linalg.slogdet(self.basis).logabsdet

    def coordinates(self) -> Tensor:
        """Grid points t, ``(m**L, n, L)``."""
        return self.low + _indices(self.m, self.low.shape[-1]).to(self.low).unsqueeze(1) * self.step

    def points(self) -> Tensor:
        """Grid points u, ``(m**L, n, L)``."""
        return self.seen_from(self.centre.new_zeros(()), torch.eye(self.low.shape[-1]).to(self.basis))

    def seen_from(self, centre: Tensor, basis: Tensor) -> Tensor:
        """Grid points in the coordinates of another centre ``(n, L)`` and basis ``(n, L, L)``, ``(m**L, n, L)``.

        A sum of L outer products, many times faster than one product of small matrices a point.
        """
        corner = self.centre - centre + (self.basis @ self.low.unsqueeze(-1)).squeeze(-1)
        sides = torch.linalg.solve_triangular(basis, torch.cat([corner.unsqueeze(-1), self._sides()], -1), upper=False)
        index = _indices(self.m, self.low.shape[-1]).to(self.low)[:, :, None, None]
        points = sides[..., 0].expand(len(index), -1, -1)
        for j in range(self.low.shape[-1]):
            points = torch.addcmul(points, index[:, j], sides[..., j + 1])
        return points

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean ``(n, L)`` and covariance ``(n, L, L)`` of u, by the weights that the density has at the points."""
        L = self.low.shape[-1]
        index = _indices(self.m, L).to(self.low.device).double() - (self.m - 1) / 2
        squares = (index.unsqueeze(-1) * index.unsqueeze(-2)).flatten(1)
        weight = self.log_joint.double().softmax(0).T
        mean, square = weight @ index, (weight @ squares).unflatten(-1, (L, L))
        covariance = square - mean.unsqueeze(-1) * mean.unsqueeze(-2)
        t = self.low + self.step * (mean + (self.m - 1) / 2)
        centre = self.centre + (self.basis.double() @ t.unsqueeze(-1)).squeeze(-1)
        sides = self._sides().double()
        return centre.to(self.low), (sides @ covariance @ sides.mT).to(self.low)

    def _sides(self) -> Tensor:
        """From a point to its next along each axis, in u, as columns ``(n, L, L)``."""
        return self.basis * self.step.unsqueeze(-2)

    def draw(self, num_samples: int) -> Tensor:
        """Draw coordinates t ``(S, n, L)`` from the multilinear interpolation of the density."""
        node = torch.multinomial(self.log_joint.softmax(0).T, num_samples, replacement=True).T  # (S, n)
        t = self.coordinates().expand(-1, *self.log_joint.shape[1:], -1)
        t = t.gather(0, node.unsqueeze(-1).expand(-1, -1, t.shape[-1]))
        hat = torch.rand(2, *t.shape).to(t).sum(0) - 1  # the hat function of a node is a triangular density
        return t + hat * self.step

    def place(self, t: Tensor) -> Tensor:
        """The u ``(S, n, L)`` of coordinates t."""
        return self.centre + torch.einsum("nij,snj->sni", self.basis, t)

    def interpolate(self, t: Tensor) -> Tensor:
        """Multilinear interpolation of the density at t ``(S, n, L)``, up to a factor a datum, ``(S, n)``."""
        L = t.shape[-1]
        density = (self.log_joint - self.log_joint.amax(0)).exp()
        place = ((t - self.low) / self.step).clamp(0, self.m - 1)
        below = place.floor().clamp_max(self.m - 2)
        above = place - below
        stride = self.m ** torch.arange(L - 1, -1, -1, device=t.device)
        total = place.new_zeros(place.shape[:-1])
        for corner in itertools.product((0, 1), repeat=L):
            side = torch.tensor(corner, dtype=torch.long, device=t.device)
            index = ((below.long() + side) * stride).sum(-1)
            total += torch.where(side.bool(), above, 1 - above).prod(-1) * density.gather(0, index)
        return total

    def edge(self) -> Tensor:
        """Which points lie on the box's faces, ``(m**L,)``."""
        index = _indices(self.m, self.low.shape[-1])
        return ((index == 0) | (index == self.m - 1)).any(-1).to(self.low.device)

    def brink(self) -> Tensor:
        """Which points lie on the faces, or next to one whose density is unknown, ``(m**L, n or 1)``."""
        if not self.unknown.any():
            return self.edge().unsqueeze(-1)
        L = self.low.shape[-1]
        cube = self.unknown.reshape(*(self.m,) * L, -1)
        for axis in range(L):
            wall = torch.zeros_like(cube.narrow(axis, 0, 1))
            walled = torch.cat([wall, cube, wall], axis)
            cube = cube | walled.narrow(axis, 0, self.m) | walled.narrow(axis, 2, self.m)
        return cube.flatten(0, L - 1) | self.edge().unsqueeze(-1)

    @property
    def frame(self) -> Frame:
        """The box that it fills."""
        return Frame(self.centre, self.basis, self.low, self.low + self.step * (self.m - 1))

    def expand(self, num_data: int) -> Grid:
        """One place for all data, where a grid has one."""
        parts = (self.centre, self.basis, self.low, self.step)
        centre, basis, low, step = (part.expand(num_data, *part.shape[1:]) for part in parts)
        return Grid(centre, basis, low, step, self.m, self.log_joint, self.unknown)

    def take(self, keep: Tensor) -> Grid:
        """The grids of some data."""
        centre, basis, low, step = (part[keep] for part in (self.centre, self.basis, self.low, self.step))
        return Grid(centre, basis, low, step, self.m, self.log_joint[:, keep], self.unknown[:, keep])


class QuadraturePosterior(dist.TorchDistribution):
    r"""The exact posterior, ``batch_shape (N,)``, ``event_shape (L,)``, over the unconstrained vector u.

    ``log_prob`` is exact up to the error of the evidence: :math:`\log p(x, u) - \log p(x)`. ``mean``, ``variance``
    and ``covariance_matrix`` are sums over the grid. ``sample`` draws from the multilinear interpolation of the
    gridded density and corrects each draw by independence Metropolis-Hastings steps against the density itself.

    Attributes:
        log_evidence: log p(x), ``(N,)``, nats per datum.
        error_bound: bound on the error of ``log_evidence``, ``(N,)``, nats.
        num_evaluations: evaluations of the log joint, over all data.
        seconds: wall time of the route.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  torch's own convention
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        target: Target,
        grids: list[tuple[Tensor, Grid]],
        log_evidence: Tensor,
        error_bound: Tensor,
    ) -> None:
        self._target = target
        self._grids = grids
        self.log_evidence = log_evidence
        self.error_bound = error_bound
        self.num_evaluations = 0
        self.seconds = 0.0
        self._mean, self._covariance = self._moments()
        super().__init__(torch.Size([target.num_data]), torch.Size([target.latent_dim]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(u|x), ``(..., N)``."""
        return self._target.log_joint(value) - self.log_evidence

    @property
    def mean(self) -> Tensor:
        """Posterior mean, ``(N, L)``."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Posterior variance, ``(N, L)``."""
        return self._covariance.diagonal(dim1=-2, dim2=-1)

    @property
    def covariance_matrix(self) -> Tensor:
        """Posterior covariance, ``(N, L, L)``."""
        return self._covariance

    @property
    def peak(self) -> tuple[Tensor, Tensor]:
        """The highest point of each datum's grid, u ``(N, L)``, and log p(x, u) there, ``(N,)``, nats."""
        points, heights = [], []
        for rows, grid in self._grids:
            height, place = grid.log_joint.max(0)
            points.append((rows, grid.points()[place, torch.arange(len(place), device=place.device)]))
            heights.append((rows, height))
        return scatter(points, self._target.num_data), scatter(heights, self._target.num_data)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the posterior mean of ``function``, which maps u ``(G, n, L)`` to ``(G, n)`` or ``(G, n, M)``.

        It is called with the grids of some data at a time, so it must not depend on which data they are.
        """
        parts = []
        for rows, grid in self._grids:
            value = function(grid.points())
            weight = grid.log_joint.softmax(0)
            parts.append((rows, (weight.reshape(*weight.shape, *(1,) * (value.dim() - 2)) * value).sum(0)))
        return scatter(parts, self._target.num_data)

    @torch.no_grad()
    def compute_marginals(self) -> dict[str, Tensor]:
        """Return p(c|x), the exact probabilities of each discrete latent site's K values, by name, ``(N, *batch, K)``.

        As ``log_evidence``, they are sums over the grid, over p(c|x, u).
        """
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._target.discrete}
        for rows, grid in self._grids if parts else ():
            target = self._target if len(rows) == self._target.num_data else self._target.rows(rows)
            points, weights = grid.points(), grid.log_joint.softmax(0)
            size = block_size(target)
            for u, weight in zip(points.split(size), weights.split(size), strict=True):
                for name, value in target.compute_marginals(u).items():
                    by_datum = value if target.per_datum else value.unsqueeze(1)
                    parts[name].append((rows, torch.einsum("gn,gn...->n...", weight, by_datum)))
        return {name: _add_up(found, self._target.num_data) for name, found in parts.items()}

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  torch's own signature
        """Draw u, ``(*sample_shape, N, L)``."""
        shape = torch.Size(sample_shape)
        u, log_weight = self._propose(shape.numel())
        for _ in range(_CORRECTIONS):
            other, other_weight = self._propose(shape.numel())
            accept = torch.rand_like(log_weight).log() < other_weight - log_weight
            u = torch.where(accept.unsqueeze(-1), other, u)
            log_weight = torch.where(accept, other_weight, log_weight)
        return u.reshape(*shape, *self.batch_shape, *self.event_shape)

    def _propose(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw u ``(S, N, L)`` from the interpolated density, with log(density / interpolation) ``(S, N)``."""
        draws, heights = [], []
        for rows, grid in self._grids:
            t = grid.draw(num_samples)
            draws.append((rows, grid.place(t).movedim(0, 1)))
            heights.append((rows, grid.interpolate(t).log().T))
        u, height = (scatter(part, self._target.num_data).movedim(0, 1) for part in (draws, heights))
        return u, self._target.log_joint(u) - height

    def expand(self, batch_shape: Any, _instance: Any = None) -> QuadraturePosterior:
        """Return self; only its own batch shape is possible."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(say(f"batch shape {tuple(self.batch_shape)}", f"{tuple(batch_shape)}", "sample((S,))"))
        return self

    def _moments(self) -> tuple[Tensor, Tensor]:
        means, covariances = [], []
        for rows, grid in self._grids:
            mean, covariance = grid.moments()
            means.append((rows, mean))
            covariances.append((rows, covariance))
        N = self._target.num_data
        return scatter(means, N), scatter(covariances, N)


def _indices(m: int, L: int) -> Tensor:
    """All index tuples of an m**L grid, ``(m**L, L)``."""
    if not L:
        return torch.zeros(1, 0, dtype=torch.long)
    return torch.cartesian_prod(*(torch.arange(m),) * L).reshape(-1, L)


def _add_up(parts: list[tuple[Tensor, Tensor]], num_data: int) -> Tensor:
    """Add the parts' rows up, in the order of the data."""
    out = parts[0][1].new_zeros(num_data, *parts[0][1].shape[1:])
    for rows, value in parts:
        out.index_add_(0, rows.to(out.device), value)
    return out


def scatter(parts: list[tuple[Tensor, Tensor]], num_data: int) -> Tensor:
    """Put the parts' rows back into the order of the data."""
    out = parts[0][1].new_empty(num_data, *parts[0][1].shape[1:])
    for rows, value in parts:
        out[rows.to(out.device)] = value
    return out
