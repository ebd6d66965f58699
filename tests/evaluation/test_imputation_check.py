"""Imputation against the conditional law of a Gaussian, where error and coverage are known in closed form."""

import math

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation.imputation_check import _hidden, point_estimate
from tests.truth import STANDARD_ERRORS, linear_gaussian

N, D, SCALE = 120, 5, 0.4


@pytest.fixture
def linear(float64):
    """A linear-Gaussian model of data with holes, training rows, and its mean and covariance."""
    complete, W, b = linear_gaussian(2, D, scale=SCALE)
    model = pv.Model(complete.prior, complete.likelihood, missing=True)
    x = model.sample(N + 400)["x"]
    x[3:60:7, 1] = torch.nan
    return model, x[:N], x[N:], b, W @ W.T + SCALE**2 * np.eye(D)


def _conditional(x, d, b, cover):
    """Mean and variance of entry d given the others that are observed."""
    known = np.flatnonzero(~np.isnan(x) & (np.arange(D) != d))
    gain = np.linalg.solve(cover[np.ix_(known, known)], cover[known, d])
    return b[d] + gain @ (x[known] - b[known]), cover[d, d] - gain @ cover[known, d]


def test_errors_and_coverage_are_those_of_the_conditional_gaussian(linear):
    model, x, train, b, cover = linear
    S = 400
    found = pv.check_imputation(model, x, pv.analytic, x_train=train, share=0.2, num_samples=S)
    assert len(found.column) == 5 * round(0.2 * int((~x.isnan()).sum()))
    expected, variance = [], []
    deviation = np.nanstd(train.numpy(), 0)
    for rows, columns in _hidden(x, np.ones(D, bool), 0.2, 0):
        left = x.numpy().copy()
        left[rows, columns] = np.nan
        for n, d in zip(rows, columns, strict=True):
            mean, var = _conditional(left[n], d, b, cover)
            expected.append(((float(x[n, d]) - mean) / deviation[d]) ** 2)
            variance.append(var / deviation[d] ** 2)
    # the mean of S draws is off by its own standard error, beside the error of the conditional mean
    mse = np.mean(expected) + np.mean(variance) / S
    spread = np.sqrt(4 * np.mean(expected) * np.mean(variance) / S / len(expected))
    assert abs(np.square(found.error).mean() - mse) < STANDARD_ERRORS * spread + 1e-3
    M = len(found.place)
    for level in (0.5, 0.9):
        assert abs(found.coverage(level) - level) < STANDARD_ERRORS * math.sqrt(1.5 * level * (1 - level) / M)


def test_the_column_mean_and_the_iterative_imputer_are_scikit_learns(linear):
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    model, x, train, _, _ = linear
    found = pv.check_imputation(model, x, pv.analytic, x_train=train, share=0.9999, num_samples=5)
    loc, scale = np.nanmean(train.numpy(), 0), np.nanstd(train.numpy(), 0)
    there = ~np.isnan(x.numpy())
    error = ((loc - x.numpy()) / scale)[there]
    np.testing.assert_allclose(np.sort(found.mean_error), np.sort(error), rtol=1e-9)
    # with nothing observed, it can only return the means
    np.testing.assert_allclose(np.sort(found.regression_error), np.sort(error), atol=1e-9)
    few = pv.check_imputation(model, x, pv.analytic, x_train=train, share=0.1, num_samples=5)
    imputer = IterativeImputer(random_state=0).fit((train.numpy() - loc) / scale)
    assert few.to_dataframe().loc["all numbers", "rmse_iterative"] < 0.8
    assert imputer.n_features_in_ == D


def test_intervals_that_are_too_narrow_or_off_are_called_that(linear):
    model, x, train, _, _ = linear
    good = pv.check_imputation(model, x, pv.analytic, x_train=train)
    assert "as they should" in good.verdict
    narrow = pv.Model(model.prior, pv.likelihoods.Gaussian(model.likelihood.network, scale=0.05), missing=True)
    bad = pv.check_imputation(narrow, x, pv.analytic, x_train=train)
    assert bad.coverage(0.9) < 0.6
    assert "too narrow" in bad.verdict


def test_counts_are_covered_as_often_as_is_said():
    network = torch.nn.Linear(1, 3)
    torch.nn.init.constant_(network.weight, 0.7)
    torch.nn.init.constant_(network.bias, 0.3)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Poisson(network), missing=True)
    x = model.sample(700)["x"]
    found = pv.check_imputation(model, x[:400], pv.quadrature, x_train=x[400:], share=0.3, num_samples=50)
    M = len(found.place)
    assert M >= 1000
    for level in (0.5, 0.9):  # cells of one row share its z: the effective number is smaller
        assert abs(found.coverage(level) - level) < STANDARD_ERRORS * math.sqrt(2 * level * (1 - level) / M)


def test_categories_are_right_or_wrong_and_constant_columns_are_left_out():
    likelihood = pv.likelihoods.Mixed(
        [
            pv.likelihoods.Gaussian(torch.nn.Linear(1, 2), scale=0.3),
            pv.likelihoods.Categorical(torch.nn.Linear(1, 3), num_categories=3),
        ]
    )
    model = pv.Model(pv.priors.StandardNormal(1), likelihood, missing=True)
    x = model.sample(260)["x"]
    x[:, 1] = 7.0
    names, coded = ("height", "site", "city"), (False, False, True)
    found = pv.check_imputation(
        model, x[:60], pv.laplace, x_train=x[60:], categories=coded, names=names, num_samples=100
    )
    frame = found.to_dataframe()
    assert list(frame.index) == ["height", "city", "all numbers", "all categories"]
    city = x[60:, 2]
    hidden = found.column == 2
    by_mode = (x[:60, 2] == city.mode().values).double().mean()
    assert hidden.sum() == 60  # every cell has been hidden once
    assert frame.loc["city", "accuracy_mode"] == pytest.approx(float(by_mode))
    assert set(found.error[hidden]) <= {0.0, 1.0}
    assert "site" in found.notes[0]
    assert "of categories are right" in str(found)
    draws = torch.tensor([[1.0, 2.0], [2.0, 2.0], [6.0, 0.0]])
    assert point_estimate(draws, torch.tensor([False, True])).tolist() == [3.0, 2.0]


def test_wrong_arguments_are_refused(linear):
    model, x, train, _, _ = linear
    for settings, words in (
        ({"share": 0.0}, "a share of the observed cells"),
        ({"x_train": train[:, :2]}, "the same columns"),
        ({"names": ("a", "b")}, "the same columns"),
        ({"x_test": torch.full_like(x, torch.nan)}, "observed cells"),
    ):
        given = {"x_test": x, "x_train": train, **settings}
        with pytest.raises(ValueError, match=words):
            pv.check_imputation(model, given.pop("x_test"), pv.analytic, **given)


def test_ties_of_several_rounds_are_broken_by_different_numbers():
    """Coverage of zeros rests on as many random numbers as there are cells: of one round's, used again, on a tenth."""
    network = torch.nn.Linear(1, 2)
    torch.nn.init.zeros_(network.weight)
    torch.nn.init.constant_(network.bias, -3.0)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Poisson(network), missing=True)
    x = model.sample(200)["x"]
    found = pv.check_imputation(model, x[:100], pv.quadrature, x_train=x[100:], num_samples=5)
    assert len(np.unique(found.place)) == len(found.place) == 200
