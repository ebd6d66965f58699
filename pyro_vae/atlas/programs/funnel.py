"""Neal's funnel: a scale over many orders of magnitude."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.truth import Truth
from pyro_vae.atlas.values import Values
from pyro_vae.inference.target.target import Target

__all__ = ["problem"]

DIMENSIONS = 9
SCALE = 3.0  # of v


def program(width: Tensor) -> None:
    """A wide prior over x, which a factor exchanges for a Gaussian of variance exp(v)."""
    v = pyro.sample("v", dist.Normal(width.new_tensor(0.0), SCALE))
    wide = dist.Normal(width.new_zeros(DIMENSIONS), width).to_event(1)
    x = pyro.sample("x", wide)
    narrow = dist.Normal(width.new_zeros(DIMENSIONS), (v / 2).exp().unsqueeze(-1)).to_event(1)
    pyro.factor("funnel", narrow.log_prob(x) - wide.log_prob(x))


def _sample(num_samples: int) -> Values:
    v = SCALE * torch.randn(num_samples, dtype=torch.float64)
    return {"v": v, "x": (v / 2).exp().unsqueeze(-1) * torch.randn(num_samples, DIMENSIONS, dtype=torch.float64)}


def _truth(target: Target) -> Truth:
    zero = target.origin.new_tensor(0.0)
    std = math.exp(SCALE**2 / 4)  # the root of E exp(v)
    return Truth.of_sampler(
        _sample,
        mean={"v": zero, "x": zero.expand(DIMENSIONS)},
        std={"v": zero + SCALE, "x": zero.expand(DIMENSIONS) + std},
        low={"v": zero - 1.6448536269514722 * SCALE},
        high={"v": zero + 1.6448536269514722 * SCALE},
        log_evidence=0.0,
    )


def problem() -> Problem:
    """The funnel in ten dimensions, whose evidence is 1."""
    return Problem(
        name="funnel",
        title="Neal's funnel",
        model=program,
        args=(torch.tensor(5.0, dtype=torch.float64),),
        why=(
            "The width of x runs over orders of magnitude as v moves. No step size fits neck and mouth: NUTS diverges "
            "and does not reach small v. A Gaussian of any covariance misses how the scale hangs on v, so mean field "
            "and full rank report too narrow a v; the mode lies at minus infinity. Flows, and guides that know which "
            "site stands above which, may come close."
        ),
        telling=("v", "x[0]"),
        source="Neal 2003, Slice sampling, Annals of Statistics 31, section 8. No data.",
        find_truth=_truth,
    )
