"""Lesson 4: answers found another way than the exercises' own, and what learners get wrong."""

import math

import numpy as np
import pyro
import pytest
import torch

from pyro_vae.course import check


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda n, o, f, b: math.log(min(1, math.exp(n + b) / math.exp(o + f))), ""),
        (lambda n, o, f, b: torch.minimum(torch.tensor(0.0), n + b - o - f), ""),
        (lambda n, o, f, b: n + b - o - f, "at most one"),
        (lambda n, o, f, b: min(0, n - o), "correction is missing"),
        (lambda n, o, f, b: min(0, n + f - o - b), "wrong way round"),
        (lambda n, o, f, b: min(0, o + f - n - b), "upside down"),
        (lambda n, o, f, b: min(1, n + b - o - f), "largest"),
        (lambda n, o, f, b: min(1, math.exp(n + b - o - f)), "logarithm is asked"),
        (lambda n, o: min(0, n - o), "It raised TypeError"),
    ],
)
def test_acceptance(answer, sentence):
    result = check("4.1", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


def by_precision(z2, mean, cov):
    P = torch.linalg.inv(cov)
    return mean[0] - P[0, 1] / P[0, 0] * (z2 - mean[1]), P[0, 0] ** -0.5


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (by_precision, ""),
        (lambda *a: (by_precision(*a)[0], by_precision(*a)[1] ** 2), "variance"),
        (lambda *a: (by_precision(*a)[0], a[2][0, 0] ** 0.5), "z1 alone"),
        (lambda *a: (a[1][0], by_precision(*a)[1]), "follow z2"),
        (lambda z, m, C: (m[0] + C[0, 1] * (z - m[1]), by_precision(z, m, C)[1]), "lacks a division"),
        (lambda z, m, C: (m[0] + C[0, 1] / C[0, 0] * (z - m[1]), by_precision(z, m, C)[1]), "z2 on z1"),
        (lambda z, m, C: (m[0] - C[0, 1] / C[1, 1] * (z - m[1]), by_precision(z, m, C)[1]), "rise together"),
        (lambda z, m, C: (m[0] + C[0, 1] / C[1, 1] * z, by_precision(z, m, C)[1]), "its own mean"),
    ],
)
def test_conditional(answer, sentence):
    result = check("4.2", answer)
    assert bool(result) == (not sentence)
    assert sentence in result.message


def walk(correction, *, count_rejected=True, num_steps=10_100, chains=10):
    """Metropolis-Hastings on z^2 exp(-z) with a walk on log z; the correction's power is 1 if it is right."""
    moves = 2.5 * torch.randn(num_steps, chains, dtype=torch.float64).numpy()
    log_u = torch.rand(num_steps, chains, dtype=torch.float64).log().numpy()
    y, z, path = np.zeros(chains), np.ones(chains), []  # y = log z; NumPy, whose operations on ten numbers cost less
    for move, log_chance in zip(moves, log_u, strict=True):
        proposed = np.exp(y + move)
        accept = log_chance < (2 + correction) * move - (proposed - z)
        y, z = np.where(accept, y + move, y), np.where(accept, proposed, z)
        path.append(z if count_rejected else np.where(accept, z, np.nan))
    draws = torch.as_tensor(np.stack(path[100:], 1))
    return draws if count_rejected else draws.flatten()[~draws.flatten().isnan()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"correction": 1}, ""),
        ({"correction": 0}, "correction is missing"),
        ({"correction": 2}, "twice"),
        ({"correction": -1}, "wrong way round"),
        ({"correction": 1, "count_rejected": False}, "Only accepted places"),
    ],
)
def test_a_chain(settings, sentence, seed):
    pyro.set_rng_seed(seed)
    result = check("4.3", walk(**settings))
    assert bool(result) == (not sentence)
    assert sentence in result.message


def test_a_chain_without_acceptance_wanders_off():
    for seed in range(5):
        pyro.set_rng_seed(seed)
        assert not check("4.3", (0.5 * torch.randn(10, 1000).cumsum(1)).exp())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("correction", [0, 0.5, 2])
@pytest.mark.parametrize("num_steps", [100, 200])
def test_a_short_chain_passes_neither_right_nor_wrong(correction, num_steps, seed):
    pyro.set_rng_seed(seed)
    assert not check("4.3", walk(correction, num_steps=100 + num_steps, chains=5))


def test_half_a_correction_is_seen():
    pyro.set_rng_seed(0)
    assert "by more than chance" in check("4.3", walk(0.5)).message


def test_a_few_independent_draws_are_told_how_many_it_takes():
    pyro.set_rng_seed(0)
    message = check("4.3", torch.distributions.Gamma(3.0, 1.0).sample((99,))).message
    assert "take more. From 2,000 on" in message


def test_warm_up_that_was_kept_is_named():
    pyro.set_rng_seed(0)
    begin = 1000 * 0.97 ** torch.arange(200.0).expand(10, 200)
    assert "warm-up" in check("4.3", torch.cat([begin, walk(1)], 1)).message
