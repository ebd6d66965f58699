"""Posteriors of every kind to ArviZ, with what its plots and leave-one-out need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.arviz_import import arviz
from pyro_vae.checks import positive_integer
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.posterior import answer
from pyro_vae.inference.target.blocks import block_size, log_joint_in_blocks
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["to_arviz"]


@torch.no_grad()
def to_arviz(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    posterior: Any = None,
    *,
    num_samples: int = 1000,
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
    return _from_groups(
        {
            "posterior": target.constrain(u) | deterministic | discrete,
            "log_likelihood": {name: value.unflatten(0, u.shape[:2]) for name, value in log_likelihood.items()},
            "sample_stats": statistics,
            "observed_data": observed,
        },
        target.plate if target.per_datum else None,
    )


def _from_groups(groups: dict[str, dict[str, Tensor]], plate: str | None) -> Any:
    library = arviz()
    from_dict: Any = library.from_dict
    arrays = {
        group: {name: value.detach().cpu().numpy() for name, value in values.items()}
        for group, values in groups.items()
    }
    dims: dict[str, list[str]] = {}
    for group, lead in (("posterior", 3), ("sample_stats", 3)):
        for name, value in arrays[group].items():
            dims[name] = [] if plate is None else [plate, *(f"{name}_dim_{i}" for i in range(value.ndim - lead))]
    for name, value in arrays["observed_data"].items():
        dims[name] = [] if plate is None else [plate, *(f"{name}_dim_{i}" for i in range(value.ndim - 1))]
    if int(library.__version__.split(".")[0]) >= 1:
        return from_dict(arrays, dims=dims)
    # the likelihood bears the data's name with fewer dimensions, so its group is made apart
    likelihood = arrays.pop("log_likelihood")
    found = from_dict(**arrays, dims=dims)
    names = {name: [] if plate is None else [plate] for name in likelihood}
    found.extend(from_dict(log_likelihood=likelihood, dims=names))
    return found
