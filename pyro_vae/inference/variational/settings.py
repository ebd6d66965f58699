"""The numbers of a training run, checked, and what they make of an epoch: KL weight, learning rate, when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pyro_vae import checks
from pyro_vae.checks import say
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
        lr_drops: how often to go on from the best weights at a quarter of the learning rate, once patience runs out.

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
    lr_drops: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None or name == "epochs":
                checks.positive_integer(value, name)
        checks.positive_integer(self.kl_warmup, "kl_warmup", minimum=0)
        checks.positive_number(self.lr, "lr", example=1e-3, zero=True)
        if checks.positive_integer(self.lr_drops, "lr_drops", minimum=0) and self.patience is None:
            raise ValueError(say("a patience after which the learning rate drops", "None", "patience=20"))
        if self.clip_norm is not None:
            checks.positive_number(self.clip_norm, "clip_norm", example=10.0)

    @property
    def expected_epochs(self) -> int:
        """How long the run is likely to be: one that ends by patience and drops, about twice the patience."""
        return min(self.epochs, 2 * self.patience) if self.patience and self.lr_drops else self.epochs

    @property
    def largest_norm(self) -> float:
        """What the gradient's norm is clipped to."""
        return math.inf if self.clip_norm is None else self.clip_norm

    def kl_weight(self, epoch: int) -> float:
        """The weight of the KL term in an epoch, counted from 0."""
        return warm_up(max(1, self.kl_warmup))(epoch)

    def learning_rate(self, drops: int) -> float:
        """Adam's learning rate after so many drops to a quarter."""
        return self.lr / 4**drops

    def stopping_rule(self) -> StoppingRule:
        """A fresh rule of when to stop."""
        return StoppingRule(self.patience, first=max(0, self.kl_warmup - 1), lr_drops=self.lr_drops)


class StoppingRule:
    """Which epoch is the best so far, and whether to wait for a better one.

    Args:
        patience: epochs to wait; None waits for ever.
        first: the first epoch (from 0) that can be the best: scores before, of a KL not at full weight, do not count.
        lr_drops: how often running out of patience drops the learning rate before it ends the run.

    Attributes:
        best_epoch: the best so far.
        stopped: whether patience has run out for good.
        drops: how often it has dropped the learning rate.
    """

    def __init__(self, patience: int | None, *, first: int, lr_drops: int = 0) -> None:
        self.patience = patience
        self.first = first
        self.lr_drops = lr_drops
        self.best_epoch = 0
        self.stopped = False
        self.drops = 0
        self._best = -math.inf
        self._waiting_since = first

    def see(self, epoch: int, score: float) -> bool:
        """Take an epoch's score, the higher the better; return whether it is the best yet."""
        better = epoch >= self.first and score > self._best
        if better:
            self._best, self.best_epoch, self._waiting_since = score, epoch, epoch
        return better

    def drop(self, epoch: int) -> bool:
        """Say whether patience has run out with a drop of the learning rate left, and take it; without, stop."""
        if self.patience is None or epoch - self._waiting_since < self.patience:
            return False
        self.stopped = self.drops == self.lr_drops
        if not self.stopped:
            self.drops += 1
            self._waiting_since = epoch
        return not self.stopped

    def state_dict(self) -> dict[str, Any]:
        """Return where the rule stands, as JSON knows it."""
        best = None if self._best == -math.inf else self._best
        own = {"best_epoch": self.best_epoch, "stopped": self.stopped, "drops": self.drops}
        return {"best": best, "waiting_since": self._waiting_since, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._best = -math.inf if state["best"] is None else state["best"]
        self.best_epoch, self.stopped, self.drops = state["best_epoch"], state["stopped"], state["drops"]
        self._waiting_since = state["waiting_since"]
