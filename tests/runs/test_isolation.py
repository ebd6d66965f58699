"""A run has its own dtype and random streams: loading, training and sweeping leave the process's as they were."""

import contextlib
import json
import random

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pyro_vae as pv
from pyro_vae.cli.app import app
from pyro_vae.report.run import write_page
from pyro_vae.runs.checkpoints import Checkpoints, read_tensors
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.sweeping import Grid, sweep
from pyro_vae.runs.training import load_run, read_recipe, train


def _state():
    numpy = np.random.get_state()  # noqa: NPY002  Pyro seeds numpy's global stream too
    return torch.get_default_dtype(), torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2:]


@contextlib.contextmanager
def unchanged():
    before = _state()
    yield
    assert _state() == before


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two columns that follow one another, with thirds that single precision rounds."""
    z = np.random.RandomState(0).randn(80)
    path = tmp_path_factory.mktemp("table") / "x.csv"
    path.write_text("a,b\n" + "".join(f"{a / 3},{(a + 0.1 * i % 2) / 3}\n" for i, a in enumerate(z)))
    return path


@pytest.fixture(scope="module")
def recipe(table):
    settings = {"data": str(table), "dtype": "float64", "epochs": 3, "hidden": "4", "seed": 7, "compile": "no"}
    return Recipe.of({**settings, "latent_dim": 1})


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "double")
    with unchanged():
        train(run, recipe)
    return run


def test_loading_and_reporting_leave_the_process_as_it_was(run, tmp_path):
    with unchanged():
        trained = load_run(run)
        write_page(run.folder, trained, output=tmp_path / "page.html", rows=3, num_samples=20)


def test_a_sweep_leaves_the_process_as_it_was(table, tmp_path):
    settings = {"data": str(table), "dtype": "float64", "epochs": 1, "hidden": "4", "seeds": [3], "test": 0.1}
    with unchanged():
        result = sweep(Run(tmp_path / "sweep"), Grid.of({**settings, "latent_dim": 1, "compile": "no"}))
    assert result.rows[0]["error"] == ""


@pytest.mark.parametrize(
    "wrong", [{"guide": "PointMass", "objective": "Trace_ELBO:nothing=1"}, {"likelihood": "Bernoulli"}]
)
def test_training_that_fails_leaves_the_process_as_it_was(recipe, wrong, tmp_path):
    from dataclasses import replace

    with unchanged(), pytest.raises(ValueError, match="expected "):
        train(Run(tmp_path / "run"), replace(recipe, **wrong))


def test_loading_that_fails_leaves_the_process_as_it_was(run, tmp_path):
    import shutil

    copy = Run(shutil.copytree(run.folder, tmp_path / "copy"))
    about = copy.read_json("about.json")
    copy.write_json("about.json", {**about, "fingerprint": "other"})
    with unchanged(), pytest.raises(RuntimeError, match="the data that the run was trained on"):
        load_run(copy)


def test_a_double_precision_run_is_evaluated_from_a_process_in_single_precision(run, table, tmp_path):
    trained = load_run(run)
    x = trained.prepared.x["test"]
    assert x.dtype == trained.guide.posterior(x).mean.dtype == torch.float64
    exact = np.genfromtxt(table, delimiter=",", skip_header=1)
    schema = trained.prepared.schema
    everything = trained.prepared.x["all"].numpy() * np.take(schema.scale, schema.order)
    everything = everything + np.take(schema.loc, schema.order)
    np.testing.assert_allclose(everything, exact[:, schema.order], rtol=1e-14)
    truth = pv.quadrature(trained.model, x)
    score = pv.compare(trained.model, x, {"VI": trained.guide}, truth=truth).scores["VI"]
    gap = float(truth.log_evidence.mean() - score.bound.mean() - score.kl.mean())
    assert abs(gap) < 4.5 * float((score.bound_error**2).sum() ** 0.5) / len(x) + 1e-3
    with unchanged():
        words = ["infer", run.folder, "--data", table, "--output", tmp_path / "z.npz", "--json"]
        done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "z.npz") as found:
        assert found["mean_1"].dtype == np.float64
        expected = trained.guide.posterior(trained.prepared.x["all"]).mean[:, 0].detach()
        np.testing.assert_allclose(found["mean_1"], expected, rtol=1e-12)


def test_a_command_gives_the_same_answer_twice(run):
    words = ["infer", str(run.folder), "--route", "HMC", "--rows", "3", "--num-samples", "20", "--json"]
    first, second = (json.loads(CliRunner().invoke(app, words).stdout) for _ in range(2))
    assert first == second


def test_an_interrupted_run_goes_on_to_the_same_bits_whatever_the_process_did_between(
    run, recipe, tmp_path, monkeypatch
):
    save = Checkpoints.save

    def interrupted(self, state):
        save(self, state)
        raise KeyboardInterrupt

    half = Run(tmp_path / "half")
    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with unchanged(), pytest.raises(KeyboardInterrupt):
        train(half, recipe, every=1)
    monkeypatch.undo()
    load_run(run)
    torch.manual_seed(123)
    train(half, read_recipe(half), resume=True)
    whole, again = (read_tensors(one / "weights.safetensors")[0] for one in (run, half))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert half.read_json("history.json")["train_elbo"] == run.read_json("history.json")["train_elbo"]
