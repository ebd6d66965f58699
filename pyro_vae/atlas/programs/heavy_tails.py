"""A multivariate Student-t with three degrees of freedom."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.shapes import Shape
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

L, FREEDOM = 5, 3.0
QUANTILE_95 = 2.3533634348018264  # of Student's t with three degrees of freedom


def log_density(z: Tensor) -> Tensor:
    """Log density of the round multivariate t."""
    constant = math.lgamma((FREEDOM + L) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * L * math.log(FREEDOM * math.pi)
    return constant - 0.5 * (FREEDOM + L) * torch.log1p(z.square().sum(-1) / FREEDOM)


def _sample(num_samples: int) -> Values:
    chi2 = 2 * torch.distributions.Gamma(torch.tensor(FREEDOM / 2).double(), 1.0).sample((num_samples, 1))
    return {"z": torch.randn(num_samples, L, dtype=torch.float64) * (FREEDOM / chi2).sqrt()}


def _truth(target: Target) -> Truth:
    zero = target.origin.new_zeros(L)
    return Truth.of_sampler(
        _sample,
        mean={"z": zero},
        std={"z": zero + math.sqrt(FREEDOM / (FREEDOM - 2))},
        low={"z": zero - QUANTILE_95},
        high={"z": zero + QUANTILE_95},
        log_evidence=0.0,
    )


def problem() -> Problem:
    """The density in five dimensions, whose evidence is 1."""
    return Problem(
        name="heavy_tails",
        title="Heavy tails",
        model=Shape(log_density),
        args=(torch.full((L,), 5.0, dtype=torch.float64),),
        why=(
            "Polynomial tails: the standard deviation exists and lies mostly in rare draws. Laplace sees the curvature "
            "of the top alone; a Gaussian with the best ELBO is too narrow, its importance weights have no "
            "variance, and k-hat must say so. The quantiles are much less wrong than the standard deviation. Chains "
            "need long trips into the tails."
        ),
        telling=("z[0]", "z[1]"),
        source="A standard test density. No data.",
        find_truth=_truth,
    )
