"""Data on disk: the same run as from memory, in memory that does not grow with the file."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.datasets.columns import Columns
from pyro_vae.datasets.files import Loaded, load
from pyro_vae.datasets.kinds import describe
from pyro_vae.datasets.rows import Rows, pieces
from pyro_vae.runs.checkpoints import read_tensors
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train

SMALL_PIECES = pytest.mark.usefixtures("_small_pieces")


@pytest.fixture
def _small_pieces(monkeypatch):
    monkeypatch.setattr("pyro_vae.datasets.rows._PIECE", 64)


@pytest.fixture
def values(tmp_path):
    random = np.random.RandomState(0)
    x = (random.randn(300, 1) + 0.3 * random.randn(300, 5)).astype(np.float32) * 7 + 100
    np.save(tmp_path / "x.npy", x)
    return x


@SMALL_PIECES
def test_a_run_from_disk_has_the_bits_of_a_run_from_memory(values, tmp_path):
    recipe = {"data": str(tmp_path / "x.npy"), "epochs": 3, "hidden": "8", "patience": 2}
    trained = {how: train(Run(tmp_path / how), Recipe.of({**recipe, "memory_map": how})) for how in ("yes", "no")}
    assert isinstance(trained["yes"].prepared.x["train"], Rows)
    assert isinstance(trained["no"].prepared.x["train"], torch.Tensor)
    assert trained["yes"].history.train_elbo == trained["no"].history.train_elbo
    assert trained["yes"].history.validation_elbo == trained["no"].history.validation_elbo
    weights, same = (read_tensors(tmp_path / how / "weights.safetensors")[0] for how in ("yes", "no"))
    assert all(torch.equal(weights[name], same[name]) for name in weights)


@SMALL_PIECES
def test_columns_are_those_of_numpy(values):
    with_holes = values.astype(np.float64)
    with_holes[3, 1] = with_holes[250, 1] = np.nan
    training = np.random.RandomState(1).permutation(300)[:200]
    seen = Columns(with_holes, training, str)
    np.testing.assert_allclose(seen.mean, np.nanmean(with_holes[training], 0), rtol=1e-13)
    np.testing.assert_allclose(seen.std, np.nanstd(with_holes[training], 0), rtol=1e-13)
    np.testing.assert_array_equal(seen.low, np.nanmin(with_holes, 0))
    np.testing.assert_array_equal(seen.high, np.nanmax(with_holes, 0))
    assert seen.filled.tolist() == [300, 298, 300, 300, 300]
    assert seen.missing


@SMALL_PIECES
def test_an_infinite_value_is_named_by_its_row_in_the_file(values):
    values[211, 2] = np.inf
    with pytest.raises(ValueError, match="data row 211, column number 2"):
        describe(Loaded(values), np.arange(300))


def test_rows_read_like_the_tensor_that_holds_them(values, tmp_path):
    order = torch.randperm(300)
    rows = Rows(load(tmp_path / "x.npy", memory_map=True).values, torch.from_numpy, order)
    whole = torch.from_numpy(values)[order]
    assert rows.shape == whole.shape
    assert torch.equal(rows[torch.tensor([7, 0, 7])], whole[[7, 0, 7]])
    assert torch.equal(torch.cat(list(pieces(rows))), whole)
    assert [len(part) for part in rows.tensor_split(7)] == [len(part) for part in whole.tensor_split(7)]
    assert torch.equal(rows.tensor_split(3)[1][:], whole.tensor_split(3)[1])
    assert torch.equal(rows.to(torch.device("cpu"))[-2:], whole[-2:])


def test_data_on_disk_are_checked_like_those_in_memory(values, tmp_path):
    rows = Rows(load(tmp_path / "x.npy", memory_map=True).values, torch.from_numpy)
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 5)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(5, 4))
    with pytest.raises(ValueError, match="in the support of Bernoulli"):
        pv.fit(model, guide, rows, epochs=1, validation=None, progress=False)
    with pytest.raises(ValueError, match="data in memory"):
        pv.fit(model, guide, rows, epochs=1, validation=None, dynamic_binarisation=True, progress=False)
    with pytest.raises(ValueError, match=r"an \.npy file to leave on disk"):
        train(Run(tmp_path / "run"), Recipe.of({"data": "digits", "memory_map": "yes"}))


GROWTH = """
import json, resource, sys
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train
import torch; torch.set_num_threads(1)
folder = sys.argv[1]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
shared = {"epochs": 1, "hidden": "4", "batch_size": 512, "compile": "no", "memory_map": sys.argv[2]}
train(Run(folder + "/warm"), Recipe.of({"data": folder + "/small.npy", **shared}))
before = peak()
train(Run(folder + "/run"), Recipe.of({"data": folder + "/large.npy", **shared}))
print(json.dumps(peak() - before))
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    block = np.random.default_rng(0).integers(0, 256, (4096, 1024), np.uint8)
    np.save(tmp_path / "small.npy", block[:1024])
    count = 3  # 12 MiB on disk, 48 as the model sees them: in memory a run grows by 218
    large = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.uint8, (count * 4096, 1024))
    for i in range(count):
        large[i * 4096 : (i + 1) * 4096] = block
    large.flush()
    del large
    # what is held counts, not what glibc keeps of freed memory, which differs by a hundred MiB from run to run
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path), "yes"],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 64 * 2**20  # a tenth of the rows, to validate on, is in memory: 5 MiB
