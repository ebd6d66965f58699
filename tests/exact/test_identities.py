"""The lecture's identities, held to numerical precision: no Monte Carlo, so no tolerance that hides an error."""

import numpy as np
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from scipy import stats

import pyro_vae as pv
from tests.truth import bernoulli_joint, linear_gaussian


def _grid(num=1201, low=-9.0, high=9.0):
    line = np.linspace(low, high, num)
    return line, line[1] - line[0]


@pytest.fixture
def problem(float64):
    """A one-dimensional bent posterior, its joint on a grid, and a Gaussian q that is not it."""
    network = pv.networks.mlp(1, 8, 10)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Bernoulli(network))
    x = model.sample(4)["x"]
    z, dz = _grid()
    joint = bernoulli_joint(model, x, torch.tensor(z).reshape(-1, 1, 1))  # (G, N)
    q = stats.norm(0.4, 0.7).logpdf(z)[:, None]
    return model, x, z, dz, joint, q


def test_log_evidence_is_kl_plus_elbo(problem):
    model, x, _, dz, joint, q = problem
    log_evidence = pv.quadrature(model, x).log_evidence.numpy()
    posterior = joint - log_evidence
    weight = np.exp(q) * dz
    kl = (weight * (q - posterior)).sum(0)
    elbo = (weight * (joint - q)).sum(0)
    np.testing.assert_allclose(kl + elbo, log_evidence, rtol=1e-12)
    assert (kl > 0.01).all()


def test_the_two_terms_of_the_elbo(problem):
    """E_q[log p(x|z)] - KL(q || p(z)), with the KL of two Gaussians in closed form, is the same ELBO."""
    _, _, z, dz, joint, q = problem
    weight = np.exp(q) * dz
    likelihood = joint - stats.norm.logpdf(z)[:, None]
    kl_to_prior = 0.5 * (0.7**2 + 0.4**2 - 1 - 2 * np.log(0.7))
    np.testing.assert_allclose((weight * likelihood).sum(0) - kl_to_prior, (weight * (joint - q)).sum(0), rtol=1e-10)


def test_kl_is_not_symmetric(problem):
    model, x, _, dz, joint, q = problem
    posterior = joint - pv.quadrature(model, x).log_evidence.numpy()
    forward = (np.exp(q) * (q - posterior)).sum(0) * dz
    backward = (np.exp(posterior) * (posterior - q)).sum(0) * dz
    assert np.abs(forward - backward).max() > 0.1


def test_the_comparison_measures_that_kl_and_that_elbo(problem):
    model, x, _, dz, joint, q = problem
    log_evidence = pv.quadrature(model, x).log_evidence.numpy()
    kl = (np.exp(q) * (q - joint + log_evidence)).sum(0) * dz
    normal = torch.distributions.Normal(torch.full((4, 1), 0.4), torch.full((4, 1), 0.7))
    score = pv.compare(model, x, {"q": torch.distributions.Independent(normal, 1)}, num_samples=20_000).scores["q"]
    assert (np.abs(score.kl.detach().numpy() - kl) < 4.5 * score.kl_error.detach().numpy()).all()
    assert (np.abs(score.bound.detach().numpy() - (log_evidence - kl)) < 4.5 * score.bound_error.detach().numpy()).all()
    torch.testing.assert_close(score.gap, score.kl)


@pytest.mark.parametrize("latent_dim", [1, 2, 20])
def test_with_the_exact_posterior_every_single_draw_gives_the_evidence(latent_dim, float64):
    model, _, _ = linear_gaussian(latent_dim, 15, scale=0.3)
    x = model.sample(5)["x"]
    posterior = pv.analytic(model, x)
    z = posterior.sample((100,))
    ratio = pv.Target(model, x).log_joint(z) - posterior.log_prob(z)
    torch.testing.assert_close(ratio, posterior.log_evidence.expand(100, 5), rtol=1e-11, atol=1e-11)


def test_svi_of_the_right_family_finds_the_closed_form(float64):
    """With the model fixed and a linear guide of full covariance, the ELBO's maximum is the exact posterior."""
    model, _, _ = linear_gaussian(2, 6, scale=1.0)
    x = model.sample(150)["x"]
    exact = pv.analytic(model, x)
    model.requires_grad_(False)
    guide = pv.guides.FullCovarianceGaussian(pv.networks.mlp(6, 5), latent_dim=2)
    with torch.no_grad():
        guide.network[0].weight.zero_()
    history = pv.fit(
        model, guide, x, epochs=250, batch_size=150, lr=3e-2, validation=None, progress=False, compile=False,
        loss=TraceMeanField_ELBO(num_particles=8, vectorize_particles=True),
    )  # fmt: skip
    gap = float(exact.log_evidence.mean()) - history.train_elbo[-1]
    assert gap < 0.02
    with torch.no_grad():
        q = guide.posterior(x)
    off = (q.mean - exact.mean) / exact.variance.sqrt()
    assert float(off.square().mean().sqrt()) < 0.1
