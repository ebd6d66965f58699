"""Several runs of one program as one: parameters, data and noise stacked, and Adam over all of them at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.compiled.adam import Adam
from pyro_vae.inference.compiled.backend import NotTraceableError, Run, agree, compiled, one_by_one
from pyro_vae.inference.compiled.call import Call, Scalar
from pyro_vae.inference.compiled.composition import Composition
from pyro_vae.inference.compiled.losses import advance, must_be_traceable, weight_of
from pyro_vae.inference.compiled.stacked_tensors import StackedTensors
from pyro_vae.inference.compiled.states import CHANGES
from pyro_vae.inference.compiled.tracing import Graph, trace
from pyro_vae.inference.compiled.vectorising import draws_noise, recorded, vectorised
from pyro_vae.inference.compiled.watch import Watch
from pyro_vae.randomness import fork_rng

__all__ = ["StackedSteps"]

Programs = tuple[Any, Any, Any]  # model, guide and loss of a run


class StackedSteps:
    """Steps of SVI with Adam of R runs that differ in parameters, data order and noise only.

    The first run's loss and gradient are traced; the graph is vectorised over the runs, and the sum of their losses
    has each run's own gradient, so that Adam moves each as if it were alone. The runs' parameters become views of the
    stacked ones; :meth:`release` gives them memory of their own again.

    Args:
        programs: model, guide and loss of each run.
        parameters: what each run learns.
        generators: each run's noise; its state before training is that of torch's own generator in a run alone.
        lr: Adam's learning rate.
        backend: "inductor" or "eager".

    Raises:
        NotTraceableError: here, or at a step: if these runs cannot be one graph, or it is not what Pyro gives.
    """

    def __init__(
        self,
        programs: Sequence[Programs],
        parameters: Sequence[Sequence[Tensor]],
        generators: Sequence[torch.Generator],
        *,
        lr: float,
        backend: str,
    ) -> None:
        for _, _, loss in programs:
            must_be_traceable(loss)
        self._tensors = StackedTensors(parameters)
        if len({id(loss) for _, _, loss in programs if hasattr(loss, "advance")}) not in (0, len(programs)):
            raise NotTraceableError("runs share an objective that counts its steps")
        self.programs = programs
        self.generators = generators
        self.backend = backend
        self._adam = Adam(lr, (0.9, 0.999), 1e-8, 0.0, None)
        self._composition = Composition(self._adam)
        self._weight = Scalar()
        self._watches: list[Watch] = []
        self._graphs: dict[torch.Size, tuple[Graph, Run]] = {}

    def step(self, batches: Sequence[Tensor], *, scale: float, check: bool = False) -> None:
        """Take a step of every run.

        Args:
            batches: the runs' batches, ``(R, B, *D)`` each.
            scale: factor of each gradient.
            check: whether to compare loss and gradient of every run with Pyro's first, under the same noise.

        Raises:
            FloatingPointError: if a loss or gradient is not finite; then no run has moved.
            NotTraceableError: as above.
        """
        weight = self._weight.tensor(weight_of(self.programs[0][2]), batches)
        leaves, layout = [weight, *batches], batches[0].shape
        graph, code = self._graphs.get(layout, (None, None))
        if graph is None:
            graph, check = self._graph(leaves), True
        self._adam.schedule(batches[0].device, scale, None)
        if check:
            self._check(graph, leaves)
        inputs = self._composition.inputs(graph, leaves)
        if code is None:
            code = self._code(graph, inputs)
            self._graphs[layout] = graph, code
        with torch.no_grad():
            loss, norm = code(inputs)
        for _, _, elbo in self.programs:
            advance(elbo)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise FloatingPointError("a loss or gradient of one of the runs is not finite")

    def release(self) -> None:
        """Give every run's parameters memory of their own."""
        self._tensors.release()

    def must_be_as_traced(self) -> None:
        """See that what the runs read from Python is what it was.

        Raises:
            NotTraceableError: if it is not.
        """
        if not all(watch.holds() for watch in self._watches):
            raise NotTraceableError(CHANGES)

    # -- the graph -----------------------------------------------------------------------------------------------

    def _graph(self, leaves: Sequence[Tensor]) -> Graph:
        """The first run's graph, vectorised over all."""
        calls = [self._call(r, leaves) for r in range(len(self.programs))]
        recordings, watches = zip(*[recorded(call) for call in calls], strict=True)
        if not all(watch.reads_what(watches[0]) for watch in watches):
            raise NotTraceableError("the runs read different numbers or flags from Python")
        self._watches += watches
        graph = trace(calls[0].traceable, calls[0].leaves, recordings[0], gradient=True)
        if any(map(draws_noise, graph.module.graph.nodes)) or graph.written:  # type: ignore[attr-defined]
            raise NotTraceableError("it draws noise that depends on values, or writes to tensors from outside")
        frozen = {id(tensor) for tensor in graph.frozen}
        tensors, dims = self._tensors.stack([recording.tensors for recording in recordings], frozen)
        noise = [self._draw(draw) for draw in graph.draws]
        in_dims = (None, *[0] * (len(leaves) - 1), *dims, *[0] * len(noise))
        states = [generator.get_state() for generator in self.generators]
        module = vectorised(graph.module, in_dims, [*leaves, *tensors, *[draw() for draw in noise]])
        _set_states(self.generators, states)
        wanted = [self._tensors.of(leaf) for leaf in graph.wanted]
        for leaf in wanted:
            self._adam.adopt(leaf)
        return replace(graph, module=module, num_arguments=len(leaves), tensors=tensors, wanted=wanted, draws=noise)

    def _call(self, run: int, leaves: Sequence[Tensor]) -> Call:
        weight, *batches = leaves
        call = Call.of(self.programs[run], weight, tuple(part[run] for part in batches), {}, "step")
        if call.obstacle:
            raise NotTraceableError(call.obstacle)
        return call

    def _draw(self, draw: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.stack([draw(generator) for generator in self.generators])

    def _code(self, graph: Graph, inputs: list[Tensor]) -> Run:
        """What runs a step: compiled for the layout that comes first, operation by operation for the others."""
        if self.backend == "inductor" and not self._graphs:
            return compiled(self._composition.step(graph), inputs)
        module = one_by_one(graph.module, inputs[: graph.num_inputs])
        return self._composition.step(replace(graph, module=module))

    def _check(self, graph: Graph, leaves: Sequence[Tensor]) -> None:
        """Compare with Pyro's loss and gradient of every run under the noise of the step to come."""
        states = [generator.get_state() for generator in self.generators]
        inputs = graph.inputs(leaves)
        with torch.no_grad():
            total, *grads = graph.module(*inputs)
        values = []
        for run, (before, generator) in enumerate(zip(states, self.generators, strict=True)):
            own = [self._tensors.of_run(run, leaf) for leaf in graph.wanted]
            with fork_rng():
                torch.set_rng_state(before)
                value = self._call(run, leaves).reference()
                wanted = torch.autograd.grad(value, own, allow_unused=True)
                same_noise = torch.equal(torch.get_rng_state(), generator.get_state())
            wanted = tuple(torch.zeros_like(t) if g is None else g for t, g in zip(own, wanted, strict=True))
            if not (same_noise and agree([grad[run] for grad in grads], wanted, inputs)):
                raise NotTraceableError("side by side the runs do not give the gradients that Pyro gives")
            values.append(value.detach())
        _set_states(self.generators, states)
        if not agree([total], [torch.stack(values).sum()], inputs):
            raise NotTraceableError("side by side the runs do not give the losses that Pyro gives")


def _set_states(generators: Sequence[torch.Generator], states: Sequence[Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
