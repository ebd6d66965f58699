"""What a Pyro program is made of: its sites and its plates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from pyro_vae.inference.target.supports import layers

__all__ = [
    "Imputing",
    "Program",
    "Trace",
    "argument_name",
    "deterministic_sites",
    "frame_of",
    "may_miss",
    "run_once",
    "run_to",
    "sample_sites",
]

Program = Callable[..., Any]
Trace = dict[str, dict[str, Any]]  # the sample sites of one run by name, as Pyro writes them


def sample_sites(trace: Any) -> Trace:
    """Return the sample sites of a Pyro trace that carry a density, by name."""
    return {name: site for name, site in _sites(trace) if not _is_deterministic(site)}


def run_once(program: Program, *args: Any) -> Trace:
    """Run a program and return its sample sites by name; errors come as they were raised, without Pyro's appendix."""
    return sample_sites(_traced(program, args))


def run_to(latent: Collection[str], program: Program, *args: Any) -> Trace:
    """As :func:`run_once`; a run that fails in a factorisation ends there, if it has drawn these latent sites before.

    So does a covariance that is not positive definite, by rounding perhaps: the latents are a draw all the same.
    """
    with poutine.trace() as tracer:
        try:
            program(*args)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            if not set(latent) <= tracer.trace.nodes.keys():
                raise
    return sample_sites(tracer.trace)


def deterministic_sites(program: Program, *args: Any) -> Trace:
    """Run a program and return what other sites determine: ``pyro.deterministic``, and sites of a reparametriser."""
    return {name: site for name, site in _sites(_traced(program, args)) if _is_deterministic(site)}


def _traced(program: Program, args: tuple[Any, ...]) -> Any:
    with poutine.trace() as tracer:
        program(*args)
    return tracer.trace


def _sites(trace: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
            yield name, site


def _is_deterministic(site: dict[str, Any]) -> bool:
    """Whether a site only gives a value a name; the reparametrisers write such sites without Pyro's mark."""
    fns = list(layers(site["fn"])) if site["is_observed"] else []
    named = any(getattr(fn, "_mask", None) is False for fn in fns) and isinstance(fns[-1], dist.Delta)
    return named or bool(site["infer"].get("_deterministic", False))


def frame_of(site: dict[str, Any], plate: str | None) -> Any:
    """Return the frame of the plate around a site, or None."""
    return next((frame for frame in site["cond_indep_stack"] if frame.name == plate), None)


class Imputing(Messenger):
    """Leaves the numbers that ``obs_mask`` takes out their prior: without it they would have no density at all."""

    def __enter__(self) -> Any:
        self._observed: set[str] = set()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            self._observed.add(msg["name"])
        elif f"{msg['name'].removesuffix('_unobserved')}_observed" in self._observed:
            msg["mask"] = None


def argument_name(position: int) -> str:
    """Return how an argument of the program is called in an error."""
    return "x" if position == 0 else f"argument {position} of the model"


def may_miss(model: Any, position: int) -> bool:
    """Whether NaN in this argument marks a missing entry: in the data, where the model says so."""
    return position == 0 and bool(getattr(model, "missing", False))
