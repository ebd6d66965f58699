"""Data sets: fixed splits, known truth, and files that are whole or refused."""

import gzip
import hashlib
import math
import struct

import numpy as np
import pyro
import pytest
import torch
from sklearn.datasets import load_digits

from pyro_vae import datasets


def test_digits_are_scikit_learns_in_the_documented_order():
    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    np.testing.assert_array_equal(datasets.digits("all", values="counts"), images[order])
    np.testing.assert_array_equal(datasets.digit_labels("all"), labels[order])
    train, test = datasets.digits("train"), datasets.digits("test")
    assert (train.shape, test.shape) == ((1437, 64), (360, 64))
    assert torch.equal(torch.cat([train, test]), datasets.digits("all"))
    assert hashlib.sha256(test.numpy().astype(np.uint8).tobytes()).hexdigest()[:12] == "bb840d4881c9"


def test_digit_values_are_three_views_of_the_same_pixels():
    counts = datasets.digits(values="counts")
    assert (counts.min(), counts.max()) == (0, 16)
    torch.testing.assert_close(datasets.digits(values="intensity"), counts / 16)
    assert torch.equal(datasets.digits(), (counts >= 8).float())


def test_linear_gaussian_data_have_the_moments_of_their_parameters():
    data = datasets.linear_gaussian(50_000, latent_dim=2, data_dim=4, scale=0.5)
    residual = data.x - data.z @ data.weight.T - data.bias
    assert residual.mean(0).abs().max() < 4.5 * 0.5 / 50_000**0.5
    assert (residual.std(0) - 0.5).abs().max() < 4.5 * 0.5 / 100_000**0.5


@pytest.mark.parametrize("make", [datasets.ring, datasets.pinwheel, lambda n: datasets.linear_gaussian(n).x])
def test_synthetic_data_follow_the_seed(make):
    pyro.set_rng_seed(5)
    one = make(50)
    pyro.set_rng_seed(5)
    assert torch.equal(one, make(50))
    assert not torch.equal(one, make(50))


def test_ring_has_its_radius():
    radius = datasets.ring(20_000, radius=3.0, scale=0.2).norm(dim=-1)
    assert abs(radius.mean() - 3.0) < 4.5 * 0.2 / 20_000**0.5
    assert abs(radius.std() - 0.2) < 4.5 * 0.2 / 40_000**0.5


def _idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10_000, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_reads_idx_files_and_splits_the_test_images(tmp_path, images, packed):
    write = (
        (lambda p, b: p.with_suffix(".gz").write_bytes(gzip.compress(b, 1)))
        if packed
        else (lambda p, b: p.write_bytes(b))
    )
    write(tmp_path / "t10k-images-idx3-ubyte", _idx(images))
    write(tmp_path / "t10k-labels-idx1-ubyte", _idx(np.arange(10_000, dtype=np.uint8)))
    train, test = datasets.mnist(tmp_path, "train"), datasets.mnist(tmp_path, "test")
    np.testing.assert_allclose(torch.cat([train, test]) * 255, images.reshape(10_000, 12), rtol=1e-6)
    assert len(train) == 8000
    assert datasets.mnist_labels(tmp_path, "test")[0] == 8000 % 256


def test_mnist_with_all_files_splits_as_published(tmp_path, images):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(_idx(images[:60]))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(_idx(images[60:80]))
    assert [len(datasets.mnist(tmp_path, split)) for split in ("train", "test", "all")] == [60, 20, 80]


def test_frey_faces_split_by_a_seeded_permutation(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (1965, 28, 20), dtype=np.uint8)
    np.savez(tmp_path / "frey.npz", images=images)
    order = np.random.RandomState(0).permutation(1965)
    faces = torch.cat([datasets.frey_faces(tmp_path / "frey.npz", s) for s in ("train", "test")])
    np.testing.assert_allclose(faces * 255, images[order].reshape(1965, 560), rtol=1e-6)
    assert len(datasets.frey_faces(tmp_path / "frey.npz", "test")) == 365


def test_read_gives_back_what_was_written(tmp_path):
    table = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "a.npy", table)
    np.savez(tmp_path / "a.npz", first=table, second=2 * table)
    (tmp_path / "a.csv").write_text("u,v,w\n" + "\n".join(",".join(map(str, row)) for row in table))
    (tmp_path / "b.csv").write_text("\n".join(",".join(map(str, row)) for row in table))
    for name in ("a.npy", "a.csv", "b.csv"):
        np.testing.assert_array_equal(datasets.read(tmp_path / name), table)
    np.testing.assert_array_equal(datasets.read(tmp_path / "a.npz", key="second"), 2 * table)


def _bad_files(folder):
    folder.mkdir(exist_ok=True)
    whole = _idx(np.zeros((5, 2, 2), np.uint8))
    (folder / "t10k-images-idx3-ubyte").write_bytes(whole[:-3])
    (folder / "short").mkdir()
    (folder / "short" / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(whole)[:-9])
    (folder / "other").mkdir()
    (folder / "other" / "t10k-images-idx3-ubyte").write_bytes(b"not an idx file")
    np.savez(folder / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    (folder / "cut.npz").write_bytes((folder / "two.npz").read_bytes()[:100])
    np.save(folder / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "empty.npy", np.zeros((0, 3)))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    (folder / "text.csv").write_text("u,v\n1,2\n3,four\n")
    (folder / "empty.csv").write_text("")
    (folder / "ragged.csv").write_text("u,v,w\n1,2,3\n\n4,5\n")
    (folder / "nameless.csv").write_text("1,2,3\n4,5,\n6\n")
    np.savez(folder / "few.npz", images=np.zeros((500, 28, 20), np.uint8))
    np.savez(folder / "bright.npz", images=np.full((1965, 28, 20), 256.0))
    return folder


@pytest.mark.parametrize(
    ("read", "error", "words"),
    [
        (datasets.mnist, ValueError, "truncated"),
        (lambda f: datasets.mnist(f / "short"), ValueError, "a whole gzip file"),
        (lambda f: datasets.mnist(f / "other"), ValueError, "an idx file of unsigned bytes"),
        (lambda f: datasets.mnist(f / "none"), FileNotFoundError, "t10k-images-idx3-ubyte"),
        (lambda f: datasets.mnist(f, "vall"), ValueError, "'all'"),
        (lambda f: datasets.read(f / "none.csv"), FileNotFoundError, "no file at"),
        (lambda f: datasets.read(f / "two.npz"), ValueError, r"\['a', 'b'\]"),
        (lambda f: datasets.read(f / "two.npz", key="c"), ValueError, "key='a'"),
        (lambda f: datasets.read(f / "cut.npz"), ValueError, "a whole .npz file"),
        (lambda f: datasets.read(f / "object.npy"), ValueError, "pickled Python objects"),
        (lambda f: datasets.read(f / "empty.npy"), ValueError, "at least one row"),
        (lambda f: datasets.read(f / "text.npy"), ValueError, "numbers in"),
        (lambda f: datasets.read(f / "text.csv"), ValueError, "'four' in data row 1, column 'v'"),
        (lambda f: datasets.read(f / "empty.csv"), ValueError, "a table of numbers"),
        (lambda f: datasets.read(f / "ragged.csv"), ValueError, "3 columns in each line; got 2 in line 4"),
        (lambda f: datasets.read(f / "nameless.csv"), ValueError, "3 columns in each line; got 1 in line 3"),
        (lambda f: datasets.frey_faces(f / "few.npz"), ValueError, r"\(1965, 28, 20\).*got shape \(500, 28, 20\)"),
        (lambda f: datasets.frey_faces(f / "bright.npz"), ValueError, "0 to 255; got .* 256"),
        (lambda f: datasets.linear_gaussian(scale=math.inf), ValueError, "positive, finite scale"),
        (lambda f: datasets.ring(radius=math.nan), ValueError, "a non-negative, finite radius; got nan"),
        (lambda f: datasets.ring(scale=math.inf), ValueError, "finite scale; got inf"),
        (lambda f: datasets.pinwheel(scale=-0.1), ValueError, "non-negative, finite scale; got -0.1"),
        (lambda f: datasets.digits("tset"), ValueError, "'test'"),
        (lambda f: datasets.digits(values="bits"), ValueError, "values to be one of"),
        (lambda f: datasets.linear_gaussian(0), ValueError, "num_data"),
        (lambda f: datasets.linear_gaussian(scale=0), ValueError, "positive, finite scale"),
        (lambda f: datasets.ring(2.5), TypeError, "whole number"),
    ],
)
def test_bad_input_is_refused_in_words(tmp_path, read, error, words):
    with pytest.raises(error, match=words):
        read(_bad_files(tmp_path / "files"))
