"""Kernels are settings: any number of runs share one object. And what single kernels promise."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc.adaptation import Warmup
from pyro_vae.inference.mcmc.density import LogDensity
from pyro_vae.inference.mcmc.kernels.base import Metric
from pyro_vae.inference.mcmc.kernels.chees import Adam
from pyro_vae.inference.posterior import GuideSampler
from tests.table_of_kernels import KERNELS
from tests.truth import linear_gaussian

WIDE = dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)


@pytest.fixture
def target():
    model, _, _ = linear_gaussian(2, 4)
    return pv.Target(model, model.sample(3)["x"])


def stepping(kernel, target, *, guided, seed, steps=8):
    """A run that pauses after every step, with random numbers of its own; last comes where its chains are."""
    torch.manual_seed(seed)
    density = LogDensity(target)
    u = target.sample_prior(4)
    state = kernel.start(u, density, GuideSampler(target, WIDE) if guided else None)
    warmup = Warmup(kernel, density, steps, kernel.first_tuning(u, Metric(torch.ones_like(u[:1]))))
    tuning = warmup.begin(state)
    for step in range(1, steps + 1):
        own = torch.get_rng_state()
        yield None
        torch.set_rng_state(own)
        before = state
        state, info = kernel.step(before, density, tuning)
        tuning = warmup.update(step, before, state, info)
    yield kernel.draw(state)


@pytest.mark.parametrize("name", KERNELS)
def test_runs_that_share_a_kernel_do_not_feel_each_other(target, name):
    """Step by step in turn, as in two threads; then copies of the used kernel, one of them through pickle."""
    build, guided = KERNELS[name].build, KERNELS[name].guided
    alone = [list(stepping(build(), target, guided=guided, seed=seed))[-1] for seed in (1, 2)]
    shared = build()
    before = copy.deepcopy(vars(shared))
    *_, together = zip(*(stepping(shared, target, guided=guided, seed=seed) for seed in (1, 2)), strict=True)
    assert vars(shared) == before
    for kernel in (copy.copy(shared), pickle.loads(pickle.dumps(shared))):
        together = (*together, list(stepping(kernel, target, guided=guided, seed=1))[-1])
    for found, expected in zip(together, (*alone, alone[0], alone[0]), strict=True):
        assert torch.equal(found, expected)


def test_a_target_stands_for_a_program_with_its_data(target):
    with pytest.raises(ValueError, match="a Target alone"):
        pv.mcmc(target, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="data x beside a program"):
        pv.mcmc(target.model)


# -- settings ------------------------------------------------------------------------------------------------------


class Lazy(pv.RandomWalk):
    """A kernel that sets a default and writes no ``__init__``."""

    target_accept_prob = 0.3


def test_a_kernel_without_an_init_takes_the_model_and_the_settings(target):
    kernel = Lazy(target.model, step_size=0.5, full_mass=True)
    assert (kernel.model, kernel.step_size, kernel.full_mass) == (target.model, 0.5, True)
    assert (kernel.target_accept_prob, Lazy(target_accept_prob=0.4).target_accept_prob) == (0.3, 0.4)
    mcmc = pv.infer.MCMC(kernel, num_samples=5, warmup_steps=5, num_chains=2, disable_progbar=True)
    mcmc.run(*target.args)
    assert mcmc.get_samples()["z"].shape == (10, 3, 2)


# -- ChEES ---------------------------------------------------------------------------------------------------------


def test_adam_is_torchs(float64):
    parameter = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([parameter], lr=0.05, betas=(0.5, 0.95), maximize=True)
    ours, place = Adam(), 0.0
    for gradient in torch.randn(20).tolist():
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
        step, ours = ours.climb(gradient, learning_rate=0.05)
        place += step
        assert math.isclose(place, float(parameter.detach()), rel_tol=1e-10)


# -- independence Metropolis-Hastings ------------------------------------------------------------------------------


def test_given_points_are_where_an_independence_sampler_starts(target):
    """The guide is 30 standard deviations off, so that no proposal is accepted: chains stay where they began."""
    far = dist.Normal(torch.full((3, 2), 10.0), 0.5).to_event(1)
    initial = target.sample_prior(4)
    for settings in ({"kernel": pv.IndependenceMH(), "guide": far}, {"kernel": pv.IndependenceMH(proposal=far)}):
        draws = pv.mcmc(target, initial=initial, num_samples=5, warmup_steps=0, **settings)
        assert torch.equal(draws.samples["z"], initial[:, None].expand(4, 5, 3, 2))
        assert float(draws.acceptance.max()) < 1e-6


def positive(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def of_each(x):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.Gamma(2.0 + x, 2.0))


def common(x):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def of_all(x):
    pyro.sample("rate", dist.Gamma(2.0 + x.sum(), 4.0))


@pytest.mark.parametrize(("model", "guide"), [(positive, of_each), (common, of_all)])
def test_the_density_of_a_guide_program_at_given_points(float64, model, guide):
    sampler = GuideSampler(pv.Target(model, torch.tensor([0.0, 3.0, 5.0])), guide)
    u, log_q = sampler.sample(6)
    torch.testing.assert_close(sampler.log_prob(u), log_q)


def test_a_guide_whose_density_at_given_points_is_unknown_is_refused():
    def noisy(x):
        with pyro.plate("data", len(x)):
            shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("rate", dist.Gamma(1.0 + shape, 2.0))

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Uniform(torch.full_like(x, 3.0), 4.0))

    x = torch.tensor([0.0, 3.0])
    settings = {"kernel": pv.IndependenceMH(), "initial": {"rate": torch.ones(2)}, "num_samples": 5}
    with pytest.raises(ValueError, match=r"also \['shape'\]"):
        pv.mcmc(positive, x, guide=noisy, **settings)
    with pytest.raises(ValueError, match="the guide can propose"):
        pv.mcmc(positive, x, guide=narrow, **settings)
