"""What models observe: the same numbers, if they are to be compared; and log p(x) of those that observe only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.inference.target.substitution import run_prior
from pyro_vae.inference.target.target import Target
from pyro_vae.randomness import fork_rng

__all__ = ["check_same", "observed_numbers", "of_data_alone"]


def _run(program: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    with torch.no_grad(), fork_rng(seed=0):
        return run_prior(program, args)


def _numbers(sites: Mapping[str, Any], observed: Iterable[str]) -> Tensor:
    """The observed numbers of a program, lowest first: programs may have them in sites of their own."""
    values = [sites[name]["value"].double().flatten().cpu() for name in observed]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *values]).sort()[0]


def observed_numbers(target: Target) -> Tensor:
    """Return the numbers that a target's program observes, lowest first."""
    return _numbers(_run(target.model, target.args), target.observed)


def of_data_alone(model: Any, x: Any, plate: str | None) -> tuple[Evidence, Tensor] | None:
    """Log p(x) of a program without latents, a point hypothesis, and its data; None of others.

    It is the density of a row, where all sites stand in the plate, else of all data.
    """
    if isinstance(model, Target) or not callable(model) or x is None:
        return None
    try:
        sites = _run(model, x if isinstance(x, tuple) else (x,))
    except Exception:  # noqa: BLE001  what is wrong with it its Target says
        return None
    if not sites or not all(site["is_observed"] for site in sites.values()):
        return None
    terms, places = [], []
    for site in sites.values():
        with torch.no_grad():
            log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
        terms.append(log_prob)
        places += [frame.dim for frame in site["cond_indep_stack"] if frame.name == plate][:1]
    if len(places) == len(terms):
        rows = [term.movedim(dim, -1) for term, dim in zip(terms, places, strict=True)]
        value = torch.stack([row.reshape(-1, row.shape[-1]).sum(0) for row in rows]).sum(0)
    else:
        value = torch.stack([term.sum() for term in terms]).sum().reshape(1)
    error = torch.zeros_like(value)
    return Evidence(value, error, "density", value.isfinite(), "there are no latents"), _numbers(sites, sites)


def check_same(data: Mapping[str, Tensor], *, converted: bool) -> None:
    """See that all models observe the same numbers, in units of their own if that is said."""
    sizes = {name: len(numbers) for name, numbers in data.items() if len(numbers)}
    if len(set(sizes.values())) > 1:
        raise ValueError(say("models of the same data", f"{sizes} observed numbers", "one x_test"))
    (first, numbers), *others = data.items()
    odd = [name for name, own in others if len(own) == len(numbers) and not own.allclose(numbers, equal_nan=True)]
    if odd and not converted:
        remedy = "one x_test, or log_jacobians= of models that see the data in units of their own"
        raise ValueError(say("models of the same data", f"other numbers in {odd} than in {first!r}", remedy))
