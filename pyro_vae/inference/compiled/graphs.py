"""The graphs of a program's calls, by key: made, found, checked, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import Run
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.notices import LeftToPyro, NotCompiled, Retraced
from pyro_vae.inference.compiled.recording import record
from pyro_vae.inference.compiled.states import (
    CHANGES,
    Checked,
    Compiled,
    Entry,
    Recorded,
    Reference,
    Refused,
    Traced,
    compiled,
)
from pyro_vae.inference.compiled.tracing import Graph, NotTraceableError

__all__ = ["Graphs"]

_GRAPHS = 8  # of one key; a program that needs more changes its Python state all the time
_ENTRIES = 64  # of one cache; the one longest out of use goes for a new one
_PATIENCE = 32  # runs in a row after which a further graph is worth an Inductor compilation

Compose = Callable[[Graph], Run]


class Graphs:
    """Finds, makes, checks and runs the graphs of programs.

    Args:
        loss: the loss of a call on given tensors, as traceable tensor code.
        backend: "inductor" compiles graphs with Inductor, "eager" runs them operation by operation.
        warn: takes each warning once.

    Attributes:
        step: how many runs there have been, by graphs or by Pyro.
    """

    def __init__(
        self, loss: Callable[[Call, Sequence[Tensor]], Any], backend: str, warn: Callable[[Warning], None]
    ) -> None:
        self.loss = loss
        self.backend = backend
        self.warn = warn
        self.step = 0
        self._said: set[str] = set()
        self.retrace()

    def retrace(self) -> None:
        """Forget all graphs, and what was refused."""
        self._entries: dict[Any, Entry] = {}
        self._last: Traced | None = None
        self._compiled: set[Any] = set()  # model and guide of each graph that Inductor compiled

    def __getstate__(self) -> dict[str, Any]:
        """Graphs stay behind: they belong to the tensors of this process."""
        return {name: getattr(self, name) for name in ("loss", "backend", "warn", "step", "_said")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.retrace()

    @property
    def num_checked(self) -> int:
        """How many graphs are trusted."""
        return sum(isinstance(graph, Checked) for entry in self._entries.values() for graph in entry.graphs)

    def find(self, call: Call, reference: Reference, *, gradient: bool, epoch: bool = False) -> Checked | None:
        """Return the graph to run for this call; None if there is none yet that is right.

        Args:
            call: the call.
            reference: Pyro's own loss for it; run without a trace left when the graph is due for a check.
            gradient: whether gradients are checked too.
            epoch: whether the call begins an epoch.
        """
        entry = self._entries.get(call.key)
        if call.key is None or entry is None or entry.refused:
            return None
        entry.used = self.step
        graph = entry.holding()
        if not isinstance(graph, Checked):
            return None
        if graph.is_due(epoch=epoch):
            reason = graph.recheck(call, reference, self.step + 1, gradient=gradient)
            if reason is not None:
                self._drop(entry, graph, call, reason)
                return None
        return graph

    def observe(self, call: Call, reference: Reference, *, gradient: bool) -> Any:
        """Run Pyro's own loss for this call, and use the occasion to record, trace or check a graph for the next."""
        self.step += 1
        if call.key is None:
            self._say(LeftToPyro(f"this call is left to Pyro: {call.obstacle}"))
            return reference()
        entry = self._entry(call)
        if entry.refused:
            return reference()
        graph = entry.holding()
        if graph is not None:
            value, checked = graph.check(call, reference, self.step, gradient=gradient)
            if isinstance(checked, Refused):
                self._refuse(entry, checked)
            else:
                entry.graphs[0] = checked
        elif isinstance(entry.coming, Recorded) and entry.coming.alike and entry.coming.watch.holds():
            self._trace(entry, entry.coming, call, gradient=gradient)  # before the run below: it may write buffers
            value = reference()
        else:
            with record(call.leaves) as recording:
                value = reference()
            before = entry.coming if isinstance(entry.coming, Recorded) else None
            after = Recorded.first(call, recording) if before is None else before.again(call, recording)
            self._advance(entry, after)
        return value

    def run(self, call: Call, graph: Checked, compose: Compose, inputs: list[Tensor]) -> tuple[Checked, list[Tensor]]:
        """Run the graph, composed with what belongs to it, and compiled once that pays; return it and its results.

        Args:
            call: the call that it was found for.
            graph: what :meth:`find` returned.
            compose: makes, of the graph, the function to run; asked once for each graph.
            inputs: that function's inputs.
        """
        graph.in_a_row = graph.in_a_row + 1 if graph is self._last else 1
        self._last = graph
        if graph.function is None:
            graph.function = compose(graph.graph)
        if not self.is_final(graph):
            graph = self._compile(call, graph, inputs)
        return graph, self.repeat(graph, inputs)

    def is_final(self, graph: Checked) -> bool:
        """Whether the graph runs as it will go on to run: no compilation is still to come."""
        return graph.function is not None and (isinstance(graph, Compiled) or self.backend == "eager")

    def repeat(self, graph: Checked, inputs: list[Tensor]) -> list[Tensor]:
        """Run a graph again that is final and not due for a check, with nothing looked at."""
        self.step += 1
        graph.runs += 1
        with torch.no_grad():
            return graph.function(inputs)  # type: ignore[misc]

    def repeat_block(self, graph: Checked, compose: Compose, inputs: list[Tensor], steps: int) -> list[Tensor]:
        """The same for several steps, composed and compiled as one."""
        self.step += steps
        graph.runs += steps
        if graph.block is None:
            run = compose(graph.graph)
            graph.block = self._compiled_or_not(run, inputs) if self.backend == "inductor" else run
        with torch.no_grad():
            return graph.block(inputs)

    # -- transitions -----------------------------------------------------------------------------------------------

    def _entry(self, call: Call) -> Entry:
        if call.key not in self._entries and len(self._entries) >= _ENTRIES:
            del self._entries[min(self._entries, key=lambda key: self._entries[key].used)]
        return self._entries.setdefault(call.key, Entry(used=self.step))

    def _advance(self, entry: Entry, after: Recorded | Refused) -> None:
        if isinstance(after, Refused):
            self._refuse(entry, after)
        else:
            entry.coming = after

    def _trace(self, entry: Entry, recorded: Recorded, call: Call, *, gradient: bool) -> None:
        entry.coming = None
        entry.graphs = [graph for graph in entry.graphs if graph.watch.lives()]
        if len(entry.graphs) + entry.dropped >= _GRAPHS:
            self._refuse(entry, Refused(CHANGES))
            return
        after = recorded.trace(call, self.loss, gradient=gradient)
        if isinstance(after, Refused):
            self._refuse(entry, after)
        else:
            entry.graphs.insert(0, after)

    def _refuse(self, entry: Entry, refused: Refused) -> None:
        entry.graphs.clear()
        entry.coming = refused
        self._say(LeftToPyro(f"this program is left to Pyro: {refused.reason}"))

    def _drop(self, entry: Entry, graph: Checked, call: Call, reason: str) -> None:
        """Forget a graph that was found wrong, and all others of the program: they hold what it held."""
        for key, other in self._entries.items():
            if key[:2] == call.key[:2]:  # type: ignore[index]
                other.graphs.clear()
        entry.dropped += 1
        self._say(
            Retraced(
                f"step {self.step + 1}: {reason}. What it reads from Python has changed since step {graph.right_at}, "
                "and steps since then may have used the old values; it is traced anew. Call retrace() after such "
                "changes, or pass them as tensors"
            )
        )

    def _compile(self, call: Call, graph: Checked, inputs: list[Tensor]) -> Checked:
        """Have a graph compiled if that pays: the first of its program at once, others after many runs in a row."""
        program, graphs = (call.model, call.guide), self._entries[call.key].graphs
        if program in self._compiled and graph.in_a_row <= _PATIENCE:
            return graph
        self._compiled.add(program)
        try:
            after: Checked = graph.compile(inputs)
        except NotTraceableError as error:
            self._run_uncompiled(error)
            return graph
        graphs[graphs.index(graph)] = self._last = after
        return after

    def _compiled_or_not(self, run: Run, inputs: list[Tensor]) -> Run:
        try:
            return compiled(run, inputs)
        except NotTraceableError as error:
            self._run_uncompiled(error)
            return run

    def _run_uncompiled(self, error: NotTraceableError) -> None:
        self.backend = "eager"
        self._say(NotCompiled(f"graphs run without Inductor: {error}"))

    def _say(self, warning: Warning) -> None:
        """Warn, once for each message."""
        if str(warning) not in self._said:
            self._said.add(str(warning))
            self.warn(warning)
