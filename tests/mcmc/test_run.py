"""The run loop: what it adapts, where it starts, what it refuses, what it gives back."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.inference.compiled.backend import NotTraceableError
from pyro_vae.inference.mcmc import memory, start
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.kernels.base import Metric, State
from pyro_vae.inference.mcmc.kernels.hmc import hmc_transition, leapfrog


@pytest.fixture
def small():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6)))
    return model, model.sample(5)["x"]


SHORT = {"num_samples": 20, "warmup_steps": 20, "compile": False}

# -- integrators ---------------------------------------------------------------------------------------------------


def quartic(u):
    value = -(u**4).sum(-1) / 4 - u.square().sum(-1) * 0.3 - u[..., 0] * u[..., 1]
    grad = -(u**3) - 0.6 * u - torch.stack([u[..., 1], u[..., 0]], -1)
    return value, grad


METRICS = {
    "diagonal": lambda: Metric(torch.tensor([[[0.5, 2.0]]])),
    "dense": lambda: Metric(torch.tensor([[[[0.5, 0.0], [0.7, 2.0]]]]), dense=True),
}


@pytest.mark.parametrize("metric", METRICS)
def test_leapfrog_is_reversible(float64, metric):
    u, r = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    settings = {"step_size": torch.tensor(0.1), "num_steps": 25, "metric": METRICS[metric]()}
    end, r_end = leapfrog(State(u, *quartic(u)), r, quartic, **settings)
    back, r_back = leapfrog(end, -r_end, quartic, **settings)
    torch.testing.assert_close(back.u, u, atol=1e-10, rtol=0)
    torch.testing.assert_close(r_back, -r, atol=1e-10, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_leapfrog_keeps_volume(float64, metric):
    def flow(both):
        u, r = both[:2].reshape(1, 1, 2), both[2:].reshape(1, 1, 2)
        settings = {"step_size": torch.tensor(0.2), "num_steps": 5, "metric": METRICS[metric]()}
        end, r_end = leapfrog(State(u, *quartic(u)), r, quartic, **settings)
        return torch.cat([end.u.flatten(), r_end.flatten()])

    jacobian = torch.autograd.functional.jacobian(flow, torch.randn(4))
    torch.testing.assert_close(torch.linalg.det(jacobian).abs(), torch.tensor(1.0), atol=1e-10, rtol=0)


def test_energy_error_is_of_second_order(float64):
    u, r = torch.randn(50, 1, 2), torch.randn(50, 1, 2)
    metric = METRICS["diagonal"]()

    def error(step_size):
        state = State(u, *quartic(u))
        end, r_end = leapfrog(
            state, r, quartic, step_size=torch.tensor(step_size), num_steps=round(0.8 / step_size), metric=metric
        )
        energy = end.log_density - state.log_density - 0.5 * (r_end.square() - r.square()).sum(-1)
        return energy.abs().mean()

    ratio = float(error(0.02) / error(0.01))
    assert 3.8 < ratio < 4.2  # halving the step quarters the error


def test_detailed_balance_of_the_acceptance(float64):
    """The accepted flow from u to u' and back: p(u) r(u -> u') a = p(u') r(u' -> u) a', pair by pair."""
    u, r = torch.randn(6, 7, 2), torch.randn(6, 7, 2)
    settings = {"step_size": torch.tensor(0.3), "num_steps": 4, "metric": METRICS["dense"]()}
    state = State(u, *quartic(u))
    end, r_end = leapfrog(state, r, quartic, **settings)
    back, _ = leapfrog(end, -r_end, quartic, **settings)
    joint = state.log_density - 0.5 * r.square().sum(-1)
    joint_end = end.log_density - 0.5 * r_end.square().sum(-1)
    there = joint + (joint_end - joint).clamp(max=0)
    here = joint_end + (back.log_density - 0.5 * r.square().sum(-1) - joint_end).clamp(max=0)
    torch.testing.assert_close(there, here, atol=1e-10, rtol=0)


def test_a_transition_is_a_fixed_kernel_for_tempered_densities(small):
    model, x = small
    target = pv.Target(model, x)
    u = target.sample_prior(4)

    def tempered(v):
        return target.value_and_grad(v, beta=0.3)

    state, info = hmc_transition(State(u, *tempered(u)), tempered, step_size=torch.tensor(0.2), num_steps=3)
    torch.testing.assert_close(state.log_density, target.log_joint(state.u, beta=0.3))
    assert info.acceptance.shape == (4, 5)


# -- adaptation ----------------------------------------------------------------------------------------------------


class Spy(pv.HMC):
    """Notes the tuning that each step was given."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seen = []

    def step(self, state, density, tuning):
        self.seen.append(tuning)
        return super().step(state, density, tuning)


def test_draws_come_from_a_fixed_kernel(small):
    model, x = small
    kernel = Spy()
    pv.mcmc(model, x, kernel=kernel, num_samples=30, warmup_steps=40, compile=False)
    warm, kept = kernel.seen[:40], kernel.seen[40:]
    assert len(kept) == 30
    assert all(tuning is kept[0] for tuning in kept)
    assert any(not torch.equal(tuning.step_size, kept[0].step_size) for tuning in warm)
    assert any(not torch.equal(tuning.metric.factor, kept[0].metric.factor) for tuning in warm)


@pytest.mark.parametrize("kernel", [pv.HMC, pv.MALA, pv.Barker, pv.NUTS, pv.RandomWalk])
def test_acceptance_comes_to_its_target(small, kernel):
    model, x = small
    draws = pv.mcmc(model, x, kernel=kernel(), num_samples=200, warmup_steps=300, num_chains=8)
    assert float((draws.acceptance.mean(0) - kernel().target_accept_prob).abs().mean()) < 0.06
    assert draws.step_size.shape == (5,)


def test_each_posterior_has_its_own_scale(float64):
    scales = torch.tensor([0.01, 1.0, 100.0])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), scales[:, None]).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) * 0, 1.0), obs=x)

    kernel = Spy()
    pv.mcmc(model, torch.zeros(3), kernel=kernel, num_samples=10, warmup_steps=300, num_chains=16)
    torch.testing.assert_close(kernel.seen[-1].metric.factor[0, :, 0] / scales, torch.ones(3), atol=0.1, rtol=0)


# -- starts and guides ---------------------------------------------------------------------------------------------


def test_a_guide_starts_the_chains_and_shapes_the_metric(float64):
    torch.manual_seed(0)
    likelihood = pv.likelihoods.Gaussian(nn.Linear(2, 3), scale=0.05)
    model = pv.Model(pv.priors.StandardNormal(2), likelihood)
    x = model.sample(4)["x"]
    exact = pv.analytic(model, x)
    kernel = Spy(full_mass=True)
    draws = pv.mcmc(model, x, kernel=kernel, guide=exact, num_samples=200, warmup_steps=5, num_chains=8)
    factor = kernel.seen[0].metric.factor
    covariance = (factor @ factor.mT)[0]
    torch.testing.assert_close(
        covariance.diagonal(dim1=-2, dim2=-1), exact.variance, rtol=5 * (2 / 128) ** 0.5, atol=2e-4
    )
    z = (draws.mean()["z"] - exact.mean) / draws.mcse["z"]
    assert float(z.abs().max()) < 4.5  # after five steps of warm-up


def test_guides_may_be_programs_over_constrained_sites(float64):
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(rate), obs=x)
            pyro.sample("y", dist.Normal(shift, 1.0).to_event(1), obs=torch.zeros(len(x), 2))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + x, 2.0))
            pyro.sample("shift", dist.Normal(torch.zeros(2), 0.5**0.5).to_event(1))

    x = torch.tensor([0.0, 3.0, 5.0])
    target = pv.Target(model, x)
    u, log_q = start.GuideSampler(target, guide).sample(50)
    weight = target.log_joint(u) - log_q  # the guide is the posterior: the weight is the evidence, draw by draw
    torch.testing.assert_close(weight, weight[:1].expand_as(weight))
    draws = pv.mcmc(model, x, kernel=pv.IndependenceMH(), guide=guide, num_samples=50, warmup_steps=0)
    torch.testing.assert_close(draws.acceptance, torch.ones(4, 3))


def test_a_guide_over_other_sites_is_refused(small):
    model, x = small

    def guide(x):
        pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="other"):
        pv.mcmc(model, x, guide=guide, **SHORT)


def test_a_density_that_is_never_finite_names_the_site():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
            pyro.sample("impossible", dist.Normal(torch.log(-mean.abs() - 1), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"impossible"):
        pv.mcmc(model, torch.zeros(3), **SHORT)


def test_initial_points_by_site_or_as_a_tensor(small):
    model, x = small
    z = torch.randn(5, 2)
    draws = pv.mcmc(model, x, initial={"z": z}, kernel=pv.RandomWalk(step_size=1e-8), num_samples=1, warmup_steps=0)
    torch.testing.assert_close(draws.samples["z"][:, 0], z.expand(4, 5, 2), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"initial of shape \(4, 5, 2\)"):
        pv.mcmc(model, x, initial=torch.zeros(3, 2), **SHORT)


# -- results -------------------------------------------------------------------------------------------------------


def test_same_seed_same_draws(small):
    model, x = small

    def run():
        pyro.set_rng_seed(7)
        return pv.mcmc(model, x, **SHORT).samples["z"]

    assert torch.equal(run(), run())


def test_dtype_follows_the_data(small):
    model, x = small
    assert pv.mcmc(model, x, **SHORT).samples["z"].dtype == torch.float32
    wide = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6))).double()
    assert pv.mcmc(wide, x.double(), **SHORT).samples["z"].dtype == torch.float64


def test_thinning_takes_more_steps_for_as_many_draws(small):
    model, x = small
    kernel = Spy()
    draws = pv.mcmc(model, x, kernel=kernel, num_samples=10, warmup_steps=5, thinning=3, compile=False)
    assert draws.samples["z"].shape == (4, 10, 5, 2)
    assert len(kernel.seen) == 35
    assert float(draws.acceptance.max()) <= 1.0


def test_other_plates_sites_and_shapes(float64):
    def model(counts, y):
        with pyro.plate("features", 3, dim=-2), pyro.plate("people", len(y), dim=-1):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
            pyro.sample("counts", dist.Poisson(weight.exp()), obs=counts.T)

    counts = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    draws = pv.mcmc(model, (counts, torch.zeros(2)), plate="people", **SHORT)
    assert draws.samples["weight"].shape == (4, 20, 2, 3)
    assert draws.plate == "people"


class Interrupted(pv.HMC):
    """Ctrl-C at a given step."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def step(self, state, density, tuning):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().step(state, density, tuning)


def test_interrupting_gives_back_what_there_is(small):
    model, x = small
    draws = pv.mcmc(model, x, kernel=Interrupted(27), num_samples=20, warmup_steps=20, compile=False)
    assert draws.samples["z"].shape == (4, 7, 5, 2)
    assert not draws.complete
    assert "interrupted after 7 draws" in draws.verdict
    with pytest.raises(KeyboardInterrupt):
        pv.mcmc(model, x, kernel=Interrupted(10), num_samples=20, warmup_steps=20, compile=False)


def test_a_run_that_cannot_fit_is_refused(small, monkeypatch):
    model, x = small
    monkeypatch.setattr(memory, "available_memory", lambda device: 10_000)
    with pytest.raises(MemoryError, match="fewer data at a time"):
        pv.mcmc(model, x, **SHORT)


def test_the_progress_bar_shows_acceptance_and_divergences(small, capsys):
    model, x = small
    pv.mcmc(model, x, progress=True, **SHORT)
    assert "acceptance" in capsys.readouterr().err


def test_the_compiled_density_is_the_eager_one(small):
    model, x = small
    target = pv.Target(model, x)
    fast = LogDensity(target, compile=True)
    u = target.sample_prior(4)
    for _ in range(2):
        value, grad = fast.value_and_grad(u)
    expected, expected_grad = target.value_and_grad(u)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)
    assert fast.engine == "compiled"
    assert fast.compile_seconds > 0


def test_a_program_that_cannot_be_traced_runs_eagerly(small):
    model, x = small
    target = pv.Target(model, x)
    density = LogDensity(target, compile="auto")
    required = LogDensity(target, compile=True)
    with torch.no_grad():
        target.log_joint = lambda u: u.sum(-1) * float(u.sum() * 0 + 1)
        assert density.value(torch.ones(4, 5, 2)).shape == (4, 5)
        with pytest.raises(NotTraceableError, match="compile=False"):
            required.value(torch.ones(4, 5, 2))
    assert density.engine.startswith("Pyro: ")


def test_compile_true_is_one_contract(small, monkeypatch):
    """``mcmc`` raises as ``fit`` does where a program cannot be compiled; "auto" runs it and says why."""
    monkeypatch.setattr("pyro_vae.inference.compiled.backend.why_no_compiler", lambda tensors: "no C++ compiler")
    model, x = small
    with pytest.raises(NotTraceableError, match="no C\\+\\+ compiler; try compile=False"):
        pv.mcmc(model, x, **{**SHORT, "compile": True})
    draws = pv.mcmc(model, x, num_samples=200, warmup_steps=100, compile="auto")
    assert draws.engine == "Pyro: no C++ compiler"
    assert draws.samples["z"].isfinite().all()
    assert "compile" in pv.mcmc(model, x, **SHORT).engine


def test_a_guide_of_a_whole_program_is_a_proposal_too(float64):
    """The guide is the posterior, so every proposal is taken; its scale is constrained, so the Jacobian counts."""

    def model(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        pyro.sample("rate", dist.Gamma(2.0 + x.sum(), 1.0 + len(x)))

    x = torch.tensor([1.0, 0.0, 4.0])
    target = pv.Target(model, x)
    assert target.log_jacobian(torch.randn(7, 1, 1)).shape == (7, 1)
    draws = pv.mcmc(model, x, kernel=pv.IndependenceMH(), guide=guide, num_samples=50, warmup_steps=0)
    torch.testing.assert_close(draws.acceptance, torch.ones(4, 1))
