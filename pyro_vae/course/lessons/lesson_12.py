"""Lesson 12, neighbours: flows, GANs, DRAW."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_WIDE = 2.0  # standard deviation of the generator's samples in exercise 2
_DIMENSIONS, _LEVELS, _LOG_DENSITY = 64, 16.0, 72.0  # of exercise 3


def _at(*values: float) -> list[tuple[Tensor]]:
    return [(torch.tensor(value, dtype=torch.float64),) for value in values]


def _normal(x: Tensor, scale: float = 1.0) -> Tensor:
    return Normal(torch.zeros_like(x), scale).log_prob(x)


def _stretch(x: Tensor) -> Tensor:
    """Log |d arcsinh / dx|."""
    return -0.5 * (1 + x**2).log()


def _logit(x: Tensor, scale: float = _WIDE) -> Tensor:
    return _normal(x) - _normal(x, scale)


def _levels() -> float:
    """Log p of x + u, nats."""
    return _LOG_DENSITY - _DIMENSIONS * math.log(_LEVELS)


def _bits(nats: float) -> float:
    return -nats / (_DIMENSIONS * math.log(2))


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "12.1",
        "z ~ N(0, 1) and x = sinh z. Hand in log p(x) as a function of x.",
        lambda x: _normal(x.asinh()) + _stretch(x),
        _at(-6.0, -1.2, 0.4, 3.0),
        (
            Mistake(
                lambda x: _normal(x.asinh()),
                "log |det| is missing: this is not a density, it does not integrate to one.",
            ),
            Mistake(
                lambda x: _normal(x.asinh()) - _stretch(x),
                "log |det| has the wrong sign: where the map stretches, mass is spread thin.",
            ),
            Mistake(
                lambda x: _normal(x.asinh()) + 2 * _stretch(x),
                "The derivative of arcsinh has a square root in it.",
            ),
            Mistake(
                lambda x: _normal(x.sinh()) + x.cosh().log(),
                "The map is the wrong way round: which z has made this x?",
            ),
            Mistake(
                lambda x: _normal(x.asinh()) - x.cosh().log(),
                "The derivative of sinh is taken at x, and it belongs at the z that has made this x.",
            ),
            Mistake(_stretch, "The density of z is missing: this is log |det| alone."),
        ),
        praise="Its tails are far heavier than a Gaussian's.",
    ),
    Function(
        "12.2",
        "Data have the density N(0, 1), samples of a generator N(0, 2^2). Hand in the logit of the best discriminator,"
        " log D(x) / (1 - D(x)), as a function of x.",
        _logit,
        _at(-3.0, -0.7, 0.0, 1.1, 2.5),
        (
            Mistake(lambda x: -_logit(x), "This ratio is upside down: D is the probability that x is real."),
            Mistake(lambda x: _logit(x).sigmoid(), "This is D itself; its logit is asked."),
            Mistake(lambda x: _logit(x).sigmoid().log(), "This is log D; its logit is log D - log(1 - D)."),
            Mistake(
                lambda x: _logit(x, math.sqrt(_WIDE)),
                "The 2 is a standard deviation; here it was used as a variance.",
            ),
            Mistake(
                lambda x: _logit(x) - math.log(_WIDE),
                "The constants of the two densities differ: that of the wider one is smaller.",
            ),
            Mistake(_normal, "This is the density of the data alone; the judge compares two."),
        ),
        praise="Near zero x is probably real, and far out it is not.",
    ),
    Value(
        "12.3",
        "A flow of 64 pixels was trained on y = (x + u) / 16 with whole x and uniform u; its mean log p(y) on held-out"
        " images is +72 nats. Hand in the bits per dimension of x.",
        lambda: _bits(_levels()),
        (
            Mistake(
                lambda: _bits(_LOG_DENSITY),
                "The units are missing: y is sixteen times smaller than x, in each of 64 dimensions.",
            ),
            Mistake(
                lambda: _bits(_LOG_DENSITY - math.log(_LEVELS)),
                "The change of units counts once for every dimension.",
            ),
            Mistake(
                lambda: _bits(_LOG_DENSITY + _DIMENSIONS * math.log(_LEVELS)),
                "The change of units has the wrong sign: x is spread over a larger space than y.",
            ),
            Mistake(lambda: -_levels() / _DIMENSIONS, "These are nats per dimension; divide by log 2."),
            Mistake(lambda: -_levels() / math.log(2), "These are bits of the whole image; divide by its pixels."),
            Mistake(lambda: -_levels(), "These are nats of the whole image."),
            Mistake(_levels, "This is log p(x) in nats: bits of a code are minus that, in another unit."),
        ),
        absolute=2e-3,
        relative=0.0,
        praise="log2(17) bits would be the cost without any model.",
    ),
)
