"""What takes the steps of a training run: Pyro and a torch optimiser, alone or with other processes, or one graph."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from operator import itemgetter
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.checks import say
from pyro_vae.datasets.shards import Shards
from pyro_vae.inference.compiled.kl_weight import KLWeight
from pyro_vae.inference.compiled.parallel import Parallel
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.inference.target.program import Program, sample_sites
from pyro_vae.inference.variational.training_state import TrainingState, load_optimiser, numbered, save_optimiser

__all__ = ["Data", "GraphStepper", "PyroStepper", "Stepper", "batches"]

Data = tuple[Tensor, ...]


def batches(data: Data, batch_size: int, *, shuffle: bool) -> Iterator[Data]:
    """Go through the data once, in random order or in their own."""
    if isinstance(data[0], Shards):
        yield from ((data[0][i : i + batch_size],) for i in data[0].starts(batch_size))
        return
    N = len(data[0])
    shuffle = shuffle and batch_size < N  # one batch keeps its order: a guide may have parameters of each datum's own
    order = torch.randperm(N).to(data[0].device) if shuffle else torch.arange(N, device=data[0].device)
    for rows in order.split(batch_size):
        yield tuple(part[rows] for part in data)


class Stepper:
    """Takes gradient steps on a loss, and says which data are this process's: all of them, if it is alone.

    To write one, define ``step``, ``set_learning_rate``, ``save`` and ``load``.

    Args:
        programs: model and guide.
        kl_weight: the weight of the KL term at the present step.
        parallel: this process's part, where there are several.

    Attributes:
        first_steps_differ: whether its first steps may differ from later ones in the last bit.
    """

    first_steps_differ = False

    def __init__(
        self, programs: tuple[Program, Program], kl_weight: KLWeight, parallel: Parallel | None = None
    ) -> None:
        self.programs = programs
        self.kl_weight = kl_weight
        self.parallel = parallel

    def step(self, batch: Data, total: int) -> float:
        """Take one step; return the loss of this process's part of the batch, summed over its data.

        Args:
            batch: this process's part.
            total: data in the whole batch.

        Raises:
            FloatingPointError: if the loss or its gradient is not finite, before the weights have moved.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(self, batch, total) -> float")

    def steps(self, shares: Iterable[tuple[Data, int]]) -> float:
        """Take a step on each batch; return the losses' sum.

        Args:
            shares: this process's part of each batch, and how many data the whole batch has.

        Raises:
            FloatingPointError: as ``step``.
        """
        return sum(self.step(batch, total) for batch, total in shares)

    def set_learning_rate(self, lr: float) -> None:
        """Take the next steps with this learning rate."""
        raise NotImplementedError(f"{type(self).__name__} must define set_learning_rate(self, lr)")

    def save(self, state: TrainingState) -> None:
        """Add the optimiser's state."""
        raise NotImplementedError(f"{type(self).__name__} must define save(self, state)")

    def load(self, state: TrainingState) -> None:
        """Take up what ``save`` added.

        Raises:
            ValueError: if another kind of stepper saved it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define load(self, state)")

    def batches(self, data: Data, batch_size: int) -> Iterator[tuple[Data, int]]:
        """This process's part of each batch of an epoch, and how many data the whole batch has."""
        if isinstance(data[0], Shards):
            return self._of_shards(data[0], batch_size)
        if self.parallel is not None:
            return self.parallel.batches(data, batch_size)
        return ((batch, len(batch[0])) for batch in batches(data, batch_size, shuffle=True))

    def _of_shards(self, shards: Shards, batch_size: int) -> Iterator[tuple[Data, int]]:
        number, size = (0, 1) if self.parallel is None else (self.parallel.rank, self.parallel.size)
        with nullcontext() if self.parallel is None else self.parallel.own_noise():
            for batch, total in shards.epoch(batch_size, number, size):
                yield (batch,), total

    def share(self, data: Data) -> Data:
        """This process's rows of all data."""
        return data if self.parallel is None else self.parallel.share(data)

    def sum(self, value: float, like: Tensor) -> float:
        """Add a number up over all processes."""
        return value if self.parallel is None else self.parallel.sum(value, like)

    def must_be_finite(self, loss: float, norm: Tensor, batch: Data) -> None:
        """Check a step before it is taken.

        Raises:
            FloatingPointError: if the loss or the gradient's norm is not finite; the site is named.
        """
        if not (math.isfinite(loss) and bool(norm.isfinite())):
            raise FloatingPointError(_broken_site(*self.programs, batch))


class PyroStepper(Stepper):
    """Pyro's loss and gradient, torch's optimiser."""

    def __init__(
        self,
        programs: tuple[Program, Program],
        kl_weight: KLWeight,
        loss: Any,
        parameters: Sequence[Tensor],
        *,
        optimiser: torch.optim.Optimizer,
        clip_norm: float,
        parallel: Parallel | None = None,
    ) -> None:
        super().__init__(programs, kl_weight, parallel)
        self.model, self.guide = map(kl_weight, programs)
        self.loss = loss
        self.optimiser = optimiser
        self.parameters = parameters
        self.clip_norm = clip_norm

    def step(self, batch: Data, total: int) -> float:
        """Take one step of the optimiser along the clipped gradient of the loss a datum."""
        self.optimiser.zero_grad()
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Encountered (NaN|\\+inf|-inf|inf)", UserWarning)  # must_be_finite says
            value = self.backward(batch, total)
        self.must_be_finite(value, nn.utils.clip_grad_norm_(self.parameters, self.clip_norm), batch)
        self.optimiser.step()
        return value

    def backward(self, batch: Data, total: int) -> float:
        """Leave the gradient of the whole batch's loss a datum with the parameters; return this process's loss."""
        value = float(self.loss.loss_and_grads(self.model, self.guide, *batch))
        if all(p.grad is None for p in self.parameters) and math.isfinite(value):
            # Pyro differentiates only where a program names a parameter; modules need not be named here
            loss = self.loss.differentiable_loss(self.model, self.guide, *batch)
            if isinstance(loss, Tensor) and loss.requires_grad:
                value = float(loss.detach())
                loss.backward()
        if self.parallel is not None:
            own, like = [p.grad for p in self.parameters], self.parameters[0]
            loss, _, grads, _ = self.parallel.exchange(like.new_tensor(value), self.parameters, own)
            for p, grad in zip(self.parameters, grads, strict=True):
                p.grad = grad
            value = value if math.isfinite(loss) else float(loss)
        for p in self.parameters:
            if p.grad is not None:
                p.grad /= total
        return value

    def set_learning_rate(self, lr: float) -> None:
        """Take the next steps with this learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def save(self, state: TrainingState) -> None:
        """Add the optimiser's state."""
        save_optimiser(self.optimiser, state)

    def load(self, state: TrainingState) -> None:
        """Take up the optimiser's state."""
        _same_kind(state, graph=False)
        load_optimiser(self.optimiser, state)


class GraphStepper(Stepper):
    """Loss, gradient, clipping and Adam as one graph."""

    first_steps_differ = True

    def __init__(
        self,
        programs: tuple[Program, Program],
        kl_weight: KLWeight,
        graph: CompiledStep,
        parallel: Parallel | None = None,
    ) -> None:
        super().__init__(programs, kl_weight, parallel)
        self.graph = graph
        self.lr: float | None = None

    def set_learning_rate(self, lr: float) -> None:
        """Take the next steps with this learning rate."""
        self.lr = lr

    def step(self, batch: Data, total: int) -> float:
        """Run the graph, which moves nothing where loss or gradient is not finite."""
        return self.steps([(batch, total)])

    def steps(self, shares: Iterable[tuple[Data, int]]) -> float:
        """Run the graph, batches of one size in one call."""
        losses: list[float] = []
        batch: Data = ()

        def noted(group: Iterable[tuple[Data, int]]) -> Iterator[Data]:
            nonlocal batch
            for batch, _ in group:
                yield batch

        for total, group in itertools.groupby(shares, key=itemgetter(1)):
            with pyro.validation_enabled(False):
                found = self.graph.run(
                    noted(group), kl_weight=float(self.kl_weight.weight), lr=self.lr, scale=1 / total
                ).tolist()
            self.must_be_finite(found[-1], self.graph.grad_norm, batch)
            losses += found
        return sum(losses)

    def save(self, state: TrainingState) -> None:
        """Add Adam's moments."""
        adam = self.graph.state_dict()
        state.numbers["adam"] = {name: adam[name] for name in ("num_steps", "lr", "first_steps")}
        state.tensors |= {f"adam.{i}.{k}": t for i, pair in enumerate(adam["moments"]) for k, t in enumerate(pair)}

    def load(self, state: TrainingState) -> None:
        """Take up Adam's moments."""
        _same_kind(state, graph=True)
        flat = numbered(state.tensors, "adam")
        moments = list(zip(flat[::2], flat[1::2], strict=True))
        self.graph.load_state_dict({**state.numbers["adam"], "moments": moments})


def _same_kind(state: TrainingState, *, graph: bool) -> None:
    if ("adam" in state.numbers) != graph:
        kinds = ("a torch optimiser", "a graph")
        remedy = "the settings of the run that saved it"
        raise ValueError(say(f"the state of {kinds[graph]}", f"that of {kinds[not graph]}", remedy))


def _broken_site(model: Program, guide: Program, batch: Data) -> str:
    """Name the first site whose density is not finite at the present weights."""
    with torch.no_grad(), pyro.validation_enabled(False):
        proposed = poutine.trace(guide).get_trace(*batch)
        joint = poutine.trace(poutine.replay(model, trace=proposed)).get_trace(*batch)
        for trace, side in ((proposed, "guide"), (joint, "model")):
            for name, site in sample_sites(trace).items():
                density = site["fn"].log_prob(site["value"])
                if not bool(torch.isfinite(density).all()):
                    kind = "NaN" if bool(density.isnan().any()) else "infinite"
                    return f"a {kind} log density at site {name!r} of the {side}"
    last = list(sample_sites(joint))[-1]
    return f"a gradient that is not finite, with finite densities up to site {last!r}"
