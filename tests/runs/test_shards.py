"""Data in several files: every row once an epoch, on however many processes, and the same first look."""

import numpy as np
import pytest
import torch

import pyro_vae as pv
from pyro_vae.datasets.columns import Columns
from pyro_vae.datasets.sharding import write_shards
from pyro_vae.datasets.shards import Shards, open_shards, some
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train

SIZES = (40, 33, 50, 37, 41)
ALL = torch.arange(sum(SIZES))


@pytest.fixture
def shards(tmp_path):
    """Rows that are their own number, in files of different lengths."""
    rows = np.arange(sum(SIZES), dtype=np.float64)[:, None]
    for i, part in enumerate(np.split(rows, np.cumsum(SIZES)[:-1])):
        np.save(tmp_path / f"{i}.npy", part)
    return Shards(open_shards(tmp_path), torch.from_numpy, seed=3)


def _sorted(batches):
    return torch.cat(list(batches)).flatten().sort().values.long()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_row_comes_once_an_epoch_in_batches_of_a_size(shards, size):
    torch.manual_seed(0)
    train = shards.parted(0.2)[0]
    epochs = [list(train.epoch(16, number, size)) for number in range(size)]
    assert {len(epoch) for epoch in epochs} == {-(-len(train) // 16)}
    assert torch.equal(_sorted(x for epoch in epochs for x, _ in epoch), train[:].flatten().long())
    for step in zip(*epochs, strict=True):
        assert {total for _, total in step} == {sum(len(x) for x, _ in step)}
    totals = [total for _, total in epochs[0]]
    assert max(totals[:-1]) - min(totals[:-1]) <= size
    assert max(totals) <= 16 + size
    again = torch.cat([x for x, _ in train.epoch(16, 0, size)])
    assert not torch.equal(again, torch.cat([x for x, _ in epochs[0]]))


def test_an_epoch_reads_one_shard_after_the_other(shards):
    rows = torch.cat([x for x, _ in shards.epoch(16)]).flatten().numpy()
    of = np.searchsorted(np.cumsum(SIZES), rows, side="right")
    assert (np.diff(of) != 0).sum() == len(SIZES) - 1
    assert not (np.diff(rows) == 1).all()


def test_parts_of_shards_share_no_row(shards):
    parts = shards.parted(0.25, 0.1)
    assert [len(part) for part in parts] == [133, 49, 19]  # a quarter and a tenth of each, rounded down
    assert torch.equal(_sorted(part[:] for part in parts), ALL)
    assert torch.equal(shards.parted(0.25, 0.1)[1][:], parts[1][:])
    other = Shards(shards.files, torch.from_numpy, seed=4).parted(0.25, 0.1)[1]
    assert not torch.equal(other[:], parts[1][:])


def test_shards_read_like_the_tensor_that_holds_them(shards):
    whole = ALL.double()[:, None]
    assert torch.equal(shards[:], whole)
    assert torch.equal(shards[38:41], whole[38:41])
    assert torch.equal(shards[torch.tensor([200, 0, 40])], whole[[200, 0, 40]])
    for sections in (3, 7):
        parts = shards.tensor_split(sections)
        assert len(parts) == sections
        assert torch.equal(torch.cat([part[:] for part in parts]), whole)
    assert [len(part) for part in shards.tensor_split(5)] == list(SIZES)
    assert some(shards, 3).flatten().tolist() == [0, 67, 134]


def test_dealt_rows_are_all_there_and_cut_ones_in_order(tmp_path):
    values = np.arange(46, dtype=np.uint8).reshape(23, 2)
    cut = open_shards(write_shards(values, tmp_path / "cut", 4, shuffle=False))
    assert np.array_equal(np.concatenate(cut), values)
    dealt = open_shards(write_shards(values, tmp_path / "dealt", 4))
    assert [len(part) for part in dealt] == [6, 6, 6, 5]
    mixed = np.concatenate(dealt)
    assert mixed.dtype == np.uint8
    assert np.array_equal(mixed[mixed[:, 0].argsort()], values)
    assert not np.array_equal(mixed, values)


def test_looks_at_parts_join_to_the_look_at_all():
    x = np.random.RandomState(0).randn(300, 3) * [1, 10, 0.1] + 5
    x[7, 1] = np.nan
    whole = Columns(x, np.arange(0, 300, 2), str)
    parts = [Columns(x[a:b], np.arange(a, b)[::2] - a, str) for a, b in ((0, 100), (100, 180), (180, 300))]
    joined = parts[0].join(parts[1]).join(parts[2])
    for name in ("mean", "std"):
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-13)
    for name in ("low", "high", "needed", "filled", "missing"):
        assert np.array_equal(getattr(joined, name), getattr(whole, name))


def test_fit_takes_shards(shards):
    model = pv.Model(pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(pv.networks.mlp(1, 2)))
    guide = pv.guides.DiagonalGaussian(pv.networks.mlp(1, 2))
    history = pv.fit(model.double(), guide.double(), shards, epochs=2, batch_size=32, progress=False)
    assert history.num_steps == 12  # of the 182 rows that are not held out
    assert len(history.validation_elbo) == 2


def _uneven(path):
    np.save(path / "0.npy", np.zeros((90, 2)))
    np.save(path / "1.npy", np.zeros((3, 2)))
    list(Shards(open_shards(path), torch.from_numpy).epoch(16, 0, 2))


def _other(values):
    def make(path):
        np.save(path / "0.npy", np.zeros((9, 2)))
        np.save(path / "1.npy", values)
        open_shards(path)

    return make


def _filled(path):
    np.save(path / "0.npy", np.zeros((9, 2)))
    write_shards(np.zeros((9, 2)), path, 2)


def _infinite(path):
    np.save(path / "0.npy", np.zeros((9, 2)))
    np.save(path / "1.npy", np.array([[0.0, 1.0], [np.inf, 1.0]]))
    train(Run(path / "run"), Recipe.of({"data": str(path)}))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (_other(np.zeros((9, 3))), r"float64 data of shape \(2,\); got float64 of \(3,\) in .*1\.npy"),
        (_other(np.zeros((9, 2), "f4")), r"got float32 of \(2,\) in .*1\.npy"),
        (_other(np.zeros((0, 2))), r"at least one row in .*1\.npy"),
        (open_shards, "expected .npy files in a folder of shards"),
        (_uneven, "a row of each process in every step; got 3 rows on process 1 for 6 steps"),
        (lambda path: write_shards(np.zeros((3, 2)), path, 4), "at least 4 rows for 4 shards"),
        (_filled, "a folder without .npy files"),
        (_infinite, r"an infinite value in data row 1, column 0 of 1\.npy"),
    ],
)
def test_bad_shards(tmp_path, bad, sentence):
    with pytest.raises(ValueError, match=sentence):
        bad(tmp_path)


def test_fewer_shards_than_processes(shards):
    with pytest.raises(ValueError, match="a shard for each of 6 processes; got 5"):
        next(shards.epoch(16, 0, 6))
    with pytest.raises(ValueError, match="a choice of their rows"):
        shards.select(torch.tensor([0]))
