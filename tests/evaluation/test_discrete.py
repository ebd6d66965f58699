"""Evidence, gaps, verdict and comparison of programs with discrete sites: nothing is another for having been summed."""

import pytest
import torch

import pyro_vae as pv
from tests import discrete_programs as programs
from tests.truth import STANDARD_ERRORS


@pytest.fixture
def truth(float64):
    return pv.quadrature(programs.per_datum, programs.X)


def test_every_draw_weighs_the_evidence_where_the_posterior_is_exact(truth):
    for method in ("importance", "elbo"):
        found = pv.evidence(programs.per_datum, programs.X, method=method, posterior=truth, num_samples=5)
        torch.testing.assert_close(found.log_evidence, truth.log_evidence, rtol=0, atol=1e-9)


def test_annealing_and_bridge_sampling_find_the_evidence(truth):
    target = pv.Target(programs.per_datum, programs.X)
    annealed = pv.evidence(target, method="ais", num_chains=16, num_temperatures=10)
    draws = pv.mcmc(target, kernel=pv.MALA(), num_samples=300, warmup_steps=100, compile=False)
    bridged = pv.evidence(target, method="bridge", posterior=draws)
    for found in (annealed, bridged):
        error = STANDARD_ERRORS * found.standard_error + 1e-6
        assert bool(((found.log_evidence - truth.log_evidence).abs() <= error).all())


def test_routes_are_compared_with_the_truth(truth):
    target = pv.Target(programs.per_datum, programs.X)
    routes = {"exact": truth, "Laplace": pv.laplace(target)}
    scores = pv.compare(target, posteriors=routes, truth=truth, num_samples=200).scores
    torch.testing.assert_close(scores["exact"].kl, torch.zeros(3), rtol=0, atol=1e-9)
    assert bool((scores["Laplace"].kl > 0.01).any())


def test_the_ledger_of_gaps_adds_up_and_chains_judge_a_posterior(truth):
    target = pv.Target(programs.per_datum, programs.X)
    ledger = pv.gaps(target, guide=pv.laplace(target), truth=truth, num_steps=20, num_samples=100)
    torch.testing.assert_close(ledger.elbo + ledger.approximation + ledger.amortisation, truth.log_evidence)
    draws = pv.mcmc(target, kernel=pv.IndependenceMH(), guide=truth, num_samples=130, warmup_steps=1, compile=False)
    judged = pv.verdict(target, posterior=truth, reference=draws, num_samples=400)
    assert judged.decision == ["trust"] * 3, judged.reasons


@pytest.mark.parametrize("measure", [pv.gaps, pv.verdict, pv.to_arviz, lambda m, x, q: pv.compare(m, x, {"q": q})])
def test_measures_of_a_posterior_over_nothing_say_what_has_one(measure, float64):
    found = pv.quadrature(programs.all_discrete, programs.X)
    with pytest.raises(ValueError, match=r"discrete ones alone, \['c'\]; try quadrature"):
        measure(programs.all_discrete, programs.X, found)
