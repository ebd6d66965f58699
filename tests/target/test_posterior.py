"""One seam: every kind of posterior becomes draws of u with log q, measured against a posterior in closed form.

The programs have z ~ N(0, 1) and s ~ LogNormal(0, 1), and see Normal(z, 1) and Normal(log s, 1), or their sum: over
u = (z, log s) the posterior is Gaussian. With q equal to it, log p(x, u) - log q(u) is log p(x) for every draw.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam

import pyro_vae as pv
from pyro_vae.inference.posterior import GuideSampler, answer
from tests.truth import STANDARD_ERRORS

N = 4
SD = math.sqrt(0.5)


def _apart(x):
    with pyro.plate("data", N):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(torch.stack([z, s.log()], -1), 1.0).to_event(1), obs=x)


def _joined(x):
    with pyro.plate("data", N):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + s.log(), 1.0).expand([N]), obs=x.sum(-1))


def _truth(program, x):
    """Mean ``(N, 2)``, covariance ``(2, 2)`` and log evidence ``(N,)`` in closed form."""
    W = torch.eye(2) if program is _apart else torch.ones(1, 2)
    y = x if program is _apart else x.sum(-1, keepdim=True)
    V = torch.linalg.inv(torch.eye(2) + W.T @ W)
    evidence = dist.MultivariateNormal(torch.zeros(len(W)), torch.eye(len(W)) + W @ W.T).log_prob(y)
    return y @ W @ V, V, evidence


def _flat(per_datum):
    """Numbers a datum ``(N, 2, ...)`` in the order of Pyro's automatic guides: all of z, then all of s."""
    return per_datum.movedim(0, 1).flatten(0, 1)


def _auto_normal(program, mean):
    guide = autoguide.AutoNormal(program)
    guide(torch.zeros(N, 2))
    _set(guide, mean, "zs")
    return guide


def _set(guide, mean, names):
    for name in names:
        getattr(guide.locs, name).data.copy_(mean[:, "zs".index(name)])
        setattr(guide.scales, name, torch.full((N,), SD))


def _auto_diagonal(program, mean):
    guide = autoguide.AutoDiagonalNormal(program)
    guide(torch.zeros(N, 2))
    guide.loc.data.copy_(_flat(mean))
    guide.scale = torch.full((2 * N,), SD)
    return guide


def _auto_full(program, mean, V):
    guide = autoguide.AutoMultivariateNormal(program)
    guide(torch.zeros(N, 2))
    guide.loc.data.copy_(_flat(mean))
    factor = torch.linalg.cholesky(torch.kron(V.contiguous(), torch.eye(N)))
    guide.scale = factor.diagonal().clone()
    guide.scale_tril = factor / factor.diagonal().unsqueeze(-1)
    return guide


def _auto_list(program, mean, second=autoguide.AutoNormal):
    guide = autoguide.AutoGuideList(program)
    guide.append(autoguide.AutoNormal(pyro.poutine.block(program, expose=["z"])))
    guide.append(second(pyro.poutine.block(program, expose=["s"])))
    guide(torch.zeros(N, 2))
    _set(guide[0], mean, "z")
    if second is autoguide.AutoNormal:
        _set(guide[1], mean, "s")
    return guide


class _Module(PyroModule):
    def __init__(self, mean):
        super().__init__()
        self.mean = PyroParam(mean)
        self.eval_only = torch.nn.Dropout(0.5)

    def forward(self, x):
        mean = self.eval_only(self.mean)
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(mean[:, 0], SD))
            pyro.sample("s", dist.LogNormal(mean[:, 1], SD))


EXACT = {
    "AutoNormal": (_apart, lambda mean, V: _auto_normal(_apart, mean)),
    "AutoDiagonalNormal": (_apart, lambda mean, V: _auto_diagonal(_apart, mean)),
    "AutoMultivariateNormal": (_joined, lambda mean, V: _auto_full(_joined, mean, V)),
    "AutoGuideList": (_apart, lambda mean, V: _auto_list(_apart, mean)),
    "PyroModule": (_apart, lambda mean, V: _Module(mean)),
    "function": (_apart, lambda mean, V: _Module(mean).eval().__call__),
    "bound method": (_apart, lambda mean, V: _Module(mean).forward),
}


@pytest.mark.parametrize("plate", ["data", None])
@pytest.mark.parametrize("name", EXACT)
def test_a_guide_that_is_the_posterior_gives_the_evidence_at_every_draw(name, plate, float64):
    program, make = EXACT[name]
    x = torch.randn(N, 2)
    mean, V, evidence = _truth(program, x)
    target = pv.Target(program, x, plate=plate)
    guide = make(mean, V)
    u, log_q = GuideSampler(target, guide).sample(20)
    assert u.shape == (20, *target.origin.shape)
    expected = (evidence if plate else evidence.sum().reshape(1)).expand(20, -1)
    torch.testing.assert_close(target.log_joint(u) - log_q, expected)

    S = 1000
    found = answer(target, guide, num_samples=S)
    about = (mean if plate else _flat(mean).unsqueeze(0)).reshape(found.mean.shape)
    sd = float(V[0, 0]) ** 0.5
    assert bool(((found.mean - about).abs() < STANDARD_ERRORS * sd / S**0.5).all())
    assert bool(((found.std - sd).abs() < STANDARD_ERRORS * sd / (2 * S) ** 0.5).all())
    if found.log_prob is not None:
        torch.testing.assert_close(found.log_prob(found.u), found.log_q)


def test_a_distribution_and_chains_of_the_same_posterior_agree_with_it(float64):
    x = torch.randn(N, 2)
    mean, V, _ = _truth(_joined, x)
    q = dist.MultivariateNormal(mean, V.expand(N, 2, 2))
    target = pv.Target(_joined, x)
    found = answer(target, q, num_samples=10)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.std, V.diagonal().sqrt().expand(N, 2))
    u = q.sample((2, 50))
    draws = pv.Draws(target.constrain(u), acceptance=torch.ones(2, N), plate="data")
    chains = answer(target, draws)
    torch.testing.assert_close(chains.u, u.flatten(0, 1))
    assert chains.log_q is None
    assert chains.ess.shape == (N,)
    whole = pv.Target(_joined, x, plate=None)
    samples = {
        name: value.unsqueeze(2) for name, value in whole.constrain(u.movedim(-1, -2).reshape(2, 50, 1, -1)).items()
    }
    torch.testing.assert_close(
        answer(whole, pv.Draws(samples, acceptance=torch.ones(2, 1))).u, u.movedim(-1, -2).reshape(100, 1, -1)
    )


@pytest.mark.parametrize("plate", ["data", None])
@pytest.mark.parametrize(
    "make",
    [
        lambda: autoguide.AutoDelta(_apart),
        lambda: _auto_list(_apart, torch.zeros(N, 2), autoguide.AutoDelta),
        lambda: autoguide.AutoLaplaceApproximation(_apart),
    ],
)
def test_a_point_mass_among_the_sites_leaves_no_density(make, plate):
    target = pv.Target(_apart, torch.randn(N, 2), plate=plate)
    if plate and isinstance(make(), autoguide.AutoLaplaceApproximation):
        with pytest.raises(ValueError, match="of the guide in plate 'data'; got no plate"):
            GuideSampler(target, make()).draw(2)
        return
    assert answer(target, make(), num_samples=4).log_q is None
    with pytest.raises(ValueError, match="a posterior with a density; got a point mass"):
        GuideSampler(target, make()).sample(2)


def test_auxiliary_randomness_beside_the_latent_sites_leaves_no_density():
    """q(z) is then an integral over the auxiliary site; the joint density would be taken for it."""

    def guide(x):
        with pyro.plate("data", N):
            extra = pyro.sample("extra", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(extra, 1.0))
            pyro.sample("s", dist.LogNormal(extra, 1.0))

    target = pv.Target(_apart, torch.randn(N, 2))
    found = answer(target, guide, num_samples=50)
    assert found.log_q is None
    assert found.u.shape == (50, N, 2)


def test_an_automatic_guide_over_another_number_of_latents_is_refused():
    target = pv.Target(_apart, torch.randn(N, 2))
    other = autoguide.AutoNormalizingFlow(_apart, lambda dim: dist.transforms.affine_coupling(dim, [4]))
    with pytest.raises(ValueError, match="of the guide in plate 'data'; got no plate"):
        GuideSampler(target, other).draw(2)


def test_a_program_takes_the_models_covariates_or_x_alone():
    x, size = torch.randn(N), torch.rand(N)

    def program(x, size):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * size, 1.0), obs=x)

    def of_x(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    class OfX(PyroModule):
        forward = staticmethod(of_x)

    def of_both(x, size):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * size, 1.0))

    target = pv.Target(program, (x, size))
    for guide, mean in ((of_x, x), (OfX(), x), (of_both, x * size)):
        u, log_q = GuideSampler(target, guide).sample(3)
        torch.testing.assert_close(log_q, dist.Normal(mean, 1.0).log_prob(u.squeeze(-1)))


@pytest.mark.parametrize("plate", ["data", None])
@torch.no_grad()
def test_pyros_mean_field_guide_is_a_distribution_that_needs_no_run_a_draw(plate, monkeypatch):
    """Normal over u in each latent number, without running the guide once a draw."""
    guide, target = _auto_normal(_apart, torch.randn(N, 2)), pv.Target(_apart, torch.randn(N, 2), plate=plate)
    sampler = GuideSampler(target, guide)
    monkeypatch.setattr(guide, "forward", None)
    u, log_q = sampler.sample(500)
    values = target.constrain(u)
    expected = dist.Normal(guide.locs.z, guide.scales.z).log_prob(values["z"])
    expected = expected + dist.Normal(guide.locs.s, guide.scales.s).log_prob(values["s"].log())
    torch.testing.assert_close(log_q, expected if plate else expected.sum(-1, keepdim=True), rtol=1e-4, atol=1e-4)
    assert sampler.distribution.mean.shape == u.shape[1:]


@pytest.mark.parametrize("name", ["AutoGuideList", "AutoStructured"])
def test_a_guide_program_runs_a_few_times_for_all_draws(name, float64):
    x = torch.randn(N, 2)
    mean, _, evidence = _truth(_apart, x)
    if name == "AutoGuideList":
        guide = _auto_list(_apart, mean)
    else:
        guide = autoguide.AutoStructured(_apart, conditionals="normal")
        guide(x)
    runs = []

    def counted(x):
        runs.append(1)
        return guide(x)

    target = pv.Target(_apart, x, plate="data" if name == "AutoGuideList" else None)
    sampler = GuideSampler(target, counted)
    u, log_q = sampler.draw(50)
    assert len(runs) < 10
    assert not (u[0] == u[1]).any()
    if name == "AutoGuideList":
        torch.testing.assert_close(target.log_joint(u) - log_q, evidence.expand(50, -1))
