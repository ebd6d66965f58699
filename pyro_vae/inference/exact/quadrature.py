"""The exact posterior and evidence of a few latent dimensions, by numerical integration with an error bound."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from pyro_vae.checks import positive_integer, say
from pyro_vae.inference.exact.density import CountedDensity
from pyro_vae.inference.exact.frames import DEPTH, FINE, locate, survey
from pyro_vae.inference.exact.grids import Frame, Grid, QuadraturePosterior
from pyro_vae.inference.exact.lattice import share
from pyro_vae.inference.exact.sums import Found, integral, rounding
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["QuadraturePosterior", "quadrature"]

_LOST = 1.0  # nats below the highest density seen, where a grid's own highest shows that its points miss the peak

MAX_LATENT_DIM = 3


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
    datum's mass is. Where the likelihood is of an exponential family, log p(x|z) of all data at all points is one
    matrix product, and the shared grid is doubled as long as that resolves data. A grid of its own then covers the mass
    of each datum that is left, in axes whitened by its covariance, and is doubled until the sum has converged. Equal
    weights on a regular grid (the trapezoidal rule) converge geometrically for a smooth density that vanishes at the
    ends, quadratically where it has kinks.

    Mass far outside the prior's is followed. A peak narrower than a cell of the coarse grid still raises the log
    density around it: from the highest places where the coarse grid rises a climb finds the top, the datum's grid is
    widened to take it in and doubled until it shows it. Where ``max_points`` does not allow that, the error bound is
    infinite. A peak that another one's mass drowns at every point of the coarse grid leaves no trace there: draws of
    the prior find those that it has, narrow components of a mixture, and draws of the posterior as far as it is known
    those that lie between the points of its grid (eight or more a datum, so of at most 256 data); no rule of so many
    evaluations finds all.

    The error bound is the geometric mean of how far the result moves, at most, among the grids of twice and of four
    times the spacing, plus the mass seen at the grid's edge, plus the rounding of the dtype. Points at which the
    density cannot be computed, as where a covariance has no Cholesky factor or a probability rounds to 1, count as
    none, and those next to them as edge: mass that reaches them widens the bound, or leaves none.

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
    found = Found(target.num_data, target.origin.device)
    if not L:
        _sum_alone(density, found)
    else:
        coarse = survey(density)
        if target.has_products and resolution is None:
            share(density, coarse, found, tolerance=tolerance, max_points=max_points)
        left = found.missing()
        if len(left):
            own = coarse.expand(target.num_data).take(left)
            _refine(density.of(left), own, left, found, m=m, tolerance=tolerance, max_points=max_points)
    posterior = QuadraturePosterior(target, found.grids, *found.evidence_and_bound())
    posterior.num_evaluations = density.count
    posterior.seconds = time.perf_counter() - start
    return posterior


def _sum_alone(density: CountedDensity, found: Found) -> None:
    """Where no latent site is continuous: the sum over discrete ones, exact."""
    origin = density.target.origin
    N = len(origin)
    grid = Grid.over(Frame(origin, origin.new_zeros(N, 0, 0), origin, origin), 1, density)
    value = grid.log_joint.squeeze(0)
    found.add(torch.arange(N, device=value.device), grid, value, rounding(value).to(value))


def _finest(m: int, L: int, max_points: int) -> int:
    """Points a dimension after the last doubling."""
    while (2 * m) ** L <= max_points:
        m *= 2
    return m


def _refine(
    density: CountedDensity,
    coarse: Grid,
    rows: Tensor,
    found: Found,
    *,
    m: int,
    tolerance: float,
    max_points: int,
) -> None:
    """Give some data grids of their own, doubled until the bound is below the tolerance and their peaks are shown."""
    L = density.target.latent_dim
    frame, peaks, top = locate(density, coarse)
    frame, missed = peaks.reached(frame, depth=DEPTH, points=_finest(m, L, max_points))
    pending = torch.arange(len(rows), device=missed.device)
    leaking = torch.zeros_like(missed)  # mass goes on beyond the grid: twice the points do not hold it
    while len(pending):
        grid = Grid.over(frame.take(pending), m, density.of(pending))
        value, error, rounded = integral(grid)
        shown = missed[pending] | peaks.take(pending).resolved(grid.basis, grid.step)
        lost = grid.log_joint.amax(0) < top[pending] - _LOST
        beyond = error.isinf() & shown & ~lost
        done = (error <= tolerance) | (error - rounded < rounded) | (beyond & leaking[pending])
        done &= shown & ~lost
        done |= torch.tensor((2 * m) ** L > max_points)
        leaking[pending] = beyond
        error = error.masked_fill(missed[pending] | lost, math.inf)
        found.add(rows[pending[done]], grid.take(done), value[done], error[done])
        pending = pending[~done]
        m *= 2
