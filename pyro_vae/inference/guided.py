"""A guide of any kind as a sampler of u with its density."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import say
from pyro_vae.inference.program import sample_sites
from pyro_vae.inference.target import Target

__all__ = ["GuideSampler"]


class GuideSampler:
    """Draws of a guide in the target's unconstrained coordinates, with their densities.

    Args:
        target: the densities whose coordinates to use.
        guide: a Pyro program over the latent sites, called with the model's arguments; or a distribution over u with
            ``batch_shape (N,)`` and ``event_shape (L,)``, such as the result of a route.

    Attributes:
        distribution: the distribution over u, where the guide names one; else None.

    Raises:
        TypeError: if it is neither.
    """

    def __init__(self, target: Target, guide: Any) -> None:
        self.target = target
        self.guide = guide
        self.distribution: Any = None
        if isinstance(guide, Distribution):
            self.distribution = guide
        elif not callable(guide):
            raise TypeError(say("a guide: a Pyro program or a distribution", type(guide).__name__, "guide=None"))
        elif target.plain and hasattr(guide, "posterior"):
            with torch.no_grad():  # a guide that names its distribution runs its network once, not once a draw
                self.distribution = guide.posterior(*target.args)

    @torch.no_grad()
    def sample(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Return u ``(num_samples, N, L)`` and log q(u), the Jacobian included, ``(num_samples, N)``.

        Raises:
            ValueError: if a guide program does not sample the target's latent sites.
        """
        if self.distribution is not None:
            u = self.distribution.sample((num_samples,))
            return u, self.distribution.log_prob(u)
        with pyro.validation_enabled(False), poutine.block():
            pairs = [self._run() for _ in range(num_samples)]
        u, log_q = (torch.stack(part) for part in zip(*pairs, strict=True))
        return u, log_q + self.target.log_jacobian(u)

    def _run(self) -> tuple[Tensor, Tensor]:
        """One draw of u ``(N, L)`` and its log density over the sites' own scale, ``(N,)``."""
        target = self.target
        trace = sample_sites(poutine.trace(self.guide).get_trace(*target.args))
        sites = {name: site for name, site in trace.items() if not site["is_observed"]}
        if set(target.sites) - set(sites):
            got = f"a guide with sites {sorted(sites)}"
            raise ValueError(say(f"a guide with the latent sites {sorted(target.sites)}", got, "naming them alike"))
        log_q = target.origin.new_zeros(target.num_data)
        for site in sites.values():
            log_q = log_q + target.reduce(site, site["fn"].log_prob(site["value"]))
        return target.pack({name: sites[name]["value"] for name in target.sites}), log_q
