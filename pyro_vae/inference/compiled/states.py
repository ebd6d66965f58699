"""The states of a graph: recorded, traced, checked, compiled, or refused. A transition is a method.

A program is first run by Pyro itself, four times at least: under the recorder until two runs read the very same
tensors, once after tracing, and once beside the traced graph under the same noise. Only a graph that gives Pyro's own
loss and gradients on inputs it was not traced on is used from then on, and it is checked again as it is used.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.inference.compiled import tracing
from pyro_vae.inference.compiled.backend import Run, agree
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.recording import Recording, parameters_of, without_effects
from pyro_vae.inference.compiled.tracing import Graph, NotTraceableError
from pyro_vae.inference.compiled.watch import Watch

__all__ = ["CHANGES", "Checked", "Compiled", "Recorded", "Refused", "Traced"]

CHANGES = "numbers or flags that it reads from Python change all the time; pass them as tensors"
_OTHERS = "the tensors that it reads from outside are others at every run"
_RUNS_WITH_OTHERS = 3  # in which a program may create its parameters, say
_RUNS_WITH_CHANGES = 32
_EVERY = 1000  # steps between checks, once they have doubled up to it
_APART = 750  # steps since the last check after which one at the beginning of an epoch is worth its twenty steps' time


@dataclass(frozen=True)
class Refused:
    """The program is left to Pyro."""

    reason: str


@dataclass(frozen=True)
class Recorded:
    """Pyro has run under the recorder.

    Attributes:
        alike: whether the last two runs read the same tensors and left the same scalars.
        others: how many runs have read other tensors than the run before.
        changes: how many have left other scalars.
    """

    recording: Recording
    watch: Watch
    alike: bool = False
    others: int = 0
    changes: int = 0

    @classmethod
    def after(cls, before: Recorded | None, call: Call, recording: Recording) -> Recorded | Refused:
        """The state after one more recorded run."""
        watch = Watch(call.programs, recording.tensors, recording.parameters)
        if recording.obstacle is not None or watch.generator:
            return Refused(recording.obstacle or "it has a random generator of its own")
        if before is None:
            return cls(recording, watch)
        same = list(map(id, before.recording.tensors)) == list(map(id, recording.tensors))
        alike = same and before.watch.holds()
        others, changes = before.others + (not same), before.changes + (same and not alike)
        if others >= _RUNS_WITH_OTHERS or changes >= _RUNS_WITH_CHANGES:
            return Refused(_OTHERS if others >= _RUNS_WITH_OTHERS else CHANGES)
        return cls(recording, watch, alike, others, changes)

    def trace(self, call: Call, *, gradient: bool) -> Traced | Refused:
        """Trace the program; nothing that it writes is left changed."""
        try:
            graph = tracing.trace(call.traceable, call.leaves, self.recording, gradient=gradient)
        except NotTraceableError as error:
            return Refused(str(error).partition("\n")[0])  # Pyro adds the shapes of all sites
        return Traced(graph, Watch(call.programs, graph.tensors, graph.parameters, graph.frozen))


@dataclass(eq=False)
class Traced:
    """There is a graph, which has yet to be found right."""

    graph: Graph
    watch: Watch

    def check(self, call: Call, step: int, *, gradient: bool) -> tuple[Any, Checked | Refused]:
        """Run graph and Pyro under the same noise; return Pyro's value, and the state that follows."""
        value, reason = _compare(self.graph, call, gradient=gradient)
        return value, Checked(self.graph, self.watch, right_at=step) if reason is None else Refused(reason)


@dataclass(eq=False)
class Checked(Traced):
    """The graph gave what Pyro gave, and runs operation by operation.

    Attributes:
        right_at: the step of the last check.
        function: the graph with what its user composes it with.
        block: several steps in one function.
        runs: how often it has run.
        last_check: the run before which it was checked last.
        next_check: the run before which it is checked again.
    """

    right_at: int = 0
    function: Run | None = None
    block: Run | None = None
    runs: int = 0
    last_check: int = 0
    next_check: int = 2

    def is_due(self, runs: int = 1, *, epoch: bool = False) -> bool:
        """Whether a check falls into so many runs from now; ``epoch``: these begin an epoch."""
        return self.runs + runs >= self.next_check or (epoch and self.runs + 1 - self.last_check >= _APART)

    def recheck(self, call: Call, step: int, *, gradient: bool) -> str | None:
        """Compare graph and Pyro again, without a trace left; return how they differ."""
        written, seen = self.graph.written, [*call.leaves, *self.graph.tensors]
        with without_effects(written, seen), poutine.block(), pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                _, reason = _compare(self.graph, call, gradient=gradient)
            except Exception as error:  # noqa: BLE001  Pyro's next run of its own raises it again
                reason = f"Pyro fails: {error}"
        if reason is None:
            now = self.runs + 1
            self.right_at, self.last_check = step, now
            near = _EVERY - _APART  # an epoch's check stands for the thousandth's shortly after it
            self.next_check = 2 * now if 2 * now < _EVERY else (now + near) // _EVERY * _EVERY + _EVERY
        return reason

    def compile(self, code: Run) -> Compiled:
        """The same graph, run by ``code``."""
        return Compiled(**{**vars(self), "function": code})


class Compiled(Checked):
    """The graph runs as Inductor's code."""


def _compare(graph: Graph, call: Call, *, gradient: bool) -> tuple[Any, str | None]:
    """Run the graph without a trace left, then Pyro, under the same noise.

    Returns:
        Pyro's value, and how the graph differs from Pyro, a clause; None if it does not.
    """
    with without_effects(graph.written, [*call.leaves, *graph.tensors]):
        inputs = graph.inputs(call.leaves)
        with torch.no_grad():
            found = graph.module(*inputs)
        after = torch.get_rng_state()
    with poutine.trace(param_only=True) as sites:
        value = call.reference()
    if not isinstance(value, Tensor):
        return value, "its loss is no tensor"
    wanted = [value.detach()]
    if gradient and value.requires_grad:
        grads = torch.autograd.grad(value, graph.wanted, retain_graph=True, allow_unused=True) if graph.wanted else ()
        wanted += [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(graph.wanted, grads, strict=True)]
    if not torch.equal(after, torch.get_rng_state()):
        return value, "it draws other random numbers than its trace"
    if not {*map(id, parameters_of(sites.trace).values())} <= {*map(id, graph.parameters.values())}:
        return value, "it reads other parameters than its trace"
    if not (agree(found[:1], wanted[:1], inputs) and agree(found[1:], wanted[1:], inputs)):
        return value, "its trace does not give the loss and gradients that Pyro gives"
    return value, None
