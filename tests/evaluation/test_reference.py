"""What is known without the posterior that is judged: evidence that misses no narrow mode, and chains beside it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation.evidence.evidence import Evidence
from pyro_vae.evaluation.posterior.reference import (
    Reference,
    _apart,
    _chains,
    _climbed,
    _without_exact,
    independent_reference,
)
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


def test_chains_that_agree_and_are_short_run_again(float64, monkeypatch):
    """Fifty draws of each chain are too few for an effective size of 400; those that disagree are left as they are."""
    lengths = []

    def counted(target, *, num_samples, **settings):
        lengths.append(num_samples)
        return pv.mcmc(target, num_samples=num_samples, compile=False, progress=False, **settings)

    monkeypatch.setattr("pyro_vae.evaluation.posterior.reference.mcmc", counted)
    monkeypatch.setattr("pyro_vae.evaluation.posterior.reference._LENGTHS", ((50, 20), (60, 20)))
    target = pv.Target(two_modes, (torch.tensor(0.0),))
    one = torch.full((6, 1, 5), -2.0) + 0.1 * torch.randn(6, 1, 5, generator=torch.Generator().manual_seed(0))
    pyro.set_rng_seed(0)
    assert _chains(target, one).num_samples == 60
    assert lengths == [50, 60]
    _chains(target, torch.cat([one[:3], one[3:] + 4.0]))
    assert lengths == [50, 60, 50]


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


def mode_of(share, place, width):
    """A Gaussian on one of the two modes, as Pathfinder's paths leave it."""
    return dist.Normal(torch.full((1, 5), place), width).to_event(1)


@pytest.mark.parametrize(
    ("off", "error", "resolved", "taken"),
    [
        (math.log(0.7), 0.03, True, True),  # annealing passed a mode by, and is sure of itself
        (math.log(0.7), 0.003, True, True),  # and surer than the weights are
        (-0.05, 0.1, True, True),  # both agree; the weights know it more closely
        (0.6, 0.4, False, False),  # unresolved, but it has seen more than the paths did
        (-0.6, 0.4, False, True),
    ],
)
def test_the_larger_of_two_lower_bounds_is_taken(float64, off, error, resolved, taken):
    target = pv.Target(two_modes, (torch.tensor(0.0),))
    exact = dist.Normal(0.0, 1.0).log_prob(torch.tensor([0.0]))
    annealed = Evidence(exact + off, torch.tensor([error]), "ais", torch.tensor([resolved]), "")
    modes = [mode_of(*mode) for mode in zip(*NARROW, strict=True)]
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([[0.5, 0.5]])),
        dist.Normal(torch.stack([m.mean for m in modes], 1), torch.stack([m.stddev for m in modes], 1)).to_event(1),
    )
    found = _climbed(target, annealed, mixture, 0.1)
    if not taken:
        assert found is annealed
        return
    assert found.method == "ais and Pathfinder"
    assert found.resolved.all()
    assert float(found.standard_error) < 0.02
    assert float((found.log_evidence - exact).abs()) < STANDARD_ERRORS * float(found.standard_error)


def test_a_grid_whose_bound_is_large_knows_nothing():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 5)))
    x = torch.zeros(3, 5)
    grid = pv.quadrature(model, x)
    q = pv.laplace(model, x)
    known = pv.verdict(model, x, q, reference=grid)
    assert "undecided" not in known.decision
    grid.error_bound = torch.tensor([0.0, 1.8, torch.inf])
    doubted = pv.verdict(model, x, q, reference=grid)
    assert doubted.decision == [known.decision[0], "undecided", "undecided"]


def test_where_no_path_can_start_annealing_answers_alone(float64):
    """The data lie far beyond what a scale between exp(-2) and exp(2) can reach."""

    def beyond(y):
        with pyro.plate("parts", 4):
            width = pyro.sample("width", dist.LogNormal(y.new_tensor(6.0), 0.3))
        pyro.sample("y", dist.Uniform(0.0, width.min()), obs=y)

    target = pv.Target(beyond, (torch.tensor(50.0),), plate=None)
    with pytest.raises(ValueError, match="finite density"):
        pathfinder(target)
    found = independent_reference(target)
    assert found.posterior is None
    draws = dist.LogNormal(6.0, 0.3).sample((200_000, 4)).min(-1).values
    values = torch.where(draws > 50.0, 1 / draws, 0.0)
    error = float(values.std() / values.mean()) / 200_000**0.5
    off = float(found.evidence.log_evidence) - float(values.mean().log())
    assert abs(off) < STANDARD_ERRORS * (float(found.evidence.standard_error) + error)
