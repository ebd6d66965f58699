"""Where a covariance cannot be factorised there is no density: chains turn back, as Pyro's own do."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc.density import LogDensity

X = torch.tensor([0.3, -0.2])


def correlated(x):
    """x is N(0, [[1, r], [r, 1]]) with r = tanh(z) times 1.2: no covariance beyond |r| = 1."""
    z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=x.dtype), 0.4))
    r = 1.2 * torch.tanh(z)
    one = torch.ones_like(r)
    covariance = torch.stack([torch.stack([one, r], -1), torch.stack([r, one], -1)], -2)
    mean = torch.zeros(2, dtype=x.dtype)
    pyro.sample("x", dist.MultivariateNormal(mean, covariance), obs=x)


@pytest.fixture
def target(float64):
    pyro.set_rng_seed(0)  # the program is run once, at a draw of the prior
    with pyro.validation_enabled(False):
        yield pv.Target(correlated, (X.double(),), plate=None)


@pytest.mark.parametrize("compile", [False, "auto"])
def test_there_is_no_density_where_there_is_no_factor(target, compile):
    density = LogDensity(target, compile=compile)
    u = torch.tensor([0.1, 3.0, -0.4, -4.0, 0.2]).reshape(5, 1, 1)
    value, grad = density.value_and_grad(u)
    inside = torch.tensor([0, 2, 4])
    expected, slope = target.value_and_grad(u[inside])
    torch.testing.assert_close(value[inside], expected)
    torch.testing.assert_close(grad[inside], slope)
    assert torch.equal(value[[1, 3], 0], torch.full((2,), -torch.inf))
    assert torch.equal(grad[[1, 3]], torch.zeros(2, 1, 1))
    assert torch.equal(density.value(u), value)
    prior, likelihood, *slopes = density.parts_and_grads(u)
    torch.testing.assert_close(prior + likelihood, value)
    torch.testing.assert_close(slopes[0] + slopes[1], grad)
    everywhere = density.value_and_grad(torch.full((2, 1, 1), 5.0))
    assert torch.equal(everywhere[0], torch.full((2, 1), -torch.inf))


def test_chains_stay_inside_and_have_the_right_mean(target):
    pyro.set_rng_seed(0)
    settings = {"num_samples": 60, "warmup_steps": 40, "num_chains": 4, "compile": False, "progress": False}
    draws = pv.mcmc(target, kernel=pv.HMC(num_steps=6), **settings)
    z = torch.linspace(-1.19, 1.19, 20001)
    z = z[(1.2 * torch.tanh(z)).abs() < 1]
    log_joint = target.log_joint(z.reshape(-1, 1, 1)).flatten()
    weights = (log_joint - log_joint.max()).exp()
    mean = (weights * z).sum() / weights.sum()
    found = draws.samples["z"]
    assert float(found.abs().max()) < float(z.max()) + 1e-3
    assert float((draws.mean()["z"] - mean).abs()) < 5 * float(draws.mcse["z"])


def test_other_errors_come_as_they_are(target):
    def fails(u):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        LogDensity(target)._call("value", fails, torch.zeros(2, 1, 1))


def test_draws_of_the_prior_are_all_of_them(target):
    """Where the likelihood has no factor the latents are drawn all the same: none is left out, or drawn again."""
    z = target.sample_prior(4000).flatten()
    share = 2 * dist.Normal(0.0, 0.4).cdf(torch.tensor(-1.1989)).item()  # where |r| is above 1
    assert abs((z.abs() > 1.1989).double().mean().item() - share) < 5 * (share / 4000) ** 0.5
    assert (z.abs() > 1.1989).any()
