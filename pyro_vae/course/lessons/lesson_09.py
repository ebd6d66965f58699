"""Lesson 9, the variational autoencoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from pyro_vae.course.choices import Choice
from pyro_vae.course.draws import Sample
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function

__all__ = ["EXERCISES"]

_INTERCEPT, _SLOPE, _SCALE = 1.0, 2.0, 1.5  # of exercise 2: x | z ~ N(1 + 2 z, 1.5^2)


def _encoded() -> list[tuple[Tensor, Tensor]]:
    mu = torch.tensor([[0.5, -1.0], [2.0, 0.3], [0.0, 0.1]], dtype=torch.float64)
    sigma = torch.tensor([[0.8, 0.3], [1.7, 0.6], [0.2, 1.2]], dtype=torch.float64)
    return [(mu, sigma), (mu[:2, :1], sigma[:2, :1])]


def _kl_by_dimension(mu: Tensor, sigma: Tensor) -> Tensor:
    return kl_divergence(Normal(mu, sigma), Normal(torch.zeros_like(mu), 1.0))


def _kl(mu: Tensor, sigma: Tensor) -> Tensor:
    return _kl_by_dimension(mu, sigma).sum(-1)


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "9.1",
        "Hand in a function of mu (N, L) and sigma (N, L) that returns KL(N(mu, sigma^2) || N(0, I)), (N,), in nats.",
        _kl,
        _encoded,
        (
            Mistake(
                lambda mu, sigma: kl_divergence(Normal(torch.zeros_like(mu), 1.0), Normal(mu, sigma)).sum(-1),
                "This is the divergence the wrong way round: of the prior from q.",
            ),
            Mistake(
                lambda mu, sigma: _kl_by_dimension(mu, sigma).mean(-1),
                "This is the mean over dimensions; divergences of independent dimensions add up.",
            ),
            Mistake(
                lambda mu, sigma: (_kl_by_dimension(mu, sigma) + sigma.log() / 2).sum(-1),
                "The logarithm counts half too little: of a variance it is twice that of the standard deviation.",
            ),
            Mistake(
                lambda mu, sigma: _kl(mu, sigma.sqrt()),
                "sigma is a standard deviation; here it was used as a variance.",
            ),
            Mistake(
                lambda mu, sigma: (0.5 * (mu**2 + sigma.exp() - 1 - sigma)).sum(-1),
                "sigma is a standard deviation; here it was used as a log variance.",
            ),
            Mistake(
                lambda mu, sigma: (_kl_by_dimension(mu, sigma) - mu**2 / 2).sum(-1),
                "The distance of the means is missing.",
            ),
            Mistake(
                lambda mu, sigma: (_kl_by_dimension(mu, sigma) + 0.5).sum(-1),
                "It is off by half a nat a dimension: where q is the prior it must be zero.",
            ),
            Mistake(lambda mu, sigma: 2 * _kl(mu, sigma), "The factor of one half is missing."),
        ),
        praise="It takes the noise of one draw out of the ELBO: Pyro's TraceMeanField_ELBO does so.",
    ),
    Sample(
        "9.2",
        "z ~ N(0, 1), x | z ~ N(1 + 2 z, 1.5^2): hand in 4,000 independent samples of x.",
        lambda: (_INTERCEPT, math.hypot(_SLOPE, _SCALE)),
        (
            Mistake(
                lambda: (_INTERCEPT, _SLOPE),
                "These look like means of p(x|z): pictures that papers show. A sample of x has the noise in it.",
            ),
            Mistake(
                lambda: (math.nan, _SCALE),
                "Only the noise varies: these look like samples from one and the same z. Draw z anew for each x.",
            ),
            Mistake(
                lambda: (math.nan, _SLOPE),
                "Only z varies: these look as if one draw of the noise had been added to all. Draw it anew for each x.",
            ),
            Mistake(
                lambda: (_INTERCEPT, math.hypot(_SLOPE, _SCALE**2)),
                "The spread looks as if the noise's standard deviation had been squared.",
            ),
            Mistake(
                lambda: (_INTERCEPT, math.hypot(_SLOPE, math.sqrt(_SCALE))),
                "The spread looks as if the noise's standard deviation had been taken for a variance.",
            ),
            Mistake(
                lambda: (0.0, math.hypot(_SLOPE, _SCALE)), "The decoder's mean has a constant, too: it was left out."
            ),
            Mistake(lambda: (0.0, 1.0), "These look like draws of z; decode them."),
        ),
        min_ess=2500,
        praise="The variance is the noise's plus that of the means.",
    ),
    Choice(
        "9.3",
        "Which changes to the six steps are mistakes? a: epsilon drawn once and for all. b: z detached. c: the KL by"
        " its formula. d: the raw scale as a log variance. e: log q(z|x) left out. Hand in one letter or several.",
        {
            "a": "With one frozen draw sigma can grow for ever, as mu makes up for it: z stays and - log q rises.",
            "b": "Behind a detached z the encoder hears nothing of how well z explains x.",
            "c": "c is no mistake: the formula is the average of the two terms, without their noise.",
            "d": "d is no mistake: any smooth map to positive numbers will do, and this one is common.",
            "e": "Without log q nothing rewards a wide q: sigma goes to zero, and what is left is a plain autoencoder.",
        },
        right=frozenset("abe"),
    ),
)
