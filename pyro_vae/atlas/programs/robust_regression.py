"""Linear regression with Student-t noise whose degrees of freedom are not known."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem

__all__ = ["problem"]


def program(x: Tensor, y: Tensor) -> None:
    """A line, and noise with an unknown scale and unknown tails."""
    intercept = pyro.sample("intercept", dist.Normal(x.new_tensor(0.0), 5.0))
    slope = pyro.sample("slope", dist.Normal(x.new_tensor(0.0), 5.0))
    scale = pyro.sample("scale", dist.HalfNormal(x.new_tensor(2.0)))
    freedom = pyro.sample("freedom", dist.Gamma(x.new_tensor(2.0), x.new_tensor(0.1)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.StudentT(freedom, intercept + slope * x, scale), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Forty points near a line, four of them far off."""
    generator = torch.Generator().manual_seed(4)
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)
    y = 1.0 + 0.7 * x + 0.4 * torch.randn(40, generator=generator, dtype=torch.float64)
    y[[5, 17, 29, 38]] += x.new_tensor([4.0, -6.0, 5.0, 8.0])
    return x, y


def problem() -> Problem:
    """The posterior of line, scale and degrees of freedom."""
    return Problem(
        name="robust_regression",
        title="Robust regression, Student-t noise",
        model=program,
        args=data(),
        why=(
            "Outliers make the degrees of freedom small, and these go up and down with the scale: the posterior of the "
            "two is skewed and correlated also on the log scale. The line itself is easy. Mean field should be right "
            "about the line and too narrow about scale and freedom."
        ),
        telling=("scale", "freedom"),
        source="A line and Gaussian noise with a fixed seed, and four outliers; prior of the degrees of freedom from "
        "Juarez & Steel 2010, Model-based clustering of non-Gaussian panel data, JBES 28.",
        find_truth=Stored("robust_regression", LongChains()),
    )
