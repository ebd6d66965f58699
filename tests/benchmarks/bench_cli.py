"""The command line: help, import, training against ``fit``, the price of checkpoints, one process against two.

python -m tests.benchmarks.bench_cli
"""

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from pyro_vae import fit
from pyro_vae.runs.build import build, prepare
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train

RECIPE = Recipe.of({"data": "digits", "epochs": 60, "compile": "no"})


def seconds(*words, repeats=3):
    """Median wall time of a process."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return median(times)


def training(folder, how):
    """Wall time of the same training: by fit alone, by fit with checkpoints, or by the command line's train."""
    start = time.perf_counter()
    if how == "command line":
        train(Run(folder), RECIPE)
        return time.perf_counter() - start
    prepared = prepare(RECIPE)
    torch.manual_seed(0)
    model, guide = build(RECIPE, prepared.schema, prepared.x["train"])
    run = Run(folder)
    run.make()
    keeper = Checkpoints(run) if how == "fit with checkpoints" else None
    x, held_out = prepared.x["train"], prepared.x["validation"]
    fit(model, guide, x, epochs=60, validation=held_out, compile=False, checkpoint=keeper, progress=False)
    return time.perf_counter() - start


def main():
    """Print all figures."""
    print(f"pyro-vae --help: {seconds('-m', 'pyro_vae', '--help'):.2f} s (at most 0.5)")
    ratio = seconds("-c", "import pyro_vae; pyro_vae.Model; pyro_vae.fit") / seconds("-c", "import pyro")
    print(f"import of Model and fit over import pyro: {ratio:.2f} (at most 1.15; import pyro_vae alone loads nothing)")
    ways = ("fit", "fit with checkpoints", "command line")
    times = {way: [] for way in ways}
    for _ in range(3):
        for way in ways:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                times[way].append(training(Path(folder) / "run", way))
    base = min(times["fit"])
    for way in ways:
        print(f"{way}: {min(times[way]):.2f} s, {min(times[way]) / base:.3f} times fit")
    words = ("-m", "pyro_vae", "train", "digits", "--compile", "no", "--hidden", "512", "--batch-size", "256")
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
            short, long = (
                seconds(*start, *words, "--epochs", str(n), "--output", f"{folder}/{n}", repeats=1) for n in (5, 45)
            )
            print(f"{processes} process(es): {(long - short) / 40 * 1000:.0f} ms an epoch of 1,439 digits, 64-512-2")


if __name__ == "__main__":
    main()
