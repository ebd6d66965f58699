"""Which programs and data a target takes: arguments, the data plate, sites."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.target.densities import log_prob
from pyro_vae.inference.target.modules import check_dtypes
from pyro_vae.inference.target.program import Program, Trace, argument_name, frame_of, may_miss
from pyro_vae.inference.target.supports import check_shape, check_support, is_bounded, layers, same_support, underlying

__all__ = [
    "DEFAULT_PLATE",
    "PlateError",
    "check_arguments",
    "check_missing",
    "check_sites",
    "check_whole_plates",
    "data_plate",
    "flat_sites",
    "improper_sites",
    "without_data",
]

DEFAULT_PLATE = "data"


class PlateError(ValueError):
    """The plate that was asked for does not hold the data; another one, or none, would."""


def check_arguments(model: Program, args: tuple[Any, ...], *, single: bool) -> None:
    """Check a program's arguments: tensors of data, none infinite, of the precision of its parameters.

    Raises:
        TypeError: if a single argument is no tensor.
        ValueError: if data are empty, infinite, or of another precision than a module's parameters.
    """
    for position, arg in enumerate(args):
        if isinstance(arg, Tensor):
            name = argument_name(position)
            checks.finite(checks.tensor(arg, name, min_dim=0), name, missing=True)
        elif single:
            checks.tensor(arg)
    check_dtypes(model, args)


def check_missing(model: Program, args: tuple[Any, ...], trace: Trace) -> None:
    """Check that a program which is given NaN keeps it out of its observed sites and their densities.

    Raises:
        ValueError: if NaN reaches a density, or a value under a mask, whose gradient it would make NaN.
    """
    for position, arg in enumerate(args):
        if not isinstance(arg, Tensor) or may_miss(model, position) or not bool(arg.isnan().any()):
            continue
        for name, site in trace.items():
            value = site["value"]
            gaps = site["is_observed"] and isinstance(value, Tensor) and bool(value.isnan().any())
            if (gaps and _indexes(site["fn"])) or not bool(log_prob(site).isfinite().all()):
                checks.finite(arg, argument_name(position))
            if gaps:
                remedy = f"obs={argument_name(position)}.nan_to_num() under the mask"
                raise ValueError(say(f"numbers at the observed site {name!r}", "NaN, whose gradient is NaN", remedy))


def _indexes(fn: Any) -> bool:
    """Whether a value is an index into probabilities, which NaN cannot be: to ask for its density is an error."""
    return any(isinstance(underlying(part), torch.distributions.Categorical) for part in getattr(fn, "parts", [fn]))


def without_data(runs: list[Trace]) -> frozenset[str]:
    """Names of the observed sites none of whose numbers is the same in every run: latents determine them all.

    So reparametrisers write the site that they have replaced, its prior with it.
    """
    return frozenset(
        name
        for name, site in runs[0].items()
        if site["is_observed"] and site["value"].numel()
        if all(name in run for run in runs)
        if not any(bool(_same_number(site["value"], run[name]["value"]).any()) for run in runs[1:])
    )


def _same_number(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors hold the same number, or both miss it."""
    return (a == b) | (a.isnan() & b.isnan())


def improper_sites(trace: Trace, determined: Set[str]) -> list[str]:
    """Names of the sites of the prior whose densities are not those of its draws: masked, scaled, or with no draws.

    So is a site that latents determine, where it carries a density. Annealing from the prior would be wrong in silence.
    """

    def weighed(site: dict[str, Any]) -> bool:
        scaled = not bool((torch.as_tensor(site["scale"]) == 1).all())
        return _is_masked(site) or scaled or isinstance(underlying(site["fn"]), dist.ImproperUniform)

    latent = {name: site for name, site in trace.items() if not site["is_observed"] and name not in determined}
    own = [name for name, site in latent.items() if weighed(site)]
    return own + [name for name in determined if bool((log_prob(trace[name]) != 0).any())]


def _is_masked(site: dict[str, Any]) -> bool:
    masks = [site["mask"], *(getattr(fn, "_mask", None) for fn in layers(site["fn"]))]
    return any(mask is not None and not bool(torch.as_tensor(mask).all()) for mask in masks)


def flat_sites(trace: Trace) -> list[str]:
    """Names of the latent sites whose prior is no distribution: improper, or masked, over a range without end."""

    def flat(site: dict[str, Any]) -> bool:
        improper = _is_masked(site) or isinstance(underlying(site["fn"]), dist.ImproperUniform)
        return improper and not is_bounded(site["fn"].support)

    return [name for name, site in trace.items() if not site["is_observed"] and flat(site)]


def _plates(trace: Trace) -> dict[str, Any]:
    return {frame.name: frame for site in trace.values() for frame in site["cond_indep_stack"]}


def check_whole_plates(trace: Trace) -> None:
    """Check that no plate is sub-sampled.

    Raises:
        ValueError: if one is.
    """
    for name, frame in _plates(trace).items():
        if frame.full_size is not None and frame.size != frame.full_size:
            got = (
                f"{frame.size} of {frame.full_size} rows, whose density is an estimate that draws would take for exact"
            )
            remedy = "a program without sub-sampling, or pv.fit, whose gradients may be estimates"
            raise ValueError(say(f"the whole plate {name!r}", got, remedy))


def data_plate(trace: Trace, plate: str | None) -> str | None:
    """Return the plate over whose rows a program is N posteriors; None if it is one posterior as a whole.

    It is one where a latent site lies outside the plate. A program without a plate of the default name is one too,
    unless another plate holds every latent site: then which is meant must be said.

    Raises:
        PlateError: if the plate does not exist, or is sequential.
    """
    plates = _plates(trace)
    if plate is None or not plates:
        return None
    latent = [site for site in trace.values() if not site["is_observed"]]
    around_all = [name for name in plates if all(frame_of(site, name) is not None for site in latent)]
    if plate not in plates:
        if plate == DEFAULT_PLATE and not around_all:
            return None
        remedy = f"plate={min(around_all or plates)!r}, or plate=None for the posterior of the whole program"
        raise PlateError(say(f"a plate named {plate!r}", f"plates {sorted(plates)}", remedy))
    if plate not in around_all:
        return None
    if plates[plate].dim is None:
        remedy = "with pyro.plate(...) in place of for"
        raise PlateError(say(f"a vectorised plate {plate!r}", "a sequential one", remedy))
    return plate


def check_sites(runs: list[Trace], plate: str | None, determined: Set[str] = frozenset()) -> set[str]:
    """Check the sites of a program that ran more than once; return the observed ones whose support moves.

    Whether data lie in a support is asked only where it is the same in every run: one that depends on latents rules
    those latents out that the data contradict, whose likelihood is zero.

    Raises:
        ValueError: if no site is latent or none observed; if an observed site lies outside the plate, or data outside a
            site's support.
    """
    trace = runs[0]
    latent = [name for name, site in trace.items() if not site["is_observed"]]
    observed = [name for name, site in trace.items() if site["is_observed"]]
    if not latent:
        raise ValueError(say("at least one latent site", f"observed sites {observed}", "pyro.sample without obs"))
    if not observed:
        named = f", and {sorted(determined)}, whose numbers they determine" if determined else ""
        got = f"latent sites {latent}{named}"
        remedy = "obs=x in pyro.sample, or pyro.factor for a density of latents alone"
        raise ValueError(say("at least one observed site", got, remedy))
    for run in runs[1:]:
        own = [name for name, site in run.items() if not site["is_observed"]]
        if odd := sorted(set(own) ^ set(latent)):
            remedy = "a site in every run, whose value the other branch ignores, or discrete choices summed out"
            raise ValueError(say("the same latent sites in every run", f"{odd} in some runs only", remedy))
    moving = set()
    for name in observed:
        site = trace[name]
        if plate is not None and frame_of(site, plate) is None:
            remedy = "moving it inside, or plate=None for the posterior of the whole program"
            raise ValueError(say(f"observed site {name!r} inside plate {plate!r}", "a site outside", remedy))
        check_shape(name, site)
        supports = [getattr(run[name]["fn"], "support", None) for run in runs if name in run]
        if all(same_support(supports[0], other) for other in supports[1:]):
            check_support(name, site)
        else:
            moving.add(name)
    return moving
