"""Linear regression with known noise: a Gaussian posterior in closed form."""

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


def program(features: Tensor, y: Tensor) -> None:
    """Weights under a wide prior; noise of one, known."""
    D = features.shape[-1]
    intercept = pyro.sample("intercept", dist.Normal(features.new_tensor(0.0), 5.0))
    beta = pyro.sample("beta", dist.Normal(features.new_zeros(D), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(intercept + features @ beta, 1.0), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Forty rows; the first two of three features nearly the same."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    features[:, 1] = 0.9 * features[:, 0] + 0.44 * features[:, 1]
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return features, 0.5 + features @ features.new_tensor([1.0, -0.5, 2.0]) + noise


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, analytic(target), how="closed form")


def problem() -> Problem:
    """The posterior of intercept and weights."""
    return Problem(
        name="linear_regression",
        title="Linear regression, known noise",
        model=program,
        args=data(),
        why=(
            "The posterior is Gaussian, so every route but one must be exact: mean field, whose standard deviations "
            "are conditional ones, too small for the two features that nearly say the same. Whoever fails elsewhere "
            "here has a bug or too few steps."
        ),
        telling=("beta[0]", "beta[1]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=_truth,
    )
