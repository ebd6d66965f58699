"""Priors whose draws have not their density: annealing from them is refused, and right from elsewhere."""

import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.evaluation.posterior.reference import independent_reference
from tests.idioms.routes import Case


@pytest.mark.parametrize("name", ["NeuTraReparam", "SplitReparam", "ImproperUniform, its density at another site"])
def test_annealing_from_such_a_prior_is_refused(name, float64):
    target = Case(name).target
    words = r"a prior whose draws have its density, to anneal from; got masks, scales or densities without draws at"
    with pytest.raises(ValueError, match=words + r' .*try start="chains"'):
        pv.evidence(target, method="ais", start=None, num_temperatures=3)
    known = independent_reference(target)  # which has other ways to the same evidence
    assert known.exact
    torch.testing.assert_close(known.evidence.log_evidence, Case(name).truth.log_evidence, rtol=0, atol=1e-2)


def test_a_scaled_or_masked_prior_is_one(float64):
    def program(x, how):
        with how:
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x[0])

    for how in (pyro.poutine.scale(scale=2.0), pyro.poutine.mask(mask=torch.tensor(False))):
        assert pv.Target(program, (torch.ones(1), how)).improper == ["z"]
    for how in (pyro.poutine.scale(scale=1.0), pyro.poutine.mask(mask=True)):
        assert pv.Target(program, (torch.ones(1), how)).improper == []


def test_an_observed_site_that_latents_determine_is_prior_and_data_are_data(float64):
    target = Case("NeuTraReparam").target
    assert target.observed == ["x"]
    _, likelihood = target.log_parts(torch.zeros(1, 2))
    site = target.trace(torch.zeros(1, 2))["x"]
    torch.testing.assert_close(likelihood, site["fn"].log_prob(site["value"]).sum().reshape(1))
    assert Case("imputation by latent sites").target.observed == ["x"]  # one of whose numbers is a latent's
