"""Stochastic variational inference: learn the model and the guide by maximising the ELBO."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.datasets.rows import Rows
from pyro_vae.distributed import same_random_state
from pyro_vae.inference.target.modules import TrainingModes, owner_of
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.variational.engine import Engine
from pyro_vae.inference.variational.enumerated import fitting_loss, outside_the_kl
from pyro_vae.inference.variational.settings import Settings
from pyro_vae.inference.variational.steppers import Data
from pyro_vae.inference.variational.training_input import check_guide, check_programs, split, training_device
from pyro_vae.inference.variational.training_loop import History, TrainingLoop
from pyro_vae.inference.variational.training_run import TrainingRun
from pyro_vae.inference.variational.training_state import Checkpoint
from pyro_vae.progress import progress_bar, write_above_bar

__all__ = ["History", "check_guide", "fit"]


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
    patience_steps: int | None = None,
    lr_drops: int = 0,
    starts: Sequence[Callable[[], None]] = (),
    trial_steps: int = 500,
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
    when training is interrupted or breaks: then the weights are those of the last whole epoch. Modules that functions
    call are measured in evaluation mode and end in the mode they came in; one that came in evaluation mode stays in it.

    Source: Kingma & Welling 2014, algorithm 1.

    Args:
        model: a Pyro program; called as ``model(batch)``, or ``model(*batch)`` for a tuple of tensors.
        guide: its guide, called the same way.
        x: training data ``(N, *D)``, or a tuple of tensors that run over the same data, or rows on disk.
        epochs: passes over the data.
        batch_size: data a step; the last batch of an epoch may be smaller. None takes 64, or all data if fewer.
        lr: Adam's learning rate.
        loss: any Pyro ELBO. None is ``Trace_ELBO()``; where the guide leaves discrete sites of the model out, Pyro's
            ``TraceEnum_ELBO``, which sums them.
        optimiser: makes a torch optimiser of the parameters; Adam if None.
        validation: held-out data, or the share of x to hold out (rows at random), or None for none.
        patience: stop once the validation ELBO has not risen for so many epochs, and give back the best weights.
            None runs all epochs and keeps the last weights.
        patience_steps: patience in gradient steps, of which learning takes thousands however many data there are.
        lr_drops: once patience runs out, go back to the best weights and on at a quarter of the learning rate, so
            many times before stopping.
        starts: functions that put model and guide at a start; each is trained for ``trial_steps``, and the one with
            the best validation ELBO goes on. None are tried where a checkpoint holds a state.
        trial_steps: gradient steps of a trial.
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
    arguments, and takes a share of each batch, see :class:`~pyro_vae.inference.compiled.parallel.Parallel`.

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
    same_random_state()
    _check_makers(loss, optimiser, checkpoint)
    where = training_device(device)
    train, held_out = split(x, validation, where)
    for owner in filter(None, map(owner_of, (model, guide))):
        if where is not None:
            owner.to(where)
    num_data = len(train[0])
    size = min(64, num_data) if batch_size is None else batch_size
    patience = _in_epochs(patience, patience_steps, steps_per_epoch=-(-num_data // max(1, size)))
    settings = Settings(epochs, size, lr, patience, kl_warmup, clip_norm, lr_drops)
    rows: dict[str, Any] = {"batch_size": size, "plate": plate, "binary": dynamic_binarisation}
    others, full_size = check_programs(model, guide, train, held_out, **rows)
    loss = fitting_loss(loss, others)
    if starts and (checkpoint is None or checkpoint.load() is None):
        trial_epochs = -(-checks.positive_integer(trial_steps, "trial_steps") * size // num_data)
        same: dict[str, Any] = {"loss": loss, "optimiser": optimiser, "clip_norm": clip_norm, "plate": plate}
        same |= {"dynamic_binarisation": dynamic_binarisation, "device": device, "progress": False}
        same |= {"batch_size": size, "lr": lr, "validation": held_out, "compile": compile and "auto"}
        _take_best_start((model, guide), starts, partial(fit, model, guide, train, epochs=trial_epochs, **same))
    batch = tuple(part[:size] for part in train)
    spared = outside_the_kl(loss, (model, guide), batch, others) if kl_warmup else frozenset()
    of_run: dict[str, Any] = {"binary": dynamic_binarisation, "full_size": full_size, "observed": others}
    run = TrainingRun(model, guide, loss, **of_run, spared=spared)
    parameters = run.parameters(batch)
    with progress_bar(epochs, "SVI", show=progress, unit="epoch") as bar:
        warn = write_above_bar if progress else lambda _: None
        num_steps = settings.expected_epochs * -(-num_data // size)
        engine = Engine(run, settings, parameters, optimiser, compile=compile, num_steps=num_steps, warn=warn)
        if held_out is not None and dynamic_binarisation:
            held_out = run.binarise(held_out)
        with run.whole_epochs():
            adam = optimiser is None
            loop = TrainingLoop(run, settings, train, held_out, checkpoint=checkpoint, start=start, adam=adam)
            return replace(loop.go(bar), engine=engine.description)


def _in_epochs(patience: int | None, patience_steps: int | None, *, steps_per_epoch: int) -> int | None:
    """Patience in epochs, from one of the two ways to give it."""
    if patience_steps is None:
        return patience
    if patience is not None:
        raise ValueError(say("patience in epochs or in steps", "both", f"patience_steps={patience_steps} alone"))
    return -(-checks.positive_integer(patience_steps, "patience_steps") // steps_per_epoch)


def _take_best_start(
    programs: tuple[Any, Any], starts: Sequence[Callable[[], None]], trial: Callable[[], History]
) -> None:
    """Put the modules where the best of the starts has come after a trial; a single one needs none."""
    modules = TrainingModes(programs).modules
    best, weights = -math.inf, [module.state_dict() for module in modules]
    for start in starts:
        start()
        if len(starts) == 1:
            return
        history = trial()
        score = (history.validation_elbo or history.train_elbo)[-1]
        if score > best:
            best, weights = score, [copy.deepcopy(module.state_dict()) for module in modules]
    for module, state in zip(modules, weights, strict=True):
        module.load_state_dict(state)


def _check_makers(loss: Any, optimiser: Any, checkpoint: Any) -> None:
    """Check the objects that fit calls."""
    if loss is not None and not isinstance(loss, ELBO):
        raise TypeError(say("a Pyro ELBO object as loss", f"{loss!r}", "loss=pyro.infer.Trace_ELBO()"))
    if optimiser is not None and not callable(optimiser):
        remedy = "optimiser=lambda p: torch.optim.SGD(p, lr=1e-2)"
        raise TypeError(say("a function of the parameters that makes an optimiser", f"{optimiser!r}", remedy))
    if checkpoint is not None and not all(hasattr(checkpoint, name) for name in ("load", "due", "save")):
        expected = "a checkpoint with load(), due() and save(state)"
        raise TypeError(say(expected, f"{checkpoint!r}", "pyro_vae.runs.checkpoints.Checkpoints"))
