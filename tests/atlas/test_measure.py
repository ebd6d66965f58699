"""What the atlas measures, against moments written out, and a verdict against what is true."""

import math

import pytest
import scipy.stats
import torch

from pyro_vae.atlas.measure import Errors, energy_distance, errors, judged, limit
from pyro_vae.atlas.truth import Truth


def truth(**changed):
    """A site of two independent Gaussians, and one whose tail has no moments."""
    z95 = scipy.stats.norm.ppf(0.95)
    heavy = scipy.stats.cauchy.ppf(0.95)
    values = {
        "mean": {"a": [1.0, -2.0], "b": math.nan},
        "std": {"a": [0.5, 2.0], "b": math.inf},
        "low": {"a": [1 - 0.5 * z95, -2 - 2 * z95], "b": -heavy},
        "high": {"a": [1 + 0.5 * z95, -2 + 2 * z95], "b": heavy},
        "mean_error": {"a": [0.0, 0.0], "b": 0.0},
    } | changed
    sites = {name: {site: torch.tensor(v) for site, v in each.items()} for name, each in values.items()}
    return Truth(how="closed form", draws={}, **sites)


def test_errors_are_in_posterior_standard_deviations_by_site():
    known = truth()
    mean = {"a": torch.tensor([1.1, -2.0]), "b": torch.tensor(5.0)}
    std = {"a": torch.tensor([0.5, 1.0]), "b": torch.tensor(9.0)}
    low = {"a": known.low["a"], "b": known.low["b"] + 1.0}
    found = errors(known, mean, std, low=low, high=known.high)
    unit = 2 * scipy.stats.cauchy.ppf(0.95) / (2 * scipy.stats.norm.ppf(0.95))
    assert found.by_site["a"] == pytest.approx({"mean": 0.2, "std_ratio": 0.5, "low": 0.0, "high": 0.0}, abs=1e-6)
    assert found.by_site["b"]["low"] == pytest.approx(1 / unit, rel=1e-5)
    assert set(found.by_site["b"]) == {"low", "high"}  # it has no mean to be compared with
    assert found.mean == pytest.approx(0.2)
    assert found.std_ratio == pytest.approx(0.5)
    assert found.wrong


def test_a_mean_that_is_no_number_is_the_largest_error_of_all():
    mean = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor(0.0)}
    found = errors(truth(), mean, truth().std)
    assert math.isnan(found.mean)
    assert found.wrong


@pytest.mark.parametrize(
    ("shift", "factor", "wrong"), [(0.2, 1.2, False), (0.3, 1.0, True), (0.0, 1.3, True), (0.0, 0.75, True)]
)
def test_wrong_is_beyond_the_limits_of_the_verdict(shift, factor, wrong):
    known = truth()
    mean = {"a": known.mean["a"] + shift * known.std["a"], "b": torch.tensor(0.0)}
    std = {"a": factor * known.std["a"], "b": torch.tensor(1.0)}
    assert errors(known, mean, std).wrong is wrong


def test_what_noise_explains_is_not_wrong():
    known = truth(mean_error={"a": [0.01, 0.04], "b": 0.0})  # 0.02 standard deviations each
    mean, std = {"a": known.mean["a"] + 0.3 * known.std["a"], "b": torch.tensor(0.0)}, known.std
    assert not errors(known, mean, std).wrong  # 0.25 + 3 x 0.02 allows it
    assert errors(truth(), mean, std).wrong
    assert not errors(truth(), mean, std, noise=0.02).wrong


def test_limit_is_the_worse_of_both():
    assert limit(Errors(mean=0.25, std_ratio=1.0)) == pytest.approx(1.0)
    assert limit(Errors(mean=0.0, std_ratio=1 / 1.25**2)) == pytest.approx(2.0)
    assert limit(Errors(mean=0.0, std_ratio=0.0)) == math.inf  # a point mass
    assert math.isnan(limit(Errors()))


def test_energy_distance_of_gaussians_in_one_dimension():
    """For unit Gaussians d apart D^2 = 2 E|X - Y| - 2 E|X - X'|, each the mean of a folded normal of variance 2."""
    torch.manual_seed(0)
    d, n = 1.5, 1500
    folded = scipy.stats.foldnorm(d / math.sqrt(2), scale=math.sqrt(2)).mean()
    exact = math.sqrt(2 * folded - 2 * math.sqrt(4 / math.pi))
    found, floor = energy_distance(torch.randn(n, 1), d + torch.randn(n, 1), num_permutations=50)
    assert found == pytest.approx(exact, abs=4 * 1.5 / math.sqrt(n))
    assert floor < 0.1


def test_energy_distance_of_equal_samples_is_below_its_floor_at_the_nominal_rate():
    torch.manual_seed(1)
    pairs = [energy_distance(torch.randn(60, 3), torch.randn(60, 3), num_permutations=99) for _ in range(100)]
    above = sum(distance > floor for distance, floor in pairs)
    assert above <= scipy.stats.binom.ppf(1 - 1e-5, 100, 0.05)


@pytest.mark.parametrize(
    ("decision", "wrong", "reweighted", "expected"),
    [
        ("trust", False, False, "right"),
        ("trust", True, False, "trusts a wrong one"),
        ("trust after re-weighting", True, False, "right"),
        ("trust after re-weighting", True, True, "trusts a wrong one"),
        ("do not trust", True, True, "right"),
        ("do not trust", False, False, "distrusts a right one"),
        ("undecided", True, False, "undecided"),
    ],
)
def test_a_verdict_is_held_against_the_truth(decision, wrong, reweighted, expected):
    assert judged(decision, wrong=wrong, reweighted_wrong=reweighted) == expected
