"""Answers that are numbers or tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake

__all__ = ["Value", "as_tensor", "close"]

# What anybody may do to any number: name, the transformation, what to say
_USUAL: tuple[tuple[str, Callable[[Tensor], Tensor], str], ...] = (
    ("sign", torch.neg, "The size is right and the sign is not."),
    ("square", torch.square, "This is the square of what is asked: was a variance used for a standard deviation?"),
    ("root", torch.sqrt, "This is the square root of what is asked: was a standard deviation used for a variance?"),
    ("log", torch.log, "This is the logarithm of what is asked."),
    ("exp", torch.exp, "This is on the natural scale, where a logarithm is asked."),
    ("reciprocal", torch.reciprocal, "This is one over what is asked."),
    ("double", lambda v: 2 * v, "This is twice what is asked."),
    ("half", lambda v: v / 2, "This is half of what is asked."),
    ("base two", lambda v: v / torch.log(torch.tensor(2.0)), "This is in bits, where nats are asked."),
    ("base ten", lambda v: v / torch.log(torch.tensor(10.0)), "This is a logarithm to base ten; nats are asked."),
)


def as_tensor(answer: Any) -> Tensor | None:
    """Return what a learner may hand in as a number as a tensor in double precision; None if it is none."""
    if isinstance(answer, str | bytes | bool) or answer is None:
        return None
    if isinstance(answer, list | tuple) and any(isinstance(part, Tensor) for part in answer):
        parts = [as_tensor(part) for part in answer]
        if any(part is None or part.shape != parts[0].shape for part in parts):  # type: ignore[union-attr]
            return None
        return torch.stack(parts)  # type: ignore[arg-type]
    try:
        found = torch.as_tensor(answer)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if found.is_complex() else found.detach().to("cpu", torch.float64)


def close(answer: Tensor, truth: Tensor, absolute: float, relative: float) -> bool:
    """Whether every number is within one of the tolerances of the truth."""
    return bool(((answer - truth).abs() <= absolute + relative * truth.abs()).all())


@dataclass(frozen=True)
class Value(Exercise):
    """An exercise whose answer is a number or a tensor.

    The answer is compared with the truth, then with what follows from each mistake, then with what anybody may do to
    any number: a wrong sign, a variance for a standard deviation, a missing or a second logarithm, a factor of two.

    Attributes:
        truth: computes the answer.
        mistakes: those to be named before the usual ones.
        absolute: tolerance; that of a Monte Carlo answer is a multiple of its standard error.
        relative: tolerance.
        praise: what a right answer gets to read: why it matters.

    Example:
        >>> Value("0.1", "The variance of two fair coins' heads.", lambda: 0.5).examine(-0.5)
        Finding(right=False, message='The size is right and the sign is not.')
    """

    truth: Callable[[], Any]
    mistakes: tuple[Mistake, ...] = ()
    absolute: float = 1e-6
    relative: float = 1e-3
    praise: str = ""

    def examine(self, answer: object) -> Finding:
        """Compare a number or tensor with the truth and with the mistakes."""
        truth = as_tensor(self.truth())
        if truth is None:
            raise TypeError(f"the truth of exercise {self.number} is no number")
        given = as_tensor(answer)
        if given is None:
            return Finding(False, f"Expected {_kind(truth)}; got {type(answer).__name__}.")
        if given.numel() == truth.numel() == 1:
            given = given.reshape(truth.shape)
        if given.shape != truth.shape:
            return Finding(False, f"Expected {_kind(truth)}; got one of shape {tuple(given.shape)}.")
        if bool(given.isnan().any()):
            return Finding(False, "There is a NaN in it.")
        if self._close(given, truth):
            return Finding(True, self.praise)
        return Finding(False, self._mistake(given, truth) or _size(given, truth))

    def _close(self, given: Tensor, value: Tensor) -> bool:
        return close(given, value, self.absolute, self.relative)

    def _mistake(self, given: Tensor, truth: Tensor) -> str:
        """What is said of the mistake that was made; nothing if it is not known."""
        for mistake in self.mistakes:
            value = as_tensor(mistake.answer())
            if value is not None and value.shape == given.shape and self._close(given, value):
                return mistake.message
        for _, change, message in _USUAL:
            value = change(truth)
            if bool(value.isfinite().all()) and not self._close(truth, value) and self._close(given, value):
                return message
        return ""


def _kind(truth: Tensor) -> str:
    return "a number" if truth.dim() == 0 else f"a tensor of shape {tuple(truth.shape)}"


def _size(given: Tensor, truth: Tensor) -> str:
    """What can be said of an unknown mistake without giving the answer away."""
    if truth.dim() == 0:
        return "It is too large." if bool(given > truth) else "It is too small."
    wrong = int(((given - truth).abs() > 1e-3 * (1 + truth.abs())).sum())
    return f"{wrong} of {truth.numel()} numbers are off." if wrong else "It is nearly right; compute more exactly."
