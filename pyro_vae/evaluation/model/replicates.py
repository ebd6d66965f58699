"""Data as columns, and replicated data sets of the same shape drawn from a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import frame_of, sample_sites
from pyro_vae.inference.target.supports import underlying
from pyro_vae.inference.target.target import Target

__all__ = ["Columns", "as_columns", "posterior_replicates", "prior_replicates"]

_LARGEST = 1e30  # what a draw that overflowed is cut to, so that its statistics stay numbers


class Law(NamedTuple):
    """What the program says of one column: its distribution's name; whether it is discrete; whether 0 is an atom."""

    name: str
    discrete: bool
    atom: bool


@dataclass(frozen=True)
class Columns:
    """The observed sites of a program side by side.

    Attributes:
        values: ``(N, D)``; NaN where missing or masked.
        laws: of each column by the program.
        names: of the columns.
        sites: of each observed site the dimension of its value that runs over data, or None.
        values_by_site: the data as the program holds them.
    """

    values: np.ndarray
    laws: tuple[Law, ...]
    names: tuple[str, ...]
    sites: dict[str, int | None]
    values_by_site: dict[str, Tensor]

    @property
    def discrete(self) -> np.ndarray:
        """Which columns are discrete, ``(D,)``."""
        return np.array([law.discrete for law in self.laws], dtype=bool)

    @property
    def atoms(self) -> np.ndarray:
        """Which columns have a probability at 0 and a density above it, ``(D,)``."""
        return np.array([law.atom for law in self.laws], dtype=bool)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each column: "real", "binary" (discrete, with no other values than 0 and 1) or "discrete"."""
        two = (np.isnan(self.values) | (self.values == 0) | (self.values == 1)).all(0)
        return tuple(
            "real" if not d else "binary" if b else "discrete" for d, b in zip(self.discrete, two, strict=True)
        )

    def of(self, drawn: dict[str, Tensor]) -> np.ndarray:
        """Return replicated values of the sites as columns ``(N, D)``, missing where the data are."""
        rows = np.concatenate([_rows(drawn[name], axis) for name, axis in self.sites.items()], 1)
        rows = np.clip(np.nan_to_num(rows, nan=_LARGEST), -_LARGEST, _LARGEST)
        return np.where(np.isnan(self.values), np.nan, rows)


def as_columns(target: Target, names: Any = None) -> Columns:
    """Return a target's data as columns.

    Raises:
        ValueError: if an observed site lies outside the data plate, or names do not fit the columns.
    """
    found, sites, by_site = [], {}, {}
    laws: list[Law] = []
    for name, site in target.trace(target.origin).items():
        fn, value = site["fn"], site["value"]
        if not site["is_observed"] or not value.numel():  # pyro.factor observes nothing
            continue
        frame = frame_of(site, target.plate) if target.per_datum else None
        if target.per_datum and frame is None:
            raise ValueError(say(f"site {name!r} in the data plate {target.plate!r}", "it outside", "plate=None"))
        axis = 0 if frame is None else frame.dim - len(fn.event_shape)
        shape = torch.Size(fn.shape())
        value = value.expand(shape).double()
        if isinstance(site["mask"], Tensor):
            hidden = ~site["mask"].expand(fn.batch_shape).reshape(*fn.batch_shape, *[1] * len(fn.event_shape))
            value = torch.where(hidden, torch.nan, value)
        sites[name] = axis if shape else None
        by_site[name] = site["value"]
        found.append(_rows(value, sites[name]))
        known: list[Law] = []
        numbers = _rows(_law_of_entries(fn, known).expand(shape), sites[name])
        laws += [known[int(number)] for number in numbers[0]]
    widths = [block.shape[1] for block in found]
    if len({len(block) for block in found}) > 1:
        raise ValueError(say("observed sites of one length", f"{[len(b) for b in found]}", "one of them at a time"))
    own = [n if w == 1 else f"{n}{i}" for n, w in zip(sites, widths, strict=True) for i in range(w)]
    chosen = tuple(str(name) for name in names) if names is not None else tuple(own)
    if len(chosen) != sum(widths):
        raise ValueError(say(f"{sum(widths)} names, one a column", f"{len(chosen)}", "names=None"))
    return Columns(np.concatenate(found, 1), tuple(laws), chosen, sites, by_site)


@torch.no_grad()
def prior_replicates(target: Target, columns: Columns, num_replicates: int) -> Iterator[np.ndarray]:
    """Yield data sets ``(N, D)`` from the program, latents and all."""
    program = poutine.uncondition(target.model)
    with evaluating(target.model), pyro.validation_enabled(False):
        for _ in range(num_replicates):
            yield columns.of(_values(program, target))


@torch.no_grad()
def posterior_replicates(
    target: Target, columns: Columns, u: Tensor
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Yield, for each draw of u ``(S, N, L)``, the observed sites replicated given it, and the latents themselves."""
    program = poutine.uncondition(target.model)
    with evaluating(target.model), pyro.validation_enabled(False):
        for place in u:
            sites = target.trace(place)
            latent = {name: sites[name]["value"] for name in target.sites}
            drawn = _values(poutine.condition(program, data=latent), target)
            yield {name: drawn[name] for name in columns.sites}, latent


def _values(program: Any, target: Target) -> dict[str, Tensor]:
    sites = sample_sites(poutine.trace(program).get_trace(*target.args))
    return {name: site["value"].expand(site["fn"].shape()) for name, site in sites.items()}


def _rows(value: Tensor, axis: int | None) -> np.ndarray:
    """A site's value as rows ``(N, D)``."""
    value = value.reshape(1) if axis is None else value.movedim(axis, 0)
    return value.reshape(len(value), -1).double().cpu().numpy()


def _law_of_entries(fn: Any, known: list[Law]) -> Tensor:
    """The number of each entry's law among those known, of event shape; laws that come up are added to those."""
    if hasattr(fn, "parts") and hasattr(fn, "widths"):
        pieces = zip(fn.parts, fn.widths, strict=True)
        return torch.cat([_law_of_entries(part, known).expand(width) for part, width in pieces])
    base = getattr(fn, "base_dist", None)
    if base is not None and hasattr(base, "parts"):
        return _law_of_entries(base, known)
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    atom = getattr(support, "atom", None) == 0
    known.append(Law(type(underlying(fn)).__name__.lstrip("_"), bool(fn.support.is_discrete), atom))
    return torch.full(fn.event_shape, float(len(known) - 1))
