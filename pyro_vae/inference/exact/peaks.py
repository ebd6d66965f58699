"""The peaks of every datum's density that a frame leaves out, climbed to from where a coarse grid or a draw rises."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.exact.density import CountedDensity
from pyro_vae.inference.exact.grids import Frame, Grid
from pyro_vae.inference.optimum.climb import ascend, decrement, flat
from pyro_vae.inference.target.substitution import NaNWithoutFactor
from pyro_vae.inference.target.target import Target
from pyro_vae.randomness import fork_rng

__all__ = ["Peaks", "climb", "prior_draws", "summits"]

_MOST = 6  # peaks climbed to from the grid, a datum
_DRAWS = 256  # of the prior, that may show a peak which the grid hides
_OWN_DRAWS = 2048  # of the posteriors that the grids show, over all data; a datum's at most half as many
_FEWEST = 8  # of a datum's own draws: fewer show nothing, and drawing takes a pass over its grid
_HIGHEST = 4  # draws looked at, a datum
_HIDDEN = 2.0  # nats that a density rises within a cell of a grid which does not show its peak
_STEPS = 30  # of Newton's method, from within a cell of the top
_WIDEST = 2.0  # spacing of a grid in a peak's standard deviations at which its sum is off by about a per cent


@dataclass(frozen=True)
class Peaks:
    """Up to K peaks a datum; the same one may come twice.

    Attributes:
        u: where they are, ``(K, N, L)``.
        log_mass: Laplace's log integral around each, ``(K, N)``, nats; -inf where the climb found no peak.
        precision: minus the Hessian there, ``(K, N, L, L)``.
    """

    u: Tensor
    log_mass: Tensor
    precision: Tensor

    def take(self, keep: Tensor) -> Peaks:
        """The peaks of some data."""
        return Peaks(self.u[:, keep], self.log_mass[:, keep], self.precision[:, keep])

    def above(self, log_mass: Tensor) -> Peaks:
        """The peaks alone that hold more than a mass a datum, ``(N,)``; the others count as none."""
        return Peaks(self.u, self.log_mass.masked_fill(self.log_mass < log_mass, -math.inf), self.precision)

    def reached(self, frame: Frame, *, depth: float, points: int) -> tuple[Frame, Tensor]:
        """A frame widened to take every peak in, to ``depth`` nats below its top, and the data where that cannot be.

        Where ``points`` a dimension are too few to show every peak in the wider frame, the frame is left as it is: it
        shows the peaks that it was made for.

        Returns:
            The frame, and whether a peak is missed, ``(N,)``.
        """
        centre, basis, low, high = frame
        t, found = frame.coordinates(self.u), self.log_mass.isfinite().unsqueeze(-1)
        reach = self._widths(basis) * math.sqrt(2 * depth)
        lower = torch.minimum(low, torch.where(found, t - reach, low).amin(0))
        higher = torch.maximum(high, torch.where(found, t + reach, high).amax(0))
        shown = self.resolved(basis, (higher - lower) / (points - 1))
        low, high = torch.where(shown.unsqueeze(-1), lower, low), torch.where(shown.unsqueeze(-1), higher, high)
        return Frame(centre, basis, low, high), ~shown

    def resolved(self, basis: Tensor, step: Tensor) -> Tensor:
        """Whether the spacing of a grid shows every peak, ``(N,)``."""
        steps = (basis * step.unsqueeze(-2)).expand_as(self.precision)  # columns: from point to point
        spacing = (steps.mT @ self.precision @ steps).diagonal(dim1=-2, dim2=-1).sqrt().amax(-1)
        return ((spacing <= _WIDEST) | ~self.log_mass.isfinite()).all(0)

    def _widths(self, basis: Tensor) -> Tensor:
        """Each peak's standard deviations along the axes of a frame, ``(K, N, L)``."""
        eye = torch.eye(basis.shape[-1]).to(basis)
        found = self.log_mass.isfinite()[..., None, None]
        precision = torch.where(found, basis.mT @ self.precision @ basis, eye)
        return torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()


def prior_draws(target: Target, num_samples: int) -> Tensor:
    """Draws of the prior, so many of each datum's, ``(S, L)``, always the same."""
    with fork_rng(seed=0):  # a deterministic route takes nothing from the user's random stream
        return target.sample_prior(num_samples).reshape(-1, target.latent_dim)


def climb(density: CountedDensity, coarse: Grid, own: Grid, frame: Frame, top: Tensor) -> Peaks:
    """Climb from the highest points of a grid that no neighbour exceeds, and that lie outside a frame.

    A peak too narrow for the grid still raises the points around it in log density, far below its top. Where another
    peak covers it at every point of the grid it leaves no trace there. Draws of the prior show one that the prior has,
    such as a narrow component of a mixture; draws of the posterior as far as it is known, which lie between the points
    of its grid, show one that the likelihood has where few instruments agree. Those that rise above all that grids
    have shown are climbed from as well, inside the frame too.

    Args:
        density: of all data.
        coarse: a grid over the prior.
        own: each datum's grid, where it has been found so far.
        frame: a box of each datum, in which a grid has been.
        top: the highest density that grids have shown, ``(N,)``.
    """
    target = density.target
    L = target.latent_dim
    inside = frame.spans(coarse.seen_from(frame.centre, frame.basis))
    rising = coarse.log_joint.masked_fill(~_local_maxima(coarse) | inside, -math.inf)
    height, place = rising.topk(min(_MOST, len(rising)), dim=0)  # (K, N)
    start = coarse.points().gather(0, place.unsqueeze(-1).expand(-1, -1, L))
    drawn, draws = _hidden_draws(density, coarse, own, frame, top)
    height, order = torch.cat([height, drawn]).sort(0, descending=True)  # each datum's highest first
    start = torch.cat([start, draws]).gather(0, order.unsqueeze(-1).expand(-1, -1, L))
    from_draw = order >= len(place)
    rows = height[0].isfinite().nonzero().flatten()
    peaks = Peaks(start, torch.full_like(height, -math.inf), torch.eye(L).to(start).expand(*start.shape, L).clone())
    if not len(rows):
        return peaks
    some = target.rows(rows) if target.per_datum else target
    most = int(height.isfinite().sum(0).max())
    try:
        with NaNWithoutFactor():
            u, value, gradient, hessian = ascend(some.log_joint, start[:most, rows], _STEPS)
    except (RuntimeError, NotImplementedError):  # a density without two derivatives has no such peaks
        return peaks
    usable = gradient.isfinite().all(-1) & hessian.isfinite().flatten(-2).all(-1) & value.isfinite()
    usable &= height[:most, rows].isfinite() & (from_draw[:most, rows] | ~frame.take(rows).holds(u))
    hessian = torch.where(usable[..., None, None], hessian, -torch.eye(L).to(hessian))
    factor, failed = torch.linalg.cholesky_ex(-hessian)
    usable &= (failed == 0) & (decrement(gradient.nan_to_num(), hessian) < 1e2 * flat(u))
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_mass = value + 0.5 * L * math.log(2 * math.pi) - half_log_det
    peaks.u[:most, rows], peaks.precision[:most, rows] = u, -hessian
    peaks.log_mass[:most, rows] = log_mass.masked_fill(~usable, -math.inf)
    return peaks


def summits(target: Target, coarse: Grid, rows: Tensor) -> Tensor:
    """The heights that climbs from a grid's highest points reach, for some data, ``(n,)``: no lower than those points.

    Args:
        target: of all data.
        coarse: a grid of all data.
        rows: which data, ``(n,)``.
    """
    height, place = coarse.log_joint[:, rows].max(0)
    start = coarse.points()[place, rows if coarse.centre.shape[0] > 1 else 0]
    some = target.rows(rows) if target.per_datum else target
    try:
        with NaNWithoutFactor():
            _, value, _, _ = ascend(some.log_joint, start, _STEPS)
    except (RuntimeError, NotImplementedError):  # without two derivatives
        return height
    return torch.where(value.isfinite() & (value > height), value, height)


def _hidden_draws(density: CountedDensity, coarse: Grid, own: Grid, frame: Frame, top: Tensor) -> tuple[Tensor, Tensor]:
    """Each datum's highest draws, ``(K, N)`` and ``(K, N, L)``; the height -inf of what a grid shows.

    Outside the frame that is a draw no higher than the coarse grid's points around it, by some nats, and inside one no
    higher than all that grids have shown.
    """
    target = density.target
    prior = prior_draws(target, -(-_DRAWS // target.num_data))[:_DRAWS].unsqueeze(1)
    sets, count = [prior], min(_OWN_DRAWS // target.num_data, _OWN_DRAWS // 2)
    if count >= _FEWEST:
        with fork_rng(seed=0):
            sets.append(own.place(own.draw(count)))
    value = torch.cat([density(u) for u in sets])
    value = value.masked_fill(value.isnan() | (value == math.inf), -math.inf)
    draws = torch.cat([u.expand(-1, target.num_data, -1) for u in sets])
    height, place = value.topk(_HIGHEST, dim=0)
    start = draws.gather(0, place.unsqueeze(-1).expand(-1, -1, draws.shape[-1]))
    cell = ((start - coarse.low[0]) / coarse.step[0]).long().clamp(0, coarse.m - 2)
    around = torch.full_like(height, -math.inf)
    for corner in itertools.product((0, 1), repeat=draws.shape[-1]):
        point = torch.zeros_like(place)
        for axis, side in enumerate(corner):
            point = point * coarse.m + cell[..., axis] + side
        around = torch.maximum(around, coarse.log_joint.gather(0, point))
    shown = torch.where(frame.holds(start), torch.maximum(around, top), around)
    return height.masked_fill(height < shown + _HIDDEN, -math.inf), start


def _local_maxima(grid: Grid) -> Tensor:
    """Which points are at least as high as their neighbours along every axis, ``(m**L, N)``."""
    L = grid.low.shape[-1]
    cube = grid.log_joint.reshape(*(grid.m,) * L, -1)
    highest = cube.isfinite()
    for axis in range(L):
        wall = torch.full_like(cube.narrow(axis, 0, 1), -math.inf)
        walled = torch.cat([wall, cube, wall], axis)
        highest &= (cube >= walled.narrow(axis, 0, grid.m)) & (cube >= walled.narrow(axis, 2, grid.m))
    return highest.flatten(0, L - 1)
