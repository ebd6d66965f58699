"""The ledger of gaps, against closed forms."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.evaluation.posterior.gaps import gaps
from pyro_vae.inference.target.target import Target


@pytest.fixture
def problem():
    """A linear-Gaussian model with correlated posteriors, data, and the exact answer."""
    network = nn.Linear(2, 3)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.9], [0.7, 1.0], [0.3, 0.2]]))
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(network, scale=0.6))
    x = model.sample(30)["x"]
    return model, x, pv.analytic(model, x)


def mean_field_gap(exact):
    """KL of the best diagonal Gaussian: half of log(prod of precisions' diagonal / det precision)."""
    precision = exact.precision_matrix
    return 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision))


def test_the_approximation_gap_of_mean_field_has_its_closed_form(problem):
    model, x, exact = problem
    guide = dist.Normal(exact.loc + 0.3, 0.5 * torch.ones(30, 2)).to_event(1)
    ledger = gaps(model, x, guide)
    assert ledger.family == "diagonal"
    assert ledger.evidence_method == "analytic"
    expected = mean_field_gap(exact)
    assert (expected > 0.1).all()
    off = ledger.approximation - expected
    assert (off.abs() < 4.5 * ledger.approximation_error + 0.01).all()
    assert abs(float(off.mean())) < 4.5 * float(off.std()) / math.sqrt(30) + 0.005
    kl = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(guide.mean, torch.diag_embed(guide.variance)),
        torch.distributions.MultivariateNormal(exact.loc, scale_tril=exact.scale_tril),
    )
    assert ((ledger.gap - kl).abs() < 4.5 * ledger.elbo_error).all()
    assert ((ledger.amortisation - kl + expected).abs() < 4.5 * ledger.amortisation_error + 0.01).all()


def test_a_full_family_has_no_gap_of_its_own(problem):
    model, x, exact = problem
    guide = dist.MultivariateNormal(exact.loc + 0.5, scale_tril=1.5 * exact.scale_tril)
    ledger = gaps(model, x, guide)
    assert ledger.family == "full"
    assert ledger.approximation.abs().max() < 0.01  # the path gradient's noise vanishes at the posterior
    assert (ledger.amortisation > 0.3).all()
    assert ledger.amortisation_share > 0.97


def test_the_best_guide_has_nothing_left_to_gain(problem):
    model, x, exact = problem
    precision = exact.precision_matrix.diagonal(dim1=-2, dim2=-1)
    ledger = gaps(model, x, dist.Normal(exact.loc, precision.rsqrt()).to_event(1))
    assert ledger.amortisation.max() < 0.01


def test_any_guide_of_a_network_has_a_family_of_its_own(problem):
    model, x, _ = problem
    guide = pv.guides.DiagonalGaussian(nn.Linear(3, 4))
    own, diagonal = (gaps(model, x, guide, family=family) for family in ("own", "diagonal"))
    torch.testing.assert_close(own.best_elbo, diagonal.best_elbo, atol=0.05, rtol=0)
    before = [p.clone() for p in guide.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True))
    assert all(p.requires_grad and p.grad is None for p in guide.parameters())


def test_ledger_adds_up_and_prints(problem):
    model, x, _ = problem
    ledger = gaps(model, x, pv.guides.DiagonalGaussian(nn.Linear(3, 4)), num_steps=100)
    torch.testing.assert_close(ledger.gap, ledger.approximation + ledger.amortisation, atol=1e-4, rtol=1e-4)
    frame = ledger.to_dataframe()
    assert len(frame) == 30
    assert "amortisation gap" in str(ledger)


def test_an_unresolved_evidence_gives_no_gap(problem):
    model, x, _ = problem
    truth = pv.evidence(model, x, method="ais", num_temperatures=2, tolerance=1e-9)
    ledger = gaps(model, x, pv.laplace(model, x), truth=truth, num_steps=10)
    frame = ledger.to_dataframe()
    assert frame["approximation"].isna().all()
    assert not frame["amortisation"].isna().any()  # needs no evidence


def test_the_truth_may_be_any_route(problem):
    model, x, exact = problem
    ledger = gaps(model, x, pv.laplace(model, x), truth=pv.quadrature(model, x), num_steps=10)
    torch.testing.assert_close(ledger.log_evidence, exact.log_evidence, atol=1e-4, rtol=0)
    assert Target(model, x).num_data == len(ledger.gap)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"family": "flow"}, ValueError, "'full'|'own'|'diagonal'"),
        ({"truth": 3.0}, TypeError, "pv.evidence"),
        ({"guide": lambda x: None}, TypeError, "DiagonalGaussian"),
    ],
)
def test_errors(problem, arguments, error, message):
    model, x, exact = problem
    guide = arguments.pop("guide", exact)
    with pytest.raises(error, match=message):
        gaps(model, x, guide, **arguments)
