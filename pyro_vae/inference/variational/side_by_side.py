"""Several training runs that differ in their seeds only, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import NotTraceableError, usable_cache, why_no_compiler
from pyro_vae.inference.compiled.stacked import StackedSteps
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.engine import STEPS_TO_COMPILE, STEPS_TO_TRACE
from pyro_vae.inference.variational.enumerated import fitting_loss
from pyro_vae.inference.variational.settings import Settings
from pyro_vae.inference.variational.training_input import check_programs, training_device
from pyro_vae.inference.variational.training_run import TrainingRun

__all__ = ["fit_side_by_side"]

_MOST_NUMBERS = 30_000  # that a run learns; of larger networks a step takes as long as its products, together or not


def fit_side_by_side(
    programs: Sequence[tuple[Program, Program]],
    x: tuple[Tensor, ...],
    *,
    losses: Sequence[Any],
    generators: Sequence[torch.Generator],
    epochs: int,
    batch_size: int,
    lr: float,
    compile: bool | str = "auto",
) -> None:
    """Train R models and guides that have the same structure, as ``fit(..., validation=None)`` trains each alone.

    Each run has its own parameters, order of the data and noise: those that it would have alone, so that it ends with
    the same weights, up to the rounding of sums in another order, which training may amplify.

    Args:
        programs: model and guide of each run.
        x: the data that all share.
        losses: the ELBO of each run; None for ``Trace_ELBO``.
        generators: the random state of each run, which is moved on.
        epochs: passes over the data.
        batch_size: data a step.
        lr: Adam's learning rate.
        compile: True, or "auto" for Inductor where it pays.

    Raises:
        FloatingPointError: if a run breaks. All are to be trained again, alone.
        NotTraceableError: if they cannot be one graph; the same holds.
        ValueError: as :func:`~pyro_vae.inference.variational.fit.fit`.
    """
    if training_device("auto") is not None or any(part.device.type != "cpu" for part in x):
        raise NotTraceableError("it is trained on another device than the CPU")
    settings, N = Settings(epochs, batch_size, lr, None, 0, None), len(x[0])
    num_steps = epochs * -(-N // batch_size)
    if compile == "auto" and num_steps < STEPS_TO_TRACE:
        raise NotTraceableError(f"{num_steps} steps are too few to win back the tracing")
    usable_cache()
    runs, parameters = [], []
    for (model, guide), loss in zip(programs, losses, strict=True):
        others, full_size = check_programs(model, guide, x, None, batch_size=batch_size, plate="data", binary=False)
        run = TrainingRun(model, guide, fitting_loss(loss, others), binary=False, full_size=full_size, observed=others)
        parameters.append(run.parameters(tuple(part[:batch_size] for part in x)))
        if run.parallel is not None:
            raise NotTraceableError("it is trained on several processes")
        size = sum(p.numel() for p in parameters[-1])
        if compile == "auto" and size > _MOST_NUMBERS:
            raise NotTraceableError(f"{size} numbers to learn keep the processor busy by themselves")
        runs.append(run)
    worth = compile is True or len(runs) * num_steps >= STEPS_TO_COMPILE
    backend = "inductor" if worth and why_no_compiler(x) is None else "eager"
    made: Any = {"lr": settings.lr, "backend": backend}
    stacked = StackedSteps([(*run.programs, run.loss) for run in runs], parameters, generators, **made)
    try:
        with pyro.validation_enabled(False):
            for epoch in range(epochs):
                for run in runs:
                    run.modes.train()
                stacked.must_be_as_traced()
                check = epoch & (epoch - 1) == 0  # at epochs 0, 1, 2, 4, 8, ...
                for rows in _orders(N, batch_size, generators):
                    stacked.step([part[rows] for part in x], scale=1 / rows.shape[1], check=check)
                    check = False
    finally:
        stacked.release()
        for run in runs:
            run.modes.end()


def _orders(N: int, batch_size: int, generators: Sequence[torch.Generator]) -> tuple[Tensor, ...]:
    """An epoch's batches as rows of the data, ``(R, B)`` each: every run in its own order."""
    if batch_size >= N:  # one batch keeps its order
        return (torch.arange(N).expand(len(generators), N),)
    return torch.stack([torch.randperm(N, generator=generator) for generator in generators]).split(batch_size, dim=1)
