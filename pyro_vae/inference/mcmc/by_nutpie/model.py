"""A whole program's log density as nutpie takes it: a C function, or else a compiled graph that Python calls."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arviz_import import arviz
from pyro_vae.inference.compiled.backend import NotTraceableError, Run, compiled, why_no_compiler
from pyro_vae.inference.compiled.batching import Batched
from pyro_vae.inference.compiled.native import Call, Native, native
from pyro_vae.inference.compiled.widening import Widened, widened
from pyro_vae.inference.mcmc.density import MOST_UNROLLED
from pyro_vae.inference.target.target import Target

__all__ = ["Called", "density_for_nutpie", "import_nutpie", "model_for_nutpie"]

_MOST_NODES = 3000  # in a graph that Inductor is given


@dataclass(frozen=True)
class Called:
    """A compiled graph that Python calls: where its operations cannot be loops of one C function.

    Attributes:
        graph: of the log density ``(1,)`` and its gradient ``(1, L)``.
        run: the graph compiled.
        reason: why not, in words.
    """

    graph: Widened
    run: Run
    reason: str

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
    graph = _batched(target, u) if len(target.discrete) > MOST_UNROLLED else widened(target.value_and_grad, u)
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
            run = compiled(lambda tensors: list(graph(tensors[0])), [graph.example])
            return Called(graph, run, str(error))
        except NotTraceableError:
            raise error from None


def _batched(target: Target, u: Tensor) -> Widened:
    """The graph of a program with a long chain, whose steps are done at once.

    Raises:
        NotTraceableError: if it cannot be traced, or its steps are too different from one another.
    """
    forward = widened(lambda point: (target.log_joint(point),), u)
    log_joint = Batched(forward.module, forward.constants)

    def value_and_grad(point: Tensor) -> tuple[Tensor, Tensor]:
        point = point.detach().requires_grad_()
        with torch.enable_grad():
            value = log_joint(point)
            (grad,) = torch.autograd.grad(value.sum(), point)
        return value.detach(), grad

    graph = widened(value_and_grad, forward.example)
    if len(graph.module.graph.nodes) > _MOST_NODES:
        sites = f"{len(target.discrete)} discrete sites"
        raise NotTraceableError(f"{sites} whose steps differ from one another, which would take the compiler minutes")
    return graph


class _Later(ModuleType):
    """Stands for a module, and imports it when it is first used: in nutpie's conversions, which nobody needs here."""

    InferenceData = Any

    def __getattr__(self, name: str) -> Any:
        own = arviz() if self.__name__ == "arviz" else importlib.import_module(self.__name__)
        return getattr(own, name)


def import_nutpie() -> Any:
    """Import nutpie without ArviZ and pandas, which take longer than most posteriors."""
    if "nutpie" not in sys.modules:
        later = {name: _Later(name) for name in ("arviz", "pandas") if name not in sys.modules}
        sys.modules.update(later)
        try:
            import nutpie
        finally:
            for name in later:
                del sys.modules[name]
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


def model_for_nutpie(density: Native | Called, data: Call, point: Tensor) -> Any:
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
