"""What a prior is, in the words of ``page/prior.mjs``: a formula, a mixture of Gaussians, or values on a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pyro_vae import priors
from pyro_vae.checks import say
from pyro_vae.explorer.gaussians import components
from pyro_vae.explorer.store import Store
from pyro_vae.priors import Prior

__all__ = ["prior_spec"]

_POINTS = 241  # of a grid, a side
_REACH = 6.0  # standard deviations that a grid reaches from its centre


@torch.no_grad()
def prior_spec(prior: Prior, store: Store) -> dict[str, Any]:
    """Return a prior over the plane: its density, and the box ``low``, ``high`` that holds its mass.

    Args:
        prior: of this package.
        store: takes a grid, where there is no formula.

    Raises:
        ValueError: if its latents are bounded, or several.
    """
    if isinstance(prior, priors.Uniform | priors.HierarchicalNormal):
        expected = "a prior p(z) over the whole plane (normal, Student, Laplace, Cauchy, a mixture, a flow)"
        raise ValueError(say(expected, type(prior).__name__, "priors.StandardNormal(2)"))
    name = type(prior).__name__
    p: Any = prior()
    base: Any = getattr(p, "base_dist", None)
    if isinstance(prior, priors.StandardNormal | priors.DiagonalNormal):
        gaussian = components(p)
        return {"family": "mixture", "name": name, "components": gaussian, **_box(p.mean, p.stddev)}
    if isinstance(prior, priors.Laplace | priors.Cauchy | priors.StudentT):
        spread = 1.5 * base.scale if isinstance(prior, priors.Cauchy) else base.scale * 1.5
        own = {"df": base.df.tolist()} if isinstance(prior, priors.StudentT) else {}
        spec = {"family": name.lower(), "name": name, "loc": base.loc.tolist(), "scale": base.scale.tolist()}
        return spec | own | _box(base.loc, spread)
    if isinstance(prior, priors.GaussianMixture):
        p = MixtureSameFamily(torch.distributions.Categorical(logits=prior.logits), prior.components())
    if isinstance(p, MixtureSameFamily) and (found := components(p)) is not None:
        return {"family": "mixture", "name": name, "components": found, **_box(p.mean, p.variance.sqrt())}
    return {"family": "grid", "name": name, **_grid(p, store)}


def _box(centre: Tensor, spread: Tensor) -> dict[str, Any]:
    reach = _REACH * spread
    return {"low": (centre - reach).tolist(), "high": (centre + reach).tolist()}


def _grid(p: Any, store: Store) -> dict[str, Any]:
    """Values of log p(z) on a square grid: all that the page knows of a flow."""
    draws = p.sample((2_000,))
    centre, spread = draws.mean(0), draws.std(0)
    box = _box(centre, spread)
    lines = [torch.linspace(box["low"][i], box["high"][i], _POINTS, dtype=draws.dtype) for i in range(2)]
    points = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)
    return {"values": store.put(p.log_prob(points.to(draws)).clamp_min(-200.0)), **box}
