"""Two processes train as one does: the gradient of the joint batch, one writer, the same run after one died."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_vae.runs.checkpoints import read_tensors

# One process imports everything that a rank will need and forks the ranks, which find each other as under torchrun.
DRIVER = """
import os, socket, sys, traceback
import numpy as np
import pyro, torch
import pyro_vae as pv
import pandas, scipy.optimize, scipy.stats, sklearn.covariance, sklearn.datasets, torch._dynamo
import pyro_vae.cli.app, pyro_vae.runs.training
from pyro_vae.cli.app import app
from pyro_vae.distributed import joined, rank
from pyro_vae.inference.variational.training_run import TrainingRun
from pyro_vae.runs.checkpoints import Checkpoints
torch.set_num_threads(1)
folder = sys.argv[1]

def together(job):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
                           "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            code = 0
            try:
                job()
            except SystemExit as error:
                code = error.code or 0
            except BaseException:
                traceback.print_exc()
                code = 3
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

def gradient():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    x = (torch.rand(13, 8) > 0.5).double()
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 8)))
    guide = pv.guides.PointMass(pv.networks.mlp(8, 8, 2), latent_dim=2)
    run = TrainingRun(model, guide, pyro.infer.Trace_ELBO(), binary=False)
    with joined():
        parameters = run.parameters((x,))
        if run.parallel is None:
            run.loss.loss_and_grads(model, guide, x)
            torch.save([p.grad / len(x) for p in parameters], folder + "/one.pt")
            return
        (batch, total), = list(run.parallel.batches((x,), 13))
        run.parallel.backward(batch, total)
        if rank() == 0:
            torch.save([p.grad for p in parameters], folder + "/two.pt")

def train(*words):
    def job():
        app(["train", *words], standalone_mode=True)
    return together(job)

codes = [together(gradient)]
gradient()
torch.set_default_dtype(torch.float32)
np.save(folder + "/x.npy", (np.random.RandomState(0).rand(200, 8) > 0.5).astype("f4"))
settings = (folder + "/x.npy", "--epochs", "4", "--batch-size", "32", "--hidden", "8", "--latent-dim", "2", "--json",
            "--checkpoint-every", "1")
codes.append(train(*settings, "--output", folder + "/whole"))
save = Checkpoints.save
def dying(self, state):
    save(self, state)
    if state.numbers["epoch"] == 2 and rank() == 1:
        os._exit(9)
Checkpoints.save = dying
codes.append(train(*settings, "--output", folder + "/half"))
Checkpoints.save = save
codes.append(os.path.exists(folder + "/half/weights.safetensors"))
codes.append(train("--output", folder + "/half", "--resume"))
def ask(*words):
    def job():
        app([*words], standalone_mode=True)
    return job

run = folder + "/whole"
for name, words in (
    ("laplace", ("infer", run, "--route", "laplace", "--rows", "7")),
    ("evidence", ("evidence", run, "--method", "quadrature", "--rows", "5")),
    ("sampled", ("evidence", run, "--method", "importance", "--rows", "5")),
):
    codes.append(together(ask(*words, "--output", f"{folder}/{name}-two.npz")))
    if name != "sampled":
        try:
            ask(*words, "--output", f"{folder}/{name}-one.npz")()
        except SystemExit:
            pass
codes.append(together(ask("infer", run, "--rows", "1")))
print(codes)
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    words = [sys.executable, "-c", DRIVER, str(folder)]
    return folder, subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_gradient_of_two_processes_is_that_of_the_joint_batch(done):
    folder, process = done
    assert process.returncode == 0, process.stderr
    one, two = (torch.load(folder / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert len(one) == 8
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_rank_that_dies_ends_the_run_with_an_error(done):
    codes = json.loads(done[1].stdout.splitlines()[-1].replace("False", "false"))
    assert codes[0] == codes[1] == [0, 0], done[1].stderr
    assert codes[2] == [1, 9]
    assert codes[3] is False  # and leaves no weights
    assert codes[4] == [0, 0], done[1].stderr


def test_the_run_goes_on_to_the_bits_of_one_whose_ranks_lived(done):
    folder = done[0]
    histories = [json.loads((folder / name / "history.json").read_text()) for name in ("whole", "half")]
    assert len(histories[0]["train_elbo"]) == 4
    assert histories[0]["train_elbo"] == histories[1]["train_elbo"]
    assert histories[0]["validation_elbo"] == histories[1]["validation_elbo"]
    whole, half = (read_tensors(folder / name / "weights.safetensors")[0] for name in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_posteriors_and_evidence_come_back_in_the_order_of_the_data(done):
    folder, process = done
    codes = json.loads(process.stdout.splitlines()[-1].replace("False", "false"))
    assert codes[5:8] == [[0, 0]] * 3, process.stderr
    for name, count in (("laplace", 7), ("evidence", 5)):
        with np.load(folder / f"{name}-one.npz") as one, np.load(folder / f"{name}-two.npz") as two:
            assert set(one) == set(two)
            for column in one:
                assert two[column].shape == (count,)
                if column != "standard_error":  # of a grid that the data beside refine
                    np.testing.assert_allclose(two[column], one[column], rtol=1e-3, atol=1e-4)
    with np.load(folder / "evidence-one.npz") as exact, np.load(folder / "sampled-two.npz") as sampled:
        off = sampled["log_evidence"] - exact["log_evidence"]
        assert (np.abs(off) < 5 * sampled["standard_error"] + 1e-3).all()


def test_fewer_data_than_processes_are_refused_by_all(done):
    codes = json.loads(done[1].stdout.splitlines()[-1].replace("False", "false"))
    assert codes[8] == [1, 1]
    assert "at least one datum for each of 2 processes" in done[1].stderr


def test_rank_zero_alone_speaks(done):
    results = [line for line in done[1].stdout.splitlines() if line.startswith("{")]
    assert len(results) == 1
    assert "data-parallel on 2 processes" in json.loads(results[0])["engine"]
