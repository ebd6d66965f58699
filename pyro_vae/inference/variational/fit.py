"""Stochastic variational inference: learn the model and the guide by maximising the ELBO."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.datasets.rows import Rows
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.engine import Engine
from pyro_vae.inference.variational.scores import Scores
from pyro_vae.inference.variational.steppers import Data
from pyro_vae.inference.variational.training_input import (
    check_guide,
    check_programs,
    check_rate,
    split,
    training_device,
)
from pyro_vae.inference.variational.training_run import TrainingRun
from pyro_vae.inference.variational.training_state import Checkpoint

__all__ = ["History", "check_guide", "fit"]


@dataclass(frozen=True)
class History:
    """What a training run recorded.

    Attributes:
        train_elbo: minus the loss a datum, one value an epoch, nats; at full KL weight also during warm-up.
        validation_elbo: the same on held-out data; empty without them.
        best_epoch: the epoch (from 0) with the highest validation ELBO; of the training ELBO without held-out data.
        stopped_early: whether patience ended the run.
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


def fit(
    model: Program,
    guide: Program,
    x: Tensor | Rows | Data,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    lr: float = 1e-3,
    loss: ELBO | None = None,
    optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None = None,
    validation: Tensor | Rows | Data | float | None = 0.1,
    patience: int | None = None,
    kl_warmup: int = 0,
    clip_norm: float | None = None,
    dynamic_binarisation: bool = False,
    plate: str = "data",
    seed: int | None = None,
    compile: bool | str = "auto",
    checkpoint: Checkpoint | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> History:
    r"""Learn model and guide together by stochastic variational inference.

    Maximises :math:`\mathrm{ELBO}(x) = E_{q(z|x)}[\log p(x, z) - \log q(z|x)] = \log p(x) - KL(q(z|x) \| p(z|x))`
    over mini-batches with Adam. Parameters are updated in place; model and guide end in evaluation mode. So they do
    when training is interrupted or breaks: then the weights are those of the last whole epoch.

    Source: Kingma & Welling 2014, algorithm 1.

    Args:
        model: a Pyro program; called as ``model(batch)``, or ``model(*batch)`` for a tuple of tensors.
        guide: its guide, called the same way.
        x: training data ``(N, *D)``, or a tuple of tensors that run over the same data, or rows on disk.
        epochs: passes over the data.
        batch_size: data a step; the last batch of an epoch may be smaller. None takes 64, or all data if fewer.
        lr: Adam's learning rate.
        loss: any Pyro ELBO; ``Trace_ELBO()`` if None.
        optimiser: makes a torch optimiser of the parameters; Adam if None.
        validation: held-out data, or the share of x to hold out (rows at random), or None for none.
        patience: stop once the validation ELBO has not risen for so many epochs, and give back the best weights.
            None runs all epochs and keeps the last weights.
        kl_warmup: epochs over which the weight of the latent sites' log densities rises from 1 / kl_warmup to 1.
        clip_norm: clip the gradient's norm to this.
        dynamic_binarisation: x holds probabilities; every epoch draws new binary data from them.
        plate: name of the data plate.
        seed: sets Pyro's seed first.
        compile: whether a step (loss, gradient, clipping, Adam) runs as one compiled graph, see
            :class:`~pyro_vae.inference.compiled.step.CompiledStep`. "auto" does so where the run is long enough to win
            back the compilation, and falls back on Pyro where that cannot be done; ``history.engine`` says which.
        checkpoint: keeps the state of the run at the ends of epochs; if it holds one already, training goes on from
            there, and ends with the bits of a run that never stopped (on the same machine, with the same arguments).
        device: "auto" takes a CUDA device if there is one.
        progress: show a progress bar.

    In a process group of torch's (``torchrun``), training is data-parallel: every process passes the same data and
    arguments, and takes a share of each batch, see :class:`~pyro_vae.distributed.Parallel`.

    Returns:
        The history of the run.

    Raises:
        TypeError: if an argument is of the wrong kind.
        NotTraceableError: if ``compile=True`` and the program cannot be compiled.
        ValueError: if data are empty, not finite, outside a site's support, or fewer than a batch; if the guide does
            not fit the model; if mini-batches are asked for with a latent outside the data plate; if there is no such
            device, or data and parameters are of different precision.
        FloatingPointError: if the loss becomes NaN or infinite: site and epoch are named, and the weights are those
            of the last good epoch.

    Example:
        >>> from pyro_vae import Model, guides, likelihoods, networks, priors
        >>> x = (torch.rand(64, 20, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(networks.mlp(2, 16, 20)))
        >>> guide = guides.DiagonalGaussian(networks.mlp(20, 16, 4))
        >>> history = fit(model, guide, x, epochs=3, batch_size=32, progress=False)
        >>> len(history.train_elbo), len(history.validation_elbo)
        (3, 3)
    """
    start = time.perf_counter()
    if seed is not None:
        pyro.set_rng_seed(checks.positive_integer(seed, "seed", minimum=0))
    loss = Trace_ELBO() if loss is None else loss
    counts = {"epochs": epochs, "patience": patience}
    _check_settings(loss, counts, kl_warmup=kl_warmup, lr=lr, clip_norm=clip_norm)
    _check_makers(optimiser, checkpoint)
    where = training_device(device)
    train, held_out = split(x, validation, where, model)
    _move(where, model, guide)
    batch_size = min(64, len(train[0])) if batch_size is None else batch_size
    check_programs(model, guide, train, held_out, batch_size=batch_size, plate=plate, binary=dynamic_binarisation)
    run = TrainingRun(model, guide, loss, binary=dynamic_binarisation)
    parameters = run.parameters(tuple(part[:batch_size] for part in train))
    scores = Scores(kl_warmup, patience)
    with _bar(epochs, progress) as bar:
        engine = Engine(
            model,
            guide,
            loss,
            compile=compile if run.parallel is None else False,
            planned=epochs * -(-len(train[0]) // batch_size),
            custom=optimiser is not None,
            warn=_say_above_bar if progress else _silent,
            lr=lr,
            clip_norm=math.inf if clip_norm is None else clip_norm,
        )
        engine.drive(run, parameters, optimiser)
        if held_out is not None and dynamic_binarisation:
            held_out = run.binarise(held_out)
        with run.whole_epochs():
            best = _train(
                run,
                scores,
                train,
                held_out,
                checkpoint,
                epochs=epochs,
                batch_size=batch_size,
                lr=lr,
                bar=bar,
                start=start,
            )
            if patience is not None:
                run.restore(best)
    return History(
        scores.train,
        scores.validation,
        scores.best_epoch,
        scores.stopped,
        time.perf_counter() - start,
        scores.num_steps,
        engine.description,
    )


def _train(
    run: TrainingRun,
    scores: Scores,
    train: Data,
    held_out: Data | None,
    checkpoint: Checkpoint | None,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    bar: Any,
    start: float,
) -> list[Tensor]:
    """Go through the epochs, from the checkpoint's if it holds one; return the best weights."""
    best = run.keep()
    first = 0
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None:
        first = saved.numbers["epoch"]
        start -= saved.numbers["seconds"]
        if run.stepper.settles:
            run.rehearse(train, held_out, batch_size, scores, epochs=first)
        best = run.load(saved)
        scores.load(saved.numbers["scores"])
        bar.update(first)
    for epoch in range(first, epochs if not scores.stopped else first):
        rows = run.binarise(train) if run.binary else train
        run.dial.weight = scores.kl_weight(epoch)
        try:
            elbo = run.epoch(rows, batch_size)
        except FloatingPointError as error:
            remedy = f"a smaller lr than {lr:g}, clip_norm=10, or data on the scale of 1"
            raise FloatingPointError(say("a finite loss", f"{error} in epoch {epoch}", remedy)) from None
        scores.num_steps += -(-len(train[0]) // batch_size)
        if run.dial.weight < 1.0:  # the objective of a warm-up epoch is no ELBO: measure it
            run.dial.weight = 1.0
            elbo = run.elbo(rows, batch_size)
        good = run.keep()
        if scores.add(epoch, elbo, None if held_out is None else run.elbo(held_out, batch_size)):
            best = good
        bar.set_postfix(elbo=f"{scores.latest:.2f}")
        bar.update()
        over = scores.exhausted(epoch)
        if checkpoint is not None and (over or epoch + 1 == epochs or checkpoint.due()):
            seconds = time.perf_counter() - start
            checkpoint.save(run.save(best, epoch=epoch + 1, seconds=seconds, scores=scores.save()))
        if over:
            break
    return best


def _check_settings(loss: Any, counts: dict[str, Any], *, kl_warmup: Any, lr: Any, clip_norm: Any) -> None:
    if not isinstance(loss, ELBO):
        raise TypeError(say("a Pyro ELBO object as loss", f"{loss!r}", "loss=pyro.infer.Trace_ELBO()"))
    for name, value in counts.items():
        if value is not None or name == "epochs":
            checks.positive_integer(value, name)
    checks.positive_integer(kl_warmup, "kl_warmup", minimum=0)
    check_rate(lr, "lr", positive=False)
    if clip_norm is not None:
        check_rate(clip_norm, "clip_norm", positive=True)


def _check_makers(optimiser: Any, checkpoint: Any) -> None:
    if optimiser is not None and not callable(optimiser):
        remedy = "optimiser=lambda p: torch.optim.SGD(p, lr=1e-2)"
        raise TypeError(say("a function of the parameters that makes an optimiser", f"{optimiser!r}", remedy))
    if checkpoint is not None and not all(hasattr(checkpoint, name) for name in ("load", "due", "save")):
        expected = "a checkpoint with load(), due() and save(state)"
        raise TypeError(say(expected, f"{checkpoint!r}", "pyro_vae.runs.checkpoints.Checkpoints"))


def _move(device: torch.device | None, *programs: Program) -> None:
    for program in programs:
        if device is not None and isinstance(program, nn.Module):
            program.to(device)


def _bar(epochs: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=epochs, disable=not progress, unit="epoch", desc="SVI")


def _say_above_bar(message: str) -> None:
    """Say something where the bar is: on standard error, which leaves standard output to results."""
    from tqdm.auto import tqdm

    tqdm.write(message, file=sys.stderr)


def _silent(message: str) -> None:
    """Say nothing."""
