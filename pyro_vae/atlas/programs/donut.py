"""A donut: a ring without a middle."""

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

RADIUS, WIDTH = 3.0, 0.3


def _log_constant() -> float:
    r"""The log of :math:`2 \pi \int_0^\infty r \exp(-(r - R)^2 / 2 w^2)\,dr`."""
    a = RADIUS / WIDTH
    inside = 0.5 * (1 + math.erf(a / math.sqrt(2)))
    return math.log(2 * math.pi * (WIDTH**2 * math.exp(-a * a / 2) + RADIUS * WIDTH * math.sqrt(2 * math.pi) * inside))


def log_density(z: Tensor) -> Tensor:
    """Log density of a ring whose radius is Gaussian but for the area of each circle."""
    gap = torch.linalg.vector_norm(z, dim=-1) - RADIUS
    return -0.5 * (gap / WIDTH).square() - _log_constant()


def _radii() -> tuple[Tensor, Tensor]:
    """A fine grid of radii and their probabilities."""
    r = torch.linspace(RADIUS - 9 * WIDTH, RADIUS + 9 * WIDTH, 50_001, dtype=torch.float64)
    weight = r * (-0.5 * ((r - RADIUS) / WIDTH).square()).exp()
    return r, weight / weight.sum()


def _sample(num_samples: int) -> Values:
    r, weight = _radii()
    radius = r[torch.multinomial(weight, num_samples, replacement=True)]
    angle = 2 * math.pi * torch.rand(num_samples, dtype=torch.float64)
    return {"z": radius.unsqueeze(-1) * torch.stack([angle.cos(), angle.sin()], -1)}


def _truth(target: Target) -> Truth:
    r, weight = _radii()
    std = (weight @ r.square() / 2).sqrt().expand(2)
    return Truth.of_sampler(_sample, mean={"z": target.origin.new_zeros(2)}, std={"z": std}, log_evidence=0.0)


def problem() -> Problem:
    """The ring in two dimensions, whose evidence is 1."""
    return Problem(
        name="donut",
        title="Donut",
        model=Shape(log_density),
        args=(torch.full((2,), 4.0, dtype=torch.float64),),
        why=(
            "Every point of the ring is a mode, and the mean lies in the hole where nothing is. Laplace has no "
            "curvature along the ring; a Gaussian either covers a piece of the ring or sits over the hole; a flow has "
            "to tear its Gaussian open. Chains go round."
        ),
        telling=("z[0]", "z[1]"),
        source="A standard test density. No data.",
        find_truth=_truth,
    )
