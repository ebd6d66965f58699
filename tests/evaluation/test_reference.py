"""What is known without the posterior that is judged: evidence that misses no narrow mode, and chains beside it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.posterior.reference import Reference, _apart, _without_exact, independent_reference
from pyro_vae.inference.optimum.pathfinder import pathfinder
from tests.truth import STANDARD_ERRORS

NARROW = (0.7, 0.3), (-2.0, 2.0), (1.0, 0.5)


def two_modes(x):
    """A wide mode and a narrow one: annealing from the prior passes the narrow one by, a climb does not."""
    z = pyro.sample("z", dist.Normal(x.new_zeros(5), 4.0).to_event(1))
    terms = [
        math.log(share) + dist.Normal(place * torch.ones_like(z), width).log_prob(z).sum(-1)
        for share, place, width in zip(*NARROW, strict=True)
    ]
    pyro.factor("shape", torch.logaddexp(*terms) - dist.Normal(torch.zeros_like(z), 4.0).log_prob(z).sum(-1))
    pyro.sample("x", dist.Normal(x.new_zeros(()), 1.0), obs=x)


def test_a_narrow_mode_that_annealing_misses_is_found_by_climbing(float64):
    """The evidence is that of x alone; a Gaussian on the wide mode has equal weights, and 0.36 nats too few."""
    target = pv.Target(two_modes, (torch.tensor(0.0),))
    exact = dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    known = _without_exact(target, pathfinder(target, num_paths=200), 0.1)
    assert known.resolved.all()
    assert float((known.log_evidence - exact).abs()) < STANDARD_ERRORS * float(known.standard_error)
    wide = dist.Normal(torch.full((1, 5), NARROW[1][0]), NARROW[2][0]).to_event(1)
    judged = pv.verdict(target, None, wide, reference=known)
    assert judged.decision[0] in {"do not trust", "undecided"}  # the latter where annealing found it with a large error
    off = abs(float(judged.missing) + math.log(NARROW[0][0]))
    assert off < STANDARD_ERRORS * (float(known.standard_error) + 1e-3)
    assert float(judged.weights.pareto_k) < 0.7  # its own weights see nothing


def test_starts_of_chains_lie_apart():
    torch.manual_seed(0)
    u = torch.cat([torch.randn(97, 1, 3), torch.randn(3, 1, 3) + torch.tensor([30.0, 0.0, 0.0])])
    assert (_apart(u, 4)[:, 0, 0] > 15).any()
    assert len(torch.unique(_apart(u, 6), dim=0)) == 6


def test_chains_and_evidence_stand_side_by_side(float64):
    """A mean that is too small by half a standard deviation loses 0.125 nats: hardly more than the tolerance."""
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 4), scale=0.5))
    x = torch.zeros(2, 4)
    exact = pv.analytic(model, x)
    draws = pv.Draws({"z": exact.sample((4, 800))}, acceptance=torch.ones(4, 2), plate="data")
    chains = Reference.of(draws, 2)
    both = Reference(Evidence.of(exact, 2), chains.posterior, chains.rows, chains.converged)
    assert str(both) == "analytic and chains of 2"
    off = dist.MultivariateNormal(exact.loc + 0.5 * exact.stddev, scale_tril=exact.scale_tril)
    found = pv.verdict(model, x, off, reference=both)
    assert found.decision == ["trust after re-weighting"] * 2
    assert (found.mean_shift > 0.35).all()
    assert pv.verdict(model, x, exact, reference=both).decision == ["trust"] * 2


def test_chains_that_have_not_converged_leave_it_to_the_evidence(float64):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(torch.nn.Linear(2, 4), scale=0.5))
    x = torch.zeros(2, 4)
    exact = pv.analytic(model, x)
    apart = exact.sample((4, 800)) + torch.arange(4.0)[:, None, None, None]
    chains = Reference.of(pv.Draws({"z": apart}, acceptance=torch.ones(4, 2), plate="data"), 2)
    assert not chains.converged.any()
    assert pv.verdict(model, x, exact, reference=chains).decision == ["undecided"] * 2
    both = Reference(Evidence.of(exact, 2), chains.posterior, chains.rows, chains.converged)
    assert pv.verdict(model, x, exact, reference=both).decision == ["trust"] * 2


def test_what_is_known_exactly_needs_no_chains():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 5)))
    found = independent_reference(model, torch.zeros(3, 5))
    assert (found.evidence.method, found.exact) == ("quadrature", True)
    linear = pv.Model(pv.priors.StandardNormal(5), pv.likelihoods.Gaussian(torch.nn.Linear(5, 4), scale=0.5))
    assert str(independent_reference(linear, torch.zeros(3, 4))) == "analytic"


def coin(heads, flips):
    rate = pyro.sample("rate", dist.Beta(heads.new_tensor(1.0), 1.0))
    pyro.sample("heads", dist.Binomial(flips, rate), obs=heads)


@pytest.mark.parametrize(("heads", "flips"), [(30.0, 100.0), (12.0, 20.0), (3.0, 10.0)])
def test_a_textbook_posterior_is_trusted_though_its_weights_have_a_tail(float64, heads, flips):
    """A Gaussian over the log odds is 0.001 nats off; k-hat of its weights says 3 at (30, 100), and means nothing."""
    target = pv.Target(coin, (torch.tensor(heads), torch.tensor(flips)), plate=None)
    q = pv.laplace(target)
    found = pv.verdict(target, None, q)
    exact = dist.Beta(1.0 + heads, 1.0 + flips - heads)
    off = abs(float(found.weights.own_mean) - float(exact.mean)) / float(exact.stddev)
    ratio = float(found.weights.own_std) / float(exact.stddev)
    right = off < 0.25 and 0.8 < ratio < 1.25
    assert (found.decision == ["trust"]) == right
    assert right or flips < 50


def test_a_small_mode_far_away_is_not_overlooked_where_the_moments_are_known(float64):
    """Five per cent of the mass at 30 standard deviations: 0.05 nats of evidence, and most of the variance."""

    def far(y):
        z = pyro.sample("z", dist.Normal(y.new_zeros(()), 20.0))
        terms = [math.log(share) + dist.Normal(z - at, 1.0).log_prob(y) for share, at in ((0.95, 0.0), (0.05, 30.0))]
        pyro.factor("y", torch.logaddexp(*terms))
        pyro.sample("x", dist.Normal(y.new_zeros(()), 1.0), obs=y)

    target = pv.Target(far, (torch.tensor(0.0),), plate=None)
    near = dist.Normal(torch.zeros(1, 1), 1.0).to_event(1)
    found = pv.verdict(target, None, near)
    assert found.decision == ["do not trust"]
    assert float(found.std_ratio) < 0.5
    assert found.weights.pareto_k < 0.7
