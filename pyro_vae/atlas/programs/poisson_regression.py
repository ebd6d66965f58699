"""Poisson regression of small counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.inference.exact.quadrature import quadrature
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]


def program(features: Tensor, exposure: Tensor, y: Tensor) -> None:
    """A log-linear rate, times a known exposure."""
    intercept = pyro.sample("intercept", dist.Normal(features.new_tensor(0.0), 3.0))
    beta = pyro.sample("beta", dist.Normal(features.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(exposure * (intercept + features @ beta).exp()), obs=y)


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Thirty counts, mostly zeros and ones."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    exposure = 0.5 + torch.rand(30, generator=generator, dtype=torch.float64)
    rate = exposure * (-1.0 + features @ features.new_tensor([0.8, -0.4])).exp()
    return features, exposure, torch.poisson(rate, generator=generator)


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, quadrature(target, plate=None), how="quadrature")


def problem() -> Problem:
    """The posterior of intercept and two weights."""
    return Problem(
        name="poisson_regression",
        title="Poisson regression",
        model=program,
        args=data(),
        why=(
            "A log-concave posterior that is a little skewed: the easy case, on which every Gaussian route should be "
            "within a tenth of a standard deviation. The exponential of a large intercept makes gradients at prior "
            "draws huge, so a step size that is not adapted diverges at the start."
        ),
        telling=("intercept", "beta[0]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("poisson_regression", _truth),
    )
