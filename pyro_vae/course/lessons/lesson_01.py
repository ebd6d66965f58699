"""Lesson 1, Bayes' formula in three steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_FOUND, _ALARMED, _ILL = 0.95, 0.02, 0.005  # p(alarm | ill), p(alarm | healthy), p(ill)


def _posterior(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of p(z|x), z ~ N(0, 1), x ~ N(z, sigma^2)."""
    return x / (1 + sigma**2), (sigma**2 / (1 + sigma**2)) ** 0.5


def _normalised(log_joint: Tensor, width: Tensor) -> Tensor:
    return log_joint - torch.logsumexp(log_joint, 0) - width.log()


def _grids() -> list[tuple[Any, ...]]:
    """Log joint densities and widths of cells; the second would underflow without the logarithm."""
    fine, coarse = (torch.linspace(-end, end, num, dtype=torch.float64) for end, num in ((6, 121), (4, 41)))
    return [
        (-0.5 * fine**2 - 2 * (fine - 1) ** 2, fine[1] - fine[0]),
        (-900 - 0.5 * coarse**2 - coarse.abs(), coarse[1] - coarse[0]),
    ]


EXERCISES: tuple[Exercise, ...] = (
    Value(
        "1.1",
        "A test finds 95 % of the ill and alarms for 2 % of the healthy; one in 200 is ill. How probable is illness"
        " after an alarm? Hand in the probability.",
        lambda: _FOUND * _ILL / (_FOUND * _ILL + _ALARMED * (1 - _ILL)),
        (
            Mistake(lambda: _FOUND, "This is p(alarm | ill): the condition is the wrong way round."),
            Mistake(
                lambda: _FOUND * _ILL, "This is the joint probability: it still has to be divided by the evidence."
            ),
            Mistake(
                lambda: _FOUND * _ILL / (_FOUND * _ILL + _ALARMED),
                "The false alarms of the healthy are not yet weighted by how many are healthy.",
            ),
            Mistake(lambda: _FOUND / (_FOUND + _ALARMED), "The prior is missing: most people are healthy."),
            Mistake(
                lambda: _FOUND * _ILL + _ALARMED * (1 - _ILL),
                "This is the evidence, how often there is an alarm at all: what share of it comes from the ill?",
            ),
            Mistake(
                lambda: _ALARMED * (1 - _ILL) / (_FOUND * _ILL + _ALARMED * (1 - _ILL)),
                "This is the probability of health after an alarm.",
            ),
        ),
        relative=3e-3,  # three digits are enough
        praise="Most alarms are false, since most people are healthy.",
    ),
    Function(
        "1.2",
        "z ~ N(0, 1), and one measurement x ~ N(z, sigma^2). Write posterior(x, sigma): mean and standard deviation"
        " of p(z|x). Hand in the function.",
        _posterior,
        [tuple(row) for row in torch.tensor([[2.0, 0.5], [-1.3, 1.7], [0.4, 3.0]])],
        (
            Mistake(
                lambda x, sigma: (_posterior(x, sigma)[0], _posterior(x, sigma)[1] ** 2),
                "The mean is right; what stands beside it is the variance, where the standard deviation is asked.",
            ),
            Mistake(lambda x, sigma: (x, sigma), "This is the likelihood read as a posterior: the prior is missing."),
            Mistake(
                lambda x, sigma: (sigma**2 * x / (1 + sigma**2), _posterior(x, sigma)[1]),
                "The weights are exchanged: the noisier x is, the less it should move the mean.",
            ),
            Mistake(
                lambda x, sigma: (x / (1 + sigma), (sigma / (1 + sigma)) ** 0.5),
                "sigma is a standard deviation: what adds up are the precisions, one over the variances.",
            ),
            Mistake(
                lambda x, sigma: (_posterior(x, sigma)[0], (1 + sigma**2) ** 0.5),
                "This spread is that of x before it is seen; seeing x can only make z more certain.",
            ),
            Mistake(
                lambda x, sigma: _posterior(sigma, x),
                "x and sigma are exchanged: the function is called as posterior(x, sigma).",
            ),
            Mistake(
                lambda x, sigma: (x / (1 + sigma**2), 1 + 1 / sigma**2),
                "The mean is right; what stands beside it is the precision, where the standard deviation is asked.",
            ),
        ),
        praise="Precisions add up, and the mean is weighted by them: x counts for more the less noise it has.",
    ),
    Function(
        "1.3",
        "Write normalise(log_joint, width): from log p(x, z) on a grid of cells of that width, log p(z|x) at the same"
        " points. The density integrates to one. Hand in the function.",
        _normalised,
        _grids,
        (
            Mistake(
                lambda log_joint, width: log_joint - torch.logsumexp(log_joint, 0),
                "The values sum to one; the integral should: the width of a cell is missing.",
            ),
            Mistake(
                lambda log_joint, width: log_joint - log_joint.max(),
                "The highest value is 1 now; that is a picture of the posterior and not a density.",
            ),
            Mistake(
                lambda log_joint, width: log_joint - torch.logsumexp(log_joint, 0) + width.log(),
                "The width of a cell acts the wrong way round.",
            ),
            Mistake(
                lambda log_joint, width: log_joint - log_joint.exp().sum().log() - width.log(),
                "The formula is right, and exp() underflows on the second grid, where log p(x, z) is about -900."
                " There is torch.logsumexp.",
            ),
        ),
        praise="That is all of Bayesian inference, wherever a grid can be afforded.",
    ),
)
