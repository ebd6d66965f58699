"""``pyro-vae train --system``: each form of system through the commands, and what is not for it refused by name."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pyro_vae.cli.app import app
from pyro_vae.runs.folder import Run
from pyro_vae.runs.judgement import judge
from pyro_vae.runs.training import load_run

SYSTEMS = {
    "DRAW:num_glimpses=2,hidden=8,attention=3x4": ("--epochs", 1, "--latent-dim", 1),
    "RealNVP:width=4": ("--epochs", 1),
    "NICE:hidden=16": ("--epochs", 1),
    "GAN": ("--epochs", 1, "--latent-dim", 1),
}
CONDITIONAL = {"InfoGAN": "3", "StackGAN": "a three, slanted"}


def go(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each, on digits."""
    folder, found = tmp_path_factory.mktemp("systems"), {}
    for system, settings in SYSTEMS.items():
        name = system.partition(":")[0]
        done = go("train", "digits", "--system", system, *settings, "--output", folder / name, "--compile", "no")
        assert done.exit_code == 0, done.output
        found[name] = folder / name, done.output
    return found


@pytest.mark.parametrize("name", [system.partition(":")[0] for system in SYSTEMS])
def test_a_run_says_what_it_is_worth_and_is_taken_up_by_evidence_and_sample(trained, name):
    folder, output = trained[name]
    assert f"system: {name}" in output
    assert "independent" in output
    found = json.loads(go("evidence", folder, "--rows", 4, "--json").stdout)
    assert np.isfinite(found["log_evidence"]).all()
    assert found["units"] == ("a density in the table's own units" if name == "GAN" else "a probability")
    drawn = json.loads(go("sample", folder, "--num-samples", 3, "--json").stdout)["x"]
    assert len(drawn) == 64
    assert len(drawn[next(iter(drawn))]) == 3


def test_the_same_weights_are_worth_the_same_wherever_the_random_stream_stands(trained, monkeypatch):
    monkeypatch.setattr("pyro_vae.evaluation.model.density.MAX_LATENT_DIM", 0)  # then rows are sampled
    run = load_run(Run(trained["DRAW"][0]))
    values = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values.append(judge(run).evidence.log_evidence)
    assert torch.equal(*values)


def test_samples_of_images_are_written_as_images(trained, tmp_path):
    folder, _ = trained["NICE"]
    for name in ("images.npy", "images.npz"):
        done = go("sample", folder, "--num-samples", 3, "--output", tmp_path / name)
        assert "3 images of 8 x 8, values from 0 to " in done.output
    array = np.load(tmp_path / "images.npy")
    assert array.shape == (3, 8, 8)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npz")["x"], array)


def test_drawings_of_a_run_start_from_the_datas_mean(trained):
    """One epoch of 20 steps moves no logit by more than about 20 times the learning rate."""
    run = load_run(Run(trained["DRAW"][0]))
    x = run.prepared.x["train"][:]
    start, canvas = ((x.sum(0) + 0.5) / (len(x) + 1)).logit(), run.guide.decoder.first_canvas
    assert start.abs().max() > 5
    torch.testing.assert_close(canvas.detach(), start, rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["DRAW", "GAN"])
def test_what_has_latents_is_inferred(trained, name):
    found = json.loads(go("infer", trained[name][0], "--rows", 3, "--json").stdout)
    assert len(found["mean_1"]) == 3


@pytest.mark.parametrize("name", ["NICE", "RealNVP"])
def test_a_density_has_no_latents_and_says_so(trained, name):
    done = go("infer", trained[name][0])
    assert done.exit_code == 1
    assert "a density of x" in " ".join(done.output.split())


@pytest.mark.parametrize("name", [system.partition(":")[0] for system in SYSTEMS])
def test_a_run_that_is_loaded_has_the_weights_and_noise_that_it_ended_with(trained, name):
    run = load_run(Run(trained[name][0]))
    x = run.prepared.x["test"][:5]
    if run.density is not None:
        assert run.density.standardised.loc.abs().max() > 0
        assert torch.isfinite(run.density.bound(x)).all()
        return
    if name != "DRAW":
        assert 0.01 < float(run.model.likelihood.scale) < 1
    assert run.num_latents == (2 if name == "DRAW" else 1)


@pytest.mark.parametrize(("name", "condition"), CONDITIONAL.items())
def test_what_depends_on_a_code_or_caption_is_sampled_and_nothing_else(tmp_path, name, condition):
    done = go("train", "digits", "--system", name, "--epochs", 1, "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "AdversarialHistory" in done.output
    for words in ((), ("--condition", condition)):
        drawn = json.loads(go("sample", tmp_path / "run", "--num-samples", 3, *words, "--json").stdout)["x"]
        assert len(drawn) == 64
    wrong = go("sample", tmp_path / "run", "--condition", "a purple")
    assert wrong.exit_code == 1
    assert "expected" in wrong.output
    assert "code or caption" in " ".join(go("evidence", tmp_path / "run").output.split())
    assert "code or caption" in " ".join(go("infer", tmp_path / "run").output.split())


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (lambda k: (k / 255).astype(np.float32), "num_levels=256,intensities=true"),
        (lambda k: (k % 2).astype(np.float32), "num_levels=2,intensities=true"),
        (lambda k: k.astype(np.uint8), "num_levels=256,intensities=true"),
        (lambda k: (k % 17).astype(np.int64), "num_levels=17"),
        (lambda k: k / 256 + 0.001 * np.sqrt(k), ""),
    ],
)
def test_the_levels_of_images_are_found(tmp_path, pixels, options):
    k = np.random.RandomState(0).randint(0, 256, (40, 4, 4))
    k[0, 0, :3] = 0, 255, 16
    np.save(tmp_path / "x.npy", pixels(k))
    words = ("train", tmp_path / "x.npy", "--system", "NICE", "--epochs", 1, "--output", tmp_path / "run")
    done = go(*words)
    assert done.exit_code == 0, done.output
    run = load_run(Run(tmp_path / "run"))
    assert run.recipe.system == ("NICE:" + options).rstrip(":")
    if options:
        assert torch.isfinite(run.density.bound(run.prepared.x["test"])).all()


def test_grey_images_are_drawn_by_a_density_of_grey(tmp_path):
    np.save(tmp_path / "x.npy", np.random.RandomState(0).rand(40, 4, 4))
    words = ("train", tmp_path / "x.npy", "--system", "DRAW:num_glimpses=1,hidden=4", "--epochs", 1)
    done = go(*words, "--output", tmp_path / "run", "--compile", "no")
    assert done.exit_code == 0, done.output
    assert load_run(Run(tmp_path / "run")).recipe.likelihood == "ContinuousBernoulli"


def test_a_density_of_levels_is_judged_beside_probabilities(trained):
    """A density of a pixel may be above 1, where a probability is not."""
    found = judge(load_run(Run(trained["NICE"][0])))
    assert found.units == "a probability"
    for log_prob in (found.evidence.log_evidence, *found.baselines.log_prob.values()):
        assert (log_prob < 0).all()


def test_runs_without_latents_are_not_compared(trained):
    done = go("compare-models", trained["NICE"][0], trained["GAN"][0])
    assert done.exit_code == 1
    assert "models with latents" in " ".join(done.output.split())


def test_levels_of_ones_own_are_told_what_takes_them(tmp_path):
    np.save(tmp_path / "own.npy", np.random.RandomState(0).randint(0, 17, (60, 4)).astype(np.uint8))
    words = ["train", tmp_path / "own.npy", "--epochs", 1, "--output", tmp_path / "run", "--system"]
    refused = go(*words, "NICE")
    assert refused.exit_code == 1
    remedy = refused.stderr.replace("\n", " ").partition("; try --system ")[2].split()
    assert remedy == ["NICE:num_levels=17", "--kind", "real", "--no-standardise"]
    assert go(*words, *remedy).exit_code == 0


def test_a_density_of_a_table_is_in_its_own_units(tmp_path):
    random = np.random.RandomState(0)
    rows = 1000 + 50 * random.randn(300, 2) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", header="a,b", comments="")
    words = ("train", tmp_path / "x.csv", "--system", "NICE", "--output", tmp_path / "run", "--json", "--epochs", 60)
    done = go(*words, "--kind", "real")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["log_p"] == pytest.approx(found["baselines"]["Gaussian"], abs=0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digits", "--system", "DRAWN"), "DRAW"),
        (("digits", "--system", "GAN", "--prior", "Laplace"), "leaving --prior out"),
        (("digits", "--system", "NICE", "--likelihood", "Bernoulli"), "leaving --likelihood out"),
        (("pictures.npy", "--system", "StackGAN"), "whose classes are known"),
        (("digits", "--system", "DRAW:glimpses=3"), "num_glimpses"),
        (("table.csv", "--system", "GAN"), "images in [0, 1] for GAN"),
        (("table.csv", "--system", "NICE"), "real numbers for NICE"),
        (("gaps.csv", "--system", "NICE"), "without gaps"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n" + "\n".join(f"{i}.5,{'xy'[i % 2]}" for i in range(40)))
    (tmp_path / "gaps.csv").write_text("a,b\n" + "\n".join(f"{i}.5,{i * 0.3 if i % 3 else ''}" for i in range(40)))
    np.save(tmp_path / "pictures.npy", np.random.RandomState(0).rand(40, 8, 8))
    done = go("train", *words)
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()
