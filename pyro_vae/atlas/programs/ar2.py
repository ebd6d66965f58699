"""An autoregression of second order."""

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


def program(y: Tensor) -> None:
    """Each value a linear function of the two before; the first two are given."""
    scale = pyro.sample("scale", dist.HalfNormal(y.new_tensor(1.0)))
    constant = pyro.sample("constant", dist.Normal(y.new_tensor(0.0), 1.0))
    phi = pyro.sample("phi", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
    mean = constant + phi[..., :1] * y[1:-1] + phi[..., 1:] * y[:-2]
    with pyro.plate("data", len(y) - 2):
        pyro.sample("y", dist.Normal(mean, scale), obs=y[2:])


def data() -> tuple[Tensor]:
    """Fifty steps of a slow oscillation."""
    generator = torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(52, generator=generator, dtype=torch.float64)
    y = [noise[0], noise[1]]
    for t in range(2, 52):
        y.append(0.2 + 1.4 * y[-1] - 0.6 * y[-2] + noise[t])
    return (torch.stack(y),)


def _scale(y: Tensor) -> Values:
    return {"scale": pyro.sample("scale", dist.HalfNormal(y.new_tensor(1.0)))}


def _truth() -> GivenScales:
    (y,) = data()
    return GivenScales(
        scales=_scale,
        factor=lambda s: torch.eye(3).to(y).expand(*s["scale"].shape, 3, 3),
        noise=lambda s: s["scale"].unsqueeze(-1).expand(*s["scale"].shape, len(y) - 2),
        design=torch.stack([torch.ones_like(y[2:]), y[1:-1], y[:-2]], -1),
        y=y[2:],
        split=lambda z, _: {"constant": z[:, 0], "phi": z[:, 1:]},
    )


def problem() -> Problem:
    """The posterior of constant, two coefficients and scale."""
    return Problem(
        name="ar2",
        title="Autoregression, AR(2)",
        model=program,
        args=data(),
        why=(
            "A linear regression on its own past: the two coefficients are strongly correlated because neighbouring "
            "values are. Full rank is nearly exact, mean field reports half of the standard deviation. It tells what "
            "correlation alone does to a route."
        ),
        telling=("phi[0]", "phi[1]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("ar2", _truth()),
    )
