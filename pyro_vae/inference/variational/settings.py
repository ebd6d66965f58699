"""The numbers of a training run, checked, and what they make of an epoch: KL weight, learning rate, when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyro_vae import checks
from pyro_vae.inference.variational.objectives.schedules import warm_up

__all__ = ["Settings", "StoppingRule"]


@dataclass(frozen=True)
class Settings:
    """What :func:`fit` was told.

    Attributes:
        epochs: passes over the data.
        batch_size: data a step.
        lr: Adam's learning rate.
        patience: epochs to wait for a better one; None waits for ever.
        kl_warmup: epochs of a rising KL weight.
        clip_norm: the largest norm of the gradient; infinite for none.

    Raises:
        TypeError: if a setting is no number.
        ValueError: if one is out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    patience: int | None
    kl_warmup: int
    clip_norm: float | None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None or name == "epochs":
                checks.positive_integer(value, name)
        checks.positive_integer(self.kl_warmup, "kl_warmup", minimum=0)
        checks.positive_number(self.lr, "lr", example=1e-3, zero=True)
        if self.clip_norm is not None:
            checks.positive_number(self.clip_norm, "clip_norm", example=10.0)

    @property
    def largest_norm(self) -> float:
        """What the gradient's norm is clipped to."""
        return math.inf if self.clip_norm is None else self.clip_norm

    def kl_weight(self, epoch: int) -> float:
        """The weight of the KL term in an epoch, counted from 0."""
        return warm_up(max(1, self.kl_warmup))(epoch)

    def learning_rate(self, epoch: int) -> float:
        """Adam's learning rate in an epoch, counted from 0."""
        return self.lr

    def stopping_rule(self) -> StoppingRule:
        """A fresh rule of when to stop."""
        return StoppingRule(self.patience, first=max(0, self.kl_warmup - 1))


class StoppingRule:
    """Which epoch is the best so far, and whether to wait for a better one.

    Args:
        patience: epochs to wait; None waits for ever.
        first: the first epoch (from 0) that can be the best: scores before, of a KL not at full weight, do not count.

    Attributes:
        best_epoch: the best so far.
        stopped: whether patience has run out.
    """

    def __init__(self, patience: int | None, *, first: int) -> None:
        self.patience = patience
        self.first = first
        self.best_epoch = 0
        self.stopped = False
        self._best = -math.inf

    def see(self, epoch: int, score: float) -> bool:
        """Take an epoch's score, the higher the better; return whether it is the best yet."""
        better = epoch >= self.first and score > self._best
        if better:
            self._best, self.best_epoch = score, epoch
        waited = epoch - max(self.best_epoch, self.first)
        self.stopped = self.patience is not None and waited >= self.patience
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return where the rule stands, as JSON knows it."""
        best = None if self._best == -math.inf else self._best
        return {"best": best, "best_epoch": self.best_epoch, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._best = -math.inf if state["best"] is None else state["best"]
        self.best_epoch, self.stopped = state["best_epoch"], state["stopped"]
