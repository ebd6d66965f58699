"""Sums over grids, with bounds on their errors; and the grids that are fine enough, gathered."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.inference.exact.grids import Grid, scatter

__all__ = ["Found", "integral", "rounding"]

_LEAK = 1e-3  # share of the mass at the grid's edge above which no bound is given


class Found:
    """The grids that are fine enough, each with its data, their log integrals and the bounds on the errors."""

    def __init__(self, num_data: int, device: torch.device) -> None:
        self.grids: list[tuple[Tensor, Grid]] = []
        self.num_data = num_data
        self._there = torch.zeros(num_data, dtype=torch.bool, device=device)
        self._evidence: list[tuple[Tensor, Tensor]] = []
        self._bound: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Tensor, grid: Grid, evidence: Tensor, bound: Tensor) -> None:
        """Take in the grids of some data, if any."""
        if len(rows):
            self.grids.append((rows, grid))
            self._there[rows] = True
            self._evidence.append((rows, evidence))
            self._bound.append((rows, bound))

    def missing(self) -> Tensor:
        """The data that none of the grids is of."""
        return (~self._there).nonzero().squeeze(-1)

    def evidence_and_bound(self) -> tuple[Tensor, Tensor]:
        """The log integrals and the bounds, ``(N,)`` each, in the order of the data."""
        return scatter(self._evidence, self.num_data), scatter(self._bound, self.num_data)


def integral(grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the integral, the bound on its error, and the part of it that is rounding, each ``(n,)``."""
    L = grid.low.shape[-1]
    peak = grid.log_joint.amax(0)
    weight = (grid.log_joint - peak.clamp_min(torch.finfo(peak.dtype).min)).exp()
    total = weight.sum(0, dtype=torch.float64)
    # The geometric mean of both moves: a kinked density quarters its error at a doubling, a smooth one far faster;
    # either alone can be small by accident.
    moved = (_move(weight, total, grid.m, L, 2) * _move(weight, total, grid.m, L, 4)).sqrt()
    edge = (weight * grid.brink()).sum(0, dtype=torch.float64) / total * grid.m / 2
    edge = edge.masked_fill(edge > _LEAK, math.inf)  # the mass goes on beyond the grid: nothing bounds it
    value = total.log() + peak + grid.log_cell
    rounded = rounding(peak)
    error = moved + edge + rounded
    return value.to(peak), error.to(peak), rounded.to(peak)


def _move(weight: Tensor, total: Tensor, m: int, L: int, every: int) -> Tensor:
    """The largest move of the log integral among the grids that keep one point in ``every``, ``(n,)``."""
    cube = weight.reshape(*(m // every, every) * L, -1)
    sums = cube.sum(tuple(range(0, 2 * L, 2)), dtype=torch.float64).flatten(0, L - 1)
    return (sums.log() + L * math.log(every) - total.log()).abs().amax(0)


def rounding(value: Tensor) -> Tensor:
    """What rounding alone may move a log density by, nats."""
    return 4 * torch.finfo(value.dtype).eps * (1 + value.abs().double())
