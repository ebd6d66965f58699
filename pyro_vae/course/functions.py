"""Answers that are functions: densities, gradients, bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake
from pyro_vae.course.values import as_tensor, close

__all__ = ["Function"]

_RAISED = 120  # characters of an error that the learner's function raised


@dataclass(frozen=True)
class Function(Exercise):
    """An exercise whose answer is a function, compared with the truth where the exercise says.

    Attributes:
        truth: the function that is asked for.
        points: arguments at which both are called: one tuple a call.
        mistakes: each of whose ``answer`` is a function of the same arguments.
        absolute: tolerance.
        relative: tolerance.
        praise: what a right answer gets to read.

    Example:
        >>> points = [(torch.tensor(0.3),), (torch.tensor(2.0),)]
        >>> normal = torch.distributions.Normal(0, 1)
        >>> exercise = Function("0.1", "log N(z; 0, 1) as a function of z.", normal.log_prob, points)
        >>> exercise.examine(lambda z: -(z**2) / 2).message
        'It is off by the same number everywhere: a constant is missing.'
    """

    truth: Callable[..., Any]
    points: Callable[[], list[tuple[Any, ...]]] | list[tuple[Any, ...]]
    mistakes: tuple[Mistake, ...] = ()
    absolute: float = 1e-4
    relative: float = 1e-4
    praise: str = ""

    def examine(self, answer: object) -> Finding:
        """Call the answer at the points and compare."""
        if not callable(answer):
            return Finding(False, f"Expected a function; got {type(answer).__name__}. Hand in its name without ().")
        points = self.points() if callable(self.points) else self.points
        truth = [_required(self.truth(*point), self.number) for point in points]
        given = []
        for point, value in zip(points, truth, strict=True):
            found = _called(answer, point, value)
            if isinstance(found, Finding):
                return found
            given.append(found)
        if self._all_close(given, truth):
            return Finding(True, self.praise)
        for mistake in self.mistakes:
            if self._all_close(given, [_required(mistake.answer(*point), self.number) for point in points]):
                return Finding(False, mistake.message)
        return Finding(False, self._shape_of_the_error(given, truth))

    def _all_close(self, given: list[Tensor], wanted: list[Tensor]) -> bool:
        return all(close(a, b, self.absolute, self.relative) for a, b in zip(given, wanted, strict=True))

    def _shape_of_the_error(self, given: list[Tensor], truth: list[Tensor]) -> str:
        a, b = torch.cat([v.flatten() for v in given]), torch.cat([v.flatten() for v in truth])
        if not bool(a.isfinite().all()):
            return "It is not finite everywhere."
        if len(a) > 1:
            difference, ratio = a - b, a / b
            if self._all_close(given, [-v for v in truth]):
                return "The size is right and the sign is not."
            if float(difference.std()) <= self.absolute + self.relative * float(difference.abs().mean()):
                return "It is off by the same number everywhere: a constant is missing."
            if bool(ratio.isfinite().all()) and float(ratio.std()) <= self.relative * float(ratio.abs().mean()):
                return "It is off by the same factor everywhere."
            if self._all_close(given, [v.exp() for v in truth]):
                return "This is on the natural scale, where a logarithm is asked."
        wrong = int(((a - b).abs() > self.absolute + self.relative * b.abs()).sum())
        return f"It is off at {wrong} of {len(a)} points."


def _called(function: Callable[..., Any], point: tuple[Any, ...], truth: Tensor) -> Tensor | Finding:
    """What the learner's function returns at a point in the truth's shape, or why it does not."""
    try:
        found = as_tensor(function(*point))
    except Exception as error:  # noqa: BLE001 (whatever a learner's function may raise is said, not raised)
        return Finding(False, f"It raised {type(error).__name__}: {str(error)[:_RAISED]}")
    if found is None:
        return Finding(False, "It returns no number. Is there a return?")
    if found.numel() == truth.numel() == 1:
        found = found.reshape(truth.shape)
    if found.shape != truth.shape:
        return Finding(False, f"It returns shape {tuple(found.shape)}; expected {tuple(truth.shape)}.")
    return found


def _required(value: Any, number: str) -> Tensor:
    found = as_tensor(value)
    if found is None:
        raise TypeError(f"the truth of exercise {number} returns no number")
    return found
