r"""A log density and its gradient as one C function, which other languages call without Python.

Inductor writes the loops. A run of the code that it generates, with kernels that only note what they are called with,
tells which loops read and write which buffers; with the buffers' places written in, they are one function

.. code-block:: c

    int density(size_t dim, const double* x, double* grad, double* value, void* data)

that owns its working memory, one room a thread, and so may be called from any thread at once. The data and all else
that the density reads are behind ``data``: one library serves all data of the same shapes.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.inference.compiled.backend import NotTraceableError, agree, why_no_compiler
from pyro_vae.inference.compiled.widening import Widened

__all__ = ["Call", "Native", "native"]

_SERIAL = {"cpp.threads": 1, "cpp.vec_isa_ok": True, "cpp_cache_precompile_headers": False, "fx_graph_cache": False}
_TYPES = {torch.float64: "double", torch.float32: "float", torch.int64: "int64_t", torch.int32: "int32_t"} | {
    torch.bool: "bool", torch.uint8: "uint8_t", torch.int8: "int8_t", torch.int16: "int16_t"
}  # fmt: skip
_aten = torch.ops.aten
_MOST_MULTIPLIED = 200_000  # products in a matrix product that is written as a sum; beyond, BLAS is worth its call
_LINE = 64  # bytes of a cache line: where a buffer begins

_SOURCE = """
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


@dataclass
class Native:
    """The C function of a log density.

    Attributes:
        density: the function's address.
        draw: the address of a function that takes a draw as it is, and counts it.
        graph: what it computes.
        library: that both are in.
    """

    density: int
    draw: int
    graph: Widened
    library: ctypes.CDLL

    def call(self) -> Call:
        """Return what one caller hands on as ``data``: the constants, and counts of its own."""
        return Call(self.graph.constants)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density and its gradient at x, float64, of the shapes of the graph's outputs."""
        value, grad, point = x.new_zeros(1), torch.zeros_like(x), x.contiguous()
        data = self.call()
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, *[ctypes.c_void_p] * 4)(self.density)
        function(x.numel(), point.data_ptr(), grad.data_ptr(), value.data_ptr(), data.address)
        return value, grad


@dataclass
class Call:
    """What is behind ``data``; keeps it alive.

    Attributes:
        constants: what the density reads.
        counts: evaluations and draws so far.
    """

    constants: Sequence[Tensor]
    counts: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))

    def __post_init__(self) -> None:
        pointers = [self.counts.data_ptr(), *(constant.data_ptr() for constant in self.constants)]
        self._array = (ctypes.c_void_p * len(pointers))(*pointers)

    @property
    def address(self) -> int:
        """Where the pointers are."""
        return ctypes.addressof(self._array)


def native(graph: Widened) -> Native:
    """Compile a graph of value ``(1,)`` and gradient, or take it from the cache, and see that it computes the same.

    Raises:
        NotTraceableError: if there is no compiler, if the graph has operations that Inductor leaves to torch, or if
            the results are others.
    """
    try:
        path = _cached(graph)
        if not path.exists():
            missing = why_no_compiler([graph.example])
            if missing is not None:
                raise NotTraceableError(missing)
            _refuse_factorisations(graph)
            _build(_source(graph), path)
        library = ctypes.CDLL(str(path))
        density, draw = (_address(library, name) for name in ("pyro_vae_density", "pyro_vae_draw"))
    except NotTraceableError:
        raise
    except Exception as error:  # a compiler may raise anything
        raise NotTraceableError(str(error).partition("\n")[0] or repr(error)) from error
    found = Native(density, draw, graph, library)
    for point in (graph.example, graph.example + 0.1):
        value, grad = graph(point)
        if not agree(found.value_and_grad(point), (value.reshape(1), grad), [point]):
            raise NotTraceableError("its results differ from the graph's")
    return found


def _refuse_factorisations(graph: Widened) -> None:
    """Say at once what Inductor would leave to LAPACK in the end."""
    for node in graph.module.graph.nodes:
        name = str(node.target)
        if name.startswith(("aten.linalg", "aten._linalg", "aten.cholesky", "aten.triangular", "aten._fft")):
            raise NotTraceableError(f"it needs {name}, which has no loop of its own")


def _address(library: ctypes.CDLL, name: str) -> int:
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert address is not None
    return address


def _cached(graph: Widened) -> Path:
    """Where the library of such a graph is kept: below Inductor's own cache, by all that its code depends on."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    layouts = [(tuple(t.shape), t.stride(), str(t.dtype)) for t in (graph.example, *graph.constants)]
    parts = [graph.module.code, str(layouts), torch.__version__, torch.backends.cpu.get_cpu_capability(), _SOURCE]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Path(cache_dir()) / "pyro_vae" / f"{name}.so"


def _build(source: str, path: Path) -> None:
    """Compile with Inductor's flags, and keep the library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._inductor import config
        from torch._inductor.codecache import CppCodeCache

        with config.patch(_SERIAL):
            library = CppCodeCache.load(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    shutil.copyfile(library._name, own)
    own.replace(path)  # at once, whoever else does the same


def _source(graph: Widened) -> str:
    """Write the function, from a run of Inductor's code whose kernels note what they are called with."""
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

        table = {**select_decomp_table(), **_products()}
        traced = make_fx(graph.module, tracing_mode="fake", decomposition_table=table)(*inputs)
        examples = [node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder"]
        own = config.patch(_SERIAL)
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
    return _SOURCE.format(
        kernels="\n".join(_renamed(source, place) for place, source in enumerate(kernels)),
        calls="\n".join(lines), value=places.pointer(value), grad=places.pointer(grad),
        bytes=max(places.bytes, _LINE), line=_LINE,
    )  # fmt: skip


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
