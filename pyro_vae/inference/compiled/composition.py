"""A graph of loss and gradient, composed with clipping and Adam: one step, or several, as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.inference.compiled.adam import SCHEDULED, Adam, AdamState
from pyro_vae.inference.compiled.backend import Run
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Composition"]


class Composition:
    """Composes graphs with Adam, which writes parameters and moments in place."""

    def __init__(self, adam: Adam) -> None:
        self.adam = adam

    def step(self, graph: Graph) -> Callable[..., list[Tensor]]:
        """Return one step as a function of the graph's inputs, then the rest, which gives loss and norm."""
        moved = [i for i, leaf in enumerate(graph.wanted) if self.adam.known(leaf) is not None]
        first_steps = [state.first_step for state in self._states(graph)]
        place = {id(tensor): graph.num_arguments + i for i, tensor in enumerate(graph.tensors)}
        places = [place[id(graph.wanted[i])] for i in moved]
        k, num_inputs = len(moved), graph.num_inputs

        def run(inputs: list[Tensor], go: Tensor | None = None) -> list[Tensor]:
            loss, *grads = graph.module(*inputs[:num_inputs])
            parameters, rest = [inputs[i] for i in places], inputs[num_inputs:]
            states = [AdamState(*s) for s in zip(parameters, rest[:k], rest[k : 2 * k], first_steps, strict=True)]
            scheduled = dict(zip(SCHEDULED, rest[2 * k :], strict=True))
            return [loss, self.adam.update(loss, [grads[i] for i in moved], states, scheduled, go)]

        return run

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
