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


def test_a_file_of_other_settings_is_refused_and_failures_are_tried_again(tmp_path):
    path, x = tmp_path / "sweep.jsonl", data()
    options = {"test": x[:20], "seeds": [0], "epochs": 1, "progress": False, "path": path, **GRIDS}
    options["guides"] = {"diagonal": GRIDS["guides"]["diagonal"]}
    failed = pv.sweep(x, **{**options, "likelihoods": {"Bernoulli": lambda: likelihoods.Bernoulli(mlp(2, D))}})
    assert all("network to take z of shape" in row["error"] for row in failed.rows)
    failed = pv.sweep(x, **{**options, "likelihoods": {"Bernoulli": lambda: {}["no such part"]}})
    assert all(row["error"] == "KeyError: 'no such part'" for row in failed.rows)
    mended = pv.sweep(x, **options)
    assert [row["error"] for row in mended.rows] == ["", ""]
    assert pv.sweep(x, **options).rows == mended.rows  # the later line of the file counts
    with pytest.raises(ValueError, match=r"hold runs with .*'epochs': 2.*'epochs': 1.*another path"):
        pv.sweep(x, **{**options, "epochs": 2})
    for others in ({"x": 1 - x}, {"test": 1 - x[:20]}):  # as many, of the same kind
        with pytest.raises(ValueError, match=r"hold runs with .*'data': .*another path"):
            pv.sweep(**{"x": x, **options, **others})


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"seeds": 3}, TypeError, r"try seeds=range\(3\)"),
        ({"seeds": [1.5]}, TypeError, "a seed to be a whole number"),
        ({"seeds": []}, ValueError, "one or more seeds, each once"),
        ({"seeds": [0, 1, 0]}, ValueError, "one or more seeds, each once"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"lr": -1.0}, ValueError, "lr"),
        ({"batch_size": 81}, ValueError, "a batch no larger than the data"),
    ],
)
def test_a_setting_that_would_fail_in_every_row_is_a_sentence_at_once(wrong, error, says):
    options = {"test": data()[:20], "seeds": [0], "epochs": 1, "progress": False, **GRIDS}
    with pytest.raises(error, match=says):
        pv.sweep(data(), **{**options, **wrong})


def test_priors_of_every_support_and_of_two_levels():
    """A box moves the guide; two levels need their own guide; a point mass has no ELBO."""
    result = pv.sweep(
        data(),
        test=data()[:20],
        priors={
            "box": lambda guide: priors.Uniform(1, low=-3.0, high=3.0),
            "two levels": lambda guide: priors.HierarchicalNormal(mlp(1, 2), latent_dim=1, top_dim=1),
        },
        likelihoods=GRIDS["likelihoods"],
        guides={
            "diagonal": GRIDS["guides"]["diagonal"],
            "bottom-up": lambda: guides.BottomUp(mlp(D, 2), mlp(1, 2), latent_dim=1, top_dim=1),
            "point": lambda: guides.PointMass(mlp(D, 1)),
        },
        seeds=[0],
        epochs=1,
        progress=False,
    )
    rows = {(row["prior"], row["guide"]): row for row in result.rows}
    for fits in (("box", "diagonal"), ("two levels", "bottom-up")):
        assert (rows[fits]["error"], rows[fits]["evidence_by"]) == ("", "quadrature")
        assert -0.05 < rows[fits]["gap"] < 10
    assert rows["box", "point"]["error"] == ""
    assert math.isnan(rows["box", "point"]["elbo"])
    assert "guides.BottomUp or guides.TopDown" in rows["two levels", "diagonal"]["error"]
    assert "2 failed: ValueError: expected a guide over" in str(result)
    cells = [text.get_text() for text in result.heat_map("gap").axes[0].texts]
    assert len(cells) == 6  # every combination has a cell, with a figure or without
    assert cells.count("no figure") == 4


def test_data_with_covariates():
    counts, library = torch.poisson(torch.full((80, D), 3.0)), torch.full((80,), 2.0)
    grids = {**GRIDS, "likelihoods": {"Poisson": lambda: likelihoods.Poisson(mlp(1, D))}}
    grids |= {part: {"one": next(iter(GRIDS[part].values()))} for part in ("priors", "guides")}
    options = {"seeds": [0], "epochs": 1, "progress": False, **grids}
    result = pv.sweep((counts, library), test=(counts[:20], library[:20]), **options)
    assert [row["error"] for row in result.rows] == [""]
    assert all(-0.05 < row["gap"] < 30 for row in result.rows)


def test_the_heat_map_says_the_mean_and_the_spread():
    figures = {"evidence": 0.0, "gap": 0.0, "active_units": 1, "seconds": 0.1, "evidence_by": "", "error": ""}
    rows = [
        {"prior": p, "likelihood": "l", "guide": g, "objective": "o", "seed": seed, "elbo": elbo, **figures}
        for p, g, seed, elbo in [("a", "c", 0, -1.0), ("a", "c", 1, -3.0), ("b", "c", 0, -8.0), ("b", "d", 0, math.nan)]
    ]
    axes = pv.Sweep(rows).heat_map("elbo").axes[0]
    assert [text.get_text() for text in axes.texts] == ["-2.00\n± 1.41", "no figure", "-8.00", "no figure"]
    assert [text.get_color() for text in axes.texts] == ["black", "black", "white", "black"]


def test_a_run_that_fails_is_a_row_with_its_reason():
    x = data() + 2.0  # counts to a Bernoulli
    result = pv.sweep(x, test=x[:20], seeds=[0], epochs=1, progress=False, **GRIDS)
    assert all("Bernoulli" in row["error"] and math.isnan(row["elbo"]) for row in result.rows)
    assert result.to_dataframe()["failed"].tolist() == [1] * 4


def test_bad_input_is_a_sentence():
    with pytest.raises(ValueError, match="at least one guide"):
        pv.sweep(data(), test=data(), **{**GRIDS, "guides": {}})
