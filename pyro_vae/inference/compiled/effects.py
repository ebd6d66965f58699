"""Running a program without a trace left of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor

__all__ = ["without_effects"]


@contextmanager
def without_effects(written: Sequence[Tensor], seen: Sequence[Tensor]) -> Iterator[None]:
    """Put everything back at the end that a run inside changes.

    Args:
        written: the tensors that it writes to.
        seen: tensors on whose devices it may draw noise; Python's and NumPy's generators are put back too.
    """
    devices = {tensor.device.index for tensor in seen if tensor.device.type == "cuda"}
    saved = [tensor.detach().clone() for tensor in written]
    state = get_rng_state()
    with torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        try:
            yield
        finally:
            set_rng_state(state)
            with torch.no_grad():
                for tensor, value in zip(written, saved, strict=True):
                    tensor.copy_(value)
