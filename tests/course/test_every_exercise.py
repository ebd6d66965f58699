"""What holds for every exercise of the course, whatever its kind: each lesson's file inherits these tests."""

import re

import pytest
import torch

from pyro_vae.course import check, exercises
from pyro_vae.course.check import NUM_LESSONS, _of_lesson
from pyro_vae.course.choices import Choice
from pyro_vae.course.draws import Sample
from pyro_vae.course.functions import Function
from pyro_vae.course.reading import as_tensor, close
from pyro_vae.course.values import Value
from tests.course.test_kinds import GARBAGE

EVERY = [exercise for lesson in range(1, NUM_LESSONS + 1) for exercise in _of_lesson(lesson)]
each = pytest.mark.parametrize("exercise", EVERY, ids=lambda exercise: exercise.number)


def numbers_of_the_answer(exercise):
    if isinstance(exercise, Value):
        return as_tensor(exercise.truth()).flatten()
    if isinstance(exercise, Sample):
        return torch.cat([as_tensor(value).flatten() for value in exercise.truth()])
    return torch.zeros(0)


def holds_a_number_of(message, truth):
    """Whether a number in a message is one of the truth's, as closely as it is written."""
    for written in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", message):
        digits = len(written.partition(".")[2].partition("e")[0])
        if bool(((truth.abs() - float(written)).abs() <= 0.5 * 10.0**-digits).any()) and digits:
            return True
    return False


@each
def test_numbers_and_questions(exercise):
    assert re.fullmatch(r"([1-9]|1[0-2])\.[1-9]", exercise.number)
    assert exercises()[exercise.number] == exercise.question
    assert exercise.question[-1] in ".?"
    assert not holds_a_number_of(exercise.question, numbers_of_the_answer(exercise))
    assert [e.number for e in EVERY].count(exercise.number) == 1


@each
def test_garbage_gets_a_sentence_that_does_not_hold_the_answer(exercise):
    for answer in GARBAGE:
        result = check(exercise.number, answer)
        assert not result
        assert result.message
        assert not holds_a_number_of(result.message, numbers_of_the_answer(exercise))


@each
def test_every_named_mistake_gets_its_sentence(exercise):
    for mistake in getattr(exercise, "mistakes", ()):
        answer = mistake.answer if isinstance(exercise, Function) else mistake.answer()
        if isinstance(exercise, Sample):
            mean, std = (as_tensor(value).reshape(-1) for value in answer)
            mean = mean.nan_to_num(3.0)  # any
            noise = torch.randn(20_000, len(mean), dtype=torch.float64)
            answer = mean + std * (noise - noise.mean(0)) / noise.std(0)
        result = check(exercise.number, answer)
        assert not result
        assert result.message == mistake.message
        assert not holds_a_number_of(result.message, numbers_of_the_answer(exercise))


@each
def test_as_many_draws_are_asked_for_as_tell_each_mistake_from_the_truth(exercise):
    if isinstance(exercise, Sample):
        mean, std = (as_tensor(value).reshape(-1) for value in exercise.truth())
        for mistake in exercise.mistakes:
            other_mean, other_std = (as_tensor(value).reshape(-1) for value in mistake.answer())
            off = torch.maximum(
                (other_mean - mean).nan_to_num(0.0).abs() / std, 2**0.5 * (other_std / std - 1).abs()
            ).max()
            assert off * exercise.min_ess**0.5 > 4  # standard errors


@each
def test_the_truth_passes_and_says_why_it_matters(exercise):
    if isinstance(exercise, Choice):
        assert set(exercise.right) < set(exercise.options)
        answer = set(exercise.right)
    elif isinstance(exercise, Sample):
        mean, std = (as_tensor(value).reshape(-1) for value in exercise.truth())
        answer = mean + std * torch.randn(20_000, len(mean), dtype=torch.float64)
    else:
        answer = exercise.truth if isinstance(exercise, Function) else exercise.truth()
    result = check(exercise.number, answer)
    assert result, result
    assert result.message


@each
def test_a_choice_says_something_of_each_option(exercise):
    if isinstance(exercise, Choice):
        for option, sentence in exercise.options.items():
            result = check(exercise.number, option)
            assert result.message
            assert sentence in result.message or option in exercise.right
    elif isinstance(exercise, Value):
        truth = as_tensor(exercise.truth())
        assert not close(truth, torch.zeros_like(truth), exercise.absolute, exercise.relative)
