"""Answers that are numbers or tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake
from pyro_vae.course.reading import as_tensor, close
from pyro_vae.course.usual import NEARLY_RIGHT, nearly_right, usual_mistake

__all__ = ["Value", "as_tensor", "close"]


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
        if given.squeeze().shape == truth.squeeze().shape:
            given = given.reshape(truth.shape)
        if given.shape != truth.shape:
            return Finding(False, f"Expected {_kind(truth)}; got {_kind(given)}.")
        if bool(given.isnan().any()):
            return Finding(False, "There is a NaN in it.")
        if self._close(given, truth):
            return Finding(True, self.praise)
        return Finding(False, self._what_is_off(given, truth))

    def _what_is_off(self, given: Tensor, truth: Tensor) -> str:
        for mistake in self.mistakes:
            value = as_tensor(mistake.answer())
            if value is not None and value.shape == given.shape and self._close(given, value):
                return mistake.message
        if nearly_right(given, truth, self.absolute, self.relative):
            return NEARLY_RIGHT
        usual = usual_mistake(given, truth, self.absolute, self.relative, order=True)
        return usual or self._how_far(given, truth)

    def _close(self, given: Tensor, value: Tensor) -> bool:
        return close(given, value, self.absolute, self.relative)

    def _how_far(self, given: Tensor, truth: Tensor) -> str:
        """What can be said of an unknown mistake without giving the answer away."""
        if truth.dim() == 0:
            return "It is too large." if bool(given > truth) else "It is too small."
        wrong = int((~torch.isclose(given, truth, rtol=self.relative, atol=self.absolute)).sum())
        return f"{wrong} of {truth.numel()} numbers are off."


def _kind(numbers: Tensor) -> str:
    return "a number" if numbers.dim() == 0 else f"a tensor of shape {tuple(numbers.shape)}"
