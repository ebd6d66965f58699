"""Twenty-five modes on a square lattice."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.shapes import Shape
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

PLACES, WIDTH = (-4.0, -2.0, 0.0, 2.0, 4.0), 0.3


def log_density(z: Tensor) -> Tensor:
    """Log density: the coordinates are independent, each a mixture of five."""
    terms = dist.Normal(z.new_tensor(PLACES), WIDTH).log_prob(z.unsqueeze(-1))
    return (terms.logsumexp(-1) - math.log(len(PLACES))).sum(-1)


def _sample(num_samples: int) -> Values:
    place = torch.tensor(PLACES, dtype=torch.float64)[torch.randint(len(PLACES), (num_samples, 2))]
    return {"z": place + WIDTH * torch.randn(num_samples, 2, dtype=torch.float64)}


def _truth(target: Target) -> Truth:
    variance = sum(place**2 for place in PLACES) / len(PLACES) + WIDTH**2
    zero = target.origin.new_zeros(2)
    return Truth.of_sampler(_sample, mean={"z": zero}, std={"z": zero + math.sqrt(variance)}, log_evidence=0.0)


def problem() -> Problem:
    """The lattice in two dimensions, whose evidence is 1."""
    return Problem(
        name="many_modes",
        title="Many modes",
        model=Shape(log_density),
        args=(torch.full((2,), 4.0, dtype=torch.float64),),
        why=(
            "Twenty-five equal modes with valleys of five nats between neighbours. A Gaussian with small steps takes "
            "one of them and is too narrow tenfold; one that covers them all would be right about mean and width "
            "and wrong everywhere. Long chains hop, short ones do not."
        ),
        telling=("z[0]", "z[1]"),
        source="A standard test density. No data.",
        find_truth=_truth,
    )
