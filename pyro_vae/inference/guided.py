"""A guide of any kind as a sampler of u with its density."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.checks import say
from pyro_vae.inference.target.program import evaluating, sample_sites
from pyro_vae.inference.target.target import Target

__all__ = ["GuideSampler", "is_point_mass", "named_posterior"]


def is_point_mass(q: Any) -> bool:
    """Whether a distribution is a point mass, transformed or not: it has no density, and so neither KL nor bound."""
    while hasattr(q, "base_dist"):
        q = q.base_dist
    return isinstance(q, dist.Delta)


def named_posterior(guide: Any, args: tuple[Any, ...]) -> Any:
    """Return ``guide.posterior(x, ...)`` in evaluation mode; the model's covariates go to guides that take them."""
    try:
        inspect.signature(guide.posterior).bind(*args)
    except TypeError:
        args = args[:1]
    with evaluating(guide):
        return guide.posterior(*args)


class GuideSampler:
    """Draws of a guide in the target's unconstrained coordinates, with their densities.

    Args:
        target: the densities whose coordinates to use.
        guide: a Pyro program over the latent sites, called with the model's arguments; or a distribution over u with
            ``batch_shape (N,)`` and ``event_shape (L,)``, such as the result of a route.

    Attributes:
        distribution: the distribution over u, where the guide names one; else None.
        seconds: wall time of one call of the guide on all data; NaN for a distribution, and before the first call.

    Raises:
        TypeError: if it is neither.
        ValueError: if the guide's latent site or plate has another name than the model's.
    """

    def __init__(self, target: Target, guide: Any) -> None:
        self.target = target
        self.guide = guide
        self.distribution: Any = None
        self.seconds = math.nan
        if isinstance(guide, Distribution):
            self.distribution = guide
        elif not callable(guide):
            raise TypeError(say("a guide: a Pyro program or a distribution", type(guide).__name__, "guide=None"))
        elif target.plain and hasattr(guide, "posterior"):
            (name,) = target.sites
            _check_names(target, [getattr(guide, "latent", name)])
            _check_plates(target, {name: [getattr(guide, "plate", str(target.plate))]})
            start = time.perf_counter()
            with torch.no_grad():  # a guide that names its distribution runs its network once, not once a draw
                self.distribution = named_posterior(guide, target.args)
            self.seconds = time.perf_counter() - start

    def sample(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Return u ``(num_samples, N, L)`` and log q(u), the Jacobian included, ``(num_samples, N)``.

        Raises:
            ValueError: if it is a point mass, which has no density; or as :meth:`draw`.
        """
        u, log_q = self.draw(num_samples)
        if log_q is None:
            raise ValueError(say("a posterior with a density", "a point mass", "laplace in place of the mode"))
        return u, log_q

    @torch.no_grad()
    def draw(self, num_samples: int) -> tuple[Tensor, Tensor | None]:
        """Return u ``(num_samples, N, L)`` and log q(u) ``(num_samples, N)``, None where a site is a point mass.

        Raises:
            ValueError: if a guide program does not sample the target's latent sites, or samples more than those, or
                samples them outside the data plate.
        """
        if self.distribution is not None:
            u = self.distribution.sample((num_samples,))
            return u, None if is_point_mass(self.distribution) else self.distribution.log_prob(u)
        with evaluating(self.guide), pyro.validation_enabled(False), poutine.block():
            pairs = [self._run() for _ in range(num_samples)]
        u = torch.stack([place for place, _ in pairs])
        densities = [log_q for _, log_q in pairs if log_q is not None]
        if len(densities) < len(pairs):
            return u, None
        return u, torch.stack(densities) + self.target.log_jacobian(u)

    def _run(self) -> tuple[Tensor, Tensor | None]:
        """One draw of u ``(N, L)`` and its log density over the sites' own scale, ``(N,)``; None of a point mass."""
        target = self.target
        start = time.perf_counter()
        trace = sample_sites(poutine.trace(self.guide).get_trace(*target.args))
        self.seconds = time.perf_counter() - start
        sites = {name: site for name, site in trace.items() if not site["is_observed"]}
        _check_names(target, [name for name, site in sites.items() if not site["infer"].get("is_auxiliary", False)])
        _check_plates(target, {name: {f.name for f in site["cond_indep_stack"]} for name, site in sites.items()})
        u = target.pack({name: sites[name]["value"] for name in target.sites})
        if any(is_point_mass(site["fn"]) for site in sites.values()):
            return u, None
        log_q = target.origin.new_zeros(target.num_data)
        for site in sites.values():
            log_q = log_q + target.reduce(site, site["fn"].log_prob(site["value"]))
        return u, log_q


def _check_names(target: Target, names: Iterable[str]) -> None:
    if set(names) != set(target.sites):
        remedy = "naming them alike (latent= of guide and Model)"
        raise ValueError(say(f"a guide with the latent sites {sorted(target.sites)}", f"{sorted(names)}", remedy))


def _check_plates(target: Target, plates: Mapping[str, Iterable[str]]) -> None:
    """Check that a guide's sites lie in the data plate, without which its density has no value a datum."""
    for name, around in plates.items():
        if target.per_datum and target.plate not in set(around):
            got = f"plates {sorted(around)}" if around else "no plate"
            remedy = "naming them alike (plate= of guide and Model)"
            raise ValueError(say(f"site {name!r} of the guide in plate {target.plate!r}", got, remedy))
