"""Measures of samples against loops, SciPy, and laws of which the answer is known."""

import math

import numpy as np
import pyro
import pytest
import torch
from scipy import linalg, stats
from sklearn.neighbors import KernelDensity

import pyro_vae as pv
from pyro_vae.evaluation.samples.frechet import frechet_distance
from pyro_vae.evaluation.samples.neighbours import copying, precision_recall
from pyro_vae.evaluation.samples.parzen import parzen
from tests.truth import STANDARD_ERRORS


@pytest.fixture(autouse=True)
def _seed():
    pyro.set_rng_seed(0)


def _share_inside(points, centres, k):
    """Of the definition, by loops."""
    inside = 0
    for p in points:
        for i, c in enumerate(centres):
            others = sorted(np.linalg.norm(c - o) for j, o in enumerate(centres) if j != i)
            if np.linalg.norm(p - c) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_definition(k):
    real, generated = torch.randn(40, 3), 0.5 * torch.randn(30, 3) + 0.5
    found = precision_recall(real, generated, num_neighbours=k)
    assert found == (
        pytest.approx(_share_inside(generated.numpy(), real.numpy(), k)),
        pytest.approx(_share_inside(real.numpy(), generated.numpy(), k)),
    )


def test_a_generator_of_one_mode_is_precise_and_forgets_the_other():
    both = torch.cat([torch.randn(200, 2), torch.randn(200, 2) + 50])
    precision, recall = precision_recall(both, torch.randn(400, 2))
    assert precision > 0.9
    assert 0.4 < recall < 0.55


def test_the_frechet_distance_is_scipys():
    a = torch.randn(300, 4) @ torch.randn(4, 4)
    b = torch.randn(200, 4) @ torch.randn(4, 4) + 1
    Sa, Sb = np.cov(a.double().T), np.cov(b.double().T)
    truth = ((a.double().mean(0) - b.double().mean(0)) ** 2).sum().item()
    truth += np.trace(Sa + Sb - 2 * linalg.sqrtm(Sa @ Sb).real)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(truth, rel=1e-8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a[:, :1], b[:, :1]) == pytest.approx(
        (a[:, 0].double().mean() - b[:, 0].double().mean()).item() ** 2
        + (a[:, 0].double().std() - b[:, 0].double().std()).item() ** 2
    )
    assert math.isfinite(frechet_distance(torch.ones(5, 2), torch.ones(5, 2)))  # no variance


def test_copies_are_told_from_new_rows_of_the_same_law():
    x = torch.randn(1500, 2)
    train, held_out, new = x[:500], x[500:1000], x[1000:]
    share, p_value = copying(new, train, held_out)
    error = math.sqrt((500 + 500 + 1) / (12 * 500 * 500))
    assert abs(share - 0.5) < STANDARD_ERRORS * error
    assert p_value > 1e-5
    share, p_value = copying(train[:200] + 1e-3 * torch.randn(200, 2), train, held_out)
    assert share > 0.95
    assert p_value < 1e-10
    assert copying(new + 20, train, held_out)[0] < 0.05


def test_the_p_value_of_copying_is_uniform_where_nothing_is_copied():
    p_values = []
    for _ in range(200):
        x = torch.randn(120, 2)
        p_values.append(copying(x[:40], x[40:80], x[80:])[1])
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def test_parzen_is_scikit_learns_kernel_density():
    samples, x = torch.randn(50, 3), torch.randn(20, 3)
    truth = KernelDensity(bandwidth=0.3).fit(samples.numpy()).score_samples(x.numpy())
    torch.testing.assert_close(parzen(samples, x, scale=0.3).log_density, torch.as_tensor(truth), rtol=1e-6, atol=1e-6)


def test_parzen_takes_the_best_window_on_validation_data():
    samples, validation, x = torch.randn(400, 2), torch.randn(300, 2), torch.randn(300, 2)
    found = parzen(samples, x, x_validation=validation)
    assert 0.15 < found.scale < 0.7
    worse = [float(parzen(samples, validation, scale=found.scale * f).log_density.mean()) for f in (0.5, 2.0)]
    assert float(parzen(samples, validation, scale=found.scale).log_density.mean()) > max(worse)


@pytest.fixture(scope="module")
def referee():
    pyro.set_rng_seed(0)
    return pv.image_classifier(pv.datasets.digits(values="intensity"), pv.datasets.digit_labels(), num_steps=600)


def test_the_classifier_knows_digits(referee):
    x, labels = pv.datasets.digits("test", values="intensity"), pv.datasets.digit_labels("test")
    assert (referee.predict(x) == labels).double().mean() > 0.95
    assert referee.features(x).shape == (360, 64)
    assert not referee.training


def test_real_digits_are_good_samples_and_blurred_or_few_are_not(referee):
    train, held_out = (pv.datasets.digits(split, values="intensity") for split in ("train", "test"))
    good = pv.sample_quality(train[:360], train[360:], held_out, classifier=referee)
    assert good.precision == pytest.approx(good.of_training_data[0], abs=0.1)
    assert good.recall == pytest.approx(good.of_training_data[1], abs=0.1)
    assert good.classes_present == 10
    assert good.class_shares.sum() == pytest.approx(1)
    assert good.copying_p_value > 1e-4
    noise = pv.sample_quality(torch.rand(360, 64), train, held_out, classifier=referee)
    assert noise.precision < good.precision - 0.3
    assert noise.frechet > 5 * good.frechet
    zeros = train[pv.datasets.digit_labels() == 0]
    one = pv.sample_quality(zeros, train, held_out, classifier=referee)
    assert one.classes_present == 1
    assert one.recall < 0.3
    assert one.copying_p_value < 1e-10
    assert "classes present" in str(one)
    assert one.to_dataframe().loc[0, "classes_present"] == 1


def test_a_seed_gives_one_classifier():
    x, labels = pv.datasets.digits(values="intensity")[:100], pv.datasets.digit_labels()[:100]
    weights = []
    for _ in range(2):
        pyro.set_rng_seed(3)
        weights.append(pv.image_classifier(x, labels, num_steps=2).head[1].weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, y: pv.image_classifier(x[:, :63], y), "square images; got 63 pixels"),
        (lambda x, y: pv.image_classifier(x, y[:3]), "a class from 0 on for each image"),
        (lambda x, y: pv.image_classifier(x, y.float()), "a class from 0 on for each image"),
        (lambda x, y: pv.image_classifier(x, y, num_steps=2)(x[:, :49]), "images of 8 x 8 pixels"),
        (lambda x, y: pv.image_classifier(x.numpy(), y), "x to be a torch.Tensor"),
        (lambda x, y: pv.image_classifier(x, y.tolist()), "labels to be a torch.Tensor"),
        (lambda x, y: pv.image_classifier(x[:0], y[:0]), "at least one datum"),
        (lambda x, y: pv.image_classifier(x * math.nan, y), "x to be finite"),
        (lambda x, y: pv.image_classifier((16 * x).int(), y), "floating-point numbers"),
        (lambda x, y: pv.image_classifier(300 * x, y), r"images in \[0, 1\]; got values from 0 to 300"),
        (lambda x, y: pv.image_classifier(x, 0 * y), "at least two classes; got class 0 alone"),
        (lambda x, y: pv.sample_quality(x, x, x, classifier=torch.nn.Linear(64, 3)), "features of images; got Linear"),
        (lambda x, y: pv.sample_quality(x.tolist(), x, x), "samples to be a torch.Tensor"),
        (lambda x, y: pv.sample_quality(x[:, :5], x, x), "rows of one width"),
        (lambda x, y: pv.sample_quality(x[:3], x, x), "at least 8 samples"),
        (lambda x, y: pv.sample_quality(x * math.nan, x, x), "finite samples"),
        (lambda x, y: precision_recall(x[:3], x), "more than 3 rows"),
        (lambda x, y: frechet_distance(x[:1], x), "two rows or more"),
        (lambda x, y: parzen(x, x), "scale or x_validation"),
        (lambda x, y: parzen(x, x, scale=-1.0), "positive, finite scale"),
        (lambda x, y: copying(x, x[:0], x), "rows of one width"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(call, words):
    x, y = pv.datasets.digits()[:20], pv.datasets.digit_labels()[:20]
    wrong_kind = any(each in words for each in ("torch.Tensor", "floating-point", "Linear"))
    error = TypeError if wrong_kind else ValueError
    with pytest.raises(error, match=words):
        call(x, y)
