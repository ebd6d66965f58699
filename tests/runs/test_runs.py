"""Runs survive: kill -9 at any moment, damaged files, a full disk, a second process. Loading one runs no code."""

import errno
import os
import pickle
import subprocess
import sys

import pytest
import torch

from pyro_vae.inference.variational.training_state import TrainingState
from pyro_vae.runs.checkpoints import Checkpoints, read_tensors, write_tensors
from pyro_vae.runs.folder import Run, RunError, write_whole
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import load_run, train

KILLER = """
import os, random, signal, sys, time
import numpy as np, torch, torch._dynamo  # which torch's optimisers import: once, before the forks
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import read_recipe, train
torch.set_num_threads(1)
folder, data = sys.argv[1:]
np.save(data, (np.random.RandomState(0).rand(90, 6) > 0.5).astype("f4"))
recipe = Recipe.of({"data": data, "epochs": 120, "batch_size": 32, "hidden": "8", "patience": 150,
                    "compile": "no"})

def written(path):
    try:  # a checkpoint is absent for a moment, while the last one becomes the previous one
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0

def go(name, every):
    run = Run(os.path.join(folder, name))
    train(run, read_recipe(run) if run.exists else recipe, resume=run.exists, every=every)

go("whole", None)
killed, moments = 0, random.Random(1)
kept = os.path.join(folder, "killed", "checkpoint.safetensors")
while killed < 7:
    before = written(kept)
    child = os.fork()
    if child == 0:
        go("killed", 1)
        os._exit(0)
    while killed % 4 and written(kept) <= before:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            sys.exit(f"the run ended after {killed} kills")
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit(f"the run ended after {killed} kills")
    killed += 1
go("killed", 1)
"""


def test_a_run_killed_at_seven_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    data = str(tmp_path / "data.npy")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), data], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    weights, again = read_tensors(whole / "weights.safetensors")[0], read_tensors(killed / "weights.safetensors")[0]
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    histories = [run.read_json("history.json") for run in (whole, killed)]
    for name in ("train_elbo", "validation_elbo", "best_epoch", "stopped_early", "num_steps"):
        assert histories[0][name] == histories[1][name]
    assert not list(killed.folder.glob(".*.tmp"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(Run(folder), Recipe.of({"data": "digits", "epochs": 2, "hidden": "8"}), every=1)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to be damaged."""
    import shutil

    return Run(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_is_loaded_with_its_weights(run):
    trained = load_run(run)
    x = trained.prepared.x["test"]
    tensors, _ = read_tensors(run / "weights.safetensors")
    assert torch.equal(trained.guide.network.network.linear.weight, tensors["guide.network.network.linear.weight"])
    assert trained.guide.posterior(x).batch_shape == (179,)
    assert len(trained.history.train_elbo) == 2


def test_a_file_that_runs_code_when_unpickled_is_refused_and_runs_none(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (run / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))
    (run / "checkpoint.safetensors").write_bytes(pickle.dumps(Bomb()))
    (run / "checkpoint.previous.safetensors").unlink()
    with pytest.raises(RunError, match="a whole safetensors file"):
        load_run(run)
    with pytest.raises(RunError, match="a whole safetensors file"):
        Checkpoints(run).load()
    assert not (tmp_path / "owned").exists()


def test_a_model_in_python_is_imported_only_if_trusted(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace('model = ""', 'model = "mine:make"'))
    with pytest.raises(ValueError, match="--trust-code"):
        load_run(run)
    with pytest.raises(SystemExit, match="it ran"):
        load_run(run, trust_code=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_the_state_before_is_used_when_the_newest_is_damaged(run, damage):
    path = run / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"truncated": content[:-100], "flipped": content, "empty": b""}[damage])
    said = []
    state = Checkpoints(run, warn=said.append).load()
    assert state.numbers["epoch"] == 1
    assert "going on from the one before, epoch 1" in said[0]
    (run / "checkpoint.previous.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"expected .*checkpoint\.safetensors"):
        Checkpoints(run).load()


def test_a_crash_between_the_two_renames_leaves_the_state_before(run):
    (run / "checkpoint.safetensors").unlink()
    assert Checkpoints(run).load().numbers["epoch"] == 1


def test_a_full_disk_leaves_the_last_state(run, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (run / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*what was saved before is kept"):
        Checkpoints(run).save(TrainingState({"a": torch.zeros(2)}, {"epoch": 3}))
    assert (run / "checkpoint.safetensors").read_bytes() == before
    assert not list(run.folder.glob(".*.tmp"))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="a folder to write to"):
        train(Run(tmp_path / "file" / "run"), Recipe.of({"data": "digits", "epochs": 1}))
    with pytest.raises(RunError, match="room and permission"):
        write_whole(tmp_path / "none" / "file", b"")


def test_two_processes_cannot_write_one_run(run):
    code = (
        "import sys\nfrom pyro_vae.runs.folder import Run, RunError\n"
        f"try:\n    with Run({str(run.folder)!r}).locked(): pass\n"
        "except RunError as error: sys.exit(str(error))"
    )
    with run.locked():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"process {os.getpid()}" in done.stderr
    with run.locked():  # and it is free again
        pass


def test_other_data_or_another_run_in_the_folder_are_refused(run, tmp_path):
    recipe = Recipe.of({"data": "digits", "epochs": 2, "hidden": "8"})
    with pytest.raises(RunError, match="--resume"):
        train(run, recipe)
    about = run.read_json("about.json")
    run.write_json("about.json", {**about, "fingerprint": "other"})
    with pytest.raises(RunError, match="the data that the run was trained on"):
        train(run, recipe, resume=True)


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 4).double(), "b": torch.tensor(2.0), "c": torch.arange(5), "d": torch.zeros(0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"n": [1, 0.1, None]})
    back, numbers = read_tensors(tmp_path / "x.safetensors")
    assert numbers == {"n": [1, 0.1, None]}
    assert all(torch.equal(back[name], t) and back[name].dtype == t.dtype for name, t in tensors.items())


def test_checkpoints_take_at_most_one_percent_of_the_time(run, monkeypatch):
    import time

    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    keeper = Checkpoints(run)

    def slow(*args, **kwargs):
        clock[0] += 0.5

    monkeypatch.setattr("pyro_vae.runs.checkpoints.write_tensors", slow)
    spent = 0.0
    for _ in range(10_000):
        clock[0] += 0.1
        if keeper.due():
            keeper.save(TrainingState())
            spent += 0.5
    assert 0 < spent <= 0.0101 * clock[0]


def test_after_a_write_that_stalled_the_next_comes_within_ten_minutes(run, monkeypatch):
    import time

    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def stalled(*args, **kwargs):
        clock[0] += 60.0

    monkeypatch.setattr("pyro_vae.runs.checkpoints.write_tensors", stalled)
    keeper = Checkpoints(run)
    keeper.save(TrainingState())
    clock[0] += 599.0
    assert not keeper.due()
    clock[0] += 2.0
    assert keeper.due()
