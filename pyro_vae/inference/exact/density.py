"""The density that grids are of: NaN where it is not known, and counted."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.inference.target.blocks import log_joint_in_blocks
from pyro_vae.inference.target.substitution import NaNWhereSaturated, NaNWithoutFactor
from pyro_vae.inference.target.target import Target

__all__ = ["CountedDensity"]


class CountedDensity:
    """The log joint of all data at u ``(G, N or 1, L)``, ``(G, N)``, NaN where it cannot be computed; it counts."""

    def __init__(self, target: Target, of: CountedDensity | None = None) -> None:
        self.target = target
        self.count = 0
        self._of = of

    def __call__(self, u: Tensor) -> Tensor:
        """Of all data."""
        with NaNWithoutFactor(), NaNWhereSaturated():
            value = log_joint_in_blocks(self.target, u)
        self._add(value.numel())
        return value

    def _add(self, count: int) -> None:
        self.count += count
        if self._of is not None:
            self._of._add(count)

    def of(self, rows: Tensor) -> CountedDensity:
        """The same of some data, ``(n,)``; what it counts is counted here."""
        if rows.tolist() == list(range(self.target.num_data)):  # all of them, in their order
            return self
        return CountedDensity(self.target.rows(rows), self)
