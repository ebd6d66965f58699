"""The tests of a lesson's exercises: answers found another way, and mistakes made by hand."""

import math
import re
from functools import cache
from importlib import import_module

import pyro_vae as pv


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
