"""Where every datum's mass is: a box around it in whitened coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.inference.exact.grids import Frame, Grid
from pyro_vae.inference.exact.peaks import Peaks, climb
from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.substitution import NaNWithoutFactor
from pyro_vae.inference.target.target import Target
from pyro_vae.randomness import fork_rng

__all__ = ["COARSE", "DEPTH", "FINE", "CountedDensity", "locate"]

COARSE = {1: 1024, 2: 96, 3: 32}  # points a dimension of the grid that all data share
FINE = {1: 64, 2: 32, 3: 24}  # points a dimension to begin with, of each datum's own grid
DEPTH = 28.0  # nats below the peak at which the density counts as nothing
_ZOOMS = 40  # five do, unless a datum lies far outside the prior


class CountedDensity:
    """The log joint of all data at u ``(G, N or 1, L)``, ``(G, N)``, NaN where it cannot be computed; it counts."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.count = 0

    def __call__(self, u: Tensor) -> Tensor:
        """Of all data."""
        return self._evaluate(self.target, u)

    def of(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """The same of some data, ``(n,)``."""
        target = self.target if len(rows) == self.target.num_data else self.target.rows(rows)
        return lambda u: self._evaluate(target, u)

    def _evaluate(self, target: Target, u: Tensor) -> Tensor:
        with NaNWithoutFactor():
            value = log_joint_in_blocks(target, u)
        self.count += value.numel()
        return value


def locate(density: CountedDensity) -> tuple[Frame, Peaks]:
    """Find every datum's mass: a box around it in whitened coordinates, and the peaks that hold it."""
    target = density.target
    N, L = target.num_data, target.latent_dim
    with fork_rng(seed=0):  # a deterministic route takes nothing from the user's random stream
        draws = target.sample_prior(256).reshape(-1, L)
    low, high = draws.amin(0), draws.amax(0)
    low, high = low - (high - low) / 2, high + (high - low) / 2
    m = COARSE[L]
    eye = torch.eye(L).to(low).expand(N, L, L)
    box = Frame(torch.zeros_like(target.origin), eye, low.expand(N, L), high.expand(N, L))
    shared = Grid.over(Frame(*(part[:1] for part in box)), m, density)
    coarse = Grid(box.centre, eye, box.low, shared.step.expand(N, L), m, shared.log_joint, shared.unknown)
    grid = coarse
    for _ in range(_ZOOMS):  # zoom, and move while the mass touches the edge, until the box stays as it is
        frame, stable = _zoom(grid)
        if bool(stable.all()):
            break
        grid = Grid.over(frame, FINE[L], density)
    seen = grid.log_joint.double().logsumexp(0) + grid.log_cell  # about the evidence, if no peak was missed
    peaks = climb(target, coarse, frame).above(seen.to(low) - DEPTH / 2)
    return frame, peaks


def _zoom(grid: Grid) -> tuple[Frame, Tensor]:
    """Re-frame each datum's grid around what lies within DEPTH nats of its peak; say which frames are stable."""
    mean, covariance = grid.moments()
    # cells wider than the mass hide its covariance: a fraction of a cell is the least that is known of it
    cell = grid.basis * grid.step.unsqueeze(-2)
    basis = torch.linalg.cholesky(covariance + 0.05 * cell @ cell.mT)
    active = grid.log_joint > grid.log_joint.amax(0) - DEPTH  # (G, n)
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
