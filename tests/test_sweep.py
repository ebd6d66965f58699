import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae import guides, likelihoods, objectives, priors
from pyro_vae.networks import mlp

D = 6
GRIDS = {
    "priors": {
        "normal": lambda guide: priors.StandardNormal(1),
        "VampPrior": lambda guide: priors.VampPrior(guide, torch.rand(4, D)),
    },
    "likelihoods": {"Bernoulli": lambda: likelihoods.Bernoulli(mlp(1, D))},
    "guides": {
        "diagonal": lambda: guides.DiagonalGaussian(mlp(D, 2)),
        "coupling": lambda: guides.Coupling(mlp(D, 4), latent_dim=1),
    },
    "objectives": {"IWAE-2": lambda: objectives.ImportanceWeightedELBO(num_particles=2)},
}  # fmt: skip


def data():
    return torch.bernoulli(torch.full((80, D), 0.4))


def test_every_run_is_a_row_with_its_figures():
    x = data()
    result = pv.sweep(x, test=x[:20], seeds=[0, 1], epochs=1, progress=False, **GRIDS)
    assert len(result.rows) == 2 * 1 * 2 * 1 * 2
    for row in result.rows:
        assert (row["error"], row["evidence_by"]) == ("", "quadrature")
        assert row["gap"] == pytest.approx(row["evidence"] - row["elbo"])
        assert -0.05 < row["gap"] < 5
        assert 0 <= row["active_units"] <= 1
    table = result.to_dataframe()
    assert len(table) == 4
    first = [row["elbo"] for row in result.rows[:2]]
    assert table["elbo"][0] == pytest.approx(sum(first) / 2)
    assert table["elbo_std"][0] == pytest.approx(abs(first[0] - first[1]) / math.sqrt(2), rel=1e-4)
    assert "VampPrior" in str(result)
    axes = result.heat_map("gap").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["diagonal", "coupling"]
    with pytest.raises(ValueError, match="two different parts"):
        result.heat_map(rows="guide")


def test_the_same_seed_gives_the_same_row_and_a_file_is_taken_up_again(tmp_path):
    x, path = data(), tmp_path / "sweep.jsonl"
    options = {"test": x[:20], "epochs": 1, "progress": False, "path": path, **GRIDS}
    options["guides"] = {"diagonal": GRIDS["guides"]["diagonal"]}
    one = pv.sweep(x, seeds=[0], **options)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:20])  # as an interrupted run leaves it
    two = pv.sweep(x, seeds=[0, 1], **options)
    assert two.rows[0] == one.rows[0]  # taken from the file, seconds and all
    again = next(row for row in two.rows if row["prior"] == "VampPrior" and row["seed"] == 0)
    assert again["elbo"] == one.rows[1]["elbo"]  # run again, the same to the last digit
    assert len(two.rows) == 4


def test_a_run_that_fails_is_a_row_with_its_reason():
    x = data() + 2.0  # counts to a Bernoulli
    result = pv.sweep(x, test=x[:20], seeds=[0], epochs=1, progress=False, **GRIDS)
    assert all("Bernoulli" in row["error"] and math.isnan(row["elbo"]) for row in result.rows)
    assert result.to_dataframe()["failed"].tolist() == [1] * 4


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="at least one guide"):
        pv.sweep(data(), test=data(), **{**GRIDS, "guides": {}})
