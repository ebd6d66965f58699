"""What is looked at before every run of a graph: the scalars of the program's own code, and the tensors it read.

Looked at are attributes of model and guide, of their submodules and their classes, and closures and globals of the
functions that these consist of. What lies within lists, dictionaries or other objects is not: that is for the checks.
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
import pyro
import torch
from torch import Tensor, nn

from pyro_vae.inference.compiled.call import SCALARS

__all__ = ["Watch"]

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LIBRARIES = frozenset({"torch", "pyro", "pyro_vae", "zuko", "numpy"}) | sys.stdlib_module_names
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
_MISSING = object()


class Watch:
    """Scalars and tensors of a program, as they were when the watch was made.

    Args:
        programs: the model and the guide.
        tensors: the tensors that a run read; looked at are their layout and, where the program's own code holds them
            directly, that it still does.
        parameters: those that the run took from Pyro's store, by name, as unconstrained tensors.
        frozen: tensors whose values a graph holds; looked at is torch's count of writes to each.

    Attributes:
        generator: whether a random generator of the program's own was seen: no graph can follow it.
    """

    def __init__(
        self,
        programs: Sequence[Any],
        tensors: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
        frozen: Sequence[Tensor] = (),
    ) -> None:
        self.generator = False
        self._read = {id(tensor) for tensor in tensors}
        self._slots: list[tuple[Mapping[str, Any], str]] = []
        self._cells: list[types.CellType] = []
        self._tables: list[Mapping[str, Any]] = []
        self._walk(programs)
        self._tensors, self._layouts = tensors, list(map(_layout, tensors))
        self._frozen, self._writes = frozen, [tensor._version for tensor in frozen]
        store = pyro.get_param_store()._params
        self._stored = [(name, tensor) for name, tensor in parameters.items() if store.get(name) is tensor]
        self._values, self._sizes = self._now(), list(map(len, self._tables))

    def holds(self) -> bool:
        """Whether everything is still as it was."""
        now = self._now()
        return (
            (all(map(is_, now, self._values)) or all(map(_same, now, self._values)))
            and list(map(len, self._tables)) == self._sizes
            and list(map(_layout, self._tensors)) == self._layouts
            and [tensor._version for tensor in self._frozen] == self._writes
            and self.lives()
        )

    def lives(self) -> bool:
        """Whether the parameters are still those of Pyro's store; once they are not, they never are again."""
        store = pyro.get_param_store()._params
        return all(store.get(name) is tensor for name, tensor in self._stored)

    def _now(self) -> list[Any]:
        return [slots.get(key, _MISSING) for slots, key in self._slots] + list(map(_content, self._cells))

    def _walk(self, programs: Sequence[Any]) -> None:
        """Visit the programs and all that is their own code, each once."""
        queue, seen = list(programs), set()
        for root in programs:
            own = root.__self__ if isinstance(root, types.MethodType) else root
            if not isinstance(own, (types.FunctionType, functools.partial, nn.Module)):
                self._take(getattr(own, "__dict__", {}), whole=True)
                queue += _of_classes(self, own)
        while queue:
            item = queue.pop()
            if id(item) not in seen:
                seen.add(id(item))
                queue.extend(self._visit(item))

    def _visit(self, item: Any) -> Iterable[Any]:
        """Note the slots of one part of the program; return its parts."""
        if isinstance(item, _GENERATORS):
            self.generator = True
        elif isinstance(item, functools.partial):
            return [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.MethodType):
            return [item.__func__, *([item.__self__] if isinstance(item.__self__, nn.Module) else [])]
        elif isinstance(item, types.FunctionType):
            return self._visit_function(item)
        elif isinstance(item, nn.Module):
            found = self._take(vars(item), whole=not _of_library(type(item)))
            for name in ("_parameters", "_buffers"):
                self._take(vars(item)[name])
            return [*found, *item._modules.values(), *_of_classes(self, item)]
        return ()

    def _visit_function(self, function: types.FunctionType) -> Iterable[Any]:
        found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            content = _content(cell)
            if self._is_watched(content):
                self._cells.append(cell)
            found.append(content)
        if not _of_library(function):
            names = set(_names(function.__code__))
            found += self._take(function.__globals__, only=names & function.__globals__.keys())
        return found

    def _take(self, slots: Mapping[str, Any], *, only: Iterable[str] | None = None, whole: bool = False) -> list[Any]:
        """Note what is watched among attributes or globals; return the rest, which may be parts of the program.

        ``whole`` notes their number as well, so that one that comes or goes is noticed.
        """
        rest = []
        if whole:
            self._tables.append(slots)
        for key in slots if only is None else only:
            value = slots[key]
            if self._is_watched(value) and key not in _OF_EVERY_MODULE:
                self._slots.append((slots, key))
            elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial, nn.Module, *_GENERATORS)):
                rest.append(value)
        return rest

    def _is_watched(self, value: Any) -> bool:
        return id(value) in self._read if isinstance(value, Tensor) else isinstance(value, (*SCALARS, np.generic))


def _of_classes(watch: Watch, item: Any) -> list[Any]:
    """Note the scalars that an object has from the user's own classes; return the functions that are its methods."""
    found = []
    for cls in type(item).__mro__:
        if not _of_library(cls):
            own = vars(cls)
            watch._take(own, only=[key for key in own if not key.startswith("__")])
            found += [_function(member) for member in own.values()]
    return found


def _function(member: Any) -> Any:
    """The function behind a method, a static or class method, or a property."""
    for name in ("__func__", "fget", "func"):
        member = getattr(member, name, member) if not isinstance(member, types.FunctionType) else member
    return member


def _same(value: Any, expected: Any) -> bool:
    if value is expected:
        return True
    return type(value) is type(expected) and isinstance(value, (*SCALARS, np.generic)) and bool(value == expected)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.requires_grad, tensor.shape, tensor.dtype, tensor.stride(), tensor.device)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is not bound yet
        return _MISSING


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that code looks up, with those of the functions defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _of_library(item: Any) -> bool:
    return str(getattr(item, "__module__", None) or "").partition(".")[0] in _LIBRARIES
