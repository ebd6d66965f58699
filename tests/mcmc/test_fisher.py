"""The metric from draws and gradients, and what it does for whole programs."""

import sys

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc.fisher import fisher_metric
from tests.mcmc.test_truth import agrees


def far_regression(middle=100.0):
    """A regression whose predictor lies far from zero, its data, mean and covariance: a correlation of -0.99995."""
    x = torch.linspace(middle - 1, middle + 1, 50)[:, None].pow(torch.arange(2))
    y = x.double() @ torch.tensor([3.0, -2.0]).double() + torch.linspace(-1, 1, 50).double().sin()

    def model(x, y):
        beta = pyro.sample("beta", dist.Normal(0.0, 1000.0).expand([2]).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)

    x, y = x.double(), y.double()
    covariance = torch.linalg.inv(x.mT @ x / 0.25 + torch.eye(2).double() / 1e6)
    return model, (x, y), covariance @ x.mT @ y / 0.25, covariance


def gaussian(L, S, condition, *, rotated):
    scales = torch.logspace(0, -0.5 * torch.tensor(condition).log10(), L)
    q = torch.linalg.qr(torch.randn(L, L))[0] if rotated else torch.eye(L)
    covariance = q @ torch.diag(scales.square()) @ q.mT
    u = torch.distributions.MultivariateNormal(torch.zeros(L), covariance).sample((S,))
    return covariance, u, -u @ torch.linalg.inv(covariance)


@pytest.mark.parametrize(("condition", "dense"), [(1e2, True), (1e3, False), (1e8, False)])
def test_a_gaussian_is_known_from_few_draws(float64, condition, dense):
    """From 1e3 on every rotation shows in the draws; at 1e2 a dense metric is asked for."""
    covariance, u, g = gaussian(5, 40, condition, rotated=True)
    metric = fisher_metric(u, g, dense=dense)
    assert metric.dense
    white = torch.linalg.solve_triangular(metric.factor[0, 0], torch.linalg.cholesky(covariance), upper=False)
    assert float(torch.linalg.cond(white)) < 1.1
    from_draws = torch.linalg.cholesky(torch.cov(u.mT))
    off = torch.linalg.solve_triangular(from_draws, torch.linalg.cholesky(covariance), upper=False)
    assert float(torch.linalg.cond(off)) > 1.3  # of the draws alone


def test_independent_numbers_have_a_diagonal_metric(float64):
    covariance, u, g = gaussian(6, 200, 1e6, rotated=False)
    metric = fisher_metric(u, g)
    assert not metric.dense
    torch.testing.assert_close(metric.factor[0, 0], covariance.diagonal().sqrt(), rtol=1e-6, atol=0)
    assert fisher_metric(u, g, dense=True).dense


def test_too_few_draws_and_what_is_not_finite(float64):
    _, u, g = gaussian(5, 40, 1e2, rotated=True)
    assert not fisher_metric(u[:8], g[:8]).dense
    assert torch.equal(fisher_metric(u[:1], g[:1]).factor, torch.ones(1, 1, 5))
    whole = fisher_metric(u, g).factor
    u, g = torch.cat([u, u[:1]]), torch.cat([g, torch.full((1, 5), torch.nan)])
    assert torch.equal(fisher_metric(u, g).factor, whole)
    assert bool(torch.isfinite(fisher_metric(torch.ones(50, 5), torch.zeros(50, 5)).factor).all())


class ByDrawsAlone(pv.HMC):
    """HMC with the metric of draws alone."""

    has_momentum = False


SETTINGS = {"num_samples": 500, "warmup_steps": 300, "num_chains": 8, "plate": None}


@pytest.mark.parametrize(
    ("kernel", "middle"),
    [(pv.HMC(), 100.0), (pv.ChEES(), 100.0), (pv.NUTS(engine="torch"), 30.0)],  # its trees grow with the distance
    ids=["HMC", "ChEES", "NUTS"],
)
def test_a_correlation_near_one_converges_by_default(float64, kernel, middle):
    model, data, mean, covariance = far_regression(middle)
    draws = pv.mcmc(model, data, kernel=kernel, **SETTINGS)
    assert draws.engine == "compiled"
    assert bool(draws.converged().all())
    std = covariance.diagonal().sqrt()
    assert agrees(draws, "beta", mean[None], std[None])
    assert not agrees(draws, "beta", mean[None], 1.15 * std[None])


def test_draws_alone_take_many_times_as_long(float64):
    model, data, _, _ = far_regression()
    settings = SETTINGS | {"num_samples": 20, "warmup_steps": 100, "compile": True}
    ours, alone = (pv.mcmc(model, data, kernel=kernel, **settings) for kernel in (pv.HMC(), ByDrawsAlone()))
    assert 5 * ours.num_gradients < alone.num_gradients


def test_one_far_chain_sets_the_step_size(float64):
    model, data, mean, covariance = far_regression()
    start = mean + torch.linspace(-3, 3, 8)[:, None, None] * covariance.diagonal().sqrt()
    start[0] = torch.tensor([50.0, -40.0])
    draws = pv.mcmc(model, data, kernel=pv.HMC(), initial=start, **SETTINGS)
    assert bool(draws.converged().all())


def test_where_nutpie_is_not_installed(float64, monkeypatch):
    monkeypatch.setitem(sys.modules, "nutpie", None)
    model, data, mean, covariance = far_regression(0.0)  # far away, the engine is held to its truth above
    draws = pv.mcmc(model, data, kernel=pv.NUTS(), **SETTINGS | {"num_samples": 150, "warmup_steps": 150})
    assert draws.engine == "compiled"
    assert agrees(draws, "beta", mean[None], covariance.diagonal().sqrt()[None])
    with pytest.raises(ValueError, match=r"pip install pyro_vae\[nutpie\]"):
        pv.mcmc(model, data, kernel=pv.NUTS(engine="nutpie"), plate=None)
