"""Posteriors of every kind to ArviZ, with what its plots and leave-one-out need."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.arviz_import import from_groups
from pyro_vae.checks import positive_integer
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import block_size, log_joint_in_blocks
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Program, run_once
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["to_arviz"]


@torch.no_grad()
def to_arviz(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posterior: Any = None,
    *,
    num_samples: int = 1000,
    predictive: bool = False,
    plate: str | None = "data",
) -> Any:
    """Return any posterior as ArviZ' InferenceData (DataTree from ArviZ 1 on).

    Groups: ``posterior`` (draws by site, and of what they determine), ``log_likelihood`` (log p(x|z) of each observed
    site, one a draw and datum; of a whole program one a draw and observation), ``sample_stats`` (``lp``, log p(x, u);
    divergences of chains) and ``observed_data``.

    Args:
        model: the Pyro program, or a Target in place of it and x.
        x: data ``(N, *D)``, or the program's arguments as a tuple.
        posterior: a guide, a distribution over u (one chain of independent draws), or Draws.
        num_samples: draws of what is not Draws.
        predictive: draw the observed sites anew, too: ``posterior_predictive`` given the posterior's draws, and
            ``prior_predictive`` given draws of the latent sites in ``prior``, where the prior has draws. The program
            runs once a draw.
        plate: the data plate, which becomes a dimension.

    Raises:
        TypeError, ValueError: for what is no posterior of these data.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> found = to_arviz(model, torch.ones(3, 8), pv.laplace(model, torch.ones(3, 8)), num_samples=10)
        >>> found.log_likelihood["x"].shape
        (1, 10, 3)
    """
    S = positive_integer(num_samples, "num_samples")
    target = as_target(model, x, plate=plate)
    u = answer(target, posterior, num_samples=S).u
    chains = posterior.num_chains if isinstance(posterior, Draws) else 1
    u = u.reshape(chains, -1, *u.shape[1:])  # (C, S, N, L)
    parts = u.flatten(0, 1).split(block_size(target))
    statistics = {"lp": log_joint_in_blocks(target, u.flatten(0, 1)).unflatten(0, u.shape[:2])}
    named = [target.compute_deterministic(part) for part in parts]
    deterministic = {name: torch.cat([part[name] for part in named]).unflatten(0, u.shape[:2]) for name in named[0]}
    by_site = [target.log_likelihood_by_site(part) for part in parts]
    log_likelihood = {name: torch.cat([part[name] for part in by_site]) for name in target.observed}
    if isinstance(posterior, Draws) and posterior.diverging is not None:
        statistics["diverging"] = posterior.diverging
    if not target.per_datum:
        statistics = {name: value.squeeze(2) for name, value in statistics.items()}
    if isinstance(posterior, Draws) and set(posterior.samples) >= set(target.discrete):
        found = {name: posterior.samples[name] for name in target.discrete}
        discrete = found if target.per_datum else {name: value.squeeze(2) for name, value in found.items()}
    else:
        discrete = target.infer_discrete(u)
    trace = target.trace(target.origin)
    observed = {name: trace[name]["value"] for name in target.observed}
    groups = {
        "posterior": target.constrain(u) | deterministic | discrete,
        "log_likelihood": {name: value.unflatten(0, u.shape[:2]) for name, value in log_likelihood.items()},
        "sample_stats": statistics,
        "observed_data": observed,
    }
    if predictive:
        groups["posterior_predictive"] = _replicated(target, u, discrete)
    if predictive and not target.improper and not target.discrete:
        prior = target.sample_prior(S).unsqueeze(0)
        groups["prior"], groups["prior_predictive"] = target.constrain(prior), _replicated(target, prior, {})
    return _from_groups(groups, target.plate if target.per_datum else None)


def _replicated(target: Target, u: Tensor, discrete: dict[str, Tensor]) -> dict[str, Tensor]:
    """The observed sites drawn anew at u ``(C, S, N, L)``, given the latent ones, ``(C, S, *shape)``."""
    program = poutine.uncondition(target.model)
    drawn: dict[str, list[Tensor]] = {name: [] for name in target.observed}
    chosen = {name: value.flatten(0, 1) for name, value in discrete.items()}
    with evaluating(target.model), pyro.validation_enabled(False):
        for i, place in enumerate(u.flatten(0, 1)):
            sites = target.trace(place)
            given = {name: sites[name]["value"] for name in target.sites}
            for name, value in chosen.items():
                axis, own = target.discrete[name].axis, value[i].to(sites[name]["value"].dtype)
                given[name] = own if axis is None else own.movedim(0, axis)
            trace = run_once(poutine.condition(program, data=given), *target.args)
            for name, values in drawn.items():
                values.append(trace[name]["value"].expand(trace[name]["fn"].shape()))
    return {name: torch.stack(values).unflatten(0, u.shape[:2]) for name, values in drawn.items() if values[0].numel()}


def _from_groups(groups: dict[str, dict[str, Tensor]], plate: str | None) -> Any:
    """Name the dimensions: the plate, then an event's; one posterior has none that is sure to be the data's."""
    lead = {group: 0 if group == "observed_data" else 2 for group in groups}
    arrays = {
        group: {name: value.detach().cpu().numpy() for name, value in values.items()}
        for group, values in groups.items()
    }
    own = [] if plate is None else [plate]
    dims = {
        group: {
            name: own + [f"{name}_dim_{i}" for i in range(value.ndim - lead[group] - len(own))]
            for name, value in values.items()
        }
        for group, values in arrays.items()
    }
    return from_groups(arrays, dims)
