"""Two latent classes that answer yes-or-no items differently."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem
from pyro_vae.atlas.values import Symmetry, Values

__all__ = ["problem"]

ITEMS = 5


def program(y: Tensor) -> None:
    """Each person is of one of two classes, which is summed out."""
    share = pyro.sample("share", dist.Beta(y.new_tensor(2.0), y.new_tensor(2.0)))
    yes = pyro.sample("yes", dist.Beta(y.new_ones(2, ITEMS), 1.0).to_event(2))
    with pyro.plate("data", len(y)):
        shares = torch.stack([share, 1 - share], -1)
        member = pyro.sample("member", dist.Categorical(shares), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Bernoulli(yes[member]).to_event(1), obs=y)


def data() -> tuple[Tensor]:
    """Eighty persons, five items."""
    generator = torch.Generator().manual_seed(16)
    member = (torch.rand(80, generator=generator) < 0.4).long()
    yes = torch.tensor([[0.9, 0.8, 0.7, 0.8, 0.6], [0.2, 0.3, 0.2, 0.4, 0.3]], dtype=torch.float64)[member]
    return ((torch.rand(80, ITEMS, generator=generator, dtype=torch.float64) < yes).double(),)


def _swap(values: Values) -> Values:
    return {"share": 1 - values["share"], "yes": values["yes"].flip(-2)}


def _fold(values: Values) -> Values:
    """The first class is the one that says yes more often."""
    often = values["yes"].sum(-1)
    keep = often[..., 0] >= often[..., 1]
    swapped = _swap(values)
    return {
        "share": torch.where(keep, values["share"], swapped["share"]),
        "yes": torch.where(keep[..., None, None], values["yes"], swapped["yes"]),
    }


def problem() -> Problem:
    """The posterior of one share and ten probabilities, both labellings of it."""
    return Problem(
        name="latent_class",
        title="Latent classes",
        model=program,
        args=data(),
        why=(
            "As in a mixture, the labels have no meaning; but here the classes overlap, so the two copies of the "
            "posterior are wide and skewed, near the edges of their probabilities, and chains now and then cross. The "
            "truth is that of both copies, from chains sorted by how often a class says yes and spread over both. "
            "A route that finds one copy is half right about everything."
        ),
        telling=("yes[0,0]", "share"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("latent_class", LongChains(symmetry=Symmetry(_fold, (dict, _swap)))),
    )
