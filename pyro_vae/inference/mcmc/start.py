"""Where chains start, and the metric that a guide gives them."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.adaptation import Moments
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.kernels.base import Metric
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.target import Target

__all__ = ["guide_metric", "initial_points", "starting_points"]

_TRIES = 100


def initial_points(
    target: Target, initial: Tensor | dict[str, Tensor] | None, num_chains: int, guide: GuideSampler | None
) -> Tensor:
    """Return the points to start from, ``(C, N, L)``: those that the user named, or :func:`starting_points`.

    Args:
        target: the densities.
        initial: u ``(C, N, L)``, or one value a site as in the model, for all chains; None for neither.
        num_chains: C.
        guide: where to draw from if none is named.

    Raises:
        ValueError: for other shapes or sites, or points of infinite density.
    """
    if initial is None:
        return starting_points(target, num_chains, guide)
    shape = (num_chains, target.num_data, target.latent_dim)
    if isinstance(initial, dict):
        u = _packed(target, initial).expand(shape).clone()
    elif isinstance(initial, Tensor) and tuple(initial.shape) == shape:
        u = initial.detach().clone()
    else:
        got = f"{tuple(initial.shape)}" if isinstance(initial, Tensor) else type(initial).__name__
        raise ValueError(say(f"initial of shape {shape}, or a dictionary by site", got, "target.pack(values)"))
    if not bool(torch.isfinite(LogDensity(target).value(u)).all()):
        raise ValueError(say("initial points of finite density", "an infinite or undefined one", "initial=None"))
    return u


@torch.no_grad()
def _packed(target: Target, values: dict[str, Tensor]) -> Tensor:
    """One value a site as u ``(N, L)``; shapes are checked here, since Pyro's word for it is a page of them."""
    expected = {name: tuple(site["value"].shape) for name, site in target.trace(target.origin).items()}
    for name, value in values.items():
        if name in target.sites and tuple(value.shape) != expected[name]:
            got = f"{tuple(value.shape)}"
            raise ValueError(say(f"initial[{name!r}] of shape {expected[name]}", got, "one value for every datum"))
    return target.pack(values)


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

    def fresh() -> Tensor:
        if guide is not None:
            return guide.sample(num_chains)[0]
        if target.per_datum:
            return target.sample_prior(num_chains)
        return target.origin.new_empty(num_chains, *target.origin.shape).uniform_(-2, 2)

    u, density = fresh(), LogDensity(target)
    for _ in range(_TRIES):
        value, grad = density.value_and_grad(u)
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
    with pyro.validation_enabled(False):
        for name, site in target.trace(u).items():
            finite = torch.isfinite(site["fn"].log_prob(site["value"]))
            if name not in target.discrete and not bool(finite.all()):
                return name
    return ", ".join([*target.sites, *target.observed])


def guide_metric(guide: GuideSampler, *, dense: bool, num_samples: int = 128) -> Metric:
    """Return the metric of the guide's covariances, from draws."""
    u = guide.sample(num_samples)[0]
    moments = Moments(u, dense=dense)
    moments.update(u)
    return moments.metric()
