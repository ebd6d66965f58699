"""What takes the steps of a training run: Pyro and a torch optimiser, a traced graph, or a compiled one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.backend import NotTraceableError, usable_cache
from pyro_vae.inference.compiled.elbos import CompiledELBO
from pyro_vae.inference.compiled.graphs import NotCompiled, Retraced
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.inference.variational.settings import Settings
from pyro_vae.inference.variational.steppers import GraphStepper, PyroStepper
from pyro_vae.inference.variational.training_run import TrainingRun

__all__ = ["STEPS_TO_COMPILE", "STEPS_TO_TRACE", "Engine"]

STEPS_TO_TRACE = 300  # tracing costs about half a second, a traced step saves one or two milliseconds
STEPS_TO_COMPILE = 5_000  # Inductor costs five to twenty seconds and saves as much again


class Engine:
    """Chooses what takes a run's steps, gives it to the run, and remembers why.

    The choice depends on the number of steps planned, never on a clock, so that a seed gives the same run.

    Args:
        run: gets what takes its steps, and the loss to evaluate with, traced if the steps are.
        settings: the numbers of the run.
        parameters: what it learns.
        optimiser: makes the user's own optimiser; None for Adam.
        compile: True, False or "auto".
        num_steps: how many are planned.
        warn: is given a line where a run is not compiled although ``compile`` is "auto", and why.

    Raises:
        NotTraceableError: if ``compile`` is True and it cannot be done.
        ValueError: if ``compile`` is neither of the three.
    """

    def __init__(
        self,
        run: TrainingRun,
        settings: Settings,
        parameters: list[Tensor],
        optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None,
        *,
        compile: bool | str,
        num_steps: int,
        warn: Callable[[str], None],
    ) -> None:
        if not isinstance(compile, bool):
            checks.among(compile, ["auto"], "compile, if not True or False,")
        usable_cache()  # torch's own optimisers do not import without one
        self._required = compile is True
        self._warn = warn
        self._together = "" if run.parallel is None else f"; data-parallel on {run.parallel.size} processes"
        if compile is False:
            self._engine = "Pyro, as asked"
        elif optimiser is not None:
            self._give_up("the optimiser is not Adam of this package's")
        elif compile == "auto" and num_steps < STEPS_TO_TRACE:
            self._give_up(f"{num_steps} steps are too few to win back the tracing")
        elif self._compiled(run, settings, inductor=self._required or num_steps >= STEPS_TO_COMPILE):
            return
        make = partial(torch.optim.Adam, lr=settings.lr) if optimiser is None else optimiser
        own: Any = {"optimiser": make(parameters), "clip_norm": settings.largest_norm, "parallel": run.parallel}
        run.stepper = PyroStepper(run.programs, run.kl_weight, run.loss, parameters, **own)

    @property
    def description(self) -> str:
        """What takes the steps, and why."""
        return self._engine + self._together

    def _compiled(self, run: TrainingRun, settings: Settings, *, inductor: bool) -> bool:
        """Give the run graphs for its steps and its evaluation; say whether its loss has any."""
        self._engine = "one graph a step, " + ("compiled" if inductor else "not compiled: the run is too short")
        numbers: Any = {"lr": settings.lr, "clip_norm": settings.largest_norm, "spared": run.kl_weight.spared}
        backend = "inductor" if inductor else "eager"
        try:
            run.evaluation = CompiledELBO(run.loss, backend="eager", warn=_hear_retraced)
            numbers |= {"warn": self._hear, "parallel": run.parallel}
            step = CompiledStep(*run.programs, run.loss, backend=backend, **numbers)
        except NotTraceableError as error:
            self._give_up(str(error))
            return False
        run.stepper = GraphStepper(run.programs, run.kl_weight, step, run.parallel)
        return True

    def _hear(self, warning: Warning) -> None:
        """Act on what the steps' graphs warn of."""
        if isinstance(warning, NotCompiled) and not self._required:
            self._engine = f"one graph a step, not compiled: {warning}"
            self._warn(f"fit is not compiled: {warning}")
        elif isinstance(warning, Retraced):
            _hear_retraced(warning)
        else:
            self._give_up(str(warning))

    def _give_up(self, reason: str) -> None:
        if self._required:
            raise NotTraceableError(say("a program that can be compiled", reason, "compile=False"))
        self._engine = f"Pyro: {reason}"
        self._warn(f"fit is not compiled: {reason}")


def _hear_retraced(warning: Warning) -> None:
    """Pass on that a graph was wrong. What else keeps the evaluation from a graph keeps the steps from it too."""
    if isinstance(warning, Retraced):
        warnings.warn(Retraced(f"fit: {warning}"), stacklevel=2)
