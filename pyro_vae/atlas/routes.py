"""The routes of the atlas: each infers one posterior of a whole program from a budget, and nothing is tuned by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim.optim import PyroOptim
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.base import Kernel
from pyro_vae.inference.mcmc.kernels.chees import ChEES
from pyro_vae.inference.mcmc.kernels.hmc import HMC
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.kernels.random_walk import RandomWalk
from pyro_vae.inference.mcmc.kernels.tempering import ParallelTempering
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.optimum.mode import laplace, maximum_a_posteriori
from pyro_vae.inference.optimum.pathfinder import pathfinder
from pyro_vae.inference.target.target import Target
from pyro_vae.inference.variational.coordinate_ascent import coordinate_ascent
from pyro_vae.inference.variational.whole.vi import vi

__all__ = ["ROUTES", "Route", "cost", "counting"]


@dataclass(frozen=True)
class Route:
    """A way from a target to a posterior.

    Attributes:
        name: as the tables have it.
        infer: takes the target and a budget, the most gradients of log p at one u that it may spend (for chains about
            so many, and for Metropolis densities), and returns a posterior: a distribution over u, a guide, or Draws.
        budgeted: whether a larger budget changes anything.
    """

    name: str
    infer: Callable[[Target, int], Any]
    budgeted: bool = True


@contextmanager
def counting(target: Target) -> Iterator[list[int]]:
    """Count evaluations of a target's density, with a gradient or without: those at one u, and those one after another.

    Compiled chains and Pyro's own SVI call it by other ways, and count for themselves.
    """
    counts, log_parts = [0, 0], target.log_parts

    def counted(u: Tensor) -> tuple[Tensor, Tensor]:
        counts[0] += u.shape[:-2].numel()
        counts[1] += 1
        return log_parts(u)

    target.log_parts = counted  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del target.log_parts


def cost(posterior: Any, counts: Sequence[int] = (0, 0)) -> tuple[int | None, int | None]:
    """How many evaluations of log p or its gradient a route spent, in all and one after another; None if not counted.

    All particles, paths and chains count in the first; what moves together as one tensor counts once in the second.

    Args:
        posterior: what the route gave; Draws know what their chains spent.
        counts: what :func:`counting` counted while it ran.
    """
    if isinstance(posterior, Draws):
        sequential = (posterior.num_gradients or 0) + (posterior.num_evaluations or 0)
        temperatures = 1 if posterior.exchange is None else len(posterior.exchange) + 1
        return sequential * posterior.num_chains * temperatures, sequential
    if counts[0]:
        return counts[0], counts[1]
    return getattr(posterior, "num_gradients", None), getattr(posterior, "num_sequential", None)


def _family(guide: str, **settings: Any) -> Callable[[Target, int], Any]:
    return lambda target, budget: vi(target, guide=guide, max_gradients=budget, **settings)


def _chains(kernel: Kernel, *, num_chains: int, a_step: int) -> Callable[[Target, int], Any]:
    """Chains whose steps cost about ``a_step`` evaluations each; a third of the steps adapts."""

    def infer(target: Target, budget: int) -> Draws:
        steps = max(60, budget // (num_chains * kernel.replicas * a_step))
        warmup = max(30, steps // 3)
        return mcmc(target, kernel=kernel, num_samples=steps - warmup, warmup_steps=warmup, num_chains=num_chains)

    return infer


def _paths(num_paths: int) -> Callable[[Target, int], Any]:
    return lambda target, budget: pathfinder(target, num_paths=num_paths)


def _plain_svi(target: Target, budget: int) -> AutoNormal:
    """What one writes first: Pyro's AutoNormal, a thousand steps of Adam at 0.01 with one particle."""
    if target.discrete:
        got, remedy = (
            f"the discrete {', '.join(map(repr, target.discrete))}",
            "a route of this package, which sums them",
        )
        raise ValueError(say("a program without discrete sites for Trace_ELBO", got, remedy))
    with pyro.get_param_store().scope():  # the user's own parameters stay as they are
        guide = AutoNormal(target.model)
        svi = SVI(target.model, guide, PyroOptim(torch.optim.Adam, {"lr": 0.01}), Trace_ELBO())
        for _ in range(_STEPS):
            svi.step(*target.args)
    guide.num_gradients = guide.num_sequential = _STEPS
    return guide


_STEPS = 1_000

_ALL = (
    Route("mode", lambda target, budget: maximum_a_posteriori(target), budgeted=False),
    Route("Laplace", lambda target, budget: laplace(target), budgeted=False),
    Route("Pathfinder", _paths(1), budgeted=False),
    Route("multi-Pathfinder", _paths(8), budgeted=False),
    Route("coordinate ascent", lambda target, budget: coordinate_ascent(target), budgeted=False),
    Route("Pyro AutoNormal", _plain_svi, budgeted=False),
    Route("mean field", _family("mean_field")),
    Route("mean field, IW", _family("mean_field", objective="importance")),
    Route("mean field, Renyi", _family("mean_field", objective="renyi")),
    Route("low rank", _family("low_rank")),
    Route("full rank", _family("full_rank")),
    Route("flow", _family("flow")),
    Route("auto", _family("auto")),
    Route("Metropolis", _chains(RandomWalk(), num_chains=8, a_step=1)),
    Route("HMC", _chains(HMC(), num_chains=8, a_step=10)),
    Route("ChEES", _chains(ChEES(), num_chains=16, a_step=10)),
    Route("NUTS", _chains(NUTS(), num_chains=4, a_step=10)),
    Route("tempering", _chains(ParallelTempering(), num_chains=4, a_step=10)),
)
ROUTES = {route.name: route for route in _ALL}
