"""Files of the user's as arrays. Reading never runs code from a file, and never takes memory that it does not fill."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import among, say
from pyro_vae.datasets.tables import Layout, read_table
from pyro_vae.memory import available_memory

__all__ = ["Loaded", "load", "outgrows_memory", "read", "read_idx"]

_TABLES = (".csv", ".parquet")
_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
_ENDINGS = (".npy", ".npz", ".gz", *_TABLES)


@dataclass(frozen=True)
class Loaded:
    """The content of a file.

    Attributes:
        values: numbers, ``(N, *shape)``, of the file's own type; on disk still if memory-mapped.
        columns: names of the columns, if the file has them.
        categories: the names behind the codes of a column of text, by column.
        notes: what a person should know of how it was read.
        shards: of a folder of ``.npy`` files, all of them, on disk still; ``values`` is the first.
    """

    values: np.ndarray
    columns: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] | None = None
    notes: tuple[str, ...] = ()
    shards: tuple[np.ndarray, ...] = ()


def read(path: str | Path, *, key: str | None = None) -> Tensor:
    """Return the data of the user's file, one datum a row, ``(N, D)``.

    Arrays ``.npy`` and ``.npz``; tables ``.csv`` and ``.parquet``, which may start with column names and whose empty
    cells become NaN; idx files, plain or ``.gz``; a folder of images of one size. Pickled arrays are refused: reading a
    file never runs code.

    Args:
        path: the file or folder.
        key: the array's name inside an ``.npz`` with several.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, empty, truncated or not numeric, or the key is missing.
    """
    data = load(path, key=key).values
    return torch.as_tensor(data.reshape(len(data), -1).astype(np.float64), dtype=torch.get_default_dtype())


def load(
    path: str | Path,
    *,
    key: str | None = None,
    memory_map: bool = False,
    like: Layout | None = None,
    drop: Collection[str] = (),
) -> Loaded:
    """Return the content of a file, see :func:`read`.

    Args:
        path: the file or folder.
        key: the array's name inside an ``.npz`` with several.
        memory_map: leave an ``.npy`` on disk, to be read piece by piece.
        like: the columns of a table to read, and the codes of their words; the file's own if None.
        drop: names of a table's columns to leave out.

    Raises:
        FileNotFoundError, ValueError: as :func:`read`.
    """
    path = Path(path)
    if path.is_dir():
        loaded = Loaded(_images(path))
    else:
        if not path.is_file():
            raise FileNotFoundError(say("a data file", f"no file at {path}", "another path"))
        if "ubyte" in path.name:
            loaded = Loaded(read_idx(path))
        else:
            among(path.suffix, _ENDINGS, "the file's ending")
            with _own_errors(path):
                loaded = _load(path, key, memory_map=memory_map, like=like, drop=drop)
    data = loaded.values
    if drop and not loaded.columns:
        raise ValueError(say("a table whose columns have names, to drop some", str(path), "no --drop"))
    if data.dtype.kind not in "biuf":
        raise ValueError(say(f"numbers in {path}", f"dtype {data.dtype}", "removing columns of text"))
    if data.ndim == 0 or data.size == 0:
        raise ValueError(say(f"at least one row in {path}", f"shape {data.shape}", "a file that holds data"))
    return loaded


def _load(
    path: Path, key: str | None, *, memory_map: bool, like: Layout | None = None, drop: Collection[str] = ()
) -> Loaded:
    if path.suffix in _TABLES:
        return Loaded(*read_table(path, like=like, drop=drop))
    if path.suffix == ".gz":
        return Loaded(read_idx(path))
    if path.suffix == ".npz":
        return Loaded(_npz(path, key))
    with path.open("rb") as file:
        _check_npy(file, path.stat().st_size, path)
        file.seek(0)
        if not memory_map:
            return Loaded(np.lib.format.read_array(file, allow_pickle=False))
    return Loaded(np.load(path, allow_pickle=False, mmap_mode="r"))


def _npz(path: Path, key: str | None) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if key is None and len(names) == 1:
            key = names[0]
        if key not in names or not names:
            remedy = f"key={names[0]!r}" if names else "a file that holds an array"
            raise ValueError(say(f"a key of {path}, one of {names}", repr(key), remedy))
        member = archive.getinfo(archive.namelist()[names.index(key)])
        _must_fit(member.file_size, path)
        with archive.open(member) as file:
            _check_npy(file, member.file_size, path)
        with archive.open(member) as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _check_npy(file: IO[bytes], size: int, path: Path) -> None:
    """Check that an array's header promises no more than the file holds, before numpy believes it."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise ValueError(say("an array of numbers", f"{path} with pickled Python objects", "saving it as floats"))
    promised = math.prod(shape) * dtype.itemsize
    if promised > size:
        raise ValueError(say(f"{promised} bytes of data in {path}", f"{size} (truncated?)", "writing it again"))


def _must_fit(size: int, path: Path) -> None:
    room = available_memory()
    if size > room // 2:
        got = f"{size / 2**30:.1f} GiB in {path}, with {room / 2**30:.1f} GiB free"
        raise ValueError(say("data that fit into half of the free memory", got, "an uncompressed .npy, read in pieces"))


def outgrows_memory(values: np.ndarray) -> bool:
    """Say whether an array, made doubles and copied once, would take more than the free memory."""
    return 16 * values.size > available_memory()


@contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    """Say in one wording what is wrong with a file, whatever library noticed it."""
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, ValueError) and str(error).startswith("expected "):
            raise
        got = f"{path}: {str(error) or type(error).__name__}"
        raise ValueError(say(f"a whole {path.suffix} file", got, "writing it again")) from error


_DAMAGED = (  # what numpy, pandas, zipfile and zlib raise on bytes that are no whole file
    *(EOFError, OSError, RuntimeError, ValueError, SyntaxError, TypeError, LookupError, OverflowError),
    *(zlib.error, zipfile.BadZipFile, struct.error),
)


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes (LeCun's format: two zero bytes, type 8, rank, sizes, data).

    Raises:
        ValueError: if it is none, or truncated.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\x00\x00\x08":
                raise ValueError(say("an idx file of unsigned bytes", f"{path} starts {head!r}", "another file"))
            sizes = file.read(4 * head[3])
            shape = struct.unpack(f">{head[3]}I", sizes) if len(sizes) == 4 * head[3] else ()
            _must_fit(math.prod(shape), path)
            raw = _at_most(file, math.prod(shape) + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(say("a whole gzip file", f"{path}: {error}", "fetching it again")) from error
    if not shape or len(raw) != math.prod(shape):
        expected = f"{math.prod(shape)} bytes after the header of {path}, for shape {shape}"
        raise ValueError(say(expected, f"{len(raw)} (truncated?)", "fetching it again"))
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _at_most(file: IO[bytes], count: int) -> bytes:
    """Read up to ``count`` bytes in pieces: memory grows with what is there, not with what a header promises."""
    pieces, left = [], count
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _images(folder: Path) -> np.ndarray:
    """Read a folder of images in the order of their names, as grey levels ``(N, rows, columns)``."""
    from PIL import Image, UnidentifiedImageError

    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
    if not paths:
        remedy = "a folder with images, or the path of a file"
        raise ValueError(say(f"images ({', '.join(_IMAGES)}) in a folder", f"none in {folder}", remedy))
    arrays: list[np.ndarray] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                size = image.size
                if arrays and size != arrays[0].shape[::-1]:
                    got = f"{path.name} with {size}, after {paths[0].name} with {arrays[0].shape[::-1]}"
                    raise ValueError(say("images of one size", got, "resizing them"))
                arrays.append(np.asarray(image.convert("L")))
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
            raise ValueError(say("an image", f"{path}: {error}", "removing or fetching it again")) from error
    return np.stack(arrays)
