"""Lesson 7, the ELBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_vae.course.choices import Choice
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_X, _SCALE = 2.0, 0.5  # x | z ~ N(z, 0.5^2), seen at 2
_POSTERIOR_VARIANCE = 1 / (1 + 1 / _SCALE**2)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _posterior() -> Normal:
    return Normal(_number(_POSTERIOR_VARIANCE * _X / _SCALE**2), math.sqrt(_POSTERIOR_VARIANCE))


def _q() -> Normal:
    return Normal(_number(1.0), 0.8)


def _log_evidence() -> Tensor:
    return Normal(_number(0.0), math.sqrt(1 + _SCALE**2)).log_prob(_number(_X))


def _likelihood(mu: Tensor, sigma: Tensor, scale: float = _SCALE) -> Tensor:
    return Normal(mu, scale).log_prob(_number(_X)) - sigma**2 / (2 * scale**2)


def _prior(mu: Tensor, sigma: Tensor) -> Tensor:
    return Normal(_number(0.0), 1.0).log_prob(mu) - sigma**2 / 2


def _entropy(sigma: Tensor) -> Tensor:
    return 0.5 * math.log(2 * math.pi * math.e) + sigma.log()


def _elbo(mu: Tensor, sigma: Tensor) -> Tensor:
    return _likelihood(mu, sigma) + _prior(mu, sigma) + _entropy(sigma)


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "7.1",
        "For z ~ N(0, 1), x | z ~ N(z, 0.5^2) and x = 2: hand in a function of mu and sigma that returns the ELBO of"
        " q = N(mu, sigma^2), in nats, with every constant.",
        _elbo,
        [(_number(mu), _number(sigma)) for mu, sigma in ((0.0, 1.0), (1.0, 0.8), (1.7, 0.3), (-0.5, 1.9))],
        (
            Mistake(lambda m, s: _likelihood(m, s) + _prior(m, s), "The entropy of q is missing: - E[log q(z)]."),
            Mistake(
                lambda m, s: _likelihood(m, s) + _prior(m, s) - _entropy(s),
                "The entropy has the wrong sign: the ELBO rewards a wide q.",
            ),
            Mistake(
                lambda m, s: _likelihood(m, 0 * s) + _prior(m, 0 * s) + _entropy(s),
                "This takes the densities at the mean of q only: an average of squares also counts sigma^2.",
            ),
            Mistake(
                lambda m, s: _likelihood(m, 0 * s) + _prior(m, s) + _entropy(s),
                "The likelihood is taken at the mean of q only: its average over q also counts sigma^2.",
            ),
            Mistake(
                lambda m, s: _likelihood(m, s) + _prior(m, 0 * s) + _entropy(s),
                "The prior is taken at the mean of q only: its average over q also counts sigma^2.",
            ),
            Mistake(
                lambda m, s: _likelihood(m, s) + _entropy(s),
                "The prior is missing: the joint density is likelihood times prior.",
            ),
            Mistake(
                lambda m, s: _likelihood(m, s, math.sqrt(_SCALE)) + _prior(m, s) + _entropy(s),
                "The 0.5 of the likelihood is a standard deviation; here it was used as a variance.",
            ),
            Mistake(
                _likelihood,
                "This is how well z explains x, and no more: what leaving the prior costs is missing.",
            ),
            Mistake(
                lambda m, s: -kl_divergence(Normal(m, s), _posterior()),
                "This is minus the divergence from the posterior: log p(x) is missing.",
            ),
            Mistake(lambda m, s: -_elbo(m, s), "This is minus the ELBO, which is what an optimiser lowers."),
        ),
        praise="Its highest value, where q is the posterior, is the log evidence.",
    ),
    Value(
        "7.2",
        "In the same model, q = N(1, 0.8^2). Hand in KL(q || p(z|x)), the divergence from the posterior, in nats.",
        lambda: kl_divergence(_q(), _posterior()),
        (
            Mistake(
                lambda: kl_divergence(_posterior(), _q()), "This is KL(p || q): the divergence the wrong way round."
            ),
            Mistake(
                lambda: kl_divergence(_q(), Normal(_number(0.0), 1.0)),
                "This is the divergence from the prior: a term of the ELBO, and not the gap.",
            ),
            Mistake(lambda: _elbo(_number(1.0), _number(0.8)), "This is the ELBO itself; how far is it from log p(x)?"),
            Mistake(lambda: -_elbo(_number(1.0), _number(0.8)), "This is minus the ELBO: log p(x) is missing."),
            Mistake(_log_evidence, "This is log p(x): the ELBO still has to be taken off."),
            Mistake(
                lambda: kl_divergence(_q(), Normal(_posterior().mean, _POSTERIOR_VARIANCE)),
                "The posterior's variance was used as its standard deviation.",
            ),
            Mistake(
                lambda: kl_divergence(Normal(_number(1.0), 0.64), _posterior()),
                "The variance of q was used as its standard deviation.",
            ),
        ),
        praise="It is log p(x) less the ELBO, and the divergence of two Gaussians by its formula: one number.",
    ),
    Choice(
        "7.3",
        "In one model q1 has an ELBO of -3.1 nats and q2 one of -2.9, at the same x; in another model the best ELBO"
        " found is -2.5. Which of a to e follow? Hand in one letter or several.",
        {
            "a": "The sum is fixed, so that an ELBO higher by 0.2 is a KL lower by 0.2.",
            "b": "b does not follow: these are bounds, and the first model's gap is not known.",
            "c": "A bound from below holds for every q, so that the best one found counts.",
            "d": "d does not follow: KL weighs spread and shape too; a nearer q may have its mean further off.",
            "e": "If p(x, z) / q(z) is one number everywhere, q is the joint but for a factor: the posterior.",
        },
        right=frozenset("ace"),
    ),
)
