"""Every kind of posterior becomes draws of u in one place: covariates, point masses, training mode, memory, names."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import nn
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.evaluation.simulation import simulate
from pyro_vae.inference.target import blocks
from tests.truth import STANDARD_ERRORS


class Counts(nn.Module):
    """Gamma-free counts with a library size: a model that takes a covariate after x."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.4, -0.2, 0.1]))

    def forward(self, x, library):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            rate = library.unsqueeze(-1) * (z * self.weight).exp()
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


@pytest.fixture(scope="module")
def counts():
    library = torch.tensor([1.0, 3.0, 8.0, 20.0])
    x = torch.poisson(library.unsqueeze(-1).expand(-1, 3), generator=torch.Generator().manual_seed(0))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(3, 4, 2))
    model = Counts()
    pv.fit(model, guide, (x, library), epochs=2, validation=None, progress=False, compile=False)
    return model, guide, (x, library)


def test_a_guide_of_x_alone_serves_a_model_with_covariates(counts):
    model, guide, args = counts
    truth = pv.quadrature(model, args)
    table = pv.compare(model, args, {"VI": guide}, truth=truth)
    score = table.scores["VI"]
    assert bool(((score.gap - score.kl).abs() < 1e-3).all())
    found = pv.evidence(model, args, guide, method="importance", num_samples=4000)
    off = (found.log_evidence - truth.log_evidence).abs()
    assert bool((off < STANDARD_ERRORS * found.standard_error + truth.error_bound).all())
    draws = pv.mcmc(model, args, guide=guide, num_samples=20, warmup_steps=20, num_chains=2, progress=False)
    assert draws.samples["z"].shape == (2, 20, 4, 1)
    assert len(pv.gaps(model, args, guide).log_evidence) == 4
    assert len(pv.verdict(model, args, guide).decision) == 4
    assert pv.to_arviz(model, args, guide, num_samples=5).log_likelihood["x"].shape == (1, 5, 4)


def test_a_guide_that_takes_covariates_gets_them(counts):
    model, _, args = counts

    class Shifted(pv.guides.Guide):
        latent_dim = 1

        def posterior(self, x, library):
            return dist.Normal(library.log().unsqueeze(-1), 1.0).to_event(1)

    q = pv.compare(model, args, {"q": Shifted()}, num_samples=10).scores["q"]
    assert q.bound.isfinite().all()
    alone = pv.compare(model, args, {"q": Shifted().posterior(*args)}, num_samples=10).scores["q"]
    torch.testing.assert_close(q.mean_error, alone.mean_error)


def _gaussian():
    network = nn.Linear(2, 3)
    return pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.5))


def test_point_masses_have_neither_density_nor_bound():
    model, x = _gaussian(), torch.zeros(4, 3)
    delta = AutoDelta(model)
    delta(x)
    mass = pv.guides.PointMass(pv.networks.mlp(3, 4, 2))
    moved = pv.guides.Transformed(mass, torch.distributions.transforms.AffineTransform(1.0, 2.0))
    table = pv.compare(
        model, x, {"auto": delta, "mass": mass, "moved": moved, "mode": pv.maximum_a_posteriori(model, x)}
    )
    for name, score in table.scores.items():
        assert score.bound.isnan().all(), name
        assert score.kl.isnan().all(), name
        assert score.num_samples == 1, name
        assert bool((score.std_ratio == 0).all()), name
    for guide in (delta, mass, moved):
        with pytest.raises(ValueError, match="got a point mass"):
            pv.evidence(model, x, guide, method="importance")


def test_looking_leaves_batch_norm_alone_and_dropout_off():
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.5)).train()
    guide = pv.guides.DiagonalGaussian(
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    )
    guide.train()
    before = {k: v.clone() for part in (model, guide) for k, v in part.state_dict().items()}
    x = torch.randn(6, 3)
    target = pv.Target(model, x)
    target.pack({"z": torch.zeros(6, 2)})
    simulate(model, x)
    first = pv.compare(model, x, {"VI": guide}, num_samples=10).scores["VI"].mean_error
    again = pv.compare(model, x, {"VI": guide}, num_samples=10).scores["VI"].mean_error
    after = {k: v for part in (model, guide) for k, v in part.state_dict().items()}
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(first, again)  # dropout would move the mean from call to call
    assert model.training
    assert guide.training


def test_calibrate_finds_the_exact_posterior_calibrated_with_dropout_left_on():
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.5)).train()
    x, u = simulate(model, torch.zeros(2000, 3))
    exact = pv.analytic(model, x)
    standardised = torch.linalg.solve_triangular(exact.scale_tril, (u - exact.mean).unsqueeze(-1), upper=False)
    # 4,000 standard normal numbers: their mean square is 1 with a standard error of sqrt(2 / 4000)
    assert abs(float(standardised.square().mean()) - 1) < STANDARD_ERRORS * math.sqrt(2 / 4000)


def test_compare_looks_at_a_block_of_draws_at_a_time(monkeypatch, float64):
    model, x = _gaussian(), torch.zeros(5, 3)
    q = {"q": pv.laplace(model, x)}
    pyro.set_rng_seed(1)
    whole = pv.compare(model, x, q, num_samples=64).scores["q"]
    seen = []
    joint = pv.Target.log_joint
    monkeypatch.setattr(blocks, "NUMBERS", 64 * 5 * 10)
    monkeypatch.setattr(pv.Target, "log_joint", lambda t, u, **k: (seen.append(u.shape[0]), joint(t, u, **k))[1])
    truth = pv.analytic(model, x)
    seen.clear()
    pyro.set_rng_seed(1)
    parts = pv.compare(model, x, q, truth=truth, num_samples=64).scores["q"]
    assert max(seen) <= 10
    torch.testing.assert_close(parts.bound, whole.bound)


def test_compare_evaluates_each_draw_once(monkeypatch):
    model, x = _gaussian(), torch.zeros(5, 3)
    q, truth = {"q": pv.laplace(model, x)}, pv.quadrature(model, x)
    count = []
    joint = pv.Target.log_joint

    def counted(target, u, **settings):
        count.append(u.shape[:-2].numel())
        return joint(target, u, **settings)

    monkeypatch.setattr(pv.Target, "log_joint", counted)
    pv.compare(model, x, q, truth=truth, num_samples=64)
    few = sum(count)
    count.clear()
    pv.compare(model, x, q, truth=truth, num_samples=164)
    assert sum(count) - few == 100


def test_evidence_of_a_whole_program_with_one_latent_is_integrated():
    x = torch.tensor([0.3, -1.0, 2.0])

    def program(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.StudentT(5.0, mu, 1.0), obs=x)

    found = pv.evidence(program, x, plate=None)
    assert found.method == "quadrature"
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    height = torch.distributions.StudentT(5.0, grid[:, None], 1.0).log_prob(x.double()).sum(-1)
    height = height + torch.distributions.Normal(0.0, 1.0).log_prob(grid)
    expected = height.logsumexp(0) + math.log(float(grid[1] - grid[0]))
    assert abs(float(found.log_evidence) - float(expected)) < 1e-4


def test_to_arviz_keeps_observations_and_sites_apart():
    x, y = torch.randn(30), torch.randn(12)

    def program(x, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("first", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        with pyro.plate("second", len(y)):
            pyro.sample("y", dist.Normal(mu, 2.0), obs=y)

    draws = pv.mcmc(program, (x, y), plate=None, num_samples=10, warmup_steps=10, num_chains=2, progress=False)
    found = pv.to_arviz(program, (x, y), draws, plate=None).log_likelihood
    assert found["x"].shape == (2, 10, 30)
    assert found["y"].shape == (2, 10, 12)
    mu = draws.samples["mu"].reshape(2, 10, 1)
    expected = torch.distributions.Normal(mu, 1.0).log_prob(x)
    torch.testing.assert_close(torch.as_tensor(found["x"].values), expected, rtol=1e-5, atol=1e-5)


def test_a_table_leaves_out_what_nobody_knows():
    x = torch.tensor([0.3, -1.0, 2.0])

    def program(x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(mu.sum(), 1.0), obs=x)

    table = str(pv.compare(program, x, {"Laplace": pv.laplace(program, x, plate=None)}, plate=None))
    assert "one posterior" in table
    assert "gap" not in table
    assert "bound" in table


def test_a_positive_site_is_compared_too():
    """A guide over z > 0 becomes draws of u with the Jacobian counted: bound and gap add up to the evidence."""

    def program(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Exponential(rate), obs=x)

    def guide(x):
        shape = pyro.param("shape", torch.tensor(3.0), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(shape, 1.0 + x))  # the posterior itself

    x = torch.tensor([0.2, 1.0, 5.0])
    score = pv.compare(program, x, {"exact": guide}, num_samples=20).scores["exact"]
    assert bool((score.bound_error < 1e-5).all())
    assert bool((score.gap.abs() < 2e-3).all())
