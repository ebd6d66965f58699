"""A hierarchy of counties with intercepts and slopes of their own."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem

__all__ = ["problem"]

COUNTIES = 16


def program(county: Tensor, floor: Tensor, y: Tensor) -> None:
    """Centred: each county's intercept and slope around the common ones."""
    mean, spread, noise = _top(y)
    with pyro.plate("counties", COUNTIES):
        intercept = pyro.sample("intercept", dist.Normal(mean[..., 0], spread[..., 0]))
        slope = pyro.sample("slope", dist.Normal(mean[..., 1], spread[..., 1]))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(intercept[county] + slope[county] * floor, noise), obs=y)


def noncentred(county: Tensor, floor: Tensor, y: Tensor) -> None:
    """The same posterior, over standardised deviations."""
    mean, spread, noise = _top(y)
    with pyro.plate("counties", COUNTIES):
        first = pyro.sample("first", dist.Normal(y.new_tensor(0.0), 1.0))
        second = pyro.sample("second", dist.Normal(y.new_tensor(0.0), 1.0))
        intercept = pyro.deterministic("intercept", mean[..., 0] + spread[..., 0] * first)
        slope = pyro.deterministic("slope", mean[..., 1] + spread[..., 1] * second)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(intercept[county] + slope[county] * floor, noise), obs=y)


def _top(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = pyro.sample("mean", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    spread = pyro.sample("spread", dist.HalfNormal(y.new_ones(2)).to_event(1))
    return mean, spread, pyro.sample("noise", dist.HalfNormal(y.new_tensor(1.0)))


def data() -> tuple[Tensor, Tensor, Tensor]:
    """One to fourteen houses a county, measured in the basement (0) or on the first floor (1)."""
    generator = torch.Generator().manual_seed(11)
    houses = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12, 14])
    county = torch.arange(COUNTIES).repeat_interleave(houses)
    floor = (torch.rand(len(county), generator=generator, dtype=torch.float64) < 0.3).double()
    a, b = torch.randn(2, COUNTIES, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(county), generator=generator, dtype=torch.float64)
    return county, floor, 1.5 + 0.3 * a[county] + (-0.7 + 0.2 * b[county]) * floor + 0.7 * noise


def problem() -> Problem:
    """The posterior of the common values, three scales and sixteen counties."""
    return Problem(
        name="radon",
        title="Radon-like hierarchy",
        model=program,
        args=data(),
        why=(
            "Counties with one house are known by the others alone, counties with fourteen by themselves: no single "
            "parametrisation suits both. The spread of the slopes is hardly known, which makes a funnel of sixteen "
            "slopes. Centred chains diverge there, mean field closes it."
        ),
        telling=("spread[1]", "slope[0]"),
        source="Simulated from the model with a fixed seed, after Gelman & Hill 2007, Data Analysis Using Regression "
        "and Multilevel/Hierarchical Models, chapter 12.",
        find_truth=Stored("radon", LongChains(program=noncentred)),
    )
