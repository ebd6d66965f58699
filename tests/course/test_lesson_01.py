"""Lesson 1: answers found another way than the exercises' own, and what learners get wrong."""

import math

import pytest
import torch
from torch.distributions import Beta, Normal

import pyro_vae as pv
from pyro_vae.course import check


def test_the_alarm_by_counting_a_million_people():
    ill, healthy = 5_000, 995_000
    assert check("1.1", 0.95 * ill / (0.95 * ill + 0.02 * healthy))
    assert check("1.1", 0.193)
    assert not check("1.1", 0.19)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (0.95, "wrong way round"),
        (0.00475, "divided by the evidence"),
        (0.979, "prior is missing"),
        (0.02465, "This is the evidence"),
        (0.8073, "health after an alarm"),
        (19.27, "per cent"),
        (0.95 * 0.005 / (0.95 * 0.005 + 0.02), "how many are healthy"),
    ],
)
def test_a_wrong_alarm(answer, sentence):
    assert sentence in check("1.1", answer).message


def by_quadrature(x, sigma):
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(torch.nn.Identity(), scale=float(sigma)))
    found = pv.quadrature(model, x.reshape(1, 1))
    return found.mean[0, 0], found.covariance_matrix[0, 0, 0] ** 0.5


def test_the_posterior_by_quadrature():
    assert check("1.2", by_quadrature)
    assert check("1.2", lambda x, s: [float(x) / (1 + float(s) ** 2), math.sqrt(s**2 / (1 + s**2))])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x, s: (x / (1 + s**2), s**2 / (1 + s**2)), "variance"),
        (lambda x, s: (x / (1 + s), (s / (1 + s)) ** 0.5), "standard deviation"),
        (lambda x, s: (x, s), "prior is missing"),
        (lambda s, x: (x / (1 + s**2), (s**2 / (1 + s**2)) ** 0.5), "exchanged"),
        (lambda x, s: (x / (1 + s**2), 1 + s**-2), "is the precision"),
        (lambda x, s: (-x / (1 + s**2), -((s**2 / (1 + s**2)) ** 0.5)), "sign"),
        (lambda x, s: x / (1 + s**2), "expected numbers of shape (2,)"),
    ],
)
def test_a_wrong_posterior(answer, sentence):
    assert sentence in check("1.2", answer).message


def test_a_grid_is_normalised():
    assert check("1.3", lambda log_joint, width: torch.log_softmax(log_joint, 0) - math.log(width))


def test_the_normalised_grid_is_a_known_density():
    z = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    log_joint = 8 * z.log() + 2 * (1 - z).log()
    from pyro_vae.course.lessons.lesson_01 import EXERCISES

    found = EXERCISES[2].truth(log_joint, z[1] - z[0])
    assert torch.allclose(found, Beta(9.0, 3.0).log_prob(z.float()).double(), atol=1e-3)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda g, w: torch.log_softmax(g, 0), "width of a cell is missing"),
        (lambda g, w: g - g.exp().sum().log() - w.log(), "underflows"),
        (lambda g, w: g - g.max(), "picture"),
        (lambda g, w: g / g.sum(), "are off"),
        (lambda g, w: (torch.log_softmax(g, 0) - w.log()).exp(), "natural scale"),
        (lambda g, w: Normal(0.0, 1.0).log_prob(w), "It returns a number"),
    ],
)
def test_a_wrong_grid(answer, sentence):
    assert sentence in check("1.3", answer).message
