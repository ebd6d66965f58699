"""One lattice for all data: the numbers of grids of their own, and what it does not resolve is left to those."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.target.target import Target
from tests.truth import linear_gaussian, linear_gaussian_posterior

pytestmark = pytest.mark.usefixtures("float64")


def _on_lattice(posterior):
    """How many data have a window of the lattice, whose axes are those of u."""
    eye = torch.eye(posterior.event_shape[0])
    return sum(len(rows) for rows, grid in posterior._grids if torch.equal(grid.basis[0], eye.to(grid.basis)))


@pytest.mark.parametrize("latent_dim", [1, 2, 3])
def test_the_shared_lattice_gives_the_closed_form(latent_dim):
    model, W, b = linear_gaussian(latent_dim, 6)
    N = 200 if latent_dim < 3 else 24
    x = model.sample(N)["x"]
    posterior = pv.quadrature(model, x, tolerance=1e-5 if latent_dim < 3 else 1e-2, max_points=2**20)
    mean, covariance, exact = linear_gaussian_posterior(x, W, b, 0.5)
    assert _on_lattice(posterior) > N / 3
    away = np.abs(posterior.log_evidence.numpy() - exact)
    condition = np.linalg.cond(W @ W.T + 0.25 * np.eye(len(W)))
    rounding = len(W) * condition * np.finfo(float).eps * (1 + np.abs(exact))  # of the closed form's quadratic form
    assert (away <= posterior.error_bound.numpy() + rounding).all()
    np.testing.assert_allclose(posterior.mean, mean, atol=1e-6)
    np.testing.assert_allclose(
        posterior.covariance_matrix, np.broadcast_to(covariance, (N, *covariance.shape)), atol=1e-6
    )


def test_data_far_off_and_data_of_another_width_get_what_they_need():
    """A datum beyond the lattice, and one so sharp that no lattice for all is fine enough."""
    z_scale = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(z_scale.weight, 1.0)
    torch.nn.init.zeros_(z_scale.bias)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(z_scale, scale=0.002))
    x = torch.cat([torch.randn(40, 1), torch.tensor([[300.0]])])
    posterior = pv.quadrature(model, x)
    exact = torch.distributions.Normal(0.0, (1 + 0.002**2) ** 0.5).log_prob(x).squeeze(-1)
    assert ((posterior.log_evidence - exact).abs() <= posterior.error_bound).all()
    assert float(posterior.error_bound.max()) <= 1e-3


def test_a_peak_that_the_lattice_does_not_show_is_found():
    """The mean turns at z = 1.5, within a cell of the coarse grid; for the first datum all mass is there."""

    class Bent(torch.nn.Module):
        def forward(self, z):
            return torch.cat([torch.tanh(60 * (z - 1.5)), z], -1)

    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Bent(), scale=0.05))
    x = torch.tensor([[0.0, 1.5], [1.0, 1.7], [-1.0, 0.3]]).repeat(20, 1)
    posterior = pv.quadrature(model, x)
    z = 1.5 + torch.linspace(-4.0, 4.0, 2_000_001)[:, None]
    log_joint = Target(model, x[:3]).log_joint
    value = torch.cat([log_joint(part.unsqueeze(1)) for part in z.split(50_000)])
    exact = value.logsumexp(0) + torch.log(z[1, 0] - z[0, 0])
    assert ((posterior.log_evidence[:3] - exact).abs() <= posterior.error_bound[:3] + 1e-6).all()


@pytest.mark.parametrize("steep", [5.0, 40.0])
def test_a_narrow_peak_between_the_points_beside_a_wide_one_is_counted(steep):
    """z -> z^2 on the left, (steep z)^2 on the right: the peak on the right moves no sum that steps over it."""

    class Bent(torch.nn.Module):
        def forward(self, z):
            return torch.where(z < 0, z, steep * z).square()

    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Bent(), scale=0.1))
    x = torch.linspace(0.8, 1.2, 41)[:, None]
    posterior = pv.quadrature(model, x)
    z = torch.linspace(-4.0, 4.0, 800_001)[:, None]
    log_joint = Target(model, x[::8]).log_joint
    exact = torch.cat([log_joint(part.unsqueeze(1)) for part in z.split(50_000)]).logsumexp(0) + torch.log(z[1] - z[0])
    assert ((posterior.log_evidence[::8] - exact).abs() <= posterior.error_bound[::8] + 1e-6).all()


def test_single_precision_is_enough_for_sharp_likelihoods():
    """Terms of a sharp Gaussian are thousands of nats where their sum is a few."""
    network = torch.nn.Linear(2, 20).float()
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.03)).float()
    x = model.sample(50)["x"].float()
    target = Target(model, x)
    u = pv.analytic(model, x).mean[:10].unsqueeze(1)
    with torch.no_grad():
        shared, apart = target.log_joint(u), target.log_joint(u.expand(-1, 50, -1))
        exact = Target(model.double(), x.double()).log_joint(u.double().expand(-1, 50, -1))
    near = exact > exact.amax() - 50
    assert target.has_products
    assert float((shared - exact)[near].abs().max()) < 2 * float((apart - exact)[near].abs().max()) + 1e-4


def test_single_precision_is_enough_for_large_counts():
    """The terms of a Poisson law are hundreds of nats where their sum is a few."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 40)).float()
    with torch.no_grad():
        network[2].weight.mul_(6)
        network[2].bias.mul_(6)
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Poisson(network)).float()
    x = model.sample(20)["x"].float()
    posterior = pv.quadrature(model, x)
    assert Target(model, x).has_products
    exact = pv.quadrature(model.double(), x.double(), tolerance=1e-7)
    off = (posterior.log_evidence - exact.log_evidence).abs()
    assert (off <= posterior.error_bound + exact.error_bound).all()
