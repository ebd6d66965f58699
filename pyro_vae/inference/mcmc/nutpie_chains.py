"""NUTS by nutpie, whose chains run in Rust on all cores and call the log density as a C function.

Adaptation is nutpie's: the mass matrix that brings draws and gradients to the same scale (least Fisher divergence),
low-rank plus diagonal (Seyboldt, Carlson & Carpenter, arXiv 2603.18845). Each chain adapts for itself.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arviz_import import arviz
from pyro_vae.inference.compiled.backend import NotTraceableError, Run, compiled, why_no_compiler
from pyro_vae.inference.compiled.native import Call, Native, native
from pyro_vae.inference.compiled.widening import Widened, widened
from pyro_vae.inference.mcmc.density import MOST_UNROLLED
from pyro_vae.inference.mcmc.fisher import CORRELATED, condition_beyond_noise
from pyro_vae.inference.mcmc.kernels.nuts import NUTS
from pyro_vae.inference.target.target import Target

__all__ = ["WARMUP_STEPS", "Chain", "density_for_nutpie", "sample_chains", "why_not_nutpie"]

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


@dataclass(frozen=True)
class Called:
    """A compiled graph that Python calls: where its operations cannot be loops of one C function.

    Attributes:
        graph: of the log density ``(1,)`` and its gradient ``(1, L)``.
        run: the graph compiled.
    """

    graph: Widened
    run: Run

    def call(self) -> Call:
        """Return counts for one caller."""
        return Call([])


def density_for_nutpie(target: Target, u: Tensor) -> Native | Called:
    """Return a whole program's log joint, float64, as a C function; or for Python to call, where that cannot be.

    Args:
        target: the density.
        u: a point of finite density, ``(1, L)``.

    Raises:
        NotTraceableError: if the program cannot be compiled at all, or the graph's values are not Pyro's.
    """
    if len(target.discrete) > MOST_UNROLLED:
        raise NotTraceableError(f"{len(target.discrete)} discrete sites, whose sum would take the compiler minutes")
    graph = widened(target.value_and_grad, u)
    value, grad = target.value_and_grad(u)
    rough = 1e-3 if u.dtype == torch.float32 else 1e-6
    for ours, theirs in zip(graph(u.double()), (value, grad), strict=True):
        scale = float(theirs.abs().max()) + 1.0
        if not float((ours - theirs).abs().max()) <= rough * scale:
            raise NotTraceableError("its values in float64 are others than Pyro's")
    try:
        return native(graph)
    except NotTraceableError as error:
        if why_no_compiler([u]) is not None:
            raise
        try:
            return Called(graph, compiled(lambda tensors: list(graph(tensors[0])), [graph.example]))
        except NotTraceableError:
            raise error from None


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
    _nutpie()  # here, since no two threads may import it at once
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
        sampler = _nutpie().sample(
            _model(self.density, self.data, self.point), chains=1, cores=1, progress_bar=False, blocking=False,
            return_raw_trace=True, **self.settings,
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


class _ArviZLater(ModuleType):
    """Stands for ArviZ, and imports it when it is first used: nutpie's own conversions, which nobody asks for here."""

    InferenceData = Any

    def __getattr__(self, name: str) -> Any:
        return getattr(arviz(), name)


def _nutpie() -> Any:
    """Import nutpie without ArviZ, which takes longer than most posteriors."""
    if "nutpie" not in sys.modules and "arviz" not in sys.modules:
        sys.modules["arviz"] = _ArviZLater("arviz")
        try:
            import nutpie
        finally:
            del sys.modules["arviz"]
    import nutpie

    return nutpie


def _model_in_python(density: Called, data: Call, point: Tensor) -> Any:
    """The density as nutpie takes a Python function."""
    from nutpie.compiled_pyfunc import from_pyfunc

    start, shape = point.numpy().copy(), density.graph.example.shape

    @torch.no_grad()
    def log_density(x: Any) -> tuple[float, Any]:
        data.counts[0] += 1
        try:
            value, grad = density.run([torch.from_numpy(x).reshape(shape)])
        except RuntimeError as error:  # of a matrix without a Cholesky factor, for instance
            raise _NotFiniteError from error
        if not (bool(torch.isfinite(value).all()) and bool(torch.isfinite(grad).all())):
            raise _NotFiniteError
        return float(value), grad.flatten().numpy()

    def draw(x: Any) -> dict[str, Any]:
        data.counts[1] += 1
        return {"u": x}

    return from_pyfunc(
        len(point), lambda: log_density, lambda *_: draw, [np.dtype("float64")], [(len(point),)], ["u"],
        make_initial_point_fn=lambda _: start,
    )  # fmt: skip


class _NotFiniteError(ValueError):
    """What tells nutpie that a trajectory diverged."""

    is_recoverable = True


def _model(density: Native | Called, data: Call, point: Tensor) -> Any:
    """The density as nutpie takes a compiled PyMC model: C functions by address; or as it takes a Python function."""
    if isinstance(density, Called):
        return _model_in_python(density, data, point)
    from nutpie.compile_pymc import CompiledPyMCModel

    start = point.numpy().copy()
    address = SimpleNamespace(ctypes=SimpleNamespace(data=data.address), owner=data)
    unused: Any = None
    return CompiledPyMCModel(
        dims={}, compiled_logp_func=SimpleNamespace(address=density.density),
        compiled_expand_func=SimpleNamespace(address=density.draw), initial_point_func=lambda _: start,
        shared_data={}, user_data=address, n_expanded=len(point), shape_info=(["u"], [None], [(len(point),)]),
        logp_func=unused, expand_func=unused, _n_dim=len(point), _shapes={"u": (len(point),)}, _coords={},
    )  # fmt: skip


def _columns(trace: Any) -> Iterator[tuple[str, Any]]:
    """The columns of one chain's draws and statistics, as NumPy arrays."""
    import pyarrow

    draws, statistics = trace.get_arrow_trace()
    batch = pyarrow.record_batch(draws[0])
    yield "u", batch.column("u").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
    batch = pyarrow.record_batch(statistics[0])
    for name in ("tuning", "diverging", "mean_tree_accept", "depth", "energy", "step_size"):
        yield name, batch.column(name).to_numpy(zero_copy_only=False)
