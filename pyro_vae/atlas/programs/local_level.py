"""A local level: a random walk seen through noise."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.scales import GivenScales
from pyro_vae.atlas.values import Values

__all__ = ["problem"]

START = 3.0  # prior standard deviation of the first level


def program(y: Tensor) -> None:
    """The walk as one Gaussian vector."""
    s = _scales(y)
    level = pyro.sample("level", dist.MultivariateNormal(torch.zeros_like(y), scale_tril=_walk(s, len(y))))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(level, s["noise"]), obs=y)


def data() -> tuple[Tensor]:
    """Forty steps."""
    generator = torch.Generator().manual_seed(6)
    steps, noise = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    return (1.0 + 0.4 * steps.cumsum(0) + 0.8 * noise,)


def _scales(y: Tensor) -> Values:
    step = pyro.sample("step", dist.HalfNormal(y.new_tensor(1.0)))
    return {"step": step, "noise": pyro.sample("noise", dist.HalfNormal(y.new_tensor(1.0)))}


def _walk(s: Values, T: int) -> Tensor:
    """The lower triangular factor of a random walk: every level is the sum of the steps before it."""
    step = s["step"][..., None]
    sizes = torch.cat([torch.full_like(step, START), step.expand(*step.shape[:-1], T - 1)], -1)
    return torch.tril(sizes.unsqueeze(-2).expand(*sizes.shape[:-1], T, T))


def _truth() -> GivenScales:
    (y,) = data()
    return GivenScales(
        scales=_scales,
        factor=lambda s: _walk(s, len(y)),
        noise=lambda s: s["noise"].unsqueeze(-1).expand(*s["noise"].shape, len(y)),
        design=torch.eye(len(y)).to(y),
        y=y,
        split=lambda z, _: {"level": z},
    )


def problem() -> Problem:
    """The posterior of two scales and forty levels."""
    return Problem(
        name="local_level",
        title="Local level",
        model=program,
        args=data(),
        why=(
            "Forty levels, each correlated with its neighbours, under a step size that is only roughly known: a chain "
            "of funnels. Mean field cannot hold neighbours together and prefers to shrink the step; full rank and "
            "low rank should hold the correlation but not how it changes with the step."
        ),
        telling=("step", "noise"),
        source="Simulated from the model with a fixed seed; Durbin & Koopman 2012, Time Series Analysis by State Space "
        "Methods, chapter 2.",
        find_truth=Stored("local_level", _truth()),
    )
