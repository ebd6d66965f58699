"""What torch's tracer notes of each value, its shape, strides, type and device, at half the price."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["noting_values"]

_EMPTY = torch.ops.aten.empty_strided.default


@contextmanager
def noting_values() -> Iterator[None]:
    """While real tensors are traced, note all values in one fake mode: else the tracer makes a mode for each.

    And make the empty tensors that stand for them at once: a fake mode looks each up among those that it knows.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    class Noting(FakeTensorMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            device = (kwargs or {}).get("device")
            if func is not _EMPTY or device is None:
                return super().__torch_dispatch__(func, types, args, kwargs)
            try:
                return FakeTensor(self, func(*args, **{**kwargs, "device": torch.device("meta")}), device)
            except TypeError:  # of a torch that makes them in another way
                return super().__torch_dispatch__(func, types, args, kwargs)

    with tracing(TracingContext(Noting())):
        yield
