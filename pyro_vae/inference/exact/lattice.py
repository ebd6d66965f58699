"""Windows of one lattice that all data share, where the density of all of them at a point is a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.exact.density import CountedDensity
from pyro_vae.inference.exact.frames import DEPTH, FINE, missing_peaks
from pyro_vae.inference.exact.grids import Frame, Grid, scatter
from pyro_vae.inference.exact.peaks import Peaks
from pyro_vae.inference.exact.sums import Found, integral

__all__ = ["share"]

_NUMBERS = 2**25  # that the densities on one lattice hold: 128 MB in float32
_MOST_POINTS = 2**21  # of a lattice
_SHARED = 8  # points of the lattice to one of a first grid of each datum's own: what a product is cheaper by
_BUCKET = 16  # windows of sizes within so many points are one grid


def share(density: CountedDensity, coarse: Grid, found: Found, *, tolerance: float, max_points: int) -> None:
    """Halve the spacing of one lattice for all data while that costs less than a grid each; take in what it resolves.

    Data with peaks outside of what the coarse grid shows of them are left to grids of their own; peaks inside must be
    resolved by the spacing, for one that falls between the points moves no sum.

    Args:
        density: of all data.
        coarse: a grid over the prior, the first lattice.
        found: takes the grids.
        tolerance: of the error bound, nats.
        max_points: of a datum.
    """
    L, N = density.target.latent_dim, density.target.num_data
    cut = _windows(coarse)
    seen = coarse.log_joint.double().logsumexp(0) + coarse.log_cell
    shared = coarse.expand(N)
    top = coarse.log_joint.amax(0)
    peaks = missing_peaks(density, shared, shared, _top(coarse), seen=seen, top=top)
    hidden = (peaks.log_mass.isfinite() & ~_frames(cut, N).holds(peaks.u)).any(0)
    cut = [(rows[keep], grid.take(keep)) for rows, grid in cut for keep in [~hidden[rows]]]
    step = coarse.step
    while cut:
        rows, boxes = _take_in(cut, peaks, found, tolerance, max_points)
        if not len(rows):
            return
        step = step / 2
        box = Frame(coarse.centre, coarse.basis, boxes.low.amin(0, keepdim=True), boxes.high.amax(0, keepdim=True))
        m = 1 + int(((box.high - box.low) / step).amax().ceil())
        m += -m % 4
        if m**L > min(_MOST_POINTS, _SHARED * len(rows) * FINE[L] ** L):
            return
        cut = []
        for some in rows.split(max(1, _NUMBERS // m**L)):
            cut += [(some[own], grid) for own, grid in _windows(Grid.over(box, m, density.of(some)))]


def _top(coarse: Grid) -> Frame:
    """A box around each datum's highest point, a cell and a half on each side: that peak shows in the sums."""
    place = coarse.points().squeeze(1)[coarse.log_joint.argmax(0)]
    lattice = coarse.expand(len(place))
    return Frame(lattice.centre, lattice.basis, place - 1.5 * coarse.step, place + 1.5 * coarse.step)


def _take_in(
    cut: list[tuple[Tensor, Grid]], peaks: Peaks, found: Found, tolerance: float, max_points: int
) -> tuple[Tensor, Frame]:
    """Take in the grids whose bound is below the tolerance and that show every peak; return the rest, and its boxes."""
    left, boxes = [], []
    for rows, grid in cut:
        value, error, rounded = integral(grid)
        done = ((error <= tolerance) | (error - rounded < rounded)) & (len(grid.log_joint) <= max_points)
        done &= peaks.take(rows).resolved(grid.basis, grid.step)
        found.add(rows[done], grid.take(done), value[done], error[done])
        left.append(rows[~done])
        boxes.append(grid.take(~done).frame)
    return torch.cat(left), Frame(*(torch.cat(parts) for parts in zip(*boxes, strict=True)))


def _frames(cut: list[tuple[Tensor, Grid]], num_data: int) -> Frame:
    """The boxes of windows, in the order of the data."""
    parts = zip(*(grid.frame for _, grid in cut), strict=True)
    return Frame(
        *(scatter([(rows, part) for (rows, _), part in zip(cut, own, strict=True)], num_data) for own in parts)
    )


def _windows(lattice: Grid) -> list[tuple[Tensor, Grid]]:
    """Cut what lies within DEPTH nats of each datum's peak out of a lattice of one place and n densities.

    Returns:
        Grids, each with the data that it is of; every datum is in one of them.
    """
    m, L = lattice.m, lattice.low.shape[-1]
    cube, gaps = (part.reshape(*(m,) * L, -1) for part in (lattice.log_joint, lattice.unknown))
    first, last = _bounds(cube)
    size = (last - first).amax(-1) + 3  # a point on either side
    size = (size + (-size) % _BUCKET).clamp_max(m)
    first = torch.minimum((first + last + 1 - size.unsqueeze(-1)) // 2, m - size.unsqueeze(-1)).clamp_min(0)
    found = []
    for width in size.unique().tolist():
        own = (size == width).nonzero().squeeze(-1)
        along = first[own] + torch.arange(width, device=own.device)[:, None, None]  # (width, k, L)
        index = [along[..., j].reshape(*(1,) * j, width, *(1,) * (L - 1 - j), -1) for j in range(L)]
        taken, gap = (part[(*index, own)].flatten(0, L - 1) for part in (cube, gaps))
        place = lattice.expand(len(own))
        low = place.low + first[own] * place.step
        found.append((own, Grid(place.centre, place.basis, low, place.step, width, taken, gap)))
    return found


def _bounds(cube: Tensor) -> tuple[Tensor, Tensor]:
    """First and last index along each axis at which each datum's density is within DEPTH of its peak, ``(n, L)``."""
    L = cube.dim() - 1
    first, last = [], []
    for axis in range(L):
        others = [other for other in range(L) if other != axis]
        profile = cube.amax(others) if others else cube  # (m, n)
        active = profile > profile.amax(0) - DEPTH
        first.append(active.int().argmax(0))
        last.append(len(profile) - 1 - active.flip(0).int().argmax(0))
    return torch.stack(first, -1), torch.stack(last, -1)
