"""How graphs are run: operation by operation at first, compiled once that pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.compiled.backend import NotTraceableError, Run, one_by_one
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.states import Checked, Compiled
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Runner"]

_PATIENCE = 32  # runs in a row after which a further graph is worth an Inductor compilation


class Runner:
    """Runs graphs, and has them compiled.

    Args:
        backend: "inductor", or "eager" to run graphs operation by operation.
        compose: makes, of a graph, the function to run.
        compile: compiles such a function for inputs like these, or raises NotTraceableError.
        failed: is told why nothing is compiled any more.
    """

    def __init__(
        self,
        backend: str,
        compose: Callable[[Graph], Run],
        compile: Callable[[Run, list[Tensor]], Run],
        failed: Callable[[str], None],
    ) -> None:
        self.backend = backend
        self._compose, self._compile, self._failed = compose, compile, failed
        self.forget()

    def forget(self) -> None:
        """Forget which graphs ran: they are gone."""
        self._compiled: set[Any] = set()  # model and guide of each graph that Inductor compiled
        self._last: Checked | None = None
        self._in_a_row = 0  # runs of the last graph

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": set(), "_last": None, "_in_a_row": 0}

    def run(self, call: Call, graph: Checked, inputs: list[Tensor]) -> tuple[Checked, list[Tensor]]:
        """Run a graph, compiled once that pays; return it as it is to run the next time, and its results."""
        self._in_a_row = self._in_a_row + 1 if graph is self._last else 1
        if graph.function is None:
            if self.backend == "eager":
                graph.graph.module = one_by_one(graph.graph.module, inputs[: graph.graph.num_inputs])
            graph.function = self._compose(graph.graph)
        program = (call.model, call.guide)
        if not self.is_final(graph) and (program not in self._compiled or self._in_a_row > _PATIENCE):
            self._compiled.add(program)
            code = self.compiled_or_not(graph.function, inputs)
            if self.backend == "inductor":
                graph = graph.compile(code)
        self._last = graph
        return graph, self.repeat(graph, inputs)

    def is_final(self, graph: Checked) -> bool:
        """Whether the graph runs as it will go on to run: no compilation is still to come."""
        return graph.function is not None and (isinstance(graph, Compiled) or self.backend == "eager")

    def repeat(self, graph: Checked, inputs: list[Tensor], *, steps: int = 1) -> list[Tensor]:
        """Run a graph, or its block of steps, as it is."""
        graph.runs += steps
        with torch.no_grad():
            return (graph.function if steps == 1 else graph.block)(inputs)  # type: ignore[misc]

    def compiled_or_not(self, run: Run, inputs: list[Tensor]) -> Run:
        """Compile a function; where that cannot be done, say so, compile nothing any more, and return it as it is."""
        if self.backend == "inductor":
            try:
                return self._compile(run, inputs)
            except NotTraceableError as error:
                self.backend = "eager"
                self._failed(str(error))
        return run
