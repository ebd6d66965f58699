"""Data simulated from a program together with the latents that made them: each is an exact posterior draw."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.program import evaluating, sample_sites
from pyro_vae.inference.target.target import Target

__all__ = ["simulate"]


@torch.no_grad()
def simulate(model: Any, x: Tensor, *, plate: str | None = "data") -> tuple[Tensor, Tensor]:
    """Draw (u, x) from a program's joint density, as many as x has rows.

    Given the simulated x, the u that made it is one draw of the exact posterior p(u|x): the ground of reverse
    annealing and of simulation-based calibration.

    Args:
        model: a Pyro program with one observed site, called as ``model(x)``.
        x: data of the shape to simulate, ``(N, *D)``; its values are not used.
        plate: the data plate.

    Returns:
        Simulated data ``(N, *D)`` and the latents u that made them, ``(N, L)``.

    Raises:
        ValueError: if the program observes several sites.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> x, u = simulate(model, torch.zeros(100, 8))
        >>> x.shape, u.shape
        (torch.Size([100, 8]), torch.Size([100, 2]))
    """
    target = Target(model, x, plate=plate)
    if len(target.observed) != 1:
        raise ValueError(say("one observed site to simulate", f"{target.observed}", "a program with a single one"))
    with evaluating(model):
        trace = sample_sites(poutine.trace(poutine.uncondition(model)).get_trace(x))
    drawn = trace[target.observed[0]]["value"]
    if drawn.shape != x.shape:
        got = f"{tuple(drawn.shape)} for x {tuple(x.shape)}"
        raise ValueError(say("an observed site of the shape of x", got, "observing x as it is passed"))
    u = Target(model, drawn, plate=plate).pack({name: trace[name]["value"] for name in target.sites})
    return drawn.detach(), u.detach()
