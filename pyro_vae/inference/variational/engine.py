"""What takes the steps of a training run: Pyro and a torch optimiser, a traced graph, or a compiled one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.backend import NotTraceableError, usable_cache
from pyro_vae.inference.compiled.elbos import compiled_twin
from pyro_vae.inference.compiled.graphs import NotCompiled, Retraced
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.inference.variational.steppers import GraphStepper, ParallelStepper, PyroStepper
from pyro_vae.inference.variational.training_run import TrainingRun

__all__ = ["Engine"]

_STEPS_TO_TRACE = 300  # tracing costs about half a second, a traced step saves one or two milliseconds
_STEPS_TO_COMPILE = 5_000  # Inductor costs five to twenty seconds and saves as much again


class Engine:
    """Chooses what takes a run's steps, and remembers why.

    The choice depends on the number of steps planned, never on a clock, so that a seed gives the same run.

    Args:
        model: a Pyro program.
        guide: its guide.
        loss: a Pyro ELBO.
        compile: True, False or "auto".
        planned: the number of steps.
        custom: whether the optimiser is the user's own.
        warn: is given a line where a run is not compiled although ``compile`` is "auto", and why.
        lr: Adam's learning rate.
        clip_norm: the largest norm of the gradient.

    Attributes:
        step: takes whole steps; None if Pyro and a torch optimiser do.
        evaluation: the loss to evaluate with, traced if the steps are.
        description: what takes the steps, and why.

    Raises:
        NotTraceableError: if ``compile`` is True and it cannot be done.
        ValueError: if ``compile`` is neither of the three.
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        loss: ELBO,
        *,
        compile: bool | str,
        planned: int,
        custom: bool,
        warn: Callable[[str], None],
        lr: float,
        clip_norm: float,
    ) -> None:
        if not isinstance(compile, bool):
            checks.among(compile, ["auto"], "compile, if not True or False,")
        usable_cache()  # torch's own optimisers do not import without one
        self.step: CompiledStep | None = None
        self.evaluation = loss
        self._required = compile is True
        self._warn = warn
        self._lr, self._clip_norm = lr, clip_norm
        if compile is False:
            self.description = "Pyro, as asked"
        elif custom:
            self._give_up("the optimiser is not Adam of this package's")
        elif compile == "auto" and planned < _STEPS_TO_TRACE:
            self._give_up(f"{planned} steps are too few to win back the tracing")
        else:
            pays = self._required or planned >= _STEPS_TO_COMPILE
            self.description = "one graph a step, " + ("compiled" if pays else "not compiled: the run is too short")
            try:
                backend = "inductor" if pays else "eager"
                self.evaluation = compiled_twin(loss, backend="eager", warn=_hear_retraced)
                self.step = CompiledStep(
                    model, guide, loss, backend=backend, warn=self._hear, lr=lr, clip_norm=clip_norm
                )
            except NotTraceableError as error:
                self._give_up(str(error))

    def drive(
        self,
        run: TrainingRun,
        parameters: list[Tensor],
        optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None,
    ) -> None:
        """Give a run what takes its steps, and the loss to evaluate with."""
        run.evaluation = self.evaluation
        if self.step is not None:
            run.stepper = GraphStepper(run.programs, run.kl_weight, self.step)
            return
        make = partial(torch.optim.Adam, lr=self._lr) if optimiser is None else optimiser
        alone = PyroStepper(
            run.programs, run.kl_weight, run.loss, parameters, optimiser=make(parameters), clip_norm=self._clip_norm
        )
        run.stepper = alone
        if run.parallel is not None:
            run.stepper = ParallelStepper(alone, run.parallel)
            self.description = f"Pyro, data-parallel on {run.parallel.size} processes"

    def _hear(self, warning: Warning) -> None:
        """Act on what the steps' graphs warn of."""
        if isinstance(warning, NotCompiled) and not self._required:
            self.description = f"one graph a step, not compiled: {warning}"
            self._warn(f"fit is not compiled: {warning}")
        elif isinstance(warning, Retraced):
            _hear_retraced(warning)
        else:
            self._give_up(str(warning))

    def _give_up(self, reason: str) -> None:
        if self._required:
            raise NotTraceableError(say("a program that can be compiled", reason, "compile=False"))
        self.description = f"Pyro: {reason}"
        self._warn(f"fit is not compiled: {reason}")


def _hear_retraced(warning: Warning) -> None:
    """Pass on that a graph was wrong. What else keeps the evaluation from a graph keeps the steps from it too."""
    if isinstance(warning, Retraced):
        warnings.warn(Retraced(f"fit: {warning}"), stacklevel=2)
