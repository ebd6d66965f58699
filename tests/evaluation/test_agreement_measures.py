"""Measures between two posteriors, against closed forms and SciPy, and their false-alarm rates."""

import math

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.posterior.agreement import agreement, mmd, nearest_neighbour_test, sliced_wasserstein


def gaussian(num_data, latent_dim, *, shift=0.0, factor=1.0):
    loc = torch.full((num_data, latent_dim), shift)
    return dist.Normal(loc, factor * torch.ones_like(loc)).to_event(1)


@pytest.fixture
def model():
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(nn.Linear(2, 3), scale=1.0))


def test_measures_of_two_gaussians_have_their_closed_forms(model):
    shift, factor = 0.5, 1.5
    p, q = gaussian(40, 2), gaussian(40, 2, shift=shift, factor=factor)
    found = agreement(model, torch.zeros(40, 3), p, q, num_samples=400)
    torch.testing.assert_close(found.mean_shift, torch.full((40,), shift))
    torch.testing.assert_close(found.std_ratio, torch.full((40,), factor))
    kl = 2 * (-math.log(factor) + (factor**2 + shift**2 - 1) / 2)
    assert ((found.kl - kl).abs() < 4.5 * found.kl_error).all()
    upper, lower = ((side * 1.645 * factor + shift) for side in (1, -1))
    covered = scipy.stats.norm.cdf(upper) - scipy.stats.norm.cdf(lower)
    assert abs(float(found.coverage.mean()) - covered) < 0.01
    # in one direction W2^2 is (theta . shift)^2 + (factor - 1)^2, whose mean over directions in the plane is
    expected = math.sqrt(shift**2 + (factor - 1) ** 2)
    assert abs(float(found.sliced_wasserstein.mean()) - expected) < 0.05


def test_sliced_wasserstein_in_one_dimension_is_scipys():
    a, b = torch.randn(300, 4, 1), 0.5 * torch.randn(300, 4, 1) + 1.0
    found = sliced_wasserstein(a, b)
    expected = torch.stack([(a[:, n, 0].sort()[0] - b[:, n, 0].sort()[0]).square().mean().sqrt() for n in range(4)])
    torch.testing.assert_close(found, expected)
    first_order = [scipy.stats.wasserstein_distance(a[:, n, 0], b[:, n, 0]) for n in range(4)]
    assert all(w1 <= w2 + 1e-6 for w1, w2 in zip(first_order, found.tolist(), strict=True))


def test_mmd_is_the_double_sum():
    a, b = torch.randn(30, 1, 2), torch.randn(30, 1, 2) + 0.5
    both = torch.cat([a, b])[:, 0]
    squared = torch.cdist(both, both).square()
    k = (-0.5 * squared / squared.median()).exp()
    off = ~torch.eye(30, dtype=torch.bool)
    expected = k[:30, :30][off].mean() + k[30:, 30:][off].mean() - 2 * k[:30, 30:].mean()
    torch.testing.assert_close(mmd(a, b)[0][0], expected, atol=1e-6, rtol=1e-4)


def test_p_values_are_uniform_when_nothing_differs():
    a, b = torch.randn(60, 150, 2), torch.randn(60, 150, 2)
    for p in (mmd(a, b, num_permutations=99)[1], nearest_neighbour_test(a, b, num_permutations=99)[1]):
        for level in (0.1, 0.5):
            slack = 4.5 * math.sqrt(level * (1 - level) / 150)
            assert float((p <= level).double().mean()) < level + slack
        assert float((p <= 0.6).double().mean()) > 0.6 - 4.5 * math.sqrt(0.24 / 150) - 0.15  # votes come in steps


def _spoilt(kind, S, N):
    u = torch.randn(S, N, 2)
    if kind == "shifted":
        return u + 0.8
    if kind == "too narrow":
        return 0.5 * u
    if kind == "too wide":
        return 1.8 * u
    if kind == "one mode short":
        return u
    return 4.0 * u  # prior-like


@pytest.mark.parametrize("kind", ["shifted", "too narrow", "too wide", "one mode short", "prior-like"])
def test_wrong_posteriors_are_told_apart(kind):
    S, N = 200, 25
    p, q = torch.randn(S, N, 2), _spoilt(kind, S, N)
    if kind == "one mode short":
        p = p + 6.0 * (torch.rand(S, N, 1) > 0.5)
    for test in (mmd, nearest_neighbour_test):
        assert float((test(p, q, num_permutations=99)[1] <= 0.05).double().mean()) > 0.9


def test_chains_are_thinned_to_effective_draws(model):
    u = torch.randn(4, 300, 5, 2)
    for s in range(1, 300):
        u[:, s] = 0.95 * u[:, s - 1] + math.sqrt(1 - 0.95**2) * u[:, s]
    chains = pv.Draws({"z": u}, acceptance=torch.ones(4, 5), plate="data")
    found = agreement(model, torch.zeros(5, 3), gaussian(5, 2), chains)
    assert found.kl.isnan().all()  # chains have no density
    assert (found.accuracy_p_value > 0.001).all()
    assert len(found.to_dataframe()) == 5


def test_errors(model):
    with pytest.raises(ValueError, match="level"):
        agreement(model, torch.zeros(2, 3), gaussian(2, 2), gaussian(2, 2), level=1.5)
