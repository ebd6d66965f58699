"""Data in several files on disk: each process goes through its own, one after the other, in a new order every epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import say
from pyro_vae.datasets.files import load
from pyro_vae.datasets.rows import Rows, read_rows

__all__ = ["Shards", "are_shards", "open_shards", "some"]

_Cuts = Sequence[tuple[int, int]]


def are_shards(path: str | Path) -> bool:
    """Whether a path is a folder with ``.npy`` files."""
    return Path(path).is_dir() and any(Path(path).glob("*.npy"))


def open_shards(folder: str | Path) -> tuple[np.ndarray, ...]:
    """Return the arrays of a folder's ``.npy`` files, in the order of their names, left on disk.

    Raises:
        ValueError: if there is none, one is empty or damaged, or they differ in columns or dtype.
    """
    paths = sorted(Path(folder).glob("*.npy"))
    if not paths:
        raise ValueError(say(".npy files in a folder of shards", f"none in {folder}", "pyro-vae shards"))
    found = [load(path, memory_map=True).values for path in paths]
    first = found[0]
    for path, values in zip(paths, found, strict=True):
        if values.shape[1:] != first.shape[1:] or values.dtype != first.dtype:
            expected = f"shards of one kind, as {paths[0].name}: {first.dtype} data of shape {first.shape[1:]}"
            raise ValueError(say(expected, f"{values.dtype} of {values.shape[1:]} in {path}", "pyro-vae shards"))
    return tuple(found)


class Shards(Rows):
    r"""Rows of several files on disk; stands where ``pyro_vae.fit`` takes a tensor.

    An epoch takes the shards in random order, reads each as a whole, one after the other, and takes its rows in random
    order: a process holds one shard, and the order of its rows (8 bytes each). Of P processes each has whole shards of
    its own, neighbours in the order of the files, and in each of :math:`T = \lceil N / B \rceil` steps
    takes its part of the batch, :math:`B n_p / N` of its :math:`n_p` rows: every row comes once an epoch, and gradients
    add up as in :class:`~pyro_vae.inference.compiled.parallel.Parallel`.

    Rows of a batch come from one shard a process, or two. If shards are random parts of the data, as ``pyro-vae
    shards`` makes them, that is as good as any order. If each holds data of one kind, batches are of one kind, and
    gradients less exact by as much as kinds differ.

    Args:
        files: memory-mapped, each ``(n, *shape)``.
        encode: makes the model's data ``(n, D)`` of some rows.
        seed: of the parts of :meth:`parted`.
        device: where a batch goes; the default device if None.

    Example:
        >>> import tempfile, numpy as np, torch
        >>> from pyro_vae.datasets.sharding import write_shards
        >>> folder = write_shards(np.arange(12.0).reshape(6, 2), tempfile.mkdtemp(), 2, shuffle=False)
        >>> shards = Shards(open_shards(folder), torch.from_numpy)
        >>> shards.shape, shards[2:4].tolist()
        ((6, 2), [[4.0, 5.0], [6.0, 7.0]])
        >>> [total for _, total in shards.epoch(batch_size=4)]
        [4, 2]
    """

    def __init__(
        self,
        files: Sequence[np.ndarray],
        encode: Callable[[np.ndarray], Tensor],
        *,
        seed: int = 0,
        device: torch.device | None = None,
    ) -> None:
        for values in files:
            super().__init__(values, encode, device=device)
        self.files = tuple(files)
        self._seed = seed
        self._most: int | None = None  # steps of one size in an epoch
        self._cut([(0, len(values)) for values in files])

    def _cut(self, cuts: _Cuts) -> None:
        """Take a part of each shard: so many of its rows, from one place to another in an order by the seed."""
        self._cuts = tuple(cuts)
        self._starts = np.cumsum([0, *(high - low for low, high in cuts)])
        self._window = 0, int(self._starts[-1])
        self._known: tuple[int, np.ndarray] | None = None  # the rows of the shard asked for last

    def _like(self, **changes: Any) -> Shards:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def __len__(self) -> int:
        return self._window[1] - self._window[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        where = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows.cpu().numpy()
        where = where + self._window[0]
        found = np.empty((len(where), *self._values.shape[1:]), self._values.dtype)
        places = np.searchsorted(self._starts, where, side="right") - 1
        for shard in np.unique(places):
            mine = places == shard
            found[mine] = read_rows(self.files[shard], self.rows_of(shard)[where[mine] - self._starts[shard]])
        return self._encode(found).to(self.device)

    def rows_of(self, shard: int) -> np.ndarray:
        """The rows of a shard that belong to this part, in the order of the file."""
        if self._known is None or self._known[0] != shard:
            (low, high), n = self._cuts[shard], len(self.files[shard])
            order = np.arange(n) if high - low == n else np.random.RandomState([self._seed, shard]).permutation(n)
            self._known = shard, np.sort(order[low:high])
        return self._known[1]

    def to(self, device: torch.device) -> Shards:
        """Return the same rows, read to another device."""
        return self._like(_first=self._first.to(device))

    def select(self, rows: Tensor) -> Shards:
        """Shards have no order but their own: see :meth:`parted`.

        Raises:
            ValueError: always.
        """
        raise ValueError(say("shards, shard after shard", "a choice of their rows", "parted, or an array in memory"))

    def parted(self, *shares: float) -> list[Shards]:
        """Return the rest, then random parts of these shares of every shard.

        Raises:
            ValueError: if a part is left without rows.
        """
        found: list[Shards] = []
        ends = [high for _, high in self._cuts]
        for share in reversed(shares):
            starts = [end - int(share * (high - low)) for end, (low, high) in zip(ends, self._cuts, strict=True)]
            found.insert(0, self._like())
            found[0]._cut(list(zip(starts, ends, strict=True)))
            ends = starts
        found.insert(0, self._like())
        found[0]._cut([(low, end) for (low, _), end in zip(self._cuts, ends, strict=True)])
        if not len(found[0]):
            raise ValueError(say("rows that are not held out", "none", "smaller shares, or larger shards"))
        return found

    def owned(self, sections: int) -> list[range]:
        """Which shards each of so many processes has."""
        return [range(part[0], part[-1] + 1) if len(part) else range(0) for part in self._sections(sections)]

    def _sections(self, sections: int) -> list[np.ndarray]:
        return np.array_split(np.arange(len(self.files)), sections)

    def tensor_split(self, sections: int) -> list[Any]:
        """Return the rows in so many parts: whole shards, or rows where there are fewer shards than parts."""
        whole = self._window == (0, self._starts[-1]) and sections <= len(self.files)
        if whole:
            edges = [int(self._starts[own.start]) for own in self.owned(sections)] + [len(self)]
        else:
            base, more = divmod(len(self), sections)
            edges = [self._window[0] + i * base + min(i, more) for i in range(sections + 1)]
        return [self._like(_window=window) for window in pairwise(edges)]

    def few(self, most: int) -> Shards:
        """Return shards whose epochs have at most so many steps of one size: what a compiler needs to see of them."""
        return self._like(_most=most)

    def starts(self, size: int) -> Iterator[int]:
        """Where batches begin, in order."""
        found = range(0, len(self), size)
        yield from found if self._most is None else [*found[: self._most], *found[self._most :][-1:]]

    def epoch(self, batch_size: int, number: int = 0, size: int = 1) -> Iterator[tuple[Tensor, int]]:
        """The rows of process ``number`` of ``size`` in each batch of an epoch, and the size of the whole batch.

        Raises:
            ValueError: if there are fewer shards than processes, or a process has fewer rows than there are steps.
        """
        own = self.owned(size)
        if len(self.files) < size:
            got = f"{len(self.files)}"
            raise ValueError(
                say(f"a shard for each of {size} processes", got, "pyro-vae shards with a larger --number")
            )
        counts = [int(self._starts[mine.stop] - self._starts[mine.start]) for mine in own]
        T = -(-len(self) // batch_size)
        if min(counts) < T:
            got = f"{min(counts)} rows on process {counts.index(min(counts))} for {T} steps"
            raise ValueError(
                say("a row of each process in every step", got, "shards of like sizes, by pyro-vae shards")
            )
        rows = _InTurn(self, own[number])
        for steps, sizes in _plan(counts, batch_size, T):
            for _ in range(steps if self._most is None else min(steps, self._most)):
                yield self._encode(rows.take(sizes[number])).to(self.device), sum(sizes)


def _plan(counts: Sequence[int], batch_size: int, T: int) -> Iterator[tuple[int, list[int]]]:
    """How many steps take how many rows of each process: one size and a smaller last one, or sizes of n / T."""
    full = [-(-n * batch_size // sum(counts)) for n in counts]
    last = [n - (T - 1) * b for n, b in zip(counts, full, strict=True)]
    if min(last) > 0:
        yield T - 1, full
        yield 1, last
        return
    for a, b in pairwise(sorted({0, T, *(n % T for n in counts)})):
        yield b - a, [n // T + (a < n % T) for n in counts]


class _InTurn:
    """Rows of some shards, shard after shard, both in random order."""

    def __init__(self, shards: Shards, own: range) -> None:
        self._shards = shards
        self._left = [own[i] for i in torch.randperm(len(own)).tolist()]
        self._values, self._order = np.empty(0), np.empty(0, np.int64)

    def take(self, count: int) -> np.ndarray:
        """The next rows."""
        found = []
        while count:
            if not len(self._order):
                self._next()
            chosen, self._order = self._order[:count], self._order[count:]
            count -= len(chosen)
            found.append(self._values[chosen])
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _next(self) -> None:
        shard = self._left.pop(0)
        rows, self._values = self._shards.rows_of(shard), np.empty(0)  # the one before goes first
        self._values = read_rows(self._shards.files[shard], np.arange(len(self._shards.files[shard])))
        self._order = rows[torch.randperm(len(rows)).numpy()]


def some(x: Any, count: int) -> Tensor:
    """Return so many of data in random order: the first ones; of shards, which have one of their own, from all over."""
    if not isinstance(x, Shards) or len(x) <= count:
        found: Tensor = x[:count]
        return found
    return x[torch.arange(count) * len(x) // count]
