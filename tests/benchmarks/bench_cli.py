"""The command line: help, import, training against ``fit``, checkpoints, one process and two, data on disk.

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

import numpy as np
import torch

from pyro_vae import fit
from pyro_vae.runs.build import build
from pyro_vae.runs.checkpoints import Checkpoints
from pyro_vae.runs.data import prepare
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


class Timed(Checkpoints):
    """Checkpoints that remember how long they took."""

    spent = 0.0

    def save(self, state):
        """Write a state, and note the time."""
        start = time.perf_counter()
        super().save(state)
        self.spent += time.perf_counter() - start


def training(folder, how):
    """Seconds of the same training by fit or by the command line's train, and the share that checkpoints took."""
    start = time.perf_counter()
    if how == "command line":
        train(Run(folder), RECIPE)
        return time.perf_counter() - start, 0.0
    prepared = prepare(RECIPE)
    torch.manual_seed(0)
    model, guide = build(RECIPE, prepared.schema, prepared.x["train"])
    run = Run(folder)
    run.make()
    keeper = Timed(run) if how == "fit with checkpoints" else None
    x, held_out = prepared.x["train"], prepared.x["validation"]
    fit(model, guide, x, epochs=60, validation=held_out, compile=False, checkpoint=keeper, progress=False)
    taken = time.perf_counter() - start
    return taken, 0.0 if keeper is None else keeper.spent / taken


def one_machine():
    """Help, import, training through the command line, and the price of checkpoints."""
    print(f"pyro-vae --help: {seconds('-m', 'pyro_vae', '--help'):.2f} s (at most 0.5)")
    ratio = seconds("-c", "import pyro_vae; pyro_vae.Model; pyro_vae.fit") / seconds("-c", "import pyro")
    print(f"import of Model and fit over import pyro: {ratio:.2f} (at most 1.15; import pyro_vae alone loads nothing)")
    ways = ("fit", "fit with checkpoints", "command line")
    times = {way: [] for way in ways}
    for _ in range(3):
        for way in ways:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                times[way].append(training(Path(folder) / "run", way))
    base = min(times["fit"])[0]
    for way in ways:
        print(f"{way}: {min(times[way])[0]:.2f} s, {min(times[way])[0] / base:.3f} times fit (at most 1.05)")
    share = max(share for _, share in times["fit with checkpoints"])
    print(f"checkpoints, as often as they are kept unasked: {100 * share:.1f} % of the time (at most 2 %)")


def processes():
    """Milliseconds an epoch on one process and on two."""
    words = ("-m", "pyro_vae", "train", "digits", "--compile", "no", "--hidden", "512", "--batch-size", "256")
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))
            short, long = (
                seconds(*start, *words, "--epochs", str(n), "--output", f"{folder}/{n}", repeats=1) for n in (5, 45)
            )
            print(f"{count} process(es): {(long - short) / 40 * 1000:.0f} ms an epoch of 1,439 digits, 64-512-2")


STORY = """
import resource, sys, time
import torch; torch.set_num_threads(1)
from pyro_vae.runs.folder import Run
from pyro_vae.runs.recipe import Recipe
from pyro_vae.runs.training import train
folder, data, how = sys.argv[1:]
shared = {"hidden": "64", "batch_size": 256, "compile": "no", "memory_map": how, "validation": 0.0}
start = time.perf_counter()
found = train(Run(folder + "/one"), Recipe.of({"data": data, "epochs": 1, **shared}))
once = time.perf_counter() - start
print(found.history.seconds, once - found.history.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def large(few=10_000, many=40_000):
    """Time and memory of data on disk against data in memory, and what follows for a thousand million of them."""
    pace = {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            block = np.random.default_rng(0).integers(0, 256, (count, 784), np.uint8)
            np.save(f"{folder}/x.npy", block)
            for how in ("no", "yes"):
                words = [sys.executable, "-c", STORY, f"{folder}/{how}", f"{folder}/x.npy", how]
                done = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
                fitting, reading, peak = map(float, done)
                pace[how, count] = (fitting, reading)
                where = "on disk  " if how == "yes" else "in memory"
                each = f"{fitting / count * 1e6:.0f} us a datum an epoch, {reading / count * 1e6:.0f} us to look at it"
                print(f"{count:,} images of 784 bytes {where}: {each}, peak memory {peak:,.0f} MiB")
    slope = [(pace["yes", many][i] - pace["yes", few][i]) / (many - few) for i in (0, 1)]
    hours = [1e9 * value / 3600 for value in slope]
    print(f"so 10^9 of them: {hours[1]:,.0f} h to look at once and {hours[0]:,.0f} h an epoch, on one core")


def main():
    """Print all figures, in about three minutes."""
    one_machine()
    processes()
    large()


if __name__ == "__main__":
    main()
