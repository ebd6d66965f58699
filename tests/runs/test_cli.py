"""The command line, as a new user would try it: what works, and what cannot, said in a sentence and an exit code."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from pyro_vae.cli.app import app
from pyro_vae.cli.options import opened
from pyro_vae.report.page import _number
from pyro_vae.report.worth import worth
from pyro_vae.runs.folder import Run
from pyro_vae.runs.judgement import criticise_run
from pyro_vae.runs.training import load_run


def go(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of four kinds of column with holes, whose columns depend on one another."""
    random = np.random.RandomState(0)
    z = random.randn(200)
    frame = pd.DataFrame(
        {
            "height": 170 + 10 * z + random.randn(200),
            "smoker": (z + random.randn(200) > 0).astype(int),
            "visits": random.poisson(np.exp(z / 2)),
            "city": np.where(z > 0, "Rome", "Bonn"),
        }
    )
    frame.loc[3, "height"] = np.nan
    frame.loc[10, "visits"] = np.nan
    path = tmp_path_factory.mktemp("table") / "table.csv"
    frame.to_csv(path, index=False)
    return path


FEW = ("--epochs", 20, "--lr", 0.02, "--hidden", 16, "--json")


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    done = go("train", table, "--output", folder, "--latent-dim", 2, "--prior", "StandardNormal", *FEW)
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout), done.stderr


def test_training_says_what_it_sees_and_prints_its_result(run):
    folder, result, said = run
    assert "4 columns, mixed (1 binary, 1 counts, 1 categories, 1 real), some entries missing" in said
    assert "Mixed likelihood" in said
    assert result["epochs"] == 20
    assert result["best_elbo"] > -7
    assert (folder / "weights.safetensors").is_file()


def test_inference_writes_every_posterior(run, table, tmp_path):
    folder = run[0]
    done = go(
        "infer", folder, "--route", "laplace", "--data", table, "--rows", 7, "--output", tmp_path / "z.npz", "--json"
    )
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "z.npz") as found:
        assert found["mean_1"].shape == (7,)
        np.testing.assert_allclose(json.loads(done.stdout)["sd_2"], found["sd_2"], rtol=1e-6)


@pytest.fixture(scope="module")
def compared(run):
    done = go("compare", run[0], "--routes", "guide,laplace", "--rows", 10, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_comparison_measures_against_the_exact_posterior(compared):
    for route in ("guide", "laplace"):
        scores = compared["routes"][route]
        assert scores["gap"] == pytest.approx(compared["log_evidence"] - scores["bound"], abs=1e-4)


def test_evidence_is_that_of_the_exact_posterior(run, compared):
    done = go("evidence", run[0], "--rows", 10, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["method"] == "quadrature"
    assert result["mean"] == pytest.approx(compared["log_evidence"], abs=1e-4)


def test_samples_are_in_the_tables_own_units(run, tmp_path):
    done = go("sample", run[0], "--num-samples", 400, "--output", tmp_path / "x.csv")
    assert done.exit_code == 0, done.output
    x = pd.read_csv(tmp_path / "x.csv")
    assert abs(x["height"].mean() - 170) < 5 * 10 / 20 + 2  # five standard errors, and what twenty epochs miss
    assert set(x["smoker"]) == {0, 1}
    assert set(x["city"]) == {"Rome", "Bonn"}
    assert x["visits"].min() >= 0


def test_imputation_fills_the_holes_and_nothing_else(run, table, tmp_path):
    done = go("impute", run[0], "--output", tmp_path / "full.csv", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["filled"] == 2
    before, after = pd.read_csv(table), pd.read_csv(tmp_path / "full.csv")
    assert not after.isna().to_numpy().any()
    kept = before.notna().to_numpy()
    assert (after["height"][kept[:, 0]] == before["height"][kept[:, 0]]).all()
    assert (after["city"] == before["city"]).all()
    assert abs(after.loc[3, "height"] - 170) < 40


def test_imputation_keeps_columns_that_the_model_does_not_know(run, table, tmp_path):
    wide = pd.read_csv(table)
    wide.insert(1, "name", [f"{i:05d}" for i in range(len(wide))])
    wide.to_csv(tmp_path / "wide.csv", index=False)
    done = go("impute", run[0], "--data", tmp_path / "wide.csv", "--draws", 2, "--output", tmp_path / "full.csv")
    assert done.exit_code == 0, done.output
    assert "written as they are, for the model does not know them: name" in done.stderr
    full = pd.read_csv(tmp_path / "full.csv", dtype={"name": str})
    assert list(full.columns) == ["draw", *wide.columns]
    assert (full["name"] == [*wide["name"], *wide["name"]]).all()


def test_draws_are_completed_tables_that_differ_in_the_holes_alone(run, table, tmp_path):
    done = go("impute", run[0], "--draws", 3, "--output", tmp_path / "full.csv", "--json")
    assert done.exit_code == 0, done.output
    full, before = pd.read_csv(tmp_path / "full.csv"), pd.read_csv(table)
    assert len(full) == 3 * len(before)
    first, second = (full[full["draw"] == k].drop(columns="draw").reset_index(drop=True) for k in (1, 2))
    pd.testing.assert_frame_equal(first.drop(index=[3, 10]), second.drop(index=[3, 10]))
    assert (first["height"].drop(index=3) == before["height"].drop(index=3)).all()
    assert first.loc[3, "height"] != second.loc[3, "height"]
    assert full["visits"].dtype.kind == "i"


def test_imputation_is_checked_on_hidden_cells(run):
    done = go("impute", run[0], "--check", "--split", "all", "--share", 0.2, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    numbers, words = found["all"]["all numbers"], found["all"]["all categories"]
    assert numbers["rmse"] < numbers["rmse_mean"]
    assert words["accuracy"] > words["accuracy_mode"]
    assert set(found["columns"]) == {"height", "visits", "smoker", "city"}
    assert "the model was trained on them" in done.stderr
    assert "a file to write" in go("impute", run[0]).stderr


@pytest.fixture(scope="module")
def other(table, tmp_path_factory):
    """A smaller model of the same rows."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    done = go("train", table, "--output", folder, "--latent-dim", 1, "--prior", "StandardNormal", *FEW)
    assert done.exit_code == 0, done.output
    return folder


def test_models_are_compared_on_the_rows_that_both_held_out(run, other):
    done = go("compare-models", run[0], other, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["num_data"] == 20
    (difference,) = found["differences"]
    assert "own units" in found["units"]
    mean = {folder.name: json.loads(go("evidence", folder, "--json").stdout)["mean"] for folder in (run[0], other)}
    assert difference["mean"] == pytest.approx(mean[difference["better"]] - mean[difference["worse"]], abs=1e-4)
    for name, value in mean.items():
        assert found["models"][name]["log_evidence"] == pytest.approx(value, abs=1e-4)
    assert found["verdict"] in go("compare-models", run[0], other).stdout.replace("\n", " ").replace("  ", " ")


def test_models_of_other_rows_or_columns_are_not_compared(run, table, tmp_path):
    few = ("--epochs", 1, "--hidden", 4, "--latent-dim", 1, "--prior", "StandardNormal", "--likelihood", "auto")
    for settings, said in (
        (["--seed", 1], "runs that hold out the same rows"),
        (["--drop", "city", "--drop", "visits"], "runs of the same columns; got 'city', 'visits' in one"),
    ):
        folder = tmp_path / settings[0].strip("-")
        assert go("train", table, "--output", folder, *few, *settings).exit_code == 0
        done = go("compare-models", run[0], folder)
        assert done.exit_code == 1
        assert said in done.stderr
    assert "two or more different runs" in go("compare-models", run[0], run[0]).stderr


def test_criticism_is_in_the_tables_own_units(run, tmp_path):
    done = go("criticise", run[0], "--out", tmp_path / "figure.png", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["num_data"] == 20
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    evidence = json.loads(go("evidence", run[0], "--json").stdout)
    assert found["log_p"] == pytest.approx(evidence["mean"], abs=1e-4)
    assert found["worst_rows"][0] == int(np.argmin(evidence["log_evidence"]))
    with opened(run[0], trust_code=False) as trained:
        height = next(
            f for f in criticise_run(trained, trained.prepared.split("test")).findings if f.statistic == "mean"
        )
    assert 160 < height.observed < 180
    assert go("criticise", run[0], "--out", tmp_path / "figure.doc").exit_code == 1


def test_log_densities_of_all_commands_are_in_the_tables_own_units(tmp_path):
    """In millimetres a density is a thousandth of that in metres, in every command alike."""
    random = np.random.RandomState(0)
    metres = pd.DataFrame(random.randn(60, 2) @ [[1.0, 0.5], [0.0, 0.4]], columns=["a", "b"])
    found = {}
    for name, frame in (("m", metres), ("mm", 1000 * metres)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        words = ("--epochs", 1, "--hidden", 4, "--latent-dim", 1, "--likelihood", "Gaussian:scale=learned", "--json")
        trained = go("train", tmp_path / f"{name}.csv", "--output", tmp_path / name, *words)
        assert trained.exit_code == 0, trained.output
        by = {
            "evidence": json.loads(go("evidence", tmp_path / name, "--json").stdout),
            "compare": json.loads(go("compare", tmp_path / name, "--routes", "laplace", "--json").stdout),
            "infer": json.loads(go("infer", tmp_path / name, "--route", "quadrature", "--json").stdout),
        }
        assert all("in the table's own units" in result["units"] for result in by.values())
        found[name] = {
            "train": json.loads(trained.stdout)["log_p"],
            "evidence": by["evidence"]["mean"],
            "compare": by["compare"]["log_evidence"],
            "bound": by["compare"]["routes"]["laplace"]["bound"],
            "infer": np.mean(by["infer"]["log_evidence"]),
        }
    for name, value in found["m"].items():
        assert found["mm"][name] == pytest.approx(value - 2 * np.log(1000), abs=1e-3)
        assert value == pytest.approx(found["m"]["evidence"], abs=0.3)


def test_the_report_is_one_offline_page(run):
    done = go("report", run[0], "--rows", 8, "--num-samples", 40)
    assert done.exit_code == 0, done.output
    page = (run[0] / "report.html").read_text()
    for heading in (
        "Verdict on the model",
        "Verdict on the posterior",
        "Data",
        "Model",
        "Learning",
        "Samples",
        "Comparison",
        "Ledger of gaps",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "http" not in page
    assert "city | z ~ Categorical(f(z))" in page
    assert "<td>Rome</td>" in page or "<td>Bonn</td>" in page  # samples in words, not in codes
    assert (run[0] / "figures" / "learning.png").is_file()


def test_parts_are_listed_with_their_options():
    done = go("parts", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["priors"]["GaussianMixture"]["options"]["num_components"] == 10
    assert all(entry["summary"] for kind in found.values() for entry in kind.values())
    assert "GaussianMixture: " in go("parts").stdout


def test_a_run_is_repeated_from_its_configuration_and_resumed_when_it_is_done(run, tmp_path):
    again = go("train", "--config", run[0] / "config.toml", "--output", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.output
    first = json.loads((run[0] / "history.json").read_text())
    assert json.loads((tmp_path / "again" / "history.json").read_text())["train_elbo"] == first["train_elbo"]
    resumed = go("train", "--output", tmp_path / "again", "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["train_elbo"] == json.loads(again.stdout)["train_elbo"]


BAD_TABLES = {
    "empty": ("", "a table of numbers"),
    "names only": ("a,b\n", "at least one row"),
    "text": ("a,b\n1,2\n3,four\n5,6\n", "'four' in data row 1, column 'b'"),
    "one row": ("a,b\n1,2\n", "at least 5 rows to train on"),
    "all missing": ("a,b\n" + ",\n" * 20, "a value in every column"),
    "infinite": ("a,b\n" + "1,2\n" * 20 + "inf,3\n", "an infinite value in data row 20, column 'a'"),
    "two separators": ("a;b\n1;2\n3,4\n", "1 columns in each line"),
    "ragged": ("a,b\n1,2\n3,4,5\n", "2 columns in each line; got 3 in line 3"),
    "too large": ("a\n" + "1e300\n-1e300\n" * 20, "values whose squares"),
    "no table": ("\x00\x01\x02\n", "expected"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused_in_a_sentence_and_nothing_is_written(name, tmp_path):
    text, words = BAD_TABLES[name]
    (tmp_path / "bad.csv").write_text(text)
    done = go("train", tmp_path / "bad.csv", "--output", tmp_path / "run", "--epochs", 1)
    assert done.exit_code == 1
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.csv"], "no file at none.csv"),
        (["digits", "--prior", "Laplac"], "try 'Laplace'"),
        (["digits", "--prior", "GaussianMixture:components=3"], "try 'num_components'"),
        (["digits", "--prior", "StandardNormal:3"], "Name:option=value"),
        (["digits", "--likelihood", "Bernouli"], "try 'Bernoulli'"),
        (["digits", "--kind", "reals"], "try 'real'"),
        (["digits", "--kind", "real", "--likelihood", "Bernoulli", "--epochs", "1"], "expected"),
        (["digits", "--prior", "Uniform"], "the prior to be one of"),
        (["digits", "--lr", "0"], "a positive, finite lr"),
        (["digits", "--validation", "0.5", "--test", "0.5"], "validation + test below 1"),
        (["digits", "--hidden", "wide"], "hidden as widths"),
        (["digits", "--model", "mine:make"], "--trust-code"),
        (["digits", "--model", "../mine:make", "--trust-code"], "model as package.module:function"),
        (["digits", "--memory-map", "yes"], "--memory-map no"),
        (["--resume"], "try pyro-vae train table.csv"),
        (["--config", "none.toml"], "no file at none.toml"),
        ([], "expected data"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = go("train", *words, "--output", "run")
    assert done.exit_code == 1
    assert said in done.stderr
    assert len(done.stderr) < 1200
    assert not (tmp_path / "run").exists()


def test_a_wrong_name_in_a_configuration_suggests_the_nearest(tmp_path):
    (tmp_path / "c.toml").write_text('data = "digits"\nepoch = 3\n')
    done = go("train", "--config", tmp_path / "c.toml", "--output", tmp_path / "run")
    assert done.exit_code == 1
    assert "try 'epochs'" in done.stderr
    (tmp_path / "c.toml").write_text('data = "digits"\nepochs = "three"\n')
    assert "epochs to be a whole number" in go("train", "--config", tmp_path / "c.toml").stderr
    (tmp_path / "c.toml").write_text("data = \n")
    assert "a TOML file" in go("train", "--config", tmp_path / "c.toml").stderr


@pytest.mark.parametrize("command", ["infer", "compare", "sample", "report"])
def test_commands_on_a_folder_without_a_run_say_so(command, tmp_path):
    done = go(command, tmp_path)
    assert done.exit_code == 1
    assert "the folder of a run" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("about.json", "{}", "a table's schema"),
        ("about.json", '{"schema": {"words": 3}}', "a table's schema"),
        ("about.json", "[]", "a whole about.json"),
        ("history.json", '{"a": 1}', "a whole history.json"),
        ("config.toml", "data = 3", "data to be text"),
    ],
)
def test_a_damaged_file_of_a_run_is_refused_in_a_sentence(run, name, content, said, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "copy")
    (folder / name).write_text(content)
    done = go("infer", folder)
    assert done.exit_code == 1
    assert said in done.stderr


def test_help_names_every_method_and_route_that_there_is():
    from pyro_vae.cli.evaluate import METHODS, ROUTES
    from pyro_vae.evaluation.evidence import evidence
    from pyro_vae.runs.parts import KERNELS

    assert set(METHODS) == {"auto", *evidence.METHODS}
    assert set(ROUTES) > set(KERNELS)


def test_every_setting_of_a_recipe_is_an_option_with_words_and_default(monkeypatch):
    from pyro_vae.runs.recipe import Recipe

    monkeypatch.setenv("COLUMNS", "300")
    page = go("train", "--help").stdout
    for name, field in Recipe.__dataclass_fields__.items():
        if name != "data":
            line = next(line for line in page.splitlines() if line.startswith(f"│ --{name.replace('_', '-')} "))
            assert field.default in {"", False} or f"Default: {field.default}." in line


def test_bridge_sampling_agrees_with_the_exact_evidence(run, monkeypatch):
    from pyro_vae.cli import evaluate

    posterior = evaluate._posterior  # chains too short to compile for; 500 draws say no more of the command
    monkeypatch.setattr(evaluate, "_posterior", lambda *to, **how: posterior(*to, **{**how, "num_samples": 140}))
    found = [
        json.loads(go("evidence", run[0], "--rows", 3, "--method", method, "--json").stdout)
        for method in ("bridge", "quadrature")
    ]
    error = np.hypot(found[0]["standard_error"], found[1]["standard_error"])
    assert (np.abs(np.subtract(found[0]["log_evidence"], found[1]["log_evidence"])) < 5 * error + 1e-3).all()


def test_wrong_usage_is_exit_code_two():
    assert go("train", "digits", "--checkpoint-every", 0).exit_code == 2
    assert go("train", "--epochs", "many").exit_code == 2
    assert go("trian").exit_code == 2


def test_debug_shows_where_an_error_comes_from(tmp_path):
    done = go("--debug", "infer", tmp_path)
    assert type(done.exception).__name__ == "RunError"
    assert done.exception.__traceback__ is not None
    go("parts", "--json")  # switches it off again


def test_an_interrupted_command_is_exit_code_130(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyro_vae.demo.demo", interrupted)
    done = go("demo")
    assert done.exit_code == 130


def test_help_has_examples_for_every_command_with_data():
    for command in (
        "train",
        "infer",
        "compare",
        "evidence",
        "criticise",
        "compare-models",
        "sample",
        "impute",
        "report",
    ):
        done = go(command, "--help")
        assert done.exit_code == 0
        assert f"pyro-vae {command}" in done.stdout


def test_the_shell_can_complete_the_names_of_parts():
    from pyro_vae.cli.options import completion

    assert completion("prior")("gauss") == ["GaussianMixture"]


def test_a_device_that_is_not_there_and_a_run_that_diverges_leave_nothing_behind(tmp_path):
    for words, said in (
        (["--device", "cuda:77"], "a machine with the device 'cuda:77'"),
        (["--device", "gpu"], "try 'cpu'"),
        (["--lr", "1e30", "--epochs", "2"], "a finite loss"),
    ):
        done = go("train", "digits", "--output", tmp_path / "run", *words)
        assert done.exit_code == 1
        assert said in done.stderr
        assert not (tmp_path / "run").exists()


def test_progress_and_notes_go_to_standard_error_alone(tmp_path):
    done = go("train", "digits", "--output", tmp_path / "run", "--epochs", 1, "--hidden", 4)
    assert done.exit_code == 0
    assert "fit is not compiled" in done.stderr
    assert done.stdout.startswith("validation ELBO")
    assert done.stdout.splitlines()[-1].startswith("run:")


def test_a_model_of_images_stands_beside_independent_pixels(tmp_path):
    """Pixel by pixel, by Laplace's rule: of 0s and 1s, (ones + 1) / (N + 2)."""
    x = (np.random.RandomState(0).rand(200, 6, 6) < 0.3).astype(np.float32)
    np.save(tmp_path / "images.npy", x)
    done = go("train", tmp_path / "images.npy", "--output", tmp_path / "run", "--epochs", 1, "--hidden", 4, "--json")
    found = json.loads(done.stdout)["baselines"]
    trained = load_run(Run(tmp_path / "run"))
    train, test = (trained.prepared.x[name].double() for name in ("train", "test"))
    p = (train.sum(0) + 1) / (len(train) + 2)
    exact = torch.distributions.Bernoulli(p).log_prob(test).sum(-1).mean()
    assert list(found) == ["independent pixels"]
    assert found["independent pixels"] == pytest.approx(float(exact), abs=1e-6)
    assert [section.heading for section in worth(trained)] == ["Verdict on the model"]


def test_the_demo_prints_json(monkeypatch):
    from types import SimpleNamespace

    routes = pd.DataFrame({"gap": [0.5, np.nan]}, index=["VI", "HMC"])
    comparison = SimpleNamespace(to_dataframe=lambda: routes)
    paths = {"report": "r.html", "page": "e.html", "figures": ["a.png"]}
    found = SimpleNamespace(comparison=comparison, agreement="all", seconds=1.5, **paths)
    monkeypatch.setattr("pyro_vae.demo.demo", lambda *args, **settings: found)
    result = json.loads(go("demo", "--json").stdout)
    assert result["routes"] == {"VI": {"gap": 0.5}, "HMC": {"gap": None}}
    assert (result["report"], result["page"]) == ("r.html", "e.html")


def test_a_run_whose_data_are_gone_or_changed_says_so(tmp_path):
    random = np.random.RandomState(0)
    np.save(tmp_path / "x.npy", random.randn(50, 3))
    assert go("train", tmp_path / "x.npy", "--output", tmp_path / "run", "--epochs", 1, "--hidden", 4).exit_code == 0
    np.save(tmp_path / "other.npy", random.randn(50, 3))
    (tmp_path / "x.npy").unlink()
    assert go("infer", tmp_path / "run", "--data", tmp_path / "other.npy").exit_code == 0
    assert go("sample", tmp_path / "run").exit_code == 0
    for command in ("infer", "report"):
        done = go(command, tmp_path / "run")
        assert done.exit_code == 1
        assert "the data that the run was trained on" in done.stderr
    (tmp_path / "other.npy").rename(tmp_path / "x.npy")
    done = go("infer", tmp_path / "run")
    assert done.exit_code == 1
    assert "the data that the run was trained on" in done.stderr


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0, "0"), (3.0, "3"), (0.1234, "0.123"), (-1e-5, "-1e-05"), (1234.5, "1,234")]
)
def test_a_number_of_the_report(value, text):
    assert _number(value) == text
