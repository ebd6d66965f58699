"""The C source of a density: Inductor's loops, each given the places of the buffers that it reads and writes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.compiled.widening import Widened

__all__ = ["INDUCTOR", "TEMPLATE", "source_of"]

INDUCTOR = {"cpp.threads": 1, "cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False, "fx_graph_cache": False}
_TYPES = {torch.float64: "double", torch.float32: "float", torch.int64: "int64_t", torch.int32: "int32_t"} | {
    torch.bool: "bool", torch.uint8: "uint8_t", torch.int8: "int8_t", torch.int16: "int16_t"
}  # fmt: skip
_aten = torch.ops.aten
_MOST_MULTIPLIED = 200_000  # products in a matrix product that is written as a sum; beyond, BLAS is worth its call
_MOST_SCANNED = 64  # numbers in a cumulative sum that is written as sums over a triangle
_LINE = 64  # bytes of a cache line: where a buffer begins

TEMPLATE = """
#include <cmath>
#include <cstdlib>
#include <cstring>
{kernels}
namespace {{
struct Room {{
    char* at;
    Room() : at(static_cast<char*>(std::aligned_alloc({line}, {bytes}))) {{ std::memset(at, 0, {bytes}); }}
    ~Room() {{ std::free(at); }}
}};
}}
extern "C" int pyro_vae_density(size_t dim, const double* x, double* grad, double* value, void* data) {{
    thread_local Room own;
    char* const room = own.at;
    void** const given = static_cast<void**>(data);
    __atomic_add_fetch(static_cast<int64_t*>(given[0]), 1, __ATOMIC_RELAXED);
{calls}
    *value = *reinterpret_cast<const double*>({value});
    std::memcpy(grad, {grad}, dim * sizeof(double));
    if (!std::isfinite(*value)) return 1;
    for (size_t i = 0; i < dim; ++i) if (!std::isfinite(grad[i])) return 2;
    return 0;
}}
extern "C" int pyro_vae_draw(size_t dim, size_t, const double* x, double* out, void* data) {{
    void** const given = static_cast<void**>(data);
    __atomic_add_fetch(static_cast<int64_t*>(given[0]) + 1, 1, __ATOMIC_RELAXED);
    std::memcpy(out, x, dim * sizeof(double));
    return 0;
}}
"""


def source_of(graph: Widened) -> str:
    """Write the function, from a run of Inductor's code whose kernels note what they are called with.

    Raises:
        NotTraceableError: if the graph has operations that Inductor leaves to torch.
    """
    _refuse_factorisations(graph)
    kernels: list[str] = []
    calls: list[tuple[int, tuple[Any, ...]]] = []

    def noted(_: Any, argument_types: Any, source: str) -> Any:
        place = len(kernels)
        kernels.append(source)
        return lambda *arguments: calls.append((place, arguments))

    inputs = [graph.example, *graph.constants]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._guards import TracingContext, detect_fake_mode, tracing
        from torch._inductor import config
        from torch._inductor.async_compile import AsyncCompile
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

        table = {**select_decomp_table(), **_products(), **_scans()}
        traced = make_fx(graph.module, tracing_mode="fake", decomposition_table=table)(*inputs)
        examples = [node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder"]
        own = config.patch(INDUCTOR)
        with own, mock.patch.object(AsyncCompile, "cpp_pybinding", noted), tracing(
            TracingContext(detect_fake_mode(examples))
        ):  # fmt: skip
            run: Any = compile_fx_inner(traced, examples)
            with _Operations() as others:
                value, grad = run(list(inputs))
    if others.names:
        raise NotTraceableError(f"it needs {', '.join(sorted(others.names))}, which has no loop of its own")
    places = _Places(inputs)
    lines = [f"    kernel_{place}({', '.join(map(places.pointer, arguments))});" for place, arguments in calls]
    return TEMPLATE.format(
        kernels="\n".join(_renamed(source, place) for place, source in enumerate(kernels)),
        calls="\n".join(lines), value=places.pointer(value), grad=places.pointer(grad),
        bytes=max(places.bytes, _LINE), line=_LINE,
    )  # fmt: skip


def _refuse_factorisations(graph: Widened) -> None:
    """Say at once what Inductor would leave to LAPACK in the end."""
    for node in graph.module.graph.nodes:
        name = str(node.target)
        if name.startswith(("aten.linalg", "aten._linalg", "aten.cholesky", "aten.triangular", "aten._fft")):
            raise NotTraceableError(f"it needs {name}, which has no loop of its own")


def _renamed(source: str, place: int) -> str:
    """A kernel's source with a name of its own: Inductor calls them all ``kernel``."""
    head, found, tail = source.partition("void kernel(")
    if not found:
        head, found, tail = source.partition("void  kernel(")
    if not found:
        raise NotTraceableError("Inductor names its loops in a way that is not known here")
    return f"{head}void kernel_{place}({tail}"


class _Operations(TorchDispatchMode):
    """Notes the operations that run while no kernel does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note one."""
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


class _Places:
    """Where each buffer is: an input's is given, the others lie in one room, one after the other."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.bytes = 0
        self._bases = {}
        for i, tensor in enumerate(inputs):
            self._bases[tensor.untyped_storage().data_ptr()] = "const_cast<double*>(x)" if i == 0 else f"given[{i}]"

    def pointer(self, tensor: Any) -> str:
        """Return the C expression of a tensor's first element."""
        if not isinstance(tensor, Tensor) or tensor.dtype not in _TYPES:
            raise NotTraceableError("its loops take something that is no tensor of numbers")
        storage, kind = tensor.untyped_storage(), _TYPES[tensor.dtype]
        if storage.data_ptr() not in self._bases:
            self._bases[storage.data_ptr()] = f"room + {self.bytes}"
            self.bytes += -(-max(storage.nbytes(), 1) // _LINE) * _LINE
        base = self._bases[storage.data_ptr()]
        offset = tensor.storage_offset()
        return f"reinterpret_cast<{kind}*>({base}) + {offset}" if offset else f"reinterpret_cast<{kind}*>({base})"


def _products() -> dict[Any, Callable[..., Any]]:
    """Small matrix products as sums, which fuse with what stands around them."""

    def small(*sizes: int) -> bool:
        return math.prod(sizes) <= _MOST_MULTIPLIED

    def mm(a: Tensor, b: Tensor) -> Any:
        return (a[:, :, None] * b[None]).sum(1) if small(*a.shape, b.shape[1]) else NotImplemented

    def bmm(a: Tensor, b: Tensor) -> Any:
        return (a[:, :, :, None] * b[:, None]).sum(2) if small(*a.shape, b.shape[2]) else NotImplemented

    def addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        return beta * bias + alpha * mm(a, b) if small(*a.shape, b.shape[1]) else NotImplemented

    return {_aten.mm.default: mm, _aten.bmm.default: bmm, _aten.addmm.default: addmm}


def _scans() -> dict[Any, Callable[..., Any]]:
    """Short cumulative sums and products, of stick-breaking for instance, as sums and products over a triangle."""

    def scan(x: Tensor, dim: int, neutral: float, reduce: Callable[[Tensor, int], Tensor]) -> Any:
        if x.dim() == 0 or x.shape[dim] > _MOST_SCANNED:
            return NotImplemented
        rows = x.movedim(dim, -1)[..., None, :]
        place = torch.arange(x.shape[dim], device=x.device)
        return reduce(torch.where(place <= place[:, None], rows, neutral), -1).movedim(-1, dim)

    def cumsum(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
        return scan(x if dtype is None else x.to(dtype), dim, 0.0, torch.sum)

    def cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
        return scan(x if dtype is None else x.to(dtype), dim, 1.0, torch.prod)

    return {_aten.cumsum.default: cumsum, _aten.cumprod.default: cumprod}
