"""Posteriors to ArviZ, and the evaluation's figures."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae import plots
from tests.truth import STANDARD_ERRORS


@pytest.fixture
def problem():
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
    x = model.sample(5)["x"]
    return model, x


@pytest.mark.parametrize("kind", ["distribution", "guide", "draws"])
def test_arviz_gets_all_groups(problem, kind):
    model, x = problem
    posterior = {
        "distribution": pv.laplace(model, x),
        "guide": pv.guides.DiagonalGaussian(nn.Linear(6, 4)),
        "draws": pv.Draws({"z": torch.randn(2, 50, 5, 2)}, acceptance=torch.ones(2, 5), plate="data"),
    }[kind]
    found = pv.to_arviz(model, x, posterior, num_samples=100)
    chains = 2 if kind == "draws" else 1
    z = torch.as_tensor(found.posterior["z"].to_numpy())
    assert z.shape == (chains, 100 // chains, 5, 2)
    expected = model.decode(z).log_prob(x)
    torch.testing.assert_close(torch.as_tensor(found.log_likelihood["x"].to_numpy()), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.as_tensor(found.sample_stats["lp"].to_numpy()), expected + model.prior().log_prob(z), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(torch.as_tensor(found.observed_data["x"].to_numpy()), x)
    assert (
        found.posterior["z"].dims[2] == found.log_likelihood["x"].dims[2] == found.observed_data["x"].dims[0] == "data"
    )


def test_arviz_can_take_it_from_there(problem):
    model, x = problem
    found = pv.to_arviz(model, x, pv.laplace(model, x), num_samples=400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        loo = arviz.loo(found)
    assert loo.n_data_points == 5
    # every datum has its own z, so p(x | x itself left out) by importance weights is the prior predictive
    elpd = loo.elpd if hasattr(loo, "elpd") else loo.elpd_loo  # ArviZ 1, ArviZ 0
    assert elpd < float(torch.as_tensor(found.log_likelihood["x"].to_numpy()).mean((0, 1)).sum())


@pytest.mark.parametrize("whole", [True, False])
def test_predictive_groups_are_draws_of_the_program(whole, float64):
    """x = z + noise: posterior predictive N(x/2, 3/2) of one z a datum, prior predictive N(0, 2); S = 600."""

    def program(x):
        with pyro.plate("rows" if whole else "data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("double", 2 * z, event_dim=0)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.tensor([-1.0, 0.0, 2.0])
    target = pv.Target(program, x, plate=None if whole else "data")
    found = pv.to_arviz(target, posterior=pv.laplace(target), num_samples=600, predictive=True)
    for group, mean, variance in (("posterior_predictive", x / 2, 1.5), ("prior_predictive", 0 * x, 2.0)):
        drawn = torch.as_tensor(found[group]["x"].to_numpy())[0]
        assert drawn.shape == (600, 3)
        error = STANDARD_ERRORS * variance**0.5 / 600**0.5
        assert bool(((drawn.mean(0) - mean).abs() < error).all())
        assert bool(((drawn.var(0) / variance - 1).abs() < STANDARD_ERRORS * (2 / 600) ** 0.5).all())
    dims = found["posterior_predictive"]["x"].dims
    assert dims == ("chain", "draw", "x_dim_0" if whole else "data")
    assert found["prior"]["z"].shape == (1, 600, 3)
    np.testing.assert_allclose(found["posterior"]["double"].to_numpy(), 2 * found["posterior"]["z"].to_numpy())


def test_predictive_draws_go_with_the_discrete_sites_beside_them(float64):
    from tests import discrete_programs as programs

    target = pv.Target(programs.per_datum, programs.X)
    found = pv.to_arviz(target, posterior=pv.laplace(target), num_samples=30, predictive=True)
    assert found["posterior_predictive"]["x"].shape == (1, 30, 3)
    target = pv.Target(programs.zero_inflated, programs.X)
    found = pv.to_arviz(target, posterior=pv.laplace(target), num_samples=300, predictive=True)
    off = found["posterior"]["off"].to_numpy().reshape(300, -1)
    drawn = found["posterior_predictive"]["x"].to_numpy().reshape(300, -1)
    assert drawn[off == 1].max() == 0  # a rate of 1e-6
    assert drawn[off == 0].max() > 0


def test_figures_draw(problem, tmp_path):
    model, x = problem
    guide = pv.guides.DiagonalGaussian(nn.Linear(6, 4))
    truth = pv.quadrature(model, x)
    ledger = pv.gaps(model, x, guide, truth=truth, num_steps=20, num_samples=100)
    found = pv.verdict(model, x, guide, reference=truth, num_samples=500)
    ranks = pv.calibrate(model, torch.zeros(50, 6), guide)
    figures = {
        "ledger": plots.gap_ledger({"training": ledger, "test": ledger}),
        "verdict": plots.verdict_map(found),
        "ranks": plots.calibration_ranks(ranks),
        "bracket": plots.bracket_widths(pv.bracket(model, x, num_temperatures=10)),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    bars = [patch.get_height() for patch in figures["ledger"].axes[0].patches]
    assert sum(bars[:2]) == pytest.approx(float(ledger.gap.mean()), abs=1e-4)
    with pytest.raises(ValueError, match="ledger"):
        plots.gap_ledger({})
