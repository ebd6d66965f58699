"""Where every datum's mass is: a box around it in whitened coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.exact.density import CountedDensity
from pyro_vae.inference.exact.grids import Frame, Grid
from pyro_vae.inference.exact.peaks import Peaks, climb, prior_draws, summits

__all__ = ["COARSE", "DEPTH", "FINE", "locate", "missing_peaks", "survey"]

COARSE = {1: 1024, 2: 96, 3: 32}  # points a dimension of the grid that all data share
FINE = {1: 64, 2: 32, 3: 24}  # points a dimension to begin with, of each datum's own grid
DEPTH = 28.0  # nats below the peak at which the density counts as nothing
_DRAWS = 256  # of each datum's prior, that the coarse grid spans
_ZOOMS = 40  # five do, unless a datum lies far outside the prior


def survey(density: CountedDensity) -> Grid:
    """A coarse grid over the prior, shared by all data."""
    L = density.target.latent_dim
    draws = prior_draws(density.target, _DRAWS)
    low, high = draws.amin(0), draws.amax(0)
    low, high = low - (high - low) / 2, high + (high - low) / 2
    box = Frame(torch.zeros_like(low), torch.eye(L).to(low), low, high)
    return Grid.over(Frame(*(part.unsqueeze(0) for part in box)), COARSE[L], density)


def locate(density: CountedDensity, coarse: Grid) -> tuple[Frame, Peaks, Tensor]:
    """Find every datum's mass from a coarse grid: a box in whitened coordinates, peaks outside, the highest density.

    The highest of all grids counts, and of climbs where the mass touches the coarse grid's edge, ``(N,)``: of a heavy
    tail the box grows so wide that its own points may miss the peak.
    """
    target = density.target
    N, L = target.num_data, target.latent_dim
    coarse = coarse.expand(N)
    grid, top = coarse, coarse.log_joint.amax(0)
    far = _touches(coarse, coarse.log_joint > top - DEPTH).nonzero().flatten()
    if len(far):  # as heavy tails do: then a cell may be wider than the peak from the start
        top = top.index_copy(0, far, summits(target, coarse, far))
    for _ in range(_ZOOMS):  # zoom, and move while the mass touches the edge, until the box stays as it is
        frame, stable = _zoom(grid, top)
        if bool(stable.all()):
            break
        grid = Grid.over(frame, FINE[L], density)
        top = torch.maximum(top, grid.log_joint.amax(0))
    seen = grid.log_joint.double().logsumexp(0) + grid.log_cell
    return frame, missing_peaks(density, coarse, grid, frame, top=top, seen=seen), top


def missing_peaks(
    density: CountedDensity, coarse: Grid, own: Grid, frame: Frame, *, seen: Tensor, top: Tensor
) -> Peaks:
    """The peaks that hold mass beside what each datum's grids show: the evidence without them, and the highest density.

    Args:
        density: of all data.
        coarse: a grid over the prior.
        own: each datum's grid, where it has been found so far.
        frame: a box of each datum, in which a grid has been.
        seen: log evidence, as far as it is seen, ``(N,)``.
        top: the highest density seen, ``(N,)``.
    """
    return climb(density, coarse, own, frame, top).above(seen.to(frame.low) - DEPTH / 2)


def _zoom(grid: Grid, top: Tensor) -> tuple[Frame, Tensor]:
    """Re-frame each datum's grid around what lies within DEPTH nats of its peak; say which frames are stable."""
    here = grid.log_joint.amax(0)
    top = torch.where(here > top - DEPTH, top, here)
    nowhere = (here == -math.inf).nonzero().flatten()
    if len(nowhere):
        got = f"none at any point of a grid, for datum {int(nowhere[0])}"
        remedy = 'evidence(model, x, guide, method="importance") with a guide of the program'
        raise ValueError(say("a density of the latents that is wider than a grid's cells", got, remedy))
    mean, covariance = grid.moments()
    # cells wider than the mass hide its covariance: a fraction of a cell is the least that is known of it
    cell = grid.basis * grid.step.unsqueeze(-2)
    basis = torch.linalg.cholesky(covariance + 0.05 * cell @ cell.mT)
    active = grid.log_joint > top - DEPTH  # (G, n)
    t = grid.seen_from(mean, basis)
    touched = _touches(grid, active)
    reach = torch.where(touched, grid.m / 2, 1.0).to(cell).unsqueeze(-1)  # one cell; half the box where it is left
    margin = reach * torch.linalg.solve_triangular(basis, cell, upper=False).abs().sum(-1)  # in the new axes
    nothing = ~active.unsqueeze(-1)
    low = t.masked_fill(nothing, math.inf).amin(0) - margin
    high = t.masked_fill(nothing, -math.inf).amax(0) + margin
    old = grid.step.log().sum(-1) + math.log(grid.m) * grid.step.shape[-1] + torch.linalg.slogdet(grid.basis).logabsdet
    new = (high - low).log().sum(-1) + torch.linalg.slogdet(basis).logabsdet
    # a box that its active points touch may hide mass outside; one that shrank much is not yet resolved
    return Frame(mean, basis, low, high), (new > old - 0.7) & ~touched


def _touches(grid: Grid, active: Tensor) -> Tensor:
    return (active & grid.edge().unsqueeze(-1)).any(0)
