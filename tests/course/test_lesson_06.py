"""Lesson 6: answers found another way than the exercises' own, and what learners get wrong."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_vae.course import check


def by_torch(m1, s1, m2, s2):
    return kl_divergence(Normal(m1, s1), Normal(m2, s2))


def by_sum(m1, s1, m2, s2):
    line = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    q, p = Normal(m1.double(), s1.double()), Normal(m2.double(), s2.double())
    return (q.log_prob(line).exp() * (q.log_prob(line) - p.log_prob(line))).sum() * (line[1] - line[0])


def formula(m1, s1, m2, s2, log=1.0, half=0.5, shift=1.0):
    return log * math.log(s2 / s1) + (s1**2 + shift * (m1 - m2) ** 2) / (2 * s2**2) - half


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (by_torch, ""),
        (by_sum, ""),
        (formula, ""),
        (lambda m1, s1, m2, s2: by_torch(m2, s2, m1, s1), "wrong way round"),
        (lambda m1, s1, m2, s2: by_torch(m1, s1**0.5, m2, s2**0.5), "used as variances"),
        (lambda *a: formula(*a, half=0), "constant is missing"),
        (lambda *a: formula(*a, log=-1), "wrong sign"),
        (lambda *a: formula(*a, log=0), "missing"),
        (lambda *a: formula(*a, log=2), "twice"),
        (lambda m1, s1, m2, s2: by_torch(m1, s1**2, m2, s2**2), r"Normal() takes the standard deviation"),
        (lambda *a: formula(*a, log=0.5), "half as much"),
        (lambda m1, s1, m2, s2: math.log(s2 / s1) + (s1**2 + m1 - m2) / (2 * s2**2) - 0.5, "has to be squared"),
        (lambda m1, s1, m2, s2: math.log(s2 / s1) + (s1**2 + abs(m1 - m2)) / (2 * s2**2) - 0.5, "has to be squared"),
        (lambda m1, s1, m2, s2: math.log(s2 / s1) + (s1 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5, "spread of q"),
        (lambda m1, s1, m2, s2: math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2) - 0.5, "spread of p"),
        (lambda m1, s1, m2, s2: math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / s2**2 - 0.5, "one half"),
        (lambda *a: formula(*a, shift=0), "distance of the means"),
        (lambda *a: -by_torch(*a), "sign"),
        (lambda *a: by_torch(*a) / math.log(2), "bits"),
        (lambda *a: 3 * by_torch(*a), "same factor"),
    ],
)
def test_kl(answer, sentence):
    result = check("6.1", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


COVARIANCE = torch.tensor([[2.0, 1.2], [1.2, 1.0]])


def test_mean_field_by_optimisation():
    log_sd = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_sd], max_iter=100, line_search_fn="strong_wolfe")
    p = MultivariateNormal(torch.zeros(2), COVARIANCE)

    def closure():
        optimiser.zero_grad()
        loss = kl_divergence(MultivariateNormal(torch.zeros(2), scale_tril=log_sd.exp().diag()), p)
        loss.backward()
        return loss

    optimiser.step(closure)
    assert check("6.2", log_sd.exp())
    assert "variances of q" in check("6.2", (2 * log_sd).exp()).message
    assert "precisions of q" in check("6.2", (-2 * log_sd).exp()).message


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (COVARIANCE.diagonal().sqrt(), "the other way round"),
        (COVARIANCE.diagonal(), "own variances"),
        (COVARIANCE.diagonal() ** -0.5, "not of its diagonal"),
        (torch.linalg.eigvalsh(COVARIANCE).sqrt(), "own axes"),
        ([0.5292, 0.7483], "reversed"),
        (0.5, "Expected a tensor of shape (2,)"),
    ],
)
def test_wrong_mean_fields(answer, sentence):
    assert sentence in check("6.2", answer).message


def by_minimising(mu, m, precision):
    """Each mean where the parabola -(mu - m)' P (mu - m) / 2 is highest along its axis, by three points of it."""
    mu = mu.double()
    m, precision = m.double(), precision.double()
    for i in range(len(mu)):
        values = []
        for step in (-1.0, 0.0, 1.0):
            moved = mu.clone()
            moved[i] += step
            values.append(-0.5 * (moved - m) @ precision @ (moved - m))
        left, here, right = values
        mu[i] += 0.5 * (left - right) / (left - 2 * here + right)
    return mu


def swept(mu, m, P, sign=1.0, divide=True, itself=False):
    mu = mu.clone()
    for i in range(len(mu)):
        pull = sum(P[i, k] * (mu[k] - m[k]) for k in range(len(mu)) if itself or k != i)
        mu[i] = m[i] - sign * pull / (P[i, i] if divide else 1)
    return mu


def backwards(mu, m, P):
    mu = mu.clone()
    for i in reversed(range(len(mu))):
        mu[i] = m[i] - sum(P[i, k] * (mu[k] - m[k]) for k in range(len(mu)) if k != i) / P[i, i]
    return mu


def at_once(mu, m, P):
    return m - ((P - P.diag().diag()) @ (mu - m)) / P.diag()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (by_minimising, ""),
        (swept, ""),
        (at_once, "set at once"),
        (lambda *a: swept(*a, sign=-1), "wrong sign"),
        (lambda *a: swept(*a, divide=False), "not divided"),
        (lambda *a: swept(*a, itself=True), "pull at itself"),
        (lambda mu, m, P: swept(swept(mu, m, P), m, P), "two sweeps"),
        (backwards, "from the last"),
        (lambda mu, m, P: swept(mu, m, P.inverse()), "covariance matrix was used"),
        (lambda mu, m, P: m, "where the sweeps end"),
        (lambda mu, m, P: mu[0], "It returns a number"),
    ],
)
def test_sweep(answer, sentence):
    result = check("6.3", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


def test_an_answer_that_overwrites_its_argument_is_judged_by_what_it_returns():
    def in_place(mu, m, P):
        for i in range(len(mu)):
            mu[i] = m[i] - (P[i] @ (mu - m) - P[i, i] * (mu[i] - m[i])) / P[i, i]
        return mu

    assert check("6.3", in_place)
    assert check("6.3", in_place)
