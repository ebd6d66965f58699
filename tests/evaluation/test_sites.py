"""What a user reads is of the named sites: closed forms on the program's own scale, a line a site, covariates."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.evidence import evidence as room
from pyro_vae.evaluation.evidence.method import Estimate, EvidenceMethod
from pyro_vae.evaluation.evidence.moments import WeightedMoments
from pyro_vae.evaluation.posterior.agreement import agreement
from pyro_vae.evaluation.simulation import simulate
from tests.truth import STANDARD_ERRORS

pytestmark = pytest.mark.usefixtures("float64")


def gamma_poisson(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def wide(x):
    """Twice the posterior's variance, at its mean: Gamma(a / 2, b / 2) for the posterior Gamma(a, b)."""
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.Gamma((2.0 + x) / 2, 1.0))


X = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64)
S = 4000


def test_means_and_standard_deviations_are_those_of_the_named_site():
    """Over u = log rate the posterior's mean and that of the wide guide differ; over the rate they do not."""
    target = pv.Target(gamma_poisson, X)
    truth = pv.quadrature(target)
    score = pv.compare(target, posteriors={"wide": wide}, truth=truth, num_samples=S).scores["wide"]
    error = math.sqrt(2 / S + 1 / 4000)  # of both means, in standard deviations of the posterior
    assert bool((score.mean_error < STANDARD_ERRORS * error).all())
    # a sample standard deviation has relative error sqrt((kurtosis - 1) / 4 S), with kurtosis 3 + 6 / shape
    noise = math.sqrt((2 + 6) / (4 * S)) + math.sqrt((2 + 3) / (4 * 4000))
    assert bool((score.std_ratio / math.sqrt(2) - 1).abs().max() < STANDARD_ERRORS * noise)
    found = agreement(target, p=truth, q=wide, num_samples=400, num_permutations=10)
    assert bool((found.std_ratio / math.sqrt(2) - 1).abs().max() < 2 * STANDARD_ERRORS * noise)  # of 1,000 draws


def test_reweighted_moments_are_those_of_the_named_site():
    found = pv.verdict(gamma_poisson, X, wide, reference=pv.quadrature(gamma_poisson, X), num_samples=S)
    exact = torch.distributions.Gamma(2.0 + X, 2.0)
    weights = found.weights
    error = exact.stddev * weights.ess.rsqrt()
    assert bool(((weights.mean[:, 0] - exact.mean).abs() < STANDARD_ERRORS * error).all())
    own = torch.distributions.Gamma((2.0 + X) / 2, 1.0)
    assert bool(((weights.own_mean[:, 0] - own.mean).abs() < STANDARD_ERRORS * own.stddev / S**0.5).all())


def test_a_whole_program_has_a_line_a_site_which_says_which_is_off():
    def program(x):
        mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 1.0))
        tau = pyro.sample("tau", dist.HalfNormal(torch.tensor(1.0)))
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.Normal(mu, 0.5 + tau), obs=x)

    target = pv.Target(program, X[:3] - 1, plate=None)
    truth = pv.quadrature(target)
    q = torch.distributions.MultivariateNormal(truth.mean, truth.covariance_matrix)
    moved = torch.distributions.MultivariateNormal(truth.mean + torch.tensor([2.0, 0.0]), truth.covariance_matrix)
    table = pv.compare(target, posteriors={"q": q, "moved": moved}, truth=truth)
    sites = table.scores["moved"].sites
    assert list(sites) == ["mu", "tau"]
    torch.testing.assert_close(sites["mu"].mean_error, 2 / truth.variance[:, 0].sqrt())  # a real site: exact moments
    assert float(sites["tau"].mean_error) < 0.3  # a Gaussian over log tau is not the posterior
    torch.testing.assert_close(table.scores["q"].sites["mu"].mean_error, torch.zeros(1))
    text = str(table)
    assert text.count("│   mu ") == text.count("│   tau ") == 2
    assert "one posterior, exact log evidence" in text
    frame = table.to_dataframe()
    assert frame.loc["moved", "mean_error_mu"] == pytest.approx(float(sites["mu"].mean_error))
    assert {"mean_error_tau", "std_ratio_mu"} <= set(table.to_dataframe(per_datum=True))


def test_running_moments_are_the_weighted_moments_whatever_the_blocks():
    x, log_w = torch.randn(500, 3, 2) + 1e4, 30 * torch.randn(500, 3)  # far from zero, weights over many magnitudes
    log_w[:7] = -math.inf
    w = log_w.softmax(0)[..., None]
    mean = (w * x).sum(0)
    variance = (w * (x - mean).square()).sum(0)
    for size in (500, 7):
        moments = WeightedMoments()
        for part, weights in zip(x.split(size), log_w.split(size), strict=True):
            moments.add(part, weights)
        torch.testing.assert_close(moments.mean, mean, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(moments.scatter / moments.total[:, None], variance, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(moments.total.square() / moments.square, 1 / w.square().sum((0, 2)))


def test_an_evidence_method_is_one_class(monkeypatch):
    class Laplace(EvidenceMethod):
        name = "laplace"
        bound = True

        def estimate(self, target, posterior, settings):
            value = pv.laplace(target).log_evidence
            return Estimate(value, torch.zeros_like(value), "the curvature at the mode")

    monkeypatch.setitem(room.METHODS, "laplace", Laplace())
    found = pv.evidence(gamma_poisson, X, method="laplace")
    torch.testing.assert_close(found.log_evidence, pv.laplace(gamma_poisson, X).log_evidence)
    assert not found.resolved.any()  # it said that its number is only a bound
    assert pv.evidence(gamma_poisson, X).method == "quadrature"


def test_a_linear_regression_has_its_evidence_in_closed_form():
    design = torch.randn(30, 4)
    y = design.sum(-1) + 0.5 * torch.randn(30)

    def regression(design, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(design @ w, 0.5), obs=y)

    covariance = design @ design.T + 0.25 * torch.eye(30)
    exact = torch.distributions.MultivariateNormal(torch.zeros(30), covariance).log_prob(y)
    found = pv.evidence(regression, (design, y), plate=None)
    assert found.method == "analytic"
    torch.testing.assert_close(found.log_evidence, exact[None], atol=1e-8, rtol=0)
    assert str(found).startswith(f"log p(x) by analytic: {float(exact):.3f} nats; ")


class Scaled(pv.guides.Guide):
    """A guide that takes a covariate; its network leaves traces in training mode."""

    latent_dim = 1

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def posterior(self, x, library):
        loc, raw = self.network(torch.stack([x, library], -1)).chunk(2, -1)
        return dist.Normal(loc.tanh(), 0.2 + 0.2 * raw.sigmoid()).to_event(1)


def counts(x, library):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(library * z[..., 0].exp()), obs=x)


def test_every_measure_takes_covariates_and_leaves_the_guide_in_peace():
    library = torch.linspace(1.0, 5.0, 24)
    x = torch.poisson(library)
    target = pv.Target(counts, (x, library))
    guide = Scaled().train()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    own = pv.gaps(target, guide=guide, family="own", num_steps=2, num_samples=500)
    assert own.family == "own"
    elbo = pv.evidence(target, posterior=guide, method="elbo", num_samples=5000)
    error = (own.elbo_error.square() + elbo.standard_error.square()).sqrt()
    assert bool(((own.elbo - elbo.log_evidence).abs() < STANDARD_ERRORS * error).all())
    first, again = (pv.collapse(counts, guide, (x, library)).variance_of_mean for _ in range(2))
    assert torch.equal(first, again)  # dropout is off
    pv.calibrate(target, posterior=guide, num_draws=9)
    assert guide.training
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())


def test_data_are_simulated_with_their_covariates():
    library = torch.linspace(1.0, 5.0, 60)
    given = (torch.zeros(60), library)
    drawn, u = simulate(counts, given)
    z = (drawn - library * u[:, 0].exp()) / (library * u[:, 0].exp()).sqrt()  # mean 0 and variance 1, given u
    assert abs(float(z.mean())) < STANDARD_ERRORS / 60**0.5
    assert pv.calibrate(counts, given, lambda data: pv.quadrature(counts, data), num_draws=19).calibrated(0.002)
    found = pv.bracket(counts, given, num_temperatures=20, start=lambda data: pv.laplace(counts, data))
    truth = pv.quadrature(counts, (found.x, library)).log_evidence
    assert float((found.log_evidence - truth)[found.resolved].abs().mean()) < 0.05


def test_a_guide_program_is_calibrated_as_it_is():
    def exact(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + x, 2.0))

    def exact_of_both(x, library):
        return exact(x)

    assert pv.calibrate(gamma_poisson, torch.zeros(400), exact).calibrated(0.002)
    assert not pv.calibrate(gamma_poisson, torch.zeros(400), wide).calibrated()

    def with_library(x, library):
        return gamma_poisson(x)

    given = (torch.zeros(400), torch.ones(400))
    assert pv.calibrate(with_library, given, exact_of_both).calibrated(0.002)


def test_the_ledger_of_any_guide_and_what_it_prints_of_one_posterior():
    ledger = pv.gaps(gamma_poisson, X, wide, family="diagonal", num_steps=50, num_samples=500)
    off = ledger.approximation + ledger.amortisation - ledger.gap
    assert bool((off.abs() < 1e-9).all())
    assert bool((ledger.amortisation > 0.05).all())
    with pytest.raises(TypeError, match=r'names its distribution.*family="full"'):
        pv.gaps(gamma_poisson, X, wide)
    one = pv.gaps(gamma_poisson, X[:1], wide, family="full", num_steps=20, num_samples=200)
    assert "one posterior" in str(one)
    assert "nan" not in str(one)
    poor = pv.evidence(gamma_poisson, X, method="ais", num_temperatures=2, tolerance=1e-9)
    text = str(pv.gaps(gamma_poisson, X, wide, truth=poor, family="full", num_steps=5, num_samples=50))
    assert "not resolved" in text
    assert "ELBO of the guide" in text
    assert "approximation" not in text


def test_what_knows_the_evidence_of_other_data_is_refused():
    for measure in (lambda t: pv.gaps(gamma_poisson, X, wide, truth=t, family="full"),
                    lambda t: pv.verdict(gamma_poisson, X, wide, reference=t)):  # fmt: skip
        with pytest.raises(ValueError, match=r"the evidence of 4 data; got \(2,\)"):
            measure(pv.quadrature(gamma_poisson, X[:2]))
