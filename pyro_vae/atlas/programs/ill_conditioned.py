"""A Gaussian whose axes differ in length a thousandfold."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.inference.exact.analytic import analytic
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

L = 30


def program(design: Tensor, y: Tensor) -> None:
    """As many linear measurements as unknowns."""
    z = pyro.sample("z", dist.Normal(design.new_zeros(L), 10.0).to_event(1))
    with pyro.plate("data", L):
        pyro.sample("y", dist.Normal((design @ z.unsqueeze(-1)).squeeze(-1), 1.0), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Singular values from 1 to 1,000 along random directions."""
    generator = torch.Generator().manual_seed(10)
    left, right = (torch.linalg.qr(each).Q for each in torch.randn(2, L, L, generator=generator, dtype=torch.float64))
    design = left @ torch.diag(torch.logspace(0, 3, L, dtype=torch.float64)) @ right
    z, noise = torch.randn(2, L, generator=generator, dtype=torch.float64)
    return design, design @ z + noise


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, analytic(target), how="closed form")


def problem() -> Problem:
    """The posterior of thirty unknowns."""
    return Problem(
        name="ill_conditioned",
        title="Ill-conditioned Gaussian",
        model=program,
        args=data(),
        why=(
            "Standard deviations from 0.001 to 1, along directions that no coordinate shows. Steps that suit the "
            "shortest axis take a million to cross the longest, unless a metric is learnt: plain gradient descent, "
            "Adam and diagonal mass matrices crawl, quasi-Newton steps and full matrices do not. Mean field reports "
            "the shortest width everywhere."
        ),
        telling=("z[0]", "z[1]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=_truth,
    )
