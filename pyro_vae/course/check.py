"""Ask whether an answer is right."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec

from pyro_vae.checks import say
from pyro_vae.course.exercise import Exercise, Result

__all__ = ["check", "exercises"]

NUM_LESSONS = 12


@cache
def _of_lesson(lesson: int) -> tuple[Exercise, ...]:
    name = f"pyro_vae.course.lessons.lesson_{lesson:02d}"
    if find_spec(name) is None:
        return ()
    found: tuple[Exercise, ...] = import_module(name).EXERCISES
    return found


def exercises(lesson: int | None = None) -> dict[str, str]:
    """Return the questions by number, of one lesson or of all.

    Args:
        lesson: 1 to 12; None for all.

    Raises:
        ValueError: if there is no such lesson.

    Example:
        >>> list(exercises(1))[0]
        '1.1'
    """
    if lesson is not None and lesson not in range(1, NUM_LESSONS + 1):
        raise ValueError(say(f"a lesson from 1 to {NUM_LESSONS}", repr(lesson), "exercises(1)"))
    lessons = range(1, NUM_LESSONS + 1) if lesson is None else [lesson]
    return {exercise.number: exercise.question for number in lessons for exercise in _of_lesson(number)}


def check(number: str, answer: object) -> Result:
    """Say whether an answer is right, or what is wrong with it, and never the answer.

    Args:
        number: of the exercise, lesson and place: ``"3.2"``.
        answer: what the exercise asks for: a number, a tensor, a function, draws, or a letter.

    Returns:
        A result that is true if the answer is right, and that reads as a sentence.

    Raises:
        ValueError: if there is no such exercise. No answer raises.

    Example:
        >>> bool(check("1.1", "no number"))
        False
    """
    exercise = _exercise(str(number))
    if answer is None or answer is Ellipsis:
        return Result(exercise.number, False, "There is no answer yet.")
    finding = exercise.examine(answer)
    return Result(exercise.number, finding.right, finding.message)


def _exercise(number: str) -> Exercise:
    """The exercise of that number; only its lesson is loaded.

    Raises:
        ValueError: if there is none.
    """
    lesson = number.partition(".")[0]
    if lesson not in map(str, range(1, NUM_LESSONS + 1)):
        expected = f"lesson and place, with a lesson from 1 to {NUM_LESSONS}"
        raise ValueError(say(expected, repr(number), 'check("1.1", answer)'))
    found = {exercise.number: exercise for exercise in _of_lesson(int(lesson))}
    if number not in found:
        expected = f"an exercise of lesson {lesson}, {', '.join(found)}"
        raise ValueError(say(expected, repr(number), f'check("{next(iter(found))}", answer)'))
    return found[number]
