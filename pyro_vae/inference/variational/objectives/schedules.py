"""Weights of the KL term that change from step to step, or from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_vae.checks import positive_integer, say

__all__ = ["cyclical", "warm_up"]


@dataclass(frozen=True)
class warm_up:  # noqa: N801  called like a function
    """A weight that rises linearly from 1 / num_steps to 1 over the first ``num_steps`` steps, then stays.

    Example:
        >>> weight = warm_up(4)
        >>> [weight(step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """

    num_steps: int

    def __post_init__(self) -> None:
        positive_integer(self.num_steps, "num_steps")

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        return min(1.0, (step + 1) / self.num_steps)


@dataclass(frozen=True)
class cyclical:  # noqa: N801  called like a function
    """A weight that rises to 1 over the first ``ramp`` of every period, and stays there for the rest.

    Source:
        Fu et al. 2019.

    Example:
        >>> weight = cyclical(4, ramp=0.5)
        >>> [weight(step) for step in range(6)]
        [0.5, 1.0, 1.0, 1.0, 0.5, 1.0]
    """

    period: int
    ramp: float = 0.5

    def __post_init__(self) -> None:
        positive_integer(self.period, "period")
        if not 0 < self.ramp <= 1:
            raise ValueError(say("a ramp in (0, 1]", f"{self.ramp}", "ramp=0.5"))

    def __call__(self, step: int) -> float:
        """Return the weight at a step, counted from 0."""
        return min(1.0, (step % self.period + 1) / (self.ramp * self.period))
