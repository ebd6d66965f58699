"""One call of a model and guide, taken apart into tensors and a key."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["SCALARS", "Call"]

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass
class Call:
    """One call of a model and guide: its arguments, taken apart.

    Attributes:
        model: the model.
        guide: the guide.
        leaves: the tensors among the arguments, as new tensor objects, so that none is mistaken for a global.
        key: what must be equal for two calls to share a graph.
        obstacle: why this call must not be traced, a clause; None if it may.
    """

    model: Any
    guide: Any
    leaves: list[Tensor]
    key: tuple[Any, ...]
    obstacle: str | None
    _spec: Any
    _values: list[Any]  # None in the place of tensors
    _are_tensors: list[bool]

    @classmethod
    def of(cls, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *further: Any) -> Call:
        """Take the arguments apart; ``further`` is added to the key."""
        plain_tensors = not kwargs and all(type(arg) is Tensor for arg in args)
        values, spec = (list(args), _of_tensors(len(args))) if plain_tensors else tree_flatten((args, kwargs))
        are_tensors = [isinstance(value, Tensor) for value in values]
        tensors = [value for value in values if isinstance(value, Tensor)]
        rest = [None if isinstance(value, Tensor) else value for value in values]
        key = (
            model,
            guide,
            spec,
            tuple([(t.shape, t.stride(), t.dtype, t.device) for t in tensors]),
            tuple([(type(value), value) for value in rest]),
            torch.get_default_dtype(),
            *[(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")],
            *further,
        )
        obstacle = _obstacle(model, guide, tensors, rest)
        return cls(model, guide, [t.detach() for t in tensors], key, obstacle, spec, rest, are_tensors)

    def arguments(self, leaves: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put arguments together again, with other tensors."""
        tensors = iter(leaves)
        values = [next(tensors) if role else value for role, value in zip(self._are_tensors, self._values, strict=True)]
        args, kwargs = tree_unflatten(values, self._spec)
        return args, kwargs


def _obstacle(model: Any, guide: Any, tensors: Sequence[Tensor], rest: Sequence[Any]) -> str | None:
    """Why a call must not be traced, a clause; None if it may."""
    if not all(isinstance(frame, TraceMessenger) and frame.param_only for frame in _PYRO_STACK):
        return "it runs inside other Pyro handlers"
    if any(t.requires_grad for t in tensors):
        return "an argument needs a gradient"
    if not (_is_hashable(model) and _is_hashable(guide)):
        return "the model or guide is an object that cannot be hashed"
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided for t in tensors)
    if not plain or not all(isinstance(value, SCALARS) for value in rest):
        return "an argument is neither a plain tensor nor a number, flag or string"
    return None


def _is_hashable(program: Any) -> bool:
    try:
        hash(program)
    except TypeError:
        return False
    return True


@functools.cache
def _of_tensors(count: int) -> Any:
    """How ``count`` positional arguments are flattened: known beforehand, since this is by far the commonest call."""
    return tree_flatten(((None,) * count, {}))[1]
