"""A banana: a Gaussian bent along a parabola."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.shapes import Shape
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

LONG, BEND, NARROW = 2.0, 0.5, 0.5


def log_density(z: Tensor) -> Tensor:
    """Log N(z0; 0, 2^2) N(z1; z0^2 / 2, 0.5^2)."""
    along = dist.Normal(z.new_tensor(0.0), LONG).log_prob(z[..., 0])
    return along + dist.Normal(BEND * z[..., 0].square(), NARROW).log_prob(z[..., 1])


def _sample(num_samples: int) -> Values:
    first, second = torch.randn(2, num_samples, dtype=torch.float64)
    first = LONG * first
    return {"z": torch.stack([first, BEND * first.square() + NARROW * second], -1)}


def _truth(target: Target) -> Truth:
    mean = target.origin.new_tensor([0.0, BEND * LONG**2])
    std = target.origin.new_tensor([LONG**2, 2 * BEND**2 * LONG**4 + NARROW**2]).sqrt()
    return Truth.of_sampler(_sample, mean={"z": mean}, std={"z": std}, log_evidence=0.0)


def problem() -> Problem:
    """The banana in two dimensions, whose evidence is 1."""
    return Problem(
        name="banana",
        title="Banana",
        model=Shape(log_density),
        args=(torch.full((2,), 5.0, dtype=torch.float64),),
        why=(
            "The two numbers are uncorrelated, and one determines the other nearly: what full rank adds to mean field "
            "is nothing. Both sit in the bend and report a fraction of the width. A flow with one coupling layer is "
            "exact; chains only need small steps."
        ),
        telling=("z[0]", "z[1]"),
        source="Haario, Saksman & Tamminen 1999, Adaptive proposal distribution for random walk Metropolis, "
        "Computational Statistics 14, another bend. No data.",
        find_truth=_truth,
    )
