"""Neighbouring batches of one layout, put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from pyro_vae.checks import say

__all__ = ["alike", "in_blocks"]


def in_blocks(batches: Iterable[Sequence[Any]], size: int) -> Iterator[list[Sequence[Any]]]:
    """Put neighbouring batches of one layout together, up to so many; none is asked for before it is needed."""
    block: list[Sequence[Any]] = []
    for batch in batches:
        if not isinstance(batch, (tuple, list)):
            got = type(batch).__name__
            raise TypeError(say("batches that are tuples of arguments", got, "run((x,) for x in batches)"))
        if block and not alike(batch, block[-1]):
            yield block
            block = []
        block.append(batch)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def alike(batch: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two batches are plain tensors of one layout, so that one graph serves both."""
    return len(batch) == len(other) and all(
        type(a) is Tensor
        and type(b) is Tensor
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.dtype == b.dtype
        and a.device == b.device
        and not a.requires_grad
        for a, b in zip(batch, other, strict=True)
    )
