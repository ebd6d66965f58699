"""Parallel tempering: the weights of separated modes, and how often temperatures exchange."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc import diagnostics
from tests.truth import STANDARD_ERRORS


def two_modes(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0].square() + 0.5 * z[..., 0], 1.0), obs=x)


def test_tempering_weighs_modes_that_hmc_does_not_leave(float64):
    x = torch.full((6,), 20.0)
    truth = pv.quadrature(two_modes, x)
    weight = truth.expectation(lambda u: (u[..., 0] > 0).double())
    settings = {"num_samples": 300, "warmup_steps": 100, "num_chains": 8}
    stuck = pv.mcmc(two_modes, x, kernel=pv.HMC(), **settings)
    assert not stuck.converged().all()  # reported, not averaged over
    settings["num_samples"] = 900  # R-hat's excess over 1 is about 1 / ESS, and 300 draws are at the limit
    draws = pv.mcmc(two_modes, x, kernel=pv.ParallelTempering(num_temperatures=8), **settings)
    assert float(draws.rhat["z"].max()) < 1.05
    right = (draws.samples["z"][..., 0] > 0).double()
    z = (right.mean((0, 1)) - weight.reshape(-1)) / diagnostics.mcse_mean(right)
    assert float(z.abs().max()) < STANDARD_ERRORS


# -- exchanges between temperatures --------------------------------------------------------------------------------

BETAS = (1.0, 0.3, 0.05, 0.0)
NOISE, DATUM = 0.3, 1.2


def one_number(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def expected_exchange(high, low):
    """E min(1, exp((high - low)(l' - l))) for z, z' from the two tempered posteriors, by the trapezoid rule."""
    z = np.linspace(-7, 7, 2801)
    log_likelihood = -0.5 * ((DATUM - z) / NOISE) ** 2

    def weight(beta):
        log_density = -0.5 * z**2 + beta * log_likelihood
        density = np.exp(log_density - log_density.max())
        return density / density.sum()

    ratio = (high - low) * (log_likelihood[None, :] - log_likelihood[:, None])
    return weight(high) @ np.exp(np.minimum(ratio, 0)) @ weight(low)


def test_exchanges_are_as_frequent_as_the_densities_say(float64):
    x = torch.full((60,), DATUM)  # the same posterior 60 times, which gives the standard errors
    kernel = pv.ParallelTempering(betas=BETAS)
    draws = pv.mcmc(one_number, x, kernel=kernel, num_samples=300, warmup_steps=100, num_chains=4)
    expected = torch.tensor([expected_exchange(*pair) for pair in itertools.pairwise(BETAS)])
    assert draws.exchange.shape == (3, 60)
    z = (draws.exchange.mean(-1) - expected) / (draws.exchange.std(-1) / 60**0.5)
    assert float(z.abs().max()) < STANDARD_ERRORS
    assert "exchange" not in draws.verdict
    assert draws.rows([3, 5]).exchange.shape == (3, 2)


class ExchangesAlways(pv.ParallelTempering):
    """Lets hot chains come down whatever the density says."""

    def _log_ratio(self, state, partner):
        return torch.zeros_like(state.log_density)


@pytest.mark.parametrize("kernel", [pv.ParallelTempering, ExchangesAlways])
def test_exchanges_keep_the_posterior_and_free_ones_do_not(float64, kernel):
    x = torch.full((20,), DATUM)
    draws = pv.mcmc(one_number, x, kernel=kernel(betas=BETAS), num_samples=301, warmup_steps=100, num_chains=4)
    precision = 1 + NOISE**-2
    z_mean = (draws.mean()["z"] - DATUM * NOISE**-2 / precision) / draws.mcse["z"]
    z_std = (draws.std()["z"] - precision**-0.5) / draws.mcse_std["z"]
    assert (float(torch.cat([z_mean, z_std]).abs().max()) < STANDARD_ERRORS) == (kernel is pv.ParallelTempering)


def test_rare_exchanges_are_reported(float64):
    x = torch.tensor([0.0, 400.0])  # the second posterior shares next to nothing with the prior
    kernel = pv.ParallelTempering(betas=(1.0, 0.0))
    draws = pv.mcmc(one_number, x, kernel=kernel, num_samples=100, warmup_steps=100, num_chains=4)
    assert "some temperatures exchange less than 5% of the time, in posteriors 1" in draws.verdict
    assert pv.mcmc(one_number, x, num_samples=5, warmup_steps=5).exchange is None


def test_a_prior_that_is_no_distribution_is_refused(float64):
    """The last level is the prior: over all real numbers a flat one has no draws, over a unit interval it has."""

    def flat(support):
        def model(x):
            z = pyro.sample("z", dist.ImproperUniform(support, torch.Size(), torch.Size()))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            return z

        return model

    x, short = torch.tensor(0.3).double(), {"num_samples": 5, "warmup_steps": 5, "plate": None}
    with pytest.raises(ValueError, match=r"the last temperature .* is the prior; got improper ones of \['z'\]; try"):
        pv.mcmc(flat(dist.constraints.real), x, kernel=pv.ParallelTempering(), **short)
    pv.mcmc(flat(dist.constraints.real), x, kernel=pv.ParallelTempering(betas=(1.0, 0.5)), **short)
    pv.mcmc(flat(dist.constraints.unit_interval), x, kernel=pv.ParallelTempering(), **short)

    def with_factor(x):
        pyro.factor("prior", -0.5 * flat(dist.constraints.real)(x).square())

    assert pv.Target(with_factor, x, plate=None).flat == ["z"]  # a factor is of the likelihood, which is left out there
