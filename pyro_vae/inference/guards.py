"""Guards: what a traced program took from Python, and whether it is still so.

A trace freezes every Python value that the program read. Tensors are safe, they are read anew at each run; what is
guarded here are the numbers, flags and strings that the program can reach, the training mode of its modules, and
which tensor objects they hold.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import torch
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn

__all__ = ["Guard"]

_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_LIBRARIES = frozenset({"torch", "pyro", "zuko", "numpy", "math", "functools", "builtins", "collections", "weakref"})
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}  # hooks and the like


class Guard:
    """The Python state that a program's trace depends on, as it was when the guard was made.

    Guarded are, for each module, function, method and object that can be reached from ``roots`` through attributes,
    submodules, closures and globals: attributes that are numbers, flags, strings or None (by value), objects, and
    tensors that the program read (by identity), and those tensors' shape, strides, dtype, device and
    ``requires_grad``. Not guarded: what lies inside lists and dictionaries, and globals of other packages.

    Args:
        roots: the model and the guide.
        tensors: the tensors that the program read.
        store: the parameters that the program took from Pyro's store, by name, as unconstrained tensors.
        frozen: tensors whose values the trace holds; guarded by torch's count of writes to each.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        tensors: Iterable[Tensor],
        store: dict[str, Tensor],
        frozen: Sequence[Tensor] = (),
    ) -> None:
        self._frozen = list(frozen)
        self._versions = [tensor._version for tensor in self._frozen]
        self._scalar_slots: list[tuple[dict[str, Any], str]] = []
        self._object_slots: list[tuple[dict[str, Any], str]] = []
        self._cells: list[types.CellType] = []
        self._tensors = list(tensors)
        self._layouts = [_layout(tensor) for tensor in self._tensors]
        self._read = {id(tensor) for tensor in self._tensors}
        self._collect(roots)
        self._scalars = self._read_scalars()
        self._objects = self._read_objects()
        self._contents = [_content(cell) for cell in self._cells]
        self._store = list(store.items())

    def holds(self, store: ParamStoreDict) -> bool:
        """Return whether everything is still as it was."""
        return (
            self._read_scalars() == self._scalars
            and all(map(is_, self._read_objects(), self._objects))
            and all(store._params.get(name) is tensor for name, tensor in self._store)
            and [tensor._version for tensor in self._frozen] == self._versions
            and [_layout(tensor) for tensor in self._tensors] == self._layouts
            and all(map(_same, map(_content, self._cells), self._contents))
        )

    def _read_objects(self) -> list[Any]:
        return [slots.get(key) for slots, key in self._object_slots]

    def _read_scalars(self) -> list[Any]:
        return [slots.get(key) for slots, key in self._scalar_slots]

    def _collect(self, roots: Iterable[Any]) -> None:
        seen: set[int] = set()
        queue = list(roots)
        while queue:
            item = queue.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            queue.extend(self._visit(item))

    def _visit(self, item: Any) -> Iterator[Any]:
        """Take down the slots of one object; yield what is to be visited next."""
        if isinstance(item, functools.partial):
            yield from (item.func, *item.args, *item.keywords.values())
        elif isinstance(item, types.MethodType):
            yield from (item.__self__, item.__func__)
        elif isinstance(item, types.FunctionType):
            yield from self._visit_function(item)
        elif isinstance(item, nn.Module):
            yield from self._visit_slots(vars(item))
            for tensors in (item._parameters, item._buffers):
                self._object_slots += [(tensors, name) for name, tensor in tensors.items() if id(tensor) in self._read]
            self._object_slots += [(item._modules, name) for name in item._modules]
            yield from (child for child in item._modules.values() if child is not None)
        elif _is_plain_object(item):
            yield from self._visit_slots(vars(item))

    def _visit_slots(self, slots: dict[str, Any]) -> Iterator[Any]:
        for key, value in slots.items():
            if key in _OF_EVERY_MODULE:
                continue
            if isinstance(value, _SCALARS):
                self._scalar_slots.append((slots, key))
            elif isinstance(value, Tensor):
                if id(value) in self._read:
                    self._object_slots.append((slots, key))
            elif isinstance(value, nn.Module) or callable(value) or _is_plain_object(value):
                self._object_slots.append((slots, key))
                yield value

    def _visit_function(self, function: types.FunctionType) -> Iterator[Any]:
        if _package(function) in _LIBRARIES:
            return
        for cell in function.__closure__ or ():
            content = _content(cell)
            if not isinstance(content, Tensor) or id(content) in self._read:
                self._cells.append(cell)
                yield content
        names = set(_names(function.__code__))
        used = {key: value for key, value in function.__globals__.items() if key in names}
        for key, value in used.items():
            if isinstance(value, _SCALARS):
                self._scalar_slots.append((function.__globals__, key))
            elif isinstance(value, Tensor):
                if id(value) in self._read:
                    self._object_slots.append((function.__globals__, key))
            elif isinstance(value, (nn.Module, types.FunctionType)) or _is_plain_object(value):
                self._object_slots.append((function.__globals__, key))
                yield value
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        yield from defaults
        yield getattr(function, "__wrapped__", None)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.requires_grad, tensor.shape, tensor.dtype, tensor.stride(), tensor.device)


def _same(value: Any, expected: Any) -> bool:
    return value is expected or (isinstance(value, _SCALARS) and type(value) is type(expected) and value == expected)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is not bound yet
        return None


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", None) or "").partition(".")[0]


def _is_plain_object(item: Any) -> bool:
    """Whether this is an instance of a class of the user's, whose attributes the program may read."""
    return (
        hasattr(item, "__dict__")
        and not isinstance(item, (type, types.ModuleType, types.FunctionType, types.MethodType, Tensor))
        and _package(type(item)) not in _LIBRARIES
    )
