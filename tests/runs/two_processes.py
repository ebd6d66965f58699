"""What test_distributed asks of two processes. ``python -m tests.runs.two_processes FOLDER`` prints exit codes by job.

One process imports everything that a rank will need and forks the ranks, which find each other as under torchrun.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import traceback
import warnings
from types import SimpleNamespace

import numpy as np
import pandas  # noqa: F401  what follows is imported once for all ranks
import pyro
import scipy.optimize
import scipy.stats  # noqa: F401
import sklearn.covariance
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from typer.main import get_command

import pyro_vae as pv
import pyro_vae.runs.training
from pyro_vae.arviz_import import arviz
from pyro_vae.cli.app import app
from pyro_vae.datasets.sharding import write_shards
from pyro_vae.distributed import joined, rank
from pyro_vae.inference.variational import engine
from pyro_vae.runs.checkpoints import Checkpoints

FOLDER = sys.argv[1] if len(sys.argv) > 1 else ""


def together(job):
    """Run a job on two processes; return how they ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for number in range(2):
        child = os.fork()
        if child == 0:
            own = {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
            os.environ.update(own | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
            code = 0
            try:
                job()
            except SystemExit as error:
                code = error.code or 0
            except BaseException:  # noqa: BLE001  or the child would go on as its parent
                traceback.print_exc()
                code = 3
            sys.stdout.flush()
            os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def command(*words):
    """The command line, as a job."""
    return lambda: app([*words], standalone_mode=True)


def elastic(*words):
    """The command line on two processes under torchrun's own agent, which starts them again once; how it ended."""
    where = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "run_id": "none"}
    config = LaunchConfig(1, 1, 2, **where, max_restarts=1, start_method="fork")

    def job():
        with contextlib.suppress(SystemExit):
            command(*words)()

    try:
        elastic_launch(config, job)()
    except ChildFailedError as error:
        return str(error)
    return "done"


def learn(name, compile, model=pv.Model, epochs=4, **more):
    """Steps in double precision without noise; keep the weights, what took the steps, and what was said.

    Those who call it have joined, once: a rank that joins again may find the store that rank 0 is about to close.
    """
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    x = (torch.rand(205, 8) > 0.5).double()
    model = model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(pv.networks.mlp(2, 8, 8)))
    guide = pv.guides.PointMass(pv.networks.mlp(8, 8, 2), latent_dim=2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        settings = {"batch_size": 16, "clip_norm": 1.0, "seed": 0, "compile": compile, "progress": False}
        try:
            done = pv.fit(model, guide, x, epochs=epochs, **settings, **more).engine
        except RuntimeError as error:
            done = f"{type(error).__name__}: {error}"
        weights = {str(i): p.detach() for i, p in enumerate([*model.parameters(), *guide.parameters()])}
        said = [str(w.message) for w in heard if "Retraced" in w.category.__name__]
        graphs = getattr(engine.CompiledStep, "last", None) and engine.CompiledStep.last.num_graphs
        torch.save({"graphs": graphs, "weights": weights, "engine": done, "said": said}, f"{FOLDER}/{name}-{rank()}.pt")


class Remembered(engine.CompiledStep):
    """The steps of the run that was made last."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Remembered.last = self


class Untraceable(pv.Model):
    """On one process, what no graph can be made of."""

    def forward(self, x=None, *covariates, num_data=1):
        if rank() == 1:
            float(x.sum())
        return super().forward(x, num_data=num_data)


class Changing(pv.Model):
    """Reads what no watch looks at."""

    deep = SimpleNamespace(scale=1.0)

    def forward(self, x=None, *covariates, num_data=1):
        with pyro.poutine.scale(scale=self.deep.scale):
            return super().forward(x, num_data=num_data)


class Later:
    """In the place of a checkpoint: at the end of an epoch, what the model reads changes on one process."""

    def load(self):
        return None

    def due(self):
        Changing.deep.scale = 2.0 if rank() == 1 else 1.0
        return False

    def save(self, state):
        pass


def steps():
    """The same run by each kind of step."""
    with joined():
        learn("pyro", False)
        learn("graph", "auto")


def agreements():
    """What one process alone finds wrong."""
    with joined():
        learn("refused", "auto", Untraceable)
        learn("required", True, Untraceable)
        learn("retraced", "auto", Changing, checkpoint=Later())


def main():
    """Do all jobs."""
    torch.set_num_threads(1)
    arviz()
    get_command(app)
    gc.freeze()  # ranks that look for garbage would copy every page of what they share
    engine.STEPS_TO_TRACE, engine.CompiledStep = 30, Remembered
    codes = {"steps": together(steps), "agreements": together(agreements)}
    learn("one", False)
    torch.set_default_dtype(torch.float32)
    np.save(FOLDER + "/x.npy", (np.random.RandomState(0).rand(200, 8) > 0.5).astype("f4"))
    settings = ("--epochs", "4", "--batch-size", "32", "--hidden", "8", "--latent-dim", "2", "--checkpoint-every", "1")
    start = ("train", FOLDER + "/x.npy", *settings, "--json", "--output")
    run, half = FOLDER + "/whole", FOLDER + "/half"
    codes["whole"] = together(command(*start, run))
    save = Checkpoints.save

    def dying(self, state):
        save(self, state)
        if state.numbers["epoch"] == 2 and rank() == 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)

    x = np.random.RandomState(1).rand(1003, 8) > 0.5
    shards = write_shards(x.astype("u1"), FOLDER + "/shards", 5)
    longer = ("--epochs", "5", *settings[2:], "--output")  # enough for graphs
    codes["shards"] = together(command("train", str(shards), *longer, FOLDER + "/shards-whole"))
    Checkpoints.save = dying
    codes["restarted"] = elastic("train", str(shards), *longer, FOLDER + "/restarted")
    codes["again"] = elastic("train", str(shards), *longer, FOLDER + "/restarted", "--seed", "1")
    codes["half"] = together(command(*start, half))
    Checkpoints.save = save
    codes["weights"] = os.path.exists(half + "/weights.safetensors")
    codes["resumed"] = together(command("train", "--output", half, "--resume"))
    for name, words in (
        ("laplace", ("infer", run, "--route", "laplace", "--rows", "7")),
        ("evidence", ("evidence", run, "--method", "quadrature", "--rows", "5")),
        ("sampled", ("evidence", run, "--method", "importance", "--rows", "5")),
        ("compare", ("compare", run, "--routes", "laplace,guide", "--rows", "7")),
    ):
        kind = "csv" if name == "compare" else "npz"
        codes[name] = together(command(*words, "--output", f"{FOLDER}/{name}-two.{kind}"))
        if name != "sampled":
            with contextlib.suppress(SystemExit):
                command(*words, "--output", f"{FOLDER}/{name}-one.{kind}")()
    grid = (
        "sweep",
        FOLDER + "/x.npy",
        "--prior",
        "StandardNormal",
        "--prior",
        "Laplace",
        "--epochs",
        "2",
        "--seeds",
        "2",
    )
    for name, make in (("one", lambda job: job()), ("two", together)):
        with contextlib.suppress(SystemExit):
            codes["sweep"] = make(command(*grid, "--hidden", "8", "--rows", "5", "--output", f"{FOLDER}/sweep-{name}"))
    codes["few"] = together(command("infer", run, "--rows", "1"))
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
