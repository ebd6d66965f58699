"""A change of a rate at an unknown time, which is summed out."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

SHAPE, RATE = 2.0, 1.0  # of both rates' Gamma prior


def program(y: Tensor) -> None:
    """Counts at one rate before the change and another from it on."""
    T = len(y)
    early = pyro.sample("early", dist.Gamma(y.new_tensor(SHAPE), y.new_tensor(RATE)))
    late = pyro.sample("late", dist.Gamma(y.new_tensor(SHAPE), y.new_tensor(RATE)))
    change = pyro.sample("change", dist.Categorical(logits=y.new_zeros(T)), infer={"enumerate": "parallel"})
    with pyro.plate("data", T):
        pyro.sample("y", dist.Poisson(torch.where(torch.arange(T) < change, early, late)), obs=y)


def data() -> tuple[Tensor]:
    """Fifty counts at rate 3, then 1.2 from the twentieth on."""
    generator = torch.Generator().manual_seed(9)
    rates = torch.tensor([3.0] * 20 + [1.2] * 30, dtype=torch.float64)
    return (torch.poisson(rates, generator=generator),)


def _log_marginal(total: Tensor, count: Tensor) -> Tensor:
    """Log of the integral of a Gamma prior times the Poisson terms of ``count`` values, their factorials left out."""
    prior = SHAPE * torch.tensor(RATE).double().log() - torch.tensor(SHAPE).double().lgamma()
    return prior + (SHAPE + total).lgamma() - (SHAPE + total) * (RATE + count).log()


def _truth(target: Target) -> Truth:
    """Given the change, both rates are Gamma; so the posterior is a finite mixture of products of Gammas."""
    (y,) = target.args
    T = len(y)
    before = torch.cat([y.new_zeros(1), y.cumsum(0)[:-1]])  # what lies before each possible change
    count = torch.arange(T).to(y)
    after, rest = y.sum() - before, T - count
    log_joint = _log_marginal(before, count) + _log_marginal(after, rest) - (y + 1).lgamma().sum()
    log_joint = log_joint - torch.tensor(float(T)).double().log()
    weight = log_joint.softmax(0)
    gammas = {"early": (SHAPE + before, RATE + count), "late": (SHAPE + after, RATE + rest)}

    def sample(n: int) -> Values:
        which = torch.multinomial(weight, n, replacement=True)
        return {name: dist.Gamma(a[which], b[which]).sample() for name, (a, b) in gammas.items()}

    mean = {name: weight @ (a / b) for name, (a, b) in gammas.items()}
    square = {name: weight @ (a * (a + 1) / b**2) for name, (a, b) in gammas.items()}
    std = {name: (square[name] - mean[name].square()).sqrt() for name in mean}
    return Truth.of_sampler(sample, how="enumeration", mean=mean, std=std, log_evidence=float(log_joint.logsumexp(0)))


def problem() -> Problem:
    """The posterior of the two rates."""
    return Problem(
        name="changepoint",
        title="A change of rate",
        model=program,
        args=data(),
        why=(
            "The time of the change is discrete and summed out, which leaves two rates whose posterior is a mixture "
            "over fifty times. Any route that takes gradients works then. What can fail is a route that cannot sum; "
            "and a Gaussian misses the tails that unlikely times leave."
        ),
        telling=("early", "late"),
        source="Simulated from the model with a fixed seed, after the coal-mining series of Carlin, Gelfand & Smith "
        "1992, Hierarchical Bayesian analysis of changepoint problems, Applied Statistics 41.",
        find_truth=_truth,
    )
