"""The statistics against NumPy and SciPy, and the family-wise test against its promise."""

import numpy as np
from scipy import stats

from pyro_vae.evaluation.model.discrepancy import QUANTILES, Statistic, family, pit, statistics_of
from tests.truth import STANDARD_ERRORS


def _sets(S, N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((S, N, 3))
    x[..., 1] = rng.poisson(0.7, (S, N))
    x[..., 2] += x[..., 0]
    x[:, ::4, 0] = np.nan
    return x, np.array([False, True, False]), rng


def test_statistics_are_numpys_and_scipys():
    x, discrete, rng = _sets(5, 40)
    labels, values = statistics_of(x, discrete, pit(x, discrete, rng))
    by = {(label.name, label.columns): column for label, column in zip(labels, values.T, strict=True)}
    for s in range(5):
        for d in range(3):
            v = x[s, :, d][~np.isnan(x[s, :, d])]
            expected = {"mean": v.mean(), "standard deviation": v.std(), "share of zeros": (v == 0).mean()}
            expected |= {"minimum": v.min(), "maximum": v.max()}
            expected |= {f"{100 * q:.0f} % quantile": np.quantile(v, q) for q in QUANTILES}
            for name, value in expected.items():
                np.testing.assert_allclose(by[name, (d,)][s], value)
        np.testing.assert_allclose(
            by["rank correlation", (1, 2)][s], stats.spearmanr(x[s, :, 1], x[s, :, 2]).statistic, atol=1e-12
        )
    assert len(labels) == 3 * 11 + 3


def test_the_pit_is_uniform_of_real_and_of_discrete_columns_and_anderson_darling_is_its_distance():
    x, discrete, rng = _sets(100, 300)
    u = pit(x, discrete, rng)
    assert np.isnan(u[:, ::4, 0]).all()
    for d in range(3):
        v = u[0, :, d][~np.isnan(u[0, :, d])]
        assert stats.kstest(v, "uniform").pvalue > 2 * stats.norm.sf(STANDARD_ERRORS)
    labels, values = statistics_of(x, discrete, u)
    place = next(i for i, label in enumerate(labels) if label.name == "PIT" and label.columns == (1,))
    v = np.sort(u[0, :, 1])
    grid = (np.arange(200_000) + 0.5) / 200_000  # the integral n (F_n - u)^2 / (u (1 - u)) du itself
    inside = (np.searchsorted(v, grid) / len(v) - grid) ** 2 / (grid * (1 - grid))
    np.testing.assert_allclose(values[0, place], len(v) * inside.mean(), rtol=1e-2)


def test_false_alarms_are_held_over_many_dependent_statistics():
    rng = np.random.default_rng(1)
    repeats, J = 400, 60
    labels = [Statistic(f"s{j}", (j,), one_sided=j % 3 == 0) for j in range(J)]
    mixing = rng.standard_normal((J, 20))
    single, alarms = [], 0
    for _ in range(repeats):
        values = rng.standard_normal((60, 20)) @ mixing.T
        values[:, ::2] = np.exp(values[:, ::2] / 4)  # skewed ones among them
        found = family(labels, values)
        alarms += found.adjusted.min() <= 0.05
        single.append(found.p_value[1])
        assert (found.adjusted >= found.p_value / 2 - 1e-12).all()
    error = np.sqrt(0.05 * 0.95 / repeats)
    assert abs(alarms / repeats - 0.05) < STANDARD_ERRORS * error
    assert abs(np.mean(np.array(single) <= 0.2) - 0.2) < STANDARD_ERRORS * np.sqrt(0.2 * 0.8 / repeats)


def test_one_wrong_statistic_is_found_among_many_and_a_lattice_is_no_alarm():
    rng = np.random.default_rng(2)
    labels = [Statistic(f"s{j}", (j,)) for j in range(100)] + [Statistic("zeros", (0,), 0.1)]
    values = np.c_[rng.standard_normal((200, 100)), np.zeros(200)]
    values[0, 7] = 8.0
    found = family(labels, values)
    assert found.adjusted[7] == 1 / 200
    assert found.adjusted[100] == 1
    assert np.sort(found.adjusted)[1] > 0.05
