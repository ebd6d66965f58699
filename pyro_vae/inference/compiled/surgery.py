"""What is done to a traced graph before it is used: indices frozen, noise made an input, what was frozen refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from pyro_vae.inference.compiled.recording import LITERALS

__all__ = ["freeze_shapes", "hoist_noise", "what_was_frozen"]

_aten = torch.ops.aten
_EMPTY = {_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default, _aten.empty_strided.default}
_FACTORIES = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "randint_like"}


def freeze_shapes(module: fx.GraphModule, num_arguments: int, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Put in the values of indices that follow from masks kept outside; return those masks.

    Only what follows from masks that the program does not write is taken: :func:`what_was_frozen` refuses the rest.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    outside = dict(zip(placeholders[num_arguments:], tensors, strict=True))
    frozen: dict[fx.Node, Tensor] = {}
    for node in module.graph.nodes:
        if node.target is not _aten.nonzero.default:
            continue
        try:
            sources: dict[fx.Node, Tensor] = {}
            value = _value(node, outside, sources)
        except KeyError:
            continue
        frozen |= sources
        name = f"indices_{node.name}"
        module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
    return list(frozen.values())


def _value(node: fx.Node, outside: dict[fx.Node, Tensor], sources: dict[fx.Node, Tensor]) -> Any:
    """Evaluate a node from masks outside, noted in ``sources``; KeyError if it takes anything else."""
    if node.op == "placeholder" and outside[node].dtype == torch.bool:
        sources[node] = outside[node]
        return outside[node]
    if not _is_operation(node) or node.target._schema.is_mutable:  # type: ignore[union-attr]
        raise KeyError(node)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _value(n, outside, sources))
    return node.target(*args, **kwargs)  # type: ignore[operator]


def what_was_frozen(module: fx.GraphModule) -> str | None:
    """Name what the tracer froze without a word: a tensor from elsewhere, or a shape that depends on values."""
    for node in module.graph.nodes:
        foreign = node.op == "get_attr" and not str(node.target).startswith("indices_")
        if foreign and any(user.target not in LITERALS for user in node.users):
            return "a tensor enters it anew at every run from outside torch"
        if not _is_operation(node) or torch.Tag.dynamic_output_shape not in node.target.tags:
            continue
        if node.users and not _indexes_by_integers(node):
            return f"the shape of a tensor depends on values ({node.target})"
    return None


def _is_operation(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _indexes_by_integers(node: fx.Node) -> bool:
    if node.target is not _aten.index.Tensor:
        return False
    indices = [index for index in tree_leaves(node.args[1]) if isinstance(index, fx.Node)]
    return all(index.meta["val"].dtype not in (torch.bool, torch.uint8) for index in indices)


def hoist_noise(module: fx.GraphModule) -> list[Callable[..., Tensor]]:
    """Turn the draws of noise into inputs of the graph; return what makes them, or nothing if one must stay."""
    nodes = list(module.graph.nodes)
    random = [n for n in nodes if _is_operation(n) and torch.Tag.nondeterministic_seeded in n.target.tags]
    random = [n for n in random if not (n.target is _aten.native_dropout.default and n.args[2] is False)]
    if not all(map(_is_pure_draw, random)):
        return []
    first = next(node for node in nodes if node.op != "placeholder")
    draws = []
    for number, node in enumerate(random):
        with module.graph.inserting_before(first):
            noise = module.graph.placeholder(f"noise_{number}")
        noise.meta["val"] = node.meta["val"]
        draws.append(_draw(node))
        node.replace_all_uses_with(noise)
    for node in random:
        module.graph.erase_node(node)
    return draws


def _is_pure_draw(node: Any) -> bool:
    """Whether the noise depends on nothing but shapes: fills an empty tensor, or is made from numbers alone."""
    name = node.target._schema.name.removeprefix("aten::")
    if name in _FACTORIES:
        return True
    sources = [leaf for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
    fills = name.endswith("_") and sources == [node.args[0]] and node.args[0].target in _EMPTY
    return fills and list(node.args[0].users) == [node]


def _draw(node: Any) -> Callable[..., Tensor]:
    """What a node draws, as a function of nothing, or of a generator other than torch's own."""
    target, kwargs = node.target, node.kwargs
    likes = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in node.args]

    def empty(like: Any) -> Any:
        if not isinstance(like, Tensor):
            return like
        return torch.empty_strided(tuple(like.shape), like.stride(), dtype=like.dtype, device=like.device)

    def draw(generator: torch.Generator | None = None) -> Tensor:
        if generator is None:
            return target(*map(empty, likes), **kwargs)
        return target.overloadpacket(*map(empty, likes), **{**kwargs, "generator": generator})

    return draw
