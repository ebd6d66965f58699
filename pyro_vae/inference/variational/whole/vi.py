"""Variational inference of any program, in one line and without tuning."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from pyro_vae.checks import among, positive_integer
from pyro_vae.inference.optimum.pathfinder import pathfinder
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.inference.variational.whole.families import Family, FullRank, LowRank, MeanField
from pyro_vae.inference.variational.whole.fixed_noise import maximise
from pyro_vae.inference.variational.whole.result import VIPosterior

__all__ = ["vi"]

_GUIDES = ("auto", "mean_field", "full_rank", "low_rank", "flow")


def vi(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    guide: Any = "auto",
    *,
    objective: str = "elbo",
    max_gradients: int = 500_000,
    rank: int = 4,
    num_particles: int = 16,
    alpha: float = 0.5,
    plate: str | None = "data",
) -> VIPosterior:
    """First version."""
    begun = time.perf_counter()
    target = as_target(model, x, plate=plate)
    must_have_continuous(target)
    positive_integer(max_gradients, "max_gradients")
    among(guide, _GUIDES, "guide")
    start = pathfinder(target)
    q = start.best
    name = "full_rank" if guide in {"auto", "flow"} else guide
    family: Family = {"mean_field": MeanField, "full_rank": FullRank}.get(name, lambda s: LowRank(s, rank))(q)
    search = maximise(
        target, family, lambda w: w.mean(0), name=name, budget=max_gradients - start.num_gradients, group=1
    )
    search.num_gradients += start.num_gradients
    search.num_sequential += start.num_sequential
    found = VIPosterior(target, search)
    found.seconds = time.perf_counter() - begun
    return found
