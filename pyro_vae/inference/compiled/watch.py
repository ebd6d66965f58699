"""What is looked at before every run of a graph: the scalars of the program's own code, and the tensors it read.

Looked at are attributes of model and guide, of their submodules, handlers and classes, and closures and globals of the
functions that these consist of. What lies within lists, dictionaries or other objects is not: that is for the checks.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_vae.closures import cell_content, names_in_code
from pyro_vae.inference.compiled.call import SCALARS

__all__ = ["Watch"]

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PARTS = (types.FunctionType, types.MethodType, functools.partial, nn.Module, Messenger, *_GENERATORS)
_LIBRARIES = frozenset({"torch", "pyro", "pyro_vae", "zuko", "numpy"}) | sys.stdlib_module_names
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


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
        self._looks: list[tuple[Callable[[Any], Any], Any]] = []  # functions, and what to call them with
        queue, seen = list(programs), set()
        for own in [getattr(program, "__self__", program) for program in programs]:
            if not isinstance(own, _PARTS):
                queue += [*self._slots(getattr(own, "__dict__", {})), *self._classes(own)]
        while queue:
            item = queue.pop()
            if id(item) not in seen:
                seen.add(id(item))
                queue.extend(self._visit(item))
        self._looks += [(_writes, tensor) for tensor in frozen]
        store = pyro.get_param_store()._params
        self._stored = [(name, tensor) for name, tensor in parameters.items() if store.get(name) is tensor]
        self._values = [look(at) for look, at in self._looks]
        self._tensors, self._layouts = tensors, list(map(_layout, tensors))

    def holds(self) -> bool:
        """Whether everything is still as it was."""
        now = [look(at) for look, at in self._looks]
        same = all(map(is_, now, self._values)) or all(map(_same, now, self._values))
        return same and list(map(_layout, self._tensors)) == self._layouts and self.lives()

    def reads_what(self, other: Watch) -> bool:
        """Whether another program of the same make reads the same numbers; names may be its own."""
        numbers = (bool, int, float, complex, np.generic)
        pairs = list(zip(self._values, other._values, strict=False))
        read = [pair for pair in pairs if any(isinstance(value, numbers) for value in pair)]
        return len(self._values) == len(other._values) and all(_same(*pair) for pair in read)

    def lives(self) -> bool:
        """Whether the parameters are still those of Pyro's store; once they are not, they never are again."""
        store = pyro.get_param_store()._params
        return all(store.get(name) is tensor for name, tensor in self._stored)

    def _visit(self, item: Any) -> Iterable[Any]:
        """Note what is watched of one part of the program; return its own parts."""
        if isinstance(item, _GENERATORS):
            self.generator = True
        elif isinstance(item, functools.partial):
            return [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.MethodType):
            return [item.__func__, *([item.__self__] if isinstance(item.__self__, _PARTS) else [])]
        elif isinstance(item, types.FunctionType):
            cells = [cell for cell in item.__closure__ or () if self._is_watched(cell_content(cell))]
            self._looks += [(cell_content, cell) for cell in cells]
            names = () if _of_library(item) else {*names_in_code(item.__code__)} & item.__globals__.keys()
            defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
            return [*defaults, *map(cell_content, item.__closure__ or ()), *self._slots(item.__globals__, names)]
        elif isinstance(item, nn.Module):
            self._slots(item._parameters), self._slots(item._buffers)
            own = self._slots(vars(item), vars(item).keys() if _of_library(type(item)) else None)
            return [*own, *item._modules.values(), *self._classes(item)]
        elif isinstance(item, Messenger):
            return self._slots(vars(item))
        return ()

    def _slots(self, slots: Mapping[str, Any], names: Iterable[str] | None = None) -> list[Any]:
        """Note what is watched among attributes or globals; return the rest that may be parts of the program.

        Without ``names`` that is all of them, and their number, so that one that comes or goes is noticed.
        """
        if names is None:
            self._looks.append((len, slots))
        own = [key for key in (slots if names is None else names) if key not in _OF_EVERY_MODULE]
        watched = [key for key in own if self._is_watched(slots[key])]
        self._looks += [(slots.get, key) for key in watched]
        return [slots[key] for key in own if isinstance(slots[key], _PARTS)]

    def _classes(self, item: Any) -> list[Any]:
        """Note the scalars that an object has from the user's own classes; return the functions of its methods."""
        found = []
        for own in [vars(cls) for cls in type(item).__mro__ if not _of_library(cls)]:
            self._slots(own, [key for key in own if not key.startswith("__")])
            found += [_function(member) for member in own.values()]
        return found

    def _is_watched(self, value: Any) -> bool:
        return id(value) in self._read if isinstance(value, Tensor) else isinstance(value, (*SCALARS, np.generic))


def _same(value: Any, before: Any) -> bool:
    if value is before:
        return True
    return type(value) is type(before) and isinstance(value, (*SCALARS, np.generic)) and bool(value == before)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.requires_grad, tensor.shape, tensor.dtype, tensor.stride(), tensor.device)


def _writes(tensor: Tensor) -> int:
    return tensor._version


def _function(member: Any) -> Any:
    """The function behind a method, a static or class method, or a property."""
    for name in ("__func__", "fget", "func"):
        member = getattr(member, name, member) if not isinstance(member, types.FunctionType) else member
    return member


def _of_library(item: Any) -> bool:
    return str(getattr(item, "__module__", None) or "").partition(".")[0] in _LIBRARIES
