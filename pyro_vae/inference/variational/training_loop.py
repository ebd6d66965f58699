"""The epochs of a training run: what each is given and scores, which is the best, and when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

from pyro_vae.checks import say
from pyro_vae.inference.variational.settings import Settings
from pyro_vae.inference.variational.steppers import Data
from pyro_vae.inference.variational.training_run import TrainingRun
from pyro_vae.inference.variational.training_state import Checkpoint, TrainingState

__all__ = ["History", "TrainingLoop"]


@dataclass(frozen=True)
class History:
    """What a training run recorded.

    Attributes:
        train_elbo: minus the loss a datum, one value an epoch, nats; at full KL weight also during warm-up.
        validation_elbo: the same on held-out data; empty without them.
        best_epoch: the epoch (from 0) with the highest validation ELBO; of the training ELBO without held-out data.
        stopped_early: whether patience ended the run; if not, the ELBO may still be rising.
        seconds: wall time.
        num_steps: gradient steps taken.
        engine: what took the steps, and why, in words.
    """

    train_elbo: list[float] = field(default_factory=list)
    validation_elbo: list[float] = field(default_factory=list)
    best_epoch: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    num_steps: int = 0
    engine: str = ""

    def __repr__(self) -> str:
        """Return epochs, the last ELBOs, and why the run ended, in a line.

        Example:
            >>> History([-30.0, -21.0], [-22.5, -23.0], stopped_early=True, num_steps=40)
            History(2 epochs, 40 steps; last ELBO -21.00, validation -23.00; stopped early, best epoch 0)
        """
        elbos = {"last ELBO": self.train_elbo, "validation": self.validation_elbo}
        last = [f"{name} {elbo[-1]:.2f}" for name, elbo in elbos.items() if elbo]
        end = "stopped early" if self.stopped_early else "ran to the end"
        told = [f"{len(self.train_elbo)} epochs, {self.num_steps} steps", ", ".join(last), end]
        return f"History({'; '.join(filter(None, told))}, best epoch {self.best_epoch})"


class TrainingLoop:
    """Goes through the epochs, from a checkpoint's if it holds one.

    Args:
        run: takes the steps and holds the weights.
        settings: the numbers of the run.
        train: the data to train on.
        held_out: those to validate on, if any.
        checkpoint: keeps the state at the ends of epochs, if any.
        start: when the run started, on the clock of ``time.perf_counter``.
        adam: whether the learning rate is the settings' to decide: a user's own optimiser has its own.
    """

    def __init__(
        self,
        run: TrainingRun,
        settings: Settings,
        train: Data,
        held_out: Data | None,
        *,
        checkpoint: Checkpoint | None,
        start: float,
        adam: bool,
    ) -> None:
        self.run = run
        self.settings = settings
        self.train, self.held_out = train, held_out
        self.checkpoint = checkpoint
        self.adam = adam
        self.history = History()
        self.rule = settings.stopping_rule()
        self.best = run.keep()
        self._start = start

    def go(self, bar: Any) -> History:
        """Train to the last epoch, or until patience runs out; leave the best weights if there is a patience.

        Raises:
            FloatingPointError: if the loss becomes NaN or infinite.
        """
        epochs, first = self.settings.epochs, self._resume()
        bar.update(first)
        for epoch in range(first, epochs if not self.rule.stopped else first):
            elbo = self._epoch(epoch)
            weights = self.run.keep()
            self.history.train_elbo.append(elbo)
            if self.held_out is not None:
                elbo = self.run.elbo(self.held_out, self.settings.batch_size)
                self.history.validation_elbo.append(elbo)
            if self.rule.see(epoch, elbo):
                self.best = weights
            if self.rule.drop(epoch):
                self.run.restore(self.best)
            bar.set_postfix(elbo=f"{elbo:.2f}")
            bar.update()
            last = self.rule.stopped or epoch + 1 == epochs
            if self.checkpoint is not None and (last or self.checkpoint.due()):
                self.checkpoint.save(self._state(epoch + 1))
            if last:
                break
        if self.settings.patience is not None:
            self.run.restore(self.best)
        seconds = time.perf_counter() - self._start
        return replace(self.history, best_epoch=self.rule.best_epoch, stopped_early=self.rule.stopped, seconds=seconds)

    def _epoch(self, epoch: int) -> float:
        """Take the steps of an epoch at its KL weight and learning rate; return the ELBO at full weight."""
        run, settings = self.run, self.settings
        rows = run.binarise(self.train) if run.binary else self.train
        if self.adam:
            run.stepper.set_learning_rate(settings.learning_rate(self.rule.drops))
        try:
            elbo = run.epoch(rows, settings.batch_size, kl_weight=settings.kl_weight(epoch))
        except FloatingPointError as error:
            remedy = f"a smaller lr than {settings.lr:g}, clip_norm=10, or data on the scale of 1"
            raise FloatingPointError(say("a finite loss", f"{error} in epoch {epoch}", remedy)) from None
        num_steps = self.history.num_steps - (-len(self.train[0]) // settings.batch_size)
        self.history = replace(self.history, num_steps=num_steps)
        return elbo

    def _state(self, epoch: int) -> TrainingState:
        """Everything needed to go on after so many epochs."""
        history = self.history
        scores = {"train": history.train_elbo, "validation": history.validation_elbo, "num_steps": history.num_steps}
        seconds = time.perf_counter() - self._start
        return self.run.save(self.best, epoch=epoch, seconds=seconds, scores={**scores, **self.rule.state_dict()})

    def _resume(self) -> int:
        """Take up the checkpoint's state if it holds one; return the first epoch to go through."""
        saved = None if self.checkpoint is None else self.checkpoint.load()
        if saved is None:
            return 0
        first: int = saved.numbers["epoch"]
        scores = saved.numbers["scores"]
        self._start -= saved.numbers["seconds"]
        if self.run.stepper.first_steps_differ:
            weights = [self.settings.kl_weight(epoch) for epoch in range(first)]
            self.run.rehearse(self.train, self.held_out, self.settings.batch_size, weights)
        self.best = self.run.load(saved)
        self.history = History(list(scores["train"]), list(scores["validation"]), num_steps=scores["num_steps"])
        self.rule.load_state_dict(scores)
        return first
