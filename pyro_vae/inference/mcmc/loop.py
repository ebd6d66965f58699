"""The loop over steps: warm up, fix the tuning, keep draws; over chains x data as one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.mcmc.adaptation import Warmup
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.kernels.base import Info, Kernel, State, Tuning
from pyro_vae.progress import progress_bar

__all__ = ["Kept", "Plan", "sample"]


@dataclass(frozen=True)
class Plan:
    """How long a run is."""

    num_samples: int
    warmup_steps: int
    num_chains: int
    thinning: int

    @property
    def steps(self) -> int:
        """Of every chain, warm-up included."""
        return self.warmup_steps + self.num_samples * self.thinning


@dataclass(frozen=True)
class Kept:
    """What is left of a run."""

    u: Tensor  # (C, S, N, L)
    acceptance: Tensor  # (C, N), summed over draws
    diverging: Tensor  # (C, S, N)
    step_size: Tensor | None
    exchange: Tensor | None = None  # (R - 1, N)
    tree_depth: Tensor | None = None  # (C, S, N)
    energy: Tensor | None = None  # (C, S, N)
    num_gradients: int | None = None
    num_evaluations: int | None = None
    compile_seconds: float = 0.0
    engine: str = ""


class _Exchanges:
    """Mean acceptance of exchanges between temperatures, over chains and steps, of those that were tried."""

    def __init__(self) -> None:
        self.total: Any = 0
        self.count: Any = 0

    def update(self, exchange: Tensor | None) -> None:
        """Take one step's acceptance, ``(R - 1, C, N)`` with NaN where none was tried."""
        if exchange is not None:
            self.total = self.total + exchange.nansum(-2)
            self.count = self.count + exchange.isfinite().sum(-2)

    def mean(self) -> Tensor | None:
        """Return the mean, ``(R - 1, N)``; None if the kernel has no temperatures."""
        return self.total / self.count if isinstance(self.total, Tensor) else None


def sample(
    kernel: Kernel,
    density: LogDensity,
    state: State,
    tuning: Tuning,
    plan: Plan,
    *,
    progress: bool,
    callback: Callable[[str, int, Tensor], None],
) -> Kept:
    """Warm up, fix the tuning, and keep draws; after Ctrl-C, those kept until then.

    ``callback`` is called after every step with the stage, the step's number and where the chains are.
    """
    C, N, L = kernel.draw(state).shape
    S = plan.num_samples
    draws = state.u.new_empty(C, S, N, L)
    diverging = torch.zeros(C, S, N, dtype=torch.bool, device=draws.device)
    acceptance = draws.new_zeros(C, N)
    warmup = Warmup(kernel, density, plan.warmup_steps, tuning)
    exchanges = _Exchanges()
    depths: list[Tensor | None] = []
    energies: list[Tensor | None] = []
    kept = 0
    with progress_bar(plan.steps, type(kernel).__name__, show=progress) as bar:
        shows = _Progress(bar)
        try:
            tuning = warmup.begin(state)
            for step in range(1, plan.warmup_steps + 1):
                before = state
                state, info = kernel.step(before, density, tuning)
                tuning = warmup.update(step, before, state, info)
                shows.update(info, "warm-up")
                callback("warm-up", step - 1, kernel.draw(state))
            tuning = warmup.end()
            for step in range(S * plan.thinning):
                state, info = kernel.step(state, density, tuning)
                shown = kernel.report(info)
                acceptance += shown.acceptance / plan.thinning
                exchanges.update(shown.exchange)
                diverging[:, kept] |= shown.diverging
                if (step + 1) % plan.thinning == 0:
                    draws[:, kept] = kernel.draw(state)
                    if not density.target.per_datum:
                        depths.append(shown.tree_depth)
                        energies.append(shown.energy)
                    kept += 1
                shows.update(info, "sampling")
                callback("sampling", step, kernel.draw(state))
        except KeyboardInterrupt:
            if not kept:
                raise
    step_size = None if kernel.target_accept_prob is None else kernel.reported_step_size(tuning)
    return Kept(
        draws[:, :kept], acceptance, diverging[:, :kept], step_size, exchanges.mean(),
        tree_depth=_stacked(depths[:kept]), energy=_stacked(energies[:kept]),
        num_gradients=density.num_gradients, num_evaluations=density.num_evaluations,
        compile_seconds=density.compile_seconds, engine=density.engine,
    )  # fmt: skip


def _stacked(values: list[Tensor | None]) -> Tensor | None:
    """One ``(C, N)`` a draw as ``(C, S, N)``; None where a kernel reports none, or for posteriors by datum."""
    return (
        torch.stack([value for value in values if value is not None], 1) if values and values[0] is not None else None
    )


class _Progress:
    """A bar with the latest acceptance and the divergences so far."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.diverged = 0

    def update(self, info: Info, stage: str) -> None:
        """Take one step's outcome."""
        if self.bar.disable:
            return
        self.bar.update()
        self.diverged += int(info.diverging.sum()) if stage == "sampling" else 0
        if self.bar.n % 10 == 0:
            self.bar.set_postfix_str(
                f"{stage}, acceptance {float(info.acceptance.mean()):.2f}, divergences {self.diverged}", refresh=False
            )
