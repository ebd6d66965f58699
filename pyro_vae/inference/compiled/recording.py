"""What a run of a Pyro program reads and writes outside itself; and a run without a trace left of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LITERALS", "Recording", "parameters_of", "record", "without_effects"]

LITERALS = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}  # tensors made of numbers


class Recording(TorchDispatchMode):
    """Notes which tensors a run of tensor code reads from outside, and which of those it writes.

    Attributes:
        tensors: the tensors read from outside, in the order of their first use: data, parameters, buffers, globals.
        written: those among them that the run changed in place.
        parameters: the sites of Pyro parameters by name, as unconstrained tensors.
        obstacle: why the program must not even be run a further time to trace it, a clause without a subject.
    """

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.written: list[Tensor] = []
        self.parameters: dict[str, Tensor] = {}
        self.obstacle: str | None = None
        self._arguments = {leaf.untyped_storage().data_ptr() for leaf in arguments} - {0}
        self._known: dict[int, Tensor] = {id(leaf): leaf for leaf in arguments}  # by id: tensors compare by value
        self._outside: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation; note what it takes in and what it gives."""
        kwargs = kwargs or {}
        if func not in LITERALS:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and id(leaf) not in self._known:
                    self._known[id(leaf)] = leaf
                    self._outside.add(id(leaf))
                    self.tensors.append(leaf)
        if kwargs.get("generator") is not None:
            self.obstacle = "it has a random generator of its own"
        self._note_writes(func, args, kwargs)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._known.setdefault(id(leaf), leaf)
        return out

    def _note_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the tensors that an operation changes in place, by its schema; batch norm's does not say it."""
        schema = func._schema.arguments
        values = {argument.name: value for argument, value in zip(schema, args, strict=False)} | kwargs
        for argument in schema:
            unmarked = argument.name in {"running_mean", "running_var"} and values.get("training", False)
            if not unmarked and (argument.alias_info is None or not argument.alias_info.is_write):
                continue
            for leaf in tree_leaves(values.get(argument.name)):
                dense = isinstance(leaf, Tensor) and leaf.layout == torch.strided
                if dense and leaf.untyped_storage().data_ptr() in self._arguments:
                    self.obstacle = "it writes to its arguments in place"
                if id(leaf) in self._outside and all(leaf is not tensor for tensor in self.written):
                    self.written.append(leaf)


@contextmanager
def record(arguments: Sequence[Tensor]) -> Iterator[Recording]:
    """Record what the code inside reads from outside; ``arguments`` are known and not reported."""
    recording = Recording(arguments)
    with poutine.trace(param_only=True) as sites, recording:
        yield recording
    recording._known.clear()  # what the run made on its way
    recording.parameters = parameters_of(sites.trace)


def parameters_of(trace: Any) -> dict[str, Tensor]:
    """Return the sites of Pyro parameters in a trace by name, as unconstrained tensors."""
    values: list[tuple[str, Any]] = [(name, site["value"]) for name, site in trace.nodes.items()]
    return {
        name: value.unconstrained() if hasattr(value, "unconstrained") else value
        for name, value in values
        if value is not None
    }


@contextmanager
def without_effects(written: Sequence[Tensor], seen: Sequence[Tensor]) -> Iterator[None]:
    """Put everything back at the end that a run inside changes.

    Args:
        written: the tensors that it writes to.
        seen: tensors on whose devices it may draw noise; Python's and NumPy's generators are put back too.
    """
    devices = {tensor.device.index for tensor in seen if tensor.device.type == "cuda"}
    saved = [tensor.detach().clone() for tensor in written]
    state = get_rng_state()
    with torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        try:
            yield
        finally:
            set_rng_state(state)
            with torch.no_grad():
                for tensor, value in zip(written, saved, strict=True):
                    tensor.copy_(value)
