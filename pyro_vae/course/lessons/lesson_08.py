"""Lesson 8, gradients through chance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_MU, _SIGMA = 1.0, 0.5  # of exercise 3, where f(z) = z^2


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _log_q(z: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    return -0.5 * ((z - mu) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)


def _along_the_path(epsilon: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    slope = (mu + sigma * epsilon).cos()
    return torch.stack([slope, epsilon * slope])


def _by_score(epsilon: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    f = (mu + sigma * epsilon).sin()
    return torch.stack([f * epsilon / sigma, f * (epsilon**2 - 1) / sigma])


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "8.1",
        "Hand in a function of z, mu and sigma that returns the derivative of log N(z; mu, sigma^2) with respect to"
        " mu.",
        lambda z, mu, sigma: (z - mu) / sigma**2,
        [
            (_numbers(z).squeeze(), _numbers(mu).squeeze(), _numbers(sigma).squeeze())
            for z, mu, sigma in ((0.3, 0.0, 2.0), (-1.0, 0.5, 0.7), (2.5, 1.0, 1.4), (0.2, 0.9, 0.3))
        ],
        (
            Mistake(lambda z, mu, sigma: (z - mu) / sigma, "This is divided by sigma; the exponent has its square."),
            Mistake(lambda z, mu, sigma: z - mu, "How wide the Gaussian is does not come in yet."),
            Mistake(
                lambda z, mu, sigma: (mu - z) / sigma**2, "This is the derivative with respect to z: its sign differs."
            ),
            Mistake(
                lambda z, mu, sigma: (z - mu) ** 2 / sigma**3 - 1 / sigma,
                "This is the derivative with respect to sigma.",
            ),
            Mistake(_log_q, "This is the log density itself: differentiate it."),
            Mistake(
                lambda z, mu, sigma: _log_q(z, mu, sigma).exp() * (z - mu) / sigma**2,
                "This is the derivative of the density; that of its logarithm is asked.",
            ),
        ),
        praise="Its average over q is zero, which is why a baseline is free.",
    ),
    Function(
        "8.2",
        "f(z) = sin z and z = mu + sigma epsilon. Hand in a function of epsilon (S,), mu and sigma that returns, for"
        " every draw, the reparameterised estimates of the derivatives of E[f] with respect to mu and to sigma, as a"
        " pair.",
        _along_the_path,
        [
            (_numbers(0.4, -1.3, 2.0), *(_numbers(v).squeeze() for v in (0.5, 0.8))),
            (_numbers(-0.2, 1.1, 0.6), *(_numbers(v).squeeze() for v in (-1.0, 1.7))),
        ],
        (
            Mistake(
                lambda epsilon, mu, sigma: torch.stack([(mu + sigma * epsilon).cos()] * 2),
                "The second is the first again: how much z moves with sigma is another factor than with mu.",
            ),
            Mistake(
                lambda epsilon, mu, sigma: torch.stack([mu.cos().expand_as(epsilon), epsilon * mu.cos()]),
                "The slope of f is taken at mu; each draw has its own z.",
            ),
            Mistake(
                lambda epsilon, mu, sigma: (
                    torch.stack([(mu + sigma * epsilon).sin()] * 2) * torch.stack([torch.ones_like(epsilon), epsilon])
                ),
                "This is f where its slope is asked.",
            ),
            Mistake(
                lambda epsilon, mu, sigma: (
                    _along_the_path(epsilon, mu, sigma) * torch.stack([sigma / sigma, sigma])[:, None]
                ),
                "The second is the derivative with respect to log sigma.",
            ),
            Mistake(
                lambda epsilon, mu, sigma: _along_the_path(epsilon, mu, sigma).flip(0),
                "The two are in the wrong order: first that of mu.",
            ),
            Mistake(
                lambda epsilon, mu, sigma: _along_the_path(epsilon, mu, sigma) * sigma,
                "There is a factor of sigma too much in both: z moves with mu by as much as mu does.",
            ),
            Mistake(_by_score, "This is the score-function estimate: right on average; the other one is asked."),
        ),
        praise="Averaged over many draws, these are the derivatives of exp(-sigma^2 / 2) sin mu.",
    ),
    Value(
        "8.3",
        "For f(z) = z^2, mu = 1, sigma = 0.5: hand in the constant c that gives (f(z) - c) d/dmu log q(z) its lowest"
        " variance.",
        lambda: _MU**2 + 3 * _SIGMA**2,
        (
            Mistake(
                lambda: _MU**2 + _SIGMA**2, "This is the mean of f: a good baseline, and not yet the best of them."
            ),
            Mistake(lambda: _MU**2, "This is f at the mean of q: a baseline, and not the best of them."),
            Mistake(
                lambda: (_MU**2 + 3 * _SIGMA**2) / _SIGMA**2,
                "This is E[f s^2] alone: it still has to be divided by E[s^2].",
            ),
            Mistake(lambda: 2 * _MU, "This is the gradient that is estimated, E[f s], and not the baseline."),
            Mistake(lambda: _MU**2 + _SIGMA**2 * 2, "Look at E[epsilon^4] again: a Gaussian's is three, not two."),
            Mistake(lambda: (_MU**2 + 3 * _SIGMA) / 1.0, "A standard deviation was used where a variance belongs."),
        ),
        absolute=0.03,
        relative=0.0,
        praise="It is the mean of f weighted by s^2: where the score is large, f should be near c.",
    ),
)
