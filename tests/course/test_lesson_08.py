"""Exercises on gradients through chance: the truth by autograd and by quadrature."""

import math
from functools import cache

import torch
from scipy import integrate, stats
from torch.distributions import Normal

from tests.course.learners import Answers, Later


def score_of_mean(z, mu, sigma):
    mu = mu.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(Normal(mu, sigma).log_prob(z), mu)
    return gradient


def score_of_sigma(z, mu, sigma):
    sigma = sigma.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(Normal(mu, sigma).log_prob(z), sigma)
    return gradient


def gradients(epsilon, mu, sigma):
    """By autograd, a draw at a time."""
    found = []
    for noise in epsilon:
        m, s = mu.clone().requires_grad_(True), sigma.clone().requires_grad_(True)
        found.append(torch.autograd.grad((m + s * noise).sin(), (m, s)))
    return tuple(torch.stack(column) for column in zip(*found, strict=True))


def changed(change):
    return lambda epsilon, mu, sigma: change(*gradients(epsilon, mu, sigma), sigma)


def by_score(epsilon, mu, sigma):
    z = mu + sigma * epsilon
    found = torch.stack([torch.stack([score_of_mean(v, mu, sigma), score_of_sigma(v, mu, sigma)]) for v in z], 1)
    return z.sin() * found


def expected(f, mu=1.0, sigma=0.5):
    q = stats.norm(mu, sigma)
    return integrate.quad(lambda z: q.pdf(z) * f(z), -6, 8, limit=200)[0]


@cache
def best_constant():
    """The vertex of the parabola that the variance is."""
    low, middle, high = (expected(lambda z, c=c: ((z**2 - c) * (z - 1) / 0.25) ** 2) for c in (0.0, 1.0, 2.0))
    return 1 - (high - low) / (2 * (high - 2 * middle + low))


def from_draws():
    epsilon = torch.randn(1_000_000)
    z, s = 1 + 0.5 * epsilon, epsilon / 0.5
    return (z**2 * s**2).mean() / (s**2).mean()


def twice(epsilon, mu, sigma):
    return [gradients(epsilon, mu, sigma)[0]] * 2


MISTAKES = {
    "sigma": ("8.1", lambda z, mu, sigma: (z - mu) / sigma, "divided by sigma"),
    "no width": ("8.1", lambda z, mu, sigma: z - mu, "How wide"),
    "of z": ("8.1", lambda z, mu, sigma: -score_of_mean(z, mu, sigma), "respect to z"),
    "of sigma": ("8.1", score_of_sigma, "respect to sigma"),
    "log density": ("8.1", stats.norm.logpdf, "log density itself"),
    "density's": (
        "8.1",
        lambda z, mu, sigma: Normal(mu, sigma).log_prob(z).exp() * score_of_mean(z, mu, sigma),
        "derivative of the density",
    ),
    "twice the same": ("8.2", twice, "first again"),
    "at mu": ("8.2", lambda e, mu, sigma: (mu.cos() + 0 * e, e * mu.cos()), "taken at mu"),
    "f itself": ("8.2", lambda e, mu, sigma: ((mu + sigma * e).sin(), e * (mu + sigma * e).sin()), "f where its slope"),
    "log sigma": ("8.2", changed(lambda m, s, sigma: (m, s * sigma)), "log sigma"),
    "order": ("8.2", changed(lambda m, s, sigma: (s, m)), "order"),
    "factor": ("8.2", changed(lambda m, s, sigma: (m * sigma, s * sigma)), "factor of sigma"),
    "score function": ("8.2", by_score, "score-function"),
    "sign": ("8.2", changed(lambda m, s, sigma: (-m, -s)), "sign"),
    "averaged": ("8.2", changed(lambda m, s, sigma: (m.mean(), s.mean())), "numbers of shape \\(2,\\)"),
    "mean of f": ("8.3", Later(lambda: expected(lambda z: z**2)), "mean of f"),
    "f at the mean": ("8.3", 1.0, "at the mean of q"),
    "not divided": ("8.3", Later(lambda: expected(lambda z: z**2 * ((z - 1) / 0.25) ** 2)), "divided"),
    "the gradient": ("8.3", Later(lambda: expected(lambda z: z**2 * (z - 1) / 0.25)), "gradient that is estimated"),
    "fourth moment": ("8.3", 1.5, "three, not two"),
    "deviation": ("8.3", 2.5, "standard deviation"),
    "sign of c": ("8.3", Later(lambda: -best_constant()), "sign"),
    "out of the blue": ("8.3", math.pi, "too large"),
}


RIGHT = {"8.1": score_of_mean, "8.2": gradients, "8.3": Later(best_constant)}


class TestAnswers(Answers):
    right = RIGHT
    mistakes = MISTAKES
    secrets = (Later(best_constant),)

    def test_a_constant_found_from_draws_is_right_too(self):
        import pyro_vae as pv

        assert pv.course.check("8.3", from_draws())
