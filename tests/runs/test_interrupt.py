"""Ctrl-C at any moment: exit code 130, no traceback, nothing half-written, and the run goes on."""

import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from pyro_vae.runs.checkpoints import Checkpoints, read_tensors, write_tensors
from pyro_vae.runs.folder import Run
from pyro_vae.runs.training import read_recipe, train

# One process imports everything and forks the command, so that a moment is one of the command's own.
DRIVER = """
import json, os, random, signal, sys, time
import numpy as np, sklearn.datasets, torch._dynamo
import pyro_vae.runs.training, pyro_vae.cli.app, pyro_vae.inference.compiled.step
from pyro_vae.cli import main
import torch
torch.set_num_threads(1)
folder = sys.argv[1]
kept = folder + "/run/checkpoint.safetensors"

def start(*words):
    child = os.fork()
    if child == 0:
        sys.argv = ["pyro-vae", "train", *words, "--output", folder + "/run"]
        code = 1
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child

def written():
    try:  # a checkpoint is absent for a moment, while the last one becomes the previous one
        return os.stat(kept).st_mtime_ns
    except FileNotFoundError:
        return 0

codes, moments = [], random.Random(3)
data = folder + "/x.npy"
np.save(data, (np.random.RandomState(0).rand(90, 6) > 0.5).astype("f4"))
settings = (data, "--epochs", "100000", "--hidden", "8", "--compile", "no", "--checkpoint-every", "1")
for i in range(6):
    before = written()
    child = start(*(settings if not os.path.exists(folder + "/run/config.toml") else ("--resume",)))
    while i >= 3 and written() <= before:
        time.sleep(0.001)  # from the fourth on: while it trains
    time.sleep(0.02 + moments.uniform(0, 0.3))
    os.kill(child, signal.SIGINT)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def test_ctrl_c_at_any_moment_ends_with_130_and_the_run_goes_on(tmp_path):
    words = [sys.executable, "-c", DRIVER, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [130] * 6
    assert "Traceback" not in done.stderr
    assert done.stderr.count("interrupted") == 6
    assert "to go on: pyro-vae train --output" in done.stderr
    run = Run(tmp_path / "run")
    assert not list(run.folder.glob(".*.tmp"))
    assert not run.finished
    state = Checkpoints(run).load()  # whole, by its digest
    epoch = state.numbers["epoch"]
    assert epoch >= 3  # each of the last three interruptions found the run further on
    recipe = dataclasses.replace(read_recipe(run), epochs=epoch + 1)
    history = train(run, recipe, resume=True).history
    assert history.train_elbo[:epoch] == state.numbers["scores"]["train"]
    assert len(history.train_elbo) == epoch + 1
    assert run.finished


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that was just being opened
def test_ctrl_c_while_a_state_is_read_is_an_interruption_and_no_damage(tmp_path):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {f"tensor.{i}": torch.zeros(40, 40) for i in range(60)}, {"epoch": 3})
    start = time.perf_counter()
    read_tensors(path)
    took = time.perf_counter() - start
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    try:
        for i in range(100):
            try:
                signal.setitimer(signal.ITIMER_REAL, took * (i + 1) / 100)
                read_tensors(path)
                time.sleep(0.05)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted >= 95  # Python itself loses one that arrives in a finaliser; none is called damage
