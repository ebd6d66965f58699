"""Data that stay on disk: rows of a memory-mapped array, read and encoded as they are asked for."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import say

__all__ = ["Rows", "pieces", "read_rows"]

_DENSE = 4  # rows in a row of which one is asked for: all are read
_PIECE = 1 << 18  # numbers a piece: 2 MiB in double precision


class Rows:
    """Rows of an array on disk, in some order; stands where ``pyro_vae.fit`` takes a tensor.

    Indexing reads the rows asked for and encodes them, so that memory holds a batch and the order of the rows (8 bytes
    each), whatever the size of the file. :func:`fit` makes the same steps on rows as on the tensor that holds them.

    The rows are read from the file, not through its map: on a map, the system may count up to 2 MiB around each row as
    this process's memory.

    Args:
        values: memory-mapped, ``(N, *shape)``.
        encode: makes the model's data, ``(n, D)``, of some of them.
        index: which rows, in which order; all if None.
        device: where a batch goes; the default device if None.

    Raises:
        ValueError: if the rows do not lie one after the other on disk.

    Example:
        >>> import tempfile, numpy as np, torch
        >>> path = tempfile.mkdtemp() + "/x.npy"
        >>> np.save(path, np.arange(12.0).reshape(4, 3))
        >>> rows = Rows(np.load(path, mmap_mode="r"), torch.from_numpy, torch.tensor([3, 0]))
        >>> rows.shape, rows[1:].tolist()
        ((2, 3), [[0.0, 1.0, 2.0]])
    """

    def __init__(
        self,
        values: np.ndarray,
        encode: Callable[[np.ndarray], Tensor],
        index: Tensor | None = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        if not (isinstance(values, np.memmap) and values.flags.c_contiguous):
            raise ValueError(say("rows one after the other on disk", "another order", "memory_map=no"))
        self._values = values
        self._encode = encode
        self._index = index
        self._first = encode(np.array(values[:1])).to(device)

    def __len__(self) -> int:
        return len(self._values) if self._index is None else len(self._index)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, D)``."""
        return (len(self), *self._first.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Of a batch."""
        return self._first.dtype

    @property
    def device(self) -> torch.device:
        """Of a batch."""
        return self._first.device

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        chosen = self._chosen(rows)
        where = np.arange(*chosen.indices(len(self))) if isinstance(chosen, slice) else chosen.cpu().numpy()
        return self._encode(read_rows(self._values, where)).to(self.device)

    def _chosen(self, rows: Tensor | slice) -> Any:
        if self._index is None:
            return rows
        return self._index[rows if isinstance(rows, slice) else rows.cpu()]

    def to(self, device: torch.device) -> Rows:
        """Return the same rows, read to another device."""
        return Rows(self._values, self._encode, self._index, device=device)

    def select(self, rows: Tensor) -> Rows:
        """Return some of the rows, unread, in the order given."""
        return Rows(self._values, self._encode, self._chosen(rows), device=self.device)

    def tensor_split(self, sections: int) -> list[Rows]:
        """Return the rows in so many parts, as torch splits a tensor."""
        return [self.select(part) for part in torch.arange(len(self)).tensor_split(sections)]


def read_rows(values: Any, where: np.ndarray) -> np.ndarray:
    """Read rows of a memory-mapped array from its file: one by one, or neighbours in order at once.

    Raises:
        OSError: if the file is shorter than it was.
    """
    first, last = (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)
    dense = last - first <= _DENSE * len(where) and bool((np.diff(where) > 0).all())
    starts = [first] if dense else where.tolist()
    found = np.empty((last - first if dense else len(where), *values.shape[1:]), values.dtype)
    raw: Any = found.reshape(len(found), -1).view(np.uint8).reshape(-1).data
    size = len(raw) // max(1, len(starts))
    with Path(str(values.filename)).open("rb", buffering=0) as file:
        for i, row in enumerate(starts):
            done, begin = 0, values.offset + row * values[:1].nbytes
            while done < size:  # the system reads up to 2 GiB at once
                read = os.preadv(file.fileno(), [raw[i * size + done : (i + 1) * size]], begin + done)
                if not read:
                    raise OSError(say(f"{len(values)} rows in {file.name}", "fewer (truncated?)", "a whole file"))
                done += read
    return found if len(found) == len(where) else found[where - first]


def pieces(x: Any) -> Iterator[Any]:
    """Go through data in order, a piece that fits into memory at a time: a tensor in one, others in several."""
    if isinstance(x, Tensor):
        yield x
        return
    count = max(1, _PIECE // max(1, int(np.prod(x.shape[1:]))))
    for start in range(0, len(x), count):
        yield x[start : start + count]
        if isinstance(x, np.ndarray):
            _let_go(x)


def _let_go(values: np.ndarray) -> None:
    """Give the pages of a mapped file back to the system, which has them in its cache as long as there is room."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)
