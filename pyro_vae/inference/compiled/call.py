"""One call of a loss on a model and guide, taken apart into tensors and a key."""

from __future__ import annotations

import functools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.losses import eager_loss, traceable_loss

__all__ = ["SCALARS", "Call", "Scalar"]

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


class Scalar:
    """A number that is an input of graphs: a new tensor whenever it changes, or the arguments' device or dtype do."""

    def __init__(self) -> None:
        self._of: Any = None
        self._tensor = torch.ones(())

    def tensor(self, number: float, args: Sequence[Any]) -> Tensor:
        """Return the number as a tensor, on the device and of the dtype of the first tensor of its kind in ``args``."""
        device = next((a.device for a in args if isinstance(a, Tensor)), None)
        floating = (a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point())
        of = number, device, next(floating, torch.get_default_dtype())
        if of != self._of:
            self._of, self._tensor = of, torch.tensor(number, dtype=of[2], device=device)
        return self._tensor


@dataclass
class Call:
    """One call of a loss on a model and guide: its arguments, taken apart.

    Attributes:
        model: the model.
        guide: the guide.
        elbo: whose loss it is.
        leaves: the weight of the latent sites, and the tensors among the arguments, as new tensor objects, so that
            none is mistaken for a global.
        key: what must be equal for two calls to share a graph.
        obstacle: why this call must not be traced, a clause; None if it may.
    """

    model: Any
    guide: Any
    elbo: Any
    leaves: list[Tensor]
    key: tuple[Any, ...]
    obstacle: str | None
    _spared: Set[str]
    _given: Any
    _spec: Any
    _values: list[Any]  # None in the place of tensors
    _are_tensors: list[bool]

    @classmethod
    def of(
        cls,
        programs: tuple[Any, Any, Any],
        weight: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *further: Any,
        spared: Set[str] = frozenset(),
    ) -> Call:
        """Take arguments of model, guide and ELBO apart; ``further`` is added to the key, ``spared`` keep weight 1."""
        model, guide, elbo = programs
        args = (weight, *args)
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
        leaves = [t.detach() for t in tensors]
        return cls(model, guide, elbo, leaves, key, obstacle, spared, (args, kwargs), spec, rest, are_tensors)

    @property
    def programs(self) -> tuple[Any, ...]:
        """All whose code takes part."""
        return self.model, self.guide, self.elbo

    def reference(self) -> Any:
        """The loss of these arguments without any graph, differentiable."""
        return self._weighted(eager_loss, *(self._given if self.obstacle else self._arguments(self.leaves)))

    def traceable(self, leaves: Sequence[Tensor]) -> Any:
        """The loss with other tensors in their places, by tensor operations alone."""
        return self._weighted(traceable_loss, *self._arguments(leaves))

    def _weighted(self, loss: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        weigh = KLWeight(args[0], self._spared)
        return loss(self.elbo, weigh(self.model), weigh(self.guide), *args[1:], **kwargs)

    def _arguments(self, leaves: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
