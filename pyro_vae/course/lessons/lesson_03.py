"""Lesson 3, mode and Laplace."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_SHAPE, _RATE = 2, 1  # of the Gamma prior over a rate
_COUNTS = (3, 5, 4)


def _gamma() -> tuple[float, float]:
    """Shape and rate of the posterior, which is a Gamma again."""
    return _SHAPE + sum(_COUNTS), _RATE + len(_COUNTS)


def _mode_and_width() -> tuple[float, float]:
    a, b = _gamma()
    return (a - 1) / b, math.sqrt(a - 1) / b


def _laplace(log_joint: Tensor, hessian: Tensor) -> Tensor:
    k = len(hessian)
    return log_joint + 0.5 * k * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(hessian)[1]


def _off_by(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Laplace's log evidence with a term changed."""
    return lambda log_joint, hessian: _laplace(log_joint, hessian) + change(log_joint, hessian)


def _half_log_det(log_joint: Tensor, hessian: Tensor) -> Tensor:
    return 0.5 * torch.linalg.slogdet(hessian)[1]


def _constant(log_joint: Tensor, hessian: Tensor) -> Tensor:
    return torch.tensor(0.5 * len(hessian) * math.log(2 * math.pi))


_PEAKS = [
    (torch.tensor(-3.2), torch.tensor([[4.0]])),
    (torch.tensor(-11.0), torch.tensor([[3.0, 1.2], [1.2, 0.9]])),
    (torch.tensor(0.7), torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.5, -0.4], [0.0, -0.4, 0.6]])),
]

EXERCISES: tuple[Exercise, ...] = (
    Value(
        "3.1",
        "A rate has the prior Gamma(2, 1) (shape, rate), and three Poisson counts were 3, 5 and 4. What are the mode of"
        " the posterior and the standard deviation of Laplace's Gaussian there? Hand in both, as a list of two.",
        _mode_and_width,
        (
            Mistake(
                lambda: (_mode_and_width()[0], _mode_and_width()[1] ** 2),
                "The mode is right; what stands beside it is a variance.",
            ),
            Mistake(
                lambda: (_gamma()[0] / _gamma()[1], math.sqrt(_gamma()[0]) / _gamma()[1]),
                "These are the posterior's mean and standard deviation, not those of its mode's Gaussian.",
            ),
            Mistake(
                lambda: (_mode_and_width()[0], math.sqrt(_gamma()[0]) / _gamma()[1]),
                "The mode is right; the width is that of the posterior, where that of the curvature is asked.",
            ),
            Mistake(
                lambda: (_gamma()[0] / _gamma()[1], math.sqrt(_gamma()[0] - 1) / _gamma()[1]),
                "The width is right; the first is the posterior's mean, and its mode is asked.",
            ),
            Mistake(
                lambda: (
                    (_SHAPE + sum(_COUNTS) - 1) / len(_COUNTS),
                    math.sqrt(_SHAPE + sum(_COUNTS) - 1) / len(_COUNTS),
                ),
                "The rate of the prior is missing: it adds to the number of counts.",
            ),
            Mistake(
                lambda: (sum(_COUNTS) / len(_COUNTS), math.sqrt(sum(_COUNTS)) / len(_COUNTS)),
                "This is maximum likelihood: the prior is missing.",
            ),
            Mistake(
                lambda: (_mode_and_width()[0], _mode_and_width()[1] ** -2),
                "The mode is right; beside it stands the curvature, and the variance is one over it.",
            ),
        ),
        praise="The posterior is skewed: its mode lies below its mean, and Laplace's Gaussian is a little too narrow.",
    ),
    Function(
        "3.2",
        "Write log_evidence(log_joint, hessian): Laplace's log p(x) from log p(x, z) at the mode and the matrix of"
        " second derivatives of -log p(x, z) there, (k, k). Hand in the function.",
        _laplace,
        _PEAKS,
        (
            Mistake(_off_by(_half_log_det), "The volume of the hill is missing: there is no determinant."),
            Mistake(
                _off_by(lambda j, h: 2 * _half_log_det(j, h)),
                "The determinant has the wrong sign: the sharper the hill, the less mass is under it.",
            ),
            Mistake(
                _off_by(lambda j, h: -_half_log_det(j, h)),
                "The determinant counts twice as much as it should: a standard deviation is a square root.",
            ),
            Mistake(_off_by(lambda j, h: -_constant(j, h)), "The power of 2 pi is missing."),
            Mistake(
                _off_by(lambda j, h: (1 / len(h) - 1) * _constant(j, h)),
                "Each dimension brings its own factor with 2 pi; here there is one for all.",
            ),
            Mistake(
                lambda log_joint, hessian: log_joint,
                "This is the height of the hill. The evidence is the mass under it.",
            ),
            Mistake(_off_by(lambda j, h: -2 * _constant(j, h)), "The power of 2 pi has the wrong sign."),
        ),
        praise="Height times width: log p(x, z) at the top, and the volume of a Gaussian.",
    ),
    Value(
        "3.3",
        "The posterior of exercise 3.1 again, now as a density of u = log(rate). Which rate is exp(u) at the mode of"
        " u? Hand in the rate.",
        lambda: _gamma()[0] / _gamma()[1],
        (
            Mistake(
                lambda: _mode_and_width()[0],
                "This is the mode of the rate itself. A density of u has the factor |d rate / d u|.",
            ),
            Mistake(
                lambda: (_gamma()[0] - 2) / _gamma()[1],
                "The factor |d rate / d u| was divided by, where it multiplies.",
            ),
            Mistake(lambda: math.log(_gamma()[0] / _gamma()[1]), "This is u. Its rate is asked."),
            Mistake(lambda: sum(_COUNTS) / len(_COUNTS), "This is maximum likelihood: the prior is missing."),
        ),
        praise="The mode moves with the scale, although nothing was learned or forgotten. Probabilities do not move.",
    ),
)
