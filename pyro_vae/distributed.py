"""Training on several processes at once, by torch's own ``torch.distributed``; ``torchrun`` starts them."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as group
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pyro_vae.checks import say
from pyro_vae.randomness import fork_rng

__all__ = [
    "Parallel",
    "agree",
    "alone",
    "by_all",
    "everyones",
    "gathered",
    "joined",
    "own_rows",
    "own_share",
    "rank",
    "same_random_state",
    "size",
]

T = TypeVar("T")
_ALONE = ContextVar("_ALONE", default=False)
_PATIENCE = 1800  # seconds that processes wait for each other, as torch has it


@contextmanager
def joined(device: str = "cpu") -> Iterator[int]:
    """Join the processes that ``torchrun`` started, if it did; give this one's rank.

    Args:
        device: "cpu" talks by gloo, all else by NCCL if there is a CUDA device.

    Raises:
        RuntimeError: in here, if another process ends before its time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, size = next(rendezvous("env://"))
    store = _unused(store, number, size)
    group.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=number, world_size=size)
    try:
        yield group.get_rank()
    except RuntimeError as error:
        if not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        remedy = "train --resume, or torchrun --max-restarts 3; the other's own error says why"
        raise RuntimeError(say(f"all {size} processes to go on", "one that has ended", remedy)) from error
    finally:
        group.destroy_process_group()


def _unused(store: Store, number: int, size: int) -> Store:
    """A part of the launcher's store that is these processes' own.

    Processes that ``torchrun`` starts again find in its store what the dead have left, their addresses too, and would
    call them. So rank 0 answers whatever name each other has given itself, until it has heard from all that live.

    Raises:
        TimeoutError: if not all come.
    """
    own = uuid.uuid4().hex
    if number:
        store.set(f"pyro_vae/name/{number}", own)
        chosen = store.get(f"pyro_vae/answer/{own}").decode()  # waits for it
        store.set(f"pyro_vae/heard/{chosen}/{number}", "")
        return PrefixStore(chosen, store)
    missing, end = set(range(1, size)), time.monotonic() + _PATIENCE
    while missing:
        missing -= {other for other in missing if store.check([f"pyro_vae/heard/{own}/{other}"])}
        for other in missing:
            if store.check([f"pyro_vae/name/{other}"]):
                store.set(f"pyro_vae/answer/{store.get(f'pyro_vae/name/{other}').decode()}", own)
        if time.monotonic() > end:
            raise TimeoutError(say(f"{size} processes", f"none of rank {sorted(missing)}", "starting all of them"))
        time.sleep(0.005)
    return PrefixStore(own, store)


def rank() -> int:
    """This process's number; 0 without others."""
    return group.get_rank() if _together() else 0


def agree(value: Any) -> Any:
    """Return what the process of rank 0 passes, on every process; waits for all."""
    if not _together():
        return value
    values = [value]
    group.broadcast_object_list(values)
    return values[0]


def everyones(value: Any) -> list[Any]:
    """Return what each process passes, by rank; waits for all."""
    if not _together():
        return [value]
    values: list[Any] = [None] * group.get_world_size()
    group.all_gather_object(values, value)
    return values


def by_all(job: Callable[[], T]) -> list[T]:
    """Do a job on every process; return what each found, by rank. Where one fails, all raise its error."""
    found: Any = None
    error: Exception | None = None
    try:
        found = job()
    except (ValueError, TypeError, OSError, RuntimeError) as raised:
        error = raised
    told = everyones((found, error))
    for _, error in told:
        if error is not None:
            raise error
    return [value for value, _ in told]


def size() -> int:
    """How many processes there are."""
    return group.get_world_size() if _together() else 1


def same_random_state() -> None:
    """Put torch's random state of rank 0 on every process, so that all split and order data alike."""
    if _together():
        torch.set_rng_state(agree(torch.get_rng_state()))


def own_share(x: Any) -> Any:
    """Return this process's rows of data, in order; all of them if it is alone.

    Each process but the first draws its noise from then on from a seed of its own, so that errors at data of different
    processes are independent.

    Raises:
        ValueError: if there are fewer data than processes.
    """
    if not _together():
        return x
    number, size = group.get_rank(), group.get_world_size()
    if len(x) < size:
        raise ValueError(say(f"at least one datum for each of {size} processes", f"{len(x)}", "fewer processes"))
    if number:
        torch.manual_seed(torch.initial_seed() + number)
    return x.tensor_split(size)[number]


def own_rows(x: Any) -> Any:
    """Return this process's rows of data on disk, of which each looks at a part; all of them if it is alone."""
    return x.tensor_split(size())[rank()] if _together() else x


def gathered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of all processes, one after the other in the order of the shares, on the process of rank 0.

    The others get their own back.
    """
    if not _together():
        return columns
    found: list[Any] | None = [None] * group.get_world_size() if group.get_rank() == 0 else None
    group.gather_object(columns, found)
    return columns if found is None else {name: np.concatenate([part[name] for part in found]) for name in columns}


@contextmanager
def alone() -> Iterator[None]:
    """Work as if there were no other processes: each on a job of its own."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def _together() -> bool:
    """Whether this process is one of several."""
    return not _ALONE.get() and group.is_available() and group.is_initialized() and group.get_world_size() > 1


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
        return cls(parameters, buffers) if _together() else None

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
