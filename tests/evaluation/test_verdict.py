"""Verdicts: each kind of wrong posterior is caught, the right one is not, and digits agree with the exact error."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.posterior.verdict import DO_NOT_TRUST, REWEIGHT, TRUST, UNDECIDED, verdict

N = 40


class SquaredNetwork(nn.Module):
    """z^2: two modes of equal mass."""

    def forward(self, z):
        return 2.0 * z.square()


@pytest.fixture
def problem():
    network = nn.Linear(2, 4)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.5))
    x = model.sample(N)["x"]
    return model, x, pv.analytic(model, x)


def gaussian(exact, shift=0.0, factor=1.0):
    return dist.MultivariateNormal(exact.loc + shift * exact.variance.sqrt(), scale_tril=factor * exact.scale_tril)


def test_the_exact_posterior_is_trusted(problem):
    model, x, exact = problem
    for reference in (None, exact, pv.quadrature(model, x)):
        found = verdict(model, x, exact, reference=reference)
        assert found.counts()[TRUST] >= 0.9 * N, str(found)
        assert found.counts()[DO_NOT_TRUST] == 0


@pytest.mark.parametrize(
    ("shift", "factor", "expected"),
    [(0.6, 1.0, REWEIGHT), (0.0, 1.6, REWEIGHT), (6.0, 1.0, DO_NOT_TRUST), (0.0, 0.2, DO_NOT_TRUST)],
    ids=["shifted", "too wide", "elsewhere", "far too narrow"],
)
def test_wrong_posteriors_are_caught(problem, shift, factor, expected):
    model, x, exact = problem
    found = verdict(model, x, gaussian(exact, shift, factor), reference=exact)
    assert found.counts()[expected] >= 0.95 * N, str(found)
    assert all(found.reasons)


def test_reweighting_mends_what_it_says(problem):
    model, x, exact = problem
    found = verdict(model, x, gaussian(exact, 0.6, 1.3), reference=exact)
    rows = found.rows(REWEIGHT)
    assert len(rows) >= 0.95 * N
    error = (found.weights.mean - exact.loc).div(exact.variance.sqrt())[rows]
    assert ((error / found.weights.ess[rows].rsqrt()[:, None]).abs() < 5).all()
    assert ((found.weights.std / exact.variance.sqrt())[rows].log().abs() < 0.2).all()


def test_one_mode_short_is_seen_by_annealing_and_not_by_the_weights():
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(SquaredNetwork(), scale=0.5))
    x = torch.linspace(3.0, 5.0, 10).unsqueeze(-1)
    q = pv.laplace(model, x)
    found = verdict(model, x, dist.Normal(q.mean, 1.4 * q.variance.sqrt()).to_event(1))
    assert found.counts()[DO_NOT_TRUST] == 10, str(found)
    assert (found.weights.pareto_k < 0.7).double().mean() >= 0.8  # nothing in q's own draws tells
    assert abs(float(found.missing.mean()) - math.log(2)) < 0.15


def test_a_reference_that_has_not_converged_decides_nothing(problem):
    model, x, exact = problem
    poor = pv.evidence(model, x, method="ais", num_temperatures=2, tolerance=1e-9)
    assert verdict(model, x, exact, reference=poor).counts()[UNDECIDED] == N
    stuck = exact.sample((4, 200))
    stuck[0] += 10.0
    chains = pv.Draws({"z": stuck}, acceptance=torch.ones(4, N), plate="data")
    assert verdict(model, x, exact, reference=chains).counts()[UNDECIDED] == N


def test_chains_as_reference(problem):
    model, x, exact = problem
    chains = pv.Draws({"z": exact.sample((4, 1000))}, acceptance=torch.ones(4, N), plate="data")
    good = verdict(model, x, exact, reference=chains)
    assert good.counts()[TRUST] >= 0.9 * N
    moved = verdict(model, x, gaussian(exact, 0.0, 1.7), reference=chains)
    assert moved.counts()[REWEIGHT] >= 0.9 * N


def test_verdicts_on_digits_agree_with_the_exact_error():
    x_train, x = pv.datasets.digits("train"), pv.datasets.digits("test")[:60]
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 64, 64)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(64, 64, 4))
    pv.fit(model, guide, x_train, epochs=12, lr=5e-3, progress=False)
    truth = pv.quadrature(model, x)
    annealed = pv.evidence(model, x, method="ais", num_temperatures=50)
    off = annealed.log_evidence - truth.log_evidence
    assert annealed.resolved.all()
    assert off.abs().mean() < 0.05
    assert abs(float(off.mean())) < 4.5 * float(off.std()) / 60**0.5 + 0.001
    found = verdict(model, x, guide, reference=annealed)
    sd = truth.variance.sqrt()
    given = {TRUST: (found.weights.own_mean, found.weights.own_std), REWEIGHT: (found.weights.mean, found.weights.std)}
    wrong = 0
    for decision, (mean, std) in given.items():
        error = ((mean - truth.mean).abs() / sd).amax(-1)
        ratio = (std / sd).log().abs().amax(-1)
        wrong += sum(float(error[row]) > 0.35 or float(ratio[row]) > math.log(1.4) for row in found.rows(decision))
    relied_on = len(found.rows(TRUST)) + len(found.rows(REWEIGHT))
    assert relied_on >= 24
    assert wrong <= 0.05 * relied_on
    assert set(found.to_dataframe()["decision"]) <= {TRUST, REWEIGHT, DO_NOT_TRUST, UNDECIDED}


@pytest.mark.parametrize(("arguments", "error"), [({"max_std_ratio": 0.9}, ValueError), ({"reference": 3}, TypeError)])
def test_errors(problem, arguments, error):
    model, x, exact = problem
    with pytest.raises(error, match="expected"):
        verdict(model, x, exact, **arguments)


def test_draws_have_a_verdict_of_their_own(problem):
    model, x, exact = problem
    chains = pv.Draws({"z": exact.sample((4, 50))}, acceptance=torch.ones(4, N), plate="data")
    with pytest.raises(TypeError, match=r"draws\.verdict"):
        verdict(model, x, chains)


def test_moments_that_are_known_are_read_and_not_drawn(monkeypatch):
    """Draws of a grid's posterior cost evaluations of the program; a network that bends has no closed form."""
    network = pv.networks.mlp(2, 8, 4, activation=nn.Tanh)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=1.0))
    x = model.sample(5)["x"]
    truth, shapes = pv.quadrature(model, x), []
    sample = type(truth).sample
    monkeypatch.setattr(type(truth), "sample", lambda self, shape: shapes.append(shape) or sample(self, shape))
    q = pv.laplace(model, x)
    found = verdict(model, x, q, reference=truth)
    assert all(torch.Size(shape).numel() <= 2 for shape in shapes)
    std = truth.variance.sqrt()
    torch.testing.assert_close(found.mean_shift, ((found.weights.own_mean - truth.mean).abs() / std).amax(-1))
