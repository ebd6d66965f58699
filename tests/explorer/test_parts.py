"""Every part that the page knows, against Python's own density, at random places; no training is needed for that."""

import math

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import pyro_vae as pv
from tests.explorer.conftest import numbers

PLACES = np.random.RandomState(1).uniform(-2, 2, (12, 2)).round(3)
ACTIVATIONS = [
    *(nn.SiLU, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Mish, nn.SELU, nn.Softsign, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Softplus),
    lambda: nn.GELU(approximate="tanh"),
]
LIKELIHOODS = {
    "Bernoulli": lambda net: pv.likelihoods.Bernoulli(net(4)),
    "ContinuousBernoulli": lambda net: pv.likelihoods.ContinuousBernoulli(net(4)),
    "Beta": lambda net: pv.likelihoods.Beta(net(8)),
    "Gaussian": lambda net: pv.likelihoods.Gaussian(net(8)),
    "Gaussian, learned": lambda net: pv.likelihoods.Gaussian(net(4), scale="learned", data_dim=4, initial_scale=0.7),
    "Gaussian, fixed": lambda net: pv.likelihoods.Gaussian(net(4), scale=torch.tensor([0.2, 0.4, 1.0, 2.0])),
    "Laplace": lambda net: pv.likelihoods.Laplace(net(8)),
    "StudentT": lambda net: pv.likelihoods.StudentT(net(8)),
    "StudentT, learned": lambda net: pv.likelihoods.StudentT(net(4), df=None, scale="learned", data_dim=4),
    "StudentT, fixed": lambda net: pv.likelihoods.StudentT(net(4), df=3.0, scale=0.5),
    "LogNormal": lambda net: pv.likelihoods.LogNormal(net(4), scale=0.5),
    "Exponential": lambda net: pv.likelihoods.Exponential(net(4)),
    "Gamma": lambda net: pv.likelihoods.Gamma(net(8)),
    "HurdleGamma": lambda net: pv.likelihoods.HurdleGamma(net(12)),
    "HurdleLogNormal": lambda net: pv.likelihoods.HurdleLogNormal(net(12)),
    "HurdleLogNormal, learned": lambda net: pv.likelihoods.HurdleLogNormal(net(8), scale="learned", data_dim=4),
    "Poisson": lambda net: pv.likelihoods.Poisson(net(4)),
    "NegativeBinomial": lambda net: pv.likelihoods.NegativeBinomial(net(8)),
    "ZeroInflatedPoisson": lambda net: pv.likelihoods.ZeroInflatedPoisson(net(8)),
    "ZeroInflatedNegativeBinomial": lambda net: pv.likelihoods.ZeroInflatedNegativeBinomial(net(12)),
    "Categorical": lambda net: pv.likelihoods.Categorical(net(12), num_categories=3),
    "OrderedLogistic": lambda net: pv.likelihoods.OrderedLogistic(net(4), levels=5, data_dim=4),
    "DiscretisedLogistic": lambda net: pv.likelihoods.DiscretisedLogistic(net(8), levels=16),
    "Mixed": lambda net: pv.likelihoods.Mixed(
        [
            pv.likelihoods.Gaussian(net(4)),
            pv.likelihoods.Categorical(net(3), num_categories=3),
            pv.likelihoods.Poisson(net(1)),
        ]
    ),
}
WITHOUT_MOMENTS = {"Categorical", "OrderedLogistic", "Mixed", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial"}


def spread_out(module):
    """Weights at random that differ from every default, so that no part is tested at its first value alone."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return module


def page_of(model, guide, x, path, **settings):
    model.requires_grad_(False)
    guide.requires_grad_(False)
    pv.explore(model, guide, x, path=path / "page.html", **settings)
    return path / "page.html"


def plain_guide(data_dim):
    return pv.guides.DiagonalGaussian(pv.networks.mlp(data_dim, 4))


def joint(model, x, row):
    z = torch.tensor(PLACES).unsqueeze(1)
    return model.double().log_joint(x[row : row + 1].double(), z).squeeze(-1).detach()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_is_the_same_in_page_and_python(name, tmp_path):
    trunk = pv.networks.mlp(2, 8)
    likelihood = spread_out(LIKELIHOODS[name](lambda out: nn.Sequential(trunk, nn.SiLU(), nn.Linear(8, out))))
    model = pv.Model(pv.priors.StandardNormal(2), likelihood)
    x = model.sample(6)["x"].float()
    page = page_of(model, plain_guide(x.shape[1]), x, tmp_path, columns=[f"c{i}" for i in range(x.shape[1])])
    tasks = [("logJoint", {"row": row, "z": PLACES.tolist()}) for row in range(6)]
    *found, decoded = numbers(page, *tasks, ("decode", {"z": PLACES.tolist()}))
    for row in range(6):
        np.testing.assert_allclose(found[row], joint(model, x, row), rtol=1e-6, atol=1e-5)
    p = model.decode(torch.tensor(PLACES))
    if name not in WITHOUT_MOMENTS:
        np.testing.assert_allclose([[one["mean"] for one in row] for row in decoded], p.mean, rtol=2e-6, atol=1e-6)
        sd = [[math.inf if one["sd"] is None else one["sd"] for one in row] for row in decoded]
        np.testing.assert_allclose(sd, p.variance.sqrt(), rtol=2e-5, atol=1e-6)
    elif name in {"Categorical", "OrderedLogistic"}:
        ours = [[one["probabilities"] for one in row] for row in decoded]
        np.testing.assert_allclose(ours, p.base_dist.probs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial"])
def test_moments_of_counts_with_more_zeros_are_those_of_sums(name, tmp_path):
    likelihood = LIKELIHOODS[name](lambda out: spread_out(pv.networks.mlp(2, out)))
    model = pv.Model(pv.priors.StandardNormal(2), likelihood)
    x = model.sample(3)["x"]
    page = page_of(model, plain_guide(4), x, tmp_path, columns=list("abcd"))
    z = PLACES[:3].tolist()
    (decoded,) = numbers(page, ("decode", {"z": z}))
    p = model.double().decode(torch.tensor(z, dtype=torch.float64)).base_dist
    counts = torch.arange(4000.0, dtype=torch.float64).reshape(-1, 1, 1)
    probability = p.log_prob(counts.expand(-1, 3, 4)).exp()
    mean = (probability * counts).sum(0)
    sd = ((probability * counts**2).sum(0) - mean**2).sqrt()
    np.testing.assert_allclose([[one["mean"] for one in row] for row in decoded], mean.detach(), rtol=1e-5)
    np.testing.assert_allclose([[one["sd"] for one in row] for row in decoded], sd.detach(), rtol=1e-4)


def test_entries_that_are_missing_are_left_out(tmp_path):
    likelihood = pv.likelihoods.Gaussian(pv.networks.mlp(2, 8, 4), scale=0.5)
    model = pv.Model(pv.priors.StandardNormal(2), likelihood, missing=True)
    x = torch.tensor([[0.5, math.nan, 1.0, math.nan]])
    guide = pv.guides.DiagonalGaussian(pv.networks.MaskedInput(pv.networks.mlp(8, 6, 4)))
    page = page_of(model, guide, x, tmp_path)
    found, encoded = numbers(page, ("logJoint", {"row": 0, "z": PLACES.tolist()}), ("encode", {"rows": [0]}))
    np.testing.assert_allclose(found, joint(model, x, 0), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(encoded[0][0][1:3], guide.posterior(x).mean[0].detach(), atol=1e-5)


NETWORKS = {
    **{str(i): (lambda make=make: pv.networks.mlp(2, 7, 5, 16, activation=make)) for i, make in enumerate(ACTIVATIONS)},
    "linear": lambda: pv.networks.mlp(2, 16),
    "convolutions": lambda: pv.networks.ConvDecoder(4, latent_dim=2, channels=(3, 2)),
    "skip": lambda: pv.networks.SkipHead(2, pv.networks.mlp(2, 6), 6, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_in_page_and_python(name, tmp_path):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(spread_out(NETWORKS[name]())))
    x = (torch.rand(1, 16) < 0.5).float()
    page = page_of(model, plain_guide(16), x, tmp_path)
    (found,) = numbers(page, ("logJoint", {"row": 0, "z": PLACES.tolist()}))
    np.testing.assert_allclose(found, joint(model, x, 0), rtol=1e-6, atol=1e-5)


def mixture(**settings):
    return spread_out(pv.priors.GaussianMixture(2, num_components=3, **settings))


def vamp():
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(4, 4))
    return pv.priors.VampPrior(guide, torch.rand(3, 4))


PRIORS = {
    "DiagonalNormal": lambda: spread_out(pv.priors.DiagonalNormal(2)),
    "Laplace": lambda: pv.priors.Laplace(2, scale=0.8),
    "Cauchy": lambda: pv.priors.Cauchy(2, scale=0.5),
    "StudentT": lambda: pv.priors.StudentT(2, df=4.0, scale=1.5),
    "GaussianMixture": mixture,
    "GaussianMixture, full": lambda: mixture(covariance="full"),
    "DiscreteMixture": lambda: spread_out(pv.priors.DiscreteMixture(2, num_components=3)),
    "VampPrior": vamp,
}


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_the_same_in_page_and_python(name, tmp_path):
    prior = PRIORS[name]()
    model = pv.Model(prior, pv.likelihoods.Gaussian(pv.networks.mlp(2, 4), scale=1.0))
    page = page_of(model, plain_guide(4), torch.zeros(1, 4), tmp_path)
    (found,) = numbers(page, ("logPrior", {"z": PLACES.tolist()}))
    z = torch.tensor(PLACES, dtype=torch.float32)
    weights = torch.distributions.Categorical(logits=prior.logits) if name == "DiscreteMixture" else None
    p = torch.distributions.MixtureSameFamily(weights, prior.components()) if weights is not None else prior()
    np.testing.assert_allclose(found, p.log_prob(z).detach(), rtol=1e-5, atol=1e-5)


def test_a_flow_is_known_by_its_values_on_a_grid_as_closely_as_the_page_says(tmp_path):
    pyro.set_rng_seed(1)
    prior = pv.priors.RealNVP(2)
    model = pv.Model(prior, pv.likelihoods.Gaussian(pv.networks.mlp(2, 4), scale=1.0))
    page = page_of(model, plain_guide(4), torch.zeros(1, 4), tmp_path)
    (found,) = numbers(page, ("logPrior", {"z": PLACES.tolist()}))
    expected = prior().log_prob(torch.tensor(PLACES, dtype=torch.float32)).detach()
    np.testing.assert_allclose(found, expected, atol=1e-3)


GUIDES = {
    "full": lambda: pv.guides.FullCovarianceGaussian(pv.networks.mlp(4, 5, 5), latent_dim=2),
    "low rank": lambda: pv.guides.LowRankGaussian(pv.networks.mlp(4, 5, 6), latent_dim=2, rank=1),
    "low rank, 2": lambda: pv.guides.LowRankGaussian(pv.networks.mlp(4, 5, 8), latent_dim=2, rank=2),
    "mixture": lambda: pv.guides.MixtureOfGaussians(pv.networks.mlp(4, 5, 15), latent_dim=2, num_components=3),
    "experts": lambda: pv.guides.ProductOfExperts(pv.networks.mlp(4, 5, 4), data_dim=4, latent_dim=2),
    "convolutions": lambda: pv.guides.DiagonalGaussian(pv.networks.ConvEncoder(2, out_features=4, channels=(3,))),
    "columns": lambda: pv.guides.DiagonalGaussian(
        pv.networks.ColumnFeatures(pv.networks.mlp(6, 4), ["log", "category", "hurdle", "log1p"], [0, 3, 0, 0])
    ),
}


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_the_same_in_page_and_python(name, tmp_path):
    guide = spread_out(GUIDES[name]())
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 4), scale=1.0))
    x = torch.tensor([[0.5, 2.0, 0.0, 3.0], [2.0, 0.0, 1.5, 0.0], [7.0, 1.0, 0.3, 12.0]])
    page = page_of(model, guide, x, tmp_path, columns=list("abcd"))
    q = guide.double().posterior(x.double())
    z = torch.tensor(PLACES)
    (encoded,) = numbers(page, ("encode", {"rows": [0, 1, 2]}))
    for row in range(3):
        ours = np.array(encoded[row])
        weight, loc = torch.tensor(ours[:, 0]), torch.tensor(ours[:, 1:3])
        tril = torch.zeros(len(ours), 2, 2, dtype=torch.float64)
        tril[:, 0, 0], tril[:, 1, 0], tril[:, 1, 1] = torch.tensor(ours[:, 3:].T)
        parts = torch.distributions.MultivariateNormal(loc, scale_tril=tril)
        mixed = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weight), parts)
        expected = q.log_prob(z.unsqueeze(1).expand(-1, 3, 2))[:, row].detach()
        np.testing.assert_allclose(mixed.log_prob(z), expected, rtol=1e-5, atol=1e-5)


def test_a_guide_without_an_encoder_is_known_on_the_data_and_the_page_says_so(tmp_path):
    x = torch.randn(3, 4)
    guide = pv.guides.PerDatumFullCovarianceGaussian(3, latent_dim=2)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(pv.networks.mlp(2, 4), scale=1.0))
    page = page_of(model, guide, x, tmp_path)
    (encoded,) = numbers(page, ("encode", {"rows": [0]}))
    assert encoded == [None]
    assert "has no encoder that the page can run" in page.read_text()
