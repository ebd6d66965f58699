"""The exact posterior and evidence of a few latent dimensions, by numerical integration with an error bound."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.program import Program
from pyro_vae.inference.target import Target

__all__ = ["QuadraturePosterior", "quadrature"]

MAX_LATENT_DIM = 3
_COARSE = {1: 1024, 2: 96, 3: 32}  # points a dimension of the grid that all data share
_FINE = {1: 64, 2: 32, 3: 24}  # points a dimension to begin with, of each datum's own grid
_DEPTH = 28.0  # nats below the peak at which the density counts as nothing
_ZOOMS = 40  # five do, unless a datum lies far outside the prior
_CORRECTIONS = 4  # the interpolation is within some per cent of the density, so few steps suffice
_LEAK = 1e-3  # share of the mass at the grid's edge above which no bound is given
_BLOCK = 2**23  # numbers held at once


@dataclass(frozen=True)
class _Grid:
    """Regular grids, one a datum, in coordinates t of its own: u = centre + basis t.

    ``centre (n, L)``, ``basis (n, L, L)``, ``low (n, L)`` and ``step (n, L)`` place m points a dimension at
    ``t = low + step * index``; ``log_joint (m**L, n)`` is the density there.
    """

    centre: Tensor
    basis: Tensor
    low: Tensor
    step: Tensor
    m: int
    log_joint: Tensor

    @property
    def log_cell(self) -> Tensor:
        """Log volume of a cell in u, ``(n,)``."""
        return self.step.log().sum(-1) + torch.linalg.slogdet(self.basis).logabsdet

    def coordinates(self) -> Tensor:
        """Grid points t, ``(m**L, n, L)``."""
        return self.low + _indices(self.m, self.low.shape[-1]).to(self.low).unsqueeze(1) * self.step

    def points(self) -> Tensor:
        """Grid points u, ``(m**L, n, L)``."""
        return self.centre + torch.einsum("nij,gnj->gni", self.basis, self.coordinates())

    def interpolate(self, t: Tensor) -> Tensor:
        """Multilinear interpolation of the density at t ``(S, n, L)``, up to a factor a datum, ``(S, n)``."""
        L = t.shape[-1]
        density = (self.log_joint - self.log_joint.amax(0)).exp()
        place = ((t - self.low) / self.step).clamp(0, self.m - 1)
        below = place.floor().clamp_max(self.m - 2)
        above = place - below
        stride = self.m ** torch.arange(L - 1, -1, -1, device=t.device)
        total = torch.zeros_like(place[..., 0])
        for corner in itertools.product((0, 1), repeat=L):
            side = torch.tensor(corner, device=t.device)
            index = ((below.long() + side) * stride).sum(-1)
            total += torch.where(side.bool(), above, 1 - above).prod(-1) * density.gather(0, index)
        return total


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
        grids: list[tuple[Tensor, _Grid]],
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
            points.append((rows, grid.points()[place, torch.arange(len(place))]))
            heights.append((rows, height))
        return _scatter(points, self._target.num_data), _scatter(heights, self._target.num_data)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the posterior mean of ``function``, which maps u ``(G, n, L)`` to ``(G, n)`` or ``(G, n, M)``.

        It is called with the grids of some data at a time, so it must not depend on which data they are.
        """
        parts = []
        for rows, grid in self._grids:
            value = function(grid.points())
            weight = grid.log_joint.softmax(0)
            parts.append((rows, (weight.reshape(*weight.shape, *(1,) * (value.dim() - 2)) * value).sum(0)))
        return _scatter(parts, self._target.num_data)

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
            L = grid.low.shape[-1]
            node = torch.multinomial(grid.log_joint.softmax(0).T, num_samples, replacement=True).T  # (S, n)
            t = grid.coordinates().gather(0, node.unsqueeze(-1).expand(-1, -1, L))
            hat = torch.rand(2, *t.shape).to(t).sum(0) - 1  # the hat function of a node is a triangular density
            t = t + hat * grid.step
            draws.append((rows, (grid.centre + torch.einsum("nij,snj->sni", grid.basis, t)).movedim(0, 1)))
            heights.append((rows, grid.interpolate(t).log().T))
        u, height = (_scatter(part, self._target.num_data).movedim(0, 1) for part in (draws, heights))
        return u, self._target.log_joint(u) - height

    def expand(self, batch_shape: Any, _instance: Any = None) -> QuadraturePosterior:
        """Return self; only its own batch shape is possible."""
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(say(f"batch shape {tuple(self.batch_shape)}", f"{tuple(batch_shape)}", "sample((S,))"))
        return self

    def _moments(self) -> tuple[Tensor, Tensor]:
        means, covariances = [], []
        for rows, grid in self._grids:
            points, weight = grid.points(), grid.log_joint.softmax(0)
            mean = torch.einsum("gn,gni->ni", weight, points)
            centred = points - mean
            means.append((rows, mean))
            covariances.append((rows, torch.einsum("gn,gni,gnj->nij", weight, centred, centred)))
        N = self._target.num_data
        return _scatter(means, N), _scatter(covariances, N)


@torch.no_grad()
def quadrature(
    model: Program,
    x: Tensor | tuple[Any, ...],
    *,
    plate: str | None = "data",
    tolerance: float = 1e-3,
    resolution: int | None = None,
    max_points: int = 2**18,
) -> QuadraturePosterior:
    r"""Return the exact posterior and :math:`\log p(x) = \log \int p(x|z)\,p(z)\,dz` by integration over z.

    A coarse grid over the prior, shared by all data so that the decoder runs once for all of them, shows where each
    datum's mass is. A grid of its own then covers that mass, in axes whitened by its covariance, and is doubled until
    the sum has settled. Equal weights on a regular grid (the trapezoidal rule) converge geometrically for a smooth
    density that vanishes at the ends, quadratically where it has kinks.

    Mass far outside the prior's is followed. Mass that is both narrower than a cell of the coarse grid and far from
    every peak that the grid sees can be missed, as by any integration rule.

    The error bound is the geometric mean of how far the result moves, at most, among the grids of twice and of four
    times the spacing, plus the mass seen at the grid's edge, plus the rounding of the dtype.

    Source: Trefethen & Weideman 2014, The exponentially convergent trapezoidal rule, SIAM Review 56.

    Args:
        model: a Pyro program with at most three latent numbers a datum.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        plate: the data plate; None for one posterior of the whole program.
        tolerance: a datum's grid is doubled until its error bound is below this, in nats; what rounding alone
            exceeds is not refined further.
        resolution: points a dimension to begin with (a multiple of four); doubled from there.
        max_points: the most points a datum; where the bound is still above the tolerance, it says so by itself.

    Raises:
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.Target`.
        ValueError: if the latent dimension exceeds three; the message states the evaluations it would take.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
        >>> truth = quadrature(model, torch.zeros(7, 5))
        >>> bool((truth.error_bound < 1e-3).all())
        True
    """
    start = time.perf_counter()
    target = Target(model, x, plate=plate)
    L = target.latent_dim
    if L > MAX_LATENT_DIM:
        count = f"about {_FINE[2]}**{L} = {float(_FINE[2]) ** L:.0e} evaluations of the model a datum"
        remedy = "mcmc or variational inference, whose cost does not grow like that"
        raise ValueError(say(f"at most {MAX_LATENT_DIM} latent dimensions", f"{L}, which would take {count}", remedy))
    m = _FINE[L] if resolution is None else positive_integer(resolution, "resolution", minimum=4)
    m += -m % 4
    counter = _Counter(target)
    frame = _locate(counter)
    pending = torch.arange(target.num_data)
    grids: list[tuple[Tensor, _Grid]] = []
    evidence, bound = [], []
    while len(pending):
        counter.target = target if len(pending) == target.num_data else target.rows(pending)
        grid = counter.grid(tuple(part[pending] for part in frame), m)
        value, error, rounding = _integral(grid)
        done = error <= max(tolerance, 0.0)
        done |= (error - rounding < rounding) | torch.tensor((2 * m) ** L > max_points)
        if done.any():
            rows = pending[done]
            grids.append((rows, _take(grid, done)))
            evidence.append((rows, value[done]))
            bound.append((rows, error[done]))
        pending = pending[~done]
        m *= 2
    posterior = QuadraturePosterior(
        target, grids, _scatter(evidence, target.num_data), _scatter(bound, target.num_data)
    )
    posterior.num_evaluations = counter.count
    posterior.seconds = time.perf_counter() - start
    return posterior


class _Counter:
    """Evaluates the log joint of grids in blocks of bounded memory, and counts."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count = 0
        numbers = sum(arg.numel() for arg in target.args if isinstance(arg, Tensor))
        self.width = max(numbers // target.num_data, 16)

    def log_joint(self, u: Tensor) -> Tensor:
        """``(G, n or 1, L)`` to ``(G, n)``; -inf where the density is not a number."""
        n = self.target.num_data
        size = max(_BLOCK // (n * self.width), 1)
        value = torch.cat([self.target.log_joint(block) for block in u.split(size)])
        self.count += value.numel()
        return value.masked_fill(value.isnan(), -math.inf)

    def grid(self, frame: tuple[Tensor, ...], m: int) -> _Grid:
        centre, basis, low, high = frame
        step = (high - low) / (m - 1)
        grid = _Grid(centre, basis, low, step, m, torch.empty(0))
        return _Grid(centre, basis, low, step, m, self.log_joint(grid.points()))


def _locate(counter: _Counter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find every datum's mass: centre, basis, low and high of a box around it in whitened coordinates."""
    target = counter.target
    N, L = target.num_data, target.latent_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a deterministic route takes nothing from the user's random stream
        draws = target.sample_prior(256).reshape(-1, L)
    low, high = draws.amin(0), draws.amax(0)
    low, high = low - (high - low) / 2, high + (high - low) / 2
    m = _COARSE[L]
    step = (high - low) / (m - 1)
    shared = (low + _indices(m, L).to(low) * step).unsqueeze(1)  # (G, 1, L)
    log_joint = counter.log_joint(shared)
    eye = torch.eye(L).to(low).expand(N, L, L)
    grid = _Grid(torch.zeros_like(target.origin), eye, low.expand(N, L), step.expand(N, L), m, log_joint)
    for _ in range(_ZOOMS):  # zoom, and move while the mass touches the edge, until the box stays as it is
        frame, settled = _zoom(grid)
        if bool(settled.all()):
            break
        grid = counter.grid(frame, _FINE[L])
    return frame


def _zoom(grid: _Grid) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Re-frame each datum's grid around what lies within _DEPTH nats of its peak; say which frames are settled."""
    points = grid.points()
    weight = grid.log_joint.softmax(0)
    mean = torch.einsum("gn,gni->ni", weight, points)
    centred = points - mean
    covariance = torch.einsum("gn,gni,gnj->nij", weight, centred, centred)
    # cells wider than the mass hide its covariance: a fraction of a cell is the least that is known of it
    cell = grid.basis * grid.step.unsqueeze(-2)
    basis = torch.linalg.cholesky(covariance + 0.05 * cell @ cell.mT)
    active = grid.log_joint > grid.log_joint.amax(0) - _DEPTH  # (G, n)
    t = torch.linalg.solve_triangular(basis, centred.movedim(0, -1), upper=False).movedim(-1, 0)
    touched = _touches(grid, active)
    reach = torch.where(touched, grid.m / 2, 1.0).to(cell).unsqueeze(-1)  # one cell; half the box where it is left
    margin = reach * torch.linalg.solve_triangular(basis, cell, upper=False).abs().sum(-1)  # in the new axes
    nothing = ~active.unsqueeze(-1)
    low = t.masked_fill(nothing, math.inf).amin(0) - margin
    high = t.masked_fill(nothing, -math.inf).amax(0) + margin
    old = grid.step.log().sum(-1) + math.log(grid.m) * grid.step.shape[-1] + torch.linalg.slogdet(grid.basis).logabsdet
    new = (high - low).log().sum(-1) + torch.linalg.slogdet(basis).logabsdet
    # a box that its active points touch may hide mass outside; one that shrank much is not yet resolved
    return (mean, basis, low, high), (new > old - 0.7) & ~touched


def _touches(grid: _Grid, active: Tensor) -> Tensor:
    return (active & _edge(grid).unsqueeze(-1)).any(0)


def _edge(grid: _Grid) -> Tensor:
    index = _indices(grid.m, grid.low.shape[-1])
    return ((index == 0) | (index == grid.m - 1)).any(-1).to(grid.low.device)


def _integral(grid: _Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the integral, the bound on its error, and the part of it that is rounding, each ``(n,)``."""
    L = grid.low.shape[-1]
    f = grid.log_joint.double()
    total = f.logsumexp(0)
    # The geometric mean of both moves: a kinked density quarters its error at a doubling, a smooth one far faster;
    # either alone can be small by accident.
    moved = (_move(f, grid.m, L, 2) * _move(f, grid.m, L, 4)).sqrt()
    edge = (f[_edge(grid)].logsumexp(0) - total).exp() * grid.m / 2
    edge = edge.masked_fill(edge > _LEAK, math.inf)  # the mass goes on beyond the grid: nothing bounds it
    value = total + grid.log_cell
    rounding = 4 * torch.finfo(grid.log_joint.dtype).eps * (1 + grid.log_joint.amax(0).abs().double())
    error = moved + edge + rounding
    return value.to(grid.log_joint), error.to(grid.log_joint), rounding.to(grid.log_joint)


def _move(f: Tensor, m: int, L: int, every: int) -> Tensor:
    """The largest move of the log integral among the grids that keep one point in ``every``, ``(n,)``."""
    cube = f.reshape(*(m,) * L, -1)
    sums = [
        cube[tuple(slice(start, None, every) for start in starts)].flatten(0, -2).logsumexp(0)
        for starts in itertools.product(range(every), repeat=L)
    ]
    return (torch.stack(sums) + L * math.log(every) - f.logsumexp(0)).abs().amax(0)


def _take(grid: _Grid, keep: Tensor) -> _Grid:
    return _Grid(grid.centre[keep], grid.basis[keep], grid.low[keep], grid.step[keep], grid.m, grid.log_joint[:, keep])


def _indices(m: int, L: int) -> Tensor:
    """All index tuples of an m**L grid, ``(m**L, L)``."""
    return torch.cartesian_prod(*(torch.arange(m),) * L).reshape(-1, L)


def _scatter(parts: list[tuple[Tensor, Tensor]], num_data: int) -> Tensor:
    """Put the parts' rows back into the order of the data."""
    out = parts[0][1].new_empty(num_data, *parts[0][1].shape[1:])
    for rows, value in parts:
        out[rows.to(out.device)] = value
    return out
