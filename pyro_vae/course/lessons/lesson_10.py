"""Lesson 10, VI against MCMC, and trust."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from pyro_vae.course.choices import Choice
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_RHO, _MEAN, _SIGMA = 0.9, 0.4, 0.6


def _posterior() -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1.0, _RHO], [_RHO, 1.0]]).double())


def _diagonal(mean: float, sigma: float) -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([mean, 0.0]).double(), sigma**2 * torch.eye(2).double())


def _encoder() -> MultivariateNormal:
    return _diagonal(_MEAN, _SIGMA)


def _kl(q: Distribution, p: Distribution) -> float:
    return float(kl_divergence(q, p))


def _best() -> float:
    return _kl(_diagonal(0.0, math.sqrt(1 - _RHO**2)), _posterior())


def _gap() -> float:
    return _kl(_encoder(), _posterior())


def _weights(log_weights: Tensor) -> Tensor:
    return (log_weights - log_weights.max()).exp()


def _effective(log_weights: Tensor) -> Tensor:
    w = _weights(log_weights)
    return w.sum() ** 2 / w.square().sum()


def _log_weights() -> list[tuple[Tensor]]:
    line = torch.linspace(-2, 2, 40).double()  # no draws: an exercise leaves the random state alone
    return [(line,), (3 * line.sin() - 800.0,), (torch.full((7,), 0.5).double(),)]


EXERCISES: tuple[Exercise, ...] = (
    Value(
        "10.1",
        "The posterior is Gaussian with mean 0, variances 1 and correlation 0.9; the encoder says N((0.4, 0), 0.6^2 I)."
        " Hand in two numbers: the approximation gap of diagonal Gaussians, and the encoder's amortisation gap, nats.",
        lambda: (_best(), _gap() - _best()),
        (
            Mistake(lambda: (_gap() - _best(), _best()), "The two are in the wrong order."),
            Mistake(
                lambda: (_best(), _gap()),
                "The second is the whole gap: what no diagonal Gaussian reaches is not the encoder's fault.",
            ),
            Mistake(
                lambda: (
                    _kl(_diagonal(0.0, 1.0), _posterior()),
                    _gap() - _kl(_diagonal(0.0, 1.0), _posterior()),
                ),
                "The best diagonal Gaussian of KL(q || p) is narrower than the marginals.",
            ),
            Mistake(
                lambda: (
                    _kl(_diagonal(0.0, 1 - _RHO**2), _posterior()),
                    _gap() - _kl(_diagonal(0.0, 1 - _RHO**2), _posterior()),
                ),
                "1 - rho^2 is the variance of the best diagonal Gaussian; here it was used as a standard deviation.",
            ),
            Mistake(
                lambda: (_best(), _kl(_diagonal(_MEAN, math.sqrt(_SIGMA)), _posterior()) - _best()),
                "0.6 is the encoder's standard deviation; here it was used as a variance.",
            ),
            Mistake(
                lambda: (_best(), _kl(_posterior(), _encoder()) - _best()),
                "The second holds KL(p || q): the divergence the wrong way round.",
            ),
        ),
        praise="Here the family costs more than the network.",
    ),
    Function(
        "10.2",
        "Hand in a function of the log weights (S,) that returns the effective number of draws. They may be near -800.",
        _effective,
        _log_weights,
        (
            Mistake(
                lambda v: v.sum() ** 2 / v.square().sum(), "These are the logarithms themselves: exponentiate first."
            ),
            Mistake(
                lambda v: _effective(v) / len(v), "This is the share of effective draws: multiply by their number."
            ),
            Mistake(
                lambda v: 1 / _weights(v).square().sum(),
                "The weights do not sum to one yet: only of those that do, one over the sum of squares will do.",
            ),
            Mistake(lambda v: _weights(v).sum() / _weights(v).square().sum(), "The sum above has to be squared."),
            Mistake(lambda v: (_weights(v) / _weights(v).sum()).square().sum(), "This is one over what is asked."),
            Mistake(lambda v: _weights(v).sum() / _weights(v).max(), "This counts draws by the largest weight alone."),
        ),
        praise="A constant in the log weights cancels, so that p(x) need not be known.",
    ),
    Choice(
        "10.3",
        "A posterior has two far modes of equal mass; q is a perfect Gaussian on one. What notices? a: k-hat of its"
        " weights. b: the exact log p(x) against the ELBO. c: R-hat of chains that started all over the prior. d: more"
        " draws of q. e: that the ELBO has stopped rising. Hand in one letter or several.",
        {
            "a": "k-hat does not: on the mode that q covers the weights are even, and no draw is anywhere else.",
            "b": "The ELBO is log 2 below the exact evidence.",
            "c": "Chains that start far apart stay on different modes, and R-hat says that they disagree.",
            "d": "More draws do not: they lie where the others lie.",
            "e": "The ELBO stops rising at every local maximum, a good one or a bad one.",
        },
        right=frozenset("bc"),
    ),
)
