"""A Pyro program's loss and gradient as one tensor graph.

The program is run once under a recorder that notes every tensor which enters from outside (data, parameters,
buffers, globals), and traced with exactly those tensors as the graph's inputs. So no tensor is ever frozen into the
graph, parameters may live anywhere, and the noise becomes an input too, drawn in the program's own order.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Graph", "NotTraceableError", "Recording", "preserved", "record", "rng_preserved", "trace"]

Loss = Callable[[Sequence[Tensor]], Tensor]

_aten = torch.ops.aten
_LITERAL = {_aten.lift_fresh.default, _aten.lift_fresh_copy.default}
_EMPTY = {_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default, _aten.empty_strided.default}
_FACTORIES = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "randint_like"}
_ESCAPES = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.data_ptr}


class NotTraceableError(RuntimeError):
    """A program cannot be made one tensor graph; the message is the reason, a clause without a subject."""


class Recording(TorchDispatchMode):
    """Notes which tensors a run of tensor code reads from outside, and which of those it writes.

    Attributes:
        tensors: the tensors read from outside, in the order of their first use.
        written: those among them that the run changed in place.
        parameters: the sites of Pyro parameters by name, as unconstrained tensors.
        obstacle: why the program must not even be run a further time to trace it, a clause without a subject.
    """

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self.written: list[Tensor] = []
        self.parameters: dict[str, Tensor] = {}
        self._outside: set[int] = set()
        self.obstacle: str | None = None
        self._arguments = {leaf.untyped_storage().data_ptr() for leaf in arguments} - {0}
        self._known: dict[int, Tensor] = {id(leaf): leaf for leaf in arguments}  # by id: tensors compare by value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation; note what it takes in and what it gives."""
        kwargs = kwargs or {}
        if func not in _LITERAL:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and id(leaf) not in self._known:
                    self._known[id(leaf)] = leaf
                    self._outside.add(id(leaf))
                    self.tensors.append(leaf)
        if kwargs.get("generator") is not None:
            self.obstacle = "it has a random generator of its own"
        self._note_writes(func, args, kwargs)
        out = func(*args, **kwargs)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._known.setdefault(id(leaf), leaf)
        return out

    def _note_writes(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        schema = func._schema.arguments
        values = {argument.name: value for argument, value in zip(schema, args, strict=False)} | kwargs
        for argument in schema:
            unmarked = argument.name in {"running_mean", "running_var"} and values.get("training", False)
            if not unmarked and (argument.alias_info is None or not argument.alias_info.is_write):
                continue
            for leaf in tree_leaves(values.get(argument.name)):
                if _is_dense(leaf) and leaf.untyped_storage().data_ptr() in self._arguments:
                    self.obstacle = "it writes to its arguments in place"
                if id(leaf) in self._outside and all(leaf is not tensor for tensor in self.written):
                    self.written.append(leaf)

    def forget(self) -> None:
        """Let go of what the run made on its way."""
        self._known.clear()

    def same_inputs(self, other: Recording) -> bool:
        """Return whether two runs read the very same tensors from outside."""
        return [id(tensor) for tensor in self.tensors] == [id(tensor) for tensor in other.tensors]


@contextmanager
def record(arguments: Sequence[Tensor]) -> Iterator[Recording]:
    """Record what the code inside reads from outside; ``arguments`` are known and not reported."""
    recording = Recording(arguments)
    with poutine.trace(param_only=True) as sites, recording:
        yield recording
    recording.forget()
    values: list[tuple[str, Any]] = [(name, site["value"]) for name, site in sites.trace.nodes.items()]
    recording.parameters = {
        name: value.unconstrained() if hasattr(value, "unconstrained") else value for name, value in values
    }


@contextmanager
def preserved(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of ``tensors`` back at the end."""
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)


def rng_preserved(tensors: Sequence[Tensor]) -> Any:
    """Put torch's random state back at the end, on the CPU and on the devices of ``tensors``."""
    devices = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"}
    return torch.random.fork_rng(devices=[index for index in devices if index is not None])


@dataclass
class Graph:
    """A loss and its gradient as a graph of tensor operations.

    Attributes:
        module: maps the arguments' tensors, then ``tensors``, then the noise, to the loss and the gradients.
        num_arguments: how many tensors the arguments hold.
        tensors: the tensors read from outside.
        wanted: those that the gradients belong to, in the order of the module's outputs.
        written: those that a run changes in place (the running means of batch norm, for instance).
        parameters: Pyro's parameter sites by name, as unconstrained tensors.
        draws: makes the noise, in the program's own order; empty if the module draws its noise itself.
        frozen: tensors from outside whose values set the shape of others (a mask of a coupling flow); these values
            are part of the graph, which holds as long as nobody writes to them.
    """

    module: fx.GraphModule
    num_arguments: int
    tensors: list[Tensor]
    wanted: list[Tensor]
    written: list[Tensor]
    parameters: dict[str, Tensor]
    draws: list[Callable[[], Tensor]] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        """How many tensors the module takes."""
        return self.num_arguments + len(self.tensors) + len(self.draws)

    def inputs(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Return the module's inputs, with fresh noise."""
        return [*arguments, *self.tensors, *[draw() for draw in self.draws]]


def trace(loss: Loss, arguments: Sequence[Tensor], recording: Recording, *, gradient: bool) -> Graph:
    """Trace ``loss(arguments)`` and its gradient with respect to every leaf that it reads to one graph.

    Args:
        loss: runs the program; must read the tensors of ``recording`` and no others.
        arguments: the tensors that change from call to call.
        recording: of an earlier run on the same arguments.
        gradient: whether the graph computes the gradient too.

    Raises:
        NotTraceableError: if the program's course depends on the values of tensors, if tensors leave torch on the
            way, or if a tensor read from outside is itself the result of differentiable operations.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = recording.tensors
    if any(tensor.requires_grad and not tensor.is_leaf for tensor in tensors):
        raise NotTraceableError("it reads a tensor that was computed outside from something that needs a gradient")
    leaves = [tensor for tensor in tensors if tensor.requires_grad] if gradient else []
    used: list[Tensor] = []

    def run(*inputs: Tensor) -> list[Tensor]:
        value = loss(inputs[: len(arguments)])
        if not value.requires_grad:
            return [value]
        grads = torch.autograd.grad(value, leaves, allow_unused=True)
        used[:] = [leaf for leaf, grad in zip(leaves, grads, strict=True) if grad is not None]
        return [value.detach(), *[grad.contiguous() for grad in grads if grad is not None]]

    with (
        poutine.block(),
        pyro.validation_enabled(False),
        preserved(recording.written),
        rng_preserved([*arguments, *tensors]),
        torch.set_grad_enabled(gradient),
        warnings.catch_warnings(),
        _no_other_noise(),
        _NoEscape(),
    ):
        warnings.simplefilter("ignore")
        try:
            module = make_fx(run, decomposition_table=_marked_batch_norm())(*arguments, *tensors)
        except NotTraceableError:
            raise
        except Exception as error:  # whatever the program or the tracer raises, Pyro itself has just run it
            reason = str(error).partition("\n")[0]
            if "value out of a tracing tensor" in reason:
                reason = "its course in Python depends on the values of tensors"
            raise NotTraceableError(reason or type(error).__name__) from error
    frozen = _freeze_shapes(module, len(arguments), tensors)
    _check(module)
    draws = _hoist_noise(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return Graph(module, len(arguments), tensors, used, recording.written, recording.parameters, draws, frozen)


def _is_dense(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided


def _marked_batch_norm() -> dict[Any, Any]:
    """Batch norm by an operation whose schema says that it writes its running statistics."""
    from torch._decomp import get_decompositions

    return dict(get_decompositions([_aten.native_batch_norm]))


@contextmanager
def _no_other_noise() -> Iterator[None]:
    """Refuse draws from Python's and NumPy's global generators: they would be frozen."""
    python = random.getstate()
    numpy: Any = np.random.get_state()  # noqa: NPY002  global state is what is watched
    yield
    state: Any = np.random.get_state()  # noqa: NPY002
    drawn = random.getstate() != python or state[2] != numpy[2] or not np.array_equal(state[1], numpy[1])
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    if drawn:
        raise NotTraceableError("it draws from Python's or NumPy's random numbers, not from torch's")


class _NoEscape(TorchFunctionMode):
    """Refuses to let the values of tensors leave torch: what comes back would be frozen."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ESCAPES:
            raise NotTraceableError(f"it takes the values of a tensor out of torch ({func.__name__})")
        if func is torch._is_all_true:  # only distributions ask, to validate; Pyro has just done so on the same values
            return torch.tensor(True)
        return func(*args, **(kwargs or {}))


def _freeze_shapes(module: fx.GraphModule, num_arguments: int, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Put in the values of indices that follow from masks kept outside; return those masks.

    Only what follows from tensors without a gradient that the program does not write is taken: all else is for
    :func:`_check` to refuse.
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
    if node.op == "placeholder":
        tensor = outside[node]
        if tensor.dtype != torch.bool:
            raise KeyError(node)
        sources[node] = tensor
        return tensor
    if (
        node.op != "call_function"
        or not isinstance(node.target, torch._ops.OpOverload)
        or node.target._schema.is_mutable
    ):
        raise KeyError(node)
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: _value(n, outside, sources))
    return node.target(*args, **kwargs)


def _check(module: fx.GraphModule) -> None:
    """Refuse what the tracer froze without a word: tensors from elsewhere, and shapes that depend on values."""
    for node in module.graph.nodes:
        foreign = node.op == "get_attr" and not str(node.target).startswith("indices_")
        if foreign and any(user.target not in _LITERAL for user in node.users):
            raise NotTraceableError("a tensor enters it anew at every run from outside torch")
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.dynamic_output_shape in node.target.tags and node.users and not _indexes_by_integers(node):
            raise NotTraceableError(f"the shape of a tensor depends on values ({node.target})")


def _indexes_by_integers(node: fx.Node) -> bool:
    if node.target not in {_aten.index.Tensor}:
        return False
    indices = [index for index in tree_leaves(node.args[1]) if isinstance(index, fx.Node)]
    return all(index.meta["val"].dtype not in (torch.bool, torch.uint8) for index in indices)


def _hoist_noise(module: fx.GraphModule) -> list[Callable[[], Tensor]]:
    """Turn the draws of noise into inputs of the graph; return what makes them, or nothing if one must stay."""
    random = [
        node
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
        and not _switched_off(node)
    ]
    if not all(_is_pure_draw(node) for node in random):
        return []
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
    draws = []
    for number, node in enumerate(random):
        with module.graph.inserting_after(last):
            last = module.graph.placeholder(f"noise_{number}")
        last.meta["val"] = node.meta["val"]
        draws.append(_draw(node))
        node.replace_all_uses_with(last)
        module.graph.erase_node(node)
    return draws


def _switched_off(node: Any) -> bool:
    return node.target is _aten.native_dropout.default and node.args[2] is False


def _is_pure_draw(node: Any) -> bool:
    """Whether the noise depends on nothing but shapes: fills an empty tensor, or is made from numbers alone."""
    name = node.target._schema.name.removeprefix("aten::")
    if name in _FACTORIES:
        return True
    sources = [leaf for leaf in tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
    return (
        name.endswith("_")
        and sources == [node.args[0]]
        and node.args[0].target in _EMPTY
        and list(node.args[0].users) == [node]
    )


def _draw(node: Any) -> Callable[[], Tensor]:
    target, args, kwargs = node.target, node.args, node.kwargs

    def empty(value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        like = value.meta["val"]
        return torch.empty_strided(tuple(like.shape), like.stride(), dtype=like.dtype, device=like.device)

    def draw() -> Tensor:
        return target(*[empty(arg) for arg in args], **kwargs)

    return draw
