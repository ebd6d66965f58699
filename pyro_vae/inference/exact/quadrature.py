"""The exact posterior and evidence of a few latent dimensions, by numerical integration with an error bound."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.exact.frames import DEPTH, FINE, CountedDensity, locate
from pyro_vae.inference.exact.grids import Frame, Grid, QuadraturePosterior, scatter
from pyro_vae.inference.exact.peaks import Peaks
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["QuadraturePosterior", "quadrature"]

MAX_LATENT_DIM = 3
_LEAK = 1e-3  # share of the mass at the grid's edge above which no bound is given


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

    Discrete latent sites are summed, as everywhere; their probabilities are ``compute_marginals()`` of the result. A
    program of discrete sites alone has no z to integrate over: its sum is the evidence.

    A coarse grid over the prior, shared by all data so that the decoder runs once for all of them, shows where each
    datum's mass is. A grid of its own then covers that mass, in axes whitened by its covariance, and is doubled until
    the sum has converged. Equal weights on a regular grid (the trapezoidal rule) converge geometrically for a smooth
    density that vanishes at the ends, quadratically where it has kinks.

    Mass far outside the prior's is followed. A peak narrower than a cell of the coarse grid still raises the log
    density around it: from the highest places where the coarse grid rises a climb finds the top, the datum's grid is
    widened to take it in and doubled until it shows it. Where ``max_points`` does not allow that, the error bound is
    infinite. A peak that another one's mass drowns at every point of the coarse grid leaves no trace: no rule of so
    many evaluations finds it.

    The error bound is the geometric mean of how far the result moves, at most, among the grids of twice and of four
    times the spacing, plus the mass seen at the grid's edge, plus the rounding of the dtype. Points at which the
    density cannot be computed, as where a covariance has no Cholesky factor, count as none, and those next to them as
    edge: mass that reaches them widens the bound, or leaves none.

    Source: Trefethen & Weideman 2014, The exponentially convergent trapezoidal rule, SIAM Review 56.

    Args:
        model: a Pyro program with at most three latent numbers a datum, or a Target in place of program and data.
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
    if not tolerance >= 0:  # infinity: no grid is doubled
        raise ValueError(say("a tolerance of at least 0 nats", f"{tolerance}", "tolerance=1e-3"))
    target = as_target(model, x, plate=plate)
    L = target.latent_dim
    if L > MAX_LATENT_DIM:
        count = f"about {FINE[2]}**{L} = {float(FINE[2]) ** L:.0e} evaluations of the model a datum"
        remedy = "mcmc or variational inference, whose cost does not grow like that"
        raise ValueError(say(f"at most {MAX_LATENT_DIM} latent dimensions", f"{L}, which would take {count}", remedy))
    m = FINE.get(L, 4) if resolution is None else positive_integer(resolution, "resolution", minimum=4)
    m += -m % 4
    density = CountedDensity(target)
    if L:
        frame, peaks = locate(density)
        frame, missed = peaks.reached(frame, depth=DEPTH, points=_finest(m, L, max_points))
        refined = _refine(density, frame, peaks, missed, m=m, tolerance=tolerance, max_points=max_points)
    else:
        refined = _sum_alone(density)
    posterior = QuadraturePosterior(target, *refined)
    posterior.num_evaluations = density.count
    posterior.seconds = time.perf_counter() - start
    return posterior


def _sum_alone(density: CountedDensity) -> tuple[list[tuple[Tensor, Grid]], Tensor, Tensor]:
    """What :func:`_refine` returns where no latent site is continuous: the sum over discrete ones, exact."""
    origin = density.target.origin
    N = len(origin)
    grid = Grid.over(Frame(origin, origin.new_zeros(N, 0, 0), origin, origin), 1, density)
    value = grid.log_joint.squeeze(0)
    return [(torch.arange(N, device=value.device), grid)], value, _rounding(value).to(value)


def _rounding(value: Tensor) -> Tensor:
    return 4 * torch.finfo(value.dtype).eps * (1 + value.abs().double())


def _finest(m: int, L: int, max_points: int) -> int:
    """Points a dimension after the last doubling."""
    while (2 * m) ** L <= max_points:
        m *= 2
    return m


def _refine(
    density: CountedDensity, frame: Frame, peaks: Peaks, missed: Tensor, *, m: int, tolerance: float, max_points: int
) -> tuple[list[tuple[Tensor, Grid]], Tensor, Tensor]:
    """Double each datum's grid until its bound is below the tolerance and its peaks are shown, or points run out.

    Returns:
        The grids, each with its data; the log integral and the bound on its error, ``(N,)`` each.
    """
    N, L = frame.centre.shape
    pending = torch.arange(N, device=missed.device)
    grids, evidence, bound = [], [], []
    while len(pending):
        grid = Grid.over(frame.take(pending), m, density.of(pending))
        value, error, rounding = _integral(grid)
        done = (error <= tolerance) | (error - rounding < rounding)
        done &= missed[pending] | peaks.take(pending).resolved(grid.basis, grid.step)
        done |= torch.tensor((2 * m) ** L > max_points)
        if done.any():
            rows = pending[done]
            grids.append((rows, grid.take(done)))
            evidence.append((rows, value[done]))
            bound.append((rows, error.masked_fill(missed[pending], math.inf)[done]))
        pending = pending[~done]
        m *= 2
    return grids, scatter(evidence, N), scatter(bound, N)


def _integral(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the integral, the bound on its error, and the part of it that is rounding, each ``(n,)``."""
    L = grid.low.shape[-1]
    f = grid.log_joint.double()
    total = f.logsumexp(0)
    # The geometric mean of both moves: a kinked density quarters its error at a doubling, a smooth one far faster;
    # either alone can be small by accident.
    moved = (_move(f, grid.m, L, 2) * _move(f, grid.m, L, 4)).sqrt()
    edge = (f.masked_fill(~grid.brink(), -math.inf).logsumexp(0) - total).exp() * grid.m / 2
    edge = edge.masked_fill(edge > _LEAK, math.inf)  # the mass goes on beyond the grid: nothing bounds it
    value = total + grid.log_cell
    rounding = _rounding(grid.log_joint.amax(0))
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
