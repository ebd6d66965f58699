"""Positive scales from real numbers: sigma = softplus(raw) + 1e-6, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["FLOOR", "raw_scale", "to_scale"]

FLOOR = 1e-6  # under a learnt sigma: keeps log q finite when softplus underflows


def to_scale(raw: Tensor, *, floor: float = FLOOR) -> Tensor:
    """Return softplus(raw) + floor.

    Example:
        >>> bool(torch.isclose(to_scale(raw_scale(torch.tensor(0.3))), torch.tensor(0.3)))
        True
    """
    return softplus(raw) + floor


def raw_scale(scale: Tensor | float, *, floor: float = FLOOR) -> Tensor:
    """Return the inverse of :func:`to_scale` for scales above the floor, without overflow; of a number, in double."""
    excess = torch.as_tensor(scale, dtype=None if isinstance(scale, Tensor) else torch.float64) - floor
    return excess + torch.log(-torch.expm1(-excess))
