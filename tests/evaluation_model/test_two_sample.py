"""The classifier two-sample test: valid where there is no difference, and awake where there is one."""

import math

import numpy as np
import pytest
from scipy import stats

from pyro_vae.evaluation.model.two_sample import two_sample_test
from tests.truth import STANDARD_ERRORS

FALSE_ALARM = 2 * stats.norm.sf(STANDARD_ERRORS)


def _null(paired, repeats=100):
    rng = np.random.default_rng(0)
    for seed in range(repeats):
        a, b = rng.standard_normal((2, 40, 3)).round(1)
        if paired:  # a covariate and what is missing are shared
            a[:, 0] = b[:, 0]
            a[:, 1], b[:, 1] = (np.where(a[:, 0] > 0.5, np.nan, t[:, 1]) for t in (a, b))
        yield two_sample_test(a, b, seed=seed, paired=paired, num_trees=4)


def test_p_values_are_uniform_where_the_laws_are_one():
    found = list(_null(paired=False))
    folds = np.array([f.fold_p_value[0] for f in found])
    spread = np.random.default_rng(1).uniform(
        -0.02, 0.02, len(folds)
    )  # U is a whole number: its p-values are a lattice
    assert stats.kstest(np.clip(folds + spread, 0, 1), "uniform").pvalue > FALSE_ALARM
    joined = [f.p_value for f in found]
    assert stats.kstest(joined, "uniform", alternative="greater").pvalue > FALSE_ALARM  # never too small


def test_shared_covariates_do_not_make_p_values_too_small():
    joined = [f.p_value for f in _null(paired=True)]
    assert stats.kstest(joined, "uniform", alternative="greater").pvalue > FALSE_ALARM


def test_shifted_and_permuted_columns_are_found():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 200, 4))
    assert two_sample_test(a + 1, b).p_value < 1e-6
    for t in (a, b):
        t[:, 1] = t[:, 0] + 0.2 * t[:, 1]
    assert two_sample_test(a, b).p_value > 1e-3
    b[:, 1] = rng.permutation(b[:, 1])
    found = two_sample_test(a, b)
    assert found.p_value < 1e-3
    assert found.auc > 0.65
    assert "AUC 0." in str(found)


def test_what_is_missing_is_seen():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 100, 2))
    a[rng.random(100) < 0.5, 0] = np.nan
    assert two_sample_test(a, b).p_value < 1e-4


def test_a_constant_score_is_no_evidence():
    found = two_sample_test(np.ones((20, 2)), np.ones((20, 2)))
    assert math.isclose(found.auc, 0.5)
    assert found.p_value == 1.0


def test_tables_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="at least 8 rows"):
        two_sample_test(np.ones((4, 2)), np.ones((20, 2)))
    with pytest.raises(ValueError, match="same columns"):
        two_sample_test(np.ones((20, 3)), np.ones((20, 2)))
    with pytest.raises(ValueError, match="one length, paired"):
        two_sample_test(np.ones((20, 2)), np.ones((21, 2)), paired=True)
