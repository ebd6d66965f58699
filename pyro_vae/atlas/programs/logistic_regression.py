"""Logistic regression on few, nearly separated rows."""

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


def program(features: Tensor, y: Tensor) -> None:
    """Weights under a wide prior."""
    intercept = pyro.sample("intercept", dist.Normal(features.new_tensor(0.0), 5.0))
    beta = pyro.sample("beta", dist.Normal(features.new_zeros(2), 5.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=intercept + features @ beta), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Twenty-five rows, whose classes one feature separates but for a few."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(25, 2, generator=generator, dtype=torch.float64)
    logits = 1.0 + features @ features.new_tensor([4.0, -2.0])
    y = torch.rand(25, generator=generator, dtype=torch.float64) < logits.sigmoid()
    return features, y.double()


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, quadrature(target, plate=None), how="quadrature")


def problem() -> Problem:
    """The posterior of intercept and two weights."""
    return Problem(
        name="logistic_regression",
        title="Logistic regression, nearly separated",
        model=program,
        args=data(),
        why=(
            "Where the classes are nearly separated, the data bound the weights on one side only: the posterior is "
            "skewed, and its weights are correlated because their size is hardly known. The mode lies below the mean, "
            "so MAP and Laplace are off; a full-rank Gaussian is close, mean field too narrow."
        ),
        telling=("beta[0]", "beta[1]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("logistic_regression", _truth),
    )
