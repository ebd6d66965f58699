"""Several processes that work together, by torch's own ``torch.distributed``; ``torchrun`` starts them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as group
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pyro_vae.checks import say

__all__ = [
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
