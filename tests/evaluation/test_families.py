"""On a fixed decoder, in exact KL: a family that contains another does not end worse.

Optimisation tolerance: 0.002 nats a datum (mean over data).
"""

import math

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.inference.variational.coordinate_ascent import coordinate_ascent
from pyro_vae.networks import mlp

pytestmark = pytest.mark.usefixtures("float64")

N, D, L = 16, 6, 2
TOLERANCE = 0.002


@pytest.fixture(scope="module")
def problem():
    """A bent decoder, so that the posteriors are correlated and skewed, and their exact evidence."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    decoder = nn.Sequential(nn.Linear(L, 8), nn.Tanh(), nn.Linear(8, D))
    with torch.no_grad():
        for p in decoder.parameters():
            p.mul_(2.0)
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(decoder, scale=0.8)).requires_grad_(False)
    x = model.sample(N)["x"]
    truth = pv.quadrature(model, x)
    torch.set_default_dtype(dtype)
    return model, x, truth


def exact_kl(problem, guide):
    """KL(q || p(z|x)), mean over data, by summing over a grid that holds q."""
    model, x, truth = problem
    t = torch.linspace(-6, 6, 161)
    z = torch.cartesian_prod(t, t)[:, None]
    with torch.no_grad():
        log_q = guide.posterior(x).log_prob(z.expand(-1, N, L))
        log_joint = model.log_joint(x, z)
        mass = log_q.exp() * float(t[1] - t[0]) ** 2
        assert float((mass.sum(0) - 1).abs().max()) < 5e-3
        kl = (mass * (log_q - log_joint)).sum(0) / mass.sum(0) + truth.log_evidence
    return float(kl.mean())


def optimised(problem, guide, steps=120, lr=0.05, particles=8):
    """Path-derivative gradients and a decaying step size: the noise dies where q comes close."""
    model, x, _ = problem
    objective = objectives.PathDerivativeELBO(num_particles=particles, max_plate_nesting=1)
    optimiser = torch.optim.Adam(guide.parameters(), lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        objective.loss_and_grads(model, guide, x)
        optimiser.step()
    return exact_kl(problem, guide)


def test_larger_families_do_not_end_worse(problem):
    torch.manual_seed(0)
    diagonal = optimised(problem, guides.PerDatumDiagonalGaussian(N, latent_dim=L))
    full = optimised(problem, guides.PerDatumFullCovarianceGaussian(N, latent_dim=L))
    amortised_diagonal = optimised(problem, guides.DiagonalGaussian(mlp(D, 32, 2 * L)), lr=0.01)
    amortised_full = optimised(problem, guides.FullCovarianceGaussian(mlp(D, 32, 5), latent_dim=L), lr=0.01)
    flow = optimised(problem, guides.Coupling(mlp(D, 32, 16), latent_dim=L, hidden=(16,)), lr=0.01)
    assert full < diagonal + TOLERANCE
    assert diagonal < amortised_diagonal + TOLERANCE
    assert full < amortised_full + TOLERANCE
    assert amortised_full < amortised_diagonal + TOLERANCE
    assert flow < amortised_full + TOLERANCE
    assert flow < full  # the posteriors are skewed: no Gaussian reaches them
    assert min(diagonal, full, flow) > 0


def test_coordinate_ascent_is_the_mean_field_optimum():
    """CAVI on the linear-Gaussian model against the closed form, and its ELBO never falls."""
    model = pv.Model(priors.StandardNormal(3), likelihoods.Gaussian(mlp(3, D), scale=0.3)).requires_grad_(False)
    x = model.sample(10)["x"]
    exact, q = pv.analytic(model, x), coordinate_ascent(model, x)
    torch.testing.assert_close(q.mean, exact.mean)
    precision = torch.linalg.inv(exact.covariance_matrix)
    torch.testing.assert_close(q.variance, 1 / precision.diagonal(dim1=-2, dim2=-1))
    assert bool((q.elbo.diff(dim=0) > -1e-9).all())
    full = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    target = torch.distributions.MultivariateNormal(exact.mean, exact.covariance_matrix)
    kl = torch.distributions.kl_divergence(full, target)
    torch.testing.assert_close(q.elbo[-1], exact.log_evidence - kl)
    assert q.num_sweeps < 1000


def test_gradient_ascent_reaches_coordinate_ascent():
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.5)).requires_grad_(False)
    x = model.sample(N)["x"]
    guide = guides.PerDatumDiagonalGaussian(N, latent_dim=L)
    optimised((model, x, pv.analytic(model, x)), guide)
    best = coordinate_ascent(model, x)
    kl = torch.distributions.kl_divergence(guide.posterior(x), best)
    assert float(kl.detach().mean()) < TOLERANCE


def test_fit_keeps_the_order_of_data_in_one_batch():
    """A guide with parameters of each datum's own must meet them in their order at every step."""
    model = pv.Model(priors.StandardNormal(L), likelihoods.Gaussian(mlp(L, D), scale=0.5)).requires_grad_(False)
    x = model.sample(N)["x"]
    guide = guides.PerDatumDiagonalGaussian(N, latent_dim=L)
    options = {"batch_size": N, "validation": None, "progress": False, "compile": False}
    for lr in (0.1, 0.01):
        pv.fit(model, guide, x, epochs=150, lr=lr, loss=objectives.PathDerivativeELBO(num_particles=4), **options)
    kl = torch.distributions.kl_divergence(guide.posterior(x), coordinate_ascent(model, x))
    assert float(kl.detach().mean()) < 10 * TOLERANCE


def test_coordinate_ascent_refuses_what_has_no_closed_form():
    model = pv.Model(priors.StandardNormal(L), likelihoods.Bernoulli(mlp(L, D)))
    with pytest.raises(ValueError, match="linear-Gaussian"):
        coordinate_ascent(model, torch.zeros(2, D))
    with pytest.raises(ValueError, match="tolerance"):
        coordinate_ascent(model, torch.zeros(2, D), tolerance=0.0)
