"""The torch modules of a Pyro program, whether it is one, a method of one, or a function that calls some."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.closures import cell_content, names_in_code
from pyro_vae.inference.target.program import Program, argument_name

__all__ = ["TrainingModes", "beside", "check_dtypes", "evaluating", "modules_of", "owner_of"]

_LIBRARIES = frozenset({"torch", "pyro", "zuko", "numpy"}) | sys.stdlib_module_names


def owner_of(program: Any) -> nn.Module | None:
    """The module that a program is, or is a method of."""
    owner = getattr(program, "__self__", program)
    return owner if isinstance(owner, nn.Module) else None


def modules_of(program: Any) -> list[nn.Module]:
    """The modules that a program is made of; those inside a module are not named apart.

    A function's are those in its closure, its defaults and the globals that its code names, and those of the functions
    found there; a method's also those that its object holds. What lies within lists or dictionaries is not seen.
    """
    if isinstance(program, nn.Module):
        return [program]
    found, queue, seen = [], [program], set()
    while queue:
        item = queue.pop()
        if id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, nn.Module):
                found.append(item)
            else:
                queue += _parts(item)
    return found


def _parts(item: Any) -> Iterable[Any]:
    """What may hold a module among the parts of something that is none."""
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, types.MethodType):
        owner = item.__self__
        return [item.__func__, owner] if isinstance(owner, nn.Module) else [item.__func__, *_held(owner)]
    if isinstance(item, types.FunctionType):
        library = (item.__module__ or "").partition(".")[0] in _LIBRARIES
        names = () if library else {*names_in_code(item.__code__)} & item.__globals__.keys()
        given = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        inside = [*map(cell_content, item.__closure__ or ()), *(item.__globals__[name] for name in names)]
        return [*given, *inside]
    is_program = callable(item) and not isinstance(item, type | types.BuiltinFunctionType)
    return _held(item) if is_program and type(item).__module__.partition(".")[0] not in _LIBRARIES else ()


def _held(owner: Any) -> list[Any]:
    """The attributes of an object that may hold modules."""
    kinds = (nn.Module, types.FunctionType, types.MethodType, functools.partial)
    return [value for value in getattr(owner, "__dict__", {}).values() if isinstance(value, kinds)]


@contextmanager
def evaluating(program: Any) -> Iterator[None]:
    """Put the modules of a program into evaluation mode meanwhile."""
    training = [m for module in modules_of(program) for m in module.modules() if m.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class TrainingModes:
    """The modes of the modules of several programs while these are learnt.

    A program that is a module, or a method of one, is as a whole in training mode while it learns and ends in
    evaluation mode. Modules that a function calls are in training mode only where they were before: one in evaluation
    mode is its user's, who froze it. They end as they began.

    Args:
        programs: model and guide.
    """

    def __init__(self, programs: Iterable[Program]) -> None:
        programs = list(programs)
        owners = [owner for program in programs if (owner := owner_of(program)) is not None]
        self.owners = list(dict.fromkeys(owners))
        every = dict.fromkeys([*self.owners, *(m for program in programs for m in modules_of(program))])
        self.modules = list(every)
        owned = {part for owner in self.owners for part in owner.modules()}
        parts = {part for module in self.modules for part in module.modules()}
        self._called = [part for part in parts if part not in owned and part.training]

    def buffers(self) -> list[Tensor]:
        """What all of them hold beside parameters, running means for instance."""
        return list(dict.fromkeys(buffer for module in self.modules for buffer in module.buffers()))

    def train(self) -> None:
        """Let them learn."""
        self._put("train", training=True)

    def eval(self) -> None:
        """Let them be measured."""
        self._put("eval", training=False)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Let them be measured, whatever is asked of them meanwhile; then leave them as training ends."""
        self.eval()
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Leave them as training ends."""
        self._put("eval", training=True)

    def _put(self, mode: str, *, training: bool) -> None:
        for owner in self.owners:
            getattr(owner, mode)()  # which the user's class may have made its own
        for part in self._called:
            part.training = training


def beside(program: Program, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments on the device of a module's parameters: ``fit`` may have moved it."""
    module = owner_of(program)
    first = None if module is None else next(module.parameters(), None)
    if first is None:
        return args
    return tuple(arg.to(first.device) if isinstance(arg, Tensor) else arg for arg in args)


def check_dtypes(program: Any, args: tuple[Any, ...]) -> None:
    """Check that real data are of the precision of a module's parameters.

    Raises:
        ValueError: if they are of another: torch would refuse them in words of its own, or promote them in silence.
    """
    own = {p.dtype for p in program.parameters() if p.is_floating_point()} if isinstance(program, nn.Module) else set()
    for position, arg in enumerate(args):
        if own and isinstance(arg, Tensor) and arg.is_floating_point() and arg.dtype not in own:
            want, name = min(own, key=str), argument_name(position)
            remedy = f"{name}.to({want}), or .to({arg.dtype}) of {type(program).__name__}"
            raise ValueError(
                say(f"{name} of {want}, as the parameters of {type(program).__name__}", f"{arg.dtype}", remedy)
            )
