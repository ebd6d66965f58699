"""Answers that are functions: densities, gradients, bounds."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Finding, Mistake
from pyro_vae.course.reading import as_tensor, close
from pyro_vae.course.usual import NEARLY_RIGHT, nearly_right, usual_mistake

__all__ = ["Function"]

_RAISED = 120  # characters of an error that the learner's function raised
_NOISE = 0.02  # of the size of the numbers: what remains after some thousand draws


@dataclass(frozen=True)
class Function(Exercise):
    """An exercise whose answer is a function, compared with the truth where the exercise says.

    Attributes:
        truth: the function that is asked for; what it returns may be a number, a tensor, or several of one shape.
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
        'It is off by the same number everywhere: a constant is missing, or is wrong.'
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
        truth = self._values(self.truth, points)
        given = []
        for point, value in zip(points, truth, strict=True):
            found = _called(answer, deepcopy(point), value)  # a function may change its arguments
            if isinstance(found, Finding):
                return found
            given.append(found)
        if self._all_close(given, truth):
            return Finding(True, self.praise)
        for mistake in self.mistakes:
            if self._all_close(given, self._values(mistake.answer, points)):
                return Finding(False, mistake.message)
        return Finding(False, self._what_is_off(_joined(given), _joined(truth)))

    def _values(self, function: Callable[..., Any], points: list[tuple[Any, ...]]) -> list[Tensor]:
        values = [as_tensor(function(*deepcopy(point))) for point in points]
        if any(value is None for value in values):
            raise TypeError(f"a function in exercise {self.number} returns no number")
        return [value for value in values if value is not None]

    def _all_close(self, given: list[Tensor], wanted: list[Tensor]) -> bool:
        pairs = list(zip(given, wanted, strict=True))
        return all(a.shape == b.shape and close(a, b, self.absolute, self.relative) for a, b in pairs)

    def _what_is_off(self, given: Tensor, truth: Tensor) -> str:
        if bool(given.isnan().any()):
            return "It returns a NaN at some of the points at which it was tried."
        if bool((given.isinf() & truth.isfinite()).any()):
            return "It is infinite at some of the points at which it was tried."
        if nearly_right(given, truth, self.absolute, self.relative):
            return NEARLY_RIGHT
        usual = usual_mistake(given, truth, self.absolute, self.relative)
        if not usual and float((given - truth).norm()) <= _NOISE * float(truth.norm()):
            return "It is nearly right everywhere: an average over draws has noise in it, and a formula has none."
        right = torch.isclose(given, truth, rtol=self.relative, atol=self.absolute)
        return usual or f"{int((~right).sum())} of {len(right)} numbers that it returned are off."


def _called(function: Callable[..., Any], point: tuple[Any, ...], truth: Tensor) -> Tensor | Finding:
    """What the learner's function returns at a point in the truth's shape, or why it does not."""
    try:
        returned = function(*point)
    except Exception as error:  # noqa: BLE001 (whatever a learner's function may raise is said, not raised)
        return Finding(False, f"It raised {type(error).__name__}: {str(error)[:_RAISED]}")
    found = as_tensor(returned)
    if found is None:
        if returned is ... or (isinstance(returned, tuple | list) and any(part is ... for part in returned)):
            return Finding(False, "There is still a ... in what it returns.")
        missing = " Is there a return?" if returned is None else ""
        return Finding(False, f"It returns {type(returned).__name__}; expected {_kind(truth)}.{missing}")
    if found.squeeze().shape == truth.squeeze().shape:
        found = found.reshape(truth.shape)
    if found.shape != truth.shape:
        return Finding(False, f"It returns {_kind(found)}; expected {_kind(truth)}.")
    return found


def _kind(numbers: Tensor) -> str:
    return "a number" if numbers.dim() == 0 else f"numbers of shape {tuple(numbers.shape)}"


def _joined(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])
