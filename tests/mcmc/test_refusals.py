"""What MCMC refuses, and in which words."""

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc.kernels.base import Kernel

SHORT = {"num_samples": 20, "warmup_steps": 20, "compile": False}


@pytest.fixture
def small():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 6)))
    return model, model.sample(5)["x"]


def test_a_site_that_cannot_be_vectorised_is_named():
    class Looking(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) * (1.0 if self.loc.sum().item() > 0 else 2.0)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Looking(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'x', Looking of shape"):
        pv.mcmc(model, torch.tensor([2.0, 3.0]), **SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "num_samples to be at least 1"),
        ({"num_chains": -1}, "num_chains to be at least 1"),
        ({"kernel": "NUTS"}, "expected a kernel"),
        ({"kernel": pyro.infer.NUTS(lambda x: None)}, r"got Pyro's NUTS; try kernel=pv.NUTS\(\), or pv.pyro_mcmc"),
        ({"kernel": pv.IndependenceMH()}, "a guide to propose from"),
        ({"kernel": pv.GaussianGibbs()}, "Gaussian posteriors"),
        ({"plate": "rows"}, "plate='data'"),
        ({"guide": 3}, "expected a guide"),
        ({"kernel": pv.NUTS(lambda x: None)}, "one model"),
        ({"kernel": pv.ChEES(), "num_chains": 1}, "two chains or more"),
        ({"initial": {"z": torch.zeros(4, 2)}}, r"initial\['z'\] of shape \(5, 2\); got \(4, 2\)"),
        ({"initial": {"y": torch.zeros(5, 2)}}, "latent sites"),
    ],
)
def test_what_cannot_be_meant_is_refused(small, settings, message):
    model, x = small
    with pytest.raises((ValueError, TypeError), match=message):
        pv.mcmc(model, x, **{**SHORT, **settings})


@pytest.mark.parametrize(
    "build",
    [
        lambda: pv.HMC(trajectory_length=1.0, num_steps=3),
        lambda: pv.HMC(target_accept_prob=1.5),
        lambda: pv.HMC(jitter=1.5),
        lambda: pv.HMC(trajectory_length=-1.0),
        lambda: pv.Gibbs(width=-1.0),
        lambda: pv.ParallelTempering(betas=(0.5, 0.2)),
        lambda: pv.ParallelTempering(betas=()),
        lambda: pv.NUTS(max_tree_depth=0),
    ],
)
def test_kernels_refuse_numbers_out_of_range(build):
    with pytest.raises(ValueError, match="expected"):
        build()


def test_a_kernel_without_a_step_says_so(small):
    model, x = small
    with pytest.raises(NotImplementedError, match="must define step"):
        pv.mcmc(model, x, kernel=Kernel(), **SHORT)


@pytest.mark.parametrize("kernel", [pv.HMC, pv.Kernel])
@pytest.mark.parametrize("step_size", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_size_is_positive(kernel, step_size):
    with pytest.raises(ValueError, match="a positive, finite step_size"):
        kernel(step_size=step_size)
    with pytest.raises(TypeError, match="finite step_size; got 'small'"):
        kernel(step_size="small")


def scaled(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, scale), obs=x)


@pytest.mark.parametrize("far", [-200.0, 200.0, float("nan")])
def test_a_chain_that_ran_away_has_no_density_and_is_no_error(far):
    """Its scale is 0, infinite or NaN: outside the support, which a validating distribution would raise for."""
    target = pv.Target(scaled, torch.ones(3))
    u = torch.tensor([[[far]], [[0.0]]])
    value, _ = target.value_and_grad(u)
    assert torch.isfinite(value).flatten().tolist() == [False, True]


def test_steps_far_too_long_are_divergences():
    kernel = pv.HMC(step_size=300.0, num_steps=2, adapt_step_size=False, adapt_mass_matrix=False)
    draws = pv.mcmc(scaled, torch.ones(3), kernel=kernel, num_samples=50, warmup_steps=0)
    assert int(draws.divergences) > 100
    assert bool(torch.isfinite(draws.samples["scale"]).all())
