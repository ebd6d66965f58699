"""The comparison against numbers worked out by hand, and what it prints."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference import posterior as seam
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
    assert "4 posteriors" in str(table)
    assert "gap" not in str(table)


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


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least one datum"),
        ([5], "rows of 'q' from 0 to 4; got 5"),
        ([-1], "from 0 to 4; got -1"),
        ([True, False], "one True or False for each of 5 data; got 2"),
        ([False] * 5, "of them 0 True"),
        ([0.5], "whole numbers"),
        ("ab", "whole numbers"),
        (3, "whole numbers"),
        ([[0, 1]], "a list of at least one datum"),
    ],
)
def test_rows_that_are_none_are_refused_in_words(linear, rows, words):
    model, x, *_ = linear
    with pytest.raises((TypeError, ValueError), match=words):
        pv.compare(model, x, {"q": (pv.laplace(model, x), rows)})


def test_rows_may_be_one_true_or_false_a_datum(linear):
    model, x, *_ = linear
    every, truth = pv.analytic(model, x), pv.analytic(model, x)
    some = pv.analytic(model, x[[1, 4]])
    keep = torch.tensor([False, True, False, False, True])
    scores = pv.compare(
        model, x, {"every": every, "mask": (some, keep), "list": (some, keep.tolist())}, truth=truth
    ).scores
    for name in ("mask", "list"):
        assert scores[name].rows.tolist() == [1, 4]
        torch.testing.assert_close(scores[name].gap, scores["every"].gap[[1, 4]], atol=1e-9, rtol=0)


@pytest.mark.parametrize("route", [pv.analytic, pv.quadrature])
def test_a_truth_of_other_data_or_other_weights_is_refused(linear, route):
    """Same number of data, same shapes: only the densities can tell."""
    model, x, *_ = linear
    q = pv.laplace(model, x)
    other = x.clone()
    other[3] += 0.1
    with pytest.raises(ValueError, match=r"a truth of the same model and data.*in row 3 \(1 such rows\)"):
        pv.compare(model, x, {"q": q}, truth=route(model, other))
    truth = route(model, x)
    with torch.no_grad():
        model.likelihood.network[0].bias += 0.01
    with pytest.raises(ValueError, match=r"\(5 such rows\)"):
        pv.compare(model, x, {"q": q}, truth=truth)


def _program(plate="data", *, latent="z", extra=False, outside=False):
    def guide(x):
        if outside:
            pyro.sample("aside", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        with pyro.plate(plate, len(x)):
            if extra:
                pyro.sample("w", dist.Normal(0.0, 1.0))
            pyro.sample(latent, dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    return guide


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        (lambda: _program("rows"), r"'z' of the guide in plate 'data'; got plates \['rows'\]"),
        (lambda: _program(latent="w"), r"latent sites \['z'\]; got \['w'\]"),
        (lambda: _program(extra=True), r"latent sites \['z'\]; got \['w', 'z'\]"),
        (lambda: _program(outside=True), "'aside' of the guide in plate 'data'; got no plate"),
        (lambda: pv.guides.DiagonalGaussian(pv.networks.mlp(6, 4), latent="w"), r"latent sites \['z'\]; got \['w'\]"),
        (lambda: pv.guides.DiagonalGaussian(pv.networks.mlp(6, 4), plate="rows"), r"in plate 'data'; got plates"),
    ],
)
def test_a_guide_of_other_names_has_no_density_here(linear, guide, words):
    model, x, *_ = linear
    with pytest.raises(ValueError, match=words):
        pv.compare(model, x, {"q": guide()}, truth=pv.analytic(model, x), num_samples=4)


def test_seconds_are_those_from_data_to_posterior(linear, monkeypatch):
    """One call of a guide, however many draws; NaN for a distribution that nobody timed."""
    model, x, *_ = linear
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(6, 4))
    truth = pv.analytic(model, x)
    posteriors = {
        "guide": guide,
        "program": guide.forward,
        "untimed": _gaussian(torch.zeros(5, 2), torch.ones(5, 2)),
        "exact": truth,
    }
    clock = itertools.count()
    monkeypatch.setattr(seam, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    scores = pv.compare(model, x, posteriors, truth=truth, num_samples=3).scores
    assert scores["guide"].seconds == scores["program"].seconds == 1
    assert next(clock) == 4  # one call of each, between two looks at the clock
    assert math.isnan(scores["untimed"].seconds)
    assert scores["exact"].seconds == truth.seconds


def test_a_name_that_is_no_string_is_refused(linear):
    model, x, *_ = linear
    with pytest.raises(TypeError, match="the name 3"):
        pv.compare(model, x, {3: pv.laplace(model, x)})


def test_a_table_of_another_truth_is_refused(linear):
    model, x, *_ = linear
    with pytest.raises(TypeError, match="truth=quadrature"):
        pv.compare(model, x, {"q": pv.laplace(model, x)}, truth=math.pi)
