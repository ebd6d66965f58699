"""A graph of loss and gradient, composed with clipping and Adam: one step, or several, as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.inference.compiled.adam import SCHEDULED, Adam, AdamState
from pyro_vae.inference.compiled.backend import Run, compiled
from pyro_vae.inference.compiled.ranks import Ranks, SharedStep
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Composition"]


class Composition:
    """Composes graphs with Adam, which writes parameters and moments in place.

    Args:
        adam: moves the parameters.
        ranks: the processes that take steps together, if there are several.
    """

    def __init__(self, adam: Adam, ranks: Ranks | None = None) -> None:
        self.adam = adam
        self.ranks = ranks

    def step(self, graph: Graph) -> Callable[..., list[Tensor]]:
        """Return one step as a function of the graph's inputs, then the rest, which gives loss and norm."""
        moved = [i for i, leaf in enumerate(graph.wanted) if self.adam.known(leaf) is not None]
        first_steps = [state.first_step for state in self._states(graph)]
        place = {id(tensor): graph.num_arguments + i for i, tensor in enumerate(graph.tensors)}
        places = [place[id(graph.wanted[i])] for i in moved]
        k, num_inputs = len(moved), graph.num_inputs

        def gradient(inputs: list[Tensor]) -> list[Tensor]:
            loss, *grads = graph.module(*inputs[:num_inputs])
            return [loss, *[grads[i] for i in moved]]

        def rest(inputs: list[Tensor]) -> list[Tensor]:
            return [*[inputs[i] for i in places], *inputs[num_inputs:]]

        def move(inputs: list[Tensor], go: Tensor | None = None) -> list[Tensor]:
            loss, inputs = inputs[0], inputs[1:]
            grads, *columns = (inputs[i * k : (i + 1) * k] for i in range(4))  # parameters and their two moments
            states = [AdamState(*s) for s in zip(*columns, first_steps, strict=True)]
            scheduled = dict(zip(SCHEDULED, inputs[4 * k :], strict=True))
            return [self.adam.update(loss, grads, states, scheduled, go)]

        def run(inputs: list[Tensor], go: Tensor | None = None) -> list[Tensor]:
            found = gradient(inputs)
            return [found[0], *move([*found, *rest(inputs)], go)]

        if self.ranks is None:
            return run
        return SharedStep(self.ranks, [graph.wanted[i] for i in moved], gradient, move, rest)

    def compiled(self, run: Run, inputs: list[Tensor]) -> Run:
        """Compile a function of this composition; raises NotTraceableError."""
        return run.compiled(inputs) if isinstance(run, SharedStep) else compiled(run, inputs)

    def inputs(self, graph: Graph, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The graph's inputs, then the rest: moments, and the numbers that Adam reads."""
        states = self._states(graph)
        moments = [*[s.m for s in states], *[s.v for s in states]]
        return graph.inputs(leaves) + moments + [self.adam.scheduled[name] for name in SCHEDULED]

    def block(self, graph: Graph, size: int) -> Run:
        """Return so many steps after each other, as one function of what :meth:`block_inputs` makes."""
        step, own = self.step(graph), graph.num_inputs - len(graph.tensors)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            shared, found = inputs[size * own :], []
            tensors, rest = shared[: len(graph.tensors)], shared[len(graph.tensors) :]
            go: Tensor | None = None
            for i in range(size):
                part = inputs[i * own : (i + 1) * own]
                arguments, noise = part[: graph.num_arguments], part[graph.num_arguments :]
                loss, norm = step([*arguments, *tensors, *noise, *rest], go)
                fine = torch.isfinite(loss) & torch.isfinite(norm)
                go = fine if go is None else go & fine
                found += [loss, norm]
            return found

        return run

    def block_inputs(self, graph: Graph, leaves: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Arguments and noise of each step, then what all share: the tensors from outside, and the rest."""
        parts = [self.inputs(graph, each) for each in leaves]
        first, last, end = graph.num_arguments, graph.num_arguments + len(graph.tensors), graph.num_inputs
        own = [tensor for part in parts for tensor in part[:first] + part[last:end]]
        return own + parts[0][first:last] + parts[0][end:]

    def _states(self, graph: Graph) -> list[AdamState]:
        """Of the parameters that are learnt: those that Pyro's steps have moved before."""
        found = [self.adam.known(leaf) for leaf in graph.wanted]
        return [state for state in found if state is not None]
