"""Densities at points that all data share: a matrix product where there is one, and the same numbers everywhere."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.target import products
from pyro_vae.inference.target.products import Product
from pyro_vae.inference.target.target import Target
from pyro_vae.networks import mlp
from tests.table_of_parts import LIKELIHOODS, PRIORS_OF_ONE_SITE, perturbed

pytestmark = pytest.mark.usefixtures("float64")

WITH_PRODUCTS = {
    *("Bernoulli", "Gaussian, network", "Gaussian, learned", "Gaussian, fixed", "gamma", "exponential", "categorical"),
    *("ordered logistic", "Poisson", "mixed"),
}


def _gap(target, u):
    """The largest difference between shared points and the same points given to each datum."""
    with torch.no_grad():
        shared = target.log_parts(u)
        apart = target.log_parts(u.expand(*u.shape[:-2], target.num_data, -1))
    return max(float((a - b).abs().max()) for a, b in zip(shared, apart, strict=True))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_at_shared_points(name, missing):
    make, data = LIKELIHOODS[name]
    x = data(9, 3).clone()
    if missing:
        x[::2, 1] = torch.nan
    likelihood = perturbed(make(2, 3))
    target = Target(pv.Model(pv.priors.StandardNormal(2), likelihood, missing=missing), x)
    assert _gap(target, torch.randn(20, 1, 2)) < 1e-9
    assert target.has_products == (name in WITH_PRODUCTS)


@pytest.mark.parametrize("name", PRIORS_OF_ONE_SITE)
def test_every_prior_at_shared_points(name):
    prior = perturbed(PRIORS_OF_ONE_SITE[name](2))
    x = torch.bernoulli(torch.full((7, 4), 0.5))
    target = Target(pv.Model(prior, pv.likelihoods.Bernoulli(mlp(2, 4))), x)
    assert _gap(target, torch.randn(20, 1, 2)) < 1e-9
    assert target.has_products


def _with_scale(x):
    with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _own_prior(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True), torch.ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _own_mean(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson((z + x.mean(-1, keepdim=True)).exp()).to_event(1), obs=x)


def _own_mean_far_off(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.where(z > 1.5, x.mean(-1, keepdim=True), 0.0)
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("program", [_with_scale, _own_prior, _own_mean, _own_mean_far_off])
def test_a_law_that_is_not_shared_has_no_product(program):
    """A scale, a prior or a mean of each datum's own: the numbers are right, by the densities themselves."""
    target = Target(program, torch.poisson(torch.full((6, 2), 2.0)))
    assert not target.has_products
    assert _gap(target, torch.randn(10, 1, 2)) < 1e-9


def test_statistics_that_memory_has_no_room_for_are_not_made(monkeypatch):
    monkeypatch.setattr(products, "_MOST_NUMBERS", 9 * 3 * 4 - 1)
    x = torch.randint(4, (9, 3)).double()
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Categorical(mlp(2, 12), num_categories=4))
    assert not Target(model, x).has_products
    assert Target(model, x[:8]).has_products


def test_a_product_that_is_off_is_not_taken(monkeypatch):
    monkeypatch.setattr(Product, "__call__", lambda self, fn: torch.zeros(len(self.statistics)))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(mlp(2, 4)))
    assert not Target(model, torch.ones(5, 4)).has_products
