"""Discrete sites in the exact routes and the mode: closed forms, and sums over a grid of the test's own."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from tests import discrete_programs as programs

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)


def _by_component(scale):
    """log p(c) + log p(x|c) of each datum, ``(N, 3)``: a Gaussian about a component's mean."""
    return WEIGHTS.log() + dist.Normal(MEANS, scale).log_prob(programs.X[:, None])


def test_quadrature_of_a_mixture_is_its_closed_form(float64):
    truth = pv.quadrature(programs.per_datum, programs.X)
    exact = _by_component((0.5**2 + 0.8**2) ** 0.5)
    assert bool(((truth.log_evidence - exact.logsumexp(-1)).abs() <= truth.error_bound).all())
    torch.testing.assert_close(truth.compute_marginals()["c"], exact.softmax(-1), rtol=0, atol=1e-5)


def test_marginals_of_a_whole_program_are_those_of_a_plain_sum(float64):
    def program(x):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(p), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)

    p = torch.linspace(0, 1, 20_001)[1:-1]
    each = torch.stack([1 - p, p], -1).log()[:, None] + dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(
        programs.X[:, None]
    )  # (P, N, 2)
    weight = (dist.Beta(2.0, 3.0).log_prob(p) + each.logsumexp(-1).sum(-1)).softmax(0)
    found = pv.quadrature(program, programs.X).compute_marginals()["c"]
    torch.testing.assert_close(found[0], (weight[:, None, None] * each.softmax(-1)).sum(0), rtol=0, atol=1e-6)


def test_discrete_sites_alone_have_an_exact_sum_and_other_routes_say_so(float64):
    truth = pv.quadrature(programs.all_discrete, programs.X)
    exact = _by_component(0.8)
    torch.testing.assert_close(truth.log_evidence, exact.logsumexp(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(truth.compute_marginals()["c"], exact.softmax(-1), rtol=1e-12, atol=1e-12)
    assert bool((truth.error_bound < 1e-12).all())
    assert truth.sample((5,)).shape == (5, 3, 0)
    torch.testing.assert_close(pv.evidence(programs.all_discrete, programs.X).log_evidence, truth.log_evidence)
    for route in (pv.maximum_a_posteriori, pv.laplace, pv.mcmc):
        with pytest.raises(ValueError, match=r"discrete ones alone, \['c'\]; try quadrature"):
            route(programs.all_discrete, programs.X)


def test_the_mode_is_that_of_the_sum(float64):
    target = pv.Target(programs.per_datum, programs.X)
    z = torch.linspace(-4, 4, 8001)[:, None, None].expand(-1, 3, 1)
    prior = (WEIGHTS.log() + dist.Normal(MEANS, 0.5).log_prob(z)).logsumexp(-1)
    height, best = (prior + dist.Normal(z.squeeze(-1), 0.8).log_prob(programs.X)).max(0)
    mode = pv.maximum_a_posteriori(target)
    torch.testing.assert_close(mode.mean.squeeze(-1), z[best, 0, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(mode.log_joint, height, rtol=0, atol=1e-5)


def test_a_discrete_site_is_named_where_a_program_is_not_linear_gaussian(float64):
    with pytest.raises(ValueError, match="the prior site 'c' is Categorical"):
        pv.analytic(programs.per_datum, programs.X)
