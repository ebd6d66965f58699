"""What a learner hands in, read as numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["as_tensor", "close"]


def as_tensor(answer: Any) -> Tensor | None:
    """Return a number, array, tensor, or a list of them, as a tensor in double precision; None if it is none of these.

    Example:
        >>> as_tensor([1, torch.tensor(2.0)])
        tensor([1., 2.], dtype=torch.float64)
        >>> as_tensor("1") is None
        True
    """
    if answer is None or isinstance(answer, str | bytes | bool):
        return None
    if isinstance(answer, list | tuple) and any(isinstance(part, Tensor | list | tuple) for part in answer):
        parts = [as_tensor(part) for part in answer]
        found = [part for part in parts if part is not None]
        return torch.stack(found) if len(found) == len(parts) and len({p.shape for p in found}) == 1 else None
    try:
        numbers = torch.as_tensor(float(answer) if isinstance(answer, int) else answer).detach()
        if numbers.dtype == torch.bool or numbers.is_complex():
            return None
        return numbers.to("cpu", torch.float64)
    except Exception:  # noqa: BLE001 (anything may be handed in; what cannot be read is told so, and raises nothing)
        return None


def close(answer: Tensor, truth: Tensor, absolute: float, relative: float) -> bool:
    """Whether every number is within the tolerances of the truth, or the same infinity.

    Example:
        >>> close(torch.tensor([1.0, -torch.inf]), torch.tensor([1.001, -torch.inf]), 0.0, 0.01)
        True
    """
    return bool(torch.isclose(answer, truth, rtol=relative, atol=absolute).all())
