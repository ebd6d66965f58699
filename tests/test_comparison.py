"""The comparison against numbers worked out by hand, and what it prints."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.posterior import answer
from tests.truth import linear_gaussian, linear_gaussian_posterior


def _gaussian(mean, std):
    return torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)


@pytest.fixture
def linear(float64):
    model, W, b = linear_gaussian(2, 6, scale=0.5)
    x = model.sample(5)["x"]
    return model, x, *linear_gaussian_posterior(x, W, b, 0.5)


@pytest.mark.parametrize("kind", ["analytic", "quadrature"])
def test_a_shifted_and_scaled_posterior_has_its_textbook_scores(linear, kind):
    model, x, mean, V, log_evidence = linear
    m, T = torch.tensor(mean), torch.linalg.cholesky(torch.tensor(V))
    sd = torch.tensor(np.sqrt(np.diag(V)))
    q = torch.distributions.MultivariateNormal(m + 0.5 * sd, scale_tril=1.2 * T)
    p = torch.distributions.MultivariateNormal(m, scale_tril=T)
    truth = pv.analytic(model, x) if kind == "analytic" else pv.quadrature(model, x)
    score = pv.compare(model, x, {"q": q}, truth=truth, num_samples=5000).scores["q"]
    kl = torch.distributions.kl_divergence(q, p)
    torch.testing.assert_close(score.mean_error, torch.full((5,), 0.5), atol=1e-6, rtol=0)
    torch.testing.assert_close(score.std_ratio, torch.full((5,), 1.2), atol=1e-6, rtol=0)
    assert ((score.kl - kl).abs() < 4.5 * score.kl_error).all()
    torch.testing.assert_close(score.gap, torch.tensor(log_evidence) - score.bound, atol=1e-6, rtol=0)
    torch.testing.assert_close(score.gap, score.kl, atol=1e-6, rtol=0)


def test_every_kind_of_posterior_is_taken(linear):
    model, x, *_ = linear
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(6, 4))
    exact = pv.analytic(model, x)
    z = exact.sample((4, 300)).detach()
    draws = pv.Draws({"z": z}, acceptance=torch.ones(4, 5), plate="data", seconds=2.0)
    table = pv.compare(
        model, x,
        {"guide": guide, "program": guide.forward, "exact": exact, "mode": pv.maximum_a_posteriori(model, x),
         "draws": draws, "two": (draws.rows([1, 3]), [1, 3])},
        num_samples=400,
    )  # fmt: skip
    scores = table.scores
    assert scores["exact"].kl.abs().max() < 1e-8
    error = (scores["guide"].kl_error ** 2 + scores["program"].kl_error ** 2).sqrt()
    assert ((scores["guide"].kl - scores["program"].kl).abs() < 4.5 * error).all()
    assert bool(scores["mode"].kl.isnan().all())
    assert (scores["mode"].std_ratio == 0).all()
    # R iid draws: the error of the mean is a standard normal over sqrt(R)
    assert (scores["draws"].mean_error < 4.5 / 1200**0.5).all()
    assert scores["two"].rows.tolist() == [1, 3]
    frame = table.to_dataframe()
    assert list(frame.index) == list(scores)
    assert frame.loc["draws", "seconds"] == 2.0
    assert len(table.to_dataframe(per_datum=True)) == 5 * 5 + 2
    assert "KL(q||p)" in str(table)
    assert str(table).count("│ guide") == 1


def test_a_program_over_constrained_sites_is_measured_on_the_unconstrained_scale(float64):
    """Gamma prior, Poisson data: the exact posterior as a guide has KL zero at every draw."""

    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + x, 1.5))

    x = torch.tensor([0.0, 4.0])
    score = pv.compare(model, x, {"exact": guide}, num_samples=200).scores["exact"]
    truth = pv.quadrature(model, x)
    assert (score.kl.abs() <= truth.error_bound + 1e-10).all()
    assert (score.kl_error < 1e-10).all()
    found = answer(pv.Target(model, x), guide, num_samples=4000)
    assert ((found.mean - truth.mean).abs() < 4.5 * truth.variance.sqrt() / 4000**0.5).all()


def test_rows_in_another_order_are_the_same_data(linear):
    model, x, *_ = linear
    order = [3, 0, 4, 1, 2]
    score = pv.compare(model, x, {"q": (pv.analytic(model, x[order]), order)}).scores["q"]
    assert score.gap.abs().max() < 1e-6
    assert score.rows.tolist() == order


def test_without_a_truth_the_bound_remains():
    model, _, _ = linear_gaussian(5, 8)
    x = model.sample(4)["x"]
    table = pv.compare(model, x, {"guide": pv.guides.DiagonalGaussian(pv.networks.mlp(8, 10))}, num_samples=50)
    assert bool(table.scores["guide"].bound.isfinite().all())
    assert bool(table.log_evidence.isnan().all())
    assert "no exact evidence" in str(table)


@pytest.mark.parametrize(
    ("posteriors", "words"),
    [
        ({}, "at least one posterior"),
        ({"q": 3}, "a guide, a distribution over u or Draws"),
        ({"q": _gaussian(torch.zeros(5, 3), torch.ones(5, 3))}, r"\(5, 2\)"),
        ({"q": _gaussian(torch.zeros(4, 2), torch.ones(4, 2))}, r"\(5, 2\)|broadcast|match"),
        ({"q": lambda x: pyro.sample("w", dist.Normal(torch.zeros(len(x)), 1.0))}, r"latent sites \['z'\]"),
    ],
)
def test_bad_input_is_refused_in_words(linear, posteriors, words):
    model, x, *_ = linear
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        pv.compare(model, x, posteriors)


def test_a_table_of_another_truth_is_refused(linear):
    model, x, *_ = linear
    with pytest.raises(TypeError, match="truth=quadrature"):
        pv.compare(model, x, {"q": pv.laplace(model, x)}, truth=math.pi)
