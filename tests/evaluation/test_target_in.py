"""Target in, answer out: every measure takes a Target in place of a program and its data, and builds one at most."""

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.evaluation.posterior.agreement import agreement

N, L = 20, 2  # two latents: what a gap and a verdict compare with is quick


@pytest.fixture
def problem():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(L, 6), nn.Tanh(), nn.Linear(6, 5))
    model = pv.Model(pv.priors.StandardNormal(L), pv.likelihoods.Bernoulli(decoder))
    return model, model.sample(N)["x"], pv.guides.DiagonalGaussian(nn.Linear(5, 2 * L))


@pytest.fixture
def built(monkeypatch):
    """The targets built so far; those of some of another's rows are not counted."""
    found = []
    build, index = pv.Target.__init__, pv.Target._indexed

    def counted(target, *args, **settings):
        found.append(target)
        build(target, *args, **settings)

    def indexed(target, *args):
        before = len(found)
        some = index(target, *args)
        del found[before:]
        return some

    monkeypatch.setattr(pv.Target, "__init__", counted)
    monkeypatch.setattr(pv.Target, "_indexed", indexed)
    return found


MEASURES = {
    "evidence": lambda g, *to: pv.evidence(*to, method="ais", num_temperatures=3, tolerance=9.0).log_evidence,
    "importance": lambda g, *to: pv.evidence(*to, posterior=g, method="importance", num_samples=50).log_evidence,
    "laplace's weights": lambda g, *to: pv.evidence(*to, method="importance", num_samples=50).log_evidence,
    "compare": lambda g, *to: pv.compare(*to, posteriors={"VI": g}, num_samples=10).scores["VI"].bound,
    "gaps": lambda g, *to: pv.gaps(*to, guide=g, num_steps=3, num_samples=10).elbo,
    "verdict": lambda g, *to: pv.verdict(*to, posterior=g, num_samples=50, tolerance=9.0).gap,
    "agreement": lambda g, *to: agreement(*to, p=g, q=g, num_samples=20, num_permutations=5).mean_shift,
    "collapse": lambda g, *to: pv.collapse(to[0], g, *to[1:]).mutual_information,
    "to_arviz": lambda g, *to: torch.as_tensor(pv.to_arviz(*to, posterior=g, num_samples=5).sample_stats["lp"].values),
    "calibrate": lambda g, *to: pv.calibrate(*to, posterior=g, num_draws=9).ranks,
    "bracket": lambda g, *to: pv.bracket(*to, num_temperatures=3).lower,
}  # fmt: skip
SIMULATED = {"calibrate", "bracket"}  # these look at data of their own, which need a target of their own


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_builds_one_target_or_takes_it(problem, built, name):
    model, x, guide = problem
    target = pv.Target(model, x)
    answers = []
    for to, expected in (((model, x), 1), ((target,), 0)):
        built.clear()
        torch.manual_seed(1)
        answers.append(MEASURES[name](guide, *to))
        assert len(built) == expected * (name != "collapse") + (name in SIMULATED)
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"collapse"}))
def test_data_beside_a_target_and_a_program_without_data_are_refused(problem, name):
    model, x, guide = problem
    with pytest.raises(ValueError, match="data beside it"):
        MEASURES[name](guide, pv.Target(model, x), x)
    with pytest.raises(ValueError, match="data x beside a program"):
        MEASURES[name](guide, model)


@pytest.mark.parametrize("measure", [pv.verdict, pv.gaps, pv.compare, pv.to_arviz, pv.calibrate, agreement])
def test_a_measure_of_nothing_is_refused_in_words(problem, measure):
    model, x, _ = problem
    with pytest.raises((TypeError, ValueError), match="expected"):
        measure(pv.Target(model, x))


def test_a_figure_over_models_takes_a_target(built):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nn.Linear(2, 5)))
    target = pv.Target(model, model.sample(3)["x"])
    truth = pv.quadrature(target)
    built.clear()
    figure = plots.posterior_contours(target, posteriors={"Laplace": pv.laplace(target)}, truth=truth, rows=[0, 2])
    assert not built
    assert [axes.get_title() for axes in figure.axes] == ["datum 0", "datum 2"]
