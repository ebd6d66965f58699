"""A hidden Markov model with two states, which are summed out."""

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

T = 30


def program(y: Tensor) -> None:
    """Sticky states, a level each, and one noise."""
    move = pyro.sample("move", dist.Dirichlet(y.new_tensor([[4.0, 1.0], [1.0, 4.0]])).to_event(1))
    level = pyro.sample("level", dist.Normal(y.new_zeros(2), 2.0).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(y.new_tensor(1.0)))
    state: Tensor | None = None
    for t in pyro.markov(range(T)):
        share = y.new_full((2,), 0.5) if state is None else move[state]
        state = pyro.sample(f"state_{t}", dist.Categorical(share), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(level[state], noise), obs=y[t])


def data() -> tuple[Tensor]:
    """Thirty steps."""
    generator = torch.Generator().manual_seed(17)
    state, values = 0, []
    for chance in torch.rand(T, generator=generator).tolist():
        state = 1 - state if chance < 0.15 else state
        values.append([-0.8, 0.8][state])
    return (torch.tensor(values).double() + 0.7 * torch.randn(T, generator=generator, dtype=torch.float64),)


def _swap(values: Values) -> Values:
    return values | {"move": values["move"].flip((-2, -1)), "level": values["level"].flip(-1)}


def _fold(values: Values) -> Values:
    """The first state is the lower one."""
    keep = values["level"][..., 0] <= values["level"][..., 1]
    swapped = _swap(values)
    return values | {
        "move": torch.where(keep[..., None, None], values["move"], swapped["move"]),
        "level": torch.where(keep[..., None], values["level"], swapped["level"]),
    }


def problem() -> Problem:
    """The posterior of transitions, levels and noise, both labellings of it."""
    return Problem(
        name="hidden_markov",
        title="Hidden Markov model",
        model=program,
        args=data(),
        why=(
            "Thirty hidden states are summed out by message passing; what is left is small, symmetric under a change "
            "of labels, and not quite separated: the levels may also be nearly equal, and then the noise is larger. "
            "The truth is that of both labellings, from chains sorted by level and spread over both. A Gaussian takes "
            "one labelling and misses what lies between."
        ),
        telling=("level[0]", "noise"),
        source="Simulated from the model with a fixed seed.",
        find_truth=Stored("hidden_markov", LongChains(symmetry=Symmetry(_fold, (dict, _swap)))),
    )
