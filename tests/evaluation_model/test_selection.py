"""Model comparison against models of known evidence."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from tests.truth import STANDARD_ERRORS, linear_gaussian, linear_gaussian_posterior


def _wider(model, scale):
    return pv.Model(model.prior, pv.likelihoods.Gaussian(model.likelihood.network, scale=scale))


def test_differences_and_probabilities_are_those_of_the_closed_form(float64):
    model, W, b = linear_gaussian(2, 4)
    x = model.sample(60)["x"]
    near = _wider(model, 0.52)
    truth = {name: linear_gaussian_posterior(x, W, b, s)[2] for name, s in (("right", 0.5), ("near", 0.52))}
    found = pv.compare_models({"near": near, "right": model}, x)
    away = truth["right"] - truth["near"]
    (d,) = found.differences
    sign = 1 if d.better == "right" else -1
    assert d.mean == pytest.approx(sign * away.mean(), abs=1e-9)
    assert d.sampling_error == pytest.approx(away.std(ddof=1) / math.sqrt(60), rel=1e-9)
    assert d.log_bayes_factor == pytest.approx(sign * away.sum(), abs=1e-8)
    assert d.estimate_error == 0
    assert found.probability["right"] == pytest.approx(1 / (1 + math.exp(-away.sum())), rel=1e-8)
    assert sum(found.probability.values()) == pytest.approx(1)
    assert found.to_dataframe().index[0] == d.better
    assert "± over rows" in str(found)


def test_an_estimate_by_importance_sampling_covers_the_closed_form(float64):
    model, W, b = linear_gaussian(4, 6)
    x = model.sample(50)["x"]
    wide = _wider(model, 0.8)
    exact = linear_gaussian_posterior(x, W, b, 0.5)[2] - linear_gaussian_posterior(x, W, b, 0.8)[2]

    def program(x, scale=0.8):  # the same model as a program that no closed form is known of
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.StudentT(1e6, model.likelihood.network(z), scale).to_event(1), obs=x)

    close = pv.analytic(wide, x)
    q = dist.MultivariateNormal(close.loc, scale_tril=1.1 * close.scale_tril)
    found = pv.compare_models({"a": model, "b": (program, q)}, x, num_samples=2000)
    (d,) = found.differences
    assert d.better == "a"
    assert d.resolved
    assert 0 < d.estimate_error < 0.01
    assert abs(d.mean - exact.mean()) < STANDARD_ERRORS * d.estimate_error + 1e-4


def test_the_same_model_twice_is_not_told_apart():
    model, *_ = linear_gaussian(2, 4)
    found = pv.compare_models({"a": model, "b": model}, model.sample(30)["x"])
    assert "not told apart" in found.verdict
    assert found.probability == {"a": 0.5, "b": 0.5}


def test_what_is_not_resolved_gets_no_probability_and_says_why():
    network = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    model = pv.Model(pv.priors.StandardNormal(5), pv.likelihoods.Gaussian(network, scale=0.2))
    x = model.sample(20)["x"]
    far = dist.Normal(torch.full((20, 5), 3.0), 0.05).to_event(1)
    found = pv.compare_models({"a": linear_gaussian(2, 4)[0], "b": (model, far)}, x)
    assert all(math.isnan(p) for p in found.probability.values())
    assert not found.differences[0].resolved
    assert "'b' by importance is not resolved" in found.verdict


def test_whole_programs_are_compared_by_their_evidence():
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    def pooled(y):
        mu = pyro.sample("mu", dist.Normal(0, 10.0))
        with pyro.plate("schools", 8):
            pyro.sample("y", dist.Normal(mu, sigma), obs=y)

    def apart(y):
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(0, 10.0))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    found = pv.compare_models({"pooled": pooled, "again": pooled}, y, plate=None)
    cover = np.diag(sigma.numpy() ** 2) + 100.0
    expected = -0.5 * (y.numpy() @ np.linalg.solve(cover, y.numpy()) + np.linalg.slogdet(cover)[1])
    expected -= 4 * math.log(2 * math.pi)  # y is Gaussian, its covariance 100 and sigma^2 beside
    assert float(found.evidence["pooled"].log_evidence) == pytest.approx(expected, abs=1e-3)
    assert math.isnan(found.differences[0].sampling_error)
    per_school = pv.compare_models({"a": apart, "b": apart}, y, plate="schools")
    assert len(per_school.evidence["a"].log_evidence) == 8


def test_wrong_arguments_are_refused():
    model, *_ = linear_gaussian(2, 4)
    x = model.sample(5)["x"]
    with pytest.raises(TypeError, match="models by name"):
        pv.compare_models([model, model], x)
    with pytest.raises(ValueError, match="at least two models"):
        pv.compare_models({"a": model}, x)
    other = pv.Target(model, x[:3])
    with pytest.raises(ValueError, match="the same data"):
        pv.compare_models({"a": model, "b": other}, x)


def test_models_that_standardise_in_their_own_way_are_compared_in_common_units(float64):
    model, *_ = linear_gaussian(2, 4)
    x = model.sample(30)["x"]
    other = _wider(model, 0.6)
    plain = pv.compare_models({"a": model, "b": other}, x)
    by = {"a": torch.linspace(-1.0, 1.0, 30), "b": torch.full((30,), 3.0)}
    moved = pv.compare_models({"a": model, "b": other}, x, log_jacobians=by)
    for name, found in moved.evidence.items():
        torch.testing.assert_close(found.log_evidence, plain.evidence[name].log_evidence + by[name])
    assert moved.best == "b"


def _poisson_gamma(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def _point(y):
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(2.5), obs=y)


def test_a_point_hypothesis_against_a_prior():
    """The first Bayes factor of a course; by algebra."""
    y = torch.tensor([3.0, 1, 0, 4, 2, 2, 7, 1])
    found = pv.compare_models({"point": _point, "prior": _poisson_gamma}, y, plate=None)
    total, N = float(y.sum()), len(y)
    factorials = float(torch.lgamma(y + 1).sum())
    prior = math.lgamma(2 + total) - math.lgamma(2) - (2 + total) * math.log(1 + N) - factorials
    point = float(dist.Poisson(2.5).log_prob(y).sum())
    assert float(found.evidence["point"].log_evidence) == pytest.approx(point)
    assert found.probability["point"] == pytest.approx(1 / (1 + math.exp(prior - point)), abs=1e-3)
    rows = pv.compare_models({"point": _point, "other": _point}, y, plate="rows")
    torch.testing.assert_close(rows.evidence["point"].log_evidence, dist.Poisson(2.5).log_prob(y))


def test_other_data_are_refused_however_they_come():
    y = torch.tensor([3.0, 1, 0, 4, 2, 2, 7, 1])

    def compared(other):
        targets = {name: pv.Target(_poisson_gamma, (data,), plate=None) for name, data in (("a", y), ("b", other))}
        return pv.compare_models(targets)

    with pytest.raises(ValueError, match=r"models of the same data; got \{'a': 8, 'b': 5\} observed numbers"):
        compared(y[:5])
    with pytest.raises(ValueError, match=r"other numbers in \['b'\] than in 'a'"):
        compared(y + 3)
    assert compared(y.flip(0)).differences[0].log_bayes_factor == pytest.approx(0, abs=1e-3)
