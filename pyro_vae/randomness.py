"""Random numbers that the user's stream does not feel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["fork_rng"]


@contextmanager
def fork_rng(*, seed: int | None = None) -> Iterator[None]:
    """Put torch's random state back at the end, on the CPU and on every CUDA device.

    Looking at a program takes nothing from the user's stream; with a seed, what is drawn is the same at every call.

    Args:
        seed: starts the stream inside; None goes on from the user's.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with fork_rng(seed=7):
        ...     one = torch.rand(1)
        >>> after = torch.rand(1)
        >>> _ = torch.manual_seed(0)
        >>> bool(after == torch.rand(1))
        True
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            _seed(seed)
        yield


def _seed(seed: int) -> None:
    """As ``torch.manual_seed``, which takes a stack trace for each kind of accelerator that is not there."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
