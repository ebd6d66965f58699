"""Steps of SVI on a sequence of batches: by a graph where there is one that is right, else by Pyro."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.inference.compiled.adam import Adam
from pyro_vae.inference.compiled.call import Call, Scalar
from pyro_vae.inference.compiled.composition import Composition
from pyro_vae.inference.compiled.graphs import Graphs
from pyro_vae.inference.compiled.losses import advance, weight_of
from pyro_vae.inference.compiled.parallel import Parallel
from pyro_vae.inference.compiled.ranks import Ranks
from pyro_vae.inference.compiled.recording import parameters_of
from pyro_vae.inference.compiled.states import Checked

__all__ = ["StepLoop"]


class StepLoop:
    """Takes steps with Adam on the loss of a model and guide.

    Args:
        model: a Pyro program.
        guide: its guide.
        elbo: the loss, one that is traceable.
        adam: moves the parameters.
        backend: "inductor" or "eager".
        warn: takes each warning once.
        spared: latent sites that the KL weight leaves alone.
        parallel: this process's part of steps that several take together.
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        elbo: ELBO,
        adam: Adam,
        *,
        backend: str,
        warn: Callable[[Warning], None],
        spared: Set[str] = frozenset(),
        parallel: Parallel | None = None,
    ) -> None:
        self.model, self.guide, self.elbo, self.spared = model, guide, elbo, spared
        self.adam = adam
        self.ranks = None if parallel is None else Ranks(parallel, warn)
        self.composition = Composition(adam, self.ranks)
        tell = warn if self.ranks is None else self.ranks.hear
        self.graphs = Graphs(backend, tell, self.composition.step, self.composition.compiled)
        self.graphs.every_refusal = self.ranks is not None
        self._total: tuple[float, ...] = ()  # of batches of one size on several processes, whatever their shares' sizes
        self._kl_number, self._weight = 1.0, Scalar()

    def schedule(self, args: Sequence[Any], kl_weight: float, lr: float | None, scale: float) -> None:
        """Set the numbers that change from step to step: tensors, so that no graph holds them."""
        self._kl_number = float(kl_weight)
        if self.ranks is not None:
            self._total = (float(scale),)
        self.adam.schedule(self.kl_weight(args).device, float(scale), lr)

    def kl_weight(self, args: Sequence[Any]) -> Tensor:
        """The weight of latent sites at the present step, for these arguments: the run's times the loss's own."""
        return self._weight.tensor(self._kl_number * weight_of(self.elbo), args)

    def steps(self, batches: Iterable[Sequence[Any]], block_size: int, *schedule: Any) -> Iterator[Sequence[Tensor]]:
        """Take the steps of :meth:`run`, each when it is asked for; give its loss and gradient's norm."""
        graph: Checked | None = None
        before: Sequence[Any] | None = None
        for block in _in_blocks(batches, block_size):
            if before is None:
                self.schedule(block[0], *schedule)
            size = len(block)
            known = graph is not None and before is not None and _alike(block[0], before)
            if graph is not None and known and size == block_size > 1 and not graph.is_due(size):
                yield from self._take_block(graph, block)
                continue
            for batch in block:
                if graph is not None and known and not graph.is_due():
                    inputs = self.composition.inputs(graph.graph, self._leaves(batch))
                    yield self.graphs.repeat(graph, inputs)
                    if self.ranks is not None and self.ranks.settle(self.graphs):
                        graph = None
                else:
                    loss, norm, graph = self.take(tuple(batch), epoch=before is None)
                    yield loss, norm
                before, known = batch, True

    def take(self, args: tuple[Any, ...], *, epoch: bool = False) -> tuple[Tensor, Tensor, Checked | None]:
        """Take one step; return its loss, the gradient's norm, and the graph that may be repeated for the next."""
        weight = self.kl_weight(args)
        further = ("step", *self._total)
        call = Call.of((self.model, self.guide, self.elbo), weight, args, {}, *further, spared=self.spared)
        graph = self.graphs.find(call, gradient=True, epoch=epoch)
        advance(self.elbo)
        if graph is None:
            loss, norm = self._take_by_pyro(call)
        else:
            graph, (loss, norm) = self.graphs.run(call, graph, self.composition.inputs(graph.graph, call.leaves))
        if self.ranks is not None and self.ranks.settle(self.graphs):
            graph = None
        return loss, norm, graph if graph is not None and self.graphs.runner.is_final(graph) else None

    def _leaves(self, batch: Sequence[Any]) -> list[Tensor]:
        """The tensors of a call for the next step, which is counted."""
        leaves = [self.kl_weight(batch), *batch]
        advance(self.elbo)
        return leaves

    def _take_block(self, graph: Checked, block: list[Sequence[Any]]) -> Iterator[Sequence[Tensor]]:
        """Take several steps in one graph; give their losses and norms. After one not finite nothing moves."""
        inputs = self.composition.block_inputs(graph.graph, [self._leaves(batch) for batch in block])
        if graph.block is None:
            graph.block = self.graphs.runner.compiled_or_not(self.composition.block(graph.graph, len(block)), inputs)
        found = self.graphs.repeat(graph, inputs, steps=len(block))
        return zip(found[::2], found[1::2], strict=True)

    def _take_by_pyro(self, call: Call) -> tuple[Tensor, Tensor]:
        """Take one step by Pyro's loss and the same update; return loss and norm."""
        with torch.enable_grad(), poutine.trace(param_only=True) as sites:
            loss = self.graphs.observe(call, gradient=True)
        leaves = {id(p): p for p in parameters_of(sites.trace).values()}
        for module in (self.model, self.guide):
            if isinstance(module, nn.Module):
                leaves |= {id(p): p for p in module.parameters() if p.requires_grad}
        learns = leaves and isinstance(loss, Tensor) and loss.requires_grad
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if learns else ()
        every, total = list(leaves.values()), loss
        found: list[Tensor | None] = list(grads)
        if self.ranks is not None:
            loss, total, found = self.ranks.exchange(torch.as_tensor(loss), every, found or [None] * len(every))
        used = [(leaf, grad) for leaf, grad in zip(every, found, strict=False) if grad is not None]
        if not used:
            raise ValueError(say("a model or guide with parameters to learn", "none", "torch.nn.Parameter, pyro.param"))
        states = [self.adam.adopt(leaf) for leaf, _ in used]
        with torch.no_grad():
            norm = self.adam.update(total.detach(), [grad for _, grad in used], states, self.adam.scheduled)
            return loss.detach(), norm


def _in_blocks(batches: Iterable[Sequence[Any]], size: int) -> Iterator[list[Sequence[Any]]]:
    """Put neighbouring batches of one layout together, up to so many; none is asked for before it is needed."""
    block: list[Sequence[Any]] = []
    for batch in batches:
        if not isinstance(batch, (tuple, list)):
            got = type(batch).__name__
            raise TypeError(say("batches that are tuples of arguments", got, "run((x,) for x in batches)"))
        if block and not _alike(batch, block[-1]):
            yield block
            block = []
        block.append(batch)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _alike(batch: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two batches are plain tensors of one layout, so that one graph serves both."""
    plain = all(type(a) is Tensor and not a.requires_grad for a in (*batch, *other))
    return plain and [_layout(a) for a in batch] == [_layout(a) for a in other]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
