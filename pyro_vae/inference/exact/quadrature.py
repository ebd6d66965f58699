"""The exact posterior and evidence of a few latent dimensions, by numerical integration with an error bound."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.exact.grids import Frame, Grid, QuadraturePosterior, scatter
from pyro_vae.inference.exact.peaks import Peaks, climb
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["QuadraturePosterior", "quadrature"]

MAX_LATENT_DIM = 3
_COARSE = {1: 1024, 2: 96, 3: 32}  # points a dimension of the grid that all data share
_FINE = {1: 64, 2: 32, 3: 24}  # points a dimension to begin with, of each datum's own grid
_DEPTH = 28.0  # nats below the peak at which the density counts as nothing
_ZOOMS = 40  # five do, unless a datum lies far outside the prior
_LEAK = 1e-3  # share of the mass at the grid's edge above which no bound is given
_BLOCK = 2**23  # numbers held at once


@torch.no_grad()
def quadrature(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
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

    Mass far outside the prior's is followed. A peak narrower than a cell of the coarse grid still raises the log
    density around it: from the highest places where the coarse grid rises a climb finds the top, the datum's grid is
    widened to take it in and doubled until it shows it. Where ``max_points`` does not allow that, the error bound is
    infinite. A peak that another one's mass drowns at every point of the coarse grid leaves no trace: no rule of so
    many evaluations finds it.

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
        TypeError, ValueError: as :class:`~pyro_vae.inference.target.target.Target`; if a setting is no number, or
            too small.
        ValueError: if the latent dimension exceeds three; the message states the evaluations it would take.

    Example:
        >>> from pyro_vae import Model, likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(networks.mlp(2, 5), scale=0.5))
        >>> truth = quadrature(model, torch.zeros(7, 5))
        >>> bool((truth.error_bound < 1e-3).all())
        True
    """
    start = time.perf_counter()
    positive_integer(max_points, "max_points")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise TypeError(say("a tolerance in nats", f"{tolerance!r}", "tolerance=1e-3"))
    if not tolerance >= 0:
        raise ValueError(say("a tolerance of at least 0 nats", f"{tolerance}", "tolerance=1e-3"))
    target = as_target(model, x, plate=plate)
    L = target.latent_dim
    if L > MAX_LATENT_DIM:
        count = f"about {_FINE[2]}**{L} = {float(_FINE[2]) ** L:.0e} evaluations of the model a datum"
        remedy = "mcmc or variational inference, whose cost does not grow like that"
        raise ValueError(say(f"at most {MAX_LATENT_DIM} latent dimensions", f"{L}, which would take {count}", remedy))
    m = _FINE[L] if resolution is None else positive_integer(resolution, "resolution", minimum=4)
    m += -m % 4
    counter = _Counter(target)
    frame, peaks = _locate(counter)
    frame, missed = peaks.reached(frame, depth=_DEPTH, points=_finest(m, L, max_points))
    pending = torch.arange(target.num_data, device=target.origin.device)
    grids: list[tuple[Tensor, Grid]] = []
    evidence, bound = [], []
    while len(pending):
        counter.target = target if len(pending) == target.num_data else target.rows(pending)
        grid = counter.grid((frame[0][pending], frame[1][pending], frame[2][pending], frame[3][pending]), m)
        value, error, rounding = _integral(grid)
        done = error <= tolerance
        done |= error - rounding < rounding
        done &= missed[pending] | peaks.take(pending).resolved(grid.basis, grid.step)
        done |= torch.tensor((2 * m) ** L > max_points)
        error = error.masked_fill(missed[pending], math.inf)
        if done.any():
            rows = pending[done]
            grids.append((rows, grid.take(done)))
            evidence.append((rows, value[done]))
            bound.append((rows, error[done]))
        pending = pending[~done]
        m *= 2
    posterior = QuadraturePosterior(target, grids, scatter(evidence, target.num_data), scatter(bound, target.num_data))
    posterior.num_evaluations = counter.count
    posterior.seconds = time.perf_counter() - start
    return posterior


def _finest(m: int, L: int, max_points: int) -> int:
    """Points a dimension after the last doubling."""
    while (2 * m) ** L <= max_points:
        m *= 2
    return m


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

    def grid(self, frame: Frame, m: int) -> Grid:
        centre, basis, low, high = frame
        step = (high - low) / (m - 1)
        grid = Grid(centre, basis, low, step, m, torch.empty(0))
        return Grid(centre, basis, low, step, m, self.log_joint(grid.points()))


def _locate(counter: _Counter) -> tuple[Frame, Peaks]:
    """Find every datum's mass: a box around it in whitened coordinates, and the peaks that hold it."""
    target = counter.target
    N, L = target.num_data, target.latent_dim
    with fork_rng(seed=0):  # a deterministic route takes nothing from the user's random stream
        draws = target.sample_prior(256).reshape(-1, L)
    low, high = draws.amin(0), draws.amax(0)
    low, high = low - (high - low) / 2, high + (high - low) / 2
    m = _COARSE[L]
    step = (high - low) / (m - 1)
    eye = torch.eye(L).to(low).expand(N, L, L)
    shared = Grid(torch.zeros_like(low).unsqueeze(0), eye[:1], low.unsqueeze(0), step.unsqueeze(0), m, torch.empty(0))
    log_joint = counter.log_joint(shared.points())
    coarse = Grid(torch.zeros_like(target.origin), eye, low.expand(N, L), step.expand(N, L), m, log_joint)
    grid = coarse
    for _ in range(_ZOOMS):  # zoom, and move while the mass touches the edge, until the box stays as it is
        frame, settled = _zoom(grid)
        if bool(settled.all()):
            break
        grid = counter.grid(frame, _FINE[L])
    seen = grid.log_joint.double().logsumexp(0) + grid.log_cell  # about the evidence, if no peak was missed
    peaks = climb(target, coarse, frame).above(seen.to(low) - _DEPTH / 2)
    return frame, peaks


def _zoom(grid: Grid) -> tuple[Frame, Tensor]:
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


def _touches(grid: Grid, active: Tensor) -> Tensor:
    return (active & grid.edge().unsqueeze(-1)).any(0)


def _integral(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the integral, the bound on its error, and the part of it that is rounding, each ``(n,)``."""
    L = grid.low.shape[-1]
    f = grid.log_joint.double()
    total = f.logsumexp(0)
    # The geometric mean of both moves: a kinked density quarters its error at a doubling, a smooth one far faster;
    # either alone can be small by accident.
    moved = (_move(f, grid.m, L, 2) * _move(f, grid.m, L, 4)).sqrt()
    edge = (f[grid.edge()].logsumexp(0) - total).exp() * grid.m / 2
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
