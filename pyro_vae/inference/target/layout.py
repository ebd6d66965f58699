"""Where the latent sites of a Pyro program lie inside the unconstrained vector u, and the way there and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from pyro_vae.checks import say
from pyro_vae.inference.target.program import frame_of
from pyro_vae.inference.target.supports import bijection, check_support

__all__ = ["LatentSite", "Layout"]


@dataclass(frozen=True)
class LatentSite:
    """Where one latent site lives inside u.

    Attributes:
        name: the site's name.
        columns: its columns of u.
        shape: shape of its unconstrained value with the data axis first, ``(N, ...)``.
        axis: position of the data axis inside the unconstrained value; None outside the data plate.
        transform: from unconstrained to constrained values, at the first run of the program.
        value_dim: how many dimensions one constrained value has, the data axis among them.
    """

    name: str
    columns: slice
    shape: tuple[int, ...]
    axis: int | None
    transform: Transform
    value_dim: int


@dataclass(frozen=True)
class Layout:
    """The latent sites of one program, side by side in u.

    Attributes:
        sites: the latent sites by name, in the program's order.
        observed: names of the observed sites.
        plate: the data plate.
        per_datum: whether there are N posteriors, or one of the whole program.
        num_data: N.
        latent_dim: L.
    """

    sites: dict[str, LatentSite]
    observed: list[str]
    plate: str | None
    per_datum: bool
    num_data: int
    latent_dim: int

    @classmethod
    def of(cls, trace: dict[str, dict[str, Any]], plate: str | None) -> Layout:
        """Read the layout off one run of the program.

        Raises:
            ValueError: if the plate does not exist or is sub-sampled; if a latent site is discrete; if no site is
                latent or none observed; if data lie outside a site's support.
        """
        latent = {name: site for name, site in trace.items() if not site["is_observed"]}
        observed = [name for name, site in trace.items() if site["is_observed"]]
        per_datum = _in_data_plate(trace, latent, plate)
        frames = (frame for site in trace.values() for frame in site["cond_indep_stack"])
        num_data = next(int(frame.size) for frame in frames if frame.name == plate) if per_datum else 1
        _check_sites(trace, latent, plate if per_datum else None)
        sites: dict[str, LatentSite] = {}
        start = 0
        for name, site in latent.items():
            sites[name] = _place(name, site, plate if per_datum else None, start)
            start = sites[name].columns.stop
        return cls(sites, observed, plate, per_datum, num_data, start)

    def unpack(self, u: Tensor, site: LatentSite) -> Tensor:
        """Columns of u ``(..., N, L)`` as the site's unconstrained value ``(..., *shape)``."""
        lead = u.shape[:-2]
        value = u[..., site.columns].reshape(*lead, u.shape[-2], *site.shape[1:])
        if site.axis is None:
            return value.squeeze(len(lead))
        return value.movedim(len(lead), len(lead) + site.axis)

    def pack(self, trace: dict[str, dict[str, Any]]) -> Tensor:
        """The latent sites' values in one run of the program as u ``(N, L)``."""
        columns = []
        for name, layout in self.sites.items():
            site = trace[name]
            value = bijection(site["fn"].support).inv(site["value"])
            if layout.axis is not None:
                value = value.movedim(layout.axis, 0)
            columns.append(value.reshape(layout.shape[0], -1))
        return torch.cat(columns, -1)

    def pack_batch(self, values: dict[str, Tensor]) -> Tensor:
        """Values of each site ``(B, ...)``, as the program holds them, as u ``(B, N, L)``; for supports that stay."""
        columns = []
        for name, site in self.sites.items():
            raw = site.transform.inv(values[name])
            raw = raw.unsqueeze(1) if site.axis is None else raw.movedim(1 + site.axis, 1)
            columns.append(raw.reshape(len(raw), self.num_data, -1))
        return torch.cat(columns, -1)

    def must_name_all(self, values: dict[str, Any]) -> None:
        """Check that values are given for the latent sites, and for no other.

        Raises:
            ValueError: if they are not.
        """
        if set(values) != set(self.sites):
            raise ValueError(say(f"values of the latent sites {list(self.sites)}", f"{list(values)}", "naming each"))


def _in_data_plate(trace: dict[str, Any], latent: dict[str, Any], plate: str | None) -> bool:
    """Say whether every latent site lies in the data plate; check that plate."""
    plates = {frame.name: frame for site in trace.values() for frame in site["cond_indep_stack"]}
    if plate is None or not plates:
        return False
    if plate not in plates:
        expected = f"a plate named {plate!r}"
        raise ValueError(say(expected, f"plates {sorted(plates)}", f"plate={min(plates)!r}, or plate=None"))
    frame = plates[plate]
    for other in plates.values():
        if other.size != other.full_size and other.full_size is not None:
            got = f"{other.size} of {other.full_size} rows"
            raise ValueError(say(f"the whole plate {other.name!r}", got, "a program without sub-sampling"))
    if any(frame_of(site, plate) is None for site in latent.values()):
        return False
    if frame.dim is None:
        raise ValueError(
            say(f"a vectorised plate {plate!r}", "a sequential one", "with pyro.plate(...) in place of for")
        )
    return True


def _check_sites(trace: dict[str, Any], latent: dict[str, Any], plate: str | None) -> None:
    if not latent:
        raise ValueError(say("at least one latent site", f"observed sites {list(trace)}", "pyro.sample without obs"))
    observed = [name for name in trace if name not in latent]
    if not observed:
        raise ValueError(say("at least one observed site", f"latent sites {list(latent)}", "obs=x in pyro.sample"))
    for name, site in latent.items():
        if site["fn"].support.is_discrete:
            got = f"the discrete {type(site['fn']).__name__}"
            raise ValueError(say(f"a continuous latent site {name!r}", got, "summing it out of the model"))
    for name in observed:
        site = trace[name]
        if plate is not None and frame_of(site, plate) is None:
            remedy = "moving it inside, or plate=None for the posterior of the whole program"
            raise ValueError(say(f"observed site {name!r} inside plate {plate!r}", "a site outside", remedy))
        check_support(name, site)


def _place(name: str, site: dict[str, Any], plate: str | None, start: int) -> LatentSite:
    """The columns from ``start`` on, for a site of the plate or, without one, of the whole program."""
    fn = site["fn"]
    transform = bijection(fn.support)
    shape = list(transform.inverse_shape(fn.shape()))
    axis = None
    if plate is not None:
        axis = len(fn.batch_shape) + frame_of(site, plate).dim
        shape.insert(0, shape.pop(axis))
    else:
        shape.insert(0, 1)
    width = int(torch.Size(shape[1:]).numel())
    return LatentSite(name, slice(start, start + width), tuple(shape), axis, transform, len(fn.shape()))
