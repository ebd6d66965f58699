"""The mistakes that can be made with any number: sign, square, logarithm, a missing constant, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.course.reading import close

__all__ = ["NEARLY_RIGHT", "nearly_right", "usual_mistake"]

_CHANGES: tuple[tuple[Callable[[Tensor], Tensor], str], ...] = (
    (torch.neg, "The size is right and the sign is not."),
    (torch.square, "This is the square of what is asked: was a variance used for a standard deviation?"),
    (torch.sqrt, "This is the square root of what is asked: was a standard deviation used for a variance?"),
    (torch.log, "This is the logarithm of what is asked."),
    (lambda v: -v.log(), "This is minus the logarithm of what is asked."),
    (torch.exp, "This is on the natural scale, where a logarithm is asked."),
    (torch.reciprocal, "This is one over what is asked."),
    (lambda v: 2 * v, "This is twice what is asked."),
    (lambda v: v / 2, "This is half of what is asked."),
    (
        lambda v: 100 * v if bool(((v > 0) & (v < 1)).all()) else v,
        "This is a hundred times what is asked: is it in per cent?",
    ),
    (lambda v: v / math.log(2), "This is in bits, where nats are asked."),
    (lambda v: v / math.log(10), "This is a logarithm to base ten; nats are asked."),
)
_ORDERS: tuple[tuple[Callable[[Tensor], Tensor], str], ...] = (
    (lambda v: v.mT if v.dim() == 2 and v.shape[0] == v.shape[1] else v, "The matrix is transposed."),
    (lambda v: v.flip(-1) if v.dim() else v, "The numbers are right and their order is reversed."),
)
_CLEARLY = 5  # tolerances

NEARLY_RIGHT = "It is nearly right: compute more exactly, and round less."


def nearly_right(given: Tensor, truth: Tensor, absolute: float, relative: float) -> bool:
    """Whether a wrong answer is within a few tolerances.

    Example:
        >>> nearly_right(torch.tensor(0.9), torch.tensor(0.9014), 1e-6, 1e-3)
        True
    """
    return close(given, truth, _CLEARLY * absolute, _CLEARLY * relative)


def usual_mistake(given: Tensor, truth: Tensor, absolute: float, relative: float, *, order: bool = False) -> str:
    """Say what was done to the truth, if one usual mistake explains what was given; nothing if none does, or several.

    Args:
        given: what was handed in, of the truth's shape.
        truth: what is right.
        absolute: tolerance.
        relative: tolerance.
        order: whether the numbers may have been transposed or reversed, too.

    Example:
        >>> usual_mistake(torch.tensor(-0.5), torch.tensor(0.5), 1e-6, 1e-3)
        'The size is right and the sign is not.'
    """
    found = []
    for change, message in _CHANGES + (_ORDERS if order else ()):
        changed = change(truth)
        sensible = bool(changed.isfinite().all()) and not close(changed, truth, absolute, relative)
        if sensible and close(given, changed, absolute, relative):
            found.append(message)
    if len(found) == 1:
        return found[0]
    return _same_everywhere(given, truth, absolute, relative) if not found and truth.numel() > 1 else ""


def _same_everywhere(given: Tensor, truth: Tensor, absolute: float, relative: float) -> str:
    """What is said if all numbers are off by one and the same constant, or factor."""
    difference, ratio = given - truth, given / truth
    if nearly_right(given, truth, absolute, relative):
        return ""  # rounded, and no one constant or factor
    if bool(difference.isfinite().all()) and _constant(difference, absolute, relative):
        return "It is off by the same number everywhere: a constant is missing, or is wrong."
    clearly = abs(float(ratio.mean()) - 1) > _CLEARLY * relative
    if bool(ratio.isfinite().all()) and clearly and _constant(ratio, 0.0, relative):
        return "It is off by the same factor everywhere."
    return ""


def _constant(values: Tensor, absolute: float, relative: float) -> bool:
    return close(values, values.mean().expand_as(values), absolute, relative)
