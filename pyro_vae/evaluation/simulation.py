"""Data simulated from a program together with the latents that made them: each is an exact posterior draw."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.checks import say
from pyro_vae.inference.target.modules import evaluating
from pyro_vae.inference.target.program import Program, sample_sites
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["applied", "simulate", "simulated"]


def simulate(
    model: Program | Target, x: Tensor | tuple[Any, ...] | None = None, *, plate: str | None = "data"
) -> tuple[Tensor, Tensor]:
    """Draw (u, x) from a program's joint density, as many as x has rows.

    Given the simulated x, the u that made it is one draw of the exact posterior p(u|x): the ground of reverse
    annealing and of simulation-based calibration.

    Args:
        model: a Pyro program with one observed site, its first argument; or a Target in place of it and x.
        x: data of the shape to simulate, ``(N, *D)``, whose values are not used; with covariates, a tuple that begins
            with them.
        plate: the data plate.

    Returns:
        Simulated data ``(N, *D)`` and the latents u that made them, ``(N, L)``.

    Raises:
        ValueError: if the program observes several sites, or another value than its first argument.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> x, u = simulate(model, torch.zeros(100, 8))
        >>> x.shape, u.shape
        (torch.Size([100, 8]), torch.Size([100, 2]))
    """
    target, u = simulated(as_target(model, x, plate=plate))
    return target.args[0], u


@torch.no_grad()
def simulated(target: Target) -> tuple[Target, Tensor]:
    """Return the target of data simulated as a target's are, and the latents u ``(N, L)`` that made them."""
    if len(target.observed) != 1:
        raise ValueError(say("one observed site to simulate", f"{target.observed}", "a program with a single one"))
    x, *covariates = target.args
    with evaluating(target.model):
        trace = sample_sites(poutine.trace(poutine.uncondition(target.model)).get_trace(*target.args))
    drawn = trace[target.observed[0]]["value"].detach()
    if drawn.shape != x.shape:
        got = f"{tuple(drawn.shape)} for x {tuple(x.shape)}"
        raise ValueError(say("an observed site of the shape of x", got, "observing x as it is passed"))
    return Target(target.model, (drawn, *covariates), plate=target.plate), target.layout.pack(trace).detach()


def applied(way: Any, target: Target) -> Any:
    """What a way of inference says of a target's data: a guide as it is, of a function of the data its result.

    A function gets x alone, or x and its covariates as a tuple, as routes take them; a guide program is known by being
    called as the model is, or by returning no posterior.
    """
    if hasattr(way, "posterior") or isinstance(way, Distribution | nn.Module) or not callable(way):
        return way
    if len(target.args) > 1:
        with suppress(TypeError):
            inspect.signature(way).bind(*target.args)
            return way
    found = way(target.args[0] if len(target.args) == 1 else target.args)
    return way if found is None or isinstance(found, Tensor | Mapping | tuple | list) else found
