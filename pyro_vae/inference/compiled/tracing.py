"""A Pyro program's loss and gradient as one tensor graph.

The program is run once under a recorder that notes every tensor which enters from outside, and traced with exactly
those tensors as the graph's inputs. So no tensor is ever frozen into the graph, parameters may live anywhere, and the
noise becomes an input too, drawn in the program's own order.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.inference.compiled import surgery
from pyro_vae.inference.compiled.backend import NotTraceableError, usable_cache
from pyro_vae.inference.compiled.recording import Recording, without_effects
from pyro_vae.inference.compiled.values import noting_values

__all__ = ["Graph", "NotTraceableError", "trace"]

_aten = torch.ops.aten
_ESCAPES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr}


@dataclass
class Graph:
    """A loss and its gradient as a graph of tensor operations.

    Attributes:
        module: maps the arguments' tensors, then ``tensors``, then the noise, to the loss and the gradients.
        num_arguments: how many tensors the arguments hold.
        tensors: the tensors read from outside.
        wanted: those that the gradients belong to, in the order of the module's outputs.
        written: those that a run changes in place (the running means of batch norm, for instance).
        parameters: Pyro's parameter sites by name, as unconstrained tensors.
        draws: makes the noise, in the program's own order; empty if the module draws its noise itself.
        frozen: tensors from outside whose values set the shape of others (a mask of a coupling flow); these values
            are part of the graph, which holds as long as nobody writes to them.
    """

    module: Callable[..., Sequence[Tensor]]
    num_arguments: int
    tensors: list[Tensor]
    wanted: list[Tensor]
    written: list[Tensor]
    parameters: dict[str, Tensor]
    draws: list[Callable[..., Tensor]]
    frozen: list[Tensor]

    @property
    def num_inputs(self) -> int:
        """How many tensors the module takes."""
        return self.num_arguments + len(self.tensors) + len(self.draws)

    def inputs(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Return the module's inputs, with fresh noise."""
        return [*arguments, *self.tensors, *[draw() for draw in self.draws]]


def trace(
    loss: Callable[[Sequence[Tensor]], Any], arguments: Sequence[Tensor], recording: Recording, *, gradient: bool
) -> Graph:
    """Trace ``loss(arguments)`` and its gradient with respect to every leaf that it reads to one graph.

    Args:
        loss: runs the program; must read the tensors of ``recording`` and no others.
        arguments: the tensors that change from call to call.
        recording: of an earlier run on the same arguments.
        gradient: whether the graph computes the gradient too.

    Raises:
        NotTraceableError: if the program's course depends on the values of tensors, if tensors leave torch on the
            way, or if a tensor read from outside is itself the result of differentiable operations.
    """
    usable_cache()
    from torch._decomp import get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = recording.tensors
    if any(tensor.requires_grad and not tensor.is_leaf for tensor in tensors):
        raise NotTraceableError("it reads a tensor that was computed outside from something that needs a gradient")
    leaves = [tensor for tensor in tensors if tensor.requires_grad] if gradient else []
    used: list[Tensor] = []

    def run(*inputs: Tensor) -> list[Tensor]:
        value = loss(inputs[: len(arguments)])
        if not isinstance(value, Tensor):
            raise NotTraceableError("its loss is no tensor")
        if not value.requires_grad:
            return [value]
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
        used[:] = [leaf for leaf, grad in zip(leaves, grads, strict=True) if grad is not None]
        return [value.detach(), *[grad.contiguous() for grad in grads if grad is not None]]

    marked: dict[Any, Any] = dict(get_decompositions([_aten.native_batch_norm]))  # says what it writes
    with (
        poutine.block(),
        pyro.validation_enabled(False),
        without_effects(recording.written, [*arguments, *tensors]),
        torch.set_grad_enabled(gradient),
        warnings.catch_warnings(),
        _no_other_noise(),
        _NoEscape(),
        _NoNumbers(),
        noting_values(),
    ):
        warnings.simplefilter("ignore")
        try:
            module = make_fx(run, decomposition_table=marked)(*arguments, *tensors)
        except NotTraceableError:
            raise
        except Exception as error:  # whatever the program or the tracer raises, Pyro itself has just run it
            raise NotTraceableError(str(error).partition("\n")[0] or repr(error)) from error
    frozen = surgery.freeze_shapes(module, len(arguments), tensors)
    obstacle = surgery.what_was_frozen(module)
    if obstacle is not None:
        raise NotTraceableError(obstacle)
    draws = surgery.hoist_noise(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return Graph(module, len(arguments), tensors, used, recording.written, recording.parameters, draws, frozen)


@contextmanager
def _no_other_noise() -> Iterator[None]:
    """Refuse draws from Python's and NumPy's global generators: they would be frozen."""
    python = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002  global state is what is watched
    yield
    state: Any = np.random.get_state()  # noqa: NPY002
    if random.getstate() != python or state[2] != numpy[2] or not np.array_equal(state[1], numpy[1]):
        raise NotTraceableError("it draws from Python's or NumPy's random numbers, not from torch's")


class _NoEscape(TorchFunctionMode):
    """Refuses to let the values of tensors leave torch: what comes back would be frozen."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ESCAPES:
            raise NotTraceableError(f"it takes the values of a tensor out of torch ({func.__name__})")
        if func is torch._is_all_true:  # only distributions ask, to validate; Pyro has just done so on the same values
            return torch.tensor(True)
        return func(*args, **(kwargs or {}))


class _NoNumbers(TorchDispatchMode):
    """Gives a name to what the tracer refuses: that a tensor's value becomes a number in Python, or a branch."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if func is _aten._local_scalar_dense.default:
                raise NotTraceableError("its course in Python depends on the values of tensors") from error
            raise
