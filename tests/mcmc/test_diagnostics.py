"""R-hat, ESS and MCSE are ArviZ'; Draws says what it holds."""

import warnings

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.mcmc import diagnostics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz


def autoregressive(C, S, M, dtype=torch.float64):
    """Columns from antithetic to nearly stuck, one with ties, one whose chains disagree."""
    phi = torch.linspace(-0.9, 0.98, M, dtype=dtype)
    x = torch.randn(C, S, M, dtype=dtype)
    for t in range(1, S):
        x[:, t] = phi * x[:, t - 1] + x[:, t] * (1 - phi**2).sqrt()
    x[..., 2] = x[..., 2].round()
    x[..., 3] += torch.arange(C, dtype=dtype)[:, None]
    return x


ORACLES = {
    "rhat": arviz.rhat,
    "ess_bulk": arviz.ess,
    "ess_tail": lambda a: arviz.ess(a, method="tail", prob=(0.05, 0.95)),
    "ess_mean": lambda a: arviz.ess(a, method="mean"),
    "mcse_mean": arviz.mcse,
    "mcse_std": lambda a: arviz.mcse(a, method="sd"),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize(("C", "S"), [(4, 200), (4, 201), (2, 7), (3, 4), (4, 5)])
def test_equals_arviz(name, C, S):
    x = autoregressive(C, S, 8)
    expected = [float(ORACLES[name](x[..., m].numpy())) for m in range(8)]
    np.testing.assert_allclose(getattr(diagnostics, name)(x).numpy(), expected, rtol=1e-12)


def test_float32_equals_arviz_too():
    x = autoregressive(4, 200, 8, torch.float32)
    expected = [float(arviz.rhat(x[..., m].numpy().astype(float))) for m in range(8)]
    np.testing.assert_allclose(diagnostics.rhat(x).numpy(), expected, rtol=1e-5)
    expected = [float(arviz.ess(x[..., m].numpy().astype(float))) for m in range(8)]
    np.testing.assert_allclose(diagnostics.ess_bulk(x).numpy(), expected, rtol=1e-4)


def test_many_columns_are_worked_on_in_chunks(monkeypatch):
    x = autoregressive(4, 50, 8)
    whole = diagnostics.convergence(x)
    monkeypatch.setattr(diagnostics, "_CHUNK", 400)
    for a, b in zip(whole, diagnostics.convergence(x), strict=True):
        torch.testing.assert_close(a, b)


def test_nan_never_looks_converged():
    x = torch.randn(4, 100, 3)
    x[1, 5, 2] = torch.nan
    assert torch.isnan(diagnostics.rhat(x)).tolist() == [False, False, True]
    draws = pv.Draws({"z": x.repeat(1, 4, 1)[..., None]}, acceptance=torch.ones(4, 3), plate="data")
    assert not draws.converged()[2]


def test_one_chain_is_compared_with_itself():
    drift = torch.randn(1, 400, 1) + torch.linspace(0, 3, 400)[:, None]
    assert float(diagnostics.rhat(drift)) > 1.1


def test_disagreeing_chains_are_named():
    x = torch.randn(4, 500, 3, 2)
    x[0, :, 1] += 1.0
    diverging = torch.zeros(4, 500, 3, dtype=torch.bool)
    diverging[2, 7, 0] = True
    draws = pv.Draws({"z": x}, acceptance=torch.ones(4, 3), diverging=diverging, complete=False, plate="data")
    assert draws.converged().tolist() == [True, False, True]
    r_hat = f"{float(draws.rhat['z'].max()):.2f}"
    assert draws.verdict == (
        "2 of 3 posteriors converged (R-hat < 1.01, ESS > 400); "
        f"these did not: 1 (R-hat {r_hat} at 'z'; more warm-up, or look for several modes); "
        "1 divergent draws, in posteriors 0: try target_accept_prob=0.95; interrupted after 500 draws a chain"
    )


def test_a_number_that_never_moves_is_not_judged():
    x = torch.randn(4, 500, 2, 2)
    x[..., 0] = 0.0  # as above the diagonal of a triangular factor
    draws = pv.Draws({"z": x}, acceptance=torch.ones(4, 2), plate="data")
    assert draws.converged().all()


@pytest.fixture
def draws():
    samples = {"a": torch.randn(3, 10, 4, 2), "b": torch.rand(3, 10, 4)}
    diverging = torch.zeros(3, 10, 4, dtype=torch.bool)
    return pv.Draws(samples, acceptance=torch.rand(3, 4), diverging=diverging, step_size=torch.ones(4), plate="rows")


def test_moments_thinning_and_rows(draws):
    torch.testing.assert_close(draws.mean()["a"], draws.samples["a"].reshape(30, 4, 2).mean(0))
    torch.testing.assert_close(draws.std()["b"], draws.samples["b"].reshape(30, 4).std(0))
    assert draws.thin(5).samples["a"].shape == (3, 2, 4, 2)
    torch.testing.assert_close(draws.thin(5).samples["b"], draws.samples["b"][:, [4, 9]])
    torch.testing.assert_close(draws.rows([2, 0]).samples["a"], draws.samples["a"][:, :, [2, 0]])
    assert draws.rows([2, 0]).divergences.shape == (2,)


def test_to_arviz_names_chains_draws_and_the_plate(draws):
    found = draws.to_arviz()
    assert found.posterior["a"].dims == ("chain", "draw", "rows", "a_dim_0")
    assert found.sample_stats["diverging"].dims == ("chain", "draw", "rows")
    np.testing.assert_array_equal(found.posterior["a"].values, draws.samples["a"].numpy())


def test_to_arviz_of_a_whole_program_has_no_plate():
    draws = pv.Draws({"m": torch.randn(2, 10, 1, 3)}, acceptance=torch.ones(2, 1))
    assert draws.to_arviz().posterior["m"].shape == (2, 10, 3)


def test_to_empirical_is_a_batch_of_distributions(draws):
    empirical = draws.to_empirical("a")
    assert isinstance(empirical, dist.Empirical)
    assert (empirical.batch_shape, empirical.event_shape) == ((4,), (2,))
    torch.testing.assert_close(empirical.mean, draws.mean()["a"])
    with pytest.raises(ValueError, match="the name of one site"):
        draws.to_empirical()
    with pytest.raises(ValueError, match="try 'a'"):
        draws.to_empirical("aa")


@pytest.mark.parametrize("S", [1, 3])
def test_too_few_draws_are_no_diagnosis(S):
    draws = pv.Draws({"z": torch.randn(4, S, 3, 2)}, acceptance=torch.ones(4, 3), plate="data")
    for found in (draws.rhat, draws.ess_bulk, draws.ess_tail, draws.mcse, draws.mcse_std):
        assert found["z"].shape == (3, 2)
        assert torch.isnan(found["z"]).all()
    assert draws.verdict.startswith("0 of 3")
