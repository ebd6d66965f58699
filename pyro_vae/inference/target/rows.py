"""Which of a program's arguments run over its data."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.randomness import fork_rng

if TYPE_CHECKING:
    from pyro_vae.inference.target.target import Target

__all__ = ["arguments_over_data"]


@torch.no_grad()
def arguments_over_data(target: Target, of: Callable[[Tensor, tuple[int, ...]], Target]) -> tuple[int, ...]:
    """Positions of the arguments that run over the data: the most of those that could, as far as that is right.

    Those whose first dimension is N could. They are right if the densities of some rows, out of order and not N in
    number, are then what they were among all, at several draws of the prior.

    Args:
        target: the densities of all data.
        of: makes the target of some rows, given which arguments to index.

    Raises:
        ValueError: if no choice is right.
    """
    N = target.num_data
    could = [i for i, arg in enumerate(target.args) if isinstance(arg, Tensor) and arg.dim() and len(arg) == N]
    some = torch.arange(N).flip(0)[: N // 2] if N > 1 else torch.tensor([0, 0])
    some = some.to(target.origin.device)
    with fork_rng(seed=0):
        u = target.sample_prior(4)
    expected = target.log_joint(u)[:, some]
    size_of_all = float(expected[expected.isfinite()].abs().amax()) if expected.isfinite().any() else 0.0
    for size in range(len(could), 0, -1):
        for positions in itertools.combinations(could, size):
            try:
                chosen = of(some, positions)
                found = chosen.log_joint(u[:, some])
            except (RuntimeError, ValueError, IndexError):
                continue
            if chosen.num_data != len(some):  # the program's plate has a size of its own
                continue
            if torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * size_of_all, equal_nan=True):
                return positions
    raise ValueError(say("arguments whose rows are the data", "none that can be indexed", "all data at once"))
