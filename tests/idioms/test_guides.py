"""Every automatic guide of Pyro's, trained by ``fit`` and taken as a posterior by every measure."""

from functools import cache, partial

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer import autoguide as auto

import pyro_vae as pv
from tests.truth import STANDARD_ERRORS

X = torch.tensor([-0.6, 0.4, 1.1, 1.6], dtype=torch.float64)


def model(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.4))
    loc = pyro.sample("loc", dist.Normal(0.0, scale))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def _listed(program):
    guide = auto.AutoGuideList(program)
    guide.append(auto.AutoNormal(poutine.block(program, expose=["scale"])))

    def own(x):
        loc, scale = pyro.param("own_loc", torch.tensor(0.3)), pyro.param("own_scale", torch.tensor(0.5))
        return {"loc": pyro.sample("loc", dist.Normal(loc, scale))}

    guide.append(own)
    return guide


GUIDES = {
    "AutoNormal": auto.AutoNormal,
    "AutoDiagonalNormal": auto.AutoDiagonalNormal,
    "AutoMultivariateNormal": auto.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": partial(auto.AutoLowRankMultivariateNormal, rank=1),
    "AutoIAFNormal": partial(auto.AutoIAFNormal, hidden_dim=[4], num_transforms=1),
    "AutoNormalizingFlow": lambda p: auto.AutoNormalizingFlow(p, partial(T.iterated, 1, T.affine_autoregressive)),
    "AutoStructured": lambda p: auto.AutoStructured(
        p, conditionals={"scale": "normal", "loc": "normal"}, dependencies={"loc": {"scale": "linear"}}
    ),
    "AutoGaussian": auto.AutoGaussian,
    "AutoNormalMessenger": auto.AutoNormalMessenger,
    "AutoHierarchicalNormalMessenger": auto.AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": auto.AutoRegressiveMessenger,
    "AutoGuideList, AutoCallable": _listed,
}
POINTS = {"AutoDelta": auto.AutoDelta, "AutoLaplaceApproximation": auto.AutoLaplaceApproximation}


def _fresh(make):
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    guide = make(model)
    with poutine.block():
        guide(X)  # where a guide starts is drawn at its first call
    return guide


def _fit(guide, *, epochs=12, lr=0.02, **settings):
    pyro.set_rng_seed(2)
    quiet = {"validation": None, "progress": False, "batch_size": len(X)} | settings
    return pv.fit(model, guide, X, epochs=epochs, lr=lr, **quiet)


@cache
def _pyros_steps(name):
    guide = _fresh((GUIDES | POINTS)[name])
    pyro.set_rng_seed(2)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    return [-svi.step(X) / len(X) for _ in range(12)]


@pytest.mark.parametrize("compile", [False, "auto"])
@pytest.mark.parametrize("name", [*GUIDES, *POINTS])
def test_fit_takes_pyros_steps(name, compile, float64, monkeypatch):
    from pyro_vae.inference.variational import engine

    monkeypatch.setattr(engine, "STEPS_TO_TRACE", 5)
    expected = _pyros_steps(name)
    history = _fit(_fresh((GUIDES | POINTS)[name]), compile=compile)
    assert history.train_elbo == pytest.approx(expected, abs=1e-5)
    assert compile is False or history.engine.startswith("one graph a step"), history.engine


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_weighs_the_evidence_and_is_measured(name, float64):
    guide = _fresh(GUIDES[name])
    _fit(guide, epochs=150, lr=0.05, compile=False)
    target = pv.Target(model, X)
    truth = pv.quadrature(target)
    found = pv.evidence(target, posterior=guide, method="importance", num_samples=3000)
    error = STANDARD_ERRORS * float(found.standard_error) + float(truth.error_bound)
    assert float(found.standard_error) < 0.15
    assert abs(float(found.log_evidence - truth.log_evidence)) < error
    score = pv.compare(target, posteriors={"VI": guide}, truth=truth, num_samples=2000).scores["VI"]
    gap, gap_error = float(score.gap), float(score.bound_error)
    assert float(score.kl) == pytest.approx(gap, abs=STANDARD_ERRORS * gap_error + 0.02)
    assert -STANDARD_ERRORS * gap_error < gap < 0.5
    assert pv.verdict(target, posterior=guide, reference=truth, num_samples=2000).decision[0].startswith("trust")
    ledger = pv.gaps(target, guide=guide, family="full", truth=truth, num_steps=5, num_samples=200)
    torch.testing.assert_close(ledger.elbo + ledger.approximation + ledger.amortisation, truth.log_evidence)
    assert pv.to_arviz(target, posterior=guide, num_samples=20).posterior["scale"].shape == (1, 20)


@pytest.mark.parametrize("name", POINTS)
def test_a_point_says_that_it_is_one(name, float64):
    guide = _fresh(POINTS[name])
    _fit(guide, compile=False)
    target = pv.Target(model, X)
    for measure in (
        lambda: pv.evidence(target, posterior=guide, method="importance"),
        lambda: pv.gaps(target, guide=guide, family="diagonal"),
        lambda: pv.verdict(target, posterior=guide),
    ):
        with pytest.raises(
            ValueError, match=r"a posterior with a density; got a point mass.*laplace in place of the mode"
        ):
            measure()
    score = pv.compare(target, posteriors={"point": guide}).scores["point"]
    assert bool(score.bound.isnan())
    assert bool(score.kl.isnan())
    assert float(score.std_ratio) == 0.0


def test_pyros_laplace_approximation_is_this_one(float64):
    guide = _fresh(auto.AutoLaplaceApproximation)
    for lr in (0.05, 0.005, 0.0005):
        _fit(guide, epochs=150, lr=lr, compile=False)
    found = pv.laplace(model, X)
    own = guide.laplace_approximation(X)
    target = pv.Target(model, X)
    u, log_q = pv.inference.posterior.GuideSampler(target, own).sample(50)
    torch.testing.assert_close(log_q, found.log_prob(u), atol=0.05, rtol=0)


def test_a_discrete_guide_is_given_its_sites_and_fits_what_is_summed(float64):
    @pyro.infer.config_enumerate
    def mixture(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(loc + 2.0 * c, 0.7), obs=x)

    guide = auto.AutoGuideList(mixture)
    guide.append(auto.AutoNormal(poutine.block(mixture, hide=["c"])))
    guide.append(auto.AutoDiscreteParallel(poutine.block(mixture, expose=["c"])))
    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    quiet = {"validation": None, "progress": False, "batch_size": len(X), "compile": False}
    history = pv.fit(mixture, guide, X, epochs=60, lr=0.05, loss=loss, **quiet)
    assert history.train_elbo[-1] > history.train_elbo[0]
    with pytest.raises(ValueError, match=r"guide with the latent sites \['loc'\]; got \['c', 'loc'\]"):
        pv.compare(mixture, X, {"VI": guide})


@pytest.mark.parametrize("compile", [False, "auto"])
def test_numbers_that_a_mask_takes_out_keep_their_prior_in_fit(compile):
    """Pyro leaves them none, so that its ELBO grows with their entropies without end."""

    def program(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.7), obs=x.nan_to_num(), obs_mask=~x.isnan())

    x = torch.tensor([1.0, 2.0, torch.nan, 0.5])
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = auto.AutoNormal(program)
    same = {"validation": None, "progress": False, "batch_size": 4, "compile": compile}
    history = pv.fit(program, guide, x, epochs=300, lr=0.05, **same)
    elbo = 4 * torch.tensor(history.train_elbo[-100:])
    log_evidence = float(pv.evidence(program, x).log_evidence)
    assert log_evidence - 1 < float(elbo.mean()) < log_evidence + STANDARD_ERRORS * float(elbo.std()) / 100**0.5
