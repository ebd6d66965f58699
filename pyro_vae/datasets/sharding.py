"""One array as several files, for processes that each read their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.checks import positive_integer, say
from pyro_vae.datasets.rows import pieces
from pyro_vae.datasets.shards import are_shards

__all__ = ["write_shards"]


def write_shards(values: np.ndarray, folder: str | Path, number: int, *, shuffle: bool = True, seed: int = 0) -> Path:
    """Cut an array into shards of like sizes, in one pass and in memory that does not grow with it.

    Args:
        values: ``(N, *shape)``, in memory or on disk.
        folder: where they go; made if it is not there.
        number: how many.
        shuffle: deal rows to shards at random; False cuts the array into pieces as they lie.
        seed: of the dealing.

    Returns:
        The folder.

    Raises:
        ValueError: if there are fewer rows than shards, or the folder has ``.npy`` files already.
    """
    folder, N, K = Path(folder), len(values), positive_integer(number, "number")
    if K > N:
        raise ValueError(say(f"at least {K} rows for {K} shards", f"{N}", f"number={N}"))
    if are_shards(folder):
        raise ValueError(say("a folder without .npy files", f"some in {folder}", "another folder"))
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [len(range(k, N, K)) if shuffle else (k + 1) * N // K - k * N // K for k in range(K)]
    files = [_new(folder / f"{k:05d}.npy", values, size) for k, size in enumerate(sizes)]
    rng, row = np.random.default_rng(seed), 0
    ends = np.cumsum(sizes)
    for piece in pieces(values):
        where = np.arange(row, row + len(piece))
        shard = rng.permutation(where) % K if shuffle else np.searchsorted(ends, where, side="right")
        for k in np.unique(shard):
            files[k].write(np.ascontiguousarray(piece[shard == k]).tobytes())
        row += len(piece)
    for file in files:
        file.close()
    return folder


def _new(path: Path, like: np.ndarray, size: int) -> Any:
    """An ``.npy`` file with its header, to be filled."""
    file = path.open("xb")
    descr = np.lib.format.dtype_to_descr(like.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": (size, *like.shape[1:])}
    np.lib.format.write_array_header_2_0(file, header)
    return file
