"""Lesson 2, the evidence."""

from __future__ import annotations

import math

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_X, _WEIGHT, _SIGMA = 1.5, 2.0, 0.5
_POINTS, _RATE, _AGE = 32, 1e6, 4.35e17  # points an axis, evaluations a second, the age of the universe in seconds
_TOSSES, _HEADS = 10, 8


def _log_normal(x: float, variance: float) -> float:
    return -0.5 * x**2 / variance - 0.5 * math.log(2 * math.pi * variance)


def _dimensions() -> float:
    """How many dimensions are affordable, not yet a whole number."""
    return math.log(_AGE * _RATE) / math.log(_POINTS)


def _log_marginal() -> float:
    """The log probability of the tosses, in their order, where every bias is equally probable."""
    return -math.log((_TOSSES + 1) * math.comb(_TOSSES, _HEADS))


_LOG_FAIR = -_TOSSES * math.log(2)

EXERCISES: tuple[Exercise, ...] = (
    Value(
        "2.1",
        "z ~ N(0, 1) and x ~ N(2 z, 0.5^2), where 0.5 is the standard deviation. What is log p(x) at x = 1.5, in nats?"
        " Hand in the number.",
        lambda: _log_normal(_X, _WEIGHT**2 + _SIGMA**2),
        (
            Mistake(
                lambda: _log_normal(_X, _SIGMA**2),
                "This is log p(x | z = 0): the prior's spread is missing.",
            ),
            Mistake(
                lambda: _log_normal(_X, 1 + _SIGMA**2),
                "The factor in front of z is missing: it spreads x, too.",
            ),
            Mistake(
                lambda: _log_normal(_X, _WEIGHT**2),
                "The noise is missing: x varies around 2 z as well.",
            ),
            Mistake(
                lambda: _log_normal(_X, _WEIGHT + _SIGMA**2),
                "A factor in front of z multiplies its variance by the square of the factor.",
            ),
            Mistake(
                lambda: _log_normal(_X, (_WEIGHT + _SIGMA) ** 2),
                "Standard deviations do not add up; variances do.",
            ),
            Mistake(
                lambda: _log_normal(_X, _WEIGHT**2 + _SIGMA),
                "0.5 is the noise's standard deviation, and was used as its variance.",
            ),
            Mistake(
                lambda: _log_normal(_X, (_WEIGHT**2 + _SIGMA**2) ** 2),
                "The variance of x was used as its standard deviation.",
            ),
            Mistake(
                lambda: _log_normal(_X, _WEIGHT**2 + _SIGMA**2) + 0.5 * math.log(2 * math.pi),
                "The constant is missing: a normal density has 2 pi in it.",
            ),
            Mistake(
                lambda: -0.5 * _X**2 / (_WEIGHT**2 + _SIGMA**2),
                "Only the square in the exponent is here: the density's factor in front is missing.",
            ),
        ),
        praise="z was integrated out by adding two variances: this is why linear-Gaussian models are loved.",
    ),
    Value(
        "2.2",
        "A grid has 32 points along each axis, and a computer makes a million evaluations a second. From how many"
        " dimensions on does the grid take longer than the age of the universe, 4.35e17 seconds? Hand in a whole"
        " number.",
        lambda: math.floor(_dimensions()) + 1,
        (
            Mistake(lambda: math.floor(_dimensions()), "So many can just be afforded: it is about the next one."),
            Mistake(_dimensions, "A number of dimensions is a whole number."),
            Mistake(
                lambda: math.floor(math.log(_AGE) / math.log(_POINTS)) + 1,
                "The speed is missing: a million evaluations take one second.",
            ),
            Mistake(
                lambda: math.ceil(_AGE * _RATE / _POINTS),
                "Points along the axes multiply with every dimension; they do not add up.",
            ),
            Mistake(
                lambda: math.floor(math.log(_AGE / _RATE) / math.log(_POINTS)) + 1,
                "A fast computer affords more evaluations: the rate multiplies the seconds.",
            ),
        ),
        absolute=1e-3,
        relative=0.0,
        praise="A computer a thousand times as fast affords two dimensions more.",
    ),
    Value(
        "2.3",
        "A coin is tossed 10 times: 8 heads, in one given order. Model A: the coin is fair. Model B: each bias between"
        " 0 and 1 is equally probable. What is log p(tosses | B) - log p(tosses | A), in nats? Hand in the number.",
        lambda: _log_marginal() - _LOG_FAIR,
        (
            Mistake(
                lambda: (
                    _HEADS * math.log(_HEADS / _TOSSES)
                    + (_TOSSES - _HEADS) * math.log(1 - _HEADS / _TOSSES)
                    - _LOG_FAIR
                ),
                "This is the best bias against the fair coin: model B does not know the bias, so average over it.",
            ),
            Mistake(lambda: _LOG_FAIR - _log_marginal(), "The size is right: it is the other model that wins."),
            Mistake(_log_marginal, "This is the log evidence of B alone."),
            Mistake(
                lambda: -math.log(_TOSSES + 1) - _LOG_FAIR,
                "One model counts all orders of the tosses, the other one order: leave the binomial coefficient out"
                " of both, or put it into both.",
            ),
            Mistake(
                lambda: 0.0,
                "The mean bias of B is that of a fair coin, but the evidence is the mean of p(tosses | bias), not"
                " p(tosses | mean bias).",
            ),
        ),
        praise="B wins, and by far less than its best bias would: it pays for the biases that did not happen.",
    ),
)
