"""Margins by maximum likelihood, against SciPy; factor analysis, against scikit-learn; the nets that start linear."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis
from sklearn.mixture import GaussianMixture

from pyro_vae import likelihoods, priors
from pyro_vae.factor_analysis import factor_analysis
from pyro_vae.likelihoods.marginal import fit_marginal
from pyro_vae.networks import ColumnFeatures, SkipHead, mlp

RNG = np.random.RandomState(0)
POSITIVE = RNG.gamma(2.0, 3.0, 400)
REAL = RNG.standard_t(4.0, 400) * 2.0 + 5.0


@pytest.mark.parametrize(
    ("make", "values", "log_prob"),
    [
        (lambda n: likelihoods.Gaussian(n(2)), REAL, lambda v: scipy.stats.norm.logpdf(v, v.mean(), v.std())),
        (
            lambda n: likelihoods.Laplace(n(2)),
            REAL,
            lambda v: scipy.stats.laplace.logpdf(v, *scipy.stats.laplace.fit(v)),
        ),
        (
            lambda n: likelihoods.LogNormal(n(2)),
            POSITIVE,
            lambda v: scipy.stats.lognorm.logpdf(v, *scipy.stats.lognorm.fit(v, floc=0)),
        ),
        (
            lambda n: likelihoods.Gamma(n(2)),
            POSITIVE,
            lambda v: scipy.stats.gamma.logpdf(v, *scipy.stats.gamma.fit(v, floc=0)),
        ),
        (lambda n: likelihoods.Poisson(n(1)), POSITIVE.round(), lambda v: scipy.stats.poisson.logpmf(v, v.mean())),
    ],
)
def test_a_margin_is_the_maximum_likelihood_fit(make, values, log_prob):
    x = torch.tensor(values).unsqueeze(-1)
    found = fit_marginal(make, x).log_prob(x).sum().detach()
    assert abs(float(found) - log_prob(values).sum()) < 2e-3  # nats in all; SciPy's own optimum is no closer


def test_missing_entries_do_not_count():
    x = torch.tensor([[1.0, math.nan], [3.0, 2.0], [math.nan, 4.0]], dtype=torch.float64)
    marginal = fit_marginal(lambda n: likelihoods.Gaussian(n(4)), x)
    assert torch.allclose(marginal.output[:2], torch.tensor([2.0, 3.0], dtype=torch.float64), atol=1e-4)
    assert bool((marginal.log_prob(x)[x.isnan()] == 0).all())


def _factors(N=400, D=5, L=2):
    RNG = np.random.RandomState(1)
    W = RNG.normal(size=(D, L))
    return torch.tensor(RNG.normal(size=(N, L)) @ W.T + 0.5 * RNG.normal(size=(N, D)) + 1.0)


def test_factor_analysis_is_scikit_learns():
    x = _factors()
    ours = factor_analysis(x, 2, steps=5000, tolerance=1e-10)
    theirs = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(x.numpy())
    assert abs(float(ours.log_prob(x).mean()) - theirs.score(x.numpy())) < 1e-5
    assert torch.allclose(ours.log_prob(x), torch.tensor(theirs.score_samples(x.numpy())), atol=1e-2)


def test_its_posterior_is_diagonal_and_its_evidence_consistent():
    x = _factors()
    found = factor_analysis(x, 2)
    mean, covariance = found.posterior(x)
    assert float((covariance - torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))).abs().max()) < 1e-10
    # Bayes' formula at any z: log p(x) = log p(x, z) - log p(z | x)
    z = torch.randn(len(x), 2, dtype=torch.float64)
    normal = torch.distributions.Normal
    joint = normal(0.0, 1.0).log_prob(z).sum(-1)
    joint = joint + normal(found.loc + z @ found.loadings.T, found.variance.sqrt()).log_prob(x).sum(-1)
    posterior = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    assert torch.allclose(joint - posterior, found.log_prob(x), atol=1e-8)


def test_missing_entries_are_integrated_out():
    x = _factors()
    found = factor_analysis(x, 2)
    some = x.clone()
    some[:, 3:] = math.nan
    covariance = found.loadings @ found.loadings.T + torch.diag(found.variance)
    exact = torch.distributions.MultivariateNormal(found.loc[:3], covariance[:3, :3]).log_prob(x[:, :3])
    assert torch.allclose(found.log_prob(some), exact, atol=1e-8)
    blank = x.masked_fill(torch.rand_like(x) < 0.1, math.nan)
    again = factor_analysis(blank, 2)
    assert float(again.log_prob(x).mean()) > float(found.log_prob(x).mean()) - 0.05


def _clusters(N=600):
    RNG = np.random.RandomState(2)
    z = RNG.normal(size=(N, 2)) @ np.array([[0.5, 0.3], [0.0, 0.2]]) + 3.0 * RNG.normal(size=(3, 2))[RNG.choice(3, N)]
    return torch.tensor(z @ RNG.normal(size=(2, 5)) + 0.3 * RNG.normal(size=(N, 5)) + 1.0)


def _mixture_density(found, x):
    """By SciPy, of the entries that are there."""
    there = ~torch.isnan(x)
    W, loc = found.loadings[there], found.loc[there]
    parts = zip(found.weights, found.means, found.covariances, strict=True)
    return math.log(
        sum(
            float(w) * multivariate_normal(loc + W @ m, W @ c @ W.T + found.variance[there].diag()).pdf(x[there])
            for w, m, c in parts
        )
    )


def test_a_mixture_of_factors_has_the_density_of_its_mixture():
    x = _clusters()
    x[:200][torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.2] = math.nan
    found = factor_analysis(x, 2, num_components=3)
    by_scipy = torch.tensor([_mixture_density(found, row) for row in x[:100]]).double()
    assert torch.allclose(found.log_prob(x[:100]), by_scipy, atol=1e-8)
    whole = torch.einsum("k,ki,kj->ij", found.weights, found.means, found.means)
    whole = whole + torch.einsum("k,kij->ij", found.weights, found.covariances)
    assert torch.allclose(found.weights @ found.means, torch.zeros(2).double(), atol=1e-10)
    assert torch.allclose(whole, torch.eye(2).double(), atol=1e-8)


def test_a_mixture_of_factors_describes_new_clusters_as_well_as_scikit_learns_mixture():
    """Data of that model: fewer numbers to learn, so at least as good on new rows; one component is far worse."""
    x = _clusters(1200)
    found = factor_analysis(x[:300], 2, num_components=3)
    theirs = GaussianMixture(3, random_state=0, n_init=3).fit(x[:300].numpy()).score_samples(x[300:].numpy())
    difference = found.log_prob(x[300:]) - torch.tensor(theirs)
    assert float(difference.mean()) > -2 * float(difference.std()) / 30  # of 900 rows
    assert float((found.log_prob(x[300:]) - factor_analysis(x[:300], 2).log_prob(x[300:])).mean()) > 0.5


def test_draws_of_its_posterior_have_its_moments():
    x = _clusters()[:20]
    x[::2, 3:] = math.nan
    found = factor_analysis(_clusters(), 2, num_components=3)
    mean, covariance = found.posterior(x)
    z = found.sample_posterior(x, 20_000, generator=torch.Generator().manual_seed(0))
    error = (covariance.diagonal(dim1=-2, dim2=-1) / len(z)).sqrt()
    assert float(((z.mean(0) - mean) / error).abs().max()) < 5
    apart = z - mean
    drawn = apart[..., 0] * apart[..., 1]
    assert float(((drawn.mean(0) - covariance[:, 0, 1]) / (drawn.std(0) / len(z) ** 0.5)).abs().max()) < 5


def test_a_start_at_a_mixture_is_that_mixture():
    found = factor_analysis(_clusters(), 2, num_components=3)
    prior = priors.GaussianMixture(2, num_components=3, covariance="full").double()
    prior.start_at(found.weights, found.means, found.covariances)
    components = torch.distributions.MultivariateNormal(found.means, found.covariances)
    exact = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(found.weights), components)
    z = exact.sample((50,))
    assert torch.allclose(prior().log_prob(z), exact.log_prob(z), atol=1e-6)


def test_features_stand_on_one_scale():
    x = torch.tensor([[1.0, 0.0, 2.0], [math.e, 3.0, math.nan], [math.e**2, 8.0, 0.0]])
    columns = ColumnFeatures(torch.nn.Identity(), ["log", "log1p", "category"], [0, 0, 3], missing=True)
    columns.standardise(x)
    features = columns.features(x)
    assert columns.num_inputs == columns(x).shape[-1] == 2 + 2 + 3
    assert torch.allclose(features[:, :2].mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(features[:, :2].square().mean(0), torch.ones(2), atol=1e-5)
    assert columns(x)[1].tolist()[2:] == [0, 0, 1, 1, 0]  # no category, and its mask
    assert features[0, 2:].tolist() == [0, 1]


def test_a_value_that_training_never_saw_is_no_further_than_eight_standard_deviations():
    columns = ColumnFeatures(torch.nn.Identity(), ["real", "real"], [0, 0])
    columns.standardise(torch.randn(500, 2) * torch.tensor([1.0, 0.01]))
    assert columns(torch.tensor([[0.5, 1.0]]))[0, 1] == 8
    assert float(columns(torch.tensor([[0.5, 1.0]]))[0, 0]) == pytest.approx(0.5, abs=0.2)


def test_levels_are_dequantised_by_their_step():
    x = torch.arange(4.0).repeat(2_000).unsqueeze(-1)
    columns = ColumnFeatures(torch.nn.Identity(), ["level"], [0])
    columns.standardise(x)
    away = (columns.dequantised(x, torch.Generator().manual_seed(0)) - columns.features(x)) * columns.scale
    assert float(away.abs().max()) <= 0.5 + 1e-5
    assert float(away.var()) == pytest.approx(1 / 12, rel=0.05)


def test_a_head_starts_linear():
    head = SkipHead(3, mlp(3, 8), 8, 2)
    z = torch.randn(5, 3)
    assert torch.equal(head(z), head.linear(z))
