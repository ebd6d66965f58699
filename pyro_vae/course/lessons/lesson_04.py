"""Lesson 4, Metropolis-Hastings and Gibbs."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from pyro_vae.course.draws import Sample
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function

__all__ = ["EXERCISES"]

_SHAPE, _STEP = 3.0, 2.5  # of the Gamma density, and of the walk on the logarithm


def _log_accept(new: Tensor, old: Tensor, forth: Tensor, back: Tensor) -> Tensor:
    return (new - old + back - forth).clamp(max=0)


def _conditional(z2: Tensor, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    slope = cov[0, 1] / cov[1, 1]
    return mean[0] + slope * (z2 - mean[1]), (cov[0, 0] - slope * cov[0, 1]).sqrt()


def _gamma(shape: float) -> tuple[float, float]:
    return shape, math.sqrt(shape)


@cache
def _of_accepted_places() -> tuple[float, float]:
    """Mean and standard deviation of the places that a chain visits, each counted once, by sums over a grid of log z.

    Their density is the target times the probability a(z) to leave z.
    """
    u = torch.linspace(-9, 5, 1401, dtype=torch.float64)
    target = _SHAPE * u - u.exp()  # log density of u = log z
    move = (-0.5 * ((u[:, None] - u) / _STEP) ** 2).exp()
    leave = (move * (target - target[:, None]).clamp(max=0).exp()).sum(-1)
    weight = leave * target.exp()
    weight = weight / weight.sum()
    mean = (weight * u.exp()).sum()
    return float(mean), float((weight * (u.exp() - mean) ** 2).sum().sqrt())


_GAUSSIANS = [
    (torch.tensor(1.0), torch.tensor([0.0, 0.5]), torch.tensor([[4.0, 0.8], [0.8, 0.25]])),
    (torch.tensor(-2.0), torch.tensor([1.0, -1.0]), torch.tensor([[0.16, -0.7], [-0.7, 9.0]])),
    (torch.tensor(0.3), torch.tensor([2.0, 1.0]), torch.tensor([[2.25, 1.0], [1.0, 0.5]])),
]

EXERCISES: tuple[Exercise, ...] = (
    Function(
        "4.1",
        "Write log_accept(new, old, forth, back): the log probability of accepting a proposal. new and old are"
        " log p(x, z') and log p(x, z), forth is log q(z'|z), the density of proposing the new place from the old,"
        " back is log q(z|z'). Hand in the function.",
        _log_accept,
        [
            tuple(row)
            for row in torch.tensor(
                [[-3.0, -1.0, -0.2, -0.9], [-1.0, -3.0, -2.5, -0.4], [-2.0, -2.5, -0.1, -1.4], [-2.0, -1.5, -1.6, -1.9]]
            )
        ],
        (
            Mistake(
                lambda new, old, forth, back: new - old + back - forth,
                "A probability is at most one: a step uphill is accepted, not more than accepted.",
            ),
            Mistake(
                lambda new, old, forth, back: (new - old).clamp(max=0),
                "Hastings' correction is missing: q is not symmetric here.",
            ),
            Mistake(
                lambda new, old, forth, back: (new - old + forth - back).clamp(max=0),
                "The proposals are the wrong way round: what is easy to propose must be harder to accept.",
            ),
            Mistake(
                lambda new, old, forth, back: (old - new + forth - back).clamp(max=0),
                "The ratio is upside down: this chain climbs down.",
            ),
            Mistake(
                lambda new, old, forth, back: (new - old + back - forth).clamp(max=1),
                "The largest log probability is log(1).",
            ),
            Mistake(
                lambda new, old, forth, back: _log_accept(new, old, forth, back).exp(),
                "This is the probability; its logarithm is asked.",
            ),
        ),
        praise="The evidence is in new and in old, and cancels: chains do not need it.",
    ),
    Function(
        "4.2",
        "(z1, z2) is Gaussian with this mean, (2,), and this covariance, (2, 2). Write conditional(z2, mean, cov): mean"
        " and standard deviation of p(z1 | z2). Hand in the function.",
        _conditional,
        _GAUSSIANS,
        (
            Mistake(
                lambda z2, mean, cov: (_conditional(z2, mean, cov)[0], _conditional(z2, mean, cov)[1] ** 2),
                "The mean is right; what stands beside it is the variance.",
            ),
            Mistake(
                lambda z2, mean, cov: (_conditional(z2, mean, cov)[0], cov[0, 0].sqrt()),
                "The mean is right; the spread is that of z1 alone: to know z2 makes z1 more certain.",
            ),
            Mistake(
                lambda z2, mean, cov: (mean[0], _conditional(z2, mean, cov)[1]),
                "The spread is right; the mean must follow z2.",
            ),
            Mistake(
                lambda z2, mean, cov: (mean[0] + cov[0, 1] * (z2 - mean[1]), _conditional(z2, mean, cov)[1]),
                "The slope of the mean is a covariance: it lacks a division.",
            ),
            Mistake(
                lambda z2, mean, cov: (
                    mean[0] + cov[0, 1] / cov[0, 0] * (z2 - mean[1]),
                    _conditional(z2, mean, cov)[1],
                ),
                "The slope is that of z2 on z1: z1 on z2 is asked.",
            ),
            Mistake(
                lambda z2, mean, cov: (
                    mean[0] - cov[0, 1] / cov[1, 1] * (z2 - mean[1]),
                    _conditional(z2, mean, cov)[1],
                ),
                "The slope has the wrong sign: with a positive covariance the two rise together. (The formula with the"
                " precision matrix has a minus, that with the covariance matrix has none.)",
            ),
            Mistake(
                lambda z2, mean, cov: (mean[0] + cov[0, 1] / cov[1, 1] * z2, _conditional(z2, mean, cov)[1]),
                "What moves z1 is how far z2 is from its own mean.",
            ),
            Mistake(
                lambda z2, mean, cov: (_conditional(z2, mean, cov)[0], (cov[0, 0] + cov[0, 1] ** 2 / cov[1, 1]).sqrt()),
                "The mean is right; what z2 tells is added to the variance of z1, where it should be taken off.",
            ),
        ),
        praise="The more correlated the two, the smaller are Gibbs' steps: it walks along the axes of a narrow ridge.",
    ),
    Sample(
        "4.3",
        "Sample the density p(z) proportional to z^2 exp(-z), z > 0, by Metropolis-Hastings with the proposal"
        " z' = z exp(2.5 e), e ~ N(0, 1), for which q(z|z') / q(z'|z) = z' / z. Take 100,000 steps or more in all (ten"
        " chains side by side are quick), without each chain's first hundred. Hand in the draws, (S,) or (C, S).",
        lambda: _gamma(_SHAPE),
        (
            Mistake(
                lambda: _gamma(_SHAPE - 1),
                "Hastings' correction is missing: this proposal jumps farther up than down.",
            ),
            Mistake(lambda: _gamma(_SHAPE + 1), "Hastings' correction counts twice."),
            Mistake(lambda: _gamma(_SHAPE - 2), "Hastings' correction is the wrong way round."),
            Mistake(
                _of_accepted_places,
                "Only accepted places were counted: where a proposal is rejected, the old place counts once more.",
            ),
        ),
        min_ess=2000,
        praise="Nobody told the chain the normalising constant.",
    ),
)
