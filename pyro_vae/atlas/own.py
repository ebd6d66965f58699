"""A user's own program in the form of the atlas."""

from __future__ import annotations

from typing import Any

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import number, numbers
from pyro_vae.checks import say
from pyro_vae.inference.exact.quadrature import MAX_LATENT_DIM, quadrature
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.run import mcmc
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target
from pyro_vae.randomness import fork_rng

__all__ = ["own_problem"]

_CHAINS, _DRAWS = 8, 2500  # of the chains that are to be the truth


def own_problem(
    model: Program | Target, x: Any = None, *, truth: Any = None, telling: tuple[str, str] | None = None
) -> Problem:
    """Return a program with its data as a posterior of the atlas.

    Args:
        model: a Pyro program, or a Target in place of it and x.
        x: its data: a tensor, or its arguments as a tuple.
        truth: a :class:`~pyro_vae.atlas.truth.Truth`, long chains, or a distribution over u that is known to be exact;
            None integrates where L <= 3, and runs eight long chains by NUTS otherwise.
        telling: two numbers to draw, such as ``("tau", "theta[0]")``; the first two if None.

    Raises:
        TypeError: if the truth is none of these.
        ValueError: if the program has several posteriors, chains have not converged and so are no truth, or
            ``telling`` names no number of it.
    """
    target = as_target(model, x, plate=None)
    with fork_rng(seed=0):
        known = _known(target, truth)
    for name in telling or ():
        number(known.mean, name)  # says what there is, before any route has run
    names = [name for name, _ in numbers(known.mean)]
    return Problem(
        name=getattr(target.model, "__name__", type(target.model).__name__),
        title="A program of one's own",
        model=target.model,
        args=target.args,
        why="",
        telling=telling or (names[0], names[min(1, len(names) - 1)]),
        source="",
        find_truth=lambda target: known,
    )


def _known(target: Target, truth: Any) -> Truth:
    if isinstance(truth, Truth):
        return truth
    if isinstance(truth, Draws):
        return Truth.of_chains(target, truth, min_ess=1000.0)
    if truth is not None:
        if not hasattr(truth, "sample") or not hasattr(truth, "log_prob"):
            remedy = "pv.quadrature(model, x), long chains, or leaving it out"
            raise TypeError(say("a Truth, Draws or an exact distribution over u", type(truth).__name__, remedy))
        return Truth.of_distribution(target, truth, how="closed form")
    if target.latent_dim <= MAX_LATENT_DIM:
        return Truth.of_distribution(target, quadrature(target), how="quadrature")
    draws = mcmc(
        target,
        kernel=NUTS(target_accept_prob=0.9),
        num_chains=_CHAINS,
        num_samples=_DRAWS,
        warmup_steps=_DRAWS // 2,
    )
    return Truth.of_chains(target, draws, min_ess=1000.0)
