"""Lesson 2: answers found another way than the exercises' own, and what learners get wrong."""

import math

import pytest
import torch
from scipy import integrate, stats

from pyro_vae.course import check


def test_the_evidence_by_quadrature():
    evidence, _ = integrate.quad(lambda z: stats.norm.pdf(z) * stats.norm.pdf(1.5, 2 * z, 0.5), -10, 10)
    assert check("2.1", math.log(evidence))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (stats.norm.logpdf(1.5, 0, 0.5), "prior's spread is missing"),
        (stats.norm.logpdf(1.5, 0, 1.25**0.5), "factor in front of z is missing"),
        (stats.norm.logpdf(1.5, 0, 2), "noise is missing"),
        (stats.norm.logpdf(1.5, 0, 2.5), "Standard deviations do not add up"),
        (stats.norm.logpdf(1.5, 0, 4.25), "variance of x was used"),
        (stats.norm.logpdf(1.5, 0, 2.25**0.5), "square of the factor"),
        (stats.norm.logpdf(1.5, 0, 4.5**0.5), "used as its variance"),
        (stats.norm.pdf(1.5, 0, 4.25**0.5), "natural scale"),
        (-stats.norm.logpdf(1.5, 0, 4.25**0.5), "sign"),
    ],
)
def test_a_wrong_evidence(answer, sentence):
    assert sentence in check("2.1", answer).message


def test_the_dimension_by_trying():
    k = 1
    while 32**k / 1e6 <= 4.35e17:
        k += 1
    assert check("2.2", k)
    assert "just be afforded" in check("2.2", k - 1).message
    assert "rate multiplies" in check("2.2", 8).message
    assert "whole number" in check("2.2", math.log(4.35e23, 32)).message
    assert "speed is missing" in check("2.2", math.ceil(math.log(4.35e17, 32))).message
    assert "multiply" in check("2.2", 4.35e23 / 32).message


def test_two_models_of_a_coin_by_quadrature():
    b, _ = integrate.quad(lambda bias: bias**8 * (1 - bias) ** 2, 0, 1)
    assert check("2.3", math.log(b) - 10 * math.log(0.5))
    assert check("2.3", torch.tensor(math.log(b / 0.5**10)))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (math.log(0.8**8 * 0.2**2 / 0.5**10), "average over it"),
        (math.log(0.5**10 * 495), "the other model"),
        (1024 / 495, "natural scale"),
        (math.log(1024 / 11), "binomial"),
        (0, "p(tosses | mean bias)"),
    ],
)
def test_a_wrong_comparison(answer, sentence):
    assert sentence in check("2.3", answer).message
