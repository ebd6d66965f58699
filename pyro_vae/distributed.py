"""Training on several processes at once, by torch's DistributedDataParallel; ``torchrun`` starts them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_vae.checks import say

__all__ = ["Parallel", "agree", "gathered", "joined", "own_share", "rank"]


@contextmanager
def joined(device: str = "cpu") -> Iterator[int]:
    """Join the processes that ``torchrun`` started, if it did; give this one's rank.

    Args:
        device: "cpu" talks by gloo, all else by NCCL if there is a CUDA device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    group.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield group.get_rank()
    finally:
        group.destroy_process_group()


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


def gathered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the columns of all processes, one after the other in the order of the shares, on the process of rank 0.

    The others get their own back.
    """
    if not _together():
        return columns
    found: list[Any] | None = [None] * group.get_world_size() if group.get_rank() == 0 else None
    group.gather_object(columns, found)
    return columns if found is None else {name: np.concatenate([part[name] for part in found]) for name in columns}


def _together() -> bool:
    """Whether this process is one of several."""
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


class Parallel:
    r"""This process's part of a data-parallel run.

    A batch is cut into one share a process. Each takes the gradient of its share's loss over the size B of the whole
    batch, times the number of processes P; the mean over processes, which DistributedDataParallel takes while it runs
    backwards, is then the gradient of the whole batch: :math:`\frac1P \sum_p P \nabla \ell_p / B`.

    Args:
        modules: model and guide.
        loss: of one batch, summed over its data.

    Raises:
        TypeError: if model or guide are no torch modules.
    """

    def __init__(self, modules: Sequence[nn.Module], loss: Callable[..., Tensor]) -> None:
        if len(modules) != 2:
            expected = "a model and a guide that are torch modules, to train on several processes"
            raise TypeError(say(expected, "Python functions", "pyro.nn.PyroModule, or one process"))
        self.rank, self.size = group.get_rank(), group.get_world_size()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # older torch has not its heir
            self.module = DistributedDataParallel(_Loss(modules, loss), broadcast_buffers=False)

    @classmethod
    def of(cls, modules: Sequence[nn.Module], loss: Callable[..., Tensor]) -> Parallel | None:
        """Return the part of this process, or None if it is alone."""
        return cls(modules, loss) if _together() else None

    def batches(self, data: tuple[Tensor, ...], batch_size: int) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """This process's share of each batch of an epoch, and the size of the whole batch.

        All go through the data in the order that rank 0 draws; each has noise of its own. A last batch with fewer data
        than processes is left out.
        """
        N, device = len(data[0]), data[0].device
        plan = torch.empty(N + 1, dtype=torch.int64, device=device)
        if self.rank == 0:
            plan[:N] = torch.randperm(N).to(device)
            plan[N] = torch.randint(2**62, ())
        group.broadcast(plan, 0)
        if self.rank:
            torch.manual_seed(int(plan[N]) + self.rank)
        for rows in plan[:N].split(batch_size):
            if len(rows) >= self.size:
                share = rows.tensor_split(self.size)[self.rank]
                yield tuple(part[share] for part in data), len(rows)

    def share(self, data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """This process's rows of all data, in order."""
        return tuple(part.tensor_split(self.size)[self.rank] for part in data)

    def backward(self, batch: tuple[Tensor, ...], total: int) -> float:
        """Add the gradient of the whole batch's loss a datum; return the loss of this process's share."""
        loss: Tensor = self.module(*batch)
        (loss * (self.size / total)).backward()
        return float(loss.detach())

    def sum(self, value: float, like: Tensor) -> float:
        """Add a number up over all processes."""
        total = torch.tensor([value], dtype=torch.float64, device=like.device)
        group.all_reduce(total)
        return float(total)


class _Loss(nn.Module):
    """A loss as a module, whose parameters DistributedDataParallel watches."""

    def __init__(self, modules: Sequence[nn.Module], loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.loss = loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(*batch)
