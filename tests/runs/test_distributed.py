"""Two processes train as one does: the same steps, one writer, the same run after one died."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.inference.compiled.parallel import Parallel
from pyro_vae.inference.compiled.step import CompiledStep
from pyro_vae.runs.checkpoints import read_tensors
from pyro_vae.runs.data import prepare
from pyro_vae.runs.folder import Run, write_whole
from pyro_vae.runs.launch import is_of_this_launch, launch
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import read_recipe


@dataclass
class Done:
    """What tests/runs/two_processes.py left, said, and ended with."""

    folder: Path
    output: str
    errors: str

    @property
    def codes(self):
        return json.loads(self.output.splitlines()[-1])

    def learnt(self, name, number=0):
        return torch.load(self.folder / f"{name}-{number}.pt", weights_only=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    words = [sys.executable, "-m", "tests.runs.two_processes", str(folder)]
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return Done(folder, process.stdout, process.stderr)


@pytest.mark.parametrize(
    ("together", "alone", "engine"),
    [
        ("pyro", "one", "Pyro, as asked"),
        ("graph", "one", "one graph a step, not compiled: the run is too short"),
    ],
)
def test_steps_of_two_processes_are_those_of_one(done, together, alone, engine):
    assert done.codes["steps"] == [0, 0], done.errors
    one, two, other = done.learnt(alone), done.learnt(together), done.learnt(together, 1)
    assert two["engine"] == f"{engine}; data-parallel on 2 processes"
    assert len(one["weights"]) == 8
    for name, value in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], value, rtol=1e-12, atol=1e-13)
        assert torch.equal(two["weights"][name], other["weights"][name])


def test_inductor_compiles_both_sides_of_the_exchange():
    """In a process group of one, whose exchange is there and changes nothing."""
    store, losses = torch.distributed.HashStore(), []
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        x = (torch.rand(16, 6, generator=torch.Generator().manual_seed(0)) > 0.5).double()
        for shared in (False, True):
            pyro.set_rng_seed(0)
            model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 6))).double()
            guide = pv.guides.DiagonalGaussian(pv.networks.mlp(6, 4)).double()
            parallel = Parallel([*model.parameters(), *guide.parameters()]) if shared else None
            backend = "inductor" if shared else "eager"
            step = CompiledStep(model, guide, lr=1e-2, clip_norm=0.1, backend=backend, parallel=parallel)
            losses.append(step.run([(x,)] * 12, scale=1 / 16))
            assert step.num_graphs == 1
            assert step.reason is None
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0.0)
    with pytest.raises(ValueError, match="one step a call on several processes"):
        CompiledStep(model, guide, parallel=parallel, steps_per_call=4)


@pytest.mark.parametrize("number", [0, 1])
def test_what_one_process_finds_wrong_all_leave(done, number):
    assert done.codes["agreements"] == [0, 0], done.errors
    where = "" if number else "on process 1, "
    refused, required, retraced = (done.learnt(name, number) for name in ("refused", "required", "retraced"))
    assert refused["graphs"] == 0  # of a program that process 0 could run as one
    assert refused["engine"].startswith(f"Pyro: {where}this program is left to Pyro: ")
    assert required["engine"].startswith(f"NotTraceableError: expected a program that can be compiled; got {where}")
    assert len(retraced["said"]) == 1
    assert retraced["said"][0].startswith(f"fit: {where}step ")
    assert retraced["engine"].startswith("one graph a step")


def test_a_rank_that_dies_ends_the_run_with_an_error(done):
    assert done.codes["whole"] == [0, 0], done.errors
    assert done.codes["half"] == [1, -9]
    assert "expected all 2 processes to go on; got one that has ended" in done.errors
    assert done.codes["weights"] is False
    assert done.codes["resumed"] == [0, 0], done.errors


@pytest.mark.parametrize(("lived", "name", "epochs"), [("whole", "half", 4), ("shards-whole", "restarted", 5)])
def test_the_run_goes_on_to_the_bits_of_one_whose_ranks_lived(done, lived, name, epochs):
    histories = [json.loads((done.folder / each / "history.json").read_text()) for each in (lived, name)]
    assert len(histories[0]["train_elbo"]) == epochs
    assert histories[0]["train_elbo"] == histories[1]["train_elbo"]
    assert histories[0]["validation_elbo"] == histories[1]["validation_elbo"]
    whole, half = (read_tensors(done.folder / each / "weights.safetensors")[0] for each in (lived, name))
    assert all(torch.equal(whole[each], half[each]) for each in whole)


def test_torchrun_starts_again_what_it_started_and_nothing_else(done, tmp_path, monkeypatch):
    assert done.codes["shards"] == [0, 0], done.errors
    assert done.codes["restarted"] == done.codes["again"] == "done", done.errors
    assert done.errors.count("note: torchrun has started the processes again; the run goes on") == 1
    assert "got one at " + str(done.folder / "restarted") in done.errors  # asked for with another seed
    run, asked = Run(tmp_path), Recipe("digits")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    write_whole(run / "config.toml", b"")
    for change, same in (({}, True), ({"agents": ["another"]}, False), ({"asked": "another"}, False)):
        run.write_json("about.json", {"launch": launch(asked) | change})
        assert is_of_this_launch(run, asked) is same
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of --rdzv-id")
    run.write_json("about.json", {"launch": launch(asked) | {"agents": ["one that died with its machine"]}})
    assert is_of_this_launch(run, asked)


def test_processes_join_what_they_see_of_their_shards(done):
    run = Run(done.folder / "shards-whole")
    about, alone = run.read_json("about.json"), prepare(read_recipe(run))  # one process looks at all
    assert about["schema"] == json.loads(json.dumps(alone.schema.to_json()))
    assert about["fingerprint"] == alone.digest
    assert json.loads((run / "history.json").read_text())["engine"].startswith("one graph a step")


def test_posteriors_and_evidence_come_back_in_the_order_of_the_data(done):
    assert [done.codes[name] for name in ("laplace", "evidence", "sampled")] == [[0, 0]] * 3, done.errors
    for name, count in (("laplace", 7), ("evidence", 5)):
        with np.load(done.folder / f"{name}-one.npz") as one, np.load(done.folder / f"{name}-two.npz") as two:
            assert set(one) == set(two)
            for column in one:
                assert two[column].shape == (count,)
                if column != "standard_error":  # of a grid that the data beside refine
                    np.testing.assert_allclose(two[column], one[column], rtol=1e-3, atol=1e-4)
    with np.load(done.folder / "evidence-one.npz") as exact, np.load(done.folder / "sampled-two.npz") as sampled:
        off = sampled["log_evidence"] - exact["log_evidence"]
        assert (np.abs(off) < 5 * sampled["standard_error"] + 1e-3).all()


def test_rows_of_a_comparison_are_cut_and_joined(done):
    assert done.codes["compare"] == [0, 0], done.errors
    one, two = (pd.read_csv(done.folder / f"compare-{name}.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one[["route", "row"]], two[["route", "row"]])
    np.testing.assert_allclose(two["log_evidence"], one["log_evidence"], rtol=1e-3)
    laplace = one["route"] == "laplace"
    np.testing.assert_allclose(two["mean_error"][laplace], one["mean_error"][laplace], atol=1e-3)
    for column in ("kl", "bound"):  # means over draws, of other draws
        error = np.hypot(one[f"{column}_error"], two[f"{column}_error"])
        assert (np.abs(two[column] - one[column]) < 5 * error + 1e-3).all()


def test_runs_of_a_sweep_are_dealt(done):
    assert done.codes["sweep"] == [0, 0], done.errors
    frames = [
        pd.read_csv(done.folder / f"sweep-{name}" / "table.csv").drop(columns="seconds") for name in ("one", "two")
    ]
    assert len(frames[0]) == 4
    pd.testing.assert_frame_equal(*frames, rtol=1e-5)  # each process trains its seeds side by side


def test_fewer_data_than_processes_are_refused_by_all(done):
    assert done.codes["few"] == [1, 1]
    assert "at least one datum for each of 2 processes" in done.errors


def test_rank_zero_alone_speaks(done):
    results = [line for line in done.output.splitlines()[:-1] if line.startswith("{")]
    assert len(results) == 1
    assert "data-parallel on 2 processes" in json.loads(results[0])["engine"]
