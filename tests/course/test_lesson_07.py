"""Exercises on the ELBO: the truth by SciPy's integrals, and a sentence for every mistake."""

import math
from functools import cache

import numpy as np
from scipy import integrate, stats

from tests.course.learners import Answers, Later

X, SCALE = 2.0, 0.5


def integral(f):
    return integrate.quad(f, -12, 12, points=[0.0, 1.0, 2.0], limit=400)[0]


def log_joint(z):
    return stats.norm.logpdf(z) + stats.norm.logpdf(X, z, SCALE)


def elbo(mu, sigma):
    q = stats.norm(float(mu), float(sigma))
    return integral(lambda z: q.pdf(z) * (log_joint(z) - q.logpdf(z)))


def expected(f, mu, sigma):
    q = stats.norm(float(mu), float(sigma))
    return integral(lambda z: q.pdf(z) * f(z))


@cache
def kl_from_posterior():
    log_p_x = math.log(integral(lambda z: np.exp(log_joint(z))))
    return log_p_x - elbo(1.0, 0.8)


def likelihood(z):
    return stats.norm.logpdf(X, z, SCALE)


def entropy(sigma):
    return stats.norm(0, float(sigma)).entropy()


MISTAKES = {
    "no entropy": ("7.1", lambda m, s: expected(log_joint, m, s), "entropy"),
    "entropy's sign": ("7.1", lambda m, s: expected(log_joint, m, s) - entropy(s), "wrong sign"),
    "at the mean": ("7.1", lambda m, s: log_joint(float(m)) + entropy(s), "sigma\\^2"),
    "likelihood at the mean": (
        "7.1",
        lambda m, s: likelihood(float(m)) + expected(stats.norm.logpdf, m, s) + entropy(s),
        "likelihood is taken",
    ),
    "prior at the mean": (
        "7.1",
        lambda m, s: expected(likelihood, m, s) + stats.norm.logpdf(float(m)) + entropy(s),
        "prior is taken",
    ),
    "no prior": ("7.1", lambda m, s: expected(likelihood, m, s) + entropy(s), "prior is missing"),
    "likelihood alone": ("7.1", lambda m, s: expected(likelihood, m, s), "leaving the prior"),
    "variance": (
        "7.1",
        lambda m, s: expected(lambda z: stats.norm.logpdf(z) + stats.norm.logpdf(X, z, SCALE**0.5), m, s) + entropy(s),
        "used as a variance",
    ),
    "minus KL": ("7.1", lambda m, s: elbo(m, s) - stats.norm.logpdf(X, 0, math.sqrt(1.25)), "log p\\(x\\) is missing"),
    "what Pyro lowers": ("7.1", lambda m, s: -elbo(m, s), "minus the ELBO"),
    "no constants": ("7.1", lambda m, s: elbo(m, s) + 0.5 * math.log(2 * math.pi), "constant is missing"),
    "reversed": (
        "7.2",
        Later(lambda: math.log(0.8 / 0.2**0.5) + (0.2 + 0.36) / (2 * 0.64) - 0.5),
        "wrong way round",
    ),
    "to the prior": ("7.2", Later(lambda: -math.log(0.8) + (0.64 + 1) / 2 - 0.5), "prior"),
    "the ELBO": ("7.2", Later(lambda: elbo(1, 0.8)), "ELBO itself"),
    "minus the ELBO": ("7.2", Later(lambda: -elbo(1, 0.8)), "minus the ELBO"),
    "the evidence": ("7.2", Later(lambda: stats.norm.logpdf(X, 0, math.sqrt(1.25))), "taken off"),
    "posterior's variance": (
        "7.2",
        Later(lambda: math.log(0.2 / 0.8) + (0.64 + 0.36) / (2 * 0.04) - 0.5),
        "posterior's variance",
    ),
    "q's variance": (
        "7.2",
        Later(lambda: math.log(0.2**0.5 / 0.64) + (0.64**2 + 0.36) / (2 * 0.2) - 0.5),
        "variance of q",
    ),
    "sign": ("7.2", Later(lambda: -kl_from_posterior()), "sign"),
    "base two": ("7.2", Later(lambda: kl_from_posterior() / math.log(2)), "bits"),
    "bounds compared": ("7.3", {"a", "b", "c"}, "^b does not follow"),
    "means": ("7.3", ["a", "d"], "^d does not follow"),
    "not all": ("7.3", {"a", "c"}, "there is more"),
}


RIGHT = {"7.1": elbo, "7.2": Later(kl_from_posterior), "7.3": {"a", "c", "e"}}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (Later(kl_from_posterior),)
