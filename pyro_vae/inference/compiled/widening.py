"""A traced function in float64, without effects, and with all that does not depend on its input worked out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pyro_vae.inference.compiled.backend import NotTraceableError, usable_cache

__all__ = ["Widened", "widened"]


@dataclass
class Widened:
    """A function of one float64 tensor as a graph.

    Attributes:
        module: maps the input and then the constants to the outputs.
        constants: what the function reads, or works out, without its input.
        example: an input, float64.
    """

    module: fx.GraphModule
    constants: list[Tensor]
    example: Tensor

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """Return the outputs at x, from torch's own operations."""
        found: Sequence[Tensor] = self.module(x, *self.constants)
        return found


def widened(function: Callable[[Tensor], Sequence[Tensor]], example: Tensor) -> Widened:
    """Trace a function of one tensor, and make a graph of it that computes in float64 throughout.

    The values that it reads stay what they are, rounded to float32 where they were.

    Raises:
        NotTraceableError: if it cannot be traced, or draws at random.
    """
    usable_cache()
    try:
        with torch.no_grad(), warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            from torch.fx.experimental.proxy_tensor import make_fx

            def traced(run: Callable[..., Any], x: Tensor) -> fx.GraphModule:
                return make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(x)

            def run(x: Tensor) -> tuple[Tensor, ...]:
                return tuple(function(x))

            narrow = traced(run, example.detach())
            _to_double(narrow)
            point = example.detach().double()
            pure = not _writes_in_place(narrow)
            module = narrow if pure else traced(torch.func.functionalize(narrow, remove="mutations"), point)
            _refuse_noise(module)
            constants = _fold(module)
            return Widened(module, constants, point)
    except NotTraceableError:
        raise
    except Exception as error:  # whatever the program or the tracer raises: it runs without this graph
        raise NotTraceableError(str(error).partition("\n")[0] or repr(error)) from error


def _to_double(module: fx.GraphModule) -> None:
    """Read float64 wherever a graph says float32."""
    for node in module.graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda x: torch.float64 if x is torch.float32 else x
        )
        if node.op == "get_attr":
            value = getattr(module, node.target)
            if value.dtype == torch.float32:
                setattr(module, node.target, value.detach().double())
    module.recompile()


def _writes_in_place(module: fx.GraphModule) -> bool:
    return any(node.target._schema.is_mutable for node in module.graph.nodes if hasattr(node.target, "_schema"))


def _refuse_noise(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotTraceableError(f"it draws at random ({node.target})")


def _fold(module: fx.GraphModule) -> list[Tensor]:
    """Work out every node that does not depend on the input; what others use of these becomes an input."""
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    constants: list[Tensor] = []
    last = next(node for node in reversed(module.graph.nodes) if node.op == "placeholder")
    for node, value in known.items():
        users = [user for user in node.users if user not in known]
        if not users or not isinstance(value, Tensor):
            continue
        with module.graph.inserting_after(last):
            last = module.graph.placeholder(f"constant_{len(constants)}")
        constants.append(value.detach().clone(memory_format=torch.contiguous_format))
        for user in users:
            user.replace_input_with(node, last)
    for node in reversed(known):  # what writes in place, as torch does of a constant, is never dead code
        if not node.users:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return constants
