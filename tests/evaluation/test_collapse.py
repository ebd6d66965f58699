import math
import warnings

import pyro
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, priors
from pyro_vae.networks import mlp

pytestmark = pytest.mark.usefixtures("float64")

SIGMA, EIGENVALUES = 1.0, torch.tensor([6.0, 2.5, 0.6, 0.3], dtype=torch.float64)


@pytest.fixture
def whitened(float64):
    """Data whose sample covariance is exactly diagonal, with two eigenvalues above sigma^2 and two below."""
    x = torch.randn(400, 4)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    return x * EIGENVALUES.sqrt()


class Optimum(guides.DiagonalGaussian):
    """The exact posterior at the optimum of probabilistic PCA, which is diagonal."""

    def __init__(self, weight):
        super().__init__(nn.Identity(), latent_dim=3)
        self.precision = 1 + weight**2 / SIGMA**2

    def posterior(self, x):
        mean = (self.precision - 1).sqrt() / SIGMA * x[:, :3] / self.precision
        return torch.distributions.Independent(torch.distributions.Normal(mean, self.precision.rsqrt()), 1)


def test_linear_vae_at_its_known_optimum(whitened):
    """KL_l = log(lambda_l / sigma^2) / 2 in the active dimensions, 0 in the others (Lucas et al. 2019)."""
    weight = (EIGENVALUES[:3] - SIGMA**2).clamp_min(0).sqrt()
    layer = nn.Linear(3, 4)
    layer.weight.data, layer.bias.data = torch.eye(4)[:, :3] * weight, torch.zeros(4)
    model = pv.Model(priors.StandardNormal(3), likelihoods.Gaussian(layer, scale=SIGMA))
    found = pv.collapse(model, Optimum(weight), whitened)
    expected = 0.5 * torch.log(EIGENVALUES[:3].clamp_min(SIGMA**2) / SIGMA**2)
    torch.testing.assert_close(found.kl, expected)
    N = len(whitened)
    torch.testing.assert_close(found.variance_of_mean * (N - 1) / N, 1 - SIGMA**2 / EIGENVALUES[:3].clamp_min(SIGMA**2))
    assert (found.active.tolist(), found.active_units, found.collapsed) == ([True, True, False], 2, False)
    assert bool((found.mutual_information <= found.kl + 0.02).all())  # the KL is information plus a marginal KL >= 0
    torch.testing.assert_close(found.mutual_information, expected, rtol=0, atol=0.03)  # that marginal KL is near 0
    assert "2 of 3" in str(found)


def test_a_trained_linear_vae_reaches_that_optimum(whitened):
    model = pv.Model(priors.StandardNormal(3), likelihoods.Gaussian(mlp(3, 4), scale=SIGMA))
    guide = guides.DiagonalGaussian(mlp(4, 6))
    loss = pyro.infer.TraceMeanField_ELBO()
    options = {"batch_size": 400, "validation": None, "progress": False, "loss": loss}
    for lr in (0.05, 0.01, 0.002):
        pv.fit(model, guide, whitened, epochs=150, lr=lr, **options)
    found = pv.collapse(model, guide, whitened)
    expected = 0.5 * torch.log(EIGENVALUES / SIGMA**2).clamp_min(0).sum()
    assert found.active_units == 2
    assert float(found.kl.sum()) == pytest.approx(float(expected), abs=0.05)


def test_collapse_is_warned_of(whitened):
    model = pv.Model(priors.StandardNormal(3), likelihoods.Gaussian(mlp(3, 4), scale=SIGMA))
    guide = guides.DiagonalGaussian(nn.Linear(4, 6))
    nn.init.zeros_(guide.network.weight)
    with pytest.warns(pv.CollapseWarning, match="warm-up"):
        found = pv.collapse(model, guide, whitened)
    assert found.collapsed
    torch.testing.assert_close(found.mutual_information, torch.zeros(3))


def test_any_guide_and_prior(whitened):
    prior = priors.GaussianMixture(2)
    model = pv.Model(prior, likelihoods.Gaussian(mlp(2, 4), scale=SIGMA))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pv.CollapseWarning)
        found = pv.collapse(model, guides.Coupling(mlp(4, 8), latent_dim=2), whitened[:50])
    assert bool(found.kl.isnan().all())
    assert bool((found.mutual_information >= -0.05).all())


def test_moments_by_draws_where_none_are_in_closed_form(whitened):
    """A guide moved by an affine map has known moments, which torch does not give: draws do."""
    guide = guides.DiagonalGaussian(mlp(4, 4))
    shift = torch.distributions.AffineTransform(1.0, 2.0)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(mlp(2, 4), scale=SIGMA))
    moved = pv.collapse(model, guides.Transformed(guide, shift), whitened)
    expected = 4 * guide.posterior(whitened).mean.detach().var(0)
    # the mean of 512 draws adds its variance, which is taken off; what is left is its noise over 400 data
    noise = 4 * guide.posterior(whitened).variance.detach().mean(0) / 512
    error = (2 * noise * (noise + 2 * expected) / len(whitened)).sqrt()
    assert float(((moved.variance_of_mean - expected).abs() / error).max()) < 5
    nn.init.zeros_(guide.network[0].weight)  # a mean that does not depend on x: only the draws' own noise is left
    with pytest.warns(pv.CollapseWarning):
        wide = pv.collapse(
            model, guides.Transformed(guide, torch.distributions.AffineTransform(0.0, 5.0)), whitened, threshold=0.02
        )
    noise = 25 * guide.posterior(whitened).variance.detach().mean(0) / 512
    assert float((wide.variance_of_mean / (noise * math.sqrt(2 / len(whitened)))).max()) < 5
    two = pv.Model(priors.HierarchicalNormal(mlp(1, 4), latent_dim=2, top_dim=1), model.likelihood)
    found = pv.collapse(two, guides.BottomUp(mlp(4, 4), mlp(2, 2), latent_dim=2, top_dim=1), whitened)
    assert (len(found.active), bool(found.kl.isnan().all())) == (3, True)


def test_bad_input_is_a_sentence(whitened):
    with pytest.raises(TypeError, match="posterior"):
        pv.collapse(None, None, whitened)
    with pytest.raises(ValueError, match="two data"):
        pv.collapse(None, Optimum(torch.ones(3)), whitened[:1])
