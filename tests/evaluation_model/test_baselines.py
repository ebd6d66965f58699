"""Baselines against scikit-learn, SciPy and brute-force integration."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture

import pyro_vae as pv
from pyro_vae.evaluation.model.copula import Copula
from pyro_vae.evaluation.model.marginals import Discrete, KernelDensity, density, resolution
from tests.truth import STANDARD_ERRORS


def _table(n=400, d=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2)) @ rng.standard_normal((2, d)) + 0.5 * rng.standard_normal((n, d))
    return x * np.array([1.0, 100.0, 0.01, 5.0, 2.0])[:d] + 3


def test_each_gaussian_baseline_is_scikit_learns_in_the_tables_own_units():
    x, test = np.split(_table(), [300])
    found = pv.baselines(x, test, latent_dim=2).log_prob
    scale = x.std(0)
    a, b = (x - x.mean(0)) / scale, (test - x.mean(0)) / scale
    shrunk = LedoitWolf().fit(a)
    expected = {
        "independent columns": stats.norm(x.mean(0), scale).logpdf(test).sum(1),
        "Gaussian": stats.multivariate_normal(shrunk.location_, shrunk.covariance_).logpdf(b) - np.log(scale).sum(),
        "factor analysis": FactorAnalysis(2, max_iter=5000, svd_method="lapack").fit(a).score_samples(b)
        - np.log(scale).sum(),
        "probabilistic PCA": PCA(2).fit(a).score_samples(b) - np.log(scale).sum(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-4, err_msg=name)


def test_the_mixture_is_scikit_learns_of_lowest_bic():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 2)) + 6 * rng.integers(0, 3, (600, 1))
    x, test = np.split(x, [500])
    found = pv.baselines(x, test, latent_dim=1)
    a, b = (x - x.mean(0)) / x.std(0), (test - x.mean(0)) / x.std(0)
    best = min(
        (
            GaussianMixture(k, covariance_type=c, n_init=2, reg_covar=1e-4, random_state=0).fit(a)
            for k in range(1, 6)
            for c in ("full", "diag")
        ),
        key=lambda m: m.bic(a),
    )
    assert best.n_components == 3
    assert any("3 components" in note for note in found.notes)
    np.testing.assert_allclose(
        found.log_prob["Gaussian mixture"], best.score_samples(b) - np.log(x.std(0)).sum(), atol=5e-3
    )


def test_missing_entries_are_integrated_out_exactly():
    x, test = np.split(_table(), [300])
    holes = test.copy()
    holes[:, 1] = np.nan
    holes[::2, 3] = np.nan
    found = pv.baselines(x, holes, latent_dim=2).log_prob
    scale = x.std(0)
    a, b = (x - x.mean(0)) / scale, (holes - x.mean(0)) / scale
    for name, covariance in {
        "Gaussian": LedoitWolf().fit(a).covariance_,
        "factor analysis": FactorAnalysis(2, max_iter=5000, svd_method="lapack").fit(a).get_covariance(),
    }.items():
        for row in range(4):
            seen = ~np.isnan(b[row])
            law = stats.multivariate_normal(np.zeros(seen.sum()), covariance[np.ix_(seen, seen)])
            expected = law.logpdf(b[row, seen]) - np.log(scale[seen]).sum()
            np.testing.assert_allclose(found[name][row], expected, atol=2e-4)


def test_training_rows_with_holes_lose_little():
    x, test = np.split(_table(1200), [1000])
    whole = pv.baselines(x, test, latent_dim=2).log_prob
    rng = np.random.default_rng(2)
    x[rng.random(x.shape) < 0.1] = np.nan
    holes = pv.baselines(x, test, latent_dim=2)
    for name, value in whole.items():
        away = holes.log_prob[name] - value
        assert abs(float(away.mean())) < 0.1 + STANDARD_ERRORS * float(away.std()) / len(away) ** 0.5, name
    assert any("EM" in note for note in holes.notes)


def test_fewer_rows_than_columns_and_odd_columns_have_finite_densities():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((30, 12))
    x[:, 0] = np.round(x[:, 0])  # a lattice
    x[:, 1] = 7.0  # constant
    x[:, 2] = x[:, 3]  # a copy
    x[:, 4] = np.where(rng.random(30) < 0.6, 0.0, x[:, 4])  # an atom
    x[:, 5] = np.nan
    found = pv.baselines(x[:10], x[10:], latent_dim=3)
    for name, value in found.log_prob.items():
        assert torch.isfinite(value).all(), name
        assert float(value.max()) < 30, name
    assert any("columns 1: constant in training, left out" in note for note in found.notes)
    assert any("columns 5: no observed entry" in note for note in found.notes)


def test_one_row_one_column_and_wrong_arguments():
    assert set(pv.baselines(np.arange(5.0)[:, None], np.ones((2, 1)), latent_dim=2).log_prob) == {"independent columns"}
    few = pv.baselines(np.random.default_rng(0).random((3, 12)), np.ones((2, 12)), latent_dim=8)
    assert all(torch.isfinite(value).all() for value in few.log_prob.values())
    assert any("2 factors rather than 8" in note for note in few.notes)
    assert float(pv.baselines(np.ones((1, 2)), np.ones((1, 2)), latent_dim=2).log_prob["independent columns"]) == 0
    with pytest.raises(ValueError, match="same columns"):
        pv.baselines(np.ones((3, 2)), np.ones((3, 4)), latent_dim=1)
    with pytest.raises(ValueError, match="columns from 0 to 1 as discrete"):
        pv.baselines(np.ones((3, 2)), np.ones((3, 2)), latent_dim=1, discrete=[2])


def test_independent_pixels_are_laplaces_rule():
    rng = np.random.default_rng(4)
    x = (rng.random((50, 6)) < np.linspace(0.05, 0.95, 6)).astype(float)
    x[:, 0] = 0.0
    test = (rng.random((9, 6)) < 0.5).astype(float)
    p = (x.sum(0) + 1) / (len(x) + 2)
    expected = (test * np.log(p) + (1 - test) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(
        pv.baselines(x, test, latent_dim=2, discrete=range(6)).log_prob["independent pixels"], expected
    )


def test_a_smoothed_histogram_sums_to_one_and_finds_the_law_of_counts():
    rng = np.random.default_rng(5)
    law = stats.nbinom(3, 0.02)
    train, test = law.rvs(300, random_state=rng).astype(float), law.rvs(2000, random_state=rng).astype(float)
    found = Discrete(train, test)
    assert found.prob.sum() == pytest.approx(1, abs=1e-2)
    away = law.logpmf(test) - found.log_prob(test)
    assert abs(away.mean()) < 0.02 + STANDARD_ERRORS * away.std() / len(away) ** 0.5
    codes = rng.integers(0, 3, 40).astype(float)
    assert 0.99 < Discrete(codes, np.array([4.0])).prob.sum() <= 1 + 1e-12


def test_a_kernel_density_integrates_to_one_and_its_scores_are_its_quantiles():
    column = np.random.default_rng(6).gamma(2.0, size=80)
    found = KernelDensity(column, resolution(column))
    grid = np.linspace(-15, 25, 40001)
    density = np.exp(found.log_prob(grid))
    assert density.sum() * 1e-3 == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(stats.norm.cdf(found.score(grid[::4000])), np.cumsum(density)[::4000] * 1e-3, atol=1e-3)


def _copula(discrete, x):
    kind = np.array(discrete)
    floor = np.array([resolution(c) for c in x.T])
    return Copula(x, x, discrete=kind, floor=floor, latent_dim=1, rng=np.random.default_rng(0))


@pytest.mark.parametrize("discrete", [(True, True), (False, True), (False, False)])
def test_the_copula_is_the_integral_over_its_boxes(discrete):
    rng = np.random.default_rng(7)
    y = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 300)
    x = np.stack([np.floor(np.exp(y[:, 0])) if discrete[0] else np.exp(y[:, 0]), np.clip(np.round(y[:, 1]), -1, 2)], 1)
    if not discrete[1]:
        x[:, 1] = y[:, 1]
    copula = _copula(discrete, x)
    rho = float(copula.loadings[0] @ copula.loadings[1])
    assert rho == pytest.approx(0.7, abs=0.12)
    rows = x[:12]
    value, error = copula.log_prob(rows, num_samples=20_000)
    joint = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    for row, got, e in zip(rows, value, error, strict=True):
        if discrete == (False, False):
            z = [copula.real[d].score(row[d : d + 1])[0] for d in (0, 1)]
            marginal = sum(copula.real[d].log_prob(row[d : d + 1])[0] for d in (0, 1))
            expected = marginal + joint.logpdf(z) - stats.norm.logpdf(z).sum()
        elif discrete == (False, True):
            z = copula.real[0].score(row[:1])[0]
            edges = stats.norm.ppf(np.array([e[0] for e in copula.boxes[1].box(row[1:])]))
            inside = np.diff(stats.norm.cdf(edges, rho * z, np.sqrt(1 - rho**2)))[0]
            expected = copula.real[0].log_prob(row[:1])[0] + np.log(inside)
        else:
            edges = [stats.norm.ppf(np.array([e[0] for e in copula.boxes[d].box(row[d : d + 1])])) for d in (0, 1)]
            edges = np.clip(edges, -12, 12)
            expected = np.log(joint.cdf(edges[:, 1], lower_limit=edges[:, 0]))
        assert abs(got - expected) < STANDARD_ERRORS * e + 2e-4


def test_the_copulas_probabilities_sum_to_one_with_an_entry_missing_or_not():
    rng = np.random.default_rng(8)
    y = rng.standard_normal((400, 1)) + 0.7 * rng.standard_normal((400, 3))
    x = np.clip(np.round(y), -1, 1)
    copula = _copula((True,) * 3, x)
    cells = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), -1).reshape(-1, 3)
    value, error = copula.log_prob(cells, num_samples=5000)
    p = np.exp(value)
    assert abs(p.sum() - 1) < STANDARD_ERRORS * np.sqrt(((p * error) ** 2).sum())
    without = cells[::3].copy()
    without[:, 2] = np.nan
    value, error = copula.log_prob(without, num_samples=5000)
    np.testing.assert_allclose(np.exp(value), p.reshape(9, 3).sum(1), atol=0.02)


def test_a_share_of_zeros_is_a_probability_beside_a_density():
    """Both baselines of a column with zeros integrate to one; independent ones are the indicator's and the rest's."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((400, 2))
    x = np.stack([np.where(y[:, 0] > 0.3, np.exp(y.sum(1) / 2), 0.0), y[:, 1]], 1)
    grid = np.append(0.0, np.geomspace(1e-4, 1e3, 1200))
    test = np.stack([grid, np.full(len(grid), np.nan)], 1)
    found = pv.baselines(x, test, latent_dim=1, atoms=[0], names=["spent", "age"])
    for name, log_prob in found.log_prob.items():
        p = log_prob.exp().numpy()
        mass = p[0] + np.trapezoid(p[1:], grid[1:])
        assert 0.9 < mass < 1.01, (name, mass)
        assert abs(p[0] - (x[:, 0] == 0).mean()) < 0.02
    above = x[x[:, 0] > 0, 0]
    logs = stats.norm(np.log(above).mean(), np.log(above).std())  # at 1, where the Jacobian is 1
    expected = logs.pdf(0.0) * (len(above) + 1) / (len(x) + 2)
    got = pv.baselines(x, np.array([[1.0, np.nan]]), latent_dim=1, atoms=[0]).log_prob["independent columns"]
    np.testing.assert_allclose(got.exp(), expected, rtol=1e-6)


def test_atoms_that_are_none_are_a_sentence():
    x = np.random.default_rng(0).standard_normal((40, 2))
    with pytest.raises(ValueError, match="numbers from 0 on in a column of atoms"):
        pv.baselines(x[:20], x[20:], latent_dim=1, atoms=[0])
    with pytest.raises(ValueError, match="columns from 0 to 1 as atoms"):
        pv.baselines(abs(x[:20]), abs(x[20:]), latent_dim=1, atoms=[7])


def test_a_copula_beats_independent_columns_where_columns_depend_on_each_other():
    table = load_wine()
    x = np.c_[table.data[:, :6], table.target, table.data[:, 12] > 700]
    rng = np.random.default_rng(9)
    x[rng.random(x.shape) < 0.05] = np.nan
    x = x[rng.permutation(len(x))]
    found = pv.baselines(x[:130], x[130:], latent_dim=2, discrete=[6, 7])
    away = found.log_prob["Gaussian copula"] - found.log_prob["independent columns"]
    assert float(away.mean()) > 2 * float(away.std()) / len(away) ** 0.5
    assert found.best == "Gaussian copula"
    assert "Gaussian copula" in str(found)
    assert found.to_dataframe().loc["Gaussian copula", "log_prob"] == pytest.approx(
        float(found.log_prob[found.best].mean())
    )


LAWS = {
    "Gaussian": stats.norm(3.0, 2.0),
    "log-normal": stats.lognorm(1.2, scale=5.0),
    "kernel density": None,
}


@pytest.mark.parametrize("name", LAWS)
def test_an_independent_column_has_the_density_that_held_out_rows_choose(name):
    """Its log density is the true one but for what fitting costs, and it integrates to 1; two humps are a kernel's."""
    law, rng = LAWS[name], np.random.default_rng(0)
    x = rng.standard_normal(1500) + 8 * rng.integers(0, 2, 1500) if law is None else law.rvs(1500, random_state=rng)
    x, test = np.split(x, [1000])
    chosen, log_prob = density(x, test, 0.0)
    assert chosen == name
    true = np.logaddexp(*stats.norm.logpdf(test, [[0.0], [8.0]])) - np.log(2) if law is None else law.logpdf(test)
    away = true - log_prob
    assert away.mean() < (0.3 if law is None else 0.01) + STANDARD_ERRORS * away.std() / len(away) ** 0.5
    grid = np.append(np.linspace(-40, 1e-9, 4000), np.geomspace(2e-9, 1e4, 8000))
    grid = grid[4000:] if name == "log-normal" else grid
    mass = np.trapezoid(np.exp(density(x, grid, 0.0)[1]), grid)
    assert abs(mass - 1) < 0.01


def test_independent_columns_that_are_skewed_are_not_beaten_for_their_shape():
    rng = np.random.default_rng(0)
    x = np.exp(rng.standard_normal((400, 3)) * [0.5, 1.0, 1.5])
    found = pv.baselines(x[:300], x[300:], latent_dim=1)
    true = stats.norm.logpdf(np.log(x[300:]), 0, [0.5, 1.0, 1.5]).sum(1) - np.log(x[300:]).sum(1)
    away = true - found.log_prob["independent columns"].numpy()
    assert abs(away.mean()) < STANDARD_ERRORS * away.std() / 10
    assert "log-normal 3" in str(found)


def test_a_kernel_density_of_many_rows_is_that_of_all():
    """Kernels at quantiles: 2,000 against one a row, under the same bandwidth; one alone is 0.002 high in a tail."""
    x = np.random.default_rng(0).gamma(2.0, size=30_000)
    found, grid = KernelDensity(x, 0.0), np.linspace(0.0, 12.0, 300)
    assert len(found.loc) == 2001
    width = found.scale[0]
    every = np.array([stats.norm.pdf(at, x, width).mean() for at in grid])
    np.testing.assert_allclose(np.exp(found.log_prob(grid)), every, atol=5e-3 * every.max())


def test_a_column_whose_few_other_values_are_in_no_fold_is_gaussian():
    x = np.zeros(50_000)
    x[np.setdiff1d(np.arange(50_000), np.random.default_rng(0).permutation(50_000)[:2000])[0]] = 1.0
    name, log_prob = density(x, np.array([0.0, np.nan]), 1e-6)
    assert name == "Gaussian"
    np.testing.assert_allclose(log_prob, [stats.norm(x.mean(), np.sqrt(x.var() + 1e-6)).logpdf(0.0), 0.0])


def test_of_a_copula_it_is_known_how_well_it_is_known():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 2))
    x = np.column_stack([real, rng.binomial(4, 1 / (1 + np.exp(-real[:, :1])))])
    found = pv.baselines(x[:200], x[200:], latent_dim=1, discrete=[2])
    (name,) = found.estimate_error
    assert name == "Gaussian copula"
    assert found.estimate_error[name].shape == found.log_prob[name].shape == (100,)
    assert bool((found.estimate_error[name] >= 0).all())
    assert bool(found.estimate_error[name].max() > 0)
