"""Item response theory with two parameters an item."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.atlas.archive import Stored
from pyro_vae.atlas.chains import LongChains
from pyro_vae.atlas.problem import Problem

__all__ = ["problem"]

PERSONS, ITEMS = 30, 8


def program(y: Tensor) -> None:
    """Whether each person solves each item."""
    with pyro.plate("persons", PERSONS):
        ability = pyro.sample("ability", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("items", ITEMS):
        difficulty = pyro.sample("difficulty", dist.Normal(y.new_tensor(0.0), 1.5))
        discrimination = pyro.sample("discrimination", dist.LogNormal(y.new_tensor(0.0), 0.5))
    logits = discrimination * (ability.unsqueeze(-1) - difficulty)
    pyro.sample("y", dist.Bernoulli(logits=logits).to_event(2), obs=y)


def data() -> tuple[Tensor]:
    """Thirty persons, eight items."""
    generator = torch.Generator().manual_seed(12)
    ability = torch.randn(PERSONS, 1, generator=generator, dtype=torch.float64)
    difficulty = torch.linspace(-1.5, 1.5, ITEMS, dtype=torch.float64)
    discrimination = (0.4 * torch.randn(ITEMS, generator=generator, dtype=torch.float64)).exp()
    logits = discrimination * (ability - difficulty)
    return ((torch.rand(PERSONS, ITEMS, generator=generator, dtype=torch.float64) < logits.sigmoid()).double(),)


def problem() -> Problem:
    """The posterior of thirty abilities, eight difficulties and eight discriminations."""
    return Problem(
        name="item_response",
        title="Item response, 2PL",
        model=program,
        args=data(),
        why=(
            "Products of unknowns: abilities and difficulties move together, and their size trades with the "
            "discriminations. The logarithmic scale of these breaks the sign symmetry, so there is one mode, of mild "
            "correlation in many directions. Mean field is a little too narrow everywhere, nothing is dramatically "
            "wrong; it is the case where VI should be worth its speed."
        ),
        telling=("discrimination[0]", "ability[0]"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("item_response", LongChains()),
    )
