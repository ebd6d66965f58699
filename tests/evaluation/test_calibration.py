"""Calibration by simulation: the exact posterior passes at the nominal rate, each kind of wrong one is caught."""

import math

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.posterior.calibration import calibrate, ecdf_band
from pyro_vae.evaluation.simulation import simulate
from tests.table_of_kernels import KERNELS


@pytest.fixture
def model():
    network = nn.Linear(2, 4)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.8], [0.9, 1.0], [0.5, 0.6], [0.0, 0.4]]))
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.7))


def spoilt(model, kind):
    def infer(x):
        exact = pv.analytic(model, x)
        loc, tril = exact.loc, exact.scale_tril
        if kind == "shifted":
            loc = loc + 0.7 * exact.variance.sqrt()
        if kind in {"too narrow", "too wide"}:
            tril = tril * (0.6 if kind == "too narrow" else 1.6)
        if kind == "prior-like":
            loc, tril = torch.zeros_like(loc), torch.eye(2).expand_as(tril)
        if kind == "mean field":
            precision = exact.precision_matrix.diagonal(dim1=-2, dim2=-1)
            tril = torch.diag_embed(precision.rsqrt())
        return dist.MultivariateNormal(loc, scale_tril=tril)

    return infer


def test_the_exact_posterior_passes_at_the_nominal_rate(model):
    rejected = [not calibrate(model, torch.zeros(150, 4), spoilt(model, "exact")).calibrated(0.1) for _ in range(30)]
    assert sum(rejected) <= scipy.stats.binom.ppf(1 - 1e-5, 30, 0.1)


@pytest.mark.parametrize("kind", ["shifted", "too narrow", "too wide", "mean field"])
def test_wrong_posteriors_are_caught(model, kind):
    assert not calibrate(model, torch.zeros(600, 4), spoilt(model, kind)).calibrated()


def test_a_posterior_that_is_the_prior_passes_ranks_and_random_points_only(model):
    found = calibrate(model, torch.zeros(600, 4), spoilt(model, "prior-like"))
    assert (found.p_value > 0.001).all()  # ranks cannot see it: Talts et al. 2018, section 4
    assert found.tarp_p_value > 0.001  # nor can points that know no x: Lemos et al. 2023, section 3
    assert found.informed_p_value < 0.001
    assert found.likelihood_p_value < 0.001
    assert not found.calibrated()
    assert found.coverage(torch.tensor([0.5]))[0, 0] == pytest.approx(0.5, abs=4.5 * math.sqrt(0.25 / 600))


def test_coverage_of_a_narrow_posterior_is_the_normal_integral(model):
    found = calibrate(model, torch.zeros(2000, 4), spoilt(model, "too narrow"), num_draws=199)
    z = scipy.stats.norm.ppf(0.95)
    expected = 2 * scipy.stats.norm.cdf(0.6 * z) - 1
    slack = 4.5 * math.sqrt(expected * (1 - expected) / 2000) + 0.01  # and the quantiles' own noise
    assert float((found.coverage(torch.tensor([0.9])) - expected).abs().max()) < slack


class Linear(pv.guides.Guide):
    """The exact posterior of the linear-Gaussian model, as a guide; ``factor`` widens it."""

    def __init__(self, model, factor=1.0):
        super().__init__()
        self.exact = [pv.analytic(model, x[None]) for x in torch.cat([torch.zeros(1, 4), torch.eye(4)])]
        self.factor = factor

    def posterior(self, x):
        at_zero, *slopes = [exact.loc[0] for exact in self.exact]  # the mean is linear in x
        loc = at_zero + x @ (torch.stack(slopes) - at_zero)
        return dist.MultivariateNormal(loc, scale_tril=self.factor * self.exact[0].scale_tril.expand(len(x), 2, 2))


@pytest.mark.parametrize("name", ["HMC", "RandomWalk", "GaussianGibbs"])  # every kernel's own ranks: tests/mcmc
def test_kernels_are_calibrated(model, name):
    found = calibrate(model, torch.zeros(150, 4), KERNELS[name].build(), num_draws=19, warmup_steps=200)
    assert found.calibrated(0.002), str(found)


def test_independence_sampler_is_calibrated_whatever_it_proposes(model):
    x = torch.zeros(150, 4)
    wide = Linear(model, 1.5)
    assert not calibrate(model, torch.zeros(600, 4), wide).calibrated()  # as a posterior it is wrong
    kernel = pv.IndependenceMH(proposal=wide)
    assert calibrate(model, x, kernel, num_draws=19, warmup_steps=20).calibrated(0.002)


class Drifting(pv.HMC):
    """Moves every draw a little: a kernel that leaves another density invariant."""

    def step(self, state, density, tuning):
        moved, info = super().step(state, density, tuning)
        u = moved.u + 0.2
        return self.start(u, density), info


def test_a_kernel_that_is_wrong_is_caught(model):
    assert not calibrate(model, torch.zeros(300, 4), Drifting(), num_draws=19, warmup_steps=100).calibrated()


def test_variational_inference_is_judged_as_what_it_says(model):
    """A family that holds the posterior passes at its optimum; mean field, at its own, does not."""
    assert calibrate(model, torch.zeros(600, 4), Linear(model)).calibrated()
    mean_field = pv.guides.DiagonalGaussian(nn.Linear(4, 4))
    pv.fit(model, mean_field, simulate(model, torch.zeros(2000, 4))[0], epochs=15, lr=2e-2, progress=False)
    assert not calibrate(model, torch.zeros(1500, 4), mean_field).calibrated()


class Square(nn.Module):
    """Two modes of equal mass."""

    def forward(self, z):
        return 2.0 * z.square()


def test_one_mode_short_is_caught():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(Square(), scale=0.5))

    def positive(x):
        mode = (x / 2).clamp_min(0.05).sqrt()
        return dist.Normal(mode, 0.5 / (4 * mode)).to_event(1)

    assert not calibrate(model, torch.zeros(100, 1), positive).calibrated()
    assert calibrate(model, torch.zeros(100, 1), lambda x: pv.quadrature(model, x)).calibrated(0.002)


def test_a_guide_is_judged_on_what_it_says(model):
    guide = pv.guides.FullCovarianceGaussian(nn.Linear(4, 5), latent_dim=2)  # untrained
    assert not calibrate(model, torch.zeros(300, 4), guide).calibrated()


def test_band_holds_uniform_samples_at_its_level():
    place, low, high = ecdf_band(200, 0.9)
    samples = torch.rand(400, 200, dtype=torch.float64).sort(-1).values
    ecdf = torch.searchsorted(samples, place.expand(400, -1).contiguous()) / 200
    inside = ((ecdf >= low) & (ecdf <= high)).all(-1).double().mean()
    assert abs(float(inside) - 0.9) < 4.5 * math.sqrt(0.09 / 400) + 0.01


def test_simulated_latents_are_posterior_draws(model):
    x, u = simulate(model, torch.zeros(4000, 4))
    exact = pv.analytic(model, x)
    white = torch.linalg.solve_triangular(exact.scale_tril, (u - exact.loc)[..., None], upper=False).flatten()
    assert scipy.stats.kstest(white.detach().numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("posterior", [3.0, "HMC"])
def test_errors(model, posterior):
    with pytest.raises(TypeError, match="lambda x"):
        calibrate(model, torch.zeros(50, 4), posterior)
    with pytest.raises(ValueError, match="20 simulations"):
        calibrate(model, torch.zeros(5, 4), posterior)
