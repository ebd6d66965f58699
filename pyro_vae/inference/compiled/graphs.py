"""The graphs of a program's calls, by key: made, found, checked, run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pyro_vae.inference.compiled.backend import Run, compiled, usable_cache
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.recording import record
from pyro_vae.inference.compiled.running import Runner
from pyro_vae.inference.compiled.states import CHANGES, Checked, Recorded, Refused, Traced
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Graphs", "LeftToPyro", "NotCompiled", "Retraced"]

_GRAPHS = 8  # of one key; a program that needs more changes its Python state all the time
_ENTRIES = 64  # of one cache; the one longest out of use goes for a new one
_CHANGED = (
    "What it reads from Python has changed since step {}, and steps since then may have used the old values; it is "
    "traced anew. Call retrace() after such changes, or pass them as tensors"
)


class LeftToPyro(UserWarning):
    """A program, or a call of it, is run by Pyro."""


class NotCompiled(UserWarning):
    """Graphs run operation by operation, for Inductor cannot be used."""


class Retraced(UserWarning):
    """A graph was found wrong while in use, and dropped."""


@dataclass
class _Entry:
    """What there is for one key: graphs, the latest used first, and how far the next one has come."""

    graphs: list[Traced] = field(default_factory=list)
    coming: Recorded | Refused | None = None
    dropped: int = 0
    used: int = 0  # the step at which it was last asked for

    def holding(self) -> Traced | None:
        """The graph whose watch holds, put first; None if there is none."""
        for graph in self.graphs:
            if graph.watch.holds():
                if graph is not self.graphs[0]:
                    self.graphs.remove(graph)
                    self.graphs.insert(0, graph)
                return graph
        return None


class _Cache(dict[Any, _Entry]):
    """Entries by key: model, guide, and what else a graph depends on."""

    def entry(self, key: Any, step: int) -> _Entry:
        """The entry of a key, made if there is none; the one longest out of use goes for one too many."""
        if key not in self and len(self) >= _ENTRIES:
            del self[min(self, key=lambda other: self[other].used)]
        entry = self.setdefault(key, _Entry())
        entry.used = step
        return entry

    def drop(self, key: Any) -> None:
        """Forget a graph that was found wrong, and all others of its program: they hold what it held."""
        for other, entry in self.items():
            if other[:2] == key[:2]:
                entry.graphs.clear()
        self[key].dropped += 1


class Graphs:
    """Finds, makes, checks and runs the graphs of programs.

    Args:
        backend: "inductor", or "eager" to run graphs operation by operation.
        warn: takes each warning once.
        compose: makes, of a graph, the function to run.
        compile: compiles such a function.

    Attributes:
        runner: runs them.
        step: runs so far, by graphs or by Pyro.
        every_refusal: whether to warn of each layout that is refused, for others to follow.
    """

    def __init__(
        self,
        backend: str,
        warn: Callable[[Warning], None],
        compose: Callable[[Graph], Run],
        compile: Callable[[Run, list[Tensor]], Run] = compiled,
    ) -> None:
        self.runner = Runner(backend, compose, compile, self._not_compiled)
        self.warn = warn
        self.step = 0
        self.every_refusal = False
        self._said: set[str] = set()
        self.retrace()

    def retrace(self) -> None:
        """Forget all graphs, and what was refused."""
        self._entries = _Cache()
        self._key: Any = None  # of the latest call
        self.runner.forget()

    def __getstate__(self) -> dict[str, Any]:
        """Graphs stay behind: they belong to the tensors of this process."""
        return {name: getattr(self, name) for name in ("runner", "warn", "step", "every_refusal", "_said")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.retrace()

    @property
    def num_checked(self) -> int:
        """How many graphs have been found right and are in use."""
        return sum(isinstance(graph, Checked) for entry in self._entries.values() for graph in entry.graphs)

    def find(self, call: Call, *, gradient: bool, epoch: bool = False) -> Checked | None:
        """Return the graph to run for this call, checked if it is due; None if there is none yet that is right."""
        self._key = None if call.obstacle else call.key
        entry = None if call.obstacle else self._entries.get(call.key)
        if entry is None or isinstance(entry.coming, Refused):
            return None
        entry.used = self.step
        graph = entry.holding()
        if not isinstance(graph, Checked):
            return None
        if graph.is_due(epoch=epoch):
            reason = graph.recheck(call, self.step + 1, gradient=gradient)
            if reason is not None:
                self._entries.drop(call.key)
                self._say(Retraced(f"step {self.step + 1}: {reason}. {_CHANGED.format(graph.right_at)}"))
                return None
        return graph

    def follow(self, warning: Warning) -> None:
        """Do with the graphs of the latest call what another process, which warns of it, has done with its own."""
        self._said.add(str(warning))
        if isinstance(warning, NotCompiled):
            self.runner.backend = "eager"
        elif self._key is not None:
            entry = self._entries.entry(self._key, self.step)
            if isinstance(warning, Retraced):
                self._entries.drop(self._key)
            else:
                entry.graphs.clear()
                entry.coming = Refused(str(warning))

    def observe(self, call: Call, *, gradient: bool) -> Any:
        """Run Pyro's own loss for this call, and use the occasion to record, trace or check a graph for the next."""
        self.step += 1
        if call.obstacle:
            self._say(LeftToPyro(f"this call is left to Pyro: {call.obstacle}"))
            return call.reference()
        entry = self._entries.entry(call.key, self.step)
        coming = entry.coming
        if isinstance(coming, Refused):
            return call.reference()
        graph = entry.holding()
        after: Traced | Recorded | Refused
        if graph is not None:
            entry.graphs.remove(graph)
            value, after = graph.check(call, self.step, gradient=gradient)
        elif coming is not None and coming.alike and coming.watch.holds():
            after = self._trace(entry, coming, call, gradient=gradient)  # before the run below: it may write buffers
            value = call.reference()
        else:
            usable_cache()  # without one torch does not import what a recording needs
            with record(call.leaves) as recording:
                value = call.reference()
            after = Recorded.after(coming, call, recording)
        if isinstance(after, Traced):
            entry.graphs.insert(0, after)
        else:
            entry.coming = after
        if isinstance(after, Refused):
            entry.graphs.clear()
            refused = LeftToPyro(f"this program is left to Pyro: {after.reason}")
            if self.every_refusal:
                self._said.discard(str(refused))
            self._say(refused)
        return value

    def run(self, call: Call, graph: Checked, inputs: list[Tensor]) -> tuple[Checked, list[Tensor]]:
        """Run a graph that :meth:`find` returned, compiled once that pays; return it and its results."""
        self.step += 1
        after, results = self.runner.run(call, graph, inputs)
        if after is not graph:
            graphs = self._entries[call.key].graphs
            graphs[graphs.index(graph)] = after
        return after, results

    def repeat(self, graph: Checked, inputs: list[Tensor], *, steps: int = 1) -> list[Tensor]:
        """Run a graph, or its block of steps, that is final and not due for a check, with nothing looked at."""
        self.step += steps
        return self.runner.repeat(graph, inputs, steps=steps)

    def _trace(self, entry: _Entry, recorded: Recorded, call: Call, *, gradient: bool) -> Traced | Refused:
        entry.coming = None
        entry.graphs = [graph for graph in entry.graphs if graph.watch.lives()]
        if len(entry.graphs) + entry.dropped >= _GRAPHS:
            return Refused(CHANGES)
        return recorded.trace(call, gradient=gradient)

    def _not_compiled(self, reason: str) -> None:
        self._say(NotCompiled(f"graphs run without Inductor: {reason}"))

    def _say(self, warning: Warning) -> None:
        """Warn, once for each message."""
        if str(warning) not in self._said:
            self._said.add(str(warning))
            self.warn(warning)
