"""Where the latent sites of a Pyro program lie inside the unconstrained vector u, and the way there and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from pyro_vae.checks import say
from pyro_vae.inference.target.enumeration import is_discrete
from pyro_vae.inference.target.program import Trace, frame_of
from pyro_vae.inference.target.supports import bijection

__all__ = ["LatentSite", "Layout", "data_first"]


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

    @property
    def program_shape(self) -> torch.Size:
        """Shape of its unconstrained value where the program has the data axis, or has none."""
        shape = list(self.shape[1:])
        if self.axis is not None:
            shape.insert(self.axis, self.shape[0])
        return torch.Size(shape)

    def data_first(self, value: Tensor, lead: int) -> Tensor:
        """Put the data axis right behind ``lead`` leading dimensions, from where the program has it."""
        return value if self.axis is None else value.movedim(lead + self.axis, lead)

    def data_back(self, value: Tensor, lead: int) -> Tensor:
        """Put the data axis, right behind ``lead`` leading dimensions, where the program has it."""
        return value if self.axis is None else value.movedim(lead, lead + self.axis)


@dataclass(frozen=True)
class Layout:
    """The continuous latent sites of one program, side by side in u.

    Attributes:
        sites: the continuous latent sites by name, in the program's order.
        observed: names of the observed sites.
        plate: the data plate; None for one posterior of the whole program.
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
    def of(cls, trace: Trace, plate: str | None) -> Layout:
        """Read the layout off one run of a program that is legal; its data plate is None for a whole program."""
        frames = (frame for site in trace.values() for frame in site["cond_indep_stack"])
        num_data = 1 if plate is None else next(int(frame.size) for frame in frames if frame.name == plate)
        sites: dict[str, LatentSite] = {}
        start = 0
        for name, site in trace.items():
            if not site["is_observed"] and not is_discrete(site):
                sites[name] = _place(name, site, plate, start)
                start = sites[name].columns.stop
        observed = [name for name, site in trace.items() if site["is_observed"]]
        return cls(sites, observed, plate, plate is not None, num_data, start)

    def unpack(self, u: Tensor, site: LatentSite) -> Tensor:
        """Columns of u ``(..., N, L)`` as the site's unconstrained value ``(..., *shape)``."""
        lead = u.shape[:-2]
        value = u[..., site.columns].reshape(*lead, u.shape[-2], *site.shape[1:])
        return value.squeeze(len(lead)) if site.axis is None else site.data_back(value, len(lead))

    def join(self, raw: dict[str, Tensor]) -> Tensor:
        """Unconstrained values of each site ``(B, *site.program_shape)`` side by side as u ``(B, N, L)``."""
        parts = [site.data_first(raw[name], 1) for name, site in self.sites.items()]
        if not parts:  # every latent site is discrete
            return torch.empty(1, self.num_data, 0)
        return torch.cat([part.reshape(len(part), self.num_data, -1) for part in parts], -1)

    def pack(self, trace: Trace) -> Tensor:
        """The latent sites' values in one run of the program as u ``(N, L)``."""
        sites = {name: trace[name] for name in self.sites}
        raw = {name: bijection(site["fn"].support).inv(site["value"]) for name, site in sites.items()}
        return self.join({name: value.unsqueeze(0) for name, value in raw.items()}).squeeze(0)

    def pack_batch(self, values: dict[str, Tensor]) -> Tensor:
        """Values of each site ``(B, ...)``, as the program holds them, as u ``(B, N, L)``; for supports that stay."""
        return self.join({name: site.transform.inv(values[name]) for name, site in self.sites.items()})

    def places(self, device: torch.device) -> Tensor:
        """Where each number of u lies, ``(N, L)``, in the sites' unconstrained values flattened one after another."""
        shapes = [site.program_shape for site in self.sites.values()]
        every = torch.arange(self.num_data * self.latent_dim, device=device).split([shape.numel() for shape in shapes])
        raw = {name: part.reshape(1, *shape) for name, part, shape in zip(self.sites, every, shapes, strict=True)}
        return self.join(raw).squeeze(0)

    def must_name_all(self, values: dict[str, Any]) -> None:
        """Check that values are given for the latent sites, and for no other.

        Raises:
            ValueError: if they are not.
        """
        if set(values) != set(self.sites):
            raise ValueError(say(f"values of the latent sites {list(self.sites)}", f"{list(values)}", "naming each"))


def data_first(site: dict[str, Any], layout: Layout) -> Tensor:
    """A site's value with the data axis first, ``(N, *rest)``; as it is in a whole program."""
    value: Tensor = site["value"]
    if layout.plate is None:
        return value
    frame, N = frame_of(site, layout.plate), layout.num_data
    dims = () if frame is None else (value.dim() - site["fn"].event_dim + frame.dim, value.dim() + frame.dim)
    axis = next((dim for dim in dims if 0 <= dim < value.dim() and value.shape[dim] == N), None)
    return value.expand(N, *value.shape) if axis is None else value.movedim(axis, 0)


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
