"""A trend and a monthly season."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.scales import GivenScales
from pyro_vae.atlas.values import Values

__all__ = ["problem"]

MONTHS = 12


def program(y: Tensor) -> None:
    """Level and slope with wide priors, twelve months that share a spread."""
    s = _scales(y)
    trend = pyro.sample("trend", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    month = pyro.sample("month", dist.Normal(y.new_zeros(MONTHS), s["spread"].unsqueeze(-1)).to_event(1))
    mean = (_design(y) @ torch.cat([trend, month], -1).unsqueeze(-1)).squeeze(-1)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, s["noise"]), obs=y)


def data() -> tuple[Tensor]:
    """Three years."""
    generator = torch.Generator().manual_seed(7)
    t = torch.arange(36, dtype=torch.float64)
    noise = 0.4 * torch.randn(36, generator=generator, dtype=torch.float64)
    return (1.0 + 0.5 * (t / MONTHS - 1.5) + torch.cos(2 * math.pi * t / MONTHS) + noise,)


def _scales(y: Tensor) -> Values:
    spread = pyro.sample("spread", dist.HalfNormal(y.new_tensor(1.0)))
    return {"spread": spread, "noise": pyro.sample("noise", dist.HalfNormal(y.new_tensor(1.0)))}


def _design(y: Tensor) -> Tensor:
    """One, years since the middle, and which month, ``(T, 14)``."""
    t = torch.arange(len(y)).to(y)
    month = torch.eye(MONTHS).to(y).repeat(len(y) // MONTHS, 1)
    return torch.cat([torch.ones_like(t)[:, None], (t / MONTHS - 1.5)[:, None], month], 1)


def _factor(s: Values) -> Tensor:
    spread = s["spread"].unsqueeze(-1)
    lead = spread.shape[:-1]
    return torch.diag_embed(
        torch.cat([torch.full_like(spread, 2.0).expand(*lead, 2), spread.expand(*lead, MONTHS)], -1)
    )


def _truth() -> GivenScales:
    (y,) = data()
    return GivenScales(
        scales=_scales,
        factor=_factor,
        noise=lambda s: s["noise"].unsqueeze(-1).expand(*s["noise"].shape, len(y)),
        design=_design(y),
        y=y,
        split=lambda z, _: {"trend": z[:, :2], "month": z[:, 2:]},
    )


def problem() -> Problem:
    """The posterior of two scales, level, slope and twelve months."""
    return Problem(
        name="seasonal",
        title="Trend and season",
        model=program,
        args=data(),
        why=(
            "The level and the mean of the twelve months are known only together: one long, narrow direction among "
            "fourteen, which only their priors bound. Mean field takes the narrow width for all, and a step size that "
            "suits the others crawls along it. Full rank should be nearly exact."
        ),
        telling=("trend[0]", "month[0]"),
        source="Simulated with a fixed seed.",
        find_truth=Stored("seasonal", _truth()),
    )
