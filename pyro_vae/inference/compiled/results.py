"""What a graph gave, as Pyro's callers want it: a number, gradients at the parameters, or a differentiable tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.util import warn_if_nan
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Differentiable", "Results", "accumulate", "as_it_is", "as_number", "show_parameters"]


@dataclass(frozen=True)
class Results:
    """What a graph gave: the loss, then the gradients."""

    graph: Graph
    outputs: list[Tensor]


class Differentiable(torch.autograd.Function):
    """A loss with a gradient that is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor], *wanted: Tensor) -> Tensor:
        """Keep the gradients; return the loss."""
        ctx.grads = grads
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients that were kept, times the one from above."""
        return (None, None, *(above * grad for grad in ctx.grads))


def as_it_is(graph: Graph) -> Any:
    """Return the graph as a function of its inputs, composed with nothing."""
    return lambda inputs: list(graph.module(*inputs))


def show_parameters(graph: Graph) -> None:
    """Let the handlers around see the parameters, as they would if the program ran."""
    if _PYRO_STACK:
        store = pyro.get_param_store()
        for name in graph.parameters:
            if name in store:
                pyro.param(name)


def accumulate(leaves: list[Tensor], grads: list[Tensor]) -> None:
    """Add gradients to those that the leaves have."""
    for leaf, grad in zip(leaves, grads, strict=True):
        if leaf.grad is None:
            leaf.grad = grad.clone()
        else:
            leaf.grad += grad


def as_number(value: Any) -> float:
    """Return a loss as a number, with Pyro's warning if it is NaN."""
    value = value.detach() if isinstance(value, Tensor) else value
    warn_if_nan(value, "loss")
    return float(value)
