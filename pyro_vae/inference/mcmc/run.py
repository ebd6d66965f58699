"""MCMC from the user's side: check, start, choose what samples, and return draws by site."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae import checks
from pyro_vae.checks import say
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.mcmc.by_nutpie.chains import WARMUP_STEPS, sample_by_nutpie, why_not_nutpie
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.draws import Draws
from pyro_vae.inference.mcmc.kernels.base import Kernel, Metric
from pyro_vae.inference.mcmc.kernels.hmc import HMC
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.kernels.tempering import ParallelTempering
from pyro_vae.inference.mcmc.live import watching
from pyro_vae.inference.mcmc.loop import Kept, Plan, sample
from pyro_vae.inference.mcmc.memory import check_memory
from pyro_vae.inference.mcmc.start import guide_metric, initial_points
from pyro_vae.inference.posterior import GuideSampler
from pyro_vae.inference.target.blocks import block_size
from pyro_vae.inference.target.discrete import must_have_continuous
from pyro_vae.inference.target.program import Program
from pyro_vae.inference.target.target import Target, as_target

__all__ = ["mcmc"]

_COMPILE_FROM = 300  # steps from which compilation, about a second, pays


def mcmc(
    model: Program | Target,
    x: Tensor | tuple[Any, ...] | None = None,
    *,
    kernel: Kernel | None = None,
    num_samples: int = 500,
    warmup_steps: int | None = None,
    num_chains: int = 4,
    plate: str | None = "data",
    guide: Any = None,
    initial: Tensor | dict[str, Tensor] | None = None,
    thinning: int = 1,
    compile: bool | str | None = None,
    callback: Callable[[str, int, Tensor], None] | None = None,
    progress: bool | str = False,
) -> Draws:
    """Sample the posteriors p(z|x_n) of all data at once by Markov chain Monte Carlo.

    If all latent sites lie in the data plate, every datum has a posterior of its own, with a step size, a mass matrix
    and diagnostics of its own, and all C x N chains move as one tensor. Otherwise there is one posterior, of the whole
    program, and its chains move together, or, for ``NUTS``, each for itself by nutpie (see :class:`pyro_vae.NUTS`).
    Discrete latent sites are summed out while the chains run, and drawn given
    the others afterwards. Tuning is adapted during warm-up only; all draws that are kept come from one
    fixed kernel.

    Args:
        model: any Pyro program that ``torch.vmap`` can vectorise; called as ``model(x)``, or ``model(*x)`` for a tuple.
            A :class:`pyro_vae.Target` stands for a program with its data and plate.
        x: the data; dimension 0 runs over data.
        kernel: how to move; ``HMC()`` if not given.
        num_samples: S, draws kept a chain.
        warmup_steps: steps on which to adapt, not kept; 300 if not given, 150 with a guide, 500 by nutpie, where each
            chain adapts for itself.
        num_chains: C.
        plate: name of the data plate; None for the posterior of the whole program.
        guide: a Pyro program over the latent sites, such as ``pv.guides.DiagonalGaussian``, or a distribution of
            ``batch_shape (N,)``. Chains start from it, and its covariance is the first mass matrix. It changes where
            chains start and how soon they are tuned, not what they converge to; but chains that all start from one
            narrow guide cannot see a mode that it misses, and R-hat will not show it.
        initial: where to start, u ``(C, N, L)`` on the unconstrained scale, or one value a site as in the model.
        thinning: keep every so many-th draw; ``num_samples * thinning`` steps are taken.
        compile: whether the gradient is compiled. None or "auto" does so in runs of 300 steps or more, and runs a
            program eagerly that cannot be (``engine`` of the draws says why); True raises then.
        callback: called after every step with the stage, "warm-up" or "sampling", its number from 0, and where the
            chains are, u ``(C, N, L)``.
        progress: show a bar with acceptance and divergences; "live" shows means and R-hat so far, too.

    Returns:
        The draws. After Ctrl-C, those kept until then, with ``complete=False``.

    Raises:
        TypeError, ValueError: for a program, data or numbers that cannot be meant, naming the site in the way.
        NotTraceableError: if ``compile=True`` and the program cannot be compiled.
        MemoryError: if draws and gradient would not fit into memory; nothing has been sampled then.
        KeyboardInterrupt: on Ctrl-C before the first draw was kept.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(torch.nn.Linear(2, 8)))
        >>> draws = mcmc(model, torch.ones(10, 8), num_samples=100, warmup_steps=100)
        >>> draws.samples["z"].shape
        torch.Size([4, 100, 10, 2])
    """
    kernel = HMC() if kernel is None else kernel
    target = as_target(model, x, plate=plate)
    must_have_continuous(target)
    _check_kernel(kernel, target)
    watched = callback is not None or not isinstance(progress, bool)
    obstacle = _why_not_nutpie(kernel, target, compile, warmup_steps, watched=watched)
    plan = Plan(
        num_samples=checks.positive_integer(num_samples, "num_samples"),
        warmup_steps=checks.positive_integer(
            _usual_warmup(guide, by_nutpie=not obstacle) if warmup_steps is None else warmup_steps,
            "warmup_steps",
            minimum=0,
        ),
        num_chains=checks.positive_integer(num_chains, "num_chains"),
        thinning=checks.positive_integer(thinning, "thinning"),
    )
    check_memory(target, plan.num_chains * kernel.replicas, plan.num_samples)
    started = time.perf_counter()
    kept, tried = None, ""
    sampler = None if guide is None else GuideSampler(target, guide)
    u = initial_points(target, initial, plan.num_chains, sampler)
    if isinstance(kernel, NUTS) and not obstacle and (kernel.engine == "nutpie" or plan.steps >= _COMPILE_FROM):
        kept, tried = _tried_by_nutpie(kernel, target, u, plan, progress=progress is True)
    if kept is None:
        long_enough = "auto" if plan.steps >= _COMPILE_FROM else False
        density = LogDensity(target, compile=long_enough if compile in (None, "auto") else compile)
        with watching(target, callback, show=progress) as told:
            given: Any = {"given": initial is not None, "callback": told, "progress": progress is True}
            kept = _sampled_as_tensors(kernel, density, u, plan, sampler, **given)
    kept = replace(kept, engine=kept.engine + tried)
    return _draws(kernel, target, plan, kept, started)


def _sampled_as_tensors(
    kernel: Kernel,
    density: LogDensity,
    u: Tensor,
    plan: Plan,
    sampler: GuideSampler | None,
    *,
    given: bool,
    callback: Callable[[str, int, Tensor], None],
    progress: bool,
) -> Kept:
    """Run all chains as one tensor, from u ``(C, N, L)``; from a guide they have its scale too."""
    informed = sampler if kernel.adapt_mass_matrix else None
    metric = guide_metric(informed, dense=kernel.full_mass) if informed else Metric(torch.ones_like(u[:1]))
    state = kernel.start(u, density, sampler, given=given)
    return sample(kernel, density, state, kernel.first_tuning(u, metric), plan, progress=progress, callback=callback)


def _draws(kernel: Kernel, target: Target, plan: Plan, kept: Kept, started: float) -> Draws:
    """What was kept, on the scale of the sites, with what the target knows beside: discrete and determined sites."""
    discrete, marginals = _summed_out(target, kept.u)
    return Draws(
        _constrained(target, kept.u, target.constrain) | discrete,
        marginals=marginals,
        deterministic=_constrained(target, kept.u, target.compute_deterministic),
        axes={name: site.axis for name, site in target.sites.items() if site.axis is not None},
        acceptance=kept.acceptance / kept.u.shape[1],
        diverging=kept.diverging,
        step_size=kept.step_size,
        exchange=kept.exchange,
        tree_depth=kept.tree_depth,
        max_tree_depth=kernel.max_tree_depth if isinstance(kernel, NUTS) else None,
        energy=kept.energy,
        num_gradients=kept.num_gradients,
        num_evaluations=kept.num_evaluations,
        seconds=time.perf_counter() - started,
        compile_seconds=kept.compile_seconds,
        complete=kept.u.shape[1] == plan.num_samples,
        plate=target.plate if target.per_datum else None,
        kernel=type(kernel).__name__,
        engine=kept.engine,
    )


def _check_kernel(kernel: Any, target: Target) -> None:
    """Refuse what is no kernel, and a kernel that was given another model."""
    if not isinstance(kernel, Kernel):
        name, module = type(kernel).__name__, type(kernel).__module__
        got = f"Pyro's {name}" if module.startswith("pyro.infer") else name
        remedy = f"kernel=pv.{name if name in {'NUTS', 'HMC'} else 'HMC'}(), or pv.pyro_mcmc for Pyro's own"
        raise TypeError(say("a kernel of this package", got, remedy))
    if kernel.model is not None and kernel.model is not target.model:
        raise ValueError(say("one model", "another one in the kernel", "a kernel without model"))
    if isinstance(kernel, ParallelTempering) and kernel.betas[-1] == 0 and target.flat:
        expected = "priors that are distributions: the last temperature of ParallelTempering is the prior"
        raise ValueError(say(expected, f"improper ones of {target.flat}", "proper priors, or betas that end above 0"))


def _why_not_nutpie(
    kernel: Kernel, target: Target, compile: bool | str | None, warmup_steps: int | None, *, watched: bool
) -> str | None:
    """Why nutpie is not to be tried; None if it is.

    Raises:
        ValueError: if the kernel asks for nutpie and cannot have it.
    """
    engine = kernel.engine if isinstance(kernel, NUTS) else "torch"
    obstacle = "compile=False" if compile is False else why_not_nutpie(kernel, target, warmup_steps)
    if watched and not obstacle:
        obstacle = "a callback or a live view, while nutpie's chains run apart"
    if engine == "nutpie" and obstacle:
        raise ValueError(say("a run that nutpie can do", obstacle, "engine='auto'"))
    return "engine='torch'" if engine == "torch" else obstacle


def _tried_by_nutpie(kernel: NUTS, target: Target, u: Tensor, plan: Plan, *, progress: bool) -> tuple[Kept | None, str]:
    """What nutpie's chains leave; or None, and why not, where another engine may serve.

    Raises:
        NotTraceableError: if the kernel asks for nutpie, and the program cannot be compiled.
    """
    try:
        return sample_by_nutpie(kernel, target, u, plan, progress=progress), ""
    except NotTraceableError as error:
        if kernel.engine == "nutpie":
            raise NotTraceableError(say("a program for nutpie", str(error), "engine='torch'")) from None
        return None, f"; not nutpie: {error}"


def _usual_warmup(guide: Any, *, by_nutpie: bool) -> int:
    """How many steps to adapt on where nobody says."""
    if by_nutpie:
        return WARMUP_STEPS
    return 300 if guide is None else 150


@torch.no_grad()
def _constrained(
    target: Target, u: Tensor, sites: Callable[[Tensor], dict[str, Tensor]], most: int = 2_000_000
) -> dict[str, Tensor]:
    """Draws ``(C, S, N, L)`` as sites ``(C, S, N, *event)``, so many at a time as keep the transforms' memory small."""
    size = max(1, most // max(1, u[:, 0].numel()))
    parts = [sites(part) for part in u.split(size, 1)]
    joined = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
    return joined if target.per_datum else {name: value.unsqueeze(2) for name, value in joined.items()}


@torch.no_grad()
def _summed_out(target: Target, u: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Draws of the discrete sites given u ``(C, S, N, L)``, shaped like other sites', and their mean probabilities."""
    drawn: dict[str, list[Tensor]] = {name: [] for name in target.discrete}
    mean: dict[str, Tensor] = {}
    rows = u.flatten(0, 1)
    for part in rows.split(block_size(target)) if target.discrete else ():
        for name, value in target.infer_discrete(part).items():
            drawn[name].append(value if target.per_datum else value.unsqueeze(1))
        for name, value in target.compute_marginals(part).items():
            share = (value if target.per_datum else value.unsqueeze(1)).sum(0) / len(rows)
            mean[name] = mean[name] + share if name in mean else share
    return {name: torch.cat(parts).unflatten(0, u.shape[:2]) for name, parts in drawn.items()}, mean
