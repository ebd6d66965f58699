"""Simulation-based calibration of every kernel (Talts et al. 2018), and of wrong ones, which must fail it.

z ~ p(z), x ~ p(x|z), and chains on p(z|x): the rank of z among the draws is uniform if the kernel is right, whatever
the model. All simulated data are sampled at once, so the test costs one run a kernel. It is blind to draws of the prior
in place of the posterior, whose ranks are uniform too: tempering that goes wrong that way is caught by moments.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

import pyro_vae as pv
from pyro_vae.inference.mcmc.kernels.base import State, accept
from tests.table_of_kernels import KERNELS

DATA, BINS = 200, 10
FALSE_ALARM = 1e-4


def curved(x):
    """A positive scale and a location: constrained, correlated, skewed."""
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.7))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1), scale.unsqueeze(-1)).expand([len(x), 3]).to_event(1), obs=x)


WEIGHT = torch.tensor([[1.0, 0.8], [0.5, -0.2], [0.7, 0.9]])


def linear(x):
    """Two correlated numbers seen through three noisy sums: Gaussian posteriors."""
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        seen = torch.stack([a, b], -1) @ WEIGHT.T
        pyro.sample("x", dist.Normal(seen, 0.5).to_event(1), obs=x)


def simulated(model, num_data):
    """Latent values and data from the program itself."""
    trace = poutine.trace(poutine.uncondition(model)).get_trace(torch.zeros(num_data, 3))
    return {name: site["value"] for name, site in latent_and_data(trace)}


def latent_and_data(trace):
    return [(name, site) for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"]


def p_values(kernel, *, keep=19, thinning, guide=None, model=curved, num_data=DATA):
    """Of the chi-squared test that ranks among nearly independent draws are uniform, one a site."""
    torch.manual_seed(11)
    truth = simulated(model, num_data)
    draws = pv.mcmc(
        model, truth.pop("x"), kernel=kernel, num_samples=keep, warmup_steps=150, num_chains=2, thinning=thinning,
        guide=guide, compile=True,
    )  # fmt: skip
    found = {}
    for site, value in truth.items():
        ranks = (draws.samples[site][0] < value).sum(0)  # 0 ... keep
        counts = torch.bincount(ranks * BINS // (keep + 1), minlength=BINS)
        found[site] = stats.chisquare(counts.numpy()).pvalue
    return found


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("scale", dist.LogNormal(x.std(-1).clamp(min=0.3).log() * 0.7, 0.7))
        pyro.sample("mean", dist.Normal(x.mean(-1) * 0.7, 0.7))


@pytest.mark.parametrize("name", KERNELS)
def test_ranks_are_uniform(name):
    case = KERNELS[name]
    model, proposal = (linear if case.gaussian else curved), (guide if case.guided else None)
    for site, p in p_values(case.build(), thinning=case.thinning, guide=proposal, model=model).items():
        assert p > FALSE_ALARM, site


# -- wrong kernels -------------------------------------------------------------------------------------------------


class TakesMarginalForConditional(pv.GaussianGibbs):
    """Draws each coordinate with the variance that it has if the others are not known."""

    def start(self, u, density, guide=None, *, given=False):
        state = super().start(u, density)
        precision = state.run.clone()
        precision.diagonal(dim1=-2, dim2=-1).copy_(1 / torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1))
        return state._replace(run=precision)


class ForgetsTheGuidesDensity(pv.IndependenceMH):
    """Accepts proposals of the guide as if all were equally likely to be proposed."""

    def step(self, state, density, tuning):
        u, log_q = state.run.sample(len(state.u))
        proposal = State(u, density.value(u), state.grad, log_q[..., None])
        return accept(state, proposal, proposal.log_density - state.log_density)


class TakesUphillOnly(pv.HMC):
    """Accepts on the density alone, so that the momentum's part of the energy is lost."""

    def step(self, state, density, tuning):
        _, info = super().step(state, density, tuning)
        end, _ = info.end
        value, grad = density.value_and_grad(end)
        return accept(state, State(end, value, grad), value - state.log_density)


WRONG = {
    "energy without momentum": (TakesUphillOnly, 4, {}),
    "marginal variance": (TakesMarginalForConditional, 25, {"model": linear}),
    "no proposal density": (
        ForgetsTheGuidesDensity,
        25,
        {"guide": guide, "num_data": 4 * DATA},
    ),  # the fault of a good guide is small
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_kernel_is_found(name):
    build, thinning, settings = WRONG[name]
    assert min(p_values(build(), thinning=thinning, **settings).values()) < FALSE_ALARM


def test_a_missing_jacobian_is_found(monkeypatch):
    from pyro_vae.inference.target.target import Target

    right = Target.log_joint
    monkeypatch.setattr(Target, "log_joint", lambda self, u, *, beta=1.0: right(self, u) - self.log_jacobian(u))
    assert p_values(pv.HMC(), thinning=4)["scale"] < FALSE_ALARM
