"""Inductor, called on a function of a flat list of tensors."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

__all__ = ["compile_run", "why_no_compiler"]

Run = Callable[[list[Tensor]], list[Tensor]]


def why_no_compiler(tensors: Sequence[Tensor]) -> str | None:
    """Return why Inductor cannot compile for the devices of ``tensors``; None if it can."""
    kinds = {tensor.device.type for tensor in tensors}
    if "cuda" in kinds:
        return None if find_spec("triton") is not None else "Triton is not installed"
    if kinds <= {"cpu"}:
        return _why_no_cpp_compiler()
    return f"it does not serve {sorted(kinds)} here"


@functools.cache
def _why_no_cpp_compiler() -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inductor's own imports warn
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  Inductor's own exception class has moved between versions
        return f"no C++ compiler ({str(error).partition(chr(10))[0].strip() or type(error).__name__})"
    return None


def compile_run(run: Run, inputs: list[Tensor]) -> Run:
    """Compile ``run`` for inputs of these shapes, dtypes and devices with Inductor.

    What ``run`` writes in place is written in place. Noise that it draws itself follows torch's generator in eager
    order. On CUDA the kernels are launched through CUDA graphs.
    """

    def flat(*tensors: Tensor) -> list[Tensor]:
        return run(list(tensors))

    options: dict[str, Any] = {"fallback_random": True}
    if any(tensor.device.type == "cuda" for tensor in inputs):
        options["triton.cudagraphs"] = True
    with torch.no_grad(), warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        from torch._inductor.compile_fx import compile_fx
        from torch.fx.experimental.proxy_tensor import make_fx

        detached = [tensor.detach() for tensor in inputs]
        graph = make_fx(flat, tracing_mode="fake")(*detached)
        compiled: Any = compile_fx(graph, detached, config_patches=options)

    def compiled_run(tensors: list[Tensor]) -> list[Tensor]:
        return list(compiled(*tensors))

    return compiled_run
