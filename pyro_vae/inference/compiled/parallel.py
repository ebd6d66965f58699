"""Steps that several processes take together: who has which rows, and the one exchange between gradient and Adam."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.distributed import size
from pyro_vae.randomness import fork_rng

__all__ = ["Parallel"]


class Parallel:
    r"""This process's part of a data-parallel run.

    A batch of size B is cut into one share a process. Each takes the gradient of its share's loss; their sum, by one
    exchange of one flat buffer, is the gradient of the whole batch: :math:`\sum_p \nabla \ell_p`. Beside it travels
    which parameters have a gradient, the loss, and whatever small numbers the processes have to tell each other.

    Args:
        parameters: what is learnt; from here on, as the process of rank 0 has it.
        buffers: what else the modules hold; likewise.

    Attributes:
        rank: this process's number.
        size: how many there are.
    """

    def __init__(self, parameters: Sequence[Tensor], buffers: Iterable[Tensor] = ()) -> None:
        self.rank, self.size = group.get_rank(), group.get_world_size()
        self.same([*parameters, *buffers])
        self._slots = {id(parameter): i for i, parameter in enumerate(parameters)}
        self._parameters = list(parameters)  # which keeps their ids
        self._buffer = torch.empty(0)
        self._views: list[Tensor] = []

    @classmethod
    def of(cls, parameters: Sequence[Tensor], buffers: Iterable[Tensor] = ()) -> Parallel | None:
        """Return the part of this process, or None if it is alone."""
        return cls(parameters, buffers) if size() > 1 else None

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have on the process of rank 0; those that have them are not written to."""
        for tensor in map(Tensor.detach, tensors):
            wanted = tensor.clone(memory_format=torch.contiguous_format)
            group.broadcast(wanted, 0)
            if not torch.equal(wanted, tensor):  # a graph may hold the values of a mask, and counts writes to it
                tensor.copy_(wanted)

    def batches(self, data: tuple[Any, ...], batch_size: int) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """This process's share of each batch of an epoch, and the size of the whole batch.

        All draw the same order, then noise of their own, and end in the same random state, that of one process without
        noise: so an epoch that begins from a checkpoint is the one that would have followed. A last batch with fewer
        data than processes is left out.
        """
        order = torch.randperm(len(data[0])) if batch_size < len(data[0]) else torch.arange(len(data[0]))
        order = order.to(data[0].device)
        with self.own_noise():
            for rows in order.split(batch_size):
                if len(rows) >= self.size:
                    share = rows.tensor_split(self.size)[self.rank]
                    yield tuple(part[share] for part in data), len(rows)

    @contextmanager
    def own_noise(self) -> Iterator[None]:
        """Draw from a stream of this process's own; then go on with the one that all have in common."""
        with fork_rng():
            torch.manual_seed(int(torch.randint(2**62, ())) + self.rank)
            yield

    def share(self, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """This process's rows of all data, in order."""
        return tuple(part.tensor_split(self.size)[self.rank] for part in data)

    @torch.no_grad()
    def exchange(
        self, loss: Tensor, leaves: Sequence[Tensor], grads: Sequence[Tensor | None], told: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor | None], list[float]]:
        """Add up loss and gradients over all processes, which call this together.

        Args:
            loss: of this process's share.
            leaves: parameters of the run.
            grads: the gradient by each; None where this share has none.
            told: small numbers, as many on each process.

        Returns:
            The loss of this share, or that of all where it is not finite; the loss of all; the gradients of all, until
            the next call, None where no process has one; the sums of ``told``.

        Raises:
            ValueError: if a leaf with a gradient is no parameter of the run.
        """
        n = len(self._parameters)
        if self._buffer.numel() == 0 or self._buffer.device != loss.device:
            self._make_buffer(loss.device, num_told=len(told))
        has = [0.0] * n
        for leaf, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                if id(leaf) not in self._slots:
                    got = f"one more of shape {tuple(leaf.shape)} later on"
                    remedy = "making it in the first call of model and guide, or one process"
                    raise ValueError(say("parameters that exist from the first step on", got, remedy))
                has[self._slots[id(leaf)]] = 1.0
        own = {self._slots[id(leaf)]: grad for leaf, grad in zip(leaves, grads, strict=True) if grad is not None}
        for i, view in enumerate(self._views):
            if i not in own:
                view.zero_()
        if own:
            torch._foreach_copy_([self._views[i] for i in own], list(own.values()))
        tail = self._buffer[-(1 + n + len(told)) :]
        tail[0] = loss
        tail[1:] = torch.tensor([*has, *told])
        group.all_reduce(self._buffer)
        total, *rest = tail.tolist()
        slots = [self._slots.get(id(leaf)) for leaf in leaves]
        summed = [None if i is None or not rest[i] else self._views[i].to(self._parameters[i].dtype) for i in slots]
        return loss if math.isfinite(total) else tail[0].to(loss.dtype), tail[0], summed, rest[n:]

    @property
    def dtype(self) -> torch.dtype:
        """In which losses and gradients are added up: single precision, or the widest of the parameters'."""
        widest = torch.float32
        for parameter in self._parameters:
            widest = torch.promote_types(widest, parameter.dtype)
        return widest

    def _make_buffer(self, device: torch.device, *, num_told: int) -> None:
        """One vector for all gradients side by side, the loss, and a number for each parameter and thing told."""
        sizes = [parameter.numel() for parameter in self._parameters]
        rest = 1 + len(sizes) + num_told
        self._buffer = torch.empty(sum(sizes) + rest, dtype=self.dtype, device=device)
        pieces = self._buffer.split([*sizes, rest])
        self._views = [piece.view(parameter.shape) for piece, parameter in zip(pieces, self._parameters, strict=False)]

    def sum(self, value: float, like: Tensor) -> float:
        """Add a number up over all processes."""
        total = torch.tensor([value], dtype=torch.float64, device=like.device)
        group.all_reduce(total)
        return float(total)
