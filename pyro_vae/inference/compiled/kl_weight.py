"""The weight of the KL term, as a Pyro handler."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["KLWeight"]


class KLWeight(Messenger):
    """Scale the log densities of latent sites, in model and guide alike, and with them the KL term.

    ``KLWeight(weight)(program)`` is the program under it; ``weight`` may be set anew between runs.

    Args:
        weight: the factor, a number or a tensor with one element.
        spared: names of latent sites that keep their densities: those summed out of the likelihood.
    """

    def __init__(self, weight: float | Tensor, spared: Set[str] = frozenset()) -> None:
        super().__init__()
        self.weight = weight
        self.spared = spared

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg) and msg["name"] not in self.spared:
            msg["scale"] = msg["scale"] * self.weight
