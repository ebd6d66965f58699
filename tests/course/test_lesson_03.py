"""Lesson 3: answers found another way than the exercises' own, and what learners get wrong."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats

import pyro_vae as pv
from pyro_vae.course import check

COUNTS = torch.tensor([3.0, 5.0, 4.0])


def negative_log_joint(rate):
    return -stats.gamma(2).logpdf(rate) - stats.poisson(rate).logpmf([3, 5, 4]).sum()


def test_mode_and_width_by_scipy():
    mode = optimize.minimize_scalar(negative_log_joint, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-9}).x
    h = 1e-3
    curvature = (negative_log_joint(mode + h) - 2 * negative_log_joint(mode) + negative_log_joint(mode - h)) / h**2
    assert check("3.1", [mode, curvature**-0.5])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([14 / 4, 14**0.5 / 4], "mean and standard deviation"),
        ([14 / 4, 13**0.5 / 4], "its mode is asked"),
        ([13 / 3, 13**0.5 / 3], "rate of the prior"),
        ([13 / 4, 14**0.5 / 4], "that of the curvature"),
        ([4, 12**0.5 / 3], "maximum likelihood"),
        ([13 / 4, 13 / 16], "variance"),
        ([13 / 4, 16 / 13], "curvature"),
        (13 / 4, "Expected a tensor of shape (2,); got a number"),
        ([13**0.5 / 4, 13 / 4], "reversed"),
    ],
)
def test_a_wrong_mode(answer, sentence):
    assert sentence in check("3.1", answer).message


def test_laplace_by_the_density_of_a_gaussian():
    def log_evidence(log_joint, hessian):
        q = torch.distributions.MultivariateNormal(torch.zeros(len(hessian)), precision_matrix=hessian)
        return log_joint - q.log_prob(torch.zeros(len(hessian)))

    assert check("3.2", log_evidence)


def laplace(log_joint, hessian, constant=1.0, log_det=1.0):
    k = len(hessian)
    return log_joint + constant * k / 2 * math.log(2 * math.pi) - log_det / 2 * hessian.logdet()


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ({"log_det": 0.0}, "no determinant"),
        ({"log_det": -1.0}, "wrong sign"),
        ({"log_det": 2.0}, "twice as much"),
        ({"constant": 0.0}, "power of 2 pi is missing"),
        ({"constant": -1.0}, "2 pi has the wrong sign"),
        ({"constant": 0.0, "log_det": 0.0}, "height"),
    ],
)
def test_a_wrong_laplace(terms, sentence):
    assert check("3.2", laplace)
    assert sentence in check("3.2", lambda *args: laplace(*args, **terms)).message


def test_one_factor_for_all_dimensions():
    answer = lambda j, h: j + 0.5 * math.log(2 * math.pi) - 0.5 * h.logdet()  # noqa: E731
    assert "one for all" in check("3.2", answer).message


def test_the_mode_of_the_logarithm_by_the_package():
    def model(x):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    u = pv.laplace(model, COUNTS, plate=None).mean  # at the mode of u = log(rate)
    assert check("3.3", u.exp())
    assert "This is u" in check("3.3", u).message
    rate = pv.maximum_a_posteriori(model, COUNTS, plate=None).mean.exp()  # at the mode of the rate
    assert "mode of the rate itself" in check("3.3", rate).message
    assert "divided by" in check("3.3", 12 / 4).message
    assert "maximum likelihood" in check("3.3", 4).message
