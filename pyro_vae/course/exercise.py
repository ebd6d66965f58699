"""What an exercise is, and what is said of an answer: right, or what is wrong with it, never the answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Exercise", "Finding", "Mistake", "Result"]


@dataclass(frozen=True)
class Result:
    """What is said of an answer to an exercise.

    Attributes:
        number: of the exercise, lesson and place: ``"3.2"``.
        right: whether the answer is right; so is the truth value of the result.
        message: right, or what is wrong with it. It never holds the answer.
    """

    number: str
    right: bool
    message: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{self.number}: {'right.' if self.right else 'not yet.'} {self.message}".rstrip()


@dataclass(frozen=True)
class Finding:
    """Whether an answer is right, and a sentence."""

    right: bool
    message: str = ""


@dataclass(frozen=True)
class Mistake:
    """A mistake that learners make: what follows from it, in the form of the truth, and what to say of it.

    Attributes:
        answer: computes what a learner has who made it, like the exercise's ``truth``.
        message: one sentence that says what is wrong and not what is right.
    """

    answer: Callable[..., object]
    message: str


@dataclass(frozen=True)
class Exercise(ABC):
    """A question whose answer can be checked: the recipe for a kind of exercise is ``examine``.

    Attributes:
        number: lesson and place, ``"3.2"``.
        question: what is asked, in one or two sentences, with the name of what to hand in.
    """

    number: str
    question: str

    @abstractmethod
    def examine(self, answer: object) -> Finding:
        """Return whether the answer is right, and what is wrong with it. What cannot be read is wrong, not an error."""
