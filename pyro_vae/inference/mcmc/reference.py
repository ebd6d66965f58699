"""Pyro's own samplers on one posterior after the other: the reference that the batched kernels are held against."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.mcmc import HMC, MCMC, NUTS
from torch import Tensor, nn

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.target.target import Target
from pyro_vae.progress import progress_bar

__all__ = ["pyro_mcmc"]

_KERNELS = {"nuts": NUTS, "hmc": HMC}


def pyro_mcmc(
    model: Any,
    x: Tensor | tuple[Any, ...],
    *,
    kernel: str = "nuts",
    num_samples: int = 500,
    warmup_steps: int = 500,
    num_chains: int = 4,
    plate: str | None = "data",
    jit_compile: bool = True,
    progress: bool = False,
    **kernel_arguments: Any,
) -> Draws:
    """Sample each datum's posterior with Pyro's NUTS or HMC, one posterior and one chain after the other.

    The program runs on ``x[n : n + 1]`` for every n, in this process. Nothing of this package's own densities or
    kernels takes part, which makes it slow (tens of effective samples a second) and a reference.

    Args:
        model: a Pyro program; called as ``model(x)``, or ``model(*x)`` if x is a tuple.
        x: the data; every tensor of a tuple whose first dimension is N is sliced.
        kernel: "nuts" or "hmc".
        num_samples: S, draws kept a chain.
        warmup_steps: draws a chain on which Pyro adapts, not kept.
        num_chains: C.
        plate: name of the data plate; None, or latents outside it, for the one posterior of the whole program.
        jit_compile: let Pyro trace the potential with ``torch.jit``; pays off from some hundred draws on.
        progress: show one bar over posteriors and chains.
        **kernel_arguments: passed to Pyro's kernel, such as ``trajectory_length=1.0`` for HMC.

    Returns:
        Draws without counted gradients.

    Raises:
        TypeError, ValueError: for data, names or numbers that cannot be meant.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(torch.nn.Linear(1, 3)))
        >>> x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
        >>> draws = pyro_mcmc(model, x, num_samples=20, warmup_steps=20, num_chains=2, jit_compile=False)
        >>> draws.samples["z"].shape
        torch.Size([2, 20, 2, 1])
    """
    checks.among(kernel, _KERNELS, "kernel")
    num_samples = checks.positive_integer(num_samples, "num_samples")
    warmup_steps = checks.positive_integer(warmup_steps, "warmup_steps", minimum=0)
    num_chains = checks.positive_integer(num_chains, "num_chains")
    arguments = x if isinstance(x, tuple) else (checks.finite(checks.tensor(x)),)
    axes, N = _data_axes(model, arguments, plate)
    started = time.perf_counter()
    runs: list[list[Any]] = []
    with _quiet(), _one_thread(), _frozen(model), progress_bar(N * num_chains, "Pyro MCMC", show=progress) as bar:
        for n in range(N):
            row = _row(arguments, n, N) if axes else arguments
            runs.append([])
            for _ in range(num_chains):
                built = _KERNELS[kernel](model, jit_compile=jit_compile, ignore_jit_warnings=True, **kernel_arguments)
                run = MCMC(built, num_samples=num_samples, warmup_steps=warmup_steps, disable_progbar=True)
                run.run(*row)
                runs[-1].append(_kept(run, built, axes))
                bar.update()
    per_posterior = [{key: torch.stack([c[key] for c in chains]) for key in chains[0]} for chains in runs]
    joined = {
        key: torch.stack([p[key] for p in per_posterior], 2 if key[0] == "site" else -1) for key in per_posterior[0]
    }
    return Draws(
        {key[1]: value for key, value in joined.items() if key[0] == "site"},
        acceptance=joined["statistic", "acceptance"],
        diverging=joined["statistic", "diverging"],
        step_size=joined["statistic", "step_size"],
        seconds=time.perf_counter() - started,
        plate=plate if axes else None,
        kernel=f"Pyro {kernel.upper()}",
    )


def _kept(run: MCMC, kernel: Any, axes: dict[str, int]) -> dict[tuple[str, str], Tensor]:
    """One chain's draws by site ``(S, *event)``, the axis of the single datum dropped, and its statistics."""
    values = {("site", name): value for name, value in run.get_samples().items()}
    if axes:
        values = {(group, name): value.squeeze(axes[name]) for (group, name), value in values.items()}
    reference = next(iter(values.values()))
    report = run.diagnostics()
    diverging = torch.zeros(reference.shape[0], dtype=torch.bool)
    diverging[list(report["divergences"]["chain 0"])] = True
    values["statistic", "diverging"] = diverging
    values["statistic", "acceptance"] = reference.new_tensor(report["acceptance rate"]["chain 0"])
    values["statistic", "step_size"] = reference.new_tensor(float(kernel.step_size))
    return values


def _data_axes(model: Any, arguments: tuple[Any, ...], plate: str | None) -> tuple[dict[str, int], int]:
    """Each latent site's data axis, counted from the right, and N; no axes if the program is one posterior."""
    with poutine.block():
        trace = poutine.trace(model).get_trace(*arguments)
    latent = {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)
    }
    if not latent:
        raise ValueError(say("at least one latent site", "none", "pyro.sample without obs"))
    frames = {name: [f for f in site["cond_indep_stack"] if f.name == plate] for name, site in latent.items()}
    known = sorted({f.name for s in trace.nodes.values() for f in s.get("cond_indep_stack", ())})
    if plate is not None and known and plate not in known:
        raise ValueError(say(f"a plate named {plate!r}", f"plates {known}", f"plate={known[0]!r}"))
    if not all(frames.values()) or _are_tied(model, arguments, plate):
        return {}, 1
    axes = {name: frame[0].dim - len(latent[name]["fn"].event_shape) for name, frame in frames.items()}
    return axes, int(next(iter(frames.values()))[0].size)


def _are_tied(model: Any, arguments: tuple[Any, ...], plate: str | None) -> bool:
    """Whether rows act on each other; not known of programs that a target refuses, which Pyro may yet sample."""
    try:
        return not Target(model, arguments, plate=plate).per_datum
    except (TypeError, ValueError):
        return False


def _row(arguments: tuple[Any, ...], n: int, N: int) -> tuple[Any, ...]:
    """The arguments of datum n alone: row n of every tensor that runs over the data."""
    return tuple(a[n : n + 1] if isinstance(a, Tensor) and a.dim() and len(a) == N else a for a in arguments)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what tracing with ``torch.jit`` says of itself, and Pyro's own uses of what torch deprecates."""
    with warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """One posterior is too small to share between threads: they would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Learnable parameters count as constants meanwhile: ``torch.jit`` cannot trace them as leaves."""
    parameters = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
