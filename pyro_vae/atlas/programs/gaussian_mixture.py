"""A mixture of three Gaussians, whose labels have no meaning."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.values import Symmetry, Values

__all__ = ["problem"]

K = 3


def program(x: Tensor) -> None:
    """Shares, places and one width; which component a value is of is summed out."""
    share = pyro.sample("share", dist.Dirichlet(x.new_full((K,), 2.0)))
    place = pyro.sample("place", dist.Normal(x.new_zeros(K), 4.0).to_event(1))
    width = pyro.sample("width", dist.HalfNormal(x.new_tensor(2.0)))
    with pyro.plate("data", len(x)):
        component = pyro.sample("component", dist.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(place[component], width), obs=x)


def data() -> tuple[Tensor]:
    """Sixty values."""
    generator = torch.Generator().manual_seed(15)
    centre = torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64).repeat_interleave(torch.tensor([15, 25, 20]))
    return (centre + 0.6 * torch.randn(60, generator=generator, dtype=torch.float64),)


def _fold(values: Values) -> Values:
    order = values["place"].argsort(-1)
    return values | {name: values[name].gather(-1, order) for name in ("share", "place")}


def _relabelled(order: tuple[int, ...], values: Values) -> Values:
    return values | {name: values[name][..., list(order)] for name in ("share", "place")}


SYMMETRY = Symmetry(
    fold=_fold,
    images=tuple(partial(_relabelled, order) for order in permutations(range(K))),
)


def problem() -> Problem:
    """The posterior of shares, places and width, all six labellings of it."""
    return Problem(
        name="gaussian_mixture",
        title="Gaussian mixture",
        model=program,
        args=data(),
        why=(
            "The components are far apart, so the posterior is six equal copies of one mode. The truth is that of all "
            "six: every component has the same mean, and the places' standard deviations are the distances between "
            "them. It comes from chains whose labels are sorted, spread over the six again. Every local route finds "
            "one copy and is sure of it; chains disagree, or all missed five in the same way. What does not depend on "
            "labels, the width, everyone gets right."
        ),
        telling=("place[0]", "width"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("gaussian_mixture", LongChains(symmetry=SYMMETRY)),
    )
