"""Generators as models, against sigma by the closed form and by a plain sum over a grid; MMD against loops."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar

import pyro_vae as pv
from pyro_vae.systems.adversaries.mmd import maximum_mean_discrepancy
from pyro_vae.systems.observation import observation_model
from tests.truth import STANDARD_ERRORS, grid_integral, linear_gaussian_posterior


@pytest.fixture(autouse=True)
def _seed():
    pyro.set_rng_seed(0)


def _linear(latent_dim):
    data = pv.datasets.linear_gaussian(100, latent_dim=latent_dim, data_dim=20, scale=0.3)
    network = torch.nn.Linear(latent_dim, 20)
    with torch.no_grad():
        network.weight.copy_(data.weight)
        network.bias.copy_(data.bias)
    W, b = (t.detach().double().numpy() for t in (network.weight, network.bias))

    def loss(log_scale):
        return -linear_gaussian_posterior(data.x, W, b, math.exp(log_scale))[2].mean()

    best = minimize_scalar(loss, bounds=(-4, 2), method="bounded", options={"xatol": 1e-5})
    return network, data.x, best.x


@pytest.mark.parametrize(
    ("latent_dim", "settings"),
    [(2, {}), (5, {"method": "importance", "num_samples": 200})],
)
def test_sigma_is_that_of_the_closed_form(latent_dim, settings):
    network, x, best = _linear(latent_dim)
    model = observation_model(network, x, latent_dim=latent_dim, accuracy=0.02, **settings)
    assert math.log(float(model.likelihood.scale)) == pytest.approx(best, abs=0.03)
    assert model.likelihood.network is network


def test_sigma_of_a_bent_generator_is_that_of_a_plain_sum():
    network = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        x = network(torch.randn(60, 1)) + 0.4 * torch.randn(60, 4)

    def loss(log_scale):
        def log_joint(z):
            with torch.no_grad():
                mean = network(torch.as_tensor(z, dtype=torch.float32)).double().numpy()
            terms = stats.norm.logpdf(x.double().numpy(), mean[:, None], math.exp(log_scale)).sum(-1)
            return terms + stats.norm.logpdf(z)

        return -grid_integral(log_joint, 1).mean()

    best = minimize_scalar(loss, bounds=(-3, 1), method="bounded", options={"xatol": 1e-4})
    model = observation_model(network, x, latent_dim=1)
    assert math.log(float(model.likelihood.scale)) == pytest.approx(best.x, abs=0.03)


def test_the_same_sigma_at_every_call_and_the_users_random_stream_is_left_alone():
    network, x, _ = _linear(4)
    settings = {"method": "importance", "num_samples": 20, "accuracy": 0.3}
    before = torch.get_rng_state()
    scales = [observation_model(network, x[:10], latent_dim=4, **settings).likelihood.scale for _ in range(2)]
    assert torch.equal(*scales)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("error", "call", "words"),
    [
        (ValueError, observation_model, "prior or latent_dim; got neither"),
        (TypeError, lambda g, x: observation_model(lambda z: z, x, latent_dim=2), "torch.nn.Module"),
        (ValueError, lambda g, x: observation_model(g, x, latent_dim=3), "takes z \\(N, 3\\)"),
        (ValueError, lambda g, x: observation_model(g, x[:, :4], latent_dim=2), "rows like the data"),
        (ValueError, lambda g, x: observation_model(g, torch.ones(5, 20), latent_dim=2), "data that vary"),
        (ValueError, lambda g, x: observation_model(g, x * math.nan, latent_dim=2), "x_validation to be finite"),
        (TypeError, lambda g, x: observation_model(g, x.numpy(), latent_dim=2), "x_validation to be a torch.Tensor"),
        (TypeError, lambda g, x: observation_model(g, x, prior="normal"), "a prior; got 'normal'"),
        (ValueError, lambda g, x: pv.systems.GMMN(20, bandwidths=()), "a bandwidth or more"),
        (TypeError, lambda g, x: pv.systems.RealNVP(4, momentum="a"), "finite momentum"),
        (ValueError, lambda g, x: observation_model(g, x, latent_dim=2, accuracy=0.0), "positive, finite accuracy"),
        (ValueError, lambda g, x: maximum_mean_discrepancy(x[:1], x, bandwidths=(1.0,)), "two rows or more"),
        (ValueError, lambda g, x: maximum_mean_discrepancy(x, x[:, :3], bandwidths=(1.0,)), "one width"),
        (ValueError, lambda g, x: maximum_mean_discrepancy(x, x, bandwidths=(0.0,)), "a bandwidth"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(error, call, words):
    with pytest.raises(error, match=words):
        call(torch.nn.Linear(2, 20), torch.randn(5, 20))


def test_the_maximum_mean_discrepancy_is_that_of_loops():
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 1
    bandwidths = (0.5, 2.0)

    def kernel(a, b):
        return sum(math.exp(-float((a - b).square().sum()) / (2 * h**2)) for h in bandwidths)

    truth = np.mean([kernel(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
    truth += np.mean([kernel(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    truth -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert float(maximum_mean_discrepancy(x, y, bandwidths=bandwidths)) == pytest.approx(truth, abs=1e-12)


def test_the_maximum_mean_discrepancy_is_unbiased():
    found = torch.stack(
        [maximum_mean_discrepancy(torch.randn(10, 2), torch.randn(8, 2), bandwidths=(1.0,)) for _ in range(2000)]
    )
    assert abs(float(found.mean())) < STANDARD_ERRORS * float(found.std()) / math.sqrt(2000)
