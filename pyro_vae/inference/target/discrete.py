"""What a target's discrete sites ask of it: a sum that can be formed, continuous sites beside them, shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.inference.target.enumeration import DiscreteSite, SizeGuard

if TYPE_CHECKING:
    from pyro_vae.inference.target.target import Target

__all__ = ["in_order", "largest_sum", "must_have_continuous"]


@torch.no_grad()
def largest_sum(target: Target, u: Tensor) -> int:
    """Sum the discrete sites out once, so that what cannot be is refused here and not in a route.

    Returns:
        Numbers in the largest tensor.

    Raises:
        ValueError: if the program does not run over all values at once, or a tensor is too large.
    """
    try:
        with SizeGuard(target.args) as guard:
            target.log_parts(u)
    except (RuntimeError, IndexError) as error:
        remedy = "torch.where or indexing in place of if and .item(), and dimensions counted from the right"
        expected = f"a program that runs over all values of {list(target.discrete)} at once"
        raise ValueError(say(expected, str(error).splitlines()[0][:200], remedy)) from error
    return guard.largest


def must_have_continuous(target: Target) -> None:
    """Check that there is something to climb or to move.

    Raises:
        ValueError: if every latent site is discrete.
    """
    if not target.latent_dim:
        remedy = "quadrature(model, x), the exact sum, and its compute_marginals()"
        raise ValueError(say("a continuous latent site", f"discrete ones alone, {list(target.discrete)}", remedy))


def in_order(
    sites: Mapping[str, DiscreteSite], u: Tensor, of: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What is said of discrete sites at u ``(B, N, L)``, at u ``(..., N, L)``, the data axis right behind the dots.

    Args:
        sites: the discrete sites; where there are none nothing is asked.
        u: the points.
        of: gives the sites' values in the program's order of dimensions, behind ``B``.
    """
    lead = u.shape[:-2]
    found = of(u.reshape(lead.numel(), *u.shape[-2:])) if sites else {}
    for name, value in found.items():
        axis = sites[name].axis
        moved = value if axis is None else value.movedim(1 + axis, 1)
        found[name] = moved.reshape(*lead, *moved.shape[1:])
    return found
