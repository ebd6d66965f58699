"""What runs a graph: Inductor, used only where its results are the graph's; or operations one by one."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import clone_preserve_strides

from pyro_vae.inference.compiled.recording import without_effects

__all__ = [
    "NotTraceableError",
    "Run",
    "agree",
    "compile_run",
    "compiled",
    "one_by_one",
    "outputs",
    "usable_cache",
    "why_no_compiler",
]

_CACHE = "TORCHINDUCTOR_CACHE_DIR"

Run = Callable[[list[Tensor]], list[Tensor]]


class NotTraceableError(RuntimeError):
    """A program cannot be made one compiled tensor graph; the message is the reason, a clause without a subject."""


def compiled(run: Run, inputs: list[Tensor]) -> Run:
    """Compile, and see that the results are the same.

    Raises:
        NotTraceableError: if there is no compiler, it fails, or its results are others.
    """
    missing = why_no_compiler(inputs)
    if missing is not None:
        raise NotTraceableError(missing)
    try:
        code = compile_run(run, inputs)
        right = agree(outputs(code, inputs), outputs(run, inputs), inputs)
    except Exception as error:  # a compiler may raise anything, and the graph runs without it
        raise NotTraceableError(_first_line(error)) from error
    if not right:
        raise NotTraceableError("its results differ from the graph's")
    return code


def one_by_one(module: Callable[..., Sequence[Tensor]], inputs: list[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Return what calls a graph's operations from TorchScript's interpreter, with the same bits.

    Calling some six hundred of them from Python takes longer than they do. A torch without TorchScript, which is
    deprecated, leaves the graph as it is; so does a graph that TorchScript gets wrong, as it does where it takes two
    tensors for one that are equal until they are written to in place. It optimises by and by: three runs are compared.
    """
    try:
        with without_effects((), inputs), torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copies = tuple(clone_preserve_strides(tensor.detach()) for tensor in inputs)
            code: Callable[..., Sequence[Tensor]] = torch.jit.trace(
                lambda *tensors: tuple(module(*tensors)), copies, check_trace=False
            )
        wanted = outputs(lambda tensors: list(module(*tensors)), inputs)
        for _ in range(3):
            found = outputs(lambda tensors: list(code(*tensors)), inputs)
            if not all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True)):
                return module
    except Exception:  # noqa: BLE001  whatever the tracer raises, the graph runs without it
        return module
    return code


def outputs(run: Run, inputs: list[Tensor]) -> list[Tensor]:
    """What ``run`` returns on copies of the inputs, without a trace left."""
    with without_effects((), inputs), torch.no_grad():
        copies = [clone_preserve_strides(tensor.detach()) for tensor in inputs]  # of an expanded one too
        return [output.clone() for output in run(copies)]


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
    usable_cache()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Inductor's own imports warn
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except Exception as error:  # noqa: BLE001  Inductor's own exception class has moved between versions
        return f"no C++ compiler ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__


def usable_cache() -> None:
    """See that torch's cache of compiled code can be written; without it even torch's tracer does not import.

    Where the directory that is set cannot be made or written to, a temporary one takes its place for this process,
    with a warning.
    """
    folder = os.environ.get(_CACHE)
    if folder is None:  # torch's own choice, below the temporary directory
        return
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        os.environ[_CACHE] = _temporary_cache().name
        message = f"{_CACHE} cannot be used ({error}); what is compiled is kept in a temporary directory"
        warnings.warn(message, UserWarning, stacklevel=2)


@functools.cache
def _temporary_cache() -> tempfile.TemporaryDirectory[str]:
    """A directory that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="torchinductor_", ignore_cleanup_errors=True)


def compile_run(run: Run, inputs: list[Tensor]) -> Run:
    """Compile ``run`` for inputs of these shapes, dtypes and devices with Inductor.

    What ``run`` writes in place is written in place; tensors that it reads from elsewhere become constants. Noise that
    it draws itself follows torch's generator in eager order. On CUDA the kernels are launched through CUDA graphs; on
    the CPU they are called from C++, or from Python where Inductor cannot write the caller in C++.
    """
    usable_cache()

    def flat(*tensors: Tensor) -> list[Tensor]:
        return run(list(tensors))

    on_cuda = any(tensor.device.type == "cuda" for tensor in inputs)
    with torch.no_grad(), warnings.catch_warnings(), _without_words_on_shims(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        from torch._inductor.compile_fx import compile_fx
        from torch.fx.experimental.proxy_tensor import make_fx

        detached = [tensor.detach() for tensor in inputs]
        graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*detached)

        def compiled_with(option: str, *, on: bool = True) -> Any:
            return compile_fx(graph, detached, config_patches={"fallback_random": True, option: on})

        if on_cuda:
            code = compiled_with("triton.cudagraphs")
        else:
            try:
                code = compiled_with("cpp_wrapper")
            except Exception:  # noqa: BLE001  whatever Inductor cannot write in C++
                code = compiled_with("cpp_wrapper", on=False)
    return lambda tensors: list(code(*tensors))


@contextmanager
def _without_words_on_shims() -> Iterator[None]:
    """Keep from the terminal which operations, of LAPACK for instance, Inductor's C++ calls in a roundabout way."""

    def other(record: logging.LogRecord) -> bool:
        return "c-shim" not in record.getMessage()

    log = logging.getLogger("torch._inductor.ir")
    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)


def agree(found: Sequence[Tensor], wanted: Sequence[Tensor], inputs: Sequence[Tensor]) -> bool:
    """Whether results differ by rounding only, on the scale of the largest; NaN and infinity equal themselves.

    Rounding is that of the coarsest dtype among inputs and results: a sum of float32 terms that is multiplied by a
    float64 number comes out as float64, and is no more exact for it.
    """
    if [(t.shape, t.dtype) for t in found] != [(t.shape, t.dtype) for t in wanted]:
        return False
    largest = max((float(t.nan_to_num(0.0, 0.0, 0.0).abs().max()) for t in wanted if t.numel()), default=0.0)
    dtypes = {t.dtype for t in (*inputs, *wanted) if t.is_floating_point()}
    rounding = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0) ** 0.5

    def close(a: Tensor, b: Tensor) -> bool:
        tolerance = rounding if b.is_floating_point() else 0.0
        return torch.allclose(a, b, rtol=tolerance, atol=tolerance * largest, equal_nan=True)

    return all(map(close, found, wanted))
