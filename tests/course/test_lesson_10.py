"""Exercises on VI against MCMC: divergences of Gaussians in NumPy, by the textbook."""

import math

import numpy as np
from scipy import optimize
from scipy.special import logsumexp

from tests.course.learners import Answers, Later

P = np.array([[1.0, 0.9], [0.9, 1.0]])


def kl(mean, S):
    """KL(N(mean, S) || N(0, P))."""
    precision = np.linalg.inv(P)
    return 0.5 * (np.trace(precision @ S) + mean @ precision @ mean - 2 + np.log(np.linalg.det(P) / np.linalg.det(S)))


ENCODER = (np.array([0.4, 0.0]), 0.36 * np.eye(2))
GAP = kl(*ENCODER)


def best():
    """The smallest divergence of a diagonal Gaussian, by looking for it."""
    return float(optimize.minimize(lambda v: kl(v[:2], np.diag(np.exp(v[2:]))), np.zeros(4), tol=1e-12).fun)


def backwards():
    """KL(p || q of the encoder)."""
    precision = np.eye(2) / 0.36
    mean = ENCODER[0]
    return 0.5 * (np.trace(precision @ P) + mean @ precision @ mean - 2 + math.log(0.36**2 / np.linalg.det(P)))


def effective_number(log_weights):
    v = np.asarray(log_weights)
    return math.exp(2 * logsumexp(v) - logsumexp(2 * v))


def weights(log_weights):
    v = np.asarray(log_weights)
    return np.exp(v - v.max())


ONES, NARROW = kl(np.zeros(2), np.eye(2)), kl(np.zeros(2), 0.19**2 * np.eye(2))
MISTAKES = {
    "order": ("10.1", Later(lambda: (GAP - best(), best())), "order"),
    "whole gap": ("10.1", Later(lambda: [best(), GAP]), "whole gap"),
    "marginals": ("10.1", (ONES, GAP - ONES), "narrower than the marginals"),
    "variance of the best": ("10.1", (NARROW, GAP - NARROW), "used as a standard deviation"),
    "variance of the encoder": (
        "10.1",
        Later(lambda: (best(), kl(ENCODER[0], 0.6 * np.eye(2)) - best())),
        "a variance",
    ),
    "reversed": ("10.1", Later(lambda: (best(), backwards() - best())), "wrong way round"),
    "one number": ("10.1", GAP, "shape \\(2,\\)"),
    "logarithms": ("10.2", lambda v: v.sum() ** 2 / v.square().sum(), "exponentiate"),
    "share": ("10.2", lambda v: effective_number(v) / len(v), "share"),
    "not normalised": ("10.2", lambda v: 1 / (weights(v) ** 2).sum(), "sum to one"),
    "no square": ("10.2", lambda v: weights(v).sum() / (weights(v) ** 2).sum(), "squared"),
    "upside down": ("10.2", lambda v: 1 / effective_number(v), "one over"),
    "largest": ("10.2", lambda v: weights(v).sum() / weights(v).max(), "largest weight alone"),
    "underflow": ("10.2", lambda v: v.exp().sum() ** 2 / v.exp().square().sum(), "NaN"),
    "k-hat": ("10.3", {"a", "b"}, "^k-hat does not"),
    "more draws": ("10.3", {"b", "c", "d"}, "^More draws do not"),
    "converged": ("10.3", "e", "local maximum"),
    "one of them": ("10.3", "c", "there is more"),
}
RIGHT = {"10.1": Later(lambda: (best(), GAP - best())), "10.2": effective_number, "10.3": {"b", "c"}}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (Later(best), Later(lambda: GAP - best()))
