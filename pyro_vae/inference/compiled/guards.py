"""Guards: what a traced program took from Python, and whether it is still so.

A trace freezes every Python value that the program read. Tensors are safe, they are read anew at each run; what is
guarded here is all else that the program can reach: numbers, flags, strings, arrays, what containers hold, which
objects and tensors stand where, hooks, and the training mode of its modules.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
import torch
from pyro.params.param_store import ParamStoreDict
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["Guard"]

_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, np.generic)
_CONTAINERS = (list, tuple, dict, set, frozenset)
_MUTABLE = (*_CONTAINERS, np.ndarray)  # a tuple may hold something that is mutable
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LIBRARIES = frozenset({"torch", "pyro", "pyro_vae", "zuko", "numpy"}) | sys.stdlib_module_names
_OBJECTS_WITH_STATE = frozenset({"torch", "pyro", "zuko"})  # distributions, messengers: their numbers and tensors
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_MEMBERS = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property)
_TABLES_OF_A_MODULE = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
_LARGE = 256  # entries of a container or an array, an eighth within a container: beyond, identity and length count
_MISSING = object()


class Guard:
    """The Python state that a program's trace depends on, as it was when the guard was made.

    Visited is each module, function, method and object that can be reached from ``roots`` through attributes of
    objects and of their classes, submodules, closures, globals and containers. Guarded are, by value, numbers, flags,
    strings, arrays and what containers hold; by identity, other objects and the tensors that the program read; that
    no attribute, submodule or hook comes or goes; and those tensors' shape, strides, dtype, device and
    ``requires_grad``. Not guarded: what lies in containers of more than 256 entries, and the inside of libraries.

    Args:
        roots: the model and the guide.
        tensors: the tensors that the program read.
        store: the parameters that the program took from Pyro's store, by name, as unconstrained tensors.
        frozen: tensors whose values the trace holds; guarded by torch's count of writes to each.

    Attributes:
        generator: whether a random generator of the program's own was found: no graph can follow it.
    """

    def __init__(
        self,
        roots: Iterable[Any],
        tensors: Iterable[Tensor],
        store: dict[str, Tensor],
        frozen: Sequence[Tensor] = (),
    ) -> None:
        self.generator = False
        self._frozen = list(frozen)
        self._versions = [tensor._version for tensor in self._frozen]
        self._tensors = list(tensors)
        self._layouts = [_layout(tensor) for tensor in self._tensors]
        self._read = {id(tensor) for tensor in self._tensors}
        self._slots: list[tuple[Mapping[Any, Any], Any]] = []
        self._tables: list[Mapping[Any, Any]] = []
        self._mutable: list[Any] = []
        self._cells: list[types.CellType] = []
        self._seen: dict[int, Any] = {}  # keeps what was visited alive, so that no id is used twice
        self._collect(roots)
        self._values = self._now()
        self._sizes = list(map(len, self._tables))
        self._prints = [self._print(value) for value in self._mutable]
        self._contents = [_content(cell) for cell in self._cells]
        self._store = list(store.items())

    def holds(self, store: ParamStoreDict) -> bool:
        """Return whether everything is still as it was."""
        now = self._now()
        return (
            (all(map(is_, now, self._values)) or all(map(self._same, now, self._values)))
            and list(map(len, self._tables)) == self._sizes
            and self.lives(store)
            and [tensor._version for tensor in self._frozen] == self._versions
            and [_layout(tensor) for tensor in self._tensors] == self._layouts
            and all(map(self._same, map(_content, self._cells), self._contents))
            and [self._print(value) for value in self._mutable] == self._prints
        )

    def lives(self, store: ParamStoreDict) -> bool:
        """Return whether the parameters are still those of Pyro's store; once they are not, the guard is void."""
        return all(store._params.get(name) is tensor for name, tensor in self._store)

    def _now(self) -> list[Any]:
        return [slots.get(key, _MISSING) for slots, key in self._slots]

    def _same(self, value: Any, expected: Any) -> bool:
        return value is expected or self._print(value) == self._print(expected)

    def _print(self, value: Any, depth: int = 0) -> Any:
        """What must be equal for two values to be the same to the program."""
        kind, found = type(value), id(value)
        if isinstance(value, _Slotted):
            return [self._print(item, depth + 1) for item in value.values()]
        if isinstance(value, np.ndarray | np.generic):
            return kind, value.dtype.str, value.shape, value.tobytes() if value.size <= _LARGE else found
        if isinstance(value, _CONTAINERS) and not isinstance(value, torch.Size):
            return kind, len(value), found if len(value) > _LARGE >> 3 * depth else self._inside(value, depth)
        if isinstance(value, _SCALARS):
            return kind, value
        return Tensor if isinstance(value, Tensor) and found not in self._read else found

    def _inside(self, container: Any, depth: int) -> Any:
        items = [*container, *container.values()] if isinstance(container, dict) else container
        found = [self._print(item, depth + 1) for item in items]
        return frozenset(map(repr, found)) if isinstance(container, set | frozenset) else found

    def _collect(self, roots: Iterable[Any]) -> None:
        queue = list(roots)
        while queue:
            item = queue.pop()
            if id(item) in self._seen:
                continue
            self._seen[id(item)] = item
            queue.extend(self._visit(item))

    def _visit(self, item: Any) -> Iterator[Any]:
        """Take down the slots of one object; yield what is to be visited next."""
        if isinstance(item, _GENERATORS):
            self.generator = True
        elif isinstance(item, functools.partial):
            yield from (item.func, *item.args, *item.keywords.values())
        elif isinstance(item, types.MethodType):
            yield from (item.__self__, item.__func__)
        elif isinstance(item, types.FunctionType):
            yield from self._visit_function(item)
        elif isinstance(item, nn.Module):
            yield from self._visit_module(item)
            yield from self._visit_class(type(item))
        elif isinstance(item, _CONTAINERS):
            if len(item) <= _LARGE:
                yield from item.values() if isinstance(item, dict) else item
        elif _is_instance(item):
            library = _package(type(item)) in _OBJECTS_WITH_STATE
            yield from self._visit_slots(getattr(item, "__dict__", {}), only_state=library)
            yield from self._visit_class(type(item))
            names = [name for cls in type(item).__mro__ for name in _slots(cls)]
            if names:
                slotted = _Slotted(item, names)
                self._mutable.append(slotted)
                yield from slotted.values()

    def _visit_module(self, module: nn.Module) -> Iterator[Any]:
        yield from self._visit_slots(vars(module))
        for name in _TABLES_OF_A_MODULE:
            table = vars(module)[name]
            self._tables.append(table)
            for key, value in table.items():
                if not isinstance(value, Tensor) or id(value) in self._read:
                    self._slots.append((table, key))
                    yield value

    def _visit_class(self, cls: type) -> Iterator[Any]:
        """Visit what an object has from the user's own classes: attributes, and the functions that are its methods."""
        for base in cls.__mro__:
            if _package(base) in _LIBRARIES:
                continue
            own = vars(base)
            for key, value in own.items():
                if isinstance(value, _MEMBERS):
                    yield _function(value)
                elif not key.startswith("__") and (isinstance(value, _SCALARS + _CONTAINERS) or _is_instance(value)):
                    yield from self._take(own, key, value)

    def _visit_slots(self, slots: Mapping[Any, Any], *, only_state: bool = False) -> Iterator[Any]:
        if not only_state:
            self._tables.append(slots)
        for key, value in slots.items():
            if key in _OF_EVERY_MODULE:
                continue
            if not only_state or isinstance(value, (*_SCALARS, Tensor, Distribution)):
                yield from self._take(slots, key, value)

    def _take(self, slots: Mapping[Any, Any], key: Any, value: Any) -> Iterator[Any]:
        """Take down one slot; yield its value if there is something to be visited in it."""
        if isinstance(value, Tensor):
            if id(value) in self._read:
                self._slots.append((slots, key))
            return
        if isinstance(value, types.ModuleType):
            return
        self._slots.append((slots, key))
        if isinstance(value, _MUTABLE):
            self._mutable.append(value)
        if not isinstance(value, _SCALARS):
            yield value

    def _visit_function(self, function: types.FunctionType) -> Iterator[Any]:
        yield getattr(function, "__wrapped__", None)
        yield from function.__defaults__ or ()
        yield from (function.__kwdefaults__ or {}).values()
        for cell in function.__closure__ or ():
            content = _content(cell)
            if not isinstance(content, Tensor) or id(content) in self._read:
                self._cells.append(cell)
                if isinstance(content, _MUTABLE):
                    self._mutable.append(content)
                yield content
        if _package(function) in _LIBRARIES:
            return
        names = set(_names(function.__code__))
        found = function.__globals__
        for key in names & found.keys():
            value = found[key]
            if isinstance(value, types.ModuleType):
                if value.__name__.partition(".")[0] not in _LIBRARIES:
                    for name in names & vars(value).keys():
                        yield from self._take_used(vars(value), name)
            else:
                yield from self._take_used(found, key)

    def _take_used(self, slots: dict[str, Any], key: str) -> Iterator[Any]:
        """Take down a global, unless it belongs to a library or is a class."""
        value = slots[key]
        plain = isinstance(value, (*_SCALARS, *_MUTABLE, Tensor, nn.Module, Distribution, *_GENERATORS))
        if plain or not (isinstance(value, type) or _package(value) in _LIBRARIES):
            yield from self._take(slots, key, value)


class _Slotted:
    """The values that an object keeps in ``__slots__``, which no dictionary shows."""

    def __init__(self, item: Any, names: Sequence[str]) -> None:
        self.item = item
        self.names = names

    def values(self) -> list[Any]:
        return [getattr(self.item, name, _MISSING) for name in self.names]


def _slots(cls: type) -> tuple[str, ...]:
    named = vars(cls).get("__slots__", ()) if _package(cls) not in _LIBRARIES else ()
    return (named,) if isinstance(named, str) else tuple(named)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.requires_grad, tensor.shape, tensor.dtype, tensor.stride(), tensor.device)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is not bound yet
        return None


def _function(member: Any) -> Any:
    """The function behind a method, a static or class method, or a property."""
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", None) or "").partition(".")[0]


def _is_instance(item: Any) -> bool:
    """Whether this is an object with attributes that a program may read, the user's own or a library's with state."""
    kinds = (type, types.ModuleType, types.FunctionType, types.MethodType, Tensor)
    if isinstance(item, kinds) or not (hasattr(item, "__dict__") or hasattr(type(item), "__slots__")):
        return False
    package = _package(type(item))
    return package not in _LIBRARIES or package in _OBJECTS_WITH_STATE or package == "pyro_vae"
