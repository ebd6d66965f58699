"""Lesson 6, KL, its asymmetry, mean field, coordinate ascent."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_COVARIANCE = torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=torch.float64)


def _kl(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> Tensor:
    """KL(N(m1, s1^2) || N(m2, s2^2))."""
    return (s2 / s1).log() + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5


def _precision() -> Tensor:
    return torch.linalg.inv(_COVARIANCE)


def _sweep(mu: Tensor, m: Tensor, precision: Tensor) -> Tensor:
    """The means after one sweep of coordinate ascent, one after the other."""
    mu = mu.clone()
    for i in range(len(mu)):
        pull = precision[i] @ (mu - m) - precision[i, i] * (mu[i] - m[i])
        mu[i] = m[i] - pull / precision[i, i]
    return mu


def _at_once(mu: Tensor, m: Tensor, precision: Tensor) -> Tensor:
    pull = precision @ (mu - m) - precision.diagonal() * (mu - m)
    return m - pull / precision.diagonal()


def _wrong_sign(mu: Tensor, m: Tensor, precision: Tensor) -> Tensor:
    mu = mu.clone()
    for i in range(len(mu)):
        pull = precision[i] @ (mu - m) - precision[i, i] * (mu[i] - m[i])
        mu[i] = m[i] + pull / precision[i, i]
    return mu


def _undivided(mu: Tensor, m: Tensor, precision: Tensor) -> Tensor:
    mu = mu.clone()
    for i in range(len(mu)):
        mu[i] = m[i] - precision[i] @ (mu - m) + precision[i, i] * (mu[i] - m[i])
    return mu


def _with_itself(mu: Tensor, m: Tensor, precision: Tensor) -> Tensor:
    mu = mu.clone()
    for i in range(len(mu)):
        mu[i] = m[i] - precision[i] @ (mu - m) / precision[i, i]
    return mu


_GAUSSIANS = [
    (torch.tensor([0.0, 0.0]), torch.tensor([1.0, -2.0]), torch.tensor([[2.0, -1.1], [-1.1, 1.3]])),
    (
        torch.tensor([1.0, 2.0, -1.0]),
        torch.tensor([0.5, 0.0, 0.3]),
        torch.tensor([[3.0, 0.7, 0.2], [0.7, 1.5, -0.8], [0.2, -0.8, 2.5]]),
    ),
]

EXERCISES: tuple[Exercise, ...] = (
    Function(
        "6.1",
        "Write kl(m1, s1, m2, s2): KL(q || p) in nats of q = N(m1, s1^2) from p = N(m2, s2^2); s1 and s2 are standard"
        " deviations. Hand in the function.",
        _kl,
        [tuple(row) for row in torch.tensor([[0.0, 1.0, 1.0, 2.0], [0.5, 0.3, -1.0, 0.7], [2.0, 1.7, 2.5, 0.6]])],
        (
            Mistake(lambda m1, s1, m2, s2: _kl(m2, s2, m1, s1), "This is KL(p || q): the wrong way round."),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1**0.5, m2, s2**0.5),
                "s1 and s2 are standard deviations, and were used as variances.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1, m2, s2) + 0.5,
                "The constant is missing: for q = p this is not zero.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1, m2, s2) - 2 * (s2 / s1).log(),
                "The logarithm has the wrong sign: it should punish a q that is too narrow.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1, m2, s2) - (s2 / s1).log(),
                "The logarithm of the two widths is missing.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1, m2, s2) + (s2 / s1).log(),
                "The logarithm counts twice: it is of standard deviations, or half of that of variances.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1**2, m2, s2**2),
                "The variances were used as standard deviations: Normal() takes the standard deviation itself.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: 0.5 * (s2 / s1).log() + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5,
                "The logarithm counts half as much as it should: it is of standard deviations here.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: (s2 / s1).log() + (s1**2 + (m1 - m2)) / (2 * s2**2) - 0.5,
                "The distance of the means has to be squared.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: (s2 / s1).log() + (s1**2 + (m1 - m2).abs()) / (2 * s2**2) - 0.5,
                "The distance of the means is there, and has to be squared.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: (s2 / s1).log() + (s1 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5,
                "The spread of q has to be squared in the fraction.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: (s2 / s1).log() + (s1**2 + (m1 - m2) ** 2) / (2 * s2) - 0.5,
                "The spread of p has to be squared in the denominator.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: (s2 / s1).log() + (s1**2 + (m1 - m2) ** 2) / s2**2 - 0.5,
                "The fraction lacks its factor of one half.",
            ),
            Mistake(
                lambda m1, s1, m2, s2: _kl(m1, s1, m1, s2),
                "The distance of the means is missing.",
            ),
        ),
        praise="Zero for q = p alone; and exchange q and p, and it is another number.",
    ),
    Value(
        "6.2",
        "A posterior is Gaussian with covariance [[2, 1.2], [1.2, 1]]. Which standard deviations has the independent"
        " Gaussian q with the smallest KL(q || p)? Hand in both, as a list of two.",
        lambda: _precision().diagonal().rsqrt(),
        (
            Mistake(
                lambda: _COVARIANCE.diagonal().sqrt(),
                "These are the posterior's own: that q has the smallest KL(p || q), the other way round.",
            ),
            Mistake(_COVARIANCE.diagonal, "These are the posterior's own variances."),
            Mistake(lambda: 1 / _precision().diagonal(), "These are the variances of q."),
            Mistake(lambda: _precision().diagonal(), "These are the precisions of q: one over its variances."),
            Mistake(
                lambda: _COVARIANCE.diagonal().rsqrt(),
                "The precision matrix is the inverse of the whole covariance matrix, not of its diagonal.",
            ),
            Mistake(
                lambda: torch.linalg.eigvalsh(_COVARIANCE).sqrt(),
                "These are the posterior's widths along its own axes; q must stand along z1 and z2.",
            ),
        ),
        praise="Each is the width of a cut through the posterior, where the truth is the width of its shadow.",
    ),
    Function(
        "6.3",
        "Write sweep(mu, m, precision): one sweep of coordinate ascent for a Gaussian posterior N(m, precision^-1). Set"
        " one mean after the other, from the first to the last, to its best value given the others. Return the new mu,"
        " (k,). Hand in the function.",
        _sweep,
        _GAUSSIANS,
        (
            Mistake(
                _at_once,
                "All means were set at once, from the old ones. Coordinate ascent uses each new mean at once: only so"
                " the ELBO cannot fall.",
            ),
            Mistake(_wrong_sign, "The pull of the others has the wrong sign."),
            Mistake(_undivided, "The pull of the others is not divided by the precision of its own."),
            Mistake(_with_itself, "A mean must not pull at itself: leave k = i out of the sum."),
            Mistake(
                lambda mu, m, precision: _sweep(_sweep(mu, m, precision), m, precision),
                "These are the means after two sweeps; one is asked.",
            ),
            Mistake(
                lambda mu, m, precision: _sweep(mu.flip(0), m.flip(0), precision.flip(0, 1)).flip(0),
                "This sweep went from the last mean to the first.",
            ),
            Mistake(
                lambda mu, m, precision: _sweep(mu, m, torch.linalg.inv(precision)),
                "The covariance matrix was used as the precision matrix: what is handed over is the precision already.",
            ),
            Mistake(
                lambda mu, m, precision: m,
                "That is where the sweeps end, and not where the first one ends.",
            ),
        ),
        praise="No step size, and the ELBO never falls; the more correlated the posterior, the more sweeps it takes.",
    ),
)
