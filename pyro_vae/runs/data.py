"""A run's data: loaded, described, encoded and split."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checks import among, say
from pyro_vae.datasets import digits
from pyro_vae.datasets.columns import Columns
from pyro_vae.datasets.encoding import encode
from pyro_vae.datasets.files import Loaded, load, outgrows_memory
from pyro_vae.datasets.kinds import Schema, describe
from pyro_vae.datasets.remarks import remarks
from pyro_vae.datasets.rows import Rows, pieces
from pyro_vae.datasets.shards import Shards, are_shards, open_shards
from pyro_vae.datasets.tables import Layout
from pyro_vae.distributed import by_all, rank, size
from pyro_vae.runs.columns import Choice, with_choices
from pyro_vae.runs.folder import fingerprint
from pyro_vae.runs.recipe import Recipe

__all__ = ["SPLITS", "Prepared", "encoded", "load_data", "prepare", "split_rows"]

SPLITS = ("train", "validation", "test", "all")
_FEWEST_ROWS = 5  # to train on: fewer say nothing of how columns vary


@dataclass(frozen=True)
class Prepared:
    """Data as a run sees them.

    Attributes:
        schema: what they are.
        dtype: of the model's data.
        x: data by split, ``(N, D)``; rows on disk if memory-mapped; empty if the file is gone.
        digest: fingerprint of the file.
        notes: what a person should know.
        choices: why each column of a table has its likelihood, in the table's order; empty where none was chosen.
    """

    schema: Schema
    dtype: torch.dtype
    x: dict[str, Tensor | Rows]
    digest: str
    notes: tuple[str, ...]
    choices: tuple[Choice, ...] = ()

    def split(self, name: str) -> Tensor | Rows:
        """Return the data of a split.

        Raises:
            ValueError: if there is no such split.
            FileNotFoundError: if the file is gone.
        """
        if among(name, SPLITS, "--split") not in self.x:
            remedy = "bringing them back, or, for infer, compare, evidence and impute, --data"
            raise FileNotFoundError(say("the data that the run was trained on", "none at their place", remedy))
        return self.x[name]


def load_data(
    data: str,
    key: str = "",
    *,
    memory_map: str = "no",
    like: Layout | None = None,
    drop: Collection[str] = (),
    grey: bool = False,
) -> Loaded:
    """Return the content of a data set.

    Args:
        data: a file, a folder of images, or "digits".
        key: the array's name inside an ``.npz`` with several.
        memory_map: "yes" leaves an ``.npy`` on disk, "auto" does if it would not fit into memory.
        like: the columns of a table to read, and the codes of their words; the file's own if None.
        drop: names of a table's columns to leave out.
        grey: the embedded digits with their intensities, rather than black and white.

    Raises:
        FileNotFoundError, ValueError: if it cannot be used.
    """
    mappable = Path(data).suffix == ".npy" or are_shards(data)
    if memory_map == "yes" and not mappable:
        raise ValueError(say("an .npy file to leave on disk", repr(data), "numpy.save, or --memory-map no"))
    if are_shards(data):
        files = open_shards(data)
        return Loaded(files[0], shards=files)
    if data == "digits" and not Path(data).exists():
        return Loaded(digits("all", values="intensity" if grey else "binary").numpy().reshape(-1, 8, 8))
    if memory_map == "no" or not mappable:
        return load(data, key=key or None, like=like, drop=drop)
    loaded = load(data, memory_map=True)
    if memory_map == "yes" or (outgrows_memory(loaded.values) and loaded.values.flags.c_contiguous):
        return loaded
    return Loaded(np.array(loaded.values))


def encoded(loaded: Loaded, schema: Schema, dtype: torch.dtype, *, seed: int = 0) -> Tensor | Rows:
    """Return a data set as the model sees it, ``(N, D)``: a tensor, or rows on disk if it is memory-mapped.

    Parts of shards are drawn by the seed.
    """
    if loaded.shards:
        return Shards(loaded.shards, partial(encode, schema, dtype=dtype), seed=seed)
    if isinstance(loaded.values, np.memmap):
        return Rows(loaded.values, partial(encode, schema, dtype=dtype))
    return encode(schema, loaded.values, dtype=dtype)


def prepare(recipe: Recipe, schema: Schema | None = None) -> Prepared:
    """Load the data of a recipe and split them by its seed.

    Args:
        recipe: of the run.
        schema: of a run that exists; None looks at the data.

    Raises:
        FileNotFoundError, ValueError: if the data cannot be used.
    """
    grey = recipe.system.partition(":")[0] not in {"", "DRAW"}
    loaded = load_data(recipe.data, recipe.key, memory_map=recipe.memory_map, drop=recipe.dropped, grey=grey)
    if loaded.shards:
        return _of_shards(recipe, loaded, schema)
    digest = fingerprint(Path(recipe.data)) if Path(recipe.data).exists() else recipe.data
    rows = split_rows(recipe, len(loaded.values))
    choices: list[Choice] = []
    if schema is None:
        schema = describe(loaded, rows["train"].numpy(), kind=recipe.kind, standardise=recipe.standardise)
        if schema.columns and not (recipe.model or recipe.system):
            table = torch.as_tensor(np.asarray(loaded.values, dtype=np.float64))
            _must_be_learnt(table[rows["train"]], loaded.columns)
            schema, choices = with_choices(
                schema,
                table[rows["train"]],
                table,
                likelihood=recipe.likelihood,
                guessed=recipe.kind == "auto",
                standardise=recipe.standardise,
                seed=recipe.seed,
            )
    dtype = getattr(torch, recipe.dtype)
    whole = encoded(loaded, schema, dtype)
    x = {name: whole.select(some) if isinstance(whole, Rows) else whole[some] for name, some in rows.items()}
    notes = [*loaded.notes, *_notes(schema, whole)]
    if loaded.columns:
        notes += remarks(np.asarray(loaded.values, dtype=np.float64), loaded.columns)
    if not len(rows["test"]):
        notes.append("no row is held out: nothing can be said of how good the model is")
    return Prepared(schema, dtype, x | {"all": whole}, digest, tuple(notes), tuple(choices))


def _of_shards(recipe: Recipe, loaded: Loaded, schema: Schema | None) -> Prepared:
    """The data of a folder of shards: each process looks at its own, and all join what they saw."""
    shards = Shards(loaded.shards, lambda values: torch.empty(len(values)), seed=recipe.seed)
    parts = shards.parted(recipe.validation, recipe.test)
    if len(parts[0]) < _FEWEST_ROWS:
        raise ValueError(say(f"at least {_FEWEST_ROWS} rows to train on", f"{len(parts[0])}", "more rows"))
    own = shards.owned(size())[rank()]

    paths = sorted(Path(recipe.data).glob("*.npy"))

    def look() -> tuple[Columns | None, dict[str, str]]:
        digests = {paths[i].name: fingerprint(paths[i]) for i in own}
        seen: Columns | None = None
        for i, name in zip(own, digests, strict=True) if schema is None else ():
            of_one = Columns(loaded.shards[i], parts[0].rows_of(i), partial("{1} of {0}".format, name))
            seen = of_one if seen is None else seen.join(of_one)
        return seen, digests

    found = by_all(look)
    digest = hashlib.blake2b(repr(sorted(name for _, each in found for name in each.items())).encode(), digest_size=16)
    if schema is None:
        seen = functools.reduce(Columns.join, [columns for columns, _ in found if columns is not None])
        schema = describe(loaded, np.empty(0), kind=recipe.kind, standardise=recipe.standardise, seen=seen)
    dtype = getattr(torch, recipe.dtype)
    whole: Any = encoded(loaded, schema, dtype, seed=recipe.seed)
    x = dict(zip(("train", "validation", "test"), whole.parted(recipe.validation, recipe.test), strict=True))
    notes = [f"{len(loaded.shards)} shards on disk, read one after the other; duplicates are not looked for"]
    return Prepared(schema, dtype, x | {"all": whole}, digest.hexdigest(), tuple(notes))


def split_rows(recipe: Recipe, N: int) -> dict[str, Tensor]:
    """Return which of N rows are for training, validation and test, by the recipe's seed.

    Raises:
        ValueError: if too few are left to train on.
    """
    order = torch.as_tensor(np.random.RandomState(recipe.seed).permutation(N))  # the legacy stream is frozen for ever
    test, validation = int(recipe.test * N), int(recipe.validation * N)
    train = N - test - validation
    if train < _FEWEST_ROWS:
        remedy = "--test 0 --validation 0" if N >= _FEWEST_ROWS else "a table with more rows"
        raise ValueError(say(f"at least {_FEWEST_ROWS} rows to train on", f"{train} of {N}", remedy))
    return dict(zip(("train", "validation", "test"), order.split([train, validation, test]), strict=True))


def _notes(schema: Schema, x: Tensor | Rows) -> list[str]:
    """What a person should know of data: duplicates, and columns without anything to learn."""
    notes = []
    if isinstance(x, Rows):
        notes.append("the data stay on disk and are read batch by batch; duplicates are not looked for")
    elif (distinct := len(torch.unique(x, dim=0)) if x.numel() < 10**7 else len(x)) < 0.9 * len(x):
        notes.append(f"{len(x) - distinct} of {len(x)} rows are duplicates: held-out rows may be known from training")
    first = x[:1]
    constant = torch.stack([(piece == first).all(0) for piece in pieces(x)]).all(0)
    if not schema.columns and schema.kind == "real" and bool(constant.any()):
        count = int(constant.sum())
        notes.append(f"{count} column{'s' if count > 1 else ''} constant: nothing to learn there")
    return notes


def _must_be_learnt(x: Tensor, names: Collection[str]) -> None:
    """Check that the training rows have some values of every column.

    Raises:
        ValueError: naming the column.
    """
    for name, column in zip(names, x.unbind(-1), strict=True):
        count = int((~column.isnan()).sum())
        if count < _FEWEST_ROWS:
            expected = f"at least {_FEWEST_ROWS} values of every column in the {len(x)} training rows"
            raise ValueError(say(expected, f"{count} in column {name!r}", f"--drop {name!r}, or filling it"))
