"""NUTS by nutpie, whose chains run in Rust on all cores and call the log density as a C function.

Adaptation is nutpie's: the mass matrix that brings draws and gradients to the same scale (least Fisher divergence),
low-rank plus diagonal (Seyboldt, Carlson & Carpenter, arXiv 2603.18845). Each chain adapts for itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.inference.compiled.native import Call, Native
from pyro_vae.inference.mcmc.by_nutpie.model import Called, density_for_nutpie, import_nutpie, model_for_nutpie
from pyro_vae.inference.mcmc.fisher import CORRELATED, condition_beyond_noise
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.mcmc.loop import Kept, Plan
from pyro_vae.inference.target.target import Target
from pyro_vae.progress import progress_bar

__all__ = ["WARMUP_STEPS", "Chain", "sample_by_nutpie", "sample_chains", "why_not_nutpie"]

WARMUP_STEPS = 500
_LOOK = 0.05  # seconds between looks at the chains
_MOST_AT_ONCE = 256  # chains, each in threads of its own, which the cores share
_MOST_LOW_RANK = 1000  # dimensions up to which a low-rank mass matrix is worth its work
_LEAST_LOOK = 30  # steps that tell whether it is
_DEEPEST_LOOK = 7  # doublings of a trajectory then
_LONG = 5.0  # doublings, on the average, that say so too


def why_not_nutpie(kernel: Any, target: Target, warmup_steps: int | None) -> str | None:
    """Return why nutpie cannot run this kernel on this target, a clause; None if it can, as far as can be seen."""
    obstacles = {
        "another kernel than NUTS": type(kernel) is not NUTS,
        "a posterior for each datum, where nutpie takes one of a whole program (plate=None)": target.per_datum,
        "nutpie is not installed (pip install pyro_vae[nutpie])": find_spec("nutpie") is None,
        "a step size or mass matrix that is not to be adapted": not (
            kernel.adapt_step_size and kernel.adapt_mass_matrix
        ),
        "no warm-up": warmup_steps == 0,
        f"data on {target.origin.device}": target.origin.device.type != "cpu",
    }
    return next((obstacle for obstacle, stands in obstacles.items() if stands), None)


def sample_by_nutpie(kernel: NUTS, target: Target, u: Tensor, plan: Plan, *, progress: bool) -> Kept:
    """Run nutpie's chains from u ``(C, 1, L)``; after Ctrl-C, keep as many draws as the slowest chain has."""
    started = time.perf_counter()
    density = density_for_nutpie(target, u[0])
    compile_seconds = time.perf_counter() - started
    steps = {"num_samples": plan.num_samples * plan.thinning, "warmup_steps": plan.warmup_steps}
    with progress_bar(plan.steps, "NUTS (nutpie)", show=progress) as bar:
        chains = sample_chains(density, u[:, 0], kernel, **steps, bar=bar)
    S = min(len(chain.u) for chain in chains) // plan.thinning
    if not S:
        raise KeyboardInterrupt

    def every(values: list[Tensor]) -> Tensor:
        """By chain, kept draw and the steps to it, ``(C, S, thinning, ...)``."""
        return torch.stack([value[: S * plan.thinning] for value in values]).unflatten(1, (S, plan.thinning))

    return Kept(
        u=every([chain.u for chain in chains])[:, :, -1:].to(u),
        acceptance=every([chain.acceptance for chain in chains]).mean(2).sum(1, keepdim=True).to(u),
        diverging=every([chain.diverging for chain in chains]).any(2, keepdim=True),
        step_size=u.new_tensor([chain.step_size for chain in chains]).unsqueeze(-1),
        tree_depth=every([chain.tree_depth for chain in chains])[:, :, -1:].long(),
        energy=every([chain.energy for chain in chains])[:, :, -1:],
        num_gradients=max(chain.num_gradients for chain in chains),
        num_evaluations=0,
        compile_seconds=compile_seconds,
        engine="nutpie" if isinstance(density, Native) else f"nutpie, through Python: {density.reason}",
    )


@dataclass(frozen=True)
class Chain:
    """What one chain of S' draws left.

    Attributes:
        u: ``(S', L)``, float64.
        acceptance: ``(S',)``, and so are the others.
        diverging: whether the trajectory of a draw diverged.
        tree_depth: its doublings.
        energy: the Hamiltonian at the draw.
        step_size: of the leapfrog.
        num_gradients: in all, warm-up included.
    """

    u: Tensor
    acceptance: Tensor
    diverging: Tensor
    tree_depth: Tensor
    energy: Tensor
    step_size: float
    num_gradients: int


def sample_chains(
    density: Native | Called, initial: Tensor, kernel: NUTS, *, num_samples: int, warmup_steps: int, bar: Any
) -> list[Chain]:
    """Run all chains; after Ctrl-C return what there is of each.

    The first third of the warm-up is with a diagonal mass matrix. Where its draws show correlations, the rest is with a
    low-rank one, whose adaptation costs more; else with a diagonal one too.

    Args:
        density: the C function.
        initial: where each chain starts, ``(C, L)``.
        kernel: its settings.
        num_samples: draws a chain, warm-up not counted.
        warmup_steps: of each chain, at least 1.
        bar: a progress bar over the steps of one chain.

    Raises:
        KeyboardInterrupt: on Ctrl-C in the first part of the warm-up.
    """
    look = warmup_steps // 3
    low_rank = initial.shape[-1] <= _MOST_LOW_RANK
    spent = 0
    if look >= _LEAST_LOOK and low_rank:
        plan = {
            "tune": 2 * look // 3,
            "draws": look - 2 * look // 3,
            "maxdepth": min(_DEEPEST_LOOK, kernel.max_tree_depth),
        }
        found = _together([_Run(density, point, kernel, plan) for point in initial.double()], bar)
        if min(len(chain.u) for chain in found) < plan["draws"]:
            raise KeyboardInterrupt
        low_rank = _is_correlated(found)
        initial = torch.stack([chain.u[-1] for chain in found])
        spent, warmup_steps = max(chain.num_gradients for chain in found), warmup_steps - look
    plan = {"tune": warmup_steps, "draws": num_samples, "maxdepth": kernel.max_tree_depth}
    runs = [_Run(density, point, kernel, plan, low_rank=low_rank) for point in initial.double()]
    return [replace(chain, num_gradients=chain.num_gradients + spent) for chain in _together(runs, bar)]


def _is_correlated(chains: list[Chain]) -> bool:
    """Whether a low-rank mass matrix has something to do."""
    if condition_beyond_noise(torch.cat([chain.u for chain in chains])) > CORRELATED:
        return True
    return max(float(chain.tree_depth.double().mean()) for chain in chains) > _LONG


def _together(runs: list[_Run], bar: Any) -> list[Chain]:
    """Run chains at the same time; Ctrl-C stops them all."""
    import_nutpie()  # here, since no two threads may import it at once
    begun = bar.n
    with concurrent.futures.ThreadPoolExecutor(min(len(runs), _MOST_AT_ONCE)) as pool:
        futures = [pool.submit(run.wait) for run in runs]
        try:
            while concurrent.futures.wait(futures, _LOOK).not_done:
                _show(bar, begun, runs)
        except KeyboardInterrupt:
            for run in runs:
                run.stop.set()
        except BaseException:
            for run in runs:
                run.stop.set()
            raise
        chains = [future.result() for future in futures]
    _show(bar, begun, runs)
    return chains


def _show(bar: Any, begun: int, runs: list[_Run]) -> None:
    """Bring the bar to where the slowest chain is."""
    if not bar.disable:
        bar.update(begun + min(run.steps for run in runs) - bar.n)


class _Run:
    """One chain, from one point; its seed is from torch's generator: same seed, same draws."""

    def __init__(
        self, density: Native | Called, point: Tensor, kernel: NUTS, plan: dict[str, int], *, low_rank: bool = False
    ) -> None:
        self.density, self.point = density, point
        self.settings = {
            **plan, "seed": int(torch.randint(2**31 - 1, ())), "target_accept": kernel.target_accept_prob,
            "low_rank_modified_mass_matrix": low_rank,
        }  # fmt: skip
        self.stop = threading.Event()

    @cached_property
    def data(self) -> Call:
        """What the C functions are given, with this chain's own counts."""
        return self.density.call()

    @property
    def steps(self) -> int:
        """Steps taken, warm-up included."""
        return int(self.data.counts[1])

    def wait(self) -> Chain:
        """Sample until all is done, or until told to stop."""
        if self.stop.is_set():
            return self._chain(None)
        sampler = import_nutpie().sample(
            model_for_nutpie(self.density, self.data, self.point), chains=1, cores=1, progress_bar=False,
            blocking=False, return_raw_trace=True, **self.settings,
        )  # fmt: skip
        while True:
            with contextlib.suppress(TimeoutError):
                return self._chain(sampler.wait(timeout=_LOOK))
            if self.stop.is_set():
                return self._chain(sampler.abort())

    def _chain(self, trace: Any) -> Chain:
        """Read nutpie's records of the draws after warm-up."""
        records = {} if trace is None else dict(_columns(trace))
        kept = ~records["tuning"].astype(bool) if records else np.zeros(0, dtype=bool)

        def column(name: str) -> Tensor:
            return torch.from_numpy(records[name][kept]) if records else torch.zeros(0)

        u = column("u").reshape(-1, len(self.point)) if records else self.point.new_zeros(0, len(self.point))
        steps = column("step_size")
        return Chain(
            u=u, acceptance=column("mean_tree_accept"), diverging=column("diverging").bool(),
            tree_depth=column("depth"), energy=column("energy"),
            step_size=float(steps[-1]) if len(steps) else torch.nan, num_gradients=int(self.data.counts[0]),
        )  # fmt: skip


def _columns(trace: Any) -> Iterator[tuple[str, Any]]:
    """The columns of one chain's draws and statistics, as NumPy arrays."""
    import pyarrow

    draws, statistics = trace.get_arrow_trace()
    batch = pyarrow.record_batch(draws[0])
    yield "u", _numbers(batch.column("u").flatten()).reshape(batch.num_rows, -1)
    batch = pyarrow.record_batch(statistics[0])
    for name in ("tuning", "diverging", "mean_tree_accept", "depth", "energy", "step_size"):
        yield name, _numbers(batch.column(name))


def _numbers(column: Any) -> Any:
    """An Arrow array without gaps as a NumPy array; its own ``to_numpy`` imports pandas, which takes half a second."""
    _, data = column.buffers()
    if str(column.type) == "bool":  # eight a byte
        bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return bits[column.offset : column.offset + len(column)].astype(bool)
    kind = np.dtype({"double": "float64", "float": "float32"}.get(str(column.type), str(column.type)))
    return np.frombuffer(data, kind, len(column), column.offset * kind.itemsize).copy()
