"""Where chains start, and what a guide tells them."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.kernel import Metric
from pyro_vae.inference.target import Target

__all__ = ["GuideSampler", "starting_points"]

_TRIES = 100


def starting_points(target: Target, num_chains: int, guide: GuideSampler | None = None) -> Tensor:
    """Return points of finite density for every chain, ``(C, N, L)``.

    Latents of a data plate start from the guide, or from the prior; the posterior of a whole program starts uniform on
    (-2, 2) on the unconstrained scale, as in Stan. Points of infinite or undefined density are drawn again.

    Args:
        target: the densities.
        num_chains: C.
        guide: where to draw from in place of the prior.

    Raises:
        ValueError: if no finite point is found in 100 tries; it names the site whose density is not finite.
    """
    C, N, L = num_chains, target.num_data, target.latent_dim

    def fresh() -> Tensor:
        if guide is not None:
            return guide.sample(C)[0]
        if target.per_datum:
            return target.sample_prior(C)
        like = target.sample_prior(1)
        return torch.empty(C, N, L, dtype=like.dtype, device=like.device).uniform_(-2, 2)

    u = fresh()
    for _ in range(_TRIES):
        value, grad = target.value_and_grad(u)
        bad = ~(torch.isfinite(value) & torch.isfinite(grad).all(-1))
        if not bool(bad.any()):
            return u
        u = torch.where(bad[..., None], fresh(), u)
    chain, row = (int(i) for i in bad.nonzero()[0])
    raise ValueError(
        say(
            f"a starting point of finite density (posterior {row}, after {_TRIES} tries)",
            f"a density or gradient that is not finite at site {_culprit(target, u[chain], row)!r}",
            "initial=, a prior that keeps to the likelihood's range, or data on another scale",
        )
    )


def _culprit(target: Target, u: Tensor, row: int) -> str:
    """Name the first site whose density is not finite at u ``(N, L)``; all of them if only the gradient is not."""
    for name, site in target.trace(u).items():
        log_prob = site["fn"].log_prob(site["value"])
        if not bool(torch.isfinite(log_prob).all()):
            return name
    return ", ".join([*target.sites, *target.observed])


class GuideSampler:
    """Draws of a guide in the target's unconstrained coordinates, with their densities.

    A guide is a Pyro program over the latent sites, called with the model's arguments; or any distribution of
    ``batch_shape (N,)`` over a single latent site.

    Args:
        target: the densities whose coordinates to use.
        guide: the program or the distribution.

    Raises:
        TypeError: if it is neither.
        ValueError: if it does not sample exactly the target's latent sites.
    """

    def __init__(self, target: Target, guide: Any) -> None:
        if not (callable(guide) or hasattr(guide, "log_prob")):
            raise TypeError(say("a guide: a Pyro program or a distribution", type(guide).__name__, "guide=None"))
        if hasattr(guide, "log_prob") and len(target.sites) != 1:
            raise ValueError(say("a guide program for several sites", "a distribution", f"sites {list(target.sites)}"))
        self.target = target
        self.guide = guide
        # a guide that names its distribution runs its network once, not once a draw
        one_site = len(target.sites) == 1 and target.per_datum
        with torch.no_grad():
            posterior = guide.posterior(*target.args) if one_site and hasattr(guide, "posterior") else guide
        self.distribution = posterior if hasattr(posterior, "log_prob") else None

    @torch.no_grad()
    def sample(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Return u ``(num_samples, N, L)`` and log q(u), the Jacobian included, ``(num_samples, N)``."""
        if self.distribution is not None:
            value = self.distribution.sample((num_samples,))
            log_q = self.distribution.log_prob(value)
            values = {next(iter(self.target.sites)): value}
        else:
            draws = [self._one() for _ in range(num_samples)]
            values = {name: torch.stack([v[name] for v, _ in draws]) for name in self.target.sites}
            log_q = torch.stack([density for _, density in draws])
        u = self.target.unconstrain(values)
        return u, log_q + self.target.log_jacobian(u)

    def metric(self, *, dense: bool, num_samples: int = 128) -> Metric:
        """Return the metric of the guide's covariances, from draws."""
        from pyro_vae.inference.mcmc.adaptation import Moments

        u = self.sample(num_samples)[0]
        moments = Moments(u, dense=dense)
        moments.update(u)
        return moments.metric()

    def _one(self) -> tuple[dict[str, Tensor], Tensor]:
        """One value a site, and log q of them ``(N,)``, on the constrained scale."""
        with poutine.block(), pyro.validation_enabled(False):
            trace = poutine.trace(self.guide).get_trace(*self.target.args)
        sites = {
            name: site
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)
        }
        missing = set(self.target.sites) - set(sites)
        if missing or set(sites) - set(self.target.sites):
            got = f"a guide with sites {sorted(sites)}"
            raise ValueError(
                say(f"a guide with the latent sites {sorted(self.target.sites)}", got, "naming them alike")
            )
        log_q = sum(self.target._reduce(site, site["fn"].log_prob(site["value"])) for site in sites.values())
        return {name: site["value"] for name, site in sites.items()}, torch.as_tensor(log_q)
