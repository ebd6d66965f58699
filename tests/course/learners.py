"""What learners hand in that is no answer at all, and what every message has to keep to itself."""

import math
import re
from functools import cache
from importlib import import_module

import torch

import pyro_vae as pv


def _raises(*_):
    raise RuntimeError("of the learner's own making")


GARBAGE = {
    "None": None,
    "text": "x",
    "empty": [],
    "words": ["one", 2],
    "NaN": math.nan,
    "NaNs": torch.full((7, 3), math.nan),
    "infinite": math.inf,
    "complex": 1j,
    "truth value": True,
    "wrong shape": torch.zeros(2, 3, 5),
    "dictionary": {"a": 1},
    "object": object(),
    "function that raises": _raises,
    "function without a return": lambda *_: None,
    "function of nothing": lambda: 1.0,
    "function to a word": lambda *_: "x",
    "function to NaN": lambda *_: math.nan,
    "function to a wrong shape": lambda *_: torch.zeros(2, 3, 5),
}


class Answers:
    """The tests of a lesson's exercises: subclass it as ``TestAnswers``, and fill in the tables.

    Answers that have to be computed are wrapped in :class:`Later`.
    """

    right: dict  # by number
    mistakes: dict  # by what is wrong: number, answer, a pattern of the message
    secrets: tuple = ()  # numbers that no message may hold

    def test_right_answers_are_right(self):
        for number, answer in self.right.items():
            result = pv.course.check(number, made(answer))
            assert result, result

    def test_every_exercise_is_tried(self):
        lesson = int(next(iter(self.right)).split(".")[0])
        assert list(self.right) == list(pv.course.exercises(lesson))
        assert {number for number, _, _ in self.mistakes.values()} == set(self.right)

    def test_every_mistake_gets_its_sentence(self):
        for name, (number, answer, words) in self.mistakes.items():
            message = said_of(number, made(answer))
            assert re.search(words, message), f"{name}: {message}"
            self.keeps_the_answer(message)

    def test_every_mistake_that_is_known_is_tried(self):
        lesson = int(next(iter(self.right)).split(".")[0])
        said = {said_of(number, made(answer)) for number, answer, _ in self.mistakes.values()}
        known = import_module(f"pyro_vae.course.lessons.lesson_{lesson:02d}").EXERCISES
        for exercise in known:
            for mistake in getattr(exercise, "mistakes", ()):
                assert mistake.message in said, f"{exercise.number}: nobody makes the mistake of {mistake.message!r}"

    def test_garbage_gets_a_sentence(self):
        for number in self.right:
            for garbage in GARBAGE.values():
                self.keeps_the_answer(said_of(number, garbage))

    def keeps_the_answer(self, message):
        for secret in self.secrets:
            assert not tells(message, made(secret)), message


class Later:
    """An answer that is computed when it is first asked for."""

    def __init__(self, compute):
        self.compute = cache(compute)


def made(answer):
    return answer.compute() if isinstance(answer, Later) else answer


def said_of(number, answer):
    """The message for a wrong answer, which has to be a sentence."""
    result = pv.course.check(number, answer)
    assert not result, f"{number} takes {answer!r} for right"
    assert len(result.message) > 10, f"{number} says nothing of {answer!r}"
    return result.message


def tells(message, truth):
    """Whether a message holds the answer, to three digits."""
    numbers = [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?|-?\d+", message)]
    return any(math.isclose(number, truth, rel_tol=1e-3, abs_tol=1e-9) for number in numbers)
