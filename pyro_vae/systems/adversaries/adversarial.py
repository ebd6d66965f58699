"""Adversarial training: two players take turns, with checkpoints, an averaged generator, and what went wrong said."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.variational.training_input import training_device
from pyro_vae.inference.variational.training_state import Checkpoint, TrainingState
from pyro_vae.progress import progress_bar
from pyro_vae.randomness import fork_rng
from pyro_vae.systems.adversaries.contest import Contest
from pyro_vae.systems.adversaries.diversity import diversity, spread
from pyro_vae.systems.adversaries.game import Game

__all__ = ["AdversarialHistory", "AdversarialWarning", "fit_adversarial"]

_POOR = 0.5  # effective number of samples over that of data, below which a generator counts as collapsed
_WIDE = 2.0  # median distance between samples over that between data, above which a generator counts as too wide
_SATURATED = 0.05  # nats; a discriminator that knows nothing pays 2 log 2 = 1.386
_COMPARED = 256
_LAST = 100  # steps over which the discriminator's loss is averaged


class AdversarialWarning(UserWarning):
    """A generator that makes few kinds, or too wide ones, or a discriminator that it no longer learns from."""


@dataclass(frozen=True)
class AdversarialHistory:
    """What an adversarial run recorded.

    No loss here says how good the samples are: the discriminator's measures the distance to a generator that moves.

    Attributes:
        losses: every term of both players' losses, one value a step, nats a datum; ``"discriminator"``,
            ``"generator"``, ``"penalty"`` and what a system adds. Several stages follow each other.
        diversity: at every stage's end, the effective number of different samples over that of the data.
        num_steps: steps taken, of all stages.
        seconds: wall time.
        warnings: what went wrong, in sentences.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    diversity: list[float] = field(default_factory=list)
    num_steps: int = 0
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return steps, last losses and diversity in a line.

        Example:
            >>> AdversarialHistory({"generator": [0.9, 0.7]}, [0.93], num_steps=2)
            AdversarialHistory(2 steps; last generator 0.70; diversity 0.93)
        """
        last = ", ".join(f"{name} {values[-1]:.2f}" for name, values in self.losses.items() if values)
        different = ", ".join(f"{value:.2f}" for value in self.diversity)
        told = [f"{self.num_steps} steps", f"last {last}", f"diversity {different}"]
        if self.warnings:
            told.append(f"{len(self.warnings)} warnings")
        return f"AdversarialHistory({'; '.join(told)})"


def fit_adversarial(
    system: Game,
    x: Tensor,
    *conditions: Tensor | Sequence[str],
    steps: int = 2000,
    batch_size: int = 64,
    lr: float = 1e-3,
    discriminator_lr: float | None = None,
    average: float = 0.995,
    seed: int | None = None,
    checkpoint: Checkpoint | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> AdversarialHistory:
    r"""Train a generator against a discriminator, in place; both end in evaluation mode.

    A step is one of the discriminator's and then one of the generator's, on the same images, each by Adam with
    :math:`\beta = (0.5, 0.99)`. The generator that is left is the exponential average of its weights over the steps,
    which is steadier than the last: a game circles its equilibrium (Yazici et al. 2019). When training breaks or is
    interrupted, the weights are those of the last whole pass over the data.

    Source: Goodfellow et al. 2014, algorithm 1.

    Args:
        system: a :class:`~pyro_vae.systems.GAN`, :class:`~pyro_vae.systems.InfoGAN`,
            :class:`~pyro_vae.systems.StackGAN`, or a game of your own.
        x: data ``(N, D)``.
        conditions: what the system asks for besides, over the same data: captions of a StackGAN.
        steps: of each stage.
        batch_size: data a step.
        lr: the generator's learning rate.
        discriminator_lr: the discriminator's; that of the generator if None.
        average: how much of the averaged generator a step keeps; 0 leaves the last weights.
        seed: sets Pyro's seed first.
        checkpoint: keeps the state of the run at the ends of passes over the data; if it holds one already, training
            goes on from there, and ends with the bits of a run that never stopped (same machine, same arguments).
        device: "auto" takes a CUDA device if there is one.
        progress: show a progress bar.

    Returns:
        The history of the run.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if data or conditions do not fit the system, or are fewer than a batch.
        FloatingPointError: if a loss becomes NaN or infinite: the term and the step are named.

    Warns:
        AdversarialWarning: if samples are much less diverse than the data or much farther apart, or the discriminator
            tells all apart.

    Example:
        >>> from torch import nn
        >>> from pyro_vae import networks
        >>> from pyro_vae.systems import GAN
        >>> _ = torch.manual_seed(1)
        >>> gan = GAN(1, 1, generator=nn.Linear(1, 1), discriminator=networks.mlp(1, 16, 1))
        >>> history = fit_adversarial(gan, torch.randn(256, 1), steps=30, progress=False)
        >>> len(history.losses["generator"])
        30
    """
    start = time.perf_counter()
    _check(system, checkpoint)
    if seed is not None:
        pyro.set_rng_seed(checks.positive_integer(seed, "seed", minimum=0))
    steps, size = checks.positive_integer(steps, "steps"), checks.positive_integer(batch_size, "batch_size", minimum=2)
    rate = checks.positive_number(lr, "lr", example=1e-3)
    rates = (rate if discriminator_lr is None else checks.positive_number(discriminator_lr, "discriminator_lr"), rate)
    if checks.positive_number(average, "average", example=0.995, zero=True) >= 1:
        raise ValueError(say("average below 1", f"{average}", "average=0.995"))
    where = training_device(device)
    data = system.prepare(x, *conditions)
    _check_data(system, data[0], size)
    if where is not None:
        system.to(where)
        data = tuple(part.to(where) for part in data)
    settings: dict[str, Any] = {"batch_size": size, "lr": rates, "average": average}
    run = _Run(system, data, settings, steps=steps, checkpoint=checkpoint, start=start)
    with progress_bar(steps * len(system.stages()), "adversarial", show=progress, unit="step") as bar:
        history = run.go(bar)
    for message in history.warnings:
        warnings.warn(message, AdversarialWarning, stacklevel=2)
    return history


class _Run:
    """The stages of a run, one after the other, from a checkpoint's if it holds one."""

    def __init__(
        self,
        system: Game,
        data: tuple[Tensor, ...],
        settings: dict[str, Any],
        *,
        steps: int,
        checkpoint: Checkpoint | None,
        start: float,
    ) -> None:
        self.system, self.data, self.settings = system, data, settings
        self.steps, self.checkpoint, self.start = steps, checkpoint, start
        self.losses: dict[str, list[float]] = {}
        self.diversity: list[float] = []
        self.warnings: list[str] = []

    def go(self, bar: Any) -> AdversarialHistory:
        """Play every stage to its last step."""
        saved = None if self.checkpoint is None else self.checkpoint.load()
        stages = self.system.stages()
        first = 0 if saved is None else self._resume(saved)
        bar.update(first * self.steps)
        self.system.eval()  # a stage that is not being played does not move, nor do its statistics
        try:
            for number in range(first, len(stages)):
                contest = Contest(stages[number], self.data, whole=self.system, **self.settings)
                if saved is not None and number == first:
                    contest.load(saved)
                    bar.update(contest.step)
                self._play(contest, number, bar)
                self._judge(contest)
        finally:
            self.system.eval()
        seconds, num_steps = time.perf_counter() - self.start, self.steps * len(stages)
        return AdversarialHistory(self.losses, self.diversity, num_steps, seconds, tuple(self.warnings))

    def _play(self, contest: Contest, stage: int, bar: Any) -> None:
        """Take a stage's steps, pass by pass, and put its averaged weights in place."""
        while contest.step < self.steps:
            before = contest.step
            contest.epoch(self.steps)
            bar.set_postfix({name: f"{values[-1]:.2f}" for name, values in contest.losses.items()})
            bar.update(contest.step - before)
            if self.checkpoint is not None and (contest.step == self.steps or self.checkpoint.due()):
                self.checkpoint.save(self._state(contest, stage))
        contest.finish()

    def _judge(self, contest: Contest) -> None:
        """Keep a stage's losses; say whether its generator has collapsed, or its discriminator knows all."""
        for name, values in contest.losses.items():
            self.losses.setdefault(name, []).extend(values)
        with fork_rng(seed=0), torch.no_grad():
            rows = torch.randperm(len(self.data[0]))[:_COMPARED].to(self.data[0].device)
            batch = tuple(part[rows] for part in self.data)
            fake, real = contest.game.play(*batch)["fake"], contest.game.real(*batch)
        found, apart = diversity(fake, real), spread(fake, real)
        self.diversity.append(found)
        if found < _POOR:
            got = f"{found:.2f} of it: the generator has collapsed onto few kinds"
            remedy = "a larger penalty, a smaller lr, more steps, or another seed"
            self.warnings.append(say("samples about as diverse as the data", got, remedy))
        if apart > _WIDE:
            got = f"{apart:.1f} times as far: most of what the generator makes is not like the data"
            self.warnings.append(say("samples about as far apart as the data", got, "more steps, or a smaller lr"))
        last = contest.losses.get("discriminator", [])[-_LAST:]
        if last and sum(last) / len(last) < _SATURATED:
            got = f"a loss of {sum(last) / len(last):.3f} nats: it tells them all apart, and teaches nothing"
            remedy = "a larger penalty, a smaller discriminator_lr, or a smaller discriminator"
            self.warnings.append(say("a discriminator that takes some samples for data", got, remedy))

    def _state(self, contest: Contest, stage: int) -> TrainingState:
        """All that is needed to go on: the contest, and what came of the stages before it."""
        seconds, epoch = time.perf_counter() - self.start, -(-contest.step // contest.steps_per_epoch)
        told = {"losses": self.losses, "diversity": self.diversity, "warnings": self.warnings}
        return contest.save(stage=stage, epoch=epoch, seconds=seconds, stages_before=told)

    def _resume(self, saved: TrainingState) -> int:
        """Take up what the stages before left; return the stage to go on with."""
        if "stages_before" not in saved.numbers:
            raise ValueError(say("a state of fit_adversarial", "one of another run", "another folder"))
        told = saved.numbers["stages_before"]
        self.losses, self.diversity = dict(told["losses"]), list(told["diversity"])
        self.warnings = list(told["warnings"])
        self.start -= saved.numbers["seconds"]
        return int(saved.numbers["stage"])


def _check(system: Any, checkpoint: Any) -> None:
    """Check the objects that training calls."""
    if not isinstance(system, Game):
        raise TypeError(say("an adversarial system", f"{type(system).__name__}", "pv.systems.GAN(x.shape[-1])"))
    if checkpoint is not None and not all(hasattr(checkpoint, name) for name in ("load", "due", "save")):
        expected = "a checkpoint with load(), due() and save(state)"
        raise TypeError(say(expected, f"{checkpoint!r}", "pyro_vae.runs.checkpoints.Checkpoints"))


def _check_data(system: Game, x: Tensor, batch_size: int) -> None:
    """Check that there are enough data, in the precision of the networks."""
    if batch_size > len(x):
        got = f"batch_size={batch_size} for {len(x)} data"
        raise ValueError(say("a batch no larger than the data", got, f"batch_size={len(x)}"))
    dtypes = {parameter.dtype for parameter in system.parameters()}
    if dtypes and x.dtype not in dtypes:
        dtype = dtypes.pop()
        raise ValueError(say(f"data of {dtype}, as the networks are", f"{x.dtype}", f"x.to({dtype})"))
