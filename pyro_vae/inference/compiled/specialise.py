"""When to trust a traced graph: one for each kind of input, recorded, traced, checked against Pyro, then used.

A kind of input is first run by Pyro itself, four times at least: under the recorder until two runs read the very same
tensors, once after tracing, and once beside the traced graph under the same noise. Only a graph that gives Pyro's own
loss and gradients on inputs it was not traced on is used from then on, and only as long as its guard holds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pyro_vae.inference.compiled import tracing
from pyro_vae.inference.compiled.backend import agree, compile_run, why_no_compiler
from pyro_vae.inference.compiled.guards import Guard
from pyro_vae.inference.compiled.tracing import Graph, NotTraceableError, Recording

__all__ = ["Call", "Kind", "Specialiser"]

_RECORDINGS = 3  # runs in which a program may settle: create its parameters, say
_GRAPHS = 8  # of one kind of input; a program that needs more changes its Python state all the time
_KINDS = 64  # of one specialiser; the one longest out of use goes for a new one
_PATIENCE = 32  # runs in a row after which a further graph is worth an Inductor compilation
_CHANGES = "numbers or flags that it reads from Python change all the time; pass them as tensors"
_SCALARS = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.Size)

Run = Callable[[list[Tensor]], list[Tensor]]
Compose = Callable[[Graph], Run]


@dataclass
class Call:
    """One call of a model and guide: its arguments, taken apart.

    Attributes:
        model: the model.
        guide: the guide.
        leaves: the tensors among the arguments, as new tensor objects, so that none is mistaken for a global.
        kind: what must be equal for two calls to share a graph; None if this call must not be traced.
        obstacle: why it must not.
    """

    model: Any
    guide: Any
    leaves: list[Tensor]
    kind: tuple[Any, ...] | None
    spec: Any
    rest: list[Any]
    roles: list[bool]
    obstacle: str | None

    @classmethod
    def of(cls, model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *further: Any) -> Call:
        """Take the arguments apart; ``further`` is added to the kind."""
        plain_tensors = not kwargs and all(type(arg) is Tensor for arg in args)
        values, spec = (list(args), _of_tensors(len(args))) if plain_tensors else tree_flatten((args, kwargs))
        roles = [isinstance(value, Tensor) for value in values]
        tensors = [value for value in values if isinstance(value, Tensor)]
        rest = [None if isinstance(value, Tensor) else value for value in values]
        plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided for t in tensors)
        kind: tuple[Any, ...] | None = None
        obstacle: str | None = None
        if not all(isinstance(frame, TraceMessenger) and frame.param_only for frame in _PYRO_STACK):
            obstacle = "it runs inside other Pyro handlers"
        elif any(t.requires_grad for t in tensors):
            obstacle = "an argument needs a gradient"
        elif not (_is_hashable(model) and _is_hashable(guide)):
            obstacle = "the model or guide is an object that cannot be hashed"
        elif not plain or not all(isinstance(value, _SCALARS) for value in rest):
            obstacle = "an argument is neither a plain tensor nor a number, flag or string"
        else:
            kind = (
                model,
                guide,
                spec,
                tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors),
                tuple((type(value), value) for value in rest),
                torch.get_default_dtype(),
                *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")),
                *further,
            )
        return cls(model, guide, [t.detach() for t in tensors], kind, spec, rest, roles, obstacle)

    def arguments(self, leaves: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put arguments together again, with other tensors."""
        tensors = iter(leaves)
        values = [next(tensors) if role else value for role, value in zip(self.roles, self.rest, strict=True)]
        args, kwargs = tree_unflatten(values, self.spec)
        return args, kwargs


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


@dataclass
class Kind:
    """One graph for one kind of input, and how far it is trusted."""

    graph: Graph
    guard: Guard
    checked: bool = False
    run: Run | None = None
    block: Run | None = None
    in_a_row: int = 0
    compiled: bool = False


@dataclass
class _Shelf:
    """All graphs for one kind of input, the latest used first."""

    kinds: list[Kind] = field(default_factory=list)
    before: tuple[Recording, Guard] | None = None
    used: int = 0
    unlike: int = 0
    unsteady: int = 0
    steady: Recording | None = None
    refused: str | None = None


class Specialiser:
    """Finds, makes and checks the graphs of programs.

    Args:
        loss: the loss of a call on given tensors, as traceable tensor code.
        backend: "inductor" compiles graphs with Inductor, "eager" runs them operation by operation.
        tell: is told, once each, in a clause, why a program or call is left to Pyro, or to its graph uncompiled.
    """

    def __init__(
        self, loss: Callable[[Call, Sequence[Tensor]], Tensor], backend: str, tell: Callable[[str], None]
    ) -> None:
        self.loss = loss
        self.backend = backend
        self.tell = tell
        self._said: set[str] = set()
        self.start_again()

    def start_again(self) -> None:
        """Forget all graphs."""
        self._clock = 0
        self._shelves: dict[Any, _Shelf] = {}
        self._last: Kind | None = None
        self._compiled: set[Any] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Graphs stay behind: they belong to the tensors of this process."""
        return {"loss": self.loss, "backend": self.backend, "tell": self.tell, "_said": self._said}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.start_again()

    def find(self, call: Call) -> Kind | None:
        """Return the checked graph for this call, if there is one and it still holds."""
        shelf = self._shelves.get(call.kind)
        if shelf is None or shelf.refused is not None or call.kind is None:
            return None
        self._clock += 1
        shelf.used = self._clock
        store = pyro.get_param_store()
        for kind in shelf.kinds:
            if kind.guard.holds(store):
                if kind is not shelf.kinds[0]:
                    shelf.kinds.remove(kind)
                    shelf.kinds.insert(0, kind)
                return kind if kind.checked else None
        return None

    def observe(self, call: Call, reference: Callable[[], Tensor], *, gradient: bool) -> Tensor:
        """Run Pyro's own loss for this call, and use the occasion to record, trace or check a graph for the next."""
        shelf = None if call.kind is None else self._shelf(call)
        if call.kind is None:
            self.say(f"this call is left to Pyro: {call.obstacle}")
        if shelf is None or shelf.refused is not None:
            return reference()
        store = pyro.get_param_store()
        waiting = [kind for kind in shelf.kinds if not kind.checked and kind.guard.holds(store)]
        if waiting:
            return self._compare(shelf, waiting[0], call, reference, gradient=gradient)
        if shelf.steady is not None:
            self._trace(shelf, call, shelf.steady, gradient=gradient)  # before the run below: it may write buffers
            return reference()
        with tracing.record(call.leaves) as recording:
            value = reference()
        self._settle(shelf, call, recording)
        return value

    def _settle(self, shelf: _Shelf, call: Call, recording: Recording) -> None:
        """See whether the program has read the same tensors, and left the same state in Python, as the run before."""
        store = pyro.get_param_store()
        before, guard = shelf.before, Guard((call.model, call.guide), recording.tensors, _held(recording, store))
        shelf.before = (recording, guard)
        if recording.obstacle is not None or guard.generator:
            self.refuse(call, recording.obstacle or "it has a random generator of its own")
        elif before is not None:
            same, still = before[0].same_inputs(recording), before[1].holds(store)
            shelf.unlike += not same
            shelf.unsteady += same and not still
            if shelf.unlike >= _RECORDINGS:
                self.refuse(call, "the tensors that it reads from outside are others at every run")
            elif shelf.unsteady >= _PATIENCE:
                self.refuse(call, _CHANGES)
            elif same and still:
                shelf.steady = recording

    def refuse(self, call: Call, reason: str) -> None:
        """Leave this kind of call to Pyro, and say so once."""
        shelf = self._shelves.setdefault(call.kind, _Shelf())
        shelf.refused = reason
        shelf.kinds.clear()
        shelf.before = shelf.steady = None
        self.say(f"this program is left to Pyro: {reason}")

    def say(self, message: str) -> None:
        """Tell it, once for each message."""
        if message not in self._said:
            self._said.add(message)
            self.tell(message)

    def run(self, call: Call, kind: Kind, compose: Compose, inputs: list[Tensor]) -> list[Tensor]:
        """Run the graph, composed with what belongs to it, and compiled once that pays.

        Args:
            call: the call that the graph belongs to.
            kind: the graph.
            compose: makes, of the graph, the function to run; asked once for each graph.
            inputs: that function's inputs.
        """
        kind.in_a_row = kind.in_a_row + 1 if kind is self._last else 1
        self._last = kind
        if kind.run is None:
            kind.run = compose(kind.graph)
        family = (call.model, call.guide)
        pays = family not in self._compiled or kind.in_a_row > _PATIENCE
        if pays and self.backend == "inductor" and not kind.compiled:
            self._compiled.add(family)
            kind.compiled = True
            kind.run = self._compile(kind.run, inputs)
        with torch.no_grad():
            return kind.run(inputs)

    def settled(self, kind: Kind) -> bool:
        """Whether the graph runs as it will go on to run: no compilation is still to come."""
        return kind.run is not None and (kind.compiled or self.backend == "eager")

    def repeat(self, kind: Kind, inputs: list[Tensor]) -> list[Tensor]:
        """Run a settled graph again, without a look at its guard."""
        if kind.run is None:
            raise RuntimeError("the graph has not run yet")
        with torch.no_grad():
            return kind.run(inputs)

    def repeat_block(self, kind: Kind, compose: Compose, inputs: list[Tensor]) -> list[Tensor]:
        """Run several steps of a settled graph, composed and compiled as one."""
        if kind.block is None:
            run = compose(kind.graph)
            kind.block = self._compile(run, inputs) if self.backend == "inductor" else run
        with torch.no_grad():
            return kind.block(inputs)

    def _compile(self, run: Run, inputs: list[Tensor]) -> Run:
        missing = why_no_compiler(inputs)
        if missing is None:
            try:
                compiled = compile_run(run, inputs)
                if agree(_outputs(compiled, inputs), _outputs(run, inputs), inputs):
                    return compiled
                missing = "its results differ from the graph's"
            except Exception as error:  # noqa: BLE001  a compiler may raise anything, and the graph runs without it
                missing = str(error).partition("\n")[0]
        self.backend = "eager"
        self.say(f"graphs run without Inductor: {missing}")
        return run

    def _trace(self, shelf: _Shelf, call: Call, recording: Recording, *, gradient: bool) -> None:
        shelf.before = shelf.steady = None
        shelf.unlike = shelf.unsteady = 0
        store = pyro.get_param_store()
        shelf.kinds = [kind for kind in shelf.kinds if kind.guard.lives(store)]
        if len(shelf.kinds) >= _GRAPHS:
            self.refuse(call, _CHANGES)
            return
        try:
            graph = tracing.trace(partial(self.loss, call), call.leaves, recording, gradient=gradient)
        except NotTraceableError as error:
            self.refuse(call, str(error))
            return
        guard = Guard((call.model, call.guide), graph.tensors, _held(recording, store), graph.frozen)
        shelf.kinds.insert(0, Kind(graph, guard))

    def _compare(
        self, shelf: _Shelf, kind: Kind, call: Call, reference: Callable[[], Tensor], *, gradient: bool
    ) -> Tensor:
        """Run the graph and Pyro under the same noise; trust the graph if they agree."""
        graph = kind.graph
        with tracing.rng_preserved([*call.leaves, *graph.tensors]):
            inputs = graph.inputs(call.leaves)
            with tracing.preserved(graph.written), torch.no_grad():
                found = graph.module(*inputs)
            after = torch.get_rng_state()
        value = reference()
        wanted: list[Tensor] = [value.detach()]
        if gradient and value.requires_grad:
            grads = torch.autograd.grad(value, graph.wanted, retain_graph=True, allow_unused=True)
            wanted += [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(graph.wanted, grads, strict=True)]
        if not torch.equal(after, torch.get_rng_state()):
            self.refuse(call, "it draws other random numbers than its trace")
        elif not (agree(found[:1], wanted[:1], inputs) and agree(found[1:], wanted[1:], inputs)):
            self.refuse(call, "its trace does not give the loss and gradients that Pyro gives")
        else:
            kind.checked = True
        return value

    @property
    def num_checked(self) -> int:
        """How many graphs are trusted."""
        return sum(kind.checked for shelf in self._shelves.values() for kind in shelf.kinds)

    def _shelf(self, call: Call) -> _Shelf:
        if call.kind not in self._shelves and len(self._shelves) >= _KINDS:
            del self._shelves[min(self._shelves, key=lambda kind: self._shelves[kind].used)]
        return self._shelves.setdefault(call.kind, _Shelf(used=self._clock))


def _held(recording: Recording, store: Any) -> dict[str, Tensor]:
    """The parameters that a run took from the store."""
    return {name: tensor for name, tensor in recording.parameters.items() if store._params.get(name) is tensor}


def _outputs(run: Run, inputs: list[Tensor]) -> list[Tensor]:
    """What ``run`` returns on copies of the inputs, without a trace left."""
    with tracing.rng_preserved(inputs), torch.no_grad():
        return [output.clone() for output in run([tensor.detach().clone() for tensor in inputs])]
