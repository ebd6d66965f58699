"""What a training run has scored so far, and whether that is enough."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Scores"]


class Scores:
    """The ELBO of every epoch, the best of them, and when patience has run out.

    Args:
        kl_warmup: epochs of a rising KL weight, none of which is the best but the last.
        patience: epochs to wait for a better one; None waits for ever.
    """

    def __init__(self, kl_warmup: int, patience: int | None) -> None:
        self.kl_warmup = kl_warmup
        self.patience = patience
        self.train: list[float] = []
        self.validation: list[float] = []
        self.best_epoch = 0
        self.stopped = False
        self.num_steps = 0
        self._best = -math.inf

    @property
    def latest(self) -> float:
        """The score that patience looks at."""
        return (self.validation or self.train)[-1]

    def kl_weight(self, epoch: int) -> float:
        """The weight of the KL term in an epoch: it rises from 1 / kl_warmup to 1."""
        return min(1.0, (epoch + 1) / self.kl_warmup) if self.kl_warmup else 1.0

    def add(self, epoch: int, train: float, validation: float | None) -> bool:
        """Note an epoch; return whether it is the best since the warm-up ended."""
        self.train.append(train)
        if validation is not None:
            self.validation.append(validation)
        if epoch + 1 < self.kl_warmup or self.latest <= self._best:
            return False
        self._best, self.best_epoch = self.latest, epoch
        return True

    def save(self) -> dict[str, Any]:
        """Return everything noted so far, as JSON knows it."""
        best = None if self._best == -math.inf else self._best
        lists = {"train": self.train, "validation": self.validation}
        return {
            **lists,
            "best": best,
            "best_epoch": self.best_epoch,
            "stopped": self.stopped,
            "num_steps": self.num_steps,
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what :meth:`save` returned."""
        self.train, self.validation = list(saved["train"]), list(saved["validation"])
        self._best = -math.inf if saved["best"] is None else saved["best"]
        self.best_epoch, self.stopped, self.num_steps = saved["best_epoch"], saved["stopped"], saved["num_steps"]

    def exhausted(self, epoch: int) -> bool:
        """Say whether patience has run out."""
        waited = epoch - max(self.best_epoch, self.kl_warmup - 1)
        self.stopped = self.patience is not None and waited >= self.patience
        return self.stopped
