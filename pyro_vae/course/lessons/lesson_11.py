"""Lesson 11, swapping parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_vae.course.choices import Choice
from pyro_vae.course.exercise import Exercise, Mistake
from pyro_vae.course.functions import Function
from pyro_vae.course.values import Value

__all__ = ["EXERCISES"]

_A, _B = (-20.1, -19.4, -21.5), (-20.5, -19.9, -21.2)  # log p(x) of three rows


def _log_weights() -> list[tuple[Tensor]]:
    line = torch.linspace(-3, 3, 24).double()  # no draws: an exercise leaves the random state alone
    return [(line.sin().reshape(8, 3) * 2 - 20,), ((5 * line).cos().reshape(4, 6) - 900.0,)]


def _bound(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _log_bayes_factor() -> float:
    return sum(_A) - sum(_B)


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds))


EXERCISES: tuple[Exercise, ...] = (
    Function(
        "11.1",
        "Hand in a function of log weights (K, N) that returns the importance-weighted bound of each datum, (N,), in"
        " nats.",
        _bound,
        _log_weights,
        (
            Mistake(lambda v: v.mean(0), "This averages the logarithms: it is the ELBO. Average the weights first."),
            Mistake(lambda v: v.logsumexp(0), "The weights are summed and not averaged: log K is missing."),
            Mistake(lambda v: v.logsumexp(0) + math.log(len(v)), "log K has the wrong sign."),
            Mistake(
                lambda v: v.logsumexp(0) - math.log(v.shape[1]),
                "This divides by the number of data; the average is over draws.",
            ),
            Mistake(lambda v: v.logsumexp(0) - len(v), "K itself was taken off; its logarithm is the one to take off."),
            Mistake(lambda v: v.max(0).values, "This is the largest weight alone."),
            Mistake(
                lambda v: v.logsumexp(0) / len(v), "The sum belongs to be divided by K before the logarithm is taken."
            ),
        ),
        praise="With K = 1 it is the ELBO, and it rises with K towards log p(x).",
    ),
    Value(
        "11.2",
        "Three rows have log p_A = -20.1, -19.4, -21.5 and log p_B = -20.5, -19.9, -21.2; both models were equally"
        " probable before. Hand in the probability of A given these rows.",
        lambda: _probability(_log_bayes_factor()),
        (
            Mistake(
                lambda: _probability(_log_bayes_factor() / len(_A)),
                "This takes the mean of the differences; the evidence of all rows together is a sum.",
            ),
            Mistake(lambda: _probability(-_log_bayes_factor()), "This is the probability of B."),
            Mistake(lambda: math.exp(_log_bayes_factor()), "This is the Bayes factor: odds, and no probability yet."),
            Mistake(_log_bayes_factor, "This is the log Bayes factor; a probability is asked."),
            Mistake(lambda: sum(_A) / (sum(_A) + sum(_B)), "These are shares of logarithms; exponentiate first."),
            Mistake(lambda: 2 / 3, "This is the share of rows on which A wins; by how much it wins counts as well."),
            Mistake(
                lambda: sum(_probability(a - b) for a, b in zip(_A, _B, strict=True)) / len(_A),
                "This averages the rows' own probabilities; rows multiply.",
            ),
        ),
        absolute=5e-4,
        relative=0.0,
        praise="Three rows do not settle it; a hundred such rows would.",
    ),
    Choice(
        "11.3",
        "Before a swap: log p(x) = -20.8, ELBO -21.2. Right? a: now -20.8 and -20.9: a better guide. b: now -20.3 and"
        " -21.3: a better model. c: now -21.0 and -21.05: a better model. d: now KL(q || prior) = 0: the gap may be"
        " zero. e: now a density of real numbers, -12: better by 8.8 nats. Hand in one letter or several.",
        {
            "a": "The evidence stood still, so that only the guide can have moved.",
            "b": "The evidence judges the model; the guide fell behind it.",
            "c": "c is not right: the evidence fell; only the gap became smaller.",
            "d": "If the decoder ignores z, the posterior is the prior: a perfect guide of a poor model.",
            "e": "e is not right: a density and a probability are in different units, and do not compare.",
        },
        right=frozenset("abd"),
    ),
)
