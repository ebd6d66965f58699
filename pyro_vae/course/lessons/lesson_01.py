"""Lesson 1, Bayes' formula in three steps."""

from __future__ import annotations

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

EXERCISES: tuple[Exercise, ...] = (
    Value(
        "1.1",
        "A test finds 95 % of the ill and alarms for 2 % of the healthy; one in 200 is ill. How probable is illness"
        " after an alarm? Hand in the probability.",
        lambda: 0.95 * 0.005 / (0.95 * 0.005 + 0.02 * 0.995),
        (
            Mistake(lambda: 0.95, "This is p(alarm | ill): the condition is the wrong way round."),
            Mistake(lambda: 0.95 * 0.005, "This is the joint probability: it still has to be divided by the evidence."),
            Mistake(lambda: 0.95 / 0.97, "The prior is missing: most people are healthy."),
        ),
        praise="Most alarms are false, since most people are healthy.",
    ),
)
