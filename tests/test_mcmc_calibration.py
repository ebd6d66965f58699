"""Simulation-based calibration of every kernel (Talts et al. 2018), and of wrong ones, which must fail it.

z ~ p(z), x ~ p(x|z), and chains on p(z|x): the rank of z among the draws is uniform if the kernel is right, whatever
the model. All simulated data are sampled at once, so the test costs one run a kernel.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import pyro_vae as pv
from pyro_vae.inference.mcmc.kernel import State, accept

DATA, BINS = 200, 10
FALSE_ALARM = 1e-4


def curved(x):
    """A positive scale and a location: constrained, correlated, skewed."""
    with pyro.plate("data", len(x)):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.7))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mean.unsqueeze(-1), scale.unsqueeze(-1)).expand([len(x), 3]).to_event(1), obs=x)


def simulated():
    scale = dist.LogNormal(0.0, 0.7).sample((DATA,))
    mean = torch.randn(DATA)
    return {"scale": scale, "mean": mean}, mean[:, None] + scale[:, None] * torch.randn(DATA, 3)


def p_values(kernel, *, keep=19, thinning, guide=None):
    """Of the chi-squared test that ranks among nearly independent draws are uniform, one a site."""
    torch.manual_seed(11)
    truth, x = simulated()
    draws = pv.mcmc(
        curved, x, kernel=kernel, num_samples=keep, warmup_steps=250, num_chains=2, thinning=thinning, guide=guide,
        compile=True,
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


KERNELS = {
    "HMC": (pv.HMC, 4, None),
    "ChEES": (pv.ChEES, 4, None),
    "NUTS": (pv.NUTS, 1, None),
    "MALA": (pv.MALA, 15, None),
    "RandomWalk": (pv.RandomWalk, 25, None),
    "Gibbs": (pv.Gibbs, 4, None),
    "IndependenceMH": (pv.IndependenceMH, 25, guide),
    "ParallelTempering": (lambda: pv.ParallelTempering(num_temperatures=3), 4, None),
}


@pytest.mark.parametrize("name", KERNELS)
def test_ranks_are_uniform(name):
    build, thinning, proposal = KERNELS[name]
    for site, p in p_values(build(), thinning=thinning, guide=proposal).items():
        assert p > FALSE_ALARM, site


class TakesUphillOnly(pv.HMC):
    """Accepts on the density alone, so that the momentum's part of the energy is lost."""

    def step(self, state, density, tuning):
        _, info = super().step(state, density, tuning)
        end, _ = info.end
        value, grad = density.value_and_grad(end)
        return accept(state, State(end, value, grad), value - state.log_density)


def test_a_wrong_acceptance_is_found():
    assert min(p_values(TakesUphillOnly(), thinning=4).values()) < FALSE_ALARM


def test_a_missing_jacobian_is_found(monkeypatch):
    from pyro_vae.inference.target import Target

    right = Target.log_joint
    monkeypatch.setattr(Target, "log_joint", lambda self, u, *, beta=1.0: right(self, u) - self.log_jacobian(u))
    assert p_values(pv.HMC(), thinning=4)["scale"] < FALSE_ALARM
