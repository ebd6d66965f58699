"""Stochastic variational inference: learn the model and the guide by maximising the ELBO."""

from __future__ import annotations

import math
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
from pyro_vae.inference.engine import Engine
from pyro_vae.inference.program import Program, may_miss, run_once
from pyro_vae.inference.supports import check_support, in_words
from pyro_vae.inference.training_run import Data, Scores, TrainingRun
from pyro_vae.inference.training_state import Checkpoint

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
    x: Tensor | Data,
    *,
    epochs: int = 100,
    batch_size: int | None = None,
    lr: float = 1e-3,
    loss: ELBO | None = None,
    optimiser: Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None = None,
    validation: Tensor | Data | float | None = 0.1,
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
    over mini-batches with Adam. Parameters are updated in place; model and guide end in evaluation mode.

    Source: Kingma & Welling 2014, algorithm 1.

    Args:
        model: a Pyro program; called as ``model(batch)``, or ``model(*batch)`` for a tuple of tensors.
        guide: its guide, called the same way.
        x: training data ``(N, *D)``, or a tuple of tensors that run over the same data.
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
            :class:`~pyro_vae.inference.compiled_step.CompiledStep`. "auto" does so where the run is long enough to win
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
            not fit the model; if mini-batches are asked for with a latent outside the data plate.
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
        pyro.set_rng_seed(seed)
    loss = Trace_ELBO() if loss is None else loss
    if not isinstance(loss, ELBO):
        raise TypeError(say("a Pyro ELBO object as loss", f"{loss!r}", "loss=pyro.infer.Trace_ELBO()"))
    checks.positive_integer(epochs, "epochs")
    checks.positive_integer(kl_warmup, "kl_warmup", minimum=0)
    if patience is not None:
        checks.positive_integer(patience, "patience")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(say("a positive clip_norm, or None", f"{clip_norm}", "clip_norm=10.0"))
    where = _device(device, model, guide)
    train, held_out = _split(_data(x, where, model), validation, where, model)
    batch_size = min(64, len(train[0])) if batch_size is None else batch_size
    _check_batches(model, guide, train, batch_size, plate=plate, binary=dynamic_binarisation)
    if held_out is not None:
        _check_data(model, held_out, binary=dynamic_binarisation)
    run = TrainingRun(model, guide, loss, binary=dynamic_binarisation)
    parameters = run.parameters(tuple(part[:batch_size] for part in train))
    run.optimiser = torch.optim.Adam(parameters, lr=lr) if optimiser is None else optimiser(parameters)
    run.lr = lr
    run.clip_norm = math.inf if clip_norm is None else clip_norm
    bar = _bar(epochs, progress)
    planned = epochs * -(-len(train[0]) // batch_size)
    run.engine = Engine(
        model,
        guide,
        loss,
        compile=compile if run.parallel is None else False,
        planned=planned,
        custom=optimiser is not None,
        tell=bar.write if progress else _silent,
        lr=lr,
        clip_norm=clip_norm,
    )
    if run.parallel is not None:
        run.engine.description = f"Pyro, data-parallel on {run.parallel.size} processes"
    if held_out is not None and dynamic_binarisation:
        held_out = run.binarise(held_out)

    scores = Scores(kl_warmup, patience)
    best = _train(
        run, scores, train, held_out, epochs=epochs, batch_size=batch_size, bar=bar, checkpoint=checkpoint, start=start
    )
    bar.close()
    if patience is not None:
        run.restore(best)
    for parameter in parameters:
        parameter.grad = None  # a gradient left behind would add to the user's next one
    return History(
        scores.train,
        scores.validation,
        scores.best_epoch,
        scores.stopped,
        time.perf_counter() - start,
        scores.num_steps,
        run.engine.description,
    )


def _train(
    run: TrainingRun,
    scores: Scores,
    train: Data,
    held_out: Data | None,
    *,
    epochs: int,
    batch_size: int,
    bar: Any,
    checkpoint: Checkpoint | None,
    start: float,
) -> list[Tensor]:
    """Go through the epochs, from the checkpoint's if it holds one; return the best weights."""
    best = good = run.state()
    first = 0
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None:
        first = saved.numbers["epoch"]
        start -= saved.numbers["seconds"]
        run.rehearse(train, held_out, batch_size, epochs=first, kl_warmup=scores.kl_warmup)
        best = run.load(saved)
        good = run.state()
        scores.load(saved.numbers["scores"])
        bar.update(first)
    for epoch in range(first, epochs if not scores.stopped else first):
        rows = run.binarise(train) if run.binary else train
        run.kl_weight = min(1.0, (epoch + 1) / scores.kl_warmup) if scores.kl_warmup else 1.0
        try:
            elbo = run.epoch(rows, batch_size)
        except FloatingPointError as error:
            run.restore(good)
            remedy = f"a smaller lr than {run.lr:g}, clip_norm=10, or data on the scale of 1"
            raise FloatingPointError(say("a finite loss", f"{error} in epoch {epoch}", remedy)) from None
        scores.num_steps += -(-len(train[0]) // batch_size)
        if run.kl_weight < 1.0:  # the objective of a warm-up epoch is no ELBO: measure it
            run.kl_weight = 1.0
            elbo = run.elbo(rows, batch_size)
        good = run.state()
        if scores.add(epoch, elbo, None if held_out is None else run.elbo(held_out, batch_size)):
            best = good
        bar.set_postfix(elbo=f"{scores.latest:.2f}")
        bar.update()
        over = scores.exhausted(epoch)
        if checkpoint is not None and (over or epoch + 1 == epochs or checkpoint.due()):
            checkpoint.save(
                run.save(
                    best,
                    epoch=epoch + 1,
                    seconds=time.perf_counter() - start,
                    scores=scores.save(),
                )
            )
        if over:
            break
    return best


def check_guide(model: Program, guide: Program, *args: Any) -> None:
    """Check that a guide samples the model's latent sites, in the same shapes and in the prior's support.

    Raises:
        ValueError: if a site is missing, unknown, of another shape, or of another support.
    """
    with torch.no_grad(), torch.random.fork_rng():
        proposed = {n: s for n, s in run_once(guide, *args).items() if not _auxiliary(s)}
        latent = {n: s for n, s in run_once(model, *args).items() if not s["is_observed"]}
    if set(proposed) != set(latent):
        remedy = "the same names in both (latent= of Model and guide)"
        if len(proposed) != len(latent):
            remedy = "guides.BottomUp or guides.TopDown for two levels, any other guide for one"
        raise ValueError(say(f"a guide over the latent sites {sorted(latent)}", f"{sorted(proposed)}", remedy))
    for name, site in latent.items():
        want, got = tuple(site["value"].shape), tuple(proposed[name]["value"].shape)
        if want != got:
            remedy = f"a guide of latent dimension {want[-1]}, or a prior of {got[-1]}"
            raise ValueError(say(f"guide values of shape {want} at site {name!r}", f"{got}", remedy))
        with torch.no_grad(), torch.random.fork_rng():
            inside = bool(site["fn"].support.check(proposed[name]["fn"].sample((100,))).all())
        if not inside:
            remedy = "guides.Transformed(guide, torch.distributions.biject_to(prior().support))"
            expected = f"a guide over {in_words(site['fn'].support)}, as the prior at site {name!r}"
            raise ValueError(say(expected, in_words(proposed[name]["fn"].support), remedy))


def _auxiliary(site: dict[str, Any]) -> bool:
    return bool(site["infer"].get("is_auxiliary", False)) or bool(site["is_observed"])


def _check_batches(model: Program, guide: Program, train: Data, batch_size: int, *, plate: str, binary: bool) -> None:
    size = checks.positive_integer(batch_size, "batch_size")
    if size > len(train[0]):
        got = f"batch_size={size} for {len(train[0])} training data"
        raise ValueError(say("a batch no larger than the data", got, f"batch_size={len(train[0])}"))
    sites = _check_data(model, train, binary=binary)
    batch = tuple(part[:size] for part in train)
    check_guide(model, guide, *((torch.bernoulli(batch[0]), *batch[1:]) if binary else batch))
    for name, site in sites.items():
        inside = any(frame.name == plate for frame in site["cond_indep_stack"])
        if not site["is_observed"] and size < len(train[0]) and not inside:
            remedy = f"batch_size={len(train[0])}, or plate= with the data plate's name"
            raise ValueError(say(f"latent site {name!r} inside plate {plate!r}", "one outside, and batches", remedy))


def _check_data(model: Program, data: Data, *, binary: bool) -> dict[str, Any]:
    """Check that data fit the model's observed sites; return all its sites."""
    if binary:
        low, high = float(data[0].min()), float(data[0].max())
        if low < 0 or high > 1:
            raise ValueError(say("probabilities in [0, 1]", f"values from {low:g} to {high:g}", "x / x.max()"))
        data = ((data[0] > 0.5).to(data[0].dtype), *data[1:])
    with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        sites = run_once(model, *data)
    observed = {name: site for name, site in sites.items() if site["is_observed"]}
    if not observed:
        raise ValueError(say("a model that observes the data", f"sites {list(sites)}", "fit(model, guide, x)"))
    for name, site in observed.items():
        check_support(name, site)
    return sites


def _data(x: Tensor | Data, device: torch.device | None, model: Program) -> Data:
    parts = x if isinstance(x, tuple) else (x,)
    for i, part in enumerate(parts):
        name = "x" if i == 0 else f"x[{i}]"
        checks.finite(checks.tensor(part, name), name, missing=may_miss(model, i))
        checks.same_length(parts[0], part, "x", f"x[{i}]")
    return tuple(part.to(device) if device is not None else part for part in parts)


def _split(
    x: Data, validation: Tensor | Data | float | None, device: torch.device | None, model: Program
) -> tuple[Data, Data | None]:
    if validation is None:
        return x, None
    if isinstance(validation, (Tensor, tuple)):
        return x, _data(validation, device, model)
    if not 0 <= validation < 1:
        raise ValueError(say("validation data, or a share of x in [0, 1)", f"{validation}", "validation=0.1"))
    held = int(validation * len(x[0]))
    if held == 0:
        return x, None
    order = torch.randperm(len(x[0])).to(x[0].device)
    return tuple(part[order[held:]] for part in x), tuple(part[order[:held]] for part in x)


def _device(device: str | torch.device, *programs: Program) -> torch.device | None:
    """The device to train on, to which modules are moved; None leaves everything where it is."""
    if device == "auto":
        if not torch.cuda.is_available():
            return None
        device = "cuda"
    where = torch.device(device)
    for program in programs:
        if isinstance(program, nn.Module):
            program.to(where)
    return where


def _bar(epochs: int, progress: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=epochs, disable=not progress, unit="epoch", desc="SVI")


def _silent(message: str) -> None:
    """Say nothing."""
