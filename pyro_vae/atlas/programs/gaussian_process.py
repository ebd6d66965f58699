"""Gaussian process regression: the hyperparameters, the function integrated out."""

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


def program(x: Tensor, y: Tensor) -> None:
    """A squared exponential kernel of amplitude one, and noise."""
    length = pyro.sample("length", dist.LogNormal(x.new_tensor(0.0), 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(x.new_tensor(1.0)))
    squared = ((x.unsqueeze(-1) - x) / length).square()
    covariance = (-squared / 2).exp() + (noise**2 + 1e-6) * torch.eye(len(x)).to(x)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), covariance), obs=y)


def data() -> tuple[Tensor, Tensor]:
    """Twelve points of a wave, too few to tell noise from a short length."""
    generator = torch.Generator().manual_seed(8)
    x = torch.linspace(-3, 3, 12, dtype=torch.float64)
    return x, torch.sin(1.5 * x) + 0.4 * torch.randn(12, generator=generator, dtype=torch.float64)


def _truth(target: Target) -> Truth:
    return Truth.of_distribution(target, quadrature(target, plate=None), how="quadrature")


def problem() -> Problem:
    """The posterior of length and noise."""
    return Problem(
        name="gaussian_process",
        title="Gaussian process, hyperparameters",
        model=program,
        args=data(),
        why=(
            "Few points leave two explanations: a wave with noise, or noise alone with a long length that the data do "
            "not bound. The posterior has a heavy mode and a long tail; a Gaussian takes the mode, and its length is "
            "too sure of itself."
        ),
        telling=("length", "noise"),
        source="Simulated with a fixed seed; Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, "
        "section 5.4.",
        find_truth=Stored("gaussian_process", _truth),
    )
