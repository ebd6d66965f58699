"""``pyro-vae sweep``: a grid by name, taken up again, and refused in words."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pyro_vae.cli.app import app
from pyro_vae.evaluation.sweep.table import Sweep
from pyro_vae.runs.data import prepare
from pyro_vae.runs.sweeping import Grid, _makers


def go(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def words(tmp_path):
    """A small table with a hole, and a grid over it."""
    z = np.random.RandomState(0).randn(60)
    rows = [f"{value + 0.1 * i % 3:.3f},{int(value > 0)}" for i, value in enumerate(z)]
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(rows) + "\n,1\n")
    (tmp_path / "grid.toml").write_text(
        f'data = "{tmp_path}/t.csv"\nprior = ["StandardNormal", "DiagonalNormal"]\nlatent_dim = 1\nhidden = "4"\n'
        "epochs = 1\nrows = 5\nseeds = [0, 1]\n"
    )
    return ["--config", tmp_path / "grid.toml", "--output", tmp_path / "sweep", "--json"]


def test_a_sweep_measures_every_combination_and_goes_on_where_it_stopped(words, tmp_path):
    done = go("sweep", *words)
    assert done.exit_code == 0, done.output
    first = json.loads(done.stdout)
    assert [(row["prior"], row["seed"]) for row in first["rows"]] == [
        (prior, seed) for prior in ("StandardNormal", "DiagonalNormal") for seed in (0, 1)
    ]
    for row in first["rows"]:
        assert (row["error"], row["likelihood"], row["evidence_by"]) == ("", "Mixed", "quadrature")
        assert row["gap"] == pytest.approx(row["evidence"] - row["elbo"])
    table = first["table"][0]
    assert table["elbo"] == pytest.approx(np.mean([row["elbo"] for row in first["rows"][:2]]))
    assert (tmp_path / "sweep" / "heat-map.png").is_file()
    kept = tmp_path / "sweep" / "rows.jsonl"
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join([*lines[:3], lines[3][:30]]))  # as a power cut leaves it
    again = go("sweep", *words, "--seeds", 3)
    assert again.exit_code == 0, again.output
    rows = json.loads(again.stdout)["rows"]
    assert len(rows) == 6
    assert [row for row in rows if row["seed"] < 2][:3] == first["rows"][:3]  # taken from the folder, seconds and all
    assert next(r for r in rows[3:] if r["seed"] == 1)["elbo"] == first["rows"][3]["elbo"]  # run again


def test_each_likelihood_sees_the_table_on_its_own_scale_and_is_measured_in_the_tables_units(
    words, tmp_path, monkeypatch
):
    """Far from 0 and wide: on another's scale a likelihood learns nothing in a few epochs, or refuses the values."""
    rng = np.random.RandomState(0)
    counts = rng.poisson(np.exp(4 + 0.5 * rng.randn(200, 2)))
    np.savetxt(tmp_path / "t.csv", counts, fmt="%d", delimiter=",", header="a,b", comments="")
    names = (
        "--likelihood",
        "Gaussian:scale=learned",
        "--likelihood",
        "NegativeBinomial:dispersion=learned,max_mean=data",
    )
    drawn, draw = [], Sweep.heat_map
    monkeypatch.setattr(Sweep, "heat_map", lambda self, **axes: drawn.append(axes) or draw(self, **axes))
    done = go("sweep", *words, "--prior", "StandardNormal", "--seeds", 1, "--epochs", 30, *names)
    assert done.exit_code == 0, done.output
    assert drawn == [{"rows": "likelihood", "columns": "prior"}]  # what was varied, before what was not
    gaussian, counted = json.loads(done.stdout)["rows"]
    assert (gaussian["error"], counted["error"]) == ("", "")
    independent = -np.log(counts.std(0) * np.sqrt(2 * np.pi * np.e)).sum()
    assert independent - 2 < gaussian["evidence"] < independent + 2  # nats, of counts, not of standardised ones
    files = {path.name for path in (tmp_path / "sweep").glob("rows*.jsonl")}
    assert files == {
        "rows-Gaussian-scale-learned.jsonl",
        "rows-NegativeBinomial-dispersion-learned-max-mean-data.jsonl",
    }
    again = go("sweep", *words, "--prior", "StandardNormal", "--seeds", 1, "--epochs", 30, *names[:2])
    assert json.loads(again.stdout)["rows"] == [gaussian]


def test_counts_have_their_ceiling_in_a_sweep_too(tmp_path):
    x = np.random.RandomState(0).poisson(3.0, (60, 2))
    np.savetxt(tmp_path / "t.csv", x, fmt="%d", delimiter=",", header="a,b", comments="")
    grid = Grid.of({"data": str(tmp_path / "t.csv"), "likelihood": ["Poisson:max_mean=data"]})
    recipe = replace(grid.recipe, likelihood="Poisson:max_mean=data")
    prepared = prepare(recipe)
    seen = prepared.x["train"][:]
    (make,) = _makers(grid, recipe, prepared.schema, seen)["likelihoods"].values()
    torch.testing.assert_close(make().log_max_mean.exp(), 2 * seen.amax(0))


def test_a_sweep_of_which_nothing_ran_fails_and_dimensions_may_be_chosen(words):
    done = go("sweep", *words, "--latent-dim", "auto", "--seeds", 1)
    assert done.exit_code == 0, done.output
    done = go("sweep", *words, "--latent-dim", "auto", "--seeds", 1, "--likelihood", "Poisson")
    assert done.exit_code == 1
    assert "in the support of Poisson" in json.loads(done.stdout)["rows"][0]["error"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--prior", "Laplac"], "try 'Laplace'"),
        (["--guide", "DiagonalGaussian:rank=2"], "DiagonalGaussian without options"),
        (["--lr", "0"], "a positive, finite lr"),
        (["--test", "0"], "data to measure on"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_a_sentence(words, more, said, tmp_path):
    done = go("sweep", *words, *more)
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seed = 1", "try 'seeds'"),
        ("seeds = [1, 1]", "different whole numbers"),
        ("prior = 3", "prior as a list of names"),
        ("rows = 0", "rows to be at least 1"),
    ],
)
def test_a_wrong_line_of_the_file_is_refused_in_a_sentence(line, said, tmp_path):
    (tmp_path / "grid.toml").write_text(f'data = "digits"\n{line}\n')
    done = go("sweep", "--config", tmp_path / "grid.toml", "--output", tmp_path / "sweep")
    assert done.exit_code == 1
    assert said in done.stderr


def test_other_settings_in_the_same_folder_are_refused(words):
    assert go("sweep", *words, "--prior", "StandardNormal", "--seeds", 1).exit_code == 0
    done = go("sweep", *words, "--epochs", 2)
    assert done.exit_code == 1
    assert "epochs = 2, before 1" in done.stderr
