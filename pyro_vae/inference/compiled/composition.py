"""A graph of loss and gradient, composed with clipping and Adam: one step, or several, as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.inference.compiled.adam import SCHEDULED, Adam, AdamState
from pyro_vae.inference.compiled.backend import Run
from pyro_vae.inference.compiled.call import Call
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.tracing import Graph

__all__ = ["Composition", "learnable", "weighted_loss"]


class Composition:
    """Composes graphs with Adam, which writes parameters and moments in place."""

    def __init__(self, adam: Adam) -> None:
        self.adam = adam

    def rest(self, graph: Graph) -> list[Tensor]:
        """What the composed graph takes after the graph's own inputs: moments, and the numbers that Adam reads."""
        states = self._states(graph)
        return [*[s.m for s in states], *[s.v for s in states], *[self.adam.scheduled[name] for name in SCHEDULED]]

    def step(self, graph: Graph) -> Callable[..., list[Tensor]]:
        """Return one step as a function of the graph's inputs and the rest, which gives loss and norm."""
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

    def block(self, size: int, graph: Graph) -> Run:
        """Return so many steps after each other, as one function of what :meth:`block_inputs` makes."""
        step = self.step(graph)
        first, width = graph.num_arguments, graph.num_inputs - len(graph.tensors)

        def run(inputs: list[Tensor]) -> list[Tensor]:
            parts = [inputs[i * width : (i + 1) * width] for i in range(size)]
            shared = inputs[size * width :]
            tensors, rest = shared[: len(graph.tensors)], shared[len(graph.tensors) :]
            found: list[Tensor] = []
            go: Tensor | None = None
            for part in parts:
                loss, norm = step([*part[:first], *tensors, *part[first:], *rest], go)
                fine = torch.isfinite(loss) & torch.isfinite(norm)
                go = fine if go is None else go & fine
                found += [loss, norm]
            return found

        return run

    def block_inputs(self, graph: Graph, leaves: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Arguments and noise of each step, then what all share: the tensors from outside, and the rest."""
        parts = [graph.inputs(each) for each in leaves]
        first, last = graph.num_arguments, graph.num_arguments + len(graph.tensors)
        changing = [tensor for part in parts for tensor in part[:first] + part[last:]]
        return changing + parts[0][first:last] + self.rest(graph)

    def _states(self, graph: Graph) -> list[AdamState]:
        found = [self.adam.known(leaf) for leaf in graph.wanted]
        return [state for state in found if state is not None]


def weighted_loss(loss: Callable[..., Any], call: Call, leaves: Sequence[Tensor]) -> Any:
    """The loss of a call whose first argument is the weight of the latent sites' log densities."""
    (weight, *args), _ = call.arguments(leaves)

    def weighted(program: Any) -> Any:
        def run(*args: Any) -> Any:
            with KLWeight(weight):
                return program(*args)

        return run

    return loss(weighted(call.model), weighted(call.guide), *args)


def learnable(parameters: Iterable[Tensor], programs: Sequence[Any]) -> list[Tensor]:
    """Pyro's parameters, and those of the programs that are modules, each once."""
    found = {id(p): p for p in parameters}
    for module in programs:
        if isinstance(module, nn.Module):
            found |= {id(p): p for p in module.parameters() if p.requires_grad}
    return list(found.values())
