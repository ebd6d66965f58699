"""Exercises on swapping: bounds and probabilities of models in NumPy and SciPy."""

import math

import numpy as np
from scipy.special import expit, logsumexp

from tests.course.learners import Answers

A, B = np.array([-20.1, -19.4, -21.5]), np.array([-20.5, -19.9, -21.2])


def bound(log_weights):
    v = np.asarray(log_weights)
    return logsumexp(v, axis=0, b=1 / v.shape[0])


def probability_of_a():
    """By the weights of the two models themselves."""
    joint = np.exp(np.array([A.sum(), B.sum()]) + 60)
    return joint[0] / joint.sum()


MISTAKES = {
    "the ELBO": ("11.1", lambda v: v.mean(0), "it is the ELBO"),
    "sum": ("11.1", lambda v: v.logsumexp(0), "log K is missing"),
    "sign of log K": ("11.1", lambda v: v.logsumexp(0) + math.log(v.shape[0]), "wrong sign"),
    "number of data": ("11.1", lambda v: v.logsumexp(0) - math.log(v.shape[1]), "number of data"),
    "K": ("11.1", lambda v: v.logsumexp(0) - v.shape[0], "K itself"),
    "largest": ("11.1", lambda v: v.amax(0), "largest weight alone"),
    "divided late": ("11.1", lambda v: v.logsumexp(0) / v.shape[0], "before the logarithm"),
    "minus": ("11.1", lambda v: -bound(v), "sign"),
    "over data": ("11.1", lambda v: v.logsumexp(1) - math.log(v.shape[1]), "numbers of shape \\(8,\\)"),
    "underflow": ("11.1", lambda v: v.exp().mean(0).log(), "NaN|infinit"),
    "mean": ("11.2", expit((A - B).mean()), "mean of the differences"),
    "of B": ("11.2", expit((B - A).sum()), "of B"),
    "Bayes factor": ("11.2", math.exp((A - B).sum()), "odds"),
    "log Bayes factor": ("11.2", (A - B).sum(), "log Bayes factor"),
    "shares of logarithms": ("11.2", A.sum() / (A.sum() + B.sum()), "shares of logarithms"),
    "rows won": ("11.2", 2 / 3, "share of rows"),
    "rows averaged": ("11.2", expit(A - B).mean(), "rows multiply"),
    "bound is no evidence": ("11.3", {"a", "b", "c"}, "^c is not right"),
    "units": ("11.3", {"a", "e"}, "^e is not right"),
    "collapse": ("11.3", {"a", "b"}, "there is more"),
}
RIGHT = {"11.1": bound, "11.2": probability_of_a(), "11.3": {"a", "b", "d"}}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (probability_of_a(),)
