"""Chains over the continuous sites of programs whose discrete ones are summed out; Pyro's own density is the oracle."""

from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive, config_enumerate
from pyro.infer.mcmc.util import initialize_model
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae as pv
from pyro_vae.inference.mcmc import diagnostics
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.target import blocks
from tests import discrete_programs as programs
from tests.truth import STANDARD_ERRORS


def _bernoulli(x):  # these three are the test models of Pyro's NUTS
    y_prob = pyro.sample("y_prob", dist.Beta(1.0, 1.0))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(y_prob))
        z = pyro.sample("z", dist.Bernoulli(0.65 * y + 0.1))
        pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


def _mixture(x):
    phi = pyro.sample("phi", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("num_clusters", 3):
        means = pyro.sample("cluster_means", dist.Normal(torch.arange(3.0), 1.0))
    with pyro.plate("data", len(x)):
        assignments = pyro.sample("assignments", dist.Categorical(phi))
        pyro.sample("obs", dist.Normal(means[assignments], 1.0), obs=x)


def _hidden_markov(x):
    initialize = pyro.sample("initialize", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("states", 2):
        transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2)))
        loc = pyro.sample("emission_loc", dist.Normal(torch.zeros(2), torch.ones(2)))
        scale = pyro.sample("emission_scale", dist.LogNormal(torch.zeros(2), torch.ones(2)))
    state = None
    for t, y in pyro.markov(enumerate(x)):
        state = pyro.sample(f"x_{t}", dist.Categorical(initialize if state is None else transition[state]))
        pyro.sample(f"y_{t}", dist.Normal(loc[state], scale[state]), obs=y)


@pytest.mark.parametrize("program", [_bernoulli, _mixture, _hidden_markov, programs.changepoint, programs.dawid_skene])
def test_the_density_is_the_one_that_pyros_nuts_climbs(program, float64):
    program = config_enumerate(program)
    x = torch.tensor([0.3, -1.0, 2.2, 0.9])
    target = pv.Target(program, x, plate=None)
    _, potential, transforms, _ = initialize_model(program, (x,), max_plate_nesting=2)
    u = target.sample_prior(3)
    for point, found in zip(u, target.log_joint(u), strict=True):
        params = {name: transforms[name](value) for name, value in target.constrain(point).items()}
        torch.testing.assert_close(found.squeeze(), -potential(params), rtol=1e-9, atol=1e-9)


def test_draws_give_back_what_was_summed_out(float64):
    truth = pv.quadrature(programs.per_datum, programs.X)
    draws = pv.mcmc(programs.per_datum, programs.X, kernel=pv.MALA(), num_samples=300, warmup_steps=100, compile=False)
    c = draws.samples["c"]
    assert c.shape == (4, 300, 3)
    assert c.dtype == torch.long
    exact = truth.compute_marginals()["c"]  # (N, 3)
    for k in range(3):
        error = diagnostics.mcse_mean((c == k).double()).nan_to_num(0) + 1 / 300
        assert bool(((c == k).double().mean((0, 1)) - exact[:, k]).abs().le(STANDARD_ERRORS * error).all())
        assert bool((draws.marginals["c"][:, k] - exact[:, k]).abs().le(STANDARD_ERRORS * error).all())
    assert set(draws.rhat) == set(draws.mean()) == {"z"}
    assert draws.rows([1]).samples["c"].shape == (4, 300, 1)
    assert draws.rows([1]).marginals["c"].shape == (1, 3)
    assert draws.thin(3).samples["c"].shape == (4, 100, 3)
    assert draws.to_arviz().posterior["c"].shape == (4, 300, 3)
    assert draws.to_empirical("c").sample().shape == (3,)
    assert pv.to_arviz(programs.per_datum, programs.X, draws).posterior["c"].shape == (4, 300, 3)


def test_draws_of_a_whole_program_go_with_the_draws_beside_them(float64, monkeypatch):
    """Given its own draw of the latents, a discrete site is drawn from its conditional: the mean of the two agree."""
    monkeypatch.setattr(blocks, "NUMBERS", 64 * 100)  # three blocks of draws
    settings = {"kernel": pv.MALA(), "num_samples": 150, "warmup_steps": 50, "num_chains": 2, "compile": False}
    draws = pv.mcmc(programs.changepoint, programs.X, **settings)
    assert draws.samples["when"].shape == (2, 150, 1)
    target = pv.Target(programs.changepoint, programs.X)
    u = target.unconstrain({"level": draws.samples["level"].squeeze(2)})
    p = target.compute_marginals(u)["when"]  # (2, 150, 3)
    torch.testing.assert_close(p.mean((0, 1)), draws.marginals["when"][0])
    own = torch.nn.functional.one_hot(draws.samples["when"].squeeze(2), 3) - p  # of mean zero, independent
    assert bool((own.mean((0, 1)).abs() <= STANDARD_ERRORS * (p * (1 - p)).mean((0, 1)).sqrt() / 300**0.5).all())


def test_pyros_interface_returns_what_pyros_does(float64):
    mcmc = pv.infer.MCMC(pv.MALA(programs.mixture), 20, 20, num_chains=2, disable_progbar=True, compile=False)
    mcmc.run(programs.X)
    assert set(mcmc.get_samples()) == set(mcmc.diagnostics()) - {"divergences", "acceptance rate"} == {"weights", "loc"}
    assert mcmc.draws.samples["c"].shape == (2, 20, 1, 3)
    found = Predictive(pyro.poutine.uncondition(programs.mixture), mcmc.get_samples())(torch.zeros(7))
    assert found["x"].shape == (40, 7)


def test_the_density_of_a_chain_is_one_graph_of_tensor_operations(float64):
    """As ``mcmc(compile=True)`` traces it; Inductor's own part is the same for every program."""
    target = pv.Target(programs.hidden_markov, programs.X)
    u = target.sample_prior(2)

    def run(v):  # a bound method is not what make_fx takes
        return target.value_and_grad(v)

    graph = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(u)
    other = target.sample_prior(2)
    for found, expected in zip(graph(other), target.value_and_grad(other), strict=True):
        torch.testing.assert_close(found, expected)


SIX = torch.tensor([0.3, -1.0, 2.2, 0.9, 2.6, 0.1], dtype=torch.float64)


@cache
def _chains(program, kernel):
    settings = {"num_samples": 150, "warmup_steps": 100, "compile": False}
    return pv.mcmc(config_enumerate(program), SIX, plate=None, kernel=kernel(), **settings)


def test_means_are_those_of_pyros_own_nuts(float64):
    """On a test model of Pyro's; what sums over a grid by hand say of the same chains is below."""
    found = _chains(_bernoulli, pv.NUTS)
    settings = {"num_samples": 250, "warmup_steps": 80, "disable_progbar": True}
    own = MCMC(NUTS(config_enumerate(_bernoulli), max_plate_nesting=1), **settings)
    own.run(SIX)
    draws = own.get_samples(group_by_chain=True)["y_prob"].unsqueeze(2)
    error = (diagnostics.mcse_mean(draws).square() + found.mcse["y_prob"].square()).sqrt()
    assert bool(((draws.mean((0, 1)) - found.mean()["y_prob"]).abs() < STANDARD_ERRORS * error).all())
    assert bool((error < 0.2 * found.std()["y_prob"]).all())  # and they say something


def _bernoulli_by_hand(x, y_prob):
    """log p(x, y_prob) at a column of points: of each datum the sum over z, whose chance is linear in y_prob."""
    z = 0.1 * (1 - y_prob) + 0.75 * y_prob
    off, on = (dist.Normal(mean, 1.0).log_prob(x) for mean in (0.0, 2.0))
    return torch.logaddexp((1 - z).log() + off, z.log() + on).sum(-1)


def _zero_inflated_by_hand(x, rate, gate):
    """log p(x, rate, gate) likewise: of each datum the sum over its switch."""
    count = (x > 0).double() * 2
    lit, dark = (dist.Poisson(mean + 1e-6).log_prob(count) for mean in (rate, torch.zeros(1)))
    prior = dist.Gamma(2.0, 1.0).log_prob(rate) + dist.Beta(1.0, 2.0).log_prob(gate)
    return prior.squeeze(-1) + torch.logaddexp((1 - gate).log() + lit, gate.log() + dark).sum(-1)


TO_ONE = (torch.arange(400, dtype=torch.float64) + 0.5) / 400  # midpoints
BY_HAND = {
    _bernoulli: (_bernoulli_by_hand, {"y_prob": TO_ONE}),
    programs.zero_inflated: (_zero_inflated_by_hand, {"rate": 20 * TO_ONE, "gate": TO_ONE}),
}


@pytest.mark.parametrize(("program", "kernel"), [(_bernoulli, pv.NUTS), (programs.zero_inflated, pv.HMC)])
def test_means_are_those_of_a_sum_over_a_grid(program, kernel, float64):
    """The sum over the discrete sites is written out by hand, that over the others is one of cells."""
    by_hand, lines = BY_HAND[program]
    points = torch.meshgrid(*lines.values(), indexing="ij")
    weights = by_hand(SIX, *(point.reshape(-1, 1) for point in points)).softmax(0)
    found = _chains(program, kernel)
    for name, point in zip(lines, points, strict=True):
        mean = weights @ point.flatten()
        std = (weights @ (point.flatten() - mean).square()).sqrt()
        assert bool(((found.mean()[name] - mean).abs() < STANDARD_ERRORS * found.mcse[name]).all())
        assert bool((found.mcse[name] < 0.1 * std).all())  # and they say something


def test_a_long_chain_is_left_to_pyro_with_the_reason(float64):
    target = pv.Target(programs.hidden_markov, torch.randn(12))
    density = LogDensity(target, compile="auto")
    density.value_and_grad(target.sample_prior(1))
    assert density.engine == "Pyro: 12 discrete sites, whose sum would take the compiler minutes"
    assert LogDensity(target, compile=True).compile
