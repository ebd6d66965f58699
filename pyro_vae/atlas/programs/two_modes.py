"""Two modes far apart, of unequal mass and width."""

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

L = 5
SHARES, PLACES, WIDTHS = (0.7, 0.3), (-2.0, 2.0), (1.0, 0.5)


def log_density(z: Tensor) -> Tensor:
    """Log of the mixture of two round Gaussians."""
    terms = [
        math.log(share) + dist.Normal(place * torch.ones_like(z), width).log_prob(z).sum(-1)
        for share, place, width in zip(SHARES, PLACES, WIDTHS, strict=True)
    ]
    return torch.logaddexp(*terms)


def _sample(num_samples: int) -> Values:
    which = (torch.rand(num_samples, 1, dtype=torch.float64) > SHARES[0]).long()
    place, width = (torch.tensor(each, dtype=torch.float64)[which] for each in (PLACES, WIDTHS))
    return {"z": place + width * torch.randn(num_samples, L, dtype=torch.float64)}


def _truth(target: Target) -> Truth:
    parts = list(zip(SHARES, PLACES, WIDTHS, strict=True))
    mean = sum(share * place for share, place, _ in parts)
    square = sum(share * (place**2 + width**2) for share, place, width in parts)
    one = target.origin.new_ones(L)
    return Truth.of_sampler(
        _sample, mean={"z": mean * one}, std={"z": math.sqrt(square - mean**2) * one}, log_evidence=0.0
    )


def problem() -> Problem:
    """The mixture in five dimensions, whose evidence is 1."""
    return Problem(
        name="two_modes",
        title="Two modes",
        model=Shape(log_density),
        args=(torch.full((L,), 4.0, dtype=torch.float64),),
        why=(
            "The valley between the modes is some seventeen nats deep. The narrow mode is the higher one and holds "
            "less: MAP and Laplace may take it. Each Gaussian takes one mode and reports its width as all there is, "
            "with a good ELBO and a good k-hat: no local measure sees what is missing. Chains stay where they started "
            "and disagree, which R-hat shows; only tempering moves."
        ),
        telling=("z[0]", "z[1]"),
        source="A standard test density. No data.",
        find_truth=_truth,
    )
