"""The way between the unconstrained vector u of a program and its named sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.target.layout import LatentSite, Layout, data_first
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Program, Trace, deterministic_sites, run_once
from pyro_vae.inference.target.substitution import each, run_at, run_prior, vectorised

__all__ = ["Coordinates"]


class Coordinates:
    """What of a :class:`~pyro_vae.inference.target.target.Target` knows of places and nothing of densities."""

    model: Program
    args: tuple[Any, ...]
    layout: Layout
    sites: dict[str, LatentSite]
    num_data: int
    latent_dim: int
    trace: Callable[[Tensor], Trace]
    _run: Callable[[Tensor], Trace]
    _determined: frozenset[str]
    _static: bool

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """Return the latent sites' values at u by name.

        A site of the data plate has shape ``(..., N, *event)``; a site of a whole program ``(..., *site shape)``.
        """
        if self._static:
            values = {name: site.transform(self.layout.unpack(u, site)) for name, site in self.sites.items()}
        else:
            values = vectorised(lambda v: {name: self._run(v)[name]["value"] for name in self.sites}, u)
        lead = u.dim() - 2
        return {name: self.sites[name].data_first(value, lead) for name, value in values.items()}

    def compute_deterministic(self, u: Tensor) -> dict[str, Tensor]:
        """Return what the latent sites at u determine, by name: ``pyro.deterministic``, sites of reparametrisers.

        Discrete sites have the first of their values.

        Args:
            u: ``(..., N, L)``.

        Returns:
            Values ``(..., N, *rest)`` of sites in the data plate, ``(..., *shape)`` of a whole program.
        """

        def values(v: Tensor) -> dict[str, Tensor]:
            found = run_at(self.model, self.args, self.layout, v, read=deterministic_sites)
            if self._determined:
                found |= {name: site for name, site in self.trace(v).items() if name in self._determined}
            return {name: data_first(site, self.layout) for name, site in found.items()}

        return vectorised(values, u)

    def pack(self, values: dict[str, Tensor]) -> Tensor:
        """Return u ``(N, L)`` for one value a latent site, as the program would sample it: the inverse of constrain.

        Raises:
            ValueError: if a latent site is missing, or one is unknown.
        """
        self.layout.must_name_all(values)
        with evaluating(self.model):
            trace = run_once(poutine.condition(self.model, data=values), *self.args)
        return self.layout.pack(trace)

    def pack_batch(self, values: dict[str, Tensor]) -> Tensor:
        """Return u ``(B, N, L)`` for B values a latent site, each as the program would sample it.

        Raises:
            ValueError: if a latent site is missing, or one is unknown.
        """
        self.layout.must_name_all(values)
        if self._static:
            return self.layout.pack_batch(values)
        return each(self.pack, values)

    def unconstrain(self, values: dict[str, Tensor]) -> Tensor:
        """Return u ``(..., N, L)`` of values shaped as constrain returns them: its inverse.

        Raises:
            ValueError: if a latent site is missing, or one is unknown.
        """
        self.layout.must_name_all(values)
        name, first = next(iter(self.sites.items()))
        lead = values[name].shape[: values[name].dim() - first.value_dim]
        flat = {
            name: site.data_back(values[name].reshape(-1, *values[name].shape[len(lead) :]), 1)
            for name, site in self.sites.items()
        }
        return self.pack_batch(flat).reshape(*lead, self.num_data, self.latent_dim)

    @torch.no_grad()
    def sample_prior(self, num_samples: int = 1) -> Tensor:
        """Draw u from the prior, ``(num_samples, N, L)``."""

        def draw(_: Tensor) -> Tensor:
            return self.layout.pack(run_prior(self.model, self.args, self.sites.keys()))

        return each(draw, torch.zeros(num_samples))
