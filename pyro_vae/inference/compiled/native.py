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
import os
import shutil
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import NotTraceableError, agree, why_no_compiler
from pyro_vae.inference.compiled.native_source import INDUCTOR, TEMPLATE, source_of
from pyro_vae.inference.compiled.widening import Widened

__all__ = ["Call", "Native", "native"]


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
            _build(source_of(graph), path)
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


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0  # no function is at 0


def _cached(graph: Widened) -> Path:
    """Where the library of such a graph is kept: below Inductor's own cache, by all that its code depends on."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    layouts = [(tuple(t.shape), t.stride(), str(t.dtype)) for t in (graph.example, *graph.constants)]
    parts = [graph.module.code, str(layouts), torch.__version__, torch.backends.cpu.get_cpu_capability(), TEMPLATE]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return Path(cache_dir()) / "pyro_vae" / f"{name}.so"


def _build(source: str, path: Path) -> None:
    """Compile with Inductor's flags, and keep the library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch._inductor import config
        from torch._inductor.codecache import CppCodeCache

        with config.patch(INDUCTOR):
            library = CppCodeCache.load(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    shutil.copyfile(library._name, own)
    own.replace(path)  # at once, whoever else does the same
